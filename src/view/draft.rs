//! Drafts: ordinary files until one is renamed (or linked) to a visible name, which publishes it.

mod bytes;
mod published;
mod renamed;
mod writing;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::name::check_entry_name;
use crate::store::record::{DraftBody, DraftRecord, InlineDraft};
use crate::store::{Published, Seen};

use super::access::{Caller, READ};
use super::attributes::{FILE_MODE, time_ns};
use super::xattr::Pairs;
use super::{Attributes, Node, View};

use bytes::OpenDraft;
pub(super) use bytes::{Content, SharedDraft, Shown};
pub(super) use published::Target;

/// A draft that somebody has open, or that is being published.
#[derive(Default)]
pub(super) struct DraftUse {
    /// Open files.
    opens: u32,
    /// Those of them that can write.
    writes: u32,
    /// Its bytes, if it was opened.
    open: Option<Arc<SharedDraft>>,
    /// It was renamed to a visible name: from then on it is neither listed nor found.
    publishing: Option<Target>,
}

impl DraftUse {
    /// It was renamed to a visible name, and waits for its last writer.
    fn waits(&self) -> bool {
        self.writes > 0 && self.publishing.as_ref().is_some_and(|to| to.then == Published::Gone)
    }

    fn idle(&self) -> bool {
        self.opens == 0 && self.publishing.is_none()
    }

    /// What its record said when it was opened last, without attributes.
    pub fn record(&self) -> Option<DraftRecord> {
        self.open.as_ref().map(|open| open.lock().record().clone())
    }
}

impl View {
    /// Makes a draft, open; gives its number and bytes.
    pub(super) fn create_draft(
        &self,
        caller: &Caller,
        (queue, name): (u64, &[u8]),
        mode: u32,
        attributes: Pairs,
        seen: Seen,
    ) -> Result<(u64, Arc<SharedDraft>)> {
        check_entry_name(name)?;
        let now = clock::now_ms();
        let info = self.store.queue(queue)?;
        let record = DraftRecord {
            queue,
            name: name.to_vec(),
            uid: caller.uid,
            gid: self.group_in(&info, caller),
            mode: mode & FILE_MODE,
            created: now,
            due: 0,
            body: DraftBody::Inline(InlineDraft::new(now)),
            attributes,
        };
        self.store.admit_bytes(0)?;
        let made = self.store.make_draft(record.clone(), seen);
        let id = made.map_err(|error| self.told_batch_full(queue, error))?;
        Ok((id, self.begin_use(id, caller.uid, &record, true)?))
    }

    /// Counts another open file of a draft; gives its bytes.
    fn begin_use(&self, id: u64, uid: u32, record: &DraftRecord, writes: bool) -> Result<Arc<SharedDraft>> {
        self.use_in(&mut self.drafts.lock(), id, uid, record, writes)
    }

    fn use_in(
        &self,
        drafts: &mut HashMap<u64, DraftUse>,
        id: u64,
        uid: u32,
        record: &DraftRecord,
        writes: bool,
    ) -> Result<Arc<SharedDraft>> {
        let open = match drafts.get(&id).and_then(|used| used.open.clone()) {
            Some(open) => {
                open.lock().reopened(&self.store, record, writes)?;
                open
            }
            None => {
                let share = Some((self.handles.staged.clone(), uid));
                Arc::new(SharedDraft::new(OpenDraft::new(&self.store, id, record, writes, share)?))
            }
        };
        let used = drafts.entry(id).or_default();
        used.opens += 1;
        used.writes += u32::from(writes);
        used.open = Some(open.clone());
        Ok(open)
    }

    /// Counts an open file of a draft off. Gives where it is to be published now, if it is, and whether nobody writes it any more.
    fn count_off(&self, id: u64, writes: bool) -> Option<(Option<Target>, bool)> {
        let mut drafts = self.drafts.lock();
        let Entry::Occupied(mut entry) = drafts.entry(id) else { return None };
        let used = entry.get_mut();
        used.opens -= 1;
        used.writes -= u32::from(writes);
        let last_writer = writes && used.writes == 0;
        let target = used.publishing.clone().filter(|target| last_writer && target.then == Published::Gone);
        if used.idle() {
            self.drop_staged_draft(id, &entry.remove());
        }
        Some((target, last_writer))
    }

    /// The bytes of a draft that somebody has open.
    pub(super) fn open_draft_of(&self, id: u64) -> Option<Arc<SharedDraft>> {
        self.drafts.lock().get(&id).and_then(|used| used.open.clone())
    }

    /// Opens a draft.
    pub(super) fn open_draft(&self, id: u64, uid: u32, writes: bool, truncate: bool) -> Result<Arc<SharedDraft>> {
        let mut drafts = self.drafts.lock();
        // One that waits for its last writer can be read.
        let only_read = |used: &DraftUse| used.waits() && !writes && !truncate;
        if drafts.get(&id).is_some_and(|used| used.publishing.is_some() && !only_read(used)) {
            return Err(Error::Stale);
        }
        // The kernel looks up again what it has found and is not there any more.
        let record = self
            .store
            .draft(id)
            .map_err(|error| if matches!(error, Error::NotFound) { Error::Stale } else { error })?;
        if writes || truncate {
            self.refuse_while_enqueued(record.queue)?;
        }
        let open = self.use_in(&mut drafts, id, uid, &record, writes)?;
        drop(drafts);
        if self.refuse_while_enqueued(record.queue).is_err() {
            open.lock().fetch(&self.store);
        }
        if truncate && writes {
            let cut = open.lock().truncate(&self.store, 0);
            if let Err(error) = cut {
                self.count_off(id, writes);
                return Err(error);
            }
        }
        Ok(open)
    }

    /// These files of a batch are about to be messages: whoever has one open to read keeps its bytes. Who opens one from now on sees
    /// to that ([`View::open_draft`]).
    pub(super) fn fetch_open(&self, files: impl Iterator<Item = u64>) {
        let open: Vec<_> = {
            let drafts = self.drafts.lock();
            files.filter_map(|id| drafts.get(&id)?.open.clone()).collect()
        };
        open.iter().for_each(|open| open.lock().fetch(&self.store));
    }

    /// Removes a draft. Its owner is charged for it as long as somebody has it open.
    pub(super) fn unlink_draft(&self, id: u64, now: u64) -> Result<()> {
        let Some(open) = self.open_draft_of(id) else { return self.store.remove_draft(id, now) };
        let mut draft = open.lock();
        draft.leave(&self.store, || self.store.remove_draft(id, now).map(|()| (true, ())))?;
        draft.charge_removed();
        Ok(())
    }

    /// Renames a draft to another draft's name, as [`Store::rename_draft`](crate::store::Store::rename_draft) does. Whoever has open
    /// what is replaced keeps it.
    pub(super) fn rename_over(
        &self,
        id: u64,
        (queue, name): (u64, &[u8]),
        (seen, keep): (Seen, bool),
        change: impl FnOnce(&mut DraftRecord) -> Result<()>,
    ) -> Result<()> {
        let rename = || {
            self.store
                .rename_draft(id, (queue, name), (seen, keep), clock::now_ms(), change)
                .map(|old| (old.is_some(), ()))
                .map_err(|error| self.told_batch_full(queue, error))
        };
        let replaced = self.store.find_draft(queue, name, seen).ok().filter(|other| *other != id);
        let Some(open) = replaced.and_then(|other| self.open_draft_of(other)) else { return rename().map(drop) };
        let mut draft = open.lock();
        draft.leave(&self.store, rename)?;
        draft.charge_removed();
        Ok(())
    }

    /// Whether a draft has been renamed to a visible name already.
    pub(super) fn is_publishing(&self, id: u64) -> bool {
        let drafts = self.drafts.lock();
        drafts.get(&id).is_some_and(|used| used.publishing.as_ref().is_some_and(|to| to.then == Published::Gone))
    }

    /// Whether somebody has a draft open for writing, or it is being published on its own.
    pub(super) fn is_unfinished(&self, id: u64) -> bool {
        self.drafts.lock().get(&id).is_some_and(|used| used.writes > 0 || used.publishing.is_some())
    }

    /// Whether somebody has a draft open for writing: then it is no message, and does not become one meanwhile.
    pub(super) fn is_written(&self, id: u64) -> bool {
        self.drafts.lock().get(&id).is_some_and(|used| used.writes > 0)
    }

    fn has_one_writer(&self, id: u64) -> bool {
        self.drafts.lock().get(&id).is_some_and(|used| used.writes == 1)
    }

    /// Refuses to publish what the caller may not read: as a message it may be read by whoever may consume.
    pub(super) fn refuse_unreadable(&self, caller: &Caller, draft: &DraftRecord) -> Result<()> {
        let owner = self.draft_owner(draft);
        if owner.is_owner(caller) || owner.allows(caller, READ) { Ok(()) } else { Err(Error::AccessDenied) }
    }

    /// Refuses to change a draft whose bytes are being made those of a message. Nobody has it open for writing then.
    pub(super) fn refuse_while_published(&self, id: u64) -> Result<()> {
        let drafts = self.drafts.lock();
        let published = drafts.get(&id).is_some_and(|used| used.publishing.is_some() && used.writes == 0);
        if published { Err(Error::Stale) } else { Ok(()) }
    }

    /// Length of a draft in bytes; `open`: its bytes, if somebody has it open.
    fn size_of(&self, id: u64, open: Option<&Arc<SharedDraft>>) -> Result<u64> {
        match open {
            Some(open) => open.lock().size(),
            None => self.stored_size(id, &self.store.draft(id)?),
        }
    }

    fn stored_size(&self, id: u64, draft: &DraftRecord) -> Result<u64> {
        Ok(match draft.body {
            DraftBody::Inline(inline) => inline.size.into(),
            DraftBody::File => self.store.bodies().metadata(id)?.len(),
        })
    }

    /// Length of a draft in bytes.
    pub(super) fn draft_size(&self, id: u64) -> Result<u64> {
        self.size_of(id, self.open_draft_of(id).as_ref())
    }

    /// The bytes of a draft that nobody has open.
    fn stored_content(&self, id: u64, draft: &DraftRecord) -> Result<Content> {
        Ok(match draft.body {
            DraftBody::Inline(inline) => Content::Stored(inline),
            DraftBody::File => Content::File(self.store.bodies().open_read(id)?.into()),
        })
    }

    /// The bytes of a draft.
    pub(super) fn draft_content(&self, id: u64) -> Result<Content> {
        match self.open_draft_of(id) {
            Some(open) => Ok(open.lock().content()),
            None => self.stored_content(id, &self.store.draft(id)?),
        }
    }

    /// The length and times of a draft.
    pub(super) fn draft_shown(&self, id: u64, draft: &DraftRecord) -> Result<Shown> {
        match (self.open_draft_of(id), &draft.body) {
            (Some(open), _) => open.lock().shown(),
            (None, DraftBody::Inline(inline)) => Ok(Shown::of(inline)),
            (None, DraftBody::File) => Shown::of_file(&self.store.bodies().metadata(id)?),
        }
    }

    /// What `stat` shows of a draft.
    pub(super) fn any_draft_attributes(&self, id: u64) -> Result<Attributes> {
        match self.store.draft(id) {
            Ok(draft) => Ok(self.draft_attributes(id, &draft, self.draft_shown(id, &draft)?)),
            // Published or removed; whoever has it open still sees it.
            Err(Error::NotFound) => {
                let open = self.open_draft_of(id).ok_or(Error::Stale)?;
                let draft = open.lock();
                Ok(self.draft_attributes(id, draft.record(), draft.shown()?))
            }
            Err(error) => Err(error),
        }
    }

    fn draft_attributes(&self, id: u64, draft: &DraftRecord, shown: Shown) -> Attributes {
        let owner = (draft.uid, draft.gid, draft.mode);
        let file = self.file(Node::Draft(id), shown.size, owner, time_ns(shown.modified_ns));
        Attributes { accessed: time_ns(shown.accessed_ns), ..file }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ViewOptions;
    use super::*;
    use crate::queue::config::QueueConfig;
    use crate::store::{INLINE_MAX, NewQueue, ROOT, Store};

    fn caller() -> Caller {
        Caller { uid: 0, gid: 0, pid: std::process::id() }
    }

    fn view() -> (tempfile::TempDir, Arc<View>, u64) {
        let dir = tempfile::tempdir().unwrap();
        let view = View::new(Store::open(dir.path(), QueueConfig::default()).unwrap(), ViewOptions::default()).unwrap();
        let queue = NewQueue { parent: ROOT, name: b"q", uid: 0, gid: 0, mode: 0o755 };
        let queue = view.store.make_queue(queue).unwrap();
        (dir, view, queue)
    }

    fn make(view: &View, queue: u64, attributes: Pairs) -> (u64, Arc<SharedDraft>) {
        view.create_draft(&caller(), (queue, b".d"), 0o644, attributes, Seen::ALL).unwrap()
    }

    #[test]
    fn attributes_of_open_drafts_are_in_the_store_only() {
        let (_dir, view, queue) = view();
        let (id, open) = make(&view, queue, vec![("user.x".to_owned(), vec![b'x'; 60_000])]);
        for writes in [true, false] {
            let again = view.open_draft(id, 0, writes, false).unwrap();
            assert!(Arc::ptr_eq(&again, &open));
            assert!(open.lock().record().attributes.is_empty() && open.lock().record().name == b".d");
        }
        drop(open);
        view.close();
    }

    /// What is put for each line of a log that grows would be the square of its length.
    #[test]
    fn a_draft_that_is_put_again_and_again_becomes_a_file() {
        let (_dir, view, queue) = view();
        let (id, open) = make(&view, queue, Pairs::new());
        let mut expected = Vec::new();
        let mut closes = 0;
        while view.store.draft(id).unwrap().body != DraftBody::File {
            view.write_draft(id, &open, expected.len() as u64, &[b'x'; 400]).unwrap();
            expected.extend([b'x'; 400]);
            open.lock().put(&view.store).unwrap();
            closes += 1;
        }
        assert!((20..50).contains(&closes) && expected.len() < INLINE_MAX, "{closes}");
        assert_eq!(std::fs::read(view.store.bodies().path(id)).unwrap(), expected);
        view.close();
    }

    /// The close of who has made one longer waits for the file: a power cut must not take what `fsync` has promised.
    #[test]
    fn a_synced_draft_is_in_the_database_until_its_file_is_synced() {
        let (_dir, view, queue) = view();
        let (id, open) = make(&view, queue, Pairs::new());
        view.write_draft(id, &open, 0, b"promised").unwrap();
        let (synced, told) = std::sync::mpsc::channel();
        view.sync_draft(
            id,
            &open,
            super::super::offload::By::nobody(0),
            Box::new(move |done| synced.send(done).unwrap()),
        );
        told.recv().unwrap().unwrap();
        view.write_draft(id, &open, INLINE_MAX as u64, b"more").unwrap();
        let stored = |view: &View| view.store.draft(id).unwrap().body;
        let DraftBody::Inline(inline) = stored(&view) else { panic!("it is a file already") };
        assert_eq!(view.store.draft_bytes(id, &inline).unwrap(), b"promised");
        view.release_draft(id, &open, true);
        view.close();
        assert_eq!(stored(&view), DraftBody::File);
        assert_eq!(view.store.bodies().metadata(id).unwrap().len(), INLINE_MAX as u64 + 4);
    }
}
