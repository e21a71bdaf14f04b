//! `.mq/lines`, open for writing: every line becomes a message.
//!
//! The lines that a write completes are enqueued, in one change, before it returns. What is behind the last newline waits for its
//! own, for each writing process apart: so processes that share a descriptor do not mix within a line. A line that never gets
//! its newline is enqueued when its process ends or at the last close, but not when the process is killed.

use std::fs::File;
use std::sync::Arc;

use crate::clock;
use crate::error::{Error, Result};
use crate::locks::{self, Ranked};
use crate::queue::config::{Durability, QueueConfig};
use crate::queue::worker::ProcessId;
use crate::store::record::NewMessage;
use crate::store::users::OVERHEAD;
use crate::store::{Done, INLINE_MAX, NewBody, UserBytes};

use super::access::Caller;
use super::handles::Handle;
use super::line_cut::Cut;
use super::line_part::{Next, Part};
use super::offload::{By, Call, once};
use super::open::{Flags, Opened};
use super::staging::Staging;
use super::waiters::{Line, Turn};
use super::{View, process};

mod ending;

/// What a line's message lets whom do, before the writer's umask.
const LINE_MODE: u32 = 0o666;

/// An open file on `.mq/lines`.
pub struct LineWriter {
    /// What its messages have in common.
    each: NewMessage,
    /// One of each process that has begun a line.
    parts: Vec<Part>,
    /// How many of them count against who opened the file.
    counted: usize,
    /// What counts their bytes against who opened it.
    charge: UserBytes,
    /// The files of long lines that are enqueued and not yet synced.
    unsynced: Vec<(u64, Arc<File>)>,
    /// Counts what was enqueued, and how far that survives a power cut.
    enqueued: u64,
    durable: u64,
    /// A sync that nobody waits for is under way.
    syncing: bool,
    /// The queue promises that what was closed survives a power cut; as of the newest write.
    sync: bool,
}

/// Lines that descriptors and threads share.
pub type SharedLines = Ranked<LineWriter, { locks::FILE }>;
type Shared = Arc<SharedLines>;

/// Which try to take bytes it is.
enum Attempt {
    /// The only one: the writer does not wait.
    Only,
    /// The first one.
    First,
    /// After a wait.
    Turn,
    /// The writer is told this instead.
    GiveUp(Error),
}

/// What was taken: how many bytes, and the long lines among them that are to be synced.
struct Taken {
    count: Result<usize>,
    files: Vec<(u64, Arc<File>)>,
}

/// The bytes of a line: its own, or in a place of their own.
fn body<'a>(line: &'a [u8], staged: &'a mut Option<Staging>) -> Result<NewBody<'a>> {
    staged.as_mut().map_or(Ok(NewBody::Inline(line)), |staged| staged.body(false))
}

impl LineWriter {
    fn part_of(&self, process: Option<ProcessId>) -> Option<usize> {
        self.parts.iter().position(|part| part.process == process)
    }

    /// How many processes' lines there is something of.
    fn begun(&self) -> usize {
        self.parts.iter().filter(|part| part.line.size() > 0).count()
    }

    fn survives(&mut self, upto: u64) {
        self.durable = self.durable.max(upto);
    }
}

impl View {
    /// Opens a queue's `.mq/lines` for writing.
    pub(super) fn open_line_writer(&self, caller: &Caller, queue: u64, flags: Flags) -> Result<Opened> {
        if flags.reads() {
            return Err(Error::Invalid("lines are read or written, not both by one descriptor".into()));
        }
        let info = self.store.queue(queue)?;
        info.config.admit(0).map_err(|error| self.rejected(queue, error))?;
        let each = NewMessage {
            id: 0,
            queue,
            name: Vec::new(),
            uid: caller.uid,
            gid: self.group_in(&info, caller),
            mode: LINE_MODE & !process::umask(caller.pid).unwrap_or(0o077),
            modified_ns: None,
            accessed_ns: None,
            producer_pid: 0,
            attributes: Vec::new(),
        };
        let sync = info.config.durability == Durability::Sync;
        let (parts, unsynced, charge) = (Vec::new(), Vec::new(), self.store.user_bytes(caller.uid));
        let writer =
            LineWriter { each, parts, counted: 0, charge, unsynced, enqueued: 0, durable: 0, syncing: false, sync };
        let handle = self.handles.add(caller, Handle::LineWriter(Arc::new(writer.into())));
        Ok(Opened { stream: true, ..Opened::plain(handle) })
    }

    /// Takes bytes that the thread `tid` writes, or the first of them; `done` gets how many. When the queue has no room and lets
    /// its producers wait, `done` is not called before it has, if this one `waits`.
    pub(super) fn write_lines(
        self: &Arc<Self>,
        shared: &Shared,
        (tid, waits): (u32, bool),
        data: &[u8],
        done: impl FnOnce(Result<usize>) + Send + 'static,
    ) {
        let (queue, uid) = {
            let writer = shared.lock();
            (writer.each.queue, writer.each.uid)
        };
        let first = if waits { Attempt::First } else { Attempt::Only };
        let taken = self.try_lines(shared, tid, data, first);
        if !waits || !matches!(taken.count, Err(Error::WouldBlock)) {
            return self.lines_taken(shared, tid, taken, done);
        }
        let Ok(data) = self.handles.waiting.keep(uid, data) else {
            let refused = self.try_lines(shared, tid, data, Attempt::GiveUp(Error::WouldBlock));
            return self.lines_taken(shared, tid, refused, done);
        };
        let (view, shared, mut done) = (self.clone(), shared.clone(), Some(done));
        let waiter = move |turn| {
            let attempt = match turn {
                Turn::Try => Attempt::Turn,
                Turn::GiveUp(why) => Attempt::GiveUp(why),
            };
            let taken = view.try_lines(&shared, tid, &data, attempt);
            if matches!(taken.count, Err(Error::WouldBlock)) {
                return false;
            }
            if let Some(done) = done.take() {
                view.lines_taken(&shared, tid, taken, done);
            }
            true
        };
        self.wait(Line::Room(queue), tid, Box::new(waiter));
    }

    fn try_lines(&self, shared: &Shared, tid: u32, data: &[u8], attempt: Attempt) -> Taken {
        let mut writer = shared.lock();
        let (enqueued, known) = (writer.enqueued, writer.unsynced.len());
        let count = self.take_bytes(&mut writer, tid, data, attempt);
        self.count_parts(&mut writer);
        let (new, queue) = (writer.enqueued > enqueued, writer.each.queue);
        let files = if writer.unsynced.len() > known { writer.unsynced.clone() } else { Vec::new() };
        drop(writer);
        if new {
            self.became_ready(queue);
        }
        Taken { count, files }
    }

    fn lines_taken(
        self: &Arc<Self>,
        shared: &Shared,
        tid: u32,
        taken: Taken,
        done: impl FnOnce(Result<usize>) + Send + 'static,
    ) {
        let Taken { count, files } = taken;
        if files.is_empty() {
            self.sync_lines_soon(shared);
            return done(count);
        }
        // Long lines are synced before their writer goes on: else their files would pile up.
        let (view, shared) = (self.clone(), shared.clone());
        let by = By { user: shared.lock().each.uid, thread: tid };
        let work = move |turn| {
            // They are enqueued, whoever waits for that; what is not synced now is at a close.
            let synced = if let Call::Go = turn { view.sync_long_lines(&shared, &files) } else { Ok(()) };
            view.sync_lines_soon(&shared);
            done(synced.and(count));
        };
        self.offload.run(by, once(work));
    }

    fn take_bytes(&self, writer: &mut LineWriter, tid: u32, data: &[u8], attempt: Attempt) -> Result<usize> {
        let config = self.store.config(writer.each.queue)?;
        writer.sync = config.durability == Durability::Sync;
        // A write of whole lines by one process is what happens most; it need not be known whose it is.
        let plain = writer.parts.is_empty() && data.ends_with(b"\n");
        let process = if plain { None } else { process::identity(tid) };
        let at = writer.part_of(process);
        let mut part = match at {
            Some(at) => writer.parts.swap_remove(at),
            None => {
                let line = Staging::new(self.store.next_id()?).within(&self.handles.staged, writer.each.uid);
                Part::new(process, line)
            }
        };
        writer.each.producer_pid = process.map_or_else(|| process::tgid(tid), |process| process.tgid);
        let taken = self.take_for(writer, &mut part, &config, data, attempt);
        if plain && !part.is_blank() {
            part.process = process::identity(tid);
        }
        if !part.is_blank() {
            writer.parts.push(part);
        }
        taken
    }

    /// Takes bytes of one process, behind those of its line that are there.
    fn take_for(
        &self,
        writer: &mut LineWriter,
        part: &mut Part,
        config: &QueueConfig,
        data: &[u8],
        attempt: Attempt,
    ) -> Result<usize> {
        let waits = matches!(attempt, Attempt::First | Attempt::Turn);
        let skipped = match part.next(data) {
            Next::Take => 0,
            Next::Refuse => return Err(Error::MessageTooLarge),
            Next::Skip(count) => {
                self.drop_line(writer, part, "a write in the middle of a line was refused");
                part.skipped(data, count);
                count
            }
        };
        let data = &data[skipped..];
        let taken = match attempt {
            Attempt::GiveUp(why) => Err(why),
            attempt => self.take_all_or_first(writer, part, config, data, attempt),
        };
        match taken {
            Ok(taken) => Ok(skipped + taken),
            // It comes again with the same bytes by itself.
            Err(Error::WouldBlock) if waits && skipped == 0 => Err(Error::WouldBlock),
            Err(error) => {
                let begun = part.line.size() > 0;
                if matches!(error, Error::MessageTooLarge) {
                    self.drop_line(writer, part, "a line is too long");
                }
                if begun || !data.ends_with(b"\n") {
                    part.refused(data, &error);
                }
                // What was skipped was taken; the writer comes again with the rest and is told then.
                if skipped > 0 { Ok(skipped) } else { Err(error) }
            }
        }
    }

    fn take_all_or_first(
        &self,
        writer: &mut LineWriter,
        part: &mut Part,
        config: &QueueConfig,
        data: &[u8],
        attempt: Attempt,
    ) -> Result<usize> {
        let mut cut = Cut::new(data, part.line.size(), config.max_message_bytes)?;
        self.fit(writer, part, config, &mut cut, attempt)?;
        self.store.admit_bytes(cut.length() as u64)?;
        self.store.admit_bytes_of(writer.each.uid, cut.length() as u64 + OVERHEAD * cut.lines.len() as u64)?;
        if !cut.lines.is_empty() {
            self.enqueue_lines(writer, part, &cut.lines)?;
        }
        let admitted = self.admit_part(writer, part, cut.rest);
        match admitted.and_then(|()| part.append(self.store.bodies(), cut.rest)) {
            Err(_) if !cut.lines.is_empty() => cut.rest = &[], // told when the writer comes again
            appended => appended?,
        }
        Ok(cut.length())
    }

    /// Takes no more lines than the queue does; the writer comes again with the others.
    fn fit(
        &self,
        writer: &LineWriter,
        part: &Part,
        config: &QueueConfig,
        cut: &mut Cut<'_>,
        attempt: Attempt,
    ) -> Result<()> {
        let queue = writer.each.queue;
        config.admit(0).map_err(|error| self.rejected(queue, error))?;
        if !config.is_limited() || cut.lines.is_empty() {
            return Ok(());
        }
        if !matches!(attempt, Attempt::Turn) && self.waiters.is_taken(Line::Room(queue)) {
            return Err(Error::WouldBlock);
        }
        let begun = part.line.size();
        let lengths = cut.lines.iter().enumerate().map(|(n, line)| line.len() as u64 + if n == 0 { begun } else { 0 });
        match self.store.how_many_fit(queue, lengths, &writer.each.attributes) {
            Ok(count) => cut.shorten(count),
            Err(Error::QueueFull) => return Err(self.rejected(queue, Error::QueueFull)),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Enqueues the lines of a cut, the first behind what was begun of it. On an error everything is as it was.
    fn enqueue_lines(&self, writer: &mut LineWriter, part: &mut Part, lines: &[&[u8]]) -> Result<()> {
        let begun = part.line.size();
        let mut staged = Vec::with_capacity(lines.len());
        let enqueued = self.stage_lines(part, lines, &mut staged).and_then(|()| {
            let bodies = lines.iter().zip(&mut staged).map(|(line, staged)| body(line, staged));
            let bodies = bodies.collect::<Result<Vec<_>>>()?;
            self.store.enqueue_all(&writer.each, &bodies, false, clock::now_ms())
        });
        let mut staged = staged.into_iter();
        if enqueued.is_err()
            && begun > 0
            && let Some(Some(mut line)) = staged.next()
        {
            if let Err(error) = line.truncate(self.store.bodies(), begun) {
                tracing::error!(queue = self.store.label(writer.each.queue), %error, "a line cannot be taken back to what was begun of it");
            }
            part.line = line;
        }
        for mut line in staged.flatten() {
            if enqueued.is_ok() {
                writer.unsynced.extend(line.file().map(|file| (line.id(), file)));
            } else if let Some(file) = line.discard() {
                self.store.discard_body(file);
            }
        }
        writer.enqueued += u64::from(enqueued.is_ok());
        enqueued
    }

    /// Puts the line that was begun together, and long lines into files.
    fn stage_lines(&self, part: &mut Part, lines: &[&[u8]], staged: &mut Vec<Option<Staging>>) -> Result<()> {
        for line in lines {
            let begun = staged.is_empty() && part.line.size() > 0;
            if !begun && line.len() <= INLINE_MAX {
                staged.push(None);
                continue;
            }
            let new = part.line.another(self.store.next_id()?);
            let mut whole = if begun { std::mem::replace(&mut part.line, new) } else { new };
            let written = whole.write_at(self.store.bodies(), whole.size(), line);
            staged.push(Some(whole));
            written?;
        }
        Ok(())
    }

    /// Calls `done`, for which the thread `tid` waits, when all that was enqueued survives a power cut; at once when it does already.
    pub(super) fn sync_lines(self: &Arc<Self>, shared: &Shared, tid: u32, done: Done) {
        let writer = shared.lock();
        if writer.durable == writer.enqueued && writer.unsynced.is_empty() {
            drop(writer);
            return done(Ok(()));
        }
        let (upto, files) = (writer.enqueued, writer.unsynced.clone());
        let by = By { user: writer.each.uid, thread: tid };
        drop(writer);
        let (view, shared) = (self.clone(), shared.clone());
        let wait = !files.is_empty();
        let sync = move |turn| {
            let synced = if let Call::Drop(why) = turn { Err(why) } else { view.sync_long_lines(&shared, &files) };
            match synced {
                Ok(()) => view.store.after_sync(Box::new(move |synced| {
                    if synced.is_ok() {
                        shared.lock().survives(upto);
                    }
                    done(synced);
                })),
                Err(error) => done(Err(error)),
            }
        };
        if wait { self.offload.run(by, once(sync)) } else { sync(Call::Go) }
    }

    /// Syncs the files of long lines. It takes its time.
    fn sync_long_lines(&self, shared: &Shared, files: &[(u64, Arc<File>)]) -> Result<()> {
        let mut first = Ok(());
        for (id, file) in files {
            let synced = self.store.bodies().sync(*id, file).and_then(|()| self.store.body_synced(*id));
            // What could not be synced is told once, to who asks first: another try would not bring it back.
            shared.lock().unsynced.retain(|(other, _)| other != id);
            first = first.and(synced);
        }
        first
    }

    /// Begins a sync that nobody waits for, of what was enqueued; one at a time.
    fn sync_lines_soon(self: &Arc<Self>, shared: &Shared) {
        let mut writer = shared.lock();
        if !writer.sync || writer.syncing || writer.durable == writer.enqueued {
            return;
        }
        writer.syncing = true;
        let upto = writer.enqueued;
        drop(writer); // the store may call back at once
        let (view, again) = (self.clone(), shared.clone());
        self.store.after_sync(Box::new(move |synced| {
            let mut writer = again.lock();
            writer.syncing = false;
            if synced.is_ok() {
                writer.survives(upto);
                drop(writer);
                view.sync_lines_soon(&again);
            }
        }));
    }
}
