//! The files of the store's own: message bodies and drafts that are too large for the database.
//!
//! A file is named by its number, in hexadecimal, below `bodies/` in one of 256 directories by its last byte. It belongs to the
//! draft of that number, or to the message that the `b` key of that number names; a file that belongs to neither was left by
//! a crash and is removed at the next start.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::Resource;

use crate::error::{Error, Result};

use super::beneath::Dir;
use super::blocks::Blocks;
use super::db::table_files;
use super::record::BodyPlace;
use super::removals::Removals;
use super::space::Space;

/// A body of at most this many bytes is kept in the database, a larger one in a file. An inline body is written three times
/// (log, table, compaction) but needs no sync of its own.
pub const INLINE_MAX: usize = 32 * 1024;

/// So many files are synced one by one.
const SYNCED_ONE_BY_ONE: usize = 16;

/// So many descriptors, besides those for its tables, are left to the database, which stops for good when it gets none; and to
/// whoever looks at the processes that ask.
const DESCRIPTORS_LEFT: u64 = 16;

/// The body files of a store.
#[derive(Clone, Debug)]
pub struct Bodies {
    store: Dir,
    removals: Arc<Removals>,
    /// Those of which a sync failed. The kernel tells that once and forgets what it could not write, so a later sync may succeed
    /// without the bytes.
    failed: Arc<Mutex<HashSet<u64>>>,
    blocks: Arc<Blocks>,
    /// What says whether there is an inode for another file; `None`: there is if the disk has one.
    space: Option<Arc<Space>>,
}

/// The directory in a store.
pub(super) const BODIES: &str = "bodies";

/// The path of a body file, below its store.
pub(super) fn place(id: u64) -> PathBuf {
    shard(id as u8).join(format!("{id:016x}"))
}

/// The directory of the body files whose numbers end in this byte, below their store.
fn shard(last: u8) -> PathBuf {
    PathBuf::from(format!("{BODIES}/{last:02x}"))
}

/// The number of the body file of a name.
fn number(name: &OsStr, last: u8) -> Option<u64> {
    let id = u64::from_str_radix(name.to_str()?, 16).ok()?;
    (place(id).file_name() == Some(name) && id as u8 == last).then_some(id)
}

impl Bodies {
    /// Those of a store as it is.
    pub fn at(store: &Dir) -> Self {
        let removals = Arc::new(Removals::new(store.clone()));
        Self { store: store.clone(), removals, failed: Arc::default(), blocks: Arc::default(), space: None }
    }

    /// The same; new files leave the reserve of that disk alone.
    pub(super) fn within(self, space: Arc<Space>) -> Self {
        Self { space: Some(space), ..self }
    }

    /// Calls `each` with the number of each body file, or with the path of what is none.
    pub fn each(&self, mut each: impl FnMut(std::result::Result<u64, PathBuf>)) -> io::Result<()> {
        (0..=u8::MAX).try_for_each(|last| self.each_of(last, &mut each))
    }

    /// As [`Bodies::each`], for those whose numbers end in this byte.
    fn each_of(&self, last: u8, each: &mut impl FnMut(std::result::Result<u64, PathBuf>)) -> io::Result<()> {
        let shard = shard(last);
        let files = match self.store.dir(&shard) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        files.each(|entry| {
            each(number(&entry.name, last).ok_or_else(|| self.store.shown().join(&shard).join(&entry.name)));
            Ok(())
        })
    }

    /// Those of a store, whose directories are made when they are missing.
    pub fn open(store: &Dir) -> io::Result<Self> {
        let root = store.make_or_open_dir(BODIES)?;
        let mut made = false;
        for last in 0..=u8::MAX {
            let name = format!("{last:02x}");
            match root.dir(&name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    root.make_dir(&name)?;
                    made = true;
                }
                found => drop(found?),
            }
        }
        if made {
            root.sync()?;
            store.sync()?;
        }
        Ok(Self::at(store))
    }

    /// The path of a body file, for people.
    pub fn path(&self, id: u64) -> PathBuf {
        self.store.shown().join(place(id))
    }

    /// What `stat` shows of a body file.
    pub fn metadata(&self, id: u64) -> io::Result<Metadata> {
        self.store.stat(place(id))
    }

    /// Makes a new file, of a number that belongs to nobody; [`Error::NoSpace`] when the inodes that are left are the database's.
    ///
    /// A file of that number may be there: a power cut can take a record, and that its number was given out, and leave the file.
    /// It goes, and is not emptied, because a message may share its bytes.
    pub fn create(&self, id: u64) -> Result<File> {
        self.space.as_ref().map_or(Ok(()), |space| space.admit_file())?;
        let place = place(id);
        let file = match self.store.create(&place) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                tracing::info!(file = %self.path(id).display(), "body file that a crash left removed");
                self.store.remove(&place)?;
                self.store.create(&place)?
            }
            made => made?,
        };
        unless_scarce(file).inspect_err(|_| self.remove(id))
    }

    /// Opens a file for reading.
    pub fn open_read(&self, id: u64) -> Result<File> {
        opened(id, self.store.file(place(id)))
    }

    /// Opens a file for reading and writing.
    pub fn open_write(&self, id: u64) -> Result<File> {
        opened(id, self.store.file_to_change(place(id)))
    }

    /// Removes a file that nobody owns, and nobody will.
    pub(super) fn remove(&self, id: u64) {
        remove(&self.store, &place(id));
    }

    /// Gives an open file of some store the name of a body file. Not in a store of somebody else's, where a file of ours has one
    /// name ([`Dir`]).
    pub(super) fn link(&self, file: &File, id: u64) -> io::Result<()> {
        match self.store.is_foreign() {
            true => Err(io::ErrorKind::Unsupported.into()),
            false => self.store.link(file, place(id)),
        }
    }

    /// Makes the file `to` with the bytes of a message's, which `file` is: they never change, so the two can share them. Survives a
    /// power cut.
    pub fn copy(&self, from: BodyPlace, file: &File, to: u64) -> Result<()> {
        let linked = match from {
            // The message may be gone by now, or the filesystem may not have hard links. What could not be written once is
            // written anew.
            BodyPlace::File(from) if self.refuse_failed(&[from]).is_ok() => self.link(file, to).is_ok(),
            _ => false,
        };
        if linked {
            return self.sync(to, file);
        }
        let mut copy = self.create(to)?;
        io::copy(&mut &*file, &mut copy)?;
        self.sync(to, &copy)
    }

    /// Makes a file's bytes and its name survive a power cut. Once that has failed, it fails until the file is
    /// [emptied](Bodies::emptied).
    pub fn sync(&self, id: u64, file: &File) -> Result<()> {
        let shard = self.store.dir(shard(id as u8))?;
        self.refuse_failed(&[id])?;
        file.sync_data().and_then(|()| shard.sync()).map_err(|error| {
            self.failed.lock().insert(id);
            error.into()
        })
    }

    /// A file has no bytes any more: what a sync could not write is not missed.
    pub fn emptied(&self, id: u64) {
        self.failed.lock().remove(&id);
    }

    fn refuse_failed(&self, ids: &[u64]) -> Result<()> {
        let failed = self.failed.lock();
        match failed.is_empty() || !ids.iter().any(|id| failed.contains(id)) {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EIO).into()),
        }
    }

    /// As [`Bodies::sync`], for several files, less those that were removed meanwhile; the first failure is told when all were
    /// tried. Many are synced together with whatever else the file system has, which takes one commit of its journal instead of
    /// one for each.
    pub fn sync_all(&self, ids: &[u64]) -> Result<()> {
        let together = || rustix::fs::syncfs(&self.store).map_err(io::Error::from);
        // When that fails, each file says whether it is concerned.
        if ids.len() > SYNCED_ONE_BY_ONE && self.refuse_failed(ids).is_ok() && together().is_ok() {
            return Ok(());
        }
        let mut first = Ok(());
        for id in ids {
            let synced = self.open_read(*id).and_then(|file| self.sync(*id, &file));
            if first.is_ok() && synced.is_err() && self.metadata(*id).is_ok() {
                first = synced;
            }
        }
        first
    }

    /// Removes files that nobody owns.
    pub fn remove_all(&self, ids: &[u64]) {
        ids.iter().for_each(|id| self.removals.remove(*id));
    }

    /// What was read of them lately.
    pub(super) fn blocks(&self) -> &Arc<Blocks> {
        &self.blocks
    }

    /// How files are removed.
    pub(super) fn removals(&self) -> &Arc<Removals> {
        &self.removals
    }

    /// Hands the files below `before` for which `wanted` answers false to `remove`; gives how many.
    ///
    /// `before` is the first number that this run gives out, so a file that is being made now is never looked at.
    pub fn sweep(&self, before: u64, wanted: impl Fn(u64) -> Result<bool>, remove: impl Fn(u64)) -> Result<usize> {
        let mut removed = 0;
        for last in 0..=u8::MAX {
            let mut found = Vec::new();
            self.each_of(last, &mut |file| match file {
                Ok(id) if id < before => found.push(id),
                Ok(_) => {}
                Err(file) => tracing::warn!(file = %file.display(), "not a body file; left alone"),
            })?;
            for id in found {
                if !wanted(id)? {
                    remove(id);
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

/// The CRC-32 of a file.
pub fn crc(mut file: &File) -> io::Result<u32> {
    let (mut sum, mut buffer) = (crc32fast::Hasher::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(sum.finalize()),
            Ok(length) => sum.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Refuses with [`Error::TooManyOpen`] when what is left of the process's descriptors is kept for others. The kernel gives the
/// lowest number that is free, so the number tells how many are in use.
fn unless_scarce(file: File) -> Result<File> {
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    let left = |limit: u64| limit.saturating_sub(file.as_raw_fd().unsigned_abs().into());
    match limit {
        Some(limit) if left(limit) <= table_files(limit) + DESCRIPTORS_LEFT => Err(Error::TooManyOpen),
        _ => Ok(file),
    }
}

/// What an open of a body file gave.
fn opened(id: u64, file: io::Result<File>) -> Result<File> {
    unless_scarce(file.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::Damaged(format!("body file {id:016x} is missing")),
        _ => error.into(),
    })?)
}

/// Removes a file of the store; a failure costs disk space until the next start, and is logged.
pub fn remove(store: &Dir, file: &Path) {
    if let Err(error) = store.remove(file)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %store.shown().join(file).display(), %error, "file of the store not removed");
    }
}

#[cfg(test)]
mod tests {
    use super::super::beneath::Trust;
    use super::*;

    fn bodies_in(dir: &Path) -> Bodies {
        Bodies::open(&Dir::open(dir, Trust::Own).unwrap()).unwrap()
    }

    #[test]
    fn a_file_left_under_a_number_given_out_again_makes_way() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = bodies_in(dir.path());
        std::fs::write(bodies.path(7), "kept").unwrap();
        std::fs::hard_link(bodies.path(7), bodies.path(8)).unwrap();
        bodies.copy(BodyPlace::File(9), &bodies.create(9).unwrap(), 8).unwrap();
        assert_eq!(bodies.create(8).unwrap().metadata().unwrap().len(), 0);
        assert_eq!(std::fs::read(bodies.path(7)).unwrap(), b"kept");
    }

    #[test]
    fn a_sync_that_failed_is_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = bodies_in(dir.path());
        let (file, other) = (bodies.create(7).unwrap(), bodies.create(8).unwrap());
        // There is nothing that a pipe could be synced to.
        let (pipe, _) = rustix::pipe::pipe().unwrap();
        bodies.sync(7, &File::from(pipe)).unwrap_err();
        bodies.sync(7, &file).unwrap_err();
        bodies.sync_all(&[8, 7]).unwrap_err();
        bodies.sync(8, &other).unwrap();
        bodies.emptied(7);
        bodies.sync_all(&[8, 7]).unwrap();
    }

    #[test]
    fn the_sweep_removes_only_what_nobody_owns() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = bodies_in(dir.path());
        for id in [1, 2, 0x101, 9] {
            bodies.create(id).unwrap();
        }
        assert_eq!(bodies.sweep(9, |id| Ok(id == 2), |id| bodies.remove(id)).unwrap(), 1);
        assert!(bodies.open_read(2).is_ok() && bodies.open_read(9).is_ok() && bodies.open_read(0x101).is_ok());
        assert!(matches!(bodies.open_read(1), Err(Error::Damaged(_))));
    }
}
