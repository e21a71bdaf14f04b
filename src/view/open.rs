//! Opening a file. Opening a ready message for reading claims it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::config::ClaimMode;
use crate::queue::state::State;
use crate::queue::worker::{ProcessId, Processes, Share, Worker};
use crate::store::record::{Claim, MessageRecord};
use crate::store::{QueueInfo, ROOT, Taker};

use super::access::{Caller, READ};
use super::control::ConfigEdit;
use super::deliveries::Reach;
use super::handles::{Handle, Hold, Lease, Reader};
use super::locking::Again;
use super::look::Look;
use super::open_body::Room;
use super::take::Answer;
use super::telling::{Audience, Subject};
use super::{Node, Via, View, process};

/// The flags of `open(2)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags(pub i32);

impl Flags {
    /// Opened for writing, reading as well or not.
    pub fn writes(self) -> bool {
        self.0 & libc::O_ACCMODE != libc::O_RDONLY
    }

    /// Opened for reading, writing as well or not.
    pub fn reads(self) -> bool {
        self.0 & libc::O_ACCMODE != libc::O_WRONLY
    }

    /// `O_TRUNC`.
    pub fn truncates(self) -> bool {
        self.0 & libc::O_TRUNC != 0
    }

    /// Opened for writing as `touch` does, which writes nothing and then sets the times by name: not to truncate, not to
    /// append, and non-blocking.
    pub fn only_touches(self) -> bool {
        self.0 & (libc::O_NONBLOCK | libc::O_TRUNC | libc::O_APPEND) == libc::O_NONBLOCK
    }

    /// Opened for reading and writing, neither to truncate nor to append: as programs do that lock what they read.
    pub fn only_locks(self) -> bool {
        self.0 & (libc::O_ACCMODE | libc::O_TRUNC | libc::O_APPEND) == libc::O_RDWR
    }

    /// Opened as `rsync` does, which reads nothing and then sets the mode through the descriptor: for reading, and non-blocking.
    pub fn only_looks(self) -> bool {
        !self.writes() && !self.truncates() && self.nonblocking()
    }

    /// `O_NONBLOCK`.
    pub fn nonblocking(self) -> bool {
        self.0 & libc::O_NONBLOCK != 0
    }

    /// `O_EXCL`.
    pub fn exclusive(self) -> bool {
        self.0 & libc::O_EXCL != 0
    }
}

/// An open file, and how the kernel is to treat it.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Its number.
    pub handle: u64,
    /// The bytes never change: the kernel may keep them and need not tell of closes.
    pub immutable: bool,
    /// The length is not known beforehand: the kernel must not cache.
    pub direct: bool,
    /// There is no offset: each read gets what comes next, each write adds. The kernel must not cache.
    pub stream: bool,
}

impl Opened {
    pub(super) fn plain(handle: u64) -> Self {
        Self { handle, immutable: false, direct: false, stream: false }
    }
}

/// The processes of this machine.
struct Running<'a>(&'a Look);

impl Processes for Running<'_> {
    fn alive(&self, process: ProcessId) -> bool {
        // Most of those that are asked about have exited, which is seen without another thread.
        !process::is_over(process) && self.0.alive(process)
    }

    fn parent_and_session(&self, pid: u32) -> Option<(u32, u32)> {
        process::parent_and_session(pid)
    }
}

/// Whether and how `asker` may read what is claimed so.
pub(super) fn shares(asker: Option<Worker>, claim: &Claim, look: &Look) -> Option<Share> {
    match (asker, claim.process) {
        (Some(asker), Some(process)) => {
            let Claim { parent, grandparent, session, .. } = *claim;
            asker.shares_claim_of(&Worker { process, parent, grandparent, session }, &Running(look))
        }
        // Processes that are not visible cannot be told apart: each is a stranger.
        _ => None,
    }
}

impl View {
    /// Opens a file, and calls `done`. What tells of all queues takes a while when they are many, so another thread puts it
    /// together.
    pub fn open_then(
        self: &Arc<Self>,
        caller: &Caller,
        node: Node,
        flags: i32,
        done: impl FnOnce(Result<Opened>) + Send + 'static,
    ) {
        if Flags(flags).writes() {
            return done(self.open(caller, node, flags));
        }
        let caller = *caller;
        self.when_told(&caller, node, true, move |view, subject| {
            done(match subject {
                Some(subject) => view.open_told(&caller, node, subject),
                None => view.open(&caller, node, flags),
            });
        });
    }

    /// Opens a file.
    pub(super) fn open(self: &Arc<Self>, caller: &Caller, node: Node, flags: i32) -> Result<Opened> {
        let flags = Flags(flags);
        self.refuse_when_going_away()?;
        self.handles.admit(caller, true)?;
        if flags.writes() || flags.truncates() {
            self.refuse_read_only()?;
        }
        match node {
            Node::Locked(seq, via, _) if flags.only_locks() => self.open_locked(caller, (seq, via)),
            Node::Locked(..) => self.open(caller, node.plain(), flags.0),
            Node::Message(seq, via) | Node::Granted(seq, via) if flags.only_locks() => {
                self.open_to_lock(caller, (seq, via))
            }
            Node::Message(..) | Node::Granted(..) | Node::Delivery(..) => {
                let reach = self.reach(node)?.ok_or(Error::Stale)?;
                match flags.writes() || flags.truncates() {
                    // What is kept of the bytes is this delivery's: nobody else's are changed by who maps them.
                    true if matches!(node, Node::Delivery(..)) && flags.only_locks() => {
                        let opened = self.open_message(caller, reach, None)?;
                        Ok(Opened { immutable: false, direct: true, ..opened })
                    }
                    true => self.refuse_rewrite(caller, reach.seq, reach.via, flags),
                    false => self.open_message(caller, reach, None),
                }
            }
            Node::Writer(id) => self.reopen_writer(caller, id, flags),
            Node::Unfinished(id) => self.open_unfinished(caller, id, flags),
            Node::Gone(age) => self.open_gone(caller, age, flags),
            Node::Draft(id) if (flags.writes() || flags.truncates()) && self.renamed_draft(id).is_some() => {
                self.refuse_second_writer(caller, id, None, flags)
            }
            Node::Draft(id) => {
                let open = self.open_draft(id, caller.uid, flags.writes(), flags.truncates())?;
                Ok(Opened::plain(self.handles.add(caller, Handle::Draft { id, open, writes: flags.writes() })))
            }
            Node::Config(queue) if flags.writes() => {
                let edit = ConfigEdit::new(queue, caller.uid);
                Ok(Opened { direct: true, ..Opened::plain(self.handles.add(caller, Handle::Config(edit.into()))) })
            }
            Node::Purge(queue) if flags.writes() => self.open_purge(caller, queue),
            Node::Purge(_) => Err(Error::NotPermitted("purge is only written to")),
            Node::Nack(queue) if flags.writes() => self.open_nack(caller, queue),
            Node::Nack(_) => Err(Error::NotPermitted("nack is only written to")),
            Node::Lines(queue, _) if flags.writes() => self.open_line_writer(caller, queue, flags),
            Node::Lines(queue, _) => self.open_line_reader(caller, queue),
            Node::Config(_)
            | Node::Stats(_)
            | Node::Version
            | Node::Metrics
            | Node::Backup
            | Node::Claim(_)
            | Node::Pop(_)
                if flags.writes() =>
            {
                Err(Error::NotPermitted("this control file is read-only"))
            }
            Node::Config(queue) => self.open_text(caller, node, self.config_text(queue)?),
            Node::Stats(ROOT) => self.open_told(caller, node, Subject::Stats),
            Node::Stats(_) | Node::Version => self.open_text(caller, node, self.status_text(node)?),
            Node::Backup => self.open_backup(caller),
            Node::Metrics => self.open_told(caller, node, Subject::Metrics(Audience::of(caller))),
            Node::Claim(queue) => self.open_take(caller, queue, Answer::Path),
            Node::Pop(queue) => self.open_take(caller, queue, Answer::Body),
            _ => Err(Error::IsDirectory),
        }
    }

    fn open_text(&self, caller: &Caller, node: Node, text: String) -> Result<Opened> {
        let text = self.handles.text(caller, text)?;
        Ok(Opened { direct: true, ..Opened::plain(self.handles.add_text(caller, node, text)) })
    }

    /// Opens what tells of all queues.
    fn open_told(&self, caller: &Caller, node: Node, subject: Subject) -> Result<Opened> {
        self.refuse_when_going_away()?;
        self.handles.admit(caller, true)?;
        let text = self.tell(caller, subject, true)?;
        Ok(Opened { direct: true, ..Opened::plain(self.handles.add_text(caller, node, text)) })
    }

    /// A committed message never changes. Under its bare name it does not stand in the way of a new one: the name is
    /// forgotten, and the kernel looks it up again, finds nothing and creates.
    fn refuse_rewrite(&self, caller: &Caller, seq: u64, via: Via, flags: Flags) -> Result<Opened> {
        let message = self.store.message(seq);
        if via != Via::Bare || flags.only_touches() {
            return match message {
                // Somebody was faster to take it: the kernel looks the name up again, finds nothing and creates.
                Err(Error::NotFound) if via == Via::Queue && flags.truncates() => Err(Error::Stale),
                Ok(found) if via == Via::Queue && flags.truncates() && self.store.keeps_names(found.queue)? => {
                    Err(Error::Exists)
                }
                found => found.and(Err(Error::NotPermitted("a committed message never changes"))),
            };
        }
        let mut names = self.names.lock();
        let key = names.forget_message(seq).map(|key| (key.queue, key.name));
        let name = key.or_else(|| names.named_lately(Node::Message(seq, via)));
        names.send_back((caller.uid, caller.pid), name, clock::now_ms());
        Err(Error::Stale)
    }

    /// The same message opened once more, as `/dev/stdout` does.
    pub(super) fn reopen_writer(&self, caller: &Caller, id: u64, flags: Flags) -> Result<Opened> {
        let writer = self.writer(id)?;
        let mut writer = writer.lock();
        if flags.truncates() {
            self.truncate_message(&mut writer, caller.pid, 0)?;
        }
        writer.reopened();
        Ok(Opened { direct: true, ..Opened::plain(self.handles.add(caller, Handle::Writer(id))) })
    }

    pub(super) fn open_message(
        &self,
        caller: &Caller,
        Reach { seq, via, of }: Reach,
        again: Option<Again>,
    ) -> Result<Opened> {
        let found = match self.store.message(seq) {
            // The name means the message that replaced it: the kernel looks it up again.
            Err(Error::NotFound) if via == Via::Queue && self.was_replaced(seq) => return Err(Error::Stale),
            // To the session that wrote it the name may go on meaning something.
            Err(Error::NotFound) if self.left_of_own(caller, seq).is_some() => return Err(Error::Stale),
            found => found?,
        };
        let queue = self.store.queue(found.queue)?;
        let may_consume = self.owner(&queue).may_consume(caller);
        // The kernel has checked the mode of some node; it is checked here that the right is this caller's own.
        if !may_consume && !self.message_owner(&found).allows(caller, READ) {
            return Err(Error::AccessDenied);
        }
        let claims = may_consume && !self.is_read_only();
        // What is short for a moment is no reason to deliver the message to somebody who cannot read it.
        let body = Room::of(&self.handles.bodies, caller.uid, &found)?.open(&self.store, &found);
        if let Err(error @ (Error::TooManyOpen | Error::NotFound)) = body {
            return Err(error);
        }
        let (message, hold) = match via {
            // Since the name was looked up.
            _ if !shows(via, found.state()) || !of.is(&found) => return Err(Error::NotFound),
            Via::Bare if claims => (found, Hold::AtFirstRead),
            Via::Queue if claims && self.reopens_own(caller, &queue, &found) => (found, Hold::AtFirstRead),
            Via::Queue | Via::Claimed if claims => self.take(caller, seq, via, found, &queue)?,
            _ => (found, Hold::Nothing),
        };
        let told = AtomicBool::new(false);
        let body = body.inspect_err(|error| self.tell_unreadable(seq, error, &told))?;
        let attributes = self.message_attributes(Node::Message(seq, via), &message);
        // The kernel asks for the bytes of an empty file only when it must not cache.
        let direct = matches!(hold, Hold::AtFirstRead);
        let reader = Reader { seq, body, attributes, told, hold: hold.into(), again };
        Ok(Opened {
            immutable: !direct,
            direct,
            ..Opened::plain(self.handles.add(caller, Handle::Reader(reader.into())))
        })
    }

    /// Claims for a reader that was to claim at its first read, unless the mount has become read-only since.
    pub(super) fn claim_at_read(&self, caller: &Caller, reader: &Reader) -> Result<()> {
        let mut hold = reader.hold.lock();
        if matches!(*hold, Hold::AtFirstRead) && !self.is_read_only() {
            let found = self.store.message(reader.seq)?;
            let queue = self.store.queue(found.queue)?;
            (_, *hold) = self.take(caller, reader.seq, Via::Bare, found, &queue)?;
        }
        Ok(())
    }

    /// Claims a message for a reader, or lets the reader in on a claim that is there.
    fn take(
        &self,
        caller: &Caller,
        seq: u64,
        via: Via,
        found: MessageRecord,
        queue: &QueueInfo,
    ) -> Result<(MessageRecord, Hold)> {
        let claims = queue.config.claim == ClaimMode::Read && via != Via::Claimed;
        let asker = self.workers.worker(caller.pid);
        let taker = Taker { worker: asker, uid: caller.uid };
        let message = match &found.claim {
            None if claims => self.store.claim(found.queue, seq, taker, clock::now_ms())?,
            Some(claim) if claims => match shares(asker, claim, &self.look) {
                Some(Share::Joins) => found,
                Some(Share::Inherits { script }) => {
                    let heir = Taker { worker: asker.map(|asker| asker.within(script)), ..taker };
                    match self.store.inherit(seq, claim, heir, clock::now_ms()) {
                        Err(Error::NotFound) => return Err(Error::Busy), // somebody else was faster
                        inherited => inherited?,
                    }
                }
                None => return Err(Error::Busy),
            },
            _ => found,
        };
        let hold = message.claim.as_ref().map_or(Hold::Nothing, |claim| {
            Hold::Lease(Lease {
                process: asker.map(|asker| asker.process),
                delivery: claim.delivery,
                deadline: claim.deadline,
                timeout: u64::try_from(queue.config.visibility_timeout.as_millis()).unwrap_or(u64::MAX),
            })
        });
        Ok((message, hold))
    }
}

/// Whether a message in `state` is to be found on that path.
pub(super) fn shows(via: Via, state: State) -> bool {
    match via {
        Via::Queue | Via::Bare => matches!(state, State::Ready | State::Claimed),
        Via::Claimed => state == State::Claimed,
        Via::Dead => state == State::Dead,
        Via::Delayed => state == State::Delayed,
        Via::Peek => true,
    }
}
