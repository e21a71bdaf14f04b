//! `mqfs consume`: runs a command for each message of a queue.
//!
//! Everything goes through the mount, as any worker's script would do it: the next message is claimed by reading
//! `.mq/claim`, acknowledged by removing it, and given back by renaming it. One thread waits for all that can happen: a
//! message, the end of a command, a signal, a time that is up.

mod environment;
mod job;
mod progress;
mod queue;
mod signals;
mod worker;

use super::exit::{Exit, Failure};
use crate::cli::ConsumeArgs;
use job::Program;
use progress::Progress;
use queue::Queue;
use signals::Signals;
use worker::Worker;

/// Runs the command. It returns when it was asked to end, or has nothing more to do, or cannot go on.
pub fn run(arguments: &ConsumeArgs) -> Result<(), Failure> {
    let signals = Signals::block()
        .map_err(|error| Failure::new(Exit::Failure, format_args!("cannot take over signals: {error}")))?;
    let queue = Queue::open(&arguments.queue)?;
    let program = Program::find(&arguments.command, signals.before())?;
    let progress = Progress::new(arguments.quiet);
    Worker::new(arguments, queue, program, progress, signals).run()
}
