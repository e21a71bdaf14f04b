//! A message that is being written, from the open that creates it to its last close.
//!
//! ```text
//!            write                 close by its opener, new bytes                    last close
//!  (create) -------> open, dirty --------------------------------> committed, hidden -----------> visible
//!                     |   ^                                           |    |
//!                     |   '---- another write: the commit is retracted'    | a writer is killed, or the commit fails
//!                     '--------------------------------------------------> aborted: nothing is enqueued
//! ```
//!
//! The kernel does not mark the last close: each close of each duplicate of the descriptor, in whatever process, is a FLUSH, and
//! only RELEASE says that it was the last. A close must be durable when it returns, and RELEASE comes too late for that: so
//! the message is committed, hidden, at a close by the process that opened it that found new bytes, and revealed at RELEASE.

use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::config::{AbortOn, Durability, Names, QueueConfig};
use crate::store::record::NewMessage;
use crate::store::{Done, Enqueued, Room};

use super::access::Caller;
use super::attributes::time_ns;
use super::staging::Staging;
use super::{View, names, process};

/// A message that is being written.
pub struct Writer {
    /// The queue it goes to.
    pub queue: u64,
    /// The name that its producer gave it.
    pub name: Vec<u8>,
    /// The name that it was created under: with the prefix of a message that it is a copy of.
    pub written_as: Vec<u8>,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits.
    pub mode: u32,
    /// The time of modification that was set, in nanoseconds since the epoch.
    pub modified_ns: Option<i64>,
    /// Properties and headers.
    pub attributes: Vec<(String, Vec<u8>)>,
    /// The configuration of the queue when it was opened.
    pub config: Arc<QueueConfig>,
    staging: Staging,
    created: SystemTime,
    /// The process that opened it; 0 when it is not visible from here.
    opener: u32,
    /// The user that opened it.
    producer: u32,
    /// Its session, once known.
    session: Option<u32>,
    /// Threads that opened or wrote it, with their processes.
    writers: Vec<(u32, u32)>,
    state: Progress,
    /// There are bytes, or attributes, that no commit covers.
    dirty: bool,
    /// Raised by each change; a commit that takes time compares it.
    version: u64,
    /// `fsync` was called: the commit is to be durable whatever the queue's durability.
    synced: bool,
    /// Open files on it.
    opens: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Not committed.
    Open,
    /// Committed and hidden under this sequence number. `later`: a close came after the one that committed.
    Committed { seq: u64, later: bool },
    /// A close has promised it, and it is not enqueued, as a duplicate of a message that is.
    Duplicate,
    /// Nothing will be enqueued.
    Aborted(Reason),
}

/// Why a message was dropped: later writes and closes say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// There was no room for a write.
    NoSpace,
    /// A write would have made it too large.
    TooLarge,
    /// A write would have made its queue too full.
    QueueFull,
    /// A writer was killed, or the disk failed.
    Failed,
}

impl Reason {
    fn of(error: &Error) -> Self {
        match error {
            Error::NoSpace => Reason::NoSpace,
            Error::MessageTooLarge => Reason::TooLarge,
            Error::QueueFull => Reason::QueueFull,
            _ => Reason::Failed,
        }
    }

    fn error(self) -> Error {
        match self {
            Reason::NoSpace => Error::NoSpace,
            Reason::TooLarge => Error::MessageTooLarge,
            Reason::QueueFull => Error::QueueFull,
            Reason::Failed => Error::Aborted,
        }
    }
}

impl Writer {
    /// A new message, opened by `caller` under the name `written_as`.
    pub fn new(new: NewMessage, written_as: &[u8], config: Arc<QueueConfig>, caller: &Caller) -> Self {
        let (id, tid) = (new.id, caller.pid);
        let opener = process::tgid(tid);
        Self {
            queue: new.queue,
            written_as: written_as.to_vec(),
            name: new.name,
            uid: new.uid,
            gid: new.gid,
            mode: new.mode,
            modified_ns: new.modified_ns,
            attributes: new.attributes,
            config,
            staging: Staging::new(id),
            created: SystemTime::now(),
            opener,
            producer: caller.uid,
            session: None,
            writers: vec![(tid, opener)],
            state: Progress::Open,
            dirty: true,
            version: 0,
            synced: false,
            opens: 1,
        }
    }

    /// Its number: that of its node, of its body file, and of the message to be.
    pub fn id(&self) -> u64 {
        self.staging.id()
    }

    /// Length so far, in bytes.
    pub fn size(&self) -> u64 {
        self.staging.size()
    }

    /// What `stat` shows as its time of modification.
    pub fn modified(&self) -> SystemTime {
        self.modified_ns.map_or(self.created, time_ns)
    }

    /// Whether that process created it.
    pub fn is_opened_by(&self, process: u32) -> bool {
        process != 0 && self.opener == process
    }

    /// Another open file on it.
    pub fn reopened(&mut self) {
        self.opens += 1;
    }

    /// Reads back what was written.
    pub fn read_at(&self, offset: u64, size: usize) -> Result<Vec<u8>> {
        self.staging.read_at(offset, size)
    }

    /// The process that a thread belongs to.
    fn process_of(&self, tid: u32) -> u32 {
        let known = self.writers.iter().find(|(thread, _)| *thread == tid);
        known.map_or_else(|| process::tgid(tid), |(_, process)| *process)
    }

    fn has_written(&self, process: u32) -> bool {
        self.writers.iter().any(|(_, writer)| *writer == process)
    }

    fn new_message(&self) -> NewMessage {
        NewMessage {
            id: self.id(),
            queue: self.queue,
            name: self.name.clone(),
            uid: self.uid,
            gid: self.gid,
            mode: self.mode,
            modified_ns: self.modified_ns,
            producer_pid: self.opener,
            attributes: self.attributes.clone(),
        }
    }

    /// Whether its name means it to everybody.
    pub fn keeps_name(&self) -> bool {
        self.config.names == Names::Keep
    }

    /// Whether a close promises durability.
    fn durable(&self) -> bool {
        self.synced || self.config.durability == Durability::Sync
    }
}

impl View {
    /// The writer of a number.
    pub(super) fn writer(&self, id: u64) -> Result<Arc<Mutex<Writer>>> {
        self.writers.lock().get(&id).cloned().ok_or(Error::Stale)
    }

    /// Notes a change that no commit covers yet: a commit made before is taken back, so that a crash from now on leaves nothing
    /// rather than a part.
    pub(super) fn touched(&self, writer: &mut Writer) -> Result<()> {
        match writer.state {
            Progress::Aborted(why) => return Err(why.error()),
            Progress::Committed { seq, .. } => {
                self.store.retract(writer.queue, seq, clock::now_ms())?;
                writer.state = Progress::Open;
                if writer.durable() {
                    self.store.sync_soon();
                }
            }
            Progress::Duplicate => writer.state = Progress::Open,
            Progress::Open => {}
        }
        writer.dirty = true;
        writer.version += 1;
        Ok(())
    }

    /// Checks that a message may become so long, and that there is room for `more` bytes.
    pub(super) fn admit(&self, config: &QueueConfig, length: u64, more: u64) -> Result<()> {
        if config.max_message_bytes > 0 && length > config.max_message_bytes {
            return Err(Error::MessageTooLarge);
        }
        self.store.space().admit(more)
    }

    /// Writes bytes into a new message.
    pub(super) fn write_message(&self, id: u64, tid: u32, offset: u64, data: &[u8]) -> Result<()> {
        let writer = self.writer(id)?;
        let mut writer = writer.lock();
        if let Progress::Aborted(why) = writer.state {
            return Err(why.error());
        }
        let written = self.write_admitted(&mut writer, tid, offset, data);
        self.whole_or_nothing(&mut writer, written)
    }

    /// What fitted before a refused write must not be taken for the message.
    fn whole_or_nothing(&self, writer: &mut Writer, written: Result<()>) -> Result<()> {
        written.map_err(|error| {
            tracing::warn!(queue = writer.queue, %error, "a write was refused: its message is dropped");
            self.abort(writer, Reason::of(&error));
            self.rejected(writer.queue, error)
        })
    }

    /// Keeps room in the queue for a message of this length. To be called when no commit counts it.
    fn reserve(&self, writer: &Writer, length: u64) -> Result<()> {
        if !writer.config.is_limited() {
            return Ok(());
        }
        self.store.reserve(writer.queue, writer.id(), Room::of_one(length))
    }

    fn write_admitted(&self, writer: &mut Writer, tid: u32, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset.checked_add(data.len() as u64).ok_or(Error::MessageTooLarge)?;
        self.admit(&writer.config, end, data.len() as u64)?;
        if !writer.writers.iter().any(|(thread, _)| *thread == tid) {
            let process = process::tgid(tid);
            writer.writers.push((tid, process));
        }
        self.touched(writer)?;
        self.reserve(writer, end)?;
        writer.staging.write_at(self.store.bodies(), offset, data)
    }

    /// Cuts or extends a new message.
    pub(super) fn truncate_message(&self, writer: &mut Writer, size: u64) -> Result<()> {
        if let Progress::Aborted(why) = writer.state {
            return Err(why.error());
        }
        let cut = self.truncate_admitted(writer, size);
        self.whole_or_nothing(writer, cut)
    }

    fn truncate_admitted(&self, writer: &mut Writer, size: u64) -> Result<()> {
        let more = size.saturating_sub(writer.size());
        self.admit(&writer.config, size, more)?;
        self.touched(writer)?;
        self.reserve(writer, size)?;
        writer.staging.truncate(self.store.bodies(), size)
    }

    /// `fsync` on a new message: the bytes are durable now, and the message will be when it is closed.
    pub(super) fn sync_message(&self, id: u64, done: Done) {
        let file = match self.writer(id) {
            Ok(writer) => {
                let mut writer = writer.lock();
                if let Progress::Aborted(why) = writer.state {
                    return done(Err(why.error()));
                }
                writer.synced = true;
                writer.staging.file()
            }
            Err(error) => return done(Err(error)),
        };
        match file {
            Some(file) => self.offload.run(Box::new(move || done(file.sync_data().map_err(Error::from)))),
            None => done(Ok(())),
        }
    }

    /// A close of one descriptor of a new message, by the thread `tid`. `done` gets what that close returns.
    pub(super) fn close_message(self: &Arc<Self>, id: u64, tid: u32, done: Done) {
        let shared = match self.writer(id) {
            Ok(writer) => writer,
            Err(error) => return done(Err(error)),
        };
        let mut writer = shared.lock();
        let done = self.told_when_closed(&writer, tid, done);
        let process = writer.process_of(tid);
        let wrote = writer.has_written(process);
        if wrote && !matches!(writer.state, Progress::Aborted(_)) {
            if process == writer.opener {
                writer.session = writer.session.or_else(|| process::session(tid));
            }
            if writer.config.abort_on == AbortOn::Killed && self.workers.killed(tid) {
                tracing::warn!(queue = writer.queue, pid = process, "a writer was killed: its message is dropped");
                self.abort(&mut writer, Reason::Failed);
                return done(Ok(())); // to a dying process nothing is reported
            }
        }
        match writer.state {
            Progress::Aborted(why) => return done(Err(why.error())),
            Progress::Committed { seq, .. } if !writer.dirty => {
                writer.state = Progress::Committed { seq, later: true };
                return done(Ok(()));
            }
            _ => {}
        }
        // An empty message is committed at its last close only: shells close duplicates before they write.
        // A process that is not visible cannot be told from the opener.
        if !writer.dirty || writer.size() == 0 || (process != writer.opener && process != 0) {
            return done(Ok(()));
        }
        match writer.staging.file() {
            Some(file) if writer.durable() => {
                let (view, version) = (self.clone(), writer.version);
                drop(writer);
                self.offload.run(Box::new(move || {
                    let synced = view.store.bodies().sync(id, &file);
                    let mut writer = shared.lock();
                    match synced {
                        // More was written meanwhile: a later close commits it.
                        Ok(()) if writer.version != version => done(Ok(())),
                        Ok(()) => view.commit(&mut writer, true, done),
                        Err(error) => {
                            view.abort(&mut writer, Reason::of(&error));
                            done(Err(error));
                        }
                    }
                }));
            }
            _ => self.commit(&mut writer, false, done),
        }
    }

    /// Commits a message, hidden; `done` when it is as durable as its queue promises. `synced`: its body file has been synced.
    fn commit(self: &Arc<Self>, writer: &mut Writer, synced: bool, done: Done) {
        // Two closes may have waited for the sync of the same body: the second finds the work done.
        let needed = match writer.state {
            Progress::Aborted(why) => return done(Err(why.error())),
            Progress::Committed { .. } | Progress::Duplicate => writer.dirty,
            Progress::Open => true,
        };
        if needed && let Err(error) = self.commit_now(writer, synced) {
            tracing::error!(queue = writer.queue, %error, "enqueue failed");
            self.abort(writer, Reason::of(&error));
            return done(Err(error));
        }
        match (writer.durable(), synced) {
            (false, _) => done(Ok(())),
            // A large body: this is not the thread that serves requests.
            (true, true) => self.store.after_sync(done),
            (true, false) => self.store.after_sync_serving(done),
        }
    }

    fn commit_now(self: &Arc<Self>, writer: &mut Writer, synced: bool) -> Result<()> {
        let new = writer.new_message();
        let enqueued = self.store.enqueue(new, writer.staging.body(synced)?, true, clock::now_ms())?;
        writer.dirty = false;
        let Enqueued::As(seq) = enqueued else {
            writer.state = Progress::Duplicate;
            return Ok(());
        };
        writer.state = Progress::Committed { seq, later: false };
        if let Some(file) = writer.staging.file().filter(|_| !synced) {
            let (view, id) = (self.clone(), writer.id());
            let sync = move || view.store.bodies().sync(id, &file).and_then(|()| view.store.body_synced(id));
            self.offload.run(Box::new(move || {
                if let Err(error) = sync() {
                    tracing::error!(%error, "sync of a body failed");
                }
            }));
        }
        Ok(())
    }

    /// Drops a message: whatever was committed is taken back, and later writes and closes fail.
    fn abort(&self, writer: &mut Writer, why: Reason) {
        let now = clock::now_ms();
        if let Progress::Committed { seq, .. } = writer.state
            && let Err(error) = self.store.retract(writer.queue, seq, now)
        {
            tracing::error!(queue = writer.queue, seq, %error, "a dropped message could not be taken back");
        }
        if let Err(error) = self.store.count_aborted(writer.queue, now) {
            tracing::debug!(queue = writer.queue, %error, "a dropped message was not counted");
        }
        if writer.durable() {
            self.store.sync_soon();
        }
        self.store.release(writer.queue, writer.id());
        writer.state = Progress::Aborted(why);
        if let Some(file) = writer.staging.discard() {
            self.store.discard_body(file);
        }
        self.arrived(writer);
    }

    /// The last close of an open file on a new message; when it was the last of them all, the message becomes visible.
    pub(super) fn release_message(self: &Arc<Self>, id: u64) {
        let Ok(shared) = self.writer(id) else { return };
        let mut writer = shared.lock();
        writer.opens -= 1;
        if writer.opens > 0 {
            return;
        }
        self.writers.lock().remove(&id);
        match self.finish(&mut writer) {
            Ok(Some(seq)) => {
                if writer.keeps_name() {
                    self.arrived(&writer);
                } else {
                    self.remember_name(&writer, seq);
                }
                let queue = writer.queue;
                drop(writer);
                self.became_ready(queue);
            }
            Ok(None) => self.arrived(&writer),
            Err(error) => {
                tracing::error!(queue = writer.queue, %error, "enqueue failed at the last close");
                self.abort(&mut writer, Reason::Failed);
            }
        }
    }

    fn finish(self: &Arc<Self>, writer: &mut Writer) -> Result<Option<u64>> {
        if writer.state == Progress::Open {
            self.commit_now(writer, false)?;
            if writer.durable() {
                self.store.sync_soon();
            }
        }
        let now = clock::now_ms();
        let seq = match writer.state {
            Progress::Aborted(_) | Progress::Open => return Ok(None),
            Progress::Duplicate => {
                self.drop_duplicate(writer);
                self.store.count_duplicate(writer.queue, now)?;
                return Ok(None);
            }
            Progress::Committed { seq, later: false } => seq,
            // FIFO is the order of last closes.
            Progress::Committed { seq, later: true } => {
                self.store.resequence(writer.queue, seq, writer.modified_ns, now)?
            }
        };
        let enqueued = self.store.reveal(writer.queue, seq, now)?;
        if enqueued == Enqueued::Duplicate {
            self.drop_duplicate(writer);
        }
        Ok(enqueued.seq())
    }

    /// The bytes of a duplicate are not wanted.
    fn drop_duplicate(&self, writer: &mut Writer) {
        self.store.release(writer.queue, writer.id());
        if let Some(file) = writer.staging.discard() {
            self.store.discard_body(file);
        }
    }

    /// The name goes on meaning this message to the session that wrote it.
    fn remember_name(&self, writer: &Writer, seq: u64) {
        let session = writer.session.or_else(|| process::session(writer.opener));
        if let Some(session) = session {
            let by = names::Writer { session, uid: writer.producer };
            self.names.lock().set(writer.queue, &writer.written_as, by, seq);
        }
    }

    /// The mount ends while a message is being written.
    pub(super) fn drop_unfinished(self: &Arc<Self>, writer: &mut Writer) {
        match writer.state {
            Progress::Aborted(_) => {}
            // A close promised it: it stays, as after a crash.
            Progress::Committed { .. } | Progress::Duplicate if !writer.dirty => {
                if let Err(error) = self.finish(writer) {
                    tracing::error!(queue = writer.queue, %error, "a committed message was not shown");
                }
            }
            _ => {
                tracing::warn!(
                    queue = writer.queue,
                    name = %String::from_utf8_lossy(&writer.name),
                    bytes = writer.size(),
                    "dropped a message that was still being written"
                );
                self.abort(writer, Reason::Failed);
            }
        }
    }
}
