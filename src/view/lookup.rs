//! From a name in a directory to a node.
//!
//! A lookup cannot know what it is for, and its answer is shared by all processes: it never changes anything, except that
//! nothing is answered to those who may not know (`Without r on the queue, other people's messages do not resolve`).

use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::queue::config::{Names, QueueConfig};
use crate::queue::delivery::Delivery;
use crate::queue::name::{Name, check_entry_name, classify, classify_given, delivered, listed};
use crate::queue::state::State;
use crate::store::record::MessageRecord;
use crate::store::{Of, QueueInfo, ROOT, Seen};

use super::access::{Caller, READ};
use super::{Attributes, Node, Via, View};

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

/// The path below its queue that names a delivery of a message.
pub(super) fn delivery_path(config: &QueueConfig, seq: u64, message: &MessageRecord, delivery: Delivery) -> Vec<u8> {
    let (order, name) = match config.names {
        Names::Keep => (None, None),
        Names::Sequence => ((config.priorities > 1).then_some(message.order), Some(&message.name[..])),
    };
    [b".mq/claimed/", &delivered(order, seq, delivery, name)[..]].concat()
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
    /// A message by the bare name that the caller's session wrote.
    Bare(u64, MessageRecord),
    /// A message that the caller's session is writing under that name.
    Unfinished(u64),
    /// A message that the caller's session wrote under that name and that has left a moment ago.
    Gone(u64),
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
        // Deliveries are found in `.mq/claimed` only; a copy may have been given such a name.
        if let Name::Sequence { delivery: Some(_), .. } = kind {
            return self.find_own(caller, queue, name);
        }
        if let Name::Sequence { seq, name: called, .. } = kind
            && queue != ROOT
        {
            let info = self.store.queue(queue)?;
            return match self.resolve(caller, (queue, &info), seq, called, &[State::Ready, State::Claimed]) {
                Ok(message) => Ok(Found::Message(seq, message)),
                // A copy of a message was given the name of its original.
                Err(Error::NotFound) => self.find_own(caller, queue, name),
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
        self.find_own(caller, queue, name)
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

    /// The message of a name in the directory of a state, and of which delivery it has to be. Whoever asks for a delivery that is over
    /// comes late.
    pub(super) fn find_in_state(
        &self,
        caller: &Caller,
        directory: Node,
        name: &[u8],
    ) -> Result<(u64, MessageRecord, Of)> {
        let found = self.look_in_state(caller, directory, name);
        if let (Err(Error::NotFound), Node::Claimed(_)) = (&found, directory)
            && let Name::Sequence { delivery: Some(delivery), .. } = classify(name)
        {
            self.came_late(caller, name, delivery);
        }
        found
    }

    fn look_in_state(&self, caller: &Caller, directory: Node, name: &[u8]) -> Result<(u64, MessageRecord, Of)> {
        let (queue, states, _) = Self::state_directory(directory).ok_or(Error::NotDirectory)?;
        let info = self.store.queue(queue)?;
        let (seq, delivery, name) = match classify(name) {
            kind if info.config.names == Names::Keep => match (self.store.message_named(queue, name), kind) {
                (Err(Error::NotFound), Name::Sequence { seq, delivery, name: None }) => (seq, delivery, None),
                (found, _) => (found?.0, None, Some(name)),
            },
            Name::Sequence { seq, delivery, name } => (seq, delivery, name),
            _ => return Err(Error::NotFound),
        };
        let message = self.resolve(caller, (queue, &info), seq, name, states)?;
        let of = delivery.map_or(Of::Any, |delivery| Of::This(Some(delivery)));
        let named = delivery.is_none() || matches!(directory, Node::Claimed(_));
        if named && of.is(&message) { Ok((seq, message, of)) } else { Err(Error::NotFound) }
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
    /// [`Error::NotFound`] of one whose message may be about to arrive, too: see [`View::await_name`].
    pub fn lookup(&self, caller: &Caller, directory: Node, name: &[u8]) -> Result<Attributes> {
        check_entry_name(name)?;
        let found = self.lookup_now(caller, directory, name)?;
        let arrives = match found.node {
            Node::Unfinished(id) => self.may_arrive(caller, id),
            Node::Draft(id) => self.renamed_may_arrive(caller, id),
            _ => false,
        };
        if arrives { Err(Error::NotFound) } else { Ok(found) }
    }

    /// Looks a name up.
    pub(super) fn lookup_now(&self, caller: &Caller, directory: Node, name: &[u8]) -> Result<Attributes> {
        match directory {
            Node::Queue(queue) => match self.find(caller, queue, name)? {
                Found::Control => self.attributes(Node::Control(queue)),
                Found::Queue(nested) => self.attributes(Node::Queue(nested)),
                found => self.found_file(caller, found),
            },
            Node::Control(queue) => match control(queue, name).ok_or(Error::NotFound)? {
                Node::Lines(queue, _) => self.attributes(Node::Lines(queue, self.lane(queue)?)),
                node => self.attributes(node),
            },
            Node::With(queue) => self.lookup_given(caller, queue, name),
            Node::Given(number) => {
                let found = self.find_given(caller, self.queue_given(number)?, name)?;
                self.found_file(caller, found)
            }
            Node::Batches(queue) => self.attributes(Node::Batch(self.store.find_batch(queue, name)?)),
            Node::Batch(batch) => self.attributes(Node::Draft(self.find_batch_file(batch, name)?)),
            _ => {
                let (_, _, via) = Self::state_directory(directory).ok_or(Error::NotDirectory)?;
                match self.find_in_state(caller, directory, name)? {
                    (seq, message, Of::Any) => self.found_message(caller, seq, via, &message),
                    (seq, message, Of::This(_)) => self.found_delivery(caller, seq, &message),
                }
            }
        }
    }

    /// What a lookup answers that found a file.
    fn found_file(&self, caller: &Caller, found: Found) -> Result<Attributes> {
        let shown = match found {
            Found::Draft(draft) => self.attributes(Node::Draft(draft)),
            Found::Message(seq, message) => self.found_message(caller, seq, Via::Queue, &message),
            Found::Bare(seq, message) => self.found_message(caller, seq, Via::Bare, &message),
            Found::Unfinished(id) => self.attributes(Node::Unfinished(id)),
            Found::Gone(age) => self.attributes(Node::Gone(age)),
            Found::Control | Found::Queue(_) => Err(Error::NotFound),
        };
        // It was there a moment ago.
        shown.map_err(|error| if matches!(error, Error::Stale) { Error::NotFound } else { error })
    }
}
