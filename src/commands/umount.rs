//! `mqfs umount`: asks the serving process to end, and waits until it has.
//!
//! umount(8) works too, but it is refused while somebody reads, and returns while the process still finishes.
//!
//! Whatever the state of that process is, this ends in time: all that the mount is asked is asked by way of [`ask`].

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::exit::{Exit, Failure};
use crate::cli::UmountArgs;
use crate::fuse::ask::ask;
use crate::fuse::mount;
use crate::fuse::mountinfo::{self, Entry};
use crate::view::xattr::DAEMON_PID;

/// Longer than the serving process waits for open files.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a process that was killed may take to end.
const DEATH: Duration = Duration::from_secs(5);

/// Runs the command.
pub fn run(arguments: &UmountArgs) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    let given = &arguments.mountpoint;
    let failed = |exit: Exit, why: &dyn std::fmt::Display| {
        Failure::new(exit, format_args!("mount point {}: {why}", given.display()))
    };
    let silent = || {
        let seconds = PATIENCE.as_secs();
        failed(Exit::StillRunning, &format_args!("no answer within {seconds} s: --force unmounts it all the same"))
    };
    let point = ask(until, || Ok(mountinfo::resolve(given)?.into_os_string().into_vec())).ok_or_else(silent)?;
    let point = PathBuf::from(OsString::from_vec(point.map_err(|error| failed(Exit::MountPoint, &error))?));
    let entry = mountinfo::at(&point).map_err(|error| failed(Exit::Failure, &error))?;
    let Some(entry) = entry else {
        return Err(failed(Exit::MountPoint, &"nothing is mounted there"));
    };
    let not_ours = || failed(Exit::MountPoint, &"not an mqfs mount");
    if !entry.is_fuse() {
        return Err(not_ours());
    }
    let by_force = |daemon: Option<OwnedFd>| {
        let left = take_by_force(&point, &entry, daemon).map_err(|error| failed(permission(&error), &error))?;
        left.map_or(Ok(()), |why| Err(failed(Exit::StillRunning, &why)))
    };
    let answer = match ask_for_pid(&point, &entry, until) {
        Some(answer) => answer,
        None if !arguments.force => return Err(silent()),
        // Nobody says what it is, so the type has to.
        None if entry.kind != mountinfo::KIND => {
            let (kind, ours) = (&entry.kind, mountinfo::KIND);
            return Err(failed(Exit::MountPoint, &format_args!("no answer, and its type is {kind} and not {ours}")));
        }
        None => return by_force(serving(&entry).and_then(|pid| open_daemon(pid, &entry).ok())),
    };
    let pid = match answer {
        Ok(Some(pid)) => pid,
        Ok(None) => return Err(not_ours()),
        Err(Errno::NOTCONN | Errno::CONNABORTED) => {
            return mount::detach_entry(&point, &entry).map_err(|error| failed(permission(&error), &error));
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
    if ends_by(&daemon, until).map_err(|error| failed(Exit::Failure, &error))? {
        Ok(())
    } else if arguments.force {
        by_force(Some(daemon))
    } else {
        let (pid, seconds) = (pid.as_raw_nonzero(), PATIENCE.as_secs());
        Err(failed(Exit::StillRunning, &format_args!("process {pid} still runs after {seconds} s: --force ends it")))
    }
}

/// Ends a server that does not end by itself: it is killed, as by a crash, and the mount is taken off. Whoever waits for an
/// answer of it gets an error. Gives what there is still to be said.
fn take_by_force(point: &Path, entry: &Entry, daemon: Option<OwnedFd>) -> io::Result<Option<&'static str>> {
    if let Some(daemon) = &daemon {
        match rustix::process::pidfd_send_signal(daemon, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    // What it serves ends with it, unless the kernel does not let it end: then whoever waits is let go by this.
    mount::abort(point, entry)?;
    if mountinfo::at(point)?.is_some_and(|now| now.device == entry.device) {
        mount::detach_entry(point, entry)?;
    }
    Ok(match daemon {
        Some(daemon) if ends_by(&daemon, Instant::now() + DEATH)? => None,
        Some(_) => Some("taken off, but its process does not end: it may wait for a disk"),
        None => Some("taken off, but its process was not found: it ends when it goes on"),
    })
}

fn permission(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::NotPermitted,
        _ => Exit::Failure,
    }
}

/// What the mount says about the process that serves it; nothing when it says nothing until then.
fn ask_for_pid(point: &Path, entry: &Entry, until: Instant) -> Option<Result<Option<Pid>, Errno>> {
    let question = || {
        let answer = match daemon_pid(point) {
            Err(Errno::ACCESS) if rustix::process::geteuid().is_root() => daemon_pid_as_owner(point, entry),
            answer => answer,
        };
        Ok(answer?.map_or(0, |pid| pid.as_raw_nonzero().get()).to_ne_bytes().to_vec())
    };
    Some(match ask(until, question)? {
        Ok(pid) => Ok(pid.try_into().ok().map(i32::from_ne_bytes).and_then(Pid::from_raw)),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    })
}

/// The process that serves a mount, as far as it can be known without asking the mount.
fn serving(entry: &Entry) -> Option<Pid> {
    let processes = fs::read_dir("/proc").ok()?.filter_map(|process| process.ok()?.file_name().to_str()?.parse().ok());
    processes.filter_map(Pid::from_raw).find(|pid| {
        let told = |file: fs::DirEntry| {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            let connection = text.lines().find_map(|line| line.strip_prefix("fuse_connection:"));
            connection.is_some_and(|it| Some(it.trim()) == entry.device.split_once(':').map(|(_, minor)| minor))
        };
        match fs::read_dir(format!("/proc/{}/fdinfo", pid.as_raw_nonzero())) {
            // The kernel tells which connection it is since 6.10 or so.
            Ok(files) => files.filter_map(Result::ok).any(told),
            Err(_) => has_session(*pid, entry),
        }
    })
}

/// Whether a process of the user who mounted has a thread that is called as the one that serves this mount. Only root may look at
/// the descriptors of a process that serves one; and only a process of that user's can pretend to.
fn has_session(pid: Pid, entry: &Entry) -> bool {
    let directory = format!("/proc/{}", pid.as_raw_nonzero());
    let name = mountinfo::session_name(&entry.device);
    let is_it = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).is_ok_and(|it| it.trim_end() == name);
    fs::metadata(&directory).is_ok_and(|found| Some(found.uid()) == entry.user_id())
        && fs::read_dir(format!("{directory}/task")).is_ok_and(|tasks| tasks.filter_map(Result::ok).any(is_it))
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
/// word, and to hold the FUSE device open; for who may not look at that, to have a thread of a serving process's. The handle is
/// taken first: the id cannot come to mean another process between the check and the signal.
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
    let is_device =
        |descriptor: fs::DirEntry| fs::read_link(descriptor.path()).is_ok_and(|file| file == Path::new("/dev/fuse"));
    let serves = match fs::read_dir(format!("{directory}/fd")) {
        Ok(descriptors) => descriptors.filter_map(Result::ok).any(is_device),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => has_session(pid, entry),
        Err(error) => return Err(error),
    };
    if serves { Ok(handle) } else { Err(wrong()) }
}

/// Waits for the process's end.
fn ends_by(process: &OwnedFd, until: Instant) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            result => return Ok(result? > 0),
        }
    }
}
