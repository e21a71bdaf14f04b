//! The files of the store's own: drafts, and message bodies too large for the database.
//!
//! A file is named by its number, in hexadecimal, below `bodies/` in one of 256 directories by its last byte. It belongs to the
//! draft of that number, or to the message that the `b` key of that number names; a file that belongs to neither was left by
//! a crash and is removed at the next start.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::Resource;

use crate::error::{Error, Result};

use super::blocks::Blocks;
use super::db::table_files;
use super::record::BodyPlace;
use super::removals::Removals;

/// A body of at most this many bytes is kept in the database, a larger one in a file. An inline body is written three times
/// (log, table, compaction) but needs no sync of its own.
pub const INLINE_MAX: usize = 32 * 1024;

/// So many files are synced one by one.
const SYNCED_ONE_BY_ONE: usize = 16;

/// So many descriptors, besides those for its tables, are left to the database, which stops for good when it gets none; and to
/// whoever looks at the processes that ask.
const DESCRIPTORS_LEFT: u64 = 16;

/// The directory of the body files.
#[derive(Clone, Debug)]
pub struct Bodies {
    root: PathBuf,
    removals: Arc<Removals>,
    /// Those of which a sync failed. The kernel tells that once and forgets what it could not write, so a later sync may succeed
    /// without the bytes.
    failed: Arc<Mutex<HashSet<u64>>>,
    blocks: Arc<Blocks>,
}

impl Bodies {
    /// The directory as it is.
    pub fn at(root: PathBuf) -> Self {
        Self { root, removals: Arc::default(), failed: Arc::default(), blocks: Arc::default() }
    }

    /// Calls `each` with the number of each body file, or with the path of what is none.
    pub fn each(&self, mut each: impl FnMut(std::result::Result<u64, PathBuf>)) -> io::Result<()> {
        for shard in 0..=u8::MAX {
            let entries = match std::fs::read_dir(self.root.join(format!("{shard:02x}"))) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let id = entry.file_name().to_str().and_then(|name| u64::from_str_radix(name, 16).ok());
                each(id.ok_or_else(|| entry.path()));
            }
        }
        Ok(())
    }

    /// Opens the directory, made when it is missing.
    pub fn open(root: PathBuf) -> io::Result<Self> {
        let shards = (0..=u8::MAX).map(|shard| root.join(format!("{shard:02x}")));
        let missing: Vec<PathBuf> = shards.filter(|shard| !shard.is_dir()).collect();
        if !missing.is_empty() {
            missing.iter().try_for_each(std::fs::create_dir_all)?;
            File::open(&root)?.sync_all()?;
            if let Some(parent) = root.parent() {
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(Self::at(root))
    }

    /// The path of a body file.
    pub fn path(&self, id: u64) -> PathBuf {
        self.shard(id).join(format!("{id:016x}"))
    }

    fn shard(&self, id: u64) -> PathBuf {
        self.root.join(format!("{:02x}", id & 0xff))
    }

    /// Makes a new file, of a number that belongs to nobody.
    ///
    /// A file of that number may be there: a power cut can take a record, and that its number was given out, and leave the file.
    /// It goes, and is not emptied, because a message may share its bytes.
    pub fn create(&self, id: u64) -> Result<File> {
        let path = self.path(id);
        let make = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = match make() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                tracing::info!(file = %path.display(), "body file that a crash left removed");
                std::fs::remove_file(&path)?;
                make()?
            }
            made => made?,
        };
        unless_scarce(file).inspect_err(|_| remove(&path))
    }

    /// Opens a file for reading.
    pub fn open_read(&self, id: u64) -> Result<File> {
        self.opened(id, OpenOptions::new().read(true))
    }

    /// Opens a file for reading and writing.
    pub fn open_write(&self, id: u64) -> Result<File> {
        self.opened(id, OpenOptions::new().read(true).write(true))
    }

    fn opened(&self, id: u64, options: &OpenOptions) -> Result<File> {
        let file = options.open(self.path(id)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Damaged(format!("body file {id:016x} is missing")),
            _ => error.into(),
        })?;
        unless_scarce(file)
    }

    /// Makes the file `to` with the bytes of a message's, which `file` is: they never change, so the two can share them. Survives a
    /// power cut.
    pub fn copy(&self, from: BodyPlace, file: &File, to: u64) -> Result<()> {
        let linked = match from {
            // The message may be gone by now, or the filesystem may not have hard links. What could not be written once is
            // written anew.
            BodyPlace::File(from) if self.refuse_failed(&[from]).is_ok() => {
                std::fs::hard_link(self.path(from), self.path(to)).is_ok()
            }
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
        let shard = File::open(self.shard(id))?;
        self.refuse_failed(&[id])?;
        file.sync_data().and_then(|()| shard.sync_all()).map_err(|error| {
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
        let together = || rustix::fs::syncfs(File::open(&self.root)?).map_err(io::Error::from);
        // When that fails, each file says whether it is concerned.
        if ids.len() > SYNCED_ONE_BY_ONE && self.refuse_failed(ids).is_ok() && together().is_ok() {
            return Ok(());
        }
        let mut first = Ok(());
        for id in ids {
            let synced = self.open_read(*id).and_then(|file| self.sync(*id, &file));
            if first.is_ok() && synced.is_err() && self.path(*id).exists() {
                first = synced;
            }
        }
        first
    }

    /// Removes files that nobody owns.
    pub fn remove_all(&self, ids: &[u64]) {
        ids.iter().for_each(|id| self.removals.remove(self.path(*id)));
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
    pub fn sweep(&self, before: u64, wanted: impl Fn(u64) -> Result<bool>, remove: impl Fn(PathBuf)) -> Result<usize> {
        let mut removed = 0;
        for shard in 0..=u8::MAX {
            for entry in std::fs::read_dir(self.root.join(format!("{shard:02x}")))? {
                let entry = entry?;
                let name = entry.file_name();
                let Some(id) = name.to_str().and_then(|name| u64::from_str_radix(name, 16).ok()) else {
                    tracing::warn!(file = %entry.path().display(), "not a body file; left alone");
                    continue;
                };
                if id < before && !wanted(id)? {
                    remove(entry.path());
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

/// Removes a body file; a failure costs disk space until the next start, and is logged.
pub fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %path.display(), %error, "body file not removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_left_under_a_number_given_out_again_makes_way() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = Bodies::open(dir.path().join("bodies")).unwrap();
        std::fs::write(bodies.path(7), "kept").unwrap();
        std::fs::hard_link(bodies.path(7), bodies.path(8)).unwrap();
        bodies.copy(BodyPlace::File(9), &bodies.create(9).unwrap(), 8).unwrap();
        assert_eq!(bodies.create(8).unwrap().metadata().unwrap().len(), 0);
        assert_eq!(std::fs::read(bodies.path(7)).unwrap(), b"kept");
    }

    #[test]
    fn a_sync_that_failed_is_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = Bodies::open(dir.path().join("bodies")).unwrap();
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
        let bodies = Bodies::open(dir.path().join("bodies")).unwrap();
        for id in [1, 2, 0x101, 9] {
            bodies.create(id).unwrap();
        }
        assert_eq!(bodies.sweep(9, |id| Ok(id == 2), |path| remove(&path)).unwrap(), 1);
        assert!(bodies.open_read(2).is_ok() && bodies.open_read(9).is_ok() && bodies.open_read(0x101).is_ok());
        assert!(matches!(bodies.open_read(1), Err(Error::Damaged(_))));
    }
}
