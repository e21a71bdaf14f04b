//! What the campaign itself sees of the store, and writes into a journal like everybody else.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::feeders;
use super::journal::{Event, Journal, now};
use super::promises::QUEUES;
use super::workers::{Worker, listed};
use crate::common::{Mount, poll};

/// How long after the last worker died, or a message was claimed, the next must be claimable.
const PATIENCE: Duration = Duration::from_secs(20);

/// The states of a message, as the counters call them.
const STATES: [&str; 4] = ["ready", "claimed", "delayed", "dead"];

/// An eye on a mount.
pub struct Observer<'a> {
    /// The mount.
    pub mount: &'a Mount,
    /// The directory of the journals.
    pub journals: PathBuf,
    /// The journal of what is seen.
    pub journal: Journal,
}

impl<'a> Observer<'a> {
    /// Writes into the journal of that name.
    pub fn new(mount: &'a Mount, journals: &Path, name: &str) -> Observer<'a> {
        let journal = Journal::open(&journals.join(format!("{name}.jsonl")));
        Observer { mount, journals: journals.to_owned(), journal }
    }

    fn queue(&self, queue: &str) -> PathBuf {
        self.mount.path().join(queue)
    }

    /// Lists every message. Who lists twice while nobody is at work sees a message that is in two queues after each other, in
    /// either order.
    pub fn list(&mut self) {
        for promises in &QUEUES {
            let asked = now();
            let found = messages_in(&self.queue(promises.queue).join(".mq/peek"));
            for (name, _) in found {
                if let Some((seq, id)) = listed(&name).filter(|(_, id)| !id.is_empty()) {
                    let (id, queue) = (id.to_owned(), promises.queue.to_owned());
                    self.journal.note(Event::Listed { id, queue, seq, asked });
                }
            }
        }
    }

    /// Compares the counters with the listings. Nobody is at work, but leases expire and delays end: so it looks until they agree.
    pub fn count(&mut self) {
        for promises in &QUEUES {
            let dir = self.queue(promises.queue);
            let mut differences = Vec::new();
            poll(Duration::from_secs(20), || {
                differences = compare(&dir);
                differences.is_empty()
            });
            for (what, says, found) in differences {
                self.journal.note(Event::Counted { queue: promises.queue.to_owned(), what, says, found });
            }
        }
    }

    /// Claims and acknowledges every message of every queue, as a worker who journals, and looks at the dead ones.
    pub fn empty(&mut self) {
        // What was claimed at the first time has gone to a queue of dead letters at the second.
        for _ in 0..2 {
            thread::scope(|scope| {
                for promises in &QUEUES {
                    let journal = Journal::open(&self.journals.join(format!("empty-{}.jsonl", promises.queue)));
                    let dir = self.queue(promises.queue);
                    scope.spawn(move || empty(promises.queue, &dir, journal));
                }
            });
        }
    }

    /// Writes down what batches wait and what is there that should not be.
    pub fn look_behind(&mut self) {
        let mark = feeders::mark_of(&self.queue("fed")).expect("the mark");
        self.journal.note(Event::Marked { queue: "fed".to_owned(), mark });
        for promises in &QUEUES {
            let dir = self.queue(promises.queue);
            for batch in names(&dir.join(".mq/batch")) {
                let files = names(&dir.join(".mq/batch").join(&batch)).len();
                self.journal.note(Event::Waiting { batch, files });
            }
            for (name, _) in messages_in(&dir.join(".mq/peek")) {
                self.journal.note(Event::Held { queue: promises.queue.to_owned(), name });
            }
        }
    }

    /// Purges the drafts and batches that the dead have left, after which nothing is left of anything.
    pub fn sweep(&mut self) {
        for promises in &QUEUES {
            let dir = self.queue(promises.queue);
            if let Err(error) = fs::write(dir.join(".mq/purge"), "drafts\n") {
                self.journal.note(Event::Complaint { text: format!("{} cannot be purged: {error}", promises.queue) });
            }
            for what in ["drafts", "batches"] {
                let says = counter(&stats(&dir), what).unwrap_or(u64::MAX);
                let queue = promises.queue.to_owned();
                self.journal.note(Event::Counted { queue, what: what.to_owned(), says, found: 0 });
            }
        }
    }

    /// Writes down body files. To be called when the store has been emptied, and mounted again, which sweeps what a crash left.
    pub fn look_for_files(&mut self) {
        poll(Duration::from_secs(10), || self.mount.body_files().is_empty());
        for (path, _) in self.mount.body_files() {
            self.journal.note(Event::Left { what: path.display().to_string() });
        }
    }
}

fn empty(queue: &str, dir: &Path, journal: Journal) {
    let mut worker = Worker::new(queue, dir, journal);
    let mut progress = Instant::now();
    while progress.elapsed() < PATIENCE {
        // What is wrong with one message is in the journal, and no reason to leave the others.
        let more = worker.work_one(false, false).unwrap_or(false);
        // By one reading: between two, a message can go from one state to another.
        let stats = stats(dir);
        if !more && STATES[..3].iter().all(|state| counter(&stats, state) == Some(0)) {
            break;
        }
        match more {
            true => progress = Instant::now(),
            false => thread::sleep(Duration::from_millis(10)),
        }
    }
    for (name, _) in messages_in(&dir.join(".mq/dead")) {
        let path = dir.join(".mq/dead").join(name);
        if let Ok(Some(id)) = worker.examine(&path, now()) {
            let _ = worker.acknowledge(&path, &id, false);
        }
    }
}

/// The directory that lists the messages in a state.
fn state_of(queue: &Path, state: &str) -> PathBuf {
    if state == "ready" { queue.to_owned() } else { queue.join(".mq").join(state) }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The messages that a directory lists, with their sizes. What vanishes meanwhile is not there.
fn messages_in(dir: &Path) -> Vec<(String, u64)> {
    let messages = names(dir).into_iter().filter(|name| listed(name).is_some());
    let sized = |name: String| fs::symlink_metadata(dir.join(&name)).ok().map(|message| (name, message.size()));
    messages.filter_map(sized).collect()
}

/// A queue's counters; null when they cannot be read.
fn stats(queue: &Path) -> serde_json::Value {
    let text = fs::read_to_string(queue.join(".mq/stats")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

fn counter(stats: &serde_json::Value, name: &str) -> Option<u64> {
    stats[name].as_u64()
}

/// The counters that differ from what is listed: the counter, what it says, and what is there.
fn compare(queue: &Path) -> Vec<(String, u64, u64)> {
    let stats = stats(queue);
    let mut all = Vec::new();
    for state in STATES {
        let found = messages_in(&state_of(queue, state));
        all.push((state.to_owned(), found.len() as u64));
        all.push((format!("{state}_bytes"), found.iter().map(|(_, size)| size).sum()));
    }
    let drafts = names(queue).iter().filter(|name| name.starts_with('.')).count();
    all.push(("drafts".to_owned(), drafts as u64));
    all.push(("batches".to_owned(), names(&queue.join(".mq/batch")).len() as u64));
    let compared = all.into_iter().map(|(what, found)| (counter(&stats, &what).unwrap_or(u64::MAX), what, found));
    compared.filter(|(says, _, found)| says != found).map(|(says, what, found)| (what, says, found)).collect()
}
