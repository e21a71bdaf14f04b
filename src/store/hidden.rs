//! Messages of a queue that await their last close: on disk they are ready or delayed, to users they are not there yet.
//!
//! There may be as many as a user may have files open, and each look at a queue asks what they come to: so their sums are kept,
//! and nobody goes through all of them for that.

use std::collections::{BTreeMap, HashSet};

use crate::queue::state::State as MessageState;

use super::limits::Room;
use super::record::{Counters, MessageRecord};
use super::state::{PRIORITIES, deadlines};

/// A message that users do not see yet.
#[derive(Clone, Copy, Debug)]
pub struct Hidden {
    /// Its own number.
    pub id: u64,
    /// Until when its deduplication id is remembered, if it has one.
    pub unique_until: Option<u64>,
    /// Its bytes.
    pub bytes: u64,
    /// Ready or delayed.
    pub state: MessageState,
    /// Its place among priorities, as in its record.
    pub order: u8,
    /// Its first deadline, of which the thread that keeps them is told again when users see it.
    pub deadline: Option<u64>,
}

impl Hidden {
    /// Of a message with that record, whose deduplication id is remembered so long.
    pub fn of(record: &MessageRecord, unique_until: Option<u64>) -> Self {
        let deadline = deadlines(record).map(|(at, _)| at).min();
        let (state, order) = (record.state(), record.order);
        Self { id: record.id, unique_until, bytes: record.size, state, order, deadline }
    }
}

/// Those of a queue, by their sequence numbers.
///
/// Invariant: `ids` and the sums are those of what is in `by_seq`.
#[derive(Debug, Default)]
pub struct HiddenMessages {
    by_seq: BTreeMap<u64, Hidden>,
    ids: HashSet<u64>,
    /// What is ready, for each place among the priorities.
    ready: [Room; PRIORITIES],
    delayed: Room,
}

impl HiddenMessages {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_seq.is_empty()
    }

    /// That of a sequence number.
    pub fn get(&self, seq: u64) -> Option<&Hidden> {
        self.by_seq.get(&seq)
    }

    /// Whether the message of a sequence number is one.
    pub fn contains(&self, seq: u64) -> bool {
        self.by_seq.contains_key(&seq)
    }

    /// Whether the message of that own number is one.
    pub fn contains_id(&self, id: u64) -> bool {
        self.ids.contains(&id)
    }

    /// All, in the order of their sequence numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Hidden)> {
        self.by_seq.iter().map(|(seq, hidden)| (*seq, hidden))
    }

    /// Of those that are ready, what has this place among the priorities or one behind it.
    pub(super) fn ready_from(&self, order: u8) -> Room {
        self.ready.iter().skip(usize::from(order)).fold(Room::default(), |sum, room| sum.plus(*room))
    }

    fn sum(&mut self, hidden: &Hidden) -> &mut Room {
        match hidden.state {
            MessageState::Delayed => &mut self.delayed,
            _ => &mut self.ready[usize::from(hidden.order).min(PRIORITIES - 1)],
        }
    }

    /// One more.
    pub fn insert(&mut self, seq: u64, hidden: Hidden) {
        self.remove(seq);
        let sum = self.sum(&hidden);
        *sum = sum.plus(Room::of_one(hidden.bytes));
        self.ids.insert(hidden.id);
        self.by_seq.insert(seq, hidden);
    }

    /// One less.
    pub fn remove(&mut self, seq: u64) -> Option<Hidden> {
        let hidden = self.by_seq.remove(&seq)?;
        let sum = self.sum(&hidden);
        *sum = sum.minus(Room::of_one(hidden.bytes));
        self.ids.remove(&hidden.id);
        Some(hidden)
    }

    /// Takes them off the counters of their queue.
    pub fn take_off(&self, counters: &mut Counters) {
        for (state, room) in [(MessageState::Ready, self.ready_from(0)), (MessageState::Delayed, self.delayed)] {
            let (count, bytes) = counters.tally(state);
            *count = count.saturating_sub(room.messages);
            *bytes = bytes.saturating_sub(room.bytes);
            counters.enqueued_total = counters.enqueued_total.saturating_sub(room.messages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(id: u64, bytes: u64, state: MessageState, order: u8) -> Hidden {
        Hidden { id, unique_until: None, bytes, state, order, deadline: None }
    }

    #[test]
    fn the_sums_are_those_of_what_is_there() {
        let mut all = HiddenMessages::default();
        all.insert(1, hidden(11, 100, MessageState::Ready, 0));
        all.insert(2, hidden(12, 10, MessageState::Ready, 3));
        all.insert(3, hidden(13, 1, MessageState::Delayed, 3));
        assert_eq!(all.ready_from(0), Room { messages: 2, bytes: 110 });
        assert_eq!(all.ready_from(1), Room { messages: 1, bytes: 10 });
        let mut counters =
            Counters { ready: 5, ready_bytes: 1000, delayed: 1, delayed_bytes: 1, ..Counters::default() };
        counters.enqueued_total = 7;
        all.take_off(&mut counters);
        assert_eq!((counters.ready, counters.ready_bytes, counters.delayed, counters.delayed_bytes), (3, 890, 0, 0));
        assert_eq!(counters.enqueued_total, 4);
        all.insert(2, hidden(12, 20, MessageState::Ready, 3));
        assert_eq!(all.ready_from(1), Room { messages: 1, bytes: 20 });
        assert!(all.contains_id(12) && all.remove(2).is_some() && !all.contains_id(12) && !all.contains(2));
        for seq in [1, 3] {
            all.remove(seq);
        }
        assert!(all.is_empty() && all.ids.is_empty() && all.ready_from(0) == Room::default());
        assert_eq!(all.delayed, Room::default());
    }
}
