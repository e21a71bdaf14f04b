use std::collections::BTreeMap;

use crate::queue::state::State as MessageState;

use super::super::tests::{NOBODY, Random, message, open, queue};
use super::super::{Enqueued, NewBody, Of};
use super::*;

/// What is in the queue and what is reserved is never more than allowed, whatever becomes of the writers; and when all have
/// gone, nothing is reserved.
#[test]
fn reservations_are_kept_once_and_given_back_once() {
    let mut random = Random::new();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let q = queue(&store, "q");
    store
        .alter_queue(q, |record| {
            record.config = "max_messages = 20\nmax_bytes = 2000\nmax_deliveries = 0".into();
            Ok(())
        })
        .unwrap();
    let room = |store: &Store| {
        let mut state = store.lock();
        let queue = state.queue(&store.db, q).unwrap();
        let sum = queue.reserved.of.values().fold(Room::default(), |sum, reserved| sum.plus(reserved.room));
        assert_eq!(queue.reserved.sum, sum);
        (queue.filled(), sum)
    };
    // By number: what is reserved, and the sequence number once it is committed.
    let mut writers: BTreeMap<u64, (u64, Option<u64>)> = BTreeMap::new();
    let mut ready = Vec::new();
    for step in 0..4000 {
        let some = (!writers.is_empty()).then(|| *writers.keys().nth(random.below(writers.len())).unwrap());
        match (random.below(7), some) {
            (0 | 1, _) => {
                let id = store.next_id().unwrap();
                match store.reserve(q, id, Room::of_one(1), Patience::None) {
                    Ok(()) => drop(writers.insert(id, (1, None))),
                    Err(Error::QueueFull) => {
                        let taken = room(&store).0.plus(room(&store).1);
                        assert!(taken.messages >= 20 || taken.bytes >= 2000, "refused with room left");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            (2, Some(id)) => {
                let (held, seq) = writers[&id];
                if let Some(seq) = seq {
                    store.retract(q, seq, step).unwrap();
                    writers.insert(id, (held, None));
                }
                let more = held + random.below(300) as u64;
                match store.reserve(q, id, Room::of_one(more), Patience::None) {
                    Ok(()) => drop(writers.insert(id, (more, None))),
                    Err(Error::QueueFull) => {
                        store.release(q, id);
                        store.release(q, id);
                        writers.remove(&id);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            (3, Some(id)) if writers[&id].1.is_none() => {
                let new = super::super::record::NewMessage { id, ..message(&store, q, "m") };
                let bytes = vec![0; writers[&id].0 as usize];
                let Enqueued::As(seq) = store.enqueue(new, NewBody::Inline(&bytes), true, step).unwrap() else {
                    panic!("no duplicate")
                };
                writers.insert(id, (bytes.len() as u64, Some(seq)));
            }
            (4, Some(id)) => {
                if let (_, Some(seq)) = writers.remove(&id).unwrap() {
                    assert!(store.reveal(q, seq, step).unwrap().seq().is_some());
                    ready.push(seq);
                } else {
                    store.release(q, id);
                }
            }
            (5, _) if !ready.is_empty() => {
                let seq = ready.swap_remove(random.below(ready.len()));
                store.claim(q, seq, NOBODY, step).unwrap();
                store.nack(q, seq, Of::Any, false, step).unwrap();
                store.ack(q, seq, (&[MessageState::Ready], Of::Any), step).unwrap();
            }
            _ => {}
        }
        let (filled, reserved) = room(&store);
        assert!(filled.plus(reserved).within(Room { messages: 20, bytes: 2000 }), "{filled:?} {reserved:?}");
        assert_eq!(filled.messages + reserved.messages, (ready.len() + writers.len()) as u64);
    }
    for (id, (_, seq)) in writers {
        match seq {
            Some(seq) => drop(store.reveal(q, seq, 5000).unwrap()),
            None => store.release(q, id),
        }
    }
    assert!(store.lock().queue(&store.db, q).unwrap().reserved.is_empty());
}

/// A store with a queue in which producers wait, and how often it told of room.
fn waiting(dir: &tempfile::TempDir, limits: &str) -> (Store, u64, std::sync::mpsc::Receiver<u64>) {
    let store = open(dir.path());
    let q = queue(&store, "q");
    configure(&store, q, &format!("{limits}\noverflow = block"));
    let (told, tells) = std::sync::mpsc::channel();
    store.watch_room(Box::new(move |queue| told.send(queue).unwrap()));
    (store, q, tells)
}

fn configure(store: &Store, q: u64, lines: &str) {
    let set = |record: &mut super::super::record::QueueRecord| {
        record.config = lines.into();
        Ok(())
    };
    store.alter_queue(q, set).unwrap();
}

fn enqueue(store: &Store, q: u64, id: u64, bytes: usize) -> u64 {
    let new = super::super::record::NewMessage { id, ..message(store, q, "m") };
    match store.enqueue(new, NewBody::Inline(&vec![0; bytes]), true, 1).unwrap() {
        Enqueued::As(seq) => store.reveal(q, seq, 1).unwrap().seq().unwrap(),
        Enqueued::Duplicate => panic!("no duplicate"),
    }
}

/// Whoever finds no room is told of each chance once, and nobody is who did not ask.
#[test]
fn who_waits_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, q, tells) = waiting(&dir, "max_messages = 2");
    let told = || tells.try_iter().count();
    let reserve = |id, patience| store.reserve(q, id, Room::of_one(10), patience);
    for id in [101, 102] {
        reserve(id, Patience::None).unwrap();
    }
    let first = enqueue(&store, q, 101, 10);
    store.release(q, 102);
    reserve(102, Patience::None).unwrap();
    assert_eq!(told(), 0, "nobody waits");
    assert!(matches!(reserve(103, Patience::Waits), Err(Error::WouldBlock)));
    store.claim(q, first, NOBODY, 2).unwrap();
    store.nack(q, first, Of::Any, false, 2).unwrap();
    enqueue(&store, q, 102, 10);
    assert_eq!(told(), 0, "there is no more room than there was");
    store.ack(q, first, (&[MessageState::Ready], Of::Any), 3).unwrap();
    assert_eq!(told(), 1);
    reserve(103, Patience::Turn { overdue: false }).unwrap();
    store.release(q, 103);
    assert_eq!(told(), 0, "who has room does not wait");
    reserve(104, Patience::None).unwrap();
    let no_more = |what: &str| {
        assert!(matches!(reserve(105, Patience::Waits), Err(Error::WouldBlock)), "{what}");
    };
    no_more("release");
    store.release(q, 104);
    assert_eq!(told(), 1);
    reserve(104, Patience::None).unwrap();
    no_more("purge");
    store.purge(q, &[MessageState::Ready], 4).unwrap();
    assert_eq!(told(), 1);
    reserve(106, Patience::None).unwrap();
    no_more("configuration");
    configure(&store, q, "max_messages = 2\noverflow = reject");
    assert_eq!(told(), 1);
    assert!(matches!(reserve(105, Patience::Turn { overdue: false }), Err(Error::QueueFull)));
}

/// Unfinished messages that wait for each other: one goes on, when it is overdue, when nobody could take a message, and not
/// beyond what those have who are at work. Newcomers wait until none of them does.
#[test]
fn of_those_who_wait_for_each_other_one_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (store, q, tells) = waiting(&dir, "max_bytes = 100");
    let reserve = |id, bytes, patience| store.reserve(q, id, Room::of_one(bytes), patience);
    let blocked = |id, bytes, patience| {
        assert!(matches!(reserve(id, bytes, patience), Err(Error::WouldBlock)), "{id} {bytes} {patience:?}");
    };
    let (turn, overdue) = (Patience::Turn { overdue: false }, Patience::Turn { overdue: true });
    reserve(101, 45, Patience::Waits).unwrap();
    reserve(102, 45, Patience::Waits).unwrap();
    reserve(103, 5, Patience::Waits).unwrap();
    blocked(101, 60, Patience::Waits);
    blocked(101, 60, turn);
    blocked(101, 60, overdue); // 102 is at work
    blocked(104, 1, Patience::Waits); // comes new
    blocked(102, 60, Patience::Waits);
    blocked(101, 96, overdue); // with what 103 has it would be too much
    assert!(matches!(reserve(101, 101, overdue), Err(Error::QueueFull)), "more than there ever is");
    blocked(101, 60, Patience::Waits);
    reserve(101, 60, overdue).unwrap();
    blocked(102, 60, overdue); // one
    reserve(101, 90, Patience::Waits).unwrap(); // it goes on
    tells.try_iter().count();
    let seq = enqueue(&store, q, 101, 90);
    blocked(102, 60, overdue); // somebody can take the other
    tells.try_iter().count();
    store.ack(q, seq, (&[MessageState::Ready], Of::Any), 3).unwrap();
    assert_eq!(tells.try_iter().count(), 1);
    blocked(104, 1, turn);
    reserve(102, 60, turn).unwrap();
    assert_eq!(tells.try_iter().count(), 1, "newcomers have their turn");
    reserve(104, 1, turn).unwrap();
    blocked(102, 99, Patience::Waits);
    blocked(105, 1, turn);
    store.stop_waiting(q, 102);
    assert_eq!(tells.try_iter().count(), 1);
    reserve(105, 1, turn).unwrap();
}
