//! Drafts by their names, and whose they are.

use crate::error::{Error, Result};

use super::Store;
use super::db::Family;
use super::keys;
use super::record::{self, DraftRecord};
use super::state::State;

/// So many names are changed at a time when a store is upgraded.
const AT_ONCE: usize = 1000;

/// Whose drafts somebody finds by name. Each user has a name space of drafts of their own; who may list a queue finds those of the
/// others there as well, where they have none of that name themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The user.
    pub uid: u32,
    /// Those of others, too.
    pub all: bool,
}

impl Seen {
    /// All, as in a batch, where there is one name space.
    pub const ALL: Seen = Seen { uid: 0, all: true };
}

impl Store {
    /// The draft of a name.
    pub fn find_draft(&self, queue: u64, name: &[u8], seen: Seen) -> Result<u64> {
        let own = self.draft_of(queue, name, seen.uid)?;
        if own.is_some() || !seen.all {
            return own.ok_or(Error::NotFound);
        }
        let (named, mut found) = (keys::drafts_named(queue, name), None);
        self.db.scan(Family::Meta, &named, &named, |_, id| {
            found = keys::last_number(id);
            Ok(false)
        })?;
        found.ok_or(Error::NotFound)
    }

    /// The draft of a name and an owner.
    fn draft_of(&self, queue: u64, name: &[u8], owner: u32) -> Result<Option<u64>> {
        let found = self.db.get(Family::Meta, &keys::draft_by_name(queue, name, owner))?;
        Ok(found.and_then(|id| keys::last_number(&id)))
    }

    /// Whether a draft cannot have that name, for its owner who sees so much.
    pub(super) fn drafts_name_taken(&self, state: &mut State, queue: u64, name: &[u8], seen: Seen) -> Result<bool> {
        match self.find_draft(queue, name, seen) {
            Err(Error::NotFound) => self.name_taken_but_by_draft(state, queue, name),
            found => found.map(|_| true),
        }
    }

    /// Upgrades a store in which drafts are found by their names alone.
    pub(super) fn name_drafts_by_owner(&self) -> Result<()> {
        let old = keys::DRAFT_NAMES_ALONE;
        loop {
            let mut some = Vec::new();
            self.db.scan(Family::Meta, old, old, |key, id| {
                some.push((key.to_vec(), keys::last_number(id)));
                Ok(some.len() < AT_ONCE)
            })?;
            if some.is_empty() {
                return Ok(());
            }
            let mut state = self.lock();
            let mut batch = self.db.batch();
            for (key, id) in some {
                batch.delete(Family::Meta, &key);
                let found = id.map(|id| self.db.get(Family::Meta, &keys::draft(id))).transpose()?.flatten();
                // An entry that leads nowhere, or to what cannot be read, is for a check to tell.
                let (Some(id), Some(Ok(draft))) = (id, found.map(|found| record::decode_draft(&found))) else {
                    continue;
                };
                let in_batch = state.queue(&self.db, draft.queue).is_ok_and(|holder| holder.record.batch);
                batch.put(Family::Meta, &named_by(&draft, in_batch), &id.to_be_bytes());
            }
            self.db.write(batch)?;
        }
    }
}

/// The key by which a draft is found by name.
pub(super) fn named_by(draft: &DraftRecord, in_batch: bool) -> Vec<u8> {
    keys::draft_by_name(draft.queue, &draft.name, if in_batch { 0 } else { draft.uid })
}

#[cfg(test)]
mod tests {
    use super::super::record::{DraftBody, InlineDraft};
    use super::super::tests::{open, queue};
    use super::*;

    fn draft(queue: u64, uid: u32) -> DraftRecord {
        let attributes = Vec::new();
        DraftRecord {
            queue,
            name: b".d".to_vec(),
            uid,
            gid: 1,
            mode: 0o600,
            created: 0,
            due: 0,
            body: DraftBody::Inline(InlineDraft::default()),
            attributes,
        }
    }

    fn own(uid: u32) -> Seen {
        Seen { uid, all: false }
    }

    fn all(uid: u32) -> Seen {
        Seen { uid, all: true }
    }

    #[test]
    fn each_user_has_drafts_of_their_own_and_who_may_list_finds_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = queue(&store, "q");
        let anns = store.make_draft(draft(q, 1), own(1)).unwrap();
        let bobs = store.make_draft(draft(q, 2), own(2)).unwrap();
        assert!(matches!(store.make_draft(draft(q, 2), own(2)), Err(Error::Exists)));
        assert!(matches!(store.make_draft(draft(q, 3), all(3)), Err(Error::Exists)));
        let find = |seen| store.find_draft(q, b".d", seen).ok();
        assert_eq!(
            [own(1), own(2), own(3), all(2), all(3)].map(find),
            [Some(anns), Some(bobs), None, Some(bobs), Some(anns)]
        );
        // It cannot go to one who has such a draft.
        assert!(matches!(
            store.alter_draft(bobs, |draft| {
                draft.uid = 1;
                Ok(())
            }),
            Err(Error::Exists)
        ));
        store
            .alter_draft(bobs, |draft| {
                draft.uid = 3;
                Ok(())
            })
            .unwrap();
        assert_eq!([own(2), own(3)].map(find), [None, Some(bobs)]);
        // Root renames one of them.
        store.rename_draft(bobs, (q, b".e"), (all(0), true), 1, |_| Ok(())).unwrap();
        assert!(matches!(store.rename_draft(bobs, (q, b".d"), (all(0), true), 1, |_| Ok(())), Err(Error::Exists)));
        assert_eq!(store.rename_draft(bobs, (q, b".d"), (own(3), true), 1, |_| Ok(())).unwrap(), None);
        assert_eq!([own(1), own(3)].map(find), [Some(anns), Some(bobs)]);
        assert_eq!(store.rename_draft(anns, (q, b".d"), (all(3), false), 1, |_| Ok(())).unwrap(), Some(bobs));
        assert_eq!([own(1), own(3)].map(find), [Some(anns), None]);
    }

    #[test]
    fn drafts_of_an_older_store_are_found_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = queue(&store, "q");
        let id = store.make_draft(draft(q, 1), own(1)).unwrap();
        let mut batch = store.db.batch();
        batch.delete(Family::Meta, &keys::draft_by_name(q, b".d", 1));
        batch.put(Family::Meta, &keys::draft_by_name_alone(q, b".d"), &id.to_be_bytes());
        batch.put(Family::Meta, &keys::draft_by_name_alone(q, b".nowhere"), &99_u64.to_be_bytes());
        store.db.write(batch).unwrap();
        assert!(store.find_draft(q, b".d", all(1)).is_err());
        store.name_drafts_by_owner().unwrap();
        assert_eq!(store.find_draft(q, b".d", own(1)).unwrap(), id);
        store.db.scan(Family::Meta, keys::DRAFT_NAMES_ALONE, keys::DRAFT_NAMES_ALONE, |_, _| panic!("left")).unwrap();
    }
}
