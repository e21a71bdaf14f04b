//! How far the database was durable: told beside it, so that it is noticed when its log ends before.
//!
//! The log of the database ends where a power cut tore it, and recovery goes on from there: nobody was promised what came
//! behind. A log that was damaged in its middle looks the same to recovery, and all that came behind is dropped, promised or
//! not. So after each sync `STORE/synced` is given the number of the last change that the sync made durable. It is written
//! in place and not synced itself: what is found there after a power cut may be old, and never says too much.
//!
//! The same holds for the list of the database's files, its manifest: one that was cut is taken for an older one, and the files
//! that are not on it are removed. So its length and its checksum are noted, too, when it is sure to be on disk.
//!
//! The file has two lines of fixed length: the number of the change; the number of the manifest, its length in bytes and its CRC-32;
//! each with the CRC-32 of what is before it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::beneath::Dir;

/// The file in the store.
const SYNCED: &str = "synced";

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
    store: Dir,
    file: File,
    upto: Mutex<u64>,
    /// When the manifest was looked at, what it was, and what of it is noted.
    looked: Mutex<(Instant, Option<Manifest>, Option<Manifest>)>,
}

/// The number of a manifest, and its length in bytes.
type Manifest = (u64, u64);

/// So much of a manifest is read at most.
const READ_MAX: u64 = 64 << 20;

/// A manifest that has not grown for so long is on disk.
const SURE: Duration = Duration::from_secs(2);

fn manifest_line((number, length): Manifest, sum: u32) -> String {
    let digits = format!("{number:010} {length:020} {sum:08x}");
    format!("{digits} {:08x}\n", crc32fast::hash(digits.as_bytes()))
}

/// What the second line of the file says.
fn noted_manifest(bytes: &[u8]) -> Option<(Manifest, u32)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let found = (text.get(..10)?.parse().ok()?, text.get(11..31)?.parse().ok()?);
    let sum = u32::from_str_radix(text.get(32..40)?, 16).ok()?;
    (manifest_line(found, sum) == text).then_some((found, sum))
}

/// The CRC-32 of the first bytes of a manifest.
fn sum_of(store: &Dir, (number, length): Manifest) -> io::Result<u32> {
    let file = store.file(format!("db/MANIFEST-{number:06}"))?;
    let mut bytes = Vec::new();
    file.take(length.min(READ_MAX)).read_to_end(&mut bytes)?;
    Ok(crc32fast::hash(&bytes))
}

/// The manifest that a database uses.
fn manifest(store: &Dir) -> Option<Manifest> {
    let name = String::from_utf8(store.read("db/CURRENT").ok()?).ok()?;
    let number = name.trim_end().strip_prefix("MANIFEST-")?.parse().ok()?;
    Some((number, store.stat(format!("db/{}", name.trim_end())).ok()?.len()))
}

/// What is wrong with the manifest, in words.
pub fn manifest_cut(store: &Dir) -> Option<String> {
    let bytes = store.read(SYNCED).ok()?;
    let ((number, noted), sum) = noted_manifest(bytes.get(line(0).len()..)?)?;
    let length = manifest(store).filter(|found| found.0 == number)?.1;
    if length < noted {
        return Some(format!("the list of its files has {length} bytes and not {noted}"));
    }
    let whole = sum_of(store, (number, noted)).is_ok_and(|found| found == sum);
    (!whole).then(|| "the list of its files has a wrong checksum".to_owned())
}

fn line(upto: u64) -> String {
    let digits = format!("{upto:020}");
    format!("{digits} {:08x}\n", crc32fast::hash(digits.as_bytes()))
}

/// Reads the file of a store.
pub fn read(store: &Dir) -> io::Result<Noted> {
    let bytes = match store.read(SYNCED) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Noted::Nothing),
        Err(error) => return Err(error),
    };
    let upto = bytes.get(..20).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let length = line(0).len();
    let (first, second) = (bytes.get(..length).unwrap_or_default(), bytes.get(length..).unwrap_or_default());
    let whole = second.is_empty() || noted_manifest(second).is_some();
    Ok(upto.filter(|upto| whole && line(*upto).as_bytes() == first).map_or(Noted::Damaged, Noted::Upto))
}

impl Synced {
    /// Opens the file of a store, made when it is missing, and notes that changes up to `upto` are durable.
    pub fn open(store: &Dir, upto: u64) -> io::Result<Self> {
        let file = store.file_to_keep(SYNCED)?;
        let text = line(upto);
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_len(text.len() as u64)?;
        let looked = Mutex::new((Instant::now(), None, None));
        let synced = Self { store: store.clone(), file, upto: Mutex::new(upto), looked };
        synced.look_at_manifest(true);
        synced.file.sync_all()?;
        store.sync()?;
        Ok(synced)
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
        drop(before);
        self.look_at_manifest(false);
    }

    /// Notes how long the manifest is: when it is `sure` to be on disk, or has not grown for a while.
    pub fn look_at_manifest(&self, sure: bool) {
        let mut looked = self.looked.lock();
        if !sure && looked.0.elapsed() < SURE {
            return;
        }
        let found = manifest(&self.store);
        let stays = found.filter(|_| sure || found == looked.1);
        if let Some(found) = stays.filter(|found| sure || looked.2 != Some(*found)) {
            let written = sum_of(&self.store, found)
                .and_then(|sum| self.file.write_all_at(manifest_line(found, sum).as_bytes(), line(0).len() as u64));
            if let Err(error) = written {
                tracing::debug!(%error, "synced not written");
            }
        }
        *looked = (Instant::now(), found, stays);
    }
}

#[cfg(test)]
mod tests {
    use super::super::beneath::Trust;
    use super::*;

    #[test]
    fn it_says_what_was_noted_or_that_it_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let store = &Dir::open(dir.path(), Trust::Own).unwrap();
        assert_eq!(read(store).unwrap(), Noted::Nothing);
        let synced = Synced::open(store, 7).unwrap();
        assert_eq!(read(store).unwrap(), Noted::Upto(7));
        synced.note(u64::MAX);
        synced.note(9);
        assert_eq!(read(store).unwrap(), Noted::Upto(u64::MAX));
        drop(Synced::open(store, 3).unwrap());
        std::fs::create_dir(dir.path().join("db")).unwrap();
        std::fs::write(dir.path().join("db/CURRENT"), "MANIFEST-000007\n").unwrap();
        std::fs::write(dir.path().join("db/MANIFEST-000007"), "longer").unwrap();
        drop(Synced::open(store, 3).unwrap());
        assert_eq!(manifest_cut(store), None);
        std::fs::write(dir.path().join("db/MANIFEST-000007"), "short").unwrap();
        assert!(manifest_cut(store).is_some());
        std::fs::write(dir.path().join("db/MANIFEST-000007"), "lonGer").unwrap();
        assert!(manifest_cut(store).is_some());
        std::fs::write(dir.path().join("db/MANIFEST-000007"), "longer still").unwrap();
        assert_eq!(manifest_cut(store), None);
        let whole = std::fs::read(dir.path().join(SYNCED)).unwrap();
        assert_eq!(read(store).unwrap(), Noted::Upto(3));
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(dir.path().join(SYNCED), &bytes).unwrap();
            assert_eq!(read(store).unwrap(), Noted::Damaged);
            std::fs::write(dir.path().join(SYNCED), &whole[..at]).unwrap();
            let first = at == line(0).len();
            assert_eq!(read(store).unwrap(), if first { Noted::Upto(3) } else { Noted::Damaged });
        }
    }
}
