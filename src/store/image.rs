//! Reading a store that nobody uses, or a backup, without changing anything in it: what `mqfs export` tells.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::queue::mark::Says;

use super::beneath::Dir;
use super::db::{Db, Family};
use super::duplicates::Remembered;
use super::open::{self, OpenError};
use super::record::{self, BodyPlace, MessageRecord, QueueRecord};
use super::{Bodies, Body, backup, database, keys};

/// What there is of a store at one moment.
pub struct Image {
    db: Arc<Db>,
    bodies: Bodies,
    /// By queue and state, up to which number messages were purged. Queues that are no more are not in it.
    purged: HashMap<u64, [u64; 4]>,
    /// Messages that were not finished when the backup was made.
    unfinished: HashSet<u64>,
    /// Held for its lock, if it is a store.
    _lock: Option<File>,
}

/// A deduplication id that is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RememberedId {
    /// By which queue.
    pub queue: u64,
    /// The id.
    pub id: Vec<u8>,
    /// Until when, in milliseconds since the epoch.
    pub until: u64,
    /// The number of the message that had it.
    pub message: u64,
}

impl Image {
    /// Opens the backup, or the store, in `dir`. A store is locked meanwhile.
    pub fn open(dir: &Dir) -> std::result::Result<Self, OpenError> {
        let (lock, unfinished) = if dir.has(backup::MANIFEST) {
            (None, backup::manifest(dir)?.unfinished)
        } else {
            (Some(open::lock_existing(dir)?), Vec::new())
        };
        let db = Arc::new(database::open_to_read(dir)?);
        let bodies = Bodies::at(dir);
        let mut image =
            Self { db, bodies, purged: HashMap::new(), unfinished: unfinished.into_iter().collect(), _lock: lock };
        image.purged = image.queues()?.into_iter().map(|(id, queue)| (id, queue.purged)).collect();
        Ok(image)
    }

    /// Every queue, the root included.
    pub fn queues(&self) -> Result<Vec<(u64, QueueRecord)>> {
        let mut all = Vec::new();
        self.db.scan(Family::Meta, keys::QUEUES, keys::QUEUES, |key, queue| {
            let queue = record::decode_queue(queue)?;
            if !queue.batch {
                all.extend(keys::last_number(key).map(|id| (id, queue)));
            }
            Ok(true)
        })?;
        Ok(all)
    }

    /// How many drafts there are, those in batches included.
    pub fn drafts(&self) -> Result<u64> {
        let mut count = 0;
        self.db.scan(Family::Meta, keys::DRAFTS, keys::DRAFTS, |_, _| {
            count += 1;
            Ok(true)
        })?;
        Ok(count)
    }

    /// The deduplication ids that are remembered.
    pub fn remembered_ids(&self) -> Result<Vec<RememberedId>> {
        let mut all = Vec::new();
        self.db.scan(Family::Meta, keys::DUPLICATES, keys::DUPLICATES, |key, value| {
            all.extend(keys::parse_duplicate(key).zip(Remembered::read(value)).map(|((queue, id), known)| {
                RememberedId { queue, id: id.to_vec(), until: known.until, message: known.id }
            }));
            Ok(true)
        })?;
        Ok(all)
    }

    /// The marks of a queue: their names and values.
    pub fn marks(&self, queue: u64) -> Result<Vec<(String, Vec<u8>)>> {
        let prefix = keys::marks(queue, Says::Is);
        let mut all = Vec::new();
        self.db.scan(Family::Meta, &prefix, &prefix, |key, value| {
            let name = keys::parse_mark(key).map(|(_, name)| String::from_utf8_lossy(name).into_owned());
            all.extend(name.map(|name| (name, value.to_vec())));
            Ok(true)
        })?;
        Ok(all)
    }

    /// The next messages from the sequence number `from` on, in the order of these numbers, at most `count` of them; none when there are no
    /// more. One whose record is damaged is told as an error.
    pub fn messages(&self, from: u64, count: usize) -> Result<Vec<(u64, Result<MessageRecord>)>> {
        let mut found = Vec::new();
        self.db.scan(Family::Messages, b"", &keys::message(from), |key, bytes| {
            let Some(seq) = keys::last_number(key) else { return Ok(true) };
            match record::decode_message(bytes) {
                Ok(record) if !self.is_there(seq, &record)? => {}
                decoded => found.push((seq, decoded)),
            }
            Ok(found.len() < count)
        })?;
        Ok(found)
    }

    /// Whether a message would be there if the store were mounted: it was not purged, and no crash took a part of its body.
    fn is_there(&self, seq: u64, record: &MessageRecord) -> Result<bool> {
        let Some(purged) = self.purged.get(&record.queue) else { return Ok(false) };
        let purged = purged[record.state() as usize - 1];
        if purged > 0 && record.placed <= purged || self.unfinished.contains(&seq) {
            return Ok(false);
        }
        let BodyPlace::File(id) = record.body else { return Ok(true) };
        if self.db.get(Family::Meta, &keys::unsynced_body(id))?.is_none() {
            return Ok(true);
        }
        match self.body(record) {
            Ok(_) => Ok(true),
            Err(Error::Damaged(_)) => Ok(false),
            // As a mount does, which keeps what cannot be read.
            Err(_) => Ok(true),
        }
    }

    /// A message's bytes, all of them read once. [`Error::Damaged`] when they are not those that were enqueued.
    pub fn body(&self, record: &MessageRecord) -> Result<Body> {
        let body = Body::open(&self.db, &self.bodies, record)?;
        if let Body::File(file) = &body {
            file.check()?;
        }
        Ok(body)
    }
}
