//! From a producer's bytes to a message.
//!
//! A message is committed hidden when a close has promised it, and revealed when its last writer has closed: the change on disk is
//! made once, at the commit, so after a crash in between the message is delivered. A commit that later bytes have made
//! untrue is retracted.

use crate::error::{Error, Result};
use crate::queue::config::QueueConfig;
use crate::queue::properties::Properties;
use crate::queue::state::State;

use super::db::{Batch, Family};
use super::duplicates::Checked;
use super::hidden::Hidden;
use super::keys;
use super::limits::{Need, Room};
use super::record::{BodyPlace, MessageRecord, NewMessage};
use super::state::State as Remembered;
use super::sums::Sums;
use super::{Enqueued, Onto, ROOT, Store, bodies, stored_sums};

/// The body of a new message.
#[derive(Clone, Copy, Debug)]
pub enum NewBody<'a> {
    /// At most [`INLINE_MAX`](super::INLINE_MAX) bytes.
    Inline(&'a [u8]),
    /// The bytes of the small draft that is published, which stay where they are.
    Draft {
        /// Its number.
        id: u64,
        /// As its record has it.
        size: u32,
        /// As its record has it.
        crc: u32,
    },
    /// The body file of this number, with so many bytes.
    File {
        /// Its number.
        id: u64,
        /// Its length in bytes.
        size: u64,
        /// The file has been synced. When it has not, the message may be lost in a power cut, and
        /// [`Store::body_synced`] is to be called once the file is synced.
        synced: bool,
        /// The checksums of its bytes.
        sums: &'a Sums,
    },
}

/// A message that was added to a change.
pub(super) struct Added {
    /// Its sequence number.
    pub seq: u64,
    /// Its record.
    pub record: MessageRecord,
    /// Until when its deduplication id is remembered, if it has one.
    pub unique_until: Option<u64>,
}

impl NewBody<'_> {
    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            NewBody::Inline(bytes) => bytes.len() as u64,
            NewBody::Draft { size, .. } => u64::from(*size),
            NewBody::File { size, .. } => *size,
        }
    }
}

impl Store {
    /// Enqueues a message. `hidden`: it has been admitted ([`Store::reserve`]), nobody but the caller sees it before
    /// [`Store::reveal`], and it is the caller who counts a duplicate ([`Store::count_duplicate`]), because the same message
    /// may be committed several times. Otherwise [`Error::QueueFull`], [`Error::Paused`] and [`Error::MessageTooLarge`] when the
    /// queue does not take it.
    pub fn enqueue(&self, new: NewMessage, body: NewBody<'_>, hidden: bool, now: u64) -> Result<Enqueued> {
        let mut state = self.lock();
        let mut batch = self.db.batch();
        let (queue, id) = (new.queue, new.id);
        let need = Need::of_one(body.size(), self.order_in(&mut state, queue, &new.attributes)?);
        if !hidden {
            self.admit(&mut state, queue, need, Onto::Nothing)?;
        }
        let plan = self.plan_drops(&mut state, queue, need, Onto::Nothing)?;
        let Some(added) = self.add(&mut state, &mut batch, new, body, now)? else {
            drop(state);
            if !hidden {
                self.count_duplicate(queue, now)?;
            }
            return Ok(Enqueued::Duplicate);
        };
        let dropped = self.drop_oldest(&mut state, &mut batch, queue, plan, now)?;
        state.commit(&self.db, batch, now)?;
        state.give_back_room(queue, id);
        if hidden {
            let remembered = state.queue(&self.db, queue)?;
            remembered.hidden.insert(added.seq, Hidden::of(&added.record, added.unique_until));
            if let Some(unfinished) = &mut state.unfinished {
                unfinished.insert(id);
            }
        }
        drop(state);
        self.discard_bodies(dropped);
        self.note_added(&added);
        Ok(Enqueued::As(added.seq))
    }

    /// Adds a new message to a change; `None`, and nothing added, when it is a duplicate.
    pub(super) fn add(
        &self,
        state: &mut Remembered,
        batch: &mut Batch<'_>,
        new: NewMessage,
        body: NewBody<'_>,
        now: u64,
    ) -> Result<Option<Added>> {
        let modified_ns = new.modified_ns;
        self.add_record(state, batch, (MessageRecord::new(new, now), modified_ns), body, now)
    }

    /// As [`Store::add`], of a new message's record and the time of modification that its producer set.
    pub(super) fn add_record(
        &self,
        state: &mut Remembered,
        batch: &mut Batch<'_>,
        (mut record, modified_ns): (MessageRecord, Option<i64>),
        body: NewBody<'_>,
        now: u64,
    ) -> Result<Option<Added>> {
        let queue = record.queue;
        let config = state.queue(&self.db, queue)?.config.clone(); // the queue may be gone
        let Checked::New(unique_until) = self.check_id(state, batch, &record, &config, now)? else {
            return Ok(None);
        };
        let seq = state.take_seq(&self.db)?;
        record.name = self.name_new(state, seq, &record)?;
        record.modified_ns = modified_ns.unwrap_or_else(|| state.stamp(now));
        apply_properties(&mut record, &config, now);
        put_body(batch, seq, &mut record, body);
        state.place(&self.db, batch, seq, &mut record)?;
        state.changing(&self.db, queue)?.counters.enqueued_total += 1;
        Ok(Some(Added { seq, record, unique_until }))
    }

    /// Tells the thread that sleeps until the next deadline of those of a message that was added.
    pub(super) fn note_added(&self, added: &Added) {
        self.note_deadlines(&added.record);
        if let Some(until) = added.unique_until {
            self.deadlines.note(until);
        }
    }

    /// The file of a body that was enqueued unsynced has been synced.
    pub fn body_synced(&self, id: u64) -> Result<()> {
        let _state = self.lock();
        let mut batch = self.db.batch();
        batch.delete(Family::Meta, &keys::unsynced_body(id));
        self.db.write(batch)
    }

    /// Syncs the body files that were enqueued unsynced before this call, in a queue, or in all when that is [`ROOT`]. May wait
    /// for the disk.
    pub fn sync_bodies(&self, queue: u64) -> Result<()> {
        let mut unsynced = Vec::new();
        self.db.scan(Family::Meta, keys::UNSYNCED_BODIES, keys::UNSYNCED_BODIES, |key, _| {
            unsynced.extend(keys::last_number(key));
            Ok(true)
        })?;
        if queue != ROOT {
            let within = |id| -> Result<bool> {
                let owner = self.db.get(Family::Meta, &keys::body_file(id))?.and_then(|seq| keys::last_number(&seq));
                owner.map_or(Ok(false), |seq| Ok(self.record(seq)?.queue == queue))
            };
            // Of what is removed or damaged nothing is to be synced.
            unsynced.retain(|id| within(*id).unwrap_or(false));
        }
        self.bodies.sync_all(&unsynced)
    }

    /// After a crash: drops the messages whose body files were not synced and are not whole, because a power cut took their
    /// bytes and left their records. Whole or not at all: nobody was promised them.
    pub(super) fn drop_cut_bodies(&self) -> Result<()> {
        let mut unsynced = Vec::new();
        self.db.scan(Family::Meta, keys::UNSYNCED_BODIES, keys::UNSYNCED_BODIES, |key, crc| {
            let crc = crc.try_into().ok().map(u32::from_be_bytes);
            unsynced.extend(keys::last_number(key).map(|id| (id, crc)));
            Ok(true)
        })?;
        for (id, crc) in unsynced {
            let owner = self.db.get(Family::Meta, &keys::body_file(id))?.and_then(|seq| keys::last_number(&seq));
            if let Some(seq) = owner {
                let record = match self.record(seq) {
                    Err(error @ (Error::Damaged(_) | Error::NotFound)) => {
                        tracing::error!(name = self.name_of(seq), %error, "the record of a message that was not durable cannot be read");
                        continue;
                    }
                    record => record?,
                };
                let (queue, name) = (self.label(record.queue), self.name_of(seq));
                match self.is_whole(id, &record, crc) {
                    Ok(true) => {}
                    Ok(false) => {
                        tracing::warn!(
                            queue,
                            name,
                            "dropped a message that was not durable: a crash took part of its body"
                        );
                        match self.drop_cut(seq, &record) {
                            Ok(()) | Err(Error::NotFound) => {} // it was purged before the crash
                            Err(error) => return Err(error),
                        }
                    }
                    // Nobody knows what is in it: whoever reads it gets the error, and the next start looks again.
                    Err(error) => {
                        let file = self.bodies.path(id);
                        let file = file.display();
                        tracing::error!(queue, name, %file, %error, "the body of a message cannot be read or synced; kept");
                        continue;
                    }
                }
            }
            self.body_synced(id)?;
        }
        Ok(())
    }

    fn drop_cut(&self, seq: u64, record: &MessageRecord) -> Result<()> {
        // Its producer may send it again.
        let mut batch = self.db.batch();
        self.forget_id(&mut batch, record)?;
        self.db.write(batch)?;
        let mut state = self.lock();
        let record = self.visible(&mut state, seq)?;
        state.changing(&self.db, record.queue)?.counters.aborted_total += 1;
        self.remove(state, seq, &record, crate::clock::now_ms())
    }

    /// Whether a file that a crash may have cut has all its bytes: the right length, and the right checksums where they are known.
    /// A filesystem may give a file its length before its bytes, which then are zeros. An error when that cannot be told.
    fn is_whole(&self, id: u64, record: &MessageRecord, crc: Option<u32>) -> Result<bool> {
        let whole = self.body_file(id, record.size).and_then(|body| {
            body.check()?;
            match crc {
                Some(crc) if bodies::crc(body.file())? != crc => Err(Error::Damaged("checksum".into())),
                _ => self.bodies.sync(id, body.file()),
            }
        });
        match whole {
            Ok(()) => Ok(true),
            Err(Error::Damaged(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Shows a hidden message, unless it turns out to be a duplicate: then it is taken back, and counted. A body file then is
    /// the caller's again. A close has promised the message: it is shown even when the database takes no change any more.
    pub fn reveal(&self, queue: u64, seq: u64, now: u64) -> Result<Enqueued> {
        let mut state = self.lock();
        let Some(hidden) = state.queue(&self.db, queue)?.hidden.get(seq).copied() else {
            return Ok(Enqueued::As(seq));
        };
        if let Some(until) = hidden.unique_until {
            match self.reveal_id(&mut state, seq, until, now) {
                Ok(Enqueued::Duplicate) => return Ok(Enqueued::Duplicate),
                Ok(Enqueued::As(_)) => {}
                Err(error) => {
                    tracing::error!(queue = self.label(queue), name = self.name_of(seq), %error, "a message may be a duplicate, and is shown");
                    state.begin();
                }
            }
        }
        let remembered = state.queue(&self.db, queue)?;
        remembered.hidden.remove(seq);
        // Searches that went past it saw nothing there.
        remembered.became_ready(keys::position(hidden.order, seq));
        let dropped = self.drop_surplus(&mut state, queue, now).unwrap_or_else(|error| {
            tracing::error!(queue = self.label(queue), %error, "the oldest messages of a full queue are not dropped yet");
            Vec::new()
        });
        drop(state);
        self.discard_bodies(dropped);
        if let Some(deadline) = hidden.deadline {
            self.deadlines.note(deadline);
        }
        Ok(Enqueued::As(seq))
    }

    /// Before a hidden message is shown: its deduplication id is remembered for it, or it is taken back as a duplicate.
    fn reveal_id(&self, state: &mut Remembered, seq: u64, until: u64, now: u64) -> Result<Enqueued> {
        let record = self.record(seq)?;
        let mut batch = self.db.batch();
        if self.was_overtaken(state, &mut batch, &record, until, now)? {
            state.changing(&self.db, record.queue)?.counters.duplicates_total += 1;
            self.take_back(state, batch, seq, &record, now)?;
            return Ok(Enqueued::Duplicate);
        }
        state.commit(&self.db, batch, now)?;
        Ok(Enqueued::As(seq))
    }

    /// What was hidden when others were enqueued could not make room for them: now that it is shown, the oldest do. Gives the body
    /// files to be removed.
    fn drop_surplus(&self, state: &mut Remembered, queue: u64, now: u64) -> Result<Vec<u64>> {
        let plan = self.plan_drops(state, queue, Room::default(), Onto::Nothing)?;
        if plan.is_empty() {
            return Ok(Vec::new());
        }
        let mut batch = self.db.batch();
        let dropped = self.drop_oldest(state, &mut batch, queue, plan, now)?;
        state.commit(&self.db, batch, now)?;
        Ok(dropped)
    }

    /// Takes a hidden message back, as if it had not been enqueued; its room is kept for it. A body file stays the caller's.
    pub fn retract(&self, queue: u64, seq: u64, now: u64) -> Result<()> {
        let mut state = self.lock();
        if !state.is_hidden(queue, seq) {
            return Err(Error::NotFound);
        }
        let record = self.record(seq)?;
        let mut batch = self.db.batch();
        self.forget_id(&mut batch, &record)?;
        self.take_back(&mut state, batch, seq, &record, now)?;
        let queue = state.queue(&self.db, queue)?;
        if queue.config.is_limited() {
            queue.reserved.set(record.id, Room::of_one(record.size));
            queue.reserved.admitted_as(record.id, record.order);
        }
        Ok(())
    }

    /// Ends an operation that takes a hidden message back.
    pub(super) fn take_back(
        &self,
        state: &mut Remembered,
        mut batch: Batch<'_>,
        seq: u64,
        record: &MessageRecord,
        now: u64,
    ) -> Result<()> {
        self.erase(state, &mut batch, seq, record)?;
        let counters = &mut state.changing(&self.db, record.queue)?.counters;
        counters.enqueued_total = counters.enqueued_total.saturating_sub(1);
        state.commit(&self.db, batch, now)?;
        state.queue(&self.db, record.queue)?.hidden.remove(seq);
        Ok(())
    }

    /// Gives a hidden message a new sequence number, the newest, because its last close came later than its commit. `modified_ns`
    /// is the time of modification that its producer set, if any.
    pub fn resequence(&self, queue: u64, seq: u64, modified_ns: Option<i64>, now: u64) -> Result<u64> {
        let mut state = self.lock();
        let hidden = state.queue(&self.db, queue)?.hidden.get(seq).copied().ok_or(Error::NotFound)?;
        let record = self.record(seq)?;
        let mut last = record.clone();
        last.modified_ns = modified_ns.unwrap_or_else(|| state.stamp(now));
        last.since = now;
        let mut batch = self.db.batch();
        let new = self.renumber(&mut state, &mut batch, seq, &record, &mut last)?;
        state.commit(&self.db, batch, now)?;
        let all = &mut state.queue(&self.db, queue)?.hidden;
        all.remove(seq);
        all.insert(new, hidden);
        Ok(new)
    }

    /// Adds to a change: the message `seq` becomes `to`, under a new sequence number.
    pub(super) fn renumber(
        &self,
        state: &mut Remembered,
        batch: &mut Batch<'_>,
        seq: u64,
        from: &MessageRecord,
        to: &mut MessageRecord,
    ) -> Result<u64> {
        let new = state.take_seq(&self.db)?;
        state.displace(&self.db, batch, seq, from)?;
        batch.delete(Family::Messages, &keys::message(seq));
        state.place(&self.db, batch, new, to)?;
        if let BodyPlace::File(id) = to.body {
            batch.put(Family::Meta, &keys::body_file(id), &new.to_be_bytes());
        }
        Ok(new)
    }

    /// Counts a message that was dropped before it was enqueued.
    pub fn count_aborted(&self, queue: u64, now: u64) -> Result<()> {
        let mut state = self.lock();
        state.changing(&self.db, queue)?.counters.aborted_total += 1;
        let batch = self.db.batch();
        state.commit(&self.db, batch, now)
    }
}

/// Adds to a change: the message `seq`, of that record, has this body.
pub(super) fn put_body(batch: &mut Batch<'_>, seq: u64, record: &mut MessageRecord, body: NewBody<'_>) {
    match body {
        NewBody::Inline(b"") | NewBody::Draft { size: 0, .. } => {}
        NewBody::Draft { id, size, crc } => {
            (record.size, record.crc) = (size.into(), crc);
            record.body = BodyPlace::Draft(id);
        }
        NewBody::Inline(bytes) => {
            record.size = bytes.len() as u64;
            record.body = BodyPlace::Inline(seq);
            record.crc = crc32fast::hash(bytes);
            batch.put(Family::Bodies, &keys::body(seq), bytes);
        }
        NewBody::File { id, size, synced, sums } => {
            record.size = size;
            if !synced {
                batch.put(Family::Meta, &keys::unsynced_body(id), b"");
            }
            record.body = BodyPlace::File(id);
            batch.put(Family::Meta, &keys::body_file(id), &seq.to_be_bytes());
            stored_sums::put(batch, id, sums);
        }
    }
}

/// What the properties of a new message and its queue's configuration say about it: its place among the priorities, whether it
/// is delayed, its time to live, which begins when it is due.
fn apply_properties(record: &mut MessageRecord, config: &QueueConfig, now: u64) {
    let properties = Properties::of(&record.attributes);
    record.order = properties.order(config.priorities);
    if let Some(due) = properties.due(now) {
        record.set_state(State::Delayed);
        record.due = due;
    }
    record.expires = properties.expires(now.max(record.due), config.message_ttl);
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use super::super::OpenError;
    use super::super::tests::{checked, message, open, queue};
    use super::*;

    const SIZE: usize = 100_000;

    /// Enqueues a message of which the body is not known to be durable; gives its sequence number and its body's file.
    fn unsynced(store: &Store, q: u64, name: &str) -> (u64, PathBuf) {
        let new = message(store, q, name);
        let id = new.id;
        let mut file = store.bodies().create(id).unwrap();
        file.write_all(&[b'x'; SIZE]).unwrap();
        let sums = Sums::of_file(&file, SIZE as u64).unwrap();
        let body = NewBody::File { id, size: SIZE as u64, synced: false, sums: &sums };
        (store.enqueue(new, body, false, 1).unwrap().seq().unwrap(), store.bodies().path(id))
    }

    #[test]
    fn after_a_crash_what_is_cut_goes_what_cannot_be_read_stays_and_the_store_opens() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = queue(&store, "q");
        let [whole, cut, unreadable, garbled] =
            ["whole", "cut", "unreadable", "garbled"].map(|name| unsynced(&store, q, name));
        let mut batch = store.db.batch();
        batch.put(Family::Messages, &keys::message(garbled.0), b"?");
        store.db.write(batch).unwrap();
        drop(store);
        std::fs::File::options().write(true).open(cut.1).unwrap().set_len(SIZE as u64 / 2).unwrap();
        let (lines, _) = checked(dir.path(), false);
        let of_cut: Vec<&String> = lines.iter().filter(|line| line.contains("-cut: ")).collect();
        assert!(
            of_cut.len() == 1 && of_cut[0].starts_with("note: ") && of_cut[0].contains("next mount drops it"),
            "{lines:?}"
        );
        // A link to itself cannot be opened.
        let aside = dir.path().join("aside");
        std::fs::rename(&unreadable.1, &aside).unwrap();
        std::os::unix::fs::symlink(&unreadable.1, &unreadable.1).unwrap();
        let reopen = || loop {
            match Store::open(dir.path(), QueueConfig::default()) {
                // A program that another test starts holds a copy of the lock between fork and exec.
                Err(OpenError::InUse) => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        let store = reopen();
        let counters = store.queue(q).unwrap().counters;
        assert_eq!((counters.ready, counters.aborted_total, counters.acked_total), (3, 1, 0));
        let readable = |store: &Store, seq| store.body(&store.message(seq).unwrap()).is_ok();
        assert!(readable(&store, whole.0) && !readable(&store, unreadable.0));
        let left = |store: &Store| {
            let mut left = 0;
            let count = |_: &[u8], _: &[u8]| {
                left += 1;
                Ok(true)
            };
            store.db.scan(Family::Meta, keys::UNSYNCED_BODIES, keys::UNSYNCED_BODIES, count).unwrap();
            left
        };
        assert_eq!(left(&store), 2, "they are looked at again");
        drop(store);
        std::fs::rename(&aside, &unreadable.1).unwrap();
        let store = reopen();
        assert!(readable(&store, unreadable.0));
        assert_eq!(left(&store), 1);
    }
}
