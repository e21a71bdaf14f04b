//! `mqfs consume`: ending commands with all that they have started, and mounts that come back.

use std::fs;
use std::time::{Duration, SystemTime};

use crate::common::*;
use crate::consuming::*;
use crate::extra::*;

/// Starts a child that ignores SIGTERM, and one that has a session of its own and has lost its parent; `$T/pids` has them and the
/// command itself.
const STUBBORN: &str = "(trap '' TERM; echo $BASHPID >> $T/pids; exec sleep 1000) &
    (setsid bash -c 'trap \"\" TERM; echo $$ >> $T/pids; exec sleep 1000' &)
    echo $$ >> $T/pids; wait; sleep 1000";

/// "`--timeout` and shutdown end the whole process group [...] and a grandchild that called setsid"
#[test]
fn shutdown_ends_all_that_a_command_has_started() {
    let m = Mount::new();
    let q = m.queue("q");
    let x = m.message(&q, "x", "");
    let worker = start(&m, &["--grace=100ms"], STUBBORN);
    wait_until(|| noted(&m).len() == 3);
    worker.signal(libc::SIGTERM);
    wait_until(|| taken(worker.pid()));
    worker.signal(libc::SIGTERM);
    let ran = worker.finish();
    assert_eq!(ran.code(), Some(8), "{ran:?}");
    assert_eq!(noted(&m).into_iter().filter(|pid| lives(*pid)).count(), 0);
    assert_eq!(state(&q, &x).as_deref(), Some("ready"), "at once");
    assert_eq!(deliveries(&q, &x), 0, "an interruption is no delivery");
}

/// Whether the signals sent so far have been taken.
fn taken(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let none = |key: &str| status.lines().any(|line| line.starts_with(key) && line.ends_with("0000000000000000"));
    none("SigPnd:") && none("ShdPnd:")
}

#[test]
fn a_time_limit_ends_all_that_a_command_has_started() {
    let m = Mount::new();
    let q = m.queue_with("q", &["retry_delay=1h"]);
    let x = m.message(&q, "x", "");
    let ran = start(&m, &["--until-empty", "--timeout=3s", "--grace=100ms"], STUBBORN).finish();
    assert!(ran.stderr.contains(": timed out after "), "{ran:?}");
    assert_eq!(ran.code(), Some(1));
    assert_eq!(noted(&m).into_iter().filter(|pid| lives(*pid)).count(), 0);
    assert_eq!(state(&q, &x).as_deref(), Some("delayed"));
    assert_eq!(deliveries(&q, &x), 1);
}

/// A command that fails leaves nothing behind that works on while the message is another worker's.
#[test]
fn a_failure_ends_what_the_command_has_left() {
    let m = Mount::new();
    m.queue_with("q", &["retry_delay=1h"]);
    fs::write(m.path().join("q/x"), "").unwrap();
    let script = "sleep 1000 > /dev/null 2>&1 & echo $! >> $T/pids; exit 3";
    let ran = start(&m, &["--until-empty"], script).finish();
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(ran.stderr.contains(": exit code 3 after "), "{ran:?}");
    assert_eq!((noted(&m).len(), lives(noted(&m)[0])), (1, false));
}

/// One that succeeds may leave a process behind, whose standard error goes on to be passed on.
#[test]
fn a_success_leaves_what_the_command_has_left() {
    let m = Mount::new();
    let q = m.queue("q");
    m.message(&q, "x", "");
    let script =
        "(until [ -e $T/go ]; do sleep 0.01; done; echo later >&2; touch $T/said) & echo $! >> $T/pids; exit 0";
    let worker = start(&m, &["--until-empty"], script);
    wait_until(|| m.stats("q")["acked_total"] == 1);
    let pid = noted(&m)[0];
    assert!(lives(pid));
    let ran = worker.finish();
    assert_eq!((ran.code(), ran.stderr.as_str()), (Some(0), ""), "the worker does not wait for it");
    touch(&m, "go");
    wait_until(|| exists(&m, "said"));
    wait_until(|| !lives(pid));
}

/// "the message does not go back while any of them lives", when the worker is killed, too.
#[test]
fn nothing_goes_back_while_something_works_on_it() {
    let m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=200ms", "retry_delay=1ms"]);
    let x = m.message(&q, "x", "");
    let worker = start(&m, &["--grace=1h"], STUBBORN);
    wait_until(|| noted(&m).len() == 3);
    worker.signal(libc::SIGKILL);
    worker.finish();
    let mut left = noted(&m);
    wait_until(|| {
        left.retain(|pid| lives(*pid));
        left.len() == 2
    });
    holds_for(Duration::from_secs(1), || state(&q, &x).as_deref() == Some("claimed") && deliveries(&q, &x) == 1);
    for pid in left {
        // SAFETY: a call without pointers; the process lives, and the test has started it.
        unsafe { libc::kill(pid as i32, libc::SIGKILL) };
    }
    wait_until(|| state(&q, &x).as_deref() == Some("ready"));
    assert_eq!(deliveries(&q, &x), 1);
}

/// A worker that is killed: its command may finish while it has time, and what it did counts.
#[test]
fn what_finishes_after_the_worker_was_killed_is_acknowledged() {
    let m = Mount::new();
    let q = m.queue("q");
    m.message(&q, "x", "");
    let script =
        "trap 'touch $T/told; until [ -e $T/go ]; do sleep 0.01; done; exit 0' TERM; touch $T/began; sleep 1000 & wait";
    let worker = start(&m, &["--grace=1h"], script);
    wait_until(|| exists(&m, "began"));
    worker.signal(libc::SIGKILL);
    worker.finish();
    wait_until(|| exists(&m, "told"));
    touch(&m, "go");
    wait_until(|| m.stats("q")["acked_total"] == 1);
    assert_eq!(m.bodies("q").len(), 0);
}

/// A command that ends its own claim, itself or by what it starts, goes on, and its exit code does not matter.
#[test]
fn a_command_that_settles_its_message_goes_on() {
    for settle in ["rm \"$MQFS_PATH\"", "mv \"$MQFS_PATH\" $MQFS_QUEUE/../other/", "setsid -w rm \"$MQFS_PATH\""] {
        let m = Mount::new();
        let q = m.queue("q");
        m.queue("other");
        m.message(&q, "x", "");
        let script =
            format!("{settle}; touch $T/began; until [ -e $T/go ]; do sleep 0.01; done; touch $T/done; exit 3");
        let mut worker = start(&m, &["--until-empty"], &script);
        wait_until(|| exists(&m, "began"));
        holds_for(Duration::from_millis(2500), || worker.is_running());
        touch(&m, "go");
        let ran = worker.finish();
        assert_eq!((ran.code(), ran.stderr.as_str()), (Some(0), ""), "{settle}");
        assert!(exists(&m, "done"), "{settle}");
    }
}

/// "After `umount` and mount again it goes on and settles what was done meanwhile"
#[test]
fn a_mount_that_comes_back_is_gone_on_with() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 2);
    let script = "echo $MQFS_NAME >> $T/out; touch $T/began-$MQFS_NAME; until [ -e $T/go ]; do sleep 0.01; done; [ $MQFS_NAME != m1 ]";
    let worker = start(&m, &["-j3", "--mount-wait=1h"], script);
    wait_until(|| exists(&m, "began-m0") && exists(&m, "began-m1"));
    m.signal(libc::SIGTERM);
    assert!(m.wait_for_exit().success());
    touch(&m, "go");
    m.start();
    wait_until(|| m.stats("q")["acked_total"] == 1 && m.stats("q")["delayed"] == 1);
    fs::write(q.join("m2"), "").unwrap();
    wait_until(|| m.stats("q")["acked_total"] == 2);
    let out = said(&m, "out");
    let mut begun: Vec<&str> = out.lines().filter(|name| *name != "m1").collect();
    begun.sort_unstable();
    assert_eq!(begun, ["m0", "m2"], "nothing was repeated");
    worker.signal(libc::SIGTERM);
    assert_eq!(worker.finish().code(), Some(0));
}

/// The lease goes on on the new mount while the command runs.
#[test]
fn a_claim_is_taken_up_again_on_the_new_mount() {
    let mut m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=10s"]);
    let x = m.message(&q, "x", "");
    let worker =
        start(&m, &["--max-messages=1", "--mount-wait=1h"], "touch $T/began; until [ -e $T/go ]; do sleep 0.01; done");
    wait_until(|| exists(&m, "began"));
    let before = SystemTime::now();
    m.signal(libc::SIGTERM);
    assert!(m.wait_for_exit().success());
    m.start();
    let first = deadline(&q, &x);
    // To the millisecond, as deadlines are told.
    let whole = before + Duration::from_secs(10) - Duration::from_millis(1);
    assert!(first >= whole, "a whole visibility timeout from the end of the mount: {first:?} {whole:?}");
    wait_until(|| deadline(&q, &x) > first);
    assert_eq!((state(&q, &x).as_deref(), deliveries(&q, &x)), (Some("claimed"), 1));
    touch(&m, "go");
    worker.finish().ok();
    assert_eq!(m.bodies("q").len(), 0);
}

/// A guard that is killed is not covered; its message is delivered again all the same, and its worker says so.
#[test]
fn a_guard_that_is_killed_is_told() {
    let m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=200ms"]);
    let x = m.message(&q, "x", "");
    let worker = start(&m, &["--max-messages=1"], "echo $$ >> $T/pids; echo $PPID > $T/guard; exec sleep 1000");
    wait_until(|| said(&m, "guard").ends_with('\n'));
    let guard: i32 = said(&m, "guard").trim().parse().unwrap();
    // SAFETY: a call without pointers; the guard lives as long as the worker has not been told of its end.
    assert_eq!(unsafe { libc::kill(guard, libc::SIGKILL) }, 0);
    let ran = worker.finish();
    assert!(ran.stderr.contains("its guard was killed"), "{ran:?}");
    assert_eq!(ran.code(), Some(1));
    wait_until(|| noted(&m).iter().all(|pid| !lives(*pid)));
    wait_until(|| state(&q, &x).as_deref() == Some("ready"));
}
