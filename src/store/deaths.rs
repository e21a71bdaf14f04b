//! Where and why a message became a dead letter, as it is remembered with the message.

use serde::{Deserialize, Serialize};

/// A message remembers so many entries of its deaths.
pub const DEATHS: usize = 16;

/// What a worker said is no longer than this, in bytes.
pub const LONGEST_ERROR: usize = 1024;

/// Of the path of a queue that a message died in, so many bytes are remembered: its last ones.
const LONGEST_PATH: usize = 1024;

/// The end of a text, no longer than what is remembered of a path.
pub fn short(text: &str) -> String {
    let from = text.len().saturating_sub(LONGEST_PATH);
    let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text[from..].to_owned()
}

/// Deaths of a message in one queue for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// The number of the queue; 0: several, or one that is not known here.
    pub queue: u64,
    /// The path that the queue had.
    pub path: String,
    /// Why, in a word.
    pub reason: String,
    /// How often.
    pub count: u32,
    /// When for the first time, in milliseconds since the epoch.
    pub first: u64,
    /// When for the last time, in milliseconds since the epoch.
    pub last: u64,
    /// Nobody has claimed the message since.
    pub unclaimed: bool,
}
