//! Drafts: ordinary files until one is renamed (or linked) to a visible name, which publishes it.

mod renamed;

use std::collections::hash_map::Entry;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::config::{Durability, Names, QueueConfig};
use crate::queue::mark::{SETTLES, Settles};
use crate::queue::name::{QUEUE_NAME_MAX, check_entry_name};
use crate::queue::properties::Properties;
use crate::queue::worker::Worker;
use crate::store::record::{DraftRecord, NewMessage};
use crate::store::users::cost;
use crate::store::{Done, Enqueued, INLINE_MAX, Need, NewBody, Onto, Patience, Published, Seen, Store, UserBytes};

use super::access::{Caller, READ};
use super::attributes::{FILE_MODE, ns_of};
use super::names::{Key, Writer};
use super::offload::{By, Call, once};
use super::publishing::LargeBody;
use super::staging::{end_of_write, fill_hole, read_file_at};
use super::xattr::{Pairs, merge};
use super::{Attributes, Node, View};

/// A draft that somebody has open, or that is being published.
#[derive(Default)]
pub(super) struct DraftUse {
    /// Open files.
    opens: u32,
    /// Those of them that can write.
    writes: u32,
    /// A file of it, one that can write if there was any, and its record when it was opened last, without attributes: what
    /// `fstat` shows when it is a draft no more.
    last: Option<(Arc<File>, DraftRecord)>,
    /// That file was opened for writing.
    writable: bool,
    /// What counts its bytes against its owner when it was unlinked while it is open.
    unlinked: Option<UserBytes>,
    /// It was renamed to a visible name: from then on it is neither listed nor found.
    publishing: Option<Target>,
}

/// Where and how a draft is published.
#[derive(Clone)]
pub(super) struct Target {
    /// The queue.
    pub queue: u64,
    /// The number of the message to be.
    pub id: u64,
    /// What it finds under its name, in a queue that keeps names.
    pub onto: Onto,
    /// The producer's name.
    pub name: Vec<u8>,
    /// Properties that it gets besides those that it has.
    pub properties: Pairs,
    /// Whether the draft stays, as after `link`.
    pub then: Published,
    /// The name that it was given, and the producer's session and user: for the bare name.
    pub written_as: (Vec<u8>, Option<Writer>),
    /// The producer's process.
    pub pid: u32,
    /// The delivery that is acknowledged in the same step, and who asked for that.
    pub settles: Option<(Caller, Settles)>,
}

impl DraftUse {
    fn opened(&mut self, file: &Arc<File>, record: DraftRecord, writes: bool) {
        self.opens += 1;
        self.writes += u32::from(writes);
        let record = DraftRecord { attributes: Pairs::new(), ..record };
        match &mut self.last {
            // A removed draft is cut by way of this file.
            Some((_, last)) if self.writable && !writes => *last = record,
            _ => (self.last, self.writable) = (Some((file.clone(), record)), writes),
        }
    }

    /// It was renamed to a visible name, and waits for its last writer.
    fn waits(&self) -> bool {
        self.writes > 0 && self.publishing.as_ref().is_some_and(|to| to.then == Published::Gone)
    }

    /// What counts its bytes, now that it was unlinked.
    fn charge(&mut self, store: &Store) -> Option<&mut UserBytes> {
        let (_, record) = self.last.as_ref()?;
        Some(self.unlinked.get_or_insert_with(|| store.user_bytes(record.uid)))
    }

    fn idle(&self) -> bool {
        self.opens == 0 && self.publishing.is_none()
    }

    /// What its record said when it was opened last, without attributes.
    pub fn record(&self) -> Option<&DraftRecord> {
        self.last.as_ref().map(|(_, record)| record)
    }
}

impl Target {
    /// The name by which the session that gave it finds it.
    pub fn key(&self) -> Option<Key> {
        let (name, by) = &self.written_as;
        by.map(|by| Key { queue: self.queue, name: name.clone(), by })
    }

    /// For a rename or link that `asker` asked for, as the user `uid`: the name without a prefix, and as it was given.
    pub fn new(
        uid: u32,
        asker: Option<Worker>,
        (queue, properties): (u64, Pairs),
        (name, written_as): (&[u8], &[u8]),
        then: Published,
    ) -> Self {
        let writer = asker.map(|asker| Writer { session: asker.session, uid });
        let pid = asker.map_or(0, |asker| asker.process.tgid);
        let written_as = (written_as.to_vec(), writer);
        let (id, onto, settles) = (0, Onto::Nothing, None);
        Self { queue, id, onto, name: name.to_vec(), properties, then, written_as, pid, settles }
    }
}

impl View {
    /// Makes a draft, open; gives its number and file.
    pub(super) fn create_draft(
        &self,
        caller: &Caller,
        (queue, name): (u64, &[u8]),
        mode: u32,
        attributes: Pairs,
        seen: Seen,
    ) -> Result<(u64, Arc<File>)> {
        check_entry_name(name)?;
        let now = clock::now_ms();
        let info = self.store.queue(queue)?;
        let record = DraftRecord {
            queue,
            name: name.to_vec(),
            uid: caller.uid,
            gid: self.group_in(&info, caller),
            mode: mode & FILE_MODE,
            created: now,
            due: 0,
            attributes,
        };
        self.store.admit_bytes(0)?;
        let (id, file) = self.store.make_draft(record.clone(), seen)?;
        let file = Arc::new(file);
        self.drafts.lock().entry(id).or_default().opened(&file, record, true);
        Ok((id, file))
    }

    /// The file of a draft, when somebody has it open, and whether somebody has it open for writing: then it is no message, and
    /// does not become one meanwhile.
    pub(super) fn open_draft_file(&self, id: u64) -> Option<(Arc<File>, bool)> {
        let drafts = self.drafts.lock();
        let used = drafts.get(&id)?;
        used.last.as_ref().map(|(file, _)| (file.clone(), used.writes > 0))
    }

    /// Opens a draft's file.
    pub(super) fn open_draft(&self, id: u64, writes: bool, truncate: bool) -> Result<Arc<File>> {
        let mut drafts = self.drafts.lock();
        // One that waits for its last writer can be read.
        let only_read = |used: &DraftUse| used.waits() && !writes && !truncate;
        if drafts.get(&id).is_some_and(|used| used.publishing.is_some() && !only_read(used)) {
            return Err(Error::Stale);
        }
        // The kernel looks up again what it has found and is not there any more.
        let record = self
            .store
            .draft(id)
            .map_err(|error| if matches!(error, Error::NotFound) { Error::Stale } else { error })?;
        if writes || truncate {
            self.refuse_while_enqueued(record.queue)?;
        }
        let file = if writes { self.store.bodies().open_write(id)? } else { self.store.bodies().open_read(id)? };
        if truncate && writes {
            file.set_len(0)?;
            self.store.bodies().emptied(id);
        }
        let file = Arc::new(file);
        drafts.entry(id).or_default().opened(&file, record, writes);
        Ok(file)
    }

    /// Writes into a draft.
    pub(super) fn write_draft(&self, id: u64, file: &File, offset: u64, data: &[u8]) -> Result<()> {
        let end = end_of_write(offset, data.len())?;
        let length = file.metadata()?.len();
        self.admit_draft(id, end, end.saturating_sub(length).max(data.len() as u64))?;
        self.charge_draft(id, end.max(length))?;
        fill_hole(file, length, offset)?;
        file.write_all_at(data, offset)?;
        Ok(())
    }

    /// Checks that a draft may become so long, and that there is room for `more` bytes.
    pub(super) fn admit_draft(&self, id: u64, length: u64, more: u64) -> Result<()> {
        match self.store.draft(id) {
            Ok(draft) => self.admit(&self.store.queue(draft.queue)?.config, length, more),
            // An unlinked draft has no queue to set a limit, but takes room as well.
            Err(_) => self.store.space().admit(more),
        }
    }

    /// Charges its owner for a draft that is being written, as it will be.
    pub(super) fn charge_draft(&self, id: u64, size: u64) -> Result<()> {
        match self.store.charge_draft(id, size, true) {
            Err(Error::NotFound) => {}
            charged => return charged,
        }
        // It was unlinked, and has no record any more.
        match self.drafts.lock().get_mut(&id).and_then(|used| used.charge(&self.store)) {
            Some(charge) => self.store.hold_bytes(charge, size),
            None => Ok(()),
        }
    }

    /// Removes a draft. Its owner is charged for it as long as somebody has it open.
    pub(super) fn unlink_draft(&self, id: u64, now: u64) -> Result<()> {
        let size = self.draft_size(id);
        self.store.remove_draft(id, now)?;
        if let Some(charge) = self.drafts.lock().get_mut(&id).and_then(|used| used.charge(&self.store)) {
            charge.set(size);
        }
        Ok(())
    }

    /// Nobody writes a draft any more: its owner is charged for what there is.
    pub(super) fn settle_draft(&self, id: u64) {
        if let Err(error) = self.store.charge_draft(id, self.draft_size(id), false)
            && !matches!(error, Error::NotFound)
        {
            tracing::warn!(queue = self.store.draft(id).map(|draft| self.store.label(draft.queue)).unwrap_or_default(), %error, "a draft is charged for more than it has");
        }
    }

    /// `fsync` on a draft: its bytes, its name and its record.
    pub(super) fn sync_draft(self: &Arc<Self>, id: u64, file: Arc<File>, by: By, done: Done) {
        let view = self.clone();
        let work = move |turn| {
            let synced = if let Call::Drop(why) = turn { Err(why) } else { view.store.bodies().sync(id, &file) };
            match synced {
                Ok(()) => view.store.after_sync(done),
                Err(error) => done(Err(error)),
            }
        };
        self.offload.run(by, once(work));
    }

    /// An open file on a draft was closed for the last time.
    pub(super) fn release_draft(self: &Arc<Self>, id: u64, writes: bool) {
        let (target, last_writer, queue) = {
            let mut drafts = self.drafts.lock();
            let Entry::Occupied(mut entry) = drafts.entry(id) else { return };
            let used = entry.get_mut();
            used.opens -= 1;
            used.writes -= u32::from(writes);
            let last_writer = writes && used.writes == 0;
            let target = used.publishing.clone().filter(|target| last_writer && target.then == Published::Gone);
            let queue = used.record().map(|record| record.queue);
            if used.idle() {
                self.drop_staged_draft(id, &entry.remove());
            }
            (target, last_writer, queue)
        };
        if last_writer {
            self.settle_draft(id);
        }
        queue.into_iter().for_each(|queue| self.left_alone(queue));
        let Some(target) = target else { return };
        let draft = self.store.draft(id);
        let (owner, queue, name) = draft.map_or_else(
            |_| Default::default(),
            |draft| (draft.uid, self.store.label(draft.queue), String::from_utf8_lossy(&draft.name).into_owned()),
        );
        let view = self.clone();
        let renamed = target.clone();
        let report = Box::new(move |result: Result<()>| {
            view.unname_renamed(id, &renamed);
            match result {
                Ok(()) => {}
                Err(error @ (Error::Io(_) | Error::Damaged(_) | Error::NoSpace)) => {
                    tracing::error!(queue, name, %error, "a renamed draft could not be enqueued at its last close");
                }
                // What others did meanwhile, in its queue: it was full, or the name was claimed.
                Err(error) => {
                    tracing::warn!(queue, name, %error, "a renamed draft could not be enqueued at its last close");
                }
            }
        });
        self.publish_now(id, target, By::nobody(owner), report);
    }

    /// The thread `by` has closed a descriptor of a draft. If the draft was renamed already, it may be about to arrive. Only its
    /// release tells that this was the last close; but when `done` is called, its bytes are as durable as the queue promises, as
    /// those of a draft at least. [`Error::MessageTooLarge`] when it would not be enqueued, and [`Error::NotFound`] when it would not
    /// because the delivery that it settles is over.
    pub(super) fn draft_closed(self: &Arc<Self>, id: u64, file: &Arc<File>, by: By, done: Done) {
        let target = {
            let drafts = self.drafts.lock();
            let publishing = drafts.get(&id).and_then(|used| used.publishing.as_ref());
            publishing.map(|target| (target.id, target.queue, target.then, target.settles))
        };
        let Some((message, queue, then, settles)) = target else { return done(Ok(())) };
        let view = self.clone();
        let done: Done = Box::new(move |result| {
            view.arrivals.closed(message, by.thread, false);
            done(result);
        });
        if then == Published::Stays {
            return done(Ok(()));
        }
        let fits = |config: Arc<QueueConfig>| {
            config.admit_size(file.metadata()?.len())?;
            settles.map_or(Ok(()), |(_, settles)| self.store.check_lasts(settles))?;
            Ok(config.durability)
        };
        match self.store.config(queue).and_then(fits) {
            Ok(Durability::Sync) => self.sync_draft(id, file.clone(), by, done),
            Ok(Durability::Async) => done(Ok(())),
            Err(error) => done(Err(error)),
        }
    }

    /// Whether a draft has been renamed to a visible name already.
    pub(super) fn is_publishing(&self, id: u64) -> bool {
        let drafts = self.drafts.lock();
        drafts.get(&id).is_some_and(|used| used.publishing.as_ref().is_some_and(|to| to.then == Published::Gone))
    }

    /// Whether somebody has a draft open for writing, or it is being published on its own.
    pub(super) fn is_unfinished(&self, id: u64) -> bool {
        self.drafts.lock().get(&id).is_some_and(|used| used.writes > 0 || used.publishing.is_some())
    }

    /// Refuses to publish what the caller may not read: as a message it may be read by whoever may consume.
    pub(super) fn refuse_unreadable(&self, caller: &Caller, draft: &DraftRecord) -> Result<()> {
        let owner = self.draft_owner(draft);
        if owner.is_owner(caller) || owner.allows(caller, READ) { Ok(()) } else { Err(Error::AccessDenied) }
    }

    /// Refuses to change a draft whose bytes are being made those of a message. Nobody has it open for writing then.
    pub(super) fn refuse_while_published(&self, id: u64) -> Result<()> {
        let drafts = self.drafts.lock();
        let published = drafts.get(&id).is_some_and(|used| used.publishing.is_some() && used.writes == 0);
        if published { Err(Error::Stale) } else { Ok(()) }
    }

    /// What `stat` shows of a draft.
    pub(super) fn any_draft_attributes(&self, id: u64) -> Result<Attributes> {
        match self.store.draft(id) {
            Ok(draft) => self.draft_attributes(id, &draft, &self.store.bodies().metadata(id)?),
            // Published or removed; whoever has it open still sees it.
            Err(Error::NotFound) => {
                let last = self.drafts.lock().get(&id).and_then(|used| used.last.clone());
                let (file, draft) = last.ok_or(Error::Stale)?;
                self.draft_attributes(id, &draft, &file.metadata()?)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a draft a message: at once, or when its last writer closes it. `done` when that is as durable as the queue
    /// promises.
    pub(super) fn publish(self: &Arc<Self>, id: u64, target: Target, by: By, done: Done) {
        match self.begin_publishing(id, &target) {
            Ok(true) => {
                self.name_renamed(id, &target);
                done(Ok(()));
            }
            Ok(false) => self.publish_now(id, target, by, done),
            Err(error) => done(Err(self.rejected(target.queue, error))),
        }
    }

    /// Refuses what can be refused before a byte is read: the kernel lets nobody else rename meanwhile. Tells whether the draft
    /// waits for its last writer.
    fn begin_publishing(&self, id: u64, target: &Target) -> Result<bool> {
        let mut drafts = self.drafts.lock();
        let used = drafts.entry(id).or_default();
        if used.publishing.is_some() {
            return Err(Error::Busy);
        }
        let later = used.writes > 0 && target.then == Published::Gone;
        let begun = self.store.hold_name(target.queue, &target.name, target.id, target.onto).and_then(|()| {
            let admitted = match later {
                true => self.admit_later(id, target.queue).and_then(|()| self.set_aside(id)),
                false => self.admit_now(id, target),
            };
            admitted.inspect_err(|_| {
                self.store.release(target.queue, id);
                self.store.release_name(target.queue, &target.name, target.id);
            })
        });
        match begun {
            Ok(()) => used.publishing = Some(target.clone()),
            // What is in the table is in use.
            Err(_) if used.idle() => drop(drafts.remove(&id)),
            Err(_) => {}
        }
        if begun.is_ok() && later {
            self.arrivals.begin(target.id);
        }
        begun.map(|()| later)
    }

    /// Refuses a draft that its queue would refuse now.
    fn admit_now(&self, id: u64, target: &Target) -> Result<()> {
        let size = self.draft_size(id);
        if target.then == Published::Stays {
            let draft = self.store.draft(id)?;
            self.store.admit_bytes_of(draft.uid, cost(size, &draft.attributes))?;
        }
        self.store.refuse_early(target.queue, Need::of_one(size, 0), target.onto)
    }

    pub(super) fn draft_size(&self, id: u64) -> u64 {
        self.store.bodies().metadata(id).map_or(0, |file| file.len())
    }

    /// Keeps room for a draft that will be enqueued at its last close, which must not fail then.
    fn admit_later(&self, id: u64, queue: u64) -> Result<()> {
        let config = self.store.config(queue)?;
        let size = self.store.bodies().metadata(id)?.len();
        config.admit(size)?;
        let order = Properties::of(&self.store.draft(id)?.attributes).order(config.priorities);
        self.store.reserve(queue, id, Need::of_one(size, order), Patience::None)
    }

    /// Frees the name of a draft that was renamed while it is open for writing. The draft is under another name, hidden, until
    /// its last writer closes it; a crash before that leaves it there to be found.
    fn set_aside(&self, id: u64) -> Result<()> {
        let draft = self.store.draft(id)?;
        let suffix = format!(".unpublished-{id}");
        // In a batch the name may have no dot, and it must not be enqueued with the others after a crash.
        let mut name = if draft.name.starts_with(b".") { draft.name } else { [b".", &draft.name[..]].concat() };
        name.truncate(QUEUE_NAME_MAX - suffix.len());
        name.extend_from_slice(suffix.as_bytes());
        self.store.rename_draft(id, (draft.queue, &name), (Seen::ALL, true), clock::now_ms(), |_| Ok(())).map(drop)
    }

    fn publish_now(self: &Arc<Self>, id: u64, target: Target, by: By, done: Done) {
        let view = self.clone();
        let to = (target.queue, target.name.clone(), target.id);
        let finish = move |result: Result<Durability>, done: Done| {
            let (queue, name, message) = to;
            view.end_arrival(queue, &name, message);
            let mut drafts = view.drafts.lock();
            if let Entry::Occupied(mut used) = drafts.entry(id) {
                used.get_mut().publishing = None;
                if used.get().idle() {
                    view.drop_staged_draft(id, &used.remove());
                }
            }
            drop(drafts);
            match result {
                Ok(Durability::Sync) => view.store.after_sync(done),
                Ok(Durability::Async) => done(Ok(())),
                Err(error) => {
                    view.store.release(queue, id);
                    done(Err(view.rejected(queue, error)));
                }
            }
        };
        self.publish_body(id, target, by, finish, done);
    }

    /// Does it. `body`: that of a large draft, done.
    pub(super) fn publish_draft(&self, id: u64, target: &Target, body: Option<LargeBody>) -> Result<Durability> {
        let draft = self.store.draft(id)?;
        let config = self.store.config(target.queue)?;
        let file = self.store.bodies().open_read(id)?;
        let stat = file.metadata()?;
        let mut size = stat.len();
        config.admit_size(size)?;
        let mut attributes = draft.attributes;
        attributes.retain(|(name, _)| name != SETTLES);
        let how = (target.then, target.onto, target.settles.map(|(_, settles)| settles));
        merge(&mut attributes, &target.properties)?;
        let kept = config.names == Names::Keep;
        // The kernel sets both when bytes are written: they differ when somebody set the one.
        let unset = (stat.mtime(), stat.mtime_nsec()) == (stat.ctime(), stat.ctime_nsec());
        let modified_ns = if kept && unset { None } else { Some(ns_of(stat.modified()?)) };
        let owner = (draft.uid, draft.gid, draft.mode);
        let new = NewMessage {
            id: target.id,
            queue: target.queue,
            name: target.name.clone(),
            uid: draft.uid,
            gid: draft.gid,
            mode: draft.mode,
            modified_ns,
            accessed_ns: Some(ns_of(stat.accessed()?)),
            producer_pid: target.pid,
            attributes,
        };
        let now = clock::now_ms();
        let enqueued = if let Some(body) = body {
            let (copy, sums);
            (copy, (size, sums)) = (body.is_copy().then(|| body.id()), body.done());
            let file = NewBody::File { id: target.id, size, synced: true, sums: &sums };
            let enqueued = self.store.publish(id, new, file, how, now);
            // A refused copy would lie there until the next start.
            if let Some(copy) = copy.filter(|_| !matches!(enqueued, Ok(Enqueued::As(_)))) {
                self.store.discard_body(copy);
            }
            enqueued?
        } else {
            let bytes = read_file_at(&file, 0, INLINE_MAX)?;
            self.store.publish(id, new, NewBody::Inline(&bytes), how, now)?
        };
        if let Some((caller, settles)) = &target.settles {
            self.acked_along(caller, *settles);
        }
        if let Some(key) = target.key() {
            let shown = self.file(Node::Draft(id), size, owner, stat.modified()?);
            self.remember_placed(key, target.pid, enqueued.seq(), shown);
        }
        self.became_ready(target.queue);
        Ok(config.durability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_open_drafts_are_in_the_store_only() {
        let mut used = DraftUse::default();
        let attributes = vec![("user.x".to_owned(), vec![b'x'; 60_000])];
        let record =
            DraftRecord { queue: 1, name: b".d".to_vec(), uid: 1, gid: 1, mode: 0, created: 0, due: 0, attributes };
        for writes in [true, false] {
            used.opened(&Arc::new(tempfile::tempfile().unwrap()), record.clone(), writes);
            let (_, last) = used.last.as_ref().unwrap();
            assert!(last.attributes.is_empty() && last.name == record.name);
        }
    }
}
