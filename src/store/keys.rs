//! Every key of the store, in one place. Numbers are big-endian, so that the byte order of keys is their numeric order.
//!
//! | column family | key | value |
//! |---|---|---|
//! | `default` | `q` queue | [`QueueRecord`](super::record::QueueRecord) |
//! | `default` | `c` parent queue | its name: the listing of nested queues |
//! | `default` | `n` parent name | queue: finding a nested queue |
//! | `default` | `k` queue | [`Counters`](super::record::Counters) |
//! | `default` | `d` draft | [`DraftRecord`](super::record::DraftRecord) |
//! | `default` | `f` queue draft | its name: the listing of drafts |
//! | `default` | `g` queue name | draft: finding a draft |
//! | `default` | `b` body | sequence number of the message whose body is the file of that number |
//! | `default` | `u` body | empty: the file of that number is a message's and has not been synced |
//! | `default` | `s` name | a number of the store's own: `next_seq`, `next_id` |
//! | `messages` | sequence number | [`MessageRecord`](super::record::MessageRecord) |
//! | `bodies` | body | the bytes of a small body |
//! | `index` | queue state order seq | the producer's name: the listing of a state, in delivery order |
//! | `deadlines` | due (ms) kind id | empty |
//!
//! Queues, bodies and drafts take their numbers from `next_id`, messages their sequence numbers from `next_seq`.

use crate::queue::state::State;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadlineKind {
    /// The lease of a claimed message ends; the id is its sequence number.
    Lease,
    /// A draft has reached `draft_ttl`; the id is the draft's.
    Draft,
}

impl DeadlineKind {
    fn code(self) -> u8 {
        match self {
            DeadlineKind::Lease => 1,
            DeadlineKind::Draft => 2,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(DeadlineKind::Lease),
            2 => Some(DeadlineKind::Draft),
            _ => None,
        }
    }
}

fn tagged(tag: u8, number: u64) -> [u8; 9] {
    let mut key = [0; 9];
    key[0] = tag;
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

fn tagged_pair(tag: u8, first: u64, second: u64) -> [u8; 17] {
    let mut key = [0; 17];
    key[0] = tag;
    key[1..9].copy_from_slice(&first.to_be_bytes());
    key[9..].copy_from_slice(&second.to_be_bytes());
    key
}

fn tagged_name(tag: u8, number: u64, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + name.len());
    key.extend_from_slice(&tagged(tag, number));
    key.extend_from_slice(name);
    key
}

/// The number in the last eight bytes of a key.
pub fn last_number(key: &[u8]) -> Option<u64> {
    let start = key.len().checked_sub(8)?;
    Some(u64::from_be_bytes(key[start..].try_into().ok()?))
}

/// The record of a queue.
pub fn queue(queue: u64) -> [u8; 9] {
    tagged(b'q', queue)
}

/// All queues: the prefix of [`queue`].
pub const QUEUES: &[u8] = b"q";

/// The counters of a queue.
pub fn counters(queue: u64) -> [u8; 9] {
    tagged(b'k', queue)
}

/// A nested queue in its parent's listing.
pub fn child(parent: u64, queue: u64) -> [u8; 17] {
    tagged_pair(b'c', parent, queue)
}

/// All nested queues of a parent: the prefix of [`child`].
pub fn children(parent: u64) -> [u8; 9] {
    tagged(b'c', parent)
}

/// A nested queue by name.
pub fn child_by_name(parent: u64, name: &[u8]) -> Vec<u8> {
    tagged_name(b'n', parent, name)
}

/// The record of a draft.
pub fn draft(draft: u64) -> [u8; 9] {
    tagged(b'd', draft)
}

/// A draft in its queue's listing.
pub fn draft_entry(queue: u64, draft: u64) -> [u8; 17] {
    tagged_pair(b'f', queue, draft)
}

/// All drafts of a queue: the prefix of [`draft_entry`].
pub fn draft_entries(queue: u64) -> [u8; 9] {
    tagged(b'f', queue)
}

/// A draft by name.
pub fn draft_by_name(queue: u64, name: &[u8]) -> Vec<u8> {
    tagged_name(b'g', queue, name)
}

/// The owner of a body that is a file.
pub fn body_file(body: u64) -> [u8; 9] {
    tagged(b'b', body)
}

/// A body file that a message owns and that has not been synced.
pub fn unsynced_body(body: u64) -> [u8; 9] {
    tagged(b'u', body)
}

/// All of them: the prefix of [`unsynced_body`].
pub const UNSYNCED_BODIES: &[u8] = b"u";

/// A number of the store's own.
pub fn setting(name: &str) -> Vec<u8> {
    let mut key = vec![b's'];
    key.extend_from_slice(name.as_bytes());
    key
}

/// The record of a message.
pub fn message(seq: u64) -> [u8; 8] {
    seq.to_be_bytes()
}

/// The bytes of a small body.
pub fn body(body: u64) -> [u8; 8] {
    body.to_be_bytes()
}

/// A message in the listing of its state. `order` comes before the sequence number in delivery order; it is 0 unless
/// the queue has priorities.
pub fn index(queue: u64, state: State, order: u8, seq: u64) -> [u8; 18] {
    let mut key = [0; 18];
    key[..8].copy_from_slice(&queue.to_be_bytes());
    key[8] = state as u8;
    key[9] = order;
    key[10..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// All messages of a queue in one state: the prefix of [`index`].
pub fn indexed(queue: u64, state: State) -> [u8; 9] {
    let mut key = [0; 9];
    key[..8].copy_from_slice(&queue.to_be_bytes());
    key[8] = state as u8;
    key
}

/// A deadline. `due` is in milliseconds since the epoch.
pub fn deadline(due: u64, kind: DeadlineKind, id: u64) -> [u8; 17] {
    let mut key = [0; 17];
    key[..8].copy_from_slice(&due.to_be_bytes());
    key[8] = kind.code();
    key[9..].copy_from_slice(&id.to_be_bytes());
    key
}

/// What [`deadline`] made; `None` when the key is not of that form.
pub fn parse_deadline(key: &[u8]) -> Option<(u64, DeadlineKind, u64)> {
    if key.len() != 17 {
        return None;
    }
    let due = u64::from_be_bytes(key[..8].try_into().ok()?);
    Some((due, DeadlineKind::from_code(key[8])?, last_number(key)?))
}

/// The first key after every key that begins with `prefix`, for upper bounds of iterators.
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return end;
        }
        end.pop();
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_numbers() {
        assert!(index(1, State::Ready, 0, 255) < index(1, State::Ready, 0, 256));
        assert!(index(1, State::Ready, 0, u64::MAX) < index(1, State::Claimed, 0, 0));
        assert!(deadline(9, DeadlineKind::Draft, 1) < deadline(10, DeadlineKind::Lease, 1));
    }

    #[test]
    fn deadlines_parse_back() {
        let key = deadline(77, DeadlineKind::Draft, 5);
        assert_eq!(parse_deadline(&key), Some((77, DeadlineKind::Draft, 5)));
        assert_eq!(parse_deadline(&key[1..]), None);
    }

    #[test]
    fn prefixes_end_before_the_next() {
        assert_eq!(after_prefix(&[1, 2]), vec![1, 3]);
        assert_eq!(after_prefix(&[1, 255]), vec![2]);
    }
}
