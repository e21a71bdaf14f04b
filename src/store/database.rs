//! Opening the database of a store, or of a backup.
//!
//! RocksDB opens its files by their paths, follows links, and waits for FIFOs. So all that is in its directory is looked at first
//! ([`look_at`]). In a directory that others may change, that does not hold for long: to read such a database, its files are
//! copied, by their descriptors, to where nobody else gets ([`readable`]).

use std::ffi::{OsStr, OsString};
use std::fs::DirBuilder;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::beneath::{Dir, Trust};
use super::db::{Db, Recovery, db_open_error};
use super::open::{OpenError, Prepared};
use super::reserve::Reserve;
use super::space::Sizes;
use super::synced::{self, Noted, Synced};
use super::trouble::{self, Trouble};
use super::wal;
use crate::error::Error;

/// The directory in a store.
pub(super) const DB: &str = "db";

/// Where copies are made, unless `TMPDIR` says otherwise: they may be large.
const TEMPORARY: &str = "/var/tmp";

/// Makes sure that there are only regular files in the directory of a database, of users whose files may be there. It need not
/// be there.
pub(super) fn look_at(dir: &Dir) -> io::Result<()> {
    let db = match dir.dir(DB) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    files(&db, |name| db.file(name).map(drop))
}

/// A directory of ours that is removed in the end.
struct Copied(PathBuf);

impl Drop for Copied {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(directory = %self.0.display(), %error, "not removed");
        }
    }
}

impl Copied {
    fn new() -> io::Result<Self> {
        let parent = std::env::var_os("TMPDIR").filter(|given| !given.is_empty());
        let parent = PathBuf::from(parent.unwrap_or_else(|| OsString::from(TEMPORARY)));
        let path = parent.join(format!("mqfs-{:016x}", RandomState::new().hash_one(std::process::id())));
        DirBuilder::new().mode(0o700).create(&path).map_err(|error| {
            io::Error::other(format!("{}, for a copy of the database: {error}; see TMPDIR in mqfs(1)", path.display()))
        })?;
        Ok(Self(path))
    }
}

/// The files of a database that is to be read. To be kept until it is closed.
pub(super) struct Readable {
    /// Where they are.
    pub path: PathBuf,
    _store: Dir,
    _copied: Option<Copied>,
}

/// The files of the database in a store or backup, to be read.
pub(super) fn readable(dir: &Dir) -> io::Result<Readable> {
    look_at(dir)?;
    let changes = |dir: io::Result<Dir>| dir.and_then(|dir| dir.others_may_change());
    if !dir.others_may_change()? && !changes(dir.dir(DB))? {
        return Ok(Readable { path: dir.join(DB), _store: dir.clone(), _copied: None });
    }
    let copied = Copied::new()?;
    let to = Dir::open(&copied.0, Trust::Own).map_err(|error| io::Error::other(error.to_string()))?;
    copy(&dir.dir(DB)?, &to)?;
    Ok(Readable { path: copied.0.clone(), _store: to, _copied: Some(copied) })
}

fn copy(from: &Dir, to: &Dir) -> io::Result<()> {
    files(from, |name| io::copy(&mut from.file(name)?, &mut to.create(name)?).map(drop))
}

/// Calls `each` with the names of all in it but directories, of which RocksDB takes none for a file.
pub(super) fn files(db: &Dir, mut each: impl FnMut(&OsStr) -> io::Result<()>) -> io::Result<()> {
    db.each(|entry| if entry.directory { Ok(()) } else { each(&entry.name) })
}

/// Opens the database of a store, made when the store is new, with buffers of these sizes. On a full disk it gets the room that was
/// kept for it: messages must be consumed to make more.
pub fn open(prepared: &Prepared, sizes: Sizes, reserve: &Arc<Reserve>) -> Result<Db, OpenError> {
    let dir = &prepared.dir;
    look_at(dir)?;
    let noted = synced::read(dir)?;
    let make = match prepared.found {
        None => true,
        // Format 3 came with that file, which is made when the database is: a crash may have come in between.
        Some(found) => found >= 3 && noted == Noted::Nothing && !has_data(dir)?,
    };
    match noted {
        Noted::Upto(upto) => refuse_lost_changes(dir, upto)?,
        Noted::Damaged => tracing::error!("the file synced of the store is damaged: see `mqfs check`"),
        Noted::Nothing if !make && prepared.found >= Some(3) => {
            tracing::error!("the file synced of the store is missing: see `mqfs check`");
        }
        Noted::Nothing => {}
    }
    if let Some(what) = synced::manifest_cut(dir) {
        return Err(OpenError::Damaged(what));
    }
    let path = dir.join(DB);
    let trouble = Arc::new(Trouble::new(reserve.clone()));
    let opened = Db::open_watched(&path, make, sizes, trouble.clone()).or_else(|error| {
        if matches!(trouble::of_text(error.as_ref()), Error::NoSpace) && reserve.give_up() {
            Db::open_watched(&path, make, sizes, trouble)
        } else {
            Err(error)
        }
    });
    let db = opened.map_err(|error| db_open_error(dir, error))?;
    let upto = if let Noted::Upto(upto) = noted { upto } else { 0 };
    db.tell_synced(Synced::open(dir, upto)?);
    Ok(db)
}

/// Whether a store's database has a table or a log.
fn has_data(dir: &Dir) -> io::Result<bool> {
    let db = match dir.dir(DB) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        found => found?,
    };
    let mut data = false;
    db.each(|entry| {
        let extension = Path::new(&entry.name).extension().and_then(|extension| extension.to_str());
        data |= match extension {
            Some("sst") => true,
            Some("log") => db.stat(&entry.name)?.len() > 0,
            _ => false,
        };
        Ok(())
    })?;
    Ok(data)
}

/// Refuses a database of which recovery would not find all changes that were durable: what it does not find it drops.
fn refuse_lost_changes(dir: &Dir, upto: u64) -> Result<(), OpenError> {
    if dir.dir(DB).and_then(|db| wal::whole_upto(&db)).is_ok_and(|whole| whole >= upto) {
        return Ok(());
    }
    match Db::open_to_read(&dir.join(DB), Recovery::PointInTime) {
        Ok(found) => refuse_behind(&found, upto),
        // Whatever is wrong with it, it is told when it is opened.
        Err(_) => Ok(()),
    }
}

fn refuse_behind(found: &Db, upto: u64) -> Result<(), OpenError> {
    match upto.saturating_sub(found.upto()) {
        0 => Ok(()),
        lost => Err(OpenError::Damaged(format!("{lost} changes that were durable are behind the damage in its log"))),
    }
}

/// Opens the database of a store to look at it: nothing there is changed.
pub fn open_to_read(dir: &Dir) -> Result<Db, OpenError> {
    let db = Db::open_readable(readable(dir)?, Recovery::PointInTime).map_err(|error| db_open_error(dir, error))?;
    if let Noted::Upto(upto) = synced::read(dir)? {
        refuse_behind(&db, upto)?;
    }
    if let Some(what) = synced::manifest_cut(dir) {
        return Err(OpenError::Damaged(what));
    }
    Ok(db)
}
