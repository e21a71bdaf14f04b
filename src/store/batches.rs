//! Batches: files that are enqueued together, all or none.
//!
//! A batch is kept as a queue is, with a record, counters and drafts, but its queue lists it among its batches and not among
//! its nested queues. It has no configuration of its own. Enqueuing it is one change of the database: every draft becomes
//! a message, and the batch is gone.

use crate::clock;
use crate::error::{Error, Result};
use crate::locks;
use crate::queue::mark::{SETTLES, Settles};
use crate::queue::properties::Properties;

use super::db::{Batch, Family};
use super::drafts::{delete_draft, draft_due};
use super::keys::{self, DeadlineKind};
use super::limits::Need;
use super::record::{self, Counters, DraftBody, DraftRecord, MessageRecord, NewMessage, QueueRecord};
use super::state::{Queue, State, deadlines};
use super::users::Owned;
use super::{Entry, MarkRights, NewBody, NewQueue, Onto, Store, draft_bytes};

/// No batch holds more files, unless the mount says otherwise: enqueuing them is one change, for which all others wait. Only what has
/// to be one is done under the lock, less than ten microseconds for each file, so at most a tenth of a second for all: what the files
/// are was read before.
pub const BATCH_FILES: u64 = 10_000;

/// A mount may say so many at most: for a second all others wait, and they take 100 MiB of memory meanwhile.
pub const MOST_BATCH_FILES: u64 = 100_000;

/// A file of a batch that is enqueued.
#[derive(Clone, Copy, Debug)]
pub struct BatchFile<'a> {
    /// The draft.
    pub draft: u64,
    /// The producer's name of the message.
    pub name: &'a [u8],
    /// What `stat` is to show as its time of modification, in nanoseconds since the epoch.
    pub modified_ns: i64,
    /// The same of its time of access.
    pub accessed_ns: i64,
    /// Its bytes; those that are in a file or in the database are the draft's own, a file synced.
    pub body: NewBody<'a>,
}

/// A file of a batch, read.
struct Read {
    /// Without its attributes, which the message has.
    draft: DraftRecord,
    /// What it costs its owner.
    owned: Owned,
    /// It leaves its bytes, which are in the database, to its message.
    passes_on: bool,
    record: MessageRecord,
    properties: Properties,
}

impl BatchFile<'_> {
    /// The message that it becomes; takes the attributes of its draft.
    fn message(&self, draft: &mut DraftRecord, queue: u64) -> NewMessage {
        let mut attributes = std::mem::take(&mut draft.attributes);
        attributes.retain(|(name, _)| name != SETTLES);
        NewMessage {
            id: self.draft,
            queue,
            name: self.name.to_vec(),
            uid: draft.uid,
            gid: draft.gid,
            mode: draft.mode,
            modified_ns: Some(self.modified_ns),
            accessed_ns: Some(self.accessed_ns),
            producer_pid: 0,
            attributes,
        }
    }
}

impl Store {
    /// A batch holds at most so many files from now on. Once, before anything is served.
    pub fn limit_batches(&self, files: u64) {
        let _ = self.batch_files.set(files);
    }

    /// How many files a batch may hold.
    pub(super) fn batch_files_most(&self) -> u64 {
        self.batch_files.get().copied().unwrap_or(BATCH_FILES)
    }

    /// Refuses with [`Error::BatchFull`] to enqueue a batch that has more files than it may: it was made when it might have more.
    pub fn admit_batch(&self, batch: u64) -> Result<()> {
        let files = self.queue(batch)?.counters.drafts;
        if files > self.batch_files_most() { Err(Error::BatchFull) } else { Ok(()) }
    }

    /// Makes a batch of the queue `new.parent`; gives its number.
    pub fn make_batch(&self, new: NewQueue<'_>) -> Result<u64> {
        let now = clock::now_ms();
        let mut state = self.lock();
        let due = draft_due(&state.queue(&self.db, new.parent)?.config, new.name, now);
        if self.batch_named(new.parent, new.name)?.is_some() {
            return Err(Error::Exists);
        }
        self.admit_draft(&mut state.users, new.uid)?;
        let id = state.take_id(&self.db)?;
        let record = new.record(true, String::new(), now);
        let mut batch = self.db.batch();
        enter(&mut batch, id, &record);
        if due > 0 {
            batch.put(Family::Deadlines, &keys::deadline(due, DeadlineKind::Batch, id), b"");
        }
        state.changing(&self.db, new.parent)?.counters.batches += 1;
        state.users.gets(&self.db, record.uid, Owned::BATCH)?;
        state.remember(id, Queue::new(&record, Counters::default())?);
        state.changing(&self.db, id)?;
        let made = state.commit(&self.db, batch, now);
        if made.is_err() {
            state.forget(id);
        } else if due > 0 {
            self.deadlines.note(due);
        }
        made.map(|()| id)
    }

    fn batch_named(&self, queue: u64, name: &[u8]) -> Result<Option<u64>> {
        let found = self.db.get(Family::Meta, &keys::batch_by_name(queue, name))?;
        Ok(found.and_then(|id| keys::last_number(&id)))
    }

    /// The batch of a name.
    pub fn find_batch(&self, queue: u64, name: &[u8]) -> Result<u64> {
        self.batch_named(queue, name)?.ok_or(Error::NotFound)
    }

    /// Calls `each` with the batches of a queue after the one numbered `after`.
    pub fn list_batches(&self, queue: u64, after: u64, each: impl FnMut(Entry<'_>) -> bool) -> Result<()> {
        self.list_meta(&keys::batches(queue), &keys::batch(queue, after.saturating_add(1)), each)
    }

    /// The files of a batch in the order of their names, each with its number.
    pub fn batch_files(&self, batch: u64) -> Result<Vec<(u64, Vec<u8>)>> {
        let prefix = keys::draft_names(batch);
        let mut files = Vec::new();
        self.db.scan(Family::Meta, &prefix, &prefix, |key, draft| {
            let name = keys::draft_name(key).map(<[u8]>::to_vec);
            files.extend(keys::last_number(draft).zip(name));
            Ok(true)
        })?;
        Ok(files)
    }

    /// Removes a batch; [`Error::NotEmpty`] while it holds a file.
    pub fn remove_batch(&self, queue: u64, name: &[u8]) -> Result<()> {
        let mut state = self.lock();
        let id = self.find_batch(queue, name)?;
        let mut batch = self.db.batch();
        self.leave_batch(&mut state, &mut batch, id)?;
        state.commit(&self.db, batch, clock::now_ms())
    }

    /// Adds to a change: an empty batch vanishes.
    fn leave_batch(&self, state: &mut State, batch: &mut Batch<'_>, id: u64) -> Result<()> {
        let holder = state.queue(&self.db, id)?;
        if holder.counters.drafts > 0 {
            return Err(Error::NotEmpty);
        }
        let record = self.queue_record(id)?;
        leave(batch, id, &record);
        self.drop_marks(state, batch, id, record.uid)?;
        state.users.loses(&self.db, record.uid, Owned::queue(&record))?;
        batch.delete(Family::Meta, &keys::queue(id));
        batch.delete(Family::Meta, &keys::counters(id));
        let left = &mut state.changing(&self.db, record.parent)?.counters.batches;
        *left = left.saturating_sub(1);
        // Its counters are not written any more; if the change fails, it is read again.
        state.forget(id);
        Ok(())
    }

    /// Gives a batch another name, maybe in another queue. An empty batch of that name is replaced unless `keep`.
    pub fn rename_batch(&self, id: u64, queue: u64, name: &[u8], keep: bool, now: u64) -> Result<()> {
        let mut state = self.lock();
        let mut batch = self.db.batch();
        match self.batch_named(queue, name)? {
            Some(same) if same == id => return Ok(()),
            Some(_) if keep => return Err(Error::Exists),
            Some(other) => self.leave_batch(&mut state, &mut batch, other)?,
            None => {}
        }
        let before = self.queue_record(id)?;
        leave(&mut batch, id, &before);
        let left = &mut state.changing(&self.db, before.parent)?.counters.batches;
        *left = left.saturating_sub(1);
        state.changing(&self.db, queue)?.counters.batches += 1;
        let record = QueueRecord { parent: queue, name: name.to_vec(), ..before };
        enter(&mut batch, id, &record);
        state.commit(&self.db, batch, now)?;
        state.queues.change(id, |batch| batch.record.parent = queue);
        Ok(())
    }

    /// Removes a batch with all its files; gives how many, and the numbers of body files, which the caller removes after the next
    /// sync.
    pub fn drop_batch(&self, id: u64, now: u64) -> Result<(u64, Vec<u64>)> {
        let mut state = self.lock();
        let mut batch = self.db.batch();
        let files = self.batch_files(id)?;
        let mut left = Vec::new();
        for (id, _) in &files {
            let draft = self.draft(*id)?;
            self.drop_draft(&mut state, &mut batch, *id, &draft)?;
            draft_bytes::erase(&mut batch, *id, &draft);
            left.extend((draft.body == DraftBody::File).then_some(*id));
        }
        self.leave_batch(&mut state, &mut batch, id)?;
        state.commit(&self.db, batch, now)?;
        Ok((files.len() as u64, left))
    }

    /// When a batch that gets and loses no file any more is removed, in milliseconds since the epoch; 0: never.
    pub fn batch_due(&self, id: u64) -> Result<u64> {
        let mut state = self.lock();
        let config = self.config_of(&mut state, id)?;
        let changed = state.queue(&self.db, id)?.counters.changed;
        Ok(draft_due(&config, &self.queue_record(id)?.name, changed))
    }

    /// Looks at a batch again at `at`, instead of at `due`.
    pub fn postpone_batch(&self, due: &super::Due, at: u64) -> Result<()> {
        {
            let _state = self.lock();
            let mut batch = self.db.batch();
            batch.delete(Family::Deadlines, &keys::deadline(due.at, due.kind, due.id));
            batch.put(Family::Deadlines, &keys::deadline(at, due.kind, due.id), b"");
            self.db.write(batch)?;
        }
        self.deadlines.note(at);
        Ok(())
    }

    /// Makes all files of a batch messages of the queue `target` in one step, in the given order, each changed by `change`, and
    /// removes the batch. In the same step the batch's marks become the queue's, by these `rights`, and the deliveries `settles`
    /// are acknowledged.
    /// [`Error::NotFound`] when one of these is over; [`Error::MarkMoved`] and [`Error::AccessDenied`] as [`Store::new_marks`] says;
    /// [`Error::QueueFull`] and [`Error::Paused`] when there is no room for all of them; [`Error::Busy`] when `files` are not all that it holds. Gives the drafts whose body files are nobody's now: the caller
    /// removes them after the next sync.
    pub fn publish_batch(
        &self,
        id: u64,
        target: u64,
        files: &[BatchFile<'_>],
        (settles, rights): (&[Settles], MarkRights),
        now: u64,
        change: impl Fn(&mut NewMessage) -> Result<()>,
    ) -> Result<Vec<u64>> {
        let at = self.lock().queue(&self.db, id)?.drafts_at;
        locks::assert_free(locks::STORE);
        let (mut batch, mut read) = self.read_batch((id, target), files, now, &change)?;
        let mut state = self.lock();
        let batch_now = state.queue(&self.db, id)?;
        if batch_now.counters.drafts != files.len() as u64 {
            return Err(Error::Busy);
        }
        // Nobody may change them any more, but somebody who had just closed one was about to be charged for it.
        if batch_now.drafts_at != at {
            (batch, read) = self.read_batch((id, target), files, now, &change)?;
        }
        settles.iter().try_for_each(|settles| self.lasts(&mut state, *settles))?;
        let marks = self.new_marks(id, target, rights)?;
        let priorities = state.queue(&self.db, target)?.config.priorities;
        let order = read.iter().map(|file| file.properties.order(priorities)).max().unwrap_or(0);
        let need = Need::of_all(files.iter().map(|file| file.body.size()), order);
        self.admit(&mut state, target, need, Onto::Nothing)?;
        let plan = self.plan_drops(&mut state, target, need, Onto::Nothing)?;
        self.put_marks(&mut state, &mut batch, (id, target), &marks)?;
        let settled = self.ack_along(&mut state, &mut batch, settles)?;
        let (mut due, mut left) = (Vec::new(), Vec::new());
        for (file, read) in files.iter().zip(read) {
            self.count_draft_no_more(&mut state, &read.draft, read.owned)?;
            let record = (read.record, Some(file.modified_ns));
            let message = self.add_record(&mut state, &mut batch, record, file.body, now)?;
            if message.is_none() || !read.passes_on {
                draft_bytes::erase(&mut batch, file.draft, &read.draft);
            }
            let file_left = message.is_none() || matches!(file.body, NewBody::Inline(_));
            if read.draft.body == DraftBody::File && file_left {
                left.push(file.draft);
            }
            match message {
                Some(message) => {
                    due.extend(deadlines(&message.record).map(|(at, _)| at).chain(message.unique_until).min());
                }
                None => state.changing(&self.db, target)?.counters.duplicates_total += 1,
            }
        }
        let dropped = self.drop_oldest(&mut state, &mut batch, target, plan, now)?;
        self.leave_batch(&mut state, &mut batch, id)?;
        state.commit(&self.db, batch, now)?;
        drop(state);
        self.discard_bodies(dropped);
        self.discard_bodies(settled);
        if let Some(first) = due.into_iter().min() {
            self.deadlines.note(first);
        }
        Ok(left)
    }
}

impl Store {
    /// Reads the files of the batch `id`, and makes of each what its message in the queue `target` will be; begins the change that makes
    /// them no drafts any more. [`Error::Busy`] when one is not in the batch.
    fn read_batch(
        &self,
        (id, target): (u64, u64),
        files: &[BatchFile<'_>],
        now: u64,
        change: impl Fn(&mut NewMessage) -> Result<()>,
    ) -> Result<(Batch<'_>, Vec<Read>)> {
        let mut batch = self.db.batch();
        let read = files.iter().map(|file| {
            let mut draft = self.draft(file.draft)?;
            if draft.queue != id {
                return Err(Error::Busy);
            }
            let passes_on = draft_bytes::passes_on(file.draft, &draft, &file.body)?;
            delete_draft(&mut batch, file.draft, &draft, true);
            let owned = Owned::draft(&draft, self.charged(file.draft)?);
            let mut new = file.message(&mut draft, target);
            change(&mut new)?;
            let properties = Properties::of(&new.attributes);
            Ok(Read { draft, owned, passes_on, record: MessageRecord::new(new, now), properties })
        });
        let read = read.collect::<Result<_>>()?;
        Ok((batch, read))
    }
}

/// Adds to a change: a batch's record and its entries in its queue.
fn enter(batch: &mut Batch<'_>, id: u64, record: &QueueRecord) {
    batch.put(Family::Meta, &keys::queue(id), &record::encode(record));
    batch.put(Family::Meta, &keys::batch(record.parent, id), &record.name);
    batch.put(Family::Meta, &keys::batch_by_name(record.parent, &record.name), &id.to_be_bytes());
}

/// Adds to a change: the entries of a batch in its queue vanish.
fn leave(batch: &mut Batch<'_>, id: u64, record: &QueueRecord) {
    batch.delete(Family::Meta, &keys::batch(record.parent, id));
    batch.delete(Family::Meta, &keys::batch_by_name(record.parent, &record.name));
}
