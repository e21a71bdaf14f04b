//! A queue, as a worker uses it: what is claimed is opened, acknowledged, given back.
//!
//! All of it goes through a descriptor of the queue's directory, so that it works to the end when the mount is taken off
//! its mount point, or the queue is renamed. When the mount is there again, the directory is opened anew by its path.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::super::exit::{Exit, Failure};
use crate::error::Refusal;
use crate::fuse::mountinfo;
use crate::queue::duration;

/// Where claimed messages are, below a queue.
pub const CLAIMED: &str = ".mq/claimed/";

/// An open queue.
pub struct Queue {
    path: PathBuf,
    directory: OwnedFd,
    /// The device number of its mount.
    device: u64,
}

/// How a claim ends without the work being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nack {
    /// The message comes back when its queue says.
    Later,
    /// It comes back after so long.
    In(Duration),
    /// It comes back at once, and the delivery does not count.
    Uncounted,
    /// It becomes a dead letter.
    Dead,
}

impl Nack {
    fn word(self) -> String {
        match self {
            Nack::Later => "later".to_owned(),
            Nack::In(delay) => duration::format(delay),
            Nack::Uncounted => "uncounted".to_owned(),
            Nack::Dead => "dead".to_owned(),
        }
    }
}

impl Queue {
    /// Opens the queue.
    pub fn open(given: &Path) -> Result<Queue, Failure> {
        let failed =
            |why: &dyn std::fmt::Display| Failure::new(Exit::Queue, format_args!("{}: {why}", given.display()));
        let path = mountinfo::resolve(given).map_err(|error| failed(&error))?;
        let directory = open_directory(&path).map_err(|errno| match errno {
            Errno::NOTDIR => failed(&"not a queue"),
            errno => failed(&io::Error::from(errno)),
        })?;
        let device = rustix::fs::fstat(&directory).map_err(|errno| failed(&io::Error::from(errno)))?.st_dev;
        Ok(Queue { path, directory, device })
    }

    /// Where it was when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a claimed message, which it has while it is claimed.
    pub fn path_of(&self, name: &OsStr) -> PathBuf {
        self.path.join(CLAIMED).join(name)
    }

    /// The open directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Whether its mount is to be seen anywhere; also when that cannot be told.
    pub fn is_mounted(&self) -> bool {
        let (major, minor) = (rustix::fs::major(self.device), rustix::fs::minor(self.device));
        mountinfo::is_device_mounted(&format!("{major}:{minor}")).unwrap_or(true)
    }

    /// Opens what is at its path by now, if that is a queue.
    pub fn reopen(&mut self) -> io::Result<()> {
        let directory = open_directory(&self.path)?;
        rustix::fs::statat(&directory, ".mq/claim", AtFlags::empty())?;
        self.device = rustix::fs::fstat(&directory)?.st_dev;
        self.directory = directory;
        Ok(())
    }

    /// Opens a claimed message for reading. Its lease renews itself while that is open.
    pub fn open_claimed(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.directory, claimed(name), flags, Mode::empty())?.into())
    }

    /// Acknowledges a claimed message.
    pub fn ack(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.directory, claimed(name), AtFlags::empty())?)
    }

    /// Gives a claimed message back, or up; what is `said` is kept with it.
    pub fn nack(&self, name: &OsStr, how: Nack, said: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&self.directory, ".mq/nack", flags, Mode::empty())?);
        // One write: it is one command. A name with a newline has none in what `.mq/claim` answers.
        file.write_all(&[how.word().as_bytes(), b" ", name.as_bytes(), b"\n", said].concat())
    }

    /// An attribute of a message of the queue, in whatever state it is.
    pub fn attribute(&self, seq: &str, attribute: &str) -> io::Result<String> {
        let path = format!("/proc/self/fd/{}/.mq/peek/{seq}", self.directory.as_raw_fd());
        let mut value = [0; 256];
        let length = rustix::fs::getxattr(path, attribute, &mut value)?;
        Ok(String::from_utf8_lossy(&value[..length]).into_owned())
    }

    /// An attribute of the queue itself; empty when it cannot be had.
    pub fn own_attribute(&self, attribute: &str) -> String {
        let mut value = [0; 4096];
        let length = rustix::fs::fgetxattr(&self.directory, attribute, &mut value).unwrap_or(0);
        String::from_utf8_lossy(&value[..length]).into_owned()
    }

    /// Why nothing more can be done with it.
    pub fn failure(&self, error: &io::Error) -> Failure {
        let path = self.path.display();
        match Refusal::of(error) {
            Refusal::MountGone => Failure::new(Exit::Queue, format_args!("{path}: the mount is gone")),
            Refusal::NotFound | Refusal::Stale => Failure::new(Exit::Queue, format_args!("{path}: the queue is gone")),
            Refusal::Denied | Refusal::ReadOnly => Failure::new(Exit::Queue, format_args!("{path}: {error}")),
            _ => Failure::new(Exit::Failure, format_args!("{path}: {error}")),
        }
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn claimed(name: &OsStr) -> OsString {
    [OsStr::new(CLAIMED), name].into_iter().collect()
}
