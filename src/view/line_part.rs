//! The line that one process has begun to write to `.mq/lines` and not finished.
//!
//! A write that was refused leaves a gap. Whether the writer tries again or goes on with what comes after is told by its next
//! bytes: the same again fill the gap; any others are behind it, and the line that it is in is dropped as a whole.

use crate::error::{Error, Result};
use crate::queue::worker::ProcessId;
use crate::store::Bodies;

use super::staging::Staging;

/// At most so many lines are taken from one write; the writer is told how far that goes and writes the rest again.
pub const LINES_AT_ONCE: usize = 512;

/// What is taken from a write at once.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut<'a> {
    /// Whole lines with their newlines. The first one goes on with the line that was begun before.
    pub lines: Vec<&'a [u8]>,
    /// The beginning of the next line; empty when more lines follow than are taken.
    pub rest: &'a [u8],
}

fn newline(data: &[u8]) -> Option<usize> {
    data.iter().position(|byte| *byte == b'\n')
}

impl<'a> Cut<'a> {
    /// Cuts after each newline. `begun`: the length of the line that was begun before. Ends before the first line that is
    /// longer than `longest` (0: any length goes), and refuses when nothing is before that.
    pub fn new(data: &'a [u8], begun: u64, longest: u64) -> Result<Self> {
        let mut lines = Vec::new();
        let mut rest = data;
        let mut before = begun;
        let fits = |length: usize, before: u64| longest == 0 || before + length as u64 <= longest;
        while let Some(end) = newline(rest) {
            let (line, behind) = rest.split_at(end + 1);
            if lines.len() == LINES_AT_ONCE || !fits(line.len(), before) {
                return Self::of(lines, &[], line);
            }
            lines.push(line);
            (rest, before) = (behind, 0);
        }
        if fits(rest.len(), before) { Ok(Self { lines, rest }) } else { Self::of(lines, &[], rest) }
    }

    /// `refused` is not taken.
    fn of(lines: Vec<&'a [u8]>, rest: &'a [u8], refused: &[u8]) -> Result<Self> {
        if lines.is_empty() && !refused.is_empty() { Err(Error::MessageTooLarge) } else { Ok(Self { lines, rest }) }
    }

    /// Takes only the first `count` lines.
    pub fn shorten(&mut self, count: usize) {
        if count < self.lines.len() {
            self.lines.truncate(count);
            self.rest = &[];
        }
    }

    /// How many bytes are taken.
    pub fn length(&self) -> usize {
        self.lines.iter().map(|line| line.len()).sum::<usize>() + self.rest.len()
    }
}

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
    /// Nothing begun. `id` is the number that a body file would get.
    pub fn new(process: Option<ProcessId>, id: u64) -> Self {
        Self { process, line: Staging::new(id), gap: Gap::None }
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

    fn cut(data: &str, begun: u64, longest: u64) -> Option<(Vec<&str>, &str)> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        let cut = Cut::new(data.as_bytes(), begun, longest).ok()?;
        Some((cut.lines.into_iter().map(text).collect(), text(cut.rest)))
    }

    #[test]
    fn lines_end_with_their_newlines() {
        assert_eq!(cut("", 0, 0), Some((vec![], "")));
        assert_eq!(cut("a", 0, 0), Some((vec![], "a")));
        assert_eq!(cut("a\n\nbc\nd", 9, 0), Some((vec!["a\n", "\n", "bc\n"], "d")));
        assert_eq!(cut("\n", 9, 0), Some((vec!["\n"], "")));
    }

    #[test]
    fn what_is_too_long_is_refused_and_what_is_before_it_is_taken() {
        assert_eq!(cut("abc\n", 0, 4), Some((vec!["abc\n"], "")));
        assert_eq!(cut("abcd\n", 0, 4), None);
        assert_eq!(cut("a\n", 3, 4), None, "with what was begun");
        assert_eq!(cut("a\nabcd\nb\n", 0, 4), Some((vec!["a\n"], "")));
        assert_eq!(cut("a\nabcde", 3, 5), Some((vec!["a\n"], "abcde")), "the begun line ended");
        assert_eq!(cut("a\nabcdef", 3, 5), Some((vec!["a\n"], "")));
        assert_eq!(cut("ab", 3, 4), None);
    }

    #[test]
    fn one_write_is_not_taken_without_end() {
        let data = "x\n".repeat(LINES_AT_ONCE) + "y";
        let all = Cut::new(data.as_bytes(), 0, 0).unwrap();
        assert_eq!((all.lines.len(), all.rest, all.length()), (LINES_AT_ONCE, &b"y"[..], data.len()));
        let more = data + "\nz";
        let part = Cut::new(more.as_bytes(), 0, 0).unwrap();
        assert_eq!((part.lines.len(), part.rest, part.length()), (LINES_AT_ONCE, &b""[..], 2 * LINES_AT_ONCE));
    }

    #[test]
    fn the_same_bytes_again_fill_the_gap_and_others_are_behind_it() {
        let refused = |data: &[u8], error| {
            let mut part = Part::new(None, 1);
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
