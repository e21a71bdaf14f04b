//! Since when the oldest message of a state has been in it.
//!
//! Messages that never left ready became so in the order of the listing, so the first of each priority is the oldest of them. All
//! others, what came back to ready and what is in another state, are listed once more by since when ([`keys::aged`]). So a look
//! costs the same however many messages there are, and a message that is enqueued costs nothing more.

use crate::error::{Error, Result};
use crate::queue::properties::Properties;
use crate::queue::state::State as MessageState;

use super::Store;
use super::db::Family;
use super::keys;
use super::record::MessageRecord;
use super::state::{PRIORITIES, Queue};

/// So many messages that came back are passed over in one look for one that did not; the next look goes on behind them.
const AT_ONCE: usize = 256;

/// Since when a message is in its state, if it is listed by that: not while it is ready for the first time, and not when nobody
/// remembers.
pub(super) fn aged(record: &MessageRecord) -> Option<u64> {
    let first = record.state() == MessageState::Ready && record.since == record.enqueued_at;
    (!first && record.since > 0).then_some(record.since)
}

/// Where searches for the oldest messages of a queue begin: what is before them are graves of messages that were there, and, in the
/// listing of what is ready, messages that came back.
#[derive(Debug, Default)]
pub struct Ages {
    /// For each priority a position before which no message is ready for the first time.
    first: [u64; PRIORITIES],
    /// For each state an instant (ms) before which none of its messages is listed.
    since: [u64; 4],
    /// For each state a position before which of each message it is known since when it is there. None of which it is not comes
    /// anew.
    known: [u64; 4],
}

impl Ages {
    /// A message was put at that position of its state. To be called in the order of the changes, under the store's lock: then no
    /// search begins behind a message that it is to find.
    pub fn placed(&mut self, record: &MessageRecord, position: u64) {
        match aged(record) {
            Some(since) => {
                let start = &mut self.since[record.state() as usize - 1];
                *start = since.min(*start);
            }
            None => {
                let start = &mut self.first[usize::from(record.order).min(PRIORITIES - 1)];
                *start = position.min(*start);
            }
        }
    }
}

impl Store {
    /// Since when the oldest message of a queue in a state has been in it, in milliseconds since the epoch; `None` when there is none.
    pub fn oldest(&self, queue: u64, state: MessageState) -> Result<Option<u64>> {
        self.oldest_in((queue, self.lock().queue(&self.db, queue)?), state)
    }

    /// As [`Store::oldest`], of a queue that is remembered, under the lock; or of one that was read for this, without it.
    pub(super) fn oldest_in(&self, (id, queue): (u64, &mut Queue), state: MessageState) -> Result<Option<u64>> {
        if queue.shown().count(state) == 0 {
            return Ok(None);
        }
        let listed = self.oldest_listed((id, queue), state)?;
        let other = match state {
            MessageState::Ready => self.oldest_first((id, queue))?,
            _ if self.upgraded => self.oldest_unknown((id, queue), state)?,
            _ => None,
        };
        Ok(listed.into_iter().chain(other).min())
    }

    /// That of those that are listed by since when.
    fn oldest_listed(&self, (queue, remembered): (u64, &mut Queue), of: MessageState) -> Result<Option<u64>> {
        let start = remembered.ages.since[of as usize - 1];
        let (mut first, mut found) = (None, None);
        self.db.scan(Family::Index, &keys::all_aged(queue, of), &keys::aged(queue, of, start, 0), |key, _| {
            let Some((.., since, seq)) = keys::parse_aged(key) else { return Ok(true) };
            first.get_or_insert(since);
            found = (!remembered.hidden.contains(seq)).then_some(since);
            Ok(found.is_none())
        })?;
        remembered.ages.since[of as usize - 1] = first.unwrap_or(u64::MAX);
        Ok(found)
    }

    /// That of those that are ready for the first time.
    fn oldest_first(&self, (queue, remembered): (u64, &mut Queue)) -> Result<Option<u64>> {
        let mut oldest = None;
        for order in 0..remembered.config.priorities {
            let (begin, end) = (keys::position(order, 0), keys::position(order + 1, 0));
            let known = [remembered.ages.first, remembered.heads].map(|starts| starts[usize::from(order)]);
            let start = known.into_iter().fold(begin.max(remembered.counters.head), u64::max);
            if start >= end {
                continue;
            }
            // Where the next search begins: at what is hidden, which users may see by then, or where this one ends.
            let (mut next, mut stopped, mut looks) = (None, end, 0);
            let prefix = keys::indexed_order(queue, MessageState::Ready, order);
            self.db.scan(Family::Index, &prefix, &keys::index(queue, MessageState::Ready, start), |key, _| {
                let Some(position) = keys::indexed_position(key) else { return Ok(true) };
                let seq = keys::seq_of(position);
                stopped = position;
                if remembered.hidden.contains(seq) {
                    next.get_or_insert(position);
                    return Ok(true);
                }
                if looks == AT_ONCE {
                    return Ok(false);
                }
                match self.record(seq) {
                    Ok(record) if aged(&record).is_none() => {
                        let since = waiting_since(&record);
                        oldest = Some(oldest.map_or(since, |oldest: u64| oldest.min(since)));
                        return Ok(false);
                    }
                    Ok(_) => looks += 1,
                    Err(Error::Damaged(_) | Error::NotFound) => looks += 1,
                    Err(error) => return Err(error),
                }
                stopped = end;
                Ok(true)
            })?;
            remembered.ages.first[usize::from(order)] = next.unwrap_or(stopped);
        }
        Ok(oldest)
    }

    /// That of the first in the listing of a state that an earlier version left, of which nobody remembers since when it is there. It
    /// is found at the latest when all before it have been passed over, a part of them at each look.
    fn oldest_unknown(&self, (queue, remembered): (u64, &mut Queue), of: MessageState) -> Result<Option<u64>> {
        let start = remembered.ages.known[of as usize - 1];
        if start == u64::MAX {
            return Ok(None);
        }
        let (mut found, mut stopped, mut looks) = (None, u64::MAX, 0);
        self.db.scan(Family::Index, &keys::indexed(queue, of), &keys::index(queue, of, start), |key, _| {
            let Some(position) = keys::indexed_position(key) else { return Ok(true) };
            found = self.record(keys::seq_of(position)).ok().filter(|record| record.since == 0);
            looks += 1;
            let ends = found.is_some() || looks == AT_ONCE;
            if ends {
                stopped = position;
            }
            Ok(!ends)
        })?;
        remembered.ages.known[of as usize - 1] = stopped;
        Ok(found.map(|record| waiting_since(&record)))
    }
}

/// Since when a message is in its state. Of what an earlier version left, the best that is known: since it was claimed, enqueued,
/// or, if its producer delayed it, due.
fn waiting_since(record: &MessageRecord) -> u64 {
    match (record.since, &record.claim) {
        (0, Some(claim)) => claim.at,
        (0, None) => Properties::of(&record.attributes).due(record.enqueued_at).unwrap_or(record.enqueued_at),
        (since, _) => since,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tests::{NOBODY, Random, message, open, queue};
    use super::super::{DeadReason, NewBody, Of, Store};
    use super::AT_ONCE;
    use crate::error::Error;
    use crate::queue::state::State;

    /// However many came back in front of the oldest, it is found: at the latest when they have been passed over, a part of them
    /// at each look.
    #[test]
    fn what_waits_behind_many_that_came_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let q = queue(&store, "q");
        let enqueue = |store: &Store, now| {
            store.enqueue(message(store, q, "m"), NewBody::Inline(b""), false, now).unwrap().seq().unwrap()
        };
        let many = 2 * AT_ONCE as u64 + 10;
        let seqs: Vec<u64> = (0..many).map(|n| enqueue(&store, 1000 + n)).collect();
        for seq in &seqs {
            store.dead_letter(q, *seq, (State::Ready, Of::Any), DeadReason::Moved, 3000).unwrap();
        }
        assert_eq!(store.oldest(q, State::Dead).unwrap(), Some(3000));
        let behind = enqueue(&store, 4000);
        assert_eq!(store.oldest(q, State::Ready).unwrap(), Some(4000));
        for seq in &seqs {
            store.redrive(q, *seq, 5000).unwrap();
        }
        assert_eq!((store.oldest(q, State::Dead).unwrap(), store.oldest(q, State::Ready).unwrap()), (None, Some(4000)));
        for _ in 0..2 {
            drop(store);
            store = open(dir.path());
            let looks: Vec<_> = (0..4).map(|_| store.oldest(q, State::Ready).unwrap()).collect();
            assert_eq!(looks, [5000, 5000, 4000, 4000].map(Some));
        }
        store.ack(q, behind, (&[State::Ready], Of::Any), 6000).unwrap();
        assert_eq!(store.oldest(q, State::Ready).unwrap(), Some(5000));
        let last = enqueue(&store, 7000);
        for seq in seqs {
            store.ack(q, seq, (&[State::Ready], Of::Any), 8000).unwrap();
        }
        assert_eq!(store.oldest(q, State::Ready).unwrap(), Some(7000));
        store.claim(q, last, NOBODY, 9000).unwrap();
        assert_eq!(
            (store.oldest(q, State::Ready).unwrap(), store.oldest(q, State::Claimed).unwrap()),
            (None, Some(9000))
        );
    }

    /// What an earlier version left, which did not remember since when: the first in the listing counts, by the best that is known.
    #[test]
    fn what_nobody_remembers_counts_since_it_was_enqueued() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        store.upgraded = true;
        let q = queue(&store, "q");
        let left = |store: &Store, now| {
            let new = message(store, q, "m");
            let seq = store.enqueue(new, NewBody::Inline(b""), false, now).unwrap().seq().unwrap();
            let before = store.message(seq).unwrap();
            let mut after = before.clone();
            after.set_state(State::Dead);
            after.since = 0;
            store.replace(store.lock(), seq, &before, after, now).unwrap();
            seq
        };
        let (first, second) = (left(&store, 1000), left(&store, 2000));
        let dead = |store: &Store| store.oldest(q, State::Dead).unwrap();
        assert_eq!(dead(&store), Some(1000));
        store.redrive(q, first, 3000).unwrap();
        assert_eq!(dead(&store), Some(2000));
        store.dead_letter(q, first, (State::Ready, Of::Any), DeadReason::Moved, 4000).unwrap();
        assert_eq!(dead(&store), Some(2000), "what is remembered does not hide it");
        // However many stand before it.
        let many: Vec<u64> = (0..AT_ONCE as u64 + 5).map(|_| left(&store, 5000)).collect();
        let last = left(&store, 4500);
        for seq in [second].into_iter().chain(many) {
            store.redrive(q, seq, 6000).unwrap();
            store.dead_letter(q, seq, (State::Ready, Of::Any), DeadReason::Moved, 7000).unwrap();
        }
        store.redrive(q, first, 6000).unwrap();
        drop(store);
        let mut store = open(dir.path());
        store.upgraded = true;
        assert_eq!((dead(&store), dead(&store), dead(&store)), (Some(7000), Some(4500), Some(4500)));
        store.redrive(q, last, 8000).unwrap();
        assert_eq!((dead(&store), dead(&store)), (Some(7000), Some(7000)));
    }

    #[test]
    fn only_a_store_that_was_upgraded_has_what_nobody_remembers() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!open(dir.path()).upgraded);
        std::fs::write(dir.path().join("format"), "3\n").unwrap();
        for _ in 0..2 {
            assert!(open(dir.path()).upgraded);
        }
    }

    /// Whatever comes, goes and comes back: the next is the first of the highest priority, and the oldest is the oldest.
    #[test]
    fn the_next_and_the_oldest_of_several_priorities() {
        let mut random = Random::new();
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let q = queue(&store, "q");
        let set = |record: &mut super::super::record::QueueRecord| {
            record.config = "priorities = 3\nmax_deliveries = 0".into();
            Ok(())
        };
        store.alter_queue(q, set).unwrap();
        // By order and number: when it became ready, or was claimed.
        let mut ready: BTreeMap<(u8, u64), u64> = BTreeMap::new();
        let mut claimed: BTreeMap<(u8, u64), u64> = BTreeMap::new();
        let mut hidden = Vec::new();
        for step in 0..4000_u64 {
            let now = 1_000_000 + step;
            let phase = step / 400 % 2 == 0; // it fills, and is drained
            match random.below(if phase { 6 } else { 12 }) {
                choice @ 0..3 => {
                    let priority = random.below(5) as u8;
                    let mut new = message(&store, q, "m");
                    new.attributes = vec![("user.mq.priority".into(), priority.to_string().into())];
                    let seq = store.enqueue(new, NewBody::Inline(b""), choice == 0, now).unwrap().seq().unwrap();
                    let key = (2 - priority.min(2), seq);
                    if choice == 0 { hidden.push((key, now)) } else { assert!(ready.insert(key, now).is_none()) }
                }
                3 if !hidden.is_empty() => {
                    let (key, at) = hidden.swap_remove(random.below(hidden.len()));
                    assert!(store.reveal(q, key.1, now).unwrap().seq().is_some());
                    ready.insert(key, at);
                }
                4 if !claimed.is_empty() => {
                    let key = *claimed.keys().nth(random.below(claimed.len())).unwrap();
                    store.nack(q, key.1, Of::Any, false, now).unwrap();
                    claimed.remove(&key);
                    ready.insert(key, now);
                }
                5 if !claimed.is_empty() => {
                    let (key, _) = claimed.pop_first().unwrap();
                    store.ack(q, key.1, (&[State::Claimed], Of::Any), now).unwrap();
                }
                _ => match (store.claim_next(q, NOBODY, now), ready.pop_first()) {
                    (Ok((seq, _)), Some((key, _))) => {
                        assert_eq!(seq, key.1);
                        claimed.insert(key, now);
                    }
                    (Err(Error::WouldBlock), None) => {}
                    (got, expected) => panic!("{got:?} and not {expected:?}"),
                },
            }
            if random.below(3) == 0 {
                assert_eq!(store.oldest(q, State::Ready).unwrap(), ready.values().min().copied());
                assert_eq!(store.oldest(q, State::Claimed).unwrap(), claimed.values().min().copied());
            }
            if step % 1500 == 1499 {
                // What awaits its last close is there when the store is opened again.
                ready.extend(hidden.drain(..));
                drop(store);
                store = open(dir.path());
            }
        }
    }
}
