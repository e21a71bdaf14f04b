//! The line that one process has begun to write to `.mq/lines` and not finished.
//!
//! A write that was refused leaves a gap. Whether the writer tries again or goes on with what comes after is told by its next
//! bytes: the same again fill the gap; any others are behind it, and the line that it is in is dropped as a whole.

use crate::error::{Error, Result};
use crate::queue::worker::ProcessId;
use crate::store::Bodies;

use super::line_cut::newline;
use super::staging::Staging;

/// A line of one process that has no end yet.
#[derive(Debug)]
pub struct Part {
    /// The process; `None` when it is not visible from here.
    pub process: Option<ProcessId>,
    /// What there is of it.
    pub line: Staging,
    gap: Gap,
}

/// Whether bytes of the line are missing.
#[derive(Debug)]
enum Gap {
    /// No.
    None,
    /// A write of these bytes was refused.
    Refused {
        /// How many.
        length: usize,
        /// Their CRC-32.
        crc: u32,
        /// They end with a newline.
        ended: bool,
        /// Trying again is no use.
        for_good: bool,
    },
    /// Yes: what follows up to the next newline is the rest of a line that was dropped.
    Behind,
}

/// What is to be done with a write.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Take it.
    Take,
    /// So many bytes at its start belong to a line that was dropped. What is left of that line is to be dropped first.
    Skip(usize),
    /// It is refused once more.
    Refuse,
}

impl Part {
    /// Nothing begun: `line` is empty.
    pub fn new(process: Option<ProcessId>, line: Staging) -> Self {
        Self { process, line, gap: Gap::None }
    }

    /// It says nothing that a new one would not.
    pub fn is_blank(&self) -> bool {
        self.line.size() == 0 && matches!(self.gap, Gap::None)
    }

    /// It can become a message as it is.
    pub fn is_whole(&self) -> bool {
        self.line.size() > 0 && matches!(self.gap, Gap::None)
    }

    /// What the next write means.
    pub fn next(&mut self, data: &[u8]) -> Next {
        let skipped = |data| newline(data).map_or(data.len(), |end| end + 1);
        let again = |length, crc| data.len() >= length && crc32fast::hash(&data[..length]) == crc;
        match self.gap {
            Gap::None => Next::Take,
            Gap::Behind => Next::Skip(skipped(data)),
            Gap::Refused { length, crc, for_good, .. } if again(length, crc) => {
                if for_good {
                    return Next::Refuse;
                }
                self.gap = Gap::None;
                Next::Take
            }
            Gap::Refused { ended: true, .. } => Next::Skip(0),
            Gap::Refused { .. } => Next::Skip(skipped(data)),
        }
    }

    /// So many bytes of `data` were skipped: the next line begins, or the dropped one is not at its end yet.
    pub fn skipped(&mut self, data: &[u8], count: usize) {
        let ended = count == 0 || data[count - 1] == b'\n';
        self.gap = if ended { Gap::None } else { Gap::Behind };
    }

    /// A write was refused.
    pub fn refused(&mut self, data: &[u8], error: &Error) {
        self.gap = Gap::Refused {
            length: data.len(),
            crc: crc32fast::hash(data),
            ended: data.ends_with(b"\n"),
            for_good: matches!(error, Error::MessageTooLarge),
        };
    }

    /// Adds bytes, all or nothing.
    pub fn append(&mut self, bodies: &Bodies, data: &[u8]) -> Result<()> {
        if data.is_empty() { Ok(()) } else { self.line.write_at(bodies, self.line.size(), data) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_again_fill_the_gap_and_others_are_behind_it() {
        let refused = |data: &[u8], error| {
            let mut part = Part::new(None, Staging::new(1));
            part.refused(data, &error);
            part
        };
        let next = |data: &[u8], then: &[u8]| refused(data, Error::NoSpace).next(then);
        assert_eq!(next(b"ab\ncd", b"ab\ncd"), Next::Take);
        assert_eq!(next(b"ab\ncd", b"ab\ncd\nmore"), Next::Take);
        assert_eq!(next(b"ab\ncd", b"ef\ngh\n"), Next::Skip(3));
        assert_eq!(next(b"ab\ncd", b"ab"), Next::Skip(2), "less than was refused");
        assert_eq!(next(b"ab\n", b"ef\ngh\n"), Next::Skip(0));
        assert_eq!(refused(b"ab", Error::MessageTooLarge).next(b"ab"), Next::Refuse);
        assert_eq!(refused(b"ab", Error::MessageTooLarge).next(b"c\nd"), Next::Skip(2));

        let mut part = refused(b"ab", Error::NoSpace);
        part.skipped(b"cd", 2);
        assert_eq!(part.next(b"ef"), Next::Skip(2), "still behind it");
        part.skipped(b"ef\n", 3);
        assert_eq!(part.next(b"g"), Next::Take);
        assert!(part.is_blank());
    }
}
