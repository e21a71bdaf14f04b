//! What can be configured on a queue: the keys of `.mq/config`, of `user.mq.*` and of `mqfs mount -o`.
//!
//! A key is one row of [`TABLE`]: its name, what it accepts, how it is read and written. Nothing else knows the keys.

use std::time::Duration;

use super::duration;
use super::name::LONGEST_PATH;
use super::patterns::Patterns;
use super::properties;
use crate::error::{Error, Result};

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

/// Everything that is known of one key.
struct Key {
    name: &'static str,
    /// Completes "allowed is ...".
    allowed: &'static str,
    get: fn(&QueueConfig) -> String,
    /// False, and nothing changed, when the value is not one of the allowed.
    set: fn(&mut QueueConfig, &str) -> bool,
}

const NAMES: &[(&str, Names)] = &[("sequence", Names::Sequence), ("keep", Names::Keep)];
const CLAIM: &[(&str, ClaimMode)] = &[("read", ClaimMode::Read), ("rename", ClaimMode::Rename)];
const DURABILITY: &[(&str, Durability)] = &[("sync", Durability::Sync), ("async", Durability::Async)];
const ABORT_ON: &[(&str, AbortOn)] = &[
    ("killed", AbortOn::Killed),
    ("failed", AbortOn::Failed),
    ("unclosed", AbortOn::Unclosed),
    ("never", AbortOn::Never),
];
const PUBLISH: &[(&str, Publish)] = &[("close", Publish::Close), ("rename", Publish::Rename)];
const RETRY_BACKOFF: &[(&str, RetryBackoff)] =
    &[("fixed", RetryBackoff::Fixed), ("exponential", RetryBackoff::Exponential)];
const EXPIRED: &[(&str, Expired)] = &[("dead", Expired::Dead), ("drop", Expired::Drop)];
const OVERFLOW: &[(&str, Overflow)] =
    &[("reject", Overflow::Reject), ("drop-oldest", Overflow::DropOldest), ("block", Overflow::Block)];
const PAUSED: &[(&str, Paused)] =
    &[("no", Paused::No), ("in", Paused::In), ("out", Paused::Out), ("both", Paused::Both)];

const TABLE: &[Key] = &[
    Key {
        name: "names",
        allowed: "sequence or keep",
        get: |config| word(NAMES, config.names),
        set: |config, text| put(&mut config.names, choice(NAMES, text)),
    },
    Key {
        name: "claim",
        allowed: "read or rename",
        get: |config| word(CLAIM, config.claim),
        set: |config, text| put(&mut config.claim, choice(CLAIM, text)),
    },
    Key {
        name: "durability",
        allowed: "sync or async",
        get: |config| word(DURABILITY, config.durability),
        set: |config, text| put(&mut config.durability, choice(DURABILITY, text)),
    },
    Key {
        name: "abort_on",
        allowed: "killed, failed, unclosed or never",
        get: |config| word(ABORT_ON, config.abort_on),
        set: |config, text| put(&mut config.abort_on, choice(ABORT_ON, text)),
    },
    Key {
        name: "publish",
        allowed: "close or rename",
        get: |config| word(PUBLISH, config.publish),
        set: |config, text| put(&mut config.publish, choice(PUBLISH, text)),
    },
    Key {
        name: "drafts",
        allowed: "patterns of names such as .* *.part, with * and ? only, and none that every name fits (that is `publish = rename`)",
        get: |config| config.drafts.to_string(),
        set: |config, text| put(&mut config.drafts, Patterns::parse(text)),
    },
    Key {
        name: "visibility_timeout",
        allowed: "a duration above 0 such as 30s, 5m, 2h, 7d or 1500ms",
        get: |config| duration::format(config.visibility_timeout),
        set: |config, text| put(&mut config.visibility_timeout, time(text).filter(|time| !time.is_zero())),
    },
    Key {
        name: "max_lease",
        allowed: "a duration such as 30s, 5m, 2h, 7d or 1500ms",
        get: |config| duration::format(config.max_lease),
        set: |config, text| put(&mut config.max_lease, time(text)),
    },
    Key {
        name: "max_claimed",
        allowed: "a number; 0 is no limit",
        get: |config| config.max_claimed.to_string(),
        set: |config, text| put(&mut config.max_claimed, number(text)),
    },
    Key {
        name: "max_deliveries",
        allowed: "a number from 0 (no limit) to 4294967295",
        get: |config| config.max_deliveries.to_string(),
        set: |config, text| put(&mut config.max_deliveries, number(text).and_then(|count| count.try_into().ok())),
    },
    Key {
        name: "retry_delay",
        allowed: "a duration such as 30s, 5m, 2h, 7d or 1500ms; 0s is off",
        get: |config| duration::format(config.retry_delay),
        set: |config, text| put(&mut config.retry_delay, time(text)),
    },
    Key {
        name: "retry_backoff",
        allowed: "fixed or exponential",
        get: |config| word(RETRY_BACKOFF, config.retry_backoff),
        set: |config, text| put(&mut config.retry_backoff, choice(RETRY_BACKOFF, text)),
    },
    Key {
        name: "dead_letter",
        allowed: "the path of a queue from the root of the mount, of at most 4096 bytes, or nothing",
        get: |config| config.dead_letter.clone(),
        set: |config, text| put(&mut config.dead_letter, queue_path(text)),
    },
    Key {
        name: "message_ttl",
        allowed: "a duration such as 30s, 5m, 2h, 7d or 1500ms; 0s is off",
        get: |config| duration::format(config.message_ttl),
        set: |config, text| put(&mut config.message_ttl, time(text)),
    },
    Key {
        name: "expired",
        allowed: "dead or drop",
        get: |config| word(EXPIRED, config.expired),
        set: |config, text| put(&mut config.expired, choice(EXPIRED, text)),
    },
    Key {
        name: "max_messages",
        allowed: "a number; 0 is no limit",
        get: |config| config.max_messages.to_string(),
        set: |config, text| put(&mut config.max_messages, number(text)),
    },
    Key {
        name: "max_bytes",
        allowed: "a number of bytes, also with K, M, G or T such as 64K; 0 is no limit",
        get: |config| config.max_bytes.to_string(),
        set: |config, text| put(&mut config.max_bytes, bytes(text)),
    },
    Key {
        name: "max_message_bytes",
        allowed: "a number of bytes, also with K, M, G or T such as 64K; 0 is no limit",
        get: |config| config.max_message_bytes.to_string(),
        set: |config, text| put(&mut config.max_message_bytes, bytes(text)),
    },
    Key {
        name: "overflow",
        allowed: "reject, drop-oldest or block",
        get: |config| word(OVERFLOW, config.overflow),
        set: |config, text| put(&mut config.overflow, choice(OVERFLOW, text)),
    },
    Key {
        name: "priorities",
        allowed: "a number from 1 to 10",
        get: |config| config.priorities.to_string(),
        set: |config, text| put(&mut config.priorities, small(text, 10)),
    },
    Key {
        name: "priority_ageing",
        allowed: "a duration such as 30s, 5m, 2h, 7d or 1500ms; 0s is off",
        get: |config| duration::format(config.priority_ageing),
        set: |config, text| put(&mut config.priority_ageing, time(text)),
    },
    Key {
        name: "dedup_window",
        allowed: "a duration such as 30s, 5m, 2h, 7d or 1500ms; 0s is off",
        get: |config| duration::format(config.dedup_window),
        set: |config, text| put(&mut config.dedup_window, time(text)),
    },
    Key {
        name: "draft_ttl",
        allowed: "a duration such as 30s, 5m, 2h, 7d or 1500ms; 0s is off",
        get: |config| duration::format(config.draft_ttl),
        set: |config, text| put(&mut config.draft_ttl, time(text)),
    },
    Key {
        name: "lines_batch",
        allowed: "a number from 1 to 100000",
        get: |config| config.lines_batch.to_string(),
        set: |config, text| put(&mut config.lines_batch, small(text, 100_000)),
    },
    Key {
        name: "paused",
        allowed: "no, in, out or both",
        get: |config| word(PAUSED, config.paused),
        set: |config, text| put(&mut config.paused, choice(PAUSED, text)),
    },
];

/// The names of all keys, in the order in which `.mq/config` shows them.
pub const KEYS: &[&str] = &{
    let mut names = [""; TABLE.len()];
    let mut i = 0;
    while i < TABLE.len() {
        names[i] = TABLE[i].name;
        i += 1;
    }
    names
};

impl QueueConfig {
    /// The value of `key` as [`QueueConfig::set`] takes it, or nothing if there is no such key.
    pub fn get(&self, key: &str) -> Option<String> {
        find(key).map(|row| (row.get)(self))
    }

    /// Changes one key. An unknown key or a value that it does not allow changes nothing, and the text of the error
    /// says what would be right.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let Some(row) = find(key) else {
            return Err(Error::Invalid(format!("unknown key `{key}`: known are {}", KEYS.join(", "))));
        };
        if (row.set)(self, value.trim()) {
            Ok(())
        } else {
            Err(Error::Invalid(format!("`{key} = {value}`: allowed is {}", row.allowed)))
        }
    }

    /// Changes the keys named in `text`, one `key = value` a line, and no others. Blank lines and lines that begin
    /// with `#` say nothing; of two lines with the same key the later counts. One bad line, and nothing changes.
    pub fn apply(&mut self, text: &str) -> Result<()> {
        let mut changed = self.clone();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                return Err(Error::Invalid(format!("`{line}` is not `key = value`")));
            };
            changed.set(key.trim(), value.trim())?;
        }
        *self = changed;
        Ok(())
    }

    /// The configuration of a text that a store holds. An earlier version took any path for `dead_letter`: one that is longer
    /// than any queue's leads nowhere, and is passed over.
    pub fn stored(text: &str) -> Result<Self> {
        let mut config = Self::default();
        if text.len() <= LONGEST_PATH {
            config.apply(text)?;
            return Ok(config);
        }
        let leads_nowhere = |line: &&str| {
            let value = line.split_once('=').filter(|(key, _)| key.trim() == "dead_letter").map(|(_, value)| value);
            value.is_some_and(|value| value.trim().trim_matches('/').len() > LONGEST_PATH)
        };
        let kept: Vec<&str> = text.lines().filter(|line| !leads_nowhere(line)).collect();
        config.apply(&kept.join("\n"))?;
        Ok(config)
    }

    /// All keys, one `key = value` a line. Applied to any configuration, it makes it equal to this one.
    pub fn render(&self) -> String {
        TABLE.iter().map(|row| format!("{} = {}\n", row.name, (row.get)(self))).collect()
    }
}

fn find(key: &str) -> Option<&'static Key> {
    TABLE.iter().find(|row| row.name == key)
}

/// Puts what was parsed, if anything was, where it belongs.
fn put<T>(place: &mut T, value: Option<T>) -> bool {
    match value {
        Some(value) => {
            *place = value;
            true
        }
        None => false,
    }
}

fn word<T: Copy + PartialEq>(words: &[(&str, T)], value: T) -> String {
    words.iter().find(|(_, meaning)| *meaning == value).map_or_else(String::new, |(word, _)| (*word).to_owned())
}

fn choice<T: Copy>(words: &[(&str, T)], text: &str) -> Option<T> {
    words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning)
}

fn time(text: &str) -> Option<Duration> {
    duration::parse(text).ok()
}

/// Digits and nothing else: `str::parse` would also take a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A number from 1 to `limit`.
fn small<T: TryFrom<u64>>(text: &str, limit: u64) -> Option<T> {
    number(text).filter(|count| (1..=limit).contains(count)).and_then(|count| count.try_into().ok())
}

/// Names of queues with slashes between them; a slash before or after says nothing. White space at an end would be lost when
/// the configuration is printed and read again.
fn queue_path(text: &str) -> Option<String> {
    let path = text.trim_matches('/');
    let names = || path.split('/');
    let sound = path.is_empty() || names().all(|name| !matches!(name, "" | "." | ".." | ".mq"));
    (sound && path.len() <= LONGEST_PATH && path == path.trim() && !path.contains('\n')).then(|| path.to_owned())
}

fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.bytes().last()?.to_ascii_uppercase() {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        b'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    number(digits)?.checked_mul(1 << shift)
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
