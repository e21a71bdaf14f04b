//! A table in memory that is bounded, and whose room is shared: when there is too much in it, whoever has most in it loses what
//! is oldest of that. So nobody who fills it makes it forget what others have there, as long as those have no more than their
//! share.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// The table: values by their keys, each of a user.
///
/// Invariant: `users` has the key of each entry once, under its user and its age, and no user without entries.
#[derive(Debug)]
pub struct FairMap<K, V> {
    most: usize,
    entries: HashMap<K, Entry<V>>,
    /// The keys of each user's, the oldest first.
    users: HashMap<u32, BTreeMap<u64, K>>,
    clock: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    uid: u32,
    age: u64,
}

impl<K: Copy + Eq + Hash, V> FairMap<K, V> {
    /// An empty table for so many entries, at least one.
    pub fn new(most: usize) -> Self {
        Self { most: most.max(1), entries: HashMap::new(), users: HashMap::new(), clock: 0 }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: K) -> Option<&V> {
        self.entries.get(&key).map(|entry| &entry.value)
    }

    /// The same, to be changed. It gets no younger by that.
    pub fn get_mut(&mut self, key: K) -> Option<&mut V> {
        self.entries.get_mut(&key).map(|entry| &mut entry.value)
    }

    /// Sets the value of a key, which is the newest of this user's then; gives what had to make way.
    ///
    /// When the table is full, that costs a look at how much each user has who has anything.
    pub fn insert(&mut self, uid: u32, key: K, value: V) -> Option<(K, V)> {
        self.remove(key);
        self.clock += 1;
        let age = self.clock;
        self.entries.insert(key, Entry { value, uid, age });
        self.users.entry(uid).or_default().insert(age, key);
        if self.entries.len() <= self.most {
            return None;
        }
        let (_, oldest) = self.users.values().max_by_key(|of| of.len())?.first_key_value()?;
        let oldest = *oldest;
        self.remove(oldest).map(|value| (oldest, value))
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: K) -> Option<V> {
        let Entry { value, uid, age } = self.entries.remove(&key)?;
        if let Some(of) = self.users.get_mut(&uid) {
            of.remove(&age);
            if of.is_empty() {
                self.users.remove(&uid);
            }
        }
        Some(value)
    }

    /// Takes out what is oldest of a user's as long as `is_over` says so of it.
    pub fn expire(&mut self, uid: u32, is_over: impl Fn(&V) -> bool) {
        while let Some((_, oldest)) = self.users.get(&uid).and_then(BTreeMap::first_key_value) {
            let oldest = *oldest;
            if !self.get(oldest).is_some_and(&is_over) {
                return;
            }
            self.remove(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consistent<V>(map: &FairMap<u32, V>) {
        assert_eq!(map.users.values().map(BTreeMap::len).sum::<usize>(), map.len());
        for (uid, of) in &map.users {
            assert!(!of.is_empty());
            assert!(of.iter().all(|(age, key)| (map.entries[key].age, map.entries[key].uid) == (*age, *uid)));
        }
    }

    /// Of one user alone the oldest goes; setting a value makes it young, looking at it does not.
    #[test]
    fn what_is_oldest_makes_way() {
        let mut map = FairMap::new(3);
        assert!(map.is_empty());
        for key in 1..4 {
            assert_eq!(map.insert(7, key, 'a'), None);
        }
        map.get(1);
        assert_eq!(map.insert(7, 4, 'b'), Some((1, 'a')));
        assert_eq!(map.insert(7, 2, 'c'), None);
        assert_eq!(map.insert(7, 5, 'd'), Some((3, 'a')));
        assert_eq!((map.get(2), map.get(1), map.len()), (Some(&'c'), None, 3));
        consistent(&map);
        assert_eq!(map.remove(2), Some('c'));
        assert_eq!(map.remove(2), None);
        consistent(&map);
        for key in [4, 5] {
            map.remove(key);
        }
        assert!(map.is_empty() && map.users.is_empty());
    }

    /// However much one user enters, the others keep what they have, up to their share; and that is all that there is for one alone.
    #[test]
    fn who_has_most_loses() {
        let mut map = FairMap::new(100);
        for key in 0..30 {
            map.insert(1, key, ());
        }
        for key in 1000..5000 {
            map.insert(2, key, ());
            assert!(map.len() <= 100);
        }
        assert!((0..30).all(|key| map.get(key).is_some()));
        assert!((4930..5000).all(|key| map.get(key).is_some()));
        // Whoever comes when it is full gets room from them.
        for key in 100..133 {
            map.insert(3, key, ());
        }
        assert!((0..30).chain(100..133).all(|key| map.get(key).is_some()));
        consistent(&map);
        for key in 200..400 {
            map.insert(1, key, ());
        }
        assert!(map.users[&3].len() >= 33 && map.users[&2].len() >= 33, "each has a share");
        consistent(&map);
    }

    /// What one enters anew that another has is the former's from then on.
    #[test]
    fn an_entry_is_its_last_writers() {
        let mut map = FairMap::new(10);
        map.insert(1, 5, 'a');
        map.insert(2, 5, 'b');
        assert_eq!((map.len(), map.users.len(), map.get(5)), (1, 1, Some(&'b')));
        *map.get_mut(5).unwrap() = 'c';
        map.insert(2, 6, 'd');
        map.insert(2, 7, 'c');
        map.expire(2, |value| *value == 'c');
        assert_eq!((map.get(5), map.get(6), map.get(7)), (None, Some(&'d'), Some(&'c')), "the oldest ones only");
        map.expire(9, |_| true);
        consistent(&map);
    }
}
