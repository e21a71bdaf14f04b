//! Waiting, and being asked to end meanwhile.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

/// Signals that ask for the end, as a descriptor that tells of them.
pub struct Stop<'a> {
    signals: BorrowedFd<'a>,
    asked: u32,
}

impl<'a> Stop<'a> {
    /// `signals` is a non-blocking signalfd.
    pub fn new(signals: BorrowedFd<'a>) -> Stop<'a> {
        Stop { signals, asked: 0 }
    }

    /// How often the end was asked for.
    pub fn asked(&mut self) -> u32 {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(self.signals, &mut info).is_ok_and(|length| length > 0) {
            self.asked += 1;
        }
        self.asked
    }

    /// Waits for so long, or until something is readable, or until the end is asked for.
    pub fn wait(&mut self, limit: Duration, other: Option<BorrowedFd<'_>>) -> u32 {
        let mut all = vec![PollFd::from_borrowed_fd(self.signals, PollFlags::IN)];
        all.extend(other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let ends = Instant::now() + limit;
        loop {
            let left = Timespec::try_from(ends.saturating_duration_since(Instant::now())).ok();
            match rustix::event::poll(&mut all, left.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                _ => return self.asked(),
            }
        }
    }
}
