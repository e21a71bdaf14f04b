//! `mqfs ls`: the queues of a mount and what is in them.
//!
//! Everything is read from `.mq/metrics` of the mount: one file, whatever the number of queues, and the server knows who may
//! see what.

mod output;

use std::io;
use std::thread;
use std::time::Duration;

use super::exit::{Exit, Failure};
use super::targets::{Target, queues_of, targets};
use super::text::{complain, print};
use crate::cli::LsArgs;
use output::Block;
pub(super) use output::age;

/// Runs the command.
pub fn run(arguments: &LsArgs) -> Result<(), Failure> {
    let named = !arguments.paths.is_empty();
    let mut blocks = Vec::new();
    for (target, block) in blocks_of(targets(&arguments.paths)?) {
        match block {
            Ok(block) => blocks.push((target, block)),
            Err(failure) if named => return Err(failure),
            // One that somebody else has mounted for themselves, or whose mqfs was killed.
            Err(failure) => complain(failure.line()),
        }
    }
    if let Some(interval) = arguments.interval {
        measure(&mut blocks, interval)?;
    }
    let blocks: Vec<Block> = blocks.into_iter().map(|(_, block)| block).collect();
    let text = if arguments.json { output::json(&blocks) } else { output::tables(&blocks) };
    match print(&text) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(Exit::Failure, error)),
        _ => Ok(()),
    }
}

/// Reads what is to be shown.
fn blocks_of(targets: Vec<Target>) -> Vec<(Target, Result<Block, Failure>)> {
    let block = |(target, queues): (Target, Result<_, Failure>)| {
        let point = target.point.clone();
        (target, queues.map(|(at, queues)| Block { point, queues, at, rates: false }))
    };
    queues_of(targets).into_iter().map(block).collect()
}

/// Reads everything once more after `interval`, and enters the rates.
fn measure(blocks: &mut Vec<(Target, Block)>, interval: Duration) -> Result<(), Failure> {
    thread::sleep(interval);
    let (targets, before): (Vec<Target>, Vec<Block>) = std::mem::take(blocks).into_iter().unzip();
    for ((target, after), before) in blocks_of(targets).into_iter().zip(before) {
        let mut after = after?;
        after.rates = true;
        let seconds = after.at - before.at;
        if seconds <= 0.0 {
            return Err(target.failed(&"the clock was set back meanwhile"));
        }
        for queue in &mut after.queues {
            let known = before.queues.iter().find(|before| before.label == queue.label);
            queue.measure(known.and_then(|before| before.numbers.as_ref()), seconds);
        }
        blocks.push((target, after));
    }
    Ok(())
}
