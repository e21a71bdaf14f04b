//! Random operations on a store and on a model of it that can be read at a glance, with restarts in between; and many
//! threads at one message.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::db::Family;
use super::record::NewMessage;
use super::{Body, Enqueued, NewBody, NewQueue, Onto, OpenError, ROOT, Store, Taker, check};
use crate::error::Error;
use crate::queue::config::QueueConfig;
use crate::queue::state::State;

pub(super) const NOBODY: Taker = Taker { worker: None, uid: 0 };

/// Random numbers, the same again for the same `MQFS_TEST_SEED`, which is printed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new() -> Self {
        let given = std::env::var("MQFS_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(crate::clock::now_ms);
        println!("MQFS_TEST_SEED={seed}");
        Self(seed | 1)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }
}

/// What a check tells.
pub(super) fn checked(dir: &Path, repair: bool) -> (Vec<String>, check::Summary) {
    let mut lines = Vec::new();
    loop {
        match check::check(dir, repair, &mut |kind, text| lines.push(format!("{kind}: {text}"))) {
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
        producer_pid: 0,
        attributes: vec![("user.h".into(), name.into())],
    }
}

/// What a message is, as far as users can tell.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    queue: u64,
    name: String,
    body: String,
    state: State,
    deliveries: u32,
}

/// What the store says of all its messages.
fn observed(store: &Store, queues: &[u64]) -> BTreeMap<u64, Known> {
    let mut all = BTreeMap::new();
    for queue in queues {
        let counters = store.queue(*queue).unwrap().counters;
        for state in State::ALL {
            let mut listed = Vec::new();
            store
                .list(*queue, state, 0, |entry| {
                    listed.push((entry.id, String::from_utf8(entry.name.to_vec()).unwrap()));
                    true
                })
                .unwrap();
            assert!(listed.is_sorted(), "listed in delivery order");
            let bytes = match state {
                State::Ready => (counters.ready, counters.ready_bytes),
                State::Delayed => (counters.delayed, counters.delayed_bytes),
                State::Claimed => (counters.claimed, counters.claimed_bytes),
                State::Dead => (counters.dead, counters.dead_bytes),
            };
            let mut counted = (listed.len() as u64, 0);
            for (seq, name) in listed {
                let record = store.message(seq).unwrap();
                assert_eq!((record.queue, record.state()), (*queue, state));
                assert_eq!(record.attributes, [("user.h".to_owned(), name.clone().into_bytes())]);
                let Body::Inline(body) = store.body(&record).unwrap() else { panic!("small bodies are inline") };
                counted.1 += body.len() as u64;
                let body = String::from_utf8(body).unwrap();
                let known = Known { queue: *queue, name, body, state, deliveries: record.deliveries };
                assert!(all.insert(seq, known).is_none(), "listed twice");
            }
            assert_eq!(bytes, counted, "counters equal what is there");
        }
    }
    all
}

#[test]
fn random_operations_do_what_the_model_says() {
    let mut random = Random::new();
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let queues = [queue(&store, "a"), queue(&store, "b")];
    let mut model: BTreeMap<u64, Known> = BTreeMap::new();
    for step in 0..3000_u64 {
        let now = 1_000_000 + step;
        if random.below(200) == 0 {
            let (q, state) = (queues[random.below(2)], State::ALL[random.below(4)]);
            let (count, mut remains) = store.purge(q, &[state], now).unwrap();
            let before = model.len();
            model.retain(|_, known| known.queue != q || known.state != state);
            assert_eq!(count, (before - model.len()) as u64);
            if random.below(2) == 0 {
                while remains.clear_some().unwrap() {}
                remains.finish().unwrap();
            }
            continue;
        }
        if model.is_empty() || random.below(3) == 0 {
            let q = queues[random.below(2)];
            let (name, body) = (format!("m{step}"), "x".repeat(random.below(40)));
            let hidden = random.below(4) == 0;
            let seq = store
                .enqueue(message(&store, q, &name), NewBody::Inline(body.as_bytes()), hidden, now)
                .unwrap()
                .seq()
                .unwrap();
            let known = Known { queue: q, name, body, state: State::Ready, deliveries: 0 };
            if !hidden {
                model.insert(seq, known);
                continue;
            }
            assert!(matches!(store.claim(q, seq, NOBODY, now), Err(Error::NotFound)), "hidden from everybody");
            match random.below(3) {
                0 => store.retract(q, seq, now).unwrap(),
                1 => {
                    assert_eq!(store.reveal(q, seq, now).unwrap(), Enqueued::As(seq));
                    model.insert(seq, known);
                }
                _ => {
                    let last = store.resequence(q, seq, None, now).unwrap();
                    assert_eq!(store.reveal(q, last, now).unwrap(), Enqueued::As(last));
                    model.insert(last, known);
                }
            }
            continue;
        }
        let seq = *model.keys().nth(random.below(model.len())).unwrap();
        let operation = random.below(6);
        let known = model[&seq].clone();
        let (q, other) = (known.queue, queues[usize::from(known.queue == queues[0])]);
        match operation {
            0 | 1 => {
                let claimed = store.claim(q, seq, NOBODY, now);
                if known.state == State::Ready {
                    let record = claimed.unwrap();
                    let known = model.get_mut(&seq).unwrap();
                    (known.state, known.deliveries) = (record.state(), known.deliveries + 1);
                } else {
                    assert!(matches!(claimed, Err(Error::NotFound)));
                }
            }
            2 => {
                let given_back = store.nack(q, seq, false, now);
                if known.state == State::Claimed {
                    given_back.unwrap();
                    let to = if known.deliveries >= 3 { State::Dead } else { State::Ready };
                    model.get_mut(&seq).unwrap().state = to;
                } else {
                    assert!(matches!(given_back, Err(Error::NotFound)));
                }
            }
            3 => {
                let acked = store.ack(q, seq, &[State::Ready, State::Claimed], now);
                assert_eq!(acked.is_ok(), known.state != State::Dead);
                if acked.is_ok() {
                    model.remove(&seq);
                }
            }
            4 => {
                let redriven = store.redrive(q, seq, now);
                assert_eq!(redriven.is_ok(), known.state == State::Dead);
                if redriven.is_ok() {
                    model.insert(seq, Known { state: State::Ready, deliveries: 0, ..known });
                }
            }
            _ if random.below(2) == 0 => {
                let new =
                    store.move_to(q, seq, known.state, (other, known.name.as_bytes(), Onto::Nothing), now).unwrap();
                assert!(new > *model.keys().last().unwrap(), "a new sequence number is the newest");
                model.remove(&seq);
                model.insert(new, Known { queue: other, state: State::Ready, deliveries: 0, ..known });
            }
            _ => {
                let dead = store.dead_letter(q, seq, known.state, now);
                assert_eq!(dead.is_ok(), known.state != State::Dead);
                model.get_mut(&seq).unwrap().state = State::Dead;
            }
        }
        if step % 500 == 499 {
            drop(store);
            store = open(dir.path());
        }
        if step % 100 == 99 {
            assert_eq!(observed(&store, &queues), model);
        }
    }
    assert_eq!(observed(&store, &queues), model);
    drop(store);
    store = open(dir.path());
    store.clear_left(|| true).unwrap();
    assert_eq!(observed(&store, &queues), model);
    assert_eq!(keys_in(&store, Family::Messages), model.len(), "nothing is left of what was purged");
    assert_eq!(keys_in(&store, Family::Index), model.len());
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
            store.ack(q, seq, &[State::Claimed], 2000).unwrap();
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
