//! The database itself: whether it opens, whether its log is whole, whether all of its tables can be read. One that is
//! damaged is not mended in place: what can be read of it is written to a new one, and it is kept in `lost+found`.

use std::io;
use std::path::Path;

use crate::clock;
use crate::error::Result;
use crate::store::beneath::Dir;
use crate::store::database::{self, DB};
use crate::store::db::{Batch, Db, Family, Recovery, db_error, db_open_error};
use crate::store::open::OpenError;
use crate::store::synced::{self, Noted};

use super::Report;
use super::lost::Lost;

type Opened<T> = std::result::Result<T, OpenError>;

/// What a rebuild makes in the store: the new database; one of which RocksDB made the best; one that tables are taken from for that.
const NEW: &str = "db.new";
const SALVAGE: &str = "db.salvage";
const PLANTED: &str = "db.planted";

/// So many entries are written to a new database at once.
const AT_ONCE: usize = 1000;

/// Opens the database to look at it or, when it is to be repaired, to change it. `None` when it cannot be opened.
pub(super) fn open(report: &mut Report<'_>, format: u32) -> Opened<Option<Db>> {
    database::look_at(&report.dir)?;
    let noted = synced::read(&report.dir)?;
    let mut rewrites = false;
    match noted {
        Noted::Damaged => rewrites = true,
        // Format 3 came with it.
        Noted::Nothing => rewrites = format >= 3,
        Noted::Upto(_) => {}
    }
    if rewrites {
        report.damaged("the file synced: whether the log of the database is whole cannot be told");
        if report.repair {
            report.repaired("it is written anew");
        }
    }
    let found = to_read(&report.dir)?;
    let whole = match &found {
        Ok(db) => is_whole(report, db, noted)?,
        Err(error) => {
            report.damaged(&format!("the database cannot be opened: {}", report.dir.told(error.as_ref())));
            false
        }
    };
    let cut = synced::manifest_cut(&report.dir);
    if let Some(what) = &cut {
        report.damaged(&format!("the database: {what}"));
    }
    let whole = whole && cut.is_none();
    if !report.repair {
        if !whole {
            report.note("what is in the database can be checked when it is repaired");
        }
        return Ok(found.ok().filter(|_| whole));
    }
    drop(found);
    if !whole {
        rebuild(report, noted, cut.is_some())?;
    }
    Db::open(&report.dir.join(DB), false).map(Some).map_err(|error| db_open_error(&report.dir, error))
}

fn to_read(dir: &Dir) -> io::Result<std::result::Result<Db, rocksdb::Error>> {
    Ok(Db::open_readable(database::readable(dir)?, Recovery::PointInTime))
}

/// Opens the database of a backup to look at it. `None` when it is damaged.
pub(super) fn open_backup(report: &mut Report<'_>) -> Opened<Option<Db>> {
    match to_read(&report.dir)? {
        Ok(db) => Ok(is_whole(report, &db, Noted::Nothing)?.then_some(db)),
        Err(error) => {
            report.damaged(&format!("the database cannot be opened: {}", report.dir.told(error.as_ref())));
            Ok(None)
        }
    }
}

fn is_whole(report: &mut Report<'_>, db: &Db, noted: Noted) -> Opened<bool> {
    let mut whole = true;
    if let Noted::Upto(upto) = noted
        && db.upto() < upto
    {
        let lost = upto - db.upto();
        report.damaged(&format!("the log of the database: {lost} changes that were durable are behind its damage"));
        whole = false;
    }
    let dir = report.dir.clone();
    for family in Family::ALL {
        db.read_all(
            family,
            |_, _| Ok(()),
            |error, _, _| {
                report.damaged(&format!("the tables of {}: {}", family.name(), dir.told(&error.to_string())));
                whole = false;
            },
        )?;
    }
    Ok(whole)
}

/// Writes what can be read to a new database, which takes the place of the old one.
fn rebuild(report: &mut Report<'_>, noted: Noted, cut: bool) -> Opened<()> {
    let dir = &report.dir.clone();
    let failed = |error| db_open_error(dir, error);
    let new = dir.join(NEW);
    remove_dirs(dir)?;
    let upto = if let Noted::Upto(upto) = noted { upto } else { 0 };
    let (mut copied, gaps) = match Db::open_to_read(&dir.join(DB), Recovery::SkipDamaged) {
        // An older list of its files may have been read.
        Ok(source) if source.upto() >= upto && !cut => copy(&source, &new)?,
        _ => (0, Family::ALL.map(|family| Gap { family, from: Vec::new(), to: None }).into()),
    };
    if !gaps.is_empty() {
        // A table that cannot be read hides others that can.
        link_database(dir)?;
        Db::salvage(&dir.join(SALVAGE), &dir.join(PLANTED))?;
        let source = Db::open_to_read(&dir.join(SALVAGE), Recovery::SkipDamaged).map_err(failed)?;
        copied += fill(&source, &new, &gaps)?;
    }
    let lost = Lost::open(dir)?;
    exchange(dir)?;
    let lost = lost.take(Path::new(NEW), &format!("db-{}", clock::now_ms()))?;
    dir.sync()?;
    remove_dirs(dir)?;
    // All that is wrong with the database is repaired by this.
    let pending = report.summary.damaged - report.summary.repaired;
    report.summary.repaired += pending.saturating_sub(1);
    report.repaired(&format!(
        "what can be read of the database, {copied} entries, is in a new one; the damaged one is {}",
        lost.display()
    ));
    Ok(())
}

/// Removes the directories that a rebuild makes in the store.
fn remove_dirs(dir: &Dir) -> io::Result<()> {
    [NEW, SALVAGE, PLANTED].iter().try_for_each(|name| match std::fs::remove_dir_all(dir.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    })
}

/// Where entries of a family cannot be read: from which key on, and up to which, or to the end.
struct Gap {
    family: Family,
    from: Vec<u8>,
    to: Option<Vec<u8>>,
}

/// Copies all entries that can be read to a new database; gives how many, and where there are others.
fn copy(source: &Db, new: &Path) -> Opened<(u64, Vec<Gap>)> {
    let target = Db::open(new, true).map_err(db_error)?;
    let (mut copied, mut gaps) = (0, Vec::new());
    for family in Family::ALL {
        let mut writer = Writer::new(&target);
        let gap = |_, from: &[u8], to: Option<&[u8]>| {
            gaps.push(Gap { family, from: from.to_vec(), to: to.map(<[u8]>::to_vec) });
        };
        source.read_all(family, |key, value| writer.put(family, key, value), gap)?;
        copied += writer.finish()?;
    }
    Ok((copied, gaps))
}

/// Copies the entries in the gaps that another source has; gives how many.
fn fill(source: &Db, new: &Path, gaps: &[Gap]) -> Opened<u64> {
    let target = Db::open(new, true).map_err(db_error)?;
    let mut copied = 0;
    for Gap { family, from, to } in gaps {
        let mut writer = Writer::new(&target);
        let each = |key: &[u8], value: &[u8]| {
            let within = key >= &from[..] && to.as_ref().is_none_or(|to| key < &to[..]);
            if within && !Db::is_planted(key) { writer.put(*family, key, value) } else { Ok(()) }
        };
        source.read_all(*family, each, |_, _, _| ())?;
        copied += writer.finish()?;
    }
    Ok(copied)
}

/// Writes entries, some at once.
struct Writer<'a> {
    target: &'a Db,
    batch: Batch<'a>,
    pending: usize,
    written: u64,
}

impl<'a> Writer<'a> {
    fn new(target: &'a Db) -> Self {
        Self { target, batch: target.batch(), pending: 0, written: 0 }
    }

    fn put(&mut self, family: Family, key: &[u8], value: &[u8]) -> Result<()> {
        self.batch.put(family, key, value);
        self.pending += 1;
        self.written += 1;
        if self.pending < AT_ONCE {
            return Ok(());
        }
        self.pending = 0;
        self.target.write(std::mem::replace(&mut self.batch, self.target.batch()))
    }

    /// Makes all of it durable; gives how much it was.
    fn finish(self) -> Result<u64> {
        self.target.write(self.batch)?;
        self.target.flush()?;
        self.target.sync()?;
        Ok(self.written)
    }
}

/// Makes [`SALVAGE`] with the files of the database. Tables never change, and are shared where that is possible.
fn link_database(dir: &Dir) -> io::Result<()> {
    let to = dir.make_dir(SALVAGE)?;
    let from = match dir.dir(DB) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    database::files(&from, |name| {
        let mut file = from.file(name)?;
        let table = Path::new(name).extension().is_some_and(|extension| extension == "sst");
        if !table || to.link(&file, name).is_err() {
            io::copy(&mut file, &mut to.create(name)?)?;
        }
        Ok(())
    })
}

/// Puts the database and [`NEW`] each in the place of the other, in one step where the file system can.
fn exchange(dir: &Dir) -> io::Result<()> {
    use rustix::fs::{RenameFlags, renameat_with};
    if !dir.has(DB) {
        dir.make_dir(DB)?;
    }
    if renameat_with(dir, NEW, dir, DB, RenameFlags::EXCHANGE).is_ok() {
        return Ok(());
    }
    dir.rename(DB, "db.old")?;
    dir.rename(NEW, DB)?;
    dir.rename("db.old", NEW)
}
