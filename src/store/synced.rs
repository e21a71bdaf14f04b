//! How far the database was durable: told beside it, so that it is noticed when its log ends before.
//!
//! The log of the database ends where a power cut tore it, and recovery goes on from there: nobody was promised what came
//! behind. A log that was damaged in its middle looks the same to recovery, and all that came behind is dropped, promised or
//! not. So after each sync `STORE/synced` is given the number of the last change that the sync made durable. It is written
//! in place and not synced itself: what is found there after a power cut may be old, and never says too much.
//!
//! The file has one line of fixed length: the number, and the CRC-32 of its digits.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// Changes up to this number were durable.
    Upto(u64),
    /// There is no file.
    Nothing,
    /// The file is damaged.
    Damaged,
}

/// The file, open.
#[derive(Debug)]
pub struct Synced {
    file: File,
    upto: Mutex<u64>,
}

fn path(store: &Path) -> PathBuf {
    store.join("synced")
}

fn line(upto: u64) -> String {
    let digits = format!("{upto:020}");
    format!("{digits} {:08x}\n", crc32fast::hash(digits.as_bytes()))
}

/// Reads the file of a store.
pub fn read(store: &Path) -> io::Result<Noted> {
    let bytes = match std::fs::read(path(store)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Noted::Nothing),
        Err(error) => return Err(error),
    };
    let upto = bytes.get(..20).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    Ok(upto.filter(|upto| line(*upto).as_bytes() == bytes).map_or(Noted::Damaged, Noted::Upto))
}

impl Synced {
    /// Opens the file of a store, made when it is missing, and notes that changes up to `upto` are durable.
    pub fn open(store: &Path, upto: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path(store))?;
        let text = line(upto);
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_len(text.len() as u64)?;
        file.sync_all()?;
        File::open(store)?.sync_all()?;
        Ok(Self { file, upto: Mutex::new(upto) })
    }

    /// Notes that changes up to `upto` are durable.
    pub fn note(&self, upto: u64) {
        let mut before = self.upto.lock();
        if upto <= *before {
            return;
        }
        match self.file.write_all_at(line(upto).as_bytes(), 0) {
            Ok(()) => *before = upto,
            // It goes on saying less.
            Err(error) => tracing::debug!(%error, "synced not written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_was_noted_or_that_it_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Noted::Nothing);
        let synced = Synced::open(dir.path(), 7).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Noted::Upto(7));
        synced.note(u64::MAX);
        synced.note(9);
        assert_eq!(read(dir.path()).unwrap(), Noted::Upto(u64::MAX));
        drop(Synced::open(dir.path(), 3).unwrap());
        let whole = std::fs::read(path(dir.path())).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Noted::Upto(3));
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(path(dir.path()), &bytes).unwrap();
            assert_eq!(read(dir.path()).unwrap(), Noted::Damaged);
            std::fs::write(path(dir.path()), &whole[..at]).unwrap();
            assert_eq!(read(dir.path()).unwrap(), Noted::Damaged);
        }
    }
}
