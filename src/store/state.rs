//! What the store remembers between operations: queues in use, and the next numbers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::queue::config::QueueConfig;
use crate::queue::state::State as MessageState;

use super::ROOT;
use super::db::{Batch, Db, Family};
use super::keys;
use super::record::{self, Counters, MessageRecord, QueueRecord};

/// So many queues are remembered; beyond it, those without a hidden message are forgotten and read again when needed.
const QUEUES_REMEMBERED: usize = 4096;

/// Numbers are reserved on disk in blocks of this size, so that giving one out is no write. A crash skips the rest.
const RESERVED: u64 = 4096;

/// A queue in use.
pub struct Queue {
    /// Its record, as on disk.
    pub record: QueueRecord,
    /// Its configuration, parsed.
    pub config: Arc<QueueConfig>,
    /// Its counters, as on disk.
    pub counters: Counters,
    /// Messages that are committed and await their last close, with their bytes: on disk they are ready, to users they are
    /// not there yet.
    pub hidden: BTreeMap<u64, u64>,
    /// How often a message became ready, hidden or not, since the queue was read.
    pub placed: u64,
}

struct Numbers {
    setting: &'static str,
    next: u64,
    reserved: u64,
}

/// What the store remembers. It lives behind one lock.
pub struct State {
    queues: HashMap<u64, Queue>,
    /// The queues whose counters the operation under way has changed in memory, and not on disk.
    changing: Vec<u64>,
    seq: Numbers,
    id: Numbers,
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
    fn take(&mut self, db: &Db) -> Result<u64> {
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
        Self::new(record, counters)
    }

    /// A queue from its parts.
    pub fn new(record: QueueRecord, counters: Counters) -> Result<Self> {
        let mut config = QueueConfig::default();
        config.apply(&record.config)?;
        Ok(Self { record, config: Arc::new(config), counters, hidden: BTreeMap::new(), placed: 0 })
    }

    /// The numbers that describe the messages of a state.
    fn tally(&mut self, state: MessageState) -> (&mut u64, &mut u64) {
        let c = &mut self.counters;
        match state {
            MessageState::Ready => (&mut c.ready, &mut c.ready_bytes),
            MessageState::Claimed => (&mut c.claimed, &mut c.claimed_bytes),
            MessageState::Delayed => (&mut c.delayed, &mut c.delayed_bytes),
            MessageState::Dead => (&mut c.dead, &mut c.dead_bytes),
        }
    }
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
            queues: HashMap::new(),
            changing: Vec::new(),
            seq: Numbers::load(db, "next_seq", 1)?,
            id: Numbers::load(db, "next_id", ROOT + 1)?,
        })
    }

    /// The next number that [`State::take_id`] gives.
    pub fn next_id(&self) -> u64 {
        self.id.next
    }

    /// The next number that [`State::take_seq`] gives.
    pub fn next_seq(&self) -> u64 {
        self.seq.next
    }

    /// A new number for a queue, body or draft.
    pub fn take_id(&mut self, db: &Db) -> Result<u64> {
        self.id.take(db)
    }

    /// A new sequence number.
    pub fn take_seq(&mut self, db: &Db) -> Result<u64> {
        self.seq.take(db)
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
        if !self.queues.contains_key(&id) {
            let queue = Queue::load(db, id)?;
            self.remember(id, queue);
        }
        self.queues.get_mut(&id).ok_or(Error::NotFound)
    }

    /// A queue whose counters are about to be changed: the next [`State::commit`] writes them.
    pub fn changing(&mut self, db: &Db, id: u64) -> Result<&mut Queue> {
        self.queue(db, id)?;
        if !self.changing.contains(&id) {
            self.changing.push(id);
        }
        self.queues.get_mut(&id).ok_or(Error::NotFound)
    }

    /// Begins an operation: puts right what one that failed halfway has left, and forgets queues when too many are remembered.
    /// Never within an operation, when counters are ahead of the disk.
    pub fn begin(&mut self, db: &Db) {
        self.undo(db);
        if self.queues.len() > QUEUES_REMEMBERED {
            self.queues.retain(|_, queue| !queue.hidden.is_empty());
        }
    }

    /// Takes the counters back to what is on disk.
    fn undo(&mut self, db: &Db) {
        for id in std::mem::take(&mut self.changing) {
            if let (Some(queue), Ok(counters)) = (self.queues.get_mut(&id), load_counters(db, id)) {
                queue.counters = counters;
            }
        }
    }

    /// Remembers a queue.
    pub fn remember(&mut self, id: u64, queue: Queue) {
        self.queues.insert(id, queue);
    }

    /// Forgets a queue that is no more.
    pub fn forget(&mut self, id: u64) {
        self.changing.retain(|other| *other != id);
        self.queues.remove(&id);
    }

    /// Whether a message awaits its last close.
    pub fn is_hidden(&self, queue: u64, seq: u64) -> bool {
        self.queues.get(&queue).is_some_and(|queue| queue.hidden.contains_key(&seq))
    }

    /// Puts a message where its record says: the record, the listing of its state, its lease, the counters.
    pub fn place(&mut self, db: &Db, batch: &mut Batch<'_>, seq: u64, record: &MessageRecord) -> Result<()> {
        let state = record.state();
        batch.put(Family::Messages, &keys::message(seq), &record::encode(record));
        batch.put(Family::Index, &keys::index(record.queue, state, 0, seq), &record.name);
        if let Some(claim) = &record.claim {
            batch.put(Family::Deadlines, &keys::deadline(claim.deadline, keys::DeadlineKind::Lease, seq), b"");
        }
        let queue = self.changing(db, record.queue)?;
        if state == MessageState::Ready {
            queue.counters.head = queue.counters.head.min(seq);
            queue.placed += 1;
        }
        let (count, bytes) = queue.tally(state);
        *count += 1;
        *bytes += record.size;
        Ok(())
    }

    /// Takes a message from where its record says; the record itself stays for [`State::place`] to overwrite.
    pub fn displace(&mut self, db: &Db, batch: &mut Batch<'_>, seq: u64, record: &MessageRecord) -> Result<()> {
        batch.delete(Family::Index, &keys::index(record.queue, record.state(), 0, seq));
        if let Some(claim) = &record.claim {
            batch.delete(Family::Deadlines, &keys::deadline(claim.deadline, keys::DeadlineKind::Lease, seq));
        }
        let queue = self.changing(db, record.queue)?;
        if record.state() == MessageState::Ready && queue.counters.head == seq {
            queue.counters.head = seq + 1;
        }
        let (count, bytes) = queue.tally(record.state());
        *count = count.saturating_sub(1);
        *bytes = bytes.saturating_sub(record.size);
        Ok(())
    }

    /// Applies a change together with the counters that it changed. When that fails, nothing has changed.
    pub fn commit(&mut self, db: &Db, mut batch: Batch<'_>, now: u64) -> Result<()> {
        for id in &self.changing {
            if let Some(queue) = self.queues.get_mut(id) {
                queue.counters.changed = now;
                batch.put(Family::Meta, &keys::counters(*id), &record::encode(&queue.counters));
            }
        }
        let written = db.write(batch);
        if written.is_ok() {
            self.changing.clear();
        }
        self.undo(db);
        written
    }
}
