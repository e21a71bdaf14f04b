//! Names and records always agree, whatever happens to messages: random operations with restarts and purges in between.

use std::collections::BTreeMap;

use super::db::Family;
use super::keys;
use super::tests::{NOBODY, Random, message, open, queue};
use super::{DeadReason, Enqueued, NewBody, Of, Onto, Store};
use crate::error::{Error, Result};
use crate::queue::state::State;

/// Which message has which name in which queue.
type Names = BTreeMap<(u64, String), u64>;

fn keep(store: &Store, name: &str) -> u64 {
    let queue = queue(store, name);
    let keep = |record: &mut super::record::QueueRecord| {
        record.config = "names = keep\nmax_deliveries = 2\n".into();
        Ok(())
    };
    store.alter_queue(queue, keep).unwrap();
    queue
}

/// What the records say.
fn recorded(store: &Store, queues: &[u64]) -> Names {
    let mut names = Names::new();
    for queue in queues {
        for state in State::ALL {
            let listed = store.list(*queue, state, 0, |entry| {
                let name = String::from_utf8(entry.name.to_vec()).unwrap();
                assert!(names.insert((*queue, name), entry.id).is_none(), "a name means one message");
                true
            });
            listed.unwrap();
        }
    }
    names
}

/// What the keys of the names say, those of purged messages left out.
fn keyed(store: &Store) -> Names {
    let mut names = Names::new();
    let scanned = store.db.scan(Family::Meta, b"m", b"m", |key, seq| {
        let queue = u64::from_be_bytes(key[1..9].try_into().unwrap());
        let seq = keys::last_number(seq).unwrap();
        if store.message(seq).is_ok() {
            names.insert((queue, String::from_utf8(key[9..].to_vec()).unwrap()), seq);
        }
        Ok(true)
    });
    scanned.unwrap();
    names
}

/// What is in the way of a name: as the view decides it.
fn onto(store: &Store, names: &Names, queue: u64, name: &str) -> Onto {
    match names.get(&(queue, name.to_owned())) {
        Some(seq) => Onto::message(*seq, &store.message(*seq).unwrap()),
        None => Onto::Nothing,
    }
}

/// One random step; gives what the names are after it.
fn step(store: &Store, random: &mut Random, queues: [u64; 2], mut names: Names, now: u64) -> Names {
    let q = queues[random.below(2)];
    let other = queues[usize::from(q == queues[0])];
    let name = format!("n{}", random.below(8));
    let taken = names.contains_key(&(q, name.clone()));
    let existing =
        names.iter().nth(random.below(names.len().max(1))).map(|((queue, name), seq)| (*queue, name.clone(), *seq));
    let refused = |result: Result<Enqueued>| assert!(matches!(result, Err(Error::Exists)));
    match (random.below(8), existing) {
        (0 | 1, _) | (_, None) => {
            let result = store.enqueue(message(store, q, &name), NewBody::Inline(b"x"), false, now);
            if taken {
                refused(result);
            } else {
                names.insert((q, name), result.unwrap().seq().unwrap());
            }
        }
        (2, _) => {
            let new = message(store, q, &name);
            let (id, held) = (new.id, store.hold_name(q, name.as_bytes(), new.id, Onto::Nothing));
            if taken {
                assert!(matches!(held, Err(Error::Exists)));
                return names;
            }
            held.unwrap();
            refused(store.enqueue(message(store, q, &name), NewBody::Inline(b"x"), false, now));
            let seq = store.enqueue(new, NewBody::Inline(b"x"), true, now).unwrap().seq().unwrap();
            assert!(matches!(store.message_named(q, name.as_bytes()), Err(Error::NotFound)), "hidden");
            match random.below(3) {
                0 => store.retract(q, seq, now).unwrap(),
                1 => drop(names.insert((q, name.clone()), store.reveal(q, seq, now).unwrap().seq().unwrap())),
                _ => {
                    let seq = store.resequence(q, seq, None, now).unwrap();
                    names.insert((q, name.clone()), store.reveal(q, seq, now).unwrap().seq().unwrap());
                }
            }
            store.release_name(q, name.as_bytes(), id);
        }
        (3, Some((queue, old, seq))) => {
            let state = store.message(seq).unwrap().state();
            let onto = onto(store, &names, queue, &name);
            if old != name {
                store.rename_message(queue, seq, state, name.as_bytes(), onto, now).unwrap();
                names.remove(&(queue, old));
                names.insert((queue, name), seq);
            }
        }
        (4, Some((queue, old, seq))) => {
            let target = if queue == q { other } else { q };
            let state = store.message(seq).unwrap().state();
            let onto = onto(store, &names, target, &name);
            if random.below(3) == 0 && onto != Onto::Nothing {
                let refused =
                    store.move_to(queue, seq, (state, Of::Any), (target, name.as_bytes(), Onto::Nothing), now);
                assert!(matches!(refused, Err(Error::Exists)));
            } else {
                let new = store.move_to(queue, seq, (state, Of::Any), (target, name.as_bytes(), onto), now).unwrap();
                names.remove(&(queue, old));
                names.insert((target, name), new);
            }
        }
        (5, Some((queue, name, seq))) => {
            store.ack(queue, seq, (&State::ALL, Of::Any), now).unwrap();
            names.remove(&(queue, name));
        }
        (6, Some(_)) if random.below(4) == 0 => {
            let state = State::ALL[random.below(4)];
            let (_, mut remains) = store.purge(q, &[state], now).unwrap();
            names.retain(|_, seq| store.message(*seq).is_ok());
            // Otherwise as if the mount ended: it is cleared at the next start.
            if random.below(2) == 0 {
                while remains.clear_some().unwrap() {}
                remains.finish().unwrap();
            }
        }
        (_, Some((queue, _, seq))) => {
            // Whether it can happen to it now does not matter here.
            let state = store.message(seq).unwrap().state();
            let _ = match random.below(4) {
                0 => store.claim(queue, seq, NOBODY, now).map(drop),
                1 => store.nack(queue, seq, Of::Any, random.below(2) == 0, now).map(drop),
                2 => store.dead_letter(queue, seq, (state, Of::Any), DeadReason::Moved, now).map(drop),
                _ => store.redrive(queue, seq, now).map(drop),
            };
        }
    }
    names
}

#[test]
fn names_and_records_agree() {
    let mut random = Random::new();
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let queues = [keep(&store, "a"), keep(&store, "b")];
    let mut names = Names::new();
    for at in 0..2000 {
        names = step(&store, &mut random, queues, names, 1_000_000 + at);
        assert_eq!(recorded(&store, &queues), names, "step {at}");
        assert_eq!(keyed(&store), names, "step {at}");
        if at % 400 == 399 {
            drop(store);
            store = open(dir.path());
            store.clear_left(|| true).unwrap();
        }
    }
    // When all is cleared away, not even a key of a purged name is left.
    store.clear_left(|| true).unwrap();
    let (_, mut remains) = store.purge(queues[0], &State::ALL, 3_000_000).unwrap();
    while remains.clear_some().unwrap() {}
    remains.finish().unwrap();
    drop(store);
    let store = open(dir.path());
    store.clear_left(|| true).unwrap();
    names.retain(|(queue, _), _| *queue == queues[1]);
    let mut keys = 0;
    let count = store.db.scan(Family::Meta, b"m", b"m", |_, _| {
        keys += 1;
        Ok(true)
    });
    count.unwrap();
    assert_eq!(keys, names.len());
}

/// What was replaced since it was decided is not replaced, nor what was claimed since.
#[test]
fn only_what_was_meant_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let q = keep(&store, "q");
    let put = |name| store.enqueue(message(&store, q, name), NewBody::Inline(b"x"), false, 1).unwrap().seq().unwrap();
    let (x, y) = (put("x"), put("y"));
    let seen = Onto::message(x, &store.message(x).unwrap());
    store.claim(q, x, NOBODY, 2).unwrap();
    assert!(matches!(store.rename_message(q, y, State::Ready, b"x", seen, 3), Err(Error::Busy)));
    store.ack(q, x, (&State::ALL, Of::Any), 4).unwrap();
    let another = put("x");
    assert!(matches!(store.rename_message(q, y, State::Ready, b"x", seen, 5), Err(Error::Busy)));
    store.ack(q, another, (&State::ALL, Of::Any), 6).unwrap();
    store.rename_message(q, y, State::Ready, b"x", seen, 7).unwrap();
    assert_eq!(store.message_named(q, b"x").unwrap().0, y);
}

/// Times of modification grow strictly, also when the clock does not.
#[test]
fn times_of_modification_grow() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let q = keep(&store, "q");
    let mut last = i64::MIN;
    for (n, now) in [5, 5, 5, 9, 7, 3, 10].into_iter().enumerate() {
        let new = message(&store, q, &format!("m{n}"));
        let seq = store.enqueue(new, NewBody::Inline(b""), false, now).unwrap().seq().unwrap();
        let modified = store.message(seq).unwrap().modified_ns;
        assert!(modified > last && modified >= now as i64 * 1_000_000, "{n}");
        last = modified;
    }
}
