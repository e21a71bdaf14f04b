//! A message that its writer unlinked: nothing will be enqueued, and its descriptors go on as those of any unlinked file.

use crate::clock;
use crate::error::Result;

use super::super::View;
use super::super::staging::end_of_write;
use super::{Progress, Writer};

impl Writer {
    /// It was unlinked.
    pub fn is_unlinked(&self) -> bool {
        self.state == Progress::Unlinked
    }
}

impl View {
    /// Drops a message whose writer unlinks it: whatever was committed is taken back. Its bytes stay until the last close.
    pub(in super::super) fn unlink_message(&self, writer: &mut Writer) -> Result<()> {
        let now = clock::now_ms();
        match writer.state {
            Progress::Aborted(why) => return Err(why.error()),
            Progress::Unlinked => return Ok(()),
            Progress::Committed { seq, .. } => self.store.retract(writer.queue, seq, now)?,
            Progress::Open | Progress::Duplicate => {}
        }
        tracing::info!(
            queue = self.store.label(writer.queue),
            name = %String::from_utf8_lossy(&writer.name),
            "unlinked while it was being written: a message is dropped"
        );
        if let Err(error) = self.store.count_aborted(writer.queue, now) {
            tracing::debug!(queue = self.store.label(writer.queue), %error, "a dropped message was not counted");
        }
        if writer.durable() {
            self.store.sync_soon();
        }
        self.store.release(writer.queue, writer.id());
        (writer.state, writer.dirty) = (Progress::Unlinked, false);
        (writer.unmet, writer.unfinished) = (None, None);
        writer.charge.set(writer.staging.size());
        self.unname(writer);
        self.arrived(writer);
        Ok(())
    }

    /// Writes into an unlinked message: no limit of its queue's counts, but the disk's room does.
    pub(super) fn write_unlinked(&self, writer: &mut Writer, offset: u64, data: &[u8]) -> Result<()> {
        let end = end_of_write(offset, data.len())?;
        self.store.admit_bytes(end.saturating_sub(writer.size()).max(data.len() as u64))?;
        self.store.hold_bytes(&mut writer.charge, end)?;
        writer.staging.write_at(self.store.bodies(), offset, data)
    }

    /// Cuts or extends an unlinked message.
    pub(super) fn truncate_unlinked(&self, writer: &mut Writer, size: u64) -> Result<()> {
        self.store.admit_bytes(size.saturating_sub(writer.size()))?;
        self.store.hold_bytes(&mut writer.charge, size)?;
        writer.staging.truncate(self.store.bodies(), size)
    }

    /// The last close of an unlinked message.
    pub(super) fn discard_unlinked(&self, writer: &mut Writer) {
        if let Some(file) = writer.staging.discard() {
            self.store.discard_body(file);
        }
    }
}
