//! From a name in a directory to a node.
//!
//! A lookup cannot know what it is for, and its answer is shared by all processes: it never changes anything, except that
//! nothing is answered to those who may not know (`Without r on the queue, other people's messages do not resolve`).

use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::queue::config::{Names, QueueConfig};
use crate::queue::name::{Name, check_entry_name, classify, classify_given, listed};
use crate::queue::state::State;
use crate::store::record::MessageRecord;
use crate::store::{QueueInfo, ROOT, Seen};

use super::access::{Caller, READ};
use super::names::Writer;
use super::{Attributes, Node, Via, View, process};

/// A name in the control directory of a queue.
pub(super) const QUEUE_CONTROLS: &[&str] = &[
    "config", "stats", "claim", "pop", "batch", "peek", "claimed", "delayed", "dead", "with", "lines", "nack", "purge",
];
/// A name in the control directory of the mount.
pub(super) const ROOT_CONTROLS: &[&str] = &["stats", "metrics", "backup", "version"];

/// The node of a control name.
pub(super) fn control(queue: u64, name: &[u8]) -> Option<Node> {
    let name = std::str::from_utf8(name).ok()?;
    let known = if queue == ROOT { ROOT_CONTROLS } else { QUEUE_CONTROLS };
    if !known.contains(&name) {
        return None;
    }
    Some(match name {
        "config" => Node::Config(queue),
        "stats" => Node::Stats(queue),
        "batch" => Node::Batches(queue),
        "claim" => Node::Claim(queue),
        "pop" => Node::Pop(queue),
        "peek" => Node::Peek(queue),
        "claimed" => Node::Claimed(queue),
        "delayed" => Node::Delayed(queue),
        "dead" => Node::Dead(queue),
        "with" => Node::With(queue),
        "metrics" => Node::Metrics,
        "backup" => Node::Backup,
        "purge" => Node::Purge(queue),
        "nack" => Node::Nack(queue),
        "lines" => Node::Lines(queue, 0),
        _ => Node::Version,
    })
}

/// The name under which a queue lists a message.
pub(super) fn listed_name(config: &QueueConfig, order: u8, seq: u64, name: &[u8]) -> Vec<u8> {
    match config.names {
        Names::Keep => name.to_vec(),
        Names::Sequence => listed((config.priorities > 1).then_some(order), seq, name),
    }
}

/// What a name in a queue's directory means to a caller.
pub(super) enum Found {
    /// `.mq`.
    Control,
    /// A nested queue.
    Queue(u64),
    /// A draft.
    Draft(u64),
    /// A message by its listed name, ready or claimed.
    Message(u64, MessageRecord),
    /// A message by the bare name that the caller's session wrote, and who wrote it.
    Bare(u64, MessageRecord, Writer),
}

impl View {
    /// The message `seq`, when it is in `queue`, under that name (`None`: any), in one of `states`, and the caller may know.
    pub(super) fn resolve(
        &self,
        caller: &Caller,
        queue: (u64, &QueueInfo),
        seq: u64,
        name: Option<&[u8]>,
        states: &[State],
    ) -> Result<MessageRecord> {
        let message = self.store.message(seq)?;
        let there = message.queue == queue.0
            && name.is_none_or(|name| message.name == name)
            && states.contains(&message.state());
        let known = there && (message.uid == caller.uid || self.owner(queue.1).allows(caller, READ));
        if known { Ok(message) } else { Err(Error::NotFound) }
    }

    /// The message that a name means to the caller because its session wrote it, and who wrote it.
    fn resolve_bare(&self, caller: &Caller, queue: u64, name: &[u8]) -> Result<Found> {
        {
            let names = self.names.lock();
            if !names.knows(queue, name) || names.is_sent_back(caller.pid) {
                return Err(Error::NotFound);
            }
        }
        let session = process::session(caller.pid).ok_or(Error::NotFound)?;
        let writer = Writer { session, uid: caller.uid };
        let seq = self.names.lock().get(queue, name, writer).ok_or(Error::NotFound)?;
        match self.store.message(seq) {
            Ok(message) if message.queue == queue && matches!(message.state(), State::Ready | State::Claimed) => {
                Ok(Found::Bare(seq, message, writer))
            }
            Ok(_) | Err(Error::NotFound) => {
                self.names.lock().forget(queue, name, writer);
                Err(Error::NotFound)
            }
            Err(error) => Err(error),
        }
    }

    /// What a name asks for.
    pub(super) fn kind<'a>(&self, name: &'a [u8]) -> Name<'a> {
        classify_given(name, |seq| self.store.gave_out(seq))
    }

    /// What a name in a queue's directory, or the root, means to a caller.
    pub(super) fn find(&self, caller: &Caller, queue: u64, name: &[u8]) -> Result<Found> {
        self.find_with(caller, queue, name, true)
    }

    /// As [`View::find`], with or without drafts.
    pub(super) fn find_with(&self, caller: &Caller, queue: u64, name: &[u8], drafts: bool) -> Result<Found> {
        let kind = self.kind(name);
        if kind == Name::Control {
            return Ok(Found::Control);
        }
        if self.store.keeps_names(queue)? {
            return self.find_kept(caller, queue, name, drafts);
        }
        if let Name::Sequence { seq, name: called } = kind
            && queue != ROOT
        {
            let info = self.store.queue(queue)?;
            return match self.resolve(caller, (queue, &info), seq, called, &[State::Ready, State::Claimed]) {
                Ok(message) => Ok(Found::Message(seq, message)),
                // A copy of a message was given the name of its original.
                Err(Error::NotFound) => self.resolve_bare(caller, queue, name),
                Err(error) => Err(error),
            };
        }
        match self.store.find_queue(queue, name) {
            Ok(nested) => return Ok(Found::Queue(nested)),
            Err(Error::NotFound) if queue != ROOT => {}
            Err(error) => return Err(error),
        }
        if drafts && queue != ROOT {
            match self.find_draft(caller, queue, name) {
                Err(Error::NotFound) => {}
                found => return found,
            }
        }
        self.resolve_bare(caller, queue, name)
    }

    /// The draft of a name. What was made a draft is one as long as it is there, whatever the queue is configured to now.
    pub(super) fn find_draft(&self, caller: &Caller, queue: u64, name: &[u8]) -> Result<Found> {
        let info = self.store.queue(queue)?;
        if info.counters.drafts == 0 {
            return Err(Error::NotFound);
        }
        let draft = self.store.find_draft(queue, name, self.seen(caller, &info))?;
        // A draft that was renamed while it is open for writing is no draft any more.
        if self.is_publishing(draft) { Err(Error::NotFound) } else { Ok(Found::Draft(draft)) }
    }

    /// Whose drafts a caller finds by name: without r on the queue, those of others do not resolve, and are in nobody's way.
    pub(super) fn seen(&self, caller: &Caller, queue: &QueueInfo) -> Seen {
        Seen { uid: caller.uid, all: self.owner(queue).allows(caller, READ) }
    }

    /// Which messages a directory of a state shows, and by which path.
    pub(super) fn state_directory(directory: Node) -> Option<(u64, &'static [State], Via)> {
        match directory {
            Node::Claimed(queue) => Some((queue, &[State::Claimed], Via::Claimed)),
            Node::Dead(queue) => Some((queue, &[State::Dead], Via::Dead)),
            Node::Delayed(queue) => Some((queue, &[State::Delayed], Via::Delayed)),
            Node::Peek(queue) => Some((queue, &State::ALL, Via::Peek)),
            _ => None,
        }
    }

    /// The message of a name in the directory of a state.
    pub(super) fn find_in_state(&self, caller: &Caller, directory: Node, name: &[u8]) -> Result<(u64, MessageRecord)> {
        let (queue, states, _) = Self::state_directory(directory).ok_or(Error::NotDirectory)?;
        let info = self.store.queue(queue)?;
        let (seq, name) = match classify(name) {
            kind if info.config.names == Names::Keep => match (self.store.message_named(queue, name), kind) {
                // What `.mq/claim` answers for a name with a newline.
                (Err(Error::NotFound), Name::Sequence { seq, name: None }) => (seq, None),
                (found, _) => (found?.0, Some(name)),
            },
            Name::Sequence { seq, name } => (seq, name),
            _ => return Err(Error::NotFound),
        };
        Ok((seq, self.resolve(caller, (queue, &info), seq, name, states)?))
    }

    /// Which of its `.mq/lines` a queue shows next.
    fn lane(&self, queue: u64) -> Result<u32> {
        if !self.store.config(queue)?.makes_wait() {
            return Ok(0);
        }
        // Relaxed: only the number's being another one matters. When all have been used, those of long ago come again.
        Ok(self.lanes.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
    }

    /// Looks a name up. Every call that names a file begins so in the kernel, which passes names of any length on.
    pub fn lookup(&self, caller: &Caller, directory: Node, name: &[u8]) -> Result<Attributes> {
        check_entry_name(name)?;
        match directory {
            Node::Queue(queue) => match self.find(caller, queue, name)? {
                Found::Control => self.attributes(Node::Control(queue)),
                Found::Queue(nested) => self.attributes(Node::Queue(nested)),
                Found::Draft(draft) => self.attributes(Node::Draft(draft)),
                Found::Message(seq, message) => self.found_message(caller, seq, Via::Queue, &message),
                Found::Bare(seq, message, _) => self.found_message(caller, seq, Via::Bare, &message),
            },
            Node::Control(queue) => match control(queue, name).ok_or(Error::NotFound)? {
                Node::Lines(queue, _) => self.attributes(Node::Lines(queue, self.lane(queue)?)),
                node => self.attributes(node),
            },
            Node::With(queue) => self.lookup_given(queue, name),
            Node::Given(number) => match self.find_given(caller, self.queue_given(number)?, name)? {
                Found::Draft(draft) => self.attributes(Node::Draft(draft)),
                Found::Message(seq, message) => self.found_message(caller, seq, Via::Queue, &message),
                Found::Bare(seq, message, _) => self.found_message(caller, seq, Via::Bare, &message),
                _ => Err(Error::NotFound),
            },
            Node::Batches(queue) => self.attributes(Node::Batch(self.store.find_batch(queue, name)?)),
            Node::Batch(batch) => self.attributes(Node::Draft(self.find_batch_file(batch, name)?)),
            _ => {
                let (_, _, via) = Self::state_directory(directory).ok_or(Error::NotDirectory)?;
                let (seq, message) = self.find_in_state(caller, directory, name)?;
                self.found_message(caller, seq, via, &message)
            }
        }
    }
}
