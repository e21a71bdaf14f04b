//! What processes of a link have claimed and nobody works on: a link was killed, or its mount, before it knew what it was given.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{Dir, Mode, OFlags};

use super::super::local::outgoing::{self, Nack};
use super::super::local::queue::Queue;
use super::voice::Voice;
use crate::error::Refusal;

/// A process of the link that may have claimed something.
struct Owner {
    pid: u32,
    /// How messages name it that it has claimed.
    text: String,
    /// It is not this one.
    is_before: bool,
}

/// Gives back at once what is claimed in the name of this process, or of those of the link before it, but for these deliveries: else
/// it would come back when its leases are over, behind others. What is done with meanwhile is nobody's concern. What cannot be looked at
/// is told, and may be of those before, which are not forgotten then; an error is that the mount is gone: it is to be tried again.
pub fn give_back(queue: &Queue, voice: &mut Voice<'_>, but: &[OsString]) -> io::Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    let before = voice.status.now.heir_of.iter().map(|pid| (*pid, true));
    let owners: Vec<Owner> = before
        .chain([(std::process::id(), false)])
        .map(|(pid, is_before)| Owner { pid, text: format!("pid={pid} uid={uid}"), is_before })
        .collect();
    // Through descriptors: by its path the queue is not there as soon as its mount goes, as if it had been removed. All names first: the
    // listing of a directory that changes meanwhile need not have them all.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listing = Dir::new(rustix::fs::openat(queue.claimed(), ".", flags, Mode::empty())?)?;
    let names = listing.collect::<Result<Vec<_>, _>>()?;
    let claimed = Path::new("/proc/self/fd").join(queue.claimed().as_raw_fd().to_string());
    let mut all_known = true;
    for name in names.iter().map(|entry| OsStr::from_bytes(entry.file_name().to_bytes())) {
        if [".", ".."].map(OsStr::new).contains(&name) {
            continue;
        }
        let Err(error) = give_back_one(queue, &claimed.join(name), &owners, but) else { continue };
        match Refusal::of(&error) {
            Refusal::MountGone => return Err(error),
            Refusal::NotFound | Refusal::Stale | Refusal::NoAttribute | Refusal::Busy => {}
            _ => {
                voice.say(&format!("{}: cannot be given back: {error}", name.to_string_lossy()));
                all_known = false;
            }
        }
    }
    if all_known {
        voice.status.inherited();
    }
    Ok(())
}

fn give_back_one(queue: &Queue, path: &Path, owners: &[Owner], but: &[OsString]) -> io::Result<()> {
    let attribute = |name: &str| -> io::Result<Vec<u8>> {
        let mut value = [0; 1024];
        let length = rustix::fs::lgetxattr(path, name, &mut value)?;
        Ok(value[..length].to_vec())
    };
    let claimed_by = attribute("user.mq.claimed_by")?;
    let Some(owner) = owners.iter().find(|owner| owner.text.as_bytes() == claimed_by) else { return Ok(()) };
    let delivery = attribute("user.mq.delivery")?;
    let is_kept = but.iter().any(|name| delivery.ends_with(name.as_bytes()));
    if is_kept || owner.is_before && is_anothers(owner.pid, &attribute("user.mq.claimed_at")?) {
        return Ok(());
    }
    outgoing::nack(queue, OsStr::from_bytes(&delivery), Nack::Now, "")
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
