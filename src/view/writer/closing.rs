//! The closes of a message that is being written: what each of them commits, and what the last one shows.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::config::AbortOn;
use crate::store::{Done, Enqueued, Patience};

use super::super::View;
use super::super::offload::{By, Call, once};
use super::{Progress, Reason, Unmet, Writer};

impl View {
    /// A close of one descriptor of a new message, by the thread `tid`. `done` gets what that close returns.
    pub(in super::super) fn close_message(self: &Arc<Self>, id: u64, tid: u32, done: Done) {
        let shared = match self.writer(id) {
            Ok(writer) => writer,
            Err(error) => return done(Err(error)),
        };
        let mut writer = shared.lock();
        let done = self.told_when_closed(&writer, tid, done);
        let process = writer.authors.closes(tid);
        // A process that is not visible cannot be told from the opener.
        let opened = process == writer.authors.opener() || process == 0;
        if writer.is_unlinked() {
            return done(Ok(()));
        }
        if !matches!(writer.state, Progress::Aborted(_)) {
            if self.note_end(&mut writer, process, tid) {
                return done(Ok(())); // to a dying process nothing is reported
            }
            if writer.unfinished.is_some() {
                return done(if opened { writer.refuse_unfinished() } else { Ok(()) });
            }
        }
        match writer.state {
            Progress::Aborted(why) => return done(Err(why.error())),
            Progress::Committed { .. } if writer.is_lost() => {
                self.abort(&mut writer, Reason::Failed);
                return done(Err(Error::Aborted));
            }
            Progress::Committed { seq, .. } if !writer.dirty => {
                writer.state = Progress::Committed { seq, later: true };
            }
            _ => {}
        }
        if writer.is_promised() {
            // The close that committed it may still wait, or have promised less: an fsync came after it.
            return if writer.durable() { self.sync_committed(&writer, true, done) } else { done(Ok(())) };
        }
        if !writer.dirty || !opened {
            return done(Ok(()));
        }
        if let Some(Unmet { bytes: true, why }) = writer.unmet {
            return done(Err(why.error()));
        }
        if writer.size() == 0 {
            drop(writer);
            return self.close_empty(shared, tid, done);
        }
        match writer.staging.file() {
            Some(file) if writer.durable() => {
                let (view, version) = (self.clone(), writer.version);
                let by = By { user: writer.producer, thread: tid };
                drop(writer);
                let work = move |turn| {
                    if let Call::Drop(why) = turn {
                        return view.close_dropped(&mut shared.lock(), why, done);
                    }
                    let synced = view.store.bodies().sync(id, &file);
                    let mut writer = shared.lock();
                    match synced {
                        // More was written meanwhile, and a later close commits it; or whoever wrote has not finished.
                        Ok(()) if writer.version != version => done(writer.refuse_unfinished()),
                        Ok(()) => view.commit(&mut writer, true, false, done),
                        Err(error) => {
                            view.abort(&mut writer, Reason::of(&error));
                            done(Err(error));
                        }
                    }
                };
                self.offload.run(by, once(work));
            }
            _ => self.commit(&mut writer, false, true, done),
        }
    }

    /// A close is not served, because its thread is being killed or too many wait already: it has promised nothing, and what it would
    /// have promised is dropped, as what any killed writer has written is.
    pub(super) fn close_dropped(&self, writer: &mut Writer, why: Error, done: Done) {
        let killed = matches!(why, Error::Interrupted);
        if !killed || writer.config.abort_on != AbortOn::Never {
            let (queue, name) = (self.store.label(writer.queue), writer.label());
            tracing::warn!(queue, name, %why, "a close was not served: its message is dropped");
            self.abort(writer, Reason::Failed);
        }
        done(Err(why));
    }

    /// Commits a message, hidden; `done` when it is as durable as its queue promises. `synced`: its body file has been synced.
    /// `serving`: this is the thread that serves requests.
    pub(super) fn commit(self: &Arc<Self>, writer: &mut Writer, synced: bool, serving: bool, done: Done) {
        // Two closes may have waited for the sync of the same body: the second finds the work done.
        let needed = match writer.state {
            Progress::Aborted(why) => return done(Err(why.error())),
            Progress::Committed { .. } | Progress::Duplicate => writer.dirty,
            Progress::Open => true,
            Progress::Unlinked => return done(Ok(())),
        };
        if needed && let Err(error) = self.commit_now(writer, synced) {
            tracing::error!(queue = self.store.label(writer.queue), name = writer.label(), %error, "enqueue failed");
            self.abort(writer, Reason::of(&error));
            return done(Err(error));
        }
        if !writer.durable() {
            return done(Ok(()));
        }
        self.sync_committed(writer, serving, done);
    }

    /// Calls `done` when what was committed of a message survives a power cut: at once when it does already, or when nothing was.
    /// `serving`: this is the thread that serves requests.
    pub(super) fn sync_committed(&self, writer: &Writer, serving: bool, done: Done) {
        let committed = matches!(writer.state, Progress::Committed { .. } | Progress::Duplicate);
        if !committed || self.store.is_durable(writer.committed_at) {
            return done(Ok(()));
        }
        let lost = writer.lost.clone();
        let told: Done = Box::new(move |result| {
            // Before the answer, after which the last close may come.
            lost.fetch_or(result.is_err(), Ordering::SeqCst);
            done(result);
        });
        if serving { self.store.after_sync_serving(told) } else { self.store.after_sync(told) }
    }

    fn commit_now(&self, writer: &mut Writer, synced: bool) -> Result<()> {
        let new = writer.new_message();
        let enqueued = self.store.enqueue(new, writer.staging.body(synced)?, true, clock::now_ms())?;
        writer.dirty = false;
        writer.charge.set(0); // the message is charged
        writer.committed_at = self.store.upto();
        let Enqueued::As(seq) = enqueued else {
            writer.state = Progress::Duplicate;
            return Ok(());
        };
        writer.state = Progress::Committed { seq, later: false };
        writer.synced_body = synced;
        Ok(())
    }

    /// Syncs the body of a message that is enqueued and was not synced before. Only now: what is written after an earlier close is
    /// committed anew under the same number, and the mark that the store has of what is unsynced must stay until then.
    fn sync_body_later(self: &Arc<Self>, writer: &Writer) {
        let Some(file) = writer.staging.file().filter(|_| !writer.synced_body) else { return };
        let (view, id) = (self.clone(), writer.id());
        self.offload.run_anyway(writer.producer, move || {
            if let Err(error) = view.store.bodies().sync(id, &file).and_then(|()| view.store.body_synced(id)) {
                tracing::error!(%error, "sync of a body failed");
            }
        });
    }

    /// Drops a message: whatever was committed is taken back, and later writes and closes fail. What cannot be taken back keeps
    /// its bytes: it is there when the store is mounted again.
    pub(super) fn abort(&self, writer: &mut Writer, why: Reason) {
        if matches!(writer.state, Progress::Aborted(_) | Progress::Unlinked) {
            return;
        }
        let now = clock::now_ms();
        let mut taken_back = true;
        if let Progress::Committed { seq, .. } = writer.state
            && let Err(error) = self.store.retract(writer.queue, seq, now)
        {
            tracing::error!(queue = self.store.label(writer.queue), name = self.store.name_of(seq), %error, "a dropped message could not be taken back");
            taken_back = false;
        }
        if let Err(error) = self.store.count_aborted(writer.queue, now) {
            tracing::debug!(queue = self.store.label(writer.queue), name = writer.label(), %error, "a dropped message was not counted");
        }
        if writer.durable() {
            self.store.sync_soon();
        }
        self.store.release(writer.queue, writer.id());
        writer.state = Progress::Aborted(why);
        if taken_back && let Some(file) = writer.staging.discard() {
            self.store.discard_body(file);
        }
        self.unname(writer);
        self.arrived(writer);
    }

    /// Nobody finds it by the name under which it is being written any more.
    pub(super) fn unname(&self, writer: &Writer) {
        if let Some(key) = writer.key() {
            let shown = self.writer_attributes(writer);
            self.names.lock().close(key, writer.id(), shown);
        }
    }

    /// The last close of an open file on a new message; when it was the last of them all, the message becomes visible.
    pub(in super::super) fn release_message(self: &Arc<Self>, id: u64) {
        let Ok(shared) = self.writer(id) else { return };
        let mut writer = shared.lock();
        writer.opens -= 1;
        if writer.opens > 0 {
            return;
        }
        self.writers.lock().remove(&id);
        if self.drop_if_unfinished(&mut writer) {
            return;
        }
        let promised = writer.is_promised();
        let finished = self.finish(&mut writer);
        self.unname(&writer);
        match finished {
            Ok(Some(_)) => {
                self.arrived(&writer);
                let queue = writer.queue;
                drop(writer);
                self.became_ready(queue);
            }
            Ok(None) => self.arrived(&writer),
            Err(error) if promised => {
                tracing::error!(queue = self.store.label(writer.queue), name = writer.label(), %error, "a committed message is not shown before the next mount");
                self.arrived(&writer);
            }
            Err(Error::QueueFull) => {
                tracing::warn!(
                    queue = self.store.label(writer.queue),
                    name = writer.label(),
                    "closed before there was room for it: a message is dropped"
                );
                self.abort(&mut writer, Reason::QueueFull);
            }
            Err(error) => {
                tracing::error!(queue = self.store.label(writer.queue), name = writer.label(), %error, "enqueue failed at the last close");
                self.abort(&mut writer, Reason::Failed);
            }
        }
    }

    fn finish(self: &Arc<Self>, writer: &mut Writer) -> Result<Option<u64>> {
        if writer.is_lost() && !matches!(writer.state, Progress::Aborted(_) | Progress::Unlinked) {
            return Err(Error::Aborted);
        }
        if writer.state == Progress::Open {
            // There is nobody left who could wait.
            let unmet = if writer.unmet.is_some() { Err(Error::WouldBlock) } else { Ok(()) };
            match unmet.and_then(|()| self.reserve(writer, 1, Patience::None)) {
                Err(Error::WouldBlock) => return Err(Error::QueueFull),
                reserved => reserved?,
            }
            self.commit_now(writer, false)?;
            if writer.durable() {
                self.store.sync_soon();
            }
        }
        let now = clock::now_ms();
        let seq = match writer.state {
            Progress::Aborted(_) | Progress::Open => return Ok(None),
            Progress::Unlinked => {
                self.discard_unlinked(writer);
                return Ok(None);
            }
            Progress::Duplicate => {
                self.drop_duplicate(writer);
                self.store.count_duplicate(writer.queue, now)?;
                return Ok(None);
            }
            Progress::Committed { seq, later: false } => seq,
            // FIFO is the order of last closes; but a close has promised the message, whatever its place.
            Progress::Committed { seq, later: true } => {
                match self.store.resequence(writer.queue, seq, writer.modified_ns, now) {
                    Ok(last) => {
                        writer.state = Progress::Committed { seq: last, later: false };
                        last
                    }
                    Err(error) => {
                        tracing::error!(queue = self.store.label(writer.queue), name = self.store.name_of(seq), %error, "a message keeps the place of an earlier close");
                        seq
                    }
                }
            }
        };
        // Somebody may take it as soon as it is seen.
        self.store.watch(writer.queue, seq, now);
        let enqueued =
            self.store.reveal(writer.queue, seq, now).inspect_err(|_| self.store.departures().forget(seq))?;
        match enqueued {
            Enqueued::Duplicate => {
                self.store.departures().forget(seq);
                self.drop_duplicate(writer);
            }
            Enqueued::As(_) => {
                self.remember_written(writer, Some(seq));
                self.sync_body_later(writer);
            }
        }
        Ok(enqueued.seq())
    }

    /// The bytes of a duplicate are not wanted.
    fn drop_duplicate(&self, writer: &mut Writer) {
        self.remember_written(writer, None);
        self.store.release(writer.queue, writer.id());
        if let Some(file) = writer.staging.discard() {
            self.store.discard_body(file);
        }
    }

    /// The mount ends while a message is being written.
    pub(in super::super) fn drop_unfinished(self: &Arc<Self>, writer: &mut Writer) {
        match writer.state {
            Progress::Aborted(_) => {}
            Progress::Unlinked => self.discard_unlinked(writer),
            // A close promised it: it stays, as after a crash.
            Progress::Committed { .. } | Progress::Duplicate if !writer.dirty => {
                if let Err(error) = self.finish(writer) {
                    tracing::error!(queue = self.store.label(writer.queue), name = writer.label(), %error, "a committed message was not shown");
                }
            }
            _ => {
                tracing::warn!(
                    queue = self.store.label(writer.queue),
                    name = %String::from_utf8_lossy(&writer.name),
                    bytes = writer.size(),
                    "dropped a message that was still being written"
                );
                self.abort(writer, Reason::Failed);
            }
        }
    }
}
