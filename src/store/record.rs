//! The formats of the store's records, and their version.
//!
//! A record is one byte, [`VERSION`], and the fields in the order below in the postcard format
//! (<https://postcard.jamesmunns.com/wire-format>). A change of the fields of any of them gets all of them a new version; the
//! versions before it are decoded too, from the fields that are in [`super::upgrade`] where they differ. A record is written
//! in the new version when it is next changed.
//!
//! Version 1: the first. Version 2: what priorities, delays, times to live, purges and batches need. Version 3: the identity of
//! deliveries, the history of deaths, times that programs set, since when a message is in its state, and drafts that have no file.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::queue::delivery::Delivery;
use crate::queue::state::State;
use crate::queue::worker::ProcessId;

use super::upgrade::{Counters1, Counters2, Draft2, Message1, Message2, Queue1, Queue2};

/// The version of every record that this code writes.
pub const VERSION: u8 = 3;

/// Where the bytes of a message are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BodyPlace {
    /// Nowhere: the message is empty.
    Empty,
    /// In the `bodies` column family, under this number.
    Inline(u64),
    /// In a file of the store's own, of this number.
    File(u64),
    /// In the `bodies` column family, where the bytes of the draft of this number were that it was.
    Draft(u64),
}

/// Who holds a claimed message, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Which delivery it is.
    pub delivery: Delivery,
    /// The process that claimed; `None` when it is not visible from here (another pid namespace).
    pub process: Option<ProcessId>,
    /// The parent of that process at the time.
    pub parent: u32,
    /// The parent of that parent at the time.
    pub grandparent: u32,
    /// The session of that process at the time.
    pub session: u32,
    /// The user that claimed.
    pub uid: u32,
    /// When, in milliseconds since the epoch.
    pub at: u64,
    /// When the lease ends unless it is renewed, in milliseconds since the epoch.
    pub deadline: u64,
    /// When that was reckoned, by the clock as it was then: at the claim, or at the last renewal that made the lease longer.
    pub reckoned: u64,
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

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRecord {
    /// Stays with the message through every move; unique in the store.
    pub id: u64,
    /// The queue it is in.
    pub queue: u64,
    /// Its state, as [`State`]'s number.
    pub(super) state: u8,
    /// How often it was claimed.
    pub deliveries: u32,
    /// Its place among the priorities of its queue: 0 goes first.
    pub order: u8,
    /// The name that its producer gave it.
    pub name: Vec<u8>,
    /// Its owner: the producer.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits.
    pub mode: u32,
    /// Length of the body in bytes.
    pub size: u64,
    /// Where the body is.
    pub body: BodyPlace,
    /// CRC-32 of an inline body; 0 for others.
    pub crc: u32,
    /// When it was enqueued, in milliseconds since the epoch.
    pub enqueued_at: u64,
    /// What `stat` shows as its time of modification, in nanoseconds since the epoch.
    pub modified_ns: i64,
    /// The process that produced it.
    pub producer_pid: u32,
    /// What `stat` shows as its time of access, in nanoseconds since the epoch; `None`: nobody set one.
    pub accessed_ns: Option<i64>,
    /// Who holds it, when it is claimed.
    pub claim: Option<Claim>,
    /// Since when it is in its state, in milliseconds since the epoch; 0: nobody remembers.
    pub since: u64,
    /// It is delayed because it was delivered before, and not because its producer said so.
    pub retrying: bool,
    /// When it becomes ready, when it is delayed, in milliseconds since the epoch.
    pub due: u64,
    /// When its time to live is over, in milliseconds since the epoch; 0: never.
    pub expires: u64,
    /// The next sequence number as of when it was put into its state: what is purged is told by it.
    pub placed: u64,
    /// Where and why it became a dead letter, the newest last.
    pub deaths: Vec<Death>,
    /// What a worker said when it failed; empty: nothing.
    pub last_error: Vec<u8>,
    /// Writable `user.mq.*` properties and headers, by the attribute's whole name.
    pub attributes: Vec<(String, Vec<u8>)>,
}

/// The fields that a new message starts with.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// Stays with the message through every move; from [`next_id`](super::Store::next_id).
    pub id: u64,
    /// The queue it goes to.
    pub queue: u64,
    /// The name that its producer gave it.
    pub name: Vec<u8>,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits.
    pub mode: u32,
    /// What `stat` is to show as its time of modification, in nanoseconds since the epoch; `None`: the time of the enqueue.
    pub modified_ns: Option<i64>,
    /// What `stat` is to show as its time of access, in nanoseconds since the epoch, when somebody has set one.
    pub accessed_ns: Option<i64>,
    /// The process that produced it.
    pub producer_pid: u32,
    /// Properties and headers.
    pub attributes: Vec<(String, Vec<u8>)>,
}

impl MessageRecord {
    /// A ready message with an empty body.
    pub fn new(new: NewMessage, now: u64) -> Self {
        let now_ns = i64::try_from(now).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        Self {
            id: new.id,
            queue: new.queue,
            state: State::Ready as u8,
            deliveries: 0,
            order: 0,
            name: new.name,
            uid: new.uid,
            gid: new.gid,
            mode: new.mode,
            size: 0,
            body: BodyPlace::Empty,
            crc: 0,
            enqueued_at: now,
            modified_ns: new.modified_ns.unwrap_or(now_ns),
            producer_pid: new.producer_pid,
            accessed_ns: new.accessed_ns,
            claim: None,
            since: now,
            retrying: false,
            due: 0,
            expires: 0,
            placed: 0,
            deaths: Vec::new(),
            last_error: Vec::new(),
            attributes: new.attributes,
        }
    }

    /// Its state.
    pub fn state(&self) -> State {
        State::from_u8(self.state).expect("checked when the record was decoded")
    }

    /// Puts it into a state.
    pub fn set_state(&mut self, state: State) {
        self.state = state as u8;
    }
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRecord {
    /// The queue it is nested in, or whose batch it is; 0 for the root of the mount.
    pub parent: u64,
    /// It is a batch that is being prepared, not a queue: all it holds are drafts.
    pub batch: bool,
    /// Its name there.
    pub name: Vec<u8>,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits, set-group-id and sticky bit included.
    pub mode: u32,
    /// When it was made, in milliseconds since the epoch.
    pub created: u64,
    /// What `stat` shows as its time of modification, in nanoseconds since the epoch; `None`: nobody set one.
    pub modified_ns: Option<i64>,
    /// The time of the change that set it, in milliseconds since the epoch: it is shown until the queue changes again.
    pub modified_at: u64,
    /// What `stat` shows as its time of access, in nanoseconds since the epoch; `None`: nobody set one.
    pub accessed_ns: Option<i64>,
    /// Its configuration, as the text of its `config` file.
    pub config: String,
    /// Why the newest write to `config` was refused; empty when it was not.
    pub rejected: String,
    /// By state, in the order of [`State::ALL`]: messages that were placed in it at or before this number are purged.
    pub purged: [u64; 4],
    /// Extended attributes that users set on the directory.
    pub attributes: Vec<(String, Vec<u8>)>,
}

/// The first fields of a queue's record: what it is, without reading how it is configured, which may be long.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct QueueHead {
    /// As in [`QueueRecord`].
    pub parent: u64,
    /// As in [`QueueRecord`].
    pub batch: bool,
    /// As in [`QueueRecord`].
    pub name: Vec<u8>,
    /// As in [`QueueRecord`].
    pub uid: u32,
    /// As in [`QueueRecord`].
    pub gid: u32,
    /// As in [`QueueRecord`].
    pub mode: u32,
}

/// What a queue holds and what has happened in it. Written with every operation, so that it is never wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Ready messages (those whose last close is still awaited included).
    pub ready: u64,
    /// Their bytes.
    pub ready_bytes: u64,
    /// Claimed messages.
    pub claimed: u64,
    /// Their bytes.
    pub claimed_bytes: u64,
    /// Delayed messages.
    pub delayed: u64,
    /// Their bytes.
    pub delayed_bytes: u64,
    /// Dead messages.
    pub dead: u64,
    /// Their bytes.
    pub dead_bytes: u64,
    /// Drafts.
    pub drafts: u64,
    /// Nested queues.
    pub queues: u64,
    /// Messages enqueued, ever.
    pub enqueued_total: u64,
    /// Claims, ever.
    pub claims_total: u64,
    /// Messages unlinked, ever.
    pub acked_total: u64,
    /// Messages given back by their claimers, ever.
    pub nacked_total: u64,
    /// Leases that expired, ever.
    pub expired_total: u64,
    /// Messages that went to dead, ever.
    pub dead_lettered_total: u64,
    /// Messages that came back from dead, ever.
    pub redriven_total: u64,
    /// Messages moved to another queue, ever.
    pub moved_out_total: u64,
    /// Messages dropped because a writer was killed or failed, or because a crash took a part of a body that was not durable,
    /// ever.
    pub aborted_total: u64,
    /// No ready message has a smaller position.
    pub head: u64,
    /// When the queue last changed, in milliseconds since the epoch.
    pub changed: u64,
    /// Batches that are being prepared.
    pub batches: u64,
    /// Messages that waited longer than their time to live, ever.
    pub ttl_expired_total: u64,
    /// Messages whose deduplication id was remembered, and which were not enqueued for it, ever.
    pub duplicates_total: u64,
    /// Messages that made room for newer ones, or were replaced by a rename, ever.
    pub dropped_total: u64,
    /// Messages purged, ever.
    pub purged_total: u64,
    /// Enqueues that were refused because the queue was full or paused, ever.
    pub rejected_total: u64,
    /// Delayed messages that were delivered before.
    pub retrying: u64,
    /// Claims of messages that were delivered before, ever.
    pub redelivered_total: u64,
    /// Deliveries whose workers came to settle them when they were over, ever.
    pub late_settlements_total: u64,
}

impl QueueRecord {
    /// What it begins with.
    fn into_head(self) -> QueueHead {
        let Self { parent, batch, name, uid, gid, mode, .. } = self;
        QueueHead { parent, batch, name, uid, gid, mode }
    }
}

impl Counters {
    /// The number of messages in a state, and of their bytes.
    pub(super) fn tally(&mut self, state: State) -> (&mut u64, &mut u64) {
        match state {
            State::Ready => (&mut self.ready, &mut self.ready_bytes),
            State::Claimed => (&mut self.claimed, &mut self.claimed_bytes),
            State::Delayed => (&mut self.delayed, &mut self.delayed_bytes),
            State::Dead => (&mut self.dead, &mut self.dead_bytes),
        }
    }

    /// The number of messages in a state.
    pub fn count(mut self, state: State) -> u64 {
        *self.tally(state).0
    }

    /// Messages, whatever their state.
    pub fn messages(&self) -> u64 {
        self.ready + self.claimed + self.delayed + self.dead
    }
}

/// Where the bytes of a draft are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DraftBody {
    /// In the file of its number, which has its length and times, too.
    File,
    /// In the database.
    Inline(InlineDraft),
}

/// A draft whose bytes are in the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InlineDraft {
    /// Their number, [`INLINE_MAX`](super::INLINE_MAX) at most.
    pub size: u32,
    /// Their CRC-32.
    pub crc: u32,
    /// What `stat` shows as its time of modification, in nanoseconds since the epoch.
    pub modified_ns: i64,
    /// What `stat` shows as its time of access, in nanoseconds since the epoch.
    pub accessed_ns: i64,
    /// Somebody has set a time since the bytes were changed.
    pub times_set: bool,
    /// An `fsync` has promised that they survive a power cut.
    pub synced: bool,
    /// So many bytes were put into the database for it, whenever they changed.
    pub put: u64,
}

impl InlineDraft {
    /// An empty one that is made at that time, in milliseconds since the epoch.
    pub fn new(now: u64) -> Self {
        let now_ns = i64::try_from(now).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        Self { modified_ns: now_ns, accessed_ns: now_ns, ..Self::default() }
    }
}

/// A draft.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftRecord {
    /// The queue it is in.
    pub queue: u64,
    /// Its name.
    pub name: Vec<u8>,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits.
    pub mode: u32,
    /// When it was made, in milliseconds since the epoch.
    pub created: u64,
    /// When it is removed (`draft_ttl`), in milliseconds since the epoch; 0: never.
    pub due: u64,
    /// Where its bytes are.
    pub body: DraftBody,
    /// Properties and headers.
    pub attributes: Vec<(String, Vec<u8>)>,
}

/// The bytes of a record.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(192);
    bytes.push(VERSION);
    postcard::to_extend(record, bytes).expect("records are plain data")
}

fn fields<T: DeserializeOwned>(fields: &[u8], what: &str) -> Result<T> {
    postcard::from_bytes(fields).map_err(|error| Error::Damaged(format!("{what}: {error}")))
}

/// Decodes a record whose fields in versions 1 and 2 were those of `One` and `Two`.
fn decode<T, One, Two>(bytes: &[u8], what: &str) -> Result<T>
where
    T: DeserializeOwned + From<Two>,
    Two: DeserializeOwned + From<One>,
    One: DeserializeOwned,
{
    match bytes.split_first() {
        Some((&VERSION, rest)) => fields(rest, what),
        Some((2, rest)) => fields::<Two>(rest, what).map(T::from),
        Some((1, rest)) => fields::<One>(rest, what).map(Two::from).map(T::from),
        Some((version, _)) => Err(Error::Damaged(format!("{what}: unknown version {version}"))),
        None => Err(Error::Damaged(format!("{what}: empty"))),
    }
}

/// Reads a message's record.
pub fn decode_message(bytes: &[u8]) -> Result<MessageRecord> {
    let record = decode::<MessageRecord, Message1, Message2>(bytes, "message record")?;
    match State::from_u8(record.state) {
        Some(_) => Ok(record),
        None => Err(Error::Damaged(format!("message record: unknown state {}", record.state))),
    }
}

/// Reads a queue's record.
pub fn decode_queue(bytes: &[u8]) -> Result<QueueRecord> {
    decode::<_, Queue1, Queue2>(bytes, "queue record")
}

/// Reads what a queue's record begins with.
pub fn decode_queue_head(bytes: &[u8]) -> Result<QueueHead> {
    match bytes.split_first() {
        Some((2..=VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((head, _)) => Ok(head),
            Err(error) => Err(Error::Damaged(format!("queue record: {error}"))),
        },
        // Before, it began otherwise.
        _ => decode_queue(bytes).map(QueueRecord::into_head),
    }
}

/// Reads a queue's counters.
pub fn decode_counters(bytes: &[u8]) -> Result<Counters> {
    decode::<_, Counters1, Counters2>(bytes, "queue counters")
}

/// Reads a draft's record.
pub fn decode_draft(bytes: &[u8]) -> Result<DraftRecord> {
    decode::<_, Draft2, Draft2>(bytes, "draft record")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_damage_is_told() {
        let new = NewMessage {
            id: 7,
            queue: 3,
            name: b"a\xff b".to_vec(),
            uid: 1,
            gid: 2,
            mode: 0o640,
            modified_ns: None,
            accessed_ns: None,
            producer_pid: 9,
            attributes: vec![("user.x".into(), b"y".to_vec())],
        };
        let record = MessageRecord::new(new, 12);
        let bytes = encode(&record);
        assert_eq!(decode_message(&bytes).unwrap(), record);
        assert!(matches!(decode_message(&bytes[..9]), Err(Error::Damaged(_))));
        assert!(matches!(decode_message(&[9, 9]), Err(Error::Damaged(_))));
        assert!(matches!(decode_message(&[]), Err(Error::Damaged(_))));
    }
}
