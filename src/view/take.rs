//! `.mq/claim` and `.mq/pop`: the first read of each open takes the next message, and waits for one when there is none.
//!
//! The kernel treats them as streams (there is no offset to speak of): what has been handed out is counted here, and each
//! read gets what follows, whoever shares the open file.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::clock;
use crate::error::{Error, Result};
use crate::locks::{self, Ranked};
use crate::queue::delivery::Delivery;
use crate::store::record::MessageRecord;
use crate::store::{ClaimEnd, Taker};

use super::View;
use super::access::Caller;
use super::handles::{Handle, Lease};
use super::holders::{Holders, Opener};
use super::lookup::delivery_path;
use super::open::Opened;
use super::open_body::{OpenBody, Room};
use super::waiters::{Line, Notify, Turn};

/// What is answered of the message that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its path below the queue, and a line end. Whoever reads it goes on with the message under that path.
    Path,
    /// Its body. It is acknowledged when that was read and the file is closed.
    Body,
}

/// An open `.mq/claim` or `.mq/pop`.
pub struct Take {
    queue: u64,
    answer: Answer,
    /// The thread that opened it, and its process.
    opener: Opener,
    /// The user that opened it, and is charged for what is read by way of it.
    uid: u32,
    taken: Ranked<Option<Taken>, { locks::TAKEN }>,
}

/// The message that was taken.
struct Taken {
    seq: u64,
    delivery: Delivery,
    /// When the lease ended as of the claim, and the visibility timeout then, in milliseconds.
    deadline: u64,
    timeout: u64,
    /// What is answered, and its length.
    bytes: Arc<OpenBody>,
    length: u64,
    /// So much of it was handed out.
    given: u64,
    /// The processes that read it, or opened the file: while one of them lives, so does the lease.
    holders: Holders,
    /// A reader was killed: it will not do the work.
    failed: bool,
    /// The bytes could not be read: for the time being nobody can do the work.
    unreadable: bool,
}

impl Taken {
    fn leases(&self) -> impl Iterator<Item = Lease> {
        let Taken { delivery, deadline, timeout, .. } = *self;
        self.holders.processes().map(move |process| Lease { process, delivery, deadline, timeout })
    }
}

impl Take {
    /// What keeps the lease alive.
    pub fn leases(&self) -> Vec<Lease> {
        self.taken.lock().iter().flat_map(Taken::leases).collect()
    }

    fn line(&self) -> Line {
        Line::Message(self.queue)
    }
}

impl View {
    /// Opens a queue's `.mq/claim` or `.mq/pop`.
    pub(super) fn open_take(&self, caller: &Caller, queue: u64, answer: Answer) -> Result<Opened> {
        self.refuse_read_only()?;
        self.refuse_consuming(caller, queue)?;
        let take = Take {
            queue,
            answer,
            opener: Opener::new(caller.pid, self.workers.worker(caller.pid)),
            uid: caller.uid,
            taken: Ranked::default(),
        };
        Ok(Opened { stream: true, ..Opened::plain(self.handles.add(caller, Handle::Take(take.into()))) })
    }

    pub(super) fn refuse_consuming(&self, caller: &Caller, queue: u64) -> Result<()> {
        let may = self.owner(&self.store.queue(queue)?).may_consume(caller);
        if may { Ok(()) } else { Err(Error::AccessDenied) }
    }

    /// Reads from an open `.mq/claim` or `.mq/pop`: at most `size` bytes.
    pub(super) fn read_taken(
        self: &Arc<Self>,
        caller: &Caller,
        handle: u64,
        take: &Arc<Take>,
        (size, nonblocking): (usize, bool),
        reply: impl FnOnce(Result<&[u8]>) + Send + 'static,
    ) {
        // Whoever does not wait is not served in turn, either.
        if nonblocking || take.taken.lock().is_some() || !self.waiters.is_taken(take.line()) {
            match self.take_next(caller, handle, take) {
                Err(Error::WouldBlock) if !nonblocking => {}
                taken => return self.reply_taken(caller.pid, take, size, taken, reply),
            }
        }
        let mut reply = Some(reply);
        let (view, caller, take, line) = (self.clone(), *caller, take.clone(), take.line());
        let waiter = move |turn| {
            let taken = match turn {
                Turn::Try => view.take_next(&caller, handle, &take),
                Turn::GiveUp(why) => Err(why),
            };
            if matches!(taken, Err(Error::WouldBlock)) {
                return false;
            }
            if let Some(reply) = reply.take() {
                view.reply_taken(caller.pid, &take, size, taken, reply);
            }
            true
        };
        self.wait(line, caller.pid, Box::new(waiter));
    }

    /// Claims the next message for an open file that has none yet.
    fn take_next(&self, caller: &Caller, handle: u64, take: &Take) -> Result<()> {
        let mut taken = take.taken.lock();
        if taken.is_some() {
            return Ok(());
        }
        self.refuse_when_going_away()?;
        self.refuse_read_only()?;
        self.refuse_consuming(caller, take.queue)?;
        self.handles.admit(caller, false)?;
        let room = Room::of_any(&self.handles.bodies, take.uid)?;
        let worker = take.opener.worker_of(caller.pid, |tid| self.workers.worker(tid));
        let (seq, message) = self.store.claim_next(take.queue, Taker { worker, uid: caller.uid }, clock::now_ms())?;
        let holders = Holders::new(worker, &take.opener);
        let got = self.taken(take, room, (seq, &message), holders).inspect_err(|error| {
            // What is short for a moment must not keep the message until its lease expires.
            if matches!(error, Error::TooManyOpen)
                && let Some(claim) = &message.claim
                && let Err(error) = self.store.end_claim(seq, claim.delivery, ClaimEnd::Return, clock::now_ms())
            {
                tracing::debug!(name = self.store.name_of(seq), %error, "not given back");
            }
        });
        *taken = Some(got?);
        self.handles.bind(handle, seq);
        Ok(())
    }

    fn taken(&self, take: &Take, room: Room, (seq, message): (u64, &MessageRecord), holders: Holders) -> Result<Taken> {
        let config = self.store.config(take.queue)?;
        let claim = message.claim.as_ref().ok_or(Error::NotFound)?;
        let bytes = match take.answer {
            Answer::Path => {
                let mut path = delivery_path(&config, seq, message, claim.delivery);
                path.push(b'\n');
                room.hold(path)?
            }
            Answer::Body => room
                .open(&self.store, message)
                .inspect_err(|error| self.tell_unreadable(seq, error, &AtomicBool::new(false)))?,
        };
        let length = bytes.size();
        Ok(Taken {
            seq,
            delivery: claim.delivery,
            deadline: claim.deadline,
            timeout: u64::try_from(config.visibility_timeout.as_millis()).unwrap_or(u64::MAX),
            bytes: bytes.into(),
            length,
            given: 0,
            holders,
            failed: false,
            unreadable: false,
        })
    }

    /// Answers a read with what comes next of what was taken.
    fn reply_taken(
        &self,
        tid: u32,
        take: &Take,
        size: usize,
        outcome: Result<()>,
        reply: impl FnOnce(Result<&[u8]>) + Send + 'static,
    ) {
        if let Err(error) = outcome {
            return reply(Err(error));
        }
        let (seq, bytes, from) = {
            let mut taken = take.taken.lock();
            let Some(taken) = &mut *taken else { return reply(Err(Error::Aborted)) };
            let from = taken.given;
            taken.given = taken.length.min(from.saturating_add(size as u64));
            taken.holders.read_by(tid);
            (taken.seq, taken.bytes.clone(), from)
        };
        let mut reply = Some(reply);
        let read = bytes.read(from, size, |bytes| {
            if let Some(reply) = reply.take() {
                reply(Ok(bytes));
            }
        });
        if let (Err(error), Some(reply)) = (read, reply) {
            self.tell_unreadable(seq, &error, &AtomicBool::new(false));
            if let Some(taken) = &mut *take.taken.lock() {
                taken.unreadable = true;
            }
            reply(Err(error));
        }
    }

    /// A close of one descriptor by the thread `tid`: those of a reader that is being killed count.
    pub(super) fn close_taken(&self, take: &Take, tid: u32) {
        take.opener.closes();
        let mut taken = take.taken.lock();
        if let Some(taken) = &mut *taken
            && taken.holders.include(tid)
            && self.workers.killed(tid)
        {
            taken.failed = true;
        }
    }

    /// The last close. What was not read to its end, or by somebody who was killed, goes back at once.
    pub(super) fn release_taken(&self, handle: u64, take: &Take) {
        self.waiters.forget_poller(take.line(), handle);
        let Some(taken) = take.taken.lock().take() else { return };
        if taken.unreadable {
            // If it went back at once, it would be the next one's, again and again, and hold up those behind it.
            return;
        }
        let done = taken.given == taken.length && !taken.failed;
        let end = match take.answer {
            Answer::Path if done => {
                return taken.leases().next().into_iter().for_each(|lease| self.release_lease(taken.seq, &lease));
            }
            Answer::Body if done => ClaimEnd::Ack,
            // Somebody who got the name goes on with it.
            _ if self.is_held(taken.seq, taken.delivery) => return,
            Answer::Body if taken.failed => ClaimEnd::Fail,
            _ => ClaimEnd::Return,
        };
        match self.store.end_claim(taken.seq, taken.delivery, end, clock::now_ms()) {
            Ok(Some(back)) => {
                tracing::info!(
                    name = self.store.name_of(taken.seq),
                    queue = self.store.label(take.queue),
                    "a reader did not finish: its message goes back"
                );
                self.log_dead_letter(take.queue, &back);
                self.announce(&back.record);
            }
            Ok(None) => {}
            Err(Error::NotFound) => {
                tracing::debug!(
                    name = self.store.name_of(taken.seq),
                    queue = self.store.label(take.queue),
                    "the claim ended before its reader"
                );
            }
            Err(error) => {
                tracing::error!(name = self.store.name_of(taken.seq), queue = self.store.label(take.queue), %error, "a claim did not end")
            }
        }
    }

    /// Whether an open descriptor of a living process keeps that claim alive.
    fn is_held(&self, seq: u64, delivery: Delivery) -> bool {
        self.handles
            .leases_of(seq, delivery)
            .iter()
            .any(|lease| lease.process.is_none_or(|process| self.look.alive(process)))
    }

    /// Whether a read of an open file would not have to wait. `notify` is called once when that may have become so.
    pub fn is_readable(&self, handle: u64, notify: Option<Notify>) -> Result<bool> {
        let open = self.handles.get(handle)?;
        let (line, has_more) = match &*open {
            Handle::Take(take) => (take.line(), take.taken.lock().is_some()),
            Handle::LineReader(reader) => (reader.line(), reader.has_more()),
            _ => return Ok(true),
        };
        if has_more {
            return Ok(true);
        }
        if let Some(notify) = notify {
            self.waiters.note_poller(line, handle, notify);
        }
        Ok(self.refuse_when_going_away().is_err() || self.has_something(line))
    }
}
