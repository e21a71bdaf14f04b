//! Open files.

use std::collections::{BTreeMap, HashMap, hash_map};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::locks::{self, Ranked};
use crate::queue::delivery::Delivery;
use crate::queue::worker::ProcessId;

use super::access::Caller;
use super::backup::Backup;
use super::control::ConfigEdit;
use super::draft::SharedDraft;
use super::few::part;
use super::held::{Budget, Held, shares};
use super::line_reader::LineReader;
use super::line_writer::SharedLines;
use super::locking::Again;
use super::nack::Nacker;
use super::open_body::OpenBody;
use super::purge::Purger;
use super::rendering::Excerpt;
use super::take::Take;
use super::writer::SharedWriter;
use super::{Attributes, Node, process};

/// What an open file is.
pub enum Handle {
    /// A committed message, being read.
    Reader(Box<Reader>),
    /// A message that is being written.
    Writer(u64),
    /// One that was opened by its name to be read, while it was being written by others or is.
    Onlooker {
        /// Its number.
        id: u64,
        /// The message.
        writer: Arc<SharedWriter>,
    },
    /// The name of a message that has left.
    Gone,
    /// A draft.
    Draft {
        /// Its number.
        id: u64,
        /// Its bytes.
        open: Arc<SharedDraft>,
        /// It was opened for writing.
        writes: bool,
    },
    /// The directory of a batch that goes with its last close.
    Batch(u64),
    /// A control file, as it was when it was opened.
    Text {
        /// What is read.
        text: Arc<Text>,
        /// What it is, and the process that opened it; 0 when that is not visible from here.
        of: (Node, u32),
    },
    /// A queue's `.mq/claim` or `.mq/pop`.
    Take(Arc<Take>),
    /// A queue's configuration, open for writing.
    Config(Ranked<ConfigEdit, { locks::FILE }>),
    /// The mount's `backup`.
    Backup(Arc<Backup>),
    /// A queue's `purge`, open for writing.
    Purge(Purger),
    /// A queue's `nack`, open for writing.
    Nack(Nacker),
    /// A queue's lines, open for writing.
    LineWriter(Arc<SharedLines>),
    /// A queue's lines, open for reading.
    LineReader(Arc<LineReader>),
}

/// What a control file reads as; several open files may share it.
pub struct Text {
    words: Words,
    /// What they hold of the memory that there is for all texts.
    _held: Held,
}

enum Words {
    /// These.
    Own(Vec<u8>),
    /// Those of a text that is shown to others as well.
    Of(Excerpt),
}

impl Text {
    /// How many bytes are read.
    pub fn len(&self) -> u64 {
        match &self.words {
            Words::Own(bytes) => bytes.len() as u64,
            Words::Of(excerpt) => excerpt.len(),
        }
    }

    /// Calls `with` with at most `size` bytes from `offset` on. [`Error::Stale`] when it was told long ago, and its memory was needed.
    pub fn read(&self, offset: u64, size: usize, with: impl FnOnce(&[u8])) -> Result<()> {
        match &self.words {
            Words::Own(bytes) => with(part(bytes, offset, size)),
            Words::Of(excerpt) => return excerpt.read(offset, size, with),
        }
        Ok(())
    }
}

/// An open message. It can be read for as long as it is open, whatever happens to the message.
pub struct Reader {
    /// Its sequence number when it was opened.
    pub seq: u64,
    /// Its bytes.
    pub body: OpenBody,
    /// What `stat` showed.
    pub attributes: Attributes,
    /// The log tells that its bytes cannot be had.
    pub told: AtomicBool,
    /// The lease that this descriptor keeps alive.
    pub hold: Ranked<Hold, { locks::TAKEN }>,
    /// What it becomes when it is written.
    pub again: Option<Again>,
}

/// What an open descriptor does for the claim of its message.
#[derive(Clone, Copy, Debug)]
pub enum Hold {
    /// Nothing: it only looks.
    Nothing,
    /// It claims at the first read. Programs open what they wrote under its bare name without reading it, to set its mode.
    AtFirstRead,
    /// It keeps the lease alive.
    Lease(Lease),
    /// The process that opened it, or one that descends from that, has ended this delivery.
    Settled(Delivery),
}

/// A lease that an open descriptor keeps alive while its process lives.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// The process that opened it; `None` when it is not visible from here: then the descriptor alone counts.
    pub process: Option<ProcessId>,
    /// Which delivery of the message it belongs to. A later one is not this descriptor's.
    pub delivery: Delivery,
    /// When the lease ended as of the open, in milliseconds since the epoch.
    pub deadline: u64,
    /// The visibility timeout then, in milliseconds.
    pub timeout: u64,
}

/// So many files can be open at a time, if the system lets this process have as many descriptors.
const MOST: usize = 65_536;
/// Of the descriptors that the process may have, so many are not for open files but for the database, connections to the
/// kernel and looks at processes; but no more than half of them.
const RESERVED: u64 = 1024;
/// The texts of status files that are open, but for the metrics ([`super::telling`]), are no longer than this in all, in bytes.
const TEXTS: usize = 128 << 20;
/// The messages that are open for reading take no more memory than this in all, in bytes.
const BODIES: usize = 128 << 20;
/// The attributes of new messages that are open take no more memory than this in all, in bytes.
const ATTRIBUTES: usize = 256 << 20;
/// The bytes of messages and lines that are being written, and of which more than a few are in memory, are no more than these in all:
/// more are in files.
const STAGED: usize = 128 << 20;
/// The bytes of writes that wait for room are no more than these in all.
const WAITING: usize = 64 << 20;

/// The table of open files. It is bounded, so that nobody who opens files without end takes the memory and the descriptors
/// that the others' work needs.
pub struct Handles {
    next: AtomicU64,
    most: usize,
    /// Who mounted: mqfs is this user's, and so are the descriptors.
    owner: u32,
    /// For the texts of status files.
    texts: Arc<Budget>,
    /// For the messages that are open for reading.
    pub bodies: Arc<Budget>,
    /// For the attributes of new messages.
    pub attributes: Arc<Budget>,
    /// For the bytes of messages and lines that are being written.
    pub staged: Arc<Budget>,
    /// For the bytes of writes that wait for room.
    pub waiting: Arc<Budget>,
    open: Ranked<Open, { locks::HANDLES }>,
}

/// An open file of the table.
struct Entry {
    handle: Arc<Handle>,
    /// Who opened it.
    uid: u32,
}

#[derive(Default)]
struct Open {
    by_number: HashMap<u64, Entry>,
    /// How many open files, and messages held by them, count against each user.
    by_user: HashMap<u32, usize>,
    /// The numbers of the readers of each message.
    readers: HashMap<u64, Vec<u64>>,
    /// The numbers of the files on each message that was opened by its name while it was being written.
    onlookers: HashMap<u64, Vec<u64>>,
    /// The messages of files that got theirs when they were open already.
    bound: HashMap<u64, Vec<u64>>,
    /// How many those are.
    held: usize,
    /// The control files that each process has open, by their numbers: who opened which, and its length.
    texts: HashMap<(Node, u32), BTreeMap<u64, (u32, u64)>>,
}

/// Of the control files of one kind that a process has open, so many are looked at for the one that its thread has opened.
const LOOKED_AT: usize = 64;

impl Open {
    fn counts(&mut self, uid: u32, more: usize) {
        if more > 0 {
            *self.by_user.entry(uid).or_default() += more;
        }
    }

    fn counts_no_more(&mut self, uid: u32, less: usize) {
        if let Some(count) = self.by_user.get_mut(&uid) {
            *count -= less;
            if *count == 0 {
                self.by_user.remove(&uid);
            }
        }
    }

    fn forget_text(&mut self, number: u64, of: (Node, u32)) {
        if let Some(texts) = self.texts.get_mut(&of) {
            texts.remove(&number);
            if texts.is_empty() {
                self.texts.remove(&of);
            }
        }
    }

    fn handles(&self) -> impl Iterator<Item = &Arc<Handle>> {
        self.by_number.values().map(|entry| &entry.handle)
    }

    fn unbind(&mut self, number: u64, seq: u64) {
        if let Some(numbers) = self.readers.get_mut(&seq) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.readers.remove(&seq);
            }
        }
    }
}

impl Handles {
    /// An empty table for a process of the user `owner` that may have so many descriptors.
    pub fn new(descriptors: u64, owner: u32) -> Self {
        let free = descriptors.saturating_sub(RESERVED.min(descriptors / 2));
        let most = usize::try_from(free).unwrap_or(MOST).min(MOST);
        let budget = |bytes| Budget::new(bytes, owner);
        let (texts, bodies, attributes) = (budget(TEXTS), budget(BODIES), budget(ATTRIBUTES));
        let (next, staged, waiting) = (AtomicU64::new(0), budget(STAGED), budget(WAITING));
        Self { next, most, owner, texts, bodies, attributes, staged, waiting, open: Ranked::default() }
    }

    /// Refuses one more file when many are open. `new`: it is not one that is open already and takes another message, for which
    /// the last of them are as well.
    pub fn admit(&self, caller: &Caller, new: bool) -> Result<()> {
        let open = self.open.lock();
        let (most, own) = if new { shares(self.most, caller.uid, self.owner) } else { (self.most, self.most) };
        let of_all = open.by_number.len() + open.held;
        let of_caller = open.by_user.get(&caller.uid).copied().unwrap_or_default();
        if of_all < most && of_caller < own { Ok(()) } else { Err(Error::TooManyOpen) }
    }

    /// A text to be read, unless those that there are are very long already.
    pub fn text(&self, caller: &Caller, text: String) -> Result<Arc<Text>> {
        let held = self.texts.hold(caller.uid, text.len())?;
        Ok(Arc::new(Text { words: Words::Own(text.into_bytes()), _held: held }))
    }

    /// The same of an excerpt of a text that is there anyhow.
    pub fn excerpt(&self, caller: &Caller, excerpt: Excerpt) -> Result<Arc<Text>> {
        let held = self.texts.hold(caller.uid, excerpt.memory())?;
        Ok(Arc::new(Text { words: Words::Of(excerpt), _held: held }))
    }

    /// Enters a control file that reads as this text; gives its number.
    pub fn add_text(&self, caller: &Caller, node: Node, text: Arc<Text>) -> u64 {
        let (tid, length) = (caller.pid, text.len());
        let of = (node, if tid == 0 { 0 } else { process::tgid(tid) });
        let number = self.add(caller, Handle::Text { text, of });
        if tid != 0 {
            self.open.lock().texts.entry(of).or_default().insert(number, (tid, length));
        }
        number
    }

    /// The length of what a thread reads from the control file `node` that it has open; else of what the newest reads that its
    /// process has open. `None` when there is none.
    pub fn length_open(&self, node: Node, tid: u32) -> Option<u64> {
        if tid == 0 {
            return None; // nobody knows who it is
        }
        let process = process::tgid(tid);
        let open = self.open.lock();
        let newest = open.texts.get(&(node, process))?.values().rev().take(LOOKED_AT);
        let own = newest.clone().find(|(opener, _)| *opener == tid);
        own.or_else(|| newest.clone().next()).map(|(_, length)| *length)
    }

    /// Enters a file that `caller` opens; gives its number.
    pub fn add(&self, caller: &Caller, handle: Handle) -> u64 {
        // Relaxed: only the number's being new matters.
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut open = self.open.lock();
        if let Handle::Reader(reader) = &handle {
            open.readers.entry(reader.seq).or_default().push(number);
        }
        if let Handle::Onlooker { id, .. } = &handle {
            open.onlookers.entry(*id).or_default().push(number);
        }
        open.by_number.insert(number, Entry { handle: Arc::new(handle), uid: caller.uid });
        open.counts(caller.uid, 1);
        number
    }

    /// A file that reads a message is another one from now on.
    pub fn replace(&self, number: u64, handle: Handle) {
        let mut open = self.open.lock();
        let Some(entry) = open.by_number.get_mut(&number) else { return };
        let before = std::mem::replace(&mut entry.handle, Arc::new(handle));
        if let Handle::Reader(reader) = &*before {
            open.unbind(number, reader.seq);
        }
    }

    /// The open file of a number.
    pub fn get(&self, number: u64) -> Result<Arc<Handle>> {
        self.open.lock().by_number.get(&number).map(|entry| entry.handle.clone()).ok_or(Error::Aborted)
    }

    /// The user that opened it.
    pub fn opener(&self, number: u64) -> u32 {
        self.open.lock().by_number.get(&number).map_or(0, |entry| entry.uid)
    }

    /// An open file holds the message `seq` from now on, too, and [`Handles::leases_of`] finds it.
    pub fn bind(&self, number: u64, seq: u64) {
        let mut open = self.open.lock();
        open.bound.entry(number).or_default().push(seq);
        open.held += 1;
        if let Some(uid) = open.by_number.get(&number).map(|entry| entry.uid) {
            open.counts(uid, 1);
        }
        open.readers.entry(seq).or_default().push(number);
    }

    /// An open file does not hold the message `seq` any more.
    pub fn unbind(&self, number: u64, seq: u64) {
        let mut open = self.open.lock();
        if let Some(bound) = open.bound.get_mut(&number) {
            let before = bound.len();
            bound.retain(|other| *other != seq);
            let gone = before - bound.len();
            open.held -= gone;
            if let Some(uid) = open.by_number.get(&number).map(|entry| entry.uid) {
                open.counts_no_more(uid, gone);
            }
        }
        open.unbind(number, seq);
    }

    /// What counts against a user besides open files and the messages held by them: so much less, so much more.
    pub fn recount(&self, uid: u32, less: usize, more: usize) {
        if less != more {
            let mut open = self.open.lock();
            open.held = open.held - less + more;
            open.counts_no_more(uid, less);
            open.counts(uid, more);
        }
    }

    /// Takes an open file out.
    pub fn remove(&self, number: u64) -> Option<(Arc<Handle>, u32)> {
        let mut open = self.open.lock();
        let Entry { handle, uid } = open.by_number.remove(&number)?;
        if let Handle::Text { of, .. } = &*handle {
            open.forget_text(number, *of);
        }
        let bound = open.bound.remove(&number);
        let held = bound.as_ref().map_or(0, Vec::len);
        open.held -= held;
        open.counts_no_more(uid, 1 + held);
        if let Handle::Onlooker { id, .. } = &*handle
            && let hash_map::Entry::Occupied(mut numbers) = open.onlookers.entry(*id)
        {
            numbers.get_mut().retain(|other| *other != number);
            if numbers.get().is_empty() {
                numbers.remove();
            }
        }
        let read = if let Handle::Reader(reader) = &*handle { vec![reader.seq] } else { bound.unwrap_or_default() };
        for seq in read {
            open.unbind(number, seq);
        }
        Some((handle, uid))
    }

    fn readers_of(&self, seq: u64) -> Vec<Arc<Handle>> {
        let open = self.open.lock();
        let numbers = open.readers.get(&seq);
        numbers
            .into_iter()
            .flatten()
            .filter_map(|number| open.by_number.get(number).map(|entry| entry.handle.clone()))
            .collect()
    }

    /// What `stat` showed of a message that somebody has open.
    pub fn attributes_of(&self, seq: u64) -> Option<Attributes> {
        self.readers_of(seq).iter().find_map(|handle| match &**handle {
            Handle::Reader(reader) => Some(reader.attributes),
            _ => None,
        })
    }

    /// A message that was opened by its name while it was being written, by its own number.
    pub fn onlooked(&self, id: u64) -> Option<Arc<SharedWriter>> {
        let open = self.open.lock();
        match &*open.by_number.get(open.onlookers.get(&id)?.first()?)?.handle {
            Handle::Onlooker { writer, .. } => Some(writer.clone()),
            _ => None,
        }
    }

    /// The leases of one delivery of a message that open descriptors keep alive.
    pub fn leases_of(&self, seq: u64, delivery: Delivery) -> Vec<Lease> {
        self.readers_of(seq).iter().flat_map(leases).filter(|lease| lease.delivery == delivery).collect()
    }

    /// Looks at what the descriptors do that have a message open for reading.
    pub fn each_hold(&self, seq: u64, mut look: impl FnMut(&mut Hold)) {
        for handle in self.readers_of(seq) {
            if let Handle::Reader(reader) = &*handle {
                look(&mut reader.hold.lock());
            }
        }
    }

    /// The messages that have readers.
    pub fn read(&self) -> Vec<u64> {
        self.open.lock().readers.keys().copied().collect()
    }

    /// The open files that lines are written to.
    pub fn line_writers(&self) -> Vec<Arc<SharedLines>> {
        let lines = |handle: &Arc<Handle>| match &**handle {
            Handle::LineWriter(lines) => Some(lines.clone()),
            _ => None,
        };
        self.open.lock().handles().filter_map(lines).collect()
    }

    /// The numbers of the open files, in the order in which they were opened.
    pub fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.open.lock().by_number.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    /// How many files are open that somebody may be in the middle of writing.
    pub fn written(&self) -> usize {
        let written = |handle: &&Arc<Handle>| match &***handle {
            Handle::Writer(_) | Handle::Config(_) | Handle::Purge(_) | Handle::Nack(_) | Handle::LineWriter(_) => true,
            Handle::Draft { writes, .. } => *writes,
            Handle::Reader(_)
            | Handle::Onlooker { .. }
            | Handle::Gone
            | Handle::Batch(_)
            | Handle::Text { .. }
            | Handle::Take(_)
            | Handle::LineReader(_)
            | Handle::Backup(_) => false,
        };
        self.open.lock().handles().filter(written).count()
    }

    /// How many files are open.
    pub fn len(&self) -> usize {
        self.open.lock().by_number.len()
    }
}

/// The leases that an open file keeps alive.
fn leases(handle: &Arc<Handle>) -> Vec<Lease> {
    match &**handle {
        Handle::Reader(reader) => match *reader.hold.lock() {
            Hold::Lease(lease) => vec![lease],
            _ => Vec::new(),
        },
        Handle::Take(take) => take.leases(),
        Handle::LineReader(reader) => reader.leases(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Caller = Caller { uid: 1, gid: 1, pid: 0 };
    const BOB: Caller = Caller { uid: 2, gid: 2, pid: 0 };
    const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 0 };

    fn add_text(handles: &Handles, caller: &Caller, text: String) -> Result<u64> {
        Ok(handles.add_text(caller, Node::Version, handles.text(caller, text)?))
    }

    fn text(handles: &Handles) -> u64 {
        add_text(handles, &ROOT, "text".into()).unwrap()
    }

    #[test]
    fn the_table_is_bounded_and_root_comes_last() {
        let handles = Handles::new(64, 0);
        assert_eq!(handles.most, 32);
        let numbers: Vec<u64> = (0..30).map(|_| text(&handles)).collect();
        assert!(handles.admit(&ANN, true).is_err() && handles.admit(&ANN, false).is_ok());
        handles.bind(numbers[0], 7);
        handles.bind(numbers[0], 8);
        assert!(handles.admit(&ROOT, true).is_err() && handles.admit(&ANN, false).is_err(), "what is taken counts");
        handles.unbind(numbers[0], 7);
        assert!(handles.admit(&ROOT, true).is_ok() && handles.admit(&ANN, true).is_err());
        numbers.iter().for_each(|number| drop(handles.remove(*number)));
        let open = handles.open.lock();
        assert_eq!((open.by_number.len(), open.by_user.len(), open.held), (0, 0, 0));
    }

    /// Of several that are open, the asking thread's own; of a process none of whose are, nothing.
    #[test]
    fn the_length_of_an_open_text_is_that_of_who_asks() {
        let handles = Handles::new(64, 0);
        let here = Caller { pid: std::process::id(), ..ROOT };
        let there = Caller { pid: 1, ..ROOT };
        let open = |caller: &Caller, length: usize| {
            handles.add_text(caller, Node::Metrics, handles.text(caller, "x".repeat(length)).unwrap())
        };
        let (first, other, second) = (open(&here, 3), open(&there, 5), open(&here, 7));
        assert_eq!(handles.length_open(Node::Metrics, here.pid), Some(7));
        assert_eq!(handles.length_open(Node::Metrics, there.pid), Some(5));
        assert_eq!(handles.length_open(Node::Version, here.pid), None);
        handles.remove(second);
        assert_eq!(handles.length_open(Node::Metrics, here.pid), Some(3));
        handles.remove(first);
        handles.remove(other);
        assert_eq!(handles.length_open(Node::Metrics, here.pid), None);
        assert!(handles.open.lock().texts.is_empty());
    }

    #[test]
    fn nobody_takes_what_is_for_the_others() {
        let (handles, own) = (Handles::new(64, 0), Handles::new(64, ANN.uid));
        let open = |handles: &Handles| handles.add(&ANN, Handle::Writer(1));
        let numbers: Vec<u64> = (0..23).map(|_| open(&handles)).collect();
        assert!(handles.admit(&ANN, true).is_ok());
        handles.bind(numbers[0], 7);
        assert!(handles.admit(&ANN, true).is_err() && handles.admit(&BOB, true).is_ok());
        assert!(handles.admit(&ANN, false).is_ok(), "what is open can take more");
        handles.remove(numbers[0]);
        assert!(handles.admit(&ANN, true).is_ok());
        handles.recount(ANN.uid, 0, 2);
        assert!(handles.admit(&ANN, true).is_err() && handles.admit(&BOB, true).is_ok());
        handles.recount(ANN.uid, 2, 1);
        assert!(handles.admit(&ANN, true).is_ok());
        handles.recount(ANN.uid, 1, 0);
        assert_eq!(handles.open.lock().held, 0);
        (0..30).for_each(|_| drop(own.admit(&ANN, true).map(|()| open(&own))));
        assert_eq!(own.len(), 30, "who mounted has all");
    }

    #[test]
    fn texts_are_bounded_and_nobody_takes_the_others_share() {
        let handles = Handles::new(1 << 20, 0);
        assert_eq!(handles.most, MOST);
        let add = |caller, bytes| add_text(&handles, caller, "x".repeat(bytes));
        let number = add(&ANN, TEXTS / 4 * 3).unwrap();
        assert!(matches!(add(&ANN, 1), Err(Error::TooManyOpen)));
        add(&BOB, TEXTS / 16 * 3).unwrap();
        assert!(matches!(add(&BOB, 1), Err(Error::TooManyOpen)));
        add(&ROOT, TEXTS / 16).unwrap();
        assert!(matches!(add(&ROOT, 1), Err(Error::TooManyOpen)));
        handles.remove(number);
        assert!(add(&ANN, 1).is_ok());
    }
}
