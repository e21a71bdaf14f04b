//! The life of a message.
//!
//! ```text
//!   enqueue               claim: deliveries + 1
//!   ---------------> READY --------------------> CLAIMED
//!     |              ^ ^ | ^                       | |
//!     | with a delay | | | |  lease expired, nack  | |
//!     v              | | | '-----------------------' |
//!   DELAYED ---------' | |                           |
//!     | ^    deliver   | | dead-letter,              | dead-letter; and instead of going back to READY
//!     | |              | | time to live over         | on lease expired or nack, once
//!     | |     redrive: | |                           | deliveries >= max_deliveries > 0
//!     | | deliveries=0 | v                           |
//!     | |              DEAD <------------------------'
//!     | |                ^
//!     '-+----------------'
//!       |  dead-letter, time to live over
//!       '--- from CLAIMED: nack for later; lease expired, in a queue that retries later
//! ```
//!
//! An unclaim undoes a claim: from CLAIMED to READY, deliveries - 1. An ack is no transition: it removes a message, whatever its state.

use crate::error::{Error, Result};

/// Where a message is in its life. The numbers are part of the store's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Waiting to be claimed; listed in the queue's directory.
    Ready = 1,
    /// Waiting until it is due; listed in `.mq/delayed`.
    Delayed = 2,
    /// Being worked on; listed in `.mq/claimed`.
    Claimed = 3,
    /// Given up, kept for people to look at; listed in `.mq/dead`.
    Dead = 4,
}

impl State {
    /// All states.
    pub const ALL: [State; 4] = [State::Ready, State::Delayed, State::Claimed, State::Dead];

    /// The state with this number, if there is one.
    pub fn from_u8(number: u8) -> Option<State> {
        State::ALL.into_iter().find(|state| *state as u8 == number)
    }

    /// The state's word, as `user.mq.state` and `stats` say it.
    pub fn word(self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::Delayed => "delayed",
            State::Claimed => "claimed",
            State::Dead => "dead",
        }
    }
}

/// What can happen to a message besides an ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody takes it to work on it.
    Claim,
    /// Whoever took it neither acked nor renewed in time.
    LeaseExpired,
    /// Whoever took it gives it back, for now.
    Nack,
    /// Whoever took it gives it back, for later.
    NackLater,
    /// Whoever took it has not tried: as if it had not been taken.
    Unclaim,
    /// Somebody gives it up.
    DeadLetter,
    /// Somebody gives a dead message another chance.
    Redrive,
    /// A delayed message is due, or is delivered early.
    Deliver,
    /// It waited longer than its time to live.
    TimeToLiveOver,
}

/// What of its queue's configuration decides about a message's next state.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// After so many deliveries a message that comes back is dead; 0 is never.
    pub max_deliveries: u32,
    /// A message whose lease expires is delayed before it is ready again.
    pub retries_later: bool,
}

/// The state and the delivery count of a message after `event`, or why that cannot happen to it now.
pub fn next(state: State, event: Event, deliveries: u32, rules: Rules) -> Result<(State, u32)> {
    let Rules { max_deliveries, retries_later } = rules;
    let exhausted = max_deliveries > 0 && deliveries >= max_deliveries;
    match (event, state) {
        (Event::Claim, State::Ready) => Ok((State::Claimed, deliveries.saturating_add(1))),
        // Whoever comes to claim it saw it ready: somebody else was faster.
        (Event::Claim, _) => Err(Error::NotFound),
        (Event::Unclaim, State::Claimed) => Ok((State::Ready, deliveries.saturating_sub(1))),
        (Event::LeaseExpired | Event::Nack | Event::NackLater, State::Claimed) if exhausted => {
            Ok((State::Dead, deliveries))
        }
        (Event::NackLater, State::Claimed) => Ok((State::Delayed, deliveries)),
        (Event::LeaseExpired, State::Claimed) if retries_later => Ok((State::Delayed, deliveries)),
        (Event::LeaseExpired | Event::Nack, State::Claimed) => Ok((State::Ready, deliveries)),
        (Event::LeaseExpired, _) => Err(Error::NotPermitted("only a claimed message has a lease that expires")),
        (Event::Nack | Event::NackLater | Event::Unclaim, _) => {
            Err(Error::NotPermitted("only a claimed message can be given back"))
        }
        (Event::DeadLetter, State::Ready | State::Delayed | State::Claimed) => Ok((State::Dead, deliveries)),
        (Event::DeadLetter, State::Dead) => Err(Error::NotPermitted("the message is dead already")),
        (Event::Redrive, State::Dead) => Ok((State::Ready, 0)),
        (Event::Redrive, _) => Err(Error::NotPermitted("only a dead message can be redriven")),
        (Event::Deliver, State::Delayed) => Ok((State::Ready, deliveries)),
        (Event::Deliver, _) => Err(Error::NotPermitted("only a delayed message can be delivered early")),
        (Event::TimeToLiveOver, State::Ready | State::Delayed) => Ok((State::Dead, deliveries)),
        (Event::TimeToLiveOver, _) => Err(Error::NotPermitted("only a waiting message has a time to live")),
    }
}

#[cfg(test)]
mod tests {
    use super::Event::*;
    use super::State::*;
    use super::*;

    const EVENTS: [Event; 9] =
        [Claim, LeaseExpired, Nack, NackLater, Unclaim, DeadLetter, Redrive, Deliver, TimeToLiveOver];

    fn at_most(max_deliveries: u32) -> Rules {
        Rules { max_deliveries, retries_later: false }
    }

    #[test]
    fn numbers_are_the_stores_format_and_read_back() {
        assert_eq!(State::ALL.map(|state| state as u8), [1, 2, 3, 4]);
        for number in 0..=u8::MAX {
            let expected = State::ALL.into_iter().find(|state| *state as u8 == number);
            assert_eq!(State::from_u8(number), expected);
        }
        assert_eq!(State::from_u8(3), Some(Claimed));
        assert_eq!(State::ALL.map(State::word), ["ready", "delayed", "claimed", "dead"]);
    }

    /// Every transition there is, for a message delivered once of at most three times.
    const TRANSITIONS: [(State, Event, State, u32); 12] = [
        (Ready, Claim, Claimed, 2),
        (Claimed, LeaseExpired, Ready, 1),
        (Claimed, Nack, Ready, 1),
        (Claimed, Unclaim, Ready, 0),
        (Claimed, NackLater, Delayed, 1),
        (Ready, TimeToLiveOver, Dead, 1),
        (Delayed, TimeToLiveOver, Dead, 1),
        (Ready, DeadLetter, Dead, 1),
        (Delayed, DeadLetter, Dead, 1),
        (Claimed, DeadLetter, Dead, 1),
        (Dead, Redrive, Ready, 0),
        (Delayed, Deliver, Ready, 1),
    ];

    #[test]
    fn every_pair_of_state_and_event_does_what_is_drawn_or_is_refused() {
        for state in State::ALL {
            for event in EVENTS {
                let drawn = TRANSITIONS.iter().find(|row| (row.0, row.1) == (state, event));
                match (next(state, event, 1, at_most(3)), drawn) {
                    (Ok(after), Some(row)) => {
                        assert_eq!(after, (row.2, row.3), "{event:?} of {state:?}")
                    }
                    (Err(Error::NotFound), None) => assert_eq!(event, Claim, "{state:?}"),
                    (Err(Error::NotPermitted(_)), None) => assert_ne!(event, Claim, "{state:?}"),
                    (other, _) => panic!("{event:?} of {state:?}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn what_comes_back_after_the_last_delivery_is_dead() {
        for event in [LeaseExpired, Nack, NackLater] {
            for (deliveries, max_deliveries, after) in
                [(1, 1, Dead), (2, 3, Ready), (3, 3, Dead), (4, 3, Dead), (0, 1, Ready), (u32::MAX, 0, Ready)]
            {
                let (state, count) = next(Claimed, event, deliveries, at_most(max_deliveries)).unwrap();
                let after = if event == NackLater && after == Ready { Delayed } else { after };
                assert_eq!((state, count), (after, deliveries), "{event:?} {deliveries} of {max_deliveries}");
            }
        }
    }

    #[test]
    fn a_queue_that_retries_later_delays_what_expires_and_not_what_is_given_back_now() {
        let rules = Rules { max_deliveries: 3, retries_later: true };
        assert_eq!(next(Claimed, LeaseExpired, 2, rules).unwrap(), (Delayed, 2));
        assert_eq!(next(Claimed, LeaseExpired, 3, rules).unwrap(), (Dead, 3));
        assert_eq!(next(Claimed, Nack, 2, rules).unwrap(), (Ready, 2));
        assert_eq!(next(Claimed, Unclaim, 4, rules).unwrap(), (Ready, 3), "whatever the limit is by now");
    }

    #[test]
    fn the_limit_changes_nothing_but_what_comes_back() {
        assert_eq!(next(Ready, Claim, 3, at_most(3)).unwrap(), (Claimed, 4));
        assert_eq!(next(Ready, Claim, u32::MAX, at_most(0)).unwrap(), (Claimed, u32::MAX));
        assert_eq!(next(Delayed, Deliver, 3, at_most(3)).unwrap(), (Ready, 3));
        assert_eq!(next(Dead, Redrive, 9, at_most(3)).unwrap(), (Ready, 0));
    }
}
