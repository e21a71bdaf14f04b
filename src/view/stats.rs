//! What `.mq/stats` and the read-only attributes of a queue tell.

use serde_json::Map;

use crate::error::Result;
use crate::store::record::Counters;
use crate::store::{QueueInfo, ROOT};

use super::{Node, View};

/// How a counter is read.
type Value = fn(&Counters) -> u64;
/// A JSON object.
type Object = Map<String, serde_json::Value>;

/// The counters as users know them, with what they count, in the order of `stats`.
pub const COUNTERS: &[(&str, Value)] = &[
    ("ready", |c| c.ready),
    ("ready_bytes", |c| c.ready_bytes),
    ("claimed", |c| c.claimed),
    ("claimed_bytes", |c| c.claimed_bytes),
    ("dead", |c| c.dead),
    ("dead_bytes", |c| c.dead_bytes),
    ("drafts", |c| c.drafts),
    ("queues", |c| c.queues),
    ("enqueued_total", |c| c.enqueued_total),
    ("claims_total", |c| c.claims_total),
    ("acked_total", |c| c.acked_total),
    ("nacked_total", |c| c.nacked_total),
    ("expired_total", |c| c.expired_total),
    ("dead_lettered_total", |c| c.dead_lettered_total),
    ("redriven_total", |c| c.redriven_total),
    ("moved_out_total", |c| c.moved_out_total),
    ("aborted_total", |c| c.aborted_total),
];

/// The value of one counter.
pub fn counter(queue: &QueueInfo, name: &str) -> Option<u64> {
    COUNTERS.iter().find(|(known, _)| *known == name).map(|(_, value)| value(&queue.counters))
}

fn json(counters: impl Fn(&str, Value) -> u64) -> Object {
    COUNTERS.iter().map(|(name, value)| ((*name).to_owned(), serde_json::Value::from(counters(name, *value)))).collect()
}

impl View {
    /// What a status file reads as.
    pub(super) fn status_text(&self, node: Node) -> Result<String> {
        let value = match node {
            Node::Stats(ROOT) => self.mount_stats()?,
            Node::Stats(queue) => {
                let info = self.store.queue(queue)?;
                json(|_, value| value(&info.counters))
            }
            _ => return Ok(format!("mqfs {}\n", env!("CARGO_PKG_VERSION"))),
        };
        let mut text = serde_json::to_string_pretty(&serde_json::Value::Object(value)).map_err(std::io::Error::from)?;
        text.push('\n');
        Ok(text)
    }

    /// The sums over all queues, and what belongs to no queue.
    fn mount_stats(&self) -> Result<Object> {
        let mut infos = Vec::new();
        for queue in self.store.all_queues()? {
            // A queue may vanish while they are gone through.
            if let Ok(info) = self.store.queue(queue) {
                infos.push(info.counters);
            }
        }
        let mut sums = json(|_, value| infos.iter().map(value).sum());
        sums.insert("writers".into(), self.open_writers().into());
        sums.insert("open_files".into(), self.open_files().into());
        sums.insert("syncs_total".into(), self.store.syncs().into());
        sums.insert("requests_total".into(), self.activity().into());
        Ok(sums)
    }
}
