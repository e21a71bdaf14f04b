//! Marks, and what is acknowledged along with what is published.
//!
//! Each mark has a key of its own, so that one commit writes those that it changes and no others, however long they are. A batch
//! keeps what it makes of its queue's marks, and what it demands of them, in the same form. Each counts among the bytes of the
//! holder's owner.

use crate::error::{Error, Result};
use crate::queue::mark::{MARKS, Says, Settles};

use super::db::{Batch, Family};
use super::record::BodyPlace;
use super::state::State;
use super::users::Owned;
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
    /// would be more than [`MARKS`], [`Error::UserLimit`] when the owner of the holder would have too much.
    pub fn set_mark(&self, holder: u64, (says, name): (Says, &str), value: &[u8], there: Option<bool>) -> Result<()> {
        let mut state = self.lock();
        let uid = state.queue(&self.db, holder)?.record.uid; // it may be gone
        let before = self.mark(holder, says, name)?;
        match (there, before.is_some()) {
            (Some(false), true) => return Err(Error::Exists),
            (Some(true), false) => return Err(Error::NoAttribute),
            (_, false) if self.mark_names(holder, says)?.len() >= MARKS => return Err(Error::NoSpace),
            _ => {}
        }
        let mut batch = self.db.batch();
        let before = before.map_or(Owned::default(), |before| Owned::mark(name.as_bytes(), &before));
        let after = Owned::mark(name.as_bytes(), value);
        if after.bytes > before.bytes {
            self.fits_user(&mut state.users, uid, after.bytes - before.bytes)?;
        }
        state.users.turns(&self.db, (uid, before), (uid, after))?;
        batch.put(Family::Meta, &keys::mark(holder, says, name.as_bytes()), value);
        state.commit(&self.db, batch, 0) // no queue is changed
    }

    /// Removes one; [`Error::NoAttribute`] when it is not there.
    pub fn remove_mark(&self, holder: u64, says: Says, name: &str) -> Result<()> {
        let mut state = self.lock();
        let value = self.mark(holder, says, name)?.ok_or(Error::NoAttribute)?;
        let uid = state.queue(&self.db, holder)?.record.uid;
        let mut batch = self.db.batch();
        state.users.loses(&self.db, uid, Owned::mark(name.as_bytes(), &value))?;
        batch.delete(Family::Meta, &keys::mark(holder, says, name.as_bytes()));
        state.commit(&self.db, batch, 0) // no queue is changed
    }

    /// What the marks of a queue or batch cost its owner.
    pub(super) fn owned_marks(&self, holder: u64) -> Result<Owned> {
        let mut owned = Owned::default();
        for says in [Says::Is, Says::Was] {
            self.marks(holder, says, Owned::mark)?.into_iter().for_each(|mark| owned.add(mark));
        }
        Ok(owned)
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

    /// Adds to a change: these are marks of the queue `target`. They are of a batch that vanishes with the change, so they may cost
    /// its owner twice until then: that is not refused, but [`Error::UserLimit`] is when they are to cost somebody else too much.
    pub(super) fn put_marks(
        &self,
        state: &mut State,
        batch: &mut Batch<'_>,
        (from, target): (u64, u64),
        new: &Marks,
    ) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let (giver, owner) = (state.queue(&self.db, from)?.record.uid, state.queue(&self.db, target)?.record.uid);
        let mut names = self.marks(target, Says::Is, |name, _| name.to_vec())?;
        names.extend(new.iter().map(|(name, _)| name.clone()));
        names.sort_unstable();
        names.dedup();
        if names.len() > MARKS {
            return Err(Error::NoSpace);
        }
        let (mut less, mut more) = (Owned::default(), Owned::default());
        for (name, value) in new {
            let key = keys::mark(target, Says::Is, name);
            if let Some(before) = self.db.get(Family::Meta, &key)? {
                less.add(Owned::mark(name, &before));
            }
            more.add(Owned::mark(name, value));
            batch.put(Family::Meta, &key, value);
        }
        if giver != owner && more.bytes > less.bytes {
            self.fits_user(&mut state.users, owner, more.bytes - less.bytes)?;
        }
        state.users.turns(&self.db, (owner, less), (owner, more))
    }

    /// Adds to a change: the marks of a queue or batch of the user `uid` that vanishes vanish. One by one: a range of keys that is
    /// removed slows down whoever looks behind it.
    pub(super) fn drop_marks(&self, state: &mut State, batch: &mut Batch<'_>, holder: u64, uid: u32) -> Result<()> {
        for says in [Says::Is, Says::Was] {
            for (name, owned) in self.marks(holder, says, |name, value| (name.to_vec(), Owned::mark(name, value)))? {
                batch.delete(Family::Meta, &keys::mark(holder, says, &name));
                state.users.loses(&self.db, uid, owned)?;
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
