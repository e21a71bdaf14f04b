//! `MOUNT/.mq/metrics`: the counters of all queues as Prometheus reads them.
//!
//! Each user is told of the queues that they could find by themselves: queues that they see listed, and the numbers of those
//! whose `stats` they may read.

use std::collections::VecDeque;
use std::fmt::{Display, Write};

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::state::State;
use crate::store::ROOT;
use crate::store::record::Counters;

use super::View;
use super::access::{Caller, EXEC, READ};
use super::stats::COUNTERS;
use super::waiters::Line;

/// Of a longer path, in bytes, no queue is told: no program could name it.
const LONGEST_PATH: usize = 4096;
/// Nor of more queues than have labels of this length in all, in bytes; each label is told some thirty times.
const LABELS: usize = 4 << 20;
/// A label counts as so many bytes more, for what is told with it.
const LABELS_MORE: usize = 64;

/// A queue in the output.
struct Series {
    /// Its path from the root of the mount, as the value of a label.
    label: String,
    /// What the caller may know of it.
    numbers: Option<Numbers>,
}

struct Numbers {
    counters: Counters,
    oldest_ready_at: Option<u64>,
    waiting: usize,
    waiting_writers: usize,
}

/// A metric's name, whether it only grows, and what it says.
type Family<'a> = (&'a str, Kind, &'a str);

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

impl Numbers {
    fn of(view: &View, queue: u64, counters: Counters) -> Result<Self> {
        Ok(Self {
            counters,
            oldest_ready_at: view.store.oldest_ready(queue)?,
            waiting: view.waiters.waiting(Line::Message(queue)),
            waiting_writers: view.waiters.waiting_for_room(queue),
        })
    }

    /// For how long the oldest ready message has been waiting, in seconds.
    fn oldest_seconds(&self, now: u64) -> f64 {
        let ms = self.oldest_ready_at.map_or(0, |since| now.saturating_sub(since));
        ms as f64 / 1000.0
    }
}

impl View {
    pub(super) fn metrics(&self, caller: &Caller) -> Result<String> {
        let (mut queues, untold) = self.visible_queues(caller)?;
        queues.sort_by(|a, b| a.label.cmp(&b.label));
        let mut out = Exposition(String::new());
        out.of_mount(self)?;
        out.begin((
            "mqfs_queues_untold",
            Kind::Gauge,
            "Queues left out, with all in them, because the paths are too long.",
        ));
        out.sample("mqfs_queues_untold", &[], untold);
        out.of_queues(&queues, clock::now_ms());
        Ok(out.0)
    }

    /// The queues below the root that the caller can list, and how many of them are left out. Those at the top come first, so
    /// that nobody who nests queues without end crowds out the others'.
    fn visible_queues(&self, caller: &Caller) -> Result<(Vec<Series>, usize)> {
        let (mut found, mut untold, mut labels) = (Vec::new(), 0, 0);
        let mut left = VecDeque::from([(ROOT, String::new())]);
        while let Some((queue, path)) = left.pop_front() {
            let info = match self.store.queue(queue) {
                Err(Error::NotFound) => continue, // removed meanwhile
                info => info?,
            };
            let readable = self.owner(&info).allows(caller, READ | EXEC);
            if readable {
                self.store.list_queues(queue, 0, |nested| {
                    let name = label(nested.name);
                    let length = path.len() + 1 + name.len();
                    if length > LONGEST_PATH || labels + length > LABELS {
                        untold += 1;
                        return true;
                    }
                    labels += length + LABELS_MORE;
                    left.push_back((nested.id, if queue == ROOT { name } else { format!("{path}/{name}") }));
                    true
                })?;
            }
            if queue != ROOT {
                let numbers = readable.then(|| Numbers::of(self, queue, info.counters)).transpose()?;
                found.push(Series { label: path, numbers });
            }
        }
        Ok((found, untold))
    }
}

/// The text, as it grows. Writing to a string does not fail.
struct Exposition(String);

impl Exposition {
    fn of_mount(&mut self, view: &View) -> Result<()> {
        let usage = view.usage()?;
        self.begin(("mqfs_info", Kind::Gauge, "The version of mqfs; always 1."));
        self.sample("mqfs_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        let numbers: [(Family<'_>, u64); 6] = [
            (("mqfs_writers", Kind::Gauge, "Messages that are being written."), view.open_writers() as u64),
            (("mqfs_open_files", Kind::Gauge, "Files that are open."), view.open_files() as u64),
            (("mqfs_syncs_total", Kind::Counter, "Syncs of the database since the mount."), view.store.syncs()),
            (("mqfs_requests_total", Kind::Counter, "Requests served since the mount."), view.activity()),
            (
                ("mqfs_store_size_bytes", Kind::Gauge, "Size of the disk under the store."),
                usage.blocks.saturating_mul(usage.block),
            ),
            (
                ("mqfs_store_free_bytes", Kind::Gauge, "Room for messages on that disk."),
                usage.free.saturating_mul(usage.block),
            ),
        ];
        for (family, value) in numbers {
            self.begin(family);
            self.sample(family.0, &[], value);
        }
        Ok(())
    }

    fn of_queues(&mut self, queues: &[Series], now: u64) {
        let name = "mqfs_queue_readable";
        self.begin((name, Kind::Gauge, "1 when the numbers of the queue are told to this reader."));
        for queue in queues {
            self.sample(name, &[("queue", &queue.label)], u8::from(queue.numbers.is_some()));
        }
        let readable = || queues.iter().filter_map(|queue| Some((queue.label.as_str(), queue.numbers.as_ref()?)));
        let name = "mqfs_oldest_ready_age_seconds";
        self.begin((name, Kind::Gauge, "How long the oldest ready message has been waiting; 0 when nothing is ready."));
        for (label, numbers) in readable() {
            self.sample(name, &[("queue", label)], numbers.oldest_seconds(now));
        }
        let name = "mqfs_waiting";
        self.begin((name, Kind::Gauge, "Readers that wait for a message."));
        for (label, numbers) in readable() {
            self.sample(name, &[("queue", label)], numbers.waiting);
        }
        let name = "mqfs_waiting_writers";
        self.begin((name, Kind::Gauge, "Writers that wait for room."));
        for (label, numbers) in readable() {
            self.sample(name, &[("queue", label)], numbers.waiting_writers);
        }
        for (name, help, suffix) in [
            ("mqfs_messages", "Messages of the queue in each state.", ""),
            ("mqfs_message_bytes", "Bytes of their bodies.", "_bytes"),
        ] {
            self.begin((name, Kind::Gauge, help));
            for (label, numbers) in readable() {
                for state in State::ALL.map(State::word) {
                    let value = value(&numbers.counters, &format!("{state}{suffix}"));
                    self.sample(name, &[("queue", label), ("state", state)], value);
                }
            }
        }
        let of_states = |name: &str| State::ALL.iter().any(|state| name.trim_end_matches("_bytes") == state.word());
        for (counter, help, value) in COUNTERS.iter().filter(|(name, ..)| !of_states(name)) {
            let name = format!("mqfs_{counter}");
            let kind = if counter.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
            self.begin((&name, kind, help));
            for (label, numbers) in readable() {
                self.sample(&name, &[("queue", label)], value(&numbers.counters));
            }
        }
    }

    fn begin(&mut self, (name, kind, help): Family<'_>) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if at == 0 { '{' } else { ',' });
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

fn value(counters: &Counters, name: &str) -> u64 {
    COUNTERS.iter().find(|(known, ..)| *known == name).map_or(0, |(.., value)| value(counters))
}

/// A queue's name as text. A label is UTF-8: the bytes of a name that is not are written `\xNN`.
pub fn label(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_escaped() {
        let mut out = Exposition(String::new());
        out.sample("a", &[("queue", "x\"y\\z\n"), ("state", "ready")], 7);
        out.sample("b", &[], 0.5);
        assert_eq!(out.0, "a{queue=\"x\\\"y\\\\z\\n\",state=\"ready\"} 7\nb 0.5\n");
    }

    #[test]
    fn labels_are_utf_8() {
        assert_eq!(label("Aufträge".as_bytes()), "Aufträge");
        assert_eq!(label(b"a\xff b"), "a\\xff b");
    }

    #[test]
    fn every_counter_of_a_state_is_there() {
        for state in State::ALL.map(State::word) {
            for name in [state.to_owned(), format!("{state}_bytes")] {
                assert!(COUNTERS.iter().any(|(known, ..)| *known == name), "{name}");
            }
        }
    }
}
