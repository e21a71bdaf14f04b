//! The verbs of the command line, one file each, and how each of them ends.

mod backup;
mod check;
mod claims;
mod consume;
pub mod exit;
mod export;
mod import;
mod interrupt;
mod jsonl;
#[cfg(feature = "link")]
mod link;
mod log;
mod ls;
mod mount;
mod numbers;
mod put;
mod restore;
mod snapshot;
mod targets;
mod text;
mod umount;

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::{self, Cli, Command};
use crate::store::beneath::Trust;
use exit::{Exit, Failure};

/// Runs the command line, the program's name first. A failure has been reported when this returns.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let result = match Cli::try_parse_from(cli::with_dashes(cli::with_verb(arguments))) {
        Ok(Cli { command: Command::Mount(arguments) }) => mount::run(&arguments),
        Ok(Cli { command: Command::Umount(arguments) }) => umount::run(&arguments),
        Ok(Cli { command: Command::Consume(arguments) }) => consume::run(&arguments),
        #[cfg(feature = "link")]
        Ok(Cli { command: Command::Link(arguments) }) => link::run(&arguments),
        Ok(Cli { command: Command::Ls(arguments) }) => ls::run(&arguments),
        Ok(Cli { command: Command::Claims(arguments) }) => claims::run(&arguments),
        Ok(Cli { command: Command::Put(arguments) }) => put::run(&arguments),
        Ok(Cli { command: Command::Backup(arguments) }) => backup::run(&arguments),
        Ok(Cli { command: Command::Restore(arguments) }) => restore::run(&arguments),
        Ok(Cli { command: Command::Export(arguments) }) => export::run(&arguments),
        Ok(Cli { command: Command::Import(arguments) }) => import::run(&arguments),
        Ok(Cli { command: Command::Check(arguments) }) => check::run(&arguments),
        Err(error) => not_a_command(&error),
    };
    match result {
        Ok(()) => Exit::Success,
        Err(failure) => {
            // Nobody to tell when standard error is gone; the exit code still says it.
            if !failure.line().is_empty() {
                text::complain(failure.line());
            }
            failure.exit
        }
    }
}

/// `--help` and `--version` reach us as clap's errors. Of a real one the first line names the trouble; the usage that
/// follows it is a screenful in a boot log.
fn not_a_command(error: &clap::Error) -> Result<(), Failure> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            Ok(())
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            Err(Failure::new(Exit::Usage, "nothing to do; try mqfs --help"))
        }
        _ => {
            let text = error.to_string();
            let reason = text.split("\n\n").next().unwrap_or_default();
            let reason = reason.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ");
            Err(Failure::new(Exit::Usage, format_args!("{reason}; try mqfs --help")))
        }
    }
}

/// Whose stores and backups are used, by whether there is `--trust-owner`.
fn trust(owner: bool) -> Trust {
    if owner { Trust::Owner } else { Trust::Own }
}
