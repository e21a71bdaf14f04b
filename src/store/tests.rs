//! Many threads at one message, deadlines, and what the tests of the store share.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::beneath::Trust;
use super::db::Family;
use super::record::NewMessage;
use super::{NewBody, NewQueue, Of, OpenError, ROOT, Store, Taker, check, keys};
use crate::error::Error;
use crate::queue::config::QueueConfig;
use crate::queue::state::State;

pub(super) use crate::chance::Random;

pub(super) const NOBODY: Taker = Taker { worker: None, uid: 0 };

/// What a check tells.
pub(super) fn checked(dir: &Path, repair: bool) -> (Vec<String>, check::Summary) {
    let mut lines = Vec::new();
    loop {
        match check::check(dir, Trust::Own, repair, &mut |kind, text| lines.push(format!("{kind}: {text}"))) {
            // A program that another test starts holds a copy of the lock between fork and exec.
            Err(OpenError::InUse) => std::thread::yield_now(),
            summary => return (lines, summary.unwrap()),
        }
    }
}

/// Opens a store, in which nothing is damaged, however it was left.
pub(super) fn open(dir: &Path) -> Store {
    if dir.join("format").exists() {
        let (lines, summary) = checked(dir, false);
        assert_eq!(summary.damaged, 0, "{lines:#?}");
    }
    loop {
        match Store::open(dir, QueueConfig { max_deliveries: 3, ..QueueConfig::default() }) {
            // A program that another test starts holds a copy of the lock between fork and exec.
            Err(OpenError::InUse) => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

pub(super) fn queue(store: &Store, name: &str) -> u64 {
    store.make_queue(NewQueue { parent: ROOT, name: name.as_bytes(), uid: 0, gid: 0, mode: 0o755 }).unwrap()
}

pub(super) fn message(store: &Store, queue: u64, name: &str) -> NewMessage {
    NewMessage {
        id: store.next_id().unwrap(),
        queue,
        name: name.into(),
        uid: 0,
        gid: 0,
        mode: 0o644,
        modified_ns: None,
        accessed_ns: None,
        producer_pid: 0,
        attributes: vec![("user.h".into(), name.into())],
    }
}

/// How many keys there are in a column family.
pub(super) fn keys_in(store: &Store, family: Family) -> usize {
    let mut count = 0;
    let counted = store.db.scan(family, b"", b"", |_, _| {
        count += 1;
        Ok(true)
    });
    counted.unwrap();
    count
}

/// "Exactly one of any number of racing callers wins (the losers get ENOENT)".
#[test]
fn of_racing_claims_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let q = queue(&store, "q");
    for n in 0..200 {
        let seq = store.enqueue(message(&store, q, "m"), NewBody::Inline(b"x"), false, n).unwrap().seq().unwrap();
        let winners = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| match store.claim(q, seq, NOBODY, n) {
                    Ok(_) => drop(winners.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => assert!(matches!(error, Error::NotFound)),
                });
            }
        });
        assert_eq!(winners.into_inner(), 1);
    }
    assert_eq!(store.queue(q).unwrap().counters.claims_total, 200);
}

/// What comes back among messages whose time to live is over, and which are passed over, is not passed over with them.
#[test]
fn what_comes_back_among_outdated_messages_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let q = queue(&store, "q");
    let enqueue = |ttl: Option<&str>| {
        let mut new = message(&store, q, "m");
        new.attributes = ttl.map(|ttl| ("user.mq.ttl".into(), ttl.into())).into_iter().collect();
        store.enqueue(new, NewBody::Inline(b""), false, 1000).unwrap().seq().unwrap()
    };
    let (_, back, _, last) = (enqueue(Some("10ms")), enqueue(None), enqueue(Some("10ms")), enqueue(None));
    store.claim(q, back, NOBODY, 1000).unwrap();
    assert_eq!(store.claim_next(q, NOBODY, 2000).unwrap().0, last);
    assert!(!store.has_ready(q, 2000).unwrap());
    store.nack(q, back, Of::Any, false, 2000).unwrap();
    assert_eq!(store.claim_next(q, NOBODY, 2000).unwrap().0, back);
}

/// Nor is what is shown among them after others have passed it.
#[test]
fn what_is_shown_among_outdated_messages_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let q = queue(&store, "q");
    let enqueue = |hidden: bool| {
        let mut new = message(&store, q, "m");
        new.attributes = if hidden { Vec::new() } else { vec![("user.mq.ttl".into(), "10ms".into())] };
        store.enqueue(new, NewBody::Inline(b""), hidden, 1000).unwrap().seq().unwrap()
    };
    let (_, shown, _) = (enqueue(false), enqueue(true), enqueue(false));
    assert!(store.claim_next(q, NOBODY, 2000).is_err());
    assert_eq!(store.reveal(q, shown, 2000).unwrap().seq(), Some(shown));
    assert_eq!(store.claim_next(q, NOBODY, 2000).unwrap().0, shown);
}

/// No deadline is slept through, whatever is claimed and acked meanwhile.
#[test]
fn every_lease_that_ends_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let q = queue(&store, "q");
    let lease = 30_000;
    for n in 0..50 {
        let seq = store.enqueue(message(&store, q, "m"), NewBody::Inline(b""), false, 1).unwrap().seq().unwrap();
        store.claim(q, seq, NOBODY, 1000 + n).unwrap();
        if n % 2 == 0 {
            store.ack(q, seq, (&[State::Claimed], Of::Any), 2000).unwrap();
        }
    }
    assert_eq!(store.due(999 + lease, None, 100).unwrap(), []);
    let mut told = 0;
    for at in 0..60 {
        for due in store.due(1000 + lease + at, None, 100).unwrap() {
            assert_eq!(due.at, 1000 + lease + at);
            store.expire(due.id, due.at, due.at).unwrap();
            told += 1;
        }
    }
    assert_eq!(told, 25);
    assert_eq!(store.queue(q).unwrap().counters.ready, 25);
}

/// A disk that refuses a write may refuse to be read as well: what an operation that failed halfway has counted is forgotten
/// without it, and the next one makes nothing wrong durable.
#[test]
fn counters_of_what_failed_halfway_are_not_kept_though_the_disk_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let q = queue(&store, "q");
    let enqueue = || store.enqueue(message(&store, q, "m"), NewBody::Inline(b"x"), false, 1000).unwrap().seq().unwrap();
    let first = enqueue();
    let mut batch = store.db.batch();
    batch.put(Family::Meta, &keys::counters(q), b"unreadable");
    store.db.write(batch).unwrap();
    let failed = store.alter(first, 2000, |_, holder| {
        holder.counters.claims_total += 7;
        Err(Error::NoSpace)
    });
    assert!(matches!(failed, Err(Error::NoSpace)));
    assert_eq!(store.queue(q).unwrap().counters.claims_total, 0);
    enqueue();
    store.close().unwrap();
    drop(store);
    let counters = open(dir.path()).queue(q).unwrap().counters;
    assert_eq!((counters.ready, counters.enqueued_total, counters.claims_total), (2, 2, 0));
}

/// What a full disk refused is written once more, and after a crash the log may bring back both.
#[test]
fn a_body_that_was_written_twice_is_gone_once_its_message_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let q = queue(&store, "q");
    let seq = store.enqueue(message(&store, q, "m"), NewBody::Inline(b"body"), false, 1000).unwrap().seq().unwrap();
    store.db.flush().unwrap();
    let mut again = store.db.batch();
    again.put(Family::Bodies, &keys::body(seq), b"body");
    store.db.write(again).unwrap();
    store.ack(q, seq, (&[State::Ready], Of::Any), 2000).unwrap();
    store.db.flush().unwrap();
    assert_eq!(keys_in(&store, Family::Bodies), 0);
}
