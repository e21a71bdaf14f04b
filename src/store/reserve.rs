//! A file that holds nothing but room on the disk: RocksDB gets it when another program has taken the rest.
//!
//! A database that meets a full disk stops until there is room to write all that it has in memory. But the way to make room
//! is to consume messages, and that is a write. So the file is as long as what the database may have in memory.

use std::os::unix::fs::MetadataExt;
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

/// The file.
pub struct Reserve {
    /// `None`: of a database that is not written to.
    store: Option<Dir>,
    bytes: u64,
    state: Ranked<State, { locks::RESERVE }>,
}

#[derive(Default)]
struct State {
    kept: bool,
    /// The file system has no room to give without bytes to it.
    impossible: bool,
    given_up: Option<Instant>,
    /// When the database was last seen to write what it has in memory.
    wrote: Option<Instant>,
}

impl Reserve {
    /// The file of a store, which may be there from before; it is to have so many bytes. One that has no room on the disk,
    /// because whoever copied the store left it out or a crash came before, is made anew.
    pub fn new(store: &Dir, bytes: u64) -> Self {
        let kept = store.stat(RESERVE).is_ok_and(|file| file.is_file() && file.blocks() * 512 >= bytes);
        Self { store: Some(store.clone()), bytes, state: Ranked::new(State { kept, ..State::default() }) }
    }

    /// Of a database that is not written to.
    pub fn none() -> Self {
        Self { store: None, bytes: 0, state: Ranked::new(State { impossible: true, ..State::default() }) }
    }

    /// The room that it keeps now, in bytes.
    pub fn kept(&self) -> u64 {
        if self.state.lock().kept { self.bytes } else { 0 }
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
            Ok(()) => *state = State { kept: true, ..State::default() },
            Err(error) => {
                state.impossible = error.raw_os_error() != Some(libc::ENOSPC);
                tracing::debug!(%error, "no room is kept for the database");
                let _ = store.remove(RESERVE);
            }
        }
    }

    /// Gives the room back to the disk; tells whether there was any.
    pub fn give_up(&self) -> bool {
        let mut state = self.state.lock();
        let removed = || self.store.as_ref().is_some_and(|store| store.remove(RESERVE).is_ok());
        let gone = std::mem::take(&mut state.kept) && removed();
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
}
