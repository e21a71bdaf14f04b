//! The mark of what comes from a queue. A broker gives messages back that were not acknowledged, or were and it forgot. The mark has
//! the newest identities that were enqueued, so that those are known when they come again.

use std::collections::VecDeque;

use super::super::digest::digest;

const IDENTITIES: &[u8] = b"mqfs-link identities 1\n";

/// The identities of the newest messages that were enqueued, as digests. One that is remembered is forgotten only when as many
/// newer ones have been enqueued as the capacity says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    key: [u64; 2],
    digests: VecDeque<u64>,
    capacity: usize,
}

impl Remembered {
    /// Nothing yet. The key should be random.
    pub fn new(key: [u64; 2], capacity: usize) -> Remembered {
        Remembered { key, digests: VecDeque::new(), capacity }
    }

    /// Reads a mark. `None` when it is of another kind.
    pub fn parse(mark: &[u8], capacity: usize) -> Option<Remembered> {
        let rest = mark.strip_prefix(IDENTITIES).filter(|rest| rest.len() >= 16 && rest.len().is_multiple_of(8))?;
        let mut words = rest.chunks_exact(8).map(|word| word.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
        let key = [words.next()?, words.next()?];
        let mut remembered = Remembered { key, digests: words.collect(), capacity };
        remembered.forget();
        Some(remembered)
    }

    /// Writes the mark that there will be when these are enqueued as well.
    pub fn render(&self) -> Vec<u8> {
        let mut mark = IDENTITIES.to_vec();
        self.key.iter().chain(&self.digests).for_each(|word| mark.extend(word.to_be_bytes()));
        mark
    }

    /// Whether it is remembered.
    pub fn has(&self, identity: &str) -> bool {
        let digest = digest(self.key, identity.as_bytes());
        self.digests.contains(&digest)
    }

    /// Remembers it.
    pub fn add(&mut self, identity: &str) {
        self.digests.push_back(digest(self.key, identity.as_bytes()));
        self.forget();
    }

    fn forget(&mut self) {
        while self.digests.len() > self.capacity {
            self.digests.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_identities_are_remembered() {
        let mut remembered = Remembered::new([1, 2], 3);
        for id in ["a", "b", "c", "d"] {
            assert!(!remembered.has(id));
            remembered.add(id);
        }
        let read = Remembered::parse(&remembered.render(), 3).unwrap();
        assert_eq!(read, remembered);
        assert!(!read.has("a") && read.has("b") && read.has("d"));
        let fewer = Remembered::parse(&remembered.render(), 1).unwrap();
        assert!(!fewer.has("c") && fewer.has("d"));
    }

    #[test]
    fn what_is_no_such_mark_is_not_taken_for_one() {
        let remembered = Remembered::new([1, 2], 3).render();
        assert!(Remembered::parse(&remembered, 3).is_some());
        for other in [&b""[..], b"7", b"mqfs-link identities 2\n0123456789abcdef", &remembered[..remembered.len() - 1]]
        {
            assert_eq!(Remembered::parse(other, 3), None);
        }
    }
}
