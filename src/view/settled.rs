//! Who has ended a claim: a descriptor that held it tells whether that was its own process, or one that descends from it.
//!
//! A worker whose claim is over has to know: when its own command has removed or moved the message, all is well; when it was
//! anybody else, or the lease ended, somebody else works on the message, or will.

use crate::queue::delivery::Delivery;

use super::access::Caller;
use super::handles::Hold;
use super::{View, process};

impl View {
    /// The caller has ended this delivery of the message `seq`.
    pub(super) fn note_settled(&self, caller: &Caller, seq: u64, held: Delivery) {
        self.handles.each_hold(seq, |hold| {
            if let Hold::Lease(lease) = hold
                && lease.delivery == held
                && lease.process.is_some_and(|process| process::is_below(caller.pid, process.tgid))
            {
                *hold = Hold::Settled(held);
            }
        });
    }

    /// Whether a descriptor that has the message `seq` open tells so of such a claim.
    pub(super) fn was_settled(&self, seq: u64, is: impl Fn(Delivery) -> bool) -> bool {
        let mut settled = false;
        self.handles.each_hold(seq, |hold| settled |= matches!(hold, Hold::Settled(delivery) if is(*delivery)));
        settled
    }
}
