//! Opening a store: its layout, its format version, its lock.
//!
//! ```text
//! STORE/format   the version of the whole layout, one decimal line
//! STORE/lock     locked (flock) by the one process that has the store open
//! STORE/db/      RocksDB
//! STORE/synced   how far the database is durable: `synced.rs`
//! STORE/bodies/  the files of `bodies.rs`
//! STORE/reserve  room on the disk that is kept for the database: `reserve.rs`
//! STORE/snapshot a snapshot that is being made or taken away (`snapshot.rs`); one that is being removed is `snapshot.gone`
//! STORE/lost+found/  what a repair has set aside: `check/`
//! ```

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FlockOperation;

use super::backup;
use super::db::{Db, Recovery, db_open_error};
use super::reserve::Reserve;
use super::space::Sizes;
use super::synced::{self, Noted, Synced};
use super::trouble::{self, Trouble};
use super::wal;
use crate::error::Error;

/// The version of the layout, the keys and the records that this code writes. Version 1 is the first; version 2 has the keys
/// and records ([`super::record`]) for what came with it, and reads those of version 1; version 3 has checksums of body files
/// ([`super::sums`]), and tells how far the database is durable ([`super::synced`]); version 4 has the third version of the
/// records.
pub const FORMAT: u32 = 4;

/// Why a store could not be opened. The text is one line for the user.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has the store open.
    InUse,
    /// The store was written by a newer mqfs.
    NewerFormat {
        /// The version found.
        found: u32,
        /// The newest that this code knows.
        known: u32,
    },
    /// The directory holds something else; the text says what.
    NotAStore(String),
    /// The database cannot be opened because it is damaged; the text is RocksDB's.
    Damaged(String),
    /// The system refused.
    Io(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::InUse => f.write_str("the store is in use by another process"),
            OpenError::NewerFormat { found, known } => {
                write!(f, "the store has format {found}, this mqfs knows formats up to {known}: use a newer mqfs")
            }
            OpenError::NotAStore(why) => write!(f, "not an mqfs store: {why}"),
            OpenError::Damaged(what) => write!(f, "the store is damaged: {what}; see `mqfs check`"),
            OpenError::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        OpenError::Io(error)
    }
}

impl From<crate::error::Error> for OpenError {
    fn from(error: crate::error::Error) -> Self {
        match error {
            crate::error::Error::Io(error) => OpenError::Io(error),
            other => OpenError::Damaged(other.to_string()),
        }
    }
}

/// A directory that is a store.
pub struct Prepared {
    /// The lock lasts as long as this.
    pub lock: File,
    /// The version of its format; `None`: it was made a store just now.
    found: Option<u32>,
}

/// Makes the directory a store when it is missing or empty, checks that it is one, and locks it.
pub fn prepare(dir: &Path) -> Result<Prepared, OpenError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        Err(error) => return Err(error.into()),
    }
    let format = dir.join("format");
    if !format.exists() {
        if dir.join(backup::MANIFEST).exists() {
            return Err(OpenError::NotAStore("it is a backup: `mqfs restore` makes a store of it".into()));
        }
        let foreign = std::fs::read_dir(dir)?
            .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
            .find(|name| !matches!(name.to_str(), Some("lock" | "format.new" | "lost+found")));
        if let Some(name) = foreign {
            return Err(OpenError::NotAStore(format!("the directory holds {name:?} and no `format` file")));
        }
    }
    let lock = lock(dir)?;
    if let Some(others) = told_of_others(dir)? {
        tracing::warn!("{others}");
    }
    let found = if format.exists() { Some(check_format(&format)?) } else { None };
    if found.is_none_or(|found| found < FORMAT) {
        // From now on an older mqfs must not open it: it would not understand what is to come.
        write_format(dir, FORMAT)?;
    }
    if let Some(from) = found.filter(|found| *found < FORMAT) {
        tracing::info!(from, format = FORMAT, "store upgraded");
    }
    Ok(Prepared { lock, found })
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let lock = options.open(dir.join("lock"))?;
    try_lock(&lock)?;
    Ok(lock)
}

/// What is to be said when others than root and the user who runs this may put links in place of what is in a store.
pub fn told_of_others(dir: &Path) -> io::Result<Option<String>> {
    let held = std::fs::metadata(dir)?;
    let (owner, mode) = (held.uid(), held.mode() & 0o7777);
    let of_others = is_of_others(owner, mode, rustix::process::geteuid().as_raw());
    Ok(of_others.then(|| {
        format!(
            "others can change the store (user {owner}, mode {mode:04o}), and have mqfs follow links to what they may \
             not change: see FILES in mqfs(1)"
        )
    }))
}

fn is_of_others(owner: u32, mode: u32, own: u32) -> bool {
    !(owner == 0 || owner == own) || mode & 0o022 != 0
}

/// Locks a directory that looks like a store, whatever its state.
pub fn lock_to_check(dir: &Path) -> Result<File, OpenError> {
    std::fs::read_dir(dir)?;
    if !["format", "db", "bodies"].iter().any(|part| dir.join(part).exists()) {
        return Err(OpenError::NotAStore("there is nothing of one in the directory".into()));
    }
    lock(dir)
}

/// Opens the database of a store, made when the store is new, with buffers of these sizes. On a full disk it gets the room that was
/// kept for it: messages must be consumed to make more.
pub fn database(dir: &Path, prepared: &Prepared, sizes: Sizes, reserve: &Arc<Reserve>) -> Result<Db, OpenError> {
    let path = dir.join("db");
    let noted = synced::read(dir)?;
    let make = match prepared.found {
        None => true,
        // Format 3 came with that file, which is made when the database is: a crash may have come in between.
        Some(found) => found >= 3 && noted == Noted::Nothing && !has_data(&path)?,
    };
    match noted {
        Noted::Upto(upto) => refuse_lost_changes(&path, upto)?,
        Noted::Damaged => tracing::error!("the file synced of the store is damaged: see `mqfs check`"),
        Noted::Nothing if !make && prepared.found >= Some(3) => {
            tracing::error!("the file synced of the store is missing: see `mqfs check`");
        }
        Noted::Nothing => {}
    }
    if let Some(what) = synced::manifest_cut(dir) {
        return Err(OpenError::Damaged(what));
    }
    let trouble = Arc::new(Trouble::new(reserve.clone()));
    let opened = Db::open_watched(&path, make, sizes, trouble.clone()).or_else(|error| {
        if matches!(trouble::of_text(error.as_ref()), Error::NoSpace) && reserve.give_up() {
            Db::open_watched(&path, make, sizes, trouble)
        } else {
            Err(error)
        }
    });
    let db = opened.map_err(db_open_error)?;
    let upto = if let Noted::Upto(upto) = noted { upto } else { 0 };
    db.tell_synced(Synced::open(dir, upto)?);
    Ok(db)
}

/// Whether a directory has a table or a log of a database.
fn has_data(dir: &Path) -> io::Result<bool> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension {
            Some("sst") => return Ok(true),
            Some("log") if entry.metadata()?.len() > 0 => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

/// Refuses a database of which recovery would not find all changes that were durable: what it does not find it drops.
fn refuse_lost_changes(db: &Path, upto: u64) -> Result<(), OpenError> {
    if wal::whole_upto(db).is_ok_and(|whole| whole >= upto) {
        return Ok(());
    }
    match Db::open_to_read(db, Recovery::PointInTime) {
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
pub fn database_to_read(dir: &Path) -> Result<Db, OpenError> {
    let db = Db::open_to_read(&dir.join("db"), Recovery::PointInTime).map_err(db_open_error)?;
    if let Noted::Upto(upto) = synced::read(dir)? {
        refuse_behind(&db, upto)?;
    }
    if let Some(what) = synced::manifest_cut(dir) {
        return Err(OpenError::Damaged(what));
    }
    Ok(db)
}

fn try_lock(lock: &File) -> Result<(), OpenError> {
    match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse),
        Err(errno) => Err(io::Error::from(errno).into()),
    }
}

/// Checks that the directory is a store that this code can read, and locks it; nothing in it is changed.
pub fn lock_existing(dir: &Path) -> Result<File, OpenError> {
    match check_format(&dir.join("format")) {
        Ok(_) => {}
        Err(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound && dir.is_dir() => {
            return Err(OpenError::NotAStore("there is no `format` file in it".into()));
        }
        Err(error) => return Err(error),
    }
    let lock = File::open(dir.join("lock"))?;
    try_lock(&lock)?;
    Ok(lock)
}

/// The version of a store that this code can open.
pub(super) fn check_format(format: &Path) -> Result<u32, OpenError> {
    let text = std::fs::read_to_string(format)?;
    let found: u32 =
        text.trim().parse().map_err(|_| OpenError::NotAStore(format!("its `format` file says {:?}", text.trim())))?;
    match found {
        1..=FORMAT => Ok(found),
        0 => Err(OpenError::NotAStore("its `format` file says 0".into())),
        _ => Err(OpenError::NewerFormat { found, known: FORMAT }),
    }
}

/// Writes the version so that a crash leaves the whole file or none.
pub(super) fn write_format(dir: &Path, format: u32) -> io::Result<()> {
    let new = dir.join("format.new");
    // Not what has the name already: it may be a link that leads out of the store, whose owner need not be who runs this.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::create_new(&new)?;
    writeln!(file, "{format}")?;
    file.sync_all()?;
    std::fs::rename(&new, dir.join("format"))?;
    File::open(dir)?.sync_all()?;
    if let Some(parent) = dir.canonicalize()?.parent() {
        // The parent may not be readable by an ordinary user; its entry then is as durable as mkdir made it.
        if let Ok(parent) = File::open(parent) {
            parent.sync_all()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_made_once_and_locked() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let lock = prepare(&store).unwrap();
        assert!(matches!(prepare(&store), Err(OpenError::InUse)));
        drop(lock);
        assert!(prepare(&store).is_ok());
    }

    #[test]
    fn a_store_is_of_others_when_they_may_change_it() {
        for (owner, mode, own, others) in [
            (0, 0o700, 0, false),
            (7, 0o755, 7, false),
            (0, 0o755, 7, false),
            (7, 0o700, 0, true),
            (8, 0o700, 7, true),
            (7, 0o770, 7, true),
            (0, 0o1777, 0, true),
        ] {
            assert_eq!(is_of_others(owner, mode, own), others, "{owner} {mode:o} {own}");
        }
    }

    #[test]
    fn what_is_not_a_store_of_this_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        assert!(matches!(prepare(dir.path()), Err(OpenError::NotAStore(_))));
        std::fs::write(dir.path().join("format"), "5\n").unwrap();
        assert!(matches!(prepare(dir.path()), Err(OpenError::NewerFormat { found: 5, known: 4 })));
        std::fs::write(dir.path().join("format"), "1\n").unwrap();
        drop(prepare(dir.path()).unwrap().lock);
        assert_eq!(std::fs::read_to_string(dir.path().join("format")).unwrap(), "4\n", "upgraded");
        std::fs::write(dir.path().join("format"), "x\n").unwrap();
        assert!(matches!(prepare(dir.path()), Err(OpenError::NotAStore(_))));
    }
}
