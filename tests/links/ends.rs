//! The two queues, in mounts of their own.

use std::path::PathBuf;

use super::message::{Message, id_of};
use crate::common::{Mount, xattr};
use crate::extra::control;
use crate::linking::attributes;

/// The queue that is sent from; its mount is the first one.
pub const OUT: usize = 0;
/// The queue that is taken into; its mount is the second one.
pub const IN: usize = 1;
/// What the two sides are called.
pub const SIDES: [&str; 2] = ["out", "in"];
/// Both queues are called so.
const QUEUE: &str = "q";

/// A mount with its queue.
pub struct End {
    pub mount: Mount,
    side: usize,
    config: String,
}

impl End {
    /// Mounts a store and makes the queue. What is claimed comes back soon, and is never given up; of what waits there is a bound.
    pub fn new(side: usize, durability: &str) -> End {
        let limit = if side == OUT { 600 } else { 0 };
        let config = format!(
            "durability={durability}\nvisibility_timeout=5s\nmax_deliveries=0\nmax_messages={limit}\npaused=no\n"
        );
        let mount = Mount::new();
        mount.queue_with(QUEUE, &[&config]);
        std::fs::File::open(mount.path()).and_then(|root| root.sync_all()).expect("sync the queue");
        End { mount, side, config }
    }

    /// The queue.
    pub fn queue(&self) -> PathBuf {
        self.mount.path().join(QUEUE)
    }

    /// Kills mqfs, and mounts the store again.
    pub fn kill(&mut self) {
        self.mount.kill9_and_remount();
    }

    /// Lets the queue give or take nothing.
    pub fn pause(&self) {
        self.mount.set(QUEUE, if self.side == OUT { "paused=out" } else { "paused=in" });
    }

    /// As it was in the beginning.
    pub fn behave(&self) {
        self.mount.set(QUEUE, &self.config);
    }

    /// How many messages of a state there are.
    pub fn count(&self, what: &str) -> u64 {
        self.mount.stats(QUEUE)[what].as_u64().unwrap_or(0)
    }

    /// All that is in the queue, in its order: the id of each, and what is wrong with it.
    pub fn arrived(&self) -> Vec<(String, Option<String>)> {
        let look = |(name, body): (String, Vec<u8>)| {
            let path = control(&self.queue(), "peek").join(&name);
            let mut is = attributes(&path, &[]);
            is.retain(|(name, _)| !name.starts_with("user.link."));
            let id = id_of(&body);
            let wrong = Message::of(&id).differs(&xattr(&path, "user.mq.name").unwrap_or_default(), &body, &is);
            (id, wrong)
        };
        self.mount.messages(QUEUE).into_iter().map(look).collect()
    }

    /// The longest time in which nothing was enqueued, in seconds.
    pub fn worst_gap(&self) -> f64 {
        let at = |(name, _): &(String, Vec<u8>)| {
            let at = xattr(control(&self.queue(), "peek").join(name), "user.mq.enqueued_at")?;
            humantime::parse_rfc3339(&at).ok()?.duration_since(std::time::UNIX_EPOCH).ok()
        };
        let all: Vec<_> = self.mount.messages(QUEUE).iter().filter_map(at).collect();
        all.windows(2).map(|two| two[1].saturating_sub(two[0]).as_secs_f64()).fold(0.0, f64::max)
    }

    /// Empties the queue, and says what was there that should not have been.
    pub fn look(&self) -> Vec<String> {
        let mut left = Vec::new();
        let kept: &[&str] =
            if self.side == OUT { &["ready", "claimed", "delayed", "dead"] } else { &["claimed", "delayed", "dead"] };
        for state in kept {
            let count = self.count(state);
            if count > 0 {
                left.push(format!("{count} messages are {state} in the queue {}", SIDES[self.side]));
            }
        }
        let batches = std::fs::read_dir(control(&self.queue(), "batch")).map_or(0, Iterator::count);
        if batches > 0 {
            left.push(format!("{batches} batches of links are left in the queue {}", SIDES[self.side]));
        }
        std::fs::write(control(&self.queue(), "purge"), "all\n").expect("purge");
        left
    }
}
