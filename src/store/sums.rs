//! Checksums of body files, block by block.
//!
//! A reader gets no byte that has not been compared: a file is read and checked in whole blocks, so nobody has to read all of a
//! large body to learn that its beginning is right. The checksums are kept in the database ([`super::stored_sums`]), which has
//! checksums of its own: 4 bytes for each [`BLOCK`].

use std::fs::File;
use std::os::unix::fs::FileExt;

use crc32fast::Hasher;

use crate::error::{Error, Result};

/// Length of a block in bytes. It is what the kernel asks for at once of a file that is read from its beginning to its end.
pub const BLOCK: usize = 128 * 1024;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// The CRC-32 of each block of a body, the last of which may be short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums(Vec<u32>);

impl Sums {
    /// Of a file's first `size` bytes; [`Error::Damaged`] when it is shorter.
    pub fn of_file(file: &File, size: u64) -> Result<Self> {
        let (mut sums, mut bytes) = (Vec::new(), Vec::new());
        for block in 0..size.div_ceil(BLOCK as u64) {
            read_block(file, block, size, &mut bytes)?;
            sums.push(crc32fast::hash(&bytes));
        }
        Ok(Self(sums))
    }

    /// These, one for each block.
    pub fn of(sums: Vec<u32>) -> Self {
        Self(sums)
    }

    /// All of them.
    pub fn all(&self) -> &[u32] {
        &self.0
    }
}

/// Reads a block of a file with `size` bytes; [`Error::Damaged`] when the file is shorter.
pub fn read_block(file: &File, block: u64, size: u64, bytes: &mut Vec<u8>) -> Result<()> {
    let start = block * BLOCK as u64;
    bytes.resize(size.saturating_sub(start).min(BLOCK as u64) as usize, 0);
    read_exact(file, bytes, start)
}

/// Reads from a body file all that is asked for; [`Error::Damaged`] when it ends before.
pub fn read_exact(file: &File, bytes: &mut [u8], offset: u64) -> Result<()> {
    file.read_exact_at(bytes, offset).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::Damaged("a body file is shorter than its message".into()),
        _ => error.into(),
    })
}

/// The checksums of a file that is being written, kept with every write, so that a commit need not read it.
///
/// Bytes that are written behind all others are summed as they come. A block that is written to once more is summed again when
/// the next one is, or at the end: so writing a file over from its beginning costs one look at each block, and each write at
/// random one look at a block.
#[derive(Debug, Default)]
pub struct Summing {
    /// Of the whole blocks.
    whole: Vec<u32>,
    /// Of the bytes after those.
    tail: Hasher,
    length: u64,
    /// The block whose checksum above is not that of its bytes in the file.
    stale: Option<u64>,
}

impl Summing {
    /// Notes bytes that have been written to the file; a gap before them reads as zeros.
    pub fn written(&mut self, file: &File, offset: u64, data: &[u8]) -> Result<()> {
        self.zeros(offset.saturating_sub(self.length));
        let again = usize::try_from(self.length - offset).unwrap_or(usize::MAX).min(data.len());
        let (mut rest, mut at) = (&data[..again], offset);
        while !rest.is_empty() {
            let (block, start) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let (here, behind) = rest.split_at(rest.len().min(BLOCK - start));
            match self.whole.get_mut(block as usize) {
                Some(sum) if here.len() == BLOCK => {
                    *sum = crc32fast::hash(here);
                    self.stale = self.stale.filter(|stale| *stale != block);
                }
                _ if self.stale == Some(block) => {}
                _ => {
                    self.settle(file)?;
                    self.stale = Some(block);
                }
            }
            (rest, at) = (behind, at + here.len() as u64);
        }
        self.append(&data[again..]);
        Ok(())
    }

    /// Notes that the file has been cut, or extended with zeros.
    pub fn truncated(&mut self, file: &File, size: u64) -> Result<()> {
        if size >= self.length {
            self.zeros(size - self.length);
            return Ok(());
        }
        let blocks = size / BLOCK as u64;
        self.whole.truncate(blocks as usize);
        self.length = size;
        self.stale = self.stale.filter(|stale| *stale < blocks);
        self.sum_again(file, blocks)
    }

    /// The checksums of all that was written.
    pub fn sums(&mut self, file: &File) -> Result<Sums> {
        self.settle(file)?;
        let mut sums = self.whole.clone();
        if !self.length.is_multiple_of(BLOCK as u64) {
            sums.push(self.tail.clone().finalize());
        }
        Ok(Sums(sums))
    }

    fn append(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let (here, behind) = data.split_at(data.len().min(self.room()));
            self.tail.update(here);
            self.grown(here.len());
            data = behind;
        }
    }

    fn zeros(&mut self, mut count: u64) {
        let until_whole = count.min(self.room() as u64 % BLOCK as u64);
        self.append(&ZEROS[..until_whole as usize]);
        count -= until_whole;
        if count >= BLOCK as u64 {
            let (blocks, sum) = (count / BLOCK as u64, crc32fast::hash(&ZEROS));
            self.whole.resize(self.whole.len() + blocks as usize, sum);
            self.length += blocks * BLOCK as u64;
        }
        self.append(&ZEROS[..(count % BLOCK as u64) as usize]);
    }

    /// So many bytes fit into the block at the end.
    fn room(&self) -> usize {
        BLOCK - (self.length % BLOCK as u64) as usize
    }

    fn grown(&mut self, by: usize) {
        self.length += by as u64;
        if self.length.is_multiple_of(BLOCK as u64) {
            self.whole.push(std::mem::take(&mut self.tail).finalize());
        }
    }

    /// Sums the block again that was written to once more.
    fn settle(&mut self, file: &File) -> Result<()> {
        match self.stale {
            Some(block) => self.sum_again(file, block),
            None => Ok(()),
        }
    }

    fn sum_again(&mut self, file: &File, block: u64) -> Result<()> {
        let mut bytes = Vec::new();
        read_block(file, block, self.length, &mut bytes)?;
        let mut sum = Hasher::new();
        sum.update(&bytes);
        match self.whole.get_mut(block as usize) {
            Some(whole) => *whole = sum.finalize(),
            None => self.tail = sum,
        }
        if self.stale == Some(block) {
            self.stale = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, usize),
        Append(usize),
        Truncate(u64),
        Sum,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let (most, long) = (5 * BLOCK as u64, 2 * BLOCK + 9);
        let near = |at: u64| (0..6u64, 0..5u64).prop_map(move |(block, by)| (block * at + by).saturating_sub(2));
        let step = prop_oneof![
            (0..most, 1..long).prop_map(|(at, length)| Step::Write(at, length)),
            (near(BLOCK as u64), 1..long).prop_map(|(at, length)| Step::Write(at, length)),
            (near(BLOCK as u64), Just(BLOCK)).prop_map(|(at, length)| Step::Write(at, length)),
            (1..long).prop_map(Step::Append),
            (0..most).prop_map(Step::Truncate),
            near(BLOCK as u64).prop_map(Step::Truncate),
            Just(Step::Sum),
        ];
        prop::collection::vec(step, 1..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_written_the_checksums_are_those_of_the_file(steps in steps()) {
            let file = tempfile::tempfile().unwrap();
            let mut summing = Summing::default();
            let length = || file.metadata().unwrap().len();
            for (n, step) in steps.iter().enumerate() {
                let mut write = |at: u64, count: usize| {
                    let data: Vec<u8> = (0..count).map(|i| (i * 7 + n + 1) as u8).collect();
                    file.write_all_at(&data, at).unwrap();
                    summing.written(&file, at, &data).unwrap();
                };
                match *step {
                    Step::Write(at, count) => write(at, count),
                    Step::Append(count) => write(length(), count),
                    Step::Truncate(size) => {
                        file.set_len(size).unwrap();
                        summing.truncated(&file, size).unwrap();
                    }
                    Step::Sum => drop(summing.sums(&file).unwrap()),
                }
            }
            let sums = summing.sums(&file).unwrap();
            prop_assert_eq!(&sums, &Sums::of_file(&file, length()).unwrap());
        }
    }

    #[test]
    fn a_long_gap_is_summed_at_once() {
        let file = tempfile::tempfile().unwrap();
        let mut summing = Summing::default();
        file.set_len(40 << 30).unwrap();
        summing.truncated(&file, 40 << 30).unwrap();
        let (sums, zeros) = (summing.sums(&file).unwrap(), crc32fast::hash(&ZEROS));
        assert!(sums.all().len() == (40 << 30) / BLOCK && sums.all().iter().all(|sum| *sum == zeros));
    }
}
