//! Which queues are remembered between operations: those that were used lately, up to a number of bytes.
//!
//! What users can make long about a queue (the text of its configuration, why one was refused, its attributes) is not remembered
//! at all but read when it is asked for. What is left is counted in bytes, and by the owners of the queues: when it is too much,
//! those are forgotten whose owners have more than their share, so that nobody makes the store forget the queues of others.
//! A queue in which something is on its way (hidden messages, room that is kept) cannot be forgotten; there are no more of those
//! than open files.

use std::collections::{BTreeMap, HashMap};

use super::state::Queue;

/// So many bytes are remembered of all queues: some four thousand of them.
const BYTES: usize = 6 << 20;

/// So many queues are looked at by one operation for some to be forgotten. No operation reads more than a few: so the sum stays
/// near to what it may be, and no operation is long.
const LOOKS: usize = 16;

/// What the tables take for each queue besides, in bytes.
const EACH: usize = 128;

struct Remembered {
    queue: Queue,
    /// Its key in [`Queues::order`].
    at: u64,
    bytes: usize,
    owner: u32,
    /// It was used since it was looked at for the last time.
    used: bool,
}

/// Queues in use.
///
/// Invariant: `bytes` is the sum of those of all, `by_owner` the same of each owner who has any, and each is in `order` once.
#[derive(Default)]
pub(super) struct Queues {
    of: HashMap<u64, Remembered>,
    /// In the order in which they are looked at.
    order: BTreeMap<u64, u64>,
    clock: u64,
    bytes: usize,
    by_owner: HashMap<u32, usize>,
}

impl Queues {
    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Whether a queue is remembered.
    pub fn contains(&self, id: u64) -> bool {
        self.of.contains_key(&id)
    }

    /// A queue that is remembered.
    pub fn get(&self, id: u64) -> Option<&Queue> {
        self.of.get(&id).map(|remembered| &remembered.queue)
    }

    /// As [`Queues::get`], for an operation: it was used. Its outline and its configuration are changed by
    /// [`Queues::change`] only, which counts.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Queue> {
        let remembered = self.of.get_mut(&id)?;
        remembered.used = true;
        Some(&mut remembered.queue)
    }

    /// As [`Queues::get_mut`], for who looks at all queues: that does not count as a use.
    pub fn look(&mut self, id: u64) -> Option<&mut Queue> {
        self.of.get_mut(&id).map(|remembered| &mut remembered.queue)
    }

    /// All of them.
    pub fn values(&self) -> impl Iterator<Item = &Queue> {
        self.of.values().map(|remembered| &remembered.queue)
    }

    /// Remembers a queue.
    pub fn insert(&mut self, id: u64, queue: Queue) {
        self.remove(id);
        self.clock += 1;
        let (bytes, owner) = (queue.memory() + size_of::<Remembered>() + EACH, queue.record.uid);
        self.order.insert(self.clock, id);
        self.of.insert(id, Remembered { queue, at: self.clock, bytes, owner, used: false });
        self.count(owner, 0, bytes);
    }

    /// Changes what is counted of a queue, if it is remembered.
    pub fn change(&mut self, id: u64, change: impl FnOnce(&mut Queue)) {
        let Some(remembered) = self.of.get_mut(&id) else { return };
        let (owner, before) = (remembered.owner, remembered.bytes);
        change(&mut remembered.queue);
        remembered.bytes = remembered.queue.memory() + size_of::<Remembered>() + EACH;
        remembered.owner = remembered.queue.record.uid;
        let (now, after) = (remembered.owner, remembered.bytes);
        self.count(owner, before, 0);
        self.count(now, 0, after);
    }

    /// Forgets a queue.
    pub fn remove(&mut self, id: u64) -> Option<Queue> {
        let Remembered { queue, at, bytes, owner, .. } = self.of.remove(&id)?;
        self.order.remove(&at);
        self.count(owner, bytes, 0);
        Some(queue)
    }

    fn count(&mut self, owner: u32, less: usize, more: usize) {
        self.bytes = self.bytes - less + more;
        let own = self.by_owner.entry(owner).or_default();
        *own = *own - less + more;
        if *own == 0 {
            self.by_owner.remove(&owner);
        }
    }

    /// Forgets queues when too much is remembered; never within an operation.
    pub fn trim(&mut self) {
        for _ in 0..LOOKS {
            if self.bytes <= BYTES {
                return;
            }
            let Some((at, id)) = self.order.pop_first() else { return };
            let share = BYTES / self.by_owner.len().max(1);
            let Some(remembered) = self.of.get_mut(&id) else { continue };
            debug_assert_eq!(remembered.at, at);
            let used = std::mem::take(&mut remembered.used);
            let within = self.by_owner.get(&remembered.owner).is_some_and(|own| *own <= share);
            self.clock += 1;
            remembered.at = self.clock;
            self.order.insert(self.clock, id);
            if !used && !within && !remembered.queue.is_in_use() {
                self.remove(id);
            }
        }
    }

    /// Forgets all that can be.
    #[cfg(test)]
    pub fn clear(&mut self) {
        let ids: Vec<u64> = self.of.iter().filter(|(_, held)| !held.queue.is_in_use()).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| drop(self.remove(id)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Counters, QueueRecord};
    use super::super::tests::{open, queue};
    use super::*;

    fn record(uid: u32, config: &str) -> QueueRecord {
        QueueRecord {
            parent: 1,
            batch: false,
            name: b"q".to_vec(),
            uid,
            gid: 0,
            mode: 0o755,
            created: 0,
            modified_ns: None,
            modified_at: 0,
            accessed_ns: None,
            config: config.to_owned(),
            rejected: String::new(),
            purged: [0; 4],
            attributes: Vec::new(),
        }
    }

    fn of(uid: u32, config: &str) -> Queue {
        Queue::new(&record(uid, config), Counters::default()).unwrap()
    }

    fn consistent(queues: &Queues) {
        assert_eq!(queues.bytes, queues.of.values().map(|held| held.bytes).sum::<usize>());
        assert_eq!(queues.bytes, queues.by_owner.values().sum::<usize>());
        assert_eq!(queues.order.len(), queues.of.len());
        assert!(queues.order.iter().all(|(at, id)| queues.of[id].at == *at));
    }

    /// However many there are, and however long their configurations; and no step forgets more than a few.
    #[test]
    fn bytes_are_bounded_and_counted() {
        let long = format!("dead_letter = {}\n", "x".repeat(4000));
        let mut queues = Queues::default();
        for id in 0..20_000 {
            let before = queues.len();
            queues.trim();
            assert!(before - queues.len() <= LOOKS);
            queues.insert(id, of(0, if id % 2 == 0 { &long } else { "" }));
        }
        queues.trim();
        assert!(queues.bytes <= BYTES + 8192, "{}", queues.bytes);
        assert!(queues.len() > 1000 && queues.get(19_999).is_some() && queues.get(0).is_none());
        consistent(&queues);
        queues.change(19_999, |queue| queue.set_outline(&record(7, &long), of(7, &long).config));
        assert!(queues.by_owner[&7] > 4000);
        consistent(&queues);
        queues.clear();
        assert!(queues.bytes == 0 && queues.by_owner.is_empty() && queues.order.is_empty());
    }

    /// One user's queues, however many, do not make the store forget those of others.
    #[test]
    fn nobody_crowds_out_the_queues_of_others() {
        let mut queues = Queues::default();
        for id in 0..100 {
            queues.insert(id, of(1, ""));
        }
        for id in 1000..30_000 {
            queues.trim();
            queues.insert(id, of(2, ""));
        }
        assert!((0..100).all(|id| queues.contains(id)));
        consistent(&queues);
    }

    /// What users can make long is not there at all.
    #[test]
    fn texts_and_attributes_are_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = queue(&store, "q");
        let before = store.lock().queues.bytes;
        let (name, value) = ("user.x".to_owned(), vec![b'x'; 60_000]);
        let told = |record: &mut QueueRecord| {
            record.attributes.push((name, value));
            record.rejected = "y".repeat(60_000);
            record.config.push_str(&"# z\n".repeat(15_000));
            Ok(())
        };
        store.alter_queue(q, told).unwrap();
        assert_eq!(store.lock().queues.bytes, before);
        let record = store.queue_record(q).unwrap();
        assert_eq!((record.attributes[0].1.len(), record.rejected.len()), (60_000, 60_000));
    }
}
