//! Queues that keep names: a name is found by everybody and means one message, as in a directory of any filesystem.

use std::sync::Arc;

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::config::{Durability, Names};
use crate::queue::name::{Name, classify};
use crate::queue::state::State;
use crate::store::record::{MessageRecord, NewMessage};
use crate::store::users::cost;
use crate::store::{Body, Done, Enqueued, Holder, Need, NewBody, Onto, QueueInfo, ROOT};

use super::access::{Caller, READ};
use super::arrivals::{Found as Answer, Waiting};
use super::deliveries::Reach;
use super::lookup::Found;
use super::offload::{By, Call, once};
use super::open::{shares, shows};
use super::writer::Writer;
use super::{Attributes, Node, Via, View, process};

/// So many replaced messages are remembered.
pub(super) const REPLACED: usize = 1024;

/// A copy that `link` makes.
struct Copy {
    new: NewMessage,
    body: Body,
    /// The message that it is a copy of.
    from: MessageRecord,
    durability: Durability,
}

impl View {
    /// What a name in the directory of a queue that keeps names means to a caller. A message is found in every state: a name
    /// that is taken can be seen.
    pub(super) fn find_kept(&self, caller: &Caller, queue: u64, name: &[u8], drafts: bool) -> Result<Found> {
        match self.store.find_queue(queue, name) {
            Ok(nested) => return Ok(Found::Queue(nested)),
            Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
        if drafts {
            match self.find_draft(caller, queue, name) {
                Err(Error::NotFound) => {}
                found => return found,
            }
        }
        let (seq, _) = match self.store.message_named(queue, name) {
            // What was moved here under the name of its delivery.
            Err(Error::NotFound) if matches!(classify(name), Name::Sequence { delivery: Some(_), .. }) => {
                return self.find_own(caller, queue, name);
            }
            Err(Error::NotFound) => return self.find_own_kept(caller, queue, name),
            found => found?,
        };
        let info = self.store.queue(queue)?;
        let message = self.resolve(caller, (queue, &info), seq, Some(name), &State::ALL)?;
        Ok(Found::Message(seq, message))
    }

    /// What a name that no message has means to those who gave it.
    fn find_own_kept(&self, caller: &Caller, queue: u64, name: &[u8]) -> Result<Found> {
        match self.find_own(caller, queue, name)? {
            found @ (Found::Unfinished(_) | Found::Draft(_)) => Ok(found),
            // Unless somebody else has the name.
            found @ Found::Gone(_) if self.store.name_writer(queue, name).is_none() => Ok(found),
            // Its message has another name now, or somebody has the name by now.
            _ => Err(Error::NotFound),
        }
    }

    /// Whether a message that is being written may be about to arrive: another process than its writer's would do better to find
    /// it when it is there.
    pub(super) fn may_arrive(&self, caller: &Caller, id: u64) -> bool {
        let process = process::tgid(caller.pid);
        self.writer(id).is_ok_and(|writer| {
            let writer = writer.lock();
            writer.keeps_name() && !writer.is_opened_by(process)
        })
    }

    /// Looks a name up that was not found: once more when its message has arrived, if it is about to (see
    /// [`super::arrivals`]).
    pub fn await_name(
        self: &Arc<Self>,
        caller: &Caller,
        directory: Node,
        name: &[u8],
        found: impl FnOnce(Result<Attributes>) + Send + 'static,
    ) {
        let queue = match directory {
            Node::Queue(queue) => Some(queue),
            Node::Given(number) => self.queue_given(number).ok(),
            _ => None,
        };
        // It may have arrived since it was not found.
        let again = || match queue {
            Some(queue) if self.store.keeps_names(queue)? => self.lookup_now(caller, directory, name),
            _ => Err(Error::NotFound),
        };
        let id = queue.filter(|_| !self.arrivals.none()).and_then(|queue| self.store.name_writer(queue, name));
        let Some(id) = id else { return found(again()) };
        let view = Arc::downgrade(self);
        let (asker, sought) = (*caller, name.to_vec());
        let found: Answer = Box::new(move |answer| match (answer, view.upgrade()) {
            // It did not arrive; whose session writes it finds that.
            (Err(Error::NotFound), Some(view)) => found(view.lookup_now(&asker, directory, &sought)),
            (answer, _) => found(answer),
        });
        let lookup = Waiting { caller: *caller, directory, name: name.to_vec(), found };
        if let Err(lookup) = self.arrivals.wait(id, lookup) {
            (lookup.found)(again());
        }
    }

    /// Notes, before `done`, that the thread `tid` has closed a descriptor: whoever hears of it may ask for the name at once.
    pub(super) fn told_when_closed(self: &Arc<Self>, writer: &Writer, tid: u32, done: Done) -> Done {
        if !writer.keeps_name() {
            return done;
        }
        let (view, id, empty) = (self.clone(), writer.id(), writer.size() == 0);
        Box::new(move |result| {
            view.arrivals.closed(id, tid, empty);
            done(result);
        })
    }

    /// A message that keeps its name is visible now, or never will be.
    pub(super) fn arrived(&self, writer: &Writer) {
        if writer.keeps_name() {
            self.end_arrival(writer.queue, &writer.name, writer.id());
        }
    }

    /// The message `id` is written no more: its name is the message's or free, and who waited for it is answered.
    pub(super) fn end_arrival(&self, queue: u64, name: &[u8], id: u64) {
        self.store.release_name(queue, name, id);
        for lookup in self.arrivals.end(id) {
            let Waiting { caller, directory, name, found } = lookup;
            found(self.lookup_now(&caller, directory, &name));
        }
    }

    /// What a message that gets a name finds there, in a queue that keeps names, and may do to it. With `keep`, nothing is
    /// replaced.
    pub(super) fn onto(&self, caller: &Caller, queue: u64, name: &[u8], keep: bool) -> Result<Onto> {
        match self.store.name_holder(queue, name)? {
            Holder::Nobody => Ok(Onto::Nothing),
            Holder::Queue => Err(Error::IsDirectory),
            // Not EEXIST, even with `keep`: programs take that to mean that they can see what is there.
            Holder::Writer(_) => Err(Error::Busy),
            Holder::Message(_, message) if !self.may_replace(caller, &self.store.queue(queue)?, &message) => {
                Err(Error::AccessDenied)
            }
            _ if keep => Err(Error::Exists),
            Holder::Message(_, message) if !self.may_touch_claim(caller, &message) => Err(Error::Busy),
            Holder::Message(seq, message) => {
                self.replaced.lock().insert(caller.uid, seq, ());
                Ok(Onto::message(seq, &message))
            }
        }
    }

    /// Whether a message was replaced a while ago: its name means something else now.
    pub(super) fn was_replaced(&self, seq: u64) -> bool {
        self.replaced.lock().get(seq).is_some()
    }

    /// What the kernel demands for a rename onto a file that it can see; it does not see all.
    fn may_replace(&self, caller: &Caller, queue: &QueueInfo, message: &MessageRecord) -> bool {
        let owner = self.owner(queue);
        let own = message.uid == caller.uid;
        let sticky = owner.mode & 0o1000 != 0;
        (own || owner.allows(caller, READ)) && (own || !sticky || owner.is_owner(caller))
    }

    /// Whether nobody has claimed a message, or a script that the caller belongs to has.
    fn may_touch_claim(&self, caller: &Caller, message: &MessageRecord) -> bool {
        message.claim.as_ref().is_none_or(|claim| shares(self.workers.worker(caller.pid), claim, &self.look).is_some())
    }

    /// The state from which a rename in the directory of a queue that keeps names takes a message: a worker may rename what it
    /// has claimed.
    pub(super) fn kept_state(&self, caller: &Caller, message: &MessageRecord, to: Node) -> Result<State> {
        match message.state() {
            // It wants a claim, and somebody was faster.
            State::Claimed if matches!(to, Node::Claimed(_)) => Err(Error::NotFound),
            State::Claimed if !self.may_touch_claim(caller, message) => {
                // A worker that has lost it to another one finds nothing.
                self.settles_by_name(caller, message)?;
                Err(Error::Busy)
            }
            State::Dead | State::Delayed => Err(Error::NotFound),
            state => Ok(state),
        }
    }

    /// Gives a message another name in its queue, which keeps names.
    pub(super) fn rename_kept(
        &self,
        caller: &Caller,
        (queue, seq): (u64, u64),
        message: &MessageRecord,
        name: &[u8],
        keep: bool,
    ) -> Result<()> {
        if message.name == name {
            return Ok(());
        }
        if !self.owner(&self.store.queue(queue)?).may_consume(caller) {
            return Err(Error::AccessDenied);
        }
        self.refuse_name_of_draft(caller, queue, name)?;
        let name = self.producer_name(queue, name)?;
        let state = self.kept_state(caller, message, Node::Queue(queue))?;
        let onto = self.onto(caller, queue, name, keep)?;
        self.store.rename_message(queue, seq, state, name, onto, clock::now_ms())?;
        self.remember_move(caller, (queue, name), (seq, message));
        Ok(())
    }

    /// Whether the caller is the process that wrote a message of a queue that keeps names. Programs open what they wrote to set
    /// its mode: that is no claim before they read.
    pub(super) fn reopens_own(&self, caller: &Caller, queue: &QueueInfo, message: &MessageRecord) -> bool {
        queue.config.names == Names::Keep
            && message.producer_pid != 0
            && message.producer_pid == process::tgid(caller.pid)
    }

    /// `link` of a message into a queue that keeps names: a copy of it, which claims nothing. Gives what `stat` shows of the
    /// copy.
    pub(super) fn link_message(
        self: &Arc<Self>,
        caller: &Caller,
        reach: Reach,
        to: (Node, &[u8]),
        done: impl FnOnce(Result<Attributes>) + Send + 'static,
    ) {
        let copy = match self.copy_of(caller, reach, to) {
            Ok(copy) => copy,
            Err(error) => return done(Err(error)),
        };
        let (queue, name, id) = (copy.new.queue, copy.new.name.clone(), copy.new.id);
        if let Err(error) = self.store.hold_name(queue, &name, id, Onto::Nothing) {
            return done(Err(error));
        }
        let view = self.clone();
        let (large, size) = (matches!(copy.body, Body::File(_)), copy.from.size);
        let work = move |turn| {
            let durability = copy.durability;
            let made = if let Call::Drop(why) = turn { Err(why) } else { view.enqueue_copy(copy) };
            view.end_arrival(queue, &name, id);
            if made.is_ok() {
                view.became_ready(queue);
            }
            match (made, durability) {
                (Ok(shown), Durability::Sync) => {
                    view.store.after_sync(Box::new(move |synced| done(synced.map(|()| shown))));
                }
                (made, _) => done(made.map_err(|error| view.rejected(queue, error))),
            }
        };
        let by = By { user: caller.uid, thread: caller.pid };
        if large { self.offload_for(size).run(by, once(work)) } else { work(Call::Go) }
    }

    /// Checks that a copy may be made, and what it is.
    fn copy_of(&self, caller: &Caller, reach: Reach, to: (Node, &[u8])) -> Result<Copy> {
        let from = self.reached(&reach)?;
        if !shows(reach.via, from.state()) {
            return Err(Error::NotFound); // since the name was looked up
        }
        let readable = self.message_owner(&from).allows(caller, READ);
        if !readable && !self.owner(&self.store.queue(from.queue)?).may_consume(caller) {
            return Err(Error::AccessDenied);
        }
        let queue = match to.0 {
            Node::Queue(queue) if queue != ROOT && self.store.keeps_names(queue)? => queue,
            _ => return Err(Error::NotPermitted("a message can be linked into a queue that keeps names only")),
        };
        let name = self.producer_name(queue, to.1)?;
        self.onto(caller, queue, name, true)?;
        let config = self.store.config(queue)?;
        self.store.admit_bytes(from.size)?;
        self.store.admit_bytes_of(from.uid, cost(from.size, &from.attributes))?;
        let admitted = self.store.refuse_early(queue, Need::of_one(from.size, 0), Onto::Nothing);
        admitted.map_err(|error| self.rejected(queue, error))?;
        let new = NewMessage {
            id: self.store.next_id()?,
            queue,
            name: name.to_vec(),
            uid: from.uid,
            gid: from.gid,
            mode: from.mode,
            modified_ns: Some(from.modified_ns),
            accessed_ns: from.accessed_ns,
            producer_pid: process::tgid(caller.pid),
            attributes: from.attributes.clone(),
        };
        let body = self.store.body(&from)?;
        Ok(Copy { new, body, from, durability: config.durability })
    }

    /// Enqueues a copy. May wait for the disk when the body is large.
    fn enqueue_copy(&self, copy: Copy) -> Result<Attributes> {
        let Copy { new, body, from, .. } = copy;
        let id = new.id;
        let now = clock::now_ms();
        let enqueued = match &body {
            Body::Inline(bytes) => self.store.enqueue(new, NewBody::Inline(bytes), false, now)?,
            Body::File(file) => {
                let copied = self.store.bodies().copy(from.body, file.file(), id);
                // Those of the original: a copy of damaged bytes is as damaged.
                let sums = copied.and_then(|()| file.sums()).inspect_err(|_| self.store.discard_body(id))?;
                let body = NewBody::File { id, size: from.size, synced: true, sums: &sums };
                let enqueued = self.store.enqueue(new, body, false, now);
                if !matches!(enqueued, Ok(Enqueued::As(_))) {
                    self.store.discard_body(id);
                }
                enqueued?
            }
        };
        let Enqueued::As(seq) = enqueued else {
            return Err(Error::Exists); // a message with its deduplication id has been there
        };
        // Whoever was faster may have consumed it: it was enqueued all the same.
        let message = self.store.message(seq).unwrap_or(from);
        Ok(self.message_attributes(Node::Message(seq, Via::Queue), &message))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::ViewOptions;
    use super::*;
    use crate::queue::config::QueueConfig;
    use crate::store::{NewQueue, Store};

    /// What arrives between a lookup in vain and the question who writes it, or whether to wait, is found.
    #[test]
    fn what_arrives_while_nobody_waits_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), QueueConfig { names: Names::Keep, ..QueueConfig::default() }).unwrap();
        let view = View::new(store, ViewOptions::default()).unwrap();
        let queue = NewQueue { parent: ROOT, name: b"q", uid: 0, gid: 0, mode: 0o755 };
        let queue = view.store.make_queue(queue).unwrap();
        let caller = Caller { uid: 0, gid: 0, pid: std::process::id() };
        let looked_up = |name: &[u8]| {
            let (answers, answered) = mpsc::channel();
            view.await_name(&caller, Node::Queue(queue), name, move |found| answers.send(found.map(drop)).unwrap());
            answered.try_recv().unwrap().map_err(|error| error.errno())
        };
        assert_eq!(looked_up(b"m"), Err(libc::ENOENT));
        let id = view.store.next_id().unwrap();
        view.store.hold_name(queue, b"m", id, Onto::Nothing).unwrap();
        view.arrivals.begin(id);
        assert_eq!(looked_up(b"m"), Err(libc::ENOENT));
        let new = NewMessage {
            id,
            queue,
            name: b"m".to_vec(),
            uid: 0,
            gid: 0,
            mode: 0o644,
            modified_ns: None,
            accessed_ns: None,
            producer_pid: 0,
            attributes: vec![],
        };
        let enqueued = view.store.enqueue(new, NewBody::Inline(b"x"), false, clock::now_ms());
        assert!(matches!(enqueued, Ok(Enqueued::As(_))));
        assert_eq!(looked_up(b"m"), Ok(()), "it is visible, and its arrival not over");
        view.end_arrival(queue, b"m", id);
        assert_eq!(looked_up(b"m"), Ok(()));
        assert_eq!(looked_up(b"other"), Err(libc::ENOENT));
        view.close();
    }
}
