//! Files that hold nothing but room on the disk: RocksDB gets it when another program has taken the rest.
//!
//! A database that meets a full disk stops until there is room to write all that it has in memory. But the way to make room
//! is to consume messages, and that is a write. So one file is as long as what the database may have in memory; and as a disk can
//! run out of inodes as well as of bytes, and the database makes new files all the time, there are some empty ones, too.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;

use super::beneath::Dir;
use crate::locks::{self, Ranked};

/// The file in the store.
const RESERVE: &str = "reserve";

/// Once it has the room, RocksDB goes on within milliseconds. Who waits for that waits no longer, if somebody else has taken the
/// room.
const AT_ONCE: Duration = Duration::from_secs(2);
/// While RocksDB writes, or there is room, it is worth waiting for a slow disk: all that is in memory is written first, and when
/// that fails there is another try every five seconds.
const LATELY: Duration = Duration::from_secs(30);
/// It writes one table after the other; between two of them it seems not to write.
const BETWEEN: Duration = Duration::from_secs(1);

/// So many inodes are kept: for a table of each column family, a log, a manifest and the files around them, several times over. A
/// compaction gives back more of them than it takes.
pub const INODES: u64 = 64;

/// With fewer inodes than this, the database gets those that are kept for it.
const FEW_INODES: u64 = 24;
/// It is seen whether there are so many after so many bytes, and before the first write after so many milliseconds.
const LOOK_AFTER_BYTES: u64 = 128 << 10;
const LOOK_AFTER_MS: u64 = 50;

/// Their directory in the store.
const RESERVED_INODES: &str = "reserve.inodes";

/// The path of one of them, below the store.
fn inode(number: u64) -> String {
    format!("{RESERVED_INODES}/{number:02}")
}

/// The files.
#[derive(Debug)]
pub struct Reserve {
    /// `None`: of a database that is not written to.
    store: Option<Dir>,
    bytes: u64,
    /// So much was written since somebody looked whether there are inodes, and when that was, in milliseconds since `begun`. Relaxed:
    /// whoever misreads them looks once more or once less.
    written: AtomicU64,
    looked: AtomicU64,
    begun: Instant,
    state: Ranked<State, { locks::RESERVE }>,
}

#[derive(Debug, Default)]
struct State {
    kept: bool,
    /// The file system has no room to give without bytes to it.
    impossible: bool,
    kept_inodes: bool,
    given_up: Option<Instant>,
    /// When the database was last seen to write what it has in memory.
    wrote: Option<Instant>,
}

impl Reserve {
    /// The file of a store, which may be there from before; it is to have so many bytes. One that has no room on the disk,
    /// because whoever copied the store left it out or a crash came before, is made anew.
    pub fn new(store: &Dir, bytes: u64) -> Self {
        let kept = store.stat(RESERVE).is_ok_and(|file| file.is_file() && file.blocks() * 512 >= bytes);
        let kept_inodes = (0..INODES).all(|n| store.stat(inode(n)).is_ok());
        Self::of(Some(store.clone()), bytes, State { kept, kept_inodes, ..State::default() })
    }

    /// Of a database that is not written to.
    pub fn none() -> Self {
        Self::of(None, 0, State { impossible: true, ..State::default() })
    }

    fn of(store: Option<Dir>, bytes: u64, state: State) -> Self {
        let (written, looked, begun) = (AtomicU64::new(0), AtomicU64::new(0), Instant::now());
        Self { store, bytes, written, looked, begun, state: Ranked::new(state) }
    }

    /// The database is about to write so many bytes: gives the inodes up when the disk has hardly any others.
    ///
    /// When there is none for a new log, RocksDB stops for good and does not go on when it gets one, as it does after any other file that
    /// it could not make. So they are given up before. It needs a new log after some megabytes; and between two looks it writes
    /// little, and not much time goes by.
    pub fn before_write(&self, bytes: u64) {
        let Some(store) = &self.store else { return };
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let written = self.written.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if written < LOOK_AFTER_BYTES && now - self.looked.load(Ordering::Relaxed).min(now) < LOOK_AFTER_MS {
            return;
        }
        self.written.store(0, Ordering::Relaxed);
        self.looked.store(now, Ordering::Relaxed);
        let Ok(disk) = rustix::fs::statvfs(store.path()) else { return };
        if disk.f_files > 0 && disk.f_favail < FEW_INODES {
            let mut state = self.state.lock();
            if std::mem::take(&mut state.kept_inodes) && self.remove_inodes() {
                tracing::warn!("the disk has no inodes left: the database gets those that were kept for it");
            }
        }
    }

    /// The room that it keeps now, in bytes.
    pub fn kept(&self) -> u64 {
        if self.state.lock().kept { self.bytes } else { 0 }
    }

    /// The inodes that it keeps now.
    pub fn kept_inodes(&self) -> u64 {
        if self.state.lock().kept_inodes { INODES } else { 0 }
    }

    /// Makes the empty files when they are not there and there are inodes for them twice. `free`: those of the disk that are not
    /// wanted for anything else.
    pub fn keep_inodes(&self, free: u64) {
        let mut state = self.state.lock();
        let Some(store) = &self.store else { return };
        if state.kept_inodes || free / 2 < INODES {
            return;
        }
        let made = store
            .make_or_open_dir(RESERVED_INODES)
            .and_then(|_| (0..INODES).try_for_each(|n| store.file_to_keep(inode(n)).map(drop)));
        match made {
            Ok(()) => state.kept_inodes = true,
            Err(error) => {
                tracing::debug!(%error, "no inodes are kept for the database");
                self.remove_inodes();
            }
        }
    }

    fn remove_inodes(&self) -> bool {
        // By name, not by walking: nothing else in there is mqfs's to remove.
        let Some(store) = &self.store else { return false };
        (0..INODES).filter(|n| store.remove(inode(*n)).is_ok()).count() > 0
    }

    /// Makes it when it is not there, there is room for it twice, and the file system can. `free`: the room on the disk that is
    /// not wanted for anything else.
    pub fn keep(&self, free: u64) {
        let mut state = self.state.lock();
        if state.kept || state.impossible || free / 2 < self.bytes {
            return;
        }
        let Some(store) = &self.store else { return };
        let kept = store.file_to_keep(RESERVE).and_then(|file| {
            file.set_len(0)?;
            Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, self.bytes)?)
        });
        match kept {
            Ok(()) => (state.kept, state.given_up, state.wrote) = (true, None, None),
            Err(error) => {
                state.impossible = error.raw_os_error() != Some(libc::ENOSPC);
                tracing::debug!(%error, "no room is kept for the database");
                let _ = store.remove(RESERVE);
            }
        }
    }

    /// Gives the room back to the disk, bytes and inodes, as nobody says which of them it is that there are none of; tells whether
    /// there was any.
    pub fn give_up(&self) -> bool {
        let mut state = self.state.lock();
        let removed = || self.store.as_ref().is_some_and(|store| store.remove(RESERVE).is_ok());
        let bytes = std::mem::take(&mut state.kept) && removed();
        let inodes = std::mem::take(&mut state.kept_inodes) && self.remove_inodes();
        let gone = bytes || inodes;
        if gone {
            state.given_up = Some(Instant::now());
        }
        gone
    }

    /// Whether it was given up a moment ago, so that what failed for want of room is worth another try. `writing`: whether the
    /// database is writing what it has in memory.
    pub fn given_up_lately(&self, writing: impl FnOnce() -> bool) -> bool {
        let Some(since) = self.state.lock().given_up.map(|at| at.elapsed()) else { return false };
        // Asked with no lock held: RocksDB may be calling `give_up`, with one of its own.
        let now = (since < LATELY && writing()).then(Instant::now);
        let writes = {
            let mut state = self.state.lock();
            state.wrote = now.or(state.wrote);
            state.wrote.is_some_and(|at| at.elapsed() < BETWEEN)
        };
        // RocksDB does not even try with less than one of its buffers free (SstFileManagerImpl::ClearError); here are three.
        let may_try = || self.free().is_some_and(|free| free >= self.bytes / 3);
        since < AT_ONCE || since < LATELY && (writes || may_try())
    }

    /// The room on its disk, in bytes.
    fn free(&self) -> Option<u64> {
        let disk = rustix::fs::fstatvfs(self.store.as_ref()?).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use super::super::beneath::Trust;
    use super::*;

    #[test]
    fn it_is_kept_where_there_is_room_and_given_up_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Dir::open(dir.path(), Trust::Own).unwrap();
        let reserve = Reserve::new(&store, 1 << 20);
        reserve.keep(1 << 20);
        assert_eq!((reserve.kept(), reserve.given_up_lately(|| true)), (0, false), "there is no more room than that");
        reserve.keep(1 << 30);
        assert_eq!(reserve.kept(), 1 << 20);
        assert_eq!(Reserve::new(&store, 1 << 20).kept(), 1 << 20, "from before");
        assert!(reserve.give_up() && reserve.given_up_lately(|| false) && !reserve.give_up());
        assert!(reserve.kept() == 0 && !dir.path().join("reserve").exists());
        std::fs::File::create(dir.path().join("reserve")).unwrap().set_len(1 << 20).unwrap();
        let hole = Reserve::new(&store, 1 << 20);
        assert_eq!(hole.kept(), 0, "it has no room to give");
        hole.keep(1 << 30);
        assert!(hole.kept() > 0 && Reserve::new(&store, 1 << 20).kept() > 0);
    }

    #[test]
    fn inodes_are_kept_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let store = Dir::open(dir.path(), Trust::Own).unwrap();
        let reserve = Reserve::new(&store, 1 << 20);
        let files = || std::fs::read_dir(dir.path().join("reserve.inodes")).map_or(0, Iterator::count) as u64;
        reserve.keep_inodes(INODES);
        assert_eq!((reserve.kept_inodes(), files()), (0, 0), "there are no more than these");
        reserve.keep_inodes(2 * INODES);
        assert_eq!((reserve.kept_inodes(), files()), (INODES, INODES));
        let reserve = Reserve::new(&store, 1 << 20);
        assert_eq!(reserve.kept_inodes(), INODES, "from before");
        assert!(reserve.give_up() && !reserve.give_up());
        assert_eq!((reserve.kept_inodes(), files()), (0, 0));
        Reserve::none().keep_inodes(u64::MAX);
    }
}
