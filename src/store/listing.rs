//! Listings, each from a position, so that a reader can go on where it was while entries vanish around it.

use crate::error::Result;
use crate::queue::state::State as MessageState;

use super::Store;
use super::db::Family;
use super::keys;
use super::state::State;

/// One entry of a listing.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The position to go on after.
    pub position: u64,
    /// The sequence number, queue or draft.
    pub id: u64,
    /// The place of a message among the priorities.
    pub order: u8,
    /// The producer's name, or the queue's or draft's.
    pub name: &'a [u8],
}

impl<'a> Entry<'a> {
    fn message(position: u64, name: &'a [u8]) -> Self {
        Self { position, id: keys::seq_of(position), order: keys::order_of(position), name }
    }
}

impl Store {
    /// Calls `each` with the messages of a queue in one state that come after the position `after` (0: from the start), in
    /// delivery order, until it answers false.
    pub fn list(
        &self,
        queue: u64,
        state: MessageState,
        after: u64,
        mut each: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        let (head, placed) = {
            let mut remembered = self.lock();
            let queue = remembered.queue(&self.db, queue)?;
            let head = if state == MessageState::Ready { queue.counters.head } else { 0 };
            (head, queue.placed)
        };
        let start = after.saturating_add(1).max(head);
        let mut first = None;
        self.db.scan(Family::Index, &keys::indexed(queue, state), &keys::index(queue, state, start), |key, name| {
            let Some(position) = keys::indexed_position(key) else {
                return Ok(true);
            };
            first.get_or_insert(position);
            let entry = Entry::message(position, name);
            Ok(self.is_hidden(queue, entry.id) || each(entry))
        })?;
        if state == MessageState::Ready && start == head {
            self.raise_head(queue, first, placed)?;
        }
        Ok(())
    }

    /// Whether a message that a listing has come to awaits its last close. Asked when it was read: so one that is hidden when it is
    /// listed first is not shown, and none of those that are has to be copied.
    fn is_hidden(&self, queue: u64, seq: u64) -> bool {
        self.state.lock().is_hidden(queue, seq)
    }

    /// Calls `each` with the messages of a queue in any of `states` after the position `after`, in delivery order, until it
    /// answers false. A message that changes its state meanwhile is there once.
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
        let head = self.lock().queue(&self.db, queue)?.counters.head;
        let run = |state: &MessageState| {
            let start = after.saturating_add(1).max(if *state == MessageState::Ready { head } else { 0 });
            (keys::indexed(queue, *state).to_vec(), keys::index(queue, *state, start).to_vec())
        };
        let runs: Vec<_> = states.iter().map(run).collect();
        self.db.merge(Family::Index, &runs, keys::indexed_position, |position, name| {
            let entry = Entry::message(position, name);
            self.is_hidden(queue, entry.id) || each(entry)
        })
    }

    /// The position of the first ready message of a queue in delivery order that users can see; the first after the position `after`, if
    /// that is given.
    pub(super) fn first_ready(&self, state: &mut State, queue: u64, after: Option<u64>) -> Result<Option<u64>> {
        let from = after.map_or(0, |after| after + 1);
        // Nothing becomes ready meanwhile: this is under the lock.
        let mut nothing_before = after.is_none();
        for order in keys::order_of(from)..state.queue(&self.db, queue)?.config.priorities {
            let found = self.first_of_order(state, queue, order, from)?;
            let remembered = state.queue(&self.db, queue)?;
            let head = remembered.heads[usize::from(order)];
            if nothing_before {
                remembered.counters.head = remembered.counters.head.max(head);
                // What is hidden may be there.
                nothing_before = head == keys::position(order + 1, 0);
            }
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// That of the first ready message of one priority at the position `from` or after it. The graves of consumed messages
    /// before it are not walked over again.
    pub(super) fn first_of_order(&self, state: &mut State, queue: u64, order: u8, from: u64) -> Result<Option<u64>> {
        let (begin, end) = (keys::position(order, 0), keys::position(order + 1, 0));
        let remembered = state.queue(&self.db, queue)?;
        let head = remembered.heads[usize::from(order)].max(remembered.counters.head).max(begin);
        if head >= end {
            remembered.heads[usize::from(order)] = end;
            return Ok(None);
        }
        let start = head.max(from);
        let (mut first, mut found) = (end, None);
        let prefix = keys::indexed_order(queue, MessageState::Ready, order);
        self.db.scan(Family::Index, &prefix, &keys::index(queue, MessageState::Ready, start), |key, _| {
            let Some(position) = keys::indexed_position(key) else {
                return Ok(true);
            };
            first = first.min(position);
            let seq = keys::seq_of(position);
            found = (!remembered.hidden.contains(seq)).then_some(position);
            Ok(found.is_none())
        })?;
        if start == head {
            remembered.heads[usize::from(order)] = first;
        }
        Ok(found)
    }

    /// Remembers that nothing ready is before `first`, or nothing at all, as a look from the head found: the graves of consumed
    /// messages are then not walked over again. Not when a message became ready meanwhile, which the look may have missed.
    fn raise_head(&self, queue: u64, first: Option<u64>, placed: u64) -> Result<()> {
        let mut state = self.lock();
        let queue = state.queue(&self.db, queue)?;
        if queue.placed == placed {
            queue.counters.head = queue.counters.head.max(first.unwrap_or(keys::LAST_POSITION));
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

    pub(super) fn list_meta(&self, prefix: &[u8], from: &[u8], mut each: impl FnMut(Entry<'_>) -> bool) -> Result<()> {
        self.db.scan(Family::Meta, prefix, from, |key, name| match keys::last_number(key) {
            Some(id) => Ok(each(Entry { position: id, id, order: 0, name })),
            None => Ok(true),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Counters;
    use super::super::state::Queue;
    use super::super::tests::{message, open, queue};
    use super::super::{DeadReason, NewBody, Of};
    use super::*;

    /// So many queues are in use that those are forgotten that can be.
    fn use_many_queues(store: &Store, queue: u64) {
        let record = store.queue_record(queue).unwrap();
        let mut state = store.lock();
        for id in 1_000_000..1_005_000 {
            state.remember(id, Queue::new(&record, Counters::default()).unwrap());
        }
        state.queues.clear();
    }

    /// A message that becomes ready before the first one, during a look that does not see it, is seen by the next.
    #[test]
    fn what_becomes_ready_during_a_look_is_listed_though_its_queue_was_forgotten_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = queue(&store, "q");
        let enqueue = || {
            let new = message(&store, q, "m");
            store.enqueue(new, NewBody::Inline(b"x"), false, 1).unwrap().seq().unwrap()
        };
        let (first, second) = (enqueue(), enqueue());
        store.dead_letter(q, first, (MessageState::Ready, Of::Any), DeadReason::Moved, 2).unwrap();
        assert!(store.has_ready(q, 2).unwrap());
        let third = enqueue(); // with it, where the first one is goes to the disk
        use_many_queues(&store, q);
        let mut seen = Vec::new();
        let look = |entry: Entry<'_>| {
            if seen.is_empty() {
                store.redrive(q, first, 3).unwrap();
                use_many_queues(&store, q);
            }
            seen.push(entry.id);
            true
        };
        store.list(q, MessageState::Ready, 0, look).unwrap();
        assert_eq!(seen, [second, third]);
        seen.clear();
        let again = |entry: Entry<'_>| {
            seen.push(entry.id);
            true
        };
        store.list(q, MessageState::Ready, 0, again).unwrap();
        assert_eq!(seen, [first, second, third]);
    }
}
