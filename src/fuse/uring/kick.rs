//! Requests of our own to queues of the kernel's in which requests wait although there are free entries: see [`super::queues`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::thread::{CpuSet, sched_setaffinity};

/// A mount that cannot be asked is left alone for so long.
const PAUSE: Duration = Duration::from_millis(10);
/// When nobody has come back for so long, another thread asks: others may have taken all entries, so that ours waits among those that it
/// is to help. Each time it takes twice as long, up to a second, as others may go on for a while.
const PATIENCE: Duration = Duration::from_millis(5);
const MOST_PATIENCE: Duration = Duration::from_secs(1);
/// So many threads ask at most.
const MOST: usize = 64;

/// The threads that ask.
#[derive(Debug)]
pub struct Kicker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    point: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The processors from which to ask.
    wanted: BTreeSet<u16>,
    threads: usize,
    /// When one of them last had no answer to wait for, or began.
    heard: Option<Instant>,
    /// How many have begun since one had an answer.
    in_vain: u32,
    over: bool,
}

impl Kicker {
    /// For the mount at `point`.
    pub fn new(point: &Path) -> Self {
        let shared = Shared { point: point.to_owned(), state: Mutex::default(), changed: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }

    /// From these processors something is to be asked, again and again, until this is called with others.
    pub fn set(&self, processors: BTreeSet<u16>) {
        let mut state = self.shared.state.lock();
        let patience = PATIENCE.saturating_mul(1 << state.in_vain.min(8)).min(MOST_PATIENCE);
        let silent = state.heard.is_none_or(|heard| heard.elapsed() >= patience);
        if !processors.is_empty() && silent && state.threads < MOST {
            let shared = self.shared.clone();
            (state.heard, state.in_vain) = (Some(Instant::now()), state.in_vain + 1);
            match thread::Builder::new().name("mqfs-kick".to_owned()).spawn(move || shared.keep()) {
                Ok(_) => state.threads += 1,
                // The next request that is answered takes out what waits.
                Err(error) => tracing::warn!(%error, "no thread to ask for what waits in the kernel"),
            }
        }
        if state.wanted != processors {
            state.wanted = processors;
            self.shared.changed.notify_all();
        }
    }
}

impl Drop for Kicker {
    fn drop(&mut self) {
        self.shared.state.lock().over = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn keep(&self) {
        let mut state = self.state.lock();
        while !state.over {
            state.heard = Some(Instant::now());
            if state.wanted.is_empty() {
                self.changed.wait(&mut state);
                continue;
            }
            let processors = state.wanted.clone();
            drop(state);
            // The kernel answers statfs(2) from nothing that it remembers. What is mounted elsewhere or covered now cannot be asked
            // so; then the next request that is answered takes out what waits.
            let asked = processors.into_iter().filter(|processor| ask(&self.point, *processor)).count();
            state = self.state.lock();
            if asked > 0 {
                state.in_vain = 0;
            } else if !state.over {
                self.changed.wait_for(&mut state, PAUSE);
            }
        }
    }
}

fn ask(point: &Path, processor: u16) -> bool {
    let mut only = CpuSet::new();
    only.set(processor.into());
    sched_setaffinity(None, &only).is_ok() && rustix::fs::statfs(point).is_ok()
}
