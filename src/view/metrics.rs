//! `MOUNT/.mq/metrics`: the counters of all queues as Prometheus reads them.
//!
//! Each user is told of the queues that they could find by themselves: queues that they see listed, and the numbers of those
//! whose `stats` they may read.

use std::collections::VecDeque;
use std::fmt::{Display, Write};

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::state::State;
use crate::store::record::Counters;
use crate::store::{QueueInfo, ROOT};

use super::View;
use super::access::{EXEC, READ};
use super::stats::{COUNTERS, fullness};
use super::telling::Audience;
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
    info: QueueInfo,
    /// Since when the oldest message of each state has been in it, in the order of [`State::ALL`].
    oldest: [Option<u64>; 4],
    waiting: usize,
    waiting_writers: usize,
}

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

impl Numbers {
    fn of(view: &View, queue: u64, info: QueueInfo) -> Result<Self> {
        let mut oldest = [None; 4];
        for (oldest, state) in oldest.iter_mut().zip(State::ALL) {
            *oldest = view.store.oldest(queue, state)?;
        }
        Ok(Self {
            info,
            oldest,
            waiting: view.waiters.waiting(Line::Message(queue)),
            waiting_writers: view.waiters.waiting_for_room(queue),
        })
    }
}

impl View {
    /// What may be told to these. Goes through all queues.
    pub(super) fn metrics(&self, audience: &Audience) -> Result<String> {
        let (mut queues, untold) = self.visible_queues(audience)?;
        queues.sort_by(|a, b| a.label.cmp(&b.label));
        let mut out = Exposition::of(&self.options.mount);
        let now = clock::now_ms();
        out.of_mount(self, now)?;
        out.begin((
            "mqfs_queues_untold",
            Kind::Gauge,
            "Queues left out, with all in them, because the paths are too long.",
        ));
        out.sample("mqfs_queues_untold", &[], untold);
        out.of_queues(&queues, now);
        Ok(out.text)
    }

    /// The queues below the root that they can list, and how many of them are left out. Those at the top come first, so
    /// that nobody who nests queues without end crowds out the others'.
    fn visible_queues(&self, audience: &Audience) -> Result<(Vec<Series>, usize)> {
        let (mut found, mut untold, mut labels) = (Vec::new(), 0, 0);
        let mut left = VecDeque::from([(ROOT, String::new())]);
        while let Some((queue, path)) = left.pop_front() {
            let info = match self.store.queue(queue) {
                Err(Error::NotFound) => continue, // removed meanwhile
                info => info?,
            };
            let readable = audience.allows(&self.owner(&info), READ | EXEC);
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
                let numbers = readable.then(|| Numbers::of(self, queue, info)).transpose()?;
                found.push(Series { label: path, numbers });
            }
        }
        Ok((found, untold))
    }
}

/// The text, as it grows. Writing to a string does not fail.
struct Exposition {
    text: String,
    /// The label that all samples have: `mount="..."`.
    mount: String,
}

impl Exposition {
    fn of(mount: &str) -> Self {
        let mut label = String::new();
        push_label(&mut label, "mount", mount);
        Self { text: String::new(), mount: label }
    }

    fn of_mount(&mut self, view: &View, now: u64) -> Result<()> {
        let usage = view.usage()?;
        self.begin(("mqfs_info", Kind::Gauge, "The version of mqfs; always 1."));
        self.sample("mqfs_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        self.begin(("mqfs_timestamp_seconds", Kind::Gauge, "When all this was so, in seconds since the epoch."));
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
            self.begin(family);
            self.sample(family.0, &[], value);
        }
        Ok(())
    }

    /// A gauge of each queue whose numbers are told.
    fn gauge<T: Display>(
        &mut self,
        queues: &[Series],
        (name, help): (&str, &str),
        value: impl Fn(&Numbers) -> Option<T>,
    ) {
        self.begin((name, Kind::Gauge, help));
        for (label, numbers) in readable(queues) {
            if let Some(value) = value(numbers) {
                self.sample(name, &[("queue", label)], value);
            }
        }
    }

    fn of_queues(&mut self, queues: &[Series], now: u64) {
        let name = "mqfs_queue_readable";
        self.begin((name, Kind::Gauge, "1 when the numbers of the queue are told to this reader."));
        for queue in queues {
            self.sample(name, &[("queue", &queue.label)], u8::from(queue.numbers.is_some()));
        }
        for (at, (name, help)) in OLDEST.into_iter().enumerate() {
            self.gauge(queues, (name, help), |numbers| {
                let ms = numbers.oldest[at].map_or(0, |since| now.saturating_sub(since));
                Some(ms as f64 / 1000.0)
            });
        }
        self.gauge(queues, ("mqfs_waiting", "Readers that wait for a message."), |numbers| Some(numbers.waiting));
        self.gauge(queues, ("mqfs_waiting_writers", "Writers that wait for room."), |numbers| {
            Some(numbers.waiting_writers)
        });
        let help = "How full the queue is, by its limits: 1 when it takes no more; missing without limits.";
        self.gauge(queues, ("mqfs_fullness_ratio", help), |numbers| fullness(&numbers.info));
        let help = "How many messages the queue takes; 0 without such a limit.";
        self.gauge(queues, ("mqfs_max_messages", help), |numbers| Some(numbers.info.config.max_messages));
        let help = "How many bytes the queue takes; 0 without such a limit.";
        self.gauge(queues, ("mqfs_max_bytes", help), |numbers| Some(numbers.info.config.max_bytes));
        self.of_pauses(queues);
        self.of_states(queues);
        let of_states = |name: &str| State::ALL.iter().any(|state| name.trim_end_matches("_bytes") == state.word());
        for (counter, help, value) in COUNTERS.iter().filter(|(name, ..)| !of_states(name)) {
            let name = format!("mqfs_{counter}");
            let kind = if counter.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
            self.begin((&name, kind, help));
            for (label, numbers) in readable(queues) {
                self.sample(&name, &[("queue", label)], value(&numbers.info.counters));
            }
        }
    }

    fn of_pauses(&mut self, queues: &[Series]) {
        let name = "mqfs_paused";
        self.begin((name, Kind::Gauge, "1 when nothing is enqueued (in) or claimed (out) for the time being."));
        for (label, numbers) in readable(queues) {
            let config = &numbers.info.config;
            for (direction, paused) in [("in", config.paused_in()), ("out", config.paused_out())] {
                self.sample(name, &[("queue", label), ("direction", direction)], u8::from(paused));
            }
        }
    }

    fn of_states(&mut self, queues: &[Series]) {
        for (name, help, suffix) in [
            ("mqfs_messages", "Messages of the queue in each state.", ""),
            ("mqfs_message_bytes", "Bytes of their bodies.", "_bytes"),
        ] {
            self.begin((name, Kind::Gauge, help));
            for (label, numbers) in readable(queues) {
                for state in State::ALL.map(State::word) {
                    let value = value(&numbers.info.counters, &format!("{state}{suffix}"));
                    self.sample(name, &[("queue", label), ("state", state)], value);
                }
            }
        }
    }

    fn begin(&mut self, (name, kind, help): Family<'_>) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "{name}{{{}", self.mount);
        for (label, text) in labels {
            self.text.push(',');
            push_label(&mut self.text, label, text);
        }
        let _ = writeln!(self.text, "}} {value}");
    }
}

/// The queues whose numbers are told.
fn readable(queues: &[Series]) -> impl Iterator<Item = (&str, &Numbers)> {
    queues.iter().filter_map(|queue| Some((queue.label.as_str(), queue.numbers.as_ref()?)))
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
        let mut out = Exposition::of("/srv/m\"q");
        out.sample("a", &[("queue", "x\"y\\z\n"), ("state", "ready")], 7);
        out.sample("b", &[], 0.5);
        let mount = r#"mount="/srv/m\"q""#;
        let expected = format!("a{{{mount},queue=\"x\\\"y\\\\z\\n\",state=\"ready\"}} 7\nb{{{mount}}} 0.5\n");
        assert_eq!(out.text, expected);
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
