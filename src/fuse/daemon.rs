//! Becoming a background process, and telling the one who waits how it went.
//!
//! The program forks before it makes its first thread. The child does all the work: it opens the store, mounts, and
//! reports through a pipe. The parent prints what was reported and ends with its exit code, so to the caller it looks
//! as if one process had mounted.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, RawFd};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Resource, WaitOptions, WaitStatus};

/// Which of the two processes this is after [`fork`].
#[derive(Debug)]
pub enum Side {
    /// The one that the caller started.
    Caller(Caller),
    /// The one in the background.
    Daemon(Report),
}

/// How starting the daemon went.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It works.
    Started,
    /// It reported why it does not: an exit code and a line for the user.
    Failed(u8, String),
    /// It ended without a report.
    Died(String),
}

/// The waiting process's end.
#[derive(Debug)]
pub struct Caller {
    pipe: File,
    child: Pid,
}

/// The daemon's end.
#[derive(Debug)]
pub struct Report {
    pipe: File,
}

/// Splits the process in two. The daemon has a session of its own, `/` as its directory, and of the caller's
/// descriptors only standard input, output and error (until it reports) and `keep`.
///
/// Must be called while the process has a single thread: of several, only the one that forks would go on in the child,
/// and with it whatever locks the others held.
pub fn fork(keep: &[BorrowedFd<'_>]) -> io::Result<Side> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    match fork_single_threaded()? {
        Some(child) => {
            drop(write);
            Ok(Side::Caller(Caller { pipe: read.into(), child }))
        }
        None => {
            drop(read);
            rustix::process::setsid()?;
            rustix::process::chdir("/")?;
            let kept: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).chain([write.as_raw_fd()]).collect();
            close_all_but(&kept);
            Ok(Side::Daemon(Report { pipe: write.into() }))
        }
    }
}

/// fork(2): the child's id in the parent, nothing in the child.
pub(super) fn fork_single_threaded() -> io::Result<Option<Pid>> {
    debug_assert_eq!(std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count), 1, "fork with threads");
    // SAFETY: the process has one thread, so the child is a full copy with no lock held by a thread that is not there.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        child => Ok(Pid::from_raw(child)),
    }
}

impl Caller {
    /// Waits until the daemon has reported or is gone.
    pub fn wait(mut self) -> io::Result<Outcome> {
        let mut report = Vec::new();
        self.pipe.read_to_end(&mut report)?;
        match report.split_first() {
            Some((0, _)) => Ok(Outcome::Started),
            Some((&code, line)) => Ok(Outcome::Failed(code, String::from_utf8_lossy(line).into_owned())),
            None => {
                let status = rustix::process::waitpid(Some(self.child), WaitOptions::empty())?;
                Ok(Outcome::Died(describe(status.map(|(_, status)| status))))
            }
        }
    }
}

fn describe(status: Option<WaitStatus>) -> String {
    match status {
        Some(status) if status.signaled() => {
            format!("the background process was killed by signal {}", status.terminating_signal().unwrap_or_default())
        }
        _ => "the background process ended before the mount worked".to_owned(),
    }
}

impl Report {
    /// Tells the caller that the mount works, and lets go of its standard input, output and error. An error means that
    /// the caller is gone and wants no mount any more.
    pub fn succeed(mut self) -> io::Result<()> {
        leave_standard_streams()?;
        self.pipe.write_all(&[0])
    }

    /// Tells the caller why there is no mount. `code` is its exit code and not 0.
    pub fn fail(mut self, code: u8, line: &str) -> io::Result<()> {
        self.pipe.write_all(&[code])?;
        self.pipe.write_all(line.as_bytes())
    }
}

/// Points standard input, output and error at `/dev/null`.
pub(super) fn leave_standard_streams() -> io::Result<()> {
    let null: OwnedFd = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    for number in 0..=2 {
        // SAFETY: dup2 replaces the three standard streams, which nobody owns; `null` is above them, as the standard
        // library opens /dev/null on those that the caller had closed before main runs.
        if unsafe { libc::dup2(null.as_fd().as_raw_fd(), number) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// As [`close_all_but`], by a process that stays in the foreground.
pub fn leave_to_the_caller(keep: &[BorrowedFd<'_>]) {
    close_all_but(&keep.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>());
}

/// Closes what the caller had open beyond the standard streams: a lock file, the write end of a pipe that somebody
/// waits on. The daemon must not hold such things for days.
pub(super) fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().filter_map(|&number| u32::try_from(number).ok()).collect();
    keep.sort_unstable();
    let mut from = 3;
    for number in keep.into_iter().filter(|&number| number >= 3) {
        close_range(from, number.saturating_sub(1));
        from = number + 1;
    }
    close_range(from, u32::MAX);
}

/// Kernels before 5.9 lack the call; there, what the caller left open stays open.
fn close_range(first: u32, last: u32) {
    if first <= last {
        // SAFETY: only descriptors that the caller of the program had open lie in the range: ours are all in `keep`.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}

/// What a process that serves a store wants of the system: as many open files as it is allowed, and files of its own
/// that nobody else can read.
pub fn prepare_process() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::debug!("the limit of open files stays at {:?}: {error}", limit.current);
    }
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Ends the process at once, without running what C++ libraries do at exit: threads that are still serving must not
/// find the database half destroyed.
pub fn leave(code: u8) -> ! {
    // SAFETY: _exit has no preconditions and does not return.
    unsafe { libc::_exit(code.into()) }
}
