//! Messages, queues and drafts on disk.
//!
//! What the view asks of the store is a short list of whole operations; each is one atomic change of the database, applied when the call
//! returns (it then survives a crash of this process) and durable after [`Store::after_sync`] (it then survives a power
//! cut). Nothing of RocksDB shows through.
//!
//! Memory does not grow with what is queued: the store remembers queues that are in use, and of messages only those whose
//! last close is awaited, or that are being written: the room and the names that are kept for them.

pub mod backup;
mod batches;
#[cfg(test)]
mod batches_tests;
pub mod beneath;
mod blocks;
pub mod bodies;
mod body;
pub mod check;
mod claims;
mod database;
mod db;
mod dead_letters;
pub mod deadlines;
mod deaths;
mod departures;
mod draft_bytes;
mod drafts;
mod duplicates;
mod enqueue;
mod hidden;
pub mod image;
pub mod import;
mod kept;
#[cfg(test)]
mod kept_tests;
pub(crate) mod keys;
mod labels;
mod limits;
mod lines;
mod listener;
mod listing;
mod lost;
mod marks;
#[cfg(test)]
mod marks_tests;
#[cfg(test)]
mod model_tests;
mod nack;
mod named_drafts;
mod no_links;
mod oldest;
mod open;
mod outdated;
mod purge;
#[cfg(test)]
mod purge_tests;
mod queues;
mod readers;
pub mod record;
mod remembered;
mod removals;
mod reservations;
mod reserve;
mod salvage;
mod set_back;
mod snapshot;
mod space;
mod state;
mod stored_sums;
pub mod sums;
mod synced;
mod syncer;
#[cfg(test)]
mod tests;
mod transitions;
mod tree;
mod trouble;
mod upgrade;
pub mod users;
mod wal;

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

pub use batches::{BATCH_FILES, BatchFile, MOST_BATCH_FILES};
pub use bodies::{Bodies, INLINE_MAX};
pub use body::{Body, BodyFile};
pub use claims::Taker;
pub use dead_letters::{DEAD_HEADERS, DeadReason};
pub use deadlines::{Due, Wake};
pub use deaths::{DEATHS, LONGEST_ERROR, short};
pub use departures::Departures;
pub use drafts::{Published, STAGED_MS};
pub use duplicates::Enqueued;
pub use enqueue::NewBody;
pub use kept::{Holder, Onto};
pub use keys::{DeadlineKind, ROOT};
pub use limits::{Need, Room};
pub use listing::Entry;
pub use marks::MarkRights;
pub use nack::Nack;
pub use named_drafts::Seen;
pub use open::{FORMAT, OpenError};
pub use purge::Remains;
pub use queues::{Alike, NewQueue, Oldest, QueueInfo};
pub use record::Death;
pub use reservations::{Patience, RoomWatch};
pub use space::{Inodes, Space, Usage};
pub use syncer::{Done, Probe};
pub use transitions::{Altered, ClaimEnd, Of};
pub use users::{UserBytes, UserLimits};

use crate::background::Alarm;
use crate::error::Result;
use crate::locks::{self, Guard, Ranked};
use crate::queue::access::Guise;
use crate::queue::config::QueueConfig;
use crate::queue::delivery::Delivery;
use beneath::{Dir, Trust};
use db::{Db, Family};
use deadlines::DeadlineWatch;
use purge::Purged;
use readers::Readers;
use reserve::Reserve;
use space::Sizes;
use state::State;
use syncer::Syncer;
use users::OnTheWay;

/// An open store.
pub struct Store {
    /// Stopped before the database is closed, as fields are dropped in order.
    syncer: Syncer,
    /// Told when a thread of the store or of those above it panics.
    alarm: Alarm,
    db: Arc<Db>,
    dir: Dir,
    bodies: Bodies,
    readers: Arc<Readers>,
    space: Arc<Space>,
    deadlines: DeadlineWatch,
    /// What is remembered of queues, and the next numbers.
    ///
    /// Every change of what queues hold is computed and applied under this lock, so what was read under it is still true when
    /// the change is applied. Without it are only removed what nobody else changes: deadlines that lead nowhere, remains of
    /// a purge, checksums that were left to a reader. Nothing waits for a sync while it holds the lock, nor for another
    /// thread of this process; but when the disk is full, a change waits for RocksDB to go on with the room that was kept
    /// for it, and everybody with it ([`db::Db::write`]).
    state: Ranked<State, { locks::STORE }>,
    /// When watched messages left.
    departures: Arc<Departures>,
    /// What was purged before this run and is to be cleared away.
    purged_before: Mutex<Purged>,
    defaults: QueueConfig,
    /// An earlier version has written it: records may lack what came since.
    upgraded: bool,
    /// To whom the mount shows everything to belong.
    guise: Guise,
    /// The first number that this run gives to a body or draft.
    first_id: u64,
    /// Random; with the number of claims of this run it makes the identities of deliveries.
    secret: RandomState,
    user_limits: OnceLock<UserLimits>,
    /// How many files a batch may hold, if not so many as usual.
    batch_files: OnceLock<u64>,
    on_the_way: Arc<OnTheWay>,
    claims: AtomicU64,
    /// Held for its lock.
    _lock: File,
}

/// Whether an earlier version has written the store: now, or when an open before this noted it.
fn note_upgrade(db: &Db, now: bool) -> Result<bool> {
    let key = keys::setting("upgraded");
    if now {
        let mut batch = db.batch();
        batch.put(Family::Meta, &key, &1_u64.to_be_bytes());
        db.write(batch)?;
    }
    Ok(now || db.get(Family::Meta, &key)?.is_some())
}

impl Store {
    /// Opens the store in `dir`, made when it is missing. `defaults` is the configuration of queues made in the root.
    pub fn open(dir: &Path, defaults: QueueConfig) -> std::result::Result<Self, OpenError> {
        Self::open_of(dir, Trust::Own, defaults)
    }

    /// As [`Store::open`], of whom is trusted.
    pub fn open_of(path: &Path, trust: Trust, defaults: QueueConfig) -> std::result::Result<Self, OpenError> {
        let prepared = open::prepare(path, trust)?;
        let dir = prepared.dir.clone();
        let sizes = Sizes::of(&dir.path())?;
        let reserve = Arc::new(Reserve::new(&dir, sizes.reserve));
        let db = Arc::new(database::open(&prepared, sizes, &reserve)?);
        let upgraded = note_upgrade(&db, prepared.is_upgraded())?;
        let state = State::load(&db)?;
        let space = Arc::new(Space::new(dir.path(), reserve));
        let bodies = Bodies::open(&dir)?.within(space.clone());
        let alarm = Alarm::default();
        let store = Self {
            syncer: Syncer::start(db.clone(), bodies.removals().clone(), &alarm)?,
            alarm,
            readers: Readers::new(db.clone()),
            db,
            bodies,
            space,
            dir,
            deadlines: DeadlineWatch::default(),
            first_id: state.next_id(),
            secret: RandomState::new(),
            user_limits: OnceLock::new(),
            batch_files: OnceLock::new(),
            on_the_way: Arc::default(),
            claims: AtomicU64::new(0),
            departures: state.departures.clone(),
            state: Ranked::new(state),
            purged_before: Mutex::default(),
            defaults,
            upgraded,
            guise: Guise::default(),
            _lock: prepared.lock,
        };
        store.make_root()?;
        store.measure_tree()?;
        store.name_drafts_by_owner()?;
        store.count_users()?;
        store.note_purges_left()?;
        store.readers.clear_left(keys::LEFT_SUMS)?;
        store.drop_cut_bodies()?;
        store.drop_snapshot();
        bodies::remove(&store.dir, Path::new(import::INCOMING));
        // Room is kept from now on if there is any.
        store.space.look()?;
        Ok(store)
    }

    /// Whom everything belongs to counts as the mount shows it, from now on.
    pub fn show_as(&mut self, guise: Guise) {
        self.guise = guise;
    }

    /// Begins an operation.
    fn lock(&self) -> Guard<'_, State> {
        let mut state = self.state.lock();
        state.begin();
        state
    }

    /// A new delivery's identity: the keyed hash of a number that comes once in this run, with a key of this run's own.
    fn new_delivery(&self) -> Delivery {
        Delivery::of(self.secret.hash_one(self.claims.fetch_add(1, Ordering::Relaxed)))
    }

    /// What is told when a thread that works in the background panics; who uses the store begins its own threads by it, too.
    pub fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    /// When watched messages left.
    pub fn departures(&self) -> &Arc<Departures> {
        &self.departures
    }

    /// The body files.
    pub fn bodies(&self) -> &Bodies {
        &self.bodies
    }

    /// Refuses what can be known before it is written: that there is no room for so many bytes above the reserve
    /// ([`crate::error::Error::NoSpace`]; 0 stands for a few), or that nothing is written at all, because the disk has failed or is read-only.
    pub fn admit_bytes(&self, bytes: u64) -> Result<()> {
        self.db.refuse_when_stopped()?;
        self.space.admit(bytes)
    }

    /// The file system under the store.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Calls `done` once everything written before this call survives a power cut. Calls that wait at the same time share
    /// one sync.
    pub fn after_sync(&self, done: Done) {
        self.syncer.after_sync(done);
    }

    /// As [`Store::after_sync`], for the one thread that serves requests: it may sync by itself, and call, before this
    /// returns.
    pub fn after_sync_serving(&self, done: Done) {
        self.syncer.after_sync_serving(done);
    }

    /// The number of the last change, for [`Store::is_durable`].
    pub fn upto(&self) -> u64 {
        self.db.upto()
    }

    /// Whether changes up to this number survive a power cut already, as far as is known: if not, [`Store::after_sync`] sees to
    /// it.
    pub fn is_durable(&self, upto: u64) -> bool {
        self.db.is_durable(upto)
    }

    /// Tells how to see whether a request waits to be served: [`Store::after_sync_serving`] keeps none waiting.
    pub fn serve(&self, probe: Probe) {
        self.syncer.serve(probe);
    }

    /// Removes a body file that no record names any more, once that is durable.
    pub fn discard_body(&self, id: u64) {
        self.syncer.remove_file(id);
    }

    /// As [`Store::discard_body`], of any number.
    fn discard_bodies(&self, ids: Vec<u64>) {
        for id in ids {
            self.discard_body(id);
        }
    }

    /// Syncs of the log so far: far fewer than durable enqueues when producers are many.
    pub fn syncs(&self) -> u64 {
        self.syncer.syncs()
    }

    /// Starts a sync that nobody waits for.
    pub fn sync_soon(&self) {
        self.syncer.after_sync(Box::new(|_| ()));
    }

    /// A new number for a body or draft; never given out twice.
    pub fn next_id(&self) -> Result<u64> {
        self.lock().take_id(&self.db)
    }

    /// Whether a message has or had this sequence number, or one soon will: names of digits that stand for none are ordinary names.
    pub fn gave_out(&self, seq: u64) -> bool {
        self.state.lock().gave_out(seq)
    }

    /// Removes the body files that a crash left without an owner; gives how many. Safe while the store is in use: that of a draft stays
    /// though its record does not name it, because it may be about to.
    pub fn sweep(&self) -> Result<usize> {
        // Without the lock. A draft's file becomes a message's in one change, and never the other way round: asked in this order,
        // one of the two answers yes whenever that happens.
        let wanted = |id| {
            Ok(self.db.get(Family::Meta, &keys::draft(id))?.is_some()
                || self.db.get(Family::Meta, &keys::body_file(id))?.is_some())
        };
        // It may have lost its owner just now, and a power cut may bring that back.
        self.bodies.sweep(self.first_id, wanted, |id| self.syncer.remove_file(id))
    }

    /// Makes everything durable and the numbers exact, for a clean end. Nothing may be written afterwards.
    pub fn close(&self) -> Result<()> {
        self.deadlines.stop();
        self.lock().save_numbers(&self.db)?;
        self.db.sync()?;
        self.syncer.stop();
        self.db.tell_manifest();
        Ok(())
    }
}
