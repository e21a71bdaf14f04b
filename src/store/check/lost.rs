//! `STORE/lost+found`, where a repair keeps what has no place any more.
//!
//! The store may belong to somebody else than whoever repairs it, root perhaps: the directory is no symbolic link, and none in it is
//! followed. And what is there stays as it is: a name that is taken gets a number.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, mkdirat, openat, renameat, renameat_with, statat};
use rustix::io::Errno;

use crate::store::beneath::Dir;

/// The directory in the store.
const LOST: &str = "lost+found";

/// The directory, open.
pub(super) struct Lost {
    store: Dir,
    directory: OwnedFd,
    path: PathBuf,
}

impl Lost {
    /// Opens the directory of a store, made when it is missing. An error when something else has its name.
    pub fn open(store: &Dir) -> io::Result<Self> {
        let path = store.shown().join(LOST);
        match mkdirat(store, LOST, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(store, LOST, flags, Mode::empty()) {
            Ok(directory) => Ok(Self { store: store.clone(), directory, path }),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                Err(io::Error::other(format!("{} is no directory: move it away", path.display())))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Keeps bytes as a new file, durable when this returns.
    pub fn save(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (file, _) = free(name, |name| openat(&self.directory, name, flags, Mode::RUSR | Mode::WUSR))?;
        let mut file = File::from(file);
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(rustix::fs::fsync(&self.directory)?)
    }

    /// Moves a file or a directory of the store here; gives where it is now.
    pub fn take(&self, from: &Path, name: &str) -> io::Result<PathBuf> {
        let (holder, taken) = self.store.parent(from)?;
        let ((), name) = free(name, |name| {
            match renameat_with(&holder, taken, &self.directory, name, RenameFlags::NOREPLACE) {
                // The filesystem cannot; whoever could put something there now has the store locked.
                Err(Errno::INVAL | Errno::NOSYS) => match statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(_) => Err(Errno::EXIST),
                    Err(Errno::NOENT) => renameat(&holder, taken, &self.directory, name),
                    Err(errno) => Err(errno),
                },
                renamed => renamed,
            }
        })?;
        Ok(self.path.join(name))
    }
}

/// Calls `make` with a name, or else with the first numbered one that is not taken; gives that name, too.
fn free<T>(name: &str, mut make: impl FnMut(&str) -> rustix::io::Result<T>) -> io::Result<(T, String)> {
    let mut tried = name.to_owned();
    for number in 2_u64.. {
        match make(&tried) {
            Ok(made) => return Ok((made, tried)),
            Err(Errno::EXIST) => tried = format!("{name}.{number}"),
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::EXIST.into())
}
