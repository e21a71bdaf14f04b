use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
use crate::chance::Random;

/// What the tests ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Makes something, and nobody waits for the answer.
    Release,
    /// Sees what was made.
    Look,
    /// Is not answered for a long time.
    Wait,
}

/// An entry's number and when and how it was handed in.
type Free = (usize, (u64, bool));

/// The kernel, as `fs/fuse/dev_uring.c` of Linux 6.18 has it.
#[derive(Default)]
struct Kernel {
    number: u64,
    free: Vec<Vec<Free>>,
    pending: Vec<VecDeque<(u64, Kind)>>,
    completed: VecDeque<(Free, u64, Kind)>,
}

impl Kernel {
    fn ask(&mut self, queue: usize, kind: Kind) {
        self.number += 2;
        match self.free[queue].pop() {
            Some(free) => self.completed.push_back((free, self.number, kind)),
            None => self.pending[queue].push_back((self.number, kind)),
        }
    }

    fn register(&mut self, queue: usize, free: Free) {
        self.free[queue].push(free);
    }

    fn commit(&mut self, queue: usize, free: Free) {
        match self.pending[queue].pop_front() {
            // At once, before those that were filled and have not come back yet.
            Some((unique, kind)) => self.completed.push_front((free, unique, kind)),
            None => self.free[queue].push(free),
        }
    }
}

/// As [`super::super::Rings`].
struct Server {
    kernel: Kernel,
    queues: Queues,
    /// The queue of each entry.
    slots: Vec<usize>,
    arrived: BTreeMap<u64, (usize, Kind)>,
    parked: Vec<usize>,
    answered: Vec<usize>,
    served: Vec<u64>,
    round: u64,
    stranded: bool,
}

impl Server {
    fn new(count: usize, depth: usize) -> Self {
        let (free, pending) = (vec![Vec::new(); count], vec![VecDeque::new(); count]);
        let kernel = Kernel { free, pending, ..Kernel::default() };
        let (slots, parked, answered, served) = Default::default();
        let arrived = BTreeMap::new();
        let queues = Queues::new(count as u16);
        let mut server = Self { kernel, queues, slots, arrived, parked, answered, served, round: 0, stranded: false };
        (0..count).for_each(|queue| (0..depth).for_each(|_| server.register(queue)));
        server.queues.begin();
        server.round += 1;
        server
    }

    fn register(&mut self, queue: usize) {
        self.slots.push(queue);
        self.queues.registered(queue as u16);
        self.kernel.register(queue, (self.slots.len() - 1, (self.round, false)));
    }

    fn commit(&mut self) {
        for slot in std::mem::take(&mut self.answered) {
            self.queues.committed(self.slots[slot] as u16);
            self.kernel.commit(self.slots[slot], (slot, (self.round, true)));
        }
    }

    fn take(&mut self) {
        while let Some(((slot, handed), unique, kind)) = self.kernel.completed.pop_front() {
            let handed = match handed {
                (_, true) => Handed::Committed,
                (round, false) if round == self.round => Handed::New,
                _ => Handed::Registered,
            };
            self.queues.filled(self.slots[slot] as u16, unique, handed);
            self.arrived.insert(unique, (slot, kind));
        }
        self.queues.settle();
        self.round += 1;
    }

    fn step(&mut self) {
        self.commit();
        let held: BTreeSet<usize> = self.arrived.values().map(|(slot, _)| self.slots[*slot]).collect();
        for queue in 0..self.kernel.free.len() {
            for _ in 0..self.queues.wanted(queue as u16, !held.contains(&queue)) {
                self.register(queue);
            }
        }
        self.stranded |= self.queues.stranded().next().is_some();
        self.take();
        let mut held = BTreeMap::new();
        while let Some((unique, (slot, kind))) = self.arrived.pop_first() {
            let queue = self.slots[slot];
            let misses = self.queues.may_miss_older(unique, queue as u16);
            if kind == Kind::Look && misses {
                held.insert(unique, (slot, kind));
                continue;
            }
            if kind == Kind::Look {
                let older = |(number, kind): &(u64, Kind)| *number < unique && *kind == Kind::Release;
                let missing = self.kernel.pending.iter().flatten().find(|request| older(request));
                assert_eq!(missing, None, "{unique} looks");
            }
            self.served.push(unique);
            if kind == Kind::Wait {
                self.parked.push(slot)
            } else {
                self.answered.push(slot)
            }
            if self.queues.is_behind(queue as u16) {
                self.commit();
                self.take();
            }
        }
        self.arrived = held;
    }
}

#[test]
fn who_looks_never_misses_what_was_closed_before_and_nothing_waits_for_ever() {
    let mut random = Random::new();
    let mut stranded = 0;
    for _ in 0..300 {
        let mut server = Server::new(3, 1 + random.below(3));
        for _ in 0..random.below(120) {
            for _ in 0..random.below(30) {
                let kind = [Kind::Release, Kind::Release, Kind::Look, Kind::Wait][random.below(4)];
                // Most come from one processor.
                let queue = [0, 0, 0, 1, 2][random.below(5)];
                server.kernel.ask(queue, kind);
            }
            server.step();
            if random.below(3) == 0 && !server.parked.is_empty() {
                let at = random.below(server.parked.len());
                let slot = server.parked.swap_remove(at);
                server.answered.push(slot);
            }
        }
        // Nobody asks any more, and what waits for something waits on: requests of our own take out what is left.
        for _ in 0..5000 {
            for queue in server.queues.stranded().collect::<Vec<_>>() {
                server.kernel.ask(queue.into(), Kind::Release);
            }
            server.step();
        }
        assert_eq!(server.kernel.pending.iter().flatten().count(), 0, "requests are left in the kernel");
        assert!(server.arrived.is_empty(), "requests are left with us");
        assert_eq!(server.served.len() as u64, server.kernel.number / 2);
        stranded += u32::from(server.stranded);
    }
    assert!(stranded > 0, "the test is to get there");
}

#[test]
fn a_queue_always_has_free_entries_when_its_requests_come_one_by_one() {
    let mut server = Server::new(2, DEPTH);
    for _ in 0..5000 {
        server.kernel.ask(0, Kind::Wait);
        server.step();
        assert!(!server.queues.any_behind());
    }
    assert!(server.slots.len() < 5000 + 4 * DEPTH, "{} entries", server.slots.len());
    server.kernel.ask(0, Kind::Look);
    server.step();
    assert_eq!(server.answered.len(), 1);
}
