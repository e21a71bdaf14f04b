//! What `.mq/stats` and the read-only attributes of a queue tell.

use serde_json::Map;

use crate::clock;
use crate::error::Result;
use crate::store::record::Counters;
use crate::store::{QueueInfo, ROOT};

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

/// How long the oldest ready message has been waiting, in milliseconds; not there when nothing is ready.
pub const OLDEST: &str = "oldest_ready_age_ms";

/// Readers that wait for a message now.
pub const WAITING: &str = "waiting";

/// Writers that wait for room now.
pub const WAITING_WRITERS: &str = "waiting_writers";

/// The value of one counter.
pub fn counter(queue: &QueueInfo, name: &str) -> Option<u64> {
    COUNTERS.iter().find(|(known, ..)| *known == name).map(|(.., value)| value(&queue.counters))
}

fn json(counters: impl Fn(&str, Value) -> u64) -> Object {
    COUNTERS
        .iter()
        .map(|(name, _, value)| ((*name).to_owned(), serde_json::Value::from(counters(name, *value))))
        .collect()
}

impl View {
    /// What a status file reads as.
    pub(super) fn status_text(&self, node: Node) -> Result<String> {
        let value = match node {
            Node::Stats(ROOT) => self.mount_stats()?,
            Node::Stats(queue) => {
                let info = self.store.queue(queue)?;
                let mut numbers = json(|_, value| value(&info.counters));
                numbers.insert(OLDEST.into(), self.oldest_ready_age(queue)?.into());
                numbers.insert(WAITING.into(), self.waiters.waiting(Line::Message(queue)).into());
                numbers.insert(WAITING_WRITERS.into(), self.waiters.waiting_for_room(queue).into());
                numbers
            }
            _ => return Ok(format!("mqfs {}\n", env!("CARGO_PKG_VERSION"))),
        };
        let mut text = serde_json::to_string_pretty(&serde_json::Value::Object(value)).map_err(std::io::Error::from)?;
        text.push('\n');
        Ok(text)
    }

    /// How long the oldest ready message of a queue has been waiting, in milliseconds; `None` when nothing is ready.
    pub(super) fn oldest_ready_age(&self, queue: u64) -> Result<Option<u64>> {
        Ok(self.store.oldest_ready(queue)?.map(|since| clock::now_ms().saturating_sub(since)))
    }

    /// The sums over all queues, and what belongs to no queue.
    fn mount_stats(&self) -> Result<Object> {
        let mut infos = Vec::new();
        let mut oldest = None;
        for queue in self.store.all_queues()? {
            // A queue may vanish while they are gone through.
            if let Ok(info) = self.store.queue(queue) {
                infos.push(info.counters);
                oldest = oldest.max(self.oldest_ready_age(queue).ok().flatten());
            }
        }
        let mut sums = json(|_, value| infos.iter().map(value).fold(0, u64::saturating_add));
        sums.insert(OLDEST.into(), oldest.into());
        sums.insert(WAITING.into(), self.waiters.all_waiting(|line| matches!(line, Line::Message(_))).into());
        sums.insert(WAITING_WRITERS.into(), self.waiters.all_waiting_for_room().into());
        sums.insert("writers".into(), self.open_writers().into());
        sums.insert("open_files".into(), self.open_files().into());
        sums.insert("syncs_total".into(), self.store.syncs().into());
        sums.insert("requests_total".into(), self.activity().into());
        Ok(sums)
    }
}
