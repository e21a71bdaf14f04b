//! What a worker says of a message that it does not acknowledge.

use std::time::Duration;

use crate::error::Result;
use crate::queue::delivery::Delivery;
use crate::queue::state::{Event, State};

use super::dead_letters::DeadReason;
use super::transitions::{after, dead, give_back, in_state};
use super::{Altered, LONGEST_ERROR, Of, Store};

/// How a claim ends without the work being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nack {
    /// The message goes back to its place at once.
    Now,
    /// It comes back when its queue says.
    Later,
    /// It comes back after so long.
    In(Duration),
    /// It goes back at once, and the delivery does not count: nobody has tried.
    Uncounted,
    /// It is given up.
    Dead,
}

impl Store {
    /// Ends a delivery of a message of `queue`, if it still lasts: [`Error::NotFound`]
    /// when it does not. What its worker `said` is kept with it. Gives what became of it: it may be dead, here or in the queue
    /// that `dead_letter` names.
    pub fn nack_as(
        &self,
        queue: u64,
        seq: u64,
        delivery: Delivery,
        how: Nack,
        said: &[u8],
        now: u64,
    ) -> Result<Altered> {
        self.give_up(seq, now, |record, holder| {
            in_state(record, queue, State::Claimed)?;
            Of::This(Some(delivery)).check(record)?;
            holder.counters.nacked_total += 1;
            let event = match how {
                Nack::Now => Event::Nack,
                Nack::Later | Nack::In(_) => Event::NackLater,
                Nack::Dead => Event::DeadLetter,
                Nack::Uncounted => Event::Unclaim,
            };
            give_back(record, holder, event, now)?;
            if !said.is_empty() {
                record.last_error = said[said.len().saturating_sub(LONGEST_ERROR)..].to_vec();
            }
            if let (Nack::In(delay), State::Delayed) = (how, record.state()) {
                record.due = after(now, delay);
            }
            let reason = if how == Nack::Dead { DeadReason::Rejected } else { DeadReason::MaxDeliveries };
            Ok(dead(record, reason))
        })
    }
}
