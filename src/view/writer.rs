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
//!
//! In a queue that lets its producers wait, the first write waits for room, or, as long as there are no bytes, the close. Room
//! that a message has is kept for it as long as it is written.

mod authors;
mod closing;
mod empty;
mod endings;
mod room;
mod unlinked;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use crate::clock;
use crate::error::{Error, Result};
use crate::locks::{self, Ranked};
use crate::queue::config::{Durability, Names, QueueConfig};
use crate::store::record::NewMessage;
use crate::store::{Done, Patience, UserBytes};

use super::access::Caller;
use super::attributes::time_ns;
use super::held::Held;
use super::offload::{By, Call, once};
use super::staging::{Staging, end_of_write};
use super::{View, names};

use authors::Authors;
use endings::Unfinished;

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
    /// The time of access that was set, in nanoseconds since the epoch.
    pub accessed_ns: Option<i64>,
    /// Properties and headers.
    pub attributes: Vec<(String, Vec<u8>)>,
    /// What these hold of the memory that there is for those of all.
    pub held: Held,
    /// What counts its bytes against its owner until a commit does.
    charge: UserBytes,
    /// The configuration of the queue when it was opened.
    pub config: Arc<QueueConfig>,
    staging: Staging,
    created: SystemTime,
    /// The user that opened it.
    producer: u32,
    /// Whose its name is; `None` when the session of its opener is not visible from here.
    by: Option<names::Writer>,
    /// The processes that opened or wrote it.
    authors: Authors,
    /// Whoever wrote last had not finished when it ended.
    unfinished: Option<Unfinished>,
    state: Progress,
    /// There are bytes, or attributes, that no commit covers.
    dirty: bool,
    /// Raised by each change; a commit that takes time compares it.
    version: u64,
    /// `fsync` was called: the commit is to be durable whatever the queue's durability.
    synced: bool,
    /// The number of the store's last change when it was committed.
    committed_at: u64,
    /// Its body file was synced before that.
    synced_body: bool,
    /// A sync after a commit failed: its close said so, and the message must not be seen.
    lost: Arc<AtomicBool>,
    /// Open files on it.
    opens: u32,
    /// Room is kept for it, or was.
    holds_room: bool,
    /// A call found no room, and no other has made up for it.
    unmet: Option<Unmet>,
}

/// A call that found no room.
#[derive(Clone, Copy, Debug)]
struct Unmet {
    /// It had bytes.
    bytes: bool,
    /// What later closes say.
    why: Reason,
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
    /// Its writer has unlinked it: nothing will be enqueued, and it goes on as an unlinked file.
    Unlinked,
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
    /// A write would have given its owner more than one user may have.
    UserLimit(&'static str),
    /// The mount was going away while a write waited for room.
    GoingAway,
    /// A writer was killed, or the disk failed.
    Failed,
}

impl Reason {
    fn of(error: &Error) -> Self {
        match error {
            Error::NoSpace => Reason::NoSpace,
            Error::MessageTooLarge => Reason::TooLarge,
            Error::QueueFull => Reason::QueueFull,
            Error::UserLimit(option) => Reason::UserLimit(option),
            Error::GoingAway => Reason::GoingAway,
            _ => Reason::Failed,
        }
    }

    fn error(self) -> Error {
        match self {
            Reason::NoSpace => Error::NoSpace,
            Reason::TooLarge => Error::MessageTooLarge,
            Reason::QueueFull => Error::QueueFull,
            Reason::UserLimit(option) => Error::UserLimit(option),
            Reason::GoingAway => Error::GoingAway,
            Reason::Failed => Error::Aborted,
        }
    }
}

impl Writer {
    /// The name that its producer gave it, for the log.
    pub(super) fn label(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }

    /// A new message, opened by `caller` under the name `written_as`; `held` is for its attributes, `charge` and `staging` for its
    /// bytes. `holds_room`: room is kept for it.
    pub fn new(
        new: NewMessage,
        (held, charge, staging): (Held, UserBytes, Staging),
        written_as: &[u8],
        config: Arc<QueueConfig>,
        caller: &Caller,
        holds_room: bool,
    ) -> Self {
        Self {
            queue: new.queue,
            written_as: written_as.to_vec(),
            name: new.name,
            uid: new.uid,
            gid: new.gid,
            mode: new.mode,
            modified_ns: new.modified_ns,
            accessed_ns: new.accessed_ns,
            attributes: new.attributes,
            held,
            charge,
            config,
            staging,
            created: SystemTime::now(),
            producer: caller.uid,
            by: View::namer(caller),
            authors: Authors::new(caller.pid),
            unfinished: None,
            state: Progress::Open,
            dirty: true,
            version: 0,
            synced: false,
            committed_at: 0,
            synced_body: false,
            lost: Arc::default(),
            opens: 1,
            holds_room,
            unmet: None,
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

    /// What `stat` shows as its time of access.
    pub fn accessed(&self) -> SystemTime {
        self.accessed_ns.map_or(self.created, time_ns)
    }

    /// Whether that process created it.
    pub fn is_opened_by(&self, process: u32) -> bool {
        process != 0 && self.authors.opener() == process
    }

    /// The process that created it; 0 when it is not visible from here.
    pub fn opener(&self) -> u32 {
        self.authors.opener()
    }

    /// The name by which the session that created it finds it.
    pub fn key(&self) -> Option<names::Key> {
        self.by.map(|by| names::Key { queue: self.queue, name: self.written_as.clone(), by })
    }

    /// Another open file on it.
    pub fn reopened(&mut self) {
        self.opens += 1;
    }

    /// Reads back what was written.
    pub fn read_at(&self, offset: u64, size: usize) -> Result<Vec<u8>> {
        self.staging.read_at(offset, size)
    }

    /// It is that user's from now on.
    pub fn turn_to(&mut self, uid: u32) {
        self.uid = uid;
        self.charge.turn_to(uid);
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
            accessed_ns: self.accessed_ns,
            producer_pid: self.authors.opener(),
            attributes: self.attributes.clone(),
        }
    }

    /// Whether its name means it to everybody.
    pub fn keeps_name(&self) -> bool {
        self.config.names == Names::Keep
    }

    /// Whether a close has said that it failed.
    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    /// Whether a close has said that all of it is enqueued.
    fn is_promised(&self) -> bool {
        matches!(self.state, Progress::Committed { .. } | Progress::Duplicate) && !self.dirty && !self.is_lost()
    }

    /// Whether a close promises durability.
    fn durable(&self) -> bool {
        self.synced || self.config.durability == Durability::Sync
    }
}

/// A writer that descriptors and threads share.
pub type SharedWriter = Ranked<Writer, { locks::FILE }>;

impl View {
    /// The writer of a number.
    pub(super) fn writer(&self, id: u64) -> Result<Arc<SharedWriter>> {
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
                writer.charge.set(writer.staging.size());
                if writer.durable() {
                    self.store.sync_soon();
                }
            }
            Progress::Duplicate => writer.state = Progress::Open,
            Progress::Open => {}
            Progress::Unlinked => return Ok(()),
        }
        writer.dirty = true;
        writer.version += 1;
        Ok(())
    }

    /// Checks that a message may become so long, and that there is room for `more` bytes.
    pub(super) fn admit(&self, config: &QueueConfig, length: u64, more: u64) -> Result<()> {
        config.admit_size(length)?;
        self.store.admit_bytes(more)
    }

    /// Writes bytes into a new message, or nothing. [`Error::WouldBlock`] when there is no room and it is worth trying again;
    /// after another error the message is dropped: what fitted before a refused write must not be taken for it.
    fn write_now(&self, writer: &mut Writer, tid: u32, offset: u64, data: &[u8], patience: Patience) -> Result<()> {
        match writer.state {
            Progress::Aborted(why) => return Err(why.error()),
            Progress::Unlinked => return self.write_unlinked(writer, offset, data),
            _ => {}
        }
        let written = self.write_admitted(writer, tid, offset, data, patience);
        if written.is_ok() {
            writer.unmet = None;
        }
        self.whole_or_nothing(writer, written)
    }

    fn whole_or_nothing(&self, writer: &mut Writer, written: Result<()>) -> Result<()> {
        written.map_err(|error| {
            if matches!(error, Error::WouldBlock) {
                return error;
            }
            tracing::warn!(queue = self.store.label(writer.queue), name = writer.label(), %error, "a write was refused: its message is dropped");
            self.abort(writer, Reason::of(&error));
            self.rejected(writer.queue, error)
        })
    }

    fn write_admitted(
        &self,
        writer: &mut Writer,
        tid: u32,
        offset: u64,
        data: &[u8],
        patience: Patience,
    ) -> Result<()> {
        let end = end_of_write(offset, data.len())?;
        self.admit(&writer.config, end, end.saturating_sub(writer.size()).max(data.len() as u64))?;
        writer.note_change(tid);
        self.touched(writer)?;
        self.reserve(writer, end, patience)?;
        self.store.hold_bytes(&mut writer.charge, end)?;
        writer.staging.write_at(self.store.bodies(), offset, data)
    }

    /// Cuts or extends a new message, for the thread `tid`. [`Error::WouldBlock`], and nothing done, when there is no room and it is
    /// worth trying again.
    pub(super) fn truncate_message(&self, writer: &mut Writer, tid: u32, size: u64) -> Result<()> {
        match writer.state {
            Progress::Aborted(why) => return Err(why.error()),
            Progress::Unlinked => return self.truncate_unlinked(writer, size),
            _ => {}
        }
        let cut = self.truncate_admitted(writer, tid, size);
        if let Err(error @ Error::WouldBlock) = &cut {
            writer.found_no_room(true, error);
        }
        self.whole_or_nothing(writer, cut)
    }

    fn truncate_admitted(&self, writer: &mut Writer, tid: u32, size: u64) -> Result<()> {
        let more = size.saturating_sub(writer.size());
        self.admit(&writer.config, size, more)?;
        writer.note_change(tid);
        self.touched(writer)?;
        if more > 0 {
            self.reserve(writer, size, Patience::None)?;
            self.store.hold_bytes(&mut writer.charge, size)?;
        }
        writer.staging.truncate(self.store.bodies(), size)
    }

    /// `fsync` on a new message: the bytes are durable now, and the message will be when it is closed, or is when a close of a
    /// duplicate has committed it. After a failure the message is dropped.
    pub(super) fn sync_message(self: &Arc<Self>, id: u64, by: By, done: Done) {
        let shared = match self.writer(id) {
            Ok(writer) => writer,
            Err(error) => return done(Err(error)),
        };
        let mut writer = shared.lock();
        if let Progress::Aborted(why) = writer.state {
            return done(Err(why.error()));
        }
        writer.synced = true;
        let Some(file) = writer.staging.file() else { return self.sync_committed(&writer, true, done) };
        drop(writer);
        let view = self.clone();
        let work = move |turn| {
            if let Call::Drop(why) = turn {
                return done(Err(why));
            }
            let synced = view.store.bodies().sync(id, &file);
            let mut writer = shared.lock();
            match synced {
                Ok(()) => view.sync_committed(&writer, false, done),
                Err(error) => {
                    view.abort(&mut writer, Reason::of(&error));
                    done(Err(error));
                }
            }
        };
        self.offload.run(by, once(work));
    }
}
