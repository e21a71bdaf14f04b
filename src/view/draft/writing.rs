//! Writing a draft, and its closes.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::queue::config::{Durability, QueueConfig};
use crate::store::record::DraftRecord;
use crate::store::{Done, Published};

use super::super::View;
use super::super::offload::{By, Call, once};
use super::super::staging::end_of_write;
use super::bytes::SharedDraft;

impl View {
    /// Writes into a draft.
    pub(in super::super) fn write_draft(&self, id: u64, open: &SharedDraft, offset: u64, data: &[u8]) -> Result<()> {
        let end = end_of_write(offset, data.len())?;
        let mut draft = open.lock();
        let length = draft.size()?;
        self.admit_draft(id, end, end.saturating_sub(length).max(data.len() as u64))?;
        draft.charge(&self.store, end.max(length))?;
        draft.write_at(&self.store, offset, data)
    }

    /// Cuts or extends a draft.
    pub(in super::super) fn truncate_draft(&self, id: u64, open: &SharedDraft, size: u64) -> Result<()> {
        let mut draft = open.lock();
        self.admit_draft(id, size, size.saturating_sub(draft.size()?))?;
        draft.charge(&self.store, size)?;
        draft.truncate(&self.store, size)
    }

    /// Checks that a draft may become so long, and that there is room for `more` bytes.
    fn admit_draft(&self, id: u64, length: u64, more: u64) -> Result<()> {
        match self.store.draft(id) {
            Ok(draft) => self.admit(&self.store.queue(draft.queue)?.config, length, more),
            // An unlinked draft has no queue to set a limit, but takes room as well.
            Err(_) => self.store.space().admit(more),
        }
    }

    /// Puts into the database what was written to a draft; `done` when it survives a crash of mqfs.
    fn put_draft(self: &Arc<Self>, id: u64, open: &Arc<SharedDraft>, by: By, done: Done) {
        // What is done afterwards may need the lock.
        let put = open.lock().put(&self.store);
        let file = match put {
            Ok(Some(file)) => file,
            put => return done(put.map(drop)),
        };
        let (view, open) = (self.clone(), open.clone());
        let work = move |turn| {
            let synced = if let Call::Drop(why) = turn { Err(why) } else { view.store.bodies().sync(id, &file) };
            let entered = synced.and_then(|()| open.lock().enter_file(&view.store));
            done(entered);
        };
        self.offload.run(by, once(work));
    }

    /// `fsync` on a draft: its bytes, its name and its record.
    pub(in super::super) fn sync_draft(self: &Arc<Self>, id: u64, open: &Arc<SharedDraft>, by: By, done: Done) {
        let put = {
            let mut draft = open.lock();
            draft.promise();
            draft.put(&self.store).map(|_| draft.file())
        };
        let file = match put {
            Ok(Some(file)) => file,
            Ok(None) => return self.store.after_sync_serving(done),
            Err(error) => return done(Err(error)),
        };
        let (view, open) = (self.clone(), open.clone());
        let work = move |turn| {
            let synced = if let Call::Drop(why) = turn { Err(why) } else { view.store.bodies().sync(id, &file) };
            let entered = synced.and_then(|()| open.lock().enter_file(&view.store));
            match entered {
                Ok(()) => view.store.after_sync(done),
                Err(error) => done(Err(error)),
            }
        };
        self.offload.run(by, once(work));
    }

    /// The thread `by` has closed a descriptor of a draft. When `done` is called, what was written survives a crash of mqfs. If the
    /// draft was renamed already, it may be about to arrive. Only its release tells that this was the last close; but its bytes are as
    /// durable then as the queue promises, as those of a draft at least. [`Error::MessageTooLarge`] when it would not be enqueued, and
    /// [`Error::NotFound`] when it would not because the delivery that it settles is over.
    pub(in super::super) fn draft_closed(self: &Arc<Self>, id: u64, open: &Arc<SharedDraft>, by: By, done: Done) {
        let target = {
            let drafts = self.drafts.lock();
            let publishing = drafts.get(&id).and_then(|used| used.publishing.as_ref());
            publishing.map(|target| (target.id, target.queue, target.then, target.settles))
        };
        let Some((message, queue, then, settles)) = target else { return self.put_draft(id, open, by, done) };
        let view = self.clone();
        let done: Done = Box::new(move |result| {
            view.arrivals.closed(message, by.thread, false);
            done(result);
        });
        if then == Published::Stays {
            return self.put_draft(id, open, by, done);
        }
        let fits = |config: Arc<QueueConfig>| {
            config.admit_size(open.lock().size()?)?;
            settles.map_or(Ok(()), |(_, settles)| self.store.check_lasts(settles))?;
            Ok(config.durability)
        };
        match self.store.config(queue).and_then(fits) {
            Ok(Durability::Sync) => self.sync_draft(id, open, by, done),
            Ok(Durability::Async) => self.put_draft(id, open, by, done),
            Err(error) => done(Err(error)),
        }
    }

    /// An open file on a draft was closed for the last time. What came after its closes, as the writes of a mapping do, is put into the
    /// database now.
    pub(in super::super) fn release_draft(self: &Arc<Self>, id: u64, open: &Arc<SharedDraft>, writes: bool) {
        if !writes {
            return self.end_use(id, open, false);
        }
        let owner = open.lock().record().uid;
        let (view, of) = (self.clone(), open.clone());
        let done: Done = Box::new(move |put| {
            if let Err(error) = put {
                let (queue, name) = view.told_of_draft(id, &of);
                tracing::error!(queue, name, %error, "what was written to a draft last could not be kept");
            }
            view.end_use(id, &of, true);
        });
        self.put_draft(id, open, By::nobody(owner), done);
    }

    /// Does something to the bytes of a draft of that record, as whoever opens it to write does, and puts what it has made of them.
    pub(in super::super) fn with_draft(
        self: &Arc<Self>,
        id: u64,
        record: &DraftRecord,
        work: impl FnOnce(&Arc<SharedDraft>) -> Result<()>,
    ) -> Result<()> {
        let open = self.begin_use(id, record.uid, record, true)?;
        let done = work(&open).and_then(|()| match self.has_one_writer(id) {
            true => open.lock().put(&self.store).map(drop),
            // A close of theirs does.
            false => Ok(()),
        });
        self.release_draft(id, &open, true);
        done
    }

    /// For the log: its queue and name.
    fn told_of_draft(&self, id: u64, open: &SharedDraft) -> (String, String) {
        let draft = self.store.draft(id).unwrap_or_else(|_| open.lock().record().clone());
        (self.store.label(draft.queue), String::from_utf8_lossy(&draft.name).into_owned())
    }

    /// Somebody uses a draft no more.
    fn end_use(self: &Arc<Self>, id: u64, open: &Arc<SharedDraft>, writes: bool) {
        let Some((target, last_writer)) = self.count_off(id, writes) else { return };
        if last_writer {
            self.settle_draft(id, open);
        }
        let (queue, owner) = {
            let draft = open.lock();
            (draft.record().queue, draft.record().uid)
        };
        self.left_alone(queue);
        let Some(target) = target else { return };
        let (queue, name) = self.told_of_draft(id, open);
        let (view, renamed) = (self.clone(), target.clone());
        let report = Box::new(move |result: Result<()>| {
            view.unname_renamed(id, &renamed);
            match result {
                Ok(()) => {}
                Err(error @ (Error::Io(_) | Error::Damaged(_) | Error::NoSpace)) => {
                    tracing::error!(queue, name, %error, "a renamed draft could not be enqueued at its last close");
                }
                // What others did meanwhile, in its queue: it was full, or the name was claimed.
                Err(error) => {
                    tracing::warn!(queue, name, %error, "a renamed draft could not be enqueued at its last close");
                }
            }
        });
        self.publish_now(id, target, By::nobody(owner), report);
    }

    /// Nobody writes a draft any more: its owner is charged for what there is, and nothing of it is kept in memory.
    fn settle_draft(&self, id: u64, open: &SharedDraft) {
        let mut draft = open.lock();
        draft.settle();
        let settled = match (draft.file(), draft.size()) {
            (None, _) => return,
            (Some(_), size) => size.and_then(|size| self.store.charge_draft(id, size, false)),
        };
        drop(draft);
        if let Err(error) = settled
            && !matches!(error, Error::NotFound)
        {
            let (queue, name) = self.told_of_draft(id, open);
            tracing::warn!(queue, name, %error, "a draft is charged for more than it has");
        }
    }

    /// The mount ends, and some have drafts open: what they wrote is put into the database.
    pub(in super::super) fn put_open_drafts(&self) {
        let open: Vec<_> = self.drafts.lock().iter().filter_map(|(id, used)| Some((*id, used.open.clone()?))).collect();
        for (id, open) in open {
            let mut draft = open.lock();
            let put = draft.put(&self.store).and_then(|file| {
                file.map_or(Ok(()), |file| self.store.bodies().sync(id, &file))?;
                draft.enter_file(&self.store)
            });
            drop(draft);
            if let Err(error) = put {
                let (queue, name) = self.told_of_draft(id, &open);
                tracing::error!(queue, name, %error, "what was written to a draft last could not be kept");
            }
        }
    }
}
