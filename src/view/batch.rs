//! Batches: directories in `.mq/batch` whose files wait there until the directory is renamed to the queue's, which enqueues
//! them all, or none.
//!
//! The files are drafts of the batch, whatever their names. While a batch is being enqueued nothing in it can be changed:
//! its files are looked at and synced by another thread, and then become messages in one change of the store.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;

use crate::clock;
use crate::error::{Error, Result};
use crate::on_behalf;
use crate::queue::config::Durability;
use crate::queue::mark::Settles;
use crate::queue::name::{Name, check_entry_name, check_queue_name, classify, is_staged};
use crate::store::record::{DraftBody, InlineDraft, NewMessage};
use crate::store::sums::Sums;
use crate::store::{BatchFile, Done, Due, INLINE_MAX, MarkRights, Need, NewBody, Onto, ROOT, Room, Seen};

use super::access::Caller;
use super::offload::{By, Call, Step, Task};
use super::publishing::{PIECE, add_sums};
use super::staging::read_file_at;
use super::xattr::{Pairs, length, merge};
use super::{Node, View};

/// So many bytes of small files go into the database with one batch, which passes through memory; the others stay files.
const INLINE_IN_ALL: usize = 16 << 20;

/// The attributes of all files of a batch are no longer than this in all, in bytes: they pass through memory, too, and all others wait
/// while they do.
const ATTRIBUTES_IN_ALL: usize = 64 << 20;

/// So many files are looked at in one piece of the work, and each counts as so many bytes at least when it is read.
const LOOKED_AT_ONCE: usize = 1000;
const SMALL: usize = 8 * 1024;

/// A batch that is dropped for `draft_ttl` is looked at again after so long when it is in use, in milliseconds.
const LOOK_AGAIN_MS: u64 = 1000;

/// What is to be enqueued: where to, with which properties besides its files' own, and by which process.
struct Order {
    caller: Caller,
    batch: u64,
    target: u64,
    properties: Pairs,
    pid: u32,
    /// What the caller may do with the marks of the queue, if the batch has some.
    rights: Option<MarkRights>,
    /// What the batch acknowledges, besides its files.
    settles: Option<Settles>,
}

/// A file that may be enqueued.
struct Candidate {
    draft: u64,
    /// The producer's name of the message that it becomes.
    name: Vec<u8>,
    /// Its times of modification and of access.
    times_ns: (i64, i64),
    size: usize,
    /// Its bytes, if they are in the database.
    stored: Option<InlineDraft>,
}

/// A file that has been read.
struct Ready {
    draft: u64,
    /// The producer's name of the message that it becomes.
    name: Vec<u8>,
    /// Its times of modification and of access.
    times_ns: (i64, i64),
    size: usize,
    place: Place,
}

/// Where the bytes of a file of a batch are.
enum Place {
    /// In the database, with that checksum.
    Stored(u32),
    /// Among those of all small files, from there on.
    Inline(usize),
    /// In its own file.
    File(Sums),
}

/// The files of a batch, in order, and the bytes of the small ones.
#[derive(Default)]
struct Contents {
    files: Vec<Ready>,
    inline: Vec<u8>,
}

impl Contents {
    fn file<'a>(&'a self, ready: &'a Ready) -> BatchFile<'a> {
        let body = match &ready.place {
            Place::Stored(crc) => NewBody::Draft { id: ready.draft, size: ready.size as u32, crc: *crc },
            Place::Inline(at) => NewBody::Inline(&self.inline[*at..*at + ready.size]),
            Place::File(sums) => NewBody::File { id: ready.draft, size: ready.size as u64, synced: true, sums },
        };
        let (modified_ns, accessed_ns) = ready.times_ns;
        BatchFile { draft: ready.draft, name: &ready.name, modified_ns, accessed_ns, body }
    }
}

/// A batch on its way.
struct Reading {
    order: Order,
    /// Its files that were not looked at yet; `None`: nobody knows them.
    names: Option<VecDeque<(u64, Vec<u8>)>>,
    /// How long the attributes are of those that were.
    attributes: usize,
    /// Those that were looked at and not read yet.
    left: VecDeque<Candidate>,
    /// The file of the first of them, of which these are the first checksums.
    summing: Option<File>,
    sums: Vec<u32>,
    /// What was read.
    contents: Contents,
    /// Those that stay files.
    files: Vec<u64>,
    /// What they and their batch acknowledge, too.
    settles: Vec<Settles>,
}

impl Reading {
    fn new(order: Order) -> Self {
        Self {
            settles: Vec::from_iter(order.settles),
            order,
            names: None,
            attributes: 0,
            left: VecDeque::new(),
            summing: None,
            sums: Vec::new(),
            contents: Contents::default(),
            files: Vec::new(),
        }
    }
}

impl View {
    /// Refuses to change what is being enqueued. `queue` may be any queue.
    pub(super) fn refuse_while_enqueued(&self, queue: u64) -> Result<()> {
        if self.enqueued.lock().contains(&queue) { Err(Error::Busy) } else { Ok(()) }
    }

    /// The file of a name in a batch.
    pub(super) fn find_batch_file(&self, batch: u64, name: &[u8]) -> Result<u64> {
        let draft = self.store.find_draft(batch, name, Seen::ALL)?;
        if self.is_publishing(draft) { Err(Error::NotFound) } else { Ok(draft) }
    }

    /// Refuses names under which a file could never be enqueued with its batch, and any while that is being enqueued.
    pub(super) fn check_batch_file(&self, batch: u64, name: &[u8]) -> Result<()> {
        self.refuse_while_enqueued(batch)?;
        check_entry_name(name)?;
        match classify(name) {
            Name::Control => Err(Error::NotPermitted("this name is reserved")),
            Name::Draft(_) => Ok(()), // renamed or removed before the batch is enqueued
            _ => self.producer_name(batch, name).map(drop),
        }
    }

    /// Tells why a batch takes no more files, or cannot be enqueued; other errors are passed on as they are.
    pub(super) fn told_batch_full(&self, batch: u64, error: Error) -> Error {
        if matches!(error, Error::BatchFull) {
            tracing::info!(
                batch = self.store.label(batch),
                "a batch has more files than the mount option batch_files allows"
            );
        }
        error
    }

    /// Makes a draft a file of a batch, or gives such a file another name.
    pub(super) fn rename_into_batch(&self, draft: u64, to: (u64, &[u8]), keep: bool) -> Result<()> {
        self.check_batch_file(to.0, to.1)?;
        self.rename_over(draft, to, (Seen::ALL, keep), |_| Ok(()))
    }

    /// Renames a batch: to another name, which leaves it what it is, or to a queue's directory, which enqueues it.
    pub(super) fn rename_batch(
        self: &Arc<Self>,
        caller: &Caller,
        from: (u64, &[u8]),
        to: (Node, &[u8]),
        keep: bool,
        done: Done,
    ) {
        match self.batch_order(caller, from, to, keep) {
            Ok(Some(order)) => {
                let by = By { user: caller.uid, thread: caller.pid };
                self.long.run(by, self.enqueuing(order, done));
            }
            Ok(None) => done(Ok(())),
            Err(error) => done(Err(error)),
        }
    }

    /// Does what can be done at once; gives what is left to do.
    fn batch_order(&self, caller: &Caller, from: (u64, &[u8]), to: (Node, &[u8]), keep: bool) -> Result<Option<Order>> {
        let batch = self.store.find_batch(from.0, from.1)?;
        self.refuse_while_enqueued(batch)?;
        check_queue_name(to.1)?;
        if let Node::Batches(queue) = to.0 {
            if let Ok(replaced) = self.store.find_batch(queue, to.1) {
                self.refuse_while_enqueued(replaced)?;
            }
            return self.store.rename_batch(batch, queue, to.1, keep, clock::now_ms()).map(|()| None);
        }
        let (target, properties) = self.entrance(to.0)?;
        if target == ROOT {
            return Err(Error::NotPermitted("the root of the mount holds queues only"));
        }
        self.refuse_when_going_away()?;
        if self.store.find_queue(target, to.1).is_ok() {
            return Err(Error::Exists);
        }
        self.store.admit_bytes(0)?;
        self.store.admit_batch(batch).map_err(|error| self.told_batch_full(batch, error))?;
        let settles = self.settles(caller, &self.store.queue_record(batch)?.attributes);
        let settles = settles.map_err(|error| self.told_along(target, error))?;
        let rights = self.rights_to_marks(caller, batch, target)?;
        // Marks may be long, and are looked at before the room, but not by the thread that serves.
        if rights.is_none() {
            let need = Room { messages: self.store.queue(batch)?.counters.drafts, bytes: 0 };
            let room = self.store.refuse_early(target, need, Onto::Nothing);
            room.map_err(|error| self.rejected(target, error))?;
        }
        let pid = self.workers.worker(caller.pid).map_or(0, |worker| worker.process.tgid);
        self.enqueued.lock().insert(batch);
        Ok(Some(Order { caller: *caller, batch, target, properties, pid, rights, settles }))
    }

    /// What enqueues a batch, piece by piece; `done` when that is as durable as the queue promises. Waits for the disk.
    fn enqueuing(self: &Arc<Self>, order: Order, done: Done) -> Task {
        let (view, mut reading, mut done) = (self.clone(), Reading::new(order), Some(done));
        Box::new(move |turn| {
            let result = match turn {
                Call::Go => view.enqueue_piece(&mut reading),
                Call::Drop(why) => Err(why),
            };
            let result = match result {
                Ok(None) => return Step::More,
                Ok(Some(enqueued)) => Ok(enqueued),
                Err(error) => Err(error),
            };
            if let Some(done) = done.take() {
                view.end_enqueuing(&reading.order, result, done);
            }
            Step::Done
        })
    }

    fn end_enqueuing(self: &Arc<Self>, order: &Order, result: Result<(Vec<u64>, Durability)>, done: Done) {
        self.enqueued.lock().remove(&order.batch);
        self.left_alone(order.batch);
        let (left, durability) = match result {
            Ok(enqueued) => enqueued,
            Err(error) => return done(Err(self.rejected(order.target, error))),
        };
        let user = order.caller.uid;
        match durability {
            Durability::Sync => self.discard_after_sync(user, left, done),
            Durability::Async => {
                done(Ok(()));
                self.discard_after_sync(user, left, Box::new(|_| ()));
            }
        }
    }

    /// Does the next piece: lists the files of the batch, looks at some of them, reads some bytes, or, at last, enqueues them and
    /// gives the drafts whose files nobody owns any more.
    fn enqueue_piece(&self, reading: &mut Reading) -> Result<Option<(Vec<u64>, Durability)>> {
        let Some(names) = &mut reading.names else {
            if let Some(rights) = reading.order.rights {
                let marks = self.store.new_marks(reading.order.batch, reading.order.target, rights);
                marks.map_err(|error| self.told_along(reading.order.target, error))?;
            }
            reading.names = Some(self.store.batch_files(reading.order.batch)?.into());
            return Ok(None);
        };
        if !names.is_empty() {
            let some: Vec<_> = names.drain(..names.len().min(LOOKED_AT_ONCE)).collect();
            for (draft, name) in some {
                self.look_at(reading, draft, &name)?;
            }
            if reading.names.as_ref().is_some_and(VecDeque::is_empty) {
                let need = Need::of_all(reading.left.iter().map(|file| file.size as u64), 0);
                self.store.refuse_early(reading.order.target, need, Onto::Nothing)?;
            }
            return Ok(None);
        }
        if !reading.left.is_empty() {
            return self.read_some(reading).map(|()| None);
        }
        self.fetch_open(reading.contents.files.iter().map(|file| file.draft));
        self.store.bodies().sync_all(&reading.files)?;
        let settles = std::mem::take(&mut reading.settles);
        let Reading { order, contents, .. } = reading;
        let files: Vec<_> = contents.files.iter().map(|ready| contents.file(ready)).collect();
        let change = |new: &mut NewMessage| {
            new.producer_pid = order.pid;
            merge(&mut new.attributes, &order.properties)
        };
        let along = (&settles[..], order.rights.unwrap_or_default());
        let config = self.store.config(order.target)?;
        let published = self.store.publish_batch(order.batch, order.target, &files, along, clock::now_ms(), change);
        let left = published.map_err(|error| match error {
            Error::NotFound if settles.is_empty() => error,
            error => self.told_along(order.target, error),
        })?;
        settles.into_iter().for_each(|settles| self.acked_along(&order.caller, settles));
        self.became_ready(order.target);
        Ok(Some((left, config.durability)))
    }

    /// Calls when everything so far is durable, and then removes body files that nobody owns any more.
    fn discard_after_sync(self: &Arc<Self>, user: u32, files: Vec<u64>, done: Done) {
        let view = self.clone();
        self.store.after_sync(Box::new(move |synced| {
            let durable = synced.is_ok();
            done(synced);
            if durable && !files.is_empty() {
                // Not by the thread that syncs: others wait for it.
                let of = view.clone();
                view.offload.run_anyway(user, move || of.store.bodies().remove_all(&files));
            }
        }));
    }

    /// Looks at a file of a batch, and does not read it: the kernel lets nobody else rename meanwhile.
    fn look_at(&self, reading: &mut Reading, draft: u64, name: &[u8]) -> Result<()> {
        let order = &reading.order;
        self.refuse_unfinished(order, draft, name)?;
        let mut record = self.store.draft(draft)?;
        self.refuse_unreadable(&order.caller, &record)?;
        reading.settles.extend(
            self.settles(&order.caller, &record.attributes).map_err(|error| self.told_along(order.target, error))?,
        );
        merge(&mut record.attributes, &order.properties)?;
        reading.attributes += length(&record.attributes);
        if reading.attributes > ATTRIBUTES_IN_ALL {
            tracing::info!(
                queue = self.store.label(order.target),
                why = "its files' attributes are too long",
                "batch not enqueued"
            );
            return Err(Error::NoSpace);
        }
        let name = self.producer_name(order.target, name)?.to_vec();
        let shown = self.draft_shown(draft, &record)?;
        let size = usize::try_from(shown.size).map_err(|_| Error::MessageTooLarge)?;
        let times_ns = (shown.modified_ns, shown.accessed_ns);
        let stored = match record.body {
            DraftBody::Inline(inline) => Some(inline),
            DraftBody::File => None,
        };
        reading.left.push_back(Candidate { draft, name, times_ns, size, stored });
        Ok(())
    }

    /// Reads some bytes of the files of a batch; those that stay files are synced later.
    fn read_some(&self, reading: &mut Reading) -> Result<()> {
        let mut bytes = 0;
        while bytes < PIECE
            && let Some(Candidate { draft, size, stored, .. }) = reading.left.front()
        {
            let (draft, size) = (*draft, *size);
            let inline = size <= INLINE_MAX && reading.contents.inline.len() + size <= INLINE_IN_ALL;
            let (place, size) = if let Some(stored) = stored {
                (Place::Stored(stored.crc), stored.size as usize)
            } else if inline {
                let read = read_file_at(&self.store.bodies().open_read(draft)?, 0, size)?;
                let at = reading.contents.inline.len();
                reading.contents.inline.extend(&read);
                (Place::Inline(at), read.len())
            } else {
                let file = match reading.summing.take() {
                    Some(file) => file,
                    None => self.store.bodies().open_read(draft)?,
                };
                let mut sums = std::mem::take(&mut reading.sums);
                let whole = add_sums(&mut sums, &file, size as u64, PIECE - bytes)?;
                if !whole {
                    (reading.summing, reading.sums) = (Some(file), sums);
                    return Ok(());
                }
                reading.files.push(draft);
                (Place::File(Sums::of(sums)), size)
            };
            bytes += if matches!(place, Place::Stored(_)) { SMALL } else { size.max(SMALL) };
            let Some(Candidate { draft, name, times_ns, .. }) = reading.left.pop_front() else { return Ok(()) };
            reading.contents.files.push(Ready { draft, name, times_ns, size, place });
        }
        Ok(())
    }

    /// Refuses to enqueue a file that somebody still writes, or that is hidden: editors and programs that copy give such names
    /// to files that are not whole.
    fn refuse_unfinished(&self, order: &Order, draft: u64, name: &[u8]) -> Result<()> {
        let why = if name.starts_with(b".") {
            "its name begins with a dot"
        } else if self.is_unfinished(draft) {
            "it is open for writing"
        } else {
            return Ok(());
        };
        tracing::info!(queue = self.store.label(order.target), file = %String::from_utf8_lossy(name), why, "batch not enqueued");
        Err(Error::Busy)
    }

    /// `draft_ttl` of a batch is over, counted from its making: it is dropped, unless it was changed since or is in use.
    pub(super) fn batch_due(&self, due: &Due, now: u64) -> Result<()> {
        let at = match self.store.batch_due(due.id) {
            Ok(at) if at > 0 => at,
            Ok(_) | Err(Error::NotFound) => return self.store.drop_deadline(due),
            Err(error) => return Err(error),
        };
        let (batch, owner) = (self.store.label(due.id), self.owner_of(due.id));
        let staged = is_staged(&self.store.queue_record(due.id)?.name);
        let dropped = if at > now { None } else { self.drop_idle_batch(due.id, now)? };
        let Some(files) = dropped else {
            return self.store.postpone_batch(due, at.max(now + LOOK_AGAIN_MS));
        };
        on_behalf::of(owner, || match staged {
            true => tracing::info!(batch, files, "a staged batch was left lying: removed"),
            false => tracing::warn!(batch, files, "draft_ttl: batch removed"),
        });
        self.store.drop_deadline(due)
    }

    /// Drops the batches of a queue that nobody uses; gives how many files they had.
    pub(super) fn purge_batches(&self, queue: u64) -> Result<u64> {
        let mut batches = Vec::new();
        self.store.list_batches(queue, 0, |entry| {
            batches.push(entry.id);
            true
        })?;
        let mut files = 0;
        for batch in batches {
            match self.drop_idle_batch(batch, clock::now_ms()) {
                Ok(dropped) => files += dropped.unwrap_or(0),
                Err(Error::NotFound) => {} // enqueued or removed meanwhile
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    /// Drops a batch unless a file of it is open, or the directory that somebody stages it in, or it is being enqueued; gives how many
    /// files it had.
    pub(super) fn drop_idle_batch(&self, batch: u64, now: u64) -> Result<Option<u64>> {
        // Nobody opens a file while these are held.
        let (drafts, enqueued) = (self.drafts.lock(), self.enqueued.lock());
        let files = self.store.batch_files(batch)?;
        if enqueued.contains(&batch)
            || self.staged.is_open(batch)
            || files.iter().any(|(draft, _)| drafts.contains_key(draft))
        {
            return Ok(None);
        }
        let (dropped, left) = self.store.drop_batch(batch, now)?;
        drop((drafts, enqueued));
        left.iter().for_each(|file| self.store.discard_body(*file));
        Ok(Some(dropped))
    }
}
