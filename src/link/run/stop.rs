//! Waiting, and being asked to end meanwhile.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

/// Signals that ask for the end, as a descriptor that tells of them.
pub struct Stop<'a> {
    signals: BorrowedFd<'a>,
    asked: u32,
    hangup_ends: bool,
    hung_up: bool,
}

impl<'a> Stop<'a> {
    /// `signals` is a non-blocking signalfd.
    pub fn new(signals: BorrowedFd<'a>) -> Stop<'a> {
        Stop { signals, asked: 0, hangup_ends: true, hung_up: false }
    }

    /// Readable when something is asked for.
    pub fn fd(&self) -> BorrowedFd<'a> {
        self.signals
    }

    /// Whether SIGHUP asks for the end, as it does unless this says otherwise; else for new settings.
    pub fn minds_hangups(&mut self, end: bool) {
        self.hangup_ends = end;
    }

    /// How often the end was asked for.
    pub fn asked(&mut self) -> u32 {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(self.signals, &mut info).is_ok_and(|length| length > 0) {
            // The number is what it begins with.
            let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            match number == libc::SIGHUP && !self.hangup_ends {
                true => self.hung_up = true,
                false => self.asked += 1,
            }
        }
        self.asked
    }

    /// Whether new settings were asked for, and not taken yet.
    pub fn is_hung_up(&self) -> bool {
        self.hung_up
    }

    /// The same, and they are taken now.
    pub fn hung_up(&mut self) -> bool {
        self.asked();
        std::mem::take(&mut self.hung_up)
    }

    /// Waits for so long, or until something is readable, or until the end is asked for.
    pub fn wait(&mut self, limit: Duration, other: Option<BorrowedFd<'_>>) -> u32 {
        self.wait_for(limit, other);
        self.asked()
    }

    /// The same; tells whether that other is readable, or broken.
    pub fn wait_for(&mut self, limit: Duration, other: Option<BorrowedFd<'_>>) -> bool {
        let mut all = vec![PollFd::from_borrowed_fd(self.signals, PollFlags::IN)];
        all.extend(other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let ends = Instant::now() + limit;
        loop {
            let left = Timespec::try_from(ends.saturating_duration_since(Instant::now())).ok();
            match rustix::event::poll(&mut all, left.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                _ => return all.get(1).is_some_and(|other| !other.revents().is_empty()),
            }
        }
    }
}
