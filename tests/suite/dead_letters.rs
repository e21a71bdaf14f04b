//! "`dead_letter=` (empty: the queue's own `.mq/dead`; or another queue's path)"

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use crate::common::*;
use crate::extra::*;
use crate::users::chmod;

/// Gives a ready message up: it is claimed and given back, in a queue with `max_deliveries=1`.
fn exhaust(m: &Mount, queue: &str, message: &Path) {
    let name = message.file_name().unwrap().to_string_lossy();
    m.sh(&format!("mv '{queue}/{name}' {queue}/.mq/claimed/ && mv '{queue}/.mq/claimed/{name}' {queue}/")).ok();
}

fn failing(m: &Mount, dead_letter: &str) -> PathBuf {
    m.queue_with("q", &["max_deliveries=1", &format!("dead_letter={dead_letter}")])
}

fn number(stats: &serde_json::Value, key: &str) -> u64 {
    stats[key].as_u64().unwrap_or_else(|| panic!("no {key} in {stats}"))
}

/// A message that reaches `max_deliveries`, by a nack or by leases that expire, is ready in the other queue, with headers that
/// say why, from where, after how many deliveries and when; its own headers travel with it.
#[test]
fn exhausted_messages_go_to_the_queue_that_is_named() {
    let m = Mount::new();
    let graves = m.queue("graves");
    let inner = m.queue("graves/inner");
    let q = m.queue_with("q", &["max_deliveries=2", "visibility_timeout=300ms", "dead_letter=/graves/inner/"]);
    assert_eq!(xattr(&q, "user.mq.dead_letter").as_deref(), Some("graves/inner"));
    m.sh("echo body > q/.mq/with/header.colour=red,ttl=9h/a.csv").ok();
    let id = xattr(only(&q), "user.mq.id");
    m.worker("cat q/* > /dev/null; true").ok();
    wait_until(|| listing(&q).len() == 1);
    m.worker("cat q/* > /dev/null; true").ok();
    wait_until(|| listing(&inner).len() == 1);
    assert_eq!((listing(&q).len(), m.bodies("q").len(), listing(&graves)), (0, 0, vec!["inner".to_owned()]));
    let dead = only(&inner);
    assert_eq!(producer(&listing(&inner)[0]), "a.csv");
    for (name, value) in [
        ("user.mq.state", "ready"),
        ("user.mq.deliveries", "0"),
        ("user.mq.dead_reason", "max_deliveries"),
        ("user.mq.dead_source", "q"),
        ("user.mq.dead_deliveries", "2"),
        ("user.colour", "red"),
    ] {
        assert_eq!(xattr(&dead, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(xattr(&dead, "user.mq.id"), id);
    assert_eq!(xattr(&dead, "user.mq.expires"), None, "it has done with its own time to live");
    let at = xattr(&dead, "user.mq.dead_at").unwrap();
    assert!(humantime::parse_rfc3339(&at).unwrap() > humantime::parse_rfc3339("2026-01-01T00:00:00Z").unwrap(), "{at}");
    assert!(xattrs(&dead).contains(&"user.mq.dead_reason".to_owned()));
    let (from, to) = (m.stats("q"), m.stats("graves/inner"));
    assert_eq!((number(&from, "dead_lettered_total"), number(&from, "dead"), number(&to, "enqueued_total")), (1, 0, 1));
    wait_until(|| m.log().contains("dead-lettered to another queue"));
    // It can be sent back by hand, and fail again.
    m.sh("mv graves/inner/*-a.csv q/").ok();
    assert_eq!(listing(&q).len(), 1);
}

/// A nack at the limit does it as well, and what expires goes the same way with another reason.
#[test]
fn a_nack_and_a_time_to_live_that_is_over() {
    let m = Mount::new();
    let q = failing(&m, "graves");
    let graves = m.queue("graves");
    let a = m.message(&q, "a", "body");
    exhaust(&m, "q", &a);
    assert_eq!(xattr(only(&graves), "user.mq.dead_reason").as_deref(), Some("max_deliveries"));
    fs::remove_file(only(&graves)).unwrap();
    m.sh("echo old > q/.mq/with/ttl=1ms/b").ok();
    wait_until(|| listing(&graves).len() == 1);
    assert_eq!(xattr(only(&graves), "user.mq.dead_reason").as_deref(), Some("expired"));
    assert_eq!(xattr(only(&graves), "user.mq.dead_deliveries").as_deref(), Some("0"));
    assert_eq!(number(&m.stats("q"), "ttl_expired_total"), 1);
}

/// No such queue, or the queue itself: the letter stays, with a warning, and is not lost. A queue that is made later gets those
/// that come later. A path that makes no sense is refused.
#[test]
fn letters_that_cannot_go_stay() {
    let m = Mount::new();
    let q = failing(&m, "later");
    for (dead_letter, warning) in [("later", "no such queue"), ("q", "the queue itself"), ("q/none", "no such queue")] {
        m.set("q", &format!("dead_letter={dead_letter}"));
        let a = m.message(&q, "a", "body");
        exhaust(&m, "q", &a);
        assert_eq!(state(&q, &a).as_deref(), Some("dead"), "{dead_letter}");
        assert_eq!(xattr(within(&q, "dead", &a), "user.mq.dead_reason").as_deref(), Some("max_deliveries"));
        assert!(m.log().contains(warning), "{dead_letter}: {}", m.log());
    }
    m.set("q", "dead_letter=later");
    let later = m.queue("later");
    let b = m.message(&q, "b", "body");
    exhaust(&m, "q", &b);
    assert_listed(&later, &["b"]);
    assert_eq!(listing(control(&q, "dead")).len(), 3);
    for bad in ["..", "a//b", "a/../b", ".mq/dead", "a/./b"] {
        m.sh(&format!("echo 'dead_letter = {bad}' > q/.mq/config")).fails("Invalid argument");
        let text = fs::read_to_string(control(&q, "config")).unwrap();
        assert!(text.contains("\n# rejected: ") && text.contains("dead_letter = later"), "{text}");
    }
    m.sh("setfattr -n user.mq.dead_letter -v '' q").ok();
    let c = m.message(&q, "c", "body");
    exhaust(&m, "q", &c);
    assert_eq!(state(&q, &c).as_deref(), Some("dead"));
}

/// "an explicit `mv` into .mq/dead stays literal"
#[test]
fn giving_up_by_hand_is_literal() {
    let m = Mount::new();
    let q = failing(&m, "graves");
    let graves = m.queue("graves");
    let a = m.message(&q, "a", "body");
    m.sh("mv q/*-a q/.mq/dead/").ok();
    assert_eq!((state(&q, &a).as_deref(), listing(&graves).len()), (Some("dead"), 0));
}

/// What `user.mq.deaths` tells: queue, reason, count.
fn deaths(message: &Path) -> Vec<(String, String, u64)> {
    let deaths: serde_json::Value = serde_json::from_str(&xattr(message, "user.mq.deaths").unwrap()).unwrap();
    let entry = |death: &serde_json::Value| {
        let text = |key: &str| death[key].as_str().unwrap().to_owned();
        let time = |key: &str| humantime::parse_rfc3339(&text(key)).unwrap();
        assert!(time("first") <= time("last"));
        (text("queue"), text("reason"), death["count"].as_u64().unwrap())
    };
    deaths.as_array().unwrap().iter().map(entry).collect()
}

fn died(queue: &str, reason: &str, count: u64) -> (String, String, u64) {
    (queue.to_owned(), reason.to_owned(), count)
}

/// Reason and time are in every dead letter wherever it lies, and the history of deaths goes with the message.
#[test]
fn every_dead_letter_tells_how_it_died() {
    let mut m = Mount::new();
    let q = failing(&m, "");
    let other = m.queue("other");
    let a = m.message(&q, "a", "body");
    assert_eq!(xattr(&a, "user.mq.deaths"), None);
    exhaust(&m, "q", &a);
    let dead = within(&q, "dead", &a);
    for (what, value) in [("reason", "max_deliveries"), ("source", "q"), ("deliveries", "1")] {
        assert_eq!(xattr(&dead, &format!("user.mq.dead_{what}")).as_deref(), Some(value));
    }
    assert!(xattr(&dead, "user.mq.dead_at").is_some());
    assert_eq!(deaths(&dead), [died("q", "max_deliveries", 1)]);
    m.sh("mv q/.mq/dead/*-a q/").ok();
    exhaust(&m, "q", &a);
    m.sh("mv q/.mq/dead/*-a q/; mv q/*-a q/.mq/dead/").ok();
    m.remount();
    assert_eq!(deaths(&dead), [died("q", "max_deliveries", 2), died("q", "moved", 1)]);
    assert_eq!(xattr(&dead, "user.mq.dead_reason").as_deref(), Some("moved"));
    m.sh("mv q/.mq/dead/*-a other/").ok();
    assert_eq!(deaths(&only(&other)), [died("q", "max_deliveries", 2), died("q", "moved", 1)]);
    m.sh("echo old > q/.mq/with/ttl=1ms/b").ok();
    wait_until(|| listing(control(&q, "dead")).len() == 1);
    assert_eq!(deaths(&only(control(&q, "dead"))), [died("q", "expired", 1)]);
}

/// Two queues whose dead letters go to each other: what no worker has had in between stops, and the log says so once.
#[test]
fn dead_letters_do_not_go_round() {
    let m = Mount::new();
    let a = m.queue_with("a", &["message_ttl=1ms", "dead_letter=b"]);
    let b = m.queue_with("b", &["message_ttl=1ms", "dead_letter=a"]);
    m.fill(&a, 3);
    // As many are enqueued in both as have been on their way once; a letter that comes back is one more.
    let enqueued = || ["a", "b"].map(|queue| m.stats(queue)["enqueued_total"].as_u64().unwrap());
    let goes_round = || enqueued()[0] > 3 || enqueued()[1] > 3;
    wait_until(|| listing(control(&b, "dead")).len() == 3 || goes_round());
    assert_eq!((listing(&a).len(), enqueued()), (0, [3, 3]));
    for name in listing(control(&b, "dead")) {
        let dead = control(&b, "dead").join(name);
        assert_eq!(xattr(&dead, "user.mq.dead_reason").as_deref(), Some("cycle"));
        assert_eq!(xattr(&dead, "user.mq.dead_source").as_deref(), Some("b"));
        assert_eq!(deaths(&dead), [died("a", "expired", 1), died("b", "cycle", 1)]);
    }
    assert_eq!(m.log().matches("go round").count(), 1, "{}", m.log());
    // With a worker in between it goes on, for as long as there is one.
    for queue in ["a", "b"] {
        m.set(queue, "message_ttl = 0s\nmax_deliveries = 1");
    }
    m.sh("mv b/.mq/dead/*-m0 b/").ok();
    for (from, to) in [("b", &a), ("a", &b), ("b", &a)] {
        let message = only(m.path().join(from));
        exhaust(&m, from, &message);
        assert_listed(to, &["m0"]);
    }
}

/// In a queue with priorities a letter has its digit, and its name still fits into a directory entry.
#[test]
fn a_letter_fits_where_it_goes() {
    let m = Mount::new();
    let q = failing(&m, "graves");
    let graves = m.queue_with("graves", &["priorities=3", "message_ttl=1h"]);
    let name = "n".repeat(238);
    let long = m.message(&q, &name, "body");
    exhaust(&m, "q", &long);
    let listed = listing(&graves);
    assert_eq!((listed.len(), listed[0].len()), (1, 255));
    assert!(listed[0].starts_with('2') && name.starts_with(&listed[0][18..]), "{listed:?}");
    assert!(xattr(graves.join(&listed[0]), "user.mq.expires").is_some(), "the time to live of the queue that it is in");
    assert_eq!(m.sh("cat graves/*").ok(), "body");
}

/// A queue's configuration is no way into a queue that its owner may not write to.
#[test]
fn nobody_sends_letters_where_they_may_not_write() {
    let (m, q) = crate::users::mount(0o777);
    let secret = m.queue("secret");
    chmod(&secret, 0o755);
    crate::users::ann(&m, "mkdir q/mine && printf 'max_deliveries = 1\ndead_letter = secret\n' > q/mine/.mq/config")
        .ok();
    crate::users::ann(
        &m,
        "echo forged > q/mine/order && cd q/mine && mv *-order .mq/claimed/ && mv .mq/claimed/*-order .",
    )
    .ok();
    assert_eq!(listing(&secret).len(), 0);
    assert_eq!(listing(control(&q.join("mine"), "dead")).len(), 1);
    assert!(m.log().contains("may not enqueue there"), "{}", m.log());
    // A drop box takes them; not behind a directory that is closed.
    chmod(&secret, 0o1733);
    crate::users::ann(&m, "cd q/mine && mv .mq/dead/*-order . && mv *-order .mq/claimed/ && mv .mq/claimed/*-order .")
        .ok();
    assert_listed(&secret, &["order"]);
    let deep = m.queue("secret/deep");
    chmod(&deep, 0o777);
    chmod(&secret, 0o700);
    m.set("q/mine", "dead_letter=secret/deep");
    crate::users::ann(&m, "cd q/mine && echo x > two && mv *-two .mq/claimed/ && mv .mq/claimed/*-two .").ok();
    assert_eq!(listing(&deep).len(), 0);
}

/// The group that a queue has from the set-group-id queue that it was made in is no right of its owner's.
#[test]
fn the_group_of_a_queue_sends_no_letters() {
    let (m, inbox) = crate::users::mount(0o755);
    let jobs = m.queue("jobs");
    for (queue, mode) in [(&inbox, 0o3777), (&jobs, 0o2770)] {
        chown(queue, None, Some(crate::users::STAFF)).unwrap();
        chmod(queue, mode);
    }
    let give_up = |name: &str| {
        let script = format!("cd q/mine && echo x > {name} && mv *-{name} .mq/claimed/ && mv .mq/claimed/*-{name} .");
        crate::users::ann(&m, &script).ok();
    };
    crate::users::ann(&m, "mkdir q/mine && printf 'max_deliveries = 1\ndead_letter = jobs\n' > q/mine/.mq/config").ok();
    assert_eq!(fs::metadata(inbox.join("mine")).unwrap().gid(), crate::users::STAFF);
    crate::users::ann(&m, "echo x > jobs/forged").fails(crate::users::DENIED);
    give_up("forged");
    assert_eq!(listing(&jobs).len(), 0);
    assert_eq!(listing(control(&inbox.join("mine"), "dead")).len(), 1);
    assert!(m.log().contains("may not enqueue there"), "{}", m.log());
    // What is open to all, and her own.
    chmod(&jobs, 0o1773);
    give_up("open");
    assert_listed(&jobs, &["open"]);
    crate::users::ann(&m, "mkdir -m 700 q/own && echo dead_letter=q/own > q/mine/.mq/config").ok();
    give_up("own");
    assert_listed(&inbox.join("own"), &["own"]);
    // Root's queue sends them anywhere.
    m.set("q", "max_deliveries=1\ndead_letter=jobs");
    let message = m.message(&inbox, "root", "body");
    exhaust(&m, "q", &message);
    assert_eq!(listing(&jobs).len(), 2);
}

/// Letters that fall due while nothing is mounted go where they belong at the next mount, also after a crash.
#[test]
fn letters_go_when_the_store_is_mounted_again() {
    let mut m = Mount::new();
    let q = m.queue_with("q", &["max_deliveries=1", "visibility_timeout=1s", "dead_letter=graves"]);
    let graves = m.queue("graves");
    m.fill(&q, 20);
    m.worker("cat q/* > /dev/null; true").ok();
    m.kill9_and_remount();
    wait_until(|| listing(&graves).len() == 20);
    assert_eq!((m.bodies("q").len(), m.bodies("graves").len()), (0, 20));
    let reason = |name: &String| xattr(graves.join(name), "user.mq.dead_source").unwrap();
    assert!(listing(&graves).iter().all(|name| reason(name) == "q"));
}
