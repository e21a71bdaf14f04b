//! `mqfs import`: puts what `mqfs export` has told into a store that is not mounted.
//!
//! A line that cannot be used is told and passed over; what concerns the store, or the input, ends the command.

mod line;
mod rules;

use std::collections::HashMap;
use std::io::{self, BufReader};
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::backup::exit_of;
use super::exit::{Exit, Failure};
use super::interrupt;
use super::jsonl::{DeathLine, Header, IdLine, Line, MarkLine, MessageLine, QueueLine, VERSION};
use super::text::{complain, print_line};
use super::trust;
use crate::cli::ImportArgs;
use crate::clock;
use crate::error::Error;
use crate::fuse::mountinfo;
use crate::queue::config::QueueConfig;
use crate::queue::mark::{MARKS, Says};
use crate::queue::name::{check_queue_name, stripped};
use crate::queue::state::State;
use crate::store::image::RememberedId;
use crate::store::import::{Incoming, config_text};
use crate::store::record::{MessageRecord, NewMessage, QueueRecord};
use crate::store::{DEATHS, Death, LONGEST_ERROR, ROOT, Store, short};

/// Of lines that cannot be used so many are told.
const TOLD: u64 = 100;

/// An import that is under way.
struct Import<'a> {
    store: &'a Store,
    /// The store was made for this, so numbers stay as they are.
    fresh: bool,
    /// Numbers as they are in the input are kept.
    keeps_numbers: bool,
    /// Numbers of queues by their paths.
    queues: HashMap<Vec<u8>, u64>,
    messages: u64,
    made: u64,
}

/// Why a line cannot be used.
type Refused = String;

/// Runs the command.
pub fn run(arguments: &ImportArgs) -> Result<(), Failure> {
    let dir = &arguments.store;
    let failed =
        |exit: Exit, why: &dyn std::fmt::Display| Failure::new(exit, format_args!("store {}: {why}", dir.display()));
    refuse_mount(dir)?;
    let trust = trust(arguments.trust_owner);
    let store = Store::open_of(dir, trust, QueueConfig::default()).map_err(|error| failed(exit_of(&error), &error))?;
    let fresh = store.is_empty().map_err(|error| failed(Exit::Failure, &error))?;
    interrupt::catch();
    let mut import = Import {
        store: &store,
        fresh,
        keeps_numbers: false,
        queues: HashMap::from([(Vec::new(), ROOT)]),
        messages: 0,
        made: 0,
    };
    let refused = import.all();
    let (messages, made) = (import.messages, import.made);
    // Whatever was imported stays.
    let finished = store.finish_import().and_then(|()| store.close());
    let told = format!("{messages} messages and {made} queues imported");
    if !arguments.quiet {
        let _ = print_line(&format!("{}: {told}", dir.display()));
    }
    interrupt::die_if_told();
    let refused = refused.map_err(|failure| Failure::new(failure.exit, format_args!("{}; {told}", failure.line())))?;
    finished.map_err(|error| failed(Exit::Failure, &error))?;
    match refused {
        0 => Ok(()),
        lines => Err(failed(Exit::Incomplete, &format_args!("{lines} lines could not be used; {told}"))),
    }
}

fn refuse_mount(dir: &Path) -> Result<(), Failure> {
    let full = mountinfo::resolve(dir).unwrap_or_else(|_| dir.to_owned());
    match mountinfo::of(&full) {
        Ok(Some(entry)) if entry.is_mqfs() => Err(Failure::new(
            Exit::Destination,
            format_args!("{}: on an mqfs mount; unmount it, and name its store", dir.display()),
        )),
        _ => Ok(()),
    }
}

/// Errors of the store that the next line would meet too.
fn is_fatal(error: &Error) -> bool {
    matches!(error, Error::NoSpace | Error::Io(_) | Error::Damaged(_) | Error::TooManyOpen)
}

impl Import<'_> {
    /// Reads standard input to its end; gives how many lines could not be used.
    fn all(&mut self) -> Result<u64, Failure> {
        let mut input = BufReader::with_capacity(1 << 18, io::stdin().lock());
        let mut wrong = 0;
        for number in 1_u64.. {
            if interrupt::told() {
                return Err(Failure::new(Exit::Interrupted, "interrupted"));
            }
            let stop = |error: Error| {
                let exit = if matches!(error, Error::NoSpace) { Exit::Refused } else { Exit::Failure };
                Failure::new(exit, format_args!("line {number}: {error}"))
            };
            let mut body = self.store.incoming();
            let Some(line) = line::read(&mut input, &mut |bytes| body.write(bytes)).map_err(stop)? else { break };
            let taken = match line.refused {
                Some(why) => Ok(Err(why)),
                None if line.text.trim_ascii().is_empty() => Ok(Ok(())),
                None => self.take(&line.text, body),
            };
            if let Err(why) = taken.map_err(stop)? {
                wrong += 1;
                if wrong <= TOLD {
                    complain(&format!("line {number}: {why}"));
                }
            }
        }
        Ok(wrong)
    }

    /// Does what a line says. The outer error ends the import, the inner one is the line's.
    fn take(&mut self, text: &[u8], body: Incoming<'_>) -> Result<Result<(), Refused>, Error> {
        let line = match serde_json::from_slice(text) {
            Ok(line) => line,
            // Of which line of the text is another line's number.
            Err(error) => return Ok(Err(error.to_string().replace(" at line 1 column ", " at column "))),
        };
        let taken = match line {
            Line::MqfsExport(header) => self.header(&header),
            Line::Queue(queue) => self.queue(queue),
            Line::Mark(mark) => self.mark(&mark),
            Line::DedupId(id) => self.id(&id),
            Line::Message(message) => self.message(*message, body),
        };
        match taken {
            Err(Stop::Store(error)) if is_fatal(&error) => Err(error),
            Err(Stop::Store(error)) => Ok(Err(error.to_string())),
            Err(Stop::Line(why)) => Ok(Err(why)),
            Ok(()) => Ok(Ok(())),
        }
    }

    fn header(&mut self, header: &Header) -> Result<(), Stop> {
        if header.version > VERSION {
            return Err(Stop::Line(format!("version {} of the format; known is {VERSION}", header.version)));
        }
        // A second export in the same input has numbers of its own.
        self.keeps_numbers = self.fresh && self.made == 0 && self.messages == 0;
        Ok(())
    }

    fn queue(&mut self, line: QueueLine) -> Result<(), Stop> {
        let mode = octal(&line.mode, 0o7777)?;
        let path = line.path.0;
        if path.is_empty() {
            if self.keeps_numbers {
                let created = line.created.as_deref().map(instant).transpose()?;
                let (uid, gid) = (line.uid.map(rules::owner).transpose()?, line.gid.map(rules::owner).transpose()?);
                self.store.alter_queue(ROOT, |root| {
                    root.created = created.unwrap_or(root.created);
                    root.uid = uid.unwrap_or(root.uid);
                    root.gid = gid.unwrap_or(root.gid);
                    root.mode = mode;
                    (root.modified_ns, root.accessed_ns) = (line.mtime_ns, line.atime_ns);
                    Ok(())
                })?;
            }
            return Ok(());
        }
        if self.find(&path)?.is_some() {
            return Ok(()); // it keeps its configuration
        }
        let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], &path[..]),
        };
        check_queue_name(name)?;
        if name.is_empty() || name == b"." || name == b".." || name.contains(&0) {
            return Err(Stop::Line("not a path of a queue".to_owned()));
        }
        let parent = self.find(above)?.ok_or_else(|| Stop::Line("the queue that it is nested in is missing".into()))?;
        let record = QueueRecord {
            parent,
            batch: false,
            name: name.to_vec(),
            uid: rules::owner(line.uid.unwrap_or(rustix::process::geteuid().as_raw()))?,
            gid: rules::owner(line.gid.unwrap_or(rustix::process::getegid().as_raw()))?,
            mode,
            created: line.created.as_deref().map_or(Ok(clock::now_ms()), instant)?,
            modified_ns: line.mtime_ns,
            modified_at: 0,
            accessed_ns: line.atime_ns,
            config: config_text(line.config.iter().map(|(key, value)| (key.as_str(), value.as_str())))?,
            rejected: String::new(),
            purged: [0; 4],
            attributes: rules::attributes(line.attributes, false)?,
        };
        let id = self.store.import_queue(line.id.filter(|_| self.keeps_numbers), record)?;
        self.queues.insert(path, id);
        self.made += 1;
        Ok(())
    }

    /// The number of the queue of a path.
    fn find(&mut self, path: &[u8]) -> Result<Option<u64>, Error> {
        if let Some(known) = self.queues.get(path) {
            return Ok(Some(*known));
        }
        let mut queue = ROOT;
        for name in path.split(|byte| *byte == b'/') {
            queue = match self.store.find_queue(queue, name) {
                Ok(queue) => queue,
                Err(Error::NotFound) => return Ok(None),
                Err(error) => return Err(error),
            };
        }
        self.queues.insert(path.to_vec(), queue);
        Ok(Some(queue))
    }

    fn queue_of(&mut self, path: &[u8]) -> Result<u64, Stop> {
        match self.find(path)? {
            Some(queue) if queue != ROOT => Ok(queue),
            _ => Err(Stop::Line(format!("there is no queue `{}`", String::from_utf8_lossy(path)))),
        }
    }

    /// The number that something has in the input, if it is kept; else a new one.
    fn number(&self, given: Option<&str>) -> Result<u64, Stop> {
        match given {
            Some(text) if self.keeps_numbers => {
                u64::from_str_radix(text, 16).map_err(|_| Stop::Line(format!("id `{text}`: not a number")))
            }
            _ => Ok(self.store.next_id()?),
        }
    }

    /// A mark that a queue has it keeps, as it keeps its configuration: it may stand for more than what is imported.
    fn mark(&mut self, line: &MarkLine) -> Result<(), Stop> {
        let queue = self.queue_of(&line.queue.0)?;
        rules::mark(line)?;
        match self.store.set_mark(queue, (Says::Is, &line.mark), &line.value.0, Some(false)) {
            Ok(()) | Err(Error::Exists) => Ok(()),
            Err(Error::NoSpace) => Err(Stop::Line(format!("a queue has no more than {MARKS} marks"))),
            Err(error) => Err(error.into()),
        }
    }

    fn id(&mut self, line: &IdLine) -> Result<(), Stop> {
        let queue = self.queue_of(&line.queue.0)?;
        let message = self.number(line.id.as_deref())?;
        let until = instant(&line.until)?;
        self.store.import_id(&RememberedId { queue, id: line.dedup_id.0.clone(), until, message })?;
        Ok(())
    }

    fn death(&mut self, line: &DeathLine) -> Result<Death, Stop> {
        Ok(Death {
            queue: self.find(line.queue.as_bytes())?.filter(|queue| *queue != ROOT).unwrap_or(0),
            path: short(&line.queue),
            reason: short(&line.reason),
            count: line.count,
            first: instant(&line.first)?,
            last: instant(&line.last)?,
            unclaimed: line.unclaimed,
        })
    }

    fn message(&mut self, line: MessageLine, body: Incoming<'_>) -> Result<(), Stop> {
        let queue = self.queue_of(&line.queue.0)?;
        // A body that was not seen as one while the line was read.
        if !line.body.is_empty() {
            return Err(Stop::Line("the key `body` is not written plainly".to_owned()));
        }
        if line.size.is_some_and(|size| size != body.size()) {
            return Err(Stop::Line(format!(
                "a body of {} bytes where {} should be",
                body.size(),
                line.size.unwrap_or(0)
            )));
        }
        let seq = line.seq.filter(|_| self.keeps_numbers);
        let id = self.number(line.id.as_deref())?;
        if line.last_error.0.len() > LONGEST_ERROR || line.deaths.len() > DEATHS {
            return Err(Stop::Line(format!("more than {LONGEST_ERROR} bytes of `last_error`, or {DEATHS} `deaths`")));
        }
        let deaths = line.deaths.iter().map(|death| self.death(death)).collect::<Result<_, _>>()?;
        let mut record = record(queue, id, line)?;
        rules::message(&record, &*self.store.config(queue)?)?;
        record.deaths = deaths;
        if !self.store.keeps_names(queue)? {
            // As when a message is moved into a queue.
            record.name = stripped(&record.name, |seq| self.store.gave_out(seq)).to_vec();
        }
        self.store.import_message(seq, record, body)?;
        self.messages += 1;
        Ok(())
    }
}

/// Why what a line says is not done.
enum Stop {
    /// The store says so.
    Store(Error),
    /// It makes no sense.
    Line(Refused),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Store(error)
    }
}

/// The record of a message, by its line.
fn record(queue: u64, id: u64, line: MessageLine) -> Result<MessageRecord, Stop> {
    let name = line.name.0;
    if name.contains(&b'/') || name.contains(&0) || name == b"." || name == b".." {
        return Err(Stop::Line("not a name of a message".to_owned()));
    }
    let state = State::ALL.into_iter().find(|state| state.word() == line.state);
    let state = state.ok_or_else(|| Stop::Line(format!("unknown state `{}`", line.state)))?;
    let now = line.enqueued_at.as_deref().map_or(Ok(clock::now_ms()), instant)?;
    let new = NewMessage {
        id,
        queue,
        name,
        uid: rules::owner(line.uid.unwrap_or(rustix::process::geteuid().as_raw()))?,
        gid: rules::owner(line.gid.unwrap_or(rustix::process::getegid().as_raw()))?,
        mode: octal(&line.mode, 0o777)?,
        modified_ns: line.mtime_ns,
        accessed_ns: line.atime_ns,
        producer_pid: line.producer_pid,
        attributes: rules::attributes(line.attributes, true)?,
    };
    let mut record = MessageRecord::new(new, now);
    record.set_state(state);
    record.deliveries = line.deliveries;
    record.due = line.due.as_deref().map_or(Ok(0), instant)?;
    record.expires = line.expires.as_deref().map_or(Ok(0), instant)?;
    record.since = line.since.as_deref().map_or(Ok(record.since), instant)?;
    record.retrying = line.retrying;
    record.last_error = line.last_error.0;
    record.claim = line.claim.map(|claim| claim.claim(instant)).transpose()?;
    match state {
        State::Claimed if record.claim.is_none() => Err(Stop::Line("claimed, without a `claim`".to_owned())),
        State::Ready | State::Claimed | State::Dead if record.retrying => {
            Err(Stop::Line(format!("{}, and `retrying`", state.word())))
        }
        State::Delayed if record.due == 0 => Err(Stop::Line("delayed, without a `due`".to_owned())),
        State::Ready | State::Delayed | State::Dead if record.claim.is_some() => {
            Err(Stop::Line(format!("{}, with a `claim`", state.word())))
        }
        _ => Ok(record),
    }
}

fn octal(text: &str, bits: u32) -> Result<u32, Stop> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| mode & !bits == 0);
    mode.ok_or_else(|| Stop::Line(format!("mode `{text}`: not permission bits in octal")))
}

fn instant(text: &str) -> Result<u64, Stop> {
    let wrong = || Stop::Line(format!("`{text}`: write an instant such as 2026-01-31T08:00:00Z"));
    let since = humantime::parse_rfc3339(text).ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    u64::try_from(since.ok_or_else(wrong)?.as_millis()).map_err(|_| wrong())
}
