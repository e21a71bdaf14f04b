//! Drafts: ordinary files with a name that begins with a dot, until one is renamed and so published.
//!
//! Its name and attributes are in a record, which says where its bytes are ([`super::draft_bytes`]).

use crate::error::{Error, Result};
use crate::queue::config::QueueConfig;
use crate::queue::mark::Settles;
use crate::queue::name::is_staged;
use crate::queue::properties::ms;

use super::db::{Batch, Family};
use super::enqueue::Added;
use super::kept::enter_name;
use super::keys::{self, DeadlineKind};
use super::limits::Need;
use super::named_drafts::{Seen, named_by};
use super::record::{self, DraftBody, DraftRecord, NewMessage};
use super::state::State;
use super::users::{Owned, Users};
use super::{Enqueued, NewBody, Onto, Store, draft_bytes};

/// While a draft is written, at most so many bytes are charged before they are there.
const CHARGED_AHEAD: u64 = 1 << 20;

/// What is [staged](is_staged) goes with its last close; and after so long, in milliseconds, when nobody has it open and nobody was
/// there to see that: the program that made it was killed before it had opened it, or the mount went away under both.
pub const STAGED_MS: u64 = 60_000;

/// What becomes of a draft that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is the message now; its file is the message's when the body is [`NewBody::File`] of its number.
    Gone,
    /// It stays a draft, as after `link`.
    Stays,
}

impl Store {
    /// Makes a draft without bytes, which is removed when its queue says; [`Error::Exists`] when its owner, who has `seen` so
    /// much, finds something of that name. Gives its number.
    pub fn make_draft(&self, mut record: DraftRecord, seen: Seen) -> Result<u64> {
        let id = self.enter_draft(&mut record, seen)?;
        if record.due > 0 {
            self.deadlines.note(record.due);
        }
        Ok(id)
    }

    fn enter_draft(&self, record: &mut DraftRecord, seen: Seen) -> Result<u64> {
        let mut state = self.lock();
        let id = state.take_id(&self.db)?;
        let holder = state.queue(&self.db, record.queue)?;
        let in_batch = holder.record.batch;
        record.due = if in_batch { 0 } else { draft_due(&holder.config, &record.name, record.created) };
        if self.drafts_name_taken(&mut state, record.queue, &record.name, seen)? {
            return Err(Error::Exists);
        }
        self.admit_draft(&mut state.users, record.uid)?;
        self.fits_user(&mut state.users, record.uid, Owned::draft(record, 0).bytes)?;
        self.count_draft(&mut state, record, 0)?;
        let mut batch = self.db.batch();
        put_draft(&mut batch, id, record, in_batch);
        state.commit(&self.db, batch, record.created)?;
        Ok(id)
    }

    /// A draft's record.
    pub fn draft(&self, id: u64) -> Result<DraftRecord> {
        record::decode_draft(&self.db.get(Family::Meta, &keys::draft(id))?.ok_or(Error::NotFound)?)
    }

    /// Changes a draft's record, its place and name excepted. [`Error::Exists`] when it goes to an owner who has one of that name.
    pub fn alter_draft(&self, id: u64, change: impl FnOnce(&mut DraftRecord) -> Result<()>) -> Result<DraftRecord> {
        let mut state = self.lock();
        let before = self.draft(id)?;
        let mut draft = before.clone();
        change(&mut draft)?;
        let mut batch = self.db.batch();
        batch.put(Family::Meta, &keys::draft(id), &record::encode(&draft));
        let size = self.charged(id)?;
        let owned = [&before, &draft].map(|draft| (draft.uid, Owned::draft(draft, size)));
        state.users.turns(&self.db, owned[0], owned[1])?;
        if draft.uid != before.uid {
            let in_batch = state.queue(&self.db, draft.queue)?.record.batch;
            let (from, to) = (named_by(&before, in_batch), named_by(&draft, in_batch));
            if from != to {
                if self.db.get(Family::Meta, &to)?.is_some() {
                    return Err(Error::Exists);
                }
                batch.delete(Family::Meta, &from);
                batch.put(Family::Meta, &to, &id.to_be_bytes());
            }
        }
        state.touch_drafts(&self.db, draft.queue)?;
        state.commit(&self.db, batch, 0)?; // no queue is changed
        Ok(draft)
    }

    /// The bytes of a draft, as they are charged to its owner.
    pub(super) fn charged(&self, id: u64) -> Result<u64> {
        let found = self.db.get(Family::Meta, &keys::draft_size(id))?;
        Ok(found.and_then(|size| keys::last_number(&size)).unwrap_or(0))
    }

    /// Charges the owner of a draft, whoever writes it, for so many bytes of it. While it is `written` they are charged ahead, so that
    /// not each write is a change of the database, and never less than before; [`Error::UserLimit`], and nothing is charged, when the
    /// owner has too much.
    pub fn charge_draft(&self, id: u64, size: u64, written: bool) -> Result<()> {
        // What is charged changes here only, and by whoever has the draft open.
        let charged = self.charged(id)?;
        if size == charged || written && size <= charged {
            return Ok(());
        }
        let mut state = self.lock();
        let draft = self.draft(id)?;
        let charged = self.charged(id)?;
        let ahead = size.saturating_add(size.min(CHARGED_AHEAD));
        let fits = |users: &mut Users, to: u64| self.fits_user(users, draft.uid, to.saturating_sub(charged));
        let to = match written {
            false => size,
            true if fits(&mut state.users, ahead).is_ok() => ahead,
            true => fits(&mut state.users, size).map(|()| size)?,
        };
        let (before, after) = (Owned::draft(&draft, charged), Owned::draft(&draft, to));
        state.touch_drafts(&self.db, draft.queue)?;
        state.users.turns(&self.db, (draft.uid, before), (draft.uid, after))?;
        let mut batch = self.db.batch();
        batch.put(Family::Meta, &keys::draft_size(id), &to.to_be_bytes());
        state.commit(&self.db, batch, 0) // no queue is changed
    }

    /// Gives a draft a later end.
    pub fn postpone_draft(&self, id: u64, due: u64) -> Result<()> {
        {
            let mut state = self.lock();
            let mut draft = self.draft(id)?;
            let in_batch = state.queue(&self.db, draft.queue)?.record.batch;
            let mut batch = self.db.batch();
            batch.delete(Family::Deadlines, &keys::deadline(draft.due, DeadlineKind::Draft, id));
            draft.due = due;
            state.touch_drafts(&self.db, draft.queue)?;
            put_draft(&mut batch, id, &draft, in_batch);
            self.db.write(batch)?;
        }
        self.deadlines.note(due);
        Ok(())
    }

    /// Removes a draft, and its bytes from the database. A file is removed once that is durable; whoever has it open keeps it.
    pub fn remove_draft(&self, id: u64, now: u64) -> Result<()> {
        self.remove_draft_if(id, |_| true, now)
    }

    /// As [`Store::remove_draft`], for one whose time is over at `due`; [`Error::NotFound`] when it has another end, or none,
    /// because it was moved.
    pub fn expire_draft(&self, id: u64, due: u64, now: u64) -> Result<()> {
        self.remove_draft_if(id, |draft| draft.due == due, now)
    }

    fn remove_draft_if(&self, id: u64, condition: impl Fn(&DraftRecord) -> bool, now: u64) -> Result<()> {
        let mut state = self.lock();
        let draft = self.draft(id)?;
        if !condition(&draft) {
            return Err(Error::NotFound);
        }
        let mut batch = self.db.batch();
        self.drop_draft(&mut state, &mut batch, id, &draft)?;
        draft_bytes::erase(&mut batch, id, &draft);
        state.commit(&self.db, batch, now)?;
        drop(state);
        self.remove_file_of(id, &draft);
        Ok(())
    }

    /// Removes the file of a draft that is gone, if it had one.
    fn remove_file_of(&self, id: u64, draft: &DraftRecord) {
        if draft.body == DraftBody::File {
            self.syncer.remove_file(id);
        }
    }

    /// Counts another draft of a queue or batch, for whose bytes its owner is charged so much.
    fn count_draft(&self, state: &mut State, draft: &DraftRecord, charged: u64) -> Result<()> {
        state.users.gets(&self.db, draft.uid, Owned::draft(draft, charged))?;
        state.touch_drafts(&self.db, draft.queue)?;
        let holder = state.changing(&self.db, draft.queue)?;
        if holder.record.batch && holder.counters.drafts >= self.batch_files_most() {
            return Err(Error::BatchFull);
        }
        holder.counters.drafts += 1;
        Ok(())
    }

    /// Adds to a change: a draft vanishes, its bytes excepted.
    pub(super) fn drop_draft(
        &self,
        state: &mut State,
        batch: &mut Batch<'_>,
        id: u64,
        draft: &DraftRecord,
    ) -> Result<()> {
        let owned = Owned::draft(draft, self.charged(id)?);
        delete_draft(batch, id, draft, state.queue(&self.db, draft.queue)?.record.batch);
        self.count_draft_no_more(state, draft, owned)
    }

    /// A draft of a queue or batch that cost its owner so much is no more.
    pub(super) fn count_draft_no_more(&self, state: &mut State, draft: &DraftRecord, owned: Owned) -> Result<()> {
        state.users.loses(&self.db, draft.uid, owned)?;
        state.touch_drafts(&self.db, draft.queue)?;
        let drafts = &mut state.changing(&self.db, draft.queue)?.counters.drafts;
        *drafts = drafts.saturating_sub(1);
        Ok(())
    }

    /// Renames a draft to another draft's name, maybe in another queue, and changes it by `change`. A draft that is `seen` under that
    /// name is replaced unless `keep`; its number is given.
    pub fn rename_draft(
        &self,
        id: u64,
        (queue, name): (u64, &[u8]),
        (seen, keep): (Seen, bool),
        now: u64,
        change: impl FnOnce(&mut DraftRecord) -> Result<()>,
    ) -> Result<Option<u64>> {
        let mut state = self.lock();
        let before = self.draft(id)?;
        let mut after = DraftRecord { queue, name: name.to_vec(), ..before.clone() };
        change(&mut after)?;
        let mut batch = self.db.batch();
        let replaced = match self.find_draft(queue, name, seen) {
            Ok(same) if same == id => None,
            Ok(_) if keep => return Err(Error::Exists),
            Ok(other) => {
                let record = self.draft(other)?;
                self.drop_draft(&mut state, &mut batch, other, &record)?;
                draft_bytes::erase(&mut batch, other, &record);
                Some((other, record))
            }
            Err(Error::NotFound) if self.name_taken_but_by_draft(&mut state, queue, name)? => {
                return Err(Error::Exists);
            }
            Err(Error::NotFound) => None,
            Err(error) => return Err(error),
        };
        let in_batch = state.queue(&self.db, queue)?.record.batch;
        // Who renames it need not be its owner, who may have another of that name.
        let owners =
            self.db.get(Family::Meta, &named_by(&after, in_batch))?.and_then(|other| keys::last_number(&other));
        if owners.is_some_and(|other| other != id && replaced.as_ref().is_none_or(|(replaced, _)| *replaced != other)) {
            return Err(Error::Exists);
        }
        let charged = self.charged(id)?;
        self.drop_draft(&mut state, &mut batch, id, &before)?;
        batch.put(Family::Meta, &keys::draft_size(id), &charged.to_be_bytes());
        self.count_draft(&mut state, &after, charged)?;
        after.due = self.due_elsewhere(&mut state, &before, (queue, name), now)?;
        put_draft(&mut batch, id, &after, in_batch);
        state.commit(&self.db, batch, now)?;
        drop(state);
        if after.due > 0 {
            self.deadlines.note(after.due);
        }
        Ok(replaced.map(|(replaced, record)| {
            self.remove_file_of(replaced, &record);
            replaced
        }))
    }

    /// When a draft is removed that goes to another place. A file of a batch has no end of its own, so that no batch loses
    /// some of its files.
    fn due_elsewhere(
        &self,
        state: &mut State,
        draft: &DraftRecord,
        (queue, name): (u64, &[u8]),
        now: u64,
    ) -> Result<u64> {
        let leaves_batch = state.queue(&self.db, draft.queue)?.record.batch;
        let target = state.queue(&self.db, queue)?;
        let renamed = is_staged(&draft.name) || is_staged(name);
        Ok(match (leaves_batch || renamed, target.record.batch) {
            (_, true) => 0,
            (true, false) => draft_due(&target.config, name, now),
            (false, false) => draft.due,
        })
    }

    /// Makes a draft's bytes a message in one step. Only one that is gone then can leave them to it ([`NewBody::Draft`]);
    /// [`Error::Busy`] when they are not those that it has. [`Error::QueueFull`] and [`Error::Paused`], unless room was kept for it under
    /// the draft's number; [`Error::MessageTooLarge`]. When that is a duplicate, a body file of the caller's stays the caller's. In
    /// the same step the delivery `settles` is acknowledged; [`Error::NotFound`] when it is over.
    /// Where names are kept, the message of that name makes way as `onto` says.
    pub fn publish(
        &self,
        draft: u64,
        new: NewMessage,
        body: NewBody<'_>,
        (then, onto, settles): (Published, Onto, Option<Settles>),
        now: u64,
    ) -> Result<Enqueued> {
        let mut state = self.lock();
        let record = self.draft(draft)?;
        let passes_on = draft_bytes::passes_on(draft, &record, &body)?;
        let queue = new.queue;
        settles.map_or(Ok(()), |settles| self.lasts(&mut state, settles))?;
        let need = Need::of_one(body.size(), self.order_in(&mut state, queue, &new.attributes)?);
        let target = state.queue(&self.db, queue)?;
        if target.reserved.holds(draft) {
            target.config.admit_size(body.size())?; // it was written on since
        } else {
            self.admit(&mut state, queue, need, onto)?;
        }
        let plan = self.plan_drops(&mut state, queue, need, onto)?;
        let mut batch = self.db.batch();
        let added = self.add(&mut state, &mut batch, new, body, now)?;
        // What makes way by its name may be what is settled: it leaves once, and was acknowledged.
        let one = settles.is_some_and(|settles| added.is_some() && onto.names(settles.seq));
        let besides = settles.filter(|_| !one);
        let settled = self.ack_along(&mut state, &mut batch, besides.as_slice())?;
        let mut replaced = None;
        if let Some(Added { seq, record, .. }) = &added {
            replaced = self.make_way(&mut state, &mut batch, (queue, &record.name), record.id, onto)?;
            if one {
                let counters = &mut state.changing(&self.db, queue)?.counters;
                (counters.dropped_total, counters.acked_total) = (counters.dropped_total - 1, counters.acked_total + 1);
            }
            if state.keeps_names(&self.db, queue)? {
                enter_name(&mut batch, *seq, record);
            }
        } else {
            state.changing(&self.db, queue)?.counters.duplicates_total += 1;
        }
        let dropped = self.drop_oldest(&mut state, &mut batch, queue, plan, now)?;
        if then == Published::Gone {
            self.drop_draft(&mut state, &mut batch, draft, &record)?;
            if !passes_on || added.is_none() {
                draft_bytes::erase(&mut batch, draft, &record);
            }
        }
        state.commit(&self.db, batch, now)?;
        state.give_back_room(queue, draft);
        drop(state);
        self.discard_bodies(dropped);
        self.discard_bodies(settled);
        let moved = added.is_some() && matches!(body, NewBody::File { id, .. } if id == draft);
        if then == Published::Gone && !moved {
            self.remove_file_of(draft, &record);
        }
        self.discard_replaced(replaced);
        let Some(added) = added else { return Ok(Enqueued::Duplicate) };
        self.note_added(&added);
        Ok(Enqueued::As(added.seq))
    }
}

/// When a draft or batch of that name that is made or changed now in a queue is removed, in milliseconds since the epoch; 0: never.
pub(super) fn draft_due(config: &QueueConfig, name: &[u8], now: u64) -> u64 {
    let staged = if is_staged(name) { STAGED_MS } else { 0 };
    let ttl = [ms(config.draft_ttl), staged].into_iter().filter(|ttl| *ttl > 0).min();
    ttl.map_or(0, |ttl| now.saturating_add(ttl))
}

/// Adds to a change: nothing is left of a draft but its file. Needs no lock.
pub(super) fn delete_draft(batch: &mut Batch<'_>, id: u64, draft: &DraftRecord, in_batch: bool) {
    batch.delete(Family::Meta, &keys::draft(id));
    batch.delete(Family::Meta, &keys::draft_entry(draft.queue, id));
    batch.delete(Family::Meta, &keys::draft_size(id));
    batch.delete(Family::Meta, &named_by(draft, in_batch));
    if draft.due > 0 {
        batch.delete(Family::Deadlines, &keys::deadline(draft.due, DeadlineKind::Draft, id));
    }
}

fn put_draft(batch: &mut Batch<'_>, id: u64, record: &DraftRecord, in_batch: bool) {
    batch.put(Family::Meta, &keys::draft(id), &record::encode(record));
    batch.put(Family::Meta, &keys::draft_entry(record.queue, id), &record.name);
    batch.put(Family::Meta, &named_by(record, in_batch), &id.to_be_bytes());
    if record.due > 0 {
        batch.put(Family::Deadlines, &keys::deadline(record.due, DeadlineKind::Draft, id), b"");
    }
}
