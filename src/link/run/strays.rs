//! What processes of a link have claimed and nobody works on: a link was killed, or its mount, before it knew what it was given.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{Dir, DirEntry, Mode, OFlags};

use super::super::local::outgoing::{self, Nack};
use super::super::local::queue::Queue;
use super::super::status::Status;
use crate::error::is_mount_gone;

/// Gives back at once what is claimed in the name of this process, or of those of the link before it, but for these deliveries: else
/// it would come back when its leases are over, behind others. What is done with meanwhile is nobody's concern; an error is one of the
/// mount, and then it is to be tried again.
pub fn give_back(queue: &Queue, status: &mut Status, but: &[OsString]) -> io::Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    let before = status.now.heir_of.iter().map(|pid| (*pid, true));
    let owners: Vec<(u32, String, bool)> = before
        .chain([(std::process::id(), false)])
        .map(|(pid, is_before)| (pid, format!("pid={pid} uid={uid}"), is_before))
        .collect();
    // Through descriptors: by its path the queue is not there as soon as its mount goes, as if it had been removed. All names first: the
    // listing of a directory that changes meanwhile need not have them all.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listing = Dir::new(rustix::fs::openat(queue.claimed(), ".", flags, Mode::empty())?)?;
    let names = listing.collect::<Result<Vec<_>, _>>()?;
    let claimed = Path::new("/proc/self/fd").join(queue.claimed().as_raw_fd().to_string());
    for name in names.iter().map(DirEntry::file_name) {
        let path = claimed.join(OsStr::from_bytes(name.to_bytes()));
        let attribute = |name: &str| {
            let mut value = [0; 1024];
            match rustix::fs::lgetxattr(&path, name, &mut value) {
                Err(errno) if is_mount_gone(&errno.into()) => Err(errno),
                length => Ok(value[..length.unwrap_or(0)].to_vec()),
            }
        };
        let (owner, delivery) = (attribute("user.mq.claimed_by")?, attribute("user.mq.delivery")?);
        let is_kept = || but.iter().any(|name| delivery.ends_with(name.as_bytes()));
        let Some((pid, _, is_before)) = owners.iter().find(|(_, other, _)| other.as_bytes() == owner) else { continue };
        if is_kept() || *is_before && is_anothers(*pid, &attribute("user.mq.claimed_at")?) {
            continue;
        }
        match outgoing::nack(queue, OsStr::from_bytes(&delivery), Nack::Now, "") {
            Err(error) if is_mount_gone(&error) => return Err(error),
            _ => {}
        }
    }
    status.inherited();
    Ok(())
}

/// Whether the number of a process that has ended was another's already when it claimed something, and that one lives: it may be a
/// worker. Numbers are used again soon where many processes are started.
fn is_anothers(pid: u32, claimed_at: &[u8]) -> bool {
    let claimed_at = std::str::from_utf8(claimed_at).ok().and_then(|text| humantime::parse_rfc3339(text).ok());
    match (started(pid), claimed_at) {
        (Some(started), Some(claimed_at)) => started <= claimed_at,
        (started, _) => started.is_some(),
    }
}

/// When a process was started, if it lives.
fn started(pid: u32) -> Option<SystemTime> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may have anything in it; the time is the 20th word after it.
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    // SAFETY: a call without pointers.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|ticks| *ticks > 0)?;
    let since_boot = Duration::from_millis(ticks * 1000 / per_second);
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let uptime = Duration::new(uptime.tv_sec.unsigned_abs(), u32::try_from(uptime.tv_nsec).ok()?);
    SystemTime::now().checked_sub(uptime.saturating_sub(since_boot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_was_used_again_later_is_nobody_elses() {
        let at = |time: SystemTime| humantime::format_rfc3339_millis(time).to_string().into_bytes();
        let (pid, now) = (std::process::id(), SystemTime::now());
        assert!(is_anothers(pid, &at(now + Duration::from_secs(1))));
        assert!(!is_anothers(pid, &at(started(pid).unwrap() - Duration::from_secs(1))));
        assert!(is_anothers(pid, b"when?"));
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        assert!(!is_anothers(ended.id(), &at(now)));
    }
}
