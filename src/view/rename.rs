//! Renames. For a message, a rename is a transition of its state or a move to another queue; for a draft, a publication.

use std::sync::Arc;

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::config::Names;
use crate::queue::name::{Name, check_entry_name, check_queue_name, classify};
use crate::queue::state::State;
use crate::store::record::{DraftRecord, MessageRecord};
use crate::store::{DeadReason, Done, Of, Published, ROOT, Taker};

use super::access::Caller;
use super::create::is_draft_name;
use super::draft::Target;
use super::lookup::Found;
use super::names::Key;
use super::offload::By;
use super::xattr::merge;
use super::{Attributes, Node, Via, View, process};

const FOREIGN: Error = Error::NotPermitted("no transition leads from there to there");

/// A message that is to be renamed.
struct Source {
    queue: u64,
    seq: u64,
    message: MessageRecord,
    /// The state that its directory stands for.
    state: State,
    /// The delivery of which it is renamed.
    of: Of,
    /// Its queue keeps names.
    kept: bool,
}

impl Source {
    /// Whether `name` is one of the names of the message: a transition does not give it another.
    fn is_called(&self, name: &[u8]) -> bool {
        name == self.message.name
            || matches!(classify(name), Name::Sequence { seq, delivery, name }
                if seq == self.seq
                    && (delivery.is_some() || !self.kept)
                    && name.is_none_or(|name| name == self.message.name))
    }

    /// The name under which it goes to another queue that `name` was given for: that of its delivery means that it stays as it
    /// is.
    fn name_for<'a>(&'a self, name: &'a [u8]) -> &'a [u8] {
        match classify(name) {
            Name::Sequence { delivery: Some(_), .. } if self.is_called(name) => &self.message.name,
            _ => name,
        }
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
            Node::Queue(queue) => self.find(caller, queue, from.1).map(|found| (queue, found)),
            Node::Given(number) => self
                .queue_given(number)
                .and_then(|queue| self.find_given(caller, queue, from.1).map(|found| (queue, found))),
            Node::Batches(queue) => return self.rename_batch(caller, (queue, from.1), to, keep, done),
            Node::Batch(batch) => self.find_batch_file(batch, from.1).map(|draft| (batch, Found::Draft(draft))),
            directory => return done(self.rename_in_state(caller, directory, from.1, to, keep)),
        };
        let (queue, found) = match found {
            Ok(found) => found,
            Err(error) => return done(Err(error)),
        };
        match found {
            Found::Control => done(Err(Error::NotPermitted("control directories cannot be renamed"))),
            Found::Queue(_) => done(self.rename_queue(caller, (queue, from.1), to, keep)),
            Found::Draft(draft) => self.rename_draft(caller, draft, to, keep, done),
            Found::Message(seq, message) | Found::Bare(seq, message) => {
                done(self.rename_message(caller, (queue, seq), message, to, keep));
            }
            Found::Unfinished(id) => done(self.rename_unfinished((queue, id), from.0, to, keep)),
            Found::Gone(_) => done(Err(Error::NotFound)),
        }
    }

    /// Renames a message that was found by its name in a queue's directory.
    fn rename_message(
        &self,
        caller: &Caller,
        (queue, seq): (u64, u64),
        message: MessageRecord,
        to: (Node, &[u8]),
        keep: bool,
    ) -> Result<()> {
        let kept = self.store.keeps_names(queue)?;
        if kept && to.0 == Node::Queue(queue) {
            return self.rename_kept(caller, (queue, seq), &message, to.1, keep);
        }
        let (state, of) = match kept {
            true => (self.kept_state(caller, &message, to.0)?, self.settles_by_name(caller, &message)?),
            false => (State::Ready, Of::Any),
        };
        self.transit(caller, Source { queue, seq, message, state, of, kept }, to, keep)
    }

    fn rename_in_state(
        &self,
        caller: &Caller,
        directory: Node,
        name: &[u8],
        to: (Node, &[u8]),
        keep: bool,
    ) -> Result<()> {
        let (queue, state) = match directory {
            Node::Claimed(queue) => (queue, State::Claimed),
            Node::Dead(queue) => (queue, State::Dead),
            Node::Delayed(queue) => (queue, State::Delayed),
            _ => return Err(FOREIGN),
        };
        let (seq, message, of) = self.find_in_state(caller, directory, name)?;
        let kept = self.store.keeps_names(queue)?;
        self.transit(caller, Source { queue, seq, message, state, of, kept }, to, keep)?;
        self.note_own_end(of);
        Ok(())
    }

    /// What was done of one delivery, by its path, ended it.
    pub(super) fn note_own_end(&self, of: Of) {
        if let Of::This(Some(delivery)) = of {
            self.store.ended_by_its_worker(delivery);
        }
    }

    fn transit(&self, caller: &Caller, source: Source, to: (Node, &[u8]), keep: bool) -> Result<()> {
        let (seq, held) = (source.seq, source.message.claim.as_ref().map(|claim| claim.delivery));
        self.transition(caller, source, to, keep)?;
        if let Some(held) = held {
            self.note_settled(caller, seq, held);
        }
        Ok(())
    }

    /// The transition that a rename of a message asks for.
    fn transition(&self, caller: &Caller, source: Source, to: (Node, &[u8]), keep: bool) -> Result<()> {
        let Source { queue, seq, state, of, .. } = source;
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
            (State::Ready | State::Claimed | State::Delayed, Node::Dead(target)) if target == queue && same => {
                self.store.dead_letter(queue, seq, (state, of), DeadReason::Moved, now)?;
                self.forget_own(caller, seq);
                Ok(())
            }
            (State::Claimed, Node::Queue(target)) if target == queue && same => self.nack(queue, seq, (of, false), now),
            (State::Claimed, Node::Delayed(target)) if target == queue && same => {
                self.nack(queue, seq, (of, true), now)
            }
            (State::Delayed, Node::Queue(target)) if target == queue && same => {
                self.store.deliver(queue, seq, None, now).map(|record| self.announce(&record))
            }
            (State::Dead, Node::Queue(target)) if target == queue && same => {
                self.store.redrive(queue, seq, now).map(|record| self.announce(&record))
            }
            (_, Node::Queue(ROOT)) => Err(Error::NotPermitted("the root of the mount holds queues only")),
            (_, Node::Queue(target)) if target != queue => {
                let name = source.name_for(to.1);
                self.refuse_name_of_draft(caller, target, name)?;
                let name = self.producer_name(target, name)?;
                let onto = self.onto(caller, target, name, keep)?;
                let moved = self.store.move_to(queue, seq, (state, of), (target, name, onto), now);
                let moved = moved.map_err(|error| self.rejected(target, error))?;
                self.forget_own(caller, seq);
                self.remember_move(caller, (target, to.1), (moved, &source.message));
                self.became_ready(target);
                Ok(())
            }
            _ => Err(FOREIGN),
        }
    }

    /// The name that a message was moved to means it to the session that moved it: `mv` of several files looks at each of them
    /// when it has moved it, and complains if it is not there.
    pub(super) fn remember_move(
        &self,
        caller: &Caller,
        (queue, name): (u64, &[u8]),
        (seq, message): (u64, &MessageRecord),
    ) {
        if let Some(by) = Self::namer(caller) {
            let shown = self.message_attributes(Node::Message(seq, Via::Bare), message);
            self.remember_placed(Key { queue, name: name.to_vec(), by }, process::tgid(caller.pid), Some(seq), shown);
        }
    }

    fn nack(&self, queue: u64, seq: u64, (of, later): (Of, bool), now: u64) -> Result<()> {
        let back = self.store.nack(queue, seq, of, later, now)?;
        self.log_dead_letter(queue, &back);
        self.announce(&back.record);
        Ok(())
    }

    /// Whether a name is that of a message other than `seq` that is there.
    pub(super) fn is_live_name(&self, directory: Node, name: &[u8], but: u64) -> Result<bool> {
        let (queue, states) = match directory {
            Node::Queue(queue) => (queue, &[State::Ready, State::Claimed][..]),
            _ => match Self::state_directory(directory) {
                Some((queue, states, _)) => (queue, states),
                None => return Ok(false),
            },
        };
        let Name::Sequence { seq, delivery, name } = classify(name) else {
            return Ok(false);
        };
        if self.store.keeps_names(queue)? {
            return Ok(false);
        }
        match self.store.message(seq) {
            Ok(other) => Ok(seq != but
                && other.queue == queue
                && states.contains(&other.state())
                && delivery.is_none_or(|delivery| Of::This(Some(delivery)).is(&other))
                && name.is_none_or(|name| name == other.name)),
            Err(Error::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn rename_queue(&self, caller: &Caller, from: (u64, &[u8]), to: (Node, &[u8]), keep: bool) -> Result<()> {
        let Node::Queue(target) = to.0 else { return Err(FOREIGN) };
        check_queue_name(to.1)?;
        self.refuse_among_drafts(caller, (target, &self.store.queue(target)?), to.1)?;
        let replaced = self.store.find_queue(target, to.1).ok();
        if let Some(replaced) = replaced {
            self.refuse_while_written(replaced)?;
        }
        self.store.rename_queue(from, (target, to.1), keep)?;
        // Whoever waits in the replaced queue learns that there is nothing to wait for.
        replaced.into_iter().for_each(|replaced| self.became_ready(replaced));
        Ok(())
    }

    fn rename_draft(self: &Arc<Self>, caller: &Caller, draft: u64, to: (Node, &[u8]), keep: bool, done: Done) {
        if self.is_publishing(draft) {
            return done(Err(Error::Busy)); // it has been renamed, and waits for its last writer
        }
        if let Err(error) = self.store.draft(draft).and_then(|draft| self.refuse_while_enqueued(draft.queue)) {
            return done(Err(error));
        }
        if let Node::Batch(batch) = to.0 {
            return done(self.rename_into_batch(draft, (batch, to.1), keep));
        }
        match self.stays_draft(caller, draft, to, keep) {
            Ok(true) => return done(Ok(())),
            Ok(false) => {}
            Err(error) => return done(Err(error)),
        }
        let by = By { user: caller.uid, thread: caller.pid };
        match self.target(caller, draft, to, Published::Gone, keep).and_then(|target| {
            let replaced = self.replaced_draft(caller, (target.queue, to), draft, keep)?;
            Ok((target, replaced))
        }) {
            Ok((target, None)) => self.publish(draft, target, by, done),
            Ok((target, Some(replaced))) => {
                let view = self.clone();
                let done: Done = Box::new(move |published| {
                    let removed = published.and_then(|()| match view.unlink_draft(replaced, clock::now_ms()) {
                        Err(Error::NotFound) => Ok(()),
                        removed => removed,
                    });
                    done(removed);
                });
                self.publish(draft, target, by, done);
            }
            Err(error) => done(Err(error)),
        }
    }

    /// Refuses to give a message the name of a draft, which would hide it.
    pub(super) fn refuse_name_of_draft(&self, caller: &Caller, queue: u64, name: &[u8]) -> Result<()> {
        if self.find_draft(caller, queue, name).is_ok() { Err(Error::Exists) } else { Ok(()) }
    }

    /// Refuses a name under which a link would have to be a draft.
    fn refuse_draft_name(&self, to: (Node, &[u8])) -> Result<()> {
        let (queue, _) = self.entrance(to.0)?;
        if is_draft_name(&*self.store.config(queue)?, to.0, to.1) {
            return Err(Error::NotPermitted("a link publishes, and a draft has this name"));
        }
        Ok(())
    }

    /// Gives a draft another draft's name, if that is one.
    fn stays_draft(&self, caller: &Caller, draft: u64, to: (Node, &[u8]), keep: bool) -> Result<bool> {
        let Ok((target, properties)) = self.entrance(to.0) else { return Ok(false) };
        let kind = self.kind(to.1);
        if target == ROOT || kind == Name::Control {
            return Ok(false);
        }
        let config = self.store.config(target)?;
        if !is_draft_name(&config, to.0, to.1) {
            return Ok(false);
        }
        if matches!(kind, Name::Sequence { .. }) && config.names != Names::Keep {
            return Err(Error::NotPermitted("a draft has no name in the form of a message's"));
        }
        check_entry_name(to.1)?;
        let change = |draft: &mut DraftRecord| merge(&mut draft.attributes, &properties);
        let seen = self.seen(caller, &self.store.queue(target)?);
        self.rename_over(draft, (target, to.1), (seen, keep), change)?;
        Ok(true)
    }

    /// The draft that has the name which another one is published under: a rename replaces it, as any file.
    fn replaced_draft(
        &self,
        caller: &Caller,
        (queue, to): (u64, (Node, &[u8])),
        draft: u64,
        keep: bool,
    ) -> Result<Option<u64>> {
        match (to.0, self.find_draft(caller, queue, to.1)) {
            (Node::Queue(_), Ok(Found::Draft(other))) if other != draft => {
                if keep {
                    Err(Error::Exists)
                } else {
                    Ok(Some(other))
                }
            }
            _ => Ok(None),
        }
    }

    /// Where a draft is published by a rename or link to a visible name.
    fn target(&self, caller: &Caller, draft: u64, to: (Node, &[u8]), then: Published, keep: bool) -> Result<Target> {
        let (queue, properties) = self.entrance(to.0)?;
        if queue == ROOT {
            return Err(Error::NotPermitted("the root of the mount holds queues only"));
        }
        if self.is_live_name(to.0, to.1, 0)? {
            return Err(Error::Exists);
        }
        if classify(to.1) == Name::Control || self.store.find_queue(queue, to.1).is_ok() {
            return Err(Error::IsDirectory);
        }
        let name = self.producer_name(queue, to.1)?;
        let record = self.store.draft(draft)?;
        self.refuse_unreadable(caller, &record)?;
        let settles = self.settles(caller, &record.attributes).map_err(|error| self.told_along(queue, error))?;
        let onto = self.onto(caller, queue, name, keep)?;
        self.store.admit_bytes(0)?;
        let asker = self.workers.worker(caller.pid);
        let id = if then == Published::Gone { draft } else { self.store.next_id()? };
        let settles = settles.map(|settles| (*caller, settles));
        Ok(Target { id, onto, settles, ..Target::new(caller.uid, asker, (queue, properties), (name, to.1), then) })
    }

    /// `link` of a draft to a visible name publishes and leaves the draft, of a message makes a copy. Gives what `stat` shows of
    /// the new name.
    pub fn link(
        self: &Arc<Self>,
        caller: &Caller,
        node: Node,
        to: (Node, &[u8]),
        done: impl FnOnce(Result<Attributes>) + Send + 'static,
    ) {
        let checked = self.refuse_read_only().and_then(|()| match node {
            Node::Draft(draft) => {
                self.refuse_draft_name(to)?;
                // The kernel is told of the draft's node: the new name is looked up again before it is used.
                Ok((draft, self.target(caller, draft, to, Published::Stays, true)?, self.attributes(node)?))
            }
            _ => Err(Error::NotPermitted("only drafts and messages can be linked")),
        });
        match self.reach(node) {
            Ok(Some(reach)) if self.refuse_read_only().is_ok() => return self.link_message(caller, reach, to, done),
            Err(error) => return done(Err(error)),
            Ok(_) => {}
        }
        match checked {
            Ok((draft, target, attributes)) => {
                let by = By { user: caller.uid, thread: caller.pid };
                self.publish(draft, target, by, Box::new(move |result| done(result.map(|()| attributes))));
            }
            Err(error) => done(Err(error)),
        }
    }
}
