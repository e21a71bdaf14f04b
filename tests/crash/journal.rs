//! What the processes of a crash test write down: one line for each step, before it or after its answer.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A line of a journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// When it was written, in microseconds since the epoch.
    pub at: u64,
    /// What it says.
    #[serde(flatten)]
    pub event: Event,
}

/// What a producer, a worker or the campaign did or saw.
///
/// A message's id is `QUEUE.PRODUCER.NUMBER`, of a file in a batch `QUEUE.PRODUCER.NUMBER.FILE`; a producer counts up.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A producer is about to write a message.
    Offered {
        /// The message.
        id: String,
        /// Its priority.
        #[serde(default)]
        priority: u8,
        /// So many microseconds after its enqueue it is due.
        #[serde(default)]
        delay: u64,
        /// So many microseconds after its enqueue it can no longer be claimed; 0 when it always can.
        #[serde(default)]
        ttl: u64,
        /// The batch that it is a file of, and how many files that has.
        #[serde(default)]
        batch: Option<(String, usize)>,
    },
    /// The close or rename that enqueued a message has returned 0. `synced`: and so has an fsync of it, or of its queue.
    Acknowledged {
        /// The message.
        id: String,
        /// See above.
        #[serde(default)]
        synced: bool,
    },
    /// A call of a producer, or an unlink of a worker, has failed.
    Refused {
        /// The message.
        id: String,
        /// Why.
        errno: i32,
    },
    /// A worker has got a whole message.
    Delivered {
        /// The message, by its body.
        id: String,
        /// The queue that it came from.
        queue: String,
        /// Its sequence number, when the worker was told.
        #[serde(default)]
        seq: Option<u64>,
        /// Which delivery it is, when the worker was told.
        #[serde(default)]
        deliveries: Option<u32>,
        /// It is a dead letter that was read in `.mq/dead`: nobody has claimed it.
        #[serde(default)]
        dead: bool,
        /// It was read in `.mq/claimed`: by the worker that has claimed it, and no other.
        #[serde(default)]
        claimed: bool,
        /// When the worker asked for a message.
        asked: u64,
    },
    /// A worker has got a body that is not whole, or not that of the message of that name.
    Broken {
        /// The queue that it came from.
        queue: String,
        /// The name that it was listed under.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A worker could not read a message that it has claimed.
    Unreadable {
        /// The queue.
        queue: String,
        /// The name that it was listed under.
        name: String,
        /// Why.
        errno: i32,
        /// When the worker asked for it.
        asked: u64,
    },
    /// A worker is about to acknowledge.
    Acking {
        /// The message.
        id: String,
    },
    /// The unlink has returned 0.
    Acked {
        /// The message.
        id: String,
    },
    /// After that, an fsync of the queue has returned 0.
    Settled {
        /// The message.
        id: String,
    },
    /// A worker is about to move a message to another queue.
    Moving {
        /// The message.
        id: String,
    },
    /// The rename to there has returned 0. `synced`: and so has an fsync of that queue.
    Moved {
        /// The message.
        id: String,
        /// The sequence number that it had before.
        seq: u64,
        /// See above.
        synced: bool,
    },
    /// A worker is about to take a dead letter up again.
    Redriving {
        /// The message.
        id: String,
    },
    /// Somebody is about to purge a queue.
    Purging {
        /// Of this purge, and begins with the queue like a message's.
        id: String,
        /// Of its messages in all states; else of some.
        all: bool,
    },
    /// The write to `.mq/purge` has succeeded.
    Purged {
        /// The purge.
        id: String,
    },
    /// Mqfs is mounted again.
    Mounted {
        /// When it had ended.
        from: u64,
    },
    /// The campaign saw a message listed.
    Listed {
        /// The message, by its name.
        id: String,
        /// The queue.
        queue: String,
        /// Its sequence number, if it is listed by that.
        #[serde(default)]
        seq: Option<u64>,
        /// When it began to list.
        asked: u64,
    },
    /// The power was cut, and the store is about to be mounted again.
    Cut {
        /// Just before the cut.
        from: u64,
    },
    /// Nobody is at work: what a queue's counter says, and how much is there.
    Counted {
        /// The queue.
        queue: String,
        /// The counter.
        what: String,
        /// What it says.
        says: u64,
        /// What was found.
        found: u64,
    },
    /// Nobody could claim this message in the end.
    Held {
        /// The queue.
        queue: String,
        /// The name that it is listed under.
        name: String,
    },
    /// In the end, the mark of a queue that is fed.
    Marked {
        /// The queue.
        queue: String,
        /// The number of the last batch that is enqueued.
        mark: u64,
    },
    /// A batch is still waiting to be enqueued.
    Waiting {
        /// Its name.
        batch: String,
        /// How many files it has.
        files: usize,
    },
    /// The store was emptied, and this is still there.
    Left {
        /// What it is.
        what: String,
    },
    /// mqfs logged an error that there was no reason for.
    Complaint {
        /// The line.
        text: String,
    },
}

/// The time of the lines.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_micros() as u64
}

/// A journal that is being written.
pub struct Journal(File);

impl Journal {
    /// Opens a journal, to be added to.
    pub fn open(path: &Path) -> Journal {
        Journal(File::options().create(true).append(true).open(path).expect("a journal"))
    }

    /// Writes down what happens now, with one write, so that no kill leaves half a line.
    pub fn note(&mut self, event: Event) {
        let line = serde_json::to_string(&Line { at: now(), event }).expect("JSON");
        self.0.write_all(format!("{line}\n").as_bytes()).expect("a journal that can be written");
    }

    /// What a call on behalf of a message answered; whether it succeeded.
    pub fn note_refusal<T>(&mut self, id: &str, result: std::io::Result<T>) -> Option<T> {
        let noted = |error: std::io::Error| {
            let errno = error.raw_os_error().unwrap_or(0);
            self.note(Event::Refused { id: id.to_owned(), errno });
        };
        result.map_err(noted).ok()
    }
}

/// The lines of a journal's text.
pub fn parse(text: &str) -> Vec<Line> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// All lines of the journals in a directory, in the order of time.
pub fn read_all(dir: &Path) -> Vec<Line> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(dir).expect("the journals") {
        let path = entry.expect("a journal").path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            lines.extend(parse(&fs::read_to_string(&path).expect("a journal")));
        }
    }
    lines.sort_by_key(|line| line.at);
    lines
}
