//! `.mq/lines`, open for reading: a stream of messages, each of which ends with a newline.
//!
//! A read answers one message, or several when the queue says so, of those that are ready; what does not fit is left for the next
//! read. Messages are acknowledged when the next read begins after all of them was handed out: whoever reads on has done with
//! what he read before. So a loop that is killed in the middle of a message loses none.
//!
//! The kernel treats it as a stream, so whoever shares the open file shares the messages, too.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::clock;
use crate::error::{Error, Result};
use crate::locks::{self, Ranked};
use crate::queue::delivery::Delivery;
use crate::store::record::{Claim, MessageRecord};
use crate::store::{Altered, ClaimEnd, Taker};

use super::View;
use super::access::Caller;
use super::handles::{Handle, Lease};
use super::holders::{Holders, Opener};
use super::line_cut::LINES_AT_ONCE;
use super::open::Opened;
use super::open_body::{OpenBody, Room};
use super::waiters::{Line, Turn};

/// The kernel divides a read that is longer than what it asks for at once, which is no less than this many bytes, and goes on when
/// it got all that it asked for. Then its next request would acknowledge what the reader has not got yet, and might wait. So
/// from this size on, the kernel never gets all.
const DIVIDED: usize = 64 * 1024;

/// So many damaged messages are passed over by one read.
const DAMAGED_AT_ONCE: usize = 64;

/// An open file on `.mq/lines`.
pub struct LineReader {
    queue: u64,
    /// Who opened it.
    opener: Opener,
    /// The user that opened it, and is charged for what is read by way of it.
    uid: u32,
    held: Ranked<Held, { locks::TAKEN }>,
}

/// The messages that were taken and not acknowledged yet.
#[derive(Default)]
struct Held {
    messages: VecDeque<Message>,
    /// The processes that read them, and the one that opened the file: while one of them lives, so do the leases.
    holders: Holders,
}

struct Message {
    seq: u64,
    delivery: Delivery,
    /// When the lease ended as of the claim, and the visibility timeout then, in milliseconds.
    deadline: u64,
    timeout: u64,
    body: OpenBody,
    length: u64,
    /// It does not end with a newline: one is added.
    bare: bool,
    /// So much of it was handed out.
    given: u64,
}

impl Message {
    fn left(&self) -> u64 {
        self.length + u64::from(self.bare) - self.given
    }

    /// Hands out at most `room` bytes of what is left.
    fn hand_out(&mut self, room: usize, to: &mut Vec<u8>) -> Result<()> {
        let before = to.len();
        self.body.read(self.given, room, |bytes| to.extend_from_slice(bytes))?;
        self.given += (to.len() - before) as u64;
        if self.left() == 1 && self.bare && to.len() - before < room {
            to.push(b'\n');
            self.given += 1;
        }
        Ok(())
    }
}

impl Held {
    /// Something is there to be handed out.
    fn has_more(&self) -> bool {
        self.messages.back().is_some_and(|message| message.left() > 0)
    }

    /// The next bytes of what was taken, at most `room`: of the first message as many as fit, of others all or nothing.
    fn hand_out(&mut self, room: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for message in self.messages.iter_mut().filter(|message| message.left() > 0) {
            let room = room - bytes.len();
            if !bytes.is_empty() && message.left() > room as u64 {
                break;
            }
            match message.hand_out(room, &mut bytes) {
                // The next read meets it again.
                Err(_) if !bytes.is_empty() => break,
                handed_out => handed_out?,
            }
        }
        Ok(bytes)
    }
}

impl LineReader {
    /// What keeps the leases alive.
    pub fn leases(&self) -> Vec<Lease> {
        let held = self.held.lock();
        let of = |message: &Message| {
            let Message { delivery, deadline, timeout, .. } = *message;
            let lease = move |process| Lease { process, delivery, deadline, timeout };
            held.holders.processes().map(lease).collect::<Vec<_>>()
        };
        held.messages.iter().flat_map(of).collect()
    }

    /// Where its readers wait.
    pub fn line(&self) -> Line {
        Line::Message(self.queue)
    }

    /// A read would get something at once.
    pub fn has_more(&self) -> bool {
        self.held.lock().has_more()
    }
}

impl View {
    /// Opens a queue's `.mq/lines` for reading.
    pub(super) fn open_line_reader(&self, caller: &Caller, queue: u64) -> Result<Opened> {
        self.refuse_read_only()?;
        self.refuse_consuming(caller, queue)?;
        let opener = Opener::new(caller.pid, self.workers.worker(caller.pid));
        let reader = LineReader { queue, opener, uid: caller.uid, held: Ranked::default() };
        Ok(Opened { stream: true, ..Opened::plain(self.handles.add(caller, Handle::LineReader(reader.into()))) })
    }

    /// Reads from an open `.mq/lines`: at most `size` bytes.
    pub(super) fn read_lines(
        self: &Arc<Self>,
        caller: &Caller,
        handle: u64,
        reader: &Arc<LineReader>,
        (size, nonblocking): (usize, bool),
        reply: impl FnOnce(Result<&[u8]>) + Send + 'static,
    ) {
        if let Err(error) = self.refuse_read_only() {
            return reply(Err(error));
        }
        self.acknowledge_lines(handle, reader);
        // Whoever does not wait is not served in turn, either.
        if nonblocking || reader.has_more() || !self.waiters.is_taken(reader.line()) {
            match self.next_lines(caller, handle, reader, size) {
                Err(Error::WouldBlock) if !nonblocking => {}
                Ok(bytes) => return reply(Ok(&bytes)),
                Err(error) => return reply(Err(error)),
            }
        }
        let mut reply = Some(reply);
        let (view, caller, reader, line) = (self.clone(), *caller, reader.clone(), reader.line());
        let waiter = move |turn| {
            let read = match turn {
                Turn::Try => view.next_lines(&caller, handle, &reader, size),
                Turn::GiveUp(why) => Err(why),
            };
            if matches!(read, Err(Error::WouldBlock)) {
                return false;
            }
            if let Some(reply) = reply.take() {
                match read {
                    Ok(bytes) => reply(Ok(&bytes)),
                    Err(error) => reply(Err(error)),
                }
            }
            true
        };
        self.wait(line, caller.pid, Box::new(waiter));
    }

    /// What was handed out is done with: somebody reads on, or has closed the file.
    fn acknowledge_lines(&self, handle: u64, reader: &LineReader) {
        let mut held = reader.held.lock();
        while held.messages.front().is_some_and(|message| message.left() == 0)
            && let Some(message) = held.messages.pop_front()
        {
            self.end_line(handle, reader.queue, &message, ClaimEnd::Ack);
        }
    }

    /// What is held goes back. `failed`: the reader got some of it, and died of that as far as anybody can tell.
    fn give_lines_back(&self, handle: u64, reader: &LineReader, failed: bool) {
        let messages = std::mem::take(&mut reader.held.lock().messages);
        if messages.is_empty() {
            return;
        }
        tracing::info!(
            queue = self.store.label(reader.queue),
            messages = messages.len(),
            "a reader did not finish: its messages go back"
        );
        for message in messages {
            let end = if failed && message.given > 0 { ClaimEnd::Fail } else { ClaimEnd::Return };
            if let Some(back) = self.end_line(handle, reader.queue, &message, end) {
                self.log_dead_letter(reader.queue, &back);
                self.announce(&back.record);
            }
        }
    }

    /// Ends the claim of a message; gives what became of it if it went back.
    fn end_line(&self, handle: u64, queue: u64, message: &Message, end: ClaimEnd) -> Option<Altered> {
        self.handles.unbind(handle, message.seq);
        let ended = self.store.end_claim(message.seq, message.delivery, end, clock::now_ms());
        ended.unwrap_or_else(|error| {
            match error {
                Error::NotFound => tracing::debug!(name = self.store.name_of(message.seq), queue = self.store.label(queue), "the claim ended before its reader"),
                error => tracing::error!(name = self.store.name_of(message.seq), queue = self.store.label(queue), %error, "a claim did not end"),
            }
            None
        })
    }

    /// A close of one descriptor by the thread `tid`. When its process fails or is killed, and has read what is held, or opened
    /// the file, it has not done with it.
    pub(super) fn close_line_reader(&self, handle: u64, reader: &LineReader, tid: u32) {
        reader.opener.closes();
        let concerned = {
            let held = reader.held.lock();
            !held.messages.is_empty() && held.holders.include(tid)
        };
        if concerned && self.workers.failed(tid) {
            self.give_lines_back(handle, reader, true);
        }
    }

    /// The last close. What was not read to its end goes back.
    pub(super) fn release_line_reader(&self, handle: u64, reader: &LineReader) {
        self.waiters.forget_poller(reader.line(), handle);
        self.acknowledge_lines(handle, reader);
        self.give_lines_back(handle, reader, false);
    }

    /// The next bytes: of what is held, or of what is taken now.
    fn next_lines(&self, caller: &Caller, handle: u64, reader: &LineReader, size: usize) -> Result<Vec<u8>> {
        let room = if size >= DIVIDED { size - 1 } else { size };
        let mut held = reader.held.lock();
        if !held.has_more() {
            self.take_lines(caller, handle, reader, &mut held, room)?;
        }
        held.holders.read_by(caller.pid);
        held.hand_out(room).inspect_err(|error| {
            // Its lease ends, and in the end it is dead-lettered.
            if let Some(at) = held.messages.iter().position(|message| message.left() > 0)
                && let Some(message) = held.messages.remove(at)
            {
                self.tell_unreadable(message.seq, error, &AtomicBool::new(false));
                self.handles.unbind(handle, message.seq);
            }
        })
    }

    /// Takes a message, or as many as the queue says that are ready now and fit.
    fn take_lines(
        &self,
        caller: &Caller,
        handle: u64,
        reader: &LineReader,
        held: &mut Held,
        room: usize,
    ) -> Result<()> {
        self.refuse_when_going_away()?;
        self.refuse_read_only()?;
        self.refuse_consuming(caller, reader.queue)?;
        self.handles.admit(caller, false)?;
        let worker = reader.opener.worker_of(caller.pid, |tid| self.workers.worker(tid));
        if held.messages.is_empty() {
            held.holders = Holders::new(worker, &reader.opener);
        }
        let config = self.store.config(reader.queue)?;
        let timeout = u64::try_from(config.visibility_timeout.as_millis()).unwrap_or(u64::MAX);
        let most = (config.lines_batch as usize).min(LINES_AT_ONCE);
        let (mut taken, mut damaged, mut left) = (0, 0, u64::MAX);
        while taken < most && left > 0 && damaged < DAMAGED_AT_ONCE {
            if taken > 0 && self.handles.admit(caller, false).is_err() {
                break;
            }
            let memory = match Room::of_any(&self.handles.bodies, reader.uid) {
                Err(_) if taken > 0 => break,
                memory => memory?,
            };
            let taker = Taker { worker, uid: caller.uid };
            let claimed = self.store.claim_next_within(reader.queue, left.saturating_sub(1), taker, clock::now_ms());
            let (seq, record) = match claimed {
                Err(_) if taken > 0 => break, // nothing more, or the next read is told
                claimed => claimed?,
            };
            let claim = record.claim.as_ref().ok_or(Error::NotFound)?;
            match self.line_message(memory, (seq, &record), claim, timeout) {
                Ok(message) => {
                    left = left.min(room as u64).saturating_sub(message.left());
                    self.handles.bind(handle, seq);
                    held.messages.push_back(message);
                    taken += 1;
                }
                // It stays claimed: its lease ends, and in the end it is dead-lettered.
                Err(error @ Error::Damaged(_)) => {
                    self.tell_unreadable(seq, &error, &AtomicBool::new(false));
                    damaged += 1;
                }
                Err(error) => {
                    self.store.end_claim(seq, claim.delivery, ClaimEnd::Return, clock::now_ms())?;
                    return if taken > 0 { Ok(()) } else { Err(error) };
                }
            }
        }
        if taken == 0 { Err(Error::Damaged("too many messages in a row".into())) } else { Ok(()) }
    }

    fn line_message(
        &self,
        memory: Room,
        (seq, record): (u64, &MessageRecord),
        claim: &Claim,
        timeout: u64,
    ) -> Result<Message> {
        let body = memory.open(&self.store, record)?;
        let last = body.last()?;
        let bare = last != Some(b'\n');
        let Claim { delivery, deadline, .. } = *claim;
        Ok(Message { seq, delivery, deadline, timeout, body, length: record.size, bare, given: 0 })
    }
}
