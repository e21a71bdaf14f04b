//! The queues of a crash test: how each is configured, and what it promises.

/// A queue.
#[derive(Clone, Copy, Debug)]
pub struct Promises {
    /// Its name.
    pub queue: &'static str,
    /// Its configuration, besides what all have.
    pub config: &'static str,
    /// What was acknowledged survives a power cut without an fsync.
    pub sync: bool,
    /// One worker at a time takes messages here, always by claiming the next, so first deliveries are in order.
    pub in_order: bool,
}

/// What all queues are configured with: claims of the dead come back soon, and a message is given up only where that is tested.
pub const COMMON: &str = "visibility_timeout=1s\nmax_deliveries=0\nretry_delay=100ms\n";

/// The queues.
pub const QUEUES: [Promises; 9] = [
    Promises { queue: "sync", config: "", sync: true, in_order: false },
    Promises { queue: "async", config: "durability=async", sync: false, in_order: false },
    Promises { queue: "single", config: "", sync: true, in_order: true },
    Promises { queue: "priority", config: "priorities=3", sync: true, in_order: true },
    Promises { queue: "unique", config: "dedup_window=1h", sync: true, in_order: false },
    Promises { queue: "batch", config: "", sync: true, in_order: false },
    Promises { queue: "lines", config: "", sync: false, in_order: false },
    Promises { queue: "keep", config: "names=keep", sync: true, in_order: false },
    Promises { queue: "late", config: "max_deliveries=3", sync: true, in_order: false },
];

/// What the queue of that name promises.
pub fn of(queue: &str) -> Option<&'static Promises> {
    QUEUES.iter().find(|promises| promises.queue == queue)
}
