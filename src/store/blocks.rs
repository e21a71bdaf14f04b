//! Blocks of body files that were read and compared lately, for whoever reads a few bytes at a time and comes for the rest: shared
//! by all readers, so that nobody who has files open keeps one.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::sums::BLOCK;

/// What all of them take at most: 16 MiB. When more readers than there are blocks read a few bytes at a time, each reads a whole
/// block for them.
const MOST: usize = (16 << 20) / BLOCK;

/// The blocks. A body never gets other bytes once it can be read.
#[derive(Debug, Default)]
pub struct Blocks(Mutex<VecDeque<Block>>);

#[derive(Debug)]
struct Block {
    /// The numbers of the body, and of the block in it.
    of: (u64, u64),
    bytes: Arc<Vec<u8>>,
}

impl Blocks {
    /// A block that is there. `last`: nobody is expected to come for it again.
    pub fn get(&self, body: u64, block: u64, last: bool) -> Option<Arc<Vec<u8>>> {
        let mut blocks = self.0.lock();
        let at = blocks.iter().position(|found| found.of == (body, block))?;
        let found = blocks.remove(at)?;
        let bytes = found.bytes.clone();
        if !last {
            blocks.push_back(found);
        }
        Some(bytes)
    }

    /// Keeps a block; the one that was not asked for longest makes way.
    pub fn keep(&self, body: u64, block: u64, bytes: Arc<Vec<u8>>) {
        let mut blocks = self.0.lock();
        if blocks.iter().any(|found| found.of == (body, block)) {
            return;
        }
        if blocks.len() == MOST {
            blocks.pop_front();
        }
        blocks.push_back(Block { of: (body, block), bytes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_asked_for_lately_stay_and_there_are_so_many_at_most() {
        let blocks = Blocks::default();
        for n in 0..2 * MOST as u64 {
            blocks.keep(1, n, Arc::new(vec![n as u8]));
            assert_eq!(blocks.get(1, 0, false).unwrap()[..], [0]);
        }
        assert_eq!(blocks.0.lock().len(), MOST);
        assert!(blocks.get(1, 1, false).is_none() && blocks.get(2, 0, false).is_none());
        assert!(blocks.get(1, 0, true).is_some() && blocks.get(1, 0, true).is_none());
    }
}
