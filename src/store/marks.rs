//! Marks, and what is acknowledged along with what is published.
//!
//! Each mark has a key of its own, so that one commit writes those that it changes and no others, however long they are. A batch
//! keeps what it makes of its queue's marks, and what it demands of them, in the same form.

use crate::error::{Error, Result};
use crate::queue::mark::{MARKS, Says, Settles};

use super::db::{Batch, Family};
use super::record::BodyPlace;
use super::state::State;
use super::{Of, Store, keys};

/// What whoever enqueues a batch may do with the marks of its queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct MarkRights {
    /// Set them.
    pub set: bool,
    /// Know them.
    pub read: bool,
}

/// Names and values of marks.
type Marks = Vec<(Vec<u8>, Vec<u8>)>;

impl Store {
    /// The mark of that name of a queue; what a batch makes of it, or demands.
    pub fn mark(&self, holder: u64, says: Says, name: &str) -> Result<Option<Vec<u8>>> {
        let found = self.db.get(Family::Meta, &keys::mark(holder, says, name.as_bytes()))?;
        Ok(found.map(|value| value.to_vec()))
    }

    /// The names of all of them.
    pub fn mark_names(&self, holder: u64, says: Says) -> Result<Vec<String>> {
        self.marks(holder, says, |name, _| String::from_utf8_lossy(name).into_owned())
    }

    /// Whether a batch sets marks, or demands any.
    pub fn has_marks(&self, batch: u64) -> Result<bool> {
        let mut any = false;
        for says in [Says::Is, Says::Was] {
            let prefix = keys::marks(batch, says);
            self.db.scan(Family::Meta, &prefix, &prefix, |_, _| {
                any = true;
                Ok(false)
            })?;
        }
        Ok(any)
    }

    /// Sets one. `there`: only if it is there, or is not ([`Error::NoAttribute`], [`Error::Exists`]). [`Error::NoSpace`] when there
    /// would be more than [`MARKS`].
    pub fn set_mark(&self, holder: u64, (says, name): (Says, &str), value: &[u8], there: Option<bool>) -> Result<()> {
        let mut state = self.lock();
        state.queue(&self.db, holder)?; // it may be gone
        let is_there = self.mark(holder, says, name)?.is_some();
        match (there, is_there) {
            (Some(false), true) => return Err(Error::Exists),
            (Some(true), false) => return Err(Error::NoAttribute),
            (_, false) if self.mark_names(holder, says)?.len() >= MARKS => return Err(Error::NoSpace),
            _ => {}
        }
        let mut batch = self.db.batch();
        batch.put(Family::Meta, &keys::mark(holder, says, name.as_bytes()), value);
        self.db.write(batch)
    }

    /// Removes one; [`Error::NoAttribute`] when it is not there.
    pub fn remove_mark(&self, holder: u64, says: Says, name: &str) -> Result<()> {
        let _state = self.lock();
        if self.mark(holder, says, name)?.is_none() {
            return Err(Error::NoAttribute);
        }
        let mut batch = self.db.batch();
        batch.delete(Family::Meta, &keys::mark(holder, says, name.as_bytes()));
        self.db.write(batch)
    }

    /// What `of` makes of the name and value of each.
    fn marks<T>(&self, holder: u64, says: Says, mut of: impl FnMut(&[u8], &[u8]) -> T) -> Result<Vec<T>> {
        let (prefix, mut all) = (keys::marks(holder, says), Vec::new());
        self.db.scan(Family::Meta, &prefix, &prefix, |key, value| {
            all.extend(keys::parse_mark(key).map(|(_, name)| of(name, value)));
            Ok(true)
        })?;
        Ok(all)
    }

    /// What a batch would make of the marks of the queue `target`. [`Error::MarkMoved`] when they are not what it demands,
    /// [`Error::AccessDenied`] without the rights.
    pub fn new_marks(&self, batch: u64, target: u64, rights: MarkRights) -> Result<Marks> {
        let both = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
        for (name, was) in self.marks(batch, Says::Was, both)? {
            if !rights.read {
                return Err(Error::AccessDenied);
            }
            // No mark yet, and an empty one, are the same to whoever has to name it.
            let is = self.db.get(Family::Meta, &keys::mark(target, Says::Is, &name))?;
            if is.as_deref().unwrap_or_default() != was {
                return Err(Error::MarkMoved);
            }
        }
        let new = self.marks(batch, Says::Is, both)?;
        if !new.is_empty() && !rights.set {
            return Err(Error::AccessDenied);
        }
        Ok(new)
    }

    /// Adds to a change: these are marks of the queue `target`.
    pub(super) fn put_marks(&self, batch: &mut Batch<'_>, target: u64, new: &Marks) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let mut names = self.marks(target, Says::Is, |name, _| name.to_vec())?;
        names.extend(new.iter().map(|(name, _)| name.clone()));
        names.sort_unstable();
        names.dedup();
        if names.len() > MARKS {
            return Err(Error::NoSpace);
        }
        for (name, value) in new {
            batch.put(Family::Meta, &keys::mark(target, Says::Is, name), value);
        }
        Ok(())
    }

    /// Adds to a change: the marks of a queue or batch that vanishes vanish. One by one: a range of keys that is removed slows down
    /// whoever looks behind it.
    pub(super) fn drop_marks(&self, batch: &mut Batch<'_>, holder: u64) -> Result<()> {
        for says in [Says::Is, Says::Was] {
            for name in self.marks(holder, says, |name, _| name.to_vec())? {
                batch.delete(Family::Meta, &keys::mark(holder, says, &name));
            }
        }
        Ok(())
    }

    /// Whether a delivery still lasts: [`Error::NotFound`] when it is over.
    pub fn check_lasts(&self, settles: Settles) -> Result<()> {
        self.lasts(&mut self.lock(), settles)
    }

    /// As [`Store::check_lasts`], within an operation.
    pub(super) fn lasts(&self, state: &mut State, settles: Settles) -> Result<()> {
        Of::This(Some(settles.delivery)).check(&self.visible(state, settles.seq)?)
    }

    /// Adds to a change: deliveries that last are acknowledged, each once however often it is named. Gives the body files to be removed
    /// after it.
    pub(super) fn ack_along(&self, state: &mut State, batch: &mut Batch<'_>, settles: &[Settles]) -> Result<Vec<u64>> {
        let mut files = Vec::new();
        let mut settles = settles.to_vec();
        settles.sort_unstable_by_key(|settles| settles.seq);
        // Of one message no two deliveries last.
        settles.dedup_by_key(|settles| settles.seq);
        for Settles { seq, delivery } in settles {
            let record = self.visible(state, seq)?;
            Of::This(Some(delivery)).check(&record)?;
            state.changing(&self.db, record.queue)?.counters.acked_total += 1;
            self.erase(state, batch, seq, &record)?;
            if let BodyPlace::File(id) = record.body {
                files.push(id);
            }
        }
        Ok(files)
    }
}
