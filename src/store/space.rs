//! The free space under the store, bytes and inodes. Writes are refused while there is room left for the database to work, because
//! RocksDB turns read-only when it meets a full disk itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::StatVfsMountFlags;

use crate::error::{Error, Result};
use crate::locks::{self, Ranked};

use super::reserve::{INODES, Reserve};

/// The part of the disk that is kept free.
const RESERVE_FRACTION: u64 = 20;
/// At least this much is kept free.
const RESERVE_MIN: u64 = 8 << 20;
/// No more than this is kept free.
const RESERVE_MAX: u64 = 256 << 20;
/// So many inodes are kept free at least and at most: the same part of the disk's as of its bytes. Of the least, half are files, and
/// half are what the database uses as long as there is no trouble.
const INODES_MIN: u64 = 2 * INODES;
const INODES_MAX: u64 = 4096;
/// With fewer inodes than this for it, kept ones included, the database is given nothing more to write.
const INODES_OF_DATABASE: u64 = INODES / 2;
/// A look at the file system is trusted this long, and for this many bytes.
const TRUST: Duration = Duration::from_millis(500);
const TRUST_BYTES: u64 = 1 << 20;

/// Memory for what was written and is not in table files yet, in one column family, at most.
const BUFFER_MAX: u64 = 16 << 20;

/// How much the database may write before it tidies up. What it has in memory must fit into the file that keeps room for it
/// ([`Reserve`]), and so must what it writes while it makes one table of several, which is when the room of what was acknowledged
/// comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// In memory, for one column family, in bytes.
    pub buffer: u64,
    /// In memory, for all of them.
    pub memory: u64,
    /// In logs.
    pub log: u64,
    /// In the file that keeps room.
    pub reserve: u64,
}

impl Sizes {
    /// On a disk of any size.
    pub const LARGEST: Self = Self::with_buffer(BUFFER_MAX);

    const fn with_buffer(buffer: u64) -> Self {
        Self { buffer, memory: 3 * buffer, log: 4 * buffer, reserve: 5 * buffer }
    }

    /// For a store in this directory.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let fs = rustix::fs::statvfs(path)?;
        let buffer = (reserve(fs.f_blocks.saturating_mul(fs.f_frsize)) / 6).min(BUFFER_MAX);
        Ok(Self::with_buffer(buffer))
    }
}

/// What is kept free of a disk of so many bytes.
fn reserve(total: u64) -> u64 {
    (total / RESERVE_FRACTION).clamp(RESERVE_MIN, RESERVE_MAX)
}

/// How many inodes are kept free of so many; of a disk that has no number of them, none.
fn reserved_inodes(total: u64) -> u64 {
    (total / RESERVE_FRACTION).clamp(INODES_MIN, INODES_MAX)
}

/// Watches the file system of the store.
#[derive(Debug)]
pub struct Space {
    path: PathBuf,
    reserve: Arc<Reserve>,
    seen: Ranked<Seen, { locks::SPACE }>,
}

#[derive(Debug)]
struct Seen {
    at: Option<Instant>,
    /// Bytes that may be accepted before the next look; 0 when there is no room.
    left: u64,
    /// Files that may be made before the next look.
    files: u64,
}

/// Inodes of a file system.
#[derive(Clone, Copy, Debug)]
pub struct Inodes {
    /// In all.
    pub total: u64,
    /// Those that mqfs may still use for files of its own.
    pub free: u64,
    /// Those that the database may still use.
    of_database: u64,
}

/// What `statfs` shows.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Size of a block in bytes.
    pub block: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks that mqfs may still fill.
    pub free: u64,
    /// Nothing can be written there.
    pub read_only: bool,
    /// Its inodes; `None`: it makes them as they are needed, as btrfs does.
    pub inodes: Option<Inodes>,
}

impl Space {
    /// Watches the file system that holds `path`, and keeps the reserve there.
    pub fn new(path: PathBuf, reserve: Arc<Reserve>) -> Self {
        Self { path, reserve, seen: Ranked::new(Seen { at: None, left: 0, files: 0 }) }
    }

    /// Refuses with [`Error::NoSpace`] unless `bytes` more fit above the reserve. What takes a few bytes, of which 0 stands for
    /// any number, is refused when nothing at all fits, or when there are hardly any inodes left for the database.
    pub fn admit(&self, bytes: u64) -> Result<()> {
        let mut seen = self.seen.lock();
        let fresh = seen.at.is_some_and(|at| at.elapsed() < TRUST);
        if !fresh || seen.left < bytes {
            self.look_into(&mut seen, bytes)?;
        }
        seen.left -= bytes;
        Ok(())
    }

    /// Refuses with [`Error::NoSpace`] another file of the store's own, unless there is an inode for it above the reserve.
    pub fn admit_file(&self) -> Result<()> {
        let mut seen = self.seen.lock();
        let fresh = seen.at.is_some_and(|at| at.elapsed() < TRUST);
        if !fresh || seen.files == 0 {
            self.look_into(&mut seen, 0)?;
        }
        seen.files = seen.files.checked_sub(1).ok_or(Error::NoSpace)?;
        Ok(())
    }

    /// Looks for room for `bytes`.
    fn look_into(&self, seen: &mut Seen, bytes: u64) -> Result<()> {
        seen.at = None;
        let usage = self.usage()?;
        if usage.read_only {
            return Err(Error::StoreReadOnly);
        }
        let free = usage.free.saturating_mul(usage.block);
        self.keep(&usage);
        let no_inodes = usage.inodes.is_some_and(|inodes| inodes.of_database < INODES_OF_DATABASE);
        if free < bytes.max(1) || no_inodes {
            return Err(Error::NoSpace);
        }
        seen.at = Some(Instant::now());
        // Much room is not looked at again for each megabyte.
        seen.left = bytes.max((free / 16).max(TRUST_BYTES.min(free)));
        let files = usage.inodes.map_or(u64::MAX, |inodes| inodes.free);
        seen.files = files.min((files / 16).max(1));
        Ok(())
    }

    fn keep(&self, usage: &Usage) {
        self.reserve.keep(usage.free.saturating_mul(usage.block));
        self.reserve.keep_inodes(usage.inodes.map_or(0, |inodes| inodes.free));
    }

    /// Keeps the reserve when there is room for it.
    pub fn look(&self) -> Result<()> {
        self.keep(&self.usage()?);
        Ok(())
    }

    /// Blocks of the file system, the reserve taken off the free ones.
    pub fn usage(&self) -> Result<Usage> {
        let fs = rustix::fs::statvfs(&self.path).map_err(std::io::Error::from)?;
        let (block, read_only) = (fs.f_frsize.max(1), fs.f_flag.contains(StatVfsMountFlags::RDONLY));
        let reserve = reserve(fs.f_blocks.saturating_mul(block)).saturating_sub(self.reserve.kept()) / block;
        let kept = self.reserve.kept_inodes();
        let inodes = (fs.f_files > 0).then(|| Inodes {
            total: fs.f_files,
            free: fs.f_favail.saturating_sub(reserved_inodes(fs.f_files) - kept),
            of_database: fs.f_favail.saturating_add(kept),
        });
        Ok(Usage { block, blocks: fs.f_blocks, free: fs.f_bavail.saturating_sub(reserve), read_only, inodes })
    }
}

#[cfg(test)]
mod tests {
    use super::super::beneath::{Dir, Trust};
    use super::*;

    #[test]
    fn room_is_admitted_and_more_than_there_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let space =
            Space::new(dir.path().into(), Arc::new(Reserve::new(&Dir::open(dir.path(), Trust::Own).unwrap(), 1 << 20)));
        space.admit(1).unwrap();
        space.admit(4096).unwrap();
        assert!(matches!(space.admit(u64::MAX), Err(Error::NoSpace)));
        space.admit(1).unwrap();
        space.admit_file().unwrap();
    }
}
