//! Drafts: ordinary files with a name that begins with a dot, until one is renamed and so published.
//!
//! The bytes of a draft are in the body file of its number, its name and attributes in a record. What `stat` shows as size
//! and times is the body file's.

use std::fs::File;

use crate::error::{Error, Result};

use super::db::{Batch, Family};
use super::keys::{self, DeadlineKind};
use super::record::{self, DraftRecord, NewMessage};
use super::state::State;
use super::{NewBody, Store};

/// What becomes of a draft that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is the message now; its file is the message's when the body is [`NewBody::File`] of its number.
    Gone,
    /// It stays a draft, as after `link`.
    Stays,
}

impl Store {
    /// Makes a draft with an empty file; [`Error::Exists`] when the name is taken. Gives its number and the open file.
    pub fn make_draft(&self, record: &DraftRecord) -> Result<(u64, File)> {
        let id = self.next_id()?;
        let file = self.bodies.create(id)?;
        let made = self.enter_draft(id, record);
        if made.is_err() {
            super::bodies::remove(&self.bodies.path(id));
        } else if record.due > 0 {
            self.deadlines.note(record.due);
        }
        made.map(|()| (id, file))
    }

    fn enter_draft(&self, id: u64, record: &DraftRecord) -> Result<()> {
        let mut state = self.lock();
        if self.name_taken(record.queue, &record.name)? {
            return Err(Error::Exists);
        }
        state.changing(&self.db, record.queue)?.counters.drafts += 1;
        let mut batch = self.db.batch();
        put_draft(&mut batch, id, record);
        state.commit(&self.db, batch, record.created)
    }

    /// The draft of a name.
    pub fn find_draft(&self, queue: u64, name: &[u8]) -> Result<u64> {
        let found = self.db.get(Family::Meta, &keys::draft_by_name(queue, name))?;
        found.and_then(|id| keys::last_number(&id)).ok_or(Error::NotFound)
    }

    /// A draft's record.
    pub fn draft(&self, id: u64) -> Result<DraftRecord> {
        record::decode_draft(&self.db.get(Family::Meta, &keys::draft(id))?.ok_or(Error::NotFound)?)
    }

    /// Changes a draft's record, its place and name excepted.
    pub fn alter_draft(&self, id: u64, change: impl FnOnce(&mut DraftRecord) -> Result<()>) -> Result<DraftRecord> {
        let _state = self.lock();
        let mut draft = self.draft(id)?;
        change(&mut draft)?;
        let mut batch = self.db.batch();
        batch.put(Family::Meta, &keys::draft(id), &record::encode(&draft));
        self.db.write(batch)?;
        Ok(draft)
    }

    /// Gives a draft a later end.
    pub fn postpone_draft(&self, id: u64, due: u64) -> Result<()> {
        {
            let _state = self.lock();
            let mut draft = self.draft(id)?;
            let mut batch = self.db.batch();
            batch.delete(Family::Deadlines, &keys::deadline(draft.due, DeadlineKind::Draft, id));
            draft.due = due;
            put_draft(&mut batch, id, &draft);
            self.db.write(batch)?;
        }
        self.deadlines.note(due);
        Ok(())
    }

    /// Removes a draft. Its file is removed once that is durable; whoever has it open keeps its bytes.
    pub fn remove_draft(&self, id: u64, now: u64) -> Result<()> {
        let mut state = self.lock();
        let draft = self.draft(id)?;
        let mut batch = self.db.batch();
        self.drop_draft(&mut state, &mut batch, id, &draft)?;
        state.commit(&self.db, batch, now)?;
        drop(state);
        self.syncer.remove_file(self.bodies.path(id));
        Ok(())
    }

    fn drop_draft(&self, state: &mut State, batch: &mut Batch<'_>, id: u64, draft: &DraftRecord) -> Result<()> {
        batch.delete(Family::Meta, &keys::draft(id));
        batch.delete(Family::Meta, &keys::draft_entry(draft.queue, id));
        batch.delete(Family::Meta, &keys::draft_by_name(draft.queue, &draft.name));
        if draft.due > 0 {
            batch.delete(Family::Deadlines, &keys::deadline(draft.due, DeadlineKind::Draft, id));
        }
        let drafts = &mut state.changing(&self.db, draft.queue)?.counters.drafts;
        *drafts = drafts.saturating_sub(1);
        Ok(())
    }

    /// Renames a draft to another draft's name, maybe in another queue. A draft of that name is replaced unless `keep`;
    /// its number is given.
    pub fn rename_draft(&self, id: u64, queue: u64, name: &[u8], keep: bool, now: u64) -> Result<Option<u64>> {
        let mut state = self.lock();
        let before = self.draft(id)?;
        let mut batch = self.db.batch();
        let replaced = match self.find_draft(queue, name) {
            Ok(same) if same == id => return Ok(None),
            Ok(_) if keep => return Err(Error::Exists),
            Ok(other) => {
                let record = self.draft(other)?;
                self.drop_draft(&mut state, &mut batch, other, &record)?;
                Some(other)
            }
            Err(Error::NotFound) if self.name_taken(queue, name)? => return Err(Error::Exists),
            Err(Error::NotFound) => None,
            Err(error) => return Err(error),
        };
        self.drop_draft(&mut state, &mut batch, id, &before)?;
        state.changing(&self.db, queue)?.counters.drafts += 1;
        put_draft(&mut batch, id, &DraftRecord { queue, name: name.to_vec(), ..before.clone() });
        state.commit(&self.db, batch, now)?;
        drop(state);
        if let Some(replaced) = replaced {
            self.syncer.remove_file(self.bodies.path(replaced));
        }
        Ok(replaced)
    }

    /// Makes a draft's bytes a message in one step; gives its sequence number.
    pub fn publish(&self, draft: u64, new: NewMessage, body: NewBody<'_>, then: Published, now: u64) -> Result<u64> {
        let mut state = self.lock();
        let record = self.draft(draft)?;
        let mut batch = self.db.batch();
        let seq = self.add(&mut state, &mut batch, new, body, now)?;
        if then == Published::Gone {
            self.drop_draft(&mut state, &mut batch, draft, &record)?;
        }
        state.commit(&self.db, batch, now)?;
        drop(state);
        let moved = matches!(body, NewBody::File { id, .. } if id == draft);
        if then == Published::Gone && !moved {
            self.syncer.remove_file(self.bodies.path(draft));
        }
        Ok(seq)
    }
}

fn put_draft(batch: &mut Batch<'_>, id: u64, record: &DraftRecord) {
    batch.put(Family::Meta, &keys::draft(id), &record::encode(record));
    batch.put(Family::Meta, &keys::draft_entry(record.queue, id), &record.name);
    batch.put(Family::Meta, &keys::draft_by_name(record.queue, &record.name), &id.to_be_bytes());
    if record.due > 0 {
        batch.put(Family::Deadlines, &keys::deadline(record.due, DeadlineKind::Draft, id), b"");
    }
}
