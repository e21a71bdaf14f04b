//! Reading, writing, syncing and closing open files.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock;
use crate::error::{Error, Result};
use crate::on_behalf;
use crate::store::record::BodyPlace;
use crate::store::{Done, Of, ROOT};

use super::access::Caller;
use super::few::part;
use super::handles::{Handle, Hold, Lease};
use super::offload::By;
use super::{Node, View};

impl View {
    /// Reads from an open file; `reply` gets the bytes, fewer than asked for only at the end. It is called at once, except
    /// where the reader has to wait and is not `nonblocking`; never under a lock.
    pub fn read(
        self: &Arc<Self>,
        caller: &Caller,
        handle: u64,
        offset: u64,
        size: usize,
        nonblocking: bool,
        reply: impl FnOnce(Result<&[u8]>) + Send + 'static,
    ) {
        let open = match self.handles.get(handle) {
            Ok(open) => open,
            Err(error) => return reply(Err(error)),
        };
        if let Handle::Take(take) = &*open {
            return self.read_taken(caller, handle, take, (size, nonblocking), reply);
        }
        if let Handle::LineReader(reader) = &*open {
            return self.read_lines(caller, handle, reader, (size, nonblocking), reply);
        }
        // Either of the two takes the reply.
        let mut reply = Some(reply);
        let read = self.read_now(caller, &open, offset, size, |bytes| {
            if let Some(reply) = reply.take() {
                reply(Ok(bytes));
            }
        });
        if let (Err(error), Some(reply)) = (read, reply) {
            reply(Err(error));
        }
    }

    fn read_now(
        &self,
        caller: &Caller,
        open: &Handle,
        offset: u64,
        size: usize,
        with: impl FnOnce(&[u8]),
    ) -> Result<()> {
        if let Handle::Reader(reader) = open {
            self.claim_at_read(caller, reader)?;
            reader.again.iter().for_each(|again| again.was_read());
        }
        match open {
            Handle::Reader(reader) => {
                let read = reader.body.read(offset, size, with);
                read.inspect_err(|error| self.tell_unreadable(reader.seq, error, &reader.told))?;
            }
            Handle::Writer(id) => {
                let bytes = self.writer(*id)?.lock().read_at(offset, size)?;
                with(&bytes);
            }
            Handle::Onlooker { writer, .. } => {
                let bytes = writer.lock().read_at(offset, size)?;
                with(&bytes);
            }
            Handle::Gone => return Err(Error::Stale),
            Handle::Draft { open, .. } => {
                let bytes = open.lock().read_at(&self.store, offset, size)?;
                with(&bytes);
            }
            Handle::Text { text, .. } => text.read(offset, size, with)?,
            Handle::Backup(backup) => with(part(&backup.text(), offset, size)),
            Handle::LineWriter(_) => return Err(Error::NotPermitted("not open for reading")),
            Handle::Config(edit) => {
                let text = self.config_text(edit.lock().queue())?;
                with(part(text.as_bytes(), offset, size));
            }
            Handle::Take(_) | Handle::LineReader(_) => return Err(Error::NotSupported),
            Handle::Batch(_) => return Err(Error::IsDirectory),
            Handle::Purge(_) | Handle::Nack(_) => return Err(Error::NotPermitted("it is only written to")),
        }
        Ok(())
    }

    /// Tells in the log that the bytes of a message cannot be had, once for each `told`.
    pub(super) fn tell_unreadable(&self, seq: u64, error: &Error, told: &AtomicBool) {
        // Relaxed: it orders nothing else.
        if told.swap(true, Ordering::Relaxed) {
            return;
        }
        let Ok(message) = self.store.message(seq) else {
            tracing::error!(name = self.store.name_of(seq), %error, "unreadable message, which is gone by now");
            return;
        };
        let (queue, name) = (self.store.label(message.queue), self.store.name_of(seq));
        let file = match message.body {
            BodyPlace::File(id) => self.store.bodies().path(id).display().to_string(),
            _ => String::new(),
        };
        tracing::error!(queue, name, file, %error, "unreadable message");
    }

    /// Writes to an open file; `done` gets how many bytes were taken: all or nothing, except of a stream. `tid` is the thread that
    /// writes; it may have to wait for room in the queue if it `waits`.
    pub fn write(
        self: &Arc<Self>,
        handle: u64,
        (tid, waits): (u32, bool),
        offset: u64,
        data: &[u8],
        done: impl FnOnce(Result<usize>) + Send + 'static,
    ) {
        let open = self.handles.get(handle);
        let written = match open.as_deref() {
            Ok(Handle::LineWriter(lines)) => return self.write_lines(lines, (tid, waits), data, done),
            Ok(Handle::Purge(purger)) => {
                let length = data.len();
                return self.purge(purger, tid, data, Box::new(move |purged| done(purged.map(|()| length))));
            }
            Ok(Handle::Nack(nacker)) => self.nack_as_told(nacker, tid, data),
            Ok(Handle::Writer(id)) => {
                let length = data.len();
                let done = move |written: Result<()>| done(written.map(|()| length));
                return self.write_message(*id, (tid, waits), offset, data, done);
            }
            Ok(Handle::Reader(reader)) if offset == 0 && reader.again.is_some() => {
                let again = self.write_again(handle, reader, tid);
                return match again {
                    Ok(_) => self.write(handle, (tid, waits), offset, data, done),
                    Err(error) => done(Err(error)),
                };
            }
            Ok(Handle::Draft { id, open, .. }) => self.write_draft(*id, open, offset, data),
            Ok(Handle::Config(edit)) => edit.lock().write(self, data),
            Ok(
                Handle::Reader(_)
                | Handle::Onlooker { .. }
                | Handle::Gone
                | Handle::Batch(_)
                | Handle::Text { .. }
                | Handle::Backup(_)
                | Handle::Take(_)
                | Handle::LineReader(_),
            ) => Err(Error::NotPermitted("not open for writing")),
            Err(_) => Err(Error::Aborted),
        };
        done(written.map(|()| data.len()));
    }

    /// A descriptor of an open file is closed by the thread `tid`; `done` gets what `close` returns.
    pub fn flush(self: &Arc<Self>, handle: u64, tid: u32, done: Done) {
        match self.handles.get(handle).as_deref() {
            Ok(Handle::Writer(id)) => self.close_message(*id, tid, done),
            Ok(Handle::LineWriter(lines)) => self.close_lines(lines, tid, done),
            Ok(Handle::Config(edit)) => done(edit.lock().apply(self)),
            Ok(Handle::LineReader(reader)) => {
                self.close_line_reader(handle, reader, tid);
                done(Ok(()));
            }
            Ok(Handle::Take(take)) => {
                self.close_taken(take, tid);
                done(Ok(()));
            }
            Ok(Handle::Draft { id, open, writes: true }) => {
                let by = By { user: self.handles.opener(handle), thread: tid };
                self.draft_closed(*id, open, by, done);
            }
            Ok(_) => done(Ok(())),
            Err(_) => done(Err(Error::Aborted)),
        }
    }

    /// `fsync` by the thread `tid`; `done` when what was written survives a power cut.
    pub fn fsync(self: &Arc<Self>, handle: u64, tid: u32, done: Done) {
        let by = By { user: self.handles.opener(handle), thread: tid };
        match self.handles.get(handle).as_deref() {
            Ok(Handle::Writer(id)) => self.sync_message(*id, by, done),
            Ok(Handle::Draft { id, open, .. }) => self.sync_draft(*id, open, by, done),
            Ok(Handle::LineWriter(lines)) => self.sync_lines(lines, tid, done),
            Ok(Handle::Reader(reader)) => match self.store.message(reader.seq) {
                Ok(message) => self.sync(message.queue, by, done),
                Err(_) => self.store.after_sync(done), // acknowledged since
            },
            Ok(_) => self.store.after_sync(done),
            Err(_) => done(Err(Error::Aborted)),
        }
    }

    /// The last descriptor of an open file was closed.
    pub fn release(self: &Arc<Self>, handle: u64) {
        // The file does not count as open any more from the next line on: who ends the mount then waits here.
        let closed = self.closed.lock();
        if *closed {
            return;
        }
        let Some((open, opener)) = self.handles.remove(handle) else {
            return;
        };
        // The kernel does not say who closes.
        on_behalf::of(Some(opener), || self.release_of(handle, &open));
    }

    fn release_of(self: &Arc<Self>, handle: u64, open: &Handle) {
        match open {
            Handle::Writer(id) => self.release_message(*id),
            Handle::Draft { id, open, writes } => self.release_draft(*id, open, *writes),
            Handle::Batch(batch) => self.release_batch(*batch),
            Handle::Reader(reader) => {
                if let Hold::Lease(lease) = *reader.hold.lock() {
                    self.release_lease(reader.seq, &lease);
                }
            }
            Handle::Take(take) => self.release_taken(handle, take),
            Handle::LineWriter(lines) => self.release_lines(lines),
            Handle::LineReader(reader) => self.release_line_reader(handle, reader),
            Handle::Backup(backup) => backup.close(),
            Handle::Onlooker { .. }
            | Handle::Gone
            | Handle::Text { .. }
            | Handle::Config(_)
            | Handle::Purge(_)
            | Handle::Nack(_) => {}
        }
    }

    /// The last close of every file that is open as far as this side was told. The kernel takes a mount away with the last close
    /// of its files, and drops what it had yet to tell; so when it has taken the mount away, all of them are closed.
    pub fn release_all(self: &Arc<Self>) {
        for handle in self.handles.numbers() {
            self.release(handle);
        }
    }

    /// The lease ran on while the descriptor was open; its reader now has a good part of the visibility timeout left to ack.
    pub(super) fn release_lease(&self, seq: u64, lease: &Lease) {
        let now = clock::now_ms();
        if lease.deadline.saturating_sub(now) >= lease.timeout / 2 {
            return;
        }
        // The deadline may have been renewed since the open; another renewal does no harm.
        match self.store.renew(seq, Of::This(Some(lease.delivery)), now) {
            Ok(_) | Err(Error::NotFound) => {}
            Err(error) => tracing::debug!(name = self.store.name_of(seq), %error, "lease not renewed at close"),
        }
    }

    /// `fsync` on a directory; everything that happened in it before survives a power cut when `done` is called.
    pub fn fsync_directory(self: &Arc<Self>, caller: &Caller, directory: Node, done: Done) {
        // One of control files stands for the mount.
        let queue = self.entrance(directory).map_or(ROOT, |(queue, _)| queue);
        self.sync(queue, By { user: caller.uid, thread: caller.pid }, done);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use super::super::ViewOptions;
    use super::*;
    use crate::queue::config::QueueConfig;
    use crate::store::{NewQueue, Store};

    /// A file does not count as open any more when its last close is being served: the mount may end just then, and waits.
    #[test]
    fn what_is_released_as_the_mount_ends_is_enqueued() {
        let dir = tempfile::tempdir().unwrap();
        let view = View::new(Store::open(dir.path(), QueueConfig::default()).unwrap(), ViewOptions::default()).unwrap();
        let queue = NewQueue { parent: ROOT, name: b"q", uid: 0, gid: 0, mode: 0o755 };
        let queue = view.store.make_queue(queue).unwrap();
        let caller = Caller { uid: 0, gid: 0, pid: std::process::id() };
        let (_, opened) = view.create(&caller, Node::Queue(queue), b"m", 0o644, libc::O_WRONLY).unwrap();
        let writer = view.writers.lock().values().next().unwrap().clone();
        let held = writer.lock();
        thread::scope(|scope| {
            scope.spawn(|| view.release(opened.handle));
            while view.open_files() > 0 {
                thread::yield_now();
            }
            scope.spawn(|| view.close());
            // An end that did not wait would now drop what is still being written.
            let enough = Instant::now() + Duration::from_millis(200);
            while view.open_writers() > 0 && Instant::now() < enough {
                thread::yield_now();
            }
            let waits = view.open_writers() == 1;
            drop(held);
            assert!(waits);
        });
        drop((writer, view));
        let store = Store::open(dir.path(), QueueConfig::default()).unwrap();
        assert_eq!(store.queue(queue).unwrap().counters.ready, 1);
    }
}
