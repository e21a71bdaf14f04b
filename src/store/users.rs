//! What each user has in the store: queues, drafts and bytes, and how many of them at most.
//!
//! The files of bodies are mqfs's own, so the quotas of the disk do not know whose they are. So what each owner has is counted here,
//! in a record of the user's own, which is written with every change that it tells of ([`State::commit`](super::state::State::commit)):
//! it is never wrong, and nothing is walked over at the start. A message costs its owner as many bytes as it has, with its
//! attributes, and [`OVERHEAD`] for its record; so does a draft, and so does a mark, which costs the owner of the queue or batch. The
//! other attributes of those cost as many bytes as they have. What is copied costs its owner once more.
//!
//! A store of an earlier version has no such records. Its queues and drafts are counted when it is opened; of its messages, those
//! that have a number in [`Users::uncounted`] are counted by [`Store::count_messages`], while the mount is in use: until then
//! they cost nothing, whatever happens to them, and all that get a new number do.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

use super::db::{Batch, Db, Family};
use super::record::{self, DraftBody, DraftRecord, MessageRecord, QueueRecord};
use super::{ROOT, Store, keys};

/// What a message or draft costs besides its bytes, in bytes: about what its record and its places in listings take.
pub const OVERHEAD: u64 = 256;

/// So many users are remembered; beyond it, they are forgotten and read again when needed.
const USERS_REMEMBERED: usize = 4096;

/// So many messages of an older store are counted at a time, while all others wait.
const AT_ONCE: usize = 500;

/// The first number of those that are not counted yet, and the first behind them.
const UNCOUNTED: [&str; 2] = ["uncounted_from", "uncounted_to"];

/// What a user has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// Queues.
    pub queues: u64,
    /// Drafts, and batches that are being prepared.
    pub drafts: u64,
    /// Bytes of messages in any state and of drafts, and of the attributes of queues.
    pub bytes: u64,
}

impl Owned {
    /// One queue.
    const QUEUE: Owned = Owned { queues: 1, drafts: 0, bytes: 0 };
    /// One batch.
    pub const BATCH: Owned = Owned { queues: 0, drafts: 1, bytes: 0 };

    /// So many bytes.
    pub fn bytes(bytes: u64) -> Owned {
        Owned { bytes, ..Owned::default() }
    }

    /// A queue or a batch of that record, without its marks.
    pub fn queue(record: &QueueRecord) -> Owned {
        Owned { bytes: length(&record.attributes), ..if record.batch { Self::BATCH } else { Self::QUEUE } }
    }

    /// A mark of a queue or a batch.
    pub fn mark(name: &[u8], value: &[u8]) -> Owned {
        Self::bytes(OVERHEAD + (name.len() + value.len()) as u64)
    }

    /// A message.
    pub fn message(record: &MessageRecord) -> Owned {
        Self::bytes(cost(record.size, &record.attributes))
    }

    /// A draft of so many bytes.
    pub fn draft(record: &DraftRecord, size: u64) -> Owned {
        Owned { drafts: 1, ..Self::bytes(cost(size, &record.attributes)) }
    }

    pub(super) fn add(&mut self, more: Owned) {
        self.queues = self.queues.saturating_add(more.queues);
        self.drafts = self.drafts.saturating_add(more.drafts);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }

    pub(super) fn take(&mut self, less: Owned) {
        self.queues = self.queues.saturating_sub(less.queues);
        self.drafts = self.drafts.saturating_sub(less.drafts);
        self.bytes = self.bytes.saturating_sub(less.bytes);
    }
}

/// What a message or draft of so many bytes costs.
pub fn cost(size: u64, attributes: &[(String, Vec<u8>)]) -> u64 {
    size.saturating_add(OVERHEAD + length(attributes))
}

fn length(attributes: &[(String, Vec<u8>)]) -> u64 {
    attributes.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum()
}

/// How much each user may have; 0 is no limit. Neither root nor whoever mounts is bound by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserLimits {
    /// Queues.
    pub queues: u64,
    /// Drafts and batches.
    pub drafts: u64,
    /// Bytes.
    pub bytes: u64,
}

impl UserLimits {
    /// No limits.
    pub const NONE: UserLimits = UserLimits { queues: 0, drafts: 0, bytes: 0 };
}

impl Default for UserLimits {
    /// More than anybody needs; bytes are not limited, because often all that there is is one user's.
    fn default() -> Self {
        UserLimits { queues: 100_000, drafts: 100_000, bytes: 0 }
    }
}

/// Decodes the record of a user.
pub(super) fn decode(bytes: &[u8]) -> Result<Owned> {
    match bytes.split_first() {
        Some((&record::VERSION, fields)) => {
            postcard::from_bytes(fields).map_err(|error| Error::Damaged(format!("record of a user: {error}")))
        }
        _ => Err(Error::Damaged("record of a user: unknown version".into())),
    }
}

/// A user who is remembered.
#[derive(Clone, Copy, Debug, Default)]
struct User {
    /// With what the operation under way has changed.
    now: Owned,
    /// As on disk.
    committed: Owned,
}

/// What is remembered of users; behind the store's lock.
pub struct Users {
    known: HashMap<u32, User>,
    /// Users that the operation under way has changed in memory, and not on disk.
    changing: Vec<u32>,
    /// Messages with these numbers are of an older store and were not counted yet.
    uncounted: Range<u64>,
}

impl Users {
    pub(super) fn load(db: &Db) -> Result<Self> {
        let [from, to] = UNCOUNTED.map(|name| number(db, name));
        let uncounted = from?.unwrap_or(0)..to?.unwrap_or(0);
        Ok(Self { known: HashMap::new(), changing: Vec::new(), uncounted })
    }

    /// Begins an operation.
    pub(super) fn begin(&mut self) {
        self.undo();
        if self.known.len() > USERS_REMEMBERED {
            self.known.clear();
        }
    }

    fn user(&mut self, db: &Db, uid: u32) -> Result<&mut User> {
        match self.known.entry(uid) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(free) => {
                let found = db.get(Family::Meta, &keys::user(uid))?;
                let owned = found.map_or(Ok(Owned::default()), |found| decode(&found)).unwrap_or_else(|error| {
                    tracing::error!(uid, %error, "it is counted from nothing: see `mqfs check`");
                    Owned::default()
                });
                Ok(free.insert(User { now: owned, committed: owned }))
            }
        }
    }

    fn changing(&mut self, db: &Db, uid: u32) -> Result<&mut Owned> {
        self.user(db, uid)?;
        if !self.changing.contains(&uid) {
            self.changing.push(uid);
        }
        Ok(&mut self.known.entry(uid).or_default().now)
    }

    /// A user has so much more.
    pub(super) fn gets(&mut self, db: &Db, uid: u32, more: Owned) -> Result<()> {
        self.changing(db, uid)?.add(more);
        Ok(())
    }

    /// A user has so much less.
    pub(super) fn loses(&mut self, db: &Db, uid: u32, less: Owned) -> Result<()> {
        self.changing(db, uid)?.take(less);
        Ok(())
    }

    /// What somebody has changes hands, or its cost.
    pub(super) fn turns(&mut self, db: &Db, from: (u32, Owned), to: (u32, Owned)) -> Result<()> {
        if from == to {
            return Ok(());
        }
        self.loses(db, from.0, from.1)?;
        self.gets(db, to.0, to.1)
    }

    /// The message `seq` is there from now on.
    pub(super) fn comes(&mut self, db: &Db, seq: u64, record: &MessageRecord) -> Result<()> {
        if self.uncounted.contains(&seq) { Ok(()) } else { self.gets(db, record.uid, Owned::message(record)) }
    }

    /// The message `seq` is not there any more.
    pub(super) fn goes(&mut self, db: &Db, seq: u64, record: &MessageRecord) -> Result<()> {
        if self.uncounted.contains(&seq) { Ok(()) } else { self.loses(db, record.uid, Owned::message(record)) }
    }

    /// Adds what the operation has changed to its change.
    pub(super) fn put(&self, batch: &mut Batch<'_>) {
        for uid in &self.changing {
            match self.known.get(uid) {
                Some(user) if user.now == user.committed => {}
                Some(user) if user.now == Owned::default() => batch.delete(Family::Meta, &keys::user(*uid)),
                Some(user) => batch.put(Family::Meta, &keys::user(*uid), &record::encode(&user.now)),
                None => {}
            }
        }
    }

    /// The change was made.
    pub(super) fn committed(&mut self) {
        for uid in self.changing.drain(..) {
            if let Some(user) = self.known.get_mut(&uid) {
                user.committed = user.now;
            }
        }
    }

    /// The change was not made.
    pub(super) fn undo(&mut self) {
        for uid in self.changing.drain(..) {
            if let Some(user) = self.known.get_mut(&uid) {
                user.now = user.committed;
            }
        }
    }
}

/// A number of the store's own.
fn number(db: &Db, name: &str) -> Result<Option<u64>> {
    Ok(db.get(Family::Meta, &keys::setting(name))?.and_then(|value| keys::last_number(&value)))
}

/// The messages of a store that are not counted yet; `None`: nothing in it is.
pub(super) fn uncounted(db: &Db) -> Result<Option<Range<u64>>> {
    let [from, to] = UNCOUNTED.map(|name| number(db, name));
    Ok(from?.zip(to?).map(|(from, to)| from..to))
}

/// The bytes that are on their way into messages, by whose they will be.
#[derive(Debug, Default)]
pub(super) struct OnTheWay(Mutex<HashMap<u32, u64>>);

impl OnTheWay {
    /// A leaf among the locks.
    fn change(&self, uid: u32, less: u64, more: u64) {
        let mut users = self.0.lock();
        let bytes = users.entry(uid).or_default();
        *bytes = bytes.saturating_sub(less).saturating_add(more);
        if *bytes == 0 {
            users.remove(&uid);
        }
    }

    fn of(&self, uid: u32) -> u64 {
        self.0.lock().get(&uid).copied().unwrap_or_default()
    }
}

/// Bytes of a message that is being written: they count against the user whose it will be, until this is dropped.
#[derive(Debug)]
pub struct UserBytes {
    users: Arc<OnTheWay>,
    uid: u32,
    bytes: u64,
}

impl UserBytes {
    /// So many, whatever the limit.
    pub fn set(&mut self, bytes: u64) {
        self.users.change(self.uid, self.bytes, bytes);
        self.bytes = bytes;
    }

    /// They are somebody else's from now on.
    pub fn turn_to(&mut self, uid: u32) {
        let bytes = self.bytes;
        self.set(0);
        self.uid = uid;
        self.set(bytes);
    }
}

impl Drop for UserBytes {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Store {
    /// Limits what each user may have from now on. Once, before anything is served.
    pub fn limit_users(&self, limits: UserLimits) {
        let _ = self.user_limits.set(limits);
    }

    fn limit_of(&self, uid: u32, limit: impl Fn(&UserLimits) -> u64) -> Option<u64> {
        let limit = self.user_limits.get().map(limit).filter(|limit| *limit > 0);
        limit.filter(|_| uid != 0 && uid != rustix::process::geteuid().as_raw())
    }

    /// What a user has.
    pub fn owned(&self, uid: u32) -> Result<Owned> {
        Ok(self.lock().users.user(&self.db, uid)?.now)
    }

    /// Those who have anything, and what.
    #[cfg(test)]
    pub(super) fn owners(&self) -> Result<Vec<(u32, Owned)>> {
        let mut owners = Vec::new();
        self.db.scan(Family::Meta, keys::USERS, keys::USERS, |key, value| {
            owners.extend(keys::parse_user(key).zip(Some(decode(value)?)));
            Ok(true)
        })?;
        Ok(owners)
    }

    /// Refuses another queue of a user's with [`Error::UserLimit`].
    pub(super) fn admit_queue(&self, users: &mut Users, uid: u32) -> Result<()> {
        let Some(limit) = self.limit_of(uid, |limits| limits.queues) else { return Ok(()) };
        if users.user(&self.db, uid)?.now.queues < limit { Ok(()) } else { Err(Error::UserLimit("user_queues")) }
    }

    /// Refuses another draft or batch of a user's with [`Error::UserLimit`].
    pub(super) fn admit_draft(&self, users: &mut Users, uid: u32) -> Result<()> {
        let Some(limit) = self.limit_of(uid, |limits| limits.drafts) else { return Ok(()) };
        if users.user(&self.db, uid)?.now.drafts < limit { Ok(()) } else { Err(Error::UserLimit("user_drafts")) }
    }

    /// Refuses so many bytes more of a user's with [`Error::UserLimit`].
    pub fn admit_bytes_of(&self, uid: u32, more: u64) -> Result<()> {
        if self.limit_of(uid, |limits| limits.bytes).is_none() {
            return Ok(());
        }
        self.fits_user(&mut self.lock().users, uid, more)
    }

    pub(super) fn fits_user(&self, users: &mut Users, uid: u32, more: u64) -> Result<()> {
        let Some(limit) = self.limit_of(uid, |limits| limits.bytes) else { return Ok(()) };
        let used = users.user(&self.db, uid)?.now.bytes.saturating_add(self.on_the_way.of(uid));
        if used.saturating_add(more) <= limit { Ok(()) } else { Err(Error::UserLimit("user_bytes")) }
    }

    /// What is to count the bytes of a message of a user's that is being written.
    pub fn user_bytes(&self, uid: u32) -> UserBytes {
        UserBytes { users: self.on_the_way.clone(), uid, bytes: 0 }
    }

    /// Of a draft that is being written so many bytes are not charged yet; [`Error::UserLimit`], and nothing has changed, when its owner
    /// has too much.
    pub fn hold_uncharged(&self, held: &mut UserBytes, bytes: u64) -> Result<()> {
        if bytes > held.bytes {
            self.admit_bytes_of(held.uid, bytes - held.bytes)?;
            held.set(bytes);
        }
        Ok(())
    }

    /// A message that is being written is so long from now on; [`Error::UserLimit`], and as long as before, when its user has too
    /// much.
    pub fn hold_bytes(&self, held: &mut UserBytes, bytes: u64) -> Result<()> {
        if bytes <= held.bytes {
            return Ok(());
        }
        let bytes = bytes.saturating_add(OVERHEAD);
        self.admit_bytes_of(held.uid, bytes - held.bytes)?;
        held.set(bytes);
        Ok(())
    }

    /// Counts what users have in a store of an earlier version, messages excepted.
    pub(super) fn count_users(&self) -> Result<()> {
        if uncounted(&self.db)?.is_some() {
            return Ok(());
        }
        let mut users: HashMap<u32, Owned> = HashMap::new();
        let mut batch = self.db.batch();
        self.db.scan(Family::Meta, keys::QUEUES, keys::QUEUES, |key, value| {
            if let Ok(queue) = record::decode_queue(value)
                && keys::last_number(key) != Some(ROOT)
            {
                users.entry(queue.uid).or_default().add(Owned::queue(&queue));
            }
            Ok(true)
        })?;
        self.db.scan(Family::Meta, keys::DRAFTS, keys::DRAFTS, |key, value| {
            if let (Some(id), Ok(draft)) = (keys::last_number(key), record::decode_draft(value)) {
                let size = match draft.body {
                    DraftBody::File => self.bodies.metadata(id).map_or(0, |file| file.len()),
                    DraftBody::Inline(inline) => inline.size.into(),
                };
                batch.put(Family::Meta, &keys::draft_size(id), &size.to_be_bytes());
                users.entry(draft.uid).or_default().add(Owned::draft(&draft, size));
            }
            Ok(true)
        })?;
        for (uid, owned) in users {
            batch.put(Family::Meta, &keys::user(uid), &record::encode(&owned));
        }
        let mut state = self.lock();
        let uncounted = 0..state.next_seq();
        for (name, number) in UNCOUNTED.into_iter().zip([uncounted.start, uncounted.end]) {
            batch.put(Family::Meta, &keys::setting(name), &number.to_be_bytes());
        }
        self.db.write(batch)?;
        state.users.uncounted = uncounted;
        Ok(())
    }

    /// Counts the messages of a store of an earlier version, a few at a time, as long as `go_on` says so; the next mount goes on
    /// where this one ends.
    pub fn count_messages(&self, go_on: impl Fn() -> bool) -> Result<()> {
        while go_on() && self.count_some()? {}
        Ok(())
    }

    /// Counts the next few; false when there are no more.
    fn count_some(&self) -> Result<bool> {
        let mut state = self.lock();
        let Range { start, end } = state.users.uncounted.clone();
        if start >= end {
            return Ok(false);
        }
        let (mut seen, mut next, mut found) = (0, end, Vec::new());
        self.db.scan(Family::Messages, b"", &keys::message(start), |key, value| {
            let Some(seq) = keys::last_number(key) else { return Ok(true) };
            if seen == AT_ONCE || seq >= end {
                next = seq.min(end);
                return Ok(false);
            }
            seen += 1;
            found.extend(record::decode_message(value));
            Ok(true)
        })?;
        for record in found {
            state.users.gets(&self.db, record.uid, Owned::message(&record))?;
        }
        let mut batch = self.db.batch();
        batch.put(Family::Meta, &keys::setting(UNCOUNTED[0]), &next.to_be_bytes());
        state.commit(&self.db, batch, 0)?; // no queue is changed
        state.users.uncounted.start = next;
        Ok(next < end)
    }
}
