//! Opening a message for reading and writing, as programs do that lock what they read: it is read as ever, and no write succeeds.
//!
//! The kernel keeps the bytes of an inode for all who read it, and whoever has mapped a file that is open for writing can change what it
//! keeps: others would read bytes that nobody enqueued. So who opens a message so gets an inode of its own. The kernel is sent
//! back to look the name up again ([`Error::Stale`]), and finds [`Node::Locked`].
//!
//! A program can open a file without a name, too, by a descriptor of it (`/proc/self/fd/N`): the kernel then does not look anything
//! up, and comes back to the same node.
//!
//! A bare name is nobody's but the session's that wrote it, so there the inode can stay. A program that opens it so may be about to
//! write the name anew ([`Again`]): Samba does, for an upload, and cuts the file or writes its first bytes then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::fair::FairMap;
use crate::locks::{self, Ranked};
use crate::store::Of;
use crate::store::record::MessageRecord;

use super::access::Caller;
use super::deliveries::Reach;
use super::handles::{Handle, Reader};
use super::open::Opened;
use super::xattr::Pairs;
use super::{Node, Via, View};

/// The kernel looks up again at once.
const SENT_BACK: Duration = Duration::from_secs(1);
/// So many threads that were sent back are remembered.
const THREADS: usize = 4096;

/// Threads that were sent back, and messages that are written anew.
pub(super) struct Locking {
    /// Threads that were sent back to look up the name of a message that they open to lock it: which message, and when.
    threads: Mutex<FairMap<u32, (u64, Instant)>>,
    /// By the bare name's node of a message that was opened by that, the message that is written by that file now. As long as that
    /// is open, the node stands for it.
    again: Ranked<HashMap<Node, u64>, { locks::AGAIN }>,
}

/// What an open file on a message makes a new one of when it is written.
pub struct Again {
    caller: Caller,
    queue: u64,
    name: Vec<u8>,
    mode: u32,
    /// Something was read: then it is no upload.
    read: AtomicBool,
}

impl Again {
    /// Notes that the message was read.
    pub fn was_read(&self) {
        // Relaxed: it orders nothing else.
        self.read.store(true, Ordering::Relaxed);
    }
}

impl Default for Locking {
    fn default() -> Self {
        Self { threads: Mutex::new(FairMap::new(THREADS)), again: Ranked::default() }
    }
}

impl Locking {
    /// Sends a thread of the user `uid` back; false when it comes from there.
    fn send_back(&self, uid: u32, tid: u32, seq: u64) -> bool {
        let mut threads = self.threads.lock();
        threads.expire(uid, |(_, since)| since.elapsed() >= SENT_BACK);
        match threads.remove(tid) {
            Some((same, since)) if same == seq && since.elapsed() < SENT_BACK => false,
            _ => {
                threads.insert(uid, tid, (seq, Instant::now()));
                true
            }
        }
    }

    /// Whether a thread that looks a message up was sent back for it.
    fn wants(&self, tid: u32, seq: u64) -> bool {
        let threads = self.threads.lock();
        threads.get(tid).is_some_and(|(of, since)| *of == seq && since.elapsed() < SENT_BACK)
    }

    fn arrived(&self, tid: u32) {
        self.threads.lock().remove(tid);
    }
}

impl View {
    /// The node that a lookup answers which found that one.
    pub(super) fn node_to_lock(&self, caller: &Caller, found: Node) -> Node {
        match found {
            Node::Message(seq, via) if self.locking.wants(caller.pid, seq) => Node::Locked(seq, via, false),
            Node::Granted(seq, via) if self.locking.wants(caller.pid, seq) => Node::Locked(seq, via, true),
            node => node,
        }
    }

    /// Opens a message, found as a reader finds it, for reading and writing.
    pub(super) fn open_to_lock(&self, caller: &Caller, (seq, via): (u64, Via)) -> Result<Opened> {
        let message = match self.store.message(seq) {
            // Whether its name is to be created is asked when it is looked up again.
            Err(Error::NotFound) => return Err(Error::Stale),
            found => found?,
        };
        if via == Via::Bare {
            let again = self.again(caller, seq, &message);
            let opened = self.open_message(caller, Reach { seq, via, of: Of::Any }, again)?;
            return Ok(Opened { immutable: false, direct: true, ..opened });
        }
        if self.locking.send_back(caller.uid, caller.pid, seq) {
            return Err(Error::Stale);
        }
        Err(Error::NotPermitted("a message is opened for reading and writing by its name only"))
    }

    /// Opens a message for reading and writing, found for that.
    pub(super) fn open_locked(&self, caller: &Caller, (seq, via): (u64, Via)) -> Result<Opened> {
        self.locking.arrived(caller.pid);
        let opened = self.open_message(caller, Reach { seq, via, of: Of::Any }, None)?;
        Ok(Opened { immutable: false, direct: true, ..opened })
    }

    /// What the bare name of a message, by which `caller` opens it, becomes the name of when the file is written.
    fn again(&self, caller: &Caller, seq: u64, message: &MessageRecord) -> Option<Again> {
        let (queue, name) = self.names.lock().name_of(seq)?;
        let again = Again { caller: *caller, queue, name, mode: message.mode, read: AtomicBool::new(false) };
        (queue == message.queue).then_some(again)
    }

    /// The thread `tid` cuts an open file on a message to nothing, or writes its first bytes: it is one on a new message from then on,
    /// of which this gives the number. Only the thread that serves requests may call it.
    pub(super) fn write_again(&self, handle: u64, reader: &Reader, tid: u32) -> Result<u64> {
        let again = reader.again.as_ref().filter(|again| !again.read.load(Ordering::Relaxed));
        let again = again.ok_or(Error::NotPermitted("a committed message never changes"))?;
        let caller = Caller { pid: tid, ..again.caller };
        let writer = self.new_writer(&caller, (again.queue, &again.name), again.mode, Pairs::new(), true)?;
        let id = writer.lock().id();
        self.handles.replace(handle, Handle::Writer(id));
        self.stands_for(Node::Message(reader.seq, Via::Bare), id);
        Ok(id)
    }

    fn stands_for(&self, node: Node, id: u64) {
        let mut messages = self.locking.again.lock();
        messages.retain(|_, writer| self.writer(*writer).is_ok());
        messages.insert(node, id);
    }

    /// Opens the node of a message that has left, by a descriptor of it, to write: that makes a new message under its name.
    pub(super) fn open_again(
        &self,
        caller: &Caller,
        node: Node,
        (queue, name): (u64, &[u8]),
        mode: u32,
        waits: bool,
    ) -> Result<Opened> {
        let writer = self.new_writer(caller, (queue, name), mode, Pairs::new(), waits)?;
        let id = writer.lock().id();
        self.stands_for(node, id);
        Ok(Opened { direct: true, ..Opened::plain(self.handles.add(caller, Handle::Writer(id))) })
    }

    /// As [`View::write_again`], where `size` is set of what is open as `handle`, if it is by such a file.
    pub(super) fn cut_again(&self, caller: &Caller, handle: Option<u64>, size: Option<u64>) -> Result<()> {
        let (Some(handle), Some(0)) = (handle, size) else { return Ok(()) };
        match self.handles.get(handle).as_deref() {
            Ok(Handle::Reader(reader)) if reader.again.is_some() => {
                self.write_again(handle, reader, caller.pid).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// What a node stands for: the message that is written by way of it, if there is one.
    pub(super) fn meant(&self, node: Node) -> Node {
        let named = match node {
            Node::Message(seq, Via::Bare) | Node::Granted(seq, Via::Bare) => Node::Message(seq, Via::Bare),
            Node::Gone(_) => node,
            _ => return node,
        };
        let written = self.locking.again.lock().get(&named).copied();
        written.filter(|id| self.writer(*id).is_ok()).map_or(node, Node::Writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_sent_back_once_for_each_open() {
        let locking = Locking::default();
        assert!(!locking.wants(5, 7));
        assert!(locking.send_back(0, 5, 7));
        assert!(locking.wants(5, 7) && !locking.wants(6, 7) && !locking.wants(5, 8));
        locking.arrived(5);
        assert!(!locking.wants(5, 7));
        assert!(locking.send_back(0, 5, 7));
        assert!(!locking.send_back(0, 5, 7), "it did not look up");
        assert!(locking.send_back(0, 5, 7));
        assert!(locking.send_back(0, 5, 8), "another message");
    }
}
