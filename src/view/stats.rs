//! What `.mq/stats` and the read-only attributes of a queue tell.

use serde_json::Map;

use crate::clock;
use crate::error::Result;
use crate::queue::state::State;
use crate::store::record::Counters;
use crate::store::{Alike, QueueInfo};

use super::waiters::Line;
use super::{Node, View};

/// How a counter is read.
type Value = fn(&Counters) -> u64;
/// A JSON object.
type Object = Map<String, serde_json::Value>;

/// The counters as users know them, with what they count, in the order of `stats`.
pub const COUNTERS: &[(&str, &str, Value)] = &[
    ("ready", "Messages that wait to be claimed.", |c| c.ready),
    ("ready_bytes", "Bytes of their bodies.", |c| c.ready_bytes),
    ("claimed", "Messages that are being worked on.", |c| c.claimed),
    ("claimed_bytes", "Bytes of their bodies.", |c| c.claimed_bytes),
    ("delayed", "Messages that are not due yet.", |c| c.delayed),
    ("delayed_bytes", "Bytes of their bodies.", |c| c.delayed_bytes),
    ("retrying", "Those of them that were delivered before.", |c| c.retrying),
    ("dead", "Messages that were given up.", |c| c.dead),
    ("dead_bytes", "Bytes of their bodies.", |c| c.dead_bytes),
    ("drafts", "Drafts.", |c| c.drafts),
    ("queues", "Nested queues.", |c| c.queues),
    ("batches", "Batches that are being prepared.", |c| c.batches),
    ("enqueued_total", "Messages enqueued or moved here.", |c| c.enqueued_total),
    ("claims_total", "Claims.", |c| c.claims_total),
    ("redelivered_total", "Claims of messages that were delivered before.", |c| c.redelivered_total),
    ("acked_total", "Messages acknowledged.", |c| c.acked_total),
    ("nacked_total", "Claims given back.", |c| c.nacked_total),
    ("expired_total", "Leases that expired.", |c| c.expired_total),
    ("late_settlements_total", "Deliveries that were to be settled when they were over.", |c| c.late_settlements_total),
    ("dead_lettered_total", "Messages that became dead letters.", |c| c.dead_lettered_total),
    ("redriven_total", "Dead letters that were redriven.", |c| c.redriven_total),
    ("moved_out_total", "Messages moved to another queue.", |c| c.moved_out_total),
    ("aborted_total", "Messages dropped because a writer was killed, a write failed, or a crash cut them.", |c| {
        c.aborted_total
    }),
    ("ttl_expired_total", "Messages whose time to live was over.", |c| c.ttl_expired_total),
    ("duplicates_total", "Messages not enqueued because they were duplicates.", |c| c.duplicates_total),
    ("dropped_total", "Messages that made room for newer ones.", |c| c.dropped_total),
    ("purged_total", "Messages purged.", |c| c.purged_total),
    ("rejected_total", "Enqueues refused because the queue was full or paused.", |c| c.rejected_total),
];

/// What a queue tells besides its counters, in the order of `stats`. None of it can be set.
pub const GAUGES: &[&str] = &[
    "oldest_ready_age_ms",
    "oldest_delayed_age_ms",
    "oldest_claimed_age_ms",
    "oldest_dead_age_ms",
    "waiting",
    "waiting_writers",
    "fullness",
];

/// What `stats` tells of the configuration: what one has to know to understand the rest.
const SETTINGS: &[&str] = &["paused", "max_messages", "max_bytes"];

/// The value of one counter.
pub fn counter(queue: &QueueInfo, name: &str) -> Option<u64> {
    COUNTERS.iter().find(|(known, ..)| *known == name).map(|(.., value)| value(&queue.counters))
}

/// How full a queue is: 1 when it takes no more messages, or no more bytes, whichever it is nearer to. `None` without limits. Dead
/// letters do not count; nor does what is being written.
pub fn fullness(queue: &QueueInfo) -> Option<f64> {
    let c = &queue.counters;
    let messages = c.ready.saturating_add(c.claimed).saturating_add(c.delayed);
    let bytes = c.ready_bytes.saturating_add(c.claimed_bytes).saturating_add(c.delayed_bytes);
    let of = |used: u64, limit: u64| (limit > 0).then(|| used as f64 / limit as f64);
    let fullest = [of(messages, queue.config.max_messages), of(bytes, queue.config.max_bytes)];
    let fullest = fullest.into_iter().flatten().reduce(f64::max)?;
    // Not rounded up to what would say that it is full.
    Some((fullest * 10_000.0).floor() / 10_000.0)
}

fn json(counters: impl Fn(&str, Value) -> u64) -> Object {
    COUNTERS
        .iter()
        .map(|(name, _, value)| ((*name).to_owned(), serde_json::Value::from(counters(name, *value))))
        .collect()
}

fn rendered(object: Object) -> Result<String> {
    let mut text = serde_json::to_string_pretty(&serde_json::Value::Object(object)).map_err(std::io::Error::from)?;
    text.push('\n');
    Ok(text)
}

impl View {
    /// What a status file reads as, but for that of the mount: see [`View::mount_stats`].
    pub(super) fn status_text(&self, node: Node) -> Result<String> {
        let value = match node {
            Node::Stats(queue) => {
                let info = self.store.queue(queue)?;
                let mut numbers = json(|_, value| value(&info.counters));
                for name in GAUGES {
                    numbers.insert((*name).into(), self.gauge(queue, &info, name)?.into());
                }
                for name in SETTINGS {
                    let value = info.config.get(name).unwrap_or_default();
                    let value = value.parse::<u64>().map_or_else(|_| value.into(), serde_json::Value::from);
                    numbers.insert((*name).into(), value);
                }
                numbers
            }
            _ => return Ok(format!("mqfs {}\n", env!("CARGO_PKG_VERSION"))),
        };
        rendered(value)
    }

    /// The value of one of [`GAUGES`]; `None` when there is nothing to tell, or no such gauge.
    pub(super) fn gauge(&self, queue: u64, info: &QueueInfo, name: &str) -> Result<Option<serde_json::Number>> {
        let oldest = State::ALL.into_iter().find(|state| {
            name.strip_prefix("oldest_").and_then(|rest| rest.strip_suffix("_age_ms")) == Some(state.word())
        });
        if let Some(state) = oldest {
            return Ok(self.oldest_age(queue, state)?.map(Into::into));
        }
        Ok(match name {
            "waiting" => Some(self.waiters.waiting(Line::Message(queue)).into()),
            "waiting_writers" => Some(self.waiters.waiting_for_room(queue).into()),
            "fullness" => fullness(info).and_then(serde_json::Number::from_f64),
            _ => None,
        })
    }

    /// For how long the oldest message of a state has been in it, in milliseconds; `None` when there is none.
    pub(super) fn oldest_age(&self, queue: u64, state: State) -> Result<Option<u64>> {
        Ok(self.store.oldest(queue, state)?.map(|since| clock::now_ms().saturating_sub(since)))
    }

    /// The sums over all queues, and what belongs to no queue; and how many queues there are. Goes through all of them.
    pub(super) fn mount_stats(&self) -> Result<(String, usize)> {
        let queues = self.store.all_queues()?;
        let mut infos = Vec::with_capacity(queues.len());
        let mut oldest = [None; 4];
        let mut like = Alike::default();
        for queue in &queues {
            // A queue may vanish while they are gone through.
            if let Ok((info, since)) = self.store.look_at_queue(*queue, &mut like) {
                infos.push(info.counters);
                let now = clock::now_ms();
                for (oldest, since) in oldest.iter_mut().zip(since) {
                    *oldest = (*oldest).max(since.map(|since| now.saturating_sub(since)));
                }
            }
        }
        let mut sums = json(|_, value| infos.iter().map(value).fold(0, u64::saturating_add));
        for (oldest, state) in oldest.into_iter().zip(State::ALL) {
            sums.insert(format!("oldest_{}_age_ms", state.word()), oldest.into());
        }
        sums.insert("waiting".into(), self.waiters.all_waiting(|line| matches!(line, Line::Message(_))).into());
        sums.insert("waiting_writers".into(), self.waiters.all_waiting_for_room().into());
        sums.insert("writers".into(), self.open_writers().into());
        sums.insert("open_files".into(), self.open_files().into());
        sums.insert("syncs_total".into(), self.store.syncs().into());
        sums.insert("requests_total".into(), self.activity().into());
        Ok((rendered(sums)?, queues.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_gauge_for_the_age_in_each_state() {
        for state in State::ALL.map(State::word) {
            assert!(GAUGES.contains(&format!("oldest_{state}_age_ms").as_str()), "{state}");
        }
    }
}
