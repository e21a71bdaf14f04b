//! Questions to a mount that may never be answered: its server may have been stopped, or be stuck.
//!
//! Who waits for an answer that the server has begun to work on cannot be killed, and a process ends when its last thread has.
//! So each question is a process's of its own, which is left behind, to be killed as soon as the kernel lets it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions};

use super::daemon;

/// A question that was asked.
#[derive(Debug)]
pub struct Asked {
    pipe: File,
    asker: Pid,
    /// What was answered so far: an errno of four bytes, 0 for none, and the bytes.
    answer: Vec<u8>,
}

impl Asked {
    /// Asks. Like [`daemon::fork`], to be called while the process has a single thread.
    pub fn new(question: impl FnOnce() -> io::Result<Vec<u8>>) -> io::Result<Asked> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        if let Some(asker) = daemon::fork_single_threaded()? {
            return Ok(Asked { pipe: read.into(), asker, answer: Vec::new() });
        }
        drop(read);
        // Whoever reads what the command says is not to wait for the end of this process.
        let _ = daemon::leave_standard_streams();
        let (errno, bytes) = match question() {
            Ok(bytes) => (0, bytes),
            Err(error) => (error.raw_os_error().unwrap_or(libc::EIO), Vec::new()),
        };
        // Nobody else would be told that this fails.
        let mut pipe = File::from(write);
        let _ = pipe.write_all(&errno.to_ne_bytes()).and_then(|()| pipe.write_all(&bytes));
        daemon::leave(0)
    }

    /// The answer; `None` when there is none until then, and the same may be asked again.
    pub fn answer(&mut self, until: Instant) -> Option<io::Result<Vec<u8>>> {
        loop {
            match self.read_some(until) {
                Ok(None) => return None,
                Ok(Some(0)) => break,
                Ok(Some(_)) => {}
                Err(error) => return Some(Err(error)),
            }
        }
        let Some((errno, bytes)) = self.answer.split_first_chunk() else {
            return Some(Err(io::Error::other("the question was not asked to its end")));
        };
        Some(match i32::from_ne_bytes(*errno) {
            0 => Ok(bytes.to_vec()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        })
    }

    /// How many bytes came, 0 at the end; `None` when none came until then.
    fn read_some(&mut self, until: Instant) -> io::Result<Option<usize>> {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut [PollFd::new(&self.pipe, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(None),
            Err(Errno::INTR) => return self.read_some(until),
            polled => polled?,
        };
        let mut some = [0; 1 << 16];
        let length = self.pipe.read(&mut some)?;
        self.answer.extend(&some[..length]);
        Ok(Some(length))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // Both fail when it has ended, and nothing is waited for when it cannot.
        let _ = rustix::process::kill_process(self.asker, Signal::KILL);
        let _ = rustix::process::waitpid(Some(self.asker), WaitOptions::NOHANG);
    }
}

/// Asks, and waits for the answer; `None` when there is none until then.
pub fn ask(until: Instant, question: impl FnOnce() -> io::Result<Vec<u8>>) -> Option<io::Result<Vec<u8>>> {
    match Asked::new(question) {
        Ok(mut asked) => asked.answer(until),
        Err(error) => Some(Err(error)),
    }
}
