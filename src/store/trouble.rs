//! What becomes of the database when a write of its own fails.
//!
//! RocksDB then writes nothing more. If the disk was full, it goes on by itself when there is room: it looks at once and then every
//! five seconds, writes what it has in memory to new files, and begins a new log. After any other failure of the disk it
//! does not know what is on it, and stops until it is opened again.
//!
//! A log whose last write failed cannot be synced, and RocksDB takes the attempt for a failure of the disk. It says nothing
//! new, and would make of a full disk the end of all writing: so it does not count.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::locks::{self, Ranked};

use super::listener::{COMPACTION, Verdict};
use super::reserve::Reserve;

/// What RocksDB says of a file whose last write failed.
const ECHO: &str = "Writer has previous error";

/// Watches over one database.
pub struct Trouble {
    reserve: Arc<Reserve>,
    /// Only for the log.
    told: Ranked<Told, { locks::TROUBLE }>,
    /// Whether `told` is anything but [`Told::Nothing`].
    any: AtomicBool,
}

/// What the log tells of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    /// The database was given room.
    Given,
    /// It has stopped.
    Stopped,
}

impl Trouble {
    /// Of a database for which that room is kept.
    pub fn new(reserve: Arc<Reserve>) -> Self {
        Self { reserve, told: Ranked::new(Told::Nothing), any: AtomicBool::new(false) }
    }

    /// RocksDB met an error.
    pub fn met(&self, reason: u32, text: &str) -> Verdict {
        if is_echo(text) {
            return Verdict::Nothing;
        }
        let full = matches!(of_text(text), Error::NoSpace);
        if full && reason == COMPACTION {
            return Verdict::Error; // it is put off
        }
        let mut told = self.told.lock();
        self.any.store(true, Ordering::Relaxed);
        if full && self.reserve.give_up() {
            *told = Told::Given;
            tracing::warn!("the disk is full: the database gets the room that was kept for it");
        } else if full {
            drop(told);
            self.stays();
        } else {
            *told = Told::Stopped;
            tracing::error!(
                error = text,
                "the database failed: nothing is written any more; unmount, and mount again when the cause is gone"
            );
        }
        Verdict::Error
    }

    /// The disk is full, and nothing helps.
    pub fn stays(&self) {
        let mut told = self.told.lock();
        self.any.store(true, Ordering::Relaxed);
        if std::mem::replace(&mut *told, Told::Stopped) != Told::Stopped {
            tracing::error!("the disk is full: nothing is written until there is room");
        }
    }

    /// The database is about to write so many bytes.
    pub fn before_write(&self, bytes: usize) {
        self.reserve.before_write(bytes as u64);
    }

    /// Whether the database had stopped when it was last seen.
    pub fn has_stopped(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// A write succeeded.
    pub fn wrote(&self) {
        if self.any.load(Ordering::Relaxed) {
            let mut told = self.told.lock();
            self.any.store(false, Ordering::Relaxed);
            if std::mem::replace(&mut *told, Told::Nothing) != Told::Nothing {
                tracing::info!("the database writes again");
            }
        }
    }

    /// Whether what failed for want of room is worth another try; see [`Reserve::given_up_lately`].
    pub fn may_be_over(&self, writing: impl FnOnce() -> bool) -> bool {
        self.reserve.given_up_lately(writing)
    }
}

/// Whether an error of RocksDB's only says that there was one before.
pub fn is_echo(text: &str) -> bool {
    text.contains(ECHO)
}

/// An error of RocksDB's, which gives a text only: so the system's words tell what it was.
pub fn of_text(text: &str) -> Error {
    if text.contains("No space left on device") || text.contains("Disk quota exceeded") {
        Error::NoSpace
    } else if text.contains("Read-only file system") {
        Error::StoreReadOnly
    } else if text.contains("Too many open files") {
        Error::TooManyOpen
    } else {
        Error::Io(std::io::Error::other(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_system_are_known() {
        let text = |errno: i32| format!("IO error: {}: While appending", words(errno));
        assert!(matches!(of_text(&text(libc::ENOSPC)), Error::NoSpace));
        assert!(matches!(of_text(&text(libc::EDQUOT)), Error::NoSpace));
        assert!(matches!(of_text(&text(libc::EROFS)), Error::StoreReadOnly));
        assert!(matches!(of_text(&text(libc::EMFILE)), Error::TooManyOpen));
        assert!(matches!(of_text(&text(libc::ENFILE)), Error::TooManyOpen));
        assert!(matches!(of_text(&text(libc::EIO)), Error::Io(_)));
    }

    /// As strerror(3) has them.
    fn words(errno: i32) -> String {
        let text = std::io::Error::from_raw_os_error(errno).to_string();
        text.split(" (os error").next().unwrap().to_owned()
    }
}
