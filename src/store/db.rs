//! RocksDB as this store uses it: its column families, their settings, and errors in the project's words.
//!
//! No write here is synced by itself: [`Db::sync`] makes everything durable that was written before it, and does not hold
//! up writers meanwhile. So one sync serves all who wait ([`super::syncer`]).

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBPinnableSlice, DBRawIterator, DBRecoveryMode,
    FlushOptions, InfoLogger, LogLevel, Options, ReadOptions, WriteBatch, WriteOptions, properties,
};
use rustix::process::Resource;

use crate::error::{Error, Result};

use super::beneath::Dir;
use super::database::Readable;
use super::listener;
use super::open::OpenError;
use super::reserve::Reserve;
use super::synced::Synced;
use super::trouble::{self, Trouble};
use super::{keys, space::Sizes};

/// A column family of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Queues, drafts, counters, numbers.
    Meta,
    /// Message records.
    Messages,
    /// Small bodies.
    Bodies,
    /// Listings of states.
    Index,
    /// What is due when.
    Deadlines,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 5] = [Family::Meta, Family::Messages, Family::Bodies, Family::Index, Family::Deadlines];

    /// What the database calls it.
    pub fn name(self) -> &'static str {
        match self {
            Family::Meta => "default",
            Family::Messages => "messages",
            Family::Bodies => "bodies",
            Family::Index => "index",
            Family::Deadlines => "deadlines",
        }
    }
}

/// Memory for blocks read from disk, index and filter blocks included.
const BLOCK_CACHE_BYTES: usize = 32 << 20;
/// A write of at most so many bytes, as all but enqueues are, is tried again when RocksDB was given room. Others fail.
const TRIED_AGAIN: usize = 4096;
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// The open database.
pub struct Db {
    pub(super) db: DB,
    unsynced: WriteOptions,
    synced: OnceLock<Synced>,
    /// Changes up to this number have been made durable by [`Db::sync`].
    durable: AtomicU64,
    trouble: Arc<Trouble>,
    /// Keeps its files where they are, when it is only read.
    _files: Option<Readable>,
}

/// What becomes of the changes in a log that is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Those before the damage are there.
    PointInTime,
    /// All that can be read are there.
    SkipDamaged,
}

/// One atomic change. It is applied whole by [`Db::write`] or not at all.
pub struct Batch<'a> {
    db: &'a Db,
    batch: WriteBatch,
}

/// How many table files the database has open at most, of so many descriptors.
pub fn table_files(limit: u64) -> u64 {
    (limit / 4).clamp(20, 256)
}

impl Db {
    /// Opens the database in `dir`. `make`: it is made when it is missing; else that is an error.
    pub fn open(dir: &Path, make: bool) -> std::result::Result<Self, rocksdb::Error> {
        Self::open_watched(dir, make, Sizes::LARGEST, Arc::new(Trouble::new(Arc::new(Reserve::none()))))
    }

    /// As [`Db::open`], with buffers of these sizes, and somebody to be told when a write of its own fails.
    pub fn open_watched(
        dir: &Path,
        make: bool,
        sizes: Sizes,
        trouble: Arc<Trouble>,
    ) -> std::result::Result<Self, rocksdb::Error> {
        let mut options = options(sizes);
        options.create_if_missing(make);
        options.create_missing_column_families(make);
        let told = trouble.clone();
        listener::listen(&options, Box::new(move |reason, text| told.met(reason, text)));
        Ok(Self::of(DB::open_cf_descriptors(&options, dir, descriptors(sizes))?, trouble))
    }

    /// Opens the database in `dir` as it is, changing nothing.
    pub fn open_to_read(dir: &Path, recovery: Recovery) -> std::result::Result<Self, rocksdb::Error> {
        let mut options = options(Sizes::LARGEST);
        // Else it makes files for its own log.
        options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| ()));
        if recovery == Recovery::SkipDamaged {
            options.set_wal_recovery_mode(DBRecoveryMode::SkipAnyCorruptedRecord);
        }
        let db = DB::open_cf_descriptors_read_only(&options, dir, descriptors(Sizes::LARGEST), false)?;
        Ok(Self::of(db, Arc::new(Trouble::new(Arc::new(Reserve::none())))))
    }

    /// As [`Db::open_to_read`], of the files that [`readable`](super::database::readable) gave.
    pub(super) fn open_readable(files: Readable, recovery: Recovery) -> std::result::Result<Self, rocksdb::Error> {
        let db = Self::open_to_read(&files.path, recovery)?;
        Ok(Self { _files: Some(files), ..db })
    }

    fn of(db: DB, trouble: Arc<Trouble>) -> Self {
        let mut unsynced = WriteOptions::default();
        unsynced.set_sync(false);
        Self { db, unsynced, synced: OnceLock::new(), durable: AtomicU64::new(0), trouble, _files: None }
    }

    /// Makes `dir`, which must not exist, a database with everything as it is at one moment of this call. Tables, and logs that
    /// are not written to any more, are shared by hard links where that is possible, the rest is copied.
    /// Survives a power cut, but for the name of `dir`.
    pub fn checkpoint(&self, dir: &Path) -> Result<()> {
        Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(dir)).map_err(db_error)
    }

    /// From now on tells `synced` how far it is durable.
    pub fn tell_synced(&self, synced: Synced) {
        // It is told once.
        let _ = self.synced.set(synced);
    }

    /// Tells how long the list of its files is, at the end of all writing.
    pub fn tell_manifest(&self) {
        if let Some(synced) = self.synced.get() {
            synced.look_at_manifest(true);
        }
    }

    /// The number of the last change.
    pub fn upto(&self) -> u64 {
        self.db.latest_sequence_number()
    }

    pub(super) fn handle(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("every family is opened with the database")
    }

    /// The value of a key.
    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>> {
        #[cfg(test)]
        looked::count();
        self.db.get_pinned_cf(self.handle(family), key).map_err(db_error)
    }

    /// Starts a change.
    pub fn batch(&self) -> Batch<'_> {
        Batch { db: self, batch: WriteBatch::default() }
    }

    /// Applies a change. It survives a crash of this process at once, a power cut after the next [`Db::sync`].
    pub fn write(&self, batch: Batch<'_>) -> Result<()> {
        let batch = batch.batch;
        let again = (batch.size_in_bytes() <= TRIED_AGAIN).then(|| batch.data().to_vec());
        match (self.write_once(batch), again) {
            (Err(Error::NoSpace), Some(again)) => self.write_until_it_goes_on(&again),
            (result, _) => result,
        }
    }

    fn write_once(&self, batch: WriteBatch) -> Result<()> {
        self.trouble.before_write(batch.size_in_bytes());
        self.db.write_opt(batch, &self.unsynced).map_err(db_error)?;
        self.trouble.wrote();
        Ok(())
    }

    /// Fails as a write would when the database has stopped; costs nothing when it has not.
    pub fn refuse_when_stopped(&self) -> Result<()> {
        if self.trouble.has_stopped() { self.write_once(WriteBatch::default()) } else { Ok(()) }
    }

    /// Tries a write again for as long as RocksDB, which was given room, may go on in a moment.
    fn write_until_it_goes_on(&self, batch: &[u8]) -> Result<()> {
        loop {
            match self.write_once(WriteBatch::from_data(batch)) {
                Err(Error::NoSpace) if self.trouble.may_be_over(|| self.is_flushing()) => std::thread::sleep(PAUSE),
                Err(Error::NoSpace) => {
                    self.trouble.stays();
                    return Err(Error::NoSpace);
                }
                result => return result,
            }
        }
    }

    /// Whether RocksDB writes what it has in memory to a table.
    fn is_flushing(&self) -> bool {
        self.db.property_int_value(properties::NUM_RUNNING_FLUSHES).is_ok_and(|running| running > Some(0))
    }

    /// Makes every change applied so far survive a power cut.
    pub fn sync(&self) -> Result<()> {
        let upto = self.upto();
        self.sync_log()?;
        self.durable.fetch_max(upto, Ordering::SeqCst);
        if let Some(synced) = self.synced.get() {
            synced.note(upto);
        }
        Ok(())
    }

    /// Whether changes up to this number survive a power cut, as far as is known.
    pub fn is_durable(&self, upto: u64) -> bool {
        self.durable.load(Ordering::SeqCst) >= upto
    }

    fn sync_log(&self) -> Result<()> {
        let Err(error) = self.db.flush_wal(true) else { return Ok(()) };
        let full = matches!(trouble::of_text(error.as_ref()), Error::NoSpace);
        if !full && !trouble::is_echo(error.as_ref()) {
            return Err(db_error(error));
        }
        // A write before this has failed, and what became of the database the next one is told: when that succeeds, all that
        // was written before is in new files, and synced.
        self.write_until_it_goes_on(WriteBatch::default().data())?;
        self.db.flush_wal(true).map_err(db_error)
    }

    /// Calls `each` with keys and values from `from` (inclusive) to the end of `prefix`, in order, until it answers false.
    pub fn scan(
        &self,
        family: Family,
        prefix: &[u8],
        from: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let mut options = ReadOptions::default();
        let end = keys::after_prefix(prefix);
        if !end.is_empty() {
            options.set_iterate_upper_bound(end);
        }
        let mut iterator = self.db.raw_iterator_cf_opt(self.handle(family), options);
        iterator.seek(from);
        while let Some((key, value)) = iterator.item() {
            if !each(key, value)? {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(db_error)
    }

    /// A walk, step by step, over the keys from `from` (inclusive) to the end of `prefix` as they are now, whatever happens to
    /// them meanwhile.
    pub fn walk(&self, family: Family, prefix: &[u8], from: &[u8]) -> Walk<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(keys::after_prefix(prefix));
        options.fill_cache(false);
        Walk { iterator: self.db.raw_iterator_cf_opt(self.handle(family), options), from: Some(from.to_vec()) }
    }

    /// Writes everything to table files, so that the space of what was deleted comes back soon.
    pub fn flush(&self) -> Result<()> {
        let families = Family::ALL.map(|family| self.handle(family));
        self.db.flush_cfs_opt(&families, &FlushOptions::default()).map_err(db_error)
    }

    /// Walks several runs of keys at once as they all are at one moment, in the order of what `position` reads from their keys.
    /// Each run is a prefix and a key to start from. Calls `each` with the position and value until it answers false.
    pub fn merge(
        &self,
        family: Family,
        runs: &[(Vec<u8>, Vec<u8>)],
        position: impl Fn(&[u8]) -> Option<u64>,
        mut each: impl FnMut(u64, &[u8]) -> bool,
    ) -> Result<()> {
        let snapshot = self.db.snapshot();
        let mut iterators: Vec<_> = runs
            .iter()
            .map(|(prefix, from)| {
                let mut options = ReadOptions::default();
                options.set_iterate_upper_bound(keys::after_prefix(prefix));
                let mut iterator = snapshot.raw_iterator_cf_opt(self.handle(family), options);
                iterator.seek(from);
                iterator
            })
            .collect();
        loop {
            let number = |iterator: &DBRawIterator<'_>| iterator.key().and_then(&position);
            let first =
                iterators.iter_mut().filter_map(|it| number(it).map(|number| (number, it))).min_by_key(|(n, _)| *n);
            let Some((number, iterator)) = first else { break };
            if !each(number, iterator.value().unwrap_or_default()) {
                return Ok(());
            }
            iterator.next();
        }
        iterators.iter().try_for_each(|iterator| iterator.status().map_err(db_error))
    }
}

/// A walk over keys as they were when it was begun.
pub struct Walk<'a> {
    iterator: DBRawIterator<'a>,
    /// Where to begin, until it has begun.
    from: Option<Vec<u8>>,
}

impl Walk<'_> {
    /// Calls `each` with the next keys, at most `count`; false when there are no more.
    pub fn step(&mut self, count: usize, mut each: impl FnMut(&[u8])) -> Result<bool> {
        if let Some(from) = self.from.take() {
            self.iterator.seek(from);
        }
        for _ in 0..count {
            let Some(key) = self.iterator.key() else {
                self.iterator.status().map_err(db_error)?;
                return Ok(false);
            };
            each(key);
            self.iterator.next();
        }
        Ok(true)
    }
}

impl Batch<'_> {
    /// Sets a key.
    pub fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.batch.put_cf(self.db.handle(family), key, value);
    }

    /// Removes a key. Never a `SingleDelete`: that wants a key to have been set once, and what a full disk refused is
    /// [written again](Db::write), while the log may hold the first attempt.
    pub fn delete(&mut self, family: Family, key: &[u8]) {
        self.batch.delete_cf(self.db.handle(family), key);
    }

    /// Removes the keys that begin with a prefix, at once and however many they are.
    pub fn delete_prefix(&mut self, family: Family, prefix: &[u8]) {
        self.batch.delete_range_cf(self.db.handle(family), prefix, keys::after_prefix(prefix).as_slice());
    }
}

fn options(sizes: Sizes) -> Options {
    let mut options = Options::default();
    options.set_db_write_buffer_size(sizes.memory as usize);
    // An idle column family is flushed rather than keep old logs.
    options.set_max_total_wal_size(sizes.log);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    options.set_max_open_files(table_files(limit) as i32);
    options.set_bytes_per_sync(1 << 20);
    options.set_stats_dump_period_sec(0);
    // A torn end of the log is what a power cut leaves. Damage before the end looks the same to this: see `super::synced`.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options
}

fn descriptors(sizes: Sizes) -> [ColumnFamilyDescriptor; 5] {
    let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
    Family::ALL.map(|family| ColumnFamilyDescriptor::new(family.name(), family_options(family, &cache, sizes)))
}

fn family_options(family: Family, cache: &Cache, sizes: Sizes) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);
    if family != Family::Index && family != Family::Deadlines {
        table.set_bloom_filter(10.0, false);
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(sizes.buffer as usize);
    options.set_max_write_buffer_number(3);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_level_zero_slowdown_writes_trigger(40);
    options.set_level_zero_stop_writes_trigger(80);
    // A consumed queue is a run of tombstones: table files full of them are compacted away, so that a listing does not
    // have to walk over the graves and the disk space comes back.
    options.add_compact_on_deletion_collector_factory(4096, 2048, 0.5);
    options
}

/// Why the database of a store cannot be opened.
pub(super) fn db_open_error(store: &Dir, error: rocksdb::Error) -> OpenError {
    let text = store.told(error.as_ref());
    let system = error.kind() == rocksdb::ErrorKind::IOError && !text.contains("No such file");
    if system { OpenError::Io(std::io::Error::other(text)) } else { OpenError::Damaged(text) }
}

/// RocksDB's errors as the project's.
pub(super) fn db_error(error: rocksdb::Error) -> Error {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => Error::Damaged(error.to_string()),
        _ => trouble::of_text(error.as_ref()),
    }
}

/// How often the database is asked while all others wait.
#[cfg(test)]
pub(super) mod looked {
    use std::cell::Cell;

    use crate::locks;

    thread_local! {
        static UNDER_LOCK: Cell<usize> = const { Cell::new(0) };
    }

    pub fn count() {
        UNDER_LOCK.set(UNDER_LOCK.get() + usize::from(locks::holds(locks::STORE)));
    }

    /// How many keys this thread looks up under the store's lock while it does that.
    pub fn during<T>(work: impl FnOnce() -> T) -> (usize, T) {
        let before = UNDER_LOCK.get();
        let done = work();
        (UNDER_LOCK.get() - before, done)
    }
}
