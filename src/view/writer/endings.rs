//! Processes that end with the file open, and what that says about their message.
//!
//! The kernel closes for them what they had open. Each such close comes here as others do, from a thread that is on its way out and
//! waits for the answer; so how it ends can be looked up, and nobody else has its number meanwhile. The look waits for no lock that a
//! process can hold while it waits for us: what `stat` of a process waits for is held by those that run another program, and who does
//! that has no other thread left, on its way out or not.

use crate::error::{Error, Result};
use crate::queue::config::AbortOn;

use super::super::View;
use super::super::process::{self, ProcessId, ProcessStat};
use super::{Progress, Reason, Writer};

/// The process that wrote last, or opened the file when nobody wrote, has ended with the file open as in this queue none may whose
/// message is to be enqueued. When nobody writes after it, the message is dropped at the last close.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unfinished {
    /// The process's number.
    process: u32,
    /// What it ended with.
    exit_code: u32,
}

/// What a process's end says about a message.
enum End {
    /// A process that wrote was killed.
    Killed,
    /// Whoever wrote last had not finished.
    Unfinished(Unfinished),
}

impl Writer {
    /// The thread `tid` changes the bytes.
    pub(super) fn note_change(&mut self, tid: u32) {
        self.authors.writes(tid);
        self.unfinished = None;
    }

    /// What a close tells the process that opened the file when it ends as things stand.
    pub(super) fn refuse_unfinished(&self) -> Result<()> {
        if self.unfinished.is_some() { Err(Error::Aborted) } else { Ok(()) }
    }

    /// What `stat`, of a thread of the process of that number that is on its way out, says about the message.
    fn end(&self, process: u32, stat: ProcessStat) -> Option<End> {
        // A thread's own start is not that of its process.
        let start = if stat.tid == process { stat.start } else { process::stat(process)?.start };
        let process = ProcessId { tgid: process, start };
        if stat.killed() {
            return self.authors.include(process).then_some(End::Killed);
        }
        let counts = match self.config.abort_on {
            AbortOn::Killed | AbortOn::Never => false,
            AbortOn::Failed => stat.exit_code != 0,
            AbortOn::Unclosed => true,
        };
        let unfinished = Unfinished { process: process.tgid, exit_code: stat.exit_code >> 8 };
        (counts && self.authors.end_with(process)).then_some(End::Unfinished(unfinished))
    }
}

impl View {
    /// Looks whether the thread `tid`, of the process of that number, closes a message because it is on its way out, and notes what
    /// that says. Tells whether the message is dropped now.
    pub(super) fn note_end(&self, writer: &mut Writer, process: u32, tid: u32) -> bool {
        if writer.config.abort_on == AbortOn::Never || !writer.authors.may_include(process) {
            return false;
        }
        let end = self.workers.ending(tid).and_then(|stat| writer.end(process, stat));
        match end {
            None => false,
            Some(End::Killed) => {
                let name = String::from_utf8_lossy(&writer.name);
                tracing::warn!(queue = self.store.label(writer.queue), %name, pid = process, "a writer was killed: its message is dropped");
                self.abort(writer, Reason::Failed);
                true
            }
            Some(End::Unfinished(unfinished)) => {
                // What was committed at an earlier close is taken back: a crash from now on leaves nothing of it.
                if let Err(error) = self.touched(writer) {
                    tracing::error!(queue = self.store.label(writer.queue), name = writer.label(), %error, "an unfinished message was not taken back yet");
                }
                writer.unfinished = Some(unfinished);
                false
            }
        }
    }

    /// Drops a message that was not finished when its last descriptor was closed. Tells whether it was that.
    pub(super) fn drop_if_unfinished(&self, writer: &mut Writer) -> bool {
        let Some(Unfinished { process, exit_code }) = writer.unfinished.take() else { return false };
        if matches!(writer.state, Progress::Aborted(_)) {
            return false;
        }
        let name = String::from_utf8_lossy(&writer.name);
        let what = "a writer ended without closing: its message is dropped";
        tracing::warn!(queue = self.store.label(writer.queue), %name, pid = process, exit_code, "{what}");
        self.abort(writer, Reason::Failed);
        true
    }
}
