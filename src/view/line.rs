//! What requests wait for.

use super::process;

/// What is waited for, in the queue of that number. In this order they are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Line {
    /// The next message.
    Message(u64),
    /// More room, for messages that hold some: the oldest message first, as it is the nearest to its end.
    More(u64),
    /// Room.
    Room(u64),
}

impl Line {
    /// The request of a thread in this line is to be given up.
    pub(super) fn is_interrupted(self, tid: u32) -> bool {
        match self {
            Line::Message(_) => process::is_interrupted(tid),
            Line::More(_) | Line::Room(_) => process::is_stopped_writing(tid),
        }
    }

    /// Its requests are writers'.
    pub(super) fn is_for_room(self) -> bool {
        !matches!(self, Line::Message(_))
    }
}
