//! `mqfs consume` while it runs: waiting, working in parallel, ending, being killed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::*;
use crate::extra::*;

const MQFS: &str = env!("CARGO_BIN_EXE_mqfs");

/// Starts `mqfs consume q OPTIONS -- bash -c SCRIPT`. It is nobody's sibling, and the process of the `Running` is it.
fn start(m: &Mount, options: &[&str], script: &str) -> Running {
    m.start_command(Command::new(MQFS).args(["consume", "q"]).args(options).args(["--", "bash", "-c", script]))
}

/// Ends like a file's appearance: the command has begun, or may go on.
const BEGIN_AND_WAIT: &str = "touch $T/began-$MQFS_NAME; until [ -e $T/go ]; do sleep 0.01; done";

fn began(m: &Mount, name: &str) -> bool {
    m.scratch().join(format!("began-{name}")).exists()
}

fn go(m: &Mount) {
    fs::write(m.scratch().join("go"), "").unwrap();
}

fn state_of(q: &Path, x: &Path) -> String {
    state(q, x).unwrap_or_else(|| "gone".to_owned())
}

/// It waits for messages without asking again and again.
#[test]
fn waiting_costs_nothing() {
    let m = Mount::new();
    let q = m.queue("q");
    let worker = start(&m, &[], "cat >> $T/out");
    fs::write(q.join("x"), "1").unwrap();
    wait_until(|| m.stats("q")["acked_total"] == 1);
    let requests = || m.stats("")["requests_total"].as_u64().unwrap();
    // Acknowledged, it goes back to waiting. Asking every 100 ms would be 60 requests and more in this time; the question itself
    // takes 15.
    wait_until(|| {
        let before = requests();
        std::thread::sleep(Duration::from_secs(2));
        requests() - before < 30
    });
    fs::write(q.join("y"), "2").unwrap();
    wait_until(|| m.stats("q")["acked_total"] == 2);
    assert_eq!(fs::read_to_string(m.scratch().join("out")).unwrap(), "12");
    worker.signal(libc::SIGTERM);
    assert_eq!(worker.finish().ok(), "");
}

/// `-j 3`: none of three commands ends before all have begun.
#[test]
fn commands_run_in_parallel() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 7);
    let barrier = "touch $T/$MQFS_NAME; until [ $(ls $T | wc -l) -ge 3 ]; do sleep 0.01; done; cat >> $T/.out";
    start(&m, &["-j", "3", "--until-empty"], barrier).finish().ok();
    assert_eq!(fs::read_to_string(m.scratch().join(".out")).unwrap().len(), 14);
    assert_eq!(m.bodies("q").len(), 0);
}

/// No more than so many run at a time.
#[test]
fn no_more_are_claimed_than_run() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 5);
    let worker = start(&m, &["-j2", "--until-empty"], BEGIN_AND_WAIT);
    wait_until(|| began(&m, "m0") && began(&m, "m1"));
    holds_for(Duration::from_millis(100), || m.stats("q")["claimed"] == 2);
    go(&m);
    worker.finish().ok();
}

/// Several workers share a queue, and each message is worked on once.
#[test]
fn many_workers() {
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    let workers: Vec<Running> = (0..4).map(|_| start(&m, &["-j2"], "echo $MQFS_NAME >> $T/out")).collect();
    m.fill(&q, 120);
    wait_until(|| m.stats("q")["acked_total"] == 120);
    for worker in workers {
        worker.signal(libc::SIGINT);
        worker.finish().ok();
    }
    let out = fs::read_to_string(m.scratch().join("out")).unwrap();
    let mut names: Vec<&str> = out.lines().collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!((out.lines().count(), names.len()), (120, 120));
    assert_eq!(m.stats("q")["claims_total"], 120);
}

/// The lease is renewed while the command runs, whether it reads the message or not.
#[test]
fn the_lease_is_renewed_while_the_command_runs() {
    let m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=200ms"]);
    let x = m.message(&q, "x", "");
    let worker = start(&m, &["--until-empty"], &format!("exec 0<&-; {BEGIN_AND_WAIT}"));
    wait_until(|| began(&m, "x"));
    let first = deadline(&q, &x);
    wait_until(|| deadline(&q, &x) >= first + Duration::from_millis(500));
    assert_eq!((deliveries(&q, &x), state_of(&q, &x).as_str()), (1, "claimed"));
    go(&m);
    worker.finish().ok();
    assert_eq!(m.stats("q")["expired_total"], 0);
}

/// "SIGTERM [...]: drain = stop claiming, let running commands finish"
#[test]
fn a_signal_lets_the_commands_finish() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let m = Mount::new();
        let q = m.queue("q");
        m.fill(&q, 3);
        let mut worker = start(&m, &["-j2"], BEGIN_AND_WAIT);
        wait_until(|| began(&m, "m0") && began(&m, "m1"));
        worker.signal(signal);
        holds_for(Duration::from_millis(100), || worker.is_running() && m.stats("q")["claimed"] == 2);
        go(&m);
        worker.finish().ok();
        assert_eq!(m.bodies("q"), ["m2"]);
        assert_eq!(m.stats("q")["claims_total"], 2, "nothing more was claimed");
    }
}

/// Ctrl-C is for the worker and not for its commands.
#[test]
fn an_interrupt_from_the_terminal_lets_the_commands_finish() {
    let m = Mount::new();
    let q = m.queue("q");
    m.message(&q, "x", "");
    let worker = m.spawn_session(&format!("exec {MQFS} consume q -- bash -c '{BEGIN_AND_WAIT}'"));
    wait_until(|| began(&m, "x"));
    // SAFETY: a call without pointers; the group is that of the worker, which leads its session.
    assert_eq!(unsafe { libc::kill(-(worker.pid() as i32), libc::SIGINT) }, 0);
    go(&m);
    worker.finish().ok();
    assert_eq!(m.bodies("q").len(), 0);
}

/// "a second signal: SIGTERM to the children; what they do not finish is given back now"
#[test]
fn a_second_signal_ends_the_commands() {
    let m = Mount::new();
    let q = m.queue("q");
    let (x, y) = (m.message(&q, "x", ""), m.message(&q, "y", ""));
    let script = "[ $MQFS_NAME = x ] || trap 'exit 0' TERM; touch $T/began-$MQFS_NAME; sleep 1000 & wait $!";
    let worker = start(&m, &["-j2"], script);
    wait_until(|| began(&m, "x") && began(&m, "y"));
    worker.signal(libc::SIGTERM);
    wait_until(|| process_is_asleep_with_no_signal(worker.pid()));
    worker.signal(libc::SIGTERM);
    let ran = worker.finish();
    assert_eq!(ran.code(), Some(8), "{ran:?}");
    assert!(ran.stderr.contains("killed by signal 15") && ran.stderr.contains("; given back"), "{ran:?}");
    assert_eq!(state_of(&q, &x), "ready", "at once");
    assert_eq!(state_of(&q, &y), "gone", "it finished all the same");
}

/// Whether the signals sent so far have been taken.
fn process_is_asleep_with_no_signal(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let pending = |key: &str| !status.lines().any(|line| line.starts_with(key) && line.ends_with("0000000000000000"));
    !pending("SigPnd:") && !pending("ShdPnd:")
}

/// "if mqfs consume itself is killed -9": its commands end, and everything is delivered again.
#[test]
fn a_worker_that_is_killed_loses_nothing() {
    let m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=500ms"]);
    m.fill(&q, 5);
    let worker = start(&m, &["-j3"], "echo $$ >> $T/pids; touch $T/began-$MQFS_NAME; exec sleep 1000");
    wait_until(|| (0..3).all(|n| began(&m, &format!("m{n}"))));
    worker.signal(libc::SIGKILL);
    worker.finish();
    let pids = fs::read_to_string(m.scratch().join("pids")).unwrap();
    for pid in pids.lines() {
        wait_until(|| !Path::new("/proc").join(pid).exists() || is_zombie(pid.parse().unwrap()));
    }
    wait_until(|| m.stats("q")["ready"] == 5);
    start(&m, &["--until-empty"], "echo $MQFS_NAME $MQFS_DELIVERIES >> $T/out").finish().ok();
    assert_eq!(fs::read_to_string(m.scratch().join("out")).unwrap(), "m0 2\nm1 2\nm2 2\nm3 1\nm4 1\n");
}

#[test]
fn the_queue_vanishes() {
    let m = Mount::new();
    m.queue("q");
    let worker = start(&m, &[], "true");
    wait_until(|| !m.sh(&format!("ls -l /proc/{}/fd | grep .mq/claim", worker.pid())).stdout.is_empty());
    m.sh("rmdir q").ok();
    let ran = worker.finish();
    ran.fails(": the queue is gone\n");
    assert_eq!(ran.code(), Some(9));
}

/// The mount goes away while a command runs: it finishes, and its message is acknowledged.
#[test]
fn the_mount_goes_away() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 2);
    let idle = start(&m, &["-j3", "--mount-wait=0s"], BEGIN_AND_WAIT);
    wait_until(|| began(&m, "m0") && began(&m, "m1"));
    m.signal(libc::SIGTERM);
    wait_until(|| !is_mounted(m.path()));
    go(&m);
    let ran = idle.finish();
    ran.fails(": the mount is gone\n");
    assert_eq!((ran.code(), ran.stderr.lines().count()), (Some(9), 1), "{ran:?}");
    assert!(m.wait_for_exit().success());
    m.start();
    assert_eq!(m.bodies("q").len(), 0, "what was done is acknowledged");
}

/// The server dies under it.
#[test]
fn the_server_is_killed() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 1);
    let worker = start(&m, &["--mount-wait=0s"], BEGIN_AND_WAIT);
    wait_until(|| began(&m, "m0"));
    m.kill9();
    go(&m);
    let ran = worker.finish();
    ran.fails("its claim cannot be ended");
    assert_eq!(ran.code(), Some(9), "{ran:?}");
    m.start();
    assert_eq!(m.bodies("q"), ["m0"], "it is delivered again");
}

/// On a terminal there is a line that says how it goes.
#[test]
fn progress_on_a_terminal() {
    let m = Mount::new();
    let q = m.queue_with("q", &["retry_delay=1h"]);
    m.fill(&q, 4);
    let run = |options: &str| {
        let command = format!("{MQFS} consume q --until-empty {options} -- bash -c '[ $MQFS_NAME != m2 ]'");
        m.sh(&format!("TERM=xterm script -qec \"{}\" /dev/null", command.replace('$', "\\$"))).stdout
    };
    let shown = run("");
    assert!(shown.contains("3 done, 1 failed, 0 running, 0 ready"), "{shown:?}");
    assert!(shown.contains("-m2: exit code 1 after"), "{shown:?}");
    m.fill(&q, 4);
    assert_eq!(run("--quiet"), "");
}
