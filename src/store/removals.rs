//! The removal of body files. It waits while a snapshot of the store is being made, which names files that may have lost
//! their messages meanwhile.

use std::sync::Arc;

use parking_lot::Mutex;

use super::beneath::Dir;
use super::bodies;

/// How body files are removed.
#[derive(Debug)]
pub struct Removals {
    store: Dir,
    /// What is to be removed when the snapshot is done; `None` when none is being made.
    waiting: Mutex<Option<Vec<u64>>>,
}

impl Removals {
    /// Those of a store.
    pub fn new(store: Dir) -> Self {
        Self { store, waiting: Mutex::default() }
    }

    /// Removes a body file that no record names any more: now, or when no snapshot is being made.
    pub fn remove(&self, id: u64) {
        let mut waiting = self.waiting.lock();
        match &mut *waiting {
            Some(waiting) => waiting.push(id),
            None => {
                drop(waiting);
                self.remove_now(id);
            }
        }
    }

    fn remove_now(&self, id: u64) {
        bodies::remove(&self.store, &bodies::place(id));
    }

    /// From now on no file is removed, until what this gives is dropped. One at a time. A file whose record was deleted before
    /// may be on its way out.
    pub fn hold(self: &Arc<Self>) -> Held {
        let before = self.waiting.lock().replace(Vec::new());
        debug_assert!(before.is_none(), "two snapshots at a time");
        Held(self.clone())
    }
}

/// No file is removed as long as this lives.
pub struct Held(Arc<Removals>);

impl Drop for Held {
    fn drop(&mut self) {
        let waiting = self.0.waiting.lock().take();
        waiting.into_iter().flatten().for_each(|id| self.0.remove_now(id));
    }
}

#[cfg(test)]
mod tests {
    use super::super::beneath::Trust;
    use super::*;

    #[test]
    fn a_file_that_loses_its_record_during_a_snapshot_goes_when_that_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let store = Dir::open(dir.path(), Trust::Own).unwrap();
        let bodies = bodies::Bodies::open(&store).unwrap();
        [1, 2].iter().for_each(|id| drop(bodies.create(*id).unwrap()));
        let removals = Arc::new(Removals::new(store));
        removals.remove(1);
        assert!(!bodies.path(1).exists());
        let held = removals.hold();
        removals.remove(2);
        assert!(bodies.path(2).exists());
        drop(held);
        assert!(!bodies.path(2).exists());
    }
}
