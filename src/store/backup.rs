//! Backups: what is in the directory of one, and making a store of it again.
//!
//! ```text
//! BACKUP/backup    the manifest, JSON: written last, so that a directory without it is no backup
//! BACKUP/db/       RocksDB, as in a store
//! BACKUP/bodies/   the bodies of large messages, and large drafts, as in a store
//! ```
//!
//! A store is never opened in a backup: opening changes it.

use std::fs::{DirBuilder, File, FileTimes};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::error::Error;
use crate::queue::config::QueueConfig;

use super::beneath::{Dir, Trust};
use super::bodies::BODIES;
use super::database::DB;
use super::db::{Db, Family, Recovery};
use super::open::{FORMAT, OpenError};
use super::record::BodyPlace;
use super::synced::Synced;
use super::{Store, keys, open};

/// The file that makes a directory a backup.
pub const MANIFEST: &str = "backup";

/// What a backup says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the store's format.
    pub format: u32,
    /// When it was made, RFC 3339.
    pub taken_at: String,
    /// Queues.
    pub queues: u64,
    /// Messages, whatever their state.
    pub messages: u64,
    /// The bytes of their bodies.
    pub message_bytes: u64,
    /// Drafts, those in batches included.
    pub drafts: u64,
    /// Files in `db` and `bodies`.
    pub files: u64,
    /// The bytes of these files.
    pub bytes: u64,
    /// Messages and drafts whose files were missing in the store already.
    pub damaged: u64,
    /// The sequence numbers of messages that were not finished: they are counted, but not restored.
    pub unfinished: Vec<u64>,
}

/// Files that were copied or linked, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What became of a backup that was restored.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The backup's manifest.
    pub manifest: Manifest,
    /// Messages whose bodies are missing or cut.
    pub damaged: u64,
}

/// Writes the manifest, whole or not at all.
pub(super) fn write_manifest(dir: &Dir, manifest: &Manifest) -> io::Result<()> {
    const NEW: &str = "backup.new";
    let mut file = dir.create(NEW)?;
    serde_json::to_writer_pretty(&mut file, manifest)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    dir.rename(NEW, MANIFEST)
}

/// Whether a directory is a backup: it has a manifest, and is no store.
pub fn is_one(dir: &Dir) -> bool {
    dir.has(MANIFEST) && !dir.has("format")
}

/// Reads the manifest of a backup that this code can read.
pub fn manifest(dir: &Dir) -> Result<Manifest, OpenError> {
    let text = dir.read(MANIFEST).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            OpenError::NotAStore(format!("no file `{MANIFEST}` in it: no backup, or one that was not finished"))
        }
        _ => OpenError::Io(error),
    })?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| OpenError::Damaged(format!("the file `{MANIFEST}`: {error}")))?;
    match manifest.format {
        0..=FORMAT => Ok(manifest),
        found => Err(OpenError::NewerFormat { found, known: FORMAT }),
    }
}

/// Copies an open file to one that is not there yet, with its time of modification; gives its length. Where the filesystem can,
/// the copy shares the bytes.
pub(super) fn copy_file(mut source: &File, to: &Dir, name: impl AsRef<Path>) -> io::Result<u64> {
    let mut copy = to.create(name)?;
    let bytes = io::copy(&mut source, &mut copy)?;
    copy.set_times(FileTimes::new().set_modified(source.metadata()?.modified()?))?;
    Ok(bytes)
}

/// A copy that is being made of a backup.
struct Copying<'a> {
    from: &'a Dir,
    to: &'a Dir,
    go_on: &'a dyn Fn() -> bool,
    copied: Copied,
}

impl Copying<'_> {
    /// Copies one of the directories of a backup, with what is in it; a file for which `shared` answers true is linked where that
    /// is possible, and nobody else can change it. Stops with [`io::ErrorKind::Interrupted`] when `go_on` says no. Durable
    /// after a sync of the filesystem.
    fn directory(&mut self, name: &str, shared: impl Fn(&Path) -> bool) -> io::Result<()> {
        let mut left = vec![PathBuf::from(name)];
        while let Some(path) = left.pop() {
            let (from, to) = (self.from.dir(&path)?, self.to.make_dir(&path)?);
            from.each(|entry| {
                if !(self.go_on)() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let below = path.join(&entry.name);
                if entry.directory {
                    left.push(below);
                    return Ok(());
                }
                let file = from.file(&entry.name)?;
                let stat = file.metadata()?;
                let linked = shared(&below) && is_ours_alone(&stat) && to.link(&file, &entry.name).is_ok();
                self.copied.files += 1;
                self.copied.bytes += if linked { stat.len() } else { copy_file(&file, &to, &entry.name)? };
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Nobody but root and who runs this can change a file.
fn is_ours_alone(stat: &std::fs::Metadata) -> bool {
    stat.uid() == rustix::process::geteuid().as_raw() && stat.mode() & 0o022 == 0
}

/// Copies a backup, or a snapshot, to the directory `to`, which it makes: a backup, durable but for the name of `to`. On failure
/// the caller removes what is there.
pub fn copy_backup(from: &Dir, to: &Path, go_on: impl Fn() -> bool) -> Result<Manifest, OpenError> {
    let manifest = manifest(from)?;
    DirBuilder::new().mode(0o700).create(to)?;
    let to = &Dir::open(to, Trust::Own)?;
    let mut copying = Copying { from, to, go_on: &go_on, copied: Copied::default() };
    copying.directory(DB, |_| false)?;
    copying.directory(BODIES, |_| false)?;
    check_complete(&manifest, copying.copied)?;
    rustix::fs::syncfs(to).map_err(io::Error::from)?;
    write_manifest(to, &manifest)?;
    to.sync()?;
    Ok(manifest)
}

fn check_complete(manifest: &Manifest, copied: Copied) -> Result<(), OpenError> {
    incomplete(manifest, copied).map_or(Ok(()), |what| Err(OpenError::Damaged(what)))
}

fn incomplete(manifest: &Manifest, found: Copied) -> Option<String> {
    let Copied { files, bytes } = found;
    let whole = (files, bytes) == (manifest.files, manifest.bytes);
    (!whole).then(|| format!("{files} files of {bytes} bytes where {} of {} should be", manifest.files, manifest.bytes))
}

/// What is missing, or too much, in a backup as its manifest has it, in words.
pub(super) fn cut(dir: &Dir, manifest: &Manifest) -> io::Result<Option<String>> {
    let mut found = Copied::default();
    let mut left = vec![PathBuf::from(DB), PathBuf::from(BODIES)];
    while let Some(path) = left.pop() {
        let files = dir.dir(&path)?;
        files.each(|entry| {
            if entry.directory {
                left.push(path.join(entry.name));
            } else {
                found.files += 1;
                found.bytes += files.stat(&entry.name)?.len();
            }
            Ok(())
        })?;
    }
    Ok(incomplete(manifest, found))
}

/// Makes the empty directory `to` a store with what is in a backup; `link`: shares with it, where that is possible, the files that
/// neither ever changes. It is a store, and durable, when this returns. On failure the caller removes what is there.
pub fn restore(from: &Dir, to: &Path, link: bool, go_on: impl Fn() -> bool) -> Result<Restored, OpenError> {
    let manifest = manifest(from)?;
    {
        let to = &Dir::open(to, Trust::Own)?;
        let mut copying = Copying { from, to, go_on: &go_on, copied: Copied::default() };
        // Tables never change, nor do the bodies of messages; drafts do.
        copying.directory(DB, |path| link && path.extension().is_some_and(|kind| kind == "sst"))?;
        // That of the copy is asked: nobody else gets at it.
        let db = Db::open_to_read(&to.join(DB), Recovery::PointInTime)
            .map_err(|error| OpenError::Damaged(to.told(error.as_ref())))?;
        let is_body = |path: &Path| {
            let id = path.file_name().and_then(|name| u64::from_str_radix(name.to_str()?, 16).ok());
            id.is_some_and(|id| db.get(Family::Meta, &keys::body_file(id)).is_ok_and(|found| found.is_some()))
        };
        copying.directory(BODIES, |path| link && is_body(path))?;
        check_complete(&manifest, copying.copied)?;
        rustix::fs::syncfs(to).map_err(io::Error::from)?;
        open::write_format(to, manifest.format)?;
        drop(Synced::open(to, 0)?);
    }
    let store = Store::open(to, QueueConfig::default())?;
    for seq in &manifest.unfinished {
        store.drop_unfinished(*seq)?;
    }
    let damaged = store.cut_bodies()?;
    store.close()?;
    Ok(Restored { manifest, damaged })
}

impl Store {
    /// Removes a message that was not finished when the backup was made, as if it had not been enqueued.
    fn drop_unfinished(&self, seq: u64) -> crate::error::Result<()> {
        let mut state = self.lock();
        let record = match self.visible(&mut state, seq) {
            Err(Error::NotFound) => return Ok(()),
            found => found?,
        };
        let mut batch = self.db.batch();
        self.forget_id(&mut batch, &record)?;
        self.take_back(&mut state, batch, seq, &record, clock::now_ms())?;
        drop(state);
        if let BodyPlace::File(id) = record.body {
            self.discard_body(id);
        }
        Ok(())
    }

    /// How many messages have a body file that is missing or too short; each is logged.
    fn cut_bodies(&self) -> crate::error::Result<u64> {
        let mut cut = 0;
        self.db.scan(Family::Meta, keys::BODY_FILES, keys::BODY_FILES, |key, seq| {
            if let (Some(id), Some(seq)) = (keys::last_number(key), keys::last_number(seq)) {
                let size = self.record(seq)?.size;
                if !self.bodies.metadata(id).is_ok_and(|file| file.len() >= size) {
                    tracing::warn!(name = self.name_of(seq), body = id, "the body is missing or cut");
                    cut += 1;
                }
            }
            Ok(true)
        })?;
        Ok(cut)
    }
}
