//! `mqfs backup`: a copy of the store of a mount, made while it is in use.
//!
//! The serving process makes a snapshot in the store ([`super::snapshot`]); this one takes it to its place. On the same
//! filesystem that is a rename, so a backup is whole or not there; elsewhere it is copied under a temporary name first.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::exit::{Exit, Failure};
use super::interrupt;
use super::snapshot::Snapshot;
use super::text::print;
use super::trust;
use crate::cli::BackupArgs;
use crate::error::Refusal;
use crate::fuse::mountinfo;
use crate::store::OpenError;
use crate::store::backup::{self, Manifest};

/// Runs the command.
pub fn run(arguments: &BackupArgs) -> Result<(), Failure> {
    let to = Destination::new(&arguments.directory)?;
    interrupt::catch();
    let made =
        Snapshot::of_mount(&arguments.mountpoint, trust(arguments.trust_owner)).and_then(|snapshot| to.take(&snapshot));
    interrupt::die_if_told();
    let (manifest, copied) = made?;
    if !arguments.quiet {
        tell(&to.path, &manifest, copied)?;
    }
    match manifest.damaged {
        0 => Ok(()),
        damaged => Err(Failure::new(
            Exit::Incomplete,
            format_args!("{}: made, but the bodies of {damaged} messages are missing in the store", to.path.display()),
        )),
    }
}

fn tell(path: &Path, manifest: &Manifest, copied: bool) -> Result<(), Failure> {
    let Manifest { queues, messages, drafts, files, bytes, .. } = manifest;
    let how = if copied { "copied, because it is on another filesystem" } else { "linked" };
    let line = format!(
        "{}: {messages} messages in {queues} queues, {drafts} drafts; {files} files, {bytes} bytes, {how}\n",
        path.display()
    );
    print(&line)
        .map_err(|error| Failure::new(Exit::Failure, format_args!("the backup is made, but standard output: {error}")))
}

/// A directory that is to be made, or is empty.
pub struct Destination {
    /// Without symbolic links.
    pub path: PathBuf,
    parent: PathBuf,
}

impl Destination {
    /// Checks that it can be.
    pub fn new(given: &Path) -> Result<Destination, Failure> {
        let failed =
            |why: &dyn std::fmt::Display| Failure::new(Exit::Destination, format_args!("{}: {why}", given.display()));
        let absolute = std::path::absolute(given).map_err(|error| failed(&error))?;
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            return Err(failed(&"not a directory that can be made"));
        };
        let parent = fs::canonicalize(parent).map_err(|error| failed(&error))?;
        let path = parent.join(name);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&error)),
            Ok(stat) if !stat.is_dir() => return Err(failed(&"is there already, and no directory")),
            Ok(_) => match fs::read_dir(&path).map(|mut entries| entries.next().is_none()) {
                Ok(true) => {}
                Ok(false) => return Err(failed(&"is there already, and not empty")),
                Err(error) => return Err(failed(&error)),
            },
        }
        let on = mountinfo::of(&path).map_err(|error| failed(&error))?;
        match on {
            Some(entry) if entry.is_mqfs() => Err(failed(&"on an mqfs mount")),
            _ => Ok(Destination { path, parent }),
        }
    }

    fn failed(&self, exit: Exit, why: &dyn std::fmt::Display) -> Failure {
        Failure::new(exit, format_args!("{}: {why}", self.path.display()))
    }

    /// Takes a snapshot there; tells whether it had to be copied.
    fn take(&self, snapshot: &Snapshot) -> Result<(Manifest, bool), Failure> {
        let store = snapshot.path().parent().unwrap_or(snapshot.path());
        if self.path.starts_with(store) {
            return Err(self.failed(Exit::Destination, &"within the store itself"));
        }
        let manifest = backup::manifest(snapshot.directory()).map_err(|error| self.unusable(&error))?;
        match snapshot.rename(&self.path) {
            Ok(()) => self.sync_parent().map(|()| (manifest, false)),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                self.copy(snapshot).map(|manifest| (manifest, true))
            }
            Err(error) => Err(self.failed(Exit::Destination, &error)),
        }
    }

    /// Copies it under a temporary name.
    fn copy(&self, snapshot: &Snapshot) -> Result<Manifest, Failure> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let partial = self.parent.join(format!(".{name}.partial-{}", std::process::id()));
        let copied = backup::copy_backup(snapshot.directory(), &partial, || !interrupt::told());
        let taken = copied.map_err(|error| self.unusable(&error)).and_then(|manifest| {
            snapshot.check()?;
            fs::rename(&partial, &self.path).map_err(|error| self.failed(Exit::Destination, &error))?;
            self.sync_parent()?;
            Ok(manifest)
        });
        if taken.is_err() {
            let _ = fs::remove_dir_all(&partial);
            // Why a file was not there any more.
            snapshot.check()?;
        }
        taken
    }

    fn unusable(&self, error: &OpenError) -> Failure {
        self.failed(exit_of(error), error)
    }

    fn sync_parent(&self) -> Result<(), Failure> {
        let synced = File::open(&self.parent).and_then(|parent| parent.sync_all());
        synced.map_err(|error| self.failed(Exit::Failure, &error))
    }
}

/// The exit code for a failure with a backup.
pub fn exit_of(error: &OpenError) -> Exit {
    match error {
        OpenError::InUse => Exit::StoreInUse,
        OpenError::Io(error) => match Refusal::of(error) {
            Refusal::NoSpace | Refusal::QueueFull => Exit::Refused,
            Refusal::NotFound | Refusal::NotDirectory => Exit::StoreUnusable,
            _ => Exit::Failure,
        },
        OpenError::Foreign { .. } | OpenError::NewerFormat { .. } | OpenError::NotAStore(_) | OpenError::Damaged(_) => {
            Exit::StoreUnusable
        }
    }
}
