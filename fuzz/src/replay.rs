//! The properties of the committed inputs, and of some thousand that are made of them.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::ALL;

/// So many inputs are made for each property.
const MADE: usize = 3000;
/// No longer than this, in bytes.
const LONGEST: usize = 600;

/// Where the inputs of a target are.
fn corpus(target: &str) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    [manifest.join("fuzz/corpus"), manifest.join("corpus")]
        .iter()
        .map(|all| all.join(target))
        .find(|dir| dir.is_dir())
        .unwrap_or_else(|| panic!("no corpus of {target}"))
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit.max(1)
    }

    /// An input with a few changes: other bytes, a part left out or twice, or the end of another.
    fn change(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(input.len() + 1);
            let end = at + self.below(input.len() - at + 1);
            match self.below(6) {
                0 if at < input.len() => input[at] = self.below(256) as u8,
                1 if at < input.len() => input[at] ^= 1 << self.below(8),
                2 => input.insert(at, self.below(256) as u8),
                3 => drop(input.drain(at..end)),
                4 => {
                    let part = input[at..end].to_vec();
                    input.splice(at..at, part);
                }
                _ => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len() + 1);
                    input.truncate(at);
                    input.extend_from_slice(&other[from..]);
                }
            }
            input.truncate(LONGEST);
        }
        input
    }
}

#[test]
fn every_property_holds_of_the_corpus_and_of_random_inputs() {
    let seed = std::env::var("MQFS_TEST_SEED").map_or(0x6d71_6673, |text| text.parse().expect("MQFS_TEST_SEED"));
    println!("MQFS_TEST_SEED={seed}");
    for (target, property) in ALL {
        let entries = fs::read_dir(corpus(target)).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        assert!(!seeds.is_empty(), "the corpus of {target} is empty");
        let mut random = Random(seed | 1);
        let made: Vec<Vec<u8>> = (0..MADE).map(|_| random.change(&seeds)).collect();
        for input in seeds.iter().chain(&made) {
            let held = catch_unwind(AssertUnwindSafe(|| property(input)));
            assert!(held.is_ok(), "{target} does not hold of \"{}\"", input.escape_ascii());
        }
    }
}
