//! `mqfs ls`: the queues of a mount and what is in them.
//!
//! Everything is read from `.mq/metrics` of the mount: one file, whatever the number of queues, and the server knows who may
//! see what.

mod numbers;
mod output;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::exit::{Exit, Failure};
use crate::cli::LsArgs;
use crate::fuse::mountinfo::{self, Entry};
use crate::view::metrics::label;
use output::Block;

/// What the type of a mount ends in, unless the option `subtype` says otherwise.
const KIND: &str = "fuse.mqfs";

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
        let entries = mountinfo::all(KIND).map_err(|error| Failure::new(Exit::Failure, error))?;
        entries.into_iter().map(|entry| Target { point: entry.point, queue: String::new() }).collect()
    };
    let mut blocks = Vec::new();
    for target in targets {
        match block(&target) {
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
    let full = mountinfo::resolve(path).map_err(|error| failed(&error))?;
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

/// Reads what is to be shown.
fn block(target: &Target) -> Result<Block, Failure> {
    let Target { point, queue } = target;
    let file = point.join(".mq/metrics");
    let shown = point.join(queue);
    let failed = |why: &dyn std::fmt::Display| Failure::new(Exit::Queue, format_args!("{}: {why}", shown.display()));
    let text = std::fs::read_to_string(&file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => failed(&"not on an mqfs mount, or one of another version"),
        _ => failed(&error),
    })?;
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
fn measure(blocks: &mut [(Target, Block)], interval: Duration) -> Result<(), Failure> {
    let start = Instant::now();
    thread::sleep(interval);
    for (target, before) in blocks {
        let mut after = block(target)?;
        after.rates = true;
        let seconds = start.elapsed().as_secs_f64();
        for queue in &mut after.queues {
            let known = before.queues.iter().find(|before| before.label == queue.label);
            queue.measure(known.and_then(|before| before.numbers.as_ref()), seconds);
        }
        *before = after;
    }
    Ok(())
}
