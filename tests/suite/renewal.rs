//! What renews a lease, and what does not.

use std::fs::{self, File};
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

/// The same with leases of an hour and a clock that the test turns: however slow the machine is, none ends before.
fn by_the_hour() -> (Mount, PathBuf, PathBuf) {
    let m = Mount::with_clock("+0");
    let q = m.queue_with("q", &["visibility_timeout=1h"]);
    let a = m.message(&q, "a", "body");
    (m, q, a)
}

/// "While the claiming descriptor stays open and its process lives, the lease renews itself"
#[test]
fn an_open_descriptor_renews_its_lease() {
    let (m, q, a) = single(&[SHORT]);
    let holder = m.holder(&a);
    let first = deadline(&q, &a);
    let mut last = first;
    // Three leases long: the deadline only grows, and the message never comes back.
    wait_until(|| {
        assert!(is(&q, &a, "claimed"), "lost while its descriptor is open");
        let now = deadline(&q, &a);
        assert!(now >= last, "a deadline went back");
        last = now;
        SystemTime::now() > first + Duration::from_secs(2)
    });
    assert_eq!(deliveries(&q, &a), 1);
    assert!(last >= first + Duration::from_secs(1));
    drop(holder);
    wait_until(|| is(&q, &a, "ready"));
}

/// "whoever was handed the name, by `.mq/claim` or by `mv`, uses that path": working on it there keeps the lease too.
#[test]
fn a_descriptor_through_the_claimed_path_renews_its_lease() {
    let (m, q, a) = by_the_hour();
    m.worker(&format!("mv '{}' q/.mq/claimed/; true", a.display())).ok();
    let holder = m.holder(&within(&q, "claimed", &a));
    for hours in ["+2h", "+4h", "+6h"] {
        let before = deadline(&q, &a);
        m.set_clock(hours);
        wait_until(|| deadline(&q, &a) > before + Duration::from_secs(3600));
    }
    drop(holder);
    assert!(is(&q, &a, "claimed")); // mqfs has heard of the close when this is answered
    m.set_clock("+9h");
    wait_until(|| is(&q, &a, "ready"));
    assert_eq!(deliveries(&q, &a), 1);
}

/// "peek/ [...] never claimed by reading", nor kept claimed.
#[test]
fn a_descriptor_of_a_peek_renews_nothing() {
    let (m, q, a) = single(&[SHORT]);
    let _holder = m.holder(&within(&q, "peek", &a));
    assert!(is(&q, &a, "ready"));
    claim(&m, &a);
    wait_until(|| is(&q, &a, "ready"));
}

/// "`visibility_timeout`": short ones are renewed in time too.
#[test]
fn a_short_lease_is_renewed_in_time() {
    let (m, q, a) = single(&["visibility_timeout=300ms"]);
    let _holder = m.holder(&a);
    holds_for(Duration::from_secs(2), || is(&q, &a, "claimed"));
    assert_eq!(deliveries(&q, &a), 1);
}

/// "the lease renews itself, up to `max_lease`": then it ends, although its descriptor is still open.
#[test]
fn max_lease_ends_every_claim() {
    let (m, q, a) = single(&[SHORT, "max_lease=2s"]);
    let before = SystemTime::now();
    let mut holder = m.holder(&a);
    wait_until(|| is(&q, &a, "ready"));
    let lasted = before.elapsed().unwrap();
    assert!(lasted >= Duration::from_millis(1900), "ended after {lasted:?}");
    assert!(holder.is_running());
    assert_eq!(m.worker(r#"for f in q/*; do cat "$f" && rm "$f"; done"#).ok(), "body");
    assert_eq!(m.bodies("q").len(), 0);
}

/// "While the claiming descriptor stays open and its process lives": a child that inherited it does not count.
#[test]
fn a_dead_claimer_s_child_renews_nothing() {
    let (m, q, a) = single(&[SHORT]);
    let script = format!("exec 3< '{}'; sleep 1000 & echo $!", a.display());
    let ran = m.worker(&script);
    let child: i32 = ran.ok().trim().parse().unwrap();
    assert_eq!(deliveries(&q, &a), 1);
    wait_until(|| is(&q, &a, "ready"));
    // SAFETY: the sleeping child that the script left, whose number cannot have been given to another while it lives.
    let alive = unsafe { libc::kill(child, 0) } == 0;
    assert!(alive, "the child still holds the descriptor");
    // SAFETY: as above.
    unsafe { libc::kill(child, libc::SIGKILL) };
}

/// A claimer that is killed loses its lease when it ends, and not later.
#[test]
fn a_killed_claimer_s_lease_ends() {
    let (m, q, a) = single(&[SHORT]);
    let holder = m.holder(&a);
    holder.signal(libc::SIGKILL);
    wait_until(|| is(&q, &a, "ready"));
    assert_eq!(deliveries(&q, &a), 1);
}

/// "While the claiming descriptor stays open": one of an earlier claim is not the claiming descriptor of a later one.
#[test]
fn a_descriptor_of_an_earlier_claim_renews_nothing() {
    let (m, q, a) = single(&[SHORT]);
    let mut holder = m.holder(&a);
    fs::rename(within(&q, "claimed", &a), &a).unwrap();
    claim(&m, &a);
    assert_eq!(deliveries(&q, &a), 2);
    wait_until(|| is(&q, &a, "ready"));
    assert!(holder.is_running());
    m.set("q", "visibility_timeout=1h");
    claim(&m, &a);
    let due = deadline(&q, &a);
    drop(holder);
    assert_eq!(deadline(&q, &a), due, "closing it does not prolong the other's claim either");
}

/// "`touch -c` on the message renews it too", under both its names.
#[test]
fn touch_renews() {
    let (m, q, a) = by_the_hour();
    claim(&m, &a);
    // Kept for longer than any one lease, only by touching it.
    for (minutes, path) in [(40, a.clone()), (80, within(&q, "claimed", &a)), (120, a.clone())] {
        let before = deadline(&q, &a);
        m.set_clock(&format!("+{minutes}m"));
        m.worker(&format!("touch -c '{}'", path.display())).ok();
        assert!(deadline(&q, &a) >= before + Duration::from_secs(39 * 60));
    }
    assert!(is(&q, &a, "claimed"));
    assert_eq!(deliveries(&q, &a), 1);
    m.set_clock("+5h");
    wait_until(|| is(&q, &a, "ready"));
}

/// "up to `max_lease`": touching does not get beyond it either.
#[test]
fn touch_does_not_outlast_max_lease() {
    let (m, q, a) = single(&["visibility_timeout=5s", "max_lease=7s"]);
    claim(&m, &a);
    let last = SystemTime::now() + Duration::from_secs(7);
    wait_until(|| {
        m.worker(&format!("touch -c '{}'", a.display())).ok();
        let due = xattr(within(&q, "peek", &a), "user.mq.deadline").map(|at| humantime::parse_rfc3339(&at).unwrap());
        assert!(due.is_none_or(|due| due <= last), "{due:?}");
        is(&q, &a, "ready")
    });
}

/// Touching a ready message claims nothing, and `touch -c` on one that is gone makes nothing.
#[test]
fn touch_on_a_ready_message_changes_no_state() {
    let (m, q, a) = single(&[SHORT]);
    m.sh(&format!("touch -c '{}'; touch -c -d 2020-01-02 '{}'", a.display(), a.display())).ok();
    assert!(is(&q, &a, "ready"));
    assert_eq!(deliveries(&q, &a), 0);
    fs::remove_file(&a).unwrap();
    m.sh(&format!("touch -c '{}'", a.display())).ok();
    assert_eq!(m.bodies("q").len(), 0);
}

/// Closing ends the renewing and not the lease: the rest of a script still has time.
#[test]
fn a_lease_outlives_its_descriptor() {
    let (m, q, a) = by_the_hour();
    let file = File::open(&a).unwrap();
    let first = deadline(&q, &a);
    // Open for longer than the timeout, so that it is renewed.
    m.set_clock("+2h");
    wait_until(|| deadline(&q, &a) > first);
    // Closed with less than half of it left.
    let renewed = deadline(&q, &a);
    m.set_clock("+165m");
    drop(file);
    wait_until(|| deadline(&q, &a) > renewed + Duration::from_secs(30 * 60));
    assert!(is(&q, &a, "claimed"));
    m.set_clock("+5h");
    wait_until(|| is(&q, &a, "ready"));
    assert_eq!(deliveries(&q, &a), 1);
}

/// While one of its worker's descriptors is open the lease renews itself, whichever was opened first.
#[test]
fn the_last_descriptor_counts() {
    let (m, q, a) = single(&[SHORT]);
    let first = File::open(&a).unwrap();
    let second = File::open(&a).unwrap();
    drop(first);
    holds_for(Duration::from_millis(2500), || is(&q, &a, "claimed"));
    drop(second);
    wait_until(|| is(&q, &a, "ready"));
    assert_eq!(m.bodies("q"), ["body"]);
}
