//! Drafts: ordinary files until one is renamed (or linked) to a visible name, which publishes it.

use std::collections::hash_map::Entry;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::config::Durability;
use crate::queue::worker::Worker;
use crate::store::record::{DraftRecord, NewMessage};
use crate::store::{Done, INLINE_MAX, NewBody, Published};

use super::access::Caller;
use super::attributes::{FILE_MODE, ns_of};
use super::names::Writer;
use super::queues::QUEUE_NAME_MAX;
use super::staging::read_file_at;
use super::{Attributes, View};

/// A draft that somebody has open, or that is being published.
#[derive(Default)]
pub(super) struct DraftUse {
    /// Open files.
    opens: u32,
    /// Those of them that can write.
    writes: u32,
    /// Its file and its record when it was opened last: what `fstat` shows when it is a draft no more.
    last: Option<(Arc<File>, DraftRecord)>,
    /// It was renamed to a visible name: from then on it is neither listed nor found.
    publishing: Option<Target>,
}

/// Where and how a draft is published.
#[derive(Clone)]
pub(super) struct Target {
    /// The queue.
    pub queue: u64,
    /// The producer's name.
    pub name: Vec<u8>,
    /// Whether the draft stays, as after `link`.
    pub then: Published,
    /// The name that it was given, and the producer's session and user: for the bare name.
    pub written_as: (Vec<u8>, Option<Writer>),
    /// The producer's process.
    pub pid: u32,
}

impl DraftUse {
    fn opened(&mut self, file: &Arc<File>, record: DraftRecord, writes: bool) {
        self.opens += 1;
        self.writes += u32::from(writes);
        self.last = Some((file.clone(), record));
    }

    fn idle(&self) -> bool {
        self.opens == 0 && self.publishing.is_none()
    }
}

impl Target {
    /// For a rename or link that `asker` asked for, as the user `uid`: the name without a prefix, and as it was given.
    pub fn new(uid: u32, asker: Option<Worker>, queue: u64, names: (&[u8], &[u8]), then: Published) -> Self {
        let (name, written_as) = names;
        let writer = asker.map(|asker| Writer { session: asker.session, uid });
        let pid = asker.map_or(0, |asker| asker.process.tgid);
        Self { queue, name: name.to_vec(), then, written_as: (written_as.to_vec(), writer), pid }
    }
}

impl View {
    /// Makes a draft, open; gives its number and file.
    pub(super) fn create_draft(&self, caller: &Caller, queue: u64, name: &[u8], mode: u32) -> Result<(u64, Arc<File>)> {
        let now = clock::now_ms();
        let info = self.store.queue(queue)?;
        let ttl = u64::try_from(info.config.draft_ttl.as_millis()).unwrap_or(u64::MAX);
        let record = DraftRecord {
            queue,
            name: name.to_vec(),
            uid: caller.uid,
            gid: self.group_in(&info, caller),
            mode: mode & FILE_MODE,
            created: now,
            due: if ttl == 0 { 0 } else { now.saturating_add(ttl) },
            attributes: Vec::new(),
        };
        self.store.space().admit(0)?;
        let (id, file) = self.store.make_draft(&record)?;
        let file = Arc::new(file);
        self.drafts.lock().entry(id).or_default().opened(&file, record, true);
        Ok((id, file))
    }

    /// The file of a draft, when somebody has it open.
    pub(super) fn open_draft_file(&self, id: u64) -> Option<Arc<File>> {
        self.drafts.lock().get(&id).and_then(|used| used.last.as_ref().map(|(file, _)| file.clone()))
    }

    /// Opens a draft's file.
    pub(super) fn open_draft(&self, id: u64, writes: bool, truncate: bool) -> Result<Arc<File>> {
        let mut drafts = self.drafts.lock();
        if drafts.get(&id).is_some_and(|used| used.publishing.is_some()) {
            return Err(Error::Stale);
        }
        let record = self.store.draft(id)?;
        let file = if writes { self.store.bodies().open_write(id)? } else { self.store.bodies().open_read(id)? };
        if truncate && writes {
            file.set_len(0)?;
        }
        let file = Arc::new(file);
        drafts.entry(id).or_default().opened(&file, record, writes);
        Ok(file)
    }

    /// Writes into a draft.
    pub(super) fn write_draft(&self, id: u64, file: &File, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset.checked_add(data.len() as u64).ok_or(Error::MessageTooLarge)?;
        // An unlinked draft has no queue to set a limit.
        if let Ok(draft) = self.store.draft(id) {
            self.admit(&self.store.queue(draft.queue)?.config, end, data.len() as u64)?;
        }
        file.write_all_at(data, offset)?;
        Ok(())
    }

    /// `fsync` on a draft: its bytes, its name and its record.
    pub(super) fn sync_draft(self: &Arc<Self>, id: u64, file: Arc<File>, done: Done) {
        let view = self.clone();
        self.offload.run(Box::new(move || match view.store.bodies().sync(id, &file) {
            Ok(()) => view.store.after_sync(done),
            Err(error) => done(Err(error)),
        }));
    }

    /// An open file on a draft was closed for the last time.
    pub(super) fn release_draft(self: &Arc<Self>, id: u64, writes: bool) {
        let target = {
            let mut drafts = self.drafts.lock();
            let Entry::Occupied(mut entry) = drafts.entry(id) else { return };
            let used = entry.get_mut();
            used.opens -= 1;
            used.writes -= u32::from(writes);
            let last_writer = writes && used.writes == 0;
            let target = used.publishing.clone().filter(|target| last_writer && target.then == Published::Gone);
            if used.idle() {
                entry.remove();
            }
            target
        };
        let Some(target) = target else { return };
        let report = Box::new(move |result: Result<()>| {
            if let Err(error) = result {
                tracing::error!(draft = id, %error, "a renamed draft could not be enqueued at its last close");
            }
        });
        self.publish_now(id, target, report);
    }

    /// Whether a draft has been renamed to a visible name already.
    pub(super) fn is_publishing(&self, id: u64) -> bool {
        let drafts = self.drafts.lock();
        drafts.get(&id).is_some_and(|used| used.publishing.as_ref().is_some_and(|to| to.then == Published::Gone))
    }

    /// What `stat` shows of a draft.
    pub(super) fn any_draft_attributes(&self, id: u64) -> Result<Attributes> {
        match self.store.draft(id) {
            Ok(draft) => self.draft_attributes(id, &draft, &std::fs::metadata(self.store.bodies().path(id))?),
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
    pub(super) fn publish(self: &Arc<Self>, id: u64, target: Target, done: Done) {
        {
            let mut drafts = self.drafts.lock();
            let used = drafts.entry(id).or_default();
            if used.publishing.is_some() {
                return done(Err(Error::Busy));
            }
            if used.writes > 0 && target.then == Published::Gone {
                if let Err(error) = self.set_aside(id) {
                    return done(Err(error));
                }
                used.publishing = Some(target);
                return done(Ok(()));
            }
            used.publishing = Some(target.clone());
        }
        self.publish_now(id, target, done);
    }

    /// Frees the name of a draft that was renamed while it is open for writing. The draft is under another name, hidden, until
    /// its last writer closes it; a crash before that leaves it there to be found.
    fn set_aside(&self, id: u64) -> Result<()> {
        let draft = self.store.draft(id)?;
        let suffix = format!(".unpublished-{id}");
        let mut name = draft.name;
        name.truncate(QUEUE_NAME_MAX - suffix.len());
        name.extend_from_slice(suffix.as_bytes());
        self.store.rename_draft(id, draft.queue, &name, true, clock::now_ms()).map(drop)
    }

    fn publish_now(self: &Arc<Self>, id: u64, target: Target, done: Done) {
        let view = self.clone();
        let finish = move |result: Result<Durability>, done: Done| {
            let mut drafts = view.drafts.lock();
            if let Entry::Occupied(mut used) = drafts.entry(id) {
                used.get_mut().publishing = None;
                if used.get().idle() {
                    used.remove();
                }
            }
            drop(drafts);
            match result {
                Ok(Durability::Sync) => view.store.after_sync(done),
                Ok(Durability::Async) => done(Ok(())),
                Err(error) => done(Err(error)),
            }
        };
        let small = std::fs::metadata(self.store.bodies().path(id)).map_or(0, |file| file.len()) <= INLINE_MAX as u64;
        if small && target.then == Published::Gone {
            return finish(self.publish_draft(id, &target), done);
        }
        let view = self.clone();
        self.offload.run(Box::new(move || finish(view.publish_draft(id, &target), done)));
    }

    /// Does it. May wait for the disk when the body is large.
    fn publish_draft(&self, id: u64, target: &Target) -> Result<Durability> {
        let draft = self.store.draft(id)?;
        let config = self.store.config(target.queue)?;
        let bodies = self.store.bodies();
        let file = bodies.open_read(id)?;
        let stat = file.metadata()?;
        let size = stat.len();
        if config.max_message_bytes > 0 && size > config.max_message_bytes {
            return Err(Error::MessageTooLarge);
        }
        let moves = target.then == Published::Gone;
        let new = NewMessage {
            id: if moves { id } else { self.store.next_id()? },
            queue: target.queue,
            name: target.name.clone(),
            uid: draft.uid,
            gid: draft.gid,
            mode: draft.mode,
            modified_ns: Some(ns_of(stat.modified()?)),
            producer_pid: target.pid,
            attributes: draft.attributes,
        };
        let now = clock::now_ms();
        let seq = if size <= INLINE_MAX as u64 {
            let bytes = read_file_at(&file, 0, INLINE_MAX)?;
            self.store.publish(id, new, NewBody::Inline(&bytes), target.then, now)?
        } else {
            let body = if moves { id } else { self.store.next_id()? };
            if moves {
                bodies.sync(body, &file)?;
            } else {
                let mut copy = bodies.create(body)?;
                std::io::copy(&mut &file, &mut copy)?;
                bodies.sync(body, &copy)?;
            }
            self.store.publish(id, new, NewBody::File { id: body, size, synced: true }, target.then, now)?
        };
        if let (name, Some(writer)) = &target.written_as {
            self.names.lock().set(target.queue, name, *writer, seq);
        }
        Ok(config.durability)
    }
}
