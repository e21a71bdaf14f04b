//! "States are directories and transitions are renames."

use std::fs;
use std::path::Path;

use crate::common::*;
use crate::extra::*;

fn is(queue: &Path, message: &Path, expected: &str) {
    assert_eq!(state(queue, message).as_deref(), Some(expected), "{}", message.display());
}

/// "`mv q/X q/.mq/claimed/` claims X [...]; `mv q/.mq/claimed/X q/` gives it back now (nack)", at its old place.
#[test]
fn claim_and_nack() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 3);
    let all = listing(&q);
    let x = q.join(&all[1]);
    for delivery in 1..=3 {
        m.sh(&format!("mv '{}' q/.mq/claimed/", x.display())).ok();
        is(&q, &x, "claimed");
        assert_eq!(deliveries(&q, &x), delivery);
        assert_listed(&q, &["m0", "m2"]);
        assert_listed(&control(&q, "claimed"), &["m1"]);
        assert_eq!(fs::read_to_string(within(&q, "claimed", &x)).unwrap(), "m1");
        m.sh(&format!("mv '{}' q/", within(&q, "claimed", &x).display())).ok();
        is(&q, &x, "ready");
        assert_eq!(listing(&q), all, "the same name at the same place");
        assert_eq!(deliveries(&q, &x), delivery);
    }
    let stats = m.stats("q");
    assert_eq!((stats["claims_total"].as_u64(), stats["nacked_total"].as_u64()), (Some(3), Some(3)), "{stats}");
}

/// "`mv q/X q/.mq/dead/` dead-letters it; `mv q/.mq/dead/X q/` redrives it with its delivery count back at 0"
#[test]
fn dead_letter_and_redrive() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 3);
    let all = listing(&q);
    let x = q.join(&all[1]);
    for from in ["ready", "claimed"] {
        let path = if from == "ready" { x.clone() } else { transition(&q, "claimed", &x) };
        m.sh(&format!("mv '{}' q/.mq/dead/", path.display())).ok();
        is(&q, &x, "dead");
        assert_listed(&control(&q, "dead"), &["m1"]);
        assert_listed(&control(&q, "claimed"), &[]);
        assert_listed(&q, &["m0", "m2"]);
        assert_eq!(deliveries(&q, &x), u32::from(from == "claimed"));
        m.sh(&format!("mv '{}' q/", within(&q, "dead", &x).display())).ok();
        is(&q, &x, "ready");
        assert_eq!(deliveries(&q, &x), 0);
        assert_eq!(listing(&q), all);
    }
    let stats = m.stats("q");
    let totals = (stats["dead_lettered_total"].as_u64(), stats["redriven_total"].as_u64(), stats["dead"].as_u64());
    assert_eq!(totals, (Some(2), Some(2), Some(0)), "{stats}");
}

/// A message that is being read is claimed by name too: `mv q/X q/.mq/dead/` and back work on it as on the claimed path.
#[test]
fn a_claimed_message_is_moved_by_its_claimed_path() {
    let m = Mount::new();
    let q = m.queue("q");
    let x = m.message(&q, "x", "body");
    m.sh(&format!("cat '{}'", x.display())).ok();
    let claimed = within(&q, "claimed", &x);
    fs::rename(&claimed, within(&q, "dead", &x)).unwrap();
    is(&q, &x, "dead");
    assert_eq!(errno(fs::rename(&claimed, &x)), libc::ENOENT, "no longer claimed");
}

/// "`mv q/X other/` moves it to another queue atomically, with its headers and a new sequence number"; "A name in sequence
/// form loses its prefix when it is [...] moved into a queue and gets a new one"
#[test]
fn moving_to_another_queue() {
    for from in ["ready", "claimed", "dead"] {
        let m = Mount::new();
        let (q, other) = (m.queue("q"), m.queue("other"));
        m.message(&other, "before", "");
        fs::write(q.join(".draft"), "body").unwrap();
        set_xattr(q.join(".draft"), "user.color", "red").unwrap();
        set_xattr(q.join(".draft"), "user.mq.correlation_id", "c-17").unwrap();
        fs::rename(q.join(".draft"), q.join("a.csv")).unwrap();
        let x = only(&q);
        let id = xattr(&x, "user.mq.id").unwrap();
        let seq: u64 = xattr(&x, "user.mq.seq").unwrap().parse().unwrap();
        m.message(&other, "between", "");
        let path = if from == "ready" { x.clone() } else { transition(&q, from, &x) };

        m.sh(&format!("mv '{}' other/", path.display())).ok();

        assert_eq!(m.bodies("q").len(), 0, "{from}");
        assert_listed(&other, &["before", "between", "a.csv"]);
        let moved = other.join(&listing(&other)[2]);
        assert!(xattr(&moved, "user.mq.seq").unwrap().parse::<u64>().unwrap() > seq, "{from}");
        assert_eq!(xattr(&moved, "user.mq.id").unwrap(), id, "{from}");
        assert_eq!(xattr(&moved, "user.color").as_deref(), Some("red"), "{from}");
        assert_eq!(xattr(&moved, "user.mq.correlation_id").as_deref(), Some("c-17"), "{from}");
        is(&other, &moved, "ready");
        assert_eq!(m.sh(&format!("cat '{}'", moved.display())).ok(), "body", "{from}");
        is(&other, &moved, "claimed");
        let (there, here) = (m.stats("other"), m.stats("q"));
        assert_eq!(here["moved_out_total"].as_u64(), Some(1), "{from} {here}");
        let gone = (here["ready"].as_u64(), here["claimed"].as_u64(), here["dead"].as_u64());
        assert_eq!(gone, (Some(0), Some(0), Some(0)), "{from} {here}");
        assert_eq!((there["ready"].as_u64(), there["claimed"].as_u64()), (Some(2), Some(1)), "{from} {there}");
    }
}

/// Moving to another queue may name the message anew, and nested queues are queues.
#[test]
fn moving_renames_and_nests() {
    let m = Mount::new();
    let q = m.queue("q");
    let inner = m.queue("q/inner");
    let x = m.message(&q, "a", "body");
    m.sh(&format!("mv '{}' q/inner/b.txt", x.display())).ok();
    assert_listed(&inner, &["b.txt"]);
    assert_eq!(listing(&q), ["inner"]);
    m.sh("mv q/inner/*-b.txt q/").ok();
    assert_eq!(m.bodies("q"), ["body"]);
    assert_eq!(listing(&inner), Vec::<String>::new());
}

/// A message that was moved goes on unharmed under a large body, open descriptors included.
#[test]
fn moving_keeps_large_bodies_and_open_descriptors() {
    use std::io::Read;
    let m = Mount::new();
    let (q, other) = (m.queue("q"), m.queue("other"));
    let body: Vec<u8> = (0..3_000_000).map(|i: usize| (i * 13 % 251) as u8).collect();
    let x = m.message(&q, "a", &body);
    let mut file = fs::File::open(&x).unwrap();
    fs::rename(within(&q, "claimed", &x), other.join("a")).unwrap();
    let mut got = Vec::new();
    file.read_to_end(&mut got).unwrap();
    assert!(got == body);
    drop(file);
    assert!(fs::read(only(&other)).unwrap() == body);
    fs::remove_file(within(&other, "claimed", &only(control(&other, "claimed")))).unwrap();
    assert_eq!(m.bodies("other").len(), 0);
}

/// "`max_deliveries`": a nack at the limit dead-letters, and `mv` says nothing of it.
#[test]
fn nack_at_max_deliveries_goes_to_dead() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_deliveries=2"]);
    let x = m.message(&q, "x", "body");
    let claimed = within(&q, "claimed", &x);
    m.sh(&format!("mv '{}' q/.mq/claimed/ && mv '{}' q/", x.display(), claimed.display())).ok();
    is(&q, &x, "ready");
    m.sh(&format!("mv '{}' q/.mq/claimed/ && mv '{}' q/", x.display(), claimed.display())).ok();
    is(&q, &x, "dead");
    assert_eq!(deliveries(&q, &x), 2);
    assert_listed(&q, &[]);
    assert_listed(&control(&q, "dead"), &["x"]);
    m.sh("mv q/.mq/dead/* q/").ok();
    is(&q, &x, "ready");
    assert_eq!(deliveries(&q, &x), 0);
    assert_eq!(m.sh("cat q/*").ok(), "body");
}
