//! Queues: a tree of directories below the root.

use std::sync::Arc;

use crate::clock;
use crate::error::{Error, Result};
use crate::locks;
use crate::queue::config::QueueConfig;
use crate::queue::state::State as MessageState;

use super::db::{Batch, Family};
use super::keys;
use super::named_drafts::Seen;
use super::record::{self, Counters, QueueRecord};
use super::state::{Queue, State};
use super::tree::Extent;
use super::users::Owned;
use super::{ROOT, Store};

/// A queue to be made.
#[derive(Clone, Debug)]
pub struct NewQueue<'a> {
    /// The queue it is nested in.
    pub parent: u64,
    /// Its name there.
    pub name: &'a [u8],
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits.
    pub mode: u32,
}

impl NewQueue<'_> {
    /// Its record; `now` is in milliseconds since the epoch.
    pub(super) fn record(&self, batch: bool, config: String, now: u64) -> QueueRecord {
        QueueRecord {
            parent: self.parent,
            batch,
            name: self.name.to_vec(),
            uid: self.uid,
            gid: self.gid,
            mode: self.mode,
            created: now,
            modified_ns: None,
            modified_at: 0,
            accessed_ns: None,
            config,
            rejected: String::new(),
            purged: [0; 4],
            attributes: Vec::new(),
        }
    }
}

/// Since when the oldest message of each state has been in it, in milliseconds since the epoch.
pub type Oldest = [Option<u64>; 4];

/// What is asked of a queue often.
#[derive(Clone, Debug)]
pub struct QueueInfo {
    /// The queue it is nested in; 0 for the root.
    pub parent: u64,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits.
    pub mode: u32,
    /// When it was made, in milliseconds since the epoch.
    pub created: u64,
    /// The time of modification that was set since it changed last, in nanoseconds since the epoch.
    pub modified_ns: Option<i64>,
    /// The time of access that was set, in nanoseconds since the epoch.
    pub accessed_ns: Option<i64>,
    /// Its configuration.
    pub config: Arc<QueueConfig>,
    /// What users can see in it, and what has happened: hidden messages are taken off.
    pub counters: Counters,
}

impl QueueInfo {
    fn of(queue: &Queue, config: Arc<QueueConfig>) -> Self {
        Self {
            parent: queue.record.parent,
            uid: queue.record.uid,
            gid: queue.record.gid,
            mode: queue.record.mode,
            created: queue.record.created,
            modified_ns: queue.record.modified_ns.filter(|_| queue.shows_times_set()),
            accessed_ns: queue.record.accessed_ns,
            config,
            counters: queue.shown(),
        }
    }
}

/// The configuration of the queue that was looked at last: most queues have that of the one before.
#[derive(Default)]
pub struct Alike {
    text: String,
    config: Arc<QueueConfig>,
}

impl Alike {
    fn configuration(&mut self, text: &str) -> Result<Arc<QueueConfig>> {
        if self.text != text {
            self.config = QueueConfig::stored(text)?.into();
            text.clone_into(&mut self.text);
        }
        Ok(self.config.clone())
    }
}

impl Store {
    pub(super) fn make_root(&self) -> Result<()> {
        let mut state = self.lock();
        if self.db.get(Family::Meta, &keys::queue(ROOT))?.is_some() {
            return Ok(());
        }
        let now = clock::now_ms();
        let root = NewQueue {
            parent: 0,
            name: b"",
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mode: 0o755,
        };
        let record = root.record(false, QueueConfig::default().render(), now);
        let mut batch = self.db.batch();
        batch.put(Family::Meta, &keys::queue(ROOT), &record::encode(&record));
        state.remember(ROOT, Queue::new(&record, Counters::default())?);
        state.changing(&self.db, ROOT)?;
        state.commit(&self.db, batch, now)
    }

    /// What is asked of a queue, or of a batch, often.
    pub fn queue(&self, id: u64) -> Result<QueueInfo> {
        let mut state = self.lock();
        let config = self.config_of(&mut state, id)?;
        Ok(QueueInfo::of(state.queue(&self.db, id)?, config))
    }

    /// As [`Store::queue`], of a queue, for who asks for all of them: and since when the oldest message of each state has been in it,
    /// in the order of [`MessageState::ALL`]. One that is not remembered is read without the lock, and not remembered for it. So
    /// nobody waits for such a look, and no queue that is in use is forgotten for it.
    /// `like`: what the last look has found, for what is the same.
    pub fn look_at_queue(&self, id: u64, like: &mut Alike) -> Result<(QueueInfo, Oldest)> {
        {
            let mut state = self.lock();
            if let Some(queue) = state.queues.look(id) {
                let info = QueueInfo::of(queue, queue.config.clone());
                return Ok((info, self.oldest_of_each((id, queue))?));
            }
        }
        locks::assert_free(locks::STORE);
        let record = self.queue_record(id)?;
        let counters = self.db.get(Family::Meta, &keys::counters(id))?;
        let counters = counters.map(|bytes| record::decode_counters(&bytes)).transpose()?.unwrap_or_default();
        let mut queue = Queue::configured(&record, like.configuration(&record.config)?, counters);
        let info = QueueInfo::of(&queue, queue.config.clone());
        Ok((info, self.oldest_of_each((id, &mut queue))?))
    }

    fn oldest_of_each(&self, (id, queue): (u64, &mut Queue)) -> Result<Oldest> {
        let mut oldest = [None; 4];
        for (oldest, state) in oldest.iter_mut().zip(MessageState::ALL) {
            *oldest = self.oldest_in((id, queue), state)?;
        }
        Ok(oldest)
    }

    /// The configuration of a queue; of a batch, that of its queue.
    pub fn config(&self, id: u64) -> Result<Arc<QueueConfig>> {
        self.config_of(&mut self.lock(), id)
    }

    pub(super) fn config_of(&self, state: &mut super::state::State, id: u64) -> Result<Arc<QueueConfig>> {
        let record = &state.queue(&self.db, id)?.record;
        let queue = if record.batch { record.parent } else { id };
        Ok(state.queue(&self.db, queue)?.config.clone())
    }

    /// The whole record of a queue.
    pub fn queue_record(&self, id: u64) -> Result<QueueRecord> {
        record::decode_queue(&self.db.get(Family::Meta, &keys::queue(id))?.ok_or(Error::NotFound)?)
    }

    /// The queue of a name in a queue.
    pub fn find_queue(&self, parent: u64, name: &[u8]) -> Result<u64> {
        if self.lock().queue(&self.db, parent)?.counters.queues == 0 {
            return Err(Error::NotFound);
        }
        self.child(parent, name)?.ok_or(Error::NotFound)
    }

    pub(super) fn child(&self, parent: u64, name: &[u8]) -> Result<Option<u64>> {
        let found = self.db.get(Family::Meta, &keys::child_by_name(parent, name))?;
        Ok(found.and_then(|id| keys::last_number(&id)))
    }

    /// Every queue of the store, the root included.
    pub fn all_queues(&self) -> Result<Vec<u64>> {
        let mut all = Vec::new();
        self.db.scan(Family::Meta, keys::QUEUES, keys::QUEUES, |key, record| {
            if !record::decode_queue_head(record)?.batch {
                all.extend(keys::last_number(key));
            }
            Ok(true)
        })?;
        Ok(all)
    }

    /// Makes a queue with the configuration of its parent (in the root: the defaults of the mount); gives its number.
    /// [`Error::NameTooLong`] when its path would be too long.
    pub fn make_queue(&self, new: NewQueue<'_>) -> Result<u64> {
        let now = clock::now_ms();
        self.refuse_too_deep(new.parent, new.name)?;
        let mut state = self.lock();
        if self.name_taken(&mut state, new.parent, new.name)? {
            return Err(Error::Exists);
        }
        self.admit_queue(&mut state.users, new.uid)?;
        let parent = state.queue(&self.db, new.parent)?;
        let config = if new.parent == ROOT { self.defaults.render() } else { parent.config.render() };
        let id = state.take_id(&self.db)?;
        let record = new.record(false, config, now);
        self.add_queue(&mut state, id, record, now)?;
        Ok(id)
    }

    /// Adds a queue, with a number and a name that no other has.
    pub(super) fn add_queue(&self, state: &mut State, id: u64, record: QueueRecord, now: u64) -> Result<()> {
        let mut batch = self.db.batch();
        enter(&mut batch, id, &record);
        self.note_reach(&mut batch, record.parent, Extent::default().and(&record.name))?;
        state.changing(&self.db, record.parent)?.counters.queues += 1;
        state.users.gets(&self.db, record.uid, Owned::queue(&record))?;
        state.remember(id, Queue::new(&record, Counters::default())?);
        state.changing(&self.db, id)?;
        let made = state.commit(&self.db, batch, now);
        if made.is_err() {
            state.forget(id);
        }
        made
    }

    /// Whether a nested queue, a draft or a message that keeps its name has that name.
    pub(super) fn name_taken(&self, state: &mut State, queue: u64, name: &[u8]) -> Result<bool> {
        match self.find_draft(queue, name, Seen::ALL) {
            Err(Error::NotFound) => self.name_taken_but_by_draft(state, queue, name),
            found => found.map(|_| true),
        }
    }

    /// As [`Store::name_taken`], drafts excepted.
    pub(super) fn name_taken_but_by_draft(&self, state: &mut State, queue: u64, name: &[u8]) -> Result<bool> {
        Ok(self.child(queue, name)?.is_some() || self.is_kept(state, queue, name)?)
    }

    /// Removes a queue; [`Error::NotEmpty`] while it holds anything at all.
    pub fn remove_queue(&self, parent: u64, name: &[u8]) -> Result<u64> {
        let mut state = self.lock();
        let id = self.child(parent, name)?.ok_or(Error::NotFound)?;
        let mut batch = self.db.batch();
        self.leave(&mut state, &mut batch, id)?;
        self.forget_reach(&mut state, &mut batch, parent)?;
        state.commit(&self.db, batch, clock::now_ms())?;
        state.forget(id);
        Ok(id)
    }

    /// Adds to a change: an empty queue vanishes.
    fn leave(&self, state: &mut super::state::State, batch: &mut Batch<'_>, id: u64) -> Result<()> {
        let queue = state.queue(&self.db, id)?;
        let c = &queue.counters;
        if c.messages() + c.drafts + c.queues + c.batches > 0 {
            return Err(Error::NotEmpty);
        }
        let record = self.queue_record(id)?;
        state.users.loses(&self.db, record.uid, Owned::queue(&record))?;
        let QueueRecord { parent, name, uid, .. } = record;
        batch.delete(Family::Meta, &keys::queue(id));
        batch.delete(Family::Meta, &keys::counters(id));
        batch.delete(Family::Meta, &keys::child(parent, id));
        batch.delete(Family::Meta, &keys::child_by_name(parent, &name));
        batch.delete_prefix(Family::Meta, &keys::duplicates(id));
        self.drop_marks(state, batch, id, uid)?;
        batch.delete(Family::Meta, &keys::reach(id));
        let siblings = &mut state.changing(&self.db, parent)?.counters.queues;
        *siblings = siblings.saturating_sub(1);
        Ok(())
    }

    /// Adds to a change, at its end: a queue in which none is nested any more forgets how far they reached.
    fn forget_reach(&self, state: &mut State, batch: &mut Batch<'_>, queue: u64) -> Result<()> {
        if state.queue(&self.db, queue)?.counters.queues == 0 {
            batch.delete(Family::Meta, &keys::reach(queue));
        }
        Ok(())
    }

    /// Renames a queue, with all that it holds. An empty queue of the new name is replaced unless `keep`. [`Error::NameTooLong`] when
    /// its path, or that of one nested in it, would be too long.
    pub fn rename_queue(&self, from: (u64, &[u8]), to: (u64, &[u8]), keep: bool) -> Result<()> {
        let now = clock::now_ms();
        let id = self.child(from.0, from.1)?.ok_or(Error::NotFound)?;
        let reach = self.refuse_renamed_too_deep(id, from, to)?;
        let mut state = self.lock();
        if self.child(from.0, from.1)? != Some(id) {
            return Err(Error::NotFound); // another one has the name by now
        }
        let mut batch = self.db.batch();
        let replaced = self.child(to.0, to.1)?;
        match replaced {
            Some(same) if same == id => return Ok(()),
            Some(_) if keep => return Err(Error::Exists),
            Some(other) => self.leave(&mut state, &mut batch, other)?,
            None if self.name_taken(&mut state, to.0, to.1)? => return Err(Error::Exists),
            None => {}
        }
        batch.delete(Family::Meta, &keys::child(from.0, id));
        batch.delete(Family::Meta, &keys::child_by_name(from.0, from.1));
        let left = &mut state.changing(&self.db, from.0)?.counters.queues;
        *left = left.saturating_sub(1);
        state.changing(&self.db, to.0)?.counters.queues += 1;
        let mut record = self.queue_record(id)?;
        record.parent = to.0;
        record.name = to.1.to_vec();
        enter(&mut batch, id, &record);
        if reach != Extent::default() {
            batch.put(Family::Meta, &keys::reach(id), &reach.stored());
        }
        self.note_reach(&mut batch, to.0, reach.and(to.1))?;
        self.forget_reach(&mut state, &mut batch, from.0)?;
        state.commit(&self.db, batch, now)?;
        state.queues.change(id, |queue| queue.record.parent = to.0);
        if let Some(replaced) = replaced {
            state.forget(replaced);
        }
        Ok(())
    }

    /// Refuses a configuration that the queue cannot have as long as it holds messages.
    pub fn check_config(&self, id: u64, config: &QueueConfig) -> Result<()> {
        self.lock().queue(&self.db, id)?.refuse_renaming(config)
    }

    /// Changes the record of a queue; a new configuration takes effect at once.
    pub fn alter_queue(&self, id: u64, change: impl FnOnce(&mut QueueRecord) -> Result<()>) -> Result<()> {
        self.alter_queue_at(id, clock::now_ms(), change)
    }

    /// As [`Store::alter_queue`], at `now`.
    pub fn alter_queue_at(&self, id: u64, now: u64, change: impl FnOnce(&mut QueueRecord) -> Result<()>) -> Result<()> {
        let mut state = self.lock();
        let mut record = self.queue_record(id)?;
        let queue = state.changing(&self.db, id)?;
        if queue.shows_times_set() {
            record.modified_at = now; // no change of what the directory holds
        }
        let (owner, owned) = (record.uid, Owned::queue(&record));
        change(&mut record)?;
        if id != ROOT {
            self.charge_altered(&mut state, id, (owner, owned), &record)?;
        }
        let config = QueueConfig::stored(&record.config)?;
        state.queue(&self.db, id)?.refuse_renaming(&config)?;
        let mut batch = self.db.batch();
        batch.put(Family::Meta, &keys::queue(id), &record::encode(&record));
        state.commit(&self.db, batch, now)?;
        state.queues.change(id, |queue| queue.set_outline(&record, config.into()));
        if state.queue(&self.db, id)?.is_awaited() {
            state.tell_of_room([id]);
        }
        Ok(())
    }
}

impl Store {
    /// A queue that was `owned` so by the user `owner` has another record. [`Error::UserLimit`] when its attributes have become too
    /// long for its owner; one that is given away may be too much for who gets it, as a file may be.
    fn charge_altered(
        &self,
        state: &mut State,
        id: u64,
        (owner, owned): (u32, Owned),
        record: &QueueRecord,
    ) -> Result<()> {
        let now = Owned::queue(record);
        if owner != record.uid {
            let marks = self.owned_marks(id)?;
            state.users.turns(&self.db, (owner, marks), (record.uid, marks))?;
        } else if now.bytes > owned.bytes {
            self.fits_user(&mut state.users, owner, now.bytes - owned.bytes)?;
        }
        state.users.turns(&self.db, (owner, owned), (record.uid, now))
    }
}

/// Adds to a change: a queue's record and its entries in its parent.
fn enter(batch: &mut Batch<'_>, id: u64, record: &QueueRecord) {
    batch.put(Family::Meta, &keys::queue(id), &record::encode(record));
    batch.put(Family::Meta, &keys::child(record.parent, id), &record.name);
    batch.put(Family::Meta, &keys::child_by_name(record.parent, &record.name), &id.to_be_bytes());
}
