//! Producers. Each writes down what it offers before its first call, and what was acknowledged after the last one returned 0.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use super::actors::{Part, Role};
use super::body::{PART_BYTES, body};
use super::journal::{Event, Journal};
use crate::extra::Random;

/// A producer in shell: `$NAME` writes into the queue `$Q`, by `cp`, by the redirection of a program that minds its close,
/// by `mv` of a draft, and by `mqfs put`.
pub const SCRIPT: &str = r#"
RANDOM=$SEED
note() { printf '{"at":%s,"event":"%s","id":"%s"}\n' "${EPOCHREALTIME/[.,]/}" "$1" "$id" >> "$J"; }
body() { seq -f "$id:%.0f/$parts" -s ' ' 1 "$parts"; }
for ((n = 1; ; n++)); do
    id=$QUEUE.$NAME.$n parts=$((RANDOM % 50 + 1))
    ((RANDOM % 8)) || parts=$((RANDOM % 8000 + 1))
    note offered
    case $((RANDOM % 5)) in
    0) body > "$BODY" && cp "$BODY" "$Q/$id" ;;
    1) body > "$BODY" && cat "$BODY" > "$Q/$id" ;;
    2) body > "$Q/.$id" && mv "$Q/.$id" "$Q/$id" ;;
    3) body > "$BODY" && "$MQFS" put -n "$id" "$Q" "$BODY" ;;
    4) seq -f "$id:%.0f/$parts" -s ' ' 1 "$parts" > "$Q/$id" ;;
    esac 2> /dev/null && note acknowledged || sleep 0.05
done
"#;

/// A producer of this binary.
pub(super) struct Producer<'a> {
    pub(super) part: &'a Part,
    pub(super) journal: Journal,
    pub(super) random: Random,
    pub(super) number: u64,
}

/// Produces until the process is killed.
pub fn produce(part: &Part) {
    let (journal, random) = (part.open_journal(), Random::seeded(part.seed));
    let mut producer = Producer { part, journal, random, number: 0 };
    loop {
        producer.number += 1;
        let succeeded = match part.role {
            Role::Batches => producer.batch(),
            Role::Feeder => producer.feed(),
            Role::LineWriter => producer.lines(),
            Role::Repeater => producer.repeated(),
            _ => producer.message(),
        };
        let pause = if succeeded { producer.random.below(12) } else { 20 };
        sleep(Duration::from_millis(pause));
    }
}

/// A priority, a delay and a time to live in milliseconds, and the directory below the queue where they are said.
type Wishes = (u8, u64, u64, String);

impl Producer<'_> {
    /// Mostly some hundreds of bytes, sometimes more than fits the database, seldom a megabyte.
    fn parts(&mut self) -> usize {
        let bytes = match self.random.below(100) {
            0..70 => self.random.below(800),
            70..88 => self.random.below(40_000),
            88..99 => self.random.below(200_000),
            _ => self.random.below(1_100_000),
        };
        bytes as usize / PART_BYTES + 1
    }

    fn wishes(&mut self) -> Wishes {
        match self.part.queue.as_str() {
            "priority" => match self.random.below(3) as u8 {
                0 => (0, 0, 0, String::new()),
                priority => (priority, 0, 0, format!(".mq/with/priority={priority}")),
            },
            "late" if self.random.below(3) > 0 => {
                let delay = self.random.below(700) + 1;
                (0, delay, 0, format!(".mq/with/delay={delay}ms"))
            }
            "brief" | "fleeting" if self.random.below(3) > 0 => {
                let ttl = [20, 600, 3_600_000][self.random.below(3) as usize];
                let ttl = if ttl < 1000 { self.random.below(ttl) + 1 } else { ttl };
                (0, 0, ttl, format!(".mq/with/ttl={ttl}ms"))
            }
            _ => (0, 0, 0, String::new()),
        }
    }

    /// One message.
    fn message(&mut self) -> bool {
        let id = self.part.id(self.number);
        let (priority, delay, ttl, directory) = self.wishes();
        self.journal.note(Event::Offered {
            id: id.clone(),
            priority,
            delay: delay * 1000,
            ttl: ttl * 1000,
            batch: None,
        });
        let bytes = body(&id, self.parts());
        let written = self.write(&id, &self.part.dir.join(directory), &bytes);
        self.acknowledged(&id, written)
    }

    fn acknowledged(&mut self, id: &str, written: io::Result<bool>) -> bool {
        let synced = self.journal.note_refusal(id, written);
        synced.inspect(|synced| self.journal.note(Event::Acknowledged { id: id.to_owned(), synced: *synced })).is_some()
    }

    /// Writes a message under a name in one of several ways; whether it was synced besides.
    fn write(&mut self, name: &str, directory: &Path, bytes: &[u8]) -> io::Result<bool> {
        let (way, sync) = (self.random.below(4), self.random.below(4) == 0);
        let draft = self.part.dir.join(format!(".{name}"));
        let first = if way < 2 { draft.clone() } else { directory.join(name) };
        let file = File::create(first)?;
        let pieces = self.random.below(3) as usize + 1;
        bytes.chunks(bytes.len().div_ceil(pieces)).try_for_each(|piece| (&file).write_all(piece))?;
        if sync {
            file.sync_all()?;
        }
        close(file)?;
        match way {
            0 => fs::rename(draft, directory.join(name))?,
            1 => {
                fs::hard_link(&draft, directory.join(name))?;
                // The message is enqueued, whatever becomes of the draft.
                let _ = fs::remove_file(draft);
            }
            _ => return Ok(sync),
        }
        if sync {
            File::open(&self.part.dir)?.sync_all()?;
        }
        Ok(sync)
    }

    /// One message under a deduplication id: until it is acknowledged, and sometimes once more.
    fn repeated(&mut self) -> bool {
        let id = self.part.id(self.number);
        let bytes = body(&id, self.parts());
        let directory = self.part.dir.join(format!(".mq/with/id={id}"));
        for attempt in 0.. {
            self.journal.note(Event::Offered { id: id.clone(), priority: 0, delay: 0, ttl: 0, batch: None });
            // Its session still finds the one before by its name, and no rename replaces that.
            let written = self.write(&format!("{id}~{attempt}"), &directory, &bytes);
            let acknowledged = self.acknowledged(&id, written);
            if !acknowledged {
                sleep(Duration::from_millis(10));
            } else if self.random.below(3) > 0 {
                break;
            }
        }
        true
    }

    /// One batch, the files of which are offered when all are there.
    fn batch(&mut self) -> bool {
        let batch = self.part.id(self.number);
        let size = [2, 5, 9, 40][self.random.below(4) as usize];
        let dir = self.part.dir.join(".mq/batch").join(&batch);
        let ids: Vec<String> = (0..size).map(|file| format!("{batch}.{file:03}")).collect();
        let prepared = self.prepare(&dir, &ids);
        if self.journal.note_refusal(&batch, prepared).is_none() {
            return false;
        }
        for id in &ids {
            let batch = Some((batch.clone(), size));
            self.journal.note(Event::Offered { id: id.clone(), priority: 0, delay: 0, ttl: 0, batch });
        }
        let renamed = fs::rename(dir, self.part.dir.join("enqueued"));
        if self.journal.note_refusal(&batch, renamed).is_none() {
            return false;
        }
        ids.into_iter().for_each(|id| self.journal.note(Event::Acknowledged { id, synced: false }));
        true
    }

    fn prepare(&mut self, dir: &Path, ids: &[String]) -> io::Result<()> {
        fs::create_dir(dir)?;
        self.fill(dir, ids)
    }

    /// Writes the files of a batch.
    pub(super) fn fill(&mut self, dir: &Path, ids: &[String]) -> io::Result<()> {
        for id in ids {
            let file = File::create(dir.join(id))?;
            (&file).write_all(&body(id, self.parts()))?;
            close(file)?;
        }
        Ok(())
    }

    /// Some lines through one descriptor. What a write has taken is enqueued; what an fsync or close covers is synced.
    fn lines(&mut self) -> bool {
        let path: PathBuf = self.part.dir.join(".mq/lines");
        let mut unsynced = Vec::new();
        let opened = File::options().append(true).open(path);
        let Some(file) = self.journal.note_refusal("lines", opened) else { return false };
        for _ in 0..self.random.below(20) + 1 {
            self.number += 1;
            let id = self.part.id(self.number);
            self.journal.note(Event::Offered { id: id.clone(), priority: 0, delay: 0, ttl: 0, batch: None });
            let written = (&file).write_all(&body(&id, self.parts())).map(|()| false);
            if !self.acknowledged(&id, written) {
                return false;
            }
            unsynced.push(id);
        }
        let ended = if self.random.below(2) == 0 { file.sync_all() } else { close(file) };
        let synced = self.journal.note_refusal("lines", ended).is_some();
        if synced {
            unsynced.into_iter().for_each(|id| self.journal.note(Event::Acknowledged { id, synced: true }));
        }
        synced
    }
}

/// Closes a file and tells what the close says, which dropping it does not.
pub(super) fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor is given up by its owner and closed once.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
