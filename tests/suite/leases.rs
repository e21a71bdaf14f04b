//! Leases: how long a claim lasts, and what happens when it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::common::*;
use crate::extra::*;

/// A queue whose leases are short, and the longest a test lets one outlive its end.
const SHORT: &str = "visibility_timeout=1s";

fn is(queue: &Path, message: &Path, expected: &str) -> bool {
    state(queue, message).as_deref() == Some(expected)
}

/// Claims a message as a worker that has exited.
fn claim(m: &Mount, message: &Path) {
    m.worker(&format!("cat '{}' > /dev/null; true", message.display())).ok();
}

fn single(lines: &[&str]) -> (Mount, PathBuf, PathBuf) {
    let m = Mount::new();
    let q = m.queue_with("q", lines);
    let a = m.message(&q, "a", "body");
    (m, q, a)
}

/// "claims it for `visibility_timeout`": the deadline says so, and is the queue's when the message is claimed.
#[test]
fn a_claim_lasts_for_the_visibility_timeout() {
    let (m, q, a) = single(&["visibility_timeout=100s"]);
    let b = m.message(&q, "b", "body");
    let default = m.queue("default");
    let c = m.message(&default, "c", "");
    for (queue, message, seconds) in [(&q, &a, 100), (&q, &b, 300), (&default, &c, 30)] {
        if queue == &q {
            m.set("q", &format!("visibility_timeout={seconds}s"));
        }
        let timeout = Duration::from_secs(seconds);
        let before = SystemTime::now();
        claim(&m, message);
        let after = SystemTime::now();
        let due = deadline(queue, message);
        // Times are shown to the millisecond, perhaps to the second.
        let slack = Duration::from_secs(1);
        assert!(due + slack >= before + timeout && due <= after + timeout + slack, "{seconds}s: {due:?}, {before:?}");
    }
}

/// "A lease that expires returns the message to ready at its old place, while mounted", under the same name.
#[test]
fn an_expired_lease_returns_the_message_to_its_place() {
    let m = Mount::with_clock("+0");
    let q = m.queue_with("q", &["visibility_timeout=2h"]);
    m.fill(&q, 5);
    let all = listing(&q);
    let [a, b, c] = [3, 0, 2].map(|i| q.join(&all[i]).display().to_string());
    m.worker(&format!("cat '{a}' '{b}' '{c}' > /dev/null; true")).ok();
    let sooner = m.queue("sooner");
    m.sh("echo > sooner/.mq/with/delay=30m/x").ok();
    m.set_clock("+1h");
    wait_until(|| listing(&sooner).len() == 1);
    assert_listed(&q, &["m1", "m4"]); // not before its time
    m.set_clock("+3h");
    wait_until(|| listing(&q) == all);
    assert_listed(&control(&q, "claimed"), &[]);
    assert_eq!(m.bodies("q"), ["m0", "m1", "m2", "m3", "m4"]);
    for (i, name) in all.iter().enumerate() {
        assert_eq!(deliveries(&q, &q.join(name)), u32::from([3, 0, 2].contains(&i)), "{name}");
        assert!(is(&q, &q.join(name), "ready"));
    }
    let stats = m.stats("q");
    assert_eq!((stats["ready"].as_u64(), stats["claimed"].as_u64()), (Some(5), Some(0)), "{stats}");
    assert_eq!(stats["expired_total"].as_u64(), Some(3), "{stats}");
}

/// A message that came back is claimed like any other, by anybody, and is delivered a second time.
#[test]
fn a_message_that_came_back_is_delivered_again() {
    let (m, q, a) = single(&[SHORT]);
    for delivery in 1..=3 {
        let ran = m.worker(r#"for f in q/*; do cat "$f"; done; true"#);
        assert_eq!(ran.ok(), "body");
        assert_eq!(deliveries(&q, &a), delivery);
        wait_until(|| is(&q, &a, "ready"));
    }
    m.worker(r#"for f in q/*; do cat "$f" && rm "$f"; done"#).ok();
    assert_eq!(m.bodies("q").len(), 0);
}

/// "A lease that expires returns the message to ready at its old place, [...] across restarts": the lease runs on while
/// nothing is mounted, and is neither ended nor extended by a restart.
#[test]
fn leases_run_across_restarts() {
    let m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=2s"]);
    let long = m.queue_with("long", &["visibility_timeout=100s"]);
    m.fill(&q, 3);
    let all = listing(&q);
    let kept = m.message(&long, "kept", "body");
    claim(&m, &kept);
    let due = deadline(&long, &kept);
    let mut m = m;
    for kill in [false, true] {
        claim(&m, &q.join(&all[1]));
        if kill {
            m.kill9_and_remount()
        } else {
            m.remount()
        }
        assert!(is(&long, &kept, "claimed"));
        assert_eq!(deadline(&long, &kept), due);
        wait_until(|| listing(&q) == all);
        assert_eq!(deliveries(&q, &q.join(&all[1])), 1 + u32::from(kill));
    }
}

/// A lease that ended while nothing was mounted is over when it is mounted again.
#[test]
fn leases_end_while_nothing_is_mounted() {
    for kill in [false, true] {
        let mut m = Mount::with_clock("+0");
        let q = m.queue_with("q", &["visibility_timeout=1h"]);
        let a = m.message(&q, "a", "body");
        claim(&m, &a);
        if kill {
            m.kill9()
        } else {
            m.stop()
        }
        m.set_clock("+2h");
        m.start();
        wait_until(|| is(&q, &a, "ready"));
        assert_eq!(listing(&q).len(), 1);
    }
}

/// A descriptor that was open when mqfs was killed renews nothing afterwards.
#[test]
fn descriptors_of_a_crashed_mount_renew_nothing() {
    let (mut m, q, a) = single(&[SHORT]);
    let _holder = m.holder(&a);
    m.kill9_and_remount();
    wait_until(|| is(&q, &a, "ready"));
    assert_eq!(deliveries(&q, &a), 1);
}

/// "After `max_deliveries` [...] it goes to dead instead."
#[test]
fn after_max_deliveries_an_expired_lease_is_a_dead_letter() {
    let (m, q, a) = single(&[SHORT, "max_deliveries=2"]);
    claim(&m, &a);
    wait_until(|| !is(&q, &a, "claimed"));
    assert!(is(&q, &a, "ready"));
    claim(&m, &a);
    wait_until(|| !is(&q, &a, "claimed"));
    assert!(is(&q, &a, "dead"));
    assert_eq!(deliveries(&q, &a), 2);
    assert_listed(&control(&q, "dead"), &["a"]);
    assert_listed(&q, &[]);
    assert_eq!(m.bodies("q"), ["body"], "kept, not dropped");
    let stats = m.stats("q");
    assert_eq!((stats["dead"].as_u64(), stats["dead_lettered_total"].as_u64()), (Some(1), Some(1)), "{stats}");
}

/// "`max_deliveries` (20; 0 = no limit)"
#[test]
fn zero_max_deliveries_is_no_limit() {
    let (m, q, a) = single(&["max_deliveries=0"]);
    let claimed = within(&q, "claimed", &a);
    for _ in 0..50 {
        fs::rename(&a, &claimed).unwrap();
        fs::rename(&claimed, &a).unwrap();
    }
    assert!(is(&q, &a, "ready"));
    assert_eq!(deliveries(&q, &a), 50);
    m.set("q", "max_deliveries=20");
    fs::rename(&a, &claimed).unwrap();
    fs::rename(&claimed, &a).unwrap();
    assert!(is(&q, &a, "dead"), "the configuration of now decides");
}

/// Many leases that end together all come back, in order.
#[test]
fn many_leases_end_together() {
    let m = Mount::new();
    let q = m.queue_with("q", &[SHORT, "durability=async"]);
    m.fill(&q, 500);
    let all = listing(&q);
    m.worker("cat q/* > /dev/null; true").ok();
    wait_until(|| listing(&q).len() == 500 && listing(control(&q, "claimed")).is_empty());
    assert_eq!(listing(&q), all);
    let stats = m.stats("q");
    assert_eq!((stats["ready"].as_u64(), stats["expired_total"].as_u64()), (Some(500), Some(500)), "{stats}");
}
