//! Whether a claim lasts.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::queue::Queue;
use crate::error::is_mount_gone;

/// How often it is asked whether the claim lasts.
const EVERY: Duration = Duration::from_secs(1);
/// How often it is tried whether a mount that went away is there again.
const RETRY: Duration = Duration::from_millis(500);

/// What has become of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It lasts, as far as can be told.
    Held,
    /// The command, or what it has started, has ended it.
    Settled,
    /// It expired, or others have removed or moved the message, or have claimed it since.
    Lost,
    /// The mount is not there.
    Away,
}

/// Watches a claim. While this lives, and the mount, the lease renews itself.
pub struct Watch {
    message: File,
    /// The table of mounts, to learn when it changes.
    table: Option<File>,
    away: Option<Instant>,
    next: Instant,
}

impl Watch {
    /// Watches the claim of an open message.
    pub fn new(message: File) -> Watch {
        let table = File::open("/proc/self/mountinfo").ok();
        Watch { message, table, away: None, next: Instant::now() + EVERY }
    }

    /// What tells by its `PRI` that the table of mounts has changed: see [`Watch::stir`].
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.table.as_ref().map(File::as_fd)
    }

    /// The table of mounts has changed. A mount that is being taken off is asked nothing any more: it would go on to answer.
    pub fn stir(&mut self, queue: &Queue) {
        if self.away.is_none() && !queue.is_mounted() {
            self.away = Some(Instant::now());
        }
        if self.away.is_some() {
            self.next = Instant::now();
        }
    }

    /// When [`Watch::look`] is to be called.
    pub fn due(&self) -> Instant {
        self.next
    }

    /// Looks what has become of the claim of the message of that name.
    pub fn look(&mut self, queue: &mut Queue, name: &OsStr) -> Standing {
        let standing = if self.away.is_some() { self.come_back(queue, name) } else { self.ask() };
        self.next = Instant::now() + if standing == Standing::Away { RETRY } else { EVERY };
        standing
    }

    fn ask(&mut self) -> Standing {
        let ask = |attribute: &str| rustix::fs::fgetxattr(&self.message, attribute, &mut [0; 512][..]);
        match ask("user.mq.delivery") {
            Err(Errno::NOENT | Errno::STALE | Errno::NODATA) => match ask("user.mq.settled") {
                Ok(_) => Standing::Settled,
                Err(_) => Standing::Lost,
            },
            Err(errno) if is_mount_gone(&io::Error::from(errno)) => {
                self.away = Some(Instant::now());
                Standing::Away
            }
            _ => Standing::Held,
        }
    }

    /// Takes the claim up again when the mount is back.
    fn come_back(&mut self, queue: &mut Queue, name: &OsStr) -> Standing {
        if queue.reopen().is_err() {
            return Standing::Away;
        }
        match queue.open_claimed(name) {
            Ok(message) => {
                (self.message, self.away) = (message, None);
                Standing::Held
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.away = None;
                Standing::Lost
            }
            Err(_) => Standing::Away,
        }
    }

    /// The mount is gone: waits up to `patience` for it, counted from when it was missed, and while `go_on` says so. Whether it is
    /// back.
    pub fn wait_for_mount(
        &mut self,
        queue: &mut Queue,
        name: &OsStr,
        patience: Duration,
        go_on: impl Fn() -> bool,
    ) -> bool {
        let since = *self.away.get_or_insert_with(Instant::now);
        loop {
            if self.look(queue, name) != Standing::Away {
                return true;
            }
            if since.elapsed() >= patience || !go_on() {
                return false;
            }
            let pause = RETRY.min(patience.saturating_sub(since.elapsed())).max(Duration::from_millis(1));
            let mut table: Vec<PollFd<'_>> =
                self.table.iter().map(|table| PollFd::new(table, PollFlags::PRI)).collect();
            let _ = rustix::event::poll(&mut table, Timespec::try_from(pause).ok().as_ref());
        }
    }
}
