//! What a link tells to Prometheus: a file for the textfile collector of its node exporter, in its text format.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::status::{Snapshot, State};
use crate::clock;

/// Replaces the file.
pub fn write(path: &Path, now: &Snapshot) -> std::io::Result<()> {
    // The collector reads names that end with .prom, and must not see half of one.
    let new = path.with_extension("prom.new");
    fs::write(&new, render(now))?;
    fs::rename(&new, path)
}

fn render(now: &Snapshot) -> String {
    let mut text = String::new();
    let link = [("link", now.name.as_str())];
    let mut metric = |name: &str, kind: &str, help: &str, values: &[(&[(&str, &str)], u64)]| {
        let _ = writeln!(text, "# HELP mqfs_link_{name} {help}\n# TYPE mqfs_link_{name} {kind}");
        for (labels, value) in values {
            let labels: Vec<String> =
                link.iter().chain(*labels).map(|(key, value)| format!("{key}=\"{value}\"")).collect();
            let _ = writeln!(text, "mqfs_link_{name}{{{}}} {value}", labels.join(","));
        }
    };
    let up = u64::from(matches!(now.state, State::Running | State::Blocked));
    metric("up", "gauge", "Whether the link is connected to its broker.", &[(&[], up)]);
    // Each has all of them, so that one which is over is not read on from a file before.
    let states: Vec<([(&str, &str); 1], u64)> =
        State::ALL.iter().map(|state| ([("state", state.word())], u64::from(*state == now.state))).collect();
    let states: Vec<(&[(&str, &str)], u64)> = states.iter().map(|(labels, value)| (&labels[..], *value)).collect();
    metric("state", "gauge", "1 for what the link does, 0 for what it does not.", &states);
    let results: [(&[(&str, &str)], u64); 4] = [
        (&[("result", "done")], now.messages),
        (&[("result", "retried")], now.retried),
        (&[("result", "refused")], now.refused),
        (&[("result", "duplicate")], now.duplicates),
    ];
    metric(
        "messages_total",
        "counter",
        "Messages sent and confirmed, or enqueued; or what else became of them.",
        &results,
    );
    metric("bytes_total", "counter", "Bytes of the bodies that were confirmed or enqueued.", &[(&[], now.bytes)]);
    metric("in_flight", "gauge", "Messages that are under way.", &[(&[], now.in_flight)]);
    metric("reconnects_total", "counter", "Connections made after the first.", &[(&[], now.reconnects)]);
    if let Some(lag) = now.lag {
        metric("lag", "gauge", "Messages that wait where the link takes them from.", &[(&[], lag)]);
    }
    let last = now.last_success.as_deref().and_then(|at| humantime::parse_rfc3339_weak(at).ok());
    if let Some(at) = last.and_then(|at| at.duration_since(UNIX_EPOCH).ok()) {
        let help = "When the newest message was confirmed or enqueued.";
        metric("last_success_timestamp_seconds", "gauge", help, &[(&[], at.as_secs())]);
    }
    let written = clock::now_ms() / 1000;
    metric("timestamp_seconds", "gauge", "When these numbers were written.", &[(&[], written)]);
    text
}
