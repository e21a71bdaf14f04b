//! Who holds a claim, and what that process is on this machine.

use std::fs;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// A worker.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Worker {
    /// The number of its process as mqfs sees it; `None` when it is in a PID namespace that mqfs does not see.
    pub pid: Option<u32>,
    /// Its user.
    pub uid: Option<u32>,
    /// The command line of that process; `None` when there is none any more.
    pub process: Option<String>,
}

impl Worker {
    /// Of the value of `user.mq.claimed_by`: `pid=NUMBER uid=NUMBER`. A process that began after the claim is another one that
    /// got the same number.
    pub fn of(claimed_by: &str, since: Option<SystemTime>) -> Self {
        let number = |key: &str| {
            claimed_by.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse::<u32>().ok())
        };
        let pid = number("pid").filter(|pid| *pid != 0);
        let there = |pid: &u32| match (since, started(*pid)) {
            (Some(since), Some(started)) => started <= since + ROUNDING,
            (None, started) => started.is_some(),
            (_, None) => false,
        };
        let process = pid.filter(there).and_then(command_line);
        Self { pid, uid: number("uid"), process }
    }
}

/// The kernel counts the start of a process in ticks from the boot, and tells the boot in seconds.
const ROUNDING: Duration = Duration::from_millis(1100);

/// When a process began.
fn started(pid: u32) -> Option<SystemTime> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 22; the second, a name that may hold anything, ends in the last bracket.
    let ticks: u64 = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
    // SAFETY: the call takes a number.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|ticks| *ticks > 0)?;
    let ms = u128::from(ticks) * 1000 / u128::from(per_second);
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(boot) + Duration::from_millis(u64::try_from(ms).ok()?))
}

/// What a process runs; of a process that shows no arguments its name, in brackets as ps(1) has it.
fn command_line(pid: u32) -> Option<String> {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments = arguments.strip_suffix(b"\0").unwrap_or(&arguments);
    if !arguments.is_empty() {
        let words: Vec<_> = arguments.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        return Some(words.join(" "));
    }
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("[{}]", String::from_utf8_lossy(&name).trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_when_it_began() {
        let by = format!("pid={} uid=7", std::process::id());
        let own = Worker::of(&by, Some(SystemTime::now()));
        assert_eq!((own.pid, own.uid), (Some(std::process::id()), Some(7)));
        assert!(own.process.is_some_and(|line| line.contains("mqfs")));
        let before = SystemTime::now() - Duration::from_secs(3600 * 24 * 365);
        assert_eq!(Worker::of(&by, Some(before)).process, None, "another one has the number");
        let unseen = Worker::of("pid=0 uid=7", Some(SystemTime::now()));
        assert_eq!((unseen.pid, unseen.uid, unseen.process), (None, Some(7), None));
        assert_eq!(Worker::of("nonsense", None).pid, None);
    }
}
