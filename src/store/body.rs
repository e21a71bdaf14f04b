//! The bytes of a message, as its readers get them: as they were enqueued, or not at all.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use crate::error::{Error, Result};

use super::blocks::Blocks;
use super::db::{Db, Family};
use super::readers::Reading;
use super::record::{BodyPlace, MessageRecord};
use super::stored_sums::Form;
use super::sums::{BLOCK, Sums, read_block, read_exact};
use super::{Bodies, Store, keys, stored_sums};

/// The bytes of a message, good for as long as this lives, whatever happens to the message.
#[derive(Debug)]
pub enum Body {
    /// A small body.
    Inline(Vec<u8>),
    /// A large one.
    File(BodyFile),
}

impl Body {
    /// The bytes of a message of that record.
    pub(super) fn open(db: &Arc<Db>, bodies: &Bodies, record: &MessageRecord) -> Result<Self> {
        match record.body {
            BodyPlace::Empty => Ok(Body::Inline(Vec::new())),
            BodyPlace::File(id) => Ok(Body::File(BodyFile::open(db, bodies, id, record.size)?)),
            BodyPlace::Inline(id) => inline(db, &keys::body(id), record.crc).map(Body::Inline),
            BodyPlace::Draft(id) => inline(db, &keys::draft_bytes(id), record.crc).map(Body::Inline),
        }
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Body::Inline(bytes) => bytes.len() as u64,
            Body::File(file) => file.size,
        }
    }

    /// Gives at most `size` bytes from `offset` on to `with`, fewer only at the end. [`Error::Damaged`] when they are not those
    /// that were enqueued.
    pub fn read(&self, offset: u64, size: usize, with: impl FnOnce(&[u8])) -> Result<()> {
        match self {
            Body::Inline(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                with(&bytes[start..start.saturating_add(size).min(bytes.len())]);
            }
            Body::File(file) => with(&file.read(offset, size)?),
        }
        Ok(())
    }

    /// Its last byte.
    pub fn last(&self) -> Result<Option<u8>> {
        let mut last = None;
        self.read(self.size().saturating_sub(1), 1, |bytes| last = bytes.first().copied())?;
        Ok(last)
    }
}

/// Bytes that are in the database under a key, with that checksum.
pub(super) fn inline(db: &Db, key: &[u8], crc: u32) -> Result<Vec<u8>> {
    let id = || keys::last_number(key).unwrap_or_default();
    match db.get(Family::Bodies, key)? {
        Some(bytes) if crc32fast::hash(&bytes) == crc => Ok(bytes.to_vec()),
        Some(_) => Err(Error::Damaged(format!("body {}: wrong checksum", id()))),
        None => Err(Error::Damaged(format!("body {} is missing", id()))),
    }
}

/// An open body file. What it keeps in memory does not grow with its length.
pub struct BodyFile {
    file: File,
    id: u64,
    size: u64,
    /// `None`: it was enqueued by a version that had no checksums.
    sums: Option<Form>,
    db: Arc<Db>,
    blocks: Arc<Blocks>,
    /// Keeps the checksums there, unless nobody can remove the message meanwhile.
    _reading: Option<Reading>,
}

impl fmt::Debug for BodyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyFile").field("id", &self.id).field("size", &self.size).finish_non_exhaustive()
    }
}

impl BodyFile {
    /// The file of a message's body of `size` bytes, which nobody removes meanwhile.
    pub(super) fn open(db: &Arc<Db>, bodies: &Bodies, id: u64, size: u64) -> Result<Self> {
        let file = bodies.open_read(id)?;
        let length = file.metadata()?.len();
        if length < size {
            return Err(Error::Damaged(format!("body file {id:016x} has {length} bytes and not {size}")));
        }
        let sums = stored_sums::form(db, id, size)?;
        Ok(Self { file, id, size, sums, db: db.clone(), blocks: bodies.blocks().clone(), _reading: None })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads all of it, to learn whether it is whole.
    pub fn check(&self) -> Result<()> {
        let mut bytes = Vec::new();
        (0..self.size.div_ceil(BLOCK as u64)).try_for_each(|block| self.block(block, &mut bytes))
    }

    /// Its checksums; they are computed when it has none.
    pub fn sums(&self) -> Result<Sums> {
        match self.sums {
            Some(form) => stored_sums::all(&self.db, self.id, form, self.size),
            None => Sums::of_file(&self.file, self.size),
        }
    }

    /// Whether it has checksums.
    pub fn is_summed(&self) -> bool {
        self.sums.is_some()
    }

    fn read(&self, offset: u64, size: usize) -> Result<Vec<u8>> {
        let end = offset.saturating_add(size as u64).min(self.size);
        let mut read = vec![0; usize::try_from(end.saturating_sub(offset)).unwrap_or(0)];
        if self.sums.is_none() {
            read_exact(&self.file, &mut read, offset)?;
            return Ok(read);
        }
        let (mut at, mut rest) = (offset, &mut read[..]);
        while !rest.is_empty() {
            let (block, from) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let whole = (self.size - block * BLOCK as u64).min(BLOCK as u64) as usize;
            let (here, behind) = rest.split_at_mut(rest.len().min(whole - from));
            if here.len() == whole {
                read_exact(&self.file, here, at)?;
                self.compare(block, here)?;
            } else {
                self.read_part(block, from, here)?;
            }
            at += here.len() as u64;
            rest = behind;
        }
        Ok(read)
    }

    fn read_part(&self, block: u64, from: usize, to: &mut [u8]) -> Result<()> {
        let end = from + to.len();
        let to_its_end = block * BLOCK as u64 + end as u64 == self.size || end == BLOCK;
        let bytes = match self.blocks.get(self.id, block, to_its_end) {
            Some(bytes) => bytes,
            None => {
                let mut bytes = Vec::new();
                self.block(block, &mut bytes)?;
                let bytes = Arc::new(bytes);
                if !to_its_end {
                    self.blocks.keep(self.id, block, bytes.clone());
                }
                bytes
            }
        };
        to.copy_from_slice(&bytes[from..end]);
        Ok(())
    }

    fn block(&self, block: u64, bytes: &mut Vec<u8>) -> Result<()> {
        read_block(&self.file, block, self.size, bytes)?;
        self.compare(block, bytes)
    }

    fn compare(&self, block: u64, bytes: &[u8]) -> Result<()> {
        let Some(form) = self.sums else { return Ok(()) };
        if stored_sums::of_block(&self.db, self.id, form, block)? == crc32fast::hash(bytes) {
            return Ok(());
        }
        let start = block * BLOCK as u64;
        let end = start + bytes.len() as u64;
        Err(Error::Damaged(format!("body file {:016x}: wrong checksum of bytes {start} to {end}", self.id)))
    }
}

impl Store {
    /// A message's bytes. [`Error::Damaged`] when it shows at once that they are not there, [`Error::NotFound`] when the message is
    /// gone.
    pub fn body(&self, record: &MessageRecord) -> Result<Body> {
        let BodyPlace::File(id) = record.body else { return Body::open(&self.db, &self.bodies, record) };
        let reading = {
            let _state = self.lock();
            if self.db.get(Family::Meta, &keys::body_file(id))?.is_none() {
                return Err(Error::NotFound);
            }
            self.readers.begin(id)
        };
        let file = self.body_file(id, record.size)?;
        Ok(Body::File(BodyFile { _reading: Some(reading), ..file }))
    }

    /// The file of a message's body of `size` bytes, for as long as nobody else can remove it.
    pub(super) fn body_file(&self, id: u64, size: u64) -> Result<BodyFile> {
        BodyFile::open(&self.db, &self.bodies, id, size)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::super::NewBody;
    use super::super::tests::{message, open, queue};
    use super::*;
    use crate::queue::state::State;

    fn body(store: &Store, size: usize) -> (Vec<u8>, BodyFile) {
        let bytes: Vec<u8> = (0..size).map(|at| (at * 31 / 7) as u8).collect();
        let id = store.next_id().unwrap();
        let file = store.bodies.create(id).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        let mut batch = store.db.batch();
        stored_sums::put(&mut batch, id, &Sums::of_file(&file, size as u64).unwrap());
        store.db.write(batch).unwrap();
        let body = store.body_file(id, size as u64).unwrap();
        (bytes, BodyFile { file, ..body })
    }

    #[test]
    fn any_part_is_read_and_no_part_of_a_damaged_block() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let (mut bytes, file) = body(&store, 2 * BLOCK + 1000);
        file.check().unwrap();
        for at in [0, 1, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 999, 2 * BLOCK + 1000, usize::MAX] {
            for size in [0, 1, 4096, BLOCK, BLOCK + 1, 3 * BLOCK] {
                let start = at.min(bytes.len());
                let expected = &bytes[start..start.saturating_add(size).min(bytes.len())];
                assert_eq!(file.read(at as u64, size).unwrap(), expected, "{size} at {at}");
            }
        }
        let small: Vec<u8> = (0..bytes.len()).step_by(997).flat_map(|at| file.read(at as u64, 997).unwrap()).collect();
        assert!(small == bytes);
        bytes[BLOCK + 5] ^= 1;
        file.file.write_all_at(&bytes[BLOCK + 5..][..1], BLOCK as u64 + 5).unwrap();
        // What was compared is kept for a while.
        let file = BodyFile { blocks: Arc::default(), ..file };
        for (at, size) in [(BLOCK, 1), (BLOCK, BLOCK), (BLOCK - 1, 2), (0, 3 * BLOCK), (2 * BLOCK - 1, 1)] {
            assert!(matches!(file.read(at as u64, size), Err(Error::Damaged(_))), "{size} at {at}");
        }
        assert_eq!(file.read(0, BLOCK).unwrap(), bytes[..BLOCK]);
        assert_eq!(file.read(2 * BLOCK as u64, BLOCK).unwrap(), bytes[2 * BLOCK..]);
        assert!(matches!(file.check(), Err(Error::Damaged(_))));
        file.file.set_len(BLOCK as u64 + 9).unwrap();
        assert!(matches!(file.read(2 * BLOCK as u64, 1), Err(Error::Damaged(_))));
    }

    fn enqueue_large(store: &Store, q: u64) -> (u64, MessageRecord) {
        let new = message(store, q, "m");
        let (id, size) = (new.id, 3 * BLOCK as u64);
        let file = store.bodies.create(id).unwrap();
        file.write_all_at(&vec![7; size as usize], 0).unwrap();
        let sums = Sums::of_file(&file, size).unwrap();
        let body = NewBody::File { id, size, synced: true, sums: &sums };
        let seq = store.enqueue(new, body, false, 1).unwrap().seq().unwrap();
        (seq, store.message(seq).unwrap())
    }

    fn sums_in(store: &Store) -> usize {
        let mut count = 0;
        for prefix in keys::BODY_SUMS.into_iter().chain([keys::LEFT_SUMS]) {
            let each = |_: &[u8], _: &[u8]| {
                count += 1;
                Ok(true)
            };
            store.db.scan(Family::Meta, prefix, prefix, each).unwrap();
        }
        count
    }

    #[test]
    fn what_is_open_is_compared_to_its_end_whatever_happens_to_the_message() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = queue(&store, "q");
        let (seq, record) = enqueue_large(&store, q);
        let [first, second] = [(); 2].map(|()| store.body(&record).unwrap());
        first.read(0, BLOCK, |bytes| assert!(bytes == vec![7; BLOCK])).unwrap();
        store.ack(q, seq, (&[State::Ready], crate::store::Of::Any), 2).unwrap();
        assert!(matches!(store.body(&record), Err(Error::NotFound)));
        let BodyPlace::File(id) = record.body else { panic!() };
        let Body::File(file) = &second else { panic!() };
        assert!(file.is_summed());
        first.read(BLOCK as u64, BLOCK, |bytes| assert!(bytes == vec![7; BLOCK])).unwrap();
        drop(first);
        second.read(2 * BLOCK as u64, BLOCK, |bytes| assert!(bytes == vec![7; BLOCK])).unwrap();
        assert_eq!(file.sums().unwrap().all().len(), 3);
        drop(second);
        assert_eq!(sums_in(&store), 0, "body {id}");

        // A crash came before the last reader was done.
        let mut batch = store.db.batch();
        stored_sums::put(&mut batch, id, &Sums::of(vec![7; 3]));
        batch.put(Family::Meta, &keys::left_sums(id), &record.size.to_be_bytes());
        store.db.write(batch).unwrap();
        assert_eq!(sums_in(&store), 2);
        drop(store);
        let store = open(dir.path());
        assert_eq!(sums_in(&store), 0);
    }
}
