//! Reading what is left of a damaged database.

use std::path::Path;

use rocksdb::{DB, Options, ReadOptions};

use crate::error::{Error, Result};

use super::db::{Db, Family, db_error};

/// A key that is no key of the store's: see [`Db::salvage`].
const PLANTED: &[u8] = b"\0planted by mqfs check";

impl Db {
    /// Calls `each` with every entry of a family that can be read, in order, and `gap` for each place where some cannot: from
    /// which key on (inclusive), and up to which (exclusive) or to the end.
    pub fn read_all(
        &self,
        family: Family,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<()>,
        mut gap: impl FnMut(Error, &[u8], Option<&[u8]>),
    ) -> Result<()> {
        let mut from = Vec::new();
        loop {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            let mut iterator = self.db.raw_iterator_cf_opt(self.handle(family), options);
            iterator.seek(&from);
            while let Some((key, value)) = iterator.item() {
                each(key, value)?;
                from = [key, b"\0"].concat();
                iterator.next();
            }
            let Err(error) = iterator.status() else { return Ok(()) };
            let next = self.behind(family, &from);
            gap(db_error(error), &from, next.as_deref());
            match next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// A place behind the damage at `from` from which the family can be read again: as near to it as can be found quickly. Keys
    /// are taken for numbers of 16 bytes, and the places looked at are further and further away, and then nearer and nearer.
    fn behind(&self, family: Family, from: &[u8]) -> Option<Vec<u8>> {
        let mut padded = [0; 16];
        let length = from.len().min(16);
        padded[..length].copy_from_slice(&from[..length]);
        let mut damaged = u128::from_be_bytes(padded);
        let readable = |place: u128| {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            let mut iterator = self.db.raw_iterator_cf_opt(self.handle(family), options);
            iterator.seek(place.to_be_bytes());
            iterator.status().is_ok()
        };
        let mut step = 1u128;
        let mut whole = loop {
            let place = damaged.checked_add(step)?;
            if readable(place) {
                break place;
            }
            damaged = place;
            step = step.checked_mul(2)?;
        };
        while whole - damaged > 1 {
            let middle = damaged + (whole - damaged) / 2;
            if readable(middle) { whole = middle } else { damaged = middle }
        }
        Some(whole.to_be_bytes().to_vec())
    }

    /// Has RocksDB make the best of the files in `dir` when they cannot be opened. `scratch` is a directory that is not there.
    ///
    /// It learns of a column family from a table of it, and drops what the log has for one of which there is no table. So a
    /// table of each is planted: the families of any of our databases are made in the same order and have the same numbers.
    pub fn salvage(dir: &Path, scratch: &Path) -> Result<()> {
        let planted = Db::open(scratch, true).map_err(db_error)?;
        for family in Family::ALL {
            planted.db.put_cf(planted.handle(family), PLANTED, b"").map_err(db_error)?;
        }
        planted.flush()?;
        let tables = planted.db.live_files().map_err(db_error)?;
        drop(planted);
        let number = |name: &str| name.split('.').next()?.trim_start_matches("MANIFEST-").parse::<u64>().ok();
        let taken = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let last = taken.filter_map(|entry| number(entry.file_name().to_str()?)).max().unwrap_or(0);
        for (table, free) in tables.iter().zip(last + 1..) {
            let from = scratch.join(table.name.trim_start_matches('/'));
            std::fs::copy(from, dir.join(format!("{free:06}.sst")))?;
        }
        let mut options = Options::default();
        options.create_if_missing(true);
        DB::repair(&options, dir).map_err(db_error)
    }

    /// Whether a key was planted by [`Db::salvage`].
    pub fn is_planted(key: &[u8]) -> bool {
        key == PLANTED
    }
}
