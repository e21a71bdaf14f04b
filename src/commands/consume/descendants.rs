//! The processes that descend from this one, which is a subreaper: none of them gets away by losing its parent.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};

/// From now on the descendants whose parent ends become children of this process.
pub fn adopt() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(Pid::INIT))?; // any number but 0 switches it on
    Ok(())
}

/// Takes a child that has ended; `Err` with [`Errno::CHILD`] when there is none left, so that nothing descends from this process.
pub fn reap() -> Result<Option<(Pid, WaitStatus)>, Errno> {
    rustix::process::wait(WaitOptions::NOHANG)
}

/// Sends a signal to each descendant that `which` chooses, as far as this user may. One that is made meanwhile is not reached:
/// whoever wants to be sure asks again until [`reap`] finds none.
pub fn signal(signal: Signal, which: impl Fn(Pid) -> bool) {
    for (number, found_below) in all() {
        let Some(pid) = Pid::from_raw(number.cast_signed()).filter(|pid| which(*pid)) else { continue };
        let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // The number may have gone to another process before it was opened, which then has another parent; who has lost its parent
        // meanwhile is a child of this process.
        if parent(number).is_some_and(|parent| parent == found_below || parent == std::process::id()) {
            send(&pidfd, signal);
        }
    }
}

fn send(pidfd: &OwnedFd, signal: Signal) {
    if let Err(errno) = rustix::process::pidfd_send_signal(pidfd.as_fd(), signal) {
        tracing::debug!(%errno, "signal not sent");
    }
}

/// The numbers of all descendants that are to be seen, and of their parents.
fn all() -> Vec<(u32, u32)> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut next) = (Vec::new(), vec![std::process::id()]);
    while let Some(above) = next.pop() {
        let below = children.remove(&above).unwrap_or_default();
        found.extend(below.iter().map(|pid| (*pid, above)));
        next.extend(below);
    }
    found
}

/// The parent of a process. Not from `stat`, which waits for a process that runs another program.
fn parent(pid: u32) -> Option<u32> {
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"PPid:"))?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}
