//! The processes that asked lately. What `/proc` tells of a process costs as much as a write to the database, and a worker or
//! producer asks again and again.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::locks::{self, Ranked};
use crate::queue::worker::{ProcessId, Worker};

use super::process::{self, ProcessStat, StatmFile};

/// So many processes are remembered, each with two descriptors.
const REMEMBERED: usize = 64;
/// The parent and the session of a process may change; they are read again after so long.
const FRESH: Duration = Duration::from_secs(1);

/// Remembers the processes that asked lately.
#[derive(Default)]
pub struct Workers {
    /// The newest first.
    known: Ranked<VecDeque<Known>, { locks::WORKERS }>,
}

struct Known {
    tid: u32,
    /// What a claim remembers, once that was asked, and when.
    worker: Option<(Worker, Instant)>,
    /// Opened when the process asks a second time: most ask once.
    open: Option<Open>,
}

struct Open {
    pidfd: OwnedFd,
    statm: StatmFile,
}

impl Open {
    fn of(tid: u32) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(tid).ok()?)?;
        Some(Self { pidfd: pidfd_open(pid, PidfdFlags::empty()).ok()?, statm: StatmFile::open(tid)? })
    }

    /// Whether it is still the same process that has this number: a number is given to another only when its process is
    /// gone, and then the descriptor says so.
    fn lives(&self) -> bool {
        let (no_signal, no_info, no_flags) = (0, std::ptr::null::<libc::siginfo_t>(), 0);
        // SAFETY: signal 0 does nothing; no pointer is followed.
        let answer =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), no_signal, no_info, no_flags) };
        // Not being allowed to send a signal means that there is somebody to send it to.
        answer == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
    }
}

impl Workers {
    /// The process of a thread, as a claim remembers it; `None` when it is not visible from here.
    pub fn worker(&self, tid: u32) -> Option<Worker> {
        let mut table = self.known.lock();
        let known = meet(&mut table, tid);
        if let (Some((worker, read)), Some(_)) = (known.worker, &known.open)
            && read.elapsed() < FRESH
        {
            return Some(worker);
        }
        known.worker = read(tid).map(|worker| (worker, Instant::now()));
        known.worker.map(|(worker, _)| worker)
    }

    /// A thread that closes a file does so because it is on its way out.
    pub fn exiting(&self, tid: u32) -> bool {
        let mut table = self.known.lock();
        let known = meet(&mut table, tid);
        known.open.as_ref().map_or_else(|| process::exiting(tid), |open| open.statm.exiting())
    }

    /// How a thread that closes a file ends, if it does so because it is on its way out.
    pub fn ending(&self, tid: u32) -> Option<ProcessStat> {
        if self.exiting(tid) { process::stat(tid).filter(|stat| stat.exiting) } else { None }
    }

    /// A thread that closes a file does so because its process is dying of a signal.
    pub fn killed(&self, tid: u32) -> bool {
        self.ending(tid).is_some_and(|stat| stat.killed())
    }

    /// A thread that closes a file does so because its process is dying of a signal, or ends with a status that is not 0.
    pub fn failed(&self, tid: u32) -> bool {
        self.ending(tid).is_some_and(|stat| stat.exit_code != 0)
    }
}

/// The entry of a thread, now the newest. Its descriptors are opened at the second meeting, and again when the number has
/// gone to another process.
fn meet(table: &mut VecDeque<Known>, tid: u32) -> &mut Known {
    let known = match table.iter().position(|known| known.tid == tid).and_then(|at| table.remove(at)) {
        Some(known) if known.open.as_ref().is_some_and(Open::lives) => known,
        Some(_) => Known { tid, worker: None, open: Open::of(tid) },
        None => Known { tid, worker: None, open: None },
    };
    table.truncate(REMEMBERED - 1);
    table.push_front(known);
    &mut table[0]
}

fn read(tid: u32) -> Option<Worker> {
    let tgid = process::tgid(tid);
    let leader = process::stat(tgid)?;
    let grandparent = process::parent_and_session(leader.parent).map_or(0, |(parent, _)| parent);
    let process = ProcessId { tgid, start: leader.start };
    Some(Worker { process, parent: leader.parent, grandparent, session: leader.session })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_the_same_each_time_and_another_when_it_is_gone() {
        let workers = Workers::default();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let tid = child.id();
        let first = workers.worker(tid).unwrap();
        assert_eq!(first.parent, std::process::id());
        for _ in 0..3 {
            assert_eq!(workers.worker(tid), Some(first));
        }
        assert!(!workers.exiting(tid) && !workers.killed(tid));
        assert!(workers.known.lock()[0].open.as_ref().unwrap().lives());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!workers.known.lock()[0].open.as_ref().unwrap().lives());
        assert_eq!(workers.worker(tid), None);
        assert!(!workers.exiting(tid) && !workers.killed(tid));
    }

    #[test]
    fn the_table_is_bounded() {
        let workers = Workers::default();
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids: Vec<u32> = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        for pid in pids.iter().cycle().take(200) {
            workers.worker(*pid);
        }
        assert!(workers.known.lock().len() <= REMEMBERED);
    }
}
