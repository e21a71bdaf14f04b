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
    /// No delivery has a larger number; 0 when there is no limit.
    pub max_deliveries: u32,
    /// The queue that its messages may go to: somebody moves them there, or it gets the dead letters.
    pub other: Option<&'static str>,
    /// What outlives its time is removed, not given up.
    pub drops: bool,
}

/// What all queues are configured with: claims of the dead come back soon, and a message is given up only where that is tested.
pub const COMMON: &str = "visibility_timeout=1s\nmax_deliveries=0\nretry_delay=100ms\n";

/// A queue as most are.
const PLAIN: Promises =
    Promises { queue: "", config: "", sync: true, in_order: false, max_deliveries: 0, other: None, drops: false };

/// The queue of dead letters.
pub const GRAVES: &str = "graves";

/// The queues.
pub const QUEUES: [Promises; 18] = [
    Promises { queue: "sync", ..PLAIN },
    Promises { queue: "async", config: "durability=async", sync: false, other: Some("left"), ..PLAIN },
    Promises { queue: "single", in_order: true, ..PLAIN },
    Promises { queue: "priority", config: "priorities=3", in_order: true, ..PLAIN },
    Promises { queue: "unique", config: "dedup_window=1h", ..PLAIN },
    Promises { queue: "batch", ..PLAIN },
    Promises { queue: "lines", sync: false, ..PLAIN },
    Promises { queue: "keep", config: "names=keep", ..PLAIN },
    Promises { queue: "late", config: "max_deliveries=3", max_deliveries: 3, ..PLAIN },
    Promises { queue: "left", other: Some("right"), ..PLAIN },
    Promises { queue: "right", other: Some("left"), ..PLAIN },
    Promises {
        queue: "mortal",
        config: "max_deliveries=2\ndead_letter=graves",
        max_deliveries: 2,
        other: Some(GRAVES),
        ..PLAIN
    },
    Promises { queue: GRAVES, ..PLAIN },
    Promises { queue: "brief", ..PLAIN },
    Promises { queue: "fleeting", config: "expired=drop", drops: true, ..PLAIN },
    Promises { queue: "cleared", ..PLAIN },
    Promises { queue: "fed", other: Some("made"), ..PLAIN },
    Promises { queue: "made", ..PLAIN },
];

/// What the queue of that name promises.
pub fn of(queue: &str) -> Option<&'static Promises> {
    QUEUES.iter().find(|promises| promises.queue == queue)
}

/// Where a message may be moved to that is in a queue now: to the one that it was offered to, or to the other one of that.
pub fn way(id: &str, queue: &str) -> Option<&'static str> {
    let home = of(id.split('.').next()?)?;
    if home.queue == queue { home.other } else { Some(home.queue) }
}
