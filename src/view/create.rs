//! Creating a file: a new message, or a draft.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::queue::config::{Names, Publish, QueueConfig};
use crate::queue::name::{MAX_KEPT_NAME, Name, check_entry_name, check_producer_name, classify, stripped};
use crate::store::record::NewMessage;
use crate::store::{Onto, QueueInfo, ROOT, Seen};

use super::access::Caller;
use super::attributes::FILE_MODE;
use super::handles::Handle;
use super::open::{Flags, Opened};
use super::staging::Staging;
use super::with::is_draft_given;
use super::writer::{SharedWriter, Writer};
use super::xattr::{Pairs, memory};
use super::{Attributes, Node, View};

/// Every open writer is sure of this much room before its first byte.
const ROOM_FOR_ONE: u64 = 64 * 1024;

/// Whether a file that is created under that name is a draft.
pub(super) fn is_new_draft(config: &QueueConfig, directory: Node, name: &[u8]) -> bool {
    is_draft_name(config, directory, name) || config.publish == Publish::Rename && matches!(directory, Node::Queue(_))
}

/// Whether a draft that gets that name stays one.
pub(super) fn is_draft_name(config: &QueueConfig, directory: Node, name: &[u8]) -> bool {
    match directory {
        Node::Given(_) => is_draft_given(name),
        _ => config.drafts.fit(name),
    }
}

impl View {
    /// The group of what a caller makes in a queue: that of a set-group-id queue, the caller's elsewhere.
    pub(super) fn group_in(&self, queue: &QueueInfo, caller: &Caller) -> u32 {
        if queue.mode & 0o2000 != 0 { queue.gid } else { caller.gid }
    }

    /// The name under which a producer's file is enqueued: a name in sequence form loses its prefix, unless names are kept.
    pub(super) fn producer_name<'a>(&self, queue: u64, name: &'a [u8]) -> Result<&'a [u8]> {
        let config = self.store.config(queue)?;
        let kept = config.names == Names::Keep;
        let name = if kept { name } else { stripped(name, |seq| self.store.gave_out(seq)) };
        match kept {
            true if name.len() > MAX_KEPT_NAME => return Err(Error::NameTooLong),
            true => {}
            false => check_producer_name(name, config.priorities > 1)?,
        }
        if matches!(classify(name), Name::Control | Name::Draft(_)) {
            return Err(Error::NotPermitted("a message's name does not begin with a dot"));
        }
        Ok(name)
    }

    /// Creates and opens a file.
    pub fn create(
        self: &Arc<Self>,
        caller: &Caller,
        directory: Node,
        name: &[u8],
        mode: u32,
        flags: i32,
    ) -> Result<(Attributes, Opened)> {
        self.refuse_read_only()?;
        self.refuse_when_going_away()?;
        self.handles.admit(caller, true)?;
        check_entry_name(name)?;
        let flags = Flags(flags);
        if let Node::Batch(batch) = directory {
            self.check_batch_file(batch, name)?;
            return self.create_or_open_draft(caller, (batch, name), mode, flags, (Pairs::new(), Seen::ALL));
        }
        let (queue, properties) = self.entrance(directory)?;
        if queue == ROOT {
            return Err(Error::NotPermitted("the root of the mount holds queues only"));
        }
        // In the queue itself the kernel has found that out.
        if matches!(directory, Node::Given(_)) && self.store.find_queue(queue, name).is_ok() {
            return Err(Error::IsDirectory);
        }
        let info = self.store.queue(queue)?;
        let config = &info.config;
        match self.kind(name) {
            Name::Control => Err(Error::IsDirectory),
            kind if is_new_draft(config, directory, name) => match kind {
                // It would be taken for a message's.
                Name::Sequence { .. } if config.names != Names::Keep => {
                    Err(Error::NotPermitted("a draft has no name in the form of a message's"))
                }
                _ => {
                    let seen = self.seen(caller, &info);
                    self.create_or_open_draft(caller, (queue, name), mode, flags, (properties, seen))
                }
            },
            // `touch` of a message that somebody has just taken must not make another.
            Name::Sequence { seq, .. }
                if !flags.exclusive()
                    && !flags.truncates()
                    && self.store.gave_out(seq)
                    && config.names != Names::Keep =>
            {
                Err(Error::NotFound)
            }
            _ => self.create_message(caller, (queue, name), mode, properties, !flags.nonblocking()),
        }
    }

    fn create_or_open_draft(
        self: &Arc<Self>,
        caller: &Caller,
        (queue, name): (u64, &[u8]),
        mode: u32,
        flags: Flags,
        (properties, seen): (Pairs, Seen),
    ) -> Result<(Attributes, Opened)> {
        match self.create_draft(caller, (queue, name), mode, properties, seen) {
            Ok((id, open)) => {
                let attributes = self.attributes(Node::Draft(id))?;
                let handle = self.handles.add(caller, Handle::Draft { id, open, writes: true });
                Ok((attributes, Opened::plain(handle)))
            }
            // Somebody else made it between the kernel's lookup and now.
            Err(Error::Exists) if !flags.exclusive() => {
                let id = self.store.find_draft(queue, name, seen)?;
                let opened = self.open(caller, Node::Draft(id), flags.0)?;
                Ok((self.attributes(Node::Draft(id))?, opened))
            }
            Err(error) => Err(error),
        }
    }

    fn create_message(
        &self,
        caller: &Caller,
        (queue, name): (u64, &[u8]),
        mode: u32,
        attributes: Pairs,
        waits: bool,
    ) -> Result<(Attributes, Opened)> {
        let writer = self.new_writer(caller, (queue, name), mode, attributes, waits)?;
        let writer = writer.lock();
        // Bytes go straight through: nobody reads them back, and the kernel asks for no attributes before the first write.
        let handle = self.handles.add(caller, Handle::Writer(writer.id()));
        Ok((self.writer_attributes(&writer), Opened { direct: true, ..Opened::plain(handle) }))
    }

    /// Begins a message.
    pub(super) fn new_writer(
        &self,
        caller: &Caller,
        (queue, name): (u64, &[u8]),
        mode: u32,
        attributes: Pairs,
        waits: bool,
    ) -> Result<Arc<SharedWriter>> {
        let producer_name = self.producer_name(queue, name)?;
        let info = self.store.queue(queue)?;
        self.store.admit_bytes(ROOM_FOR_ONE)?;
        let held = self.handles.attributes.hold(caller.uid, memory(&attributes))?;
        let mut charge = self.store.user_bytes(caller.uid);
        self.store.hold_bytes(&mut charge, 1)?;
        let id = self.store.next_id()?;
        let keeps = info.config.names == Names::Keep;
        if keeps {
            self.store.hold_name(queue, producer_name, id, Onto::Nothing)?;
        }
        let holds_room = self
            .admit_message((queue, id), &info.config, &attributes, waits)
            .inspect_err(|_| self.store.release_name(queue, producer_name, id))?;
        let new = NewMessage {
            id,
            queue,
            name: producer_name.to_vec(),
            uid: caller.uid,
            gid: self.group_in(&info, caller),
            mode: mode & FILE_MODE,
            modified_ns: None,
            accessed_ns: None,
            producer_pid: 0,
            attributes,
        };
        if keeps {
            self.arrivals.begin(id);
        }
        let staging = Staging::new(id).within(&self.handles.staged, caller.uid);
        let writer = Writer::new(new, (held, charge, staging), name, info.config, caller, holds_room);
        let (key, opener) = (writer.key(), writer.opener());
        let writer = Arc::new(SharedWriter::new(writer));
        self.writers.lock().insert(id, writer.clone());
        let mut names = self.names.lock();
        names.arrived(caller.pid);
        if let Some(key) = key {
            names.open(key, opener, id);
        }
        drop(names);
        Ok(writer)
    }
}
