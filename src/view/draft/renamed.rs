//! A draft that was renamed to a visible name while it is open for writing. It is enqueued when its last writer closes it; until then
//! those who gave the name find it by that, as they find what they write under a name of their own.

use crate::clock;
use crate::error::{Error, Result};
use crate::store::Published;

use super::super::access::Caller;
use super::super::descriptors::{Others, others};
use super::super::unfinished::DESCRIPTORS;
use super::super::{Node, View, process};
use super::Target;

impl View {
    /// Where a draft goes that waits for its last writer.
    pub(in super::super) fn renamed_draft(&self, id: u64) -> Option<Target> {
        let drafts = self.drafts.lock();
        drafts.get(&id).filter(|used| used.waits()).and_then(|used| used.publishing.clone())
    }

    /// Whether it waits in a queue that keeps names, and another process has given it the name: who is told of its close finds it
    /// when it is there.
    pub(in super::super) fn renamed_may_arrive(&self, caller: &Caller, id: u64) -> bool {
        self.renamed_draft(id).is_some_and(|target| {
            self.store.keeps_names(target.queue).unwrap_or(false) && target.pid != process::tgid(caller.pid)
        })
    }

    /// From now on its name means it.
    pub(super) fn name_renamed(&self, id: u64, target: &Target) {
        if let Some(key) = target.key() {
            self.names.lock().open(key, target.pid, id);
        }
    }

    /// From now on its name means the message, or nothing.
    pub(super) fn unname_renamed(&self, id: u64, target: &Target) {
        if let Some(key) = target.key() {
            self.names.lock().unname(&key, id);
        }
    }

    /// Unlinks its new name. A process that has it open drops it: nothing is enqueued, and its descriptor goes on as that of an
    /// unlinked file. To others it is as if it were not there.
    pub(in super::super) fn unlink_renamed(&self, caller: &Caller, id: u64) -> Result<()> {
        let target = self.renamed_draft(id).ok_or(Error::NotFound)?;
        let has_open = match others(caller.pid, Node::Draft(id).inode(), DESCRIPTORS) {
            Others::Some => true,
            Others::None => false,
            Others::TooMany | Others::Unknown => target.pid == process::tgid(caller.pid),
        };
        if !has_open {
            if let Some(key) = target.key() {
                self.names.lock().hide(&key, id);
            }
            return Err(Error::NotFound);
        }
        {
            // Its last writer may have closed it since.
            let mut drafts = self.drafts.lock();
            let used = drafts.get_mut(&id).filter(|used| used.waits()).ok_or(Error::NotFound)?;
            used.publishing = None;
        }
        debug_assert_eq!(target.then, Published::Gone);
        let now = clock::now_ms();
        self.unname_renamed(id, &target);
        self.end_arrival(target.queue, &target.name, target.id);
        self.store.release(target.queue, id);
        self.unlink_draft(id, now)?;
        self.store.count_aborted(target.queue, now)
    }
}
