//! The properties that a producer may give a message: `user.mq.*` attributes of a new file or draft, and the words of
//! `.mq/with/`.

use std::time::{Duration, UNIX_EPOCH};

use super::duration;
use crate::error::{Error, Result};

/// The prefix of the project's own attributes.
pub const PREFIX: &str = "user.mq.";

/// The highest priority.
pub const HIGHEST_PRIORITY: u8 = 9;
/// No deduplication id is longer, in bytes.
pub const LONGEST_ID: usize = 1024;

/// Properties that say how the queue is to treat the message.
pub const CONTROLLING: &[&str] = &["priority", "deliver_at", "delay", "ttl", "dedup_id"];
/// Properties that mean something to consumers only.
pub const DESCRIBING: &[&str] = &["content_type", "correlation_id", "reply_to", "group"];

/// How the queue is to treat a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// From 0, the default, to [`HIGHEST_PRIORITY`].
    pub priority: u8,
    /// Not before this instant, in milliseconds since the epoch.
    pub deliver_at: Option<u64>,
    /// Not before this time after the enqueue has passed.
    pub delay: Option<Duration>,
    /// How long it may wait to be claimed.
    pub ttl: Option<Duration>,
    /// Of several messages with one id, one is enqueued.
    pub dedup_id: Option<Vec<u8>>,
}

impl Properties {
    /// The properties among the attributes of a message. Those that [`Properties::set`] refuses say nothing: they were refused
    /// when they were set.
    pub fn of(attributes: &[(String, Vec<u8>)]) -> Self {
        let mut properties = Self::default();
        for (name, value) in attributes {
            if let Some(name) = name.strip_prefix(PREFIX) {
                let _ = properties.set(name, value);
            }
        }
        properties
    }

    /// Takes one property, without the prefix. A value that makes no sense is refused; a property that does not control
    /// anything is not looked at.
    pub fn set(&mut self, name: &str, value: &[u8]) -> Result<()> {
        match name {
            "priority" => self.priority = priority(text(name, value)?)?,
            "deliver_at" => self.deliver_at = Some(instant(text(name, value)?)?),
            "delay" => self.delay = Some(duration::parse(text(name, value)?)?),
            "ttl" => self.ttl = Some(duration::parse(text(name, value)?)?),
            "dedup_id" if value.is_empty() || value.len() > LONGEST_ID => {
                return Err(Error::Invalid(format!("dedup_id: allowed are 1 to {LONGEST_ID} bytes")));
            }
            "dedup_id" => self.dedup_id = Some(value.to_vec()),
            _ => {}
        }
        Ok(())
    }

    /// When a message enqueued at `now` is due, when that is later; the later of the two ways to say it counts.
    pub fn due(&self, now: u64) -> Option<u64> {
        let delayed = self.delay.map(|delay| now.saturating_add(ms(delay)));
        self.deliver_at.max(delayed).filter(|due| *due > now)
    }

    /// When the time to live of a message is over that waits from `start` on, in a queue with this `message_ttl`; 0 is never.
    /// The shorter counts, and none of 0 does.
    pub fn expires(&self, start: u64, message_ttl: Duration) -> u64 {
        let ttl = [self.ttl, Some(message_ttl)].into_iter().flatten().filter(|ttl| !ttl.is_zero()).min();
        ttl.map_or(0, |ttl| start.saturating_add(ms(ttl)))
    }

    /// The place of the message among the priorities of its queue: 0 goes first. A priority above the queue's highest is
    /// its highest.
    pub fn order(&self, priorities: u8) -> u8 {
        let highest = priorities.saturating_sub(1);
        highest - self.priority.min(highest)
    }
}

/// A duration in milliseconds.
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn text<'a>(name: &str, value: &'a [u8]) -> Result<&'a str> {
    let text = std::str::from_utf8(value).map_err(|_| Error::Invalid(format!("{name}: not UTF-8")))?;
    Ok(text.trim())
}

fn priority(text: &str) -> Result<u8> {
    match text.as_bytes() {
        [digit @ b'0'..=b'9'] => Ok(digit - b'0'),
        _ => Err(Error::Invalid(format!("priority `{text}`: allowed is 0 to {HIGHEST_PRIORITY}"))),
    }
}

/// An instant in RFC 3339, in UTC; the `T` may be a space, and the `Z` may be left out.
fn instant(text: &str) -> Result<u64> {
    let refused = || Error::Invalid(format!("deliver_at `{text}`: write an instant such as 2026-01-31T08:00:00Z"));
    let instant = humantime::parse_rfc3339_weak(text).map_err(|_| refused())?;
    let since = instant.duration_since(UNIX_EPOCH).map_err(|_| refused())?;
    Ok(ms(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Properties {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (format!("{PREFIX}{k}"), v.as_bytes().to_vec())).collect();
        Properties::of(&pairs)
    }

    #[test]
    fn each_property_is_read() {
        let all = of(&[
            ("priority", "7"),
            ("deliver_at", "2026-01-31T08:00:00Z"),
            ("delay", "30s"),
            ("ttl", "1h"),
            ("dedup_id", "order-7"),
            ("content_type", "text/csv"),
        ]);
        let expected = Properties {
            priority: 7,
            deliver_at: Some(1_769_846_400_000),
            delay: Some(Duration::from_secs(30)),
            ttl: Some(Duration::from_secs(3600)),
            dedup_id: Some(b"order-7".to_vec()),
        };
        assert_eq!(all, expected);
        assert_eq!(of(&[("deliver_at", "2026-01-31 08:00:00")]).deliver_at, Some(1_769_846_400_000));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (name, value) in [
            ("priority", "10"),
            ("priority", "-1"),
            ("priority", ""),
            ("priority", "high"),
            ("delay", "30"),
            ("delay", "-1s"),
            ("ttl", "soon"),
            ("deliver_at", "tomorrow"),
            ("deliver_at", "1769-01-31T08:00:00Z"),
            ("dedup_id", ""),
        ] {
            let mut properties = Properties::default();
            assert!(matches!(properties.set(name, value.as_bytes()), Err(Error::Invalid(_))), "{name}={value}");
            assert_eq!(properties, Properties::default());
        }
        assert!(Properties::default().set("dedup_id", &[b'x'; LONGEST_ID + 1]).is_err());
        assert!(Properties::default().set("delay", b"\xff").is_err());
    }

    #[test]
    fn a_message_is_due_at_the_later_instant_and_never_in_the_past() {
        assert_eq!(of(&[]).due(5), None);
        assert_eq!(of(&[("delay", "0s")]).due(5), None);
        assert_eq!(of(&[("delay", "2s")]).due(5), Some(2005));
        assert_eq!(of(&[("deliver_at", "1970-01-01T00:00:03Z")]).due(5), Some(3000));
        assert_eq!(of(&[("deliver_at", "1970-01-01T00:00:03Z"), ("delay", "4s")]).due(5), Some(4005));
        assert_eq!(of(&[("deliver_at", "1970-01-01T00:00:03Z")]).due(3000), None);
    }

    #[test]
    fn the_shorter_time_to_live_counts() {
        let none = Duration::ZERO;
        assert_eq!(of(&[]).expires(5, none), 0);
        assert_eq!(of(&[("ttl", "0s")]).expires(5, none), 0);
        assert_eq!(of(&[("ttl", "1s")]).expires(5, none), 1005);
        assert_eq!(of(&[("ttl", "1s")]).expires(5, Duration::from_secs(2)), 1005);
        assert_eq!(of(&[("ttl", "3s")]).expires(5, Duration::from_secs(2)), 2005);
        assert_eq!(of(&[("ttl", "0s")]).expires(5, Duration::from_secs(2)), 2005);
    }

    #[test]
    fn higher_priorities_go_first_and_too_high_is_highest() {
        assert_eq!(
            [0, 1, 2, 9].map(|priority| Properties { priority, ..Properties::default() }.order(3)),
            [2, 1, 0, 0]
        );
        assert_eq!(of(&[("priority", "9")]).order(1), 0);
        assert_eq!([0, 9].map(|priority| Properties { priority, ..Properties::default() }.order(10)), [9, 0]);
    }
}
