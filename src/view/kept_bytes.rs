//! The bytes of writes that wait for room. They are bounded, so that whoever has many writers wait does not take the memory.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, Result};

/// So many bytes are kept in all.
const MOST: usize = 64 << 20;
/// One part in so many of that is the most that one ordinary user has.
const SHARE: usize = 4;

/// Counts the bytes that are kept.
pub struct KeptBytes {
    /// Who mounted: mqfs is this user's, and so is its memory.
    owner: u32,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    all: usize,
    by_user: HashMap<u32, usize>,
}

/// Bytes that are kept, and counted until this is dropped.
pub struct Kept {
    bytes: Vec<u8>,
    uid: u32,
    counted: Arc<KeptBytes>,
}

impl KeptBytes {
    /// None, in a process of the user `owner`.
    pub fn new(owner: u32) -> Arc<Self> {
        Arc::new(Self { owner, counts: Mutex::default() })
    }

    /// Copies bytes that the user `uid` writes; [`Error::WouldBlock`] when too many are kept already.
    pub fn keep(self: &Arc<Self>, uid: u32, bytes: &[u8]) -> Result<Kept> {
        let mut counts = self.counts.lock();
        let of_user = counts.by_user.get(&uid).copied().unwrap_or_default() + bytes.len();
        let own = if uid == 0 || uid == self.owner { MOST } else { MOST / SHARE };
        if of_user > own || counts.all + bytes.len() > MOST {
            return Err(Error::WouldBlock);
        }
        counts.all += bytes.len();
        counts.by_user.insert(uid, of_user);
        drop(counts);
        Ok(Kept { bytes: bytes.to_vec(), uid, counted: self.clone() })
    }
}

impl Deref for Kept {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut counts = self.counted.counts.lock();
        counts.all -= self.bytes.len();
        if let Some(of_user) = counts.by_user.get_mut(&self.uid) {
            *of_user -= self.bytes.len();
            if *of_user == 0 {
                counts.by_user.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_for_each_user_and_in_all() {
        let bytes = vec![7; MOST / SHARE / 4];
        let kept = KeptBytes::new(9);
        let keep = |uid, times| (0..times).map_while(|_| kept.keep(uid, &bytes).ok()).collect::<Vec<_>>();
        let mut ann = keep(1, 5);
        assert_eq!((ann.len(), ann[0].to_vec()), (4, bytes.clone()));
        ann.pop();
        assert_eq!((keep(1, 2).len(), ann.len()), (1, 3), "what is dropped does not count");
        let others: Vec<_> = (2..=4).flat_map(|uid| keep(uid, 5)).collect();
        let root = keep(0, 5);
        assert_eq!((others.len(), root.len(), keep(9, 5).len()), (12, 1, 0));
        drop((ann, others, root));
        assert_eq!(keep(0, 17).len(), 16);
        assert_eq!(keep(9, 17).len(), 16);
        let counts = kept.counts.lock();
        assert_eq!((counts.all, counts.by_user.len()), (0, 0));
    }
}
