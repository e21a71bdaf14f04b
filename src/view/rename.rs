//! Renames. For a message, a rename is a transition of its state or a move to another queue; for a draft, a publication.

use std::sync::Arc;

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::name::{Name, classify, listed};
use crate::queue::state::State;
use crate::store::record::MessageRecord;
use crate::store::{Done, Published, ROOT, Taker};

use super::access::Caller;
use super::draft::Target;
use super::lookup::Found;
use super::{Attributes, Node, View};

const FOREIGN: Error = Error::NotPermitted("no transition leads from there to there");

/// A message that is to be renamed.
struct Source {
    queue: u64,
    seq: u64,
    message: MessageRecord,
    /// The state that its directory stands for.
    state: State,
}

impl Source {
    /// Whether `name` is one of the names of the message: a transition does not give it another.
    fn is_called(&self, name: &[u8]) -> bool {
        name == listed(self.seq, &self.message.name) || name == self.message.name || name == listed(self.seq, b"")
    }
}

impl View {
    /// Renames `from` to `to`, each a directory and a name in it. With `keep`, nothing is replaced. `done` when that is as
    /// durable as it promises to be.
    pub fn rename(self: &Arc<Self>, caller: &Caller, from: (Node, &[u8]), to: (Node, &[u8]), keep: bool, done: Done) {
        if let Err(error) = self.refuse_read_only() {
            return done(Err(error));
        }
        let found = match from.0 {
            Node::Queue(queue) => match self.find(caller, queue, from.1) {
                Ok(found) => found,
                Err(error) => return done(Err(error)),
            },
            directory => return done(self.rename_in_state(caller, directory, from.1, to)),
        };
        let Node::Queue(queue) = from.0 else {
            return done(Err(FOREIGN));
        };
        match found {
            Found::Control => done(Err(Error::NotPermitted("control directories cannot be renamed"))),
            Found::Queue(_) => done(self.rename_queue((queue, from.1), to, keep)),
            Found::Draft(draft) => self.rename_draft(caller, draft, to, keep, done),
            Found::Message(seq, message) | Found::Bare(seq, message, _) => {
                done(self.transit(caller, Source { queue, seq, message, state: State::Ready }, to));
            }
        }
    }

    fn rename_in_state(&self, caller: &Caller, directory: Node, name: &[u8], to: (Node, &[u8])) -> Result<()> {
        let (queue, state) = match directory {
            Node::Claimed(queue) => (queue, State::Claimed),
            Node::Dead(queue) => (queue, State::Dead),
            _ => return Err(FOREIGN),
        };
        let (seq, message) = self.find_in_state(caller, directory, name)?;
        self.transit(caller, Source { queue, seq, message, state }, to)
    }

    /// The transition that a rename of a message asks for.
    fn transit(&self, caller: &Caller, source: Source, to: (Node, &[u8])) -> Result<()> {
        let Source { queue, seq, state, .. } = source;
        if !self.owner(&self.store.queue(queue)?).may_consume(caller) {
            return Err(Error::AccessDenied);
        }
        if self.is_live_name(to.0, to.1, seq)? {
            return Err(Error::Exists);
        }
        let now = clock::now_ms();
        let same = source.is_called(to.1);
        match (state, to.0) {
            (State::Ready, Node::Claimed(target)) if target == queue && same => {
                let taker = Taker { worker: self.workers.worker(caller.pid), uid: caller.uid };
                self.store.claim(queue, seq, taker, now).map(drop)
            }
            (State::Ready | State::Claimed, Node::Dead(target)) if target == queue && same => {
                self.store.dead_letter(queue, seq, state, now).map(drop)
            }
            (State::Claimed, Node::Queue(target)) if target == queue && same => {
                self.store.nack(queue, seq, now).map(drop)
            }
            (State::Dead, Node::Queue(target)) if target == queue && same => {
                self.store.redrive(queue, seq, now).map(drop)
            }
            (_, Node::Queue(ROOT)) => Err(Error::NotPermitted("the root of the mount holds queues only")),
            (_, Node::Queue(target)) if target != queue => {
                self.store.move_to(queue, seq, state, target, Self::producer_name(to.1)?, now).map(drop)
            }
            _ => Err(FOREIGN),
        }
    }

    /// Whether a name is that of a message other than `seq` that is there.
    fn is_live_name(&self, directory: Node, name: &[u8], but: u64) -> Result<bool> {
        let (queue, states) = match directory {
            Node::Queue(queue) => (queue, &[State::Ready, State::Claimed][..]),
            _ => match Self::state_directory(directory) {
                Some((queue, states, _)) => (queue, states),
                None => return Ok(false),
            },
        };
        let Name::Sequence { seq, name } = classify(name) else {
            return Ok(false);
        };
        match self.store.message(seq) {
            Ok(other) => Ok(seq != but
                && other.queue == queue
                && states.contains(&other.state())
                && name.is_none_or(|name| name == other.name)),
            Err(Error::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn rename_queue(&self, from: (u64, &[u8]), to: (Node, &[u8]), keep: bool) -> Result<()> {
        let Node::Queue(target) = to.0 else { return Err(FOREIGN) };
        Self::check_queue_name(to.1)?;
        if let Ok(replaced) = self.store.find_queue(target, to.1) {
            self.refuse_while_written(replaced)?;
        }
        self.store.rename_queue(from, (target, to.1), keep)
    }

    fn rename_draft(self: &Arc<Self>, caller: &Caller, draft: u64, to: (Node, &[u8]), keep: bool, done: Done) {
        match (to.0, classify(to.1)) {
            (Node::Queue(target), Name::Draft(name)) if target != ROOT => {
                done(self.store.rename_draft(draft, target, name, keep, clock::now_ms()).map(drop));
            }
            _ => match self.target(caller, to, Published::Gone) {
                Ok(target) => self.publish(draft, target, done),
                Err(error) => done(Err(error)),
            },
        }
    }

    /// Where a draft is published by a rename or link to a visible name.
    fn target(&self, caller: &Caller, to: (Node, &[u8]), then: Published) -> Result<Target> {
        let Node::Queue(queue) = to.0 else { return Err(FOREIGN) };
        if queue == ROOT {
            return Err(Error::NotPermitted("the root of the mount holds queues only"));
        }
        if self.is_live_name(to.0, to.1, 0)? {
            return Err(Error::Exists);
        }
        if classify(to.1) == Name::Control || self.store.find_queue(queue, to.1).is_ok() {
            return Err(Error::IsDirectory);
        }
        let name = Self::producer_name(to.1)?;
        self.store.space().admit(0)?;
        let asker = self.workers.worker(caller.pid);
        Ok(Target::new(caller.uid, asker, queue, (name, to.1), then))
    }

    /// `link` of a draft to a visible name: publishes and leaves the draft. Gives what `stat` shows of the new name.
    pub fn link(
        self: &Arc<Self>,
        caller: &Caller,
        node: Node,
        to: (Node, &[u8]),
        done: impl FnOnce(Result<Attributes>) + Send + 'static,
    ) {
        let checked = self.refuse_read_only().and_then(|()| match node {
            Node::Draft(draft) => {
                // The kernel is told of the draft's node: the new name is looked up again before it is used.
                Ok((draft, self.target(caller, to, Published::Stays)?, self.attributes(node)?))
            }
            _ => Err(Error::NotPermitted("only a draft can be linked")),
        });
        match checked {
            Ok((draft, target, attributes)) => {
                self.publish(draft, target, Box::new(move |result| done(result.map(|()| attributes))));
            }
            Err(error) => done(Err(error)),
        }
    }
}
