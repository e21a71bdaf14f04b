//! What happens to a message after it was enqueued, besides being claimed (`claims`): ack, nack, dead letter, redrive, move.
//!
//! Which transition is allowed from which state is decided in [`crate::queue::state`]; here each becomes one atomic change.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::locks::Guard;
use crate::queue::config::{Expired, QueueConfig};
use crate::queue::delivery::Delivery;
use crate::queue::properties::{Properties, ms};
use crate::queue::state::{Event, Rules, State as MessageState, next};

use super::db::{Batch, Family};
use super::dead_letters::DeadReason;
use super::keys::{self, DeadlineKind};
use super::limits::Need;
use super::record::{self, BodyPlace, MessageRecord};
use super::state::{Queue, State as Remembered, deadlines};
use super::{Onto, Store};

pub(super) fn after(now: u64, duration: Duration) -> u64 {
    now.saturating_add(ms(duration))
}

/// Of which delivery of a message an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Of whichever there is, or none.
    Any,
    /// Of this one only, or with `None` while there is none: else the message is not found.
    This(Option<Delivery>),
}

impl Of {
    /// Whether a message is as it has to be.
    pub fn is(self, record: &MessageRecord) -> bool {
        match self {
            Of::Any => true,
            Of::This(delivery) => record.claim.as_ref().map(|claim| claim.delivery) == delivery,
        }
    }

    /// As [`Of::is`]; [`Error::NotFound`] when it is not.
    pub(super) fn check(self, record: &MessageRecord) -> Result<()> {
        if self.is(record) { Ok(()) } else { Err(Error::NotFound) }
    }
}

/// How a claim ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimEnd {
    /// The work is done: the message is removed.
    Ack,
    /// Nobody did the work: the message goes back to its place, or to dead when its deliveries are used up.
    Return,
    /// Somebody has begun the work and failed: as with `Return`, but after the queue's `retry_delay` if it has one.
    Fail,
}

/// The times of a message, in nanoseconds since the epoch.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Of modification.
    pub modified_ns: i64,
    /// Of access, when somebody has set one.
    pub accessed_ns: Option<i64>,
}

impl Times {
    /// The time of access that is shown.
    pub fn accessed(&self) -> i64 {
        self.accessed_ns.unwrap_or(self.modified_ns)
    }
}

/// What the message is called and where it is after a change.
#[derive(Clone, Debug)]
pub struct Altered {
    /// Its sequence number: another one when it went to another queue.
    pub seq: u64,
    /// Its record.
    pub record: MessageRecord,
}

impl Store {
    pub(super) fn record(&self, seq: u64) -> Result<MessageRecord> {
        let bytes = self.db.get(Family::Messages, &keys::message(seq))?.ok_or(Error::NotFound)?;
        record::decode_message(&bytes)
    }

    /// A message that users can see, within an operation.
    pub(super) fn visible(&self, state: &mut Remembered, seq: u64) -> Result<MessageRecord> {
        let record = self.record(seq)?;
        let unseen = state.is_hidden(record.queue, seq) || state.is_purged(&self.db, &record)?;
        if unseen { Err(Error::NotFound) } else { Ok(record) }
    }

    /// A message that users can see.
    pub fn message(&self, seq: u64) -> Result<MessageRecord> {
        self.visible(&mut self.lock(), seq)
    }

    /// Changes the record of a visible message by `change`, which sees it as it is now and may refuse; gives the new record. The
    /// new state, deadlines and counters take effect with it.
    pub(super) fn alter(
        &self,
        seq: u64,
        now: u64,
        change: impl FnOnce(&mut MessageRecord, &mut Queue) -> Result<()>,
    ) -> Result<MessageRecord> {
        let mut state = self.lock();
        let before = self.visible(&mut state, seq)?;
        let mut after = before.clone();
        change(&mut after, state.changing(&self.db, before.queue)?)?;
        self.replace(state, seq, &before, after, now)
    }

    /// Ends an operation that makes of the message `seq` what `after` says.
    pub(super) fn replace(
        &self,
        mut state: Guard<'_, Remembered>,
        seq: u64,
        before: &MessageRecord,
        mut after: MessageRecord,
        now: u64,
    ) -> Result<MessageRecord> {
        let mut batch = self.db.batch();
        state.displace(&self.db, &mut batch, seq, before)?;
        state.place(&self.db, &mut batch, seq, &mut after)?;
        state.commit(&self.db, batch, now)?;
        state.lost.note(before, &after);
        drop(state);
        self.note_deadlines(&after);
        Ok(after)
    }

    /// Tells the thread that sleeps until the next deadline of those of a message.
    pub(super) fn note_deadlines(&self, record: &MessageRecord) {
        for (at, _) in deadlines(record) {
            self.deadlines.note(at);
        }
    }

    /// Gives a message back whose lease ended at `deadline`. [`Error::NotFound`] when it was renewed or is gone.
    pub fn expire(&self, seq: u64, deadline: u64, now: u64) -> Result<Altered> {
        self.give_up(seq, now, |record, holder| {
            if record.claim.as_ref().is_none_or(|claim| claim.deadline != deadline) {
                return Err(Error::NotFound);
            }
            holder.counters.expired_total += 1;
            give_back(record, holder, Event::LeaseExpired, now)?;
            Ok(dead(record, DeadReason::MaxDeliveries))
        })
    }

    /// Gives a claimed message of `queue` back: to ready, or to dead when its deliveries are used up. `later`: to delayed.
    pub fn nack(&self, queue: u64, seq: u64, of: Of, later: bool, now: u64) -> Result<Altered> {
        self.give_up(seq, now, |record, holder| {
            in_state(record, queue, MessageState::Claimed)?;
            of.check(record)?;
            holder.counters.nacked_total += 1;
            give_back(record, holder, if later { Event::NackLater } else { Event::Nack }, now)?;
            Ok(dead(record, DeadReason::MaxDeliveries))
        })
    }

    /// Ends a delivery of a message, if it still lasts: [`Error::NotFound`] when it does not. Gives what became of the message
    /// when it was given back. That is no nack of a user's and not counted as one.
    pub fn end_claim(&self, seq: u64, delivery: Delivery, end: ClaimEnd, now: u64) -> Result<Option<Altered>> {
        let of = Of::This(Some(delivery));
        if end != ClaimEnd::Ack {
            let back = self.give_up(seq, now, |record, holder| {
                of.check(record)?;
                let later = end == ClaimEnd::Fail && !holder.config.retry_delay.is_zero();
                give_back(record, holder, if later { Event::NackLater } else { Event::Nack }, now)?;
                Ok(dead(record, DeadReason::MaxDeliveries))
            });
            return back.map(Some);
        }
        let mut state = self.lock();
        let record = self.visible(&mut state, seq)?;
        of.check(&record)?;
        state.changing(&self.db, record.queue)?.counters.acked_total += 1;
        self.remove(state, seq, &record, now).map(|()| None)
    }

    /// Makes a delayed message of `queue` ready; `due`: only if that is when it is due.
    pub fn deliver(&self, queue: u64, seq: u64, due: Option<u64>, now: u64) -> Result<MessageRecord> {
        self.alter(seq, now, |record, holder| {
            in_state(record, queue, MessageState::Delayed)?;
            if due.is_some_and(|due| due != record.due) {
                return Err(Error::NotFound);
            }
            give_back(record, holder, Event::Deliver, now)
        })
    }

    /// Ends a message whose time to live was over at `deadline`: it is dead-lettered, or removed, as its queue says; gives what
    /// became of it when it was not removed.
    pub fn end_time_to_live(&self, seq: u64, deadline: u64, now: u64) -> Result<Option<Altered>> {
        let mut state = self.lock();
        let record = self.visible(&mut state, seq)?;
        let over = |record: &MessageRecord| {
            record.expires == deadline && deadlines(record).any(|(_, kind)| kind == DeadlineKind::TimeToLive)
        };
        if !over(&record) {
            return Err(Error::NotFound);
        }
        if state.queue(&self.db, record.queue)?.config.expired == Expired::Drop {
            state.changing(&self.db, record.queue)?.counters.ttl_expired_total += 1;
            return self.remove(state, seq, &record, now).map(|()| None);
        }
        drop(state);
        let ended = self.give_up(seq, now, |record, holder| {
            if !over(record) {
                return Err(Error::NotFound);
            }
            holder.counters.ttl_expired_total += 1;
            give_back(record, holder, Event::TimeToLiveOver, now)?;
            Ok(dead(record, DeadReason::Expired))
        });
        ended.map(Some)
    }

    /// Makes a message of `queue` that is in state `from` a dead letter.
    pub fn dead_letter(
        &self,
        queue: u64,
        seq: u64,
        (from, of): (MessageState, Of),
        reason: DeadReason,
        now: u64,
    ) -> Result<Altered> {
        self.give_up(seq, now, |record, holder| {
            in_state(record, queue, from)?;
            of.check(record)?;
            give_back(record, holder, Event::DeadLetter, now)?;
            Ok(Some(reason))
        })
    }

    /// Makes a dead message of `queue` ready again, its delivery count back at 0, and without a time to live.
    pub fn redrive(&self, queue: u64, seq: u64, now: u64) -> Result<MessageRecord> {
        self.alter(seq, now, |record, holder| {
            in_state(record, queue, MessageState::Dead)?;
            holder.counters.redriven_total += 1;
            record.expires = 0;
            give_back(record, holder, Event::Redrive, now)
        })
    }

    /// Makes a record that of a message that newly arrives, ready, in the queue `target` under that name. `own_ttl`: its own
    /// time to live begins anew, as that of the queue does; else it does not count any more.
    pub(super) fn settle(
        &self,
        state: &mut Remembered,
        record: &mut MessageRecord,
        (target, name): (u64, &[u8]),
        own_ttl: bool,
        now: u64,
    ) -> Result<()> {
        let config = state.queue(&self.db, target)?.config.clone();
        let properties = Properties::of(&record.attributes);
        record.queue = target;
        record.name = name.to_vec();
        record.order = properties.order(config.priorities);
        record.set_state(MessageState::Ready);
        record.deliveries = 0;
        record.claim = None;
        record.since = now;
        record.retrying = false;
        record.due = 0;
        let of_its_own = if own_ttl { properties } else { Properties::default() };
        record.expires = of_its_own.expires(now, config.message_ttl);
        Ok(())
    }

    /// Moves a message of `queue` in state `from` to another queue and gives it a name there. It is ready under a new sequence
    /// number, which is given. Where names are kept, the message of that name makes way as `onto` says. [`Error::QueueFull`],
    /// [`Error::Paused`] and [`Error::MessageTooLarge`] when that queue does not take it.
    pub fn move_to(
        &self,
        queue: u64,
        seq: u64,
        (from, of): (MessageState, Of),
        (target, name, onto): (u64, &[u8], Onto),
        now: u64,
    ) -> Result<u64> {
        let mut state = self.lock();
        let before = self.visible(&mut state, seq)?;
        in_state(&before, queue, from)?;
        of.check(&before)?;
        let mut to = before.clone();
        let name = self.fitting(&mut state, target, seq, name)?;
        // It has outlived its own time to live, or it does not matter any more: somebody wants to see it delivered.
        let own_ttl = from != MessageState::Dead;
        self.settle(&mut state, &mut to, (target, &name), own_ttl, now)?;
        let need = Need::of_one(before.size, to.order);
        self.admit(&mut state, target, need, onto)?;
        let plan = self.plan_drops(&mut state, target, need, onto)?;
        let mut batch = self.db.batch();
        let replaced = self.make_way(&mut state, &mut batch, (target, &name), before.id, onto)?;
        let new = self.renumber(&mut state, &mut batch, seq, &before, &mut to)?;
        state.changing(&self.db, queue)?.counters.moved_out_total += 1;
        state.changing(&self.db, target)?.counters.enqueued_total += 1;
        let dropped = self.drop_oldest(&mut state, &mut batch, target, plan, now)?;
        state.commit(&self.db, batch, now)?;
        state.lost.note(&before, &to);
        drop(state);
        self.note_deadlines(&to);
        self.discard_replaced(replaced);
        self.discard_bodies(dropped);
        Ok(new)
    }

    /// Removes a message for good, when `queue` holds it in one of the states `from`.
    pub fn ack(&self, queue: u64, seq: u64, (from, of): (&[MessageState], Of), now: u64) -> Result<()> {
        let mut state = self.lock();
        let record = self.visible(&mut state, seq)?;
        of.check(&record)?;
        if record.queue != queue || !from.contains(&record.state()) {
            return Err(Error::NotFound);
        }
        state.changing(&self.db, queue)?.counters.acked_total += 1;
        self.remove(state, seq, &record, now)
    }

    /// Ends an operation that removes a message.
    pub(super) fn remove(
        &self,
        mut state: Guard<'_, Remembered>,
        seq: u64,
        record: &MessageRecord,
        now: u64,
    ) -> Result<()> {
        let mut batch = self.db.batch();
        self.erase(&mut state, &mut batch, seq, record)?;
        state.commit(&self.db, batch, now)?;
        drop(state);
        if let BodyPlace::File(id) = record.body {
            self.syncer.remove_file(id);
        }
        Ok(())
    }

    /// Adds to a change: a message vanishes. The file of a large body stays.
    pub(super) fn erase(
        &self,
        state: &mut Remembered,
        batch: &mut Batch<'_>,
        seq: u64,
        record: &MessageRecord,
    ) -> Result<()> {
        state.displace(&self.db, batch, seq, record)?;
        self.erase_record(batch, seq, record);
        Ok(())
    }

    /// Adds to a change: a message's record and body vanish, wherever else it is told of.
    pub(super) fn erase_record(&self, batch: &mut Batch<'_>, seq: u64, record: &MessageRecord) {
        batch.delete(Family::Messages, &keys::message(seq));
        match record.body {
            BodyPlace::Inline(id) => batch.delete(Family::Bodies, &keys::body(id)),
            BodyPlace::Draft(id) => batch.delete(Family::Bodies, &keys::draft_bytes(id)),
            BodyPlace::File(id) => {
                batch.delete(Family::Meta, &keys::body_file(id));
                self.readers.delete_sums(batch, id, record.size);
            }
            BodyPlace::Empty => {}
        }
    }

    /// Changes what `stat` shows of a message.
    pub fn set_message_stat(
        &self,
        seq: u64,
        of: Of,
        now: u64,
        change: impl FnOnce(&mut u32, &mut u32, &mut u32, &mut Times),
    ) -> Result<MessageRecord> {
        self.alter(seq, now, |record, _| {
            of.check(record)?;
            let mut times = Times { modified_ns: record.modified_ns, accessed_ns: record.accessed_ns };
            change(&mut record.mode, &mut record.uid, &mut record.gid, &mut times);
            (record.modified_ns, record.accessed_ns) = (times.modified_ns, times.accessed_ns);
            Ok(())
        })
    }
}

pub(super) fn in_state(record: &MessageRecord, queue: u64, state: MessageState) -> Result<()> {
    if record.queue == queue && record.state() == state { Ok(()) } else { Err(Error::NotFound) }
}

/// Whether the time to live of a message is over, and nobody has dealt with that yet.
pub(super) fn is_over(record: &MessageRecord, now: u64) -> bool {
    record.expires > 0 && record.expires <= now
}

/// Why a message that may have become dead has.
pub(super) fn dead(record: &MessageRecord, reason: DeadReason) -> Option<DeadReason> {
    (record.state() == MessageState::Dead).then_some(reason)
}

pub(super) fn rules(config: &QueueConfig) -> Rules {
    Rules { max_deliveries: config.max_deliveries, retries_later: !config.retry_delay.is_zero() }
}

/// Applies an event that ends a claim or changes the state of an unclaimed message.
pub(super) fn give_back(record: &mut MessageRecord, holder: &mut Queue, event: Event, now: u64) -> Result<()> {
    let config = holder.config.clone();
    let (to, deliveries) = next(record.state(), event, record.deliveries, rules(&config))?;
    if to == MessageState::Dead {
        holder.counters.dead_lettered_total += 1;
    }
    let delay = match event {
        Event::NackLater => config.later_after(deliveries),
        _ => config.retry_after(deliveries),
    };
    // What nobody has delivered in time has been waiting since it was due.
    record.since = if event == Event::Deliver { now.min(record.due) } else { now };
    record.retrying = to == MessageState::Delayed;
    record.due = if record.retrying { after(now, delay) } else { 0 };
    record.set_state(to);
    record.deliveries = deliveries;
    record.claim = None;
    Ok(())
}
