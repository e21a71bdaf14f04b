//! `MOUNT/.mq/metrics`: the counters of all queues as Prometheus reads them.
//!
//! Each user is told of the queues that they could find by themselves: queues that they see listed, and the numbers of those
//! whose `stats` they may read.

use std::fmt::{Display, Write};
use std::sync::Arc;

use crate::error::Result;
use crate::queue::state::State;
use crate::store::record::Counters;

use super::View;
use super::rendering::{Excerpt, Lines, Rendering};
use super::stats::{COUNTERS, fullness};
use super::survey::{Places, Shown, Surveyed};
use super::telling::Audience;

/// The ages of the oldest, in the order of [`State::ALL`].
const OLDEST: [(&str, &str); 4] = [
    (
        "mqfs_oldest_ready_age_seconds",
        "How long the oldest ready message has been waiting since it became ready; 0 when nothing is ready.",
    ),
    ("mqfs_oldest_delayed_age_seconds", "For how long the oldest delayed message has been delayed; 0 without any."),
    ("mqfs_oldest_claimed_age_seconds", "For how long the oldest claim has been held; 0 when nothing is claimed."),
    ("mqfs_oldest_dead_age_seconds", "For how long the oldest dead letter has been dead; 0 without any."),
];

/// A metric's name, whether it only grows, and what it says.
type Family<'a> = (&'a str, Kind, &'a str);

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// The metrics of all queues, as they were at one moment.
pub struct Metrics {
    places: Places,
    /// The places of the queues among them, in the order in which they are told.
    order: Vec<usize>,
    rendering: Arc<Rendering>,
    /// The label that all samples have.
    mount: String,
}

impl Metrics {
    /// What may be told to these.
    pub fn told_to(&self, audience: &Audience) -> Excerpt {
        let shown = self.places.shown_to(audience);
        let mut own = Exposition { text: Rendering::default(), mount: self.mount.clone() };
        own.head((
            "mqfs_queues_untold",
            Kind::Gauge,
            "Queues left out, with all in them, because the paths are too long.",
        ));
        own.sample("mqfs_queues_untold", &[], self.places.left_out(&shown));
        let told = |at: usize, lines| match lines {
            Lines::Readable => shown[self.order[at]] == Shown::Readable,
            Lines::Listed => shown[self.order[at]] == Shown::Listed,
        };
        self.rendering.view(told, std::mem::take(own.text.text()))
    }

    /// What it takes in memory, in bytes.
    pub fn memory(&self) -> usize {
        self.rendering.memory() + self.places.memory() + self.order.capacity() * size_of::<usize>()
    }
}

impl View {
    /// Puts the metrics together. Goes through all queues.
    pub(super) fn metrics(&self) -> Result<Metrics> {
        let survey = self.survey()?;
        // The root holds no messages, and is told of as the mount.
        let mut order: Vec<usize> = (1..survey.queues.len()).collect();
        order.sort_by(|a, b| survey.queues[*a].path.cmp(&survey.queues[*b].path));
        let queues: Vec<&Surveyed> = order.iter().map(|at| &survey.queues[*at]).collect();
        let mut out = Exposition::of(&self.options.mount);
        out.of_mount(self, survey.at)?;
        out.of_queues(&queues, survey.at);
        let Exposition { mut text, mount } = out;
        text.text().shrink_to_fit();
        Ok(Metrics { places: survey.places(), order, rendering: Arc::new(text), mount })
    }
}

/// The text, as it grows. Writing to a string does not fail.
struct Exposition {
    text: Rendering,
    /// The label that all samples have: `mount="..."`.
    mount: String,
}

impl Exposition {
    fn of(mount: &str) -> Self {
        let mut label = String::new();
        push_label(&mut label, "mount", mount);
        Self { text: Rendering::default(), mount: label }
    }

    fn of_mount(&mut self, view: &View, now: u64) -> Result<()> {
        let usage = view.usage()?;
        self.head(("mqfs_info", Kind::Gauge, "The version of mqfs; always 1."));
        self.sample("mqfs_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        self.head(("mqfs_timestamp_seconds", Kind::Gauge, "When all this was so, in seconds since the epoch."));
        self.sample("mqfs_timestamp_seconds", &[], now as f64 / 1000.0);
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
            self.head(family);
            self.sample(family.0, &[], value);
        }
        Ok(())
    }

    /// A family of the queues whose numbers are told: what `each` adds for each of them.
    fn family(&mut self, queues: &[&Surveyed], family: Family<'_>, each: impl Fn(&mut Self, &Surveyed)) {
        self.head(family);
        self.text.begin(Lines::Readable);
        for queue in queues {
            each(self, queue);
            self.text.next();
        }
    }

    /// A gauge of each queue whose numbers are told.
    fn gauge<T: Display>(
        &mut self,
        queues: &[&Surveyed],
        (name, help): (&str, &str),
        value: impl Fn(&Surveyed) -> Option<T>,
    ) {
        self.family(queues, (name, Kind::Gauge, help), |out, queue| {
            if let Some(value) = value(queue) {
                out.sample(name, &[("queue", &queue.path)], value);
            }
        });
    }

    fn of_queues(&mut self, queues: &[&Surveyed], now: u64) {
        self.of_readers(queues);
        for (at, (name, help)) in OLDEST.into_iter().enumerate() {
            self.gauge(queues, (name, help), |queue| {
                let ms = queue.oldest[at].map_or(0, |since| now.saturating_sub(since));
                Some(ms as f64 / 1000.0)
            });
        }
        self.gauge(queues, ("mqfs_waiting", "Readers that wait for a message."), |queue| Some(queue.waiting));
        let help = "Writers that wait for room.";
        self.gauge(queues, ("mqfs_waiting_writers", help), |queue| Some(queue.waiting_writers));
        let help = "How full the queue is, by its limits: 1 when it takes no more; missing without limits.";
        self.gauge(queues, ("mqfs_fullness_ratio", help), |queue| fullness(&queue.info));
        let help = "How many messages the queue takes; 0 without such a limit.";
        self.gauge(queues, ("mqfs_max_messages", help), |queue| Some(queue.info.config.max_messages));
        let help = "How many bytes the queue takes; 0 without such a limit.";
        self.gauge(queues, ("mqfs_max_bytes", help), |queue| Some(queue.info.config.max_bytes));
        self.of_pauses(queues);
        self.of_states(queues);
        let of_states = |name: &str| State::ALL.iter().any(|state| name.trim_end_matches("_bytes") == state.word());
        for (counter, help, value) in COUNTERS.iter().filter(|(name, ..)| !of_states(name)) {
            let name = format!("mqfs_{counter}");
            let kind = if counter.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
            self.family(queues, (&name, kind, help), |out, queue| {
                out.sample(&name, &[("queue", &queue.path)], value(&queue.info.counters));
            });
        }
    }

    /// Whether the numbers of a queue are told: to some they are, to others not.
    fn of_readers(&mut self, queues: &[&Surveyed]) {
        let name = "mqfs_queue_readable";
        self.head((name, Kind::Gauge, "1 when the numbers of the queue are told to this reader."));
        for (lines, value) in [(Lines::Readable, 1), (Lines::Listed, 0)] {
            self.text.begin(lines);
            for queue in queues {
                self.sample(name, &[("queue", &queue.path)], value);
                self.text.next();
            }
        }
    }

    fn of_pauses(&mut self, queues: &[&Surveyed]) {
        let name = "mqfs_paused";
        let help = "1 when nothing is enqueued (in) or claimed (out) for the time being.";
        self.family(queues, (name, Kind::Gauge, help), |out, queue| {
            let config = &queue.info.config;
            for (direction, paused) in [("in", config.paused_in()), ("out", config.paused_out())] {
                out.sample(name, &[("queue", &queue.path), ("direction", direction)], u8::from(paused));
            }
        });
    }

    fn of_states(&mut self, queues: &[&Surveyed]) {
        for (name, help, suffix) in [
            ("mqfs_messages", "Messages of the queue in each state.", ""),
            ("mqfs_message_bytes", "Bytes of their bodies.", "_bytes"),
        ] {
            let of = State::ALL.map(|state| (state.word(), counter(&format!("{}{suffix}", state.word()))));
            self.family(queues, (name, Kind::Gauge, help), |out, queue| {
                for (state, value) in of {
                    out.sample(name, &[("queue", &queue.path), ("state", state)], value(&queue.info.counters));
                }
            });
        }
    }

    fn head(&mut self, (name, kind, help): Family<'_>) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = writeln!(self.text.text(), "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let Self { text, mount } = self;
        let text = text.text();
        let _ = write!(text, "{name}{{{mount}");
        for (label, value) in labels {
            text.push(',');
            push_label(text, label, value);
        }
        let _ = writeln!(text, "}} {value}");
    }
}

/// Adds `LABEL="TEXT"`, escaped.
fn push_label(out: &mut String, label: &str, text: &str) {
    let _ = write!(out, "{label}=\"");
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// How the counter of that name is read.
fn counter(name: &str) -> fn(&Counters) -> u64 {
    COUNTERS.iter().find(|(known, ..)| *known == name).map_or(|_| 0, |(.., value)| *value)
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
        let mut out = Exposition::of("/srv/m\"q");
        out.sample("a", &[("queue", "x\"y\\z\n"), ("state", "ready")], 7);
        out.sample("b", &[], 0.5);
        let mount = r#"mount="/srv/m\"q""#;
        let expected = format!("a{{{mount},queue=\"x\\\"y\\\\z\\n\",state=\"ready\"}} 7\nb{{{mount}}} 0.5\n");
        assert_eq!(*out.text.text(), expected);
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
