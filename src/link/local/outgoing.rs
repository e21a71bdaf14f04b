//! What leaves a queue: claimed by reading `.mq/claim`, acknowledged by removing it, given back through `.mq/nack`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::queue::Queue;
use crate::queue::words::{self, PROPERTIES};

const CLAIMED: &str = ".mq/claimed/";
/// Longer than any answer of `.mq/claim`.
const LONGEST_ANSWER: usize = 1024;
/// Attributes that say nothing to anybody elsewhere.
const LEFT_OUT: [&str; 9] = [
    "user.mq.seq",
    "user.mq.state",
    "user.mq.claimed_by",
    "user.mq.claimed_at",
    "user.mq.deadline",
    "user.mq.delivery",
    "user.mq.producer",
    "user.mq.deaths",
    "user.mq.last_error",
];

/// How a claim ends without the message being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nack {
    /// It comes back later, and the later the more often it was tried.
    Later,
    /// It comes back at once.
    Now,
    /// The same, and the delivery does not count.
    Uncounted,
    /// It becomes a dead letter.
    Dead,
}

/// A claimed message. While it is open, and this process lives, its lease renews itself.
#[derive(Debug)]
pub struct Claimed {
    /// What it is called in `.mq/claimed`: this delivery, not another one of the message.
    pub name: OsString,
    /// The open message.
    pub file: File,
    /// How often it has been claimed, this time included.
    pub deliveries: u32,
}

/// The attributes of a message, by their whole names.
pub type Attributes = Vec<(String, Vec<u8>)>;

/// Where messages are claimed. Each claim takes an open `.mq/claim` of its own.
#[derive(Debug, Default)]
pub struct Claims {
    /// The file itself, by which it is opened without looking up its path again: that saves two of six requests.
    file: Option<OwnedFd>,
    /// One that has claimed nothing yet.
    open: Option<File>,
}

impl Claims {
    /// Claims the next message, if there is one.
    pub fn next(&mut self, queue: &Queue) -> io::Result<Option<OsString>> {
        let claim = match self.open.take() {
            Some(claim) => claim,
            None => self.open(queue)?,
        };
        let mut answer = [0; LONGEST_ANSWER];
        // The answer is a line, and comes whole when there is room for it.
        let answer = match rustix::io::retry_on_intr(|| rustix::io::read(&claim, &mut answer)) {
            Err(Errno::AGAIN) => {
                self.open = Some(claim);
                return Ok(None);
            }
            length => &answer[..length?],
        };
        let name = answer.strip_prefix(CLAIMED.as_bytes()).and_then(|name| name.strip_suffix(b"\n"));
        let name =
            name.ok_or_else(|| io::Error::other(format!("{:?}: not a path", String::from_utf8_lossy(answer))))?;
        Ok(Some(OsString::from_vec(name.to_vec())))
    }

    fn open(&mut self, queue: &Queue) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match &self.file {
            Some(file) => file,
            None => {
                let found = OFlags::PATH | OFlags::CLOEXEC;
                self.file.insert(rustix::fs::openat(queue.directory(), ".mq/claim", found, Mode::empty())?)
            }
        };
        match rustix::fs::open(format!("/proc/self/fd/{}", file.as_raw_fd()), flags, Mode::empty()) {
            // There is no /proc.
            Err(Errno::NOENT) => Ok(rustix::fs::openat(queue.directory(), ".mq/claim", flags, Mode::empty())?.into()),
            opened => Ok(opened?.into()),
        }
    }

    /// Readable when there may be a message.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.open.as_ref().map(AsFd::as_fd)
    }
}

/// Opens a claimed message; with its attributes, and its size.
pub fn open(queue: &Queue, name: OsString) -> io::Result<(Claimed, Attributes, u64)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file: File = rustix::fs::openat(queue.claimed(), name.as_os_str(), flags, Mode::empty())?.into();
    let attributes = attributes(&file)?;
    let deliveries = attributes.iter().find(|(name, _)| name == "user.mq.deliveries");
    let deliveries = deliveries.and_then(|(_, text)| std::str::from_utf8(text).ok()?.parse().ok()).unwrap_or(1);
    let size = file.metadata()?.len();
    Ok((Claimed { name, file, deliveries }, attributes, size))
}

/// What is to be sent of the attributes of an open message.
pub fn attributes(file: impl AsFd) -> io::Result<Attributes> {
    let text = match sized(|buffer| rustix::fs::fgetxattr(&file, PROPERTIES, buffer)) {
        // Together, and encoded, they are larger than an attribute can be.
        Err(Errno::RANGE | Errno::TOOBIG) => return each_attribute(file),
        text => text?,
    };
    let mut attributes = words::all_attributes_of(&text).map_err(|error| io::Error::other(error.to_string()))?;
    attributes.retain(|(name, _)| !LEFT_OUT.contains(&name.as_str()));
    Ok(attributes)
}

/// The same, by one request for each.
fn each_attribute(file: impl AsFd) -> io::Result<Attributes> {
    let list = sized(|buffer| rustix::fs::flistxattr(&file, buffer))?;
    let mut attributes = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        if !name.starts_with("user.") || LEFT_OUT.contains(&name) {
            continue;
        }
        match sized(|buffer| rustix::fs::fgetxattr(&file, name, buffer)) {
            Err(Errno::NODATA) => {} // over since it was listed
            value => attributes.push((name.to_owned(), value?)),
        }
    }
    Ok(attributes)
}

/// Acknowledges a delivery.
pub fn ack(queue: &Queue, name: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(queue.claimed(), name, AtFlags::empty())?)
}

/// Gives a delivery back, or up; what is `said` is kept with the message.
pub fn nack(queue: &Queue, name: &OsStr, how: Nack, said: &str) -> io::Result<()> {
    let word = match how {
        Nack::Later => "later",
        Nack::Now => "now",
        Nack::Uncounted => "uncounted",
        Nack::Dead => "dead",
    };
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(queue.directory(), ".mq/nack", flags, Mode::empty())?);
    // One write: it is one command.
    file.write_all(&[word.as_bytes(), b" ", name.as_bytes(), b"\n", said.as_bytes()].concat())
}

/// Whether an error says that a claim is over, or the message gone or somebody else's.
pub fn is_over(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EBUSY | libc::ESTALE))
}

/// Reads what may be of any length up to that of all attributes of a message.
fn sized(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut into = Vec::new();
    for size in [2048, 64 * 1024] {
        into.resize(size, 0);
        match read(&mut into) {
            Err(Errno::RANGE) => {}
            length => {
                into.truncate(length?);
                return Ok(into);
            }
        }
    }
    Err(Errno::RANGE)
}
