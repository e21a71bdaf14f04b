//! A write to `.mq/lines`, cut into lines.

use crate::error::{Error, Result};

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

/// Where the first newline is.
pub fn newline(data: &[u8]) -> Option<usize> {
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
}
