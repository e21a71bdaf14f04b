//! `retry_delay`, `retry_backoff`, and giving a message back for later.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::common::*;
use crate::extra::*;

fn is(queue: &Path, message: &Path, expected: &str) -> bool {
    state(queue, message).as_deref() == Some(expected)
}

fn single(lines: &[&str]) -> (Mount, PathBuf, PathBuf) {
    let m = Mount::new();
    let q = m.queue_with("q", lines);
    let a = m.message(&q, "a", "body");
    (m, q, a)
}

/// Claims a ready message and gives it back for later: for how many seconds. The clock stands still.
fn give_back(m: &Mount, queue: &Path, message: &Path) -> u64 {
    m.sh("mv q/*-a q/.mq/claimed/ && mv q/.mq/claimed/*-a q/.mq/delayed/").ok();
    let due = xattr(within(queue, "delayed", message), "user.mq.due").expect("user.mq.due");
    let now = UNIX_EPOCH + Duration::from_secs(NOON);
    let left = humantime::parse_rfc3339(&due).unwrap().duration_since(now).unwrap();
    left.as_millis().div_ceil(1000).try_into().unwrap()
}

/// A mount whose clock stands still at [`NOON`], with a message.
fn at_noon(lines: &[&str]) -> (Mount, PathBuf, PathBuf) {
    let m = Mount::with_clock(&NOON.to_string());
    let q = m.queue_with("q", lines);
    let a = m.message(&q, "a", "body");
    (m, q, a)
}

/// A day in 2030, in seconds since 1970.
const NOON: u64 = 1_900_000_800;

/// A message whose lease expires waits in `delayed` for `retry_delay`, then is ready in its place.
#[test]
fn an_expired_lease_waits() {
    // A clock that goes on: a close that mqfs hears of later renews the lease.
    let m = Mount::with_clock("+0");
    let q = m.queue_with("q", &["visibility_timeout=300ms", "retry_delay=1h"]);
    let a = m.message(&q, "a", "body");
    m.message(&q, "b", "");
    m.worker(&format!("cat '{}' > /dev/null; true", a.display())).ok();
    wait_until(|| is(&q, &a, "delayed"));
    assert_listed(&q, &["b"]);
    assert!(xattr(within(&q, "delayed", &a), "user.mq.due").is_some());
    m.set_clock("+2h");
    wait_until(|| is(&q, &a, "ready"));
    assert_listed(&q, &["a", "b"]);
    assert_eq!(deliveries(&q, &a), 1);
}

/// "`mv q/.mq/claimed/X q/` gives it back now", whatever `retry_delay` says.
#[test]
fn a_nack_is_now() {
    let (m, q, a) = single(&["retry_delay=1h"]);
    m.sh("mv q/*-a q/.mq/claimed/ && mv q/.mq/claimed/*-a q/").ok();
    assert!(is(&q, &a, "ready"));
}

/// `mv q/.mq/claimed/X q/.mq/delayed/` is later: 1 s, doubled with each delivery, up to 5 minutes, when there is no
/// `retry_delay`.
#[test]
fn giving_back_for_later() {
    let (m, q, a) = at_noon(&["max_deliveries=0"]);
    for delivery in 1..=12 {
        assert_eq!(give_back(&m, &q, &a), (1 << (delivery - 1)).min(300), "delivery {delivery}");
        m.sh("mv q/.mq/delayed/*-a q/").ok();
        assert_eq!(deliveries(&q, &a), delivery);
    }
    assert_eq!(m.stats("q")["nacked_total"], 12);
    m.sh("mv q/*-a q/.mq/delayed/").fails("not permitted");
    assert_eq!(give_back(&m, &q, &a), 300);
    m.set_clock(&(NOON + 300).to_string());
    wait_until(|| is(&q, &a, "ready"));
}

/// `retry_backoff=exponential` doubles it with each delivery, up to a day; `fixed` does not.
#[test]
fn back_off() {
    let (m, q, a) = at_noon(&["retry_delay=100s", "retry_backoff=exponential", "max_deliveries=0"]);
    for expected in [100, 200, 400, 800] {
        assert_eq!(give_back(&m, &q, &a), expected);
        m.sh("mv q/.mq/delayed/*-a q/").ok();
    }
    m.set("q", "retry_delay=20h");
    assert_eq!(give_back(&m, &q, &a), 24 * 3600);
    m.sh("mv q/.mq/delayed/*-a q/").ok();
    m.set("q", "retry_delay=100s\nretry_backoff=fixed");
    assert_eq!(give_back(&m, &q, &a), 100);
    m.sh("echo 'retry_backoff = random' > q/.mq/config").fails("Invalid argument");
}

/// The last delivery ends in dead, also when the message is given back for later or its lease expires.
#[test]
fn the_last_delivery_is_the_last() {
    let (m, q, a) = single(&["max_deliveries=1", "retry_delay=1h"]);
    m.sh("mv q/*-a q/.mq/claimed/ && mv q/.mq/claimed/*-a q/.mq/delayed/").ok();
    assert!(is(&q, &a, "dead"));
    m.sh("mv q/.mq/dead/*-a q/").ok();
    m.set("q", "visibility_timeout=300ms");
    m.worker(&format!("cat '{}' > /dev/null; true", a.display())).ok();
    wait_until(|| is(&q, &a, "dead"));
}

/// Waiting for a retry survives a crash.
#[test]
fn retries_survive() {
    let (mut m, q, a) = at_noon(&["retry_delay=8s", "visibility_timeout=300ms"]);
    m.worker(&format!("cat '{}' > /dev/null; true", a.display())).ok();
    m.kill9();
    m.set_clock(&(NOON + 1).to_string());
    m.start();
    wait_until(|| is(&q, &a, "delayed"));
    m.kill9();
    m.set_clock(&(NOON + 10).to_string());
    m.start();
    wait_until(|| is(&q, &a, "ready"));
    assert_eq!(deliveries(&q, &a), 1);
}
