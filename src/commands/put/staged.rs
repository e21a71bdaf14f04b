//! Files on their way into a queue. What does not get there is removed; and by the mount when this process cannot do it: their names
//! ([`staged_name`]) tell it that they go with their last close, so something of each is open until it is published.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, XattrFlags};

use super::super::exit::Failure;
use super::super::interrupt;
use super::source::Source;
use super::{Attributes, Queue};
use crate::queue::name::{Name, classify, staged_name};

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// The mode of a file until it is published: what is not a message yet, and perhaps never will be, is nobody else's.
const STAGED: u32 = 0o600;

/// A name that no other run uses and nobody can guess: whoever may not list a queue does not find what is put there.
fn unique<T>(try_with: impl Fn(&str) -> io::Result<T>) -> io::Result<T> {
    loop {
        // The standard library seeds each of them from the system's source of random numbers.
        let [high, low] = [(); 2].map(|()| u128::from(RandomState::new().hash_one(std::process::id())));
        match try_with(&staged_name(high << 64 | low)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made,
        }
    }
}

/// A file that is removed unless it is published.
pub struct Draft {
    path: PathBuf,
    name: Vec<u8>,
    /// The mode of the message.
    mode: u32,
    published: bool,
    /// Open, so that it stays.
    _held: File,
}

impl Draft {
    /// Writes a draft.
    pub fn write(queue: &Queue, source: &Source, attributes: &Attributes) -> Result<Draft, Failure> {
        let mode = source.mode()? & !queue.umask;
        let refused = |error: io::Error| queue.refused(source, &error);
        let made = unique(|name| {
            let path = queue.entrance.join(format!(".{name}"));
            create(&path).map(|file| (path, file))
        });
        let (path, to) = made.map_err(refused)?;
        // One that cannot be written by: a draft that is renamed while it can be is enqueued only when it is closed.
        let held = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let held = held.map_err(|errno| refused(errno.into()))?.into();
        let draft = Draft { path, name: source.name.clone(), mode, published: false, _held: held };
        fill(&to, attributes, queue, source)?;
        close(to).map_err(refused)?;
        Ok(draft)
    }

    /// Gives it its name, which enqueues it.
    pub fn publish(mut self, queue: &Queue) -> io::Result<()> {
        let to = queue.entrance.join(OsStr::from_bytes(&published(&self.name)));
        // Where names are kept, a message that has this one would be replaced.
        let flags = if queue.keeps_names { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
        queue.enqueue(|| {
            self.set_mode(self.mode)?;
            // In a full queue it may have to wait for long until the next try.
            rustix::fs::renameat_with(CWD, &self.path, CWD, &to, flags).inspect_err(|_| {
                let _ = self.set_mode(STAGED);
            })
        })?;
        self.published = true;
        Ok(())
    }

    fn set_mode(&self, mode: u32) -> rustix::io::Result<()> {
        rustix::fs::chmodat(CWD, &self.path, Mode::from_raw_mode(mode), AtFlags::empty())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A batch that is removed, with what is in it, unless it is published.
pub struct Batch {
    path: PathBuf,
    published: bool,
    /// Open, so that it stays.
    _held: File,
}

impl Batch {
    /// Makes a batch.
    pub fn make(queue: &Queue) -> io::Result<Batch> {
        let path = unique(|name| {
            let path = queue.path.join(".mq/batch").join(name);
            DirBuilder::new().mode(0o700).create(&path).map(|()| path)
        })?;
        let held = File::open(&path).inspect_err(|_| {
            let _ = std::fs::remove_dir(&path);
        });
        Ok(Batch { _held: held?, path, published: false })
    }

    /// Writes a file, the one of that number. Numbers before the names keep the order; they are not part of the names.
    pub fn write(&self, queue: &Queue, number: u64, source: &Source, attributes: &Attributes) -> Result<(), Failure> {
        let prefix = format!("{number:016}-").into_bytes();
        let name = if queue.keeps_names { source.name.clone() } else { [&prefix[..], &source.name].concat() };
        let refused = |error: io::Error| queue.refused(source, &error);
        let mode = source.mode()? & !queue.umask;
        let to = create(&self.path.join(OsStr::from_bytes(&name))).map_err(refused)?;
        fill(&to, attributes, queue, source)?;
        // Nobody else gets into the batch.
        to.set_permissions(Permissions::from_mode(mode)).map_err(refused)?;
        close(to).map_err(refused)
    }

    /// Moves it into the queue, which enqueues all its files.
    pub fn publish(mut self, queue: &Queue) -> io::Result<()> {
        let to = queue.path.join(self.path.file_name().unwrap_or_default());
        queue.enqueue(|| rustix::fs::rename(&self.path, &to))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Under which name a message is enqueued that is to have this one. A message without a name is listed as its number, and digits
/// may be one: 0 is no message's.
fn published(name: &[u8]) -> Vec<u8> {
    const PREFIX: &[u8] = b"0000000000000000";
    match classify(name) {
        _ if name.is_empty() => PREFIX.to_vec(),
        Name::Sequence { .. } => [PREFIX, b"-", name].concat(),
        _ => name.to_vec(),
    }
}

/// Unlike the standard library's, it does not begin anew when a signal interrupts it: the queue may have let it wait for room.
fn create(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(STAGED))?.into())
}

/// As the standard library's, except that a signal that ends the program ends it.
fn write_all(mut to: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted && !interrupt::told() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Copies bytes and attributes. A command is started only now: there is a place for what it prints.
fn fill(to: &File, attributes: &Attributes, queue: &Queue, source: &Source) -> Result<(), Failure> {
    let refused = |error: io::Error| queue.refused(source, &error);
    for (name, value) in attributes {
        rustix::fs::fsetxattr(to, name, value, XattrFlags::empty()).map_err(|errno| refused(errno.into()))?;
    }
    let mut from = source.open()?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => write_all(to, &chunk[..length]).map_err(refused)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted && !interrupt::told() => {}
            Err(error) => return Err(source.unreadable(&error)),
        }
        if interrupt::told() {
            return Err(source.unreadable(&"interrupted"));
        }
    }
    Ok(())
}

/// Closes a file, and tells what that answers.
fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor is given up by its owner and closed once.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
