//! A snapshot of the store as it is at one moment, made while the store is in use: what `mqfs backup` takes away.
//!
//! It is a directory `snapshot` in the store, laid out as a backup is ([`super::backup`]), and costs hardly any space: RocksDB
//! makes a checkpoint, and the bodies that the checkpoint names are linked. Nobody waits for it meanwhile, because
//!
//! - a body file is never changed once its message is visible, and while a snapshot is being made none is removed
//!   ([`super::removals`]), so whatever the checkpoint names is still there;
//! - the files that may be changed are copied: those of drafts, and the bodies of messages that were hidden during the checkpoint.
//!   When a writer of such a message has written on, the copy is not what the checkpoint names; the manifest says so, and the
//!   message is not restored. Nobody could see it yet, and its writers are not finished.
//!
//! So a snapshot holds what a crash at that moment would have left.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock;
use crate::error::{Error, Result};

use super::backup::{self, Manifest};
use super::beneath::Dir;
use super::bodies::place;
use super::database::{self, DB};
use super::db::{Db, Family, Recovery};
use super::record::{self, BodyPlace, DraftBody, DraftRecord};
use super::{Bodies, BodyFile, FORMAT, Store, keys};

/// The directory in the store.
const SNAPSHOT: &str = "snapshot";

/// What it is called while it is being removed: nobody takes away what is not whole any more.
const GONE: &str = "snapshot.gone";

/// So many files are looked up in one go.
const AT_ONCE: usize = 1024;

/// A snapshot on its way.
struct Making<'a> {
    store: &'a Store,
    /// The database of the snapshot.
    db: Arc<Db>,
    dir: Dir,
    bodies: Bodies,
    /// Messages whose body files may have been changed since the checkpoint.
    unfinished: HashSet<u64>,
    go_on: &'a dyn Fn() -> bool,
    manifest: Manifest,
}

impl Store {
    /// Makes a snapshot, durable when this returns; gives its directory. One at a time. Whoever takes it away renames it; else
    /// [`Store::drop_snapshot`] removes it. [`Error::GoingAway`] when `go_on` says no, [`Error::NoSpace`] when the copies that it
    /// needs would leave too little room.
    pub fn make_snapshot(&self, go_on: &dyn Fn() -> bool) -> Result<(PathBuf, Manifest)> {
        self.drop_snapshot();
        self.admit_bytes(self.logs()?)?;
        let dir = self.dir.make_dir(SNAPSHOT)?;
        let made = self.fill_snapshot(&dir, go_on);
        if made.is_err() {
            self.drop_snapshot();
        }
        made.map(|manifest| (dir.shown().to_owned(), manifest))
    }

    /// The bytes of the database's logs: a checkpoint writes as much at most, and the database must never meet a full disk.
    fn logs(&self) -> Result<u64> {
        let mut bytes = 0;
        let db = self.dir.dir(DB)?;
        database::files(&db, |name| {
            if Path::new(name).extension().is_some_and(|kind| kind == "log") {
                // One that is not needed any more may vanish.
                bytes += db.stat(name).map_or(0, |file| file.len());
            }
            Ok(())
        })?;
        Ok(bytes)
    }

    fn fill_snapshot(&self, dir: &Dir, go_on: &dyn Fn() -> bool) -> Result<Manifest> {
        let held = self.bodies.removals().hold();
        self.lock().watch_hidden(true);
        let checkpoint = self.db.checkpoint(&dir.join(DB));
        let unfinished = self.lock().watch_hidden(false);
        checkpoint?;
        let db = Db::open_to_read(&dir.join(DB), Recovery::PointInTime)
            .map_err(|error| io::Error::other(dir.told(error.as_ref())))?;
        let bodies = Bodies::open(dir)?;
        let manifest = Manifest { format: FORMAT, taken_at: clock::rfc3339(clock::now_ms()), ..Manifest::default() };
        let mut making =
            Making { store: self, db: Arc::new(db), dir: dir.clone(), bodies, unfinished, go_on, manifest };
        making.place_bodies()?;
        making.place_drafts()?;
        drop(held);
        making.count()?;
        let manifest = making.manifest;
        backup::write_manifest(dir, &manifest)?;
        rustix::fs::syncfs(dir).map_err(io::Error::from)?;
        Ok(manifest)
    }

    /// Removes the snapshot, if it is still there. Somebody who renames it meanwhile gets all of it, or it is not there.
    pub fn drop_snapshot(&self) {
        let gone = self.dir.join(GONE);
        let remove = || match std::fs::remove_dir_all(&gone) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        // What a crash left is in the way of the rename.
        let removed = remove().and_then(|()| match self.dir.rename(SNAPSHOT, GONE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.and_then(|()| remove()),
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "a snapshot of the store is not removed");
        }
    }

    /// Whether the body file `id` is for good what the message `seq` had at some time before: it is visible, and so it was not
    /// taken back since.
    fn has_settled(&self, id: u64, seq: u64) -> bool {
        self.message(seq).is_ok_and(|record| record.body == BodyPlace::File(id))
    }
}

impl Making<'_> {
    fn check(&self) -> Result<()> {
        if (self.go_on)() { Ok(()) } else { Err(Error::GoingAway) }
    }

    fn counted(&mut self, bytes: u64) {
        self.manifest.files += 1;
        self.manifest.bytes += bytes;
    }

    /// The next keys of a prefix that end in the number `from` or a larger one: these numbers, and those that their values are, if
    /// they are; none when there are no more.
    fn some(&self, prefix: &[u8], from: u64) -> Result<Vec<(u64, Option<u64>)>> {
        self.check()?;
        let mut found = Vec::new();
        self.db.scan(Family::Meta, prefix, &[prefix, &from.to_be_bytes()].concat(), |key, value| {
            found.extend(keys::last_number(key).map(|id| (id, keys::last_number(value))));
            Ok(found.len() < AT_ONCE)
        })?;
        Ok(found)
    }

    /// Links, or copies, the bodies of all messages.
    fn place_bodies(&mut self) -> Result<()> {
        let mut from = 0;
        loop {
            let some = self.some(keys::BODY_FILES, from)?;
            let Some((last, _)) = some.last() else { return Ok(()) };
            from = last + 1;
            for (id, seq) in some {
                self.place_body(id, seq.ok_or_else(|| Error::Damaged(format!("owner of the body {id:016x}")))?)?;
            }
        }
    }

    fn place_body(&mut self, id: u64, seq: u64) -> Result<()> {
        let placed = if self.unfinished.contains(&id) && !self.store.has_settled(id, seq) {
            self.copy_unfinished(id, seq)
        } else {
            self.link(id)
        };
        self.placed(id, placed)
    }

    /// Counts a file. One that is missing is as much missing in the snapshot as it is in the store.
    fn placed(&mut self, id: u64, bytes: Result<u64>) -> Result<()> {
        match bytes {
            Ok(bytes) => self.counted(bytes),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                tracing::error!(body = id, "a body file is missing");
                self.manifest.damaged += 1;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn link(&self, id: u64) -> Result<u64> {
        let file = self.store.dir.file(place(id)).map_err(Error::Io)?;
        match self.bodies.link(&file, id) {
            Ok(()) => Ok(file.metadata()?.len()),
            // There are filesystems without hard links, and each has a highest number of links to one file.
            Err(_) => self.copy(id),
        }
    }

    fn copy(&self, id: u64) -> Result<u64> {
        let file = self.store.dir.file(place(id)).map_err(Error::Io)?;
        self.store.admit_bytes(file.metadata()?.len())?;
        Ok(backup::copy_file(&file, &self.dir, place(id))?)
    }

    fn copy_unfinished(&mut self, id: u64, seq: u64) -> Result<u64> {
        let bytes = self.copy(id)?;
        let record = self.db.get(Family::Messages, &keys::message(seq))?.ok_or(Error::NotFound)?;
        let record = record::decode_message(&record)?;
        match BodyFile::open(&self.db, &self.bodies, id, record.size).and_then(|body| body.check()) {
            Err(Error::Damaged(_)) => self.manifest.unfinished.push(seq),
            checked => checked?,
        }
        Ok(bytes)
    }

    /// Copies the files of drafts, of those in batches too: they may be written to.
    fn place_drafts(&mut self) -> Result<()> {
        let mut from = 0;
        loop {
            let some = self.some(keys::DRAFTS, from)?;
            let Some((last, _)) = some.last() else { return Ok(()) };
            from = last + 1;
            for (id, _) in some {
                self.manifest.drafts += 1;
                let draft = self.db.get(Family::Meta, &keys::draft(id))?.map(|draft| record::decode_draft(&draft));
                // The small ones are in the database.
                if matches!(draft, Some(Ok(DraftRecord { body: DraftBody::Inline(_), .. }))) {
                    continue;
                }
                let copied = self.copy(id);
                self.placed(id, copied)?;
            }
        }
    }

    /// Counts what is in the database.
    fn count(&mut self) -> Result<()> {
        let manifest = &mut self.manifest;
        let files = self.dir.dir(DB)?;
        database::files(&files, |name| {
            manifest.files += 1;
            manifest.bytes += files.stat(name)?.len();
            Ok(())
        })?;
        let db = &self.db;
        db.scan(Family::Meta, keys::QUEUES, keys::QUEUES, |key, queue| {
            let Some(id) = keys::last_number(key) else { return Ok(true) };
            if !record::decode_queue(queue)?.batch && id != super::ROOT {
                manifest.queues += 1;
                if let Some(counters) = db.get(Family::Meta, &keys::counters(id))? {
                    let counters = record::decode_counters(&counters)?;
                    manifest.messages += counters.messages();
                    manifest.message_bytes +=
                        counters.ready_bytes + counters.claimed_bytes + counters.delayed_bytes + counters.dead_bytes;
                }
            }
            Ok(true)
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::store::tests::open;

    /// `mqfs backup` may come to rename a snapshot when it is being removed.
    #[test]
    fn a_snapshot_that_is_being_removed_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let entries = |dir: &std::path::Path| std::fs::read_dir(dir.join("bodies")).map_or(0, Iterator::count);
        for round in 0..10 {
            let (snapshot, manifest) = store.make_snapshot(&|| true).unwrap();
            let all = entries(&snapshot);
            let taken = dir.path().join(format!("taken{round}"));
            let renamed = std::thread::scope(|scope| {
                let taker = scope.spawn(|| {
                    while entries(&snapshot) == all {}
                    std::fs::rename(&snapshot, &taken)
                });
                store.drop_snapshot();
                taker.join().unwrap()
            });
            assert!(renamed.is_err() || entries(&taken) == all, "{} of {all}: {manifest:?}", entries(&taken));
            assert!(!snapshot.exists() && !dir.path().join(super::GONE).exists());
        }
    }

    #[test]
    fn what_a_crash_left_of_a_removal_goes_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()));
        for name in [super::SNAPSHOT, super::GONE] {
            std::fs::create_dir_all(dir.path().join(name).join("bodies/00")).unwrap();
        }
        drop(open(dir.path()));
        for name in [super::SNAPSHOT, super::GONE] {
            assert!(!dir.path().join(name).exists(), "{name}");
        }
    }
}
