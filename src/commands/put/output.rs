//! What a command prints, which counts only when the command has succeeded.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::super::interrupt;

/// A signal may come just before a wait begins; so none is longer than this.
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A command that runs, and its standard output. It is read to its end only when the command has exited with 0. Dropped before
/// that, the command is told to end.
pub struct Output {
    child: Child,
    /// Readable when the command has ended.
    pidfd: OwnedFd,
    out: ChildStdout,
    /// The command has exited with 0.
    succeeded: bool,
    /// Nobody has the other end of `out` any more.
    ended: bool,
}

impl Output {
    /// Starts it. It has our standard input and error, and is in our process group: Ctrl-C at a terminal tells both.
    pub fn of(words: &[OsString]) -> io::Result<Output> {
        let mut child = Command::new(&words[0]).args(&words[1..]).stdout(Stdio::piped()).spawn()?;
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        match (pidfd, child.stdout.take()) {
            (Ok(pidfd), Some(out)) => Ok(Output { child, pidfd, out, succeeded: false, ended: false }),
            (pidfd, _) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(pidfd.err().map_or(io::ErrorKind::BrokenPipe.into(), io::Error::from))
            }
        }
    }

    /// Waits until there are bytes, or the command has ended; tells which.
    fn wait(&self) -> io::Result<(bool, bool)> {
        let mut polled = [PollFd::new(&self.out, PollFlags::IN), PollFd::new(&self.pidfd, PollFlags::IN)];
        let waits_for = match (self.ended, self.succeeded) {
            (false, false) => &mut polled[..],
            (false, true) => &mut polled[..1],
            (true, _) => &mut polled[1..],
        };
        rustix::event::poll(waits_for, Some(&LOOK))?;
        let ready = polled.map(|polled| !polled.revents().is_empty());
        Ok((ready[0], ready[1]))
    }
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !(self.ended && self.succeeded) {
            if interrupt::told() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let (readable, over) = self.wait()?;
            if over && !self.succeeded {
                let status = self.child.wait()?;
                if !status.success() {
                    return Err(io::Error::other(describe(status)));
                }
                self.succeeded = true;
            }
            if readable && !self.ended {
                let length = self.out.read(buffer)?;
                if length > 0 {
                    return Ok(length);
                }
                self.ended = true;
            }
        }
        Ok(0)
    }
}

impl Drop for Output {
    /// What it goes on writing is nobody's. When a signal told us to end, it is passed on; a second one ends the wait.
    fn drop(&mut self) {
        if self.succeeded || matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let signal = interrupt::signal().unwrap_or(Signal::TERM);
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
        let ends = rustix::event::poll(&mut [PollFd::new(&self.pidfd.as_fd(), PollFlags::IN)], None);
        if ends != Err(Errno::INTR) {
            let _ = self.child.wait();
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}, nothing is enqueued"),
        (None, Some(signal)) => format!("killed by signal {signal}, nothing is enqueued"),
        (None, None) => format!("{status}, nothing is enqueued"),
    }
}
