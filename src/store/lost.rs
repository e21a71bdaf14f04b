//! Claims that have ended without an acknowledgement, remembered for a while: whoever held one of them may come late to settle
//! a message that another worker has by then, or that is gone.
//!
//! The tables are in memory only, because a process that held a claim before this run cannot be told from one that got its
//! number since. They are bounded, and forget what was lost longest ago.

use std::collections::{HashMap, VecDeque};

use crate::error::Result;
use crate::queue::delivery::Delivery;

use super::Store;
use super::record::{Claim, MessageRecord};

/// So many claims of a message are remembered.
const OF_ONE: usize = 8;
/// Of so many messages.
const MESSAGES: usize = 16_384;

/// So many deliveries are remembered of which nobody has come late yet.
const DELIVERIES: usize = 16_384;

/// The tables.
#[derive(Default)]
pub(super) struct LostClaims {
    /// By the messages' own numbers.
    of: HashMap<u64, VecDeque<Claim>>,
    /// Those of its keys, the oldest first.
    order: VecDeque<u64>,
    /// Deliveries that their workers may settle late, and nobody has: of a message of which queue each was.
    unsettled: HashMap<Delivery, u64>,
    /// All that have been in there lately, the oldest first.
    ended: VecDeque<Delivery>,
}

impl LostClaims {
    /// Notes what became of a message's claim in a change.
    pub fn note(&mut self, before: &MessageRecord, after: &MessageRecord) {
        let lasts = |claim: &&Claim| after.claim.as_ref().is_some_and(|now| now.delivery == claim.delivery);
        let Some(claim) = before.claim.as_ref().filter(|claim| !lasts(claim)) else { return };
        self.end(claim.delivery, before.queue);
        if claim.process.is_none() {
            return; // nobody can be told to have had it
        }
        if !self.of.contains_key(&before.id) {
            self.order.push_back(before.id);
        }
        let lost = self.of.entry(before.id).or_default();
        lost.truncate(OF_ONE - 1);
        lost.push_front(claim.clone());
        if self.of.len() > MESSAGES
            && let Some(oldest) = self.order.pop_front()
        {
            self.of.remove(&oldest);
        }
    }

    fn end(&mut self, delivery: Delivery, queue: u64) {
        if self.ended.len() == DELIVERIES
            && let Some(oldest) = self.ended.pop_front()
        {
            self.unsettled.remove(&oldest);
        }
        self.ended.push_back(delivery);
        self.unsettled.insert(delivery, queue);
    }
}

impl Store {
    /// A delivery was ended by the worker that had it: what it does by its path afterwards is no late settlement.
    pub fn ended_by_its_worker(&self, delivery: Delivery) {
        self.lock().lost.unsettled.remove(&delivery);
    }

    /// Somebody comes to settle a delivery after its lease had ended, or others had ended it. That is counted once for each
    /// delivery, in the queue in which it was made; gives that queue if it was counted now.
    pub fn came_late(&self, delivery: Delivery, now: u64) -> Result<Option<u64>> {
        let mut state = self.lock();
        let Some(queue) = state.lost.unsettled.remove(&delivery) else { return Ok(None) };
        state.changing(&self.db, queue)?.counters.late_settlements_total += 1;
        let batch = self.db.batch();
        state.commit(&self.db, batch, now)?;
        Ok(Some(queue))
    }

    /// The last claims of a message that ended in this run without an acknowledgement, the newest first.
    pub fn lost_claims(&self, id: u64) -> Vec<Claim> {
        let state = self.lock();
        state.lost.of.get(&id).map(|lost| lost.iter().cloned().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NOBODY, message, open, queue};
    use super::super::{NewBody, Of, Taker};
    use super::*;
    use crate::queue::state::State;
    use crate::queue::worker::{ProcessId, Worker};

    #[test]
    fn the_last_claims_that_were_lost_are_remembered_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = queue(&store, "q");
        let unlimited = |record: &mut super::super::record::QueueRecord| {
            record.config.push_str("max_deliveries = 0\n");
            Ok(())
        };
        store.alter_queue(q, unlimited).unwrap();
        let new = message(&store, q, "m");
        let id = new.id;
        let seq = store.enqueue(new, NewBody::Inline(b"x"), false, 1).unwrap().seq().unwrap();
        let worker = |tgid| {
            let process = ProcessId { tgid, start: 1 };
            Taker { worker: Some(Worker { process, parent: 1, grandparent: 0, session: 1 }), uid: 0 }
        };
        store.claim(q, seq, NOBODY, 1).unwrap();
        store.nack(q, seq, Of::Any, false, 1).unwrap();
        assert!(store.lost_claims(id).is_empty(), "nobody is known to have had it");
        for tgid in 1..=10 {
            store.claim(q, seq, worker(tgid), 1).unwrap();
            store.renew(seq, Of::Any, 2).unwrap();
            assert_eq!(store.lost_claims(id).len(), (tgid as usize - 1).min(8), "a claim that lasts is not lost");
            store.nack(q, seq, Of::Any, false, 2).unwrap();
        }
        let lost: Vec<u32> = store.lost_claims(id).iter().map(|claim| claim.process.unwrap().tgid).collect();
        assert_eq!(lost, [10, 9, 8, 7, 6, 5, 4, 3]);
    }

    #[test]
    fn each_lost_delivery_is_counted_once_when_its_worker_comes() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let (q, other) = (queue(&store, "q"), queue(&store, "other"));
        let new = message(&store, q, "m");
        let seq = store.enqueue(new, NewBody::Inline(b"x"), false, 1).unwrap().seq().unwrap();
        let claim = |q, seq| store.claim(q, seq, NOBODY, 1).unwrap().claim.unwrap().delivery;
        let late = |delivery| store.came_late(delivery, 2).unwrap().is_some();
        let first = claim(q, seq);
        assert!(!late(first), "it lasts");
        store.nack(q, seq, Of::Any, false, 2).unwrap();
        assert!(late(first) && !late(first));
        let second = claim(q, seq);
        store.nack(q, seq, Of::This(Some(second)), false, 2).unwrap();
        store.ended_by_its_worker(second);
        assert!(!late(second));
        // Also when the message has gone to another queue, or is no more.
        let third = claim(q, seq);
        let moved = (other, &b"m"[..], super::super::Onto::Nothing);
        let seq = store.move_to(q, seq, (State::Claimed, Of::Any), moved, 2).unwrap();
        let fourth = claim(other, seq);
        store.nack(other, seq, Of::Any, false, 2).unwrap();
        store.ack(other, seq, (&[State::Ready], Of::Any), 2).unwrap();
        assert!(late(third) && late(fourth));
        let counted = |queue| store.queue(queue).unwrap().counters.late_settlements_total;
        assert_eq!((counted(q), counted(other)), (2, 1), "each where it was delivered");
        assert!(!late(claim(q, {
            let new = message(&store, q, "n");
            store.enqueue(new, NewBody::Inline(b"x"), false, 1).unwrap().seq().unwrap()
        })));
    }

    #[test]
    fn the_tables_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = queue(&store, "q");
        let claim = Claim {
            delivery: crate::queue::delivery::Delivery::of(1),
            process: Some(ProcessId { tgid: 1, start: 1 }),
            parent: 1,
            grandparent: 0,
            session: 1,
            uid: 0,
            at: 1,
            deadline: 2,
            reckoned: 1,
        };
        let mut after = MessageRecord::new(message(&store, q, "m"), 1);
        let mut lost = LostClaims::default();
        for id in 0..MESSAGES as u64 + 3 {
            after.id = id;
            let before = MessageRecord { claim: Some(claim.clone()), ..after.clone() };
            lost.note(&before, &after);
            lost.note(&before, &after);
        }
        assert_eq!((lost.of.len(), lost.order.len()), (MESSAGES, MESSAGES));
        assert!(lost.ended.len() == DELIVERIES && lost.unsettled.len() == 1, "it is one and the same");
        (0..2 * DELIVERIES as u64).for_each(|bits| lost.end(Delivery::of(bits), 1));
        assert_eq!((lost.ended.len(), lost.unsettled.len()), (DELIVERIES, DELIVERIES));
        assert!(!lost.of.contains_key(&2) && lost.of.contains_key(&3));
    }
}
