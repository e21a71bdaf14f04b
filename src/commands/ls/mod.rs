//! `mqfs ls`: the queues of a mount and what is in them.
//!
//! Everything is read from `.mq/metrics` of the mount: one file, whatever the number of queues, and the server knows who may
//! see what.

mod numbers;
mod output;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::exit::{Exit, Failure};
use crate::cli::LsArgs;
use crate::fuse::ask::{Asked, ask};
use crate::fuse::mountinfo::{self, Entry};
use crate::view::metrics::label;
use output::Block;

/// A mount is given so long to say anything at all: its server may have been stopped, or be stuck.
const PATIENCE: Duration = Duration::from_secs(15);
/// One that has very much to tell, and says other things meanwhile, is given so many times as long.
const PATIENT: u32 = 20;

/// What is to be shown: a whole mount, or a queue of it with those nested in it.
struct Target {
    /// Where the mount is seen.
    point: PathBuf,
    /// The queue's path from there; empty for the whole mount.
    queue: String,
}

/// Runs the command.
pub fn run(arguments: &LsArgs) -> Result<(), Failure> {
    let named = !arguments.paths.is_empty();
    let targets = if named {
        arguments.paths.iter().map(|path| target(path)).collect::<Result<Vec<_>, _>>()?
    } else {
        let entries = mountinfo::all(mountinfo::KIND).map_err(|error| Failure::new(Exit::Failure, error))?;
        entries.into_iter().map(|entry| Target { point: entry.point, queue: String::new() }).collect()
    };
    let mut blocks = Vec::new();
    for (target, block) in blocks_of(targets) {
        match block {
            Ok(block) => blocks.push((target, block)),
            Err(failure) if named => return Err(failure),
            // One that somebody else has mounted for themselves, or whose mqfs was killed.
            Err(failure) => drop(writeln!(io::stderr(), "mqfs: {}", failure.line())),
        }
    }
    if let Some(interval) = arguments.interval {
        measure(&mut blocks, interval)?;
    }
    let blocks: Vec<Block> = blocks.into_iter().map(|(_, block)| block).collect();
    let text = if arguments.json { output::json(&blocks) } else { output::tables(&blocks) };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(Exit::Failure, error)),
        _ => Ok(()),
    }
}

/// The mount and queue of a path.
fn target(path: &Path) -> Result<Target, Failure> {
    let failed = |why: &dyn std::fmt::Display| Failure::new(Exit::Queue, format_args!("{}: {why}", path.display()));
    let resolve = || Ok(mountinfo::resolve(path)?.into_os_string().into_vec());
    let full = ask(Instant::now() + PATIENCE, resolve).ok_or_else(|| silent(path))?;
    let full = PathBuf::from(OsString::from_vec(full.map_err(|error| failed(&error))?));
    let Some(Entry { point, device, root, .. }) = mountinfo::of(&full).map_err(|error| failed(&error))? else {
        return Err(failed(&"not on an mqfs mount"));
    };
    // The kind may be any, as the option `subtype` has it: whether it is one of ours shows when it is read.
    let within = full.strip_prefix(&point).unwrap_or(&full);
    if root == Path::new("/") {
        return Ok(Target { point, queue: queue_label(within) });
    }
    // A bind mount of a queue: what tells of all queues is to be seen elsewhere, if at all.
    let whole = mountinfo::whole(&device).map_err(|error| failed(&error))?;
    let whole = whole.ok_or_else(|| failed(&"only a part of the mqfs mount is to be seen here"))?;
    let within = root.strip_prefix("/").unwrap_or(&root).join(within);
    Ok(Target { point: whole.point, queue: queue_label(&within) })
}

/// A path as the metrics write it.
fn queue_label(path: &Path) -> String {
    let names = path.components().map(|name| label(name.as_os_str().as_encoded_bytes()));
    names.collect::<Vec<_>>().join("/")
}

fn silent(path: &Path) -> Failure {
    let seconds = PATIENCE.as_secs();
    Failure::new(Exit::StillRunning, format_args!("{}: no answer within {seconds} s", path.display()))
}

/// Reads what is to be shown, of all at the same time: one that does not answer costs the others nothing.
fn blocks_of(targets: Vec<Target>) -> Vec<(Target, Result<Block, Failure>)> {
    let asked: Vec<_> = targets
        .into_iter()
        .map(|target| {
            let file = target.point.join(".mq/metrics");
            let asked = Asked::new(move || std::fs::read(file));
            (target, asked)
        })
        .collect();
    let told = |(target, asked): (Target, io::Result<Asked>)| {
        let text = match asked {
            Ok(mut asked) => patiently(&mut asked, &target.point),
            Err(error) => Some(Err(error)),
        };
        let block = block(&target, text);
        (target, block)
    };
    asked.into_iter().map(told).collect()
}

/// Waits for an answer as long as the mount answers anything.
fn patiently(asked: &mut Asked, point: &Path) -> Option<io::Result<Vec<u8>>> {
    for _ in 0..PATIENT {
        let until = Instant::now() + PATIENCE;
        let mut lives = Asked::new(|| std::fs::metadata(point.join(".mq/version")).map(|_| Vec::new())).ok()?;
        if let Some(answer) = asked.answer(until) {
            return Some(answer);
        }
        lives.answer(Instant::now())?.ok()?;
    }
    None
}

/// What a mount has told.
fn block(target: &Target, text: Option<io::Result<Vec<u8>>>) -> Result<Block, Failure> {
    let Target { point, queue } = target;
    let shown = point.join(queue);
    let failed = |why: &dyn std::fmt::Display| Failure::new(Exit::Queue, format_args!("{}: {why}", shown.display()));
    let text = text.ok_or_else(|| silent(&shown))?.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => failed(&"not on an mqfs mount, or one of another version"),
        _ => failed(&error),
    })?;
    let text = String::from_utf8_lossy(&text);
    let mut queues = numbers::parse(&text);
    if !queue.is_empty() {
        let within = |label: &str| {
            label.strip_prefix(queue.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        queues.retain(|queue| within(&queue.label));
        if !queues.iter().any(|found| found.label == *queue) {
            return Err(failed(&"not a queue, or not one that you can list"));
        }
    }
    Ok(Block { point: point.clone(), queues, rates: false })
}

/// Reads everything once more after `interval`, and enters the rates.
fn measure(blocks: &mut Vec<(Target, Block)>, interval: Duration) -> Result<(), Failure> {
    let start = Instant::now();
    thread::sleep(interval);
    let (targets, before): (Vec<Target>, Vec<Block>) = std::mem::take(blocks).into_iter().unzip();
    for ((target, after), before) in blocks_of(targets).into_iter().zip(before) {
        let mut after = after?;
        after.rates = true;
        let seconds = start.elapsed().as_secs_f64();
        for queue in &mut after.queues {
            let known = before.queues.iter().find(|before| before.label == queue.label);
            queue.measure(known.and_then(|before| before.numbers.as_ref()), seconds);
        }
        blocks.push((target, after));
    }
    Ok(())
}
