//! The reference model: what a store of queues holds after any sequence of operations, in a form that can be read at a
//! sitting. It is the definition of correct for everything but names, permissions and the disk; where it and mqfs(7)
//! disagree, one of them is wrong.
//!
//! The store (`src/store/model_tests.rs`) and a real mount (`tests/model.rs`) are driven by the same random operations
//! (`ops.rs`, `drive.rs`) as the model, and must always look like it. It calls no code of theirs. Time is [`Model::now`], which stands
//! still during an operation.

// The two test binaries use it differently.
#![allow(dead_code)]

mod consume;
pub mod drive;
mod enqueue;
pub mod ops;
mod things;

use std::collections::{BTreeMap, BTreeSet};

pub use things::*;

pub struct Model {
    pub now: u64,
    pub queues: Vec<Queue>,
    pub messages: BTreeMap<Tag, Message>,
    pub writers: BTreeMap<Tag, Writer>,
    pub drafts: BTreeMap<Tag, Draft>,
    /// The names that were given to messages one by one. All producers and consumers are of one session.
    pub names: BTreeMap<Tag, Named>,
    /// Where messages became dead letters, the newest last.
    pub deaths: BTreeMap<Tag, Vec<Death>>,
    /// The deliveries whose paths somebody knows: of which message, in which queue.
    pub noted: BTreeMap<u64, (Tag, usize)>,
    /// The deliveries of each message that ended without an acknowledgement, and whose they were: the newest last.
    pub lost: BTreeMap<Tag, Vec<(u64, Option<Worker>)>>,
    /// Those of them that nobody has come to settle since, nor ended by their paths.
    unsettled: BTreeSet<u64>,
    next: u64,
}

impl Model {
    pub fn new(now: u64, configs: impl IntoIterator<Item = Config>) -> Model {
        let queue = |config| Queue { config, totals: BTreeMap::new(), ids: BTreeMap::new(), marks: BTreeMap::new() };
        let queues = configs.into_iter().map(queue).collect();
        let (messages, writers, drafts, names, deaths, noted, lost) = Default::default();
        let unsettled = BTreeSet::new();
        Model { now, queues, messages, writers, drafts, names, deaths, noted, lost, unsettled, next: 1 }
    }

    /// A new tag or sequence number.
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn count(&mut self, queue: usize, what: &'static str) {
        *self.queues[queue].totals.entry(what).or_default() += 1;
    }

    // What users see.

    /// The messages of a queue in a state, in delivery order.
    pub fn list(&self, queue: usize, state: State) -> Vec<&Message> {
        let mut listed: Vec<_> = self.messages.values().filter(|m| m.queue == queue && m.state == state).collect();
        listed.sort_by_key(|m| (self.order(m), m.seq));
        listed
    }

    /// 0 for the highest priority.
    fn order(&self, message: &Message) -> u8 {
        self.order_in(message.queue, message.props)
    }

    fn order_in(&self, queue: usize, props: Props) -> u8 {
        let highest = self.queues[queue].config.priorities - 1;
        highest - props.priority.min(highest)
    }

    pub fn stats(&self, queue: usize) -> BTreeMap<&'static str, u64> {
        let mut stats = self.queues[queue].totals.clone();
        let names = [("ready", "ready_bytes"), ("delayed", "delayed_bytes"), ("claimed", "claimed_bytes")];
        for (state, (count, bytes)) in STATES.into_iter().zip(names.into_iter().chain([("dead", "dead_bytes")])) {
            let (messages, length) = sum(self.list(queue, state).into_iter().map(Message::size));
            stats.extend([(count, messages), (bytes, length)]);
        }
        for (state, age) in STATES.into_iter().zip(AGES) {
            let oldest = self.list(queue, state).iter().map(|m| m.since).min();
            stats.extend(oldest.map(|since| (age, self.now.saturating_sub(since))));
        }
        stats.insert("retrying", self.list(queue, State::Delayed).iter().filter(|m| m.retrying).count() as u64);
        stats.insert("drafts", self.drafts.values().filter(|draft| draft.queue == queue).count() as u64);
        stats
    }

    // Limits.

    /// Messages that count for the limits: dead ones do not, and promised ones do.
    fn counted(&self, queue: usize) -> impl Iterator<Item = &Message> {
        let promised = self.writers.values().filter_map(|writer| writer.promised.as_ref());
        self.messages.values().chain(promised).filter(move |m| m.queue == queue && m.state != State::Dead)
    }

    fn within(&self, queue: usize, (messages, bytes): Room) -> bool {
        let Config { max_messages, max_bytes, .. } = self.queues[queue].config;
        (max_messages == 0 || messages <= max_messages) && (max_bytes == 0 || bytes <= max_bytes)
    }

    fn is_limited(&self, queue: usize) -> bool {
        !self.within(queue, (u64::MAX, u64::MAX))
    }

    /// Whether there is room for `need`. What is ready makes room in a queue that drops its oldest, unless it has a higher priority
    /// than what comes, which is in `order`; and so will whatever else is being written. `own`: the writer whose reservation
    /// `need` replaces.
    fn fits(&self, queue: usize, need: Room, order: u8, own: Option<Tag>) -> bool {
        let drops = self.queues[queue].config.drop_oldest;
        let makes_room = |m: &Message| drops && m.state == State::Ready && self.order(m) >= order;
        let there = self.counted(queue).filter(|m| !makes_room(m)).map(Message::size);
        let others = self.writers.iter().filter(|(tag, writer)| writer.queue == queue && Some(**tag) != own && !drops);
        let reserved = others.map(|(_, writer)| writer.reserved);
        self.within(queue, sum(there.chain(reserved).chain([need])))
    }

    /// Refuses what a queue does not take now. `order`: of the least that comes.
    fn admit(&mut self, queue: usize, need: Room, order: u8) -> Answer<()> {
        let refused = match () {
            () if self.queues[queue].config.paused_in => Refusal::Again,
            () if self.is_limited(queue) && !self.fits(queue, need, order, None) => Refusal::Full,
            () => return Ok(()),
        };
        self.count(queue, "rejected_total");
        Err(refused)
    }

    /// Removes the oldest ready messages, those of the lowest priority first, while a queue that drops them is too full.
    /// `but`: those that have just come, `order`: of the least of them; nothing that goes before it is removed.
    fn drop_oldest(&mut self, queue: usize, but: &[Tag], order: u8) {
        while self.queues[queue].config.drop_oldest && !self.within(queue, sum(self.counted(queue).map(Message::size)))
        {
            let ready = self.list(queue, State::Ready);
            let ready = ready.into_iter().filter(|m| !but.contains(&m.tag) && self.order(m) >= order);
            let Some(victim) = ready.max_by_key(|m| (self.order(m), std::cmp::Reverse(m.seq))).map(|m| m.tag) else {
                return;
            };
            self.messages.remove(&victim);
            self.count(queue, "dropped_total");
        }
    }

    // What happens by itself, and to all.

    /// When something is due next.
    pub fn next_deadline(&self) -> Option<u64> {
        self.messages.values().flat_map(Message::deadlines).map(|(at, _)| at).min()
    }

    /// Does what is due.
    pub fn look(&mut self) {
        loop {
            let of =
                |m: &Message| m.deadlines().into_iter().map(|(at, what)| (at, what, m.seq, m.tag)).collect::<Vec<_>>();
            let mut due: Vec<_> = self.messages.values().flat_map(of).filter(|(at, ..)| *at <= self.now).collect();
            due.sort_unstable();
            if due.is_empty() {
                return;
            }
            for (at, what, _, tag) in due {
                if self.messages.get(&tag).is_some_and(|message| message.deadlines().contains(&(at, what))) {
                    self.pass(tag, what);
                }
            }
        }
    }

    fn pass(&mut self, tag: Tag, what: Deadline) {
        let queue = self.messages[&tag].queue;
        match what {
            Deadline::Lease => {
                self.count(queue, "expired_total");
                self.come_back(tag, self.retry_delay(tag));
            }
            Deadline::Due => self.become_ready(tag),
            Deadline::Expires => {
                self.count(queue, "ttl_expired_total");
                if self.queues[queue].config.drop_expired {
                    self.messages.remove(&tag);
                } else {
                    self.give_up(tag, "expired");
                }
            }
        }
    }

    /// Purges messages in these states; what is being written stays.
    pub fn purge(&mut self, queue: usize, states: &[State]) {
        let before = self.messages.len();
        self.messages.retain(|_, message| message.queue != queue || !states.contains(&message.state));
        *self.queues[queue].totals.entry("purged_total").or_default() += (before - self.messages.len()) as u64;
    }

    /// The server dies and starts again. What a close has promised is there.
    pub fn crash(&mut self) {
        let promised = std::mem::take(&mut self.writers).into_values().filter_map(|writer| writer.promised);
        promised.for_each(|message| self.show(message));
        self.names.clear();
        self.lost.clear();
        self.unsettled.clear();
    }
}

fn sum(rooms: impl Iterator<Item = Room>) -> Room {
    rooms.fold((0, 0), |(messages, bytes), room| (messages + room.0, bytes + room.1))
}

fn doubled(first: u64, deliveries: u32, limit: u64) -> u64 {
    (1..deliveries.min(40)).fold(first, |delay, _| delay.saturating_mul(2)).min(limit.max(first))
}

/// The shorter of two times to live counts.
fn end_of_life(start: u64, own: u64, queues: u64) -> u64 {
    [own, queues].into_iter().filter(|ttl| *ttl > 0).min().map_or(0, |ttl| start + ttl)
}
