//! What can be done to a message that is being written, by the name that its session gave it. (What is done by its own
//! descriptors is in [`super::writer`].)
//!
//! The name has a node of its own. The kernel opens by node: through a descriptor (`/proc/self/fd/1`) the same message is opened
//! once more, by its name it is only read, and whoever wants to write makes another message.

use std::sync::Arc;

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::name::{Name, classify};
use crate::store::{Onto, ROOT};

use super::access::Caller;
use super::descriptors::{Others, others};
use super::handles::Handle;
use super::open::{Flags, Opened};
use super::writer::SharedWriter;
use super::{Attributes, Node, View, process};

/// So many descriptors of a process that unlinks a name are looked at.
pub(super) const DESCRIPTORS: usize = 256;

impl View {
    /// What `stat` shows of it; of one that is finished to those who have it open, or have just found its name.
    pub(super) fn unfinished_attributes(&self, id: u64) -> Result<Attributes> {
        let open = self.writer(id).ok().or_else(|| self.handles.onlooked(id));
        let node = Node::Unfinished(id);
        let Some(writer) = open else { return self.names.lock().shown_lately(node).ok_or(Error::Stale) };
        let shown = self.writer_attributes(&writer.lock());
        Ok(Attributes { node, ..shown })
    }

    /// Opens it by its name. Reading claims nothing, and holds nothing up.
    pub(super) fn open_unfinished(&self, caller: &Caller, id: u64, flags: Flags) -> Result<Opened> {
        let writer = self.writer(id);
        if flags.writes() || flags.truncates() {
            return self.refuse_second_writer(caller, id, writer.ok(), flags);
        }
        let handle = Handle::Onlooker { id, writer: writer? };
        Ok(Opened { direct: true, ..Opened::plain(self.handles.add(caller, handle)) })
    }

    /// Whoever opens the name to write makes another message: the kernel looks it up again, finds nothing, and creates. Where a
    /// name means one message there cannot be another.
    pub(super) fn refuse_second_writer(
        &self,
        caller: &Caller,
        id: u64,
        writer: Option<Arc<SharedWriter>>,
        flags: Flags,
    ) -> Result<Opened> {
        if flags.only_touches() {
            return Err(Error::NotPermitted("a message is not written to by its name"));
        }
        let name = writer.as_ref().map(|writer| {
            let writer = writer.lock();
            (
                writer.keeps_name(),
                writer.is_opened_by(process::tgid(caller.pid)),
                writer.queue,
                writer.written_as.clone(),
            )
        });
        let renamed = || {
            let target = self.renamed_draft(id)?;
            let keeps = self.store.keeps_names(target.queue).unwrap_or(false);
            Some((keeps, false, target.queue, target.written_as.0))
        };
        match name.or_else(renamed) {
            Some((true, true, ..)) => self.reopen_writer(caller, id, flags),
            Some((true, false, ..)) if flags.truncates() => Err(Error::Exists),
            Some((true, false, ..)) => Err(Error::NotPermitted("a message that keeps its name has one writer")),
            name => {
                let mut names = self.names.lock();
                let name = name.map(|(_, _, queue, name)| (queue, name));
                let name = name.or_else(|| names.named_lately(Node::Unfinished(id)));
                names.send_back((caller.uid, caller.pid), name, clock::now_ms());
                Err(Error::Stale)
            }
        }
    }

    /// Unlinks its name. A process that has it open drops it: nothing is enqueued, and its descriptor goes on as that of an
    /// unlinked file. To others it is as if it were not there: `install` and `mv` unlink a name before they write it.
    pub(super) fn unlink_unfinished(&self, caller: &Caller, id: u64) -> Result<()> {
        let shared = self.writer(id).map_err(|_| Error::NotFound)?;
        let descriptors = others(caller.pid, Node::Writer(id).inode(), DESCRIPTORS);
        let mut writer = shared.lock();
        let has_open = match descriptors {
            Others::Some => true,
            Others::None => false,
            // It has open what it opened, for all that is known.
            Others::TooMany | Others::Unknown => writer.is_opened_by(process::tgid(caller.pid)),
        };
        if has_open {
            return self.unlink_message(&mut writer);
        }
        if let Some(key) = writer.key() {
            self.names.lock().hide(&key, id);
        }
        Err(Error::NotFound)
    }

    /// Gives it another name in its queue.
    pub(super) fn rename_unfinished(
        &self,
        (queue, id): (u64, u64),
        from: Node,
        to: (Node, &[u8]),
        keep: bool,
    ) -> Result<()> {
        if to.0 != Node::Queue(queue) && to.0 != from || queue == ROOT {
            return Err(Error::NotPermitted("a message that is being written stays in its queue"));
        }
        if classify(to.1) == Name::Control || self.store.find_queue(queue, to.1).is_ok() {
            return Err(Error::IsDirectory);
        }
        if self.is_live_name(to.0, to.1, 0)? {
            return Err(Error::Exists);
        }
        let name = self.producer_name(queue, to.1)?.to_vec();
        let shared = self.writer(id).map_err(|_| Error::NotFound)?;
        let mut writer = shared.lock();
        if writer.keeps_name() && name != writer.name {
            match self.store.hold_name(queue, &name, id, Onto::Nothing) {
                // A message is replaced by one that is whole.
                Err(Error::Exists) if !keep => return Err(Error::Busy),
                held => held?,
            }
        }
        let touched = self.touched(&mut writer);
        let leaves = if touched.is_ok() { writer.name.clone() } else { name.clone() };
        if writer.keeps_name() && name != writer.name {
            self.store.release_name(queue, &leaves, id);
        }
        touched?;
        let shown = self.writer_attributes(&writer);
        let mut names = self.names.lock();
        if let Some(key) = writer.key() {
            names.close(key, id, shown);
        }
        (writer.name, writer.written_as) = (name, to.1.to_vec());
        if let Some(key) = writer.key() {
            names.open(key, writer.opener(), id);
        }
        Ok(())
    }

    /// Opens the name of a message that has left. That ends it, and whoever wants to write creates it anew, but for programs that
    /// set a mode through a descriptor of their own.
    pub(super) fn open_gone(&self, caller: &Caller, age: u64, flags: Flags) -> Result<Opened> {
        let node = Node::Gone(age);
        if let Node::Writer(id) = self.meant(node) {
            return self.reopen_writer(caller, id, flags);
        }
        if flags.only_looks() {
            return Ok(Opened { direct: true, ..Opened::plain(self.handles.add(caller, Handle::Gone)) });
        }
        let (name, mode) = {
            let mut names = self.names.lock();
            names.forget(age);
            let name = names.named_lately(node);
            if flags.writes() || flags.truncates() {
                let again = name.as_ref().is_some_and(|name| names.did_not_look(caller.pid, name));
                if !again {
                    names.send_back((caller.uid, caller.pid), name, clock::now_ms());
                    return Err(Error::Stale);
                }
            }
            (name, names.shown_lately(node).map_or(0, |shown| shown.mode))
        };
        match name {
            // The kernel does not look it up again, as it was opened by a descriptor: Samba does that.
            Some((queue, name)) if flags.writes() => {
                self.open_again(caller, node, (queue, &name), mode, !flags.nonblocking())
            }
            _ => Err(Error::Stale),
        }
    }
}
