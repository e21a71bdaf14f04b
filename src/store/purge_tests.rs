//! Purges, and what they must leave alone.

use super::db::Family;
use super::record;
use super::tests::{NOBODY, keys_in, message, open, queue};
use super::{Body, Due, NewBody, Of, Remains, Store, keys};
use crate::error::Error;
use crate::queue::state::State;

fn put(store: &Store, queue: u64, name: &str, hidden: bool) -> u64 {
    store.enqueue(message(store, queue, name), NewBody::Inline(name.as_bytes()), hidden, 1).unwrap().seq().unwrap()
}

fn listed(store: &Store, queue: u64, state: State) -> Vec<u64> {
    let mut seqs = Vec::new();
    store
        .list(queue, state, 0, |entry| {
            seqs.push(entry.id);
            true
        })
        .unwrap();
    seqs
}

/// Purges that have not been cleared away.
fn jobs(store: &Store) -> usize {
    let mut count = 0;
    let counted = store.db.scan(Family::Meta, keys::PURGES, keys::PURGES, |_, _| {
        count += 1;
        Ok(true)
    });
    counted.unwrap();
    count
}

fn clear(mut remains: Remains<'_>) {
    while remains.clear_some().unwrap() {}
    remains.finish().unwrap();
}

#[test]
fn what_is_purged_is_gone_at_once_and_cleared_away_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (q, other) = (queue(&store, "q"), queue(&store, "other"));
    let seqs: Vec<u64> = (0..300).map(|n| put(&store, q, &format!("m{n}"), false)).collect();
    let stays = put(&store, other, "stays", false);
    store.claim(q, seqs[0], NOBODY, 1).unwrap();

    let (count, remains) = store.purge(q, &[State::Ready], 2).unwrap();

    assert_eq!(count, 299);
    assert!(listed(&store, q, State::Ready).is_empty());
    assert!(matches!(store.message(seqs[9]), Err(Error::NotFound)));
    assert!(matches!(store.claim(q, seqs[9], NOBODY, 3), Err(Error::NotFound)));
    assert!(matches!(store.claim_next(q, NOBODY, 3), Err(Error::WouldBlock)));
    let counters = store.queue(q).unwrap().counters;
    assert_eq!((counters.ready, counters.ready_bytes, counters.claimed, counters.purged_total), (0, 0, 1, 299));
    assert_eq!(keys_in(&store, Family::Messages), 301, "their records are still there");
    let new = put(&store, q, "new", false);
    clear(remains);
    assert_eq!([Family::Messages, Family::Bodies].map(|family| keys_in(&store, family)), [3, 3]);
    assert_eq!(store.purge(q, &[State::Dead], 4).unwrap().0, 0, "there is nothing to purge");
    assert_eq!(jobs(&store), 0);

    assert_eq!((listed(&store, q, State::Ready), listed(&store, other, State::Ready)), (vec![new], vec![stays]));
    store.nack(q, seqs[0], Of::Any, false, 5).unwrap();
    assert_eq!(
        listed(&store, q, State::Ready),
        [seqs[0], new],
        "it was claimed before the purge and came back after it"
    );
    assert_eq!(store.claim_next(q, NOBODY, 6).unwrap().0, seqs[0]);
}

#[test]
fn messages_that_await_their_last_close_survive() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let q = queue(&store, "q");
    put(&store, q, "a", false);
    let hidden = [put(&store, q, "b", true), put(&store, q, "c", true), put(&store, q, "d", true)];
    put(&store, q, "e", false);
    let (count, remains) = store.purge(q, &State::ALL, 2).unwrap();
    assert_eq!(count, 2);
    assert_eq!(store.queue(q).unwrap().counters.ready, 0);
    store.reveal(q, hidden[0], 3).unwrap().seq().unwrap();
    clear(remains);
    store.retract(q, hidden[1], 3).unwrap();
    let last = store.resequence(q, hidden[2], None, 3).unwrap();
    store.reveal(q, last, 3).unwrap().seq().unwrap();
    assert_eq!(listed(&store, q, State::Ready), [hidden[0], last]);
    let counters = store.queue(q).unwrap().counters;
    assert_eq!((counters.ready, counters.ready_bytes, counters.enqueued_total), (2, 2, 4));
    assert_eq!(keys_in(&store, Family::Messages), 2);
    let record = store.message(hidden[0]).unwrap();
    assert!(matches!(store.body(&record).unwrap(), Body::Inline(bytes) if bytes == b"b"));
}

#[test]
fn a_purge_that_was_cut_short_is_finished_after_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let (q, other) = {
        let store = open(dir.path());
        let (q, other) = (queue(&store, "q"), queue(&store, "other"));
        for n in 0..500 {
            put(&store, q, &format!("m{n}"), false);
            put(&store, other, &format!("o{n}"), false);
        }
        let (_, mut remains) = store.purge(q, &[State::Ready], 2).unwrap();
        assert!(remains.clear_some().unwrap());
        (q, other)
    };
    let store = open(dir.path());
    assert!(listed(&store, q, State::Ready).is_empty());
    let before = keys_in(&store, Family::Messages);
    assert!(before > 500 && before < 1000, "{before}");
    let late = put(&store, q, "late", false);
    assert_eq!(store.clear_left(|| true).unwrap(), before as u64 - 500);
    assert_eq!(keys_in(&store, Family::Messages), 501);
    assert_eq!((listed(&store, q, State::Ready), listed(&store, other, State::Ready).len()), (vec![late], 500));
    drop(store);
    assert_eq!(open(dir.path()).clear_left(|| true).unwrap(), 0, "it is done");
}

#[test]
fn a_purged_queue_can_be_removed_before_it_is_cleared() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = open(dir.path());
        let q = queue(&store, "q");
        let seq = put(&store, q, "m", false);
        drop(store.purge(q, &State::ALL, 2).unwrap());
        store.remove_queue(super::ROOT, b"q").unwrap();
        assert!(matches!(store.message(seq), Err(Error::NotFound)));
    }
    let store = open(dir.path());
    assert_eq!(store.clear_left(|| true).unwrap(), 1);
    assert_eq!(keys_in(&store, Family::Messages), 0);
}

#[test]
fn two_purges_at_once_are_both_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let q = queue(&store, "q");
    put(&store, q, "a", false);
    let (_, mut first) = store.purge(q, &[State::Ready], 2).unwrap();
    put(&store, q, "b", false);
    let (_, second) = store.purge(q, &[State::Ready], 2).unwrap();
    clear(second);
    assert_eq!(keys_in(&store, Family::Messages), 1, "of the first");
    assert_eq!(jobs(&store), 1, "which has not ended");
    while first.clear_some().unwrap() {}
    assert_eq!(keys_in(&store, Family::Messages), 0);
}

/// Version 1 of the records did not say when a message was placed.
#[test]
fn messages_of_an_older_store_are_purged_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let q = queue(&store, "q");
    let seqs = [put(&store, q, "a", false), put(&store, q, "b", false)];
    for seq in seqs {
        let old = record::MessageRecord { placed: 0, ..store.message(seq).unwrap() };
        let mut batch = store.db.batch();
        batch.put(Family::Messages, &keys::message(seq), &record::encode(&old));
        store.db.write(batch).unwrap();
    }
    store.claim(q, seqs[1], NOBODY, 1).unwrap();
    let (count, remains) = store.purge(q, &[State::Ready], 2).unwrap();
    clear(remains);
    assert_eq!((count, keys_in(&store, Family::Messages)), (1, 1));
    store.nack(q, seqs[1], Of::Any, false, 3).unwrap();
    assert_eq!(listed(&store, q, State::Ready), [seqs[1]]);
}

#[test]
fn deadlines_of_purged_messages_do_not_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let q = queue(&store, "q");
    let seqs = [put(&store, q, "a", false), put(&store, q, "b", false)];
    for seq in seqs {
        store.claim(q, seq, NOBODY, 1).unwrap();
    }
    let (_, remains) = store.purge(q, &[State::Claimed], 2).unwrap();
    let due: Vec<Due> = store.due(u64::MAX, None, 10).unwrap();
    assert_eq!(due.len(), 2);
    assert!(matches!(store.message_due(&due[0]), Err(Error::NotFound)));
    assert_eq!(keys_in(&store, Family::Deadlines), 1);
    clear(remains);
    assert_eq!(keys_in(&store, Family::Deadlines), 0);
    let seq = put(&store, q, "c", false);
    store.claim(q, seq, NOBODY, 1).unwrap();
    let due = store.due(u64::MAX, None, 10).unwrap();
    assert!(store.message_due(&due[0]).is_ok());
    assert_eq!(keys_in(&store, Family::Deadlines), 1, "it was not purged");
}

/// The space of purged bodies comes back.
#[test]
fn a_store_shrinks_after_a_purge() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let q = queue(&store, "q");
    let mut noise = 1_u64;
    for _ in 0..6000 {
        let body: Vec<u8> = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (noise >> 56) as u8
        })
        .take(8000)
        .collect();
        store.enqueue(message(&store, q, "m"), NewBody::Inline(&body), false, 1).unwrap().seq().unwrap();
    }
    let size = || {
        let files = std::fs::read_dir(dir.path().join("db")).unwrap();
        files.filter_map(|file| file.unwrap().metadata().ok()).map(|file| file.len()).sum::<u64>()
    };
    let before = size();
    assert!(before > 40_000_000, "{before}");
    clear(store.purge(q, &[State::Ready], 2).unwrap().1);
    let began = std::time::Instant::now();
    while size() > before / 8 {
        assert!(began.elapsed().as_secs() < 120, "{before} bytes before, {} bytes now", size());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// While all others wait nothing is looked up for each message that awaits its last close: what they are was read before.
#[test]
fn nobody_waits_while_hidden_messages_are_read() {
    let looked = |count: usize| {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = queue(&store, "q");
        let hidden: Vec<u64> = (0..count).map(|n| put(&store, q, &format!("h{n}"), true)).collect();
        put(&store, q, "seen", false);
        let (looked, purged) = super::db::looked::during(|| store.purge(q, &[State::Ready], 5));
        let (purged, mut remains) = purged.unwrap();
        assert_eq!(purged, 1);
        while remains.clear_some().unwrap() {}
        remains.finish().unwrap();
        for seq in &hidden {
            assert_eq!(store.reveal(q, *seq, 6).unwrap().seq(), Some(*seq));
        }
        assert_eq!(listed(&store, q, State::Ready), hidden);
        looked
    };
    assert_eq!(looked(500), looked(5));
}
