//! `mqfs consume`: runs a command for each message of a queue, or of several.
//!
//! Everything goes through the mount, as any worker's script would do it: the next message is claimed by reading
//! `.mq/claim`, acknowledged by removing it, and given back through `.mq/nack`. There are two kinds of processes:
//!
//! - the worker ([`worker`]) claims, and tells what happens ([`progress`], [`screen`]). One thread waits for all that can happen:
//!   a message ([`source`]), a signal ([`signals`]), the end of a command ([`job`]);
//! - a guard ([`guard`]) for each command ([`program`]) holds its claim ([`watch`]), ends it with all its descendants
//!   ([`descendants`]), keeps what it says ([`relay`]), and settles its message ([`verdict`]). It goes on when the worker is
//!   killed, and tells it otherwise ([`report`]).

mod descendants;
mod environment;
mod guard;
mod job;
mod program;
mod progress;
mod queue;
mod relay;
mod report;
mod screen;
pub(super) mod signals;
mod source;
mod verdict;
mod watch;
mod worker;

use super::exit::{Exit, Failure};
use crate::cli::ConsumeArgs;
use program::Program;
use progress::Progress;
use signals::Signals;
use source::Sources;
use worker::Worker;

/// Runs the command. It returns when it was asked to end, or has nothing more to do, or cannot go on.
pub fn run(arguments: &ConsumeArgs) -> Result<(), Failure> {
    let signals = Signals::block()
        .map_err(|error| Failure::new(Exit::Failure, format_args!("cannot take over signals: {error}")))?;
    signals::ignore_children();
    let sources = Sources::open(&arguments.queues, arguments.mount_wait)?;
    let program = Program::find(&arguments.command, signals.before())?;
    let progress = Progress::new(arguments.quiet);
    Worker::new(arguments, sources, program, progress, signals)?.run()
}
