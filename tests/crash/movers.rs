//! Workers who do not acknowledge: they move messages to another queue, give them back, give them up, and take dead letters up
//! again; or they purge.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use super::journal::{Event, now};
use super::promises::way;
use super::workers::{Worker, listed, some_of};
use crate::extra::Random;

impl Worker {
    /// Moves a message to another queue: one that is ready, delayed or dead, or the next, which it claims and reads first.
    pub(super) fn move_one(&mut self, random: &mut Random) -> io::Result<bool> {
        let asked = now();
        let path = match random.below(8) {
            0 => some_of(&self.dir.join(".mq/delayed"), random)?,
            1 => some_of(&self.dir.join(".mq/dead"), random)?,
            2..5 => match self.claim(false)? {
                Some(path) => self.examine(&path, asked)?.map(|_| path),
                None => None,
            },
            _ => some_of(&self.dir, random)?,
        };
        let Some(path) = path else { return Ok(false) };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some((Some(seq), id)) = listed(&name) else { return Ok(false) };
        let Some(queue) = way(id, &self.queue) else { return Ok(false) };
        let target = self.dir.with_file_name(queue);
        let new = if random.below(2) == 0 { id } else { &name };
        self.journal.note(Event::Moving { id: id.to_owned() });
        self.transition(id, &path, &target.join(new))?;
        self.journal.note(Event::Moved { id: id.to_owned(), seq, synced: false });
        if random.below(8) == 0 {
            File::open(target)?.sync_all()?;
            self.journal.note(Event::Moved { id: id.to_owned(), seq, synced: true });
        }
        Ok(true)
    }

    /// Claims the next message, and gives it back now or later, gives it up, lets it down, or acknowledges it at last; or takes
    /// one of the dead letters up, or acknowledges that.
    pub(super) fn nack_one(&mut self, random: &mut Random) -> io::Result<bool> {
        let asked = now();
        if random.below(8) == 0 {
            let Some(path) = some_of(&self.dir.join(".mq/dead"), random)? else { return Ok(false) };
            let Some(id) = self.examine(&path, asked)? else { return Ok(true) };
            match random.below(2) {
                0 => {
                    self.journal.note(Event::Redriving { id: id.clone() });
                    self.transition(&id, &path, &self.dir.join(path.file_name().unwrap_or_default()))?;
                }
                _ => self.acknowledge(&path, &id, false)?,
            }
            return Ok(true);
        }
        let Some(path) = self.claim(true)? else { return Ok(false) };
        let Some(id) = self.examine(&path, asked)? else { return Ok(true) };
        let name = path.file_name().unwrap_or_default();
        match random.below(12) {
            0 => self.acknowledge(&path, &id, random.below(4) == 0)?,
            1 => {} // Let down.
            2 => self.transition(&id, &path, &self.dir.join(".mq/dead").join(name))?,
            3 | 4 => self.transition(&id, &path, &self.dir.join(".mq/delayed").join(name))?,
            _ => self.transition(&id, &path, &self.dir.join(name))?,
        }
        Ok(true)
    }

    /// Purges some states or all, after a while.
    pub(super) fn purge(&mut self, name: &str, random: &mut Random) -> io::Result<bool> {
        sleep(Duration::from_millis(random.below(1200)));
        let some = random.below(2) == 0;
        let words = match random.below(2) {
            0 if some => "ready",
            _ if some => "claimed delayed",
            0 => "ready claimed delayed dead",
            _ => "all",
        };
        let id = format!("{}.{name}.{}", self.queue, now());
        self.journal.note(Event::Purging { id: id.clone(), all: !some });
        let purged = fs::write(self.dir.join(".mq/purge"), format!("{words}\n"));
        if self.journal.note_refusal(&id, purged).is_some() {
            self.journal.note(Event::Purged { id });
        }
        Ok(true)
    }

    /// Renames a message. Somebody else may have been faster, or have it claimed.
    fn transition(&mut self, id: &str, from: &Path, to: &Path) -> io::Result<()> {
        match fs::rename(from, to) {
            Err(error) if error.raw_os_error() != Some(libc::EBUSY) => {
                self.journal.note(Event::Refused { id: id.to_owned(), errno: error.raw_os_error().unwrap_or(0) });
                Err(error)
            }
            result => result,
        }
    }
}
