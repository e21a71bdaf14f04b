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
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use rustix::fs::FlockOperation;

use super::backup;
use super::beneath::{Dir, Trust};

/// The version of the layout, the keys and the records that this code writes. Version 1 is the first; version 2 has the keys
/// and records ([`super::record`]) for what came with it, and reads those of version 1; version 3 has checksums of body files
/// ([`super::sums`]), and tells how far the database is durable ([`super::synced`]); version 4 has the third version of the
/// records.
pub const FORMAT: u32 = 4;

/// The file that says it, and what that is called while it is written.
const FORMAT_FILE: &str = "format";
const NEW_FORMAT: &str = "format.new";

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
    /// It belongs to neither root nor the user who runs this, and its owner is not trusted.
    Foreign {
        /// Who its owner is.
        owner: u32,
    },
    /// The directory holds something else; the text says what.
    NotAStore(String),
    /// The database cannot be opened because it is damaged; the text is RocksDB's.
    Damaged(String),
    /// The system refused.
    Io(io::Error),
}

impl Prepared {
    /// Whether an earlier version has written the store.
    pub fn is_upgraded(&self) -> bool {
        self.found.is_some_and(|found| found < FORMAT)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::InUse => f.write_str("the store is in use by another process"),
            OpenError::NewerFormat { found, known } => {
                write!(f, "the store has format {found}, this mqfs knows formats up to {known}: use a newer mqfs")
            }
            OpenError::Foreign { owner } => {
                write!(f, "it belongs to user {owner}, neither to root nor to you: see `--trust-owner` in mqfs(1)")
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
    /// The directory.
    pub dir: Dir,
    /// The lock lasts as long as this.
    pub lock: File,
    /// The version of its format; `None`: it was made a store just now.
    pub(super) found: Option<u32>,
}

/// Makes the directory a store when it is missing or empty, checks that it is one, and locks it.
pub fn prepare(path: &Path, trust: Trust) -> Result<Prepared, OpenError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error.into()),
    }
    let dir = Dir::open(path, trust)?;
    if !dir.has(FORMAT_FILE) {
        if dir.has(backup::MANIFEST) {
            return Err(OpenError::NotAStore("it is a backup: `mqfs restore` makes a store of it".into()));
        }
        let mut foreign = None;
        dir.each(|entry| {
            let ours = matches!(entry.name.to_str(), Some("lock" | NEW_FORMAT | "lost+found"));
            foreign = foreign.take().or((!ours).then_some(entry.name));
            Ok(())
        })?;
        if let Some(name) = foreign {
            return Err(OpenError::NotAStore(format!("the directory holds {name:?} and no `format` file")));
        }
    }
    let lock = lock(&dir)?;
    if let Some(others) = told_of_others(&dir)? {
        tracing::warn!("{others}");
    }
    let found = if dir.has(FORMAT_FILE) { Some(check_format(&dir)?) } else { None };
    if found.is_none_or(|found| found < FORMAT) {
        // From now on an older mqfs must not open it: it would not understand what is to come.
        write_format(&dir, FORMAT)?;
    }
    if let Some(from) = found.filter(|found| *found < FORMAT) {
        tracing::info!(from, format = FORMAT, "store upgraded");
    }
    Ok(Prepared { dir, lock, found })
}

fn lock(dir: &Dir) -> Result<File, OpenError> {
    let lock = dir.file_to_keep("lock")?;
    try_lock(&lock)?;
    Ok(lock)
}

/// What is to be said when others than root and the user who runs this may put links in place of what is in a store.
pub fn told_of_others(dir: &Dir) -> io::Result<Option<String>> {
    let held = dir.metadata()?;
    let (owner, mode) = (held.uid(), held.mode() & 0o7777);
    let of_others = is_of_others(owner, mode, rustix::process::geteuid().as_raw());
    Ok(of_others.then(|| {
        format!(
            "others can change the store (user {owner}, mode {mode:04o}), and have the database follow links to what they \
             may not change: see FILES in mqfs(1)"
        )
    }))
}

fn is_of_others(owner: u32, mode: u32, own: u32) -> bool {
    !(owner == 0 || owner == own) || mode & 0o022 != 0
}

/// Locks a directory that looks like a store, whatever its state.
pub fn lock_to_check(dir: &Dir) -> Result<File, OpenError> {
    if ![FORMAT_FILE, "db", "bodies"].iter().any(|part| dir.has(part)) {
        return Err(OpenError::NotAStore("there is nothing of one in the directory".into()));
    }
    lock(dir)
}

fn try_lock(lock: &File) -> Result<(), OpenError> {
    match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse),
        Err(errno) => Err(io::Error::from(errno).into()),
    }
}

/// Checks that the directory is a store that this code can read, and locks it; nothing in it is changed.
pub fn lock_existing(dir: &Dir) -> Result<File, OpenError> {
    if !dir.has(FORMAT_FILE) {
        return Err(OpenError::NotAStore("there is no `format` file in it".into()));
    }
    check_format(dir)?;
    let lock = dir.file("lock")?;
    try_lock(&lock)?;
    Ok(lock)
}

/// The version of a store that this code can open.
pub(super) fn check_format(dir: &Dir) -> Result<u32, OpenError> {
    let text = String::from_utf8_lossy(&dir.read(FORMAT_FILE)?).into_owned();
    let found: u32 =
        text.trim().parse().map_err(|_| OpenError::NotAStore(format!("its `format` file says {:?}", text.trim())))?;
    match found {
        1..=FORMAT => Ok(found),
        0 => Err(OpenError::NotAStore("its `format` file says 0".into())),
        _ => Err(OpenError::NewerFormat { found, known: FORMAT }),
    }
}

/// Writes the version so that a crash leaves the whole file or none.
pub(super) fn write_format(dir: &Dir, format: u32) -> io::Result<()> {
    // Not what has the name already: it may be a link that leads out of the store, whose owner need not be who runs this.
    match dir.remove(NEW_FORMAT) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = dir.create(NEW_FORMAT)?;
    writeln!(file, "{format}")?;
    file.sync_all()?;
    dir.rename(NEW_FORMAT, FORMAT_FILE)?;
    dir.sync()?;
    if let Some(parent) = dir.shown().canonicalize()?.parent() {
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
        let lock = prepare(&store, Trust::Own).unwrap();
        assert!(matches!(prepare(&store, Trust::Own), Err(OpenError::InUse)));
        drop(lock);
        assert!(prepare(&store, Trust::Own).is_ok());
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
        assert!(matches!(prepare(dir.path(), Trust::Own), Err(OpenError::NotAStore(_))));
        std::fs::write(dir.path().join("format"), "5\n").unwrap();
        assert!(matches!(prepare(dir.path(), Trust::Own), Err(OpenError::NewerFormat { found: 5, known: 4 })));
        std::fs::write(dir.path().join("format"), "1\n").unwrap();
        drop(prepare(dir.path(), Trust::Own).unwrap().lock);
        assert_eq!(std::fs::read_to_string(dir.path().join("format")).unwrap(), "4\n", "upgraded");
        std::fs::write(dir.path().join("format"), "x\n").unwrap();
        assert!(matches!(prepare(dir.path(), Trust::Own), Err(OpenError::NotAStore(_))));
    }
}
