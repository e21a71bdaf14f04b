//! Bare names: for the processes of a session, the name that one of them wrote goes on meaning the newest message that the
//! session wrote under it. So `install`, `rsync --inplace` and `echo hi > q/a; cat q/a; rm q/a` work.
//!
//! ```text
//!   create                last close                       it leaves                          2 s
//!   ------> UNFINISHED -----------------> a MESSAGE -----------------------------> GONE ------------> nothing
//!                 |       a duplicate                                               ^ |
//!                 |-----------------------------------------------------------------' | opened, unlinked
//!                 '--> nothing: unlinked, dropped                                     '----------------> nothing
//! ```
//!
//! Each process finds what it wrote itself before what others of its session wrote; of several, the newest. What its session
//! unlinked or moved is nothing at once.
//!
//! The table is a convenience in memory: it is bounded, forgets what is oldest of the user who has most in it, and is gone after a
//! remount. A meaning may outlive its message; whoever follows it checks. It is forgotten as what was looked at, by its age or its message's
//! number, never by the name: somebody else may have given that another meaning since.

use std::collections::HashMap;
use std::sync::Arc;

use crate::fair::FairMap;
use crate::store::Departures;

use super::{Attributes, Node, Via};

/// So many names of messages are remembered for the whole mount, and users share that.
pub const REMEMBERED: usize = 16_384;

/// So many of those who write at a time in one session under one name are found by it, the newest of them.
const AT_A_TIME: usize = 64;

/// Of so many nodes that mean nothing any more it is remembered what they showed.
const LATELY: usize = 1024;

/// What its session does to the attributes of a message that has left succeeds for so long, in milliseconds.
pub const GONE_MS: u64 = 2000;

/// A thread that was sent back to look a name up again finds nothing under it for so long, in milliseconds, and so many times,
/// unless it creates it before. The kernel looks up twice or three times then, and may wait for others in between.
const SENT_BACK_MS: u64 = 60_000;
const SENT_BACK_LOOKUPS: u32 = 4;
/// So many such threads are remembered.
const SENT_BACK: usize = 4096;

/// For whom a bare name means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    /// The session.
    pub session: u32,
    /// The user: two users of one session do not stand in each other's way.
    pub uid: u32,
}

/// A name in a queue, as a session gave it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The queue.
    pub queue: u64,
    /// The name.
    pub name: Vec<u8>,
    /// Who gave it.
    pub by: Writer,
}

/// What a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A message that is being written, by its own number.
    Unfinished(u64),
    /// One that was written.
    Written {
        /// Since when it means that, in a time of the table's own.
        age: u64,
        /// Its sequence number; a duplicate has none.
        seq: Option<u64>,
    },
}

/// A message that was written under a name.
pub struct Written {
    /// The process that wrote it.
    pub process: u32,
    /// Its sequence number.
    pub seq: Option<u64>,
    /// When it turned out to be a duplicate, in milliseconds since the epoch: then it was never in the queue.
    pub left: Option<u64>,
    /// What `stat` showed of it.
    pub shown: Attributes,
}

struct Unfinished {
    id: u64,
    process: u32,
    age: u64,
    /// Another process has unlinked the name: only the one that gave it finds it.
    hidden: bool,
}

/// A thread that wants to write a name anew and was sent back for it.
struct SentBack {
    /// The name, in a queue; any, when that is not known any more.
    name: Option<(u64, Vec<u8>)>,
    at: u64,
    lookups: u32,
}

/// The table.
pub struct BareNames {
    /// By age.
    written: FairMap<u64, (Key, Written)>,
    /// The age of what was written under a name.
    newest: HashMap<Key, u64>,
    /// The age of the name of a message.
    of_message: HashMap<u64, u64>,
    /// What is being written under a name, oldest first.
    unfinished: HashMap<Key, Vec<Unfinished>>,
    clock: u64,
    /// The kernel looks up again once only, and another process of the session may have written the name meanwhile, or
    /// a consumer taken the message: so the thread must find nothing, whatever the table says by then.
    sent_back: FairMap<u32, SentBack>,
    /// Nodes that mean nothing any more.
    ///
    /// The kernel has looked up a name and asks what its node shows before it opens it. If it were sent back to look up again
    /// then, it could not be sent back a second time, by the open.
    lately: FairMap<Node, Lately>,
    departures: Arc<Departures>,
}

/// What meant something lately.
struct Lately {
    name: (u64, Vec<u8>),
    shown: Attributes,
}

fn within(now: u64, since: u64, limit: u64) -> bool {
    // When the clock was set back, nobody knows how long ago it was.
    now.checked_sub(since).is_some_and(|passed| passed < limit)
}

impl BareNames {
    /// An empty table. `departures` says when messages left, and is told of those that need not be watched any more.
    pub fn new(departures: Arc<Departures>) -> Self {
        Self {
            written: FairMap::new(REMEMBERED),
            newest: HashMap::new(),
            of_message: HashMap::new(),
            unfinished: HashMap::new(),
            clock: 0,
            sent_back: FairMap::new(SENT_BACK),
            lately: FairMap::new(LATELY),
            departures,
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The queue and the name under which somebody finds the message `seq`.
    pub fn name_of(&self, seq: u64) -> Option<(u64, Vec<u8>)> {
        let (key, _) = self.written.get(*self.of_message.get(&seq)?)?;
        Some((key.queue, key.name.clone()))
    }

    /// What a name means to a process of those who gave it, which is asked for only when the answer depends on it.
    pub fn get(&self, key: &Key, process: impl FnOnce() -> u32) -> Option<Meaning> {
        let unfinished = self.unfinished.get(key).map_or(&[][..], Vec::as_slice);
        let written = self.newest.get(key).and_then(|age| Some((*age, &self.written.get(*age)?.1)));
        let written = written.map(|(age, written)| (age, written.process, Meaning::Written { age, seq: written.seq }));
        if unfinished.is_empty() {
            return written.map(|(_, _, meaning)| meaning);
        }
        let process = process();
        let visible = unfinished.iter().filter(|one| !one.hidden || one.process == process);
        let all = visible.map(|one| (one.age, one.process, Meaning::Unfinished(one.id))).chain(written);
        all.max_by_key(|(age, by, _)| (*by == process, *age)).map(|(_, _, meaning)| meaning)
    }

    /// The process writes the message `id` under a name, until [`BareNames::close`].
    pub fn open(&mut self, key: Key, process: u32, id: u64) {
        let age = self.tick();
        let all = self.unfinished.entry(key).or_default();
        if all.len() == AT_A_TIME {
            all.remove(0);
        }
        all.push(Unfinished { id, process, age, hidden: false });
    }

    /// The message `id` is no longer being written under a name.
    pub fn close(&mut self, key: Key, id: u64, shown: Attributes) {
        self.unname(&key, id);
        self.meant(Node::Unfinished(id), key, shown);
    }

    /// The same of one that the kernel does not know by a node of that name.
    pub fn unname(&mut self, key: &Key, id: u64) {
        if let Some(all) = self.unfinished.get_mut(key) {
            all.retain(|one| one.id != id);
            if all.is_empty() {
                self.unfinished.remove(key);
            }
        }
    }

    /// A node means nothing any more.
    fn meant(&mut self, node: Node, key: Key, shown: Attributes) {
        self.lately.insert(key.by.uid, node, Lately { name: (key.queue, key.name), shown });
    }

    /// What the node of a name showed that meant something a moment ago.
    pub fn shown_lately(&self, node: Node) -> Option<Attributes> {
        let written = |age: u64| self.written.get(age).map(|(_, written)| written.shown);
        let shown = match node {
            Node::Message(seq, Via::Bare) => self.of_message.get(&seq).and_then(|age| written(*age)),
            Node::Gone(age) => written(age),
            _ => None,
        };
        let shown = shown.or_else(|| self.lately.get(node).map(|lately| lately.shown))?;
        Some(Attributes { node, ..shown })
    }

    /// The name of that node.
    pub fn named_lately(&self, node: Node) -> Option<(u64, Vec<u8>)> {
        self.lately.get(node).map(|lately| lately.name.clone())
    }

    /// Others than the process that writes the message `id` find it no more.
    pub fn hide(&mut self, key: &Key, id: u64) {
        let all = self.unfinished.get_mut(key).into_iter().flatten();
        all.filter(|one| one.id == id).for_each(|one| one.hidden = true);
    }

    /// A message was written under a name. The store watches it.
    pub fn set(&mut self, key: Key, written: Written) {
        if let Some(&age) = self.newest.get(&key) {
            self.forget(age);
        }
        let age = self.tick();
        if let Some(seq) = written.seq {
            // It may have had another name, and goes on being watched.
            if let Some(other) = self.of_message.insert(seq, age)
                && let Some((key, _)) = self.written.remove(other)
            {
                self.newest.remove(&key);
            }
        }
        self.newest.insert(key.clone(), age);
        if let Some((age, (key, written))) = self.written.insert(key.by.uid, age, (key, written)) {
            self.forgotten(age, &key, &written);
        }
    }

    /// What a message that has left shows to those who wrote it, as long as it does.
    pub fn gone(&self, age: u64, now: u64) -> Option<Attributes> {
        let (_, written) = self.written.get(age)?;
        let left = written.left.or_else(|| self.departures.left(written.seq?))?;
        within(now, left, GONE_MS).then_some(written.shown)
    }

    /// The same of the message `seq`, to `by`.
    pub fn gone_message(&self, by: Writer, seq: u64, now: u64) -> Option<Attributes> {
        let age = *self.of_message.get(&seq)?;
        let (key, _) = self.written.get(age)?;
        if key.by == by { self.gone(age, now) } else { None }
    }

    /// What has a name since then has it no more; gives the name.
    pub fn forget(&mut self, age: u64) -> Option<Key> {
        let (key, written) = self.written.remove(age)?;
        self.forgotten(age, &key, &written);
        Some(key)
    }

    /// What was written since then under a name is in the table no more.
    fn forgotten(&mut self, age: u64, key: &Key, written: &Written) {
        self.newest.remove(key);
        if let Some(seq) = written.seq {
            self.of_message.remove(&seq);
            self.departures.forget(seq);
            self.meant(Node::Message(seq, Via::Bare), key.clone(), written.shown);
        }
        self.meant(Node::Gone(age), key.clone(), written.shown);
    }

    /// The message `seq` has no name any more; gives the one that it had.
    pub fn forget_message(&mut self, seq: u64) -> Option<Key> {
        let age = self.of_message.get(&seq).copied()?;
        self.forget(age)
    }

    /// The same, when it was `by` who gave the name.
    pub fn forget_message_of(&mut self, by: Writer, seq: u64) {
        let age = self.of_message.get(&seq).copied();
        if let Some(age) = age.filter(|age| self.written.get(*age).is_some_and(|(key, _)| key.by == by)) {
            self.forget(age);
        }
    }

    /// The thread `tid` of the user `uid` is sent back to look a name up again and create it.
    pub fn send_back(&mut self, (uid, tid): (u32, u32), name: Option<(u64, Vec<u8>)>, now: u64) {
        self.sent_back.expire(uid, |sent| !within(now, sent.at, SENT_BACK_MS));
        self.sent_back.insert(uid, tid, SentBack { name, at: now, lookups: 0 });
    }

    /// Whether the thread, which looks that name up, was sent back for it and has not created it yet.
    pub fn is_sent_back(&mut self, tid: u32, queue: u64, name: &[u8], now: u64) -> bool {
        let Some(sent) = self.sent_back.get_mut(tid) else { return false };
        if !sent.name.as_ref().is_none_or(|(of, called)| *of == queue && called == name) {
            return false;
        }
        sent.lookups += 1;
        sent.lookups <= SENT_BACK_LOOKUPS && within(now, sent.at, SENT_BACK_MS)
    }

    /// Whether the thread was sent back for that name and has not looked it up: it opens by a descriptor of the file, which no lookup
    /// goes before.
    pub fn did_not_look(&self, tid: u32, name: &(u64, Vec<u8>)) -> bool {
        self.sent_back.get(tid).is_some_and(|sent| sent.name.as_ref() == Some(name) && sent.lookups == 0)
    }

    /// The thread has created what it was sent back for.
    pub fn arrived(&mut self, tid: u32) {
        if !self.sent_back.is_empty() {
            self.sent_back.remove(tid);
        }
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
