//! What mqfs keeps in memory for whoever has files open: bounded in all, and for each user.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, Result};

/// The last of what there is, one in so many, is not for ordinary users: root can go on.
const LAST: usize = 16;
/// One in so many is not for one ordinary user, but for the others: whoever leaves files open without end, or makes programs hang
/// that do, stops nobody else.
const OTHERS: usize = 4;

/// Of `most` that there is, how much may be in use in all, and by the user `uid`, for that user to get more. mqfs is that of the
/// user `owner`.
pub(super) fn shares(most: usize, uid: u32, owner: u32) -> (usize, usize) {
    match uid {
        0 => (most, most),
        _ if uid == owner => (most - most / LAST, most),
        _ => (most - most / LAST, most - most / OTHERS),
    }
}

/// Bytes that users may hold.
#[derive(Debug)]
pub struct Budget {
    most: usize,
    owner: u32,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    sum: usize,
    by_user: HashMap<u32, usize>,
}

/// Bytes that a user holds, until this is dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    uid: u32,
    bytes: usize,
}

/// Bytes that are kept, and count, until this is dropped.
pub struct Kept {
    bytes: Vec<u8>,
    /// For its drop.
    _held: Held,
}

impl Budget {
    /// So many bytes, which mqfs, run by the user `owner`, can keep for all.
    pub fn new(most: usize, owner: u32) -> Arc<Self> {
        Arc::new(Self { most, owner, used: Mutex::default() })
    }

    /// Gives bytes to a user; [`Error::TooManyOpen`] when too many are held.
    pub fn hold(self: &Arc<Self>, uid: u32, bytes: usize) -> Result<Held> {
        let mut held = Held { budget: self.clone(), uid, bytes: 0 };
        held.resize(bytes)?;
        Ok(held)
    }

    /// Copies a user's bytes; [`Error::TooManyOpen`] when too many are held.
    pub fn keep(self: &Arc<Self>, uid: u32, bytes: &[u8]) -> Result<Kept> {
        Ok(Kept { _held: self.hold(uid, bytes.len())?, bytes: bytes.to_vec() })
    }
}

impl Deref for Kept {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Held {
    /// From now on it is so many bytes; [`Error::TooManyOpen`], and as many as before, when these are more and too many are held.
    pub fn resize(&mut self, bytes: usize) -> Result<()> {
        let Budget { most, owner, used } = &*self.budget;
        let mut used = used.lock();
        let sum = used.sum - self.bytes + bytes;
        let own = used.by_user.get(&self.uid).copied().unwrap_or_default() - self.bytes + bytes;
        let (most_of_all, most_of_user) = shares(*most, self.uid, *owner);
        if bytes > self.bytes && (sum > most_of_all || own > most_of_user) {
            return Err(Error::TooManyOpen);
        }
        used.sum = sum;
        match own {
            0 => used.by_user.remove(&self.uid),
            own => used.by_user.insert(self.uid, own),
        };
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.resize(0); // less is never refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: u32 = 1;
    const BOB: u32 = 2;
    const ROOT: u32 = 0;

    #[test]
    fn nobody_takes_what_is_for_the_others() {
        let budget = Budget::new(160, ROOT);
        let mut anns = budget.hold(ANN, 100).unwrap();
        assert!(anns.resize(121).is_err() && anns.resize(120).is_ok() && budget.hold(ANN, 1).is_err());
        let bobs = budget.hold(BOB, 30).unwrap();
        assert!(budget.hold(BOB, 1).is_err(), "the last is root's");
        let roots = budget.hold(ROOT, 10).unwrap();
        assert!(budget.hold(ROOT, 1).is_err() && budget.hold(ANN, 0).is_ok());
        anns.resize(90).unwrap();
        assert!(budget.hold(BOB, 20).is_ok() && budget.hold(BOB, 21).is_err());
        drop((anns, bobs, roots));
        let used = budget.used.lock();
        assert_eq!((used.sum, used.by_user.len()), (0, 0));
    }

    #[test]
    fn who_mounted_has_all_but_the_last() {
        let budget = Budget::new(160, ANN);
        let held = budget.hold(ANN, 150).unwrap();
        assert!(budget.hold(ANN, 1).is_err() && budget.hold(ROOT, 10).is_ok());
        drop(held);
        assert!(budget.hold(BOB, 121).is_err());
    }
}
