//! `mqfs export`: what is in a store, as lines of JSON.
//!
//! It is read from the files of a store that is not mounted, of a backup, or of a snapshot of one that is: so it is complete and
//! of one moment, and claims nothing.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use base64::engine::general_purpose::STANDARD;
use base64::write::EncoderWriter;

use super::backup::exit_of;
use super::exit::{Exit, Failure};
use super::jsonl::{ClaimLine, DeathLine, Header, IdLine, Line, MarkLine, MessageLine, QueueLine, Text, VERSION};
use super::snapshot::Snapshot;
use super::text::{self, printable};
use super::trust;
use crate::cli::ExportArgs;
use crate::clock::rfc3339;
use crate::error::Error;
use crate::fuse::mountinfo;
use crate::queue::config::{KEYS, QueueConfig};
use crate::store::beneath::Dir;
use crate::store::image::Image;
use crate::store::record::{MessageRecord, QueueRecord};
use crate::store::sums::BLOCK;
use crate::store::{Body, Death, ROOT};

/// So many messages are looked at in one go.
const AT_ONCE: usize = 256;

/// A queue that is told of.
struct Queue {
    path: Vec<u8>,
    record: QueueRecord,
    /// Its messages are told of, too; those of a queue that is there only because another one is nested in it are not.
    whole: bool,
}

/// Runs the command.
pub fn run(arguments: &ExportArgs) -> Result<(), Failure> {
    let (source, trust) = (&arguments.source, trust(arguments.trust_owner));
    let missing = |error: io::Error| {
        let text = format!("{}: {error}", source.display());
        Failure::new(exit_of(&error.into()), text)
    };
    let full = mountinfo::resolve(source).map_err(missing)?;
    let mounted = mountinfo::at(&full).map_err(|error| unreadable(source, &error))?;
    let is_mount = mounted.is_some_and(|entry| entry.is_fuse());
    let snapshot = is_mount.then(|| Snapshot::of_mount(&full, trust)).transpose()?;
    let dir = match &snapshot {
        Some(snapshot) => Ok(snapshot.directory().clone()),
        None => Dir::open(&full, trust),
    };
    let image = dir
        .and_then(|dir| Image::open(&dir))
        .map_err(|error| Failure::new(exit_of(&error), format_args!("store {}: {error}", source.display())))?;
    let queues = queues(&image, &arguments.queues, source)?;
    let mut out = BufWriter::with_capacity(1 << 20, text::output_for_json());
    let left_out = export(&image, &queues, &mut out, source)?;
    // A mount that went away may have taken files with it.
    if let Some(snapshot) = &snapshot {
        snapshot.check()?;
    }
    let drafts = image.drafts().map_err(|error| unreadable(source, &error))?;
    if drafts > 0 && arguments.queues.is_empty() {
        complain(format_args!("{drafts} drafts are not exported"));
    }
    match left_out {
        0 => Ok(()),
        _ => Err(Failure::new(Exit::Incomplete, format_args!("{left_out} messages are damaged and not exported"))),
    }
}

fn unreadable(source: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failure, format_args!("{}: {why}", source.display()))
}

fn complain(what: impl std::fmt::Display) {
    text::complain(&what.to_string());
}

/// The queues that are told of, by their numbers, and these in the order of the paths.
struct Queues {
    of: HashMap<u64, Queue>,
    order: Vec<u64>,
}

/// The queues that were named, those nested in them, and those that they are nested in.
fn queues(image: &Image, named: &[OsString], source: &Path) -> Result<Queues, Failure> {
    let all: HashMap<u64, QueueRecord> =
        image.queues().map_err(|error| unreadable(source, &error))?.into_iter().collect();
    let mut of = HashMap::new();
    for (id, record) in &all {
        of.insert(*id, Queue { path: path_of(&all, record), record: record.clone(), whole: named.is_empty() });
    }
    if !named.is_empty() {
        let mut wanted = HashSet::new();
        for name in named {
            let name = name.as_bytes();
            let trimmed: Vec<&[u8]> = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
            let path = trimmed.join(&b'/');
            if !of.iter().any(|(id, queue)| *id != ROOT && queue.path == path) {
                let name = printable(&String::from_utf8_lossy(name));
                return Err(Failure::new(Exit::Queue, format_args!("{}: no queue {name}", source.display())));
            }
            let prefix = [&path[..], b"/"].concat();
            for queue in of.values_mut() {
                queue.whole |= queue.path == path || queue.path.starts_with(&prefix);
            }
        }
        for queue in of.values().filter(|queue| queue.whole) {
            let mut record = Some(&queue.record);
            while let Some(QueueRecord { parent, .. }) = record {
                wanted.insert(*parent);
                record = all.get(parent);
            }
        }
        of.retain(|id, queue| queue.whole || wanted.contains(id) && *id != ROOT);
    }
    let mut order: Vec<u64> = of.keys().copied().collect();
    // Those that others are nested in come first.
    order.sort_by_key(|id| &of[id].path);
    Ok(Queues { of, order })
}

fn path_of(all: &HashMap<u64, QueueRecord>, queue: &QueueRecord) -> Vec<u8> {
    let mut names = vec![&queue.name[..]];
    let mut above = all.get(&queue.parent);
    while let Some(queue) = above.filter(|queue| queue.parent != 0) {
        names.push(&queue.name);
        above = all.get(&queue.parent);
    }
    names.reverse();
    names.join(&b'/')
}

/// Tells of everything; gives how many messages are damaged and left out.
fn export(image: &Image, queues: &Queues, out: &mut impl Write, source: &Path) -> Result<u64, Failure> {
    let wrong = |error: Error| unreadable(source, &error);
    write_line(out, &Line::MqfsExport(Header { version: VERSION }))?;
    for id in &queues.order {
        let queue = &queues.of[id];
        write_line(out, &Line::Queue(queue_line(*id, queue).map_err(wrong)?))?;
        if queue.whole {
            for (mark, value) in image.marks(*id).map_err(wrong)? {
                let line = MarkLine { queue: Text(queue.path.clone()), mark, value: Text(value) };
                write_line(out, &Line::Mark(line))?;
            }
        }
    }
    for remembered in image.remembered_ids().map_err(wrong)? {
        if let Some(queue) = queues.of.get(&remembered.queue).filter(|queue| queue.whole) {
            let line = IdLine {
                queue: Text(queue.path.clone()),
                dedup_id: Text(remembered.id),
                until: rfc3339(remembered.until),
                id: Some(format!("{:016x}", remembered.message)),
            };
            write_line(out, &Line::DedupId(line))?;
        }
    }
    let (mut from, mut left_out) = (0, 0);
    loop {
        let messages = image.messages(from, AT_ONCE).map_err(wrong)?;
        let Some((last, _)) = messages.last() else { break };
        from = last + 1;
        for (seq, message) in messages {
            let told = message.and_then(|record| match queues.of.get(&record.queue).filter(|queue| queue.whole) {
                Some(queue) => image.body(&record).map(|body| Some((queue, record, body))),
                None => Ok(None),
            });
            match told {
                Ok(Some((queue, record, body))) => write_message(out, &message_line(queue, seq, &record), &body)?,
                Ok(None) => {}
                Err(error) => {
                    complain(format_args!("message {seq:016}: {error}; not exported"));
                    left_out += 1;
                }
            }
        }
    }
    out.flush().map_err(|error| unwritable(&error))?;
    Ok(left_out)
}

fn unwritable(error: &io::Error) -> Failure {
    Failure::new(Exit::Failure, format_args!("standard output: {error}"))
}

fn write_line(out: &mut impl Write, line: &Line) -> Result<(), Failure> {
    let mut text = json(line)?;
    text.push('\n');
    out.write_all(text.as_bytes()).map_err(|error| unwritable(&error))
}

fn json(line: &Line) -> Result<String, Failure> {
    text::json(line).map_err(|error| Failure::new(Exit::Failure, format_args!("bug: {error}")))
}

/// Writes the line of a message with its body, of whatever length.
fn write_message(out: &mut impl Write, line: &Line, body: &Body) -> Result<(), Failure> {
    let mut text = json(line)?;
    text.truncate(text.len() - 1);
    text.push_str(",\"body\":\"");
    let write = |out: &mut dyn Write| {
        out.write_all(text.as_bytes())?;
        let mut encoder = EncoderWriter::new(out, &STANDARD);
        let mut at = 0;
        while at < body.size() {
            let mut written = Ok(());
            // It has been read to its end once: only a failing disk makes this fail.
            body.read(at, BLOCK, |bytes| written = encoder.write_all(bytes)).map_err(io::Error::other)?;
            written?;
            at += BLOCK as u64;
        }
        encoder.finish()?.write_all(b"\"}\n")
    };
    write(out).map_err(|error| unwritable(&error))
}

fn queue_line(id: u64, queue: &Queue) -> Result<QueueLine, Error> {
    let record = &queue.record;
    let config = QueueConfig::stored(&record.config)?;
    let root = id == ROOT;
    let keys = KEYS.iter().filter(|_| !root);
    let config = keys.filter_map(|key| Some(((*key).to_owned(), config.get(key)?))).collect();
    Ok(QueueLine {
        path: Text(queue.path.clone()),
        id: Some(id),
        uid: Some(record.uid),
        gid: Some(record.gid),
        mode: format!("{:04o}", record.mode),
        created: Some(rfc3339(record.created)),
        mtime_ns: record.modified_ns,
        atime_ns: record.accessed_ns,
        config,
        attributes: record.attributes.iter().map(|(name, value)| (name.clone(), Text(value.clone()))).collect(),
    })
}

impl DeathLine {
    fn of(death: &Death) -> Self {
        Self {
            queue: death.path.clone(),
            reason: death.reason.clone(),
            count: death.count,
            first: rfc3339(death.first),
            last: rfc3339(death.last),
            unclaimed: death.unclaimed,
        }
    }
}

fn message_line(queue: &Queue, seq: u64, record: &MessageRecord) -> Line {
    let time = |ms: u64| (ms > 0).then(|| rfc3339(ms));
    Line::Message(Box::new(MessageLine {
        queue: Text(queue.path.clone()),
        name: Text(record.name.clone()),
        state: record.state().word().to_owned(),
        seq: Some(seq),
        id: Some(format!("{:016x}", record.id)),
        deliveries: record.deliveries,
        enqueued_at: Some(rfc3339(record.enqueued_at)),
        due: time(record.due),
        expires: time(record.expires),
        uid: Some(record.uid),
        gid: Some(record.gid),
        mode: format!("{:04o}", record.mode),
        mtime_ns: Some(record.modified_ns),
        atime_ns: record.accessed_ns,
        since: time(record.since),
        retrying: record.retrying,
        deaths: record.deaths.iter().map(DeathLine::of).collect(),
        last_error: Text(record.last_error.clone()),
        producer_pid: record.producer_pid,
        claim: record.claim.as_ref().map(|claim| ClaimLine::of(claim, rfc3339)),
        attributes: record.attributes.iter().map(|(name, value)| (name.clone(), Text(value.clone()))).collect(),
        size: Some(record.size),
        body: String::new(),
    }))
}
