//! The checksums of a body file in the database. Whoever reads a file asks for those of one block at a time, so that nobody has to
//! keep them: they are [`TOGETHER`] under one key, and what was read lately is in the database's cache, for all readers.
//!
//! | key | value |
//! |---|---|
//! | `x` body | 1, and all of them: up to [`TOGETHER`], and in stores that were older than format 4 any number; |
//! | | or 2, and the first [`TOGETHER`] of more |
//! | `y` body part | [`TOGETHER`] of the others, the last part fewer; parts count from 1 |

use crate::error::{Error, Result};

use super::db::{Batch, Db, Family};
use super::keys;
use super::sums::{BLOCK, Sums};

/// So many checksums are kept under one key: those of 128 MiB.
pub const TOGETHER: usize = 1024;

const ALL: u8 = 1;
const FIRST: u8 = 2;

/// How the checksums of a body are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Under one key.
    Together,
    /// In parts.
    InParts,
}

fn damaged() -> Error {
    Error::Damaged("checksums of a body file".into())
}

fn number(sum: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(sum.try_into().ok()?))
}

fn blocks(size: u64) -> u64 {
    size.div_ceil(BLOCK as u64)
}

/// The numbers of the parts that a body of that length can have, besides the first.
fn parts(size: u64) -> std::ops::Range<u64> {
    1..blocks(size).div_ceil(TOGETHER as u64).max(1)
}

/// Adds to a change: a body file has these checksums.
pub fn put(batch: &mut Batch<'_>, body: u64, sums: &Sums) {
    let mut parts = sums.all().chunks(TOGETHER);
    let encoded = |form: Option<u8>, sums: &[u32]| {
        let mut bytes = Vec::with_capacity(1 + 4 * sums.len());
        bytes.extend(form);
        sums.iter().for_each(|sum| bytes.extend(sum.to_be_bytes()));
        bytes
    };
    let first = parts.next().unwrap_or_default();
    let form = if parts.len() == 0 { ALL } else { FIRST };
    batch.put(Family::Meta, &keys::body_sums(body), &encoded(Some(form), first));
    for (part, sums) in (1..).zip(parts) {
        batch.put(Family::Meta, &keys::body_sums_part(body, part), &encoded(None, sums));
    }
}

/// Adds to a change: the checksums of a body of that length vanish.
pub fn delete(batch: &mut Batch<'_>, body: u64, size: u64) {
    batch.delete(Family::Meta, &keys::body_sums(body));
    for part in parts(size) {
        batch.delete(Family::Meta, &keys::body_sums_part(body, part));
    }
}

/// How the checksums of a body of that length are kept; `None`: it was enqueued by a version that had none. [`Error::Damaged`] when
/// they are those of another length.
pub fn form(db: &Db, body: u64, size: u64) -> Result<Option<Form>> {
    let Some(found) = db.get(Family::Meta, &keys::body_sums(body))? else { return Ok(None) };
    match found.split_first() {
        Some((&ALL, sums)) if sums.len() as u64 == 4 * blocks(size) => Ok(Some(Form::Together)),
        Some((&FIRST, sums)) if sums.len() == 4 * TOGETHER && blocks(size) > TOGETHER as u64 => Ok(Some(Form::InParts)),
        _ => Err(damaged()),
    }
}

/// The checksum of a block.
pub fn of_block(db: &Db, body: u64, form: Form, block: u64) -> Result<u32> {
    let (part, at) = match form {
        Form::Together => (0, block),
        Form::InParts => (block / TOGETHER as u64, block % TOGETHER as u64),
    };
    let found = match part {
        0 => db.get(Family::Meta, &keys::body_sums(body))?,
        part => db.get(Family::Meta, &keys::body_sums_part(body, part))?,
    };
    let start = 4 * usize::try_from(at).map_err(|_| damaged())? + usize::from(part == 0);
    let sum = found.as_ref().and_then(|found| found.get(start..start + 4)).and_then(number);
    sum.ok_or_else(damaged)
}

/// All checksums of a body of that length that has some.
pub fn all(db: &Db, body: u64, form: Form, size: u64) -> Result<Sums> {
    let mut sums = Vec::new();
    let mut add = |found: &[u8]| sums.extend(found.chunks_exact(4).filter_map(number));
    add(db.get(Family::Meta, &keys::body_sums(body))?.ok_or_else(damaged)?.get(1..).unwrap_or_default());
    if form == Form::InParts {
        for part in parts(size) {
            add(&db.get(Family::Meta, &keys::body_sums_part(body, part))?.ok_or_else(damaged)?);
        }
    }
    if sums.len() as u64 == blocks(size) { Ok(Sums::of(sums)) } else { Err(damaged()) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{keys_in, open};
    use super::*;

    #[test]
    fn every_block_has_its_own_whatever_the_length() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let before = keys_in(&store, Family::Meta);
        for count in [0, 1, TOGETHER - 1, TOGETHER, TOGETHER + 1, 3 * TOGETHER, 3 * TOGETHER + 7] {
            let size = (count * BLOCK) as u64;
            let sums = Sums::of((0..count as u32).map(|n| n.wrapping_mul(0x9e37_79b9)).collect());
            let mut batch = store.db.batch();
            put(&mut batch, 7, &sums);
            store.db.write(batch).unwrap();
            let form = form(&store.db, 7, size).unwrap().unwrap();
            assert_eq!(form == Form::InParts, count > TOGETHER);
            for (block, sum) in sums.all().iter().enumerate() {
                assert_eq!(of_block(&store.db, 7, form, block as u64).unwrap(), *sum, "{block} of {count}");
            }
            assert!(matches!(of_block(&store.db, 7, form, count as u64), Err(Error::Damaged(_))), "{count}");
            assert_eq!(all(&store.db, 7, form, size).unwrap(), sums);
            for other in [size.saturating_sub(BLOCK as u64), size + 1] {
                let fits =
                    super::form(&store.db, 7, other).is_ok_and(|form| all(&store.db, 7, form.unwrap(), other).is_ok());
                assert!(!fits || other == size, "{other} of {size}");
            }
            let mut batch = store.db.batch();
            delete(&mut batch, 7, size);
            store.db.write(batch).unwrap();
            assert_eq!(keys_in(&store, Family::Meta), before);
        }
    }

    /// As versions before this one have kept those of large bodies.
    #[test]
    fn any_number_under_one_key_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let count = 2 * TOGETHER + 1;
        let sums: Vec<u8> = (0..count as u32).flat_map(u32::to_be_bytes).collect();
        let mut batch = store.db.batch();
        batch.put(Family::Meta, &keys::body_sums(7), &[&[ALL], &sums[..]].concat());
        store.db.write(batch).unwrap();
        let size = (count * BLOCK) as u64;
        assert_eq!(form(&store.db, 7, size).unwrap(), Some(Form::Together));
        assert_eq!(of_block(&store.db, 7, Form::Together, count as u64 - 1).unwrap(), count as u32 - 1);
        assert_eq!(all(&store.db, 7, Form::Together, size).unwrap().all().len(), count);
    }
}
