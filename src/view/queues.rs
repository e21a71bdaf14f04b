//! Directories: making and removing queues.

use crate::error::{Error, Result};
use crate::queue::name::{Name, check_queue_name, classify};
use crate::store::{NewQueue, QueueInfo, ROOT};

use super::access::Caller;
use super::attributes::DIRECTORY_MODE;
use super::create::is_new_draft;
use super::{Attributes, Node, View};

impl View {
    /// Makes a queue, or a batch in `.mq/batch`.
    pub fn make_directory(&self, caller: &Caller, directory: Node, name: &[u8], mode: u32) -> Result<Attributes> {
        self.refuse_read_only()?;
        let parent = match directory {
            Node::Queue(parent) | Node::Batches(parent) => parent,
            Node::Batch(_) => return Err(Error::NotPermitted("a batch holds files only")),
            _ => return Err(Error::NotPermitted("nothing is created in a control directory")),
        };
        check_queue_name(name)?;
        let info = self.store.queue(parent)?;
        if matches!(directory, Node::Queue(_)) {
            self.refuse_among_drafts(caller, (parent, &info), name)?;
        }
        self.store.admit_bytes(0)?;
        // A set-group-id directory hands its group and the bit itself down.
        let inherited = info.mode & 0o2000;
        let new = NewQueue {
            parent,
            name,
            uid: caller.uid,
            gid: self.group_in(&info, caller),
            mode: (mode & DIRECTORY_MODE) | inherited,
        };
        self.attributes(match directory {
            Node::Batches(_) => Node::Batch(self.store.make_batch(new)?),
            _ => Node::Queue(self.store.make_queue(new)?),
        })
    }

    /// Refuses to give a queue a name that files have as drafts, where those of others do not resolve: it would tell of a draft that is
    /// there, or be in the way of one that comes.
    pub(super) fn refuse_among_drafts(
        &self,
        caller: &Caller,
        (parent, info): (u64, &QueueInfo),
        name: &[u8],
    ) -> Result<()> {
        let hides = parent != ROOT && is_new_draft(&info.config, Node::Queue(parent), name);
        if hides && !self.seen(caller, info).all {
            return Err(Error::NotPermitted("who cannot list the queue does not take the names of others' drafts"));
        }
        Ok(())
    }

    /// Removes a queue, or a batch, that holds nothing.
    pub fn remove_directory(&self, directory: Node, name: &[u8]) -> Result<()> {
        self.refuse_read_only()?;
        if let Node::Batches(queue) = directory {
            self.refuse_while_enqueued(self.store.find_batch(queue, name)?)?;
            return self.store.remove_batch(queue, name);
        }
        let Node::Queue(parent) = directory else {
            return Err(Error::NotPermitted("control directories cannot be removed"));
        };
        if classify(name) == Name::Control {
            return Err(Error::NotPermitted("control directories cannot be removed"));
        }
        let queue = self.store.find_queue(parent, name)?;
        self.refuse_while_written(queue)?;
        self.store.remove_queue(parent, name)?;
        // Whoever waits there learns that there is nothing to wait for.
        self.became_ready(queue);
        Ok(())
    }

    /// A message that is being written is in its queue already, for those who want to remove that.
    pub(super) fn refuse_while_written(&self, queue: u64) -> Result<()> {
        let open: Vec<_> = self.writers.lock().values().cloned().collect();
        if open.iter().any(|writer| writer.lock().queue == queue) { Err(Error::NotEmpty) } else { Ok(()) }
    }
}
