//! `mqfs umount`: asks the serving process to end, and waits until it has.
//!
//! umount(8) works too, but it is refused while somebody reads, and returns while the process still finishes.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::exit::{Exit, Failure};
use crate::cli::UmountArgs;
use crate::fuse::mount;
use crate::fuse::mountinfo::{self, Entry};
use crate::view::xattr::DAEMON_PID;

/// Longer than the serving process waits for open files.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs the command.
pub fn run(arguments: &UmountArgs) -> Result<(), Failure> {
    let given = &arguments.mountpoint;
    let failed = |exit: Exit, why: &dyn std::fmt::Display| {
        Failure::new(exit, format_args!("mount point {}: {why}", given.display()))
    };
    let point = mountinfo::resolve(given).map_err(|error| failed(Exit::MountPoint, &error))?;
    let entry = mountinfo::at(&point).map_err(|error| failed(Exit::Failure, &error))?;
    let Some(entry) = entry else {
        return Err(failed(Exit::MountPoint, &"nothing is mounted there"));
    };
    let not_ours = || failed(Exit::MountPoint, &"not an mqfs mount");
    if !entry.is_fuse() {
        return Err(not_ours());
    }
    let answer = match daemon_pid(&point) {
        Err(Errno::ACCESS) if rustix::process::geteuid().is_root() => daemon_pid_as_owner(&point, &entry),
        answer => answer,
    };
    let pid = match answer {
        Ok(Some(pid)) => pid,
        Ok(None) => return Err(not_ours()),
        Err(Errno::NOTCONN | Errno::CONNABORTED) => {
            return mount::detach(&point).map_err(|error| failed(permission(&error), &error));
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => return Err(not_ours()),
        Err(errno) => return Err(failed(permission(&errno.into()), &io::Error::from(errno))),
    };
    let daemon = open_daemon(pid, &entry).map_err(|error| failed(permission(&error), &error))?;
    // A process that ended since has done what we want.
    match rustix::process::pidfd_send_signal(&daemon, Signal::TERM) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(errno) => return Err(failed(permission(&errno.into()), &io::Error::from(errno))),
    }
    if ends_within(&daemon, PATIENCE).map_err(|error| failed(Exit::Failure, &error))? {
        Ok(())
    } else {
        let seconds = PATIENCE.as_secs();
        Err(failed(Exit::StillRunning, &format_args!("process {} still runs after {seconds} s", pid.as_raw_nonzero())))
    }
}

fn permission(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::NotPermitted,
        _ => Exit::Failure,
    }
}

/// What the root of the mount answers; nothing if that is no process id.
fn daemon_pid(point: &Path) -> Result<Option<Pid>, Errno> {
    let mut value = [0_u8; 16];
    let length = rustix::fs::getxattr(point, DAEMON_PID, &mut value)?;
    let text = std::str::from_utf8(&value[..length]).unwrap_or_default();
    Ok(text.trim().parse().ok().filter(|&pid| pid > 0).and_then(Pid::from_raw))
}

/// As [`daemon_pid`], asked by the user who mounted: without `allow_other` nobody else gets an answer, root included.
fn daemon_pid_as_owner(point: &Path, entry: &Entry) -> Result<Option<Pid>, Errno> {
    let (Some(uid), Some(gid)) = (entry.user_id(), entry.group_id()) else {
        return Err(Errno::ACCESS);
    };
    let ask = || {
        // SAFETY: the calls take numbers only. Unlike libc's functions of these names they change the calling thread
        // alone, and that one ends after the question.
        let changed = unsafe {
            libc::syscall(libc::SYS_setresgid, gid, gid, gid) == 0
                && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
        };
        if changed { daemon_pid(point) } else { Err(Errno::PERM) }
    };
    thread::scope(|scope| scope.spawn(ask).join()).unwrap_or(Err(Errno::ACCESS))
}

/// A handle of the process, if it is what it is said to be.
///
/// The id is the filesystem's word, and any user may mount a filesystem that says anything: root must not be led to
/// signal a process that is not that user's. So the process has to belong to the user who mounted, which is the kernel's
/// word, and to hold the FUSE device open. The handle is taken first: the id cannot come to mean another process
/// between the check and the signal.
fn open_daemon(pid: Pid, entry: &Entry) -> io::Result<OwnedFd> {
    let wrong = || io::Error::other(format!("process {} does not serve it", pid.as_raw_nonzero()));
    let handle = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Err(wrong()),
        result => result?,
    };
    let directory = format!("/proc/{}", pid.as_raw_nonzero());
    if Some(fs::metadata(&directory)?.uid()) != entry.user_id() {
        return Err(wrong());
    }
    let mut descriptors = fs::read_dir(format!("{directory}/fd"))?.filter_map(Result::ok);
    if descriptors.any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|file| file == Path::new("/dev/fuse"))) {
        Ok(handle)
    } else {
        Err(wrong())
    }
}

/// Waits for the process's end.
fn ends_within(process: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let timeout = Timespec { tv_sec: patience.as_secs().cast_signed(), tv_nsec: 0 };
    loop {
        match rustix::event::poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            result => return Ok(result? > 0),
        }
    }
}
