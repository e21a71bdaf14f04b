//! What lies below the directory of a store or backup, which somebody else may have made, and may be changing.
//!
//! Everything there is opened from the directory's descriptor, with openat2(2): no symbolic link is followed below it, and
//! no `..` leads out of it (a link on the way to the directory is the affair of whoever named it). What is opened is a regular
//! file or a directory, never a FIFO that somebody waits in, and belongs to a user whose files may be in there. So nobody has
//! root read, serve or overwrite what is not theirs. Once a file is open, it is linked and copied by its descriptor: its name may
//! be swapped meanwhile, the file may not.
//!
//! RocksDB opens by paths. [`Dir::join`] gives paths that lead to the directory itself, whatever becomes of its name; what is
//! in the database's directory is looked at before ([`super::database`]), and where others can change it later, root has the
//! kernel follow no links there ([`no_links`]).

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, linkat, mkdirat, openat2, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::{OpenError, no_links};

/// Whose stores and backups are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those of root and of the user who runs this.
    #[default]
    Own,
    /// Whoever's it is: `--trust-owner`.
    Owner,
}

/// Whose files may be in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owners {
    /// The owner of the directory.
    owner: u32,
    /// Who runs this.
    own: u32,
}

impl Owners {
    /// The directory belongs neither to root nor to who runs this.
    fn foreign(self) -> bool {
        self.owner != 0 && self.owner != self.own
    }

    /// A file of `uid` with so many names may be in there. In a directory that belongs to somebody else are that user's, and
    /// what an mqfs of our own has made there, which has no other name: one with another is a link to something of ours.
    fn allow(self, uid: u32, links: u64) -> bool {
        match self.foreign() {
            true => uid == self.owner || uid == self.own && links == 1,
            false => uid == 0 || uid == self.own,
        }
    }
}

/// A directory, held open.
#[derive(Clone, Debug)]
pub struct Dir {
    fd: Arc<OwnedFd>,
    /// What users know it as.
    shown: PathBuf,
    owners: Owners,
}

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// With all files: a FIFO must not keep us waiting, a terminal not become ours.
const FILE: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What is in a directory.
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// It is a directory.
    pub directory: bool,
}

impl Dir {
    /// Opens the directory of a store or backup. [`OpenError::Foreign`] when it belongs to somebody who is not trusted.
    pub fn open(path: &Path, trust: Trust) -> Result<Self, OpenError> {
        let fd = rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(io::Error::from)?;
        Self::of(fd, path, trust)
    }

    /// One that is open already, and shown as `path`.
    pub fn of(fd: OwnedFd, path: &Path, trust: Trust) -> Result<Self, OpenError> {
        let owner = rustix::fs::fstat(&fd).map_err(io::Error::from)?.st_uid;
        let owners = Owners { owner, own: rustix::process::geteuid().as_raw() };
        if owners.foreign() && trust == Trust::Own {
            return Err(OpenError::Foreign { owner });
        }
        let mut dir = Self { fd: Arc::new(fd), shown: path.to_owned(), owners };
        if dir.others_may_change()? {
            match no_links::taken_out(dir.as_fd()) {
                // For reading, as the descriptor of a mount is not.
                Ok(tree) => {
                    dir.fd = rustix::fs::openat(&tree, ".", DIRECTORY, Mode::empty()).map_err(io::Error::from)?.into()
                }
                Err(error) => tracing::debug!(%error, "symbolic links are looked for, and not shut out"),
            }
        }
        Ok(dir)
    }

    /// What users know it as.
    pub fn shown(&self) -> &Path {
        &self.shown
    }

    /// The path of a name in it: it leads there whatever becomes of the directory's own name, for as long as this lives.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// A path that leads to the directory, whatever becomes of its name, for as long as this lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// A text in which RocksDB has named files by [`Dir::join`], with the names that users know.
    pub fn told(&self, text: &str) -> String {
        text.replace(&*self.path().to_string_lossy(), &self.shown.to_string_lossy())
    }

    /// It belongs to somebody else.
    pub fn is_foreign(&self) -> bool {
        self.owners.foreign()
    }

    /// Others than root and who runs this may put something else in the place of what is in it.
    pub fn others_may_change(&self) -> io::Result<bool> {
        Ok(self.is_foreign() || self.metadata()?.mode() & 0o022 != 0)
    }

    /// What `stat` shows of the directory.
    pub fn metadata(&self) -> io::Result<Metadata> {
        File::from(self.fd.try_clone()?).metadata()
    }

    fn fail(&self, below: &Path, why: impl std::fmt::Display) -> io::Error {
        io::Error::other(format!("{}: {why}", self.shown.join(below).display()))
    }

    fn opened(&self, below: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        openat2(&self.fd, below, flags, mode, RESOLVE).map_err(|errno| match errno {
            Errno::LOOP => self.fail(below, "a symbolic link, which is not followed here"),
            Errno::XDEV => self.fail(below, "leads out of the directory"),
            // What an open for writing says of a FIFO.
            Errno::NXIO => self.fail(below, "not a regular file"),
            errno => errno.into(),
        })
    }

    /// Passes on what may be in there.
    fn admitted(&self, below: &Path, file: File) -> io::Result<File> {
        let stat = file.metadata()?;
        if !stat.is_file() {
            return Err(self.fail(below, "not a regular file"));
        }
        self.allow(below, &stat)?;
        Ok(file)
    }

    fn allow(&self, below: &Path, stat: &Metadata) -> io::Result<()> {
        let links = if stat.is_dir() { 1 } else { stat.nlink() };
        match self.owners.allow(stat.uid(), links) {
            true => Ok(()),
            false => Err(self.fail(below, format_args!("belongs to user {}, as it should not", stat.uid()))),
        }
    }

    /// Opens a directory below it.
    pub fn dir(&self, below: impl AsRef<Path>) -> io::Result<Self> {
        let below = below.as_ref();
        let file = File::from(self.opened(below, DIRECTORY, Mode::empty())?);
        self.allow(below, &file.metadata()?)?;
        Ok(Self { fd: Arc::new(file.into()), shown: self.shown.join(below), owners: self.owners })
    }

    /// Makes a directory, for its owner only, and opens it.
    pub fn make_dir(&self, below: impl AsRef<Path>) -> io::Result<Self> {
        let below = below.as_ref();
        let (parent, name) = self.parent(below)?;
        mkdirat(parent.as_fd(), name, Mode::RWXU)?;
        self.dir(below)
    }

    /// As [`Dir::make_dir`], of one that may be there.
    pub fn make_or_open_dir(&self, below: impl AsRef<Path>) -> io::Result<Self> {
        match self.make_dir(&below) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.dir(below),
            made => made,
        }
    }

    /// Opens a file for reading.
    pub fn file(&self, below: impl AsRef<Path>) -> io::Result<File> {
        let below = below.as_ref();
        self.admitted(below, self.opened(below, OFlags::RDONLY | FILE, Mode::empty())?.into())
    }

    /// Opens a file for reading and writing.
    pub fn file_to_change(&self, below: impl AsRef<Path>) -> io::Result<File> {
        let below = below.as_ref();
        self.admitted(below, self.opened(below, OFlags::RDWR | FILE, Mode::empty())?.into())
    }

    /// As [`Dir::file_to_change`], made for its owner only when it is missing.
    pub fn file_to_keep(&self, below: impl AsRef<Path>) -> io::Result<File> {
        let below = below.as_ref();
        let flags = OFlags::RDWR | OFlags::CREATE | FILE;
        self.admitted(below, self.opened(below, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Makes a file, for its owner only, to read and write.
    pub fn create(&self, below: impl AsRef<Path>) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | FILE;
        Ok(self.opened(below.as_ref(), flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// All bytes of a file.
    pub fn read(&self, below: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(below)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// What `stat` shows of something below it; of a link, what it shows of the link itself.
    pub fn stat(&self, below: impl AsRef<Path>) -> io::Result<Metadata> {
        let (parent, name) = self.parent(below.as_ref())?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        File::from(rustix::fs::openat(parent.as_fd(), name, flags, Mode::empty())?).metadata()
    }

    /// Whether there is something of that name in it, be it a link that leads nowhere.
    pub fn has(&self, name: &str) -> bool {
        statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// The directory that something is in, and its name there.
    pub(super) fn parent<'a>(&self, below: &'a Path) -> io::Result<(Parent<'_>, &'a OsStr)> {
        let name = below.file_name().ok_or_else(|| self.fail(below, "no name of a file"))?;
        match below.parent().filter(|parent| *parent != Path::new("")) {
            None => Ok((Parent::Here(self.fd.as_fd()), name)),
            Some(parent) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                Ok((Parent::Below(self.opened(parent, flags, Mode::empty())?), name))
            }
        }
    }

    /// Removes a file or link.
    pub fn remove(&self, below: impl AsRef<Path>) -> io::Result<()> {
        let (parent, name) = self.parent(below.as_ref())?;
        Ok(unlinkat(parent.as_fd(), name, AtFlags::empty())?)
    }

    /// Renames a file or directory within it.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        let (from, to) = (self.parent(from.as_ref())?, self.parent(to.as_ref())?);
        Ok(renameat(from.0.as_fd(), from.1, to.0.as_fd(), to.1)?)
    }

    /// Gives an open file another name, below this directory.
    pub fn link(&self, file: &File, to: impl AsRef<Path>) -> io::Result<()> {
        let (parent, name) = self.parent(to.as_ref())?;
        let from = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok(linkat(CWD, from, parent.as_fd(), name, AtFlags::SYMLINK_FOLLOW)?)
    }

    /// Makes the names in it survive a power cut.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    /// Calls `each` with all that is in it, in no order.
    pub fn each(&self, mut each: impl FnMut(Entry) -> io::Result<()>) -> io::Result<()> {
        // A descriptor of its own: the position in the directory belongs to the open file.
        let again = rustix::fs::openat(&self.fd, ".", DIRECTORY, Mode::empty())?;
        for entry in rustix::fs::Dir::new(again)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
            if name == "." || name == ".." {
                continue;
            }
            let directory = match entry.file_type() {
                FileType::Unknown => match statat(&self.fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(errno.into()),
                },
                kind => kind == FileType::Directory,
            };
            each(Entry { name, directory })?;
        }
        Ok(())
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A directory that something is in.
pub(super) enum Parent<'a> {
    /// The store's own.
    Here(BorrowedFd<'a>),
    /// One below it.
    Below(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Parent::Here(fd) => *fd,
            Parent::Below(fd) => fd.as_fd(),
        }
    }
}
