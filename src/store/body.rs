//! The bytes of a message, as its readers get them: as they were enqueued, or not at all.

use std::fs::File;

use parking_lot::Mutex;

use crate::error::{Error, Result};

use super::db::{Db, Family};
use super::keys;
use super::record::{BodyPlace, MessageRecord};
use super::sums::{BLOCK, Sums, read_block, read_exact};
use super::{Bodies, Store};

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
    pub(super) fn open(db: &Db, bodies: &Bodies, record: &MessageRecord) -> Result<Self> {
        match record.body {
            BodyPlace::Empty => Ok(Body::Inline(Vec::new())),
            BodyPlace::File(id) => Ok(Body::File(BodyFile::open(db, bodies, id, record.size)?)),
            BodyPlace::Inline(id) => {
                let bytes = db.get(Family::Bodies, &keys::body(id))?;
                match bytes {
                    Some(bytes) if crc32fast::hash(&bytes) == record.crc => Ok(Body::Inline(bytes.to_vec())),
                    Some(_) => Err(Error::Damaged(format!("body {id}: wrong checksum"))),
                    None => Err(Error::Damaged(format!("body {id} is missing"))),
                }
            }
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

/// An open body file.
#[derive(Debug)]
pub struct BodyFile {
    file: File,
    id: u64,
    size: u64,
    /// `None`: it was enqueued by a version that had none.
    sums: Option<Sums>,
    held: Mutex<Held>,
}

/// A block that was read in part, and compared. Who reads a few bytes at a time comes for the rest of it.
#[derive(Debug, Default)]
struct Held {
    block: u64,
    /// Empty: none is held.
    bytes: Vec<u8>,
}

impl BodyFile {
    /// The file of a message's body of `size` bytes.
    pub(super) fn open(db: &Db, bodies: &Bodies, id: u64, size: u64) -> Result<Self> {
        let file = bodies.open_read(id)?;
        let length = file.metadata()?.len();
        if length < size {
            return Err(Error::Damaged(format!("body file {id:016x} has {length} bytes and not {size}")));
        }
        let sums = db.get(Family::Meta, &keys::body_sums(id))?;
        let sums = sums.map(|sums| Sums::decode(&sums, size)).transpose()?;
        Ok(Self { file, id, size, sums, held: Mutex::default() })
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
        self.sums.clone().map_or_else(|| Sums::of_file(&self.file, self.size), Ok)
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
        let mut held = self.held.lock();
        if held.block != block || held.bytes.is_empty() {
            let mut bytes = std::mem::take(&mut held.bytes);
            self.block(block, &mut bytes)?;
            *held = Held { block, bytes };
        }
        to.copy_from_slice(&held.bytes[from..from + to.len()]);
        if from + to.len() == held.bytes.len() {
            held.bytes = Vec::new();
        }
        Ok(())
    }

    fn block(&self, block: u64, bytes: &mut Vec<u8>) -> Result<()> {
        read_block(&self.file, block, self.size, bytes)?;
        self.compare(block, bytes)
    }

    fn compare(&self, block: u64, bytes: &[u8]) -> Result<()> {
        if self.sums.as_ref().is_none_or(|sums| sums.fits(block, bytes)) {
            return Ok(());
        }
        let start = block * BLOCK as u64;
        let end = start + bytes.len() as u64;
        Err(Error::Damaged(format!("body file {:016x}: wrong checksum of bytes {start} to {end}", self.id)))
    }
}

impl Store {
    /// A message's bytes. [`Error::Damaged`] when it shows at once that they are not there.
    pub fn body(&self, record: &MessageRecord) -> Result<Body> {
        Body::open(&self.db, &self.bodies, record)
    }

    /// The file of a message's body of `size` bytes.
    pub(super) fn body_file(&self, id: u64, size: u64) -> Result<BodyFile> {
        BodyFile::open(&self.db, &self.bodies, id, size)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn body(size: usize) -> (Vec<u8>, BodyFile) {
        let bytes: Vec<u8> = (0..size).map(|at| (at * 31 / 7) as u8).collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        let sums = Sums::of_file(&file, size as u64).unwrap();
        (bytes, BodyFile { file, id: 1, size: size as u64, sums: Some(sums), held: Mutex::default() })
    }

    #[test]
    fn any_part_is_read_and_no_part_of_a_damaged_block() {
        let (mut bytes, file) = body(2 * BLOCK + 1000);
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
        for (at, size) in [(BLOCK, 1), (BLOCK, BLOCK), (BLOCK - 1, 2), (0, 3 * BLOCK), (2 * BLOCK - 1, 1)] {
            assert!(matches!(file.read(at as u64, size), Err(Error::Damaged(_))), "{size} at {at}");
        }
        assert_eq!(file.read(0, BLOCK).unwrap(), bytes[..BLOCK]);
        assert_eq!(file.read(2 * BLOCK as u64, BLOCK).unwrap(), bytes[2 * BLOCK..]);
        assert!(matches!(file.check(), Err(Error::Damaged(_))));
        file.file.set_len(BLOCK as u64 + 9).unwrap();
        assert!(matches!(file.read(2 * BLOCK as u64, 1), Err(Error::Damaged(_))));
    }
}
