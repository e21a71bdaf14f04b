//! The thread that does what is due: leases that end, drafts that have been left lying.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::clock;
use crate::error::{Error, Result};
use crate::on_behalf;
use crate::queue::name::is_staged;
use crate::queue::state::State;
use crate::store::record::MessageRecord;
use crate::store::{Altered, DeadlineKind, Due, Of, STAGED_MS, Wake};

use super::handles::Lease;
use super::{View, process};

/// So many deadlines are read at a time.
const AT_ONCE: usize = 1024;

/// When the disk does not let a deadline be dealt with, it is tried again after this time, in milliseconds.
const TRY_AGAIN_MS: u64 = 2000;

/// The leases that one look has ended, by their queues. A crash of many workers, or a long pause, ends thousands at once: of
/// those that are more than a few, one line in the log tells.
///
/// Of the messages no more is kept than is told, and what has come together is told from time to time: there may be many queues.
#[derive(Default)]
struct Ended {
    of: BTreeMap<u64, Vec<Back>>,
    /// By queue: those beyond the few, and how many of them went to dead, wherever that is.
    more: BTreeMap<u64, (u64, u64)>,
}

/// A message that came back.
struct Back {
    deliveries: u32,
    seq: u64,
    queue: u64,
    state: State,
}

/// So many of a queue are told one by one.
const TOLD: usize = 10;

/// So many queues come together before they are told of.
const QUEUES: usize = 1024;

impl Ended {
    fn add(&mut self, queue: u64, deliveries: u32, back: &Altered) {
        let back = Back { deliveries, seq: back.seq, queue: back.record.queue, state: back.record.state() };
        let few = self.of.entry(queue).or_default();
        if few.len() < TOLD {
            return few.push(back);
        }
        let (count, dead) = self.more.entry(queue).or_default();
        *count += 1;
        *dead += u64::from(back.queue != queue || back.state == State::Dead);
    }

    fn tell(&mut self, view: &View) {
        let Ended { of, more } = std::mem::take(self);
        for (queue, few) in of {
            on_behalf::of(view.owner_of(queue), || {
                for back in few {
                    tracing::info!(
                        name = view.store.name_of(back.seq),
                        queue = view.store.label(queue),
                        deliveries = back.deliveries,
                        to = back.state.word(),
                        "lease expired"
                    );
                    view.log_death(queue, (back.seq, back.queue, back.state));
                }
                if let Some(&(leases, dead)) = more.get(&queue) {
                    tracing::info!(queue = view.store.label(queue), leases, "more leases expired");
                    if dead > 0 {
                        tracing::warn!(
                            queue = view.store.label(queue),
                            messages = dead,
                            "more messages are dead letters now"
                        );
                    }
                }
            });
        }
    }
}

impl View {
    /// Sleeps until the next deadline and deals with it, until the store is closed.
    pub(super) fn keep_deadlines(&self) {
        // Whatever became due, or was done to the clock, while the store was closed.
        let mut opened = true;
        let mut wake = Wake::SetBack;
        while wake != Wake::Stop && !self.going_away.load(Ordering::SeqCst) {
            if wake == Wake::SetBack {
                self.shorten_waits(opened);
                opened = false;
            }
            self.deal_with_due();
            wake = self.store.wait_for_deadline(clock::now_ms);
        }
    }

    /// The clock may have been set back: nothing is to wait until it is where it was.
    fn shorten_waits(&self, opened: bool) {
        match self.store.shorten_waits(opened, clock::now_ms) {
            Ok(0) => {}
            Ok(waits) => tracing::warn!(waits, "the clock was set back: leases, delays and deduplication begin anew"),
            Err(error) => tracing::error!(%error, "the clock was set back: leases and delays may last too long"),
        }
    }

    fn deal_with_due(&self) {
        let mut ended = Ended::default();
        self.deal_with_all_due(&mut ended);
        ended.tell(self);
    }

    fn deal_with_all_due(&self, ended: &mut Ended) {
        let now = clock::now_ms();
        self.store.look_at_clock(now);
        let mut last = None;
        while !self.going_away.load(Ordering::SeqCst) {
            let due = match self.store.due(now, last, AT_ONCE) {
                Ok(due) => due,
                Err(error) => {
                    tracing::error!(%error, "deadlines cannot be read");
                    return;
                }
            };
            let full = due.iter().any(|due| matches!(self.deal_with(due, ended, now), Err(Error::NoSpace)));
            last = due.last().copied();
            if full || due.len() < AT_ONCE {
                return;
            }
        }
    }

    fn deal_with(&self, due: &Due, ended: &mut Ended, now: u64) -> Result<()> {
        let dealt = match due.kind {
            DeadlineKind::Lease => self.lease_due(due, ended, now),
            DeadlineKind::Draft => self.draft_due(due, now),
            DeadlineKind::Deliver => self.delivery_due(due, now),
            DeadlineKind::TimeToLive => self.time_to_live_over(due, now),
            DeadlineKind::Batch => self.batch_due(due, now),
            DeadlineKind::Duplicate => self.store.forget_duplicate(due),
        };
        match &dealt {
            // Acked, renewed or returned since the deadlines were read.
            Ok(()) | Err(Error::NotFound) => {}
            Err(error @ Error::Damaged(_)) => tracing::error!(?due, %error, "deadline not dealt with"),
            Err(error) => {
                tracing::error!(?due, %error, "deadline not dealt with; another try follows");
                self.store.look_again(now.saturating_add(TRY_AGAIN_MS));
            }
        }
        dealt
    }

    fn lease_due(&self, due: &Due, ended: &mut Ended, now: u64) -> Result<()> {
        let message = self.store.message_due(due)?;
        let Some(claim) = message.claim.filter(|claim| claim.deadline == due.at) else {
            return self.store.drop_deadline(due);
        };
        let leases = self.handles.leases_of(due.id, claim.delivery);
        if leases.iter().any(|lease| lease.process.is_none_or(|process| self.look_for_leases.alive(process))) {
            let renewed = self.store.renew(due.id, Of::This(Some(claim.delivery)), now)?;
            if renewed.claim.is_some_and(|claim| claim.deadline > now) {
                return Ok(());
            }
        }
        let back = self.store.expire(due.id, due.at, now)?;
        ended.add(message.queue, message.deliveries, &back);
        if ended.of.len() >= QUEUES {
            ended.tell(self);
        }
        self.announce(&back.record);
        Ok(())
    }

    /// The mount ends: those who hold claims have a whole visibility timeout from now to take them up again, on the next one.
    pub(super) fn renew_held(&self) {
        let now = clock::now_ms();
        for seq in self.handles.read() {
            let Ok(MessageRecord { claim: Some(claim), .. }) = self.store.message(seq) else { continue };
            let leases = self.handles.leases_of(seq, claim.delivery);
            let held = |lease: &Lease| lease.process.is_none_or(|process| !process::is_over(process));
            if leases.iter().any(held)
                && let Err(error) = self.store.renew(seq, Of::This(Some(claim.delivery)), now)
            {
                tracing::debug!(name = self.store.name_of(seq), %error, "lease not renewed at the end");
            }
        }
    }

    /// What the queue itself gives up is told at once, because people have to look at it.
    pub(super) fn log_dead_letter(&self, queue: u64, now: &Altered) {
        self.log_death(queue, (now.seq, now.record.queue, now.record.state()));
    }

    fn log_death(&self, queue: u64, (seq, now_in, state): (u64, u64, State)) {
        let (from, name) = (|| self.store.label(queue), || self.store.name_of(seq));
        if now_in != queue {
            let target = || self.store.label(now_in);
            tracing::warn!(queue = from(), target = target(), name = name(), "dead-lettered to another queue");
        } else if state == State::Dead {
            tracing::warn!(queue = from(), name = name(), "the message is a dead letter now");
        }
    }

    /// On whose behalf it is that something becomes due in a queue, when nobody asked for it.
    pub(super) fn owner_of(&self, queue: u64) -> Option<u32> {
        self.store.queue(queue).ok().map(|queue| queue.uid)
    }

    fn delivery_due(&self, due: &Due, now: u64) -> Result<()> {
        let message = self.store.message_due(due)?;
        match self.store.deliver(message.queue, due.id, Some(due.at), now) {
            Err(Error::NotFound) => self.store.drop_deadline(due),
            delivered => delivered.map(|record| self.announce(&record)),
        }
    }

    fn time_to_live_over(&self, due: &Due, now: u64) -> Result<()> {
        let message = self.store.message_due(due)?;
        match self.store.end_time_to_live(due.id, due.at, now) {
            Err(Error::NotFound) => self.store.drop_deadline(due),
            Ok(Some(ended)) => {
                let to = self.store.label(ended.record.queue);
                tracing::debug!(
                    name = self.store.name_of(ended.seq),
                    queue = self.store.label(message.queue),
                    to,
                    "time to live over: dead letter"
                );
                self.announce(&ended.record);
                Ok(())
            }
            Ok(None) => {
                tracing::debug!(
                    name = self.store.name_of(due.id),
                    queue = self.store.label(message.queue),
                    "time to live over: message dropped"
                );
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn draft_due(&self, due: &Due, now: u64) -> Result<()> {
        let draft = self.store.draft(due.id)?;
        if draft.due != due.at {
            return self.store.drop_deadline(due);
        }
        // Held until it is removed, so that nobody opens it meanwhile.
        let used = self.drafts.lock();
        if used.contains_key(&due.id) {
            let ttl = self.store.config(draft.queue)?.draft_ttl;
            let least = if is_staged(&draft.name) && ttl.is_zero() { STAGED_MS } else { 1000 };
            let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(least);
            return self.store.postpone_draft(due.id, now.saturating_add(ttl));
        }
        self.store.expire_draft(due.id, due.at, now)?;
        drop(used);
        on_behalf::of(Some(draft.uid), || {
            let (queue, name) = (self.store.label(draft.queue), String::from_utf8_lossy(&draft.name));
            match is_staged(&draft.name) {
                true => tracing::info!(queue, %name, "a staged draft was left lying: removed"),
                false => tracing::warn!(queue, %name, "draft_ttl: draft removed"),
            }
        });
        Ok(())
    }
}
