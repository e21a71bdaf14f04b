//! Claims that have ended without an acknowledgement, remembered for a while: whoever held one of them may come late to settle
//! a message that another worker has by then.
//!
//! The table is in memory only, because a process that held a claim before this run cannot be told from one that got its
//! number since. It is bounded, and forgets the messages whose claims were lost longest ago.

use std::collections::{HashMap, VecDeque};

use super::Store;
use super::record::{Claim, MessageRecord};

/// So many claims of a message are remembered.
const OF_ONE: usize = 8;
/// Of so many messages.
const MESSAGES: usize = 16_384;

/// The table, by the messages' own numbers.
#[derive(Default)]
pub(super) struct LostClaims {
    of: HashMap<u64, VecDeque<Claim>>,
    /// Those of its keys, the oldest first.
    order: VecDeque<u64>,
}

impl LostClaims {
    /// Notes what became of a message's claim in a change.
    pub fn note(&mut self, before: &MessageRecord, after: &MessageRecord) {
        let lasts = |claim: &&Claim| after.claim.as_ref().is_some_and(|now| now.delivery == claim.delivery);
        let Some(claim) = before.claim.as_ref().filter(|claim| !lasts(claim) && claim.process.is_some()) else {
            return;
        };
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
}

impl Store {
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
    fn the_table_is_bounded() {
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
        assert!(!lost.of.contains_key(&2) && lost.of.contains_key(&3));
    }
}
            reckoned: 1,
