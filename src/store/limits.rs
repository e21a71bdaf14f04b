//! Limits of a queue: `max_messages` and `max_bytes`, what happens at them, and `paused`.
//!
//! Ready, delayed and claimed messages fill a queue; dead ones do not. What is being written fills it too: room is kept for it
//! from the open on, so that a writer hears early that there is none, and its close does not fail for want of it.
//!
//! Whatever comes into a queue, by whichever way, is let in or refused by one function, [`Store::admit`]. What comes back into the
//! queue that it is in (a nack, a lease that expires, a delay that is over, a redrive) was let in before, and is never refused.
//! A dead letter of another queue comes anew.

use crate::error::{Error, Result};
use crate::queue::config::{Overflow, QueueConfig};
use crate::queue::properties::Properties;
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

    /// Of messages of these lengths.
    pub fn of_all(lengths: impl Iterator<Item = u64>) -> Self {
        lengths.fold(Self::default(), |sum, bytes| sum.plus(Self::of_one(bytes)))
    }

    /// What a configuration allows.
    pub(super) fn limit(config: &QueueConfig) -> Self {
        let limit = |value: u64| if value == 0 { u64::MAX } else { value };
        Self { messages: limit(config.max_messages), bytes: limit(config.max_bytes) }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { messages: self.messages.saturating_add(other.messages), bytes: self.bytes.saturating_add(other.bytes) }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self { messages: self.messages.saturating_sub(other.messages), bytes: self.bytes.saturating_sub(other.bytes) }
    }

    pub(super) fn max(self, other: Self) -> Self {
        Self { messages: self.messages.max(other.messages), bytes: self.bytes.max(other.bytes) }
    }

    pub(super) fn within(self, limit: Self) -> bool {
        self.messages <= limit.messages && self.bytes <= limit.bytes
    }
}

/// What messages that come ask of a queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Need {
    room: Room,
    /// The bytes of the largest of them.
    largest: u64,
    /// The place of the least of them among the priorities. What has a higher priority makes no room for them.
    order: u8,
}

impl Need {
    /// Of one message of so many bytes, with this place among the priorities.
    pub fn of_one(bytes: u64, order: u8) -> Self {
        Self { room: Room::of_one(bytes), largest: bytes, order }
    }

    /// Of messages of these lengths, of which the least has this place among the priorities.
    pub fn of_all(lengths: impl Iterator<Item = u64> + Clone, order: u8) -> Self {
        Self { room: Room::of_all(lengths.clone()), largest: lengths.max().unwrap_or(0), order }
    }

    /// How much.
    pub(super) fn room(self) -> Room {
        self.room
    }

    /// The place of the least of them among the priorities.
    pub(super) fn order(self) -> u8 {
        self.order
    }
}

impl From<Room> for Need {
    /// For messages of which only this is known, and for which any other may make room.
    fn from(room: Room) -> Self {
        Need { room, ..Need::default() }
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
    pub(super) fn filled(&self) -> Room {
        let c = &self.counters;
        let kept = Room { messages: c.claimed + c.delayed, bytes: c.claimed_bytes.saturating_add(c.delayed_bytes) };
        match self.config.overflow {
            Overflow::DropOldest => kept,
            _ => kept.plus(Room { messages: c.ready, bytes: c.ready_bytes }),
        }
    }

    /// Whether there is room for `need`, of which `held` is reserved already.
    pub(super) fn fits(&self, need: Room, held: Room) -> bool {
        let limit = Room::limit(&self.config);
        let filled = self.filled();
        match self.config.overflow {
            // Whatever else is on its way will be ready, so that it can be dropped.
            Overflow::DropOldest => need.plus(filled).within(limit),
            _ => need.plus(filled).plus(self.reserved.sum().minus(held)).within(limit),
        }
    }

    fn is_over(&self, more: Room) -> bool {
        self.is_over_by(more, Room::default())
    }

    /// As [`Queue::is_over`], when so much of it is dropped.
    fn is_over_by(&self, more: Room, dropped: Room) -> bool {
        let c = &self.counters;
        let ready = Room { messages: c.ready, bytes: c.ready_bytes };
        self.config.overflow == Overflow::DropOldest
            && !more.plus(ready).plus(self.filled()).minus(dropped).within(Room::limit(&self.config))
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
    /// Counts a message that was refused because its queue is full or paused.
    pub fn count_rejected(&self, queue: u64, now: u64) -> Result<()> {
        let mut state = self.lock();
        state.changing(&self.db, queue)?.counters.rejected_total += 1;
        let batch = self.db.batch();
        state.commit(&self.db, batch, now)
    }

    /// Refuses messages that would be refused if they came now: [`Error::QueueFull`], [`Error::WouldBlock`], [`Error::Paused`],
    /// [`Error::MessageTooLarge`]. So that nobody waits for their bytes to be read in vain; no room is kept for them.
    pub fn refuse_early(&self, queue: u64, need: impl Into<Need>, onto: Onto) -> Result<()> {
        self.admit(&mut self.lock(), queue, need, onto)
    }

    /// Decides whether messages come into a queue. This is the one place that does, for every way in: files that are written and
    /// lines, drafts and batches that are published, links, messages that are moved, dead letters of other queues. Only those
    /// for which room is kept already ([`Store::reserve`]) were let in before.
    ///
    /// Who may put something into the queue at all, the kernel has seen by the modes that the mount shows; but nobody asks for a
    /// dead letter: see [`Store::give_up`].
    ///
    /// The message that makes way for one of them, by its name, leaves its room to it.
    pub(super) fn admit(&self, state: &mut State, queue: u64, need: impl Into<Need>, onto: Onto) -> Result<()> {
        let Need { room: need, largest, order } = need.into();
        let target = state.queue(&self.db, queue)?;
        target.config.admit(largest)?;
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
        let target = state.queue(&self.db, queue)?;
        if !target.fits(need, Room::default()) {
            return Err(target.full(need));
        }
        self.refuse_below(state, queue, Need { room: need, largest, order }, onto)
    }

    /// In a queue that drops its oldest messages: refuses messages for which only some of a higher priority could make room.
    pub(super) fn refuse_below(&self, state: &mut State, queue: u64, need: Need, onto: Onto) -> Result<()> {
        let Need { room, order, .. } = need;
        let remembered = state.queue(&self.db, queue)?;
        if order == 0 || !remembered.is_over(room) {
            return Ok(());
        }
        // What is on its way will be ready, so that it can be dropped.
        let hidden = remembered.hidden.ready_from(order);
        let plan = self.plan_drops(state, queue, need, onto)?;
        let remembered = state.queue(&self.db, queue)?;
        let makes_room = hidden.plus(Room::of_all(plan.0.iter().map(|(_, record)| record.size)));
        if plan.0.len() == DROP_AT_ONCE || !remembered.is_over_by(room, makes_room) {
            return Ok(());
        }
        Err(Error::QueueFull)
    }

    /// How many of the first messages of these lengths in bytes a queue has room for now, at least one: else [`Error::QueueFull`],
    /// or [`Error::WouldBlock`] when the queue lets its producers wait.
    /// All have these attributes.
    pub fn how_many_fit(
        &self,
        id: u64,
        lengths: impl Iterator<Item = u64>,
        attributes: &[(String, Vec<u8>)],
    ) -> Result<usize> {
        let mut state = self.lock();
        let order = self.order_in(&mut state, id, attributes)?;
        let queue = state.queue(&self.db, id)?;
        if !queue.config.is_limited() {
            return Ok(lengths.count());
        }
        let mut lengths = lengths.peekable();
        let first = Room::of_one(lengths.peek().copied().unwrap_or_default());
        let sums = lengths.scan(Room::default(), |sum, length| {
            *sum = sum.plus(Room::of_one(length));
            Some(*sum)
        });
        let behind = queue.config.makes_wait() && queue.reserved.is_waited_for();
        let sums: Vec<Room> = sums.take_while(|sum| !behind && queue.fits(*sum, Room::default())).collect();
        if sums.is_empty() {
            return Err(queue.full(first));
        }
        let mut failed = None;
        let count = sums.partition_point(|sum| {
            match self.refuse_below(&mut state, id, Need { room: *sum, largest: 0, order }, Onto::Nothing) {
                Ok(()) => true,
                Err(Error::QueueFull) => false,
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        });
        match (failed, count) {
            (Some(error), _) => Err(error),
            (None, 0) => Err(Error::QueueFull),
            (None, count) => Ok(count),
        }
    }

    /// The place among the priorities of a queue that a message with these attributes gets.
    pub(super) fn order_in(&self, state: &mut State, queue: u64, attributes: &[(String, Vec<u8>)]) -> Result<u8> {
        Ok(Properties::of(attributes).order(state.queue(&self.db, queue)?.config.priorities))
    }

    /// Finds the messages that have to make room for `need`. To be called before the change that [`Store::drop_oldest`] ends
    /// has placed anything: what is in the listing is looked at.
    pub(super) fn plan_drops(&self, state: &mut State, queue: u64, need: impl Into<Need>, onto: Onto) -> Result<Plan> {
        let Need { room: need, order: lowest, .. } = need.into();
        let mut plan = Plan(Vec::new());
        let remembered = state.queue(&self.db, queue)?;
        if !remembered.config.is_limited() || !remembered.is_over(need) {
            return Ok(plan);
        }
        let mut dropped = Room::default();
        // The oldest of the lowest priority first, and none of a higher priority than what comes.
        for order in (lowest..remembered.config.priorities).rev() {
            let mut from = keys::position(order, 0);
            while let Some(position) = self.first_of_order(state, queue, order, from)? {
                let seq = keys::seq_of(position);
                from = position + 1;
                let record = match self.record(seq) {
                    Err(Error::Damaged(_) | Error::NotFound) => continue, // it stays, and holds up nobody
                    record => record?,
                };
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
            remembered.dropped.tell(|| self.label(queue), now);
            if let BodyPlace::File(id) = record.body {
                files.push(id);
            }
        }
        Ok(files)
    }
}

impl Dropped {
    fn tell(&mut self, queue: impl Fn() -> String, now: u64) {
        self.untold += 1;
        if now.saturating_sub(self.told_at) >= TELL_AGAIN_MS {
            tracing::warn!(
                queue = queue(),
                messages = self.untold,
                "the queue is full: its oldest messages are dropped"
            );
            *self = Self { untold: 0, told_at: now };
        }
    }
}
