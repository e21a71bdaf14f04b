//! What `stat` shows of each node.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock;
use crate::error::{Error, Result};
use crate::store::record::{DraftRecord, MessageRecord};
use crate::store::{QueueInfo, ROOT};

use super::access::{Caller, Owner, READ, STICKY};
use super::writer::Writer;
use super::{Node, Via, View};

/// A directory or a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// The node.
    pub node: Node,
    /// A directory or a file.
    pub kind: Kind,
    /// Length in bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Links: one, and for a directory one more for each nested queue.
    pub links: u32,
    /// Time of the last access: when the file was made, unless a program set another.
    pub accessed: SystemTime,
    /// Time of the last change of the bytes.
    pub modified: SystemTime,
    /// Time of the last change of the rest.
    pub changed: SystemTime,
}

/// The permission bits of a file: no set-id bits, no sticky bit.
pub const FILE_MODE: u32 = 0o777;
/// The permission bits of a directory.
pub const DIRECTORY_MODE: u32 = 0o3777;

impl Attributes {
    /// How long the kernel may believe this without asking. A name of a file must be asked for each time, as it may mean
    /// something else to the next process, or after the next rename; directories change through this kernel only.
    pub fn name_valid(&self) -> Duration {
        match (self.kind, self.node) {
            // A name that the kernel may not believe is forgotten as soon as nobody uses it: there may be one for each message.
            (_, Node::Given(_)) | (Kind::File, _) => Duration::ZERO,
            // Its name is gone when it is enqueued.
            (_, Node::Batch(_)) => Duration::ZERO,
            (Kind::Directory, _) => Duration::from_secs(60),
        }
    }

    /// How long the kernel may believe the attributes without asking. Those of control directories change with their queue,
    /// unseen by the kernel.
    pub fn valid(&self) -> Duration {
        match self.node {
            Node::Queue(_) => Duration::from_secs(1),
            Node::Message(..) | Node::Granted(..) | Node::Delivery(..) => Duration::from_secs(1),
            // Their names are asked for each time. If the kernel asked once more before it opens them, it could be told, too late to
            // look up once more, that they mean something else by now.
            Node::Unfinished(_) | Node::Gone(_) => Duration::from_secs(10),
            _ => Duration::ZERO,
        }
    }
}

/// A time from milliseconds since the epoch.
pub fn time_ms(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

/// A time from nanoseconds since the epoch.
pub fn time_ns(ns: i64) -> SystemTime {
    let since = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 { UNIX_EPOCH - since } else { UNIX_EPOCH + since }
}

/// Nanoseconds since the epoch of a time.
pub fn ns_of(time: SystemTime) -> i64 {
    let ns = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => ns(since),
        Err(before) => -ns(before.duration()),
    }
}

/// The links of a directory that holds so many others.
fn links(directories: u64) -> u32 {
    u32::try_from(directories).unwrap_or(u32::MAX - 2).saturating_add(2)
}

impl View {
    /// Who a queue belongs to, as the mount shows it: this also decides who may consume.
    pub(super) fn owner(&self, queue: &QueueInfo) -> Owner {
        self.options.guise.of(Owner { uid: queue.uid, gid: queue.gid, mode: queue.mode })
    }

    pub(super) fn file(&self, node: Node, size: u64, owner: (u32, u32, u32), modified: SystemTime) -> Attributes {
        let Owner { uid, gid, mode } = self.file_owner(owner);
        Attributes {
            node,
            kind: Kind::File,
            size,
            mode,
            uid,
            gid,
            links: 1,
            accessed: modified,
            modified,
            changed: modified,
        }
    }

    /// Who a file of this user, group and mode belongs to, as the mount shows it.
    pub(super) fn file_owner(&self, (uid, gid, mode): (u32, u32, u32)) -> Owner {
        self.options.guise.of(Owner { uid, gid, mode: mode & FILE_MODE })
    }

    /// Who a message belongs to, as the mount shows it.
    pub(super) fn message_owner(&self, message: &MessageRecord) -> Owner {
        self.file_owner((message.uid, message.gid, message.mode))
    }

    /// Who a draft belongs to, as the mount shows it.
    pub(super) fn draft_owner(&self, draft: &DraftRecord) -> Owner {
        self.file_owner((draft.uid, draft.gid, draft.mode))
    }

    /// What a lookup of a message shows to a caller. Whoever may consume may read every message of the queue, whatever its
    /// mode.
    pub(super) fn found_message(
        &self,
        caller: &Caller,
        seq: u64,
        via: Via,
        message: &MessageRecord,
    ) -> Result<Attributes> {
        let refused = !self.message_owner(message).allows(caller, READ);
        let granted = refused && self.owner(&self.store.queue(message.queue)?).may_consume(caller);
        let node = if granted { Node::Granted(seq, via) } else { Node::Message(seq, via) };
        let shown = self.message_attributes(node, message);
        Ok(Attributes { node: self.node_to_lock(caller, node), ..shown })
    }

    pub(super) fn message_attributes(&self, node: Node, message: &MessageRecord) -> Attributes {
        let owner = (message.uid, message.gid, message.mode);
        let shown = self.file(node, message.size, owner, time_ns(message.modified_ns));
        let granted = match node {
            Node::Granted(..) => 0o444,
            Node::Delivery(_, true) => 0o666,
            _ => 0,
        };
        let accessed = message.accessed_ns.map_or(shown.modified, time_ns);
        Attributes { mode: shown.mode | granted, accessed, changed: time_ms(message.enqueued_at), ..shown }
    }

    pub(super) fn writer_attributes(&self, writer: &Writer) -> Attributes {
        let owner = (writer.uid, writer.gid, writer.mode);
        let shown = self.file(Node::Writer(writer.id()), writer.size(), owner, writer.modified());
        Attributes { accessed: writer.accessed(), links: u32::from(!writer.is_unlinked()), ..shown }
    }

    /// What a directory or control file of a queue shows: the queue's owner and group, the mode derived for each class.
    pub(super) fn queue_attributes(&self, node: Node, id: u64) -> Result<Attributes> {
        let queue = self.store.queue(id)?;
        let owner = self.owner(&queue);
        let readable = owner.mode & 0o444;
        let (kind, mode, size) = match node {
            // The length of a text is for those who may read it: `View::measure`.
            Node::Config(_) => (Kind::File, readable | 0o200, 0),
            Node::Stats(_) | Node::Version => (Kind::File, readable, 0),
            Node::Metrics => (Kind::File, 0o444, 0),
            Node::Backup => (Kind::File, 0o400, 0),
            // Those who may consume: who has all three, and in a sticky queue its owner.
            Node::Claim(_) | Node::Pop(_) => {
                let consumers = readable & (owner.mode << 1) & (owner.mode << 2);
                (Kind::File, if owner.mode & STICKY == 0 { consumers } else { consumers & 0o400 }, 0)
            }
            Node::Nack(_) => {
                let consumers = owner.mode & (owner.mode >> 1) & (owner.mode << 1) & 0o222;
                (Kind::File, if owner.mode & STICKY == 0 { consumers } else { consumers & 0o200 }, 0)
            }
            Node::Lines(..) => (Kind::File, owner.mode & 0o666, 0),
            Node::Purge(_) => (Kind::File, 0o200, 0),
            _ => (Kind::Directory, owner.mode & DIRECTORY_MODE, 4096),
        };
        let changed = time_ms(queue.counters.changed.max(queue.created));
        // What is set of the directory is not set of what is in it.
        let own = matches!(node, Node::Queue(_) | Node::Batch(_));
        let modified = queue.modified_ns.filter(|_| own).map_or(changed, time_ns);
        Ok(Attributes {
            node,
            kind,
            size,
            mode,
            // Whatever the mount shows as the owner of the rest: it is this process's user who may.
            uid: if node == Node::Backup { Self::process_owner() } else { owner.uid },
            gid: owner.gid,
            links: match node {
                Node::Queue(_) => links(queue.counters.queues),
                Node::Batches(_) => links(queue.counters.batches),
                _ => 1 + u32::from(kind == Kind::Directory),
            },
            accessed: queue.accessed_ns.filter(|_| own).map_or(modified, time_ns),
            modified,
            changed,
        })
    }

    /// What `stat` shows of a node.
    pub fn attributes(&self, node: Node) -> Result<Attributes> {
        let meant = self.meant(node);
        if meant != node {
            return self.attributes(meant).map(|shown| Attributes { node, ..shown });
        }
        match node {
            Node::Queue(id)
            | Node::Control(id)
            | Node::Peek(id)
            | Node::Claimed(id)
            | Node::Dead(id)
            | Node::Delayed(id)
            | Node::Batches(id)
            | Node::Batch(id)
            | Node::With(id)
            | Node::Claim(id)
            | Node::Pop(id)
            | Node::Lines(id, _)
            | Node::Purge(id)
            | Node::Nack(id)
            | Node::Config(id)
            | Node::Stats(id) => self.queue_attributes(node, id),
            Node::Given(number) => self.queue_attributes(node, self.queue_given(number)?),
            Node::Version | Node::Metrics | Node::Backup => self.queue_attributes(node, ROOT),
            Node::Message(..) | Node::Granted(..) | Node::Delivery(..) => {
                let reach = self.reach(node)?.ok_or(Error::Stale)?;
                match self.reached(&reach) {
                    Ok(message) => Ok(self.message_attributes(node, &message)),
                    // A message that is gone is still what an open descriptor shows. To others the kernel looks its name up
                    // again: it may be that of another one, or there to be created.
                    Err(Error::NotFound) => {
                        let open = self.handles.attributes_of(reach.seq);
                        let shown = open.or_else(|| self.names.lock().shown_lately(node)).ok_or(Error::Stale)?;
                        Ok(Attributes { node, ..shown })
                    }
                    Err(error) => Err(error),
                }
            }
            Node::Writer(id) => {
                let writer = self.writer(id)?;
                let writer = writer.lock();
                Ok(self.writer_attributes(&writer))
            }
            Node::Unfinished(id) => self.unfinished_attributes(id),
            Node::Gone(age) => {
                let names = self.names.lock();
                let shown =
                    names.gone(age, clock::now_ms()).or_else(|| names.shown_lately(node)).ok_or(Error::Stale)?;
                Ok(Attributes { node, ..shown })
            }
            Node::Draft(id) => self.any_draft_attributes(id),
            Node::Locked(..) => self.attributes(node.plain()),
        }
    }
}
