//! What the store remembers between operations: queues in use, and the next numbers.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::queue::config::{Names, QueueConfig};
use crate::queue::properties::HIGHEST_PRIORITY;
use crate::queue::state::State as MessageState;

use super::ROOT;
use super::db::{Batch, Db, Family};
use super::departures::Departures;
use super::hidden::HiddenMessages;
use super::kept::{HeldNames, enter_name, leave_name};
use super::keys::{self, DeadlineKind};
use super::limits::Dropped;
use super::lost::LostClaims;
use super::oldest::{Ages, aged};
use super::outdated::Outdated;
use super::record::{self, Counters, MessageRecord, QueueRecord};
use super::remembered::Queues;
use super::reservations::{Reservations, RoomWatch};
use super::users::Users;

/// Numbers are reserved on disk in blocks of this size, so that giving one out is no write. A crash skips the rest.
const RESERVED: u64 = 4096;

/// A queue has at most so many priorities.
pub(super) const PRIORITIES: usize = HIGHEST_PRIORITY as usize + 1;

/// What is remembered of a queue's record: all but its name and what users can make long.
#[derive(Clone, Copy, Debug)]
pub struct Outline {
    /// As in [`QueueRecord`].
    pub parent: u64,
    /// As in [`QueueRecord`].
    pub batch: bool,
    /// As in [`QueueRecord`].
    pub uid: u32,
    /// As in [`QueueRecord`].
    pub gid: u32,
    /// As in [`QueueRecord`].
    pub mode: u32,
    /// As in [`QueueRecord`].
    pub created: u64,
    /// As in [`QueueRecord`].
    pub modified_ns: Option<i64>,
    /// As in [`QueueRecord`].
    pub modified_at: u64,
    /// As in [`QueueRecord`].
    pub accessed_ns: Option<i64>,
    /// As in [`QueueRecord`].
    pub purged: [u64; 4],
}

impl Outline {
    fn of(record: &QueueRecord) -> Self {
        let QueueRecord {
            parent, batch, uid, gid, mode, created, modified_ns, modified_at, accessed_ns, purged, ..
        } = *record;
        Self { parent, batch, uid, gid, mode, created, modified_ns, modified_at, accessed_ns, purged }
    }
}

/// A queue in use.
pub struct Queue {
    /// Of its record, as on disk.
    pub record: Outline,
    /// Its configuration.
    pub config: Arc<QueueConfig>,
    /// Its counters, with what the operation under way has changed.
    pub counters: Counters,
    /// Its counters, as on disk.
    committed: Counters,
    /// Messages that are committed and await their last close.
    pub hidden: HiddenMessages,
    /// Another number whenever a message became ready, hidden or not, and when the queue was read: never one that it had.
    pub placed: u64,
    /// The same of the drafts in it: whenever one was made, changed, charged or removed.
    pub drafts_at: u64,
    /// For each priority a position before which none of its messages is ready. Without them, whoever looks for the first
    /// one would walk over the graves of each priority before it gets to the next.
    pub heads: [u64; PRIORITIES],
    /// Ready messages whose time to live is over, and the same for searches among one priority only.
    outdated: Outdated,
    outdated_of: [Outdated; PRIORITIES],
    /// Where searches for the oldest messages begin.
    pub ages: Ages,
    /// Room that is kept for messages that are being written.
    pub reserved: Reservations,
    /// What was dropped to make room.
    pub dropped: Dropped,
    /// The log tells that its dead letters go round.
    pub cycle_told: bool,
}

struct Numbers {
    setting: &'static str,
    next: u64,
    reserved: u64,
}

/// What the store remembers. It lives behind one lock.
pub struct State {
    pub(super) queues: Queues,
    /// The queues whose counters the operation under way has changed in memory, and not on disk.
    changing: Vec<u64>,
    /// The messages that the operation under way takes from where users see them.
    leaving: Vec<u64>,
    /// When watched messages left.
    pub departures: Arc<Departures>,
    /// The keys of the deduplication ids of the messages that the operation under way adds.
    adding: HashSet<Vec<u8>>,
    /// How many threads clear away what was purged from a state of a queue. The last of them to end says that it is done.
    clearing: HashMap<(u64, MessageState), u32>,
    seq: Numbers,
    id: Numbers,
    /// The newest number that [`Queue::placed`] of any queue got.
    placed: u64,
    /// The newest time of modification that [`State::stamp`] gave.
    stamped: i64,
    /// Names of messages that are being written, in queues that keep names.
    pub held: HeldNames,
    /// Claims that ended without an acknowledgement.
    pub lost: LostClaims,
    /// While a snapshot is being made: the numbers of the messages that are, or have been, hidden meanwhile. The files of their
    /// bodies may be those of messages that are written on.
    pub unfinished: Option<HashSet<u64>>,
    /// What users have.
    pub(super) users: Users,
    /// Told of queues in which there is room again.
    pub(super) room_watch: Option<RoomWatch>,
}

impl Numbers {
    fn load(db: &Db, setting: &'static str, first: u64) -> Result<Self> {
        let next = match db.get(Family::Meta, &keys::setting(setting))? {
            Some(value) => {
                let bytes = value.as_ref().try_into().map_err(|_| Error::Damaged(format!("setting {setting}")))?;
                u64::from_be_bytes(bytes)
            }
            None => first,
        };
        Ok(Self { setting, next, reserved: next })
    }

    /// The reservation is written before the number is used, and the log keeps the order of writes: whatever record of
    /// this number survives, so does the reservation.
    ///
    /// There are 16 digits. Nobody comes to their end, but whoever makes numbers up: a number with more is no name.
    fn take(&mut self, db: &Db) -> Result<u64> {
        if self.next > keys::LAST_NUMBER {
            tracing::error!(setting = self.setting, "no number is left: export, and import into a new store");
            return Err(Error::NoSpace);
        }
        if self.next == self.reserved {
            self.save(db, self.next + RESERVED)?;
            self.reserved += RESERVED;
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    fn save(&self, db: &Db, value: u64) -> Result<()> {
        let mut batch = db.batch();
        batch.put(Family::Meta, &keys::setting(self.setting), &value.to_be_bytes());
        db.write(batch)
    }
}

impl Queue {
    fn load(db: &Db, id: u64) -> Result<Self> {
        let record = db.get(Family::Meta, &keys::queue(id))?.ok_or(Error::NotFound)?;
        let record = record::decode_queue(&record)?;
        let counters = load_counters(db, id)?;
        Self::new(&record, counters)
    }

    /// A queue from its parts.
    pub fn new(record: &QueueRecord, counters: Counters) -> Result<Self> {
        Ok(Self::configured(record, QueueConfig::stored(&record.config)?.into(), counters))
    }

    /// As [`Queue::new`], with that configuration, which is the one that the record says.
    pub fn configured(record: &QueueRecord, config: Arc<QueueConfig>, counters: Counters) -> Self {
        Self {
            record: Outline::of(record),
            config,
            counters,
            committed: counters,
            hidden: HiddenMessages::default(),
            placed: 0,
            drafts_at: 0,
            heads: [0; PRIORITIES],
            outdated: Outdated::default(),
            outdated_of: [Outdated::default(); PRIORITIES],
            ages: Ages::default(),
            reserved: Reservations::default(),
            dropped: Dropped::default(),
            cycle_told: false,
        }
    }

    /// Takes over what a new record says, and its configuration.
    pub fn set_outline(&mut self, record: &QueueRecord, config: Arc<QueueConfig>) {
        (self.record, self.config) = (Outline::of(record), config);
    }

    /// What it takes in memory besides itself, in bytes, as far as that is its configuration's. Queues may share one; it counts
    /// with each.
    pub fn memory(&self) -> usize {
        size_of::<QueueConfig>() + self.config.memory()
    }

    /// Whether something is on its way into it that only memory knows of.
    pub fn is_in_use(&self) -> bool {
        !self.hidden.is_empty() || !self.reserved.is_empty()
    }

    /// Refuses a configuration that would give the messages that are there other names.
    pub fn refuse_renaming(&self, config: &QueueConfig) -> Result<()> {
        let same = config.names == self.config.names && config.priorities == self.config.priorities;
        if same || self.counters.messages() == 0 {
            return Ok(());
        }
        Err(Error::Invalid("`names` and `priorities` can be changed only while the queue holds no message".into()))
    }

    /// What a search for the next message passes over; with `order`, one among that priority.
    pub fn outdated_in(&mut self, order: Option<u8>) -> &mut Outdated {
        match order {
            None => &mut self.outdated,
            Some(order) => &mut self.outdated_of[usize::from(order)],
        }
    }

    /// A message became ready at a position that searches may have passed.
    pub fn became_ready(&mut self, position: u64) {
        self.outdated.placed(position);
        self.outdated_of.iter_mut().for_each(|outdated| outdated.placed(position));
    }

    /// As many of its messages are claimed as may be at a time.
    pub fn is_busy(&self) -> bool {
        self.config.max_claimed > 0 && self.counters.claimed >= self.config.max_claimed
    }

    /// Whether the change that was just made ended a claim of one that was [busy](Queue::is_busy): somebody may wait for that.
    fn may_claim_again(&self) -> bool {
        let most = self.config.max_claimed;
        most > 0 && self.counters.claimed < most && self.committed.claimed >= most
    }

    /// The time of modification that was set is shown until the queue changes.
    pub fn shows_times_set(&self) -> bool {
        self.record.modified_ns.is_some() && self.counters.changed <= self.record.modified_at
    }

    /// The counters as users see them: without the hidden messages.
    pub fn shown(&self) -> Counters {
        let mut shown = self.counters;
        self.hidden.take_off(&mut shown);
        shown
    }
}

/// The deadlines of a message, by what its record says.
pub fn deadlines(record: &MessageRecord) -> impl Iterator<Item = (u64, DeadlineKind)> {
    let state = record.state();
    let waits = matches!(state, MessageState::Ready | MessageState::Delayed);
    let lease = record.claim.as_ref().map(|claim| (claim.deadline, DeadlineKind::Lease));
    let due = (state == MessageState::Delayed).then_some((record.due, DeadlineKind::Deliver));
    let end = (waits && record.expires > 0).then_some((record.expires, DeadlineKind::TimeToLive));
    lease.into_iter().chain(due).chain(end)
}

fn load_counters(db: &Db, id: u64) -> Result<Counters> {
    match db.get(Family::Meta, &keys::counters(id))? {
        Some(bytes) => record::decode_counters(&bytes),
        None => Ok(Counters::default()),
    }
}

impl State {
    /// Reads the numbers.
    pub fn load(db: &Db) -> Result<Self> {
        Ok(Self {
            queues: Queues::default(),
            changing: Vec::new(),
            leaving: Vec::new(),
            departures: Arc::default(),
            adding: HashSet::new(),
            clearing: HashMap::new(),
            seq: Numbers::load(db, "next_seq", 1)?,
            id: Numbers::load(db, "next_id", ROOT + 1)?,
            placed: 0,
            stamped: i64::MIN,
            held: HeldNames::default(),
            lost: LostClaims::default(),
            unfinished: None,
            users: Users::load(db)?,
            room_watch: None,
        })
    }

    /// The next number that [`State::take_id`] gives.
    pub fn next_id(&self) -> u64 {
        self.id.next
    }

    /// The next sequence number that [`State::take_seq`] gives.
    pub fn next_seq(&self) -> u64 {
        self.seq.next
    }

    /// A new number for a queue, body or draft.
    pub fn take_id(&mut self, db: &Db) -> Result<u64> {
        self.id.take(db)
    }

    /// Whether a message has or had this sequence number, or one soon will: it is among the next to be given out.
    pub fn gave_out(&self, seq: u64) -> bool {
        seq < self.seq.next.saturating_add(RESERVED)
    }

    /// A new sequence number.
    pub fn take_seq(&mut self, db: &Db) -> Result<u64> {
        self.seq.take(db)
    }

    /// The time of modification of a message whose producer did not set one, in nanoseconds since the epoch: `now`, and after
    /// all that were given before, so that the order of enqueues shows in it.
    pub fn stamp(&mut self, now: u64) -> i64 {
        let now = i64::try_from(now).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        self.stamped = now.max(self.stamped.saturating_add(1));
        self.stamped
    }

    /// These numbers are in use, though they were not given out here: those that come are larger. 0 is none.
    pub fn keep_numbers(&mut self, db: &Db, seq: u64, id: u64) -> Result<()> {
        for (numbers, used) in [(&mut self.seq, seq), (&mut self.id, id)] {
            if used >= numbers.reserved {
                numbers.save(db, used + RESERVED)?;
                numbers.reserved = used + RESERVED;
            }
            numbers.next = numbers.next.max(used + 1);
        }
        Ok(())
    }

    /// Gives the rest of the reservations back.
    pub fn save_numbers(&mut self, db: &Db) -> Result<()> {
        for numbers in [&mut self.seq, &mut self.id] {
            numbers.save(db, numbers.next)?;
            numbers.reserved = numbers.next;
        }
        Ok(())
    }

    /// A queue, read when it is not remembered.
    pub fn queue(&mut self, db: &Db, id: u64) -> Result<&mut Queue> {
        if !self.queues.contains(id) {
            let queue = Queue::load(db, id)?;
            self.remember(id, queue);
        }
        self.queues.get_mut(id).ok_or(Error::NotFound)
    }

    /// A queue whose counters are about to be changed: the next [`State::commit`] writes them.
    pub fn changing(&mut self, db: &Db, id: u64) -> Result<&mut Queue> {
        self.queue(db, id)?;
        if !self.changing.contains(&id) {
            self.changing.push(id);
        }
        self.queues.get_mut(id).ok_or(Error::NotFound)
    }

    /// Begins an operation: puts right what one that failed halfway has left, and forgets queues when too many are remembered.
    /// Never within an operation, when counters are ahead of the disk.
    pub fn begin(&mut self) {
        self.undo();
        self.users.begin();
        self.leaving.clear();
        self.adding.clear();
        self.queues.trim();
    }

    /// Takes the counters back to what is on disk. They are remembered for this: a disk that has just refused a write may refuse
    /// to be read as well, and the next commit would make the wrong ones durable.
    fn undo(&mut self) {
        for id in std::mem::take(&mut self.changing) {
            if let Some(queue) = self.queues.get_mut(id) {
                queue.counters = queue.committed;
            }
        }
    }

    /// A draft of a queue or batch is made, changed, charged or removed: who has read it without the lock reads it again.
    pub fn touch_drafts(&mut self, db: &Db, holder: u64) -> Result<()> {
        self.placed += 1;
        let at = self.placed;
        self.queue(db, holder)?.drafts_at = at;
        Ok(())
    }

    /// Remembers a queue.
    pub fn remember(&mut self, id: u64, mut queue: Queue) {
        self.placed += 1;
        (queue.placed, queue.drafts_at) = (self.placed, self.placed);
        self.queues.insert(id, queue);
    }

    /// A queue, when it is remembered.
    pub(super) fn remembered(&mut self, id: u64) -> Option<&mut Queue> {
        self.queues.get_mut(id)
    }

    /// Forgets a queue that is no more. Who waits for room in it finds that out.
    pub fn forget(&mut self, id: u64) {
        self.changing.retain(|other| *other != id);
        if self.queues.remove(id).is_some_and(|mut queue| queue.is_awaited()) {
            self.tell_of_room([id]);
        }
    }

    /// Whether a message was purged, and only its remains are still there.
    pub fn is_purged(&mut self, db: &Db, record: &MessageRecord) -> Result<bool> {
        let purged = self.queue(db, record.queue)?.record.purged[record.state() as usize - 1];
        Ok(purged > 0 && record.placed <= purged)
    }

    /// What was purged from a state of a queue is being cleared away, until [`State::cleared`].
    pub fn clearing(&mut self, queue: u64, purged: MessageState) {
        *self.clearing.entry((queue, purged)).or_default() += 1;
    }

    /// One who cleared away is done; true when nobody else is at it.
    pub fn cleared(&mut self, queue: u64, purged: MessageState) -> bool {
        let Entry::Occupied(mut count) = self.clearing.entry((queue, purged)) else { return true };
        *count.get_mut() -= 1;
        let done = *count.get() == 0;
        if done {
            count.remove();
        }
        done
    }

    /// Whether a message awaits its last close.
    pub fn is_hidden(&self, queue: u64, seq: u64) -> bool {
        self.queues.get(queue).is_some_and(|queue| queue.hidden.contains(seq))
    }

    /// As [`State::is_hidden`], by the message's own number.
    pub fn is_hidden_id(&self, queue: u64, id: u64) -> bool {
        self.queues.get(queue).is_some_and(|queue| queue.hidden.contains_id(id))
    }

    /// From now on until the next call, or for ever with `false`, remembers in [`State::unfinished`] what is hidden. Gives what was
    /// remembered before. Goes through all that is hidden, which is no more than files are open: that is for backups, which only
    /// root, or who mounted, can make.
    pub fn watch_hidden(&mut self, watch: bool) -> HashSet<u64> {
        let ids = |queue: &Queue| queue.hidden.iter().map(|(_, hidden)| hidden.id).collect::<Vec<_>>();
        let now = watch.then(|| self.queues.values().flat_map(ids).collect());
        std::mem::replace(&mut self.unfinished, now).unwrap_or_default()
    }

    /// The operation under way adds a message whose deduplication id has this key; false when it adds one already.
    pub fn adds_id(&mut self, key: &[u8]) -> bool {
        self.adding.insert(key.to_vec())
    }

    /// Puts a message where its record says: the record, the listing of its state, its deadlines, the counters, its name if it
    /// is a kept one.
    pub fn place(&mut self, db: &Db, batch: &mut Batch<'_>, seq: u64, record: &mut MessageRecord) -> Result<()> {
        record.placed = self.seq.next;
        let (state, position) = (record.state(), keys::position(record.order, seq));
        if state != MessageState::Dead && self.leaving.last() == Some(&seq) {
            self.leaving.pop();
        }
        self.departures.note_state(seq, state);
        batch.put(Family::Messages, &keys::message(seq), &record::encode(record));
        batch.put(Family::Index, &keys::index(record.queue, state, position), &record.name);
        for (at, kind) in deadlines(record) {
            batch.put(Family::Deadlines, &keys::deadline(at, kind, seq), b"");
        }
        if let Some(since) = aged(record) {
            batch.put(Family::Index, &keys::aged(record.queue, state, since, seq), b"");
        }
        self.users.comes(db, seq, record)?;
        self.placed += 1;
        let placed = self.placed;
        let queue = self.changing(db, record.queue)?;
        if queue.config.names == Names::Keep {
            enter_name(batch, seq, record);
        }
        queue.ages.placed(record, position);
        if state == MessageState::Ready {
            queue.counters.head = queue.counters.head.min(position);
            let head = &mut queue.heads[usize::from(record.order)];
            *head = position.min(*head);
            queue.placed = placed;
            queue.became_ready(position);
        }
        queue.counters.retrying += u64::from(record.retrying);
        let (count, bytes) = queue.counters.tally(state);
        *count += 1;
        // Files with holes in them can be as long as anybody likes.
        *bytes = bytes.saturating_add(record.size);
        Ok(())
    }

    /// Takes a message from where its record says; the record itself stays for [`State::place`] to overwrite.
    pub fn displace(&mut self, db: &Db, batch: &mut Batch<'_>, seq: u64, record: &MessageRecord) -> Result<()> {
        let position = keys::position(record.order, seq);
        if record.state() != MessageState::Dead {
            self.leaving.push(seq);
        }
        batch.delete(Family::Index, &keys::index(record.queue, record.state(), position));
        for (at, kind) in deadlines(record) {
            batch.delete(Family::Deadlines, &keys::deadline(at, kind, seq));
        }
        if let Some(since) = aged(record) {
            batch.delete(Family::Index, &keys::aged(record.queue, record.state(), since, seq));
        }
        self.users.goes(db, seq, record)?;
        let queue = self.changing(db, record.queue)?;
        if queue.config.names == Names::Keep {
            leave_name(db, batch, seq, record)?;
        }
        if record.state() == MessageState::Ready && queue.counters.head == position {
            queue.counters.head = position + 1;
        }
        queue.counters.retrying = queue.counters.retrying.saturating_sub(u64::from(record.retrying));
        let (count, bytes) = queue.counters.tally(record.state());
        *count = count.saturating_sub(1);
        *bytes = bytes.saturating_sub(record.size);
        Ok(())
    }

    /// Applies a change together with the counters that it changed. When that fails, nothing has changed.
    pub fn commit(&mut self, db: &Db, mut batch: Batch<'_>, now: u64) -> Result<()> {
        for id in &self.changing {
            if let Some(queue) = self.queues.get_mut(*id) {
                queue.counters.changed = now;
                batch.put(Family::Meta, &keys::counters(*id), &record::encode(&queue.counters));
            }
        }
        self.users.put(&mut batch);
        let written = db.write(batch);
        if written.is_ok() {
            self.users.committed();
            self.departures.note(&self.leaving, now);
            self.leaving.clear();
            let changed = std::mem::take(&mut self.changing);
            for id in &changed {
                let Some(queue) = self.queues.get_mut(*id) else { continue };
                let may_claim = queue.may_claim_again();
                queue.committed = queue.counters;
                // Both are asked: each tells once.
                if queue.has_room_again() | may_claim {
                    self.tell_of_room([*id]);
                }
            }
        }
        self.undo();
        self.users.undo();
        written
    }
}
