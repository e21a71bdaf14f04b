//! When watched messages left: their producers' sessions may still ask for them by the names that they gave.
//!
//! A message leaves when it is acknowledged, purged, dropped, moved to another queue, or dead. One that is claimed or delayed is
//! still there.
//!
//! The lock is a leaf: it is taken while the store's own is held, and nothing is called while it is held itself. What is noted by an
//! operation is noted when that has been applied, before the store's own lock is given up: so whoever no longer finds a message
//! finds when it left.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::error::Error;
use crate::queue::state::State;

use super::Store;

/// Watched messages, by their sequence numbers.
#[derive(Debug, Default)]
pub struct Departures(Mutex<HashMap<u64, Watched>>);

#[derive(Debug)]
struct Watched {
    queue: u64,
    state: State,
    /// When it left, unless it is there.
    left: Option<u64>,
}

impl Departures {
    /// Nobody wants to know of a message any more.
    pub fn forget(&self, seq: u64) {
        self.0.lock().remove(&seq);
    }

    /// When a watched message left, in milliseconds since the epoch; `None` while it is there.
    pub fn left(&self, seq: u64) -> Option<u64> {
        self.0.lock().get(&seq).and_then(|watched| watched.left)
    }

    /// A message is in this state from now on; whether it has left by that, the end of the operation says.
    pub(super) fn note_state(&self, seq: u64, state: State) {
        if let Some(watched) = self.0.lock().get_mut(&seq) {
            watched.state = state;
            if state != State::Dead {
                watched.left = None;
            }
        }
    }

    /// These messages have left.
    pub(super) fn note(&self, seqs: &[u64], now: u64) {
        if seqs.is_empty() {
            return;
        }
        let mut all = self.0.lock();
        for seq in seqs {
            if let Some(watched) = all.get_mut(seq) {
                watched.left = Some(now);
            }
        }
    }

    /// All messages in some states of a queue have left at once.
    pub(super) fn note_purge(&self, queue: u64, states: &[State], now: u64) {
        let mut all = self.0.lock();
        let purged = all.values_mut().filter(|watched| watched.queue == queue && states.contains(&watched.state));
        purged.for_each(|watched| _ = watched.left.get_or_insert(now));
    }
}

impl Store {
    /// From now on, notes when the message `seq` of `queue` leaves, until [`Departures::forget`]. It may be hidden as yet; one that
    /// is not there any more left now.
    pub fn watch(&self, queue: u64, seq: u64, now: u64) {
        let mut state = self.lock();
        let hidden = state.queue(&self.db, queue).ok().and_then(|queue| queue.hidden.get(seq));
        let there = match hidden.map(|hidden| hidden.state) {
            Some(hidden) => Some(hidden),
            None => match self.visible(&mut state, seq) {
                Ok(message) => Some(message.state()).filter(|state| message.queue == queue && *state != State::Dead),
                Err(Error::NotFound) => None,
                Err(error) => {
                    tracing::debug!(queue = self.label(queue), name = self.name_of(seq), %error, "a message is taken to have left");
                    None
                }
            },
        };
        let watched = Watched { queue, state: there.unwrap_or(State::Dead), left: there.is_none().then_some(now) };
        self.departures.0.lock().insert(seq, watched);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{message, open, queue};
    use super::super::{DeadReason, NewBody, Of, Onto, Store, Taker};
    use crate::queue::state::State;

    fn enqueue(store: &Store, queue: u64) -> u64 {
        let seq = store.enqueue(message(store, queue, "m"), NewBody::Inline(b"x"), false, 1).unwrap().seq().unwrap();
        store.watch(queue, seq, 1);
        seq
    }

    /// Whatever makes a message leave is noted with its time, and what does not is not.
    #[test]
    fn every_way_to_leave_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let (q, other) = (queue(&store, "q"), queue(&store, "other"));
        let left = |seq| store.departures().left(seq);
        let [acked, moved, dead, purged, claimed] = [(); 5].map(|()| enqueue(&store, q));
        store.claim(q, claimed, Taker { worker: None, uid: 0 }, 5).unwrap();
        store.nack(q, claimed, Of::Any, true, 6).unwrap();
        store.deliver(q, claimed, None, 7).unwrap();
        store.claim(q, claimed, Taker { worker: None, uid: 0 }, 8).unwrap();
        assert_eq!(left(claimed), None);
        store.ack(q, acked, (&State::ALL, Of::Any), 10).unwrap();
        store.move_to(q, moved, (State::Ready, Of::Any), (other, b"m", Onto::Nothing), 11).unwrap();
        store.dead_letter(q, dead, (State::Ready, Of::Any), DeadReason::Moved, 12).unwrap();
        store.purge(q, &[State::Ready], 13).unwrap();
        store.ack(q, dead, (&State::ALL, Of::Any), 13).unwrap();
        assert_eq!([acked, moved, dead, purged].map(left), [Some(10), Some(11), Some(12), Some(13)]);
        assert_eq!(left(claimed), None, "it was not ready");
        store.redrive(q, dead, 14).unwrap_err();
        store.ack(q, claimed, (&State::ALL, Of::Any), 14).unwrap();
        assert_eq!(left(claimed), Some(14));
        store.departures().forget(claimed);
        assert_eq!(left(claimed), None);
        store.watch(q, claimed, 15);
        assert_eq!(left(claimed), Some(15), "it is not there any more");
        let back = enqueue(&store, q);
        store.dead_letter(q, back, (State::Ready, Of::Any), DeadReason::Moved, 16).unwrap();
        store.redrive(q, back, 17).unwrap();
        assert_eq!(left(back), None);
        store.purge(q, &[State::Claimed], 18).unwrap();
        assert_eq!(left(back), None);
        store.purge(q, &[State::Ready], 19).unwrap();
        assert_eq!(left(back), Some(19));
    }
}
