//! What `mqfs put` stages is not to outlive it, however it ends: drafts and batches whose names say so ([`is_staged`]) go with their
//! last close, unless they have been published.
//!
//! Of a batch the directory is what its maker has open. When that is closed while a file in it is open, or the batch is being
//! enqueued, the batch goes at the end of that. One without files stays: its maker may be about to open it, and whoever looks at it
//! meanwhile closes it, too. That, and what nobody was there to see closed (the mount went away), has a deadline instead, as
//! drafts have with `draft_ttl`.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::name::is_staged;

use super::access::Caller;
use super::draft::DraftUse;
use super::handles::Handle;
use super::{Node, View};

/// The staged batches that are known; the lock is a leaf.
#[derive(Default)]
pub(super) struct Staged(Mutex<Batches>);

#[derive(Default)]
struct Batches {
    /// How often the directory of each is open.
    open: HashMap<u64, u32>,
    /// Those that are to go, and are in use still.
    left: HashSet<u64>,
}

impl Staged {
    fn opened(&self, batch: u64) {
        *self.0.lock().open.entry(batch).or_default() += 1;
    }

    /// True when it is open no more.
    fn closed(&self, batch: u64) -> bool {
        let open = &mut self.0.lock().open;
        let Some(count) = open.get_mut(&batch) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            open.remove(&batch);
        }
        last
    }

    /// Whether somebody has the directory of that batch open.
    pub fn is_open(&self, batch: u64) -> bool {
        self.0.lock().open.contains_key(&batch)
    }

    fn is_left(&self, batch: u64) -> bool {
        self.0.lock().left.contains(&batch)
    }

    fn leave(&self, batch: u64, left: bool) {
        let all = &mut self.0.lock().left;
        if left {
            all.insert(batch)
        } else {
            all.remove(&batch)
        };
    }
}

impl View {
    /// Opens a directory; gives the number to close it by, or 0 when nobody has to be told of that.
    pub fn open_directory(&self, caller: &Caller, directory: Node) -> Result<u64> {
        let Node::Batch(batch) = directory else { return Ok(0) };
        if self.is_read_only() || !is_staged(&self.store.queue_record(batch)?.name) {
            return Ok(0);
        }
        self.handles.admit(caller, true)?;
        self.staged.opened(batch);
        Ok(self.handles.add(caller, Handle::Batch(batch)))
    }

    /// The directory of a batch was closed.
    pub(super) fn release_batch(&self, batch: u64) {
        if self.staged.closed(batch) {
            self.drop_staged_batch(batch);
        }
    }

    /// Something that may have kept a batch from going is over.
    pub(super) fn left_alone(&self, batch: u64) {
        if self.staged.is_left(batch) {
            self.drop_staged_batch(batch);
        }
    }

    fn drop_staged_batch(&self, batch: u64) {
        let label = self.store.label(batch);
        let goes = || -> Result<bool> {
            let files = self.store.queue(batch)?.counters.drafts;
            Ok(files > 0 && is_staged(&self.store.queue_record(batch)?.name) && !self.staged.is_open(batch))
        };
        let dropped = match goes() {
            Ok(true) => self.drop_idle_batch(batch, clock::now_ms()),
            Ok(false) => return self.staged.leave(batch, false),
            Err(error) => Err(error),
        };
        self.staged.leave(batch, matches!(dropped, Ok(None)));
        match dropped {
            Ok(Some(files)) => {
                tracing::info!(batch = label, files, "a staged batch was closed and not enqueued: removed")
            }
            Ok(None) | Err(Error::NotFound) => {} // it is in use; it was enqueued or removed
            Err(error) => tracing::error!(batch = label, %error, "a staged batch is not removed yet"),
        }
    }

    /// Nobody uses a draft any more; to be called under the lock of the drafts, so that nobody opens it meanwhile.
    pub(super) fn drop_staged_draft(&self, id: u64, used: &DraftUse) {
        let Some(last) = used.record().filter(|last| is_staged(&last.name)) else { return };
        let dropped = match self.store.draft(id) {
            Ok(now) if is_staged(&now.name) => self.store.remove_draft(id, clock::now_ms()),
            Ok(_) | Err(Error::NotFound) => return, // it has another name, or is a message
            Err(error) => Err(error),
        };
        let queue = self.store.label(last.queue);
        match dropped {
            Ok(()) => tracing::info!(queue, "a staged draft was closed and not enqueued: removed"),
            Err(Error::NotFound) => {}
            Err(error) => tracing::error!(queue, %error, "a staged draft is not removed yet"),
        }
    }
}
