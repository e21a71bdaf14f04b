//! Tests of the facts about processes, with real children.

use super::*;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// A child that is killed and reaped when the test ends.
struct Process(Child);

impl Process {
    /// A child that sleeps.
    fn sleep() -> Process {
        Process(Command::new("sleep").arg("60").spawn().unwrap())
    }

    /// A shell that runs `script`, then says that it got there (what it prints), then waits for its input to end.
    fn sh(script: &str) -> Process {
        let child = Command::new("sh")
            .args(["-c", &format!("{script}\necho; read -r line")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut process = Process(child.unwrap());
        process.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        process
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::yield_now();
    }
}

fn own_tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

#[test]
fn a_running_child_is_described() {
    let child = Process::sleep();
    let seen = stat(child.pid()).unwrap();
    // SAFETY: a call with a number. It may be 0, which rustix cannot tell.
    let session = unsafe { libc::getsid(0) } as u32;
    assert_eq!((seen.tid, seen.parent, seen.session), (child.pid(), std::process::id(), session));
    assert!(seen.start >= stat(std::process::id()).unwrap().start);
    assert!(!seen.exiting && !seen.killed() && !exiting(child.pid()));
    assert_eq!(parent_and_session(child.pid()), Some((seen.parent, seen.session)));
    assert_eq!(tgid(child.pid()), child.pid());
    assert_eq!(identity(child.pid()), Some(ProcessId { tgid: child.pid(), start: seen.start }));
}

#[test]
fn a_child_that_was_killed_and_one_that_ended_are_told_apart() {
    let killed = Process::sleep();
    let mut ended = Process::sh("exit_code=7");
    killed.signal(Signal::TERM);
    drop(ended.0.stdin.take());
    // Not reaped, both stay as zombies, with what they ended with.
    until("both zombies", || {
        let runs = |process: &Process| read_stat(process.pid()).unwrap().1;
        !runs(&killed) && !runs(&ended)
    });
    let (killed, ended) = (stat(killed.pid()).unwrap(), stat(ended.pid()).unwrap());
    assert!(killed.exiting && killed.killed(), "{killed:?}");
    assert_eq!(killed.exit_code & 0x7f, Signal::TERM.as_raw() as u32);
    assert!(ended.exiting && !ended.killed(), "{ended:?}");
    assert!(exiting(killed.tid) && exiting(ended.tid));
    // `read` at the end of its input answers 1.
    assert_eq!(ended.exit_code, 1 << 8);
}

#[test]
fn what_started_before_is_told_from_what_started_since() {
    let before = ticks();
    let child = Process::sleep();
    let start = stat(child.pid()).unwrap().start;
    assert!(before <= start && start <= ticks(), "{before} {start}");
}

#[test]
fn a_stopped_child_is_not_killed() {
    let child = Process::sleep();
    child.signal(Signal::STOP);
    until("the stop", || stat(child.pid()).unwrap().exit_code != 0);
    assert!(!stat(child.pid()).unwrap().killed());
}

#[test]
fn a_process_lives_until_it_is_a_zombie() {
    let mut child = Process::sleep();
    let process = identity(child.pid()).unwrap();
    assert!(alive(process) && !is_over(process));
    // Before its program is there it is given the benefit of the doubt.
    until("another process with the same id", || !alive(ProcessId { start: process.start + 1, ..process }));
    child.signal(Signal::KILL);
    until("the zombie", || !alive(process) && is_over(process));
    assert!(stat(child.pid()).is_some(), "the zombie is still there, and is not alive");
    child.0.wait().unwrap();
    assert!(!alive(process) && is_over(process));
    assert_eq!((stat(process.tgid), identity(process.tgid)), (None, None));
    assert_eq!(tgid(process.tgid), process.tgid);
}

#[test]
fn a_thread_belongs_to_its_process() {
    let own = identity(std::process::id()).unwrap();
    let (thread_id, tids) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        thread_id.send(own_tid()).unwrap();
        ended.recv().unwrap_err();
    });
    let tid = tids.recv().unwrap();
    assert_ne!(tid, own.tgid);
    assert_eq!(tgid(tid), own.tgid);
    assert!(is_thread_of(tid, own.tgid) && !is_thread_of(tid, tid) && !is_thread_of(tid, 1) && !is_thread_of(0, 0));
    assert_eq!(identity(tid), Some(own));
    assert_eq!(stat(tid).unwrap().tid, tid);
    drop(end);
    thread.join().unwrap();
}

#[test]
fn the_groups_are_those_that_the_process_has() {
    let mut seen = groups(own_tid());
    let mut expected: Vec<u32> = rustix::process::getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect();
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected);
}

#[test]
fn a_signal_is_pending_unless_it_is_blocked_or_ignored() {
    // A stopped process keeps what it is sent until it goes on.
    let child = Process::sleep();
    assert!(!is_interrupted(child.pid()));
    child.signal(Signal::STOP);
    until("the stop", || stat(child.pid()).unwrap().exit_code != 0);
    child.signal(Signal::TERM);
    assert!(is_interrupted(child.pid()));

    let deaf = Process::sh("trap '' TERM");
    deaf.signal(Signal::STOP);
    deaf.signal(Signal::TERM);
    until("no signal but the stop, which is taken", || !is_interrupted(deaf.pid()));
}

#[test]
fn blocked_signals_do_not_count() {
    let text = |pending: &str, shared: &str, blocked: &str| {
        format!("Name:\tx\nSigPnd:\t{pending}\nShdPnd:\t{shared}\nSigBlk:\t{blocked}\n")
    };
    assert!(!pending(&text("0000", "0000", "0000")));
    assert!(pending(&text("4000", "0000", "0000")));
    assert!(pending(&text("0000", "4000", "0002")));
    assert!(!pending(&text("4000", "4000", "4000")));
    assert!(pending(&text("8000000000000000", "4000", "4000")));
}

#[test]
fn another_pid_namespace_is_nobody() {
    assert_eq!(stat(0), None);
    assert_eq!((identity(0), session(0), parent_and_session(0)), (None, None, None));
    assert!(!exiting(0));
    assert_eq!(tgid(0), 0);
    assert!(!alive(ProcessId { tgid: 0, start: 0 }));
    assert!(groups(0).is_empty());
    assert!(!is_interrupted(0));
    for gone in [u32::MAX, i32::MAX as u32] {
        assert_eq!(tgid(gone), gone);
    }
    assert_eq!(stat(u32::MAX), None);
    assert!(is_interrupted(i32::MAX as u32), "whoever is gone waits for nothing");
}

/// A line as the kernel writes it, with a name that tries to look like the fields after it.
fn line(state: &str, flags: u32, threads: u32, exit_code: u32) -> String {
    let zeros = |count| "0 ".repeat(count);
    format!("42 (a) Z 1 ) {state} 7 8 9 0 -1 {flags} {}{threads} 0 5555 {}{exit_code}\n", zeros(10), zeros(29))
}

#[test]
fn the_line_is_parsed_whatever_the_name() {
    let (parsed, runs) = parse_stat(42, line("S", 0x400, 3, 0).as_bytes()).unwrap();
    let expected = ProcessStat { tid: 42, parent: 7, session: 9, start: 5555, exiting: false, exit_code: 0 };
    assert_eq!((parsed, runs), (expected, true));
    let (parsed, runs) = parse_stat(42, line("Z", 0x404, 1, 9).as_bytes()).unwrap();
    assert_eq!((parsed, runs), (ProcessStat { exiting: true, exit_code: 9, ..expected }, false));
    assert!(parsed.killed());
    assert!(parse_stat(42, line("Z", 0x4, 2, 0).as_bytes()).unwrap().1, "other threads run on");
    assert_eq!(parse_stat(42, b""), None);
    assert_eq!(parse_stat(42, b"42 (a) S 1 2"), None);
}

#[test]
fn the_capability_is_what_the_kernel_says() {
    let sets = rustix::thread::capabilities(None).unwrap();
    assert_eq!(sees_exit_codes_of_others(), sets.effective.contains(rustix::thread::CapabilitySet::SYS_PTRACE));
}
