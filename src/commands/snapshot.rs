//! A snapshot of the store of a mount, asked for through `.mq/backup`; see [`crate::view`] for what the file answers.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::exit::{Exit, Failure};
use super::interrupt;
use crate::error::Refusal;
use crate::fuse::mountinfo;
use crate::store::OpenError;
use crate::store::beneath::{Dir, Trust};

/// The serving process is asked this often whether the snapshot is made.
const PAUSE: Duration = Duration::from_millis(20);

/// A snapshot. It is there for as long as this lives, and its mount.
pub struct Snapshot {
    /// Open for as long as the snapshot is needed.
    asked: File,
    /// The snapshot's directory itself, whatever becomes of its path. Everything in it belongs to the user who mounted.
    held: Dir,
    /// The directory that it is in, the store.
    store: File,
    /// Where it is.
    path: PathBuf,
}

impl Snapshot {
    /// Has one made of the store that is mounted at `point`, by whom is trusted, and waits for it.
    pub fn of_mount(point: &Path, trust: Trust) -> Result<Snapshot, Failure> {
        let failed = |exit: Exit, why: &dyn std::fmt::Display| {
            Failure::new(exit, format_args!("mount point {}: {why}", point.display()))
        };
        let full = mountinfo::resolve(point).map_err(|error| failed(Exit::MountPoint, &error))?;
        let entry = mountinfo::at(&full).map_err(|error| failed(Exit::Failure, &error))?;
        let entry = entry.ok_or_else(|| failed(Exit::MountPoint, &"nothing is mounted there"))?;
        let owner = entry.user_id().filter(|_| entry.is_fuse() && entry.root == Path::new("/"));
        let owner = owner.ok_or_else(|| failed(Exit::MountPoint, &"not an mqfs mount, or only a part of one"))?;
        let file = full.join(".mq/backup");
        let asked = File::open(&file).map_err(|error| match Refusal::of(&error) {
            Refusal::NotFound => failed(Exit::MountPoint, &"not an mqfs mount, or one of another version"),
            Refusal::Denied => failed(Exit::NotPermitted, &"only root and the user as whom mqfs runs may do this"),
            Refusal::Busy => failed(Exit::Refused, &"another backup is being made"),
            Refusal::MountGone => failed(Exit::MountPoint, &error),
            _ => failed(Exit::Failure, &error),
        })?;
        let path = answer(&asked).map_err(|(exit, why)| failed(exit, &why))?;
        let hold = || {
            // The store may be somebody's whom the one who mounted it trusts.
            let store = hold(path.parent().unwrap_or(&path), Some(owner).filter(|_| trust == Trust::Own))?;
            let held = hold(&within(&store, &path), Some(owner))?;
            Ok((store, held))
        };
        let unusable = |error: &dyn std::fmt::Display| {
            failed(Exit::Failure, &format_args!("the snapshot {} cannot be used: {error}", path.display()))
        };
        let (store, held) = hold().map_err(|error: io::Error| unusable(&error))?;
        let held = Dir::of(held.into(), &path, trust).map_err(|error| match error {
            OpenError::Foreign { .. } => failed(Exit::StoreUnusable, &error),
            error => unusable(&error),
        })?;
        Ok(Snapshot { asked, held, store, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory, whatever somebody puts in its place meanwhile.
    pub fn directory(&self) -> &Dir {
        &self.held
    }

    /// Renames it, which takes it away. Fails with [`io::ErrorKind::CrossesDevices`] on another filesystem.
    pub fn rename(&self, to: &Path) -> io::Result<()> {
        fs::rename(within(&self.store, &self.path), to)?;
        let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        match same(&fs::symlink_metadata(to)?, &self.held.metadata()?) {
            true => Ok(()),
            false => Err(io::Error::other("what was moved there is not the snapshot")),
        }
    }

    /// Fails when it is not there any more, because its mount has gone.
    pub fn check(&self) -> Result<(), Failure> {
        match answer(&self.asked) {
            Ok(_) => Ok(()),
            Err((exit, why)) => Err(Failure::new(exit, why)),
        }
    }
}

/// Waits for the answer.
fn answer(asked: &File) -> Result<PathBuf, (Exit, String)> {
    let mut buffer = vec![0; 8192];
    loop {
        if interrupt::told() {
            return Err((Exit::Interrupted, "interrupted".to_owned()));
        }
        let length = match asked.read_at(&mut buffer, 0) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Err((Exit::MountPoint, "the mount has gone".to_owned())),
        };
        let text = &buffer[..length];
        if let Some(path) = text.strip_prefix(b"ready ") {
            return Ok(PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())));
        }
        if let Some(failure) = text.strip_prefix(b"failed ") {
            let failure = String::from_utf8_lossy(failure);
            let (errno, why) = failure.trim_end().split_once(' ').unwrap_or(("0", "failed"));
            let exit = match errno.parse().map(Refusal::of_errno) {
                Ok(Refusal::NoSpace) => Exit::Refused,
                Ok(Refusal::MountGone) => Exit::MountPoint,
                _ => Exit::Failure,
            };
            return Err((exit, why.to_owned()));
        }
        thread::sleep(PAUSE);
    }
}

/// Opens a directory. The snapshot's path is the filesystem's word, and any user may mount a filesystem that says anything: root must
/// not be led to take away what is not that user's.
fn hold(path: &Path, owner: Option<u32>) -> io::Result<File> {
    let held = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)?;
    let uid = held.metadata()?.uid();
    if owner.is_some_and(|owner| owner != uid) {
        return Err(io::Error::other("it does not belong to the user who mounted"));
    }
    Ok(held)
}

/// The last name of `path` in a directory that is held.
fn within(directory: &File, path: &Path) -> PathBuf {
    Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(path.file_name().unwrap_or_default())
}
