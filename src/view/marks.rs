//! What goes with what is published, in the same step: marks, which are attributes of queues and batches, and the acknowledgement
//! of a delivery.

use crate::error::{Error, Result};
use crate::queue::mark::{SETTLES, Says, Settles, attribute_of, check_mark, mark_of};
use crate::queue::state::State;
use crate::store::record::MessageRecord;
use crate::store::{MarkRights, Of, ROOT};

use super::access::{Caller, EXEC, Owner, READ, STICKY, WRITE};
use super::xattr::{Demand, Pairs};
use super::{Node, View};

impl Owner {
    /// What the caller may do with the marks of a queue, as far as the kernel lets the caller do it with its other attributes: those of
    /// a sticky directory its owner sets.
    fn mark_rights(&self, caller: &Caller) -> MarkRights {
        let set = self.allows(caller, WRITE) && (self.mode & STICKY == 0 || self.is_owner(caller));
        MarkRights { set, read: self.allows(caller, READ) }
    }
}

impl View {
    /// What the caller may do with the marks of a queue when enqueuing a batch; `None`: the batch has none.
    pub(super) fn rights_to_marks(&self, caller: &Caller, batch: u64, target: u64) -> Result<Option<MarkRights>> {
        // A request does not tell all groups of a caller: they are asked for only where they matter.
        match self.store.has_marks(batch)? {
            true => Ok(Some(self.owner(&self.store.queue(target)?).mark_rights(caller))),
            false => Ok(None),
        }
    }

    /// The delivery that is acknowledged when the caller publishes what has these attributes. [`Error::NotFound`] when it is over, or
    /// the caller could not find it; [`Error::AccessDenied`] and [`Error::NotPermitted`] when the caller could not remove it.
    pub(super) fn settles(&self, caller: &Caller, attributes: &Pairs) -> Result<Option<Settles>> {
        let Some((_, path)) = attributes.iter().find(|(name, _)| name == SETTLES) else { return Ok(None) };
        let (settles, name) = Settles::parse(path)?;
        let found = self.find_settled(caller, settles, name);
        if matches!(found, Err(Error::NotFound)) {
            self.came_late(caller, name.unwrap_or_default(), settles.delivery);
        }
        found.map(|()| Some(settles))
    }

    fn find_settled(&self, caller: &Caller, settles: Settles, name: Option<&[u8]>) -> Result<()> {
        let queue = self.store.message(settles.seq)?.queue;
        let info = self.store.queue(queue)?;
        let message = self.resolve(caller, (queue, &info), settles.seq, name, &[State::Claimed])?;
        if !Of::This(Some(settles.delivery)).is(&message) {
            return Err(Error::NotFound);
        }
        self.refuse_removing(caller, queue, &message)
    }

    /// Refuses to change what a draft acknowledges that has been renamed to a visible name already, and waits for its last close.
    pub(super) fn refuse_settling_late(&self, draft: u64, name: &str) -> Result<()> {
        if name == SETTLES && self.is_publishing(draft) { Err(Error::Busy) } else { Ok(()) }
    }

    /// Refuses whom the kernel would not let remove a message from `.mq/claimed` of a queue.
    fn refuse_removing(&self, caller: &Caller, queue: u64, message: &MessageRecord) -> Result<()> {
        let owner = self.owner(&self.store.queue(queue)?);
        let mut above = queue;
        while above != 0 {
            let info = self.store.queue(above)?;
            if !self.owner(&info).allows(caller, EXEC) {
                return Err(Error::AccessDenied);
            }
            above = info.parent;
        }
        if !owner.allows(caller, WRITE) {
            return Err(Error::AccessDenied);
        }
        if owner.mode & STICKY != 0 && !owner.is_owner(caller) && !self.message_owner(message).is_owner(caller) {
            return Err(Error::NotPermitted("in a sticky queue, only its owner and the producer remove a message"));
        }
        Ok(())
    }

    /// Says in the log why something was not enqueued, where the error number could mean other things as well.
    pub(super) fn told_along(&self, queue: u64, error: Error) -> Error {
        let why = match error {
            Error::NotFound => "the delivery that it settles is over",
            Error::MarkMoved => "a mark of the queue is not what user.mark-was says",
            _ => return error,
        };
        tracing::info!(queue = self.store.label(queue), why, "not enqueued");
        error
    }

    /// The caller has acknowledged a delivery by publishing something.
    pub(super) fn acked_along(&self, caller: &Caller, settles: Settles) {
        self.forget_own(caller, settles.seq);
        self.note_settled(caller, settles.seq, settles.delivery);
    }

    /// The attribute of that name of a batch, or the mark of a queue.
    pub(super) fn get_mark(&self, node: Node, name: &str) -> Result<Vec<u8>> {
        let (holder, says, mark) = holder_of(node, name).ok_or(Error::NoAttribute)?;
        self.store.mark(holder, says, mark)?.ok_or(Error::NoAttribute)
    }

    /// The names of the attributes that are marks.
    pub(super) fn list_marks(&self, node: Node) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for says in [Says::Is, Says::Was] {
            if let Some((holder, ..)) = holder_of(node, &attribute_of(says, "")) {
                all.extend(self.store.mark_names(holder, says)?.iter().map(|name| attribute_of(says, name)));
            }
        }
        Ok(all)
    }

    /// Sets a mark. The kernel has seen to it that the caller may.
    pub(super) fn set_mark(&self, node: Node, name: &str, value: &[u8], demand: Demand) -> Result<()> {
        let (holder, says, mark) = holder_of(node, name).ok_or(Error::NotSupported)?;
        check_mark(mark, value)?;
        self.refuse_while_enqueued(holder)?;
        self.store.admit_bytes(value.len() as u64)?;
        let there = match demand {
            Demand::None => None,
            Demand::New => Some(false),
            Demand::Old => Some(true),
        };
        self.store.set_mark(holder, (says, mark), value, there)
    }

    /// Removes a mark.
    pub(super) fn remove_mark(&self, node: Node, name: &str) -> Result<()> {
        let (holder, says, mark) = holder_of(node, name).ok_or(Error::NoAttribute)?;
        self.refuse_while_enqueued(holder)?;
        self.store.remove_mark(holder, says, mark)
    }
}

/// Whether an attribute of a node is a mark.
pub(super) fn is_mark(node: Node, name: &str) -> bool {
    holder_of(node, name).is_some()
}

/// The queue or batch whose mark an attribute of a node is, what it says of it, and the name of that. A queue demands nothing.
fn holder_of(node: Node, name: &str) -> Option<(u64, Says, &str)> {
    match (node, mark_of(name)?) {
        (Node::Queue(queue), (Says::Is, mark)) if queue != ROOT => Some((queue, Says::Is, mark)),
        (Node::Batch(batch), (says, mark)) => Some((batch, says, mark)),
        _ => None,
    }
}
