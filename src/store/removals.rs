//! The removal of body files. It waits while a snapshot of the store is being made, which names files that may have lost
//! their messages meanwhile.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::bodies;

/// How body files are removed.
#[derive(Debug, Default)]
pub struct Removals {
    /// What is to be removed when the snapshot is done; `None` when none is being made.
    waiting: Mutex<Option<Vec<PathBuf>>>,
}

impl Removals {
    /// Removes a file that no record names any more: now, or when no snapshot is being made.
    pub fn remove(&self, path: PathBuf) {
        let mut waiting = self.waiting.lock();
        match &mut *waiting {
            Some(waiting) => waiting.push(path),
            None => {
                drop(waiting);
                bodies::remove(&path);
            }
        }
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
        waiting.into_iter().flatten().for_each(|path| bodies::remove(&path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_loses_its_record_during_a_snapshot_goes_when_that_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = ["a", "b"].map(|name| dir.path().join(name));
        [&first, &second].into_iter().for_each(|path| std::fs::write(path, "x").unwrap());
        let removals = Arc::new(Removals::default());
        removals.remove(first.clone());
        assert!(!first.exists());
        let held = removals.hold();
        removals.remove(second.clone());
        assert!(second.exists());
        drop(held);
        assert!(!second.exists());
    }
}
