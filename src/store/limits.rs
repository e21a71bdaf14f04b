//! Limits of a queue: `max_messages` and `max_bytes`, what happens at them, and `paused`.
//!
//! Ready, delayed and claimed messages fill a queue; dead ones do not. What is being written fills it too: room is kept for it
//! from the open on, so that a writer hears early that there is none, and its close does not fail for want of it. What comes
//! back (a nack, a lease that expires, a redrive, a dead letter of another queue) is never refused.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::queue::config::{Overflow, QueueConfig};
use crate::queue::state::State as MessageState;

use super::db::Batch;
use super::keys;
use super::record::{BodyPlace, MessageRecord};
use super::state::{Queue, State};
use super::{Onto, Store};

/// So many messages at most make room for newer ones in one step; when more are over the limit, the next steps go on.
const DROP_AT_ONCE: usize = 256;

/// Of messages that were dropped the log tells at most once in so long, in milliseconds.
const TELL_AGAIN_MS: u64 = 60_000;

/// So many messages, of so many bytes in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Messages.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

impl Room {
    /// Of one message.
    pub fn of_one(bytes: u64) -> Self {
        Self { messages: 1, bytes }
    }

    /// What a configuration allows.
    fn limit(config: &QueueConfig) -> Self {
        let limit = |value: u64| if value == 0 { u64::MAX } else { value };
        Self { messages: limit(config.max_messages), bytes: limit(config.max_bytes) }
    }

    fn plus(self, other: Self) -> Self {
        Self { messages: self.messages.saturating_add(other.messages), bytes: self.bytes.saturating_add(other.bytes) }
    }

    fn minus(self, other: Self) -> Self {
        Self { messages: self.messages.saturating_sub(other.messages), bytes: self.bytes.saturating_sub(other.bytes) }
    }

    fn max(self, other: Self) -> Self {
        Self { messages: self.messages.max(other.messages), bytes: self.bytes.max(other.bytes) }
    }

    fn within(self, limit: Self) -> bool {
        self.messages <= limit.messages && self.bytes <= limit.bytes
    }
}

/// The room that is kept for messages that are on their way into a queue, by their own numbers.
///
/// `sum` is that of all that is in `of`. A message is in it from [`Store::reserve`] until it is in the queue's counters
/// instead, in the same step ([`Store::enqueue`], [`Store::publish`]), or until [`Store::release`]; one that is taken back
/// ([`Store::retract`]) is in it again. So none counts twice, and giving back twice does no harm.
#[derive(Debug, Default)]
pub struct Reservations {
    of: HashMap<u64, Room>,
    sum: Room,
}

impl Reservations {
    /// Whether nothing is reserved.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Whether anything is reserved for a message.
    pub fn holds(&self, id: u64) -> bool {
        self.of.contains_key(&id)
    }

    /// What is reserved for a message.
    fn get(&self, id: u64) -> Room {
        self.of.get(&id).copied().unwrap_or_default()
    }

    pub(super) fn set(&mut self, id: u64, room: Room) {
        let before = self.of.insert(id, room).unwrap_or_default();
        self.sum = self.sum.minus(before).plus(room);
    }

    /// Gives the room of a message back; whether there was any.
    pub fn take(&mut self, id: u64) -> bool {
        let Some(room) = self.of.remove(&id) else { return false };
        self.sum = self.sum.minus(room);
        true
    }
}

/// What was dropped from a queue and is to be told in the log.
#[derive(Debug, Default)]
pub struct Dropped {
    untold: u64,
    told_at: u64,
}

impl Queue {
    /// What fills the queue. With `overflow = drop-oldest`, what is ready does not: it can be dropped.
    fn filled(&self) -> Room {
        let c = &self.counters;
        let kept = Room { messages: c.claimed + c.delayed, bytes: c.claimed_bytes + c.delayed_bytes };
        match self.config.overflow {
            Overflow::DropOldest => kept,
            _ => kept.plus(Room { messages: c.ready, bytes: c.ready_bytes }),
        }
    }

    /// Whether there is room for `need`, of which `held` is reserved already.
    fn fits(&self, need: Room, held: Room) -> bool {
        let limit = Room::limit(&self.config);
        let filled = self.filled();
        match self.config.overflow {
            // Whatever else is on its way will be ready, so that it can be dropped.
            Overflow::DropOldest => need.plus(filled).within(limit),
            _ => need.plus(filled).plus(self.reserved.sum.minus(held)).within(limit),
        }
    }

    fn is_over(&self, more: Room) -> bool {
        let c = &self.counters;
        let ready = Room { messages: c.ready, bytes: c.ready_bytes };
        self.config.overflow == Overflow::DropOldest
            && !more.plus(ready).plus(self.filled()).within(Room::limit(&self.config))
    }
}

/// Messages that may have to make room, oldest first.
pub(super) struct Plan(Vec<(u64, MessageRecord)>);

impl Plan {
    /// Whether nothing has to make room.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Store {
    /// Keeps room for the message of the number `id`, which is on its way into a queue; `need` is what it needs in all.
    /// [`Error::QueueFull`] when there is none; what was kept for it before stays.
    pub fn reserve(&self, queue: u64, id: u64, need: Room) -> Result<()> {
        let mut state = self.lock();
        let queue = state.queue(&self.db, queue)?;
        let held = queue.reserved.get(id);
        let need = need.max(held);
        if need != held && !queue.fits(need, held) {
            return Err(Error::QueueFull);
        }
        queue.reserved.set(id, need);
        Ok(())
    }

    /// Gives back the room that was kept for a message.
    pub fn release(&self, queue: u64, id: u64) {
        let mut state = self.lock();
        if let Ok(queue) = state.queue(&self.db, queue) {
            queue.reserved.take(id);
        }
    }

    /// Counts a message that was refused because its queue is full or paused.
    pub fn count_rejected(&self, queue: u64, now: u64) -> Result<()> {
        let mut state = self.lock();
        state.changing(&self.db, queue)?.counters.rejected_total += 1;
        let batch = self.db.batch();
        state.commit(&self.db, batch, now)
    }

    /// Refuses messages for which a queue has no room, or that come while it is paused. The message that makes way for one of
    /// them, by its name, leaves its room to it.
    pub(super) fn admit(&self, state: &mut State, queue: u64, need: Room, onto: Onto) -> Result<()> {
        let target = state.queue(&self.db, queue)?;
        if target.config.paused_in() {
            return Err(Error::Paused);
        }
        if !target.config.is_limited() {
            return Ok(());
        }
        let need = match onto {
            Onto::Nothing => need,
            Onto::Message { seq, .. } => match self.visible(state, seq) {
                Ok(old) if old.queue == queue && old.state() != MessageState::Dead => {
                    need.minus(Room::of_one(old.size))
                }
                _ => need,
            },
        };
        if state.queue(&self.db, queue)?.fits(need, Room::default()) { Ok(()) } else { Err(Error::QueueFull) }
    }

    /// How many of the first messages of these lengths in bytes a queue takes now.
    pub fn how_many_fit(&self, queue: u64, lengths: impl Iterator<Item = u64>) -> Result<usize> {
        let mut state = self.lock();
        let queue = state.queue(&self.db, queue)?;
        if !queue.config.is_limited() {
            return Ok(lengths.count());
        }
        let sums = lengths.scan(Room::default(), |sum, length| {
            *sum = sum.plus(Room::of_one(length));
            Some(*sum)
        });
        Ok(sums.take_while(|sum| queue.fits(*sum, Room::default())).count())
    }

    /// Finds the messages that have to make room for `need`. To be called before the change that [`Store::drop_oldest`] ends
    /// has placed anything: what is in the listing is looked at.
    pub(super) fn plan_drops(&self, state: &mut State, queue: u64, need: Room, onto: Onto) -> Result<Plan> {
        let mut plan = Plan(Vec::new());
        let remembered = state.queue(&self.db, queue)?;
        if !remembered.config.is_limited() || !remembered.is_over(need) {
            return Ok(plan);
        }
        let mut dropped = Room::default();
        // The oldest of the lowest priority first.
        for order in (0..remembered.config.priorities).rev() {
            let mut from = keys::position(order, 0);
            while let Some(seq) = self.first_of_order(state, queue, order, from)? {
                let record = self.record(seq)?;
                from = keys::position(order, seq) + 1;
                dropped = dropped.plus(Room::of_one(record.size));
                // What makes way by its name is dropped for that.
                if !matches!(onto, Onto::Message { seq: other, .. } if other == seq) {
                    plan.0.push((seq, record));
                }
                let queue = state.queue(&self.db, queue)?;
                let left = need
                    .plus(queue.filled())
                    .plus(Room { messages: queue.counters.ready, bytes: queue.counters.ready_bytes });
                if left.minus(dropped).within(Room::limit(&queue.config)) || plan.0.len() == DROP_AT_ONCE {
                    return Ok(plan);
                }
            }
        }
        Ok(plan)
    }

    /// Adds to a change: of the messages that were found, those vanish that have to. To be called when the change has placed
    /// what it adds. Gives the body files to be removed after it.
    pub(super) fn drop_oldest(
        &self,
        state: &mut State,
        batch: &mut Batch<'_>,
        queue: u64,
        plan: Plan,
        now: u64,
    ) -> Result<Vec<u64>> {
        let mut files = Vec::new();
        for (seq, record) in plan.0 {
            if !state.queue(&self.db, queue)?.is_over(Room::default()) {
                break;
            }
            self.erase(state, batch, seq, &record)?;
            let remembered = state.changing(&self.db, queue)?;
            remembered.counters.dropped_total += 1;
            remembered.dropped.tell(queue, now);
            if let BodyPlace::File(id) = record.body {
                files.push(id);
            }
        }
        Ok(files)
    }
}

impl Dropped {
    fn tell(&mut self, queue: u64, now: u64) {
        self.untold += 1;
        if now.saturating_sub(self.told_at) >= TELL_AGAIN_MS {
            tracing::warn!(queue, messages = self.untold, "the queue is full: its oldest messages are dropped");
            *self = Self { untold: 0, told_at: now };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tests::{NOBODY, Random, message, open, queue};
    use super::super::{Enqueued, NewBody};
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
            let sum = queue.reserved.of.values().fold(Room::default(), |sum, room| sum.plus(*room));
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
                    match store.reserve(q, id, Room::of_one(1)) {
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
                    match store.reserve(q, id, Room::of_one(more)) {
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
                    store.nack(q, seq, false, step).unwrap();
                    store.ack(q, seq, &[MessageState::Ready], step).unwrap();
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
}
