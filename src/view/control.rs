//! A queue's `.mq/config`.

use crate::error::{Error, Result};

use super::View;

/// No configuration is longer, in bytes.
const LONGEST: usize = 64 * 1024;

/// Of why one was refused so much is told, in bytes: it quotes what was written.
const LONGEST_REASON: usize = 1024;

/// A write to a queue's configuration, from the open to the last close.
///
/// Each write checks the lines that are complete by then, so that the writer hears of a mistake from `write`, which shells
/// report, and not only from `close`. The whole takes effect at a close, or not at all.
pub struct ConfigEdit {
    queue: u64,
    uid: u32,
    text: Vec<u8>,
    refused: bool,
}

impl ConfigEdit {
    /// Nothing written yet, by the user `uid`.
    pub fn new(queue: u64, uid: u32) -> Self {
        Self { queue, uid, text: Vec::new(), refused: false }
    }

    /// The queue.
    pub fn queue(&self) -> u64 {
        self.queue
    }

    /// Takes more text.
    pub fn write(&mut self, view: &View, data: &[u8]) -> Result<()> {
        if self.text.len() + data.len() > LONGEST {
            return Err(Error::MessageTooLarge);
        }
        self.text.extend_from_slice(data);
        let complete = self.text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut trial = (*view.store.config(self.queue)?).clone();
        let checked = as_text(&self.text[..complete])
            .and_then(|text| trial.apply(text))
            .and_then(|()| view.store.check_config(self.queue, &trial));
        checked.map_err(|error| self.refuse(view, error))
    }

    /// A close: what was written takes effect.
    pub fn apply(&mut self, view: &View) -> Result<()> {
        if self.refused {
            return Err(Error::Invalid("the configuration was refused".into()));
        }
        if self.text.is_empty() {
            return Ok(());
        }
        let text = std::mem::take(&mut self.text);
        let mut config = (*view.store.config(self.queue)?).clone();
        let applied = as_text(&text).and_then(|text| config.apply(text)).and_then(|()| {
            view.store.alter_queue(self.queue, |record| {
                record.config = config.render();
                record.rejected.clear();
                Ok(())
            })
        });
        applied.map_err(|error| self.refuse(view, error))?;
        tracing::info!(queue = view.store.label(self.queue), uid = self.uid, "configuration changed");
        view.was_configured(self.queue);
        Ok(())
    }

    /// Notes why, for the log and for the next reader of `config`.
    fn refuse(&mut self, view: &View, error: Error) -> Error {
        self.refused = true;
        view.note_refusal(self.queue, &error);
        error
    }
}

fn as_text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| Error::Invalid("not UTF-8".into()))
}

impl View {
    /// The configuration of a queue has changed: it may not be paused any more.
    pub(super) fn was_configured(&self, queue: u64) {
        self.became_ready(queue);
    }

    /// Notes why a configuration was refused, in the log and in `config`.
    pub(super) fn note_refusal(&self, queue: u64, why: &Error) {
        let why = beginning(&why.to_string().replace('\n', " "));
        tracing::warn!(queue = self.store.label(queue), why, "configuration refused");
        let noted = self.store.alter_queue(queue, |record| {
            record.rejected = why;
            Ok(())
        });
        if let Err(error) = noted {
            tracing::debug!(queue = self.store.label(queue), %error, "refusal not noted");
        }
    }

    /// What `config` reads as.
    pub(super) fn config_text(&self, queue: u64) -> Result<String> {
        let rejected = self.store.queue_record(queue)?.rejected;
        let mut text = self.store.config(queue)?.render();
        if !rejected.is_empty() {
            text.push_str(&format!("# rejected: {}\n", beginning(&rejected)));
        }
        Ok(text)
    }
}

/// A text, or as much of its beginning as is told.
fn beginning(text: &str) -> String {
    match text.char_indices().map(|(at, _)| at).take_while(|at| *at <= LONGEST_REASON).last() {
        Some(end) if text.len() > LONGEST_REASON => format!("{}...", &text[..end]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_reason_the_beginning_is_told() {
        assert_eq!(beginning("short"), "short");
        let long = beginning(&"é".repeat(40_000));
        assert!(long.ends_with("é...") && long.len() <= LONGEST_REASON + 3, "{}", long.len());
    }
}
