//! What a link tells of itself: a file that is replaced at most once a second, in a directory that goes with the machine.
//!
//! A lock beside it says that the link lives, and that there is one of its name.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::trouble::{Kind, Trouble};
use crate::clock;

/// Where the files are when nobody says.
const SYSTEM: &str = "/run/mqfs-link";
/// How often the file is replaced.
const EVERY: Duration = Duration::from_secs(1);

/// What a link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is not connected, and tries to be.
    Connecting,
    /// All is well.
    Running,
    /// The broker takes nothing for now.
    Blocked,
    /// The broker will not, or cannot: somebody should look.
    Failing,
    /// The queue takes nothing for now, or its mount is away.
    Holding,
    /// It has ended.
    Stopped,
}

impl State {
    /// Each of them.
    pub const ALL: [State; 6] =
        [State::Connecting, State::Running, State::Blocked, State::Failing, State::Holding, State::Stopped];

    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            State::Connecting => "connecting",
            State::Running => "running",
            State::Blocked => "blocked",
            State::Failing => "failing",
            State::Holding => "holding",
            State::Stopped => "stopped",
        }
    }
}

/// What is known of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// What it is called.
    pub name: String,
    /// From where.
    pub from: String,
    /// To where.
    pub to: String,
    /// Its process.
    pub pid: u32,
    /// What it does.
    pub state: State,
    /// Why, where that is not plain.
    pub why: String,
    /// Since when it runs, RFC 3339.
    pub since: String,
    /// Messages sent and confirmed, or enqueued.
    pub messages: u64,
    /// Bytes of their bodies.
    #[serde(default)]
    pub bytes: u64,
    /// Messages that wait where they are taken from, where that is known.
    #[serde(default)]
    pub lag: Option<u64>,
    /// Messages under way.
    pub in_flight: u64,
    /// Messages that are tried again.
    pub retried: u64,
    /// Messages that were refused, and those that could not be taken in.
    pub refused: u64,
    /// Messages that came again and were known; claims that were over when the confirm came.
    pub duplicates: u64,
    /// Connections made after the first.
    pub reconnects: u64,
    /// When the newest message was confirmed or enqueued.
    pub last_success: Option<String>,
    /// Processes of the link that ended before this one, which may have left something claimed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heir_of: Vec<u32>,
}

/// Of so many processes a link is an heir at most.
const MOST_BEFORE: usize = 32;

/// The file of a link.
pub struct Status {
    directory: Option<PathBuf>,
    _lock: Option<File>,
    written: Option<(Instant, Snapshot)>,
    /// What is to be told.
    pub now: Snapshot,
    /// Why there is no file; then there is no lock either.
    pub untold: Option<String>,
}

impl Status {
    /// Takes the name. Fails when another process has it.
    pub fn take(now: Snapshot) -> Result<Status, Trouble> {
        let directory = directory();
        let mut status = Status { directory: None, _lock: None, written: None, now, untold: None };
        if let Err(error) = fs::create_dir_all(&directory) {
            // A user who has no such place has a link without a status.
            status.untold = Some(format!("{}: {error}", directory.display()));
            return Ok(status);
        }
        let path = directory.join(format!("{}.lock", status.now.name));
        let lock = match File::options().create(true).append(true).open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                status.untold = Some(format!("{}: {error}", path.display()));
                return Ok(status);
            }
            Err(error) => return Err(Trouble::file(&path, &error)),
        };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let text = format!("a link called {} is running: give this one another name", status.now.name);
            return Err(Trouble::new(Kind::Local, text));
        }
        if let Ok(before) = read(&file_of(&directory, &status.now.name)) {
            // One that was killed before it could give back what it found is not to hide what was there.
            status.now.heir_of = before.heir_of.into_iter().chain([before.pid]).collect();
            let more = status.now.heir_of.len().saturating_sub(MOST_BEFORE);
            status.now.heir_of.drain(..more);
        }
        status._lock = Some(lock);
        status.directory = Some(directory);
        status.write();
        Ok(status)
    }

    /// Says what it does now; tells whether that is news.
    pub fn set(&mut self, state: State, why: &str) -> bool {
        let news = self.now.state != state || self.now.why != why;
        if news {
            self.now.state = state;
            self.now.why = why.to_owned();
            self.write();
        }
        news
    }

    /// What processes before this one had claimed was given back.
    pub fn inherited(&mut self) {
        self.now.heir_of.clear();
    }

    /// Counts messages that were confirmed or enqueued.
    pub fn succeeded(&mut self, count: usize, bytes: u64) {
        self.now.messages += count as u64;
        self.now.bytes += bytes;
        self.now.last_success = Some(clock::rfc3339(clock::now_ms()));
    }

    /// Replaces the file if it is time and there is something new.
    pub fn refresh(&mut self) {
        if self.written.as_ref().is_none_or(|(at, told)| at.elapsed() >= EVERY && *told != self.now) {
            self.write();
        }
    }

    fn write(&mut self) {
        let Some(directory) = &self.directory else { return };
        let path = file_of(directory, &self.now.name);
        let new = path.with_extension("new");
        let text = serde_json::to_string(&self.now).unwrap_or_default();
        // Nobody but who looks at it misses it.
        if let Err(error) = fs::write(&new, text + "\n").and_then(|()| fs::rename(&new, &path)) {
            tracing::debug!(%error, "the status cannot be written");
        }
        self.written = Some((Instant::now(), self.now.clone()));
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        self.now.in_flight = 0;
        if self.now.state != State::Failing {
            self.now.state = State::Stopped;
        }
        self.write();
    }
}

/// What is known of links that run, or have run since the machine was started.
pub fn all() -> Vec<Snapshot> {
    let mut found: Vec<Snapshot> = Vec::new();
    let mut directories = vec![directory(), PathBuf::from(SYSTEM)];
    directories.dedup();
    for directory in directories {
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "json")) {
            let Ok(mut snapshot) = read(&path) else { continue };
            if snapshot.state != State::Stopped && !lives(&path.with_extension("lock")) {
                if snapshot.state != State::Failing {
                    snapshot.why = "it has ended without a word".to_owned();
                }
                snapshot.state = State::Failing;
            }
            found.push(snapshot);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Whether somebody holds the lock.
fn lives(lock: &Path) -> bool {
    let Ok(lock) = File::open(lock) else { return false };
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
}

fn read(path: &Path) -> io::Result<Snapshot> {
    serde_json::from_str(&fs::read_to_string(path)?).map_err(io::Error::other)
}

fn file_of(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.json"))
}

fn directory() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty()) {
        Some(directory) => Path::new(&directory).join("mqfs-link"),
        None => PathBuf::from(SYSTEM),
    }
}
