//! What a link says: to whoever started it, to whoever asks, to systemd and to Prometheus.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use super::super::metrics;
use super::super::status::{Snapshot, State, Status};
use super::super::trouble::Trouble;
use super::notify::Notify;

/// The same trouble is told again after so long.
const AGAIN: Duration = Duration::from_secs(60);
/// How often it is told how things stand.
const EVERY: Duration = Duration::from_secs(1);

/// Where a link's words go that are for whoever started it.
pub trait Listener {
    /// Says a line.
    fn line(&self, line: &str);
    /// Shows how things stand.
    fn stands(&self, now: &Snapshot);
}

/// What a link says.
pub struct Voice<'a> {
    /// For whoever asks.
    pub status: Status,
    /// The file for Prometheus.
    pub metrics: Option<std::path::PathBuf>,
    listener: &'a dyn Listener,
    notify: Notify,
    /// What was said last, and when.
    told: Option<(String, Instant)>,
    /// It was said as well that it is over.
    over: bool,
    stood: Option<Instant>,
}

impl<'a> Voice<'a> {
    /// Nothing is said yet.
    pub fn new(status: Status, metrics: Option<std::path::PathBuf>, listener: &'a dyn Listener) -> Voice<'a> {
        Voice { status, metrics, listener, notify: Notify::of_systemd(), told: None, over: false, stood: None }
    }

    /// The link has begun: it needs nothing more of whoever started it.
    pub fn ready(&mut self) {
        self.notify.say("READY=1");
        self.tick();
    }

    /// Whether it is time to tell how things stand.
    pub fn is_due(&self) -> bool {
        self.stood.is_none_or(|at| at.elapsed() >= EVERY)
    }

    /// Tells how things stand, if it is time.
    pub fn tick(&mut self) {
        self.status.refresh();
        if !self.is_due() {
            return;
        }
        self.stood = Some(Instant::now());
        let now = &self.status.now;
        self.listener.stands(now);
        let why = if now.why.is_empty() { String::new() } else { format!(": {}", now.why.replace('\n', " ")) };
        self.notify.say(&format!("WATCHDOG=1\nSTATUS={}, {} messages{why}", now.state.word(), now.messages));
        if let Some(Err(error)) = self.metrics.as_deref().map(|path| metrics::write(path, now)) {
            let text = format!("metrics cannot be written: {error}");
            self.once(text);
        }
    }

    /// Says a line.
    pub fn say(&self, line: &str) {
        self.listener.line(line);
    }

    /// A message becomes a dead letter.
    pub fn gives_up(&mut self, name: &OsStr, why: &str) {
        self.status.now.refused += 1;
        self.say(&format!("{}: a dead letter: {why}", name.to_string_lossy()));
    }

    /// Says that something is not as it should be: once, and again every minute.
    pub fn trouble(&mut self, state: State, why: &str) {
        if self.status.set(state, why) {
            self.stood = None;
        }
        self.once(format!("{}: {why}", state.word()));
        self.tick();
    }

    fn once(&mut self, text: String) {
        let old = self.told.as_ref().is_some_and(|(told, at)| *told == text && at.elapsed() < AGAIN);
        if !old {
            self.say(&text);
            (self.told, self.over) = (Some((text, Instant::now())), false);
        }
    }

    /// All is well; says so where it was not. What comes and goes, such as a login that works and a message that is refused after it, is
    /// told once a minute all the same.
    pub fn well(&mut self) {
        if self.status.set(State::Running, "") {
            self.stood = None;
        }
        if self.told.is_some() && !std::mem::replace(&mut self.over, true) {
            self.say("running");
        }
        self.tick();
    }

    /// The link has ended.
    pub fn end(&mut self, ended: &Result<(), Trouble>) {
        match ended {
            Ok(()) => self.status.set(State::Stopped, ""),
            Err(trouble) => self.status.set(State::Failing, &trouble.text),
        };
        self.status.now.in_flight = 0;
        self.notify.say("STOPPING=1");
        self.stood = None;
        self.tick();
    }
}
