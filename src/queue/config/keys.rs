//! The keys of `.mq/config`, of `user.mq.*` and of `mqfs mount -o`.
//!
//! A key is one row of [`TABLE`]: its name, what it accepts, how it is read and written. Nothing else knows the keys.

use std::time::Duration;

use super::super::duration;
use super::super::name::LONGEST_PATH;
use super::super::patterns::Patterns;
use super::{AbortOn, ClaimMode, Durability, Expired, Names, Overflow, Paused, Publish, QueueConfig, RetryBackoff};
use crate::error::{Error, Result};

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
#[path = "keys_tests.rs"]
mod tests;
