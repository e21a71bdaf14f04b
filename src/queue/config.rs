//! What can be configured on a queue, and what follows from it. How it is said, as keys with values, is in [`keys`].

mod keys;

use std::time::Duration;

use super::patterns::Patterns;
use super::properties;
use crate::error::{Error, Result};

pub use keys::KEYS;

/// How messages are named in the listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// By sequence number, then the producer's name: the listing is the order of delivery.
    #[default]
    Sequence,
    /// By the name that its producer gave it, which no other message of the queue may have.
    Keep,
}

/// What claims a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClaimMode {
    /// Opening it for reading, and everything below.
    #[default]
    Read,
    /// `.mq/claim`, `.mq/pop` or a rename into `.mq/claimed/`; opening it only reads it.
    Rename,
}

/// What a successful close or rename promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The message survives a power cut.
    #[default]
    Sync,
    /// The message survives a crash of mqfs; `fsync` makes it survive a power cut.
    Async,
}

/// What drops a message that is being written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AbortOn {
    /// A process that wrote to it dies of a signal.
    #[default]
    Killed,
    /// That, or the process that wrote last ends with an exit code other than 0 while it has the file open.
    Failed,
    /// That, or the process that wrote last ends, however it does, while it has the file open.
    Unclosed,
    /// Nothing: whatever was written is enqueued.
    Never,
}

/// What makes a message of a file that was created in a queue's directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Publish {
    /// Its last close.
    #[default]
    Close,
    /// A rename or link: it is a draft before, whatever its name.
    Rename,
}

/// How the wait before a retry grows with the delivery count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetryBackoff {
    /// Not at all.
    #[default]
    Fixed,
    /// It doubles with each delivery.
    Exponential,
}

/// What becomes of a message whose time to live is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expired {
    /// It is dead-lettered.
    #[default]
    Dead,
    /// It is removed.
    Drop,
}

/// What happens to a new message when the queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Its producer gets an error.
    #[default]
    Reject,
    /// The oldest ready messages make room.
    DropOldest,
    /// Its producer waits until there is room.
    Block,
}

/// Which way through the queue is closed for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Paused {
    /// None.
    #[default]
    No,
    /// Nothing is enqueued.
    In,
    /// Nothing is claimed.
    Out,
    /// Neither.
    Both,
}

/// The configuration of one queue. Its default is that of a queue about which nobody said anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// How messages are named in the listing.
    pub names: Names,
    /// What claims a message.
    pub claim: ClaimMode,
    /// What a successful close or rename promises.
    pub durability: Durability,
    /// What drops a message that is being written.
    pub abort_on: AbortOn,
    /// What makes a message of a file.
    pub publish: Publish,
    /// The names of drafts.
    pub drafts: Patterns,
    /// How long a claim lasts without being renewed; above 0.
    pub visibility_timeout: Duration,
    /// How long a claim that is being renewed may last in all.
    pub max_lease: Duration,
    /// So many messages at most are claimed at a time; 0 is no limit.
    pub max_claimed: u64,
    /// After how many deliveries a message that comes back is dead-lettered; 0 is never.
    pub max_deliveries: u32,
    /// How long a message that comes back waits before it is ready again; 0 is not at all.
    pub retry_delay: Duration,
    /// How that grows with the delivery count.
    pub retry_backoff: RetryBackoff,
    /// The path, from the root of the mount, of the queue that gets the dead letters; empty: they stay, as dead.
    pub dead_letter: String,
    /// How long a message may wait to be claimed unless it says otherwise itself; 0 is for ever.
    pub message_ttl: Duration,
    /// What becomes of it then.
    pub expired: Expired,
    /// So many messages that are not dead make the queue full; 0 is never.
    pub max_messages: u64,
    /// So many bytes of messages that are not dead make the queue full; 0 is never.
    pub max_bytes: u64,
    /// The largest message accepted; 0 is any.
    pub max_message_bytes: u64,
    /// What happens to a new message when the queue is full.
    pub overflow: Overflow,
    /// How many priorities there are; 1 is that all messages are equal.
    pub priorities: u8,
    /// For each such time that a message waits it counts as one priority higher when the next is claimed; 0 is never.
    pub priority_ageing: Duration,
    /// How long a deduplication id is remembered; 0 is not at all.
    pub dedup_window: Duration,
    /// How long an untouched draft is kept; 0 is for ever.
    pub draft_ttl: Duration,
    /// So many messages at most are answered to one read of `.mq/lines`; at least 1.
    pub lines_batch: u32,
    /// Which way through the queue is closed for a while.
    pub paused: Paused,
}

/// The longest wait before a retry, however often it has doubled.
pub const LONGEST_RETRY: Duration = Duration::from_secs(24 * 60 * 60);
/// What a consumer who gives a message back for later waits when the queue names no `retry_delay`; it doubles with each
/// delivery...
const RETRY_DEFAULT: Duration = Duration::from_secs(1);
/// ...up to this.
const RETRY_DEFAULT_MAX: Duration = Duration::from_secs(5 * 60);

/// `first`, doubled with each delivery after the first, and no more than `limit`.
fn doubled(first: Duration, deliveries: u32, limit: Duration) -> Duration {
    let factor = 1_u32.checked_shl(deliveries.saturating_sub(1)).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(limit.max(first))
}

impl QueueConfig {
    /// How long a message that comes back after so many deliveries waits before it is ready again.
    pub fn retry_after(&self, deliveries: u32) -> Duration {
        match self.retry_backoff {
            RetryBackoff::Fixed => self.retry_delay,
            RetryBackoff::Exponential => doubled(self.retry_delay, deliveries, LONGEST_RETRY),
        }
    }

    /// The same for a message that is given back for later, which always waits.
    pub fn later_after(&self, deliveries: u32) -> Duration {
        match self.retry_after(deliveries) {
            Duration::ZERO => doubled(RETRY_DEFAULT, deliveries, RETRY_DEFAULT_MAX),
            delay => delay,
        }
    }

    /// The queue can be full.
    pub fn is_limited(&self) -> bool {
        self.max_messages > 0 || self.max_bytes > 0
    }

    /// The queue can be full, and its producers then wait.
    pub fn makes_wait(&self) -> bool {
        self.is_limited() && self.overflow == Overflow::Block
    }

    /// The place among the priorities that a message of the place `order` counts for when the next is claimed, after it has waited
    /// for so many milliseconds: the least goes first, and may be below 0.
    pub fn aged(&self, order: u8, waited: u64) -> i64 {
        let levels = waited.checked_div(properties::ms(self.priority_ageing)).unwrap_or(0);
        i64::from(order).saturating_sub_unsigned(levels)
    }

    /// Nothing is enqueued for the time being.
    pub fn paused_in(&self) -> bool {
        matches!(self.paused, Paused::In | Paused::Both)
    }

    /// What a queue says of every message that comes, of so many bytes, whichever way it comes: [`Error::MessageTooLarge`], and
    /// [`Error::Paused`] while nothing is enqueued. Whether there is room for it, the store knows.
    pub fn admit(&self, bytes: u64) -> Result<()> {
        self.admit_size(bytes)?;
        if self.paused_in() { Err(Error::Paused) } else { Ok(()) }
    }

    /// Of [`QueueConfig::admit`] what is asked again of a message that was let in and has grown since.
    pub fn admit_size(&self, bytes: u64) -> Result<()> {
        let too_large = self.max_message_bytes > 0 && bytes > self.max_message_bytes;
        if too_large { Err(Error::MessageTooLarge) } else { Ok(()) }
    }

    /// What it takes in memory besides itself, in bytes.
    pub fn memory(&self) -> usize {
        self.dead_letter.capacity() + self.drafts.memory()
    }

    /// Nothing is claimed for the time being.
    pub fn paused_out(&self) -> bool {
        matches!(self.paused, Paused::Out | Paused::Both)
    }
}

impl Default for QueueConfig {
    fn default() -> Self {
        QueueConfig {
            names: Names::default(),
            claim: ClaimMode::default(),
            durability: Durability::default(),
            abort_on: AbortOn::default(),
            publish: Publish::default(),
            drafts: Patterns::parse(".*").unwrap_or_default(),
            visibility_timeout: Duration::from_secs(30),
            max_lease: Duration::from_secs(12 * 60 * 60),
            max_claimed: 0,
            max_deliveries: 20,
            retry_delay: Duration::ZERO,
            retry_backoff: RetryBackoff::default(),
            dead_letter: String::new(),
            message_ttl: Duration::ZERO,
            expired: Expired::default(),
            max_messages: 0,
            max_bytes: 0,
            max_message_bytes: 0,
            overflow: Overflow::default(),
            priorities: 1,
            priority_ageing: Duration::ZERO,
            dedup_window: Duration::ZERO,
            draft_ttl: Duration::ZERO,
            lines_batch: 1,
            paused: Paused::default(),
        }
    }
}
