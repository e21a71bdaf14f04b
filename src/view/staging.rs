//! The bytes of a message that is being written: in memory while they are few, in a body file beyond that.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::store::sums::{Summing, Sums};
use crate::store::{Bodies, NewBody};

use super::few::{Few, Share};
use super::held::Budget;

/// Bytes on their way into a message.
#[derive(Debug)]
pub struct Staging {
    id: u64,
    size: u64,
    place: Place,
    share: Share,
    /// Of the bytes of a file.
    summing: Summing,
    /// As of the last call of [`Staging::body`].
    sums: Sums,
}

#[derive(Debug)]
enum Place {
    Memory(Few),
    File(Arc<File>),
}

impl Staging {
    /// Nothing yet. `id` is the number that a body file would get.
    pub fn new(id: u64) -> Self {
        let (place, summing, sums) = (Place::Memory(Few::of(None)), Summing::default(), Sums::default());
        Self { id, size: 0, place, share: None, summing, sums }
    }

    /// What it keeps in memory counts for a user. When there is no more of that, it is put into a file.
    pub fn within(self, budget: &Arc<Budget>, uid: u32) -> Self {
        self.sharing(Some((budget.clone(), uid)))
    }

    /// Nothing yet, under another number, and counted in the same way.
    pub fn another(&self, id: u64) -> Self {
        Self::new(id).sharing(self.share.clone())
    }

    fn sharing(self, share: Share) -> Self {
        Self { place: Place::Memory(Few::of(share.clone())), share, ..self }
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes at an offset; a gap before it reads as zeros.
    pub fn write_at(&mut self, bodies: &Bodies, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset + data.len() as u64;
        self.make_room(bodies, end)?;
        match &mut self.place {
            Place::Memory(bytes) => bytes.write_at(offset, data),
            Place::File(file) => {
                fill_hole(file, self.size, offset)?;
                file.write_all_at(data, offset)?;
                self.summing.written(file, offset, data)?;
            }
        }
        self.size = self.size.max(end);
        Ok(())
    }

    /// Cuts or extends (with zeros).
    pub fn truncate(&mut self, bodies: &Bodies, size: u64) -> Result<()> {
        self.make_room(bodies, size)?;
        match &mut self.place {
            Place::Memory(bytes) => bytes.resize(size),
            Place::File(file) => {
                fill_hole(file, self.size, size)?;
                file.set_len(size)?;
                self.summing.truncated(file, size)?;
            }
        }
        self.size = size;
        Ok(())
    }

    /// Puts it into a file when it gets too long for memory, or too many bytes of its user are there.
    fn make_room(&mut self, bodies: &Bodies, size: u64) -> Result<()> {
        let fits = match &mut self.place {
            Place::Memory(bytes) => bytes.can_be(size),
            Place::File(_) => true,
        };
        if fits { Ok(()) } else { self.spill(bodies) }
    }

    fn spill(&mut self, bodies: &Bodies) -> Result<()> {
        if let Place::Memory(bytes) = &self.place {
            let file = bodies.create(self.id)?;
            file.write_all_at(bytes.all(), 0)?;
            self.summing = Summing::default();
            self.summing.written(&file, 0, bytes.all())?;
            self.place = Place::File(Arc::new(file));
        }
        Ok(())
    }

    /// Reads at an offset; fewer bytes than asked for only at the end.
    pub fn read_at(&self, offset: u64, size: usize) -> Result<Vec<u8>> {
        match &self.place {
            Place::Memory(bytes) => Ok(bytes.read_at(offset, size).to_vec()),
            Place::File(file) => read_file_at(file, offset, size),
        }
    }

    /// The file, when there is one: to be synced before [`Staging::body`] is enqueued.
    pub fn file(&self) -> Option<Arc<File>> {
        match &self.place {
            Place::Memory(_) => None,
            Place::File(file) => Some(file.clone()),
        }
    }

    /// The number that a body file has or would get.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The bytes as the store takes them. `synced`: the file has been synced.
    pub fn body(&mut self, synced: bool) -> Result<NewBody<'_>> {
        Ok(match &self.place {
            Place::Memory(bytes) => NewBody::Inline(bytes.all()),
            Place::File(file) => {
                self.sums = self.summing.sums(file)?;
                NewBody::File { id: self.id, size: self.size, synced, sums: &self.sums }
            }
        })
    }

    /// Forgets the bytes. Gives the number of the file that held them, for the caller to remove.
    pub fn discard(&mut self) -> Option<u64> {
        self.size = 0;
        match std::mem::replace(&mut self.place, Place::Memory(Few::of(self.share.clone()))) {
            Place::Memory(_) => None,
            Place::File(_) => Some(self.id),
        }
    }
}

/// No file has a byte at this offset, or behind it: to the system it would be a negative one.
const NO_OFFSET: u64 = i64::MAX as u64;

/// Where a write of so many bytes ends, when a file can be as long.
pub fn end_of_write(offset: u64, length: usize) -> Result<u64> {
    offset.checked_add(length as u64).filter(|end| *end <= NO_OFFSET).ok_or(Error::MessageTooLarge)
}

/// Gives a hole room on the disk, before it is made: else a file could be longer than any disk, though there is a checksum of
/// each of its blocks, in memory while it is written, and whoever copies or checks it reads them all. File systems that
/// cannot do that make holes.
pub fn fill_hole(file: &File, from: u64, to: u64) -> Result<()> {
    if to <= from {
        return Ok(());
    }
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, from, to - from) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
}

/// Reads from a file; fewer bytes than asked for only at the end.
pub fn read_file_at(file: &File, offset: u64, size: usize) -> Result<Vec<u8>> {
    let size = size.min(usize::try_from(NO_OFFSET.saturating_sub(offset)).unwrap_or(usize::MAX));
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::few::UNCOUNTED;
    use super::*;
    use crate::store::INLINE_MAX;
    use crate::store::beneath::{Dir, Trust};

    #[test]
    fn what_a_user_has_in_memory_is_bounded_and_the_rest_in_files() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = Bodies::open(&Dir::open(dir.path(), Trust::Own).unwrap()).unwrap();
        let budget = Budget::new(16 * INLINE_MAX, 0);
        let mut all: Vec<Staging> = (0..20).map(|id| Staging::new(id).within(&budget, 1)).collect();
        let in_files = |all: &[Staging]| all.iter().filter(|staging| staging.file().is_some()).count();
        all.iter_mut().for_each(|staging| staging.write_at(&bodies, 0, &[7; UNCOUNTED as usize]).unwrap());
        assert_eq!(in_files(&all), 0);
        all.iter_mut().for_each(|staging| staging.write_at(&bodies, UNCOUNTED, b"more").unwrap());
        assert_eq!(in_files(&all), 8, "three quarters are one user's");
        let expected = [&[7; UNCOUNTED as usize][..], b"more"].concat();
        assert!(all.iter().all(|staging| staging.read_at(0, 4096).unwrap() == expected));
        let mut other = Staging::new(20).within(&budget, 2);
        other.truncate(&bodies, UNCOUNTED + 1).unwrap();
        assert!(other.file().is_none());
        all[0].discard();
        let mut next = all[0].another(21);
        next.write_at(&bodies, UNCOUNTED, b"more").unwrap();
        assert!(next.file().is_none());
        drop((all, other, next));
        assert!(budget.hold(0, 16 * INLINE_MAX).is_ok(), "all is given back");
    }

    #[test]
    fn bytes_are_the_same_in_memory_and_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = Bodies::open(&Dir::open(dir.path(), Trust::Own).unwrap()).unwrap();
        let mut staging = Staging::new(1);
        let mut model = Vec::new();
        for (offset, data) in [(3, &b"abc"[..]), (0, b"x"), (INLINE_MAX - 1, b"yz"), (10, b"later")] {
            staging.write_at(&bodies, offset as u64, data).unwrap();
            model.resize(model.len().max(offset + data.len()), 0);
            model[offset..offset + data.len()].copy_from_slice(data);
            assert_eq!(staging.read_at(0, model.len() + 9).unwrap(), model);
        }
        assert!(staging.file().is_some());
        let file = staging.file().unwrap();
        for offset in [NO_OFFSET - 4096, NO_OFFSET - 1, NO_OFFSET, u64::MAX] {
            assert_eq!(read_file_at(&file, offset, 4097).unwrap(), b"", "{offset}");
        }
        assert_eq!(end_of_write(NO_OFFSET - 5, 5).unwrap(), NO_OFFSET);
        for offset in [NO_OFFSET - 4, u64::MAX - 4, u64::MAX] {
            assert!(matches!(end_of_write(offset, 5), Err(Error::MessageTooLarge)), "{offset}");
        }
        staging.truncate(&bodies, 4).unwrap();
        assert_eq!(staging.read_at(0, 9).unwrap(), model[..4]);
        assert_eq!((staging.discard(), staging.size()), (Some(1), 0));
    }
}
