//! The checker: what became of every message, by the journals.
//!
//! The rules, each with what the manual page promises:
//!
//! - `lost`: a message that was acknowledged to its producer, or seen, is acknowledged by a worker or still there. In a queue
//!   with `durability = async` a power cut may take what was not synced. What was purged, or outlived its time where such
//!   messages are dropped, may be gone ([`super::gone`]).
//! - `stale`: no message is claimed when its time to live is over.
//! - `invented`, `misplaced`: what is delivered was offered, to that queue.
//! - `broken`, `unreadable`: a message is whole, and the one of its name.
//! - `came back`: a message that was acknowledged by a worker is gone for good. A crash of mqfs takes no acknowledgement back,
//!   whatever the durability; a power cut may, until an fsync of the queue has returned. What was purged is gone at once.
//! - `doubled`, `moved back`: one enqueue makes one message, and so do many with one deduplication id. It is in one queue at a
//!   time, also when it was moved, or went to a queue of dead letters ([`super::places`]).
//! - `overdone`: no message is delivered more often than `max_deliveries` says.
//! - `recounted`: every claim counts one delivery more, whatever ended the one before it; or the limit would never be reached.
//! - `disordered`: first in, first out ([`super::order`]).
//! - `early`: no message is delivered before it is due.
//! - `torn`: the files of a batch are enqueued all or none, and what is not enqueued is still in the batch.
//! - `unmarked`: a mark and the batches that it stands for are one ([`super::marks`]).
//! - `held`: what is claimed by the dead can be claimed again.
//! - `miscounted`: the counters agree with the listings.
//! - `left`: an emptied store holds nothing.
//! - `refused`, `complaint`: nothing fails but for the crash.
//!
//! Journals are written before or after the step that they tell of, so each rule counts only what is certain: what was asked
//! for after something else had been answered came after it. What was answered while the power was being cut does not count: for
//! some milliseconds then the kernels' own fdatasync succeeds for what is lost, to programs that a real cut would have stopped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::gone::{self, Purge};
use super::journal::{Event, Line};
use super::marks;
use super::order;
use super::places::{self, Moved};
use super::promises::Promises;

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: &'static str,
    /// The message, or what else it is about.
    pub what: String,
    /// How it shows.
    pub why: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.rule, self.what, self.why)
    }
}

/// Errors that a program may get when mqfs is killed under it: the mount is not connected, or not there; or the kernel was copying
/// the request to mqfs just then, or its answer, which fails with EIO (`fuse_dev_do_read`), or ECANCELED by io_uring. An EIO of mqfs' own is in its log
/// too, and found there.
const OF_A_CRASH: [i32; 6] =
    [libc::ENOENT, libc::ENOTCONN, libc::ECONNABORTED, libc::ECANCELED, libc::ENODEV, libc::EIO];

/// Somebody saw a message in the store.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// When it was asked for; it was in the store at some moment since.
    pub asked: u64,
    /// When it was written down.
    pub at: u64,
    /// Its sequence number, if that was told.
    pub seq: Option<u64>,
    /// Which delivery it was; `None` when it was only listed, or nobody told.
    pub delivery: Option<u32>,
    /// It was in the queue that it was offered to.
    pub own: bool,
    /// It was in `.mq/dead`, where nobody had to claim it.
    pub dead: bool,
    /// Who told had claimed it, and nobody told twice of one claim.
    pub claimed: bool,
}

/// What is known of a message.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// When it was offered, each time.
    pub offered: Vec<u64>,
    /// Its priority.
    pub priority: u8,
    /// Its delay.
    pub delay: u64,
    /// Its time to live.
    pub ttl: u64,
    /// Somebody wanted to take it up again when it was dead.
    pub redriven: bool,
    /// Its batch, and how many files that has.
    pub batch: Option<(String, usize)>,
    /// When it was acknowledged, and whether it was synced.
    pub acknowledged: Vec<(u64, bool)>,
    /// Who saw it.
    pub seen: Vec<Sight>,
    /// When workers began to acknowledge it.
    pub acking: Vec<u64>,
    /// When they had.
    pub acked: Vec<u64>,
    /// When that was synced.
    pub settled: Vec<u64>,
    /// When somebody began to move it to another queue.
    pub moving: Vec<u64>,
    /// The moves that had returned.
    pub moved: Vec<Moved>,
}

/// The journals of a campaign, sorted out.
pub struct Case<'a> {
    /// By id.
    pub messages: BTreeMap<&'a str, History>,
    /// The power cuts, each from just before it to just before the next mount.
    pub cuts: Vec<(u64, u64)>,
    /// When mqfs had ended, and when it was mounted again.
    pub mounted: Vec<(u64, u64)>,
    /// When the journals end.
    pub end: u64,
    /// By id.
    purges: BTreeMap<&'a str, Purge>,
    promises: HashMap<&'static str, Promises>,
    violations: Vec<Violation>,
    waiting: HashMap<&'a str, usize>,
    /// The most files of a batch that several have made, in one of theirs that waits.
    attempts: HashMap<&'a str, usize>,
    /// The mark of each queue that has one, in the end.
    pub marks: HashMap<&'a str, u64>,
}

/// What the journals of one campaign say against mqfs. The store was emptied at their end, by workers who journal as all do.
pub fn check(lines: &[Line], promises: &[Promises]) -> Vec<Violation> {
    let mut case = Case {
        messages: BTreeMap::new(),
        cuts: Vec::new(),
        mounted: Vec::new(),
        end: lines.last().map_or(0, |line| line.at),
        purges: BTreeMap::new(),
        promises: promises.iter().map(|promise| (promise.queue, *promise)).collect(),
        violations: Vec::new(),
        waiting: HashMap::new(),
        attempts: HashMap::new(),
        marks: HashMap::new(),
    };
    lines.iter().for_each(|line| case.cuts.extend(cut_of(line)));
    lines.iter().for_each(|line| case.read(line));
    let messages = std::mem::take(&mut case.messages);
    for (id, history) in &messages {
        case.check_message(id, history);
    }
    case.messages = messages;
    case.check_batches();
    let disordered = order::check(&case);
    case.violations.extend(disordered);
    let unmarked = marks::check(&case);
    case.violations.extend(unmarked);
    case.violations
}

fn cut_of(line: &Line) -> Option<(u64, u64)> {
    match line.event {
        Event::Cut { from } => Some((from, line.at)),
        _ => None,
    }
}

impl<'a> Case<'a> {
    fn message(&mut self, id: &'a str) -> &mut History {
        self.messages.entry(id).or_default()
    }

    fn violated(&mut self, rule: &'static str, what: impl Into<String>, why: impl Into<String>) {
        self.violations.push(Violation { rule, what: what.into(), why: why.into() });
    }

    /// What a message's queue promises.
    pub fn promises(&self, id: &str) -> Option<&Promises> {
        self.promises.get(id.split('.').next()?)
    }

    /// The purges of a message's queue.
    pub fn purges_of(&self, id: &str) -> impl Iterator<Item = &Purge> {
        let queue = id.split('.').next().map(str::to_owned);
        self.purges.iter().filter(move |(purge, _)| purge.split('.').next() == queue.as_deref()).map(|(_, purge)| purge)
    }

    /// Whether the machine ran without a power cut from one moment to the other.
    pub fn same_life(&self, from: u64, to: u64) -> bool {
        self.cuts.iter().all(|(cut, start)| *start < from || *cut > to)
    }

    fn read(&mut self, line: &'a Line) {
        let at = line.at;
        match &line.event {
            Event::Offered { id, priority, delay, ttl, batch } => {
                let message = self.message(id);
                message.offered.push(at);
                (message.priority, message.delay, message.batch) = (*priority, *delay, batch.clone());
                message.ttl = *ttl;
            }
            Event::Acknowledged { id, synced } => self.message(id).acknowledged.push((at, *synced)),
            Event::Delivered { id, queue, seq, deliveries, dead, claimed, asked } => {
                let (seq, delivery, dead, claimed) = (*seq, *deliveries, *dead, *claimed);
                self.seen(id, queue, Sight { asked: *asked, at, seq, delivery, own: true, dead, claimed });
            }
            Event::Listed { id, queue, seq, asked } => {
                let seq = *seq;
                let sight = Sight { asked: *asked, at, seq, delivery: None, own: true, dead: false, claimed: false };
                self.seen(id, queue, sight);
            }
            Event::Acking { id } => self.message(id).acking.push(at),
            Event::Acked { id } => self.message(id).acked.push(at),
            Event::Settled { id } => self.message(id).settled.push(at),
            Event::Moving { id } => self.message(id).moving.push(at),
            Event::Moved { id, seq, synced } => self.message(id).moved.push(Moved { at, seq: *seq, synced: *synced }),
            Event::Redriving { id } => self.message(id).redriven = true,
            Event::Purging { id, all } => {
                self.purges.insert(id, Purge { began: at, returned: None, all: *all });
            }
            Event::Purged { id } => {
                self.purges.entry(id).and_modify(|purge| purge.returned = Some(at));
            }
            Event::Mounted { from } => self.mounted.push((*from, at)),
            Event::Waiting { batch, files } => match batch.split_once('~') {
                None => drop(self.waiting.insert(batch, *files)),
                Some((batch, _)) => {
                    let most = self.attempts.entry(batch).or_default();
                    *most = (*most).max(*files);
                }
            },
            Event::Marked { queue, mark } => drop(self.marks.insert(queue, *mark)),
            Event::Cut { .. } => {}
            other => self.read_trouble(at, other),
        }
    }

    fn read_trouble(&mut self, at: u64, event: &Event) {
        match event {
            Event::Refused { id, errno } if self.cuts.is_empty() && !OF_A_CRASH.contains(errno) => {
                self.violated("refused", id, std::io::Error::from_raw_os_error(*errno).to_string());
            }
            Event::Broken { queue, name, why } => self.violated("broken", format!("{queue}/{name}"), why),
            Event::Unreadable { queue, name, errno, asked } if self.same_life(*asked, at) => {
                self.violated("unreadable", format!("{queue}/{name}"), format!("errno {errno}"));
            }
            Event::Counted { queue, what, says, found } if says != found => {
                self.violated("miscounted", format!("{queue} {what}"), format!("{says}, and there are {found}"));
            }
            Event::Held { queue, name } => self.violated("held", format!("{queue}/{name}"), "cannot be claimed"),
            Event::Left { what } => self.violated("left", what, "is in the emptied store"),
            Event::Complaint { text } => self.violated("complaint", "mqfs", text),
            _ => {}
        }
    }

    fn seen(&mut self, id: &'a str, queue: &str, sight: Sight) {
        let own = id.split('.').next() == Some(queue);
        if !own && self.promises(id).and_then(|promises| promises.other) != Some(queue) {
            self.violated("misplaced", id, format!("is in the queue {queue}"));
        }
        let most = self.promises.get(queue).map_or(0, |promises| promises.max_deliveries);
        if let Some(delivery) = sight.delivery.filter(|delivery| most > 0 && *delivery > most) {
            self.violated("overdone", id, format!("delivery {delivery} of {most}"));
        }
        self.message(id).seen.push(Sight { own, ..sight });
    }

    fn check_message(&mut self, id: &str, message: &History) {
        let Some(first) = message.offered.first() else {
            return self.violated("invented", id, "nobody offered it");
        };
        if let Some(sight) = message.seen.iter().find(|sight| sight.at < *first) {
            self.violated("invented", id, format!("seen at {}, offered at {first}", sight.at));
        }
        if let Some(sight) = message.seen.iter().find(|sight| sight.delivery.is_some() && early(message, *first, sight))
        {
            self.violated("early", id, format!("offered at {first}, delay {}, seen at {}", message.delay, sight.at));
        }
        if message.acking.is_empty() {
            self.check_loss(id, message);
        }
        self.check_return(id, message);
        self.check_count(id, message);
        let misplaced = places::check(self, id, message);
        self.violations.extend(misplaced);
        let still_there = gone::check(self, id, message);
        self.violations.extend(still_there);
    }

    /// Of a message that no worker has acknowledged, nor begun to.
    fn check_loss(&mut self, id: &str, message: &History) {
        let sync = self.promises(id).is_some_and(|promises| promises.sync);
        let safe = |(at, synced): &&(u64, bool)| {
            let offered = last_until(&message.offered, *at);
            let survives = sync || *synced || self.same_life(offered, u64::MAX);
            self.same_life(offered, *at) && survives && !gone::may_be(self, id, message, offered)
        };
        if let Some((at, _)) = message.acknowledged.iter().find(safe) {
            self.violated("lost", id, format!("acknowledged to its producer at {at}"));
            return;
        }
        let kept =
            |sight: &&Sight| self.same_life(sight.asked, u64::MAX) && !gone::may_be(self, id, message, sight.asked);
        if let Some(sight) = message.seen.iter().find(kept) {
            self.violated("lost", id, format!("seen at {}", sight.at));
        }
    }

    fn check_return(&mut self, id: &str, message: &History) {
        let back = message.seen.iter().find(|sight| {
            let before = |at: &&u64| **at < sight.asked;
            let settled = |at: &u64| self.same_life(last_until(&message.acking, *at), *at);
            let acked = |at: &u64| self.same_life(last_until(&message.acking, *at), sight.at);
            message.settled.iter().filter(before).any(settled) || message.acked.iter().filter(before).any(acked)
        });
        if let Some(sight) = back {
            let acked = message.acked.first().copied().unwrap_or_default();
            self.violated("came back", id, format!("acknowledged by {acked}, asked for at {}", sight.asked));
        }
    }

    /// A move and a redrive begin to count anew, and a power cut may take a claim back.
    fn check_count(&mut self, id: &str, message: &History) {
        if message.redriven || !message.moving.is_empty() {
            return;
        }
        let told = message.seen.iter().filter(|sight| sight.claimed && sight.own);
        let claims: Vec<_> = told.filter_map(|sight| Some((sight.delivery?, sight))).collect();
        let again = claims.iter().enumerate().find_map(|(n, (count, later))| {
            let before = claims[..n].iter().find(|(other, earlier)| {
                count <= other && earlier.at < later.asked && self.same_life(earlier.asked, later.at)
            });
            before.map(|(other, _)| format!("delivery {count} came after delivery {other}"))
        });
        if let Some(why) = again {
            self.violated("recounted", id, why);
        }
    }

    fn check_batches(&mut self) {
        let mut batches: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut torn = Vec::new();
        for (id, message) in &self.messages {
            if let Some((batch, _)) = &message.batch {
                batches.entry(batch).or_default().push(id);
            }
        }
        for (batch, ids) in batches {
            let size = self.messages[ids[0]].batch.as_ref().map_or(0, |(_, size)| *size);
            let seen = |id: &&&str| !self.messages[**id].seen.is_empty();
            let in_last_life = |sight: &Sight| self.same_life(sight.asked, u64::MAX);
            let enqueued = ids.iter().any(|id| self.messages[*id].seen.iter().any(in_last_life));
            let missing: BTreeSet<_> = ids.iter().filter(|id| !seen(id)).collect();
            let of = |waits: &HashMap<&str, usize>| waits.get(batch).copied().unwrap_or_default();
            let (waiting, attempted) = (of(&self.waiting), of(&self.attempts));
            if enqueued && !(missing.is_empty() && ids.len() == size) {
                torn.push((batch, format!("of {size} files these were not enqueued: {missing:?}")));
            } else if enqueued && waiting > 0 {
                torn.push((batch, format!("enqueued, and {waiting} files are still in it")));
            } else if !enqueued && self.cuts.is_empty() && ids.len() == size && waiting.max(attempted) != size {
                torn.push((batch, format!("not enqueued, and {waiting} of {size} files are still in it")));
            }
        }
        let torn: Vec<_> = torn.into_iter().map(|(batch, why)| (batch.to_owned(), why)).collect();
        torn.into_iter().for_each(|(batch, why)| self.violated("torn", batch, why));
    }
}

/// The last of some times that is not after `end`: when the step began that had ended by then.
pub fn last_until(times: &[u64], end: u64) -> u64 {
    times.iter().rfind(|at| **at <= end).copied().unwrap_or_default()
}

/// Times in the store are whole milliseconds.
fn early(message: &History, offered: u64, sight: &Sight) -> bool {
    message.delay > 0 && sight.at + 1000 < offered + message.delay
}
