//! Listings, each from a position, so that a reader can go on where it was while entries vanish around it.

use crate::error::Result;
use crate::queue::state::State as MessageState;

use super::Store;
use super::db::Family;
use super::keys;

/// One entry of a listing.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The sequence number, queue or draft: the position to go on after.
    pub id: u64,
    /// The producer's name, or the queue's or draft's.
    pub name: &'a [u8],
}

impl Store {
    /// Calls `each` with the messages of a queue in one state that come after the sequence number `after` (0: from the
    /// start), in delivery order, until it answers false.
    pub fn list(
        &self,
        queue: u64,
        state: MessageState,
        after: u64,
        mut each: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        let (head, hidden, placed) = {
            let mut remembered = self.lock();
            let queue = remembered.queue(&self.db, queue)?;
            let head = if state == MessageState::Ready { queue.counters.head } else { 0 };
            (head, queue.hidden.clone(), queue.placed)
        };
        let prefix = keys::indexed(queue, state);
        let start = after.saturating_add(1).max(head);
        let mut first = None;
        self.db.scan(Family::Index, &prefix, &keys::index(queue, state, 0, start), |key, name| {
            let Some(seq) = keys::last_number(key) else {
                return Ok(true);
            };
            first.get_or_insert(seq);
            Ok(hidden.contains_key(&seq) || each(Entry { id: seq, name }))
        })?;
        if state == MessageState::Ready && start == head {
            self.raise_head(queue, first, placed)?;
        }
        Ok(())
    }

    /// Calls `each` with the messages of a queue in any of `states` after the sequence number `after`, in delivery order, until
    /// it answers false. A message that changes its state meanwhile is there once.
    pub fn list_states(
        &self,
        queue: u64,
        states: &[MessageState],
        after: u64,
        mut each: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        if let [state] = states {
            return self.list(queue, *state, after, each);
        }
        let (head, hidden) = {
            let mut remembered = self.lock();
            let queue = remembered.queue(&self.db, queue)?;
            (queue.counters.head, queue.hidden.clone())
        };
        let run = |state: &MessageState| {
            let start = after.saturating_add(1).max(if *state == MessageState::Ready { head } else { 0 });
            (keys::indexed(queue, *state).to_vec(), keys::index(queue, *state, 0, start).to_vec())
        };
        let runs: Vec<_> = states.iter().map(run).collect();
        self.db.merge(Family::Index, &runs, |id, name| hidden.contains_key(&id) || each(Entry { id, name }))
    }

    /// Remembers that nothing ready is below `first`, or nothing at all, as a look from the head found: the graves of consumed
    /// messages are then not walked over again. Not when a message became ready meanwhile, which the look may have missed.
    fn raise_head(&self, queue: u64, first: Option<u64>, placed: u64) -> Result<()> {
        let mut state = self.lock();
        let next_seq = state.next_seq();
        let queue = state.queue(&self.db, queue)?;
        if queue.placed == placed {
            queue.counters.head = queue.counters.head.max(first.unwrap_or(next_seq));
        }
        Ok(())
    }

    /// Calls `each` with the nested queues of a queue after the one numbered `after`.
    pub fn list_queues(&self, parent: u64, after: u64, each: impl FnMut(Entry<'_>) -> bool) -> Result<()> {
        self.list_meta(&keys::children(parent), &keys::child(parent, after.saturating_add(1)), each)
    }

    /// Calls `each` with the drafts of a queue after the one numbered `after`.
    pub fn list_drafts(&self, queue: u64, after: u64, each: impl FnMut(Entry<'_>) -> bool) -> Result<()> {
        self.list_meta(&keys::draft_entries(queue), &keys::draft_entry(queue, after.saturating_add(1)), each)
    }

    fn list_meta(&self, prefix: &[u8], from: &[u8], mut each: impl FnMut(Entry<'_>) -> bool) -> Result<()> {
        self.db.scan(Family::Meta, prefix, from, |key, name| match keys::last_number(key) {
            Some(id) => Ok(each(Entry { id, name })),
            None => Ok(true),
        })
    }
}
