//! What users have. It is counted anew when all else is as it should be.

use std::collections::HashMap;

use crate::error::Result;
use crate::queue::mark::Says;
use crate::store::db::Family;
use crate::store::record;
use crate::store::users::{self, Owned};
use crate::store::{ROOT, keys};

use super::{Check, Fix};

impl Check<'_> {
    /// Counts what is there, and compares.
    pub(super) fn users(&mut self) -> Result<()> {
        let db = self.db.clone();
        // A store that has not been opened since it was upgraded is counted then.
        let Some(uncounted) = users::uncounted(&db)? else { return Ok(()) };
        let mut owned: HashMap<u32, Owned> = HashMap::new();
        for (id, known) in self.queues.iter().filter(|(id, _)| **id != ROOT) {
            if db.get(Family::Meta, &keys::queue(*id))?.is_some() {
                owned.entry(known.record.uid).or_default().add(Owned::queue(&known.record));
            }
        }
        for says in [Says::Is, Says::Was] {
            let prefix = keys::all_marks(says);
            db.scan(Family::Meta, &prefix, &prefix, |key, value| {
                let (holder, name) = keys::parse_mark(key).unwrap_or_default();
                if let Some(holder) = self.queues.get(&holder) {
                    owned.entry(holder.record.uid).or_default().add(Owned::mark(name, value));
                }
                Ok(true)
            })?;
        }
        db.scan(Family::Meta, keys::DRAFTS, keys::DRAFTS, |key, value| {
            if let (Some(id), Ok(draft)) = (keys::last_number(key), record::decode_draft(value)) {
                let charged = db.get(Family::Meta, &keys::draft_size(id))?;
                let charged = charged.and_then(|size| keys::last_number(&size)).unwrap_or(0);
                owned.entry(draft.uid).or_default().add(Owned::draft(&draft, charged));
            }
            Ok(true)
        })?;
        db.scan(Family::Messages, b"", b"", |key, value| {
            if let (Some(seq), Ok(message)) = (keys::last_number(key), record::decode_message(value))
                && !uncounted.contains(&seq)
            {
                owned.entry(message.uid).or_default().add(Owned::message(&message));
            }
            Ok(true)
        })?;
        let mut found = Vec::new();
        db.scan(Family::Meta, keys::USERS, keys::USERS, |key, value| {
            let uid = keys::parse_user(key);
            let right = uid.and_then(|uid| owned.remove(&uid));
            match (right, users::decode(value)) {
                (Some(right), Ok(stored)) if right == stored => {}
                (Some(right), _) => found.push((key.to_vec(), Some(right))),
                (None, _) => found.push((key.to_vec(), None)),
            }
            Ok(true)
        })?;
        found.extend(owned.into_iter().map(|(uid, right)| (keys::user(uid).to_vec(), Some(right))));
        found.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (key, right) in found {
            self.recount_user(key, right);
        }
        Ok(())
    }

    fn recount_user(&mut self, key: Vec<u8>, right: Option<Owned>) {
        let fix = match right {
            Some(right) => Fix::Put(Family::Meta, key.clone(), record::encode(&right)),
            None => Fix::Delete(Family::Meta, key.clone()),
        };
        // What was set aside or made anew is theirs no more, or not yet.
        if self.report.summary.damaged > 0 {
            if self.report.repair
                && let Err(error) = self.apply(vec![fix])
            {
                self.report.note(&format!("not repaired: {error}"));
            }
            return;
        }
        let right = right.unwrap_or_default();
        let text = format!(
            "what user {} has is not counted as {} queues, {} drafts, {} bytes",
            keys::parse_user(&key).map_or_else(|| "?".to_owned(), |uid| uid.to_string()),
            right.queues,
            right.drafts,
            right.bytes
        );
        self.damaged(&text, vec![fix], "it is now");
    }
}
