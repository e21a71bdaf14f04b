//! What is known of the kernel's queues: how many entries each has, and whether requests wait in it.
//!
//! The view relies on this: whoever looks after a close(2) returned finds what was closed. On `/dev/fuse` the order in which requests
//! are read sees to it. Here each processor has its own queue, and two things keep the order:
//!
//! - While a queue has a free entry, a request fills it at once, and the completions of all entries come to the one thread that serves
//!   in the order in which they were filled. The RELEASE of a close is made before close(2) returns, hence before whatever anybody
//!   asks after it.
//! - A queue without a free entry is *behind*: requests wait in it, and those of other processors overtake them. The kernel takes them
//!   out one by one, the oldest first, whenever an entry of that queue is committed, and only then: entries that are registered
//!   meanwhile are filled with what is asked later. A request's number tells whether something older may be missing: numbers grow in
//!   the order in which requests are made, over all queues. As long as no entry was registered since the queue was behind, all that
//!   comes out of it comes in the order of its numbers, so what is older than its newest has come. (That numbers have gaps does not
//!   matter: nobody waits for a number.)
//!
//! A queue that is behind, and of whose requests none is about to be answered, because all of them wait for something, is *stranded*:
//! it gets entries for what is to come, and requests of our own, each of which is answered at once and so takes one out
//! ([`super::kick`]).

/// Each queue has so many entries at first.
pub const DEPTH: usize = 16;
/// A queue of which fewer are free gets so many more; twice as many each time that it was behind, up to [`MOST_SPARE`].
const SPARE: usize = 8;
const MOST_SPARE: usize = 512;

/// One queue of the kernel's.
#[derive(Debug)]
struct Queue {
    /// Entries in the kernel, without a request as far as we know.
    free: usize,
    /// Of those, the ones that were committed. Had a request waited for one of them, it would have come back.
    committed: usize,
    /// There was no free entry: requests may wait.
    behind: bool,
    /// It got new entries while it was behind.
    stranded: bool,
    /// All its requests with smaller numbers have come.
    complete: u64,
    /// When it gets new entries: how many were free before that, without those that have come back since; and the newest request that
    /// has come since.
    renewed: Option<(usize, u64)>,
    /// Fewer free entries are too few.
    spare: usize,
}

/// How an entry that comes back had been handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handed {
    /// Registered since the last [`Queues::settle`].
    New,
    /// Registered before that.
    Registered,
    /// With an answer.
    Committed,
}

/// All of them.
#[derive(Debug)]
pub struct Queues(Vec<Queue>);

impl Queues {
    /// So many, without entries.
    pub fn new(count: u16) -> Self {
        let queue = || Queue {
            free: 0,
            committed: 0,
            behind: false,
            stranded: false,
            complete: 0,
            renewed: None,
            spare: SPARE,
        };
        Self((0..count).map(|_| queue()).collect())
    }

    /// Their numbers.
    pub fn numbers(&self) -> std::ops::Range<u16> {
        0..u16::try_from(self.0.len()).unwrap_or(u16::MAX)
    }

    fn of(&mut self, queue: u16) -> &mut Queue {
        &mut self.0[usize::from(queue)]
    }

    /// An entry is registered.
    pub fn registered(&mut self, queue: u16) {
        let queue = self.of(queue);
        queue.renewed.get_or_insert((queue.free, 0));
        queue.free += 1;
    }

    /// An entry is committed. What is registered for the same queue at the same time must be so afterwards.
    pub fn committed(&mut self, queue: u16) {
        let queue = self.of(queue);
        queue.free += 1;
        queue.committed += 1;
    }

    /// An entry came back with that request.
    pub fn filled(&mut self, queue: u16, unique: u64, handed: Handed) {
        let queue = self.of(queue);
        queue.free = queue.free.saturating_sub(1);
        if handed == Handed::Committed {
            queue.committed = queue.committed.saturating_sub(1);
        }
        match &mut queue.renewed {
            Some((_, newest)) if handed == Handed::New => *newest = unique.max(*newest),
            Some((before, _)) => *before = before.saturating_sub(1),
            None => {}
        }
        if !queue.stranded && handed != Handed::New {
            queue.complete = queue.complete.max(unique);
        }
        if queue.free == 0 && !queue.behind {
            queue.behind = true;
            queue.spare = (2 * queue.spare).min(MOST_SPARE);
        }
    }

    /// The first entries are in the kernel, which had held all requests back until then.
    pub fn begin(&mut self) {
        self.0.iter_mut().for_each(|queue| queue.renewed = None);
    }

    /// All that was handed in is in the kernel, and all that the kernel had filled by then has come back.
    pub fn settle(&mut self) {
        for queue in &mut self.0 {
            match queue.renewed.take() {
                // It may have had no free entry before it got new ones, unnoticed. Were that not so, the kernel would have filled the
                // new ones first, as it takes the one that it got last.
                Some((0, _)) => (queue.behind, queue.stranded) = (true, true),
                Some((_, newest)) if !queue.stranded => queue.complete = queue.complete.max(newest),
                _ => {}
            }
            if queue.behind && queue.committed > 0 {
                (queue.behind, queue.stranded) = (false, false);
            }
        }
    }

    /// Requests may wait in this one.
    pub fn is_behind(&self, queue: u16) -> bool {
        self.0.get(usize::from(queue)).is_some_and(|queue| queue.behind)
    }

    /// Requests may wait in one of them.
    pub fn any_behind(&self) -> bool {
        self.0.iter().any(|queue| queue.behind)
    }

    /// A request that is older than this one, which came by that queue, may not have come yet.
    pub fn may_miss_older(&self, unique: u64, own: u16) -> bool {
        let missing = |(number, queue): (usize, &Queue)| {
            queue.behind && queue.complete < unique && (queue.stranded || number != usize::from(own))
        };
        self.0.iter().enumerate().any(missing)
    }

    /// How many entries a queue is to get now. `waits`: none of its requests is about to be answered. A queue that is behind gets none
    /// as long as one is, which takes out what waits.
    pub fn wanted(&mut self, queue: u16, waits: bool) -> usize {
        let queue = self.of(queue);
        if queue.free >= queue.spare || (queue.behind && !queue.stranded && (!waits || queue.committed > 0)) {
            return 0;
        }
        queue.stranded |= queue.behind;
        queue.spare
    }

    /// Those that need requests of ours, and have entries for them.
    pub fn stranded(&self) -> impl Iterator<Item = u16> {
        let asks = |queue: &Queue| queue.stranded && queue.free > 0;
        self.numbers().filter(move |number| asks(&self.0[usize::from(*number)]))
    }
}

#[cfg(test)]
#[path = "queues_tests.rs"]
mod tests;
