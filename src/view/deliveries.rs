//! Deliveries as the kernel knows them: paths that `.mq/claim` answers lead to nodes of their own, so that what comes late by
//! such a path, or by a descriptor that was opened by it, does not touch the next delivery of the same message.
//!
//! The number of such a node is that of the delivery, so that it is the same at each look; which message it is a delivery of,
//! this table tells for as long as the kernel knows the node.

use crate::clock;
use crate::error::{Error, Result};
use crate::fair::FairMap;
use crate::queue::delivery::Delivery;
use crate::store::Of;
use crate::store::record::{Claim, MessageRecord};

use super::access::{Caller, READ, WRITE};
use super::open::shares;
use super::{Attributes, Node, Via, View};

/// So many deliveries are known at a time. When more are in use, those are forgotten of whoever looks at most, the oldest first:
/// who uses one is told [`Error::Stale`], and the kernel looks its path up again.
const KNOWN: usize = 65_536;

/// The deliveries that the kernel knows, by who looked them up first.
pub(super) struct Deliveries(FairMap<Delivery, Known>);

struct Known {
    seq: u64,
    /// How often the kernel was told of it.
    told: u64,
}

impl Default for Deliveries {
    fn default() -> Self {
        Self(FairMap::new(KNOWN))
    }
}

impl Deliveries {
    /// The kernel is told of a delivery of the message `seq`, because the user `uid` looks it up.
    fn tell(&mut self, uid: u32, delivery: Delivery, seq: u64) {
        match self.0.get_mut(delivery) {
            Some(known) => known.told += 1,
            None => drop(self.0.insert(uid, delivery, Known { seq, told: 1 })),
        }
    }

    /// The kernel has forgotten so many times that it was told.
    pub fn forget(&mut self, delivery: Delivery, times: u64) {
        let Some(known) = self.0.get_mut(delivery) else { return };
        known.told = known.told.saturating_sub(times);
        if known.told == 0 {
            self.0.remove(delivery);
        }
    }

    fn seq(&self, delivery: Delivery) -> Result<u64> {
        self.0.get(delivery).map(|known| known.seq).ok_or(Error::Stale)
    }
}

/// The message that a node stands for.
#[derive(Clone, Copy)]
pub(super) struct Reach {
    /// Its sequence number.
    pub seq: u64,
    /// The path on which it was found.
    pub via: Via,
    /// Of which delivery what is done by the node is.
    pub of: Of,
}

impl View {
    /// The message that a node stands for; `None` for a node that is no message's.
    pub(super) fn reach(&self, node: Node) -> Result<Option<Reach>> {
        Ok(match node {
            Node::Message(seq, via) | Node::Granted(seq, via) => Some(Reach { seq, via, of: Of::Any }),
            Node::Delivery(delivery, _) => {
                let seq = self.deliveries.lock().seq(delivery)?;
                Some(Reach { seq, via: Via::Claimed, of: Of::This(Some(delivery)) })
            }
            _ => None,
        })
    }

    /// The message of [`View::reach`], if it is still there as it has to be.
    pub(super) fn reached(&self, reach: &Reach) -> Result<MessageRecord> {
        let message = self.store.message(reach.seq)?;
        if reach.of.is(&message) { Ok(message) } else { Err(Error::NotFound) }
    }

    /// What a lookup of a delivery shows to a caller. Whoever may consume may read the message, say that work on it goes on, and
    /// why it failed, whatever the message's mode.
    pub(super) fn found_delivery(&self, caller: &Caller, seq: u64, message: &MessageRecord) -> Result<Attributes> {
        let delivery = message.claim.as_ref().map(|claim| claim.delivery).ok_or(Error::NotFound)?;
        let refused = !self.message_owner(message).allows(caller, READ | WRITE);
        let granted = refused && self.owner(&self.store.queue(message.queue)?).may_consume(caller);
        self.deliveries.lock().tell(caller.uid, delivery, seq);
        Ok(self.message_attributes(Node::Delivery(delivery, granted), message))
    }

    /// Counts who comes to a delivery when it is over, and has not ended it, once for each delivery: the kernel asks for the name
    /// before it asks for what is to be done, and no more when there is none.
    pub(super) fn came_late(&self, caller: &Caller, name: &[u8], delivery: Delivery) {
        match self.store.came_late(delivery, clock::now_ms()) {
            Ok(None) => {}
            Ok(Some(queue)) => tracing::info!(
                queue = self.store.label(queue),
                name = %String::from_utf8_lossy(name),
                pid = caller.pid,
                "a worker comes late: its delivery is over"
            ),
            Err(error) => tracing::debug!(%error, "a late settlement was not counted"),
        }
    }

    /// Of which delivery it may be that a caller removes or moves a message by the name that the queue lists it under. Whoever
    /// holds the present claim, or never had one, may do so whatever there is; a worker that had the message and lost it
    /// gets [`Error::NotFound`] while another has it.
    pub(super) fn settles_by_name(&self, caller: &Caller, message: &MessageRecord) -> Result<Of> {
        let Some(claim) = &message.claim else { return Ok(Of::Any) };
        let lost = self.store.lost_claims(message.id);
        if lost.is_empty() {
            return Ok(Of::Any);
        }
        let asker = self.workers.worker(caller.pid);
        let is_of = |claim: &Claim| shares(asker, claim, &self.look).is_some();
        let other = lost.iter().find(|other| other.delivery != claim.delivery && is_of(other));
        if let Some(lost) = other.filter(|_| !is_of(claim)) {
            tracing::info!(
                queue = self.store.label(message.queue),
                name = %String::from_utf8_lossy(&message.name),
                pid = caller.pid,
                "a worker that has lost its claim settles late: refused, another one has the message"
            );
            self.came_late(caller, &message.name, lost.delivery);
            return Err(Error::NotFound);
        }
        // What was looked at is what it is done to.
        Ok(Of::This(Some(claim.delivery)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_known_until_the_kernel_has_forgotten_it() {
        let mut deliveries = Deliveries::default();
        let delivery = Delivery::of(7);
        deliveries.tell(1, delivery, 42);
        deliveries.tell(2, delivery, 42);
        deliveries.forget(delivery, 1);
        assert_eq!(deliveries.seq(delivery).unwrap(), 42);
        deliveries.forget(delivery, 1);
        assert!(matches!(deliveries.seq(delivery), Err(Error::Stale)));
        assert!(deliveries.0.is_empty());
    }

    #[test]
    fn the_table_is_bounded_and_nobody_fills_it_for_others() {
        let mut deliveries = Deliveries::default();
        deliveries.tell(2, Delivery::of(u64::MAX), 42);
        (0..KNOWN as u64 + 4).for_each(|n| deliveries.tell(1, Delivery::of(n), n));
        assert_eq!(deliveries.0.len(), KNOWN);
        assert!(deliveries.seq(Delivery::of(4)).is_err() && deliveries.seq(Delivery::of(5)).is_ok());
        assert_eq!(deliveries.seq(Delivery::of(u64::MAX)).unwrap(), 42);
    }
}
