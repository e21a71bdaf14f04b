//! The free space under the store. Writes are refused while there is room left for the database to work, because RocksDB
//! turns read-only when it meets a full disk itself.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, Result};

/// The part of the disk that is kept free.
const RESERVE_FRACTION: u64 = 20;
/// At least this much is kept free.
const RESERVE_MIN: u64 = 8 << 20;
/// No more than this is kept free.
const RESERVE_MAX: u64 = 256 << 20;
/// A look at the file system is trusted this long, and for this many bytes.
const TRUST: Duration = Duration::from_millis(500);
const TRUST_BYTES: u64 = 1 << 20;

/// Watches the file system of the store.
pub struct Space {
    path: PathBuf,
    seen: Mutex<Seen>,
}

struct Seen {
    at: Option<Instant>,
    /// Bytes that may be accepted before the next look; 0 when there is no room.
    left: u64,
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
}

impl Space {
    /// Watches the file system that holds `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: Mutex::new(Seen { at: None, left: 0 }) }
    }

    /// Refuses with [`Error::NoSpace`] unless `bytes` more fit above the reserve.
    pub fn admit(&self, bytes: u64) -> Result<()> {
        let mut seen = self.seen.lock();
        let fresh = seen.at.is_some_and(|at| at.elapsed() < TRUST);
        if !fresh || seen.left < bytes {
            let usage = self.usage()?;
            let free = usage.free.saturating_mul(usage.block);
            if free < bytes {
                seen.at = None;
                return Err(Error::NoSpace);
            }
            seen.at = Some(Instant::now());
            // Much room is not looked at again for each megabyte.
            seen.left = bytes.max((free / 16).max(TRUST_BYTES.min(free)));
        }
        seen.left -= bytes;
        Ok(())
    }

    /// Blocks of the file system, the reserve taken off the free ones.
    pub fn usage(&self) -> Result<Usage> {
        let fs = rustix::fs::statvfs(&self.path).map_err(std::io::Error::from)?;
        let block = fs.f_frsize.max(1);
        let reserve = (fs.f_blocks.saturating_mul(block) / RESERVE_FRACTION).clamp(RESERVE_MIN, RESERVE_MAX) / block;
        Ok(Usage { block, blocks: fs.f_blocks, free: fs.f_bavail.saturating_sub(reserve) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_admitted_and_more_than_there_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(dir.path().into());
        space.admit(1).unwrap();
        space.admit(4096).unwrap();
        assert!(matches!(space.admit(u64::MAX), Err(Error::NoSpace)));
        space.admit(1).unwrap();
    }
}
