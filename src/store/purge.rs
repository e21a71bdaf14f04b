//! Purging: every message of a state at once, however many they are.
//!
//! A purge is one small change: the listing of the state is deleted as a range, its counters are zero, and the queue's record
//! says up to which moment messages were purged (`State::is_purged`). From then on nobody finds them. What they leave, their
//! records, bodies and deadlines, is cleared away afterwards, a few at a time: by the thread that purged, which walks the
//! listing as it was before; or, when that thread was stopped, after the next start by a look at every record. A `p` key tells
//! of what has not been cleared.
//!
//! Messages that await their last close survive: their producers were promised them, and nobody has seen them yet.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::locks;
use crate::queue::state::State as MessageState;

use super::Store;
use super::db::{Batch, Family, Walk};
use super::kept::leave_name;
use super::keys;
use super::record::{self, BodyPlace, MessageRecord, QueueRecord};
use super::state::{State, deadlines};
use super::users::cost;

/// So many messages are looked at, and cleared away, in one step: others wait for no longer than such a step.
const STEP: usize = 64;

/// So many bytes of records are read before a purge, for what is done to them in it.
const READ_AHEAD: u64 = 32 << 20;

/// So many records are looked at before the reader of all of them lets go of the database.
const AT_ONCE: usize = 4096;

/// When more than this was cleared away, the database is told to give the space back soon.
const MANY: u64 = 4096;

/// A message that was purged, with its sequence number.
type Message = (u64, MessageRecord);

/// Up to which number the messages in a state of a queue were purged.
pub(super) type Purged = HashMap<(u64, MessageState), u64>;

/// What a purge leaves to be cleared away.
pub struct Remains<'a> {
    store: &'a Store,
    queue: u64,
    /// Messages placed at or before this number were purged.
    until: u64,
    /// The listings as they were before the purge, those that have not been walked to their ends.
    walks: Vec<(MessageState, Walk<'a>)>,
    /// All states that were purged.
    states: Vec<MessageState>,
    cleared: u64,
}

impl Store {
    /// Purges the messages of a queue that are in one of `states`, at once and whole or not at all. Gives how many there were, and what
    /// is to be cleared away.
    pub fn purge(&self, queue: u64, states: &[MessageState], now: u64) -> Result<(u64, Remains<'_>)> {
        let read = self.read_hidden(queue, states)?;
        let mut state = self.lock();
        let shown = state.queue(&self.db, queue)?.shown();
        let states: Vec<_> = states.iter().copied().filter(|state| shown.count(*state) > 0).collect();
        let mut remains =
            Remains { store: self, queue, until: 0, walks: Vec::new(), states: states.clone(), cleared: 0 };
        if states.is_empty() {
            return Ok((0, remains));
        }
        for purged in &states {
            let first = if *purged == MessageState::Ready { shown.head } else { 0 };
            let walk = self.db.walk(Family::Index, &keys::indexed(queue, *purged), &keys::index(queue, *purged, first));
            remains.walks.push((*purged, walk));
        }
        let mut batch = self.db.batch();
        let (count, record) = self.purge_at_once(&mut state, &mut batch, (queue, &states), read)?;
        state.commit(&self.db, batch, now)?;
        self.departures.note_purge(queue, &states, now);
        remains.until = record.purged.into_iter().max().unwrap_or(0);
        state.queues.change(queue, |queue| queue.record.purged = record.purged);
        for purged in states {
            state.clearing(queue, purged);
        }
        Ok((count, remains))
    }

    /// Reads the records of the messages in those states of a queue that await their last close, as far as they fit into memory. As
    /// long as one does, and has that number, nothing but its place in the order of purges changes; so they are read before the purge
    /// is made, and not while all others wait for it.
    fn read_hidden(&self, queue: u64, states: &[MessageState]) -> Result<HashMap<u64, MessageRecord>> {
        let hidden: Vec<u64> = {
            let mut state = self.lock();
            let hidden = state.queue(&self.db, queue)?.hidden.iter();
            hidden.filter(|(_, hidden)| states.contains(&hidden.state)).map(|(seq, _)| seq).collect()
        };
        locks::assert_free(locks::STORE);
        let (mut read, mut bytes) = (HashMap::with_capacity(hidden.len()), 0);
        for seq in hidden {
            // One that is not there any more was taken back, or has another number.
            let Ok(record) = self.record(seq) else { continue };
            bytes += cost(0, &record.attributes);
            if bytes > READ_AHEAD {
                break;
            }
            read.insert(seq, record);
        }
        Ok(read)
    }

    /// Adds a purge to a change; gives how many messages it purges, and the queue's record as it will be.
    fn purge_at_once(
        &self,
        state: &mut State,
        batch: &mut Batch<'_>,
        (queue, states): (u64, &[MessageState]),
        mut read: HashMap<u64, MessageRecord>,
    ) -> Result<(u64, QueueRecord)> {
        let until = state.take_seq(&self.db)?;
        let remembered = state.changing(&self.db, queue)?;
        let shown = remembered.shown();
        let mut record = self.queue_record(queue)?;
        let mut count = 0;
        for purged in states {
            record.purged[*purged as usize - 1] = until;
            batch.delete_prefix(Family::Index, &keys::indexed(queue, *purged));
            batch.delete_prefix(Family::Index, &keys::all_aged(queue, *purged));
            batch.put(Family::Meta, &keys::purge(queue, *purged), b"");
            count += shown.count(*purged);
            let (messages, bytes) = remembered.counters.tally(*purged);
            (*messages, *bytes) = (0, 0);
            match purged {
                MessageState::Ready => remembered.counters.head = keys::LAST_POSITION,
                MessageState::Delayed => remembered.counters.retrying = 0,
                MessageState::Claimed | MessageState::Dead => {}
            }
        }
        remembered.counters.purged_total += count;
        batch.put(Family::Meta, &keys::queue(queue), &record::encode(&record));
        // No more of them than files are open.
        let hidden: Vec<_> = remembered.hidden.iter().map(|(seq, hidden)| (seq, hidden.state)).collect();
        for (seq, _) in hidden.into_iter().filter(|(_, state)| states.contains(state)) {
            let mut message = read.remove(&seq).map_or_else(|| self.record(seq), Ok)?;
            state.users.goes(&self.db, seq, &message)?; // it is there once
            state.place(&self.db, batch, seq, &mut message)?;
        }
        Ok((count, record))
    }

    /// Clears away what purges before this run have left, as long as `go_on` says so; gives how many messages it was.
    pub fn clear_left(&self, go_on: impl Fn() -> bool) -> Result<u64> {
        let left = std::mem::take(&mut *self.purged_before.lock());
        if left.is_empty() {
            return Ok(0);
        }
        let (mut from, mut cleared) = (Some(0), 0);
        while let Some(first) = from {
            if !go_on() {
                return Ok(cleared);
            }
            let (purged, next) = self.purged_from(first, &left)?;
            cleared += self.clear(&purged)?;
            from = next;
        }
        let purges: Vec<_> = left.into_keys().collect();
        self.cleared(&purges, cleared)?;
        Ok(cleared)
    }

    /// At the start: the states of queues that were purged and not cleared, each with the number up to which its messages were.
    pub(super) fn note_purges_left(&self) -> Result<()> {
        let mut state = self.lock();
        let mut keys = Vec::new();
        self.db.scan(Family::Meta, keys::PURGES, keys::PURGES, |key, _| {
            keys.extend(keys::parse_purge(key));
            Ok(true)
        })?;
        let mut left = Purged::new();
        for (queue, purged) in keys {
            let until = match state.queue(&self.db, queue) {
                Ok(queue) => queue.record.purged[purged as usize - 1],
                Err(Error::NotFound) => u64::MAX, // an empty queue was removed: all its messages had been purged
                Err(error) => return Err(error),
            };
            left.insert((queue, purged), until);
            state.clearing(queue, purged);
        }
        *self.purged_before.lock() = left;
        Ok(())
    }

    /// The purged messages among the next few from the sequence number `first` on, and where to go on.
    fn purged_from(&self, first: u64, purged: &Purged) -> Result<(Vec<Message>, Option<u64>)> {
        let (mut found, mut seen, mut next) = (Vec::new(), 0, None);
        self.db.scan(Family::Messages, b"", &keys::message(first), |key, value| {
            if seen == AT_ONCE || found.len() == STEP {
                next = keys::last_number(key);
                return Ok(false);
            }
            seen += 1;
            match (keys::last_number(key), record::decode_message(value)) {
                (Some(seq), Ok(record)) => {
                    let until = purged.get(&(record.queue, record.state()));
                    found.extend(until.is_some_and(|until| record.placed <= *until).then_some((seq, record)));
                }
                (seq, Err(error)) => {
                    tracing::warn!(name = seq.map(|seq| self.name_of(seq)), %error, "a damaged record is left alone")
                }
                (None, Ok(_)) => {}
            }
            Ok(true)
        })?;
        Ok((found, next))
    }

    /// Clears purged messages away. They change no more, so they may have been read before; gives how many there were.
    fn clear(&self, messages: &[Message]) -> Result<u64> {
        if messages.is_empty() {
            return Ok(0);
        }
        {
            let mut state = self.lock();
            let mut batch = self.db.batch();
            for (seq, record) in messages {
                self.erase_record(&mut batch, *seq, record);
                // Another purge of the same state may have cleared it away.
                if self.db.get(Family::Messages, &keys::message(*seq))?.is_some() {
                    state.users.goes(&self.db, *seq, record)?;
                }
                // The queue may be gone, so it is not asked whether it kept names.
                leave_name(&self.db, &mut batch, *seq, record)?;
                for (at, kind) in deadlines(record) {
                    batch.delete(Family::Deadlines, &keys::deadline(at, kind, *seq));
                }
            }
            state.commit(&self.db, batch, 0)?; // no queue is changed
        }
        for (_, record) in messages {
            if let BodyPlace::File(id) = record.body {
                self.discard_body(id);
            }
        }
        Ok(messages.len() as u64)
    }

    /// Nothing is left of these purges, of which `count` messages were cleared away.
    fn cleared(&self, purges: &[(u64, MessageState)], count: u64) -> Result<()> {
        {
            let mut state = self.lock();
            let mut batch = self.db.batch();
            for (queue, purged) in purges {
                if state.cleared(*queue, *purged) {
                    batch.delete(Family::Meta, &keys::purge(*queue, *purged));
                }
            }
            self.db.write(batch)?;
        }
        if count > MANY { self.db.flush() } else { Ok(()) }
    }
}

impl Remains<'_> {
    /// Clears the next few messages away; false when none are left.
    pub fn clear_some(&mut self) -> Result<bool> {
        let Some((state, walk)) = self.walks.last_mut() else { return Ok(false) };
        let mut seqs = Vec::with_capacity(STEP);
        let whole = walk.step(STEP, |key| seqs.extend(keys::indexed_position(key).map(keys::seq_of)))?;
        let mut purged = Vec::with_capacity(seqs.len());
        for seq in seqs {
            match self.store.record(seq) {
                Ok(record) => {
                    let same = record.queue == self.queue && record.state() == *state && record.placed <= self.until;
                    purged.extend(same.then_some((seq, record)));
                }
                Err(Error::NotFound) => {}
                Err(error) => tracing::warn!(name = self.store.name_of(seq), %error, "a purged message is left alone"),
            }
        }
        self.cleared += self.store.clear(&purged)?;
        if !whole {
            self.walks.pop();
        }
        Ok(true)
    }

    /// All is cleared away.
    pub fn finish(self) -> Result<()> {
        let purges: Vec<_> = self.states.iter().map(|state| (self.queue, *state)).collect();
        self.store.cleared(&purges, self.cleared)
    }
}
