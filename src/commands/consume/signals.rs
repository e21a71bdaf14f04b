//! Signals as something to poll for: those that ask a worker for the end, and those that tell a guard of its children.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};

use crate::fuse::signals::is_ignored;

/// The signals that ask for the end. They are blocked while this lives, and told one by one.
pub struct Signals {
    file: std::fs::File,
    before: libc::sigset_t,
}

impl Signals {
    /// Takes the signals over, in this thread and those that it will make. SIGHUP is left alone where the caller ignores it,
    /// as nohup(1) does.
    pub fn block() -> io::Result<Signals> {
        // SAFETY: sigset_t is plain data, initialised by sigemptyset before it is read; all pointers are valid or null for
        // the duration of the calls; the descriptor is nobody else's.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            if !is_ignored(libc::SIGHUP) {
                libc::sigaddset(&raw mut set, libc::SIGHUP);
            }
            match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before) {
                0 => {}
                errno => return Err(io::Error::from_raw_os_error(errno)),
            }
            match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(Signals { file: std::fs::File::from_raw_fd(fd), before }),
            }
        }
    }

    /// What was blocked before: what commands are to start with.
    pub fn before(&self) -> libc::sigset_t {
        self.before
    }

    /// Readable when there is a signal.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Takes a signal, if there is one.
    pub fn take(&mut self) -> bool {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        self.file.read(&mut info).is_ok_and(|length| length > 0)
    }
}

/// Tells of children that have ended.
pub struct Children(std::fs::File);

impl Children {
    /// From now on, whatever the caller did about SIGCHLD.
    pub fn watch() -> io::Result<Children> {
        // SAFETY: as above; signal(2) takes no pointers.
        unsafe {
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGCHLD);
            match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) {
                0 => {}
                errno => return Err(io::Error::from_raw_os_error(errno)),
            }
            match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(Children(std::fs::File::from_raw_fd(fd))),
            }
        }
    }

    /// Readable when a child may have ended since [`Children::take`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Takes what it tells.
    pub fn take(&self) {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        while (&self.0).read(&mut info).is_ok_and(|length| length > 0) {}
    }

    /// From now on children that end are nobody's concern.
    pub fn forget(self) {
        ignore_children();
    }
}

/// Children that end leave nothing to be reaped.
pub fn ignore_children() {
    // SAFETY: a call without pointers.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}
