//! What has happened in a campaign, in figures.

use std::collections::BTreeMap;

use super::checker::{again, bound};
use super::journal::Event;
use super::message::Message;
use super::systems::Promises;

/// Figures of all episodes.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Episodes.
    pub episodes: usize,
    /// Messages that producers began to write.
    pub offered: usize,
    /// Those that they were told are enqueued.
    pub acknowledged: usize,
    /// Messages in the last queue.
    pub arrived: usize,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// How often each kind of fault was made.
    pub faults: BTreeMap<String, usize>,
    /// Messages that the broker had, where it was looked.
    pub kept: usize,
    /// Those among them that were there again.
    pub doubles_out: usize,
    /// So many had been allowed.
    pub allowed: usize,
    /// Messages that were in the last queue again.
    pub doubles_in: usize,
    /// Messages that came again to the link that takes in, and were known.
    pub known: u64,
    /// Connections of both links.
    pub connections: u64,
    /// The longest time without an arrival while there were any, in seconds.
    pub worst_gap: f64,
}

impl Summary {
    /// Adds an episode.
    pub fn add(&mut self, events: &[Event], promises: Promises) {
        let (mut kept, mut arrived) = (Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Offered { .. } => self.offered += 1,
                Event::Acknowledged { .. } => self.acknowledged += 1,
                Event::Fault { kind, .. } => *self.faults.entry(kind.clone()).or_default() += 1,
                Event::Kept { id, .. } => kept.push(id),
                Event::Arrived { id, .. } => arrived.push(id),
                _ => {}
            }
        }
        self.bytes += arrived.iter().map(|id| Message::of(id).body.len() as u64).sum::<u64>();
        self.arrived += arrived.len();
        self.kept += kept.len();
        self.doubles_in += again(arrived.into_iter());
        self.doubles_out += again(kept.into_iter());
        self.allowed = self.allowed.saturating_add(bound(events, promises.doubles_out));
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let faults: Vec<String> = self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        write!(
            f,
            "{} episodes; messages: {} offered, {} acknowledged, {} arrived, {} bytes, {} of them again; faults: {}; {} connections",
            self.episodes,
            self.offered,
            self.acknowledged,
            self.arrived,
            self.bytes,
            self.doubles_in,
            faults.join(", "),
            self.connections,
        )?;
        match (self.kept, self.allowed) {
            (0, _) => {}
            (kept, usize::MAX) => write!(f, "; {kept} in the broker, {} of them again", self.doubles_out)?,
            (kept, most) => write!(f, "; {kept} in the broker, {} of them again of {most} allowed", self.doubles_out)?,
        }
        write!(f, "; {} came again and were known; worst gap {:.1} s", self.known, self.worst_gap)
    }
}
