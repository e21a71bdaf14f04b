//! Answers on their way to the serving thread, which alone hands entries back to the kernel.
//!
//! A completion of the kernel's runs on the thread that has handed the entry in. Were that another than the one that serves, it would be
//! woken for each request, to do nothing.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::thread::{self, ThreadId};

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use super::super::wire::answer::Carrier;

/// An answer.
#[derive(Debug)]
pub struct Answered {
    /// Of which entry.
    pub slot: usize,
    /// An errno, or 0.
    pub errno: i32,
    /// What follows.
    pub bytes: Vec<u8>,
}

/// Answers that are not handed in yet.
#[derive(Debug)]
pub struct Answers {
    waiting: Mutex<Vec<Answered>>,
    /// Written to when an answer comes from another thread than the one that serves.
    event: OwnedFd,
    serving: OnceLock<ThreadId>,
}

impl Answers {
    /// None yet.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { waiting: Mutex::default(), event, serving: OnceLock::new() })
    }

    /// This thread serves.
    pub fn serve_here(&self) {
        self.serving.get_or_init(|| thread::current().id());
    }

    /// That one was not the last to be answered: it is not answered yet, or another was meanwhile.
    pub fn lacks(&self, slot: usize) -> bool {
        self.waiting.lock().last().is_none_or(|answered| answered.slot != slot)
    }

    /// Those that came since.
    pub fn take(&self) -> Vec<Answered> {
        std::mem::take(&mut *self.waiting.lock())
    }

    /// What other threads wrote to the event is read: whoever looks for answers after this sees theirs.
    pub fn seen(&self) {
        let _ = rustix::io::read(&self.event, &mut [0; 8]); // it may be empty
    }
}

impl AsRawFd for Answers {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

impl Carrier for Answers {
    fn carry(&self, token: u64, errno: i32, parts: &[&[u8]]) -> io::Result<()> {
        let answered = Answered { slot: token as usize, errno, bytes: parts.concat() };
        let first = {
            let mut waiting = self.waiting.lock();
            waiting.push(answered);
            waiting.len() == 1
        };
        // Whoever was first has written, or is about to; the serving thread looks by itself before it sleeps.
        if first && self.serving.get() != Some(&thread::current().id()) {
            rustix::io::write(&self.event, &1_u64.to_ne_bytes())?;
        }
        Ok(())
    }
}
