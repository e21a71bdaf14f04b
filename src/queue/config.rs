//! What can be configured on a queue: the keys of `.mq/config`, of `user.mq.*` and of `mqfs mount -o`.
//!
//! A key is one row of [`TABLE`]: its name, what it accepts, how it is read and written. Nothing else knows the keys.

use std::time::Duration;

use super::duration;
use crate::error::{Error, Result};

/// How messages are named in the listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// By sequence number, then the producer's name: the listing is the order of delivery.
    #[default]
    Sequence,
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
    /// Nothing: whatever was written is enqueued.
    Never,
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
    /// How long a claim lasts without being renewed; above 0.
    pub visibility_timeout: Duration,
    /// How long a claim that is being renewed may last in all.
    pub max_lease: Duration,
    /// After how many deliveries a message that comes back is dead-lettered; 0 is never.
    pub max_deliveries: u32,
    /// The largest message accepted; 0 is any.
    pub max_message_bytes: u64,
    /// How long an untouched draft is kept; 0 is for ever.
    pub draft_ttl: Duration,
}

impl Default for QueueConfig {
    fn default() -> Self {
        QueueConfig {
            names: Names::default(),
            claim: ClaimMode::default(),
            durability: Durability::default(),
            abort_on: AbortOn::default(),
            visibility_timeout: Duration::from_secs(30),
            max_lease: Duration::from_secs(12 * 60 * 60),
            max_deliveries: 20,
            max_message_bytes: 0,
            draft_ttl: Duration::ZERO,
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

const NAMES: &[(&str, Names)] = &[("sequence", Names::Sequence)];
const CLAIM: &[(&str, ClaimMode)] = &[("read", ClaimMode::Read), ("rename", ClaimMode::Rename)];
const DURABILITY: &[(&str, Durability)] = &[("sync", Durability::Sync), ("async", Durability::Async)];
const ABORT_ON: &[(&str, AbortOn)] = &[("killed", AbortOn::Killed), ("never", AbortOn::Never)];

const TABLE: &[Key] = &[
    Key {
        name: "names",
        allowed: "sequence",
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
        allowed: "killed or never",
        get: |config| word(ABORT_ON, config.abort_on),
        set: |config, text| put(&mut config.abort_on, choice(ABORT_ON, text)),
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
        name: "max_deliveries",
        allowed: "a number from 0 (no limit) to 4294967295",
        get: |config| config.max_deliveries.to_string(),
        set: |config, text| put(&mut config.max_deliveries, number(text).and_then(|count| count.try_into().ok())),
    },
    Key {
        name: "max_message_bytes",
        allowed: "a number of bytes, also with K, M, G or T such as 64K; 0 is no limit",
        get: |config| config.max_message_bytes.to_string(),
        set: |config, text| put(&mut config.max_message_bytes, bytes(text)),
    },
    Key {
        name: "draft_ttl",
        allowed: "a duration such as 30s, 5m, 2h, 7d or 1500ms; 0s is off",
        get: |config| duration::format(config.draft_ttl),
        set: |config, text| put(&mut config.draft_ttl, time(text)),
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
