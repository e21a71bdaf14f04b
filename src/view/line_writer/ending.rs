//! The ends of lines that have no newline, and how many lines can be begun.

use std::sync::Arc;

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::config::AbortOn;
use crate::store::Done;

use super::super::access::Caller;
use super::super::line_part::Part;
use super::super::{View, process};
use super::{LineWriter, Shared};

/// So many processes can have begun a line in one open file. What each has of it is in memory, or has a descriptor.
const MOST_BEGUN: usize = 64;

impl View {
    /// Refuses to begin one more line, of these bytes, when too many are begun. Those whose processes have ended are ended first:
    /// nobody tells of the end of a process that has closed the file before.
    pub(super) fn admit_part(&self, writer: &mut LineWriter, part: &Part, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() || part.line.size() > 0 || writer.begun() == 0 {
            return Ok(());
        }
        if writer.begun() >= MOST_BEGUN {
            let over = |part: &mut Part| part.process.is_some_and(process::is_over);
            for part in writer.parts.extract_if(.., over).collect::<Vec<_>>() {
                self.finish_line(writer, part);
            }
        }
        if writer.begun() >= MOST_BEGUN {
            return Err(Error::TooManyOpen);
        }
        self.handles.admit(&Caller { uid: writer.each.uid, gid: writer.each.gid, pid: 0 }, true)
    }

    /// All that are begun but the first count as open files.
    pub(super) fn count_parts(&self, writer: &mut LineWriter) {
        let now = writer.parts.len().saturating_sub(1);
        self.handles.recount(writer.each.uid, writer.counted, now);
        writer.counted = now;
        let bytes = writer.parts.iter().map(|part| part.line.size()).sum();
        writer.charge.set(bytes);
    }

    /// Drops what there is of a line.
    pub(super) fn drop_line(&self, writer: &LineWriter, part: &mut Part, why: &str) {
        let (queue, bytes) = (writer.each.queue, part.line.size());
        if bytes > 0 {
            tracing::warn!(queue = self.store.label(queue), bytes, why, "dropped an unfinished line");
            if let Err(error) = self.store.count_aborted(queue, clock::now_ms()) {
                tracing::debug!(queue = self.store.label(queue), %error, "a dropped line was not counted");
            }
        }
        // One whose first write failed may have a file and no bytes.
        if let Some(file) = part.line.discard() {
            self.store.discard_body(file);
            // The file of that number will be removed, and what comes next must not be in it.
            match self.store.next_id() {
                Ok(id) => part.line = part.line.another(id),
                Err(error) => {
                    tracing::error!(queue = self.store.label(queue), %error, "no line can be enqueued any more")
                }
            }
        }
    }

    /// The last line of a process that ended, or of the file: it has no newline.
    fn finish_line(&self, writer: &mut LineWriter, mut part: Part) {
        if part.is_whole() {
            // Its bytes were taken: it is not refused any more.
            let body = part.line.body(false);
            let enqueued = body.and_then(|body| self.store.enqueue_all(&writer.each, &[body], true, clock::now_ms()));
            match enqueued {
                Ok(()) => {
                    writer.enqueued += 1;
                    writer.unsynced.extend(part.line.file().map(|file| (part.line.id(), file)));
                    return;
                }
                Err(error) => {
                    tracing::error!(queue = self.store.label(writer.each.queue), %error, "enqueue of a last line failed")
                }
            }
        }
        self.drop_line(writer, &mut part, "it was not finished");
    }

    /// A close of one descriptor by the thread `tid`; `done` gets what that close returns.
    pub(in super::super) fn close_lines(self: &Arc<Self>, shared: &Shared, tid: u32, done: Done) {
        let mut writer = shared.lock();
        let enqueued = writer.enqueued;
        if !writer.parts.is_empty()
            && let Some(end) = self.workers.ending(tid)
            && let Some(at) = writer.part_of(process::identity(tid))
        {
            let mut part = writer.parts.swap_remove(at);
            // A queue that is gone takes no line anyway.
            let abort_on = self.store.config(writer.each.queue).map_or(AbortOn::Killed, |config| config.abort_on);
            match abort_on {
                AbortOn::Killed | AbortOn::Failed | AbortOn::Unclosed if end.killed() => {
                    self.drop_line(&writer, &mut part, "its writer was killed");
                }
                AbortOn::Failed if end.exit_code != 0 => self.drop_line(&writer, &mut part, "its writer failed"),
                AbortOn::Unclosed => self.drop_line(&writer, &mut part, "its writer ended without closing"),
                _ => self.finish_line(&mut writer, part),
            }
            self.count_parts(&mut writer);
        }
        let (new, queue, sync) = (writer.enqueued > enqueued, writer.each.queue, writer.sync);
        drop(writer);
        if new {
            self.became_ready(queue);
        }
        if sync { self.sync_lines(shared, tid, done) } else { done(Ok(())) }
    }

    /// The last close of an open file: what is left are last lines without a newline.
    pub(in super::super) fn release_lines(self: &Arc<Self>, shared: &Shared) {
        let mut writer = shared.lock();
        for part in std::mem::take(&mut writer.parts) {
            self.finish_line(&mut writer, part);
        }
        self.count_parts(&mut writer);
        let (queue, sync) = (writer.each.queue, writer.sync || !writer.unsynced.is_empty());
        drop(writer);
        self.became_ready(queue);
        if sync {
            self.sync_lines(shared, 0, Box::new(|_| ()));
        }
    }

    /// The mount ends while lines are being written.
    pub(in super::super) fn drop_unfinished_lines(&self, shared: &Shared) {
        let mut writer = shared.lock();
        for mut part in std::mem::take(&mut writer.parts) {
            self.drop_line(&writer, &mut part, "the mount ended");
        }
    }
}
