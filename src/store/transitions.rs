//! What happens to a message after it was enqueued: claim, renewal, ack, nack, dead letter, redrive, move.
//!
//! Which transition is allowed from which state is decided in [`crate::queue::state`]; here each becomes one atomic change.

use std::fs::File;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::queue::state::{Event, State as MessageState, next};
use crate::queue::worker::Worker;

use super::Store;
use super::db::Family;
use super::keys::{self, DeadlineKind};
use super::record::{self, BodyPlace, Claim, MessageRecord};

/// Who claims.
#[derive(Clone, Copy, Debug)]
pub struct Taker {
    /// The process; `None` when it is not visible from here.
    pub worker: Option<Worker>,
    /// Its user.
    pub uid: u32,
}

/// The bytes of a message, good for as long as this lives, whatever happens to the message.
#[derive(Debug)]
pub enum Body {
    /// A small body.
    Inline(Vec<u8>),
    /// A large one.
    File(File),
}

fn claim_of(taker: Taker, at: u64, deadline: u64) -> Claim {
    Claim {
        process: taker.worker.map(|worker| worker.process),
        parent: taker.worker.map_or(0, |worker| worker.parent),
        grandparent: taker.worker.map_or(0, |worker| worker.grandparent),
        session: taker.worker.map_or(0, |worker| worker.session),
        uid: taker.uid,
        at,
        deadline,
    }
}

fn after(now: u64, duration: Duration) -> u64 {
    now.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

impl Store {
    pub(super) fn record(&self, seq: u64) -> Result<MessageRecord> {
        let bytes = self.db.get(Family::Messages, &keys::message(seq))?.ok_or(Error::NotFound)?;
        record::decode_message(&bytes)
    }

    /// A message that users can see.
    pub fn message(&self, seq: u64) -> Result<MessageRecord> {
        let record = self.record(seq)?;
        if self.lock().is_hidden(record.queue, seq) { Err(Error::NotFound) } else { Ok(record) }
    }

    /// A message's bytes.
    pub fn body(&self, record: &MessageRecord) -> Result<Body> {
        match record.body {
            BodyPlace::Empty => Ok(Body::Inline(Vec::new())),
            BodyPlace::File(id) => Ok(Body::File(self.bodies.open_read(id)?)),
            BodyPlace::Inline(id) => {
                let bytes = self.db.get(Family::Bodies, &keys::body(id))?;
                match bytes {
                    Some(bytes) if crc32fast::hash(&bytes) == record.crc => Ok(Body::Inline(bytes.to_vec())),
                    Some(_) => Err(Error::Damaged(format!("body {id}: wrong checksum"))),
                    None => Err(Error::Damaged(format!("body {id} is missing"))),
                }
            }
        }
    }

    /// Changes the record of a visible message by `change`, which sees it as it is now and may refuse; gives the new record. The
    /// new state, lease and counters take effect with it.
    fn alter(
        &self,
        seq: u64,
        now: u64,
        change: impl FnOnce(&mut MessageRecord, &mut super::state::Queue) -> Result<()>,
    ) -> Result<MessageRecord> {
        let mut state = self.lock();
        let before = self.record(seq)?;
        if state.is_hidden(before.queue, seq) {
            return Err(Error::NotFound);
        }
        let mut batch = self.db.batch();
        let mut after = before.clone();
        change(&mut after, state.changing(&self.db, before.queue)?)?;
        state.displace(&self.db, &mut batch, seq, &before)?;
        state.place(&self.db, &mut batch, seq, &after)?;
        state.commit(&self.db, batch, now)?;
        drop(state);
        if let Some(claim) = &after.claim {
            self.deadlines.note(claim.deadline);
        }
        Ok(after)
    }

    /// Claims a ready message of `queue`. Of any number of callers one wins, the others get [`Error::NotFound`].
    pub fn claim(&self, queue: u64, seq: u64, taker: Taker, now: u64) -> Result<MessageRecord> {
        self.alter(seq, now, |record, holder| {
            if record.queue != queue {
                return Err(Error::NotFound);
            }
            let (to, deliveries) = next(record.state(), Event::Claim, record.deliveries, holder.config.max_deliveries)?;
            record.set_state(to);
            record.deliveries = deliveries;
            record.claim = Some(claim_of(taker, now, after(now, holder.config.visibility_timeout)));
            holder.counters.claims_total += 1;
            Ok(())
        })
    }

    /// Makes a claim another process's, which goes on with the work of the one that held it. [`Error::NotFound`] when it is
    /// not `held` any more.
    pub fn inherit(&self, seq: u64, held: &Claim, taker: Taker, now: u64) -> Result<MessageRecord> {
        self.alter(seq, now, |record, _| match &mut record.claim {
            Some(claim) if claim.process == held.process && claim.at == held.at => {
                *claim = claim_of(taker, claim.at, claim.deadline);
                Ok(())
            }
            _ => Err(Error::NotFound),
        })
    }

    /// Lets a lease run for another visibility timeout from `now`, though not beyond `max_lease` after the claim.
    pub fn renew(&self, seq: u64, now: u64) -> Result<MessageRecord> {
        self.alter(seq, now, |record, holder| {
            let Some(claim) = &mut record.claim else {
                return Err(Error::NotFound);
            };
            let limit = after(claim.at, holder.config.max_lease);
            claim.deadline = after(now, holder.config.visibility_timeout).min(limit).max(claim.deadline);
            Ok(())
        })
    }

    /// Gives a message back whose lease ended at `deadline`. [`Error::NotFound`] when it was renewed or is gone.
    pub fn expire(&self, seq: u64, deadline: u64, now: u64) -> Result<MessageRecord> {
        self.alter(seq, now, |record, holder| {
            if record.claim.as_ref().is_none_or(|claim| claim.deadline != deadline) {
                return Err(Error::NotFound);
            }
            holder.counters.expired_total += 1;
            give_back(record, holder, Event::LeaseExpired)
        })
    }

    /// Gives a claimed message of `queue` back: to ready, or to dead when its deliveries are used up.
    pub fn nack(&self, queue: u64, seq: u64, now: u64) -> Result<MessageRecord> {
        self.alter(seq, now, |record, holder| {
            in_state(record, queue, MessageState::Claimed)?;
            holder.counters.nacked_total += 1;
            give_back(record, holder, Event::Nack)
        })
    }

    /// Makes a message of `queue` that is in state `from` a dead letter.
    pub fn dead_letter(&self, queue: u64, seq: u64, from: MessageState, now: u64) -> Result<MessageRecord> {
        self.alter(seq, now, |record, holder| {
            in_state(record, queue, from)?;
            give_back(record, holder, Event::DeadLetter)
        })
    }

    /// Makes a dead message of `queue` ready again, its delivery count back at 0.
    pub fn redrive(&self, queue: u64, seq: u64, now: u64) -> Result<MessageRecord> {
        self.alter(seq, now, |record, holder| {
            in_state(record, queue, MessageState::Dead)?;
            holder.counters.redriven_total += 1;
            give_back(record, holder, Event::Redrive)
        })
    }

    /// Moves a message of `queue` in state `from` to another queue, where it is ready under a new sequence number, which is
    /// given.
    pub fn move_to(&self, queue: u64, seq: u64, from: MessageState, target: u64, name: &[u8], now: u64) -> Result<u64> {
        let mut state = self.lock();
        let before = self.record(seq)?;
        if state.is_hidden(before.queue, seq) {
            return Err(Error::NotFound);
        }
        in_state(&before, queue, from)?;
        state.queue(&self.db, target)?;
        let mut to = before.clone();
        to.queue = target;
        to.name = name.to_vec();
        to.set_state(MessageState::Ready);
        to.deliveries = 0;
        to.claim = None;
        let mut batch = self.db.batch();
        let new = self.renumber(&mut state, &mut batch, seq, &before, to)?;
        state.changing(&self.db, queue)?.counters.moved_out_total += 1;
        state.changing(&self.db, target)?.counters.enqueued_total += 1;
        state.commit(&self.db, batch, now)?;
        Ok(new)
    }

    /// Removes a message for good, when `queue` holds it in one of the states `from`.
    pub fn ack(&self, queue: u64, seq: u64, from: &[MessageState], now: u64) -> Result<()> {
        let mut state = self.lock();
        let record = self.record(seq)?;
        if state.is_hidden(queue, seq) || record.queue != queue || !from.contains(&record.state()) {
            return Err(Error::NotFound);
        }
        let mut batch = self.db.batch();
        state.displace(&self.db, &mut batch, seq, &record)?;
        batch.delete(Family::Messages, &keys::message(seq));
        match record.body {
            BodyPlace::Inline(id) => batch.delete_once_set(Family::Bodies, &keys::body(id)),
            BodyPlace::File(id) => batch.delete(Family::Meta, &keys::body_file(id)),
            BodyPlace::Empty => {}
        }
        state.changing(&self.db, queue)?.counters.acked_total += 1;
        state.commit(&self.db, batch, now)?;
        drop(state);
        if let BodyPlace::File(id) = record.body {
            self.syncer.remove_file(self.bodies.path(id));
        }
        Ok(())
    }

    /// Changes what `stat` shows of a message.
    pub fn set_message_stat(
        &self,
        seq: u64,
        now: u64,
        change: impl FnOnce(&mut u32, &mut u32, &mut u32, &mut i64),
    ) -> Result<MessageRecord> {
        self.alter(seq, now, |record, _| {
            change(&mut record.mode, &mut record.uid, &mut record.gid, &mut record.modified_ns);
            Ok(())
        })
    }

    /// The first deadlines that are due at `now`, at most `limit`, and the time of the next that is not.
    pub(super) fn deadlines_from(&self, low: u64, now: u64, limit: usize) -> Result<(Vec<super::Due>, Option<u64>)> {
        let mut due = Vec::new();
        let mut later = None;
        self.db.scan(Family::Deadlines, b"", &keys::deadline(low, DeadlineKind::Lease, 0), |key, _| {
            let Some((at, kind, id)) = keys::parse_deadline(key) else {
                return Ok(true);
            };
            if at > now || due.len() == limit {
                later = Some(at);
                return Ok(false);
            }
            due.push(super::Due { at, kind, id });
            Ok(true)
        })?;
        Ok((due, later))
    }

    /// Forgets a deadline whose message or draft no longer has it.
    pub fn drop_deadline(&self, due: &super::Due) -> Result<()> {
        let _state = self.lock();
        let mut batch = self.db.batch();
        batch.delete(Family::Deadlines, &keys::deadline(due.at, due.kind, due.id));
        self.db.write(batch)
    }
}

fn in_state(record: &MessageRecord, queue: u64, state: MessageState) -> Result<()> {
    if record.queue == queue && record.state() == state { Ok(()) } else { Err(Error::NotFound) }
}

/// Applies an event that ends a claim or changes the state of an unclaimed message.
fn give_back(record: &mut MessageRecord, holder: &mut super::state::Queue, event: Event) -> Result<()> {
    let (to, deliveries) = next(record.state(), event, record.deliveries, holder.config.max_deliveries)?;
    if to == MessageState::Dead {
        holder.counters.dead_lettered_total += 1;
    }
    record.set_state(to);
    record.deliveries = deliveries;
    record.claim = None;
    Ok(())
}
