//! What a worker says of a message that it does not acknowledge.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::queue::state::{Event, State};

use super::dead_letters::DeadReason;
use super::transitions::{after, dead, give_back, in_state};
use super::{Altered, Store};

/// So much of what a worker says is kept, in bytes.
const LAST_ERROR: usize = 1024;

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
    /// Ends the claim `claim` (its time and the delivery count) of a message of `queue`, if it still lasts: [`Error::NotFound`]
    /// when it does not. What its worker `said` is kept with it. Gives what became of it: it may be dead, here or in the queue
    /// that `dead_letter` names.
    pub fn nack_as(
        &self,
        queue: u64,
        seq: u64,
        claim: (u64, u32),
        how: Nack,
        said: &[u8],
        now: u64,
    ) -> Result<Altered> {
        self.give_up(seq, now, |record, holder| {
            in_state(record, queue, State::Claimed)?;
            if record.claim.as_ref().is_none_or(|held| (held.at, record.deliveries) != claim) {
                return Err(Error::NotFound);
            }
            holder.counters.nacked_total += 1;
            let event = match how {
                Nack::Now => Event::Nack,
                Nack::Later | Nack::In(_) => Event::NackLater,
                Nack::Dead => Event::DeadLetter,
                Nack::Uncounted => Event::Unclaim,
            };
            give_back(record, holder, event, now)?;
            if !said.is_empty() {
                record.last_error = said[..said.len().min(LAST_ERROR)].to_vec();
            }
            if let (Nack::In(delay), State::Delayed) = (how, record.state()) {
                record.due = after(now, delay);
            }
            Ok(dead(record, DeadReason::MaxDeliveries))
        })
    }
}
