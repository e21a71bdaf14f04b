//! Measures mqfs against the two things that bound it, on this machine, in one run:
//!
//! - **durable enqueue** against the spool idiom on the filesystem that holds the store (write a temporary file, fsync,
//!   rename, fsync the directory);
//! - **asynchronous enqueue and consuming** against a FUSE server that does nothing but answer the same
//!   calls ([`nothing`]): what the kernel's protocol allows at most;
//! - **a million messages**: memory, the first lines of a listing, and mounting again;
//! - **links**, when they are asked for, against the brokers' own clients, and links that have nothing to do.
//!
//! The contenders take turns within every round, so that noise hits all of them, and what is judged is the median of the
//! rounds' ratios. Clients are processes that make plain system calls ([`client`]). Run it as `./scripts/bench`.

mod about;
mod client;
mod clients;
mod contender;
mod durable;
#[cfg(all(feature = "link-amqp", feature = "link-kafka"))]
mod links;
mod million;
mod nothing;
mod options;
mod protocol;
mod report;
mod scratch;
mod server;

// The servers of the tests, and what those need.
#[path = "../../tests/common/brokers.rs"]
mod brokers;
#[path = "../../tests/common/until.rs"]
mod common;
#[path = "../../tests/common/kafka.rs"]
mod kafka;
#[path = "../../tests/common/maven.rs"]
mod maven;
#[path = "../../tests/common/rabbit.rs"]
mod rabbit;

use std::process::ExitCode;

use clap::Parser;

use options::{Command, Options, Part};
use report::Report;
use scratch::Scratch;

/// What any step of the benchmark can fail with: one line for the reader.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.command {
        Some(Command::Client(task)) => client::run(task).map(|()| true),
        Some(Command::Nothing { mountpoint }) => nothing::serve(mountpoint).map(|()| true),
        None => run(&options),
    };
    match outcome {
        Ok(as_expected) if as_expected || !options.strict => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the chosen parts; true when every expectation was met.
fn run(options: &Options) -> Result<bool, Failure> {
    let scratch = Scratch::new(options)?;
    let mut report = Report::default();
    about::print(options, &scratch)?;
    if options.wants(Part::Durable) {
        durable::run(options, &scratch, &mut report)?;
    }
    protocol::run(options, &scratch, &mut report)?;
    if options.wants(Part::Million) {
        million::run(options, &scratch, &mut report)?;
    }
    #[cfg(all(feature = "link-amqp", feature = "link-kafka"))]
    links::run(options, &scratch, &mut report)?;
    Ok(report.summary())
}
