//! Is a store whole? Looks at everything in one that nobody has open, says what is wrong, and puts right what can be.
//! A backup is looked at in the same way, and never changed.
//!
//! What is wrong is told together with the change that puts it right: [`Fix`]. To check is to tell; to repair is to tell and to
//! make the change. Records are believed, and what is derived from them (listings, deadlines, counters) is made to agree.
//! Nothing that a user has enqueued is thrown away: what has no place any more goes to `STORE/lost+found`.

mod database;
mod files;
mod lists;
mod lost;
mod messages;
mod owned;
mod queues;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::queue::state::State as MessageState;

use super::backup;
use super::beneath::{Dir, Trust};
use super::bodies::{self, Bodies};
use super::db::{Db, Family};
use super::keys;
use super::open::{self, OpenError};
use super::record::{self, Counters};
use super::synced::Synced;
use lost::Lost;
use queues::Known;

/// What a line of the report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something is not as it should be.
    Damaged,
    /// What was done about the damage told before.
    Repaired,
    /// Nothing is wrong, but it is good to know.
    Note,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Damaged => "damaged",
            Kind::Repaired => "repaired",
            Kind::Note => "note",
        })
    }
}

/// What was found in a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Queues, the root not counted.
    pub queues: u64,
    /// Messages in any state.
    pub messages: u64,
    /// Drafts.
    pub drafts: u64,
    /// What is damaged.
    pub damaged: u64,
    /// What of that has been repaired.
    pub repaired: u64,
    /// It is a backup.
    pub backup: bool,
}

/// Checks the store, or the backup, in `dir`, and repairs a store if told so. `tell` gets what is found, one line each.
///
/// An error when it cannot be checked at all: nobody else may have a store open; and when a backup is to be repaired.
pub fn check(
    path: &Path,
    trust: Trust,
    repair: bool,
    tell: &mut dyn FnMut(Kind, &str),
) -> std::result::Result<Summary, OpenError> {
    let dir = Dir::open(path, trust)?;
    if backup::is_one(&dir) {
        return check_backup(dir, repair, tell);
    }
    let _lock = open::lock_to_check(&dir)?;
    if let Some(others) = open::told_of_others(&dir)? {
        tell(Kind::Note, &others);
    }
    let mut report = Report { dir: dir.clone(), repair, tell, summary: Summary::default() };
    let format = report.format()?;
    let Some(db) = database::open(&mut report, format)? else { return Ok(report.summary) };
    let mut check = Check::new(db, report, HashSet::new());
    check.everything()?;
    if repair {
        check.db.flush()?;
        check.db.sync()?;
        Synced::open(&dir, check.db.upto())?;
        open::write_format(&dir, open::FORMAT)?;
    }
    Ok(check.report.summary)
}

/// Checks a backup. Opening its database to write to it, or a file of its own for its lock, would change it: there is nothing of
/// that here.
fn check_backup(dir: Dir, repair: bool, tell: &mut dyn FnMut(Kind, &str)) -> std::result::Result<Summary, OpenError> {
    if repair {
        let why = "it is a backup, and stays as it is: `mqfs restore` makes a store of it, which can be repaired";
        return Err(OpenError::NotAStore(why.into()));
    }
    let manifest = backup::manifest(&dir)?;
    let summary = Summary { backup: true, ..Summary::default() };
    let cut = backup::cut(&dir, &manifest)?;
    let mut report = Report { dir, repair: false, tell, summary };
    if let Some(what) = cut {
        report.damaged(&format!("the backup: {what}"));
    }
    let Some(db) = database::open_backup(&mut report)? else { return Ok(report.summary) };
    let mut check = Check::new(db, report, manifest.unfinished.into_iter().collect());
    check.everything()?;
    Ok(check.report.summary)
}

/// Where what is found goes.
struct Report<'a> {
    dir: Dir,
    repair: bool,
    tell: &'a mut dyn FnMut(Kind, &str),
    summary: Summary,
}

/// A change that puts something right.
enum Fix {
    Put(Family, Vec<u8>, Vec<u8>),
    Delete(Family, Vec<u8>),
    /// Keeps bytes as a file of that name, or a numbered one, in `lost+found`.
    Save(String, Vec<u8>),
    /// Moves the body file of that number to `lost+found`.
    Move(u64),
}

/// A check under way.
struct Check<'a> {
    db: Arc<Db>,
    bodies: Bodies,
    /// Messages that were not finished when the backup was made, and are not restored from it.
    unfinished: HashSet<u64>,
    queues: HashMap<u64, Known>,
    /// States of queues of which purged messages have not been cleared away.
    purges: HashSet<(u64, MessageState)>,
    last: Last,
    report: Report<'a>,
}

/// The largest numbers in use.
#[derive(Default)]
struct Last {
    seq: u64,
    id: u64,
}

impl Report<'_> {
    fn note(&mut self, text: &str) {
        (self.tell)(Kind::Note, text);
    }

    /// Tells of damage that is not repaired here.
    fn damaged(&mut self, text: &str) {
        self.summary.damaged += 1;
        (self.tell)(Kind::Damaged, text);
    }

    /// Tells what was done about the damage told last.
    fn repaired(&mut self, done: &str) {
        self.summary.repaired += 1;
        (self.tell)(Kind::Repaired, done);
    }

    /// Looks at `STORE/format`; gives the version.
    fn format(&mut self) -> std::result::Result<u32, OpenError> {
        match open::check_format(&self.dir) {
            Err(error @ OpenError::NewerFormat { .. }) => Err(error),
            Ok(format) => Ok(format),
            Err(error) => {
                self.damaged(&format!("the file format: {error}"));
                if self.repair {
                    open::write_format(&self.dir, open::FORMAT)?;
                    self.repaired(&format!("it says {} now", open::FORMAT));
                }
                Ok(open::FORMAT)
            }
        }
    }
}

impl<'a> Check<'a> {
    fn new(db: Db, report: Report<'a>, unfinished: HashSet<u64>) -> Self {
        let bodies = Bodies::at(&report.dir);
        let (queues, purges, last) = (HashMap::new(), HashSet::new(), Last::default());
        Self { db: Arc::new(db), bodies, unfinished, queues, purges, last, report }
    }
}

impl Check<'_> {
    fn everything(&mut self) -> Result<()> {
        self.purges()?;
        self.queues()?;
        self.queue_lists()?;
        self.reaches()?;
        self.drafts()?;
        self.messages()?;
        self.indexed()?;
        self.deadlines()?;
        self.kept_names()?;
        self.marks()?;
        self.body_owners()?;
        self.counters()?;
        self.users()?;
        self.body_files()?;
        self.numbers()
    }

    /// Tells of damage and, if told so, makes the change that puts it right, which is `done`.
    fn damaged(&mut self, text: &str, fixes: Vec<Fix>, done: &str) {
        self.report.damaged(text);
        if !self.report.repair || fixes.is_empty() {
            return;
        }
        match self.apply(fixes) {
            Ok(()) => self.report.repaired(done),
            Err(error) => self.report.note(&format!("not repaired: {error}")),
        }
    }

    fn apply(&self, fixes: Vec<Fix>) -> Result<()> {
        let mut batch = self.db.batch();
        for fix in fixes {
            match fix {
                Fix::Put(family, key, value) => batch.put(family, &key, &value),
                Fix::Delete(family, key) => batch.delete(family, &key),
                Fix::Save(name, bytes) => Lost::open(&self.report.dir)?.save(&name, &bytes)?,
                Fix::Move(id) => {
                    Lost::open(&self.report.dir)?.take(&bodies::place(id), &format!("body-{id:016x}"))?;
                }
            }
        }
        self.db.write(batch)
    }

    /// What makes the counters of a queue agree with a change that is made to what it holds.
    fn recount(&self, queue: u64, change: impl FnOnce(&mut Counters)) -> Result<Option<Fix>> {
        let key = keys::counters(queue).to_vec();
        let Some(found) = self.db.get(Family::Meta, &key)? else { return Ok(None) };
        let Ok(mut counters) = record::decode_counters(&found) else { return Ok(None) };
        change(&mut counters);
        Ok(Some(Fix::Put(Family::Meta, key, record::encode(&counters))))
    }

    /// Sees to it that a key has that value, which `what` says in words.
    fn expect(&mut self, family: Family, key: &[u8], value: &[u8], what: &str) -> Result<()> {
        if self.db.get(family, key)?.is_some_and(|found| *found == *value) {
            return Ok(());
        }
        let put = Fix::Put(family, key.to_vec(), value.to_vec());
        self.damaged(&format!("{what} is missing or wrong"), vec![put], "entered");
        Ok(())
    }

    /// Tells of an entry that leads nowhere.
    fn leads_nowhere(&mut self, family: Family, key: &[u8], what: &str) {
        self.damaged(&format!("{what} leads nowhere"), vec![Fix::Delete(family, key.to_vec())], "removed");
    }
}
