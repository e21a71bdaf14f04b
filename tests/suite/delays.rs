//! Delayed messages: `.mq/delayed/` until they are due.

use std::fs;
use std::time::{Duration, SystemTime};

use crate::common::*;
use crate::extra::*;

fn is(queue: &std::path::Path, message: &std::path::Path, expected: &str) -> bool {
    state(queue, message).as_deref() == Some(expected)
}

/// A delayed message is in `.mq/delayed` and in `peek`, not in the queue, and nobody can claim it; reading it claims nothing.
#[test]
fn a_delayed_message_waits() {
    let m = Mount::new();
    let q = m.queue("q");
    let before = SystemTime::now();
    m.sh("echo body > q/.mq/with/delay=1h/a").ok();
    let a = only(control(&q, "delayed"));
    assert_eq!(producer(a.file_name().unwrap().to_str().unwrap()), "a");
    assert_listed(&q, &[]);
    assert_eq!(errno(fs::metadata(q.join(a.file_name().unwrap()))), libc::ENOENT);
    assert_eq!(m.sh("cat q/.mq/delayed/*").ok(), "body\n");
    assert_eq!(m.bodies("q"), ["body\n"]);
    assert!(is(&q, &a, "delayed"));
    assert_eq!(deliveries(&q, &a), 0);
    let due = humantime::parse_rfc3339(&xattr(&a, "user.mq.due").unwrap()).unwrap();
    let wait = Duration::from_secs(3600);
    assert!(due + Duration::from_secs(1) >= before + wait && due <= SystemTime::now() + wait, "{due:?}");
    m.sh("mv q/.mq/delayed/*-a q/.mq/claimed/").fails("not permitted");
    let stats = m.stats("q");
    assert_eq!(
        (stats["delayed"].as_u64(), stats["ready"].as_u64(), stats["delayed_bytes"].as_u64()),
        (Some(1), Some(0), Some(5))
    );
    // By hand: now, dead, or gone.
    m.sh("mv q/.mq/delayed/*-a q/").ok();
    assert!(is(&q, &a, "ready"));
    assert_eq!(xattr(q.join(a.file_name().unwrap()), "user.mq.due"), None);
    m.sh("for n in b c d; do echo $n > q/.mq/with/delay=1h/$n; done; mkdir other").ok();
    m.sh("mv q/.mq/delayed/*-b q/.mq/dead/ && rm q/.mq/delayed/*-c && mv q/.mq/delayed/*-d other/").ok();
    assert_listed(&control(&q, "dead"), &["b"]);
    assert_eq!(listing(control(&q, "delayed")).len(), 0);
    assert_listed(&m.path().join("other"), &["d"]);
    m.sh("rmdir q").fails("not empty");
}

/// What is due is ready, at the place that it had: in front of what came after it.
#[test]
fn what_is_due_is_ready_in_its_place() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo > q/first; echo > q/.mq/with/delay=700ms/late; echo > q/.mq/with/delay=500ms/early; echo > q/last").ok();
    wait_until(|| listing(&q).len() == 4);
    assert_listed(&q, &["first", "late", "early", "last"]);
    assert_eq!(m.stats("q")["delayed"], 0);
    assert_eq!(listing(control(&q, "delayed")).len(), 0);
}

/// Whoever waits for a message is called when one falls due.
#[test]
fn a_waiting_reader_gets_what_falls_due() {
    let m = Mount::new();
    m.queue("q");
    let reader = m.spawn("cat q/.mq/pop");
    m.sh("echo body > q/.mq/with/delay=400ms/a").ok();
    assert_eq!(reader.finish().ok(), "body\n");
    let reader = m.spawn("cat q/.mq/pop");
    wait_until(|| m.stats("q")["waiting"] == 1);
    m.sh("echo later > q/.mq/with/delay=1h/b; mv q/.mq/delayed/* q/").ok();
    assert_eq!(reader.finish().ok(), "later\n");
}

/// An instant: one that has passed is no delay, the later of the two counts, and a bad one is refused.
#[test]
fn deliver_at() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo > q/.mq/with/deliver_at=2001-01-01T00:00:00Z/past; echo > q/.mq/with/delay=0s/none").ok();
    assert_listed(&q, &["past", "none"]);
    m.sh("echo > q/.mq/with/deliver_at=2999-12-31T08:00:00Z,delay=1s/far").ok();
    let far = only(control(&q, "delayed"));
    assert_eq!(xattr(&far, "user.mq.due").as_deref(), Some("2999-12-31T08:00:00.000Z"));
    let soon = "at=$(date -u -d '+2 seconds' +%FT%TZ); echo > q/.mq/with/deliver_at=$at/soon";
    m.sh(soon).ok();
    wait_until(|| listing(&q).len() == 3);
    assert_listed(&q, &["past", "none", "soon"]);
    for bad in ["tomorrow", "2026-13-01T00:00:00Z", "08:00"] {
        m.sh(&format!("echo > q/.mq/with/deliver_at={bad}/x")).fails("Invalid argument");
        fs::write(q.join(".d"), "").unwrap();
        assert_eq!(errno(set_xattr(q.join(".d"), "user.mq.deliver_at", bad)), libc::EINVAL);
    }
}

/// The delay of a draft counts from its publication, and setfattr on the open file works as on the draft.
#[test]
fn delays_by_attributes() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo a > q/.a && setfattr -n user.mq.delay -v 1h q/.a && mv q/.a q/a").ok();
    for shell in ["bash", "dash"] {
        m.shell(shell, "{ echo b; setfattr -n user.mq.delay -v 2h /proc/self/fd/1; } > q/b").ok();
    }
    assert_listed(&control(&q, "delayed"), &["a", "b", "b"]);
    m.sh("{ echo c; setfattr -n user.mq.delay -v soon /proc/self/fd/1; } > q/c").fails("Invalid argument");
    let a = control(&q, "delayed").join(&listing(control(&q, "delayed"))[0]);
    assert_eq!(errno(set_xattr(&a, "user.mq.delay", "1s")), libc::EPERM);
    assert_eq!(errno(set_xattr(&a, "user.mq.deliver_at", "2026-01-01T00:00:00Z")), libc::EPERM);
}

/// Delays run on while nothing is mounted, and across crashes.
#[test]
fn delays_run_across_restarts() {
    let mut m = Mount::new();
    let q = m.queue("q");
    for kill in [false, true] {
        m.sh("echo > q/.mq/with/delay=1200ms/a; echo > q/.mq/with/delay=1h/b").ok();
        let due = SystemTime::now() + Duration::from_millis(1200); // at the latest
        if kill {
            m.kill9()
        } else {
            m.stop()
        }
        wait_until(|| SystemTime::now() > due);
        m.start();
        wait_until(|| listing(&q).len() == 1);
        assert_listed(&q, &["a"]);
        assert_listed(&control(&q, "delayed"), &["b"]);
        m.sh("rm q/* q/.mq/delayed/*").ok();
    }
}

/// Many fall due at once.
#[test]
fn many_fall_due_at_once() {
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    m.sh("at=$(date -u -d '+4 seconds' +%FT%TZ); for i in $(seq 1500); do echo $i > q/.mq/with/deliver_at=$at/m; done")
        .ok();
    wait_until(|| m.stats("q")["ready"] == 1500);
    let bodies: Vec<String> = m.bodies("q");
    assert!(bodies.iter().enumerate().all(|(i, body)| *body == format!("{}\n", i + 1)));
    assert_eq!(listing(control(&q, "delayed")).len(), 0);
}
