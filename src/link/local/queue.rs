//! A queue's directory.
//!
//! Everything goes through a descriptor of it. When the mount has gone away and is there again, it is opened anew by its path.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::super::backoff::random;
use super::super::trouble::{Kind, Trouble};

/// What the store's messages are told apart from those of other stores by.
const ORIGIN: &str = "user.link.origin";
/// A value of an attribute may have so many bytes on Linux.
pub const LONGEST_VALUE: usize = 64 * 1024;

/// An open queue.
#[derive(Debug)]
pub struct Queue {
    path: PathBuf,
    directory: OwnedFd,
    /// `.mq/claimed`: what is named from here is found without asking for the directories above it.
    claimed: OwnedFd,
}

impl Queue {
    /// Opens the queue.
    pub fn open(given: &Path) -> Result<Queue, Trouble> {
        let failed =
            |why: &dyn std::fmt::Display| Trouble::new(Kind::Queue, format_args!("{}: {why}", given.display()));
        let path = std::fs::canonicalize(given).map_err(|error| failed(&error))?;
        match open(&path) {
            Ok((directory, claimed)) => Ok(Queue { path, directory, claimed }),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(failed(&"not a queue of an mqfs mount")),
            Err(errno) => Err(failed(&io::Error::from(errno))),
        }
    }

    /// Where it was when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The directory of its claimed messages.
    pub fn claimed(&self) -> BorrowedFd<'_> {
        self.claimed.as_fd()
    }

    /// Opens what is at its path by now, if that is a queue.
    pub fn reopen(&mut self) -> io::Result<()> {
        (self.directory, self.claimed) = open(&self.path)?;
        Ok(())
    }

    /// An attribute of the queue; nothing when there is none.
    pub fn attribute(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; LONGEST_VALUE];
        match rustix::fs::fgetxattr(&self.directory, name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                Ok(Some(value))
            }
            Err(Errno::NODATA) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sets an attribute of the queue.
    pub fn set_attribute(&self, name: &str, value: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::fsetxattr(&self.directory, name, value, XattrFlags::empty())?)
    }

    /// An attribute of the queue that is text; empty when it cannot be had.
    pub fn text(&self, name: &str) -> String {
        let value = self.attribute(name).ok().flatten().unwrap_or_default();
        String::from_utf8_lossy(&value).into_owned()
    }

    /// What messages of this queue are told apart from those of others by: set once, and kept with the queue.
    pub fn origin(&self) -> io::Result<String> {
        if let Some(origin) = self.attribute(ORIGIN)? {
            return Ok(String::from_utf8_lossy(&origin).into_owned());
        }
        let origin = format!("{:016x}", random());
        match rustix::fs::fsetxattr(&self.directory, ORIGIN, origin.as_bytes(), XattrFlags::CREATE) {
            // Another link was faster.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(self.text(ORIGIN))
    }

    /// What is wrong with it, in words.
    pub fn trouble(&self, error: &io::Error) -> Trouble {
        Trouble::new(Kind::Queue, format_args!("{}: {error}", self.path.display()))
    }
}

fn open(path: &Path) -> Result<(OwnedFd, OwnedFd), Errno> {
    let directory = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::statat(&directory, ".mq/claim", rustix::fs::AtFlags::empty())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let claimed = rustix::fs::openat(&directory, ".mq/claimed", flags, Mode::empty())?;
    Ok((directory, claimed))
}
