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
//! | `default` | `a` queue name 0 user | draft: finding a draft of that owner; in a batch, of any (0) |
//! | `default` | `b` body | sequence number of the message whose body is the file of that number |
//! | `default` | `x` body | the [checksums](super::stored_sums) of the file of that number |
//! | `default` | `y` body part | more of them |
//! | `default` | `o` body | its length: the message is gone, and the checksums are left to whoever reads the file |
//! | `default` | `u` body | the file of that number is a message's and has not been synced; of format 2, the CRC-32 of its bytes, if known |
//! | `default` | `m` queue name | sequence number: the message of that name, in a queue with `names = keep` |
//! | `default` | `h` queue id | until when (ms) and for which message a deduplication id is remembered |
//! | `default` | `e` queue batch | its name: the listing of batches |
//! | `default` | `i` queue name | batch: finding a batch |
//! | `default` | `j` queue name | the mark of that name; of a batch, what it makes of the queue's |
//! | `default` | `l` batch name | what the queue's mark of that name has to be when the batch is enqueued |
//! | `default` | `p` queue state | empty: what was purged from that state has not been cleared away |
//! | `default` | `r` queue | how far the queues nested in it [reach](super::tree) below it |
//! | `default` | `w` user | [`Owned`](super::users::Owned): what the user has |
//! | `default` | `v` draft | its bytes, as they are charged to its owner |
//! | `default` | `s` name | a number of the store's own: `next_seq`, `next_id`, those of [`super::users`]; `measured`: there are `r` keys |
//! | `messages` | sequence number | [`MessageRecord`](super::record::MessageRecord) |
//! | `bodies` | sequence number | the bytes of a small body |
//! | `bodies` | `d` draft | the bytes of a small draft, and of the message that it becomes |
//! | `index` | queue state order seq | the producer's name: the listing of a state, in delivery order |
//! | `index` | queue state + 16 since (ms) seq | empty: the messages in a state by since when, see [`super::oldest`] |
//! | `deadlines` | due (ms) kind id | empty; for a deduplication id, its `h` key |
//!
//! Before format 4 drafts were found by `g` queue name; a store that has such keys gets the others when it is opened.
//!
//! Queues, batches, bodies and drafts take their numbers from `next_id`, messages their sequence numbers from `next_seq`.

use crate::queue::mark::Says;
use crate::queue::state::State;

/// The number of the root of the mount among the queues. It holds queues and no messages.
pub const ROOT: u64 = 1;

/// The last sequence number, as names have 16 digits, and the last of all other numbers.
pub const LAST_NUMBER: u64 = 9_999_999_999_999_999;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadlineKind {
    /// The lease of a claimed message ends; the id is its sequence number.
    Lease,
    /// A draft has reached `draft_ttl`; the id is the draft's.
    Draft,
    /// A delayed message becomes ready; the id is its sequence number.
    Deliver,
    /// The time to live of a waiting message is over; the id is its sequence number.
    TimeToLive,
    /// A deduplication id is forgotten; the id is that of the message that had it.
    Duplicate,
    /// A batch may have reached `draft_ttl`; the id is the batch's.
    Batch,
}

impl DeadlineKind {
    fn code(self) -> u8 {
        match self {
            DeadlineKind::Lease => 1,
            DeadlineKind::Draft => 2,
            DeadlineKind::Deliver => 3,
            DeadlineKind::TimeToLive => 4,
            DeadlineKind::Duplicate => 5,
            DeadlineKind::Batch => 6,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(DeadlineKind::Lease),
            2 => Some(DeadlineKind::Draft),
            3 => Some(DeadlineKind::Deliver),
            4 => Some(DeadlineKind::TimeToLive),
            5 => Some(DeadlineKind::Duplicate),
            6 => Some(DeadlineKind::Batch),
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

/// All drafts: the prefix of [`draft`].
pub const DRAFTS: &[u8] = b"d";

/// A draft in its queue's listing.
pub fn draft_entry(queue: u64, draft: u64) -> [u8; 17] {
    tagged_pair(b'f', queue, draft)
}

/// All drafts of a queue: the prefix of [`draft_entry`].
pub fn draft_entries(queue: u64) -> [u8; 9] {
    tagged(b'f', queue)
}

/// All drafts of a queue in the order of their names: the prefix of [`draft_by_name`].
pub fn draft_names(queue: u64) -> [u8; 9] {
    tagged(b'a', queue)
}

/// All drafts of a queue with one name, in the order of their owners: the prefix of [`draft_by_name`]. No name has a 0 in it.
pub fn drafts_named(queue: u64, name: &[u8]) -> Vec<u8> {
    let mut key = tagged_name(b'a', queue, name);
    key.push(0);
    key
}

/// A draft by name and owner.
pub fn draft_by_name(queue: u64, name: &[u8], owner: u32) -> Vec<u8> {
    let mut key = drafts_named(queue, name);
    key.extend_from_slice(&owner.to_be_bytes());
    key
}

/// All drafts by name: the prefix of [`draft_names`].
pub const DRAFT_NAMES: &[u8] = b"a";

/// The name in a key that [`draft_by_name`] made; `None` when the key is not of that form.
pub fn draft_name(key: &[u8]) -> Option<&[u8]> {
    match key.get(9..)?.split_at_checked(key.len().checked_sub(9 + 5)?)? {
        (name, [0, _, _, _, _]) => Some(name),
        _ => None,
    }
}

/// A draft by name, before format 4.
pub fn draft_by_name_alone(queue: u64, name: &[u8]) -> Vec<u8> {
    tagged_name(b'g', queue, name)
}

/// All of them: the prefix of [`draft_by_name_alone`].
pub const DRAFT_NAMES_ALONE: &[u8] = b"g";

/// The owner of a body that is a file.
pub fn body_file(body: u64) -> [u8; 9] {
    tagged(b'b', body)
}

/// All of them: the prefix of [`body_file`].
pub const BODY_FILES: &[u8] = b"b";

/// The checksums of a body that is a file.
pub fn body_sums(body: u64) -> [u8; 9] {
    tagged(b'x', body)
}

/// A part, other than the first, of the checksums of a large body.
pub fn body_sums_part(body: u64, part: u64) -> [u8; 17] {
    tagged_pair(b'y', body, part)
}

/// All checksums: the prefixes of [`body_sums`] and [`body_sums_part`].
pub const BODY_SUMS: [&[u8]; 2] = [b"x", b"y"];

/// The checksums of a body whose message is gone while somebody reads it.
pub fn left_sums(body: u64) -> [u8; 9] {
    tagged(b'o', body)
}

/// All of them: the prefix of [`left_sums`].
pub const LEFT_SUMS: &[u8] = b"o";

/// A body file that a message owns and that has not been synced.
pub fn unsynced_body(body: u64) -> [u8; 9] {
    tagged(b'u', body)
}

/// All of them: the prefix of [`unsynced_body`].
pub const UNSYNCED_BODIES: &[u8] = b"u";

/// A message by name.
pub fn message_by_name(queue: u64, name: &[u8]) -> Vec<u8> {
    tagged_name(b'm', queue, name)
}

/// A deduplication id that is remembered.
pub fn duplicate(queue: u64, id: &[u8]) -> Vec<u8> {
    tagged_name(b'h', queue, id)
}

/// All deduplication ids of a queue: the prefix of [`duplicate`].
pub fn duplicates(queue: u64) -> [u8; 9] {
    tagged(b'h', queue)
}

/// All deduplication ids: the prefix of [`duplicates`].
pub const DUPLICATES: &[u8] = b"h";

/// The queue and the id in a key that [`duplicate`] made; `None` when the key is not of that form.
pub fn parse_duplicate(key: &[u8]) -> Option<(u64, &[u8])> {
    let (number, id) = key.split_at_checked(9)?;
    Some((last_number(number)?, id))
}

/// A batch in its queue's listing.
pub fn batch(queue: u64, batch: u64) -> [u8; 17] {
    tagged_pair(b'e', queue, batch)
}

/// All batches of a queue: the prefix of [`batch`].
pub fn batches(queue: u64) -> [u8; 9] {
    tagged(b'e', queue)
}

/// A batch by name.
pub fn batch_by_name(queue: u64, name: &[u8]) -> Vec<u8> {
    tagged_name(b'i', queue, name)
}

/// A mark of a queue or batch, or what a batch demands of one.
pub fn mark(holder: u64, says: Says, name: &[u8]) -> Vec<u8> {
    tagged_name(mark_tag(says), holder, name)
}

/// All of them of a queue or batch: the prefix of [`mark`].
pub fn marks(holder: u64, says: Says) -> [u8; 9] {
    tagged(mark_tag(says), holder)
}

/// All of all queues and batches: the prefix of [`marks`].
pub fn all_marks(says: Says) -> [u8; 1] {
    [mark_tag(says)]
}

fn mark_tag(says: Says) -> u8 {
    match says {
        Says::Is => b'j',
        Says::Was => b'l',
    }
}

/// The queue or batch and the name in a key that [`mark`] made; `None` when the key is not of that form.
pub fn parse_mark(key: &[u8]) -> Option<(u64, &[u8])> {
    let (number, name) = key.split_at_checked(9)?;
    Some((last_number(number)?, name))
}

/// A purge that has not been cleared away.
pub fn purge(queue: u64, state: State) -> [u8; 10] {
    let mut key = [0; 10];
    key[..9].copy_from_slice(&tagged(b'p', queue));
    key[9] = state as u8;
    key
}

/// The queue and the state in a key that [`purge`] made; `None` when the key is not of that form.
pub fn parse_purge(key: &[u8]) -> Option<(u64, State)> {
    let (number, state) = key.split_at_checked(9)?;
    match state {
        [state] => Some((last_number(number)?, State::from_u8(*state)?)),
        _ => None,
    }
}

/// All of them: the prefix of [`purge`].
pub const PURGES: &[u8] = b"p";

/// How far the queues nested in one reach below it.
pub fn reach(queue: u64) -> [u8; 9] {
    tagged(b'r', queue)
}

/// All of them: the prefix of [`reach`].
pub const REACHES: &[u8] = b"r";

/// What a user has.
pub fn user(uid: u32) -> [u8; 5] {
    let mut key = [b'w'; 5];
    key[1..].copy_from_slice(&uid.to_be_bytes());
    key
}

/// What all users have: the prefix of [`user`].
pub const USERS: &[u8] = b"w";

/// The user in a key that [`user`] made; `None` when the key is not of that form.
pub fn parse_user(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(key.strip_prefix(USERS)?.try_into().ok()?))
}

/// The bytes of a draft, as they are charged to its owner.
pub fn draft_size(draft: u64) -> [u8; 9] {
    tagged(b'v', draft)
}

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

/// The bytes of a small draft. No number is so large that [`body`] makes such a key.
pub fn draft_bytes(draft: u64) -> [u8; 9] {
    tagged(b'd', draft)
}

/// The bytes of a small body.
pub fn body(body: u64) -> [u8; 8] {
    body.to_be_bytes()
}

/// Where a message is in delivery order, as one number: its place among the priorities, then its sequence number.
pub fn position(order: u8, seq: u64) -> u64 {
    (u64::from(order) << SEQ_BITS) | seq
}

/// Sequence numbers have 16 digits and fit.
const SEQ_BITS: u32 = 55;

/// No message comes after this position. It leaves the upper bits of a number free.
pub const LAST_POSITION: u64 = (16 << SEQ_BITS) - 1;

/// The place of a position among the priorities.
pub fn order_of(position: u64) -> u8 {
    u8::try_from(position >> SEQ_BITS).unwrap_or(u8::MAX)
}

/// The sequence number of a position.
pub fn seq_of(position: u64) -> u64 {
    position & ((1 << SEQ_BITS) - 1)
}

/// A message in the listing of its state.
pub fn index(queue: u64, state: State, position: u64) -> [u8; 18] {
    let mut key = [0; 18];
    key[..8].copy_from_slice(&queue.to_be_bytes());
    key[8] = state as u8;
    key[9] = order_of(position);
    key[10..].copy_from_slice(&seq_of(position).to_be_bytes());
    key
}

/// The position in a key that [`index`] made; `None` when the key is not of that form.
pub fn indexed_position(key: &[u8]) -> Option<u64> {
    let (order, seq) = (*key.get(9)?, last_number(key)?);
    // Any other number would be taken for a message's of another priority.
    (key.len() == 18 && order < 16 && seq < 1 << SEQ_BITS).then(|| position(order, seq))
}

/// All messages of a queue in one state: the prefix of [`index`].
pub fn indexed(queue: u64, state: State) -> [u8; 9] {
    let mut key = [0; 9];
    key[..8].copy_from_slice(&queue.to_be_bytes());
    key[8] = state as u8;
    key
}

/// All messages of a queue in one state and of one priority: the prefix of [`index`].
pub fn indexed_order(queue: u64, state: State, order: u8) -> [u8; 10] {
    let mut key = [0; 10];
    key[..9].copy_from_slice(&indexed(queue, state));
    key[9] = order;
    key
}

/// Added to the number of a state in the keys of [`aged`].
const AGED: u8 = 16;

/// A message among those of its state by since when (ms) it is in it.
pub fn aged(queue: u64, state: State, since: u64, seq: u64) -> [u8; 25] {
    let mut key = [0; 25];
    key[..9].copy_from_slice(&all_aged(queue, state));
    key[9..17].copy_from_slice(&since.to_be_bytes());
    key[17..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// All messages of a queue in one state by since when: the prefix of [`aged`].
pub fn all_aged(queue: u64, state: State) -> [u8; 9] {
    let mut key = indexed(queue, state);
    key[8] += AGED;
    key
}

/// The queue, state, since when (ms) and sequence number in a key that [`aged`] made; `None` when the key is not of that form.
pub fn parse_aged(key: &[u8]) -> Option<(u64, State, u64, u64)> {
    if key.len() != 25 {
        return None;
    }
    let state = State::from_u8(key[8].checked_sub(AGED)?)?;
    Some((last_number(&key[..8])?, state, last_number(&key[..17])?, last_number(key)?))
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
        assert!(index(1, State::Ready, 255) < index(1, State::Ready, 256));
        assert!(index(1, State::Ready, LAST_POSITION) < index(1, State::Claimed, 0));
        assert!(index(1, State::Ready, position(0, 9)) < index(1, State::Ready, position(1, 1)));
        assert!(deadline(9, DeadlineKind::Draft, 1) < deadline(10, DeadlineKind::Lease, 1));
    }

    #[test]
    fn deadlines_parse_back() {
        let key = deadline(77, DeadlineKind::Draft, 5);
        assert_eq!(parse_deadline(&key), Some((77, DeadlineKind::Draft, 5)));
        assert_eq!(parse_deadline(&key[1..]), None);
    }

    #[test]
    fn ages_parse_back_and_are_no_places_in_a_listing() {
        let key = aged(7, State::Claimed, 1000, 42);
        assert_eq!(parse_aged(&key), Some((7, State::Claimed, 1000, 42)));
        assert_eq!(indexed_position(&key), None);
        assert_eq!(parse_aged(&index(7, State::Claimed, 42)), None);
        assert!(index(7, State::Dead, LAST_POSITION)[..] < key[..] && key[..] < index(8, State::Ready, 0)[..]);
        assert!(aged(7, State::Dead, 9, 500) < aged(7, State::Dead, 10, 1));
    }

    #[test]
    fn drafts_are_found_by_name_in_its_order_and_by_owner() {
        let keys = [draft_by_name(7, b"a", u32::MAX), draft_by_name(7, b"ab", 0), draft_by_name(7, b"ab", 1)];
        assert!(keys.is_sorted());
        assert!(keys[1].starts_with(&drafts_named(7, b"ab")) && !keys[0].starts_with(&drafts_named(7, b"ab")));
        assert_eq!(keys.each_ref().map(|key| draft_name(key)), [Some(&b"a"[..]), Some(b"ab"), Some(b"ab")]);
        assert_eq!((draft_name(&keys[0][..12]), draft_name(&draft(7))), (None, None));
    }

    #[test]
    fn purges_parse_back() {
        assert_eq!(parse_purge(&purge(7, State::Dead)), Some((7, State::Dead)));
        assert_eq!(parse_purge(&queue(7)), None);
    }

    #[test]
    fn positions_parse_back() {
        for (order, seq) in [(0, 0), (0, 7), (9, 9_999_999_999_999_999)] {
            let at = position(order, seq);
            assert!(at < LAST_POSITION);
            assert_eq!((order_of(at), seq_of(at)), (order, seq));
            assert_eq!(indexed_position(&index(3, State::Dead, at)), Some(at));
        }
        for at in [9, 10] {
            let mut damaged = index(3, State::Dead, position(7, 7));
            damaged[at] = 0x80;
            assert_eq!(indexed_position(&damaged), None, "a number that no position has");
        }
    }

    #[test]
    fn prefixes_end_before_the_next() {
        assert_eq!(after_prefix(&[1, 2]), vec![1, 3]);
        assert_eq!(after_prefix(&[1, 255]), vec![2]);
    }
}
