//! Where the bytes of a draft are.
//!
//! Those of a small one are in the database: they cost no inode and no call of the file system, and publishing leaves them where they
//! are. One that grows beyond [`INLINE_MAX`], or is put again and again, gets the file of its number, and keeps it:
//!
//! ```text
//!   made: inline, empty ---put---> inline ---grows---> file      (drafts of earlier versions are files)
//!                                    | publish           | publish
//!                                    v                   v
//!                       BodyPlace::Draft(number)    BodyPlace::File(number), or inline
//! ```
//!
//! Its record says where they are, in the change that puts them there: after a crash they are all as before it, or all as after it.
//! The file is there, with the bytes, before the record says so; until then it is nobody's, and goes when the draft gets another, or
//! at the first start without the draft.

use crate::error::{Error, Result};

use super::bodies::INLINE_MAX;
use super::body;
use super::db::{Batch, Db, Family};
use super::keys;
use super::record::{self, DraftBody, DraftRecord, InlineDraft};
use super::users::Owned;
use super::{NewBody, Store};

/// The bytes of a draft that are in the database. [`Error::Damaged`] when they are not those that were put there.
pub(super) fn read(db: &Db, id: u64, inline: &InlineDraft) -> Result<Vec<u8>> {
    match inline.size {
        0 => Ok(Vec::new()),
        _ => body::inline(db, &keys::draft_bytes(id), inline.crc),
    }
}

/// Adds to a change: bytes of a draft that are in the database vanish.
pub(super) fn erase(batch: &mut Batch<'_>, id: u64, draft: &DraftRecord) {
    if matches!(draft.body, DraftBody::Inline(inline) if inline.size > 0) {
        batch.delete(Family::Bodies, &keys::draft_bytes(id));
    }
}

/// Whether a draft that becomes a message of that body leaves it its bytes, which are in the database. [`Error::Busy`] when they are not
/// those that it has by now.
pub(super) fn passes_on(id: u64, draft: &DraftRecord, body: &NewBody<'_>) -> Result<bool> {
    let NewBody::Draft { id: of, size, crc } = body else { return Ok(false) };
    match draft.body {
        DraftBody::Inline(inline) if (id, inline.size, inline.crc) == (*of, *size, *crc) => Ok(true),
        _ => Err(Error::Busy),
    }
}

impl Store {
    /// The bytes of a draft that are in the database. [`Error::Damaged`] when they are not those that were put there.
    pub fn draft_bytes(&self, id: u64, inline: &InlineDraft) -> Result<Vec<u8>> {
        read(&self.db, id, inline)
    }

    /// Puts into the database what a small draft has become: its `bytes`, unless they are those that it has, and what `stat` shows. Its
    /// owner is charged for them. Gives it as it is then.
    pub fn put_draft(&self, id: u64, now: InlineDraft, bytes: Option<&[u8]>) -> Result<InlineDraft> {
        let mut put = now;
        if let Some(bytes) = bytes {
            debug_assert!(bytes.len() <= INLINE_MAX);
            put.size = u32::try_from(bytes.len()).map_err(|_| Error::MessageTooLarge)?;
            put.crc = crc32fast::hash(bytes);
            put.put = put.put.saturating_add(bytes.len() as u64);
        }
        let size = put.size.into();
        self.place_draft(id, DraftBody::Inline(put), size, |batch, before| match bytes {
            None => {}
            Some([]) => erase(batch, id, before),
            Some(bytes) => batch.put(Family::Bodies, &keys::draft_bytes(id), bytes),
        })?;
        Ok(put)
    }

    /// From now on the bytes of a draft, so many, are in the file of its number.
    pub fn draft_to_file(&self, id: u64, size: u64) -> Result<()> {
        self.place_draft(id, DraftBody::File, size, |batch, before| erase(batch, id, before))
    }

    /// The bytes of a draft, so many, are somewhere else from now on, or others: `bytes` adds to the change what that is to the
    /// database, with its record as it was.
    fn place_draft(
        &self,
        id: u64,
        body: DraftBody,
        size: u64,
        bytes: impl FnOnce(&mut Batch<'_>, &DraftRecord),
    ) -> Result<()> {
        let mut state = self.lock();
        let before = self.draft(id)?;
        let charged = self.charged(id)?;
        state.touch_drafts(&self.db, before.queue)?;
        let mut batch = self.db.batch();
        bytes(&mut batch, &before);
        let after = DraftRecord { body, ..before };
        batch.put(Family::Meta, &keys::draft(id), &record::encode(&after));
        if size != charged {
            let owned = [charged, size].map(|size| (after.uid, Owned::draft(&after, size)));
            state.users.turns(&self.db, owned[0], owned[1])?;
            batch.put(Family::Meta, &keys::draft_size(id), &size.to_be_bytes());
        }
        state.commit(&self.db, batch, 0) // no queue is changed
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::NewMessage;
    use super::super::tests::{keys_in, message, open, queue};
    use super::super::{Enqueued, Onto, Published, Seen};
    use super::*;

    fn draft(store: &Store, queue: u64) -> u64 {
        let body = DraftBody::Inline(InlineDraft::new(5));
        let (name, attributes) = (b".d".to_vec(), Vec::new());
        let record = DraftRecord { queue, name, uid: 7, gid: 2, mode: 0o600, created: 5, due: 0, body, attributes };
        store.make_draft(record, Seen::ALL).unwrap()
    }

    fn inline(store: &Store, id: u64) -> InlineDraft {
        match store.draft(id).unwrap().body {
            DraftBody::Inline(inline) => inline,
            DraftBody::File => panic!("it is a file"),
        }
    }

    fn put(store: &Store, id: u64, bytes: &[u8]) -> InlineDraft {
        store.put_draft(id, inline(store, id), Some(bytes)).unwrap()
    }

    #[test]
    fn what_is_put_is_there_and_charged_and_goes_with_the_draft() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = queue(&store, "q");
        let id = draft(&store, q);
        assert_eq!(store.draft_bytes(id, &inline(&store, id)).unwrap(), b"");
        put(&store, id, b"first");
        let second = put(&store, id, b"longer");
        assert_eq!((second, second.put), (inline(&store, id), 11));
        assert_eq!(store.draft_bytes(id, &second).unwrap(), b"longer");
        assert_eq!(store.owned(7).unwrap().bytes, 256 + 6);
        let times = InlineDraft { modified_ns: 3, times_set: true, ..second };
        assert_eq!(store.put_draft(id, times, None).unwrap(), times);
        assert_eq!(store.draft_bytes(id, &inline(&store, id)).unwrap(), b"longer");
        store.rename_draft(id, (q, b".e"), (Seen::ALL, false), 9, |_| Ok(())).unwrap();
        assert_eq!(store.draft_bytes(id, &inline(&store, id)).unwrap(), b"longer");
        let other = draft(&store, q);
        put(&store, other, b"other");
        store.rename_draft(other, (q, b".e"), (Seen::ALL, false), 9, |_| Ok(())).unwrap();
        assert_eq!(keys_in(&store, Family::Bodies), 1, "what was replaced is gone");
        put(&store, other, b"");
        assert_eq!(keys_in(&store, Family::Bodies), 0);
        put(&store, other, b"again");
        store.remove_draft(other, 9).unwrap();
        assert_eq!((keys_in(&store, Family::Bodies), store.owned(7).unwrap().bytes), (0, 0));
        assert!(matches!(store.put_draft(other, second, Some(b"x")), Err(Error::NotFound)));
    }

    #[test]
    fn a_small_draft_leaves_its_bytes_to_its_message_if_they_are_those() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = queue(&store, "q");
        let id = draft(&store, q);
        let old = put(&store, id, b"old");
        let now = put(&store, id, b"new");
        let how = (Published::Gone, Onto::Nothing, None);
        let publish = |inline: InlineDraft| {
            let body = NewBody::Draft { id, size: inline.size, crc: inline.crc };
            store.publish(id, NewMessage { id, ..message(&store, q, "m") }, body, how, 9)
        };
        assert!(matches!(publish(old), Err(Error::Busy)));
        let Enqueued::As(seq) = publish(now).unwrap() else { panic!("a duplicate") };
        let body = store.body(&store.message(seq).unwrap()).unwrap();
        body.read(0, 9, |bytes| assert_eq!(bytes, b"new")).unwrap();
        assert_eq!(keys_in(&store, Family::Bodies), 1);
        store.ack(q, seq, (&[crate::queue::state::State::Ready], super::super::Of::Any), 9).unwrap();
        assert_eq!(keys_in(&store, Family::Bodies), 0);
    }

    #[test]
    fn a_draft_that_becomes_a_file_has_nothing_in_the_database() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = queue(&store, "q");
        let id = draft(&store, q);
        put(&store, id, b"small");
        drop(store.bodies().create(id).unwrap());
        store.draft_to_file(id, 100_000).unwrap();
        assert_eq!(store.draft(id).unwrap().body, DraftBody::File);
        assert_eq!((keys_in(&store, Family::Bodies), store.owned(7).unwrap().bytes), (0, 256 + 100_000));
        store.remove_draft(id, 9).unwrap();
        store.sync_soon();
        while store.bodies().metadata(id).is_ok() {
            std::thread::yield_now();
        }
    }
}
