//! What `/proc` tells about the processes that ask.
//!
//! A FUSE request carries the id of the asking *thread*; 0 stands for a process of another pid namespace, of which
//! nothing can be known: every question about it is answered with nothing, false or empty. So is every question about
//! a process that is gone.

use std::ffi::CStr;
use std::fs;
use std::io::{self, Cursor, Write};

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

pub use crate::queue::worker::ProcessId;

/// The kernel's `PF_EXITING`: the task is on its way out and only closes what it had open.
const EXITING: u32 = 0x4;

/// The bit of `CAP_SYS_PTRACE` in a set of capabilities.
const CAP_SYS_PTRACE: u64 = 1 << 19;

/// What one line of `/proc/TID/stat` says about a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// The thread.
    pub tid: u32,
    /// The parent of its process.
    pub parent: u32,
    /// The session (`setsid`) of its process.
    pub session: u32,
    /// When the thread started, in clock ticks since boot. Only a leader's start is that of its process.
    pub start: u64,
    /// It is on its way out.
    pub exiting: bool,
    /// The wait status it ends with. 0 when not visible to us: see [`sees_exit_codes_of_others`].
    pub exit_code: u32,
}

impl ProcessStat {
    /// It is dying of a signal. The exit code alone does not say so: a stopped process shows its signal there too.
    pub fn killed(&self) -> bool {
        self.exiting && self.exit_code & 0x7f != 0
    }
}

/// We see the processes of the whole machine, and not only those of a container.
pub fn sees_all_processes() -> bool {
    // The inode of the initial namespace is fixed: PROC_PID_INIT_INO in the kernel's include/linux/proc_ns.h.
    const INITIAL: u64 = 0xEFFF_FFFC;
    fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| std::os::unix::fs::MetadataExt::ino(&namespace) == INITIAL)
}

/// An open `/proc/TID/statm`: it stays that of the same thread, and reading it again costs half of opening it.
pub(super) struct StatmFile(OwnedFd);

impl StatmFile {
    /// Opens it.
    pub fn open(tid: u32) -> Option<Self> {
        open_proc(tid, "statm").map(Self)
    }

    /// The thread is on its way out and closes what it had open: it has no memory any more.
    pub fn exiting(&self) -> bool {
        self.pages().is_some_and(|(all, _)| all == 0)
    }

    /// The process is about to run another program, and closes what that is not to have: its memory holds no program yet.
    pub fn between_programs(&self) -> bool {
        self.pages().is_some_and(|(all, program)| all > 0 && program == 0)
    }

    /// The size of its memory, and of the program in it, in pages.
    fn pages(&self) -> Option<(u64, u64)> {
        let mut line = [0; 160];
        let length = rustix::io::pread(&self.0, &mut line, 0).ok()?;
        let mut fields = std::str::from_utf8(&line[..length]).ok()?.split_ascii_whitespace();
        Some((fields.next()?.parse().ok()?, fields.nth(2)?.parse().ok()?))
    }
}

/// Reads `/proc/TID/stat`: three system calls and no allocation.
///
/// Ask it only of a process that waits for an answer of ours to something else than a close, or that is exiting. While a process
/// runs another program, kernels that have "proc: protect ptrace_may_access() with exec_update_lock" make the reader wait until it
/// has closed its close-on-exec descriptors; and that close waits for us.
pub fn stat(tid: u32) -> Option<ProcessStat> {
    read_stat(tid).map(|(stat, _)| stat)
}

/// The process that the thread belongs to; the thread itself if it is gone.
pub fn tgid(tid: u32) -> u32 {
    // Most askers lead their process, and this takes a tenth of the time that reading `status` takes.
    if is_thread_of(tid, tid) {
        return tid;
    }
    status(tid).and_then(|text| field(&text, "Tgid")?.parse().ok()).unwrap_or(tid)
}

/// Whether that thread belongs to the process of that number now.
pub fn is_thread_of(tid: u32, process: u32) -> bool {
    let (Ok(thread), Ok(group)) = (i32::try_from(tid), i32::try_from(process)) else { return false };
    // Signal 0 is delivered to nobody, but the kernel first looks whether the thread is in the group.
    // SAFETY: the call takes three numbers and no pointer.
    let answer = unsafe { libc::syscall(libc::SYS_tgkill, group, thread, 0) };
    // EPERM: it is there, though we may not send it a signal.
    answer == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// The time now, in the clock ticks since boot in which the kernel tells when processes started.
pub fn ticks() -> u64 {
    /// What `/proc` counts in, whatever the kernel's own ticks are: `USER_HZ`, in a second.
    const PER_SECOND: u64 = 100;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (seconds, nanoseconds) = (now.tv_sec.cast_unsigned(), now.tv_nsec.cast_unsigned());
    seconds * PER_SECOND + nanoseconds / (1_000_000_000 / PER_SECOND)
}

/// The process that the thread belongs to.
pub fn identity(tid: u32) -> Option<ProcessId> {
    let tgid = tgid(tid);
    stat(tgid).map(|leader| ProcessId { tgid, start: leader.start })
}

/// The user as whom a process runs.
pub fn user(tgid: u32) -> Option<u32> {
    fs::metadata(format!("/proc/{tgid}")).ok().map(|found| std::os::unix::fs::MetadataExt::uid(&found))
}

/// The thread is on its way out and closes what it had open.
pub fn exiting(tid: u32) -> bool {
    StatmFile::open(tid).is_some_and(|file| file.exiting())
}

/// The session (`setsid`) of the thread's process. 0 is one like any other: that of the processes of a container whose session was
/// begun outside of it.
pub fn session(tid: u32) -> Option<u32> {
    if tid == 0 {
        return None;
    }
    // Not rustix's, whose answer cannot be 0.
    // SAFETY: the call takes a number and no pointer.
    let session = unsafe { libc::getsid(i32::try_from(tid).ok()?) };
    u32::try_from(session).ok()
}

/// The parent and the session of the thread's process.
pub fn parent_and_session(tid: u32) -> Option<(u32, u32)> {
    let parent = field(&status(tid)?, "PPid")?.parse().ok()?;
    Some((parent, session(tid)?))
}

/// So many generations are followed from a process upwards.
const GENERATIONS: usize = 64;

/// Whether the thread's process is the process `ancestor`, or descends from it, in whatever session.
pub fn is_below(tid: u32, ancestor: u32) -> bool {
    let mut pid = tgid(tid);
    for _ in 0..GENERATIONS {
        if pid == ancestor {
            return true;
        }
        let parent = status(pid).and_then(|text| field(&text, "PPid")?.parse().ok());
        match parent {
            Some(parent) if parent > 0 => pid = parent,
            _ => return false,
        }
    }
    false
}

/// The process still runs. A zombie does not, though it keeps its id until its parent asks how it ended.
pub fn alive(process: ProcessId) -> bool {
    // Its line would have to wait until it has closed what it had open, perhaps here.
    if StatmFile::open(process.tgid).is_some_and(|file| file.between_programs()) {
        return true;
    }
    read_stat(process.tgid).is_some_and(|(leader, runs)| runs && leader.start == process.start)
}

/// The process has ended, and has closed what it had open. Unlike [`alive`] it never waits for the process; one that has got the
/// id of another is taken for that, and one that cannot be looked at for one that runs.
pub fn is_over(process: ProcessId) -> bool {
    let text = match fs::read(format!("/proc/{}/status", process.tgid)) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)),
    };
    let ended = field(&text, "State").is_some_and(|state| state.starts_with(['Z', 'X']));
    // A leader that ended before its other threads is shown as a zombie too.
    ended && field(&text, "Threads").is_none_or(|threads| threads == "0" || threads == "1")
}

/// The supplementary groups of the thread.
pub fn groups(tid: u32) -> Vec<u32> {
    let Some(text) = status(tid) else {
        return Vec::new();
    };
    field(&text, "Groups").unwrap_or_default().split_ascii_whitespace().filter_map(|gid| gid.parse().ok()).collect()
}

/// The user who has started the thread's process, or whatever became of it since.
pub fn real_user(tid: u32) -> Option<u32> {
    field(&status(tid)?, "Uid")?.split_ascii_whitespace().next()?.parse().ok()
}

/// The permission bits that the thread's process takes from what it creates.
pub fn umask(tid: u32) -> Option<u32> {
    u32::from_str_radix(field(&status(tid)?, "Umask")?, 8).ok()
}

/// What the thread is blocked in should end: a signal that it does not block waits for it or its process, or it is gone.
/// False of a thread that is not visible from here.
pub fn is_interrupted(tid: u32) -> bool {
    tid != 0 && status(tid).is_none_or(|text| pending(&text))
}

/// The thread is being killed, or is gone: what it waits for nobody needs any more. False of a thread that is not visible from here.
///
/// Whatever kills a process, the kernel makes it a SIGKILL for each of its threads.
pub fn is_killed(tid: u32) -> bool {
    const KILL: u64 = 1 << (libc::SIGKILL - 1);
    tid != 0 && status(tid).is_none_or(|text| waiting_signals(&text) & KILL != 0)
}

/// As [`is_interrupted`], for a thread that writes: programs that are told that a write was interrupted mostly give up, so it is
/// not for the signals that would do nothing if nobody had asked for them (a child ended, a window has another size).
pub fn is_stopped_writing(tid: u32) -> bool {
    const QUIET: u64 = 1 << (libc::SIGCHLD - 1) | 1 << (libc::SIGWINCH - 1) | 1 << (libc::SIGURG - 1);
    tid != 0 && status(tid).is_none_or(|text| waiting_signals(&text) & !QUIET != 0)
}

/// The thread closes what it had open because it ends, or because it runs another program: nothing can interrupt it then.
pub fn is_leaving(tid: u32) -> bool {
    StatmFile::open(tid).is_some_and(|file| file.exiting() || file.between_programs())
}

/// We hold `CAP_SYS_PTRACE`, without which the kernel shows the exit codes of processes of other users as 0 and a
/// killed writer of theirs cannot be told from one that ended.
pub fn sees_exit_codes_of_others() -> bool {
    // Of ourselves: the effective set belongs to each thread, and all of ours have the same.
    status(std::process::id()).is_some_and(|text| set(&text, "CapEff") & CAP_SYS_PTRACE != 0)
}

/// Reads and parses the line; also tells whether the process runs, of which `tid` must be the leader.
fn read_stat(tid: u32) -> Option<(ProcessStat, bool)> {
    let file = open_proc(tid, "stat")?;
    // 52 numbers of at most 20 digits and a name of at most 64 bytes fit.
    let mut line = [0; 1280];
    let length = rustix::io::pread(&file, &mut line, 0).ok()?;
    parse_stat(tid, &line[..length])
}

fn open_proc(tid: u32, name: &str) -> Option<OwnedFd> {
    if tid == 0 {
        return None;
    }
    let mut path = [0; 32];
    write!(Cursor::new(&mut path[..]), "/proc/{tid}/{name}\0").ok()?;
    let path = CStr::from_bytes_until_nul(&path).ok()?;
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Parses a line of proc_pid_stat(5), whose fields count from 1. The name, field 2, may hold anything, even `)`.
fn parse_stat(tid: u32, line: &[u8]) -> Option<(ProcessStat, bool)> {
    let name_end = line.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&line[name_end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    // Fields 3 to 52; `nth` skips what lies between those we want.
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?; // 4
    let session = fields.nth(1)?.parse().ok()?; // 6
    let flags: u32 = fields.nth(2)?.parse().ok()?; // 9
    let threads: u32 = fields.nth(10)?.parse().ok()?; // 20
    let start = fields.nth(1)?.parse().ok()?; // 22
    let exit_code = fields.nth(29)?.parse().ok()?; // 52
    let stat = ProcessStat { tid, parent, session, start, exiting: flags & EXITING != 0, exit_code };
    // A leader that ended before its other threads is shown as a zombie too, but its process runs on.
    let runs = !matches!(state, "Z" | "X") || threads > 1;
    Some((stat, runs))
}

/// The text of `/proc/TID/status`. A process's name in it need not be UTF-8, the rest is.
fn status(tid: u32) -> Option<String> {
    if tid == 0 {
        return None;
    }
    let bytes = fs::read(format!("/proc/{tid}/status")).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The value of one line of a status text. The kernel escapes line ends in the process's name: no line is forged.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The set of bits that one line of a status text shows.
fn set(text: &str, name: &str) -> u64 {
    field(text, name).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

fn waiting_signals(status: &str) -> u64 {
    (set(status, "SigPnd") | set(status, "ShdPnd")) & !set(status, "SigBlk")
}

fn pending(status: &str) -> bool {
    waiting_signals(status) != 0
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
