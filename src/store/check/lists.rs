//! Entries that are derived from records: does each of them lead to one? Whether each record has its entries is asked where the
//! record is looked at.

use crate::error::{Error, Result};
use crate::queue::mark::Says;
use crate::queue::state::State as MessageState;
use crate::store::db::Family;
use crate::store::draft_bytes;
use crate::store::keys::{self, DeadlineKind};
use crate::store::named_drafts::named_by;
use crate::store::oldest::aged;
use crate::store::record::{self, BodyPlace, DraftBody, DraftRecord, MessageRecord};
use crate::store::state::deadlines;

use super::{Check, Fix};

impl Check<'_> {
    /// A message's record, if it is there and can be read.
    fn record(&self, seq: u64) -> Result<Option<MessageRecord>> {
        let found = self.db.get(Family::Messages, &keys::message(seq))?;
        Ok(found.and_then(|found| record::decode_message(&found).ok()))
    }

    /// The listings of states.
    pub(super) fn indexed(&mut self) -> Result<()> {
        let db = self.db.clone();
        db.scan(Family::Index, b"", b"", |key, name| {
            if let Some((queue, state, since, seq)) = keys::parse_aged(key) {
                let of = |record: MessageRecord| (record.queue, record.state(), aged(&record));
                if self.record(seq)?.map(of) != Some((queue, state, Some(since))) {
                    let text = format!("{}: the age of message {seq:016}", self.label(queue));
                    self.leads_nowhere(Family::Index, key, &text);
                }
                return Ok(true);
            }
            let position = keys::indexed_position(key);
            let queue = key.get(..8).and_then(keys::last_number);
            let state = key.get(8).and_then(|state| MessageState::from_u8(*state));
            let record = position.map(|position| self.record(keys::seq_of(position))).transpose()?.flatten();
            let fits = record.is_some_and(|record| {
                let order = position.map(keys::order_of);
                (Some(record.queue), Some(record.state()), Some(record.order)) == (queue, state, order)
                    && record.name == name
            });
            if !fits {
                let seq = position.map_or(0, keys::seq_of);
                let text =
                    format!("{}: the place of message {seq:016} in the queue", self.label(queue.unwrap_or_default()));
                self.leads_nowhere(Family::Index, key, &text);
            }
            Ok(true)
        })
    }

    /// The deadlines of messages. Others may outlive what they are for, and do no harm.
    pub(super) fn deadlines(&mut self) -> Result<()> {
        let db = self.db.clone();
        db.scan(Family::Deadlines, b"", b"", |key, _| {
            let Some((at, kind, id)) = keys::parse_deadline(key) else {
                self.leads_nowhere(Family::Deadlines, key, "a deadline");
                return Ok(true);
            };
            let of_message = matches!(kind, DeadlineKind::Lease | DeadlineKind::Deliver | DeadlineKind::TimeToLive);
            let fits =
                !of_message || self.record(id)?.is_some_and(|record| deadlines(&record).any(|own| own == (at, kind)));
            if !fits {
                self.leads_nowhere(Family::Deadlines, key, &format!("a deadline of message {id:016}"));
            }
            Ok(true)
        })
    }

    /// Marks of queues and batches. That of a queue that is not there says what somebody has done, so it is kept.
    pub(super) fn marks(&mut self) -> Result<()> {
        let db = self.db.clone();
        for says in [Says::Is, Says::Was] {
            let prefix = keys::all_marks(says);
            db.scan(Family::Meta, &prefix, &prefix, |key, value| {
                let (holder, name) = keys::parse_mark(key).unwrap_or_default();
                let known = self.queues.get(&holder).filter(|known| known.record.batch || says == Says::Is);
                if known.is_none() {
                    let saved = [name, b"\n", value].concat();
                    let fixes =
                        vec![Fix::Save(format!("mark-{holder}"), saved), Fix::Delete(Family::Meta, key.to_vec())];
                    let name = String::from_utf8_lossy(name);
                    let text = format!("the mark {name} of queue number {holder}, which is not there");
                    self.damaged(&text, fixes, "moved to lost+found");
                }
                Ok(true)
            })?;
        }
        Ok(())
    }

    /// Names in queues that keep them.
    pub(super) fn kept_names(&mut self) -> Result<()> {
        let db = self.db.clone();
        db.scan(Family::Meta, b"m", b"m", |key, value| {
            let queue = key.get(1..9).and_then(keys::last_number);
            let name = key.get(9..).unwrap_or_default();
            let record = keys::last_number(value).map(|seq| self.record(seq)).transpose()?.flatten();
            if !record.is_some_and(|record| Some(record.queue) == queue && record.name == name) {
                let label = self.label(queue.unwrap_or_default());
                let text = format!("{label}: the name {}", String::from_utf8_lossy(name));
                self.leads_nowhere(Family::Meta, key, &text);
            }
            Ok(true)
        })
    }

    pub(super) fn drafts(&mut self) -> Result<()> {
        let db = self.db.clone();
        db.scan(Family::Meta, b"d", b"d", |key, value| {
            match (keys::last_number(key), record::decode_draft(value)) {
                (Some(id), Ok(draft)) => self.draft(id, &draft)?,
                (id, _) => {
                    let id = id.unwrap_or(0);
                    let fixes =
                        vec![Fix::Save(format!("draft-{id}"), value.to_vec()), Fix::Delete(Family::Meta, key.to_vec())];
                    self.damaged(&format!("the record of draft number {id}"), fixes, "moved to lost+found");
                }
            }
            Ok(true)
        })?;
        // The third is of a store that has not been opened since it was upgraded.
        for tag in [&b"f"[..], keys::DRAFT_NAMES, keys::DRAFT_NAMES_ALONE] {
            db.scan(Family::Meta, tag, tag, |key, value| {
                let queue = key.get(1..9).and_then(keys::last_number);
                let (id, name) = match tag {
                    keys::DRAFT_NAMES => (keys::last_number(value), keys::draft_name(key).unwrap_or_default()),
                    keys::DRAFT_NAMES_ALONE => (keys::last_number(value), key.get(9..).unwrap_or_default()),
                    _ => (keys::last_number(key), value),
                };
                let found = match id {
                    Some(id) => self.db.get(Family::Meta, &keys::draft(id))?,
                    None => None,
                };
                let draft = found.and_then(|found| record::decode_draft(&found).ok());
                let owned = |draft: &DraftRecord| tag != keys::DRAFT_NAMES || self.draft_named_by(draft) == key;
                if !draft.is_some_and(|draft| Some(draft.queue) == queue && draft.name == name && owned(&draft)) {
                    let text = format!("the entry of a draft {}", String::from_utf8_lossy(name));
                    self.leads_nowhere(Family::Meta, key, &text);
                }
                Ok(true)
            })?;
        }
        Ok(())
    }

    /// The key by which a draft is found by name.
    fn draft_named_by(&self, draft: &DraftRecord) -> Vec<u8> {
        let in_batch = self.queues.get(&draft.queue).is_some_and(|known| known.record.batch);
        named_by(draft, in_batch)
    }

    /// What is wrong with the bytes of a draft. Of those in a file nobody knows more than whether it is there.
    fn is_broken(&self, id: u64, draft: &DraftRecord) -> Result<Option<String>> {
        let found = match &draft.body {
            DraftBody::File => self.bodies.open_read(id).map(drop),
            DraftBody::Inline(inline) => draft_bytes::read(&self.db, id, inline).map(drop),
        };
        match (found, draft.body) {
            (Err(Error::Damaged(_)), DraftBody::File) => Ok(Some("its file is missing".to_owned())),
            (Err(Error::Damaged(why)), _) => Ok(Some(why)),
            // As a file that cannot be opened now, it may be whole.
            (Err(_), DraftBody::File) | (Ok(()), _) => Ok(None),
            (Err(error), _) => Err(error),
        }
    }

    /// Keeps what there is of the bytes of a draft, if they are in the database.
    fn save_bytes(&self, id: u64, draft: &DraftRecord) -> Result<Vec<Fix>> {
        let key = keys::draft_bytes(id);
        let found = match draft.body {
            DraftBody::Inline(_) => self.db.get(Family::Bodies, &key)?,
            DraftBody::File => None,
        };
        let save = |bytes: &[u8]| Fix::Save(format!("draft-{id}-bytes"), bytes.to_vec());
        Ok(found.map_or_else(Vec::new, |bytes| vec![save(&bytes), Fix::Delete(Family::Bodies, key.to_vec())]))
    }

    fn draft(&mut self, id: u64, draft: &DraftRecord) -> Result<()> {
        self.last.id = self.last.id.max(id);
        self.owner(draft.queue);
        let label = format!("{}: draft {}", self.label(draft.queue), String::from_utf8_lossy(&draft.name));
        if let Some(broken) = self.is_broken(id, draft)? {
            let key = |key: &[u8]| Fix::Delete(Family::Meta, key.to_vec());
            let mut fixes = self.save_bytes(id, draft)?;
            fixes.extend([
                Fix::Save(format!("draft-{id}"), record::encode(draft)),
                key(&keys::draft(id)),
                key(&keys::draft_entry(draft.queue, id)),
                key(&self.draft_named_by(draft)),
                key(&keys::draft_by_name_alone(draft.queue, &draft.name)),
            ]);
            fixes.extend(self.recount(draft.queue, |counters| counters.drafts = counters.drafts.saturating_sub(1))?);
            self.damaged(&format!("{label}: {broken}"), fixes, "its record is in lost+found");
            if self.report.repair {
                return Ok(());
            }
        }
        let listed = keys::draft_entry(draft.queue, id);
        self.expect(Family::Meta, &listed, &draft.name, &format!("{label}: its place in the listing"))?;
        let alone = self.db.get(Family::Meta, &keys::draft_by_name_alone(draft.queue, &draft.name))?;
        if alone.is_none_or(|found| *found != id.to_be_bytes()) {
            self.expect(Family::Meta, &self.draft_named_by(draft), &id.to_be_bytes(), &format!("{label}: its name"))?;
        }
        if draft.due > 0 {
            let due = keys::deadline(draft.due, DeadlineKind::Draft, id);
            self.expect(Family::Deadlines, &due, b"", &format!("{label}: its deadline"))?;
        }
        if let Some(known) = self.queues.get_mut(&draft.queue) {
            known.tally.drafts += 1;
        }
        self.report.summary.drafts += 1;
        Ok(())
    }

    /// Who owns a body file, and what is known of it.
    pub(super) fn body_owners(&mut self) -> Result<()> {
        let db = self.db.clone();
        db.scan(Family::Meta, b"b", b"b", |key, value| {
            let id = keys::last_number(key).unwrap_or(0);
            self.last.id = self.last.id.max(id);
            let record = keys::last_number(value).map(|seq| self.record(seq)).transpose()?.flatten();
            if !record.is_some_and(|record| record.body == BodyPlace::File(id)) {
                self.leads_nowhere(Family::Meta, key, &format!("the owner of body file {id:016x}"));
            }
            Ok(true)
        })?;
        for prefix in keys::BODY_SUMS {
            db.scan(Family::Meta, prefix, prefix, |key, _| {
                let id = key.get(..9).and_then(keys::last_number).unwrap_or(0);
                self.last.id = self.last.id.max(id);
                // Those that a crash has kept from their last reader are removed by the next mount.
                if self.db.get(Family::Meta, &keys::body_file(id))?.is_none()
                    && self.db.get(Family::Meta, &keys::left_sums(id))?.is_none()
                {
                    self.leads_nowhere(Family::Meta, key, &format!("the checksums of body file {id:016x}"));
                }
                Ok(true)
            })?;
        }
        Ok(())
    }
}
