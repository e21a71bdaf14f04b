//! `mqfs restore`: makes a store of a backup.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;

use super::backup::{Destination, exit_of};
use super::exit::{Exit, Failure};
use super::interrupt;
use super::trust;
use crate::cli::RestoreArgs;
use crate::store::backup;
use crate::store::beneath::Dir;

/// Runs the command.
pub fn run(arguments: &RestoreArgs) -> Result<(), Failure> {
    let from = &arguments.directory;
    let to = Destination::new(&arguments.store)?.path;
    let failed =
        |exit: Exit, why: &dyn std::fmt::Display| Failure::new(exit, format_args!("backup {}: {why}", from.display()));
    let backup = Dir::open(from, trust(arguments.trust_owner)).map_err(|error| failed(exit_of(&error), &error))?;
    backup::manifest(&backup).map_err(|error| failed(exit_of(&error), &error))?;
    let was_there = match DirBuilder::new().mode(0o700).create(&to) {
        Ok(()) => false,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => true,
        Err(error) => return Err(Failure::new(Exit::Destination, format_args!("{}: {error}", to.display()))),
    };
    interrupt::catch();
    let restored = backup::restore(&backup, &to, arguments.link, || !interrupt::told());
    if restored.is_err() {
        // It holds nothing else: it was empty.
        for entry in fs::read_dir(&to).into_iter().flatten().flatten() {
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
        if !was_there {
            let _ = fs::remove_dir(&to);
        }
    }
    interrupt::die_if_told();
    let restored = restored.map_err(|error| failed(exit_of(&error), &error))?;
    match restored.damaged {
        0 => Ok(()),
        damaged => Err(failed(
            Exit::Incomplete,
            &format_args!("restored, but the bodies of {damaged} messages are missing or cut"),
        )),
    }
}
