//! What everybody notes, outside the mounts, of what they do and of what they see.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A producer begins to write this message.
    Offered { id: String },
    /// It was told that the message is enqueued.
    Acknowledged { id: String },
    /// It was told something else: the message may be enqueued or not.
    Refused { id: String, errno: i32 },
    /// Something was done to `out`, what sends, or to `in`, what takes in, or to `both`.
    Fault { kind: String, side: String },
    /// A message that the broker has, or has had, in its order within a `lane`.
    Kept { id: String, identity: String, lane: u32 },
    /// A message that is in the last queue in the end, in the order of the queue; what is `wrong` with it.
    Arrived { id: String, wrong: Option<String> },
    /// Something is not as it is to be in the end.
    Left { what: String },
    /// A link ended that nobody had asked to.
    Ended { link: String, said: String },
}

/// A journal that is being written; every handle is an open of its own.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Opens it, to be added to.
    pub fn open(path: &Path) -> Journal {
        let file = File::options().create(true).append(true).open(path).expect("a journal");
        Journal { file, path: path.to_owned() }
    }

    /// The same journal for somebody else.
    pub fn another(&self) -> Journal {
        Journal::open(&self.path)
    }

    /// Notes something, with one write.
    pub fn note(&mut self, event: &Event) {
        let line = serde_json::to_string(event).expect("JSON");
        self.file.write_all(format!("{line}\n").as_bytes()).expect("a journal that can be written");
    }

    /// All that was noted.
    pub fn read(&self) -> Vec<Event> {
        parse(&fs::read_to_string(&self.path).expect("a journal"))
    }
}

/// The events of a journal's text.
pub fn parse(text: &str) -> Vec<Event> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}
