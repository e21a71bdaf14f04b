//! How long what is ready has been waiting.

use crate::error::{Error, Result};
use crate::queue::properties::Properties;

use super::Store;
use super::keys;
use super::record::MessageRecord;

impl Store {
    /// Since when the oldest ready message of a queue has been waiting, in milliseconds since the epoch; `None` when nothing
    /// is ready. Of each priority the first message in delivery order is looked at, whatever the number of messages.
    pub fn oldest_ready(&self, queue: u64) -> Result<Option<u64>> {
        let mut state = self.lock();
        let mut oldest = None;
        let mut after = None;
        while let Some(position) = self.first_ready(&mut state, queue, after)? {
            match self.record(keys::seq_of(position)) {
                Ok(record) => {
                    let since = waiting_since(&record);
                    oldest = Some(oldest.map_or(since, |oldest: u64| oldest.min(since)));
                }
                Err(Error::Damaged(_) | Error::NotFound) => {}
                Err(error) => return Err(error),
            }
            after = Some(keys::position(keys::order_of(position) + 1, 0) - 1);
        }
        Ok(oldest)
    }
}

/// When a message was enqueued; if its producer delayed it, when it was due.
fn waiting_since(record: &MessageRecord) -> u64 {
    Properties::of(&record.attributes).due(record.enqueued_at).unwrap_or(record.enqueued_at)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::NewBody;
    use super::super::tests::{NOBODY, Random, message, open, queue};
    use crate::error::Error;
    use crate::queue::state::State;

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
        // By order and number: when it was enqueued.
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
                    store.nack(q, key.1, false, now).unwrap();
                    ready.insert(key, claimed.remove(&key).unwrap());
                }
                5 if !claimed.is_empty() => {
                    let (key, _) = claimed.pop_first().unwrap();
                    store.ack(q, key.1, &[State::Claimed], now).unwrap();
                }
                _ => match (store.claim_next(q, NOBODY, now), ready.pop_first()) {
                    (Ok((seq, _)), Some((key, at))) => {
                        assert_eq!(seq, key.1);
                        claimed.insert(key, at);
                    }
                    (Err(Error::WouldBlock), None) => {}
                    (got, expected) => panic!("{got:?} and not {expected:?}"),
                },
            }
            if random.below(3) == 0 {
                assert_eq!(store.oldest_ready(q).unwrap(), ready.values().min().copied());
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
