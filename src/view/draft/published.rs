//! Publishing a draft: renamed, or linked, to a visible name it becomes a message.

use std::collections::hash_map::Entry;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::config::{Durability, Names};
use crate::queue::mark::{SETTLES, Settles};
use crate::queue::name::QUEUE_NAME_MAX;
use crate::queue::properties::Properties;
use crate::queue::worker::Worker;
use crate::store::record::{InlineDraft, NewMessage};
use crate::store::users::cost;
use crate::store::{Done, Enqueued, INLINE_MAX, Need, NewBody, Onto, Patience, Published, Seen};

use super::super::access::Caller;
use super::super::attributes::time_ns;
use super::super::names::{Key, Writer};
use super::super::offload::By;
use super::super::publishing::LargeBody;
use super::super::staging::read_file_at;
use super::super::xattr::{Pairs, merge};
use super::super::{Node, View};
use super::bytes::{Content, Shown};

/// Where and how a draft is published.
#[derive(Clone)]
pub(in super::super) struct Target {
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
    /// Makes a draft a message: at once, or when its last writer closes it. `done` when that is as durable as the queue
    /// promises.
    pub(in super::super) fn publish(self: &Arc<Self>, id: u64, target: Target, by: By, done: Done) {
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
        let begun = self.size_of(id, used.open.as_ref()).and_then(|size| {
            self.store.hold_name(target.queue, &target.name, target.id, target.onto)?;
            let admitted = match later {
                true => self.admit_later(id, size, target.queue).and_then(|()| self.set_aside(id)),
                false => self.admit_now(id, size, target),
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
    fn admit_now(&self, id: u64, size: u64, target: &Target) -> Result<()> {
        if target.then == Published::Stays {
            let draft = self.store.draft(id)?;
            self.store.admit_bytes_of(draft.uid, cost(size, &draft.attributes))?;
        }
        self.store.refuse_early(target.queue, Need::of_one(size, 0), target.onto)
    }

    /// Keeps room for a draft that will be enqueued at its last close, which must not fail then.
    fn admit_later(&self, id: u64, size: u64, queue: u64) -> Result<()> {
        let config = self.store.config(queue)?;
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

    pub(super) fn publish_now(self: &Arc<Self>, id: u64, target: Target, by: By, done: Done) {
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
    pub(in super::super) fn publish_draft(
        &self,
        id: u64,
        target: &Target,
        body: Option<LargeBody>,
    ) -> Result<Durability> {
        let draft = self.store.draft(id)?;
        let config = self.store.config(target.queue)?;
        let open = self.open_draft_of(id);
        let mut held = open.as_ref().map(|open| open.lock());
        if let Some(open) = held.as_mut().filter(|_| target.then == Published::Gone) {
            // A large one has just been synced; of a small one the message has the bytes.
            open.enter_file(&self.store)?;
        }
        let content = match &held {
            Some(open) => open.content(),
            None => self.stored_content(id, &draft)?,
        };
        let size = content.size()?;
        config.admit_size(size)?;
        let owner = (draft.uid, draft.gid, draft.mode);
        let times = Times::of(&content)?;
        let mut attributes = draft.attributes;
        attributes.retain(|(name, _)| name != SETTLES);
        merge(&mut attributes, &target.properties)?;
        let new = NewMessage {
            id: target.id,
            queue: target.queue,
            name: target.name.clone(),
            uid: draft.uid,
            gid: draft.gid,
            mode: draft.mode,
            modified_ns: if config.names == Names::Keep && !times.set { None } else { Some(times.modified_ns) },
            accessed_ns: Some(times.accessed_ns),
            producer_pid: target.pid,
            attributes,
        };
        let publish = || self.publish_content(id, target, new, (&content, body));
        let enqueued = match held.as_mut().filter(|_| target.then == Published::Gone) {
            Some(open) => open.leave(&self.store, || publish().map(|(enqueued, size)| (true, (enqueued, size)))),
            None => publish(),
        };
        drop(held);
        let (enqueued, size) = enqueued?;
        if let Some((caller, settles)) = &target.settles {
            self.acked_along(caller, *settles);
        }
        if let Some(key) = target.key() {
            let shown = self.file(Node::Draft(id), size, owner, time_ns(times.modified_ns));
            self.remember_placed(key, target.pid, enqueued.seq(), shown);
        }
        self.became_ready(target.queue);
        Ok(config.durability)
    }

    /// Enqueues the message; gives how long it is, too.
    fn publish_content(
        &self,
        id: u64,
        target: &Target,
        new: NewMessage,
        (content, body): (&Content, Option<LargeBody>),
    ) -> Result<(Enqueued, u64)> {
        let how = (target.then, target.onto, target.settles.as_ref().map(|(_, settles)| *settles));
        let publish = |body: NewBody<'_>| {
            self.store.publish(id, new, body, how, clock::now_ms()).map(|enqueued| (enqueued, body.size()))
        };
        let large = match (content, body) {
            (_, Some(large)) => large,
            // They stay where they are.
            (Content::Stored(inline), None) if target.then == Published::Gone => {
                return publish(NewBody::Draft { id, size: inline.size, crc: inline.crc });
            }
            (Content::Stored(inline), None) => return publish(NewBody::Inline(&self.store.draft_bytes(id, inline)?)),
            (Content::Bytes(_, bytes), None) => return publish(NewBody::Inline(bytes)),
            (Content::File(file), None) => return publish(NewBody::Inline(&read_file_at(file, 0, INLINE_MAX)?)),
        };
        let copy = large.is_copy().then(|| large.id());
        let (size, sums) = large.done();
        let enqueued = publish(NewBody::File { id: target.id, size, synced: true, sums: &sums });
        // A refused copy would lie there until the next start.
        if let Some(copy) = copy.filter(|_| !matches!(enqueued, Ok((Enqueued::As(_), _)))) {
            self.store.discard_body(copy);
        }
        enqueued
    }
}

/// The times of a draft.
struct Times {
    modified_ns: i64,
    accessed_ns: i64,
    /// Somebody has set one since the bytes were changed.
    set: bool,
}

impl Times {
    fn of(content: &Content) -> Result<Self> {
        Ok(match content {
            Content::Stored(inline) | Content::Bytes(inline, _) => {
                let InlineDraft { modified_ns, accessed_ns, times_set: set, .. } = *inline;
                Self { modified_ns, accessed_ns, set }
            }
            Content::File(file) => {
                let stat = file.metadata()?;
                let Shown { modified_ns, accessed_ns, .. } = Shown::of_file(&stat)?;
                // The kernel sets both when bytes are written: they differ when somebody set the one.
                let set = (stat.mtime(), stat.mtime_nsec()) != (stat.ctime(), stat.ctime_nsec());
                Self { modified_ns, accessed_ns, set }
            }
        })
    }
}
