//! A command that runs on a message, as its worker sees it: a guard, and the line to it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::panic::AssertUnwindSafe;

use super::guard::Guard;
use super::program::Program;
use super::queue::Queue;
use super::relay::Sinks;
use super::report::{Line, Order, Report};
use super::source::Claim;
use crate::cli::ConsumeArgs;

/// A command that runs.
pub struct Job {
    /// What the message is called in `.mq/claimed`.
    pub name: OsString,
    guard: Line,
    /// What claimed the message. The guard holds the claim as well as soon as it has opened the message; both do to the end.
    _answer: File,
}

impl Job {
    /// Starts a guard, which starts the command.
    pub fn start(
        options: &ConsumeArgs,
        program: &Program,
        queue: &mut Queue,
        claim: Claim,
        sinks: Sinks,
    ) -> Result<Job, (Claim, io::Error)> {
        let (ours, theirs) = match Line::pair() {
            Ok(ends) => ends,
            Err(error) => return Err((claim, error)),
        };
        // SAFETY: a worker has one thread, so what is copied is whole, and the copy may do whatever its original might.
        match unsafe { libc::fork() } {
            -1 => Err((claim, io::Error::last_os_error())),
            0 => {
                let name = &claim.name;
                let guard = Guard { options, program, queue, name, worker: theirs, sinks };
                // Not to return into the worker's work, not even by a panic.
                let ended = std::panic::catch_unwind(AssertUnwindSafe(move || be(guard)));
                // SAFETY: a call without pointers.
                unsafe { libc::_exit(i32::from(ended.is_err())) }
            }
            _ => Ok(Job { name: claim.name, guard: ours, _answer: claim.answer }),
        }
    }

    /// Readable when there is a report, or will be none.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.guard.fd()
    }

    /// How it ended, if it has; fails when the guard is gone without a word.
    pub fn reported(&self) -> io::Result<Option<Report>> {
        self.guard.reported()
    }

    /// Tells the guard to end the command.
    pub fn order(&self, order: Order) {
        self.guard.order(order);
    }
}

/// Makes this process a guard, and does its work.
fn be(guard: Guard<'_>) {
    // SAFETY: calls without pointers but for a string that lives.
    unsafe {
        // What is typed on the terminal is for the worker.
        libc::setpgid(0, 0);
        libc::prctl(libc::PR_SET_NAME, c"mqfs-guard".as_ptr());
    }
    let kept = [guard.worker.fd(), guard.queue.directory()].into_iter().chain(guard.sinks.fds());
    close_all_but(kept.map(|fd| fd.as_raw_fd()).collect());
    guard.run();
}

/// Closes the descriptors that only the worker needs: its ends of the lines to other guards, and what it is to claim by. Their
/// owners are the worker's, and are never dropped here.
fn close_all_but(mut kept: Vec<RawFd>) {
    kept.sort_unstable();
    let mut from = 3;
    for fd in kept.into_iter().chain([RawFd::MAX]) {
        if from < fd {
            // SAFETY: a call with numbers; nothing that this process uses is among them.
            unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) };
        }
        from = fd.saturating_add(1);
    }
}
