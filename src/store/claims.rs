//! Claims: which message is next, whose it becomes, and for how long.

use crate::error::{Error, Result};
use crate::queue::delivery::Delivery;
use crate::queue::properties::Properties;
use crate::queue::state::{Event, next};
use crate::queue::worker::Worker;

use super::Store;
use super::keys;
use super::record::{Claim, MessageRecord};
use super::state::{Queue, State as Remembered};
use super::transitions::{Of, after, is_over, rules};

/// Who claims.
#[derive(Clone, Copy, Debug)]
pub struct Taker {
    /// The process; `None` when it is not visible from here.
    pub worker: Option<Worker>,
    /// Its user.
    pub uid: u32,
}

fn claim_of(taker: Taker, delivery: Delivery, at: u64, deadline: u64) -> Claim {
    Claim {
        delivery,
        process: taker.worker.map(|worker| worker.process),
        parent: taker.worker.map_or(0, |worker| worker.parent),
        grandparent: taker.worker.map_or(0, |worker| worker.grandparent),
        session: taker.worker.map_or(0, |worker| worker.session),
        uid: taker.uid,
        at,
        deadline,
        reckoned: at,
    }
}

impl Store {
    /// Claims a ready message of `queue`. Of any number of callers one wins, the others get [`Error::NotFound`].
    /// [`Error::Paused`] when nothing is claimed for the time being, [`Error::WouldBlock`] when as much is as may be at a time.
    pub fn claim(&self, queue: u64, seq: u64, taker: Taker, now: u64) -> Result<MessageRecord> {
        self.alter(seq, now, |record, holder| {
            if record.queue != queue {
                return Err(Error::NotFound);
            }
            claim(record, holder, (taker, self.new_delivery()), now)
        })
    }

    /// Claims the first ready message of `queue` in delivery order; [`Error::WouldBlock`] when there is none, the queue is
    /// paused, or as much is claimed as may be at a time. Gives its sequence number, too.
    pub fn claim_next(&self, queue: u64, taker: Taker, now: u64) -> Result<(u64, MessageRecord)> {
        self.claim_next_within(queue, u64::MAX, taker, now)
    }

    /// As [`Store::claim_next`], but not when that message has more than `longest` bytes.
    pub fn claim_next_within(&self, queue: u64, longest: u64, taker: Taker, now: u64) -> Result<(u64, MessageRecord)> {
        let mut state = self.lock();
        let next = self.next_ready(&mut state, queue, now)?;
        let (seq, before) = next.filter(|(_, record)| record.size <= longest).ok_or(Error::WouldBlock)?;
        let mut after = before.clone();
        claim(&mut after, state.changing(&self.db, queue)?, (taker, self.new_delivery()), now)?;
        Ok((seq, self.replace(state, seq, &before, after, now)?))
    }

    /// Whether [`Store::claim_next`] would find a message.
    pub fn has_ready(&self, queue: u64, now: u64) -> Result<bool> {
        Ok(self.next_ready(&mut self.lock(), queue, now)?.is_some())
    }

    /// The first message of a queue that may be claimed.
    fn next_ready(&self, state: &mut Remembered, queue: u64, now: u64) -> Result<Option<(u64, MessageRecord)>> {
        let holder = state.queue(&self.db, queue)?;
        if holder.config.paused_out() || holder.is_busy() {
            return Ok(None);
        }
        let config = holder.config.clone();
        if config.priorities == 1 || config.priority_ageing.is_zero() {
            return self.first_claimable(state, queue, None, now);
        }
        if self.first_ready(state, queue, None)?.is_none() {
            return Ok(None);
        }
        // Of one priority the oldest counts: the first.
        let mut best = None;
        for order in 0..config.priorities {
            let Some((seq, record)) = self.first_claimable(state, queue, Some(order), now)? else { continue };
            let rank = (config.aged(order, now.saturating_sub(waits_since(&record))), seq);
            if best.as_ref().is_none_or(|(other, _)| rank < *other) {
                best = Some((rank, record));
            }
        }
        Ok(best.map(|((_, seq), record)| (seq, record)))
    }

    /// The first message of a queue that is ready and not over, in the order of the listing; with `order`, of that place among the
    /// priorities.
    fn first_claimable(
        &self,
        state: &mut Remembered,
        queue: u64,
        order: Option<u8>,
        now: u64,
    ) -> Result<Option<(u64, MessageRecord)>> {
        let mut from: Option<u64> = None;
        loop {
            let found = match order {
                None => self.first_ready(state, queue, from)?,
                Some(order) => self.first_of_order(state, queue, order, from.map_or(0, |from| from + 1))?,
            };
            let Some(position) = found else { return Ok(None) };
            let seq = keys::seq_of(position);
            let outdated = state.queue(&self.db, queue)?.outdated_in(order);
            match self.record(seq) {
                Ok(record) if !is_over(&record, now) => return Ok(Some((seq, record))),
                Ok(_) => {}
                // It holds up nobody behind it.
                Err(error @ (Error::Damaged(_) | Error::NotFound)) => {
                    if !outdated.knows(position) {
                        tracing::error!(queue = self.label(queue), name = self.name_of(seq), %error, "unreadable message, passed over");
                    }
                }
                Err(error) => return Err(error),
            }
            from = Some(outdated.skip(position, from, now));
        }
    }

    /// Makes a claim another process's, which goes on with the work of the one that held it. [`Error::NotFound`] when it is
    /// not `held` any more.
    pub fn inherit(&self, seq: u64, held: &Claim, taker: Taker, now: u64) -> Result<MessageRecord> {
        self.alter(seq, now, |record, _| match &mut record.claim {
            Some(claim) if claim.process == held.process && claim.delivery == held.delivery => {
                let heir = claim_of(taker, claim.delivery, claim.at, claim.deadline);
                *claim = Claim { reckoned: claim.reckoned, ..heir };
                Ok(())
            }
            _ => Err(Error::NotFound),
        })
    }

    /// Lets a lease run for another visibility timeout from `now`, though not beyond `max_lease` after the claim; what the clock
    /// was set forward by since does not count.
    pub fn renew(&self, seq: u64, of: Of, now: u64) -> Result<MessageRecord> {
        self.alter(seq, now, |record, holder| {
            of.check(record)?;
            let Some(claim) = &mut record.claim else {
                return Err(Error::NotFound);
            };
            let limit = after(claim.at, holder.config.max_lease).saturating_add(self.deadlines.leapt_since(claim.at));
            let deadline = after(now, holder.config.visibility_timeout).min(limit);
            if deadline > claim.deadline {
                (claim.deadline, claim.reckoned) = (deadline, now);
            }
            Ok(())
        })
    }
}

/// Since when a message waits: since it was enqueued, or was due for the first time.
fn waits_since(record: &MessageRecord) -> u64 {
    Properties::of(&record.attributes).due(record.enqueued_at).unwrap_or(record.enqueued_at)
}

fn claim(record: &mut MessageRecord, holder: &mut Queue, (taker, delivery): (Taker, Delivery), now: u64) -> Result<()> {
    let (to, deliveries) = next(record.state(), Event::Claim, record.deliveries, rules(&holder.config))?;
    if is_over(record, now) {
        return Err(Error::NotFound);
    }
    if holder.config.paused_out() {
        return Err(Error::Paused);
    }
    if holder.is_busy() {
        return Err(Error::WouldBlock);
    }
    record.set_state(to);
    record.since = now;
    record.deliveries = deliveries;
    record.deaths.iter_mut().for_each(|death| death.unclaimed = false);
    record.claim = Some(claim_of(taker, delivery, now, after(now, holder.config.visibility_timeout)));
    holder.counters.claims_total += 1;
    holder.counters.redelivered_total += u64::from(deliveries > 1);
    Ok(())
}
