//! The tree of queues: the way from a queue to the root, and how long and how deep it may become.
//!
//! The path of a queue has at most [`LONGEST_PATH`] bytes and [`DEEPEST`] names. So whatever tells a path (the log, dead letters, an
//! export) and whatever walks one is bounded; and because a queue may be renamed with all that is nested in it, each that has
//! nested queues knows how far they reach below it: a number that grows with them, and is forgotten when there are none left.
//! Only when that is too far for a rename is it looked again, and only if they are few.
//!
//! Stores of earlier versions may hold longer paths. Those queues can be used, renamed to where their paths are no longer than
//! before, and removed; none is made in them.
//!
//! The way up is read from the database and not from what is remembered, so it needs no lock, and is read before one is taken.
//! Queues are made and renamed by one thread; if there were more, a queue renamed in between could come to lie as much too deep.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::locks;
use crate::queue::name::{DEEPEST, LONGEST_PATH};

use super::db::{Batch, Family};
use super::record::{self, QueueHead};
use super::{ROOT, Store, keys};

/// The setting that says that all queues know how far those nested in them reach.
const MEASURED: &str = "measured";

/// So many nested queues are looked at when one is renamed to where they would be too deep, as far as is known.
const LOOKED_AT: usize = 256;

/// A walk goes no further: in a damaged store a queue may be nested in itself.
const LONGEST_WALK: usize = 1 << 16;

/// A part of a path: a name in it counts with the slash before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    bytes: usize,
    names: usize,
}

impl Extent {
    /// With one name more.
    pub fn and(self, name: &[u8]) -> Self {
        self.plus(Self { bytes: name.len() + 1, names: 1 })
    }

    fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, names: self.names + other.names }
    }

    /// Whether a queue may have such a path.
    fn fits(self) -> bool {
        // There is no slash before the first name.
        self.bytes <= LONGEST_PATH + 1 && self.names <= DEEPEST
    }

    fn is_within(self, other: Self) -> bool {
        self.bytes <= other.bytes && self.names <= other.names
    }

    /// No more than what is too long anyhow: so what is counted cannot grow without end.
    fn cut(self) -> Self {
        Self { bytes: self.bytes.min(LONGEST_PATH + 2), names: self.names.min(DEEPEST + 1) }
    }

    fn max(self, other: Self) -> Self {
        Self { bytes: self.bytes.max(other.bytes), names: self.names.max(other.names) }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (bytes, names) = bytes.split_first_chunk::<4>()?;
        let number = |bytes: [u8; 4]| usize::try_from(u32::from_be_bytes(bytes)).ok();
        Some(Self { bytes: number(*bytes)?, names: number(names.try_into().ok()?)? })
    }

    /// As it is stored.
    pub fn stored(self) -> [u8; 8] {
        let Self { bytes, names } = self.cut();
        let mut stored = [0; 8];
        stored[..4].copy_from_slice(&u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes());
        stored[4..].copy_from_slice(&u32::try_from(names).unwrap_or(u32::MAX).to_be_bytes());
        stored
    }
}

impl Store {
    /// What the record of a queue begins with.
    pub(super) fn queue_head(&self, id: u64) -> Result<QueueHead> {
        record::decode_queue_head(&self.db.get(Family::Meta, &keys::queue(id))?.ok_or(Error::NotFound)?)
    }

    /// Calls `each` with a queue and those that it is nested in, from the inside out and without the root, as long as that answers
    /// true.
    pub(super) fn walk_up(&self, id: u64, mut each: impl FnMut(u64, &QueueHead) -> bool) -> Result<()> {
        let mut queue = id;
        for _ in 0..LONGEST_WALK {
            if queue == ROOT || queue == 0 {
                return Ok(());
            }
            let head = self.queue_head(queue)?;
            if !each(queue, &head) {
                return Ok(());
            }
            queue = head.parent;
        }
        Err(Error::Damaged(format!("queue number {id} is nested in itself")))
    }

    /// The path of a queue; of one that is too long anyhow, no more than shows that.
    fn extent(&self, id: u64) -> Result<Extent> {
        locks::assert_free(locks::STORE);
        let mut extent = Extent::default();
        self.walk_up(id, |_, head| {
            extent = extent.and(&head.name);
            extent.fits()
        })?;
        Ok(extent)
    }

    fn whole_extent(&self, id: u64) -> Result<Extent> {
        let mut extent = Extent::default();
        self.walk_up(id, |_, head| {
            extent = extent.and(&head.name);
            true
        })?;
        Ok(extent)
    }

    /// Refuses to make a queue whose path would be too long: [`Error::NameTooLong`].
    pub(super) fn refuse_too_deep(&self, parent: u64, name: &[u8]) -> Result<()> {
        if self.extent(parent)?.and(name).fits() { Ok(()) } else { Err(Error::NameTooLong) }
    }

    /// Refuses to rename a queue to where its path, or that of one nested in it, would be too long, unless none becomes longer by
    /// it; and to where it is nested in itself. Gives how far what is nested in it reaches.
    pub(super) fn refuse_renamed_too_deep(&self, id: u64, from: (u64, &[u8]), to: (u64, &[u8])) -> Result<Extent> {
        locks::assert_free(locks::STORE);
        let reach = self.reach(id)?;
        if from == to {
            return Ok(reach);
        }
        let (mut extent, mut itself) = (Extent::default(), false);
        self.walk_up(to.0, |queue, head| {
            extent = extent.and(&head.name);
            itself = queue == id;
            !itself && extent.fits()
        })?;
        if itself {
            return Err(Error::Invalid("a queue cannot be nested in itself".into()));
        }
        if extent.and(to.1).plus(reach).fits() {
            return Ok(reach);
        }
        // What reached so far may be gone.
        if let Some(exact) = self.measure_nested(id)?.filter(|exact| extent.and(to.1).plus(*exact).fits()) {
            return Ok(exact);
        }
        let (before, after) = (self.whole_extent(from.0)?.and(from.1), self.whole_extent(to.0)?.and(to.1));
        if after.is_within(before) { Ok(reach) } else { Err(Error::NameTooLong) }
    }

    /// How far the queues nested in one reach below it now; `None` when they are many.
    fn measure_nested(&self, id: u64) -> Result<Option<Extent>> {
        let (mut left, mut seen, mut furthest) = (vec![(id, Extent::default())], 0, Extent::default());
        while let Some((queue, extent)) = left.pop() {
            furthest = furthest.max(extent);
            self.list_queues(queue, 0, |nested| {
                left.push((nested.id, extent.and(nested.name)));
                seen += 1;
                seen <= LOOKED_AT
            })?;
            if seen > LOOKED_AT {
                return Ok(None);
            }
        }
        Ok(Some(furthest))
    }

    /// How far the queues nested in one reach below it, or have, since there were none.
    pub(super) fn reach(&self, id: u64) -> Result<Extent> {
        let found = self.db.get(Family::Meta, &keys::reach(id))?;
        Ok(found.and_then(|found| Extent::read(&found)).unwrap_or_default())
    }

    /// Adds to a change: what is nested in `parent` reaches so far below it. Under the lock; it ends at the first queue that knows,
    /// and after [`DEEPEST`] of them at the latest: those above them know already that they are too deep.
    pub(super) fn note_reach(&self, batch: &mut Batch<'_>, parent: u64, extent: Extent) -> Result<()> {
        let (mut extent, mut steps, mut failed) = (extent.cut(), 0, None);
        self.walk_up(parent, |queue, head| {
            let known = match self.reach(queue) {
                Ok(known) => known,
                Err(error) => {
                    failed = Some(error);
                    return false;
                }
            };
            if extent.is_within(known) {
                return false;
            }
            batch.put(Family::Meta, &keys::reach(queue), &extent.max(known).stored());
            extent = extent.and(&head.name).cut();
            steps += 1;
            steps <= DEEPEST
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Lets all queues of a store of an earlier version know how far those nested in them reach.
    pub(super) fn measure_tree(&self) -> Result<()> {
        if self.db.get(Family::Meta, &keys::setting(MEASURED))?.is_some() {
            return Ok(());
        }
        let mut tree = Tree::default();
        self.db.scan(Family::Meta, keys::QUEUES, keys::QUEUES, |key, record| {
            // What cannot be read is for a check to tell.
            if let (Some(id), Ok(head)) = (keys::last_number(key), record::decode_queue_head(record)) {
                tree.add(id, head.parent, head.batch, head.name.len());
            }
            Ok(true)
        })?;
        let _state = self.lock();
        let mut batch = self.db.batch();
        for (queue, extent) in tree.reaches() {
            batch.put(Family::Meta, &keys::reach(queue), &extent.stored());
        }
        batch.put(Family::Meta, &keys::setting(MEASURED), &1_u64.to_be_bytes());
        self.db.write(batch)
    }
}

/// Whether the queues of a store know how far those nested in them reach.
pub(super) fn is_measured(db: &super::db::Db) -> Result<bool> {
    Ok(db.get(Family::Meta, &keys::setting(MEASURED))?.is_some())
}

/// Whether what a queue knows, as it is stored, is enough.
pub(super) fn knows(stored: &[u8], extent: Extent) -> bool {
    Extent::read(stored).is_some_and(|known| extent.cut().is_within(known))
}

/// The nesting of all queues.
#[derive(Default)]
pub(super) struct Tree(HashMap<u64, (u64, usize)>);

impl Tree {
    /// A queue, or a batch, which does not count; its parent and the length of its name.
    pub fn add(&mut self, id: u64, parent: u64, batch: bool, name: usize) {
        if !batch && id != ROOT {
            self.0.insert(id, (parent, name));
        }
    }

    /// How far what is nested in each reaches below it, of those in which something is.
    pub fn reaches(&self) -> HashMap<u64, Extent> {
        let mut reaches: HashMap<u64, Extent> = HashMap::new();
        for (parent, name) in self.0.values() {
            let (mut queue, mut extent) = (*parent, Extent { bytes: name + 1, names: 1 });
            // Ends also where a queue is nested in itself: what is known grows no further than to what is too long.
            while let Some((above, name)) = self.0.get(&queue) {
                let known = reaches.entry(queue).or_default();
                if extent.is_within(*known) {
                    break;
                }
                *known = known.max(extent);
                extent = extent.plus(Extent { bytes: name + 1, names: 1 }).cut();
                queue = *above;
            }
        }
        reaches
    }
}

#[cfg(test)]
mod tests {
    use super::super::NewQueue;
    use super::super::tests::{checked, open};
    use super::*;

    fn make(store: &Store, parent: u64, name: &[u8]) -> Result<u64> {
        store.make_queue(NewQueue { parent, name, uid: 0, gid: 0, mode: 0o755 })
    }

    fn chain(store: &Store, parent: u64, names: &[&[u8]]) -> u64 {
        names.iter().fold(parent, |parent, name| make(store, parent, name).unwrap())
    }

    fn too_long<T: std::fmt::Debug>(result: Result<T>) {
        assert!(matches!(result, Err(Error::NameTooLong)), "{result:?}");
    }

    /// 16 names of 255 bytes and the slashes between them are 4095 bytes.
    #[test]
    fn a_path_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let names = [[b'n'; 255]; 16].each_ref().map(|name| &name[..]);
        let last = chain(&store, ROOT, &names);
        too_long(make(&store, last, b"x"));
        assert_eq!(store.label(last).len(), 4095);
        let deep = chain(&store, ROOT, &[&b"d"[..]; DEEPEST]);
        too_long(make(&store, deep, b"d"));
        assert!(store.queue(deep).is_ok());
        drop(store);
        assert_eq!(checked(dir.path(), false).1.damaged, 0);
    }

    #[test]
    fn what_is_nested_in_a_queue_counts_when_it_is_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let (a, b) = (make(&store, ROOT, b"a").unwrap(), make(&store, ROOT, b"b").unwrap());
        let half = [&[b'n'; 255][..]; 9];
        let (low, high) = (chain(&store, a, &half), chain(&store, b, &half));
        // It reached too far, and does not any more.
        let extent = store.reach(b).unwrap();
        let far = chain(&store, high, &[&[b'n'; 255][..]; 5]);
        store.rename_queue((high, &[b'n'; 255]), (ROOT, b"far"), true).unwrap();
        assert!(store.reach(b).unwrap() != extent && store.queue(far).is_ok());
        let deep = chain(&store, ROOT, &half[..6]);
        store.rename_queue((ROOT, b"b"), (deep, b"b"), true).unwrap();
        assert_eq!(store.reach(b).unwrap(), extent);
        store.rename_queue((deep, b"b"), (ROOT, b"b"), true).unwrap();
        too_long(store.rename_queue((ROOT, b"a"), (high, b"a"), true));
        assert!(matches!(store.rename_queue((ROOT, b"a"), (low, b"a"), true), Err(Error::Invalid(_))));
        // A name as long or shorter is always possible, and one that fits.
        store.rename_queue((ROOT, b"a"), (ROOT, b"c"), true).unwrap();
        store.rename_queue((ROOT, b"c"), (b, b"longer"), true).unwrap();
        too_long(store.rename_queue((ROOT, b"b"), (low, b"x"), true).map_err(|error| match error {
            Error::Invalid(_) => Error::NameTooLong,
            other => other,
        }));
        drop(store);
        let store = open(dir.path());
        assert!(store.reach(b).unwrap().names >= 10);
        // When nothing is nested in it any more, nothing is left of that.
        store.rename_queue((b, b"longer"), (ROOT, b"a"), true).unwrap();
        let (mut names, mut at) = (Vec::new(), b);
        while let Ok(next) = store.find_queue(at, &[b'n'; 255]) {
            names.push(at);
            at = next;
        }
        for parent in names.into_iter().rev() {
            store.remove_queue(parent, &[b'n'; 255]).unwrap();
        }
        assert_eq!(store.reach(b).unwrap(), Extent::default());
        store.rename_queue((ROOT, b"b"), (chain(&store, a, &[]), b"b"), true).unwrap();
    }

    /// What an earlier version has left is used, made no longer, and removed.
    #[test]
    fn paths_that_are_too_long_already_are_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let mut parent = ROOT;
        for n in 0..400_u64 {
            let id = store.next_id().unwrap();
            let record = super::super::record::QueueRecord {
                config: "max_deliveries = 1\n".into(),
                ..NewQueue { parent, name: b"old", uid: 0, gid: 0, mode: 0o755 }.record(false, String::new(), n)
            };
            let mut state = store.lock();
            store.add_queue(&mut state, id, record, n).unwrap();
            parent = id;
        }
        let mut batch = store.db.batch();
        batch.delete(Family::Meta, &keys::setting(MEASURED));
        batch.delete_prefix(Family::Meta, keys::REACHES);
        store.db.write(batch).unwrap();
        drop(store);
        let store = open(dir.path());
        assert!(is_measured(&store.db).unwrap());
        let top = store.find_queue(ROOT, b"old").unwrap();
        assert!(!store.reach(top).unwrap().fits());
        too_long(make(&store, parent, b"x"));
        assert!(store.label(parent).len() <= LONGEST_PATH && store.label(parent).starts_with(".../old"));
        let other = make(&store, ROOT, b"other").unwrap();
        too_long(store.rename_queue((ROOT, b"old"), (other, b"old"), true));
        store.rename_queue((ROOT, b"old"), (ROOT, b"new"), true).unwrap();
        let above = store.queue(parent).unwrap().parent;
        store.remove_queue(above, b"old").unwrap();
        drop(store);
        assert_eq!(checked(dir.path(), false).1.damaged, 0);
    }

    /// A check knows what a queue has to know, and repairs it.
    #[test]
    fn a_reach_that_is_wrong_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let a = make(&store, ROOT, b"a").unwrap();
        chain(&store, a, &[b"b", b"c"]);
        let mut batch = store.db.batch();
        batch.delete(Family::Meta, &keys::reach(a));
        batch.put(Family::Meta, &keys::reach(4711), &Extent::default().stored());
        store.db.write(batch).unwrap();
        drop(store);
        assert_eq!(checked(dir.path(), true).1.damaged, 2);
        assert_eq!(checked(dir.path(), false).1.damaged, 0);
        let store = open(dir.path());
        assert_eq!(store.reach(a).unwrap(), Extent { bytes: 4, names: 2 });
    }
}
