//! The order of locks: while one is held, only those further down this list may be taken. So no two threads wait for each other.
//!
//! | rank | what is behind the lock |
//! |---|---|
//! | [`RELEASES`] | one last close after the other, and none when the view is closed |
//! | [`SNAPSHOT`] | the thread that makes a snapshot, until it is removed |
//! | [`BACKUP`] | the backup that is being made |
//! | [`FILE`] | one message or one stream of lines that is being written, or one configuration: its bytes and its progress |
//! | [`DRAFTS`] | drafts that are open or being published |
//! | [`BATCHES`] | batches that are being enqueued |
//! | [`DRAFT`] | the bytes of one draft that is open |
//! | [`NAMES`] | bare names |
//! | [`TAKEN`] | what was taken through one open file, and the claim of one reader |
//! | [`AGAIN`] | messages that are written anew by an open file on another |
//! | [`WRITERS`] | the table of messages that are being written, not those themselves |
//! | [`HANDLES`] | the table of open files |
//! | [`REPLACED`] | messages that were replaced lately |
//! | [`WORKERS`] | processes that were looked at lately |
//! | [`LOOK`] | the one who asks whether a process lives |
//! | [`STUCK`] | processes at which somebody looks in vain |
//! | [`STORE`] | what the store remembers: every change of the database is computed and applied under it |
//! | [`READERS`] | body files that are open for reading |
//! | [`SPACE`] | the free space, as last seen |
//! | [`TROUBLE`] | what the log was told of a database that failed; RocksDB may call while it holds locks of its own |
//! | [`RESERVE`] | the file that keeps room for the database |
//!
//! All others are leaves: nothing that is handed in is called while one of them is held, and nothing else is locked but a budget of
//! memory, to which what is dropped gives back. They are plain mutexes. Those are, in the view, the directories of `.mq/with`, deliveries that the kernel knows,
//! the table of those who wait (which so may be locked under any other), the arrivals, threads that were sent back, texts that
//! were told lately, batches that are staged, tasks that are handed over, lists of threads, budgets; in the store, the deadlines, blocks of bodies that were read lately,
//! removals of body files, bodies that could not be synced, what is handed to the sync thread, what was noted of its syncs,
//! what was purged before, when watched messages left; and the alarm.
//!
//! In unit tests and in builds with debug assertions each is checked when it is taken: the whole suite runs so with
//! `CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true`.

/// The last closes.
pub const RELEASES: u8 = 5;
/// The thread that makes a snapshot.
pub const SNAPSHOT: u8 = 10;
/// The backup that is being made.
pub const BACKUP: u8 = 20;
/// One file that is being written.
pub const FILE: u8 = 30;
/// Drafts in use.
pub const DRAFTS: u8 = 40;
/// Batches that are being enqueued.
pub const BATCHES: u8 = 50;
/// The bytes of one draft that is open.
pub const DRAFT: u8 = 55;
/// Bare names.
pub const NAMES: u8 = 60;
/// What was taken through one open file.
pub const TAKEN: u8 = 70;
/// Messages that are written anew by an open file on another.
pub const AGAIN: u8 = 75;
/// The table of messages that are being written.
pub const WRITERS: u8 = 80;
/// The table of open files.
pub const HANDLES: u8 = 90;
/// Messages that were replaced lately.
pub const REPLACED: u8 = 100;
/// Processes that were looked at lately.
pub const WORKERS: u8 = 110;
/// Who asks whether a process lives.
pub const LOOK: u8 = 120;
/// Processes at which somebody looks in vain.
pub const STUCK: u8 = 130;
/// What the store remembers.
pub const STORE: u8 = 140;
/// Body files that are open for reading.
pub const READERS: u8 = 150;
/// The free space.
pub const SPACE: u8 = 160;
/// What the log was told of a database that failed.
pub const TROUBLE: u8 = 170;
/// The file that keeps room.
pub const RESERVE: u8 = 180;

/// A mutex with a place in the order.
#[derive(Debug, Default)]
pub struct Ranked<T, const RANK: u8>(parking_lot::Mutex<T>);

impl<T, const RANK: u8> Ranked<T, RANK> {
    /// With that behind it.
    pub const fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    /// Waits for it.
    #[cfg_attr(any(test, debug_assertions), track_caller)]
    pub fn lock(&self) -> Guard<'_, T> {
        checked::take(RANK, &self.0)
    }
}

impl<T, const RANK: u8> From<T> for Ranked<T, RANK> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

#[cfg(test)]
pub use checked::holds;
pub use checked::{Guard, assert_free};

#[cfg(not(any(test, debug_assertions)))]
mod checked {
    use parking_lot::Mutex;

    /// Held, until it is dropped.
    pub type Guard<'a, T> = parking_lot::MutexGuard<'a, T>;

    pub fn take<T>(_: u8, lock: &Mutex<T>) -> Guard<'_, T> {
        lock.lock()
    }

    /// Where locks are checked: this thread does not hold the lock of that rank, because others would wait for what it does.
    #[inline(always)]
    pub fn assert_free(_: u8) {}
}

#[cfg(any(test, debug_assertions))]
mod checked {
    use std::cell::RefCell;
    use std::ops::{Deref, DerefMut};

    use parking_lot::{Mutex, MutexGuard};

    thread_local! {
        /// The ranks of what this thread holds.
        static HELD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }

    /// Held, until it is dropped.
    pub struct Guard<'a, T> {
        guard: MutexGuard<'a, T>,
        rank: u8,
    }

    #[track_caller]
    pub fn take<T>(rank: u8, lock: &Mutex<T>) -> Guard<'_, T> {
        let highest = HELD.with_borrow(|held| held.iter().copied().max());
        assert!(highest < Some(rank), "bug: a lock of rank {rank} under one of rank {highest:?}");
        let guard = lock.lock();
        HELD.with_borrow_mut(|held| held.push(rank));
        Guard { guard, rank }
    }

    /// Whether this thread holds the lock of that rank.
    #[cfg(test)]
    pub fn holds(rank: u8) -> bool {
        HELD.with_borrow(|held| held.contains(&rank))
    }

    /// Asserts that this thread does not hold the lock of that rank, because others would wait for what it does.
    #[track_caller]
    pub fn assert_free(rank: u8) {
        assert!(!HELD.with_borrow(|held| held.contains(&rank)), "bug: long work under the lock of rank {rank}");
    }

    impl<T> Drop for Guard<'_, T> {
        fn drop(&mut self) {
            HELD.with_borrow_mut(|held| {
                // They need not be dropped in the order in which they were taken.
                if let Some(at) = held.iter().rposition(|rank| *rank == self.rank) {
                    held.remove(at);
                }
            });
        }
    }

    impl<T> Deref for Guard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.guard
        }
    }

    impl<T> DerefMut for Guard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.guard
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_kept_or_it_is_told() {
        let (outer, inner) = (Ranked::<u8, FILE>::new(1), Ranked::<u8, STORE>::new(2));
        let (held, other) = (outer.lock(), inner.lock());
        assert_eq!((*held, *other), (1, 2));
        drop(held);
        for rank in [FILE, STORE] {
            let again = std::panic::catch_unwind(|| drop(checked::take(rank, &parking_lot::Mutex::new(()))));
            assert!(again.is_err(), "{rank}");
        }
        assert_free(FILE);
        assert!(std::panic::catch_unwind(|| assert_free(STORE)).is_err());
        drop(other);
        assert_free(STORE);
        drop(outer.lock());
    }
}
