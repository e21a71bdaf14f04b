//! Those who feed a queue from elsewhere, and go on from its mark; and workers who acknowledge with what they enqueue.
//!
//! There is one source, a count: batch N is the same whoever enqueues it, and the mark is the number of the last. Several feed at
//! once, are killed, and leave batches behind, which others try again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::journal::{Event, now};
use super::producers::{Producer, close};
use super::workers::{Worker, listed};
use crate::common::{set_xattr, try_xattr};
use crate::extra::Random;

/// The mark.
pub const MARK: &str = "user.mark.fed";
/// The same as a condition.
const WAS: &str = "user.mark-was.fed";

/// How many files the batch of a number has.
fn size_of(number: u64) -> u64 {
    [1, 4, 9][number as usize % 3]
}

/// The number that a mark says; 0 is the beginning.
pub fn mark_of(path: &Path) -> io::Result<u64> {
    match try_xattr(path, MARK) {
        Ok(value) => Ok(String::from_utf8_lossy(&value).parse().expect("a number")),
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(0),
        Err(error) => Err(error),
    }
}

impl Producer<'_> {
    /// Enqueues the batch after the mark, or one that somebody has left behind.
    pub(super) fn feed(&mut self) -> bool {
        let id = format!("{}.{}", self.part.queue, self.part.name);
        let fed = match self.random.below(4) {
            0 => self.feed_what_is_left(),
            _ => self.feed_next(),
        };
        match fed {
            // Somebody else was faster, or took it, or is at it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESTALE | libc::EBUSY | libc::EEXIST)) => false,
            fed => self.journal.note_refusal(&id, fed).is_some(),
        }
    }

    fn feed_next(&mut self) -> io::Result<()> {
        let was = mark_of(&self.part.dir)?;
        let number = was + 1;
        let batch = format!("{}.feed.{number}", self.part.queue);
        let dir = self.part.dir.join(format!(".mq/batch/{batch}~{}-{}", self.part.name, self.number));
        fs::create_dir(&dir)?;
        let ids: Vec<String> = (0..size_of(number)).map(|file| format!("{batch}.{file:03}")).collect();
        self.fill(&dir, &ids)?;
        for id in ids {
            let batch = Some((batch.clone(), size_of(number) as usize));
            self.journal.note(Event::Offered { id, priority: 0, delay: 0, ttl: 0, batch });
        }
        set_xattr(&dir, WAS, if was == 0 { String::new() } else { was.to_string() })?;
        // A power cut may come before the rename, and what was closed only is not on disk.
        for file in fs::read_dir(&dir)? {
            File::open(file?.path())?.sync_all()?;
        }
        // From now on it is whole, and others may try it.
        set_xattr(&dir, MARK, number.to_string())?;
        self.enqueue_fed(&dir, number)
    }

    fn feed_what_is_left(&mut self) -> io::Result<()> {
        let entries = fs::read_dir(self.part.dir.join(".mq/batch"))?.flatten();
        let left: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        if left.is_empty() {
            return Ok(());
        }
        let dir = &left[self.random.below(left.len() as u64) as usize];
        let number = mark_of(dir)?;
        if number == 0 {
            return Ok(()); // it is being made, or never will be
        }
        self.enqueue_fed(dir, number)
    }

    fn enqueue_fed(&mut self, dir: &Path, number: u64) -> io::Result<()> {
        match fs::rename(dir, self.part.dir.join("enqueued")) {
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => return fs::remove_dir_all(dir),
            renamed => renamed?,
        }
        for file in 0..size_of(number) {
            let id = format!("{}.feed.{number}.{file:03}", self.part.queue);
            self.journal.note(Event::Acknowledged { id, synced: false });
        }
        Ok(())
    }
}

impl Worker {
    /// Makes a message in another queue of the next one, and acknowledges that in the same step: to the checker, a move.
    pub(super) fn settle_one(&mut self, target: &str, name: &str, random: &mut Random) -> io::Result<bool> {
        let asked = now();
        let Some(path) = self.claim(true)? else { return Ok(false) };
        let Some(id) = self.examine(&path, asked)? else { return Ok(true) };
        let shown = path.file_name().unwrap_or_default().to_string_lossy();
        let plain = crate::extra::plain(&shown);
        let Some((Some(seq), _)) = listed(&plain) else { return Ok(false) };
        let bytes = fs::read(&path)?;
        let to = self.dir.with_file_name(target);
        let settles = format!(".mq/claimed/{shown}");
        self.journal.note(Event::Moving { id: id.clone() });
        let unique = format!("{id}~{name}-{asked}");
        let made = match random.below(3) {
            0 => in_batch(&to.join(".mq/batch").join(unique), &id, &bytes, &settles)
                .and_then(|batch| fs::rename(batch, to.join("made"))),
            _ => {
                let draft = to.join(format!(".{unique}"));
                write(&draft, &bytes)?;
                set_xattr(&draft, "user.mq.settles", settles)?;
                fs::rename(draft, to.join(&id))
            }
        };
        if self.journal.note_refusal(&id, made).is_none() {
            return Ok(false);
        }
        self.journal.note(Event::Moved { id, seq, synced: false });
        Ok(true)
    }
}

fn in_batch(batch: &Path, id: &str, bytes: &[u8], settles: &str) -> io::Result<PathBuf> {
    fs::create_dir(batch)?;
    write(&batch.join(id), bytes)?;
    set_xattr(batch, "user.mq.settles", settles)?;
    Ok(batch.to_owned())
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = File::create(path)?;
    (&file).write_all(bytes)?;
    close(file)
}
