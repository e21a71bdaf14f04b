//! A queue, as a worker uses it: claim, acknowledge, give back.
//!
//! All of it goes through a descriptor of the queue's directory, so that it works to the end when the mount is taken off
//! its mount point, or the queue is renamed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::super::exit::{Exit, Failure};
use crate::fuse::mountinfo;

/// Where claimed messages are, below a queue.
const CLAIMED: &str = ".mq/claimed/";
/// Longer than any answer of `.mq/claim`.
const LONGEST: usize = 1024;

/// An open queue.
pub struct Queue {
    path: PathBuf,
    directory: OwnedFd,
    /// An open `.mq/claim` that has claimed nothing yet.
    claim: Option<File>,
}

/// A claimed message.
pub struct Message {
    /// What it is called in `.mq/claimed`.
    pub name: OsString,
    /// Open for reading. Its lease renews itself while this is open.
    pub file: File,
}

/// What became of an attempt to claim.
pub enum Claimed {
    /// A message.
    Message(Message),
    /// One that was claimed and then could not be opened.
    Unreadable(OsString, io::Error),
    /// One that was removed since.
    Gone,
    /// Nothing is ready.
    Nothing,
}

/// Where a claimed message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// Nowhere: it is acknowledged.
    Done,
    /// Back to its place, at once.
    Ready,
    /// Back after a while.
    Delayed,
    /// To the dead letters.
    Dead,
}

impl Queue {
    /// Opens the queue, and `.mq/claim` as a proof that the caller may consume.
    pub fn open(given: &Path) -> Result<Queue, Failure> {
        let failed =
            |why: &dyn std::fmt::Display| Failure::new(Exit::Queue, format_args!("{}: {why}", given.display()));
        let path = mountinfo::resolve(given).map_err(|error| failed(&error))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOTDIR => failed(&"not a queue"),
            errno => failed(&io::Error::from(errno)),
        })?;
        let mut queue = Queue { path, directory, claim: None };
        queue.claim = Some(queue.open_claim().map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT) => failed(&"not a queue of an mqfs mount"),
            _ => failed(&error),
        })?);
        Ok(queue)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a claimed message, which it has while it is claimed.
    pub fn path_of(&self, name: &OsStr) -> PathBuf {
        self.path.join(CLAIMED).join(name)
    }

    fn open_claim(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.directory, ".mq/claim", flags, Mode::empty())?.into())
    }

    /// Claims the next message, if one is ready.
    pub fn claim(&mut self) -> io::Result<Claimed> {
        let mut claim = match self.claim.take() {
            Some(claim) => claim,
            None => self.open_claim()?,
        };
        let mut answer = Vec::with_capacity(LONGEST);
        match claim.by_ref().take(LONGEST as u64).read_to_end(&mut answer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && answer.is_empty() => {
                self.claim = Some(claim);
                return Ok(Claimed::Nothing);
            }
            read => read?,
        };
        let name = answer.strip_prefix(CLAIMED.as_bytes()).and_then(|name| name.strip_suffix(b"\n"));
        let name =
            name.ok_or_else(|| io::Error::other(format!("{:?}: not a path", String::from_utf8_lossy(&answer))))?;
        let name = OsString::from_vec(name.to_vec());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.directory, claimed(&name), flags, Mode::empty()) {
            Ok(file) => Ok(Claimed::Message(Message { name, file: file.into() })),
            Err(Errno::NOENT) => Ok(Claimed::Gone),
            Err(errno) => Ok(Claimed::Unreadable(name, errno.into())),
        }
    }

    /// Readable when something may be ready; `None` before the first [`Queue::claim`] that found nothing.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.claim.as_ref().map(File::as_fd)
    }

    /// Ends a claim. It is no failure when the message is not claimed any more: the command itself may have moved or removed
    /// it.
    pub fn put(&self, name: &OsStr, to: To) -> io::Result<()> {
        let from = claimed(name);
        let rename = |to: &str| {
            let to = [OsStr::new(to), name].into_iter().collect::<OsString>();
            rustix::fs::renameat(&self.directory, &from, &self.directory, to)
        };
        let result = match to {
            To::Done => rustix::fs::unlinkat(&self.directory, &from, AtFlags::empty()),
            To::Ready => rename(""),
            To::Delayed => rename(".mq/delayed/"),
            To::Dead => rename(".mq/dead/"),
        };
        match result {
            Err(Errno::NOENT) => Ok(()),
            result => Ok(result?),
        }
    }

    /// How many messages are ready, if the caller may know.
    pub fn ready(&self) -> Option<u64> {
        let mut value = [0; 32];
        let length = rustix::fs::fgetxattr(&self.directory, "user.mq.ready", &mut value).ok()?;
        std::str::from_utf8(&value[..length]).ok()?.parse().ok()
    }

    /// Why nothing more can be claimed.
    pub fn failure(&self, error: &io::Error) -> Failure {
        let path = self.path.display();
        match error.raw_os_error() {
            Some(libc::ENODEV | libc::ENOTCONN | libc::ECONNABORTED) => {
                Failure::new(Exit::Queue, format_args!("{path}: the mount is gone"))
            }
            Some(libc::ENOENT | libc::ESTALE) => Failure::new(Exit::Queue, format_args!("{path}: the queue is gone")),
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
                Failure::new(Exit::Queue, format_args!("{path}: {error}"))
            }
            _ => Failure::new(Exit::Failure, format_args!("{path}: {error}")),
        }
    }
}

fn claimed(name: &OsStr) -> OsString {
    [OsStr::new(CLAIMED), name].into_iter().collect()
}
