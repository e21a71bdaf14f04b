//! Deduplication: of messages with the same deduplication id that come within `dedup_window`, the first is enqueued.
//!
//! The id of a message is remembered from its commit on, with the message's own `id`, which stays with it through every move.
//! Only a message that users have been able to see makes another one a duplicate: one that is still hidden may yet be taken
//! back. Of several with one id that are hidden at the same time, the first to be revealed is the one; the others turn out
//! to be duplicates when their turn comes.

use crate::error::{Error, Result};
use crate::queue::config::QueueConfig;
use crate::queue::properties::{Properties, ms};

use super::db::{Batch, Family};
use super::keys::{self, DeadlineKind};
use super::record::MessageRecord;
use super::state::State;
use super::{Due, Store};

/// So many remembered ids are looked at in one step.
const AT_ONCE: usize = 256;

/// What became of a message that was to be enqueued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Enqueued {
    /// It is in the queue, under this sequence number.
    As(u64),
    /// It is not, because its deduplication id is remembered. Its producer has succeeded all the same.
    Duplicate,
}

impl Enqueued {
    /// The sequence number of a message that is in its queue.
    pub fn seq(self) -> Option<u64> {
        match self {
            Enqueued::As(seq) => Some(seq),
            Enqueued::Duplicate => None,
        }
    }
}

/// What a look at a message's deduplication id has found.
pub(super) enum Checked {
    /// It is a duplicate.
    Duplicate,
    /// It is none; until when its id is remembered, if it has one.
    New(Option<u64>),
}

/// Until when and for which message an id is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remembered {
    /// In milliseconds since the epoch.
    pub until: u64,
    /// The message's own number.
    pub id: u64,
    /// From when on that was reckoned, in the same way; 0: nobody knows.
    pub since: u64,
}

impl Remembered {
    /// As it is stored. An earlier version has not stored `since`.
    pub fn read(value: &[u8]) -> Option<Self> {
        let (until, rest) = value.split_first_chunk::<8>()?;
        let (id, since) = rest.split_first_chunk::<8>()?;
        let since = if since.is_empty() { 0 } else { u64::from_be_bytes(since.try_into().ok()?) };
        Some(Self { until: u64::from_be_bytes(*until), id: u64::from_be_bytes(*id), since })
    }

    fn is(&self, until: u64, id: u64) -> bool {
        (self.until, self.id) == (until, id)
    }

    /// Adds to a change: the id of that key is remembered so.
    pub fn put(&self, batch: &mut Batch<'_>, key: &[u8]) {
        let value = [self.until, self.id, self.since].map(u64::to_be_bytes).concat();
        batch.put(Family::Meta, key, &value);
        batch.put(Family::Deadlines, &keys::deadline(self.until, DeadlineKind::Duplicate, self.id), key);
    }
}

/// The key that remembers the id of a message, if it has one.
fn key_of(record: &MessageRecord) -> Option<Vec<u8>> {
    Properties::of(&record.attributes).dedup_id.map(|id| keys::duplicate(record.queue, &id))
}

impl Store {
    fn remembered(&self, key: &[u8], now: u64) -> Result<Option<Remembered>> {
        let value = self.db.get(Family::Meta, key)?;
        Ok(value.and_then(|value| Remembered::read(&value)).filter(|remembered| remembered.until > now))
    }

    /// Tells whether a new message is a duplicate. If not, adds to the change that its id is remembered.
    pub(super) fn check_id(
        &self,
        state: &mut State,
        batch: &mut Batch<'_>,
        record: &MessageRecord,
        config: &QueueConfig,
        now: u64,
    ) -> Result<Checked> {
        let window = ms(config.dedup_window);
        let Some(key) = (window > 0).then(|| key_of(record)).flatten() else { return Ok(Checked::New(None)) };
        let known = self.remembered(&key, now)?;
        if known.is_some_and(|known| !state.is_hidden_id(record.queue, known.id)) || !state.adds_id(&key) {
            tracing::debug!(queue = self.label(record.queue), name = %String::from_utf8_lossy(&record.name), "duplicate: not enqueued");
            return Ok(Checked::Duplicate);
        }
        let until = now.saturating_add(window);
        Remembered { until, id: record.id, since: now }.put(batch, &key);
        Ok(Checked::New(Some(until)))
    }

    /// Tells whether a hidden message that is about to be revealed has become a duplicate meanwhile. If not, adds to the
    /// change that its id is remembered for it, and not for another one that is still hidden.
    pub(super) fn was_overtaken(
        &self,
        state: &mut State,
        batch: &mut Batch<'_>,
        record: &MessageRecord,
        until: u64,
        now: u64,
    ) -> Result<bool> {
        let Some(key) = key_of(record) else { return Ok(false) };
        match self.remembered(&key, now)? {
            Some(known) if known.id == record.id => return Ok(false),
            Some(known) if !state.is_hidden_id(record.queue, known.id) => return Ok(true),
            _ => {}
        }
        if until > now {
            Remembered { until, id: record.id, since: record.enqueued_at }.put(batch, &key);
        }
        Ok(false)
    }

    /// Adds to a change: the id of a message that is taken back is forgotten.
    pub(super) fn forget_id(&self, batch: &mut Batch<'_>, record: &MessageRecord) -> Result<()> {
        let Some(key) = key_of(record) else { return Ok(()) };
        if let Some(known) = self.remembered(&key, 0)?.filter(|known| known.id == record.id) {
            batch.delete(Family::Meta, &key);
            batch.delete(Family::Deadlines, &keys::deadline(known.until, DeadlineKind::Duplicate, known.id));
        }
        Ok(())
    }

    /// Has ids that were remembered from an instant after now, because the clock was set back since, remembered from now on, as long as
    /// they were to be then; and those of which that instant is not known, no longer than one that comes now. Gives how many.
    pub(super) fn shorten_memory(&self, now: &impl Fn() -> u64) -> Result<usize> {
        let mut from = keys::deadline(now().saturating_add(1), DeadlineKind::Lease, 0).to_vec();
        let mut shortened = 0;
        loop {
            let mut found = Vec::new();
            self.db.scan(Family::Deadlines, b"", &from, |deadline, key| {
                if let Some((until, DeadlineKind::Duplicate, id)) = keys::parse_deadline(deadline) {
                    found.push((until, id, key.to_vec()));
                }
                Ok(found.len() < AT_ONCE)
            })?;
            for (until, id, key) in &found {
                shortened += usize::from(self.shorten_one((*until, *id), key, now)?);
            }
            let Some((until, id, _)) = found.last().filter(|_| found.len() == AT_ONCE) else { return Ok(shortened) };
            from = [&keys::deadline(*until, DeadlineKind::Duplicate, *id)[..], &[0]].concat();
        }
    }

    fn shorten_one(&self, (until, id): (u64, u64), key: &[u8], now: &impl Fn() -> u64) -> Result<bool> {
        let Some((queue, _)) = keys::parse_duplicate(key) else { return Ok(false) };
        let mut state = self.lock();
        let config = match self.config_of(&mut state, queue) {
            Err(Error::NotFound) => return Ok(false), // the queue was removed
            config => config?,
        };
        let known = self.db.get(Family::Meta, key)?.and_then(|value| Remembered::read(&value));
        let Some(known) = known.filter(|known| known.is(until, id)) else { return Ok(false) };
        let now = now();
        let (since, latest) = match known.since {
            0 => (0, now.saturating_add(ms(config.dedup_window))),
            since => (now.min(since), now.saturating_add(until.saturating_sub(since))),
        };
        if until <= latest || known.since > 0 && known.since <= now {
            return Ok(false);
        }
        let mut batch = self.db.batch();
        batch.delete(Family::Deadlines, &keys::deadline(until, DeadlineKind::Duplicate, id));
        Remembered { until: latest, id, since }.put(&mut batch, key);
        self.db.write(batch)?;
        drop(state);
        self.deadlines.note(latest);
        Ok(true)
    }

    /// Counts a message that was not enqueued because it is a duplicate.
    pub fn count_duplicate(&self, queue: u64, now: u64) -> Result<()> {
        let mut state = self.lock();
        state.changing(&self.db, queue)?.counters.duplicates_total += 1;
        let batch = self.db.batch();
        state.commit(&self.db, batch, now)
    }

    /// Forgets a deduplication id whose window is over.
    pub fn forget_duplicate(&self, due: &Due) -> Result<()> {
        let _state = self.lock();
        let key = keys::deadline(due.at, due.kind, due.id);
        let Some(remembered) = self.db.get(Family::Deadlines, &key)? else { return Ok(()) };
        let mut batch = self.db.batch();
        // A later message may have had the same id.
        let same = self.db.get(Family::Meta, &remembered)?.and_then(|value| Remembered::read(&value));
        let same = same.is_some_and(|known| known.is(due.at, due.id));
        if same {
            batch.delete(Family::Meta, &remembered);
        }
        batch.delete(Family::Deadlines, &key);
        self.db.write(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::state::State as MessageState;
    use crate::store::tests::{message, open, queue};
    use crate::store::{DeadlineKind, NewBody, Of, Taker};

    const WINDOW: u64 = 60_000;

    fn with_window(store: &Store, name: &str) -> u64 {
        let queue = queue(store, name);
        store
            .alter_queue(queue, |record| {
                record.config.push_str("dedup_window = 60s\n");
                Ok(())
            })
            .unwrap();
        queue
    }

    fn enqueue(store: &Store, queue: u64, id: &str, hidden: bool, now: u64) -> Enqueued {
        let mut new = message(store, queue, "m");
        new.attributes.push(("user.mq.dedup_id".into(), id.into()));
        store.enqueue(new, NewBody::Inline(b"x"), hidden, now).unwrap()
    }

    fn counts(store: &Store, queue: u64) -> (u64, u64, u64) {
        let counters = store.queue(queue).unwrap().counters;
        (counters.ready, counters.enqueued_total, counters.duplicates_total)
    }

    #[test]
    fn an_id_is_remembered_for_the_window_whatever_becomes_of_its_message_and_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let (q, other) = (with_window(&store, "q"), with_window(&store, "other"));
        let first = enqueue(&store, q, "a", false, 1000).seq().unwrap();
        assert_eq!(enqueue(&store, q, "a", false, 1001), Enqueued::Duplicate);
        assert!(enqueue(&store, q, "b", false, 1001).seq().is_some());
        assert!(enqueue(&store, other, "a", false, 1001).seq().is_some(), "ids are the queue's own");
        store.claim(q, first, Taker { worker: None, uid: 0 }, 1002).unwrap();
        store.ack(q, first, (&[MessageState::Claimed], Of::Any), 1003).unwrap();
        store.close().unwrap();
        drop(store);
        store = open(dir.path());
        assert_eq!(enqueue(&store, q, "a", false, 1000 + WINDOW - 1), Enqueued::Duplicate);
        assert_eq!(counts(&store, q), (1, 2, 2));
        assert!(enqueue(&store, q, "a", false, 1000 + WINDOW).seq().is_some(), "over, though not yet forgotten");
        // The old deadline does not forget the new message's id.
        for due in store.due(1001 + WINDOW, None, 100).unwrap() {
            assert_eq!(due.kind, DeadlineKind::Duplicate);
            store.forget_duplicate(&due).unwrap();
        }
        assert_eq!(enqueue(&store, q, "a", false, 1000 + WINDOW + 1), Enqueued::Duplicate);
        assert_eq!(store.due(1001 + WINDOW, None, 100).unwrap(), []);
    }

    #[test]
    fn of_those_that_are_hidden_at_a_time_the_first_revealed_is_the_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = with_window(&store, "q");
        let [a, b, c] = [1, 2, 3].map(|now| enqueue(&store, q, "a", true, now).seq().unwrap());
        let b = store.resequence(q, b, None, 4).unwrap();
        assert_eq!(store.reveal(q, b, 5).unwrap(), Enqueued::As(b));
        assert_eq!(store.reveal(q, c, 6).unwrap(), Enqueued::Duplicate);
        assert_eq!(enqueue(&store, q, "a", true, 7), Enqueued::Duplicate);
        assert_eq!(store.reveal(q, a, 8).unwrap(), Enqueued::Duplicate);
        assert_eq!(counts(&store, q), (1, 1, 2));
    }

    #[test]
    fn a_message_that_is_taken_back_leaves_its_id_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = with_window(&store, "q");
        let first = enqueue(&store, q, "a", true, 1).seq().unwrap();
        store.retract(q, first, 2).unwrap();
        let [second, third] = [3, 4].map(|now| enqueue(&store, q, "a", true, now).seq().unwrap());
        store.retract(q, third, 5).unwrap();
        assert_eq!(store.reveal(q, second, 6).unwrap(), Enqueued::As(second));
        assert_eq!(enqueue(&store, q, "a", false, 7), Enqueued::Duplicate);
        assert_eq!(counts(&store, q), (1, 1, 1));
    }

    #[test]
    fn every_id_is_forgotten_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = with_window(&store, "q");
        assert_eq!(store.due(1, None, 100).unwrap(), []);
        for n in 0..20 {
            let seq = enqueue(&store, q, &format!("{n}"), n % 2 == 0, 10 + n).seq().unwrap();
            match n % 4 {
                0 => store.retract(q, seq, 100).unwrap(),
                2 => assert_eq!(store.reveal(q, seq, 100).unwrap(), Enqueued::As(seq)),
                _ => {}
            }
        }
        let due = store.due(WINDOW + 100, None, 100).unwrap();
        assert_eq!(due.len(), 15);
        due.iter().for_each(|due| store.forget_duplicate(due).unwrap());
        let mut left = 0;
        for (family, prefix) in [(Family::Meta, &b"h"[..]), (Family::Deadlines, b"")] {
            let count = |_: &[u8], _: &[u8]| {
                left += 1;
                Ok(true)
            };
            store.db.scan(family, prefix, prefix, count).unwrap();
        }
        assert_eq!(left, 0);
    }
}
