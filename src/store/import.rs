//! Putting messages and queues into a store as they were in another one: what `mqfs import` does.
//!
//! What is put here is not enqueued: its state and its counts are given, and no limit and no pause refuses it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::config::{Names, QueueConfig};
use crate::queue::properties::Properties;

use super::bodies::{INLINE_MAX, place};
use super::db::Family;
use super::duplicates::Remembered;
use super::enqueue::{NewBody, put_body};
use super::image::RememberedId;
use super::keys;
use super::record::{MessageRecord, QueueRecord};
use super::sums::{Summing, Sums};
use super::{ROOT, Store};

/// Where a body is while it comes in, in the store. What a crash leaves there is removed when the store is opened.
pub(super) const INCOMING: &str = "bodies/incoming";

/// The last number that is taken from elsewhere: behind it there are enough for what comes, at a million a second for 30 years.
const LAST_GIVEN: u64 = keys::LAST_NUMBER - 1_000_000_000_000_000;

fn check_number(number: u64) -> Result<()> {
    match number {
        1..=LAST_GIVEN => Ok(()),
        _ => Err(Error::Invalid(format!("{number} is no number of a store"))),
    }
}

/// A body on its way in: in memory while it is small, in a file that is removed unless it becomes a message's.
pub struct Incoming<'a> {
    store: &'a Store,
    memory: Vec<u8>,
    file: Option<File>,
    size: u64,
    summing: Summing,
}

impl Incoming<'_> {
    /// Its length so far, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds bytes; [`Error::NoSpace`] when they would leave the store too little room.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.store.admit_bytes(bytes.len() as u64)?;
        if self.file.is_none() && self.memory.len() + bytes.len() > INLINE_MAX {
            let mut file = self.store.dir.create(INCOMING)?;
            file.write_all(&self.memory)?;
            self.summing.written(&file, 0, &self.memory)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => {
                file.write_all(bytes)?;
                self.summing.written(file, self.size, bytes)?;
            }
            None => self.memory.extend_from_slice(bytes),
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Makes its file, if there is one, the body file `id`; gives the checksums of that.
    fn place(&mut self, id: u64) -> Result<Option<Sums>> {
        let Some(file) = &self.file else { return Ok(None) };
        let sums = self.summing.sums(file)?;
        if self.store.bodies.metadata(id).is_ok() {
            return Err(Error::Exists);
        }
        self.store.dir.rename(INCOMING, place(id))?;
        self.file = None;
        Ok(Some(sums))
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        if self.file.is_some() {
            super::bodies::remove(&self.store.dir, Path::new(INCOMING));
        }
    }
}

impl Store {
    /// Whether there is no queue in it.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.queue(ROOT)?.counters.queues == 0)
    }

    /// Makes a queue as it was; gives its number: `id` if that is given, [`Error::Exists`] when another has it.
    /// [`Error::NameTooLong`] when its path would be too long.
    pub fn import_queue(&self, id: Option<u64>, record: QueueRecord) -> Result<u64> {
        QueueConfig::default().apply(&record.config)?;
        self.refuse_too_deep(record.parent, &record.name)?;
        let now = clock::now_ms();
        let mut state = self.lock();
        if self.name_taken(&mut state, record.parent, &record.name)? {
            return Err(Error::Exists);
        }
        let id = match id {
            Some(id) => {
                check_number(id)?;
                if self.db.get(Family::Meta, &keys::queue(id))?.is_some() {
                    return Err(Error::Exists);
                }
                state.keep_numbers(&self.db, 0, id)?;
                id
            }
            None => state.take_id(&self.db)?,
        };
        self.add_queue(&mut state, id, record, now)?;
        Ok(id)
    }

    /// Takes a body in.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming { store: self, memory: Vec::new(), file: None, size: 0, summing: Summing::default() }
    }

    /// Puts a message into its queue as its record says, under the sequence number `seq` if that is given; [`Error::Exists`] when
    /// another message has that, or the name where names are kept. Whole or not at all; durable after
    /// [`Store::finish_import`].
    pub fn import_message(&self, seq: Option<u64>, mut record: MessageRecord, mut body: Incoming<'_>) -> Result<u64> {
        self.admit_bytes(0)?;
        check_number(record.id)?;
        let sums = body.place(record.id)?;
        let new = match &sums {
            Some(sums) => NewBody::File { id: record.id, size: body.size, synced: false, sums },
            None => NewBody::Inline(&body.memory),
        };
        let (id, has_file) = (record.id, sums.is_some());
        let put = self.put_message(seq, &mut record, new);
        if put.is_err() && has_file {
            self.bodies.remove(id);
        }
        put
    }

    fn put_message(&self, seq: Option<u64>, record: &mut MessageRecord, body: NewBody<'_>) -> Result<u64> {
        let mut state = self.lock();
        let queue = record.queue;
        let config = state.queue(&self.db, queue)?.config.clone();
        let seq = match seq {
            Some(seq) => {
                check_number(seq)?;
                if self.db.get(Family::Messages, &keys::message(seq))?.is_some() {
                    return Err(Error::Exists);
                }
                state.keep_numbers(&self.db, seq, record.id)?;
                seq
            }
            None => state.take_seq(&self.db)?,
        };
        record.name = self.fitting(&mut state, queue, seq, &record.name)?;
        if config.names == Names::Keep && record.name.starts_with(b".") {
            return Err(Error::Invalid("a message's name does not begin with a dot".into()));
        }
        self.refuse_kept(&mut state, queue, &record.name)?;
        record.order = Properties::of(&record.attributes).order(config.priorities);
        let mut batch = self.db.batch();
        put_body(&mut batch, seq, record, body);
        state.place(&self.db, &mut batch, seq, record)?;
        state.changing(&self.db, queue)?.counters.enqueued_total += 1;
        state.commit(&self.db, batch, clock::now_ms())?;
        Ok(seq)
    }

    /// Remembers a deduplication id.
    pub fn import_id(&self, remembered: &RememberedId) -> Result<()> {
        let RememberedId { queue, id, until, message } = remembered;
        check_number(*message)?;
        let mut state = self.lock();
        state.keep_numbers(&self.db, 0, *message)?;
        let key = keys::duplicate(*queue, id);
        let mut batch = self.db.batch();
        Remembered { until: *until, id: *message, since: 0 }.put(&mut batch, &key);
        self.db.write(batch)
    }

    /// Makes everything that was imported durable.
    pub fn finish_import(&self) -> Result<()> {
        rustix::fs::syncfs(&self.dir).map_err(io::Error::from)?;
        let _state = self.lock();
        let mut batch = self.db.batch();
        batch.delete_prefix(Family::Meta, keys::UNSYNCED_BODIES);
        self.db.write(batch)?;
        self.db.sync()
    }
}

/// The text of a queue's configuration, from keys and values.
pub fn config_text<'a>(keys: impl Iterator<Item = (&'a str, &'a str)>) -> Result<String> {
    let mut config = QueueConfig::default();
    for (key, value) in keys {
        config.set(key, value)?;
    }
    Ok(config.render())
}
