//! From a producer's bytes to a message.
//!
//! A message is committed hidden when a close has promised it, and revealed when its last writer has closed: the change on disk is
//! made once, at the commit, so after a crash in between the message is delivered. A commit that later bytes have made
//! untrue is retracted.

use crate::error::{Error, Result};
use crate::queue::state::State;

use super::Store;
use super::db::{Batch, Family};
use super::keys;
use super::record::{BodyPlace, MessageRecord, NewMessage};
use super::state::State as Remembered;

/// The body of a new message.
#[derive(Clone, Copy, Debug)]
pub enum NewBody<'a> {
    /// At most [`INLINE_MAX`](super::INLINE_MAX) bytes.
    Inline(&'a [u8]),
    /// The body file of this number, with so many bytes.
    File {
        /// Its number.
        id: u64,
        /// Its length in bytes.
        size: u64,
        /// The file has been synced. When it has not, the message may be lost in a power cut, and
        /// [`Store::body_synced`] is to be called once the file is synced.
        synced: bool,
    },
}

impl NewBody<'_> {
    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            NewBody::Inline(bytes) => bytes.len() as u64,
            NewBody::File { size, .. } => *size,
        }
    }
}

impl Store {
    /// Enqueues a message and gives its sequence number. `hidden`: nobody but the caller sees it before [`Store::reveal`].
    pub fn enqueue(&self, new: NewMessage, body: NewBody<'_>, hidden: bool, now: u64) -> Result<u64> {
        let mut state = self.lock();
        let mut batch = self.db.batch();
        let queue = new.queue;
        let seq = self.add(&mut state, &mut batch, new, body, now)?;
        state.commit(&self.db, batch, now)?;
        if hidden {
            state.queue(&self.db, queue)?.hidden.insert(seq, body.size());
        }
        Ok(seq)
    }

    /// Adds a new message to a change.
    pub(super) fn add(
        &self,
        state: &mut Remembered,
        batch: &mut Batch<'_>,
        new: NewMessage,
        body: NewBody<'_>,
        now: u64,
    ) -> Result<u64> {
        let queue = new.queue;
        state.queue(&self.db, queue)?; // the queue may be gone
        let seq = state.take_seq(&self.db)?;
        let mut record = MessageRecord::new(new, now);
        match body {
            NewBody::Inline(b"") => {}
            NewBody::Inline(bytes) => {
                record.size = bytes.len() as u64;
                record.body = BodyPlace::Inline(seq);
                record.crc = crc32fast::hash(bytes);
                batch.put(Family::Bodies, &keys::body(seq), bytes);
            }
            NewBody::File { id, size, synced } => {
                record.size = size;
                if !synced {
                    batch.put(Family::Meta, &keys::unsynced_body(id), b"");
                }
                record.body = BodyPlace::File(id);
                batch.put(Family::Meta, &keys::body_file(id), &seq.to_be_bytes());
            }
        }
        state.place(&self.db, batch, seq, &record)?;
        state.changing(&self.db, queue)?.counters.enqueued_total += 1;
        Ok(seq)
    }

    /// The file of a body that was enqueued unsynced has been synced.
    pub fn body_synced(&self, id: u64) -> Result<()> {
        let _state = self.lock();
        let mut batch = self.db.batch();
        batch.delete(Family::Meta, &keys::unsynced_body(id));
        self.db.write(batch)
    }

    /// After a crash: drops the messages whose body files were not synced and are not whole, because a power cut took their
    /// bytes and left their records. Whole or not at all: nobody was promised them.
    pub(super) fn drop_cut_bodies(&self) -> Result<()> {
        let mut unsynced = Vec::new();
        self.db.scan(Family::Meta, keys::UNSYNCED_BODIES, keys::UNSYNCED_BODIES, |key, _| {
            unsynced.extend(keys::last_number(key));
            Ok(true)
        })?;
        for id in unsynced {
            let owner = self.db.get(Family::Meta, &keys::body_file(id))?.and_then(|seq| keys::last_number(&seq));
            if let Some(seq) = owner {
                let record = self.record(seq)?;
                let whole = match self.bodies.open_read(id) {
                    Ok(file) if file.metadata()?.len() == record.size => self.bodies.sync(id, &file).is_ok(),
                    _ => false,
                };
                if !whole {
                    let name = String::from_utf8_lossy(&record.name).into_owned();
                    tracing::warn!(seq, name, "dropped a message that was not durable: a crash took part of its body");
                    self.ack(record.queue, seq, &State::ALL, crate::clock::now_ms())?;
                }
            }
            self.body_synced(id)?;
        }
        Ok(())
    }

    /// Shows a hidden message.
    pub fn reveal(&self, queue: u64, seq: u64) -> Result<()> {
        self.lock().queue(&self.db, queue)?.hidden.remove(&seq);
        Ok(())
    }

    /// Takes a hidden message back, as if it had not been enqueued. A body file stays the caller's.
    pub fn retract(&self, queue: u64, seq: u64, now: u64) -> Result<()> {
        let mut state = self.lock();
        if !state.is_hidden(queue, seq) {
            return Err(Error::NotFound);
        }
        let record = self.record(seq)?;
        let mut batch = self.db.batch();
        state.displace(&self.db, &mut batch, seq, &record)?;
        batch.delete(Family::Messages, &keys::message(seq));
        match record.body {
            BodyPlace::Inline(id) => batch.delete_once_set(Family::Bodies, &keys::body(id)),
            BodyPlace::File(id) => batch.delete(Family::Meta, &keys::body_file(id)),
            BodyPlace::Empty => {}
        }
        let counters = &mut state.changing(&self.db, queue)?.counters;
        counters.enqueued_total = counters.enqueued_total.saturating_sub(1);
        state.commit(&self.db, batch, now)?;
        state.queue(&self.db, queue)?.hidden.remove(&seq);
        Ok(())
    }

    /// Gives a hidden message a new sequence number, the newest, because its last close came later than its commit.
    pub fn resequence(&self, queue: u64, seq: u64, now: u64) -> Result<u64> {
        let mut state = self.lock();
        if !state.is_hidden(queue, seq) {
            return Err(Error::NotFound);
        }
        let record = self.record(seq)?;
        let mut batch = self.db.batch();
        let new = self.renumber(&mut state, &mut batch, seq, &record, record.clone())?;
        state.commit(&self.db, batch, now)?;
        let hidden = &mut state.queue(&self.db, queue)?.hidden;
        hidden.remove(&seq);
        hidden.insert(new, record.size);
        Ok(new)
    }

    /// Adds to a change: the message `seq` becomes `to`, under a new sequence number.
    pub(super) fn renumber(
        &self,
        state: &mut Remembered,
        batch: &mut Batch<'_>,
        seq: u64,
        from: &MessageRecord,
        to: MessageRecord,
    ) -> Result<u64> {
        let new = state.take_seq(&self.db)?;
        state.displace(&self.db, batch, seq, from)?;
        batch.delete(Family::Messages, &keys::message(seq));
        state.place(&self.db, batch, new, &to)?;
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
