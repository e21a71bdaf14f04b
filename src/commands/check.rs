//! `mqfs check`: what is wrong with a store that nobody has open, or with a backup, and `--repair`: what was done about it.

use super::exit::{Exit, Failure};
use super::mount::store_failure;
use super::text::print_line;
use super::trust;
use crate::cli::CheckArgs;
use crate::store::check::{self, Kind, Summary};

/// Runs the command. What is found goes to standard output, a line for each.
pub fn run(arguments: &CheckArgs) -> Result<(), Failure> {
    let store = &arguments.store;
    let mut told = Ok(());
    let mut tell = |kind: Kind, text: &str| {
        let written = print_line(&format!("{kind}: {text}"));
        told = std::mem::replace(&mut told, Ok(())).and(written);
    };
    let summary = check::check(store, trust(arguments.trust_owner), arguments.repair, &mut tell)
        .map_err(|error| store_failure(store, &error))?;
    let Summary { queues, messages, drafts, damaged, repaired, backup } = summary;
    let left = damaged - repaired;
    let ended = match damaged {
        0 => print_line(&format!("whole: {queues} queues, {messages} messages, {drafts} drafts")),
        _ => Ok(()),
    };
    told.and(ended).map_err(|error| Failure::new(Exit::Failure, format_args!("standard output: {error}")))?;
    let (exit, what) = match (damaged, left) {
        (0, _) => return Ok(()),
        (_, 0) => (Exit::Repaired, format!("{damaged} found damaged, all repaired")),
        _ if arguments.repair => (Exit::Damaged, format!("{damaged} found damaged, {repaired} repaired, {left} not")),
        _ if backup => {
            (Exit::Damaged, format!("{damaged} found damaged; make another one from the store if it is there"))
        }
        _ => (Exit::Damaged, format!("{damaged} found damaged; nothing was changed: try --repair")),
    };
    let of = if backup { "backup" } else { "store" };
    Err(Failure::new(exit, format_args!("{of} {}: {what}", store.display())))
}
