//! What a link says while it runs: lines on standard error, and on a terminal one that is rewritten and tells how things stand.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

use super::super::text::{complain, complaint, printable};
use crate::link::run::voice::Listener;
use crate::link::status::Snapshot;

/// Where it is said.
pub struct Progress {
    name: String,
    quiet: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Of a link with this name. `quiet`: nothing at all.
    pub fn new(name: &str, quiet: bool) -> Progress {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let style =
                ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::no_length().with_style(style)
        });
        Progress { name: name.to_owned(), quiet, bar }
    }
}

impl Listener for Progress {
    fn line(&self, line: &str) {
        let line = format!("link {}: {line}", self.name);
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.println(complaint(&line)),
            None => complain(&line),
        }
    }

    fn stands(&self, now: &Snapshot) {
        let Some(bar) = &self.bar else { return };
        bar.set_position(now.messages);
        let Snapshot { messages, in_flight, refused, .. } = now;
        let refused = if *refused > 0 { format!(", {refused} refused") } else { String::new() };
        let why = if now.why.is_empty() { String::new() } else { format!(": {}", printable(&now.why)) };
        let rate = bar.per_sec();
        bar.set_message(format!(
            "{messages} done, {in_flight} under way{refused}, {rate:.1}/s, {}{why}",
            now.state.word()
        ));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}
