//! Putting the filesystem on its mount point and taking it off.
//!
//! We call mount(2) ourselves instead of leaving it to `fuser`: that gives the mount its proper type, tells the reasons
//! for a failure apart, and works for ordinary users also where `/dev/fuse` is not open to them.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::fusermount;
use super::helper::Helper;
use super::mountinfo::{self, Entry};
use super::options::{Access, MountOptions};

const DEVICE: &str = "/dev/fuse";

/// How long the helper of a process that has died is given to take its mount off.
const HELPED: Duration = Duration::from_secs(2);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Why there is no mount. The text is the line for the user.
#[derive(Debug, PartialEq, Eq)]
pub enum MountError {
    /// The mount point cannot be used.
    MountPoint(String),
    /// There is no FUSE on this machine, or this user may not mount.
    NotPermitted(String),
    /// Anything else.
    Other(String),
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MountError::MountPoint(line) | MountError::NotPermitted(line) | MountError::Other(line) => {
                f.write_str(line)
            }
        }
    }
}

impl std::error::Error for MountError {}

/// Fails when nobody could mount here, so that nothing has been started or created when the user learns of it.
pub fn check_fuse() -> Result<(), MountError> {
    match fs::metadata(DEVICE) {
        Ok(_) => Ok(()),
        Err(error) => Err(no_device(&error)),
    }
}

fn no_device(error: &io::Error) -> MountError {
    MountError::NotPermitted(format!("no FUSE here: {DEVICE}: {error} (is the fuse module loaded?)"))
}

/// The absolute path of `given` if a mount with `options` may go there. A dead mqfs mount, left by a process that was
/// killed, is taken off first.
pub fn check_mount_point(given: &Path, options: &MountOptions) -> Result<PathBuf, MountError> {
    let refused = |why: &dyn fmt::Display| MountError::MountPoint(format!("mount point {}: {why}", given.display()));
    let point = mountinfo::resolve(given).map_err(|error| refused(&error))?;
    if take_off_dead(&point, &options.kind()).map_err(|error| refused(&error))? {
        tracing::warn!("took a dead mount off {}", point.display());
    }
    if !fs::metadata(&point).map_err(|error| refused(&error))?.is_dir() {
        return Err(refused(&"not a directory"));
    }
    if options.nonempty {
        return Ok(point);
    }
    // An mqfs mount whose only queue was just removed looks like an empty directory.
    let mounted = mountinfo::at(&point).map_err(|error| refused(&error))?;
    if mounted.as_ref().is_some_and(Entry::is_fuse) {
        return Err(refused(&"a FUSE filesystem is mounted there already"));
    }
    if fs::read_dir(&point).map_err(|error| refused(&error))?.next().is_some() {
        return Err(refused(&"not empty (-o nonempty mounts over what is there)"));
    }
    Ok(point)
}

/// Whether what is mounted at `point` is a FUSE filesystem that nobody serves any more.
///
/// statfs(2) is asked because the kernel never answers it from a cache. While the serving process is being killed, the
/// question waits until the kernel has closed its device, and then fails with ECONNABORTED, or ECANCELED when it was to go by io_uring:
/// that is dead as well.
pub fn is_dead(point: &Path) -> bool {
    matches!(rustix::fs::statfs(point), Err(Errno::NOTCONN | Errno::CONNABORTED | Errno::CANCELED))
}

/// Unmounts a dead mount of type `kind` from `point`; true if there was one. A dead mount of another type is left
/// alone: it is for its own program to recover.
pub fn take_off_dead(point: &Path, kind: &str) -> io::Result<bool> {
    match mountinfo::at(point)? {
        Some(entry) if entry.is_fuse() && is_dead(point) => {
            if entry.kind != kind {
                return Err(io::Error::other(format!("a dead mount of type {} is in the way", entry.kind)));
            }
            // A user's mount has a helper that is about to do the same, and is not to meet the next one.
            let by_itself = entry.user_id() != Some(0) && is_gone_by(point, &entry, Instant::now() + HELPED)?;
            if !by_itself {
                detach_entry(point, &entry)?;
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Whether what is mounted there has been taken off by then.
fn is_gone_by(point: &Path, entry: &Entry, deadline: Instant) -> io::Result<bool> {
    while mountinfo::at(point)?.is_some_and(|now| now.device == entry.device) {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(LOOK);
    }
    Ok(true)
}

/// Mounts at `point`, if need be through the helper, and returns the descriptor on which the kernel will ask.
pub fn attach(
    point: &Path,
    source: &OsStr,
    options: &MountOptions,
    helper: Option<&Helper>,
) -> Result<OwnedFd, MountError> {
    match rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(device) => match (attach_directly(&device, point, source, options), helper) {
            (Ok(()), _) => Ok(device),
            (Err(Errno::PERM), Some(helper)) => helper.mount(),
            (Err(errno), _) => Err(mount_failure(point, errno)),
        },
        Err(errno @ (Errno::ACCESS | Errno::PERM)) => {
            helper.map_or_else(|| Err(no_device(&errno.into())), Helper::mount)
        }
        Err(errno) => Err(no_device(&errno.into())),
    }
}

fn attach_directly(device: &OwnedFd, point: &Path, source: &OsStr, options: &MountOptions) -> Result<(), Errno> {
    let mode = rustix::fs::stat(point)?.st_mode & libc::S_IFMT;
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    let mut data = format!(
        "fd={},rootmode={mode:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        uid.as_raw(),
        gid.as_raw()
    );
    if options.access != Access::Owner {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(source, point, options.kind(), options.flags, Some(data.as_c_str()))
}

fn mount_failure(point: &Path, errno: Errno) -> MountError {
    let line = format!("cannot mount on {}: {}", point.display(), io::Error::from(errno));
    match errno {
        Errno::NODEV => MountError::NotPermitted(format!("no FUSE here: the kernel does not know the type: {line}")),
        Errno::ACCESS | Errno::PERM => MountError::NotPermitted(line),
        Errno::NOENT | Errno::NOTDIR | Errno::BUSY | Errno::NOTCONN | Errno::LOOP => MountError::MountPoint(line),
        _ => MountError::Other(line),
    }
}

/// As [`detach`], by the process that serves the mount and has given up its privileges.
pub fn take_off(point: &Path, helper: Option<&Helper>) -> io::Result<()> {
    match (detach_directly(point), helper) {
        (Err(Errno::PERM), Some(helper)) => helper.unmount(),
        (result, _) => Ok(result?),
    }
}

fn detach_directly(point: &Path) -> Result<(), Errno> {
    rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
}

/// Takes the uppermost mount off `point`, at once for those who come, and for those who use it when they are done.
pub fn detach(point: &Path) -> io::Result<()> {
    match detach_directly(point) {
        Err(Errno::PERM) => fusermount::unmount(point),
        result => Ok(result?),
    }
}

/// As [`detach`], of this mount: no failure when somebody else has taken it off meanwhile, such as the helper of its process.
pub fn detach_entry(point: &Path, entry: &Entry) -> io::Result<()> {
    match detach(point) {
        Err(error) => match mountinfo::at(point)? {
            Some(now) if now.device == entry.device => Err(error),
            _ => Ok(()),
        },
        done => done,
    }
}

/// Ends the connection of a FUSE mount: whoever waits for an answer, and asks from now on, gets an error.
pub fn abort(point: &Path, entry: &Entry) -> io::Result<()> {
    let connection = entry.device.rsplit(':').next().unwrap_or_default();
    // For whoever mounted, and where the control filesystem is mounted.
    if fs::write(format!("/sys/fs/fuse/connections/{connection}/abort"), "1").is_ok() {
        return Ok(());
    }
    match rustix::mount::unmount(point, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW) {
        // What the server's end has brought about by now, or is left to it.
        Ok(()) | Err(Errno::BUSY | Errno::INVAL | Errno::PERM) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Absolute, and without symbolic links as far as it exists: the store may have yet to be made.
pub fn absolute_store(given: &Path) -> io::Result<PathBuf> {
    if given.as_os_str().is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let path = std::path::absolute(given)?;
    match (fs::canonicalize(&path), path.parent(), path.file_name()) {
        (Ok(path), _, _) => Ok(path),
        (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            Ok(fs::canonicalize(parent)?.join(name))
        }
        (Err(error), _, _) => Err(error),
    }
}

/// Refuses a mount that would hide its own store, and a mount within the store's own directory.
pub fn check_apart(store: &Path, point: &Path) -> Result<(), MountError> {
    if store.starts_with(point) || point.starts_with(store) {
        return Err(MountError::MountPoint(format!(
            "mount point {}: the store {} and its mount point must not lie within each other",
            point.display(),
            store.display()
        )));
    }
    Ok(())
}

/// What df and findmnt show as the source.
pub fn source(store: &Path, options: &MountOptions) -> OsString {
    // The kernel takes a source that is empty for none at all.
    let named = options.fsname.clone().filter(|name| !name.as_bytes().is_empty());
    named.unwrap_or_else(|| store.as_os_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_and_mount_point_must_be_apart() {
        let apart = |store: &str, point: &str| check_apart(Path::new(store), Path::new(point)).is_ok();
        assert!(apart("/var/store", "/mnt"));
        assert!(apart("/var/store", "/var/store2"));
        assert!(!apart("/mnt/store", "/mnt"));
        assert!(!apart("/mnt", "/mnt/point"));
        assert!(!apart("/mnt", "/mnt"));
        assert!(!apart("/var/store", "/"));
    }

    #[test]
    fn a_store_may_have_yet_to_be_made_but_not_its_parent() {
        let directory = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(directory.path()).unwrap();
        assert_eq!(absolute_store(&directory.path().join("new")).unwrap(), real.join("new"));
        assert!(absolute_store(&directory.path().join("no/new")).is_err());
        assert!(absolute_store(Path::new("")).is_err());
    }

    #[test]
    fn ordinary_directories_are_not_dead_mounts() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_dead(directory.path()));
        assert!(!take_off_dead(directory.path(), "fuse.mqfs").unwrap());
    }
}
