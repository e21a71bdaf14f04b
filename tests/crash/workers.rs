//! Workers. Each writes down what it was given, that it is about to acknowledge, and that it has.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use super::actors::{Part, Role};
use super::body;
use super::journal::{Event, Journal, now};
use crate::common::try_xattr;
use crate::extra::{Random, plain};

/// For workers in shell: `look NAME` writes down that `$BODY`, a copy of a message, is the one of that name, and whole; a read
/// that failed is no broken message, so it is the copy that is looked at. `$asked` is when the message was asked for.
pub const LOOK: &str = r#"
note() { printf '{"at":%s,"event":"%s",%s}\n' "${EPOCHREALTIME/[.,]/}" "$1" "$2" >> "$J"; }
look() {
    first=$(head -c 200 "$BODY"); first=${first%%[[:space:]]*}
    id=${first%%:*} parts=${first##*/} seq=${1%%-*}
    if [ "$id" = "${1#*-}" ] && seq -f "$id:%.0f/$parts" -s ' ' 1 "$parts" | cmp -s - "$BODY"; then
        note delivered "\"id\":\"$id\",\"queue\":\"$QUEUE\",\"seq\":$((10#$seq)),\"asked\":$asked"
    else
        note broken "\"queue\":\"$QUEUE\",\"name\":\"$1\",\"why\":\"seen by a shell\""
        return 1
    fi
}
exec 2> /dev/null
"#;

/// A worker in shell.
pub const LOOP: &str = r#"
while :; do
    asked=${EPOCHREALTIME/[.,]/}
    f=$(cat "$Q/.mq/claim") || { sleep 0.05; continue; }
    name=${f##*/} name=${name/.??????????-/-} # without what names the delivery
    cat "$Q/$f" > "$BODY" && look "$name" || continue
    note acking "\"id\":\"$id\""
    rm "$Q/$f" && note acked "\"id\":\"$id\""
done
"#;

/// A worker by `mqfs consume`, which acknowledges when the command has ended and tells nobody.
pub const COMMANDS: &str = r#"
handle() {
    BODY=$BODY.$$
    cat > "$BODY" && look "$MQFS_SEQ-$MQFS_NAME" || exit 1
    ((RANDOM % 10)) || exit 1
    note acking "\"id\":\"$id\""
}
export -f note look handle
while :; do
    export asked=${EPOCHREALTIME/[.,]/}
    "$MQFS" consume -q -j 2 "$Q" -- bash -c handle
    sleep 0.05
done
"#;

/// A worker of this binary, or the campaign itself when it empties the store.
pub struct Worker {
    pub(super) queue: String,
    pub(super) dir: PathBuf,
    pub(super) journal: Journal,
}

/// Works until the process is killed.
pub fn work(part: &Part) {
    let mut worker = Worker::new(&part.queue, &part.dir, part.open_journal());
    let mut random = Random::seeded(part.seed);
    loop {
        let done = match part.role {
            Role::LineReader => worker.read_lines(&mut random),
            Role::Rover => worker.rove(&mut random),
            Role::Mover => worker.move_one(&mut random),
            Role::Purger => worker.purge(&part.name, &mut random),
            Role::Nacker => worker.nack_one(&mut random),
            Role::Settler => worker.settle_one("made", &part.name, &mut random),
            _ => worker.work_next(&mut random),
        };
        if !matches!(done, Ok(true)) {
            sleep(Duration::from_millis(20));
        }
    }
}

/// The sequence number and the id in the name that a message is listed under; `None` when it is no message's. Where there are
/// priorities a digit comes first; where names are kept there is no number; after the id there may be the number of an attempt.
pub fn listed(name: &str) -> Option<(Option<u64>, &str)> {
    let (number, named) = name.split_once('-').unwrap_or(match name.as_bytes().first()? {
        b'.' => return None,
        b'0'..=b'9' => (name, ""),
        _ => ("", name),
    });
    let digits = number.len().saturating_sub(16);
    Some((number.get(digits..)?.parse().ok(), named.split('~').next().unwrap_or(named)))
}

/// One of the first messages that a directory lists.
pub(super) fn some_of(directory: &Path, random: &mut Random) -> io::Result<Option<PathBuf>> {
    let message = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes()[0] != b'.';
    let nth = random.below(6) as usize;
    let first: Vec<_> = fs::read_dir(directory)?.flatten().filter(message).take(nth + 1).collect();
    Ok(first.last().map(fs::DirEntry::path))
}

/// What mqfs tells about a message besides its body.
#[derive(Default)]
struct Told {
    seq: Option<u64>,
    deliveries: Option<u64>,
    dead: bool,
    claimed: bool,
}

impl Worker {
    /// A worker on the queue in that directory.
    pub fn new(queue: &str, dir: &Path, journal: Journal) -> Worker {
        Worker { queue: queue.to_owned(), dir: dir.to_owned(), journal }
    }

    /// Claims the next message; its path, and `None` when there is none and `wait` is not asked for.
    pub(super) fn claim(&self, wait: bool) -> io::Result<Option<PathBuf>> {
        let flags = if wait { 0 } else { libc::O_NONBLOCK };
        let mut claim = File::options().read(true).custom_flags(flags).open(self.dir.join(".mq/claim"))?;
        let mut path = String::new();
        match claim.read_to_string(&mut path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(Some(self.dir.join(path.trim_end_matches('\n'))))
    }

    /// Claims and handles the next message; false when there is none and `wait` is not asked for.
    pub fn work_one(&mut self, wait: bool, sync: bool) -> io::Result<bool> {
        let asked = now();
        let Some(path) = self.claim(wait)? else { return Ok(false) };
        match self.examine(&path, asked)? {
            Some(id) => self.acknowledge(&path, &id, sync)?,
            None => fs::remove_file(&path)?,
        }
        Ok(true)
    }

    fn work_next(&mut self, random: &mut Random) -> io::Result<bool> {
        sleep(Duration::from_millis(random.below(3)));
        self.work_one(true, random.below(8) == 0)
    }

    /// Reads a claimed message and writes down what it is; `None` when it is broken.
    pub fn examine(&mut self, path: &Path, asked: u64) -> io::Result<Option<String>> {
        let number =
            |attribute| try_xattr(path, attribute).ok().and_then(|text| String::from_utf8(text).ok()?.parse().ok());
        let (seq, deliveries) = (number("user.mq.seq"), number("user.mq.deliveries"));
        let name = path.file_name().map_or_else(String::new, |name| plain(&name.to_string_lossy()));
        let mut bytes = Vec::new();
        match File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)) {
            Ok(_) => {
                let is_in = |state| path.parent().is_some_and(|parent| parent.ends_with(state));
                let (dead, claimed) = (is_in(".mq/dead"), is_in(".mq/claimed"));
                Ok(self.delivered(&name, &bytes, Told { seq, deliveries, dead, claimed }, asked))
            }
            Err(error) => {
                if let Some(errno @ libc::EIO) = error.raw_os_error() {
                    self.journal.note(Event::Unreadable { queue: self.queue.clone(), name, errno, asked });
                }
                Err(error)
            }
        }
    }

    fn delivered(&mut self, name: &str, bytes: &[u8], told: Told, asked: u64) -> Option<String> {
        let named = listed(name).map(|(_, named)| named).filter(|named| !named.is_empty());
        let queue = self.queue.clone();
        let checked = body::read(bytes).and_then(|id| match named {
            Some(named) if named != id => Err(format!("the body of {id}")),
            _ => Ok(id),
        });
        match checked {
            Ok(id) => {
                let (seq, deliveries) = (told.seq, told.deliveries.and_then(|count| count.try_into().ok()));
                let Told { dead, claimed, .. } = told;
                self.journal.note(Event::Delivered { id: id.clone(), queue, seq, deliveries, dead, claimed, asked });
                Some(id)
            }
            Err(why) => {
                self.journal.note(Event::Broken { queue, name: name.to_owned(), why });
                None
            }
        }
    }

    /// Acknowledges by unlinking.
    pub fn acknowledge(&mut self, path: &Path, id: &str, sync: bool) -> io::Result<()> {
        self.journal.note(Event::Acking { id: id.to_owned() });
        fs::remove_file(path)?;
        self.journal.note(Event::Acked { id: id.to_owned() });
        if sync {
            File::open(&self.dir)?.sync_all()?;
            self.journal.note(Event::Settled { id: id.to_owned() });
        }
        Ok(())
    }

    /// Any way of taking a message but `.mq/claim`, and any way of not finishing with it.
    fn rove(&mut self, random: &mut Random) -> io::Result<bool> {
        match random.below(8) {
            0 => return self.pop(),
            1 => return self.work_one(true, false),
            _ => {}
        }
        let asked = now();
        let Some(path) = some_of(&self.dir, random)? else { return Ok(false) };
        let claimed = self.dir.join(".mq/claimed").join(path.file_name().unwrap_or_default());
        let path = if random.below(2) == 0 {
            fs::rename(&path, &claimed)?;
            claimed.clone()
        } else {
            path
        };
        let Some(id) = self.examine(&path, asked)? else { return Ok(true) };
        match random.below(12) {
            0 => fs::rename(claimed, self.dir.join(path.file_name().unwrap_or_default()))?,
            1 => fs::rename(&claimed, self.dir.join(".mq/delayed").join(path.file_name().unwrap_or_default()))?,
            2 => {} // Let down.
            _ => self.acknowledge(&path, &id, false)?,
        }
        Ok(true)
    }

    /// Takes the next by `.mq/pop`. Its close acknowledges, and returns before mqfs may have heard of it: so nobody was told.
    fn pop(&mut self) -> io::Result<bool> {
        let asked = now();
        let mut pop = File::open(self.dir.join(".mq/pop"))?;
        let mut bytes = Vec::new();
        pop.read_to_end(&mut bytes)?;
        if let Some(id) = self.delivered("", &bytes, Told::default(), asked) {
            self.journal.note(Event::Acking { id });
        }
        Ok(true)
    }

    /// Reads the stream of lines for a while. The next read acknowledges the line before, and its answer tells so.
    fn read_lines(&mut self, random: &mut Random) -> io::Result<bool> {
        let mut lines = File::open(self.dir.join(".mq/lines"))?;
        let mut last: Option<String> = None;
        let mut buffer = vec![0; 1 << 20];
        for _ in 0..random.below(50) + 2 {
            if let Some(id) = &last {
                self.journal.note(Event::Acking { id: id.clone() });
            }
            let (mut line, asked) = (Vec::new(), now());
            while line.last() != Some(&b'\n') {
                match lines.read(&mut buffer)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    length => line.extend_from_slice(&buffer[..length]),
                }
                if let Some(id) = last.take() {
                    self.journal.note(Event::Acked { id });
                }
            }
            last = self.delivered("", &line, Told::default(), asked);
        }
        // The close acknowledges the last one.
        last.into_iter().for_each(|id| self.journal.note(Event::Acking { id }));
        Ok(true)
    }
}
