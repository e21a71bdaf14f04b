//! `chmod`, `chown`, `truncate`, `utimes`. The kernel has checked who may (`default_permissions`).

use std::sync::Arc;
use std::time::SystemTime;

use crate::clock;
use crate::error::{Error, Result};

use super::access::Caller;
use super::attributes::{DIRECTORY_MODE, FILE_MODE, ns_of};
use super::deliveries::Reach;
use super::draft::SharedDraft;
use super::{Attributes, Node, Via, View};

/// What is to be changed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Time of the last access.
    pub accessed: Option<SystemTime>,
    /// Time of the last modification.
    pub modified: Option<SystemTime>,
}

impl Change {
    fn owner_or_mode(&self) -> bool {
        self.mode.is_some() || self.uid.is_some() || self.gid.is_some()
    }

    fn times(&self) -> bool {
        self.accessed.is_some() || self.modified.is_some()
    }

    fn apply(&self, mode: &mut u32, uid: &mut u32, gid: &mut u32, bits: u32) {
        if let Some(new) = self.mode {
            *mode = new & bits;
        }
        *uid = self.uid.unwrap_or(*uid);
        *gid = self.gid.unwrap_or(*gid);
    }
}

impl View {
    /// Changes what `stat` shows of a node, maybe by way of the open file `handle`; gives what it shows now.
    pub fn set_attributes(
        self: &Arc<Self>,
        caller: &Caller,
        node: Node,
        handle: Option<u64>,
        change: Change,
    ) -> Result<Attributes> {
        self.refuse_read_only()?;
        self.cut_again(caller, handle, change.size)?;
        match self.meant(node) {
            Node::Queue(queue) | Node::Batch(queue) if change.owner_or_mode() || change.times() => {
                self.change_queue(queue, change)?;
            }
            Node::Queue(_) | Node::Batch(_) => {}
            Node::Message(..) | Node::Granted(..) | Node::Delivery(..) => {
                let reach = self.reach(node)?.ok_or(Error::Stale)?;
                match self.change_message(caller, reach, change) {
                    // It has left since it was looked up or opened.
                    Err(Error::NotFound) => {
                        let shown = self.left_of_own(caller, reach.seq).ok_or(Error::NotFound)?;
                        return Ok(Attributes { node, ..shown });
                    }
                    changed => changed?,
                }
            }
            Node::Writer(id) | Node::Unfinished(id) => self.change_writer(caller, id, change)?,
            // It has left; its producer was told that all went well, and so it is.
            Node::Gone(_) if change.size.is_none() => {}
            Node::Gone(_) => return Err(Error::NotPermitted("a committed message never changes")),
            Node::Draft(id) => self.change_draft(id, change)?,
            // `> config` truncates; what is written next names what is to change. Lines are only ever added.
            Node::Config(_) | Node::Lines(..) | Node::Nack(_) | Node::Purge(_) if !change.owner_or_mode() => {}
            _ if change.owner_or_mode() || change.size.is_some() => {
                return Err(Error::NotPermitted("control files follow their queue"));
            }
            _ => {}
        }
        self.attributes(node)
    }

    fn change_queue(&self, queue: u64, change: Change) -> Result<()> {
        let shown = self.attributes(Node::Queue(queue))?;
        let now = clock::now_ms();
        self.store.alter_queue_at(queue, now, |record| {
            change.apply(&mut record.mode, &mut record.uid, &mut record.gid, DIRECTORY_MODE);
            // Neither is a change of what the directory holds, which alone makes another time of modification.
            record.modified_ns = Some(ns_of(change.modified.unwrap_or(shown.modified)));
            record.modified_at = now;
            record.accessed_ns = Some(ns_of(change.accessed.unwrap_or(shown.accessed)));
            Ok(())
        })
    }

    fn change_message(&self, caller: &Caller, Reach { seq, via, of }: Reach, change: Change) -> Result<()> {
        if change.size.is_some() {
            return Err(Error::NotPermitted("a committed message never changes"));
        }
        let now = clock::now_ms();
        let message = self.store.set_message_stat(seq, of, now, |mode, uid, gid, times| {
            change.apply(mode, uid, gid, FILE_MODE);
            if change.times() {
                // That it was accessed when it was modified is so only as long as nobody set the one.
                times.accessed_ns = Some(change.accessed.map_or(times.accessed(), ns_of));
                times.modified_ns = change.modified.map_or(times.modified_ns, ns_of);
            }
        })?;
        // `touch -c` by its worker: another visibility timeout from now. The kernel let the owner of the message in, and whoever
        // may write to it; they need not be consumers.
        let renews = change.times() && message.claim.is_some() && via != Via::Peek;
        if renews && self.owner(&self.store.queue(message.queue)?).may_consume(caller) {
            self.store.renew(seq, of, now)?;
        }
        Ok(())
    }

    fn change_writer(&self, caller: &Caller, id: u64, change: Change) -> Result<()> {
        let writer = self.writer(id)?;
        let mut writer = writer.lock();
        if let Some(size) = change.size {
            self.truncate_message(&mut writer, caller.pid, size)?;
        }
        if change.owner_or_mode() || change.times() {
            self.touched(&mut writer)?;
            let writer = &mut *writer;
            let mut uid = writer.uid;
            change.apply(&mut writer.mode, &mut uid, &mut writer.gid, FILE_MODE);
            writer.turn_to(uid);
            if change.times() {
                writer.accessed_ns = Some(ns_of(change.accessed.unwrap_or(writer.accessed())));
                writer.modified_ns = change.modified.map(ns_of).or(writer.modified_ns);
            }
        }
        Ok(())
    }

    fn change_draft(self: &Arc<Self>, id: u64, change: Change) -> Result<()> {
        if change.owner_or_mode() {
            let draft = self.store.alter_draft(id, |draft| {
                change.apply(&mut draft.mode, &mut draft.uid, &mut draft.gid, FILE_MODE);
                Ok(())
            })?;
            if let Some(open) = self.open_draft_of(id) {
                open.lock().turn_to(draft.uid);
            }
        }
        if change.size.is_none() && !change.times() {
            return Ok(());
        }
        match self.store.draft(id) {
            Ok(draft) => {
                if change.size.is_some() {
                    self.refuse_while_enqueued(draft.queue)?;
                    self.refuse_while_published(id)?;
                }
                self.with_draft(id, &draft, |open| self.change_bytes(id, open, change))
            }
            // Published, or removed and still open: the bytes may be a message's unless somebody can still write them.
            Err(Error::NotFound) => {
                let open = self.open_draft_of(id).ok_or(Error::Stale)?;
                if change.size.is_some() && !self.is_written(id) {
                    return Err(Error::NotPermitted("no draft any more, and not open for writing"));
                }
                self.change_bytes(id, &open, change)
            }
            Err(error) => Err(error),
        }
    }

    fn change_bytes(&self, id: u64, open: &SharedDraft, change: Change) -> Result<()> {
        if let Some(size) = change.size {
            self.truncate_draft(id, open, size)?;
        }
        if change.times() {
            open.lock().set_times(change.accessed, change.modified)?;
        }
        Ok(())
    }
}
