//! Claims that have ended without an acknowledgement, remembered for a while: whoever held one of them may come late to settle
//! a message that another worker has by then, or that is gone.
//!
//! The tables are in memory only, because a process that held a claim before this run cannot be told from one that got its
//! number since. They are bounded, and forget what was lost longest ago, of the user whose workers have lost most.

use std::collections::VecDeque;

use crate::error::Result;
use crate::fair::FairMap;
use crate::queue::delivery::Delivery;

use super::Store;
use super::record::{Claim, MessageRecord};

/// So many claims of a message are remembered.
const OF_ONE: usize = 8;
/// Of so many messages.
const MESSAGES: usize = 16_384;

/// So many deliveries are remembered of which nobody has come late yet.
const DELIVERIES: usize = 16_384;

/// The tables. What is in them counts against the users whose workers had the claims.
pub(super) struct LostClaims {
    /// By the messages' own numbers.
    of: FairMap<u64, VecDeque<Claim>>,
    /// Deliveries that their workers may settle late, and nobody has: of a message of which queue each was.
    unsettled: FairMap<Delivery, u64>,
}

impl Default for LostClaims {
    fn default() -> Self {
        Self { of: FairMap::new(MESSAGES), unsettled: FairMap::new(DELIVERIES) }
    }
}

impl LostClaims {
    /// Notes what became of a message's claim in a change.
    pub fn note(&mut self, before: &MessageRecord, after: &MessageRecord) {
        let lasts = |claim: &&Claim| after.claim.as_ref().is_some_and(|now| now.delivery == claim.delivery);
        let Some(claim) = before.claim.as_ref().filter(|claim| !lasts(claim)) else { return };
        self.unsettled.insert(claim.uid, claim.delivery, before.queue);
        if claim.process.is_none() {
            return; // nobody can be told to have had it
        }
        match self.of.get_mut(before.id) {
            Some(lost) => {
                lost.truncate(OF_ONE - 1);
                lost.push_front(claim.clone());
            }
            None => drop(self.of.insert(claim.uid, before.id, VecDeque::from([claim.clone()]))),
        }
    }
}

impl Store {
    /// A delivery was ended by the worker that had it: what it does by its path afterwards is no late settlement.
    pub fn ended_by_its_worker(&self, delivery: Delivery) {
        self.lock().lost.unsettled.remove(delivery);
    }

    /// Somebody comes to settle a delivery after its lease had ended, or others had ended it. That is counted once for each
    /// delivery, in the queue in which it was made; gives that queue if it was counted now.
    pub fn came_late(&self, delivery: Delivery, now: u64) -> Result<Option<u64>> {
        let mut state = self.lock();
        let Some(queue) = state.lost.unsettled.remove(delivery) else { return Ok(None) };
        state.changing(&self.db, queue)?.counters.late_settlements_total += 1;
        let batch = self.db.batch();
        state.commit(&self.db, batch, now)?;
        Ok(Some(queue))
    }

    /// The last claims of a message that ended in this run without an acknowledgement, the newest first.
    pub fn lost_claims(&self, id: u64) -> Vec<Claim> {
        let state = self.lock();
        state.lost.of.get(id).map(|lost| lost.iter().cloned().collect()).unwrap_or_default()
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

    /// And whoever loses claims without end makes nobody else's forgotten.
    #[test]
    fn the_tables_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = queue(&store, "q");
        let claim = |uid, bits| Claim {
            delivery: Delivery::of(bits),
            process: Some(ProcessId { tgid: 1, start: 1 }),
            parent: 1,
            grandparent: 0,
            session: 1,
            uid,
            at: 1,
            deadline: 2,
            reckoned: 1,
        };
        let mut after = MessageRecord::new(message(&store, q, "m"), 1);
        let mut lost = LostClaims::default();
        let mut note = |lost: &mut LostClaims, id, claim: Claim| {
            after.id = id;
            lost.note(&MessageRecord { claim: Some(claim), ..after.clone() }, &after);
        };
        note(&mut lost, 1_000_000, claim(2, 1_000_000));
        for id in 0..MESSAGES as u64 + 3 {
            note(&mut lost, id, claim(1, id));
            note(&mut lost, id, claim(1, 2_000_000 + id));
        }
        assert_eq!((lost.of.len(), lost.unsettled.len()), (MESSAGES, DELIVERIES));
        assert!(lost.of.get(3).is_none() && lost.of.get(4).is_some_and(|claims| claims.len() == 2));
        assert!(lost.of.get(1_000_000).is_some() && lost.unsettled.get(Delivery::of(1_000_000)) == Some(&q));
    }
}
