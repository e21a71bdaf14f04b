//! Who reads body files. A message can be read to its end by whoever has it open, whatever happens to it: the file stays by being
//! open, and its checksums stay in the database until the last reader is done.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Result;
use crate::locks::{self, Ranked};

use super::db::{Batch, Db, Family};
use super::{keys, stored_sums};

/// The body files that are open.
pub(super) struct Readers {
    db: Arc<Db>,
    /// By their numbers.
    open: Ranked<HashMap<u64, Open>, { locks::READERS }>,
}

#[derive(Default)]
struct Open {
    readers: usize,
    /// A change that removes the message leaves the checksums to the last reader. It may have failed.
    left: bool,
}

/// Somebody reads a body file, as long as this lives.
pub(super) struct Reading {
    readers: Arc<Readers>,
    body: u64,
}

impl Readers {
    pub fn new(db: Arc<Db>) -> Arc<Self> {
        Arc::new(Self { db, open: Ranked::default() })
    }

    /// Somebody begins to read a body file. To be called under the store's lock, under which its message was seen to be there: so
    /// a change that removes it either sees the reader, or came before.
    pub fn begin(self: &Arc<Self>, body: u64) -> Reading {
        self.open.lock().entry(body).or_default().readers += 1;
        Reading { readers: self.clone(), body }
    }

    /// Adds to a change, under the store's lock: the message of a body file of that length vanishes, and the checksums do, unless
    /// somebody reads it.
    pub fn delete_sums(&self, batch: &mut Batch<'_>, body: u64, size: u64) {
        match self.open.lock().get_mut(&body) {
            Some(open) => {
                open.left = true;
                batch.put(Family::Meta, &keys::left_sums(body), &size.to_be_bytes());
            }
            None => stored_sums::delete(batch, body, size),
        }
    }

    /// Removes the checksums that were left to readers, of one body or, with the prefix of all keys, of all.
    pub fn clear_left(&self, prefix: &[u8]) -> Result<()> {
        let mut batch = self.db.batch();
        self.db.scan(Family::Meta, prefix, prefix, |key, size| {
            if let (Some(body), Some(size)) = (keys::last_number(key), keys::last_number(size)) {
                stored_sums::delete(&mut batch, body, size);
            }
            batch.delete(Family::Meta, key);
            Ok(true)
        })?;
        self.db.write(batch)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let left = {
            let mut all = self.readers.open.lock();
            let Some(open) = all.get_mut(&self.body) else { return };
            open.readers -= 1;
            if open.readers > 0 {
                return;
            }
            all.remove(&self.body).is_some_and(|open| open.left)
        };
        // The change is found when it was made. One that is made right now is not, and leaves them to the next start.
        if left && let Err(error) = self.readers.clear_left(&keys::left_sums(self.body)) {
            tracing::debug!(body = self.body, %error, "checksums are left to the next start");
        }
    }
}
