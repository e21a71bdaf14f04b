//! What enters a queue: files of a directory in `.mq/batch`, enqueued all or none by its rename, with the link's mark.
//!
//! The mark is a condition as well: when it is not what this link left there, nothing is enqueued (ESTALE), because somebody else
//! has gone on from there.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::super::properties::Arrival;
use super::queue::{LONGEST_VALUE, Queue};
use crate::queue::words::{self, PROPERTIES};

const BATCHES: &str = ".mq/batch";
/// A batch that cannot hold more is enqueued first: a queue takes at most 64 MiB of attributes at a time.
const MOST_ATTRIBUTES: usize = 32 << 20;

/// So many attributes can be set by one request.
const MOST_AT_ONCE: usize = 256;

/// A batch that is being filled.
#[derive(Debug)]
pub struct Batch {
    name: String,
    directory: OwnedFd,
    files: usize,
    bytes: u64,
    attributes: usize,
    /// The names of its files, where the queue keeps them.
    names: Option<Vec<Vec<u8>>>,
}

/// What batches of a link are called; another link's begin otherwise, since names of links have no `+`.
fn prefix(link: &str) -> String {
    format!("link+{link}+")
}

impl Batch {
    /// Makes an empty batch. In a queue that keeps names, no two files may have one name.
    pub fn new(queue: &Queue, link: &str, keeps_names: bool) -> io::Result<Batch> {
        let name = format!("{}{}", prefix(link), std::process::id());
        let path = format!("{BATCHES}/{name}");
        rustix::fs::mkdirat(queue.directory(), &path, Mode::from_raw_mode(0o700))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(queue.directory(), &path, flags, Mode::empty())?;
        Ok(Batch { name, directory, files: 0, bytes: 0, attributes: 0, names: keeps_names.then(Vec::new) })
    }

    /// Removes what earlier runs of the link have left: their messages were never acknowledged.
    pub fn sweep(queue: &Queue, link: &str) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let all = rustix::fs::openat(queue.directory(), BATCHES, flags, Mode::empty())?;
        for entry in Dir::read_from(&all)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if name.starts_with(&prefix(link)) {
                let batch = rustix::fs::openat(&all, name.as_ref(), flags, Mode::empty())?;
                empty(&batch)?;
                rustix::fs::unlinkat(&all, name.as_ref(), AtFlags::REMOVEDIR)?;
            }
        }
        Ok(())
    }

    /// How many files it has.
    pub fn files(&self) -> usize {
        self.files
    }

    /// How many bytes their bodies have.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether this one has to wait for the next batch.
    pub fn is_full_for(&self, arrival: &Arrival) -> bool {
        self.attributes > MOST_ATTRIBUTES
            || self.names.as_ref().is_some_and(|names| names.contains(&file_name(arrival, self.files, true)))
    }

    /// Adds a message. When it fails, nothing of it stays.
    pub fn add(&mut self, arrival: &Arrival, body: &[u8]) -> io::Result<()> {
        let name = file_name(arrival, self.files, self.names.is_some());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o666);
        let file = File::from(rustix::fs::openat(&self.directory, &name[..], flags, mode)?);
        match write(file, arrival, body) {
            Ok(()) => {}
            Err(error) => {
                let _ = rustix::fs::unlinkat(&self.directory, &name[..], AtFlags::empty());
                return Err(error);
            }
        }
        self.files += 1;
        self.bytes += body.len() as u64;
        self.attributes += arrival.attributes.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        self.names.iter_mut().for_each(|names| names.push(name.clone()));
        Ok(())
    }

    /// Enqueues it with a mark, if the queue's mark is still `was`. It can be tried again when it fails.
    pub fn enqueue(&self, queue: &Queue, mark: &Mark<'_>) -> io::Result<()> {
        let condition = format!("user.mark-was.{}", mark.name);
        rustix::fs::fsetxattr(&self.directory, condition, mark.was, XattrFlags::empty())?;
        let name = format!("user.mark.{}", mark.name);
        rustix::fs::fsetxattr(&self.directory, name, mark.is, XattrFlags::empty())?;
        let path = format!("{BATCHES}/{}", self.name);
        // Into the queue's own directory, under a name that no queue and no message has.
        rustix::fs::renameat(queue.directory(), &path, queue.directory(), &self.name)?;
        if mark.sync {
            rustix::fs::fsync(queue.directory())?;
        }
        Ok(())
    }

    /// Drops it.
    pub fn remove(self, queue: &Queue) -> io::Result<()> {
        empty(&self.directory)?;
        Ok(rustix::fs::unlinkat(queue.directory(), format!("{BATCHES}/{}", self.name), AtFlags::REMOVEDIR)?)
    }
}

/// The mark that goes with a batch.
#[derive(Debug)]
pub struct Mark<'a> {
    /// Its name, after `user.mark.`.
    pub name: &'a str,
    /// What it must be before; empty when there must be none.
    pub was: &'a [u8],
    /// What it is then.
    pub is: &'a [u8],
    /// The queue's messages are on disk only when its directory was synced.
    pub sync: bool,
}

fn write(mut file: File, arrival: &Arrival, body: &[u8]) -> io::Result<()> {
    let set = |name: &str, value: &[u8]| rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty());
    // Of those that are there twice the last counts; at once none may be.
    let mut known = HashSet::new();
    let mut once: Vec<_> = arrival.attributes.iter().rev().filter(|(name, _)| known.insert(name)).collect();
    once.reverse();
    for attributes in once.chunks(MOST_AT_ONCE) {
        let all = words::render(attributes.iter().map(|(name, value)| (name.as_str(), value.as_slice())));
        match all.len() <= LONGEST_VALUE {
            true => set(PROPERTIES, &all)?,
            false => attributes.iter().try_for_each(|(name, value)| set(name, value))?,
        }
    }
    file.write_all(body)?;
    // The error of the close is that of the message, so it has to be seen: File's drop does not tell.
    let fd = std::os::fd::IntoRawFd::into_raw_fd(file);
    // SAFETY: the descriptor is this file's, which has been given up just now.
    match unsafe { libc::close(fd) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// In the order of these names they are enqueued; a number in front of them is taken off, except where names are kept.
fn file_name(arrival: &Arrival, number: usize, keeps_names: bool) -> Vec<u8> {
    if keeps_names {
        return arrival.name.clone();
    }
    [format!("{:016}-", number + 1).as_bytes(), &arrival.name].concat()
}

fn empty(directory: impl AsFd) -> io::Result<()> {
    loop {
        let names: Vec<_> = Dir::read_from(&directory)?
            .filter_map(Result::ok)
            .map(|entry| entry.file_name().to_owned())
            .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            match rustix::fs::unlinkat(&directory, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
