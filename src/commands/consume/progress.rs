//! What a worker says while it works: a line that is rewritten on a terminal, else one line for each failure.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::super::text::{complain, complaint};
use crate::queue::name::undelivered;

/// How often the line shows how much is ready, and the rate.
const EVERY: Duration = Duration::from_secs(1);

/// What has been done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Messages acknowledged.
    pub done: u64,
    /// Deliveries that failed, with those whose claim was over before.
    pub failed: u64,
    /// Claims that were over before the work was.
    pub lost: u64,
    /// Commands that run.
    pub running: usize,
    /// Nothing more is claimed.
    pub ending: bool,
}

/// Where it is said.
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    ready: Option<u64>,
    next: Instant,
}

impl Progress {
    /// A line that is rewritten when standard error is a terminal. `quiet`: nothing at all.
    pub fn new(quiet: bool) -> Progress {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let style =
                ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::no_length().with_style(style)
        });
        Progress { bar, quiet, ready: None, next: Instant::now() }
    }

    /// Whether there is a line.
    pub fn is_shown(&self) -> bool {
        self.bar.is_some()
    }

    /// Does something that writes to the terminal, without the line.
    pub fn aside(&self, write: &mut dyn FnMut()) {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// When [`Progress::show`] is to be called at the latest.
    pub fn due(&self) -> Option<Instant> {
        self.bar.as_ref().map(|_| self.next)
    }

    /// Shows where things stand; asks at times how much is `ready`.
    pub fn show(&mut self, tally: Tally, ready: impl FnOnce() -> Option<u64>) {
        let Some(bar) = &self.bar else { return };
        if self.next <= Instant::now() {
            self.ready = ready();
            self.next = Instant::now() + EVERY;
        }
        let Tally { done, failed, lost, running, ending } = tally;
        bar.set_position(done + failed);
        let ready = self.ready.map_or_else(String::new, |ready| format!(", {ready} ready"));
        let rate = bar.per_sec();
        let ending = if ending { ", ending" } else { "" };
        let lost = if lost > 0 { format!(" ({lost} lost)") } else { String::new() };
        bar.set_message(format!("{done} done, {failed} failed{lost}, {running} running{ready}, {rate:.1}/s{ending}"));
    }

    /// Tells of a failure that does not end the work.
    pub fn tell(&self, message: &OsStr, what: impl Display) {
        if self.quiet {
            return;
        }
        let message = undelivered(message.as_bytes());
        let line = format!("{}: {what}", String::from_utf8_lossy(&message));
        match &self.bar {
            Some(bar) => bar.println(complaint(&line)),
            None => complain(&line),
        }
    }

    /// Shows how it ended, and leaves that where it is.
    pub fn end(&mut self, tally: Tally, ready: impl FnOnce() -> Option<u64>) {
        self.next = Instant::now();
        self.show(tally, ready);
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}
