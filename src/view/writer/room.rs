//! Writers that wait for room, where `overflow = block`.
//!
//! A create cannot wait: the kernel holds the lock of the directory while it asks, and everything else that needs that lock
//! would wait as well, uninterruptibly. So who opens a file gets it, and the first write waits; in the kernel that holds
//! up nobody but those who share the open file.

use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::queue::properties::Properties;
use crate::store::{Need, Patience};

use super::super::View;
use super::super::waiters::{Line, Turn};
use super::super::watch::OVERDUE;
use super::{Reason, SharedWriter, Unmet, Writer};

impl Writer {
    /// Room is kept for it, or it needs none.
    pub(super) fn has_room(&self) -> bool {
        self.holds_room || !self.config.is_limited()
    }

    /// Where it waits.
    fn line(&self) -> Line {
        if self.holds_room { Line::More(self.queue) } else { Line::Room(self.queue) }
    }

    /// A call of its writer's ends without the room that it needs; with `bytes`, or as it closes without any.
    pub(super) fn found_no_room(&mut self, bytes: bool, why: &Error) {
        let why = if matches!(why, Error::GoingAway) { Reason::GoingAway } else { Reason::QueueFull };
        self.unmet = Some(Unmet { bytes, why });
    }
}

impl View {
    /// Keeps room in the queue for a message of this length. To be called when no commit counts it.
    pub(super) fn reserve(&self, writer: &mut Writer, length: u64, patience: Patience) -> Result<()> {
        if !writer.config.is_limited() {
            return Ok(());
        }
        // Whoever comes new comes last.
        let comes = !writer.holds_room && !matches!(patience, Patience::Turn { .. });
        if comes && self.waiters.is_taken(Line::Room(writer.queue)) {
            return Err(Error::WouldBlock);
        }
        let order = Properties::of(&writer.attributes).order(writer.config.priorities);
        self.store.reserve(writer.queue, writer.id(), Need::of_one(length, order), patience)?;
        writer.holds_room = true;
        Ok(())
    }

    /// Writes bytes into a new message, when there is room for them. Until then `done` is not called, if the writer `waits`.
    pub(in super::super) fn write_message(
        self: &Arc<Self>,
        id: u64,
        (tid, waits): (u32, bool),
        offset: u64,
        data: &[u8],
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) {
        let shared = match self.writer(id) {
            Ok(writer) => writer,
            Err(error) => return done(Err(error)),
        };
        let mut writer = shared.lock();
        let patience = if waits { Patience::Waits } else { Patience::None };
        match self.write_now(&mut writer, tid, offset, data, patience) {
            Err(Error::WouldBlock) if waits => {}
            Err(error @ Error::WouldBlock) => {
                writer.found_no_room(true, &error);
                drop(writer);
                return done(Err(error));
            }
            written => {
                drop(writer);
                return done(written);
            }
        }
        let Ok(data) = self.handles.waiting.keep(writer.producer, data) else {
            self.store.stop_waiting(writer.queue, writer.id());
            writer.found_no_room(true, &Error::WouldBlock);
            drop(writer);
            return done(Err(Error::WouldBlock));
        };
        drop(writer);
        let view = self.clone();
        let attempt = move |writer: &mut Writer, patience| view.write_now(writer, tid, offset, &data, patience);
        self.wait_for_room(shared, tid, true, attempt, done);
    }

    /// Lets a call of the thread `tid` wait until `attempt` does not answer [`Error::WouldBlock`]. `bytes`: it is a write.
    pub(super) fn wait_for_room(
        self: &Arc<Self>,
        shared: Arc<SharedWriter>,
        tid: u32,
        bytes: bool,
        attempt: impl Fn(&mut Writer, Patience) -> Result<()> + Send + 'static,
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) {
        let (line, rank) = {
            let writer = shared.lock();
            // Of those who hold room the oldest is served first.
            (writer.line(), if writer.holds_room { writer.id() } else { 0 })
        };
        let (view, since, mut done) = (self.clone(), Instant::now(), Some(done));
        let waiter = move |turn| {
            let mut writer = shared.lock();
            let answer = match turn {
                Turn::Try => attempt(&mut writer, Patience::Turn { overdue: since.elapsed() >= OVERDUE }),
                Turn::GiveUp(why) => {
                    view.store.stop_waiting(writer.queue, writer.id());
                    writer.found_no_room(bytes, &why);
                    Err(why)
                }
            };
            drop(writer);
            if matches!(answer, Err(Error::WouldBlock)) {
                return false;
            }
            if let Some(done) = done.take() {
                done(answer);
            }
            true
        };
        self.wait_ranked(line, rank, tid, Box::new(waiter));
    }
}
