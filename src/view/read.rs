//! Reading, writing, syncing and closing open files.

use std::sync::Arc;

use crate::clock;
use crate::error::{Error, Result};
use crate::store::{Body, Done};

use super::access::Caller;
use super::handles::{Handle, Hold, Reader};
use super::staging::read_file_at;
use super::{Node, View};

fn window(bytes: &[u8], offset: u64, size: usize) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    &bytes[start..start.saturating_add(size).min(bytes.len())]
}

impl View {
    /// Reads from an open file; gives the bytes to `with`. Fewer than asked for only at the end.
    pub fn read<R>(
        &self,
        caller: &Caller,
        handle: u64,
        offset: u64,
        size: usize,
        with: impl FnOnce(&[u8]) -> R,
    ) -> Result<R> {
        let handle = self.handles.get(handle)?;
        if let Handle::Reader(reader) = &*handle {
            self.claim_at_read(caller, reader)?;
        }
        match &*handle {
            Handle::Reader(Reader { body: Body::Inline(bytes), .. }) => Ok(with(window(bytes, offset, size))),
            Handle::Reader(Reader { body: Body::File(file), attributes, .. }) => {
                let bytes = read_file_at(file, offset, size)?;
                let expected = attributes.size.saturating_sub(offset).min(size as u64);
                if (bytes.len() as u64) < expected {
                    return Err(Error::Damaged("a body file is shorter than its message".into()));
                }
                Ok(with(&bytes[..expected as usize]))
            }
            Handle::Writer(id) => {
                let bytes = self.writer(*id)?.lock().read_at(offset, size)?;
                Ok(with(&bytes))
            }
            Handle::Draft { file, .. } => Ok(with(&read_file_at(file, offset, size)?)),
            Handle::Text(text) => Ok(with(window(text, offset, size))),
            Handle::Config(edit) => {
                let text = self.config_text(edit.lock().queue())?;
                Ok(with(window(text.as_bytes(), offset, size)))
            }
        }
    }

    /// Writes to an open file, all or nothing. `tid` is the thread that writes.
    pub fn write(&self, handle: u64, tid: u32, offset: u64, data: &[u8]) -> Result<()> {
        match &*self.handles.get(handle)? {
            Handle::Writer(id) => self.write_message(*id, tid, offset, data),
            Handle::Draft { id, file, .. } => self.write_draft(*id, file, offset, data),
            Handle::Config(edit) => edit.lock().write(self, data),
            Handle::Reader(_) | Handle::Text(_) => Err(Error::NotPermitted("not open for writing")),
        }
    }

    /// A descriptor of an open file is closed by the thread `tid`; `done` gets what `close` returns.
    pub fn flush(self: &Arc<Self>, handle: u64, tid: u32, done: Done) {
        match self.handles.get(handle).as_deref() {
            Ok(Handle::Writer(id)) => self.close_message(*id, tid, done),
            Ok(Handle::Config(edit)) => done(edit.lock().apply(self)),
            Ok(_) => done(Ok(())),
            Err(_) => done(Err(Error::Aborted)),
        }
    }

    /// `fsync`; `done` when what was written survives a power cut.
    pub fn fsync(self: &Arc<Self>, handle: u64, done: Done) {
        match self.handles.get(handle).as_deref() {
            Ok(Handle::Writer(id)) => self.sync_message(*id, done),
            Ok(Handle::Draft { id, file, .. }) => self.sync_draft(*id, file.clone(), done),
            Ok(_) => self.sync(done),
            Err(_) => done(Err(Error::Aborted)),
        }
    }

    /// The last descriptor of an open file was closed.
    pub fn release(self: &Arc<Self>, handle: u64) {
        let Some(handle) = self.handles.remove(handle) else {
            return;
        };
        match &*handle {
            Handle::Writer(id) => self.release_message(*id),
            Handle::Draft { id, writes, .. } => self.release_draft(*id, *writes),
            Handle::Reader(reader) => self.release_lease(reader),
            Handle::Text(_) | Handle::Config(_) => {}
        }
    }

    /// The lease ran on while the descriptor was open; its reader now has a good part of the visibility timeout left to ack.
    fn release_lease(&self, reader: &Reader) {
        let Hold::Lease(lease) = *reader.hold.lock() else { return };
        let now = clock::now_ms();
        if lease.deadline.saturating_sub(now) >= lease.timeout / 2 {
            return;
        }
        // The deadline may have been renewed since the open; another renewal does no harm.
        let message = self.store.message(reader.seq);
        let same = message
            .is_ok_and(|message| message.claim.is_some_and(|claim| (claim.at, message.deliveries) == lease.claim));
        if same && let Err(error) = self.store.renew(reader.seq, now) {
            tracing::debug!(seq = reader.seq, %error, "lease not renewed at close");
        }
    }

    /// `fsync` on a directory; everything that happened in it before survives a power cut when `done` is called.
    pub fn fsync_directory(&self, _directory: Node, done: Done) {
        self.sync(done);
    }
}
