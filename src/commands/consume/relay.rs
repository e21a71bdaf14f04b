//! The output of a command: it goes where the worker's goes, and the end of it is kept.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

/// So much of the end is kept, in bytes.
const KEPT: usize = 1024;
/// So much is read without a pause from what does not end, in bytes.
const AT_ONCE: usize = 1 << 20;

/// A pipe takes so much at once, unmixed with what others write.
const AT_A_TIME: usize = 4096;
/// A line that is longer is passed on before its end, in bytes.
const LONGEST_LINE: usize = 64 * 1024;

/// Reads what a command writes, on a thread of its own, which may have to wait until it can be written on.
///
/// Whoever holds the lock reads, notes and writes what was read. So when it is free, everything that was read is noted, and what
/// the pipe does not hold any more was.
pub struct Relay {
    shared: Arc<Mutex<Shared>>,
    thread: JoinHandle<()>,
}

struct Shared {
    from: File,
    to: Sink,
    tail: Vec<u8>,
    /// What was written last is not the end of a line.
    unfinished: bool,
}

/// Where output goes.
pub enum Sink {
    /// To standard error, as it comes.
    Errors,
    /// To the worker, by whole lines, so that it mixes neither with the progress nor with the output of other commands.
    Worker {
        /// A pipe.
        pipe: File,
        /// The beginning of a line of which the end is missing.
        held: Vec<u8>,
    },
}

/// Where the output of a command goes.
pub struct Sinks {
    /// Its standard output, when that is not to be the worker's own.
    pub output: Option<Sink>,
    /// Its standard error.
    pub errors: Sink,
}

impl Sinks {
    /// The worker's own.
    pub fn own() -> Sinks {
        Sinks { output: None, errors: Sink::Errors }
    }

    /// The descriptors that they write to, besides standard error.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.output.iter().chain([&self.errors]).filter_map(|sink| match sink {
            Sink::Errors => None,
            Sink::Worker { pipe, .. } => Some(pipe.as_fd()),
        })
    }
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) {
        match self {
            // Nobody to tell when standard error is gone.
            Sink::Errors => drop(io::stderr().write_all(bytes)),
            Sink::Worker { held, .. } => {
                held.extend(bytes);
                self.pass_lines();
            }
        }
    }

    /// What comes next begins a line.
    fn end_line(&mut self) {
        match self {
            Sink::Errors => self.write(b"\n"),
            Sink::Worker { held, .. } if held.is_empty() => {}
            Sink::Worker { .. } => self.write(b"\n"),
        }
    }

    fn pass_lines(&mut self) {
        let Sink::Worker { pipe, held } = self else { return };
        let end = held.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        // What is longer than the pipe takes at once may be mixed with others'.
        let end = if held.len() > LONGEST_LINE { held.len() } else { end };
        let lines: Vec<u8> = held.drain(..end).collect();
        let mut left = &lines[..];
        while !left.is_empty() {
            let most = left.len().min(AT_A_TIME);
            let cut = left[..most].iter().rposition(|byte| *byte == b'\n').map_or(most, |at| at + 1);
            if pipe.write_all(&left[..cut]).is_err() {
                // The worker is gone.
                let rest = [left, &held[..]].concat();
                *self = Sink::Errors;
                return self.write(&rest);
            }
            left = &left[cut..];
        }
    }
}

impl Relay {
    /// A relay, and what the command is to write to.
    pub fn start(to: Sink) -> io::Result<(Relay, OwnedFd)> {
        let (from, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&from, true)?;
        let waits = from.try_clone()?;
        let shared = Arc::new(Mutex::new(Shared { from: from.into(), to, tail: Vec::new(), unfinished: false }));
        let reader = shared.clone();
        let read = move || {
            loop {
                let mut polled = [PollFd::new(&waits, PollFlags::IN)];
                match rustix::event::poll(&mut polled, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(_) => return,
                }
                if !reader.lock().pass_on(4096) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(read)?;
        Ok((Relay { shared, thread }, theirs))
    }

    /// The end of all that was written by now. `line`: what is written there next begins a line.
    pub fn tail(&self, line: bool) -> Vec<u8> {
        let mut shared = self.shared.lock();
        shared.pass_on(AT_ONCE);
        let line = line || matches!(shared.to, Sink::Worker { .. });
        if line && std::mem::take(&mut shared.unfinished) {
            shared.to.end_line();
        }
        shared.tail.clone()
    }

    /// Returns when nobody can write to it any more.
    pub fn finish(self) {
        let _ = self.thread.join();
    }
}

impl Shared {
    /// Passes on what is there, up to so much. `false` at the end.
    fn pass_on(&mut self, most: usize) -> bool {
        let (mut buffer, mut left) = ([0; 4096], most);
        while left > 0 {
            match self.from.read(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => {
                    self.note(&buffer[..length]);
                    self.to.write(&buffer[..length]);
                    left = left.saturating_sub(length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    fn note(&mut self, bytes: &[u8]) {
        self.unfinished = bytes.last() != Some(&b'\n');
        self.tail.extend(bytes);
        let extra = self.tail.len().saturating_sub(KEPT);
        self.tail.drain(..extra);
    }
}
