//! Random messages with priorities, delays, times to live and ids, while time passes, against a model of them.

use std::collections::BTreeMap;

use super::tests::{NOBODY, Random, message, open, queue};
use super::{DeadlineKind, Enqueued, NewBody, Store};
use crate::error::Error;
use crate::queue::state::State;

#[derive(Clone, Debug)]
struct Known {
    order: u8,
    state: State,
    due: u64,
    expires: u64,
    lease: u64,
}

/// Does what is due, as the thread of the view does.
fn deal_with_due(store: &Store, now: u64) {
    for due in store.due(now, None, usize::MAX).unwrap() {
        let dealt = match due.kind {
            DeadlineKind::Duplicate => store.forget_duplicate(&due),
            _ => store.message_due(&due).and_then(|message| match due.kind {
                DeadlineKind::Lease => store.expire(due.id, due.at, now).map(drop),
                DeadlineKind::Deliver => store.deliver(message.queue, due.id, Some(due.at), now).map(drop),
                _ => store.end_time_to_live(due.id, due.at, now).map(drop),
            }),
        };
        assert!(matches!(dealt, Ok(()) | Err(Error::NotFound)), "{due:?}: {dealt:?}");
    }
}

/// The same in the model: the states that time leads to.
fn pass(model: &mut BTreeMap<u64, Known>, now: u64) {
    for known in model.values_mut() {
        if known.state == State::Claimed && known.lease <= now {
            known.state = State::Ready;
        }
        if known.state == State::Delayed && known.due <= now {
            known.state = State::Ready;
        }
        let waits = matches!(known.state, State::Ready | State::Delayed);
        if waits && known.expires > 0 && known.expires <= now {
            known.state = State::Dead;
        }
    }
}

#[test]
fn time_does_what_the_model_says() {
    let mut random = Random::new();
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let q = queue(&store, "q");
    let keys = "priorities = 3\nmax_deliveries = 0\ndedup_window = 40ms\nvisibility_timeout = 30ms\n";
    let set = |record: &mut super::record::QueueRecord| {
        record.config = keys.into();
        Ok(())
    };
    store.alter_queue(q, set).unwrap();
    let mut model: BTreeMap<u64, Known> = BTreeMap::new();
    let mut ids: BTreeMap<usize, u64> = BTreeMap::new();
    let mut now = 1_000_000;
    for step in 0..4000 {
        now += random.below(6) as u64;
        // Sometimes the thread is late: what is over is not claimed all the same.
        let late = random.below(4) == 0;
        if !late {
            deal_with_due(&store, now);
            pass(&mut model, now);
        }
        match random.below(5) {
            0 | 1 => {
                let (priority, id) = (random.below(5) as u8, random.below(12));
                let delay = [0, 0, random.below(50) as u64][random.below(3)];
                let ttl = [0, 0, 1 + random.below(80) as u64][random.below(3)];
                let mut new = message(&store, q, "m");
                let texts = [
                    ("priority", priority.to_string()),
                    ("delay", format!("{delay}ms")),
                    ("ttl", format!("{ttl}ms")),
                    ("dedup_id", id.to_string()),
                ];
                new.attributes = texts.map(|(name, value)| (format!("user.mq.{name}"), value.into_bytes())).to_vec();
                let enqueued = store.enqueue(new, NewBody::Inline(b"x"), false, now).unwrap();
                if ids.get(&id).is_some_and(|until| *until > now) {
                    assert_eq!(enqueued, Enqueued::Duplicate);
                    continue;
                }
                ids.insert(id, now + 40);
                let state = if delay > 0 { State::Delayed } else { State::Ready };
                let (due, expires) = (now + delay, if ttl > 0 { now + delay + ttl } else { 0 });
                model.insert(
                    enqueued.seq().unwrap(),
                    Known { order: 2 - priority.min(2), state, due, expires, lease: 0 },
                );
            }
            2 => {
                let live = |known: &Known| known.state == State::Ready && (known.expires == 0 || known.expires > now);
                let ready = model.iter().filter(|(_, known)| live(known));
                let first = ready.min_by_key(|(seq, known)| (known.order, **seq)).map(|(seq, _)| *seq);
                match store.claim_next(q, NOBODY, now) {
                    Ok((seq, _)) => {
                        assert_eq!(Some(seq), first);
                        let known = model.get_mut(&seq).unwrap();
                        (known.state, known.lease) = (State::Claimed, now + 30);
                    }
                    Err(error) => assert!(first.is_none() && matches!(error, Error::WouldBlock), "{first:?}: {error}"),
                }
            }
            3 => {
                let claimed: Vec<u64> =
                    model.iter().filter(|(_, k)| k.state == State::Claimed).map(|(s, _)| *s).collect();
                let Some(seq) = claimed.get(random.below(claimed.len().max(1))) else { continue };
                let later = random.below(3) == 0;
                let back = store.nack(q, *seq, later, now).unwrap().record;
                let known = model.get_mut(seq).unwrap();
                (known.state, known.due) = (back.state(), back.due);
                assert_eq!(known.state, if later { State::Delayed } else { State::Ready });
            }
            _ => {
                let Some(seq) = model.keys().nth(random.below(model.len().max(1))).copied() else { continue };
                store.ack(q, seq, &State::ALL, now).unwrap();
                model.remove(&seq);
            }
        }
        if step % 1000 == 999 {
            drop(store);
            store = open(dir.path());
        }
        if step % 50 == 49 {
            deal_with_due(&store, now);
            deal_with_due(&store, now); // what came back from a claim may be over
            pass(&mut model, now);
            for state in State::ALL {
                let mut listed = Vec::new();
                store
                    .list(q, state, 0, |entry| {
                        listed.push((entry.order, entry.id));
                        true
                    })
                    .unwrap();
                let mut expected: Vec<(u8, u64)> =
                    model.iter().filter(|(_, k)| k.state == state).map(|(seq, k)| (k.order, *seq)).collect();
                expected.sort_unstable();
                assert_eq!(listed, expected, "{state:?} at step {step}");
            }
        }
    }
}
