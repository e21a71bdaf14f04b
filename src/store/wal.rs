//! A look at the database's logs from outside: whether recovery will get as far as it should, before it begins and throws
//! away what it does not reach.
//!
//! The format is RocksDB's (<https://github.com/facebook/rocksdb/wiki/Write-Ahead-Log-File-Format>): blocks of 32 KiB with
//! records of a masked CRC-32C, a length and a type, the first bytes of which are the number of a batch's first change and how
//! many it has. What this does not understand it takes for the end of the log: then the database is asked, which takes longer
//! ([`super::db::Db::recoverable`]).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::beneath::Dir;

const BLOCK: usize = 32 * 1024;
const HEADER: usize = 7;

/// The types of records: a whole batch, or a part of one.
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
/// Types from here on may be skipped.
const SKIPPABLE: u8 = 128;

/// How far the logs in a directory are whole: the number of the last change up to which none is missing among them. 0 when there is
/// nothing in them.
pub fn whole_upto(dir: &Dir) -> io::Result<u64> {
    let mut logs = Vec::new();
    dir.each(|entry| {
        let path = Path::new(&entry.name);
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        logs.extend(number.filter(|_| is_log).map(|number| (number, entry.name)));
        Ok(())
    })?;
    logs.sort();
    let mut walk = Walk::default();
    for (_, name) in logs {
        if !walk.file(dir.file(name)?)? {
            break;
        }
    }
    Ok(walk.upto)
}

#[derive(Default)]
struct Walk {
    upto: u64,
    /// The last change of the batch of which the first part has been seen.
    begun: Option<u64>,
    /// A log ended before its time: what follows must go on right there.
    torn: bool,
}

impl Walk {
    /// Walks through a log; false when nothing that follows counts.
    fn file(&mut self, mut file: File) -> io::Result<bool> {
        self.begun = None;
        let mut block = Vec::with_capacity(BLOCK);
        let mut torn = false;
        loop {
            block.clear();
            (&mut file).take(BLOCK as u64).read_to_end(&mut block)?;
            let mut rest = &block[..];
            // What is left of a block is too short for a header, and zeros.
            while rest.len() >= HEADER {
                let Some((kind, payload, behind)) = record(rest) else {
                    torn = true;
                    break;
                };
                match self.take(kind, payload) {
                    Taken::Fits => rest = behind,
                    Taken::Torn => {
                        torn = true;
                        break;
                    }
                    Taken::Gap => return Ok(false),
                }
            }
            if torn || block.len() < BLOCK {
                self.torn = torn || self.begun.is_some();
                return Ok(true);
            }
        }
    }

    fn take(&mut self, kind: u8, payload: &[u8]) -> Taken {
        match (kind, self.begun) {
            (FULL | FIRST, None) => {
                let Some((first, count)) = batch(payload) else { return Taken::Torn };
                if self.torn && first != self.upto + 1 {
                    return Taken::Gap;
                }
                self.torn = false;
                let last = (first + u64::from(count)).saturating_sub(1);
                if kind == FULL {
                    self.upto = last
                } else {
                    self.begun = Some(last)
                }
                Taken::Fits
            }
            (MIDDLE, Some(_)) => Taken::Fits,
            (LAST, Some(last)) => {
                (self.upto, self.begun) = (last, None);
                Taken::Fits
            }
            (SKIPPABLE.., _) => Taken::Fits,
            _ => Taken::Torn,
        }
    }
}

enum Taken {
    Fits,
    Torn,
    Gap,
}

/// The first record of a block's rest: its type, its bytes, and what is behind it.
fn record(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let masked = u32::from_le_bytes(header[..4].try_into().ok()?);
    let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
    let payload = rest.get(..length)?;
    let sum = crc32c::crc32c_append(crc32c::crc32c(&header[6..]), payload);
    (masked == sum.rotate_right(15).wrapping_add(0xa282_ead8)).then_some((header[6], payload, &rest[length..]))
}

/// The number of the first change in a batch, and how many it has.
fn batch(payload: &[u8]) -> Option<(u64, u32)> {
    let (first, rest) = payload.split_first_chunk::<8>()?;
    let (count, _) = rest.split_first_chunk::<4>()?;
    Some((u64::from_le_bytes(*first), u32::from_le_bytes(*count)))
}

#[cfg(test)]
mod tests {
    use super::super::beneath::Trust;
    use super::*;
    use crate::store::db::{Db, Family};

    #[test]
    fn the_end_and_any_damage_of_a_real_log_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let whole_upto = |at: &Path| whole_upto(&Dir::open(at, Trust::Own).unwrap());
        assert_eq!(whole_upto(dir.path()).unwrap(), 0);
        let db = Db::open(dir.path(), true).unwrap();
        let from = db.upto();
        for n in 0..300_u32 {
            let mut batch = db.batch();
            // Some of them longer than a block.
            batch.put(Family::Bodies, &n.to_be_bytes(), &vec![7; if n % 50 == 0 { 70_000 } else { 99 }]);
            batch.put(Family::Messages, &n.to_be_bytes(), b"message");
            db.write(batch).unwrap();
        }
        db.sync().unwrap();
        let upto = db.upto();
        assert_eq!((upto - from, whole_upto(dir.path()).unwrap()), (600, upto));
        drop(db);
        let logs = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let log = logs.filter(|path| path.extension().is_some_and(|e| e == "log")).max().unwrap();
        let whole = std::fs::read(&log).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 97) {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            std::fs::write(&log, &bytes).unwrap();
            let found = whole_upto(dir.path()).unwrap();
            assert!(found < upto, "{found}: a flip at {at} of {}", whole.len());
            std::fs::write(&log, &whole[..at]).unwrap();
            assert!(whole_upto(dir.path()).unwrap() <= found, "cut at {at}");
        }
    }
}
