//! A text that is put together once and of which each reader is shown a part.
//!
//! It consists of families of lines, one line or a few for each queue. What is shown to a reader are pieces of it, those of the
//! queues that the reader may know: so the text of many queues is there once, however many read it and however different what
//! they may know is.

use std::sync::{Arc, Weak};

use crate::error::{Error, Result};

/// Which queues the lines of a family are shown of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Those that the reader may read.
    Readable,
    /// Those that the reader finds, and may not read.
    Listed,
}

/// A family, or a part of one.
#[derive(Debug)]
struct Family {
    lines: Lines,
    /// Where its heading begins; it is there for everybody.
    begin: usize,
    /// Where the lines of each queue begin, and behind them where those of the last one end.
    starts: Vec<u32>,
}

/// The whole text.
#[derive(Debug, Default)]
pub struct Rendering {
    text: String,
    families: Vec<Family>,
}

/// A run of bytes of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    /// Where it is in what is shown.
    at: u64,
    from: usize,
    to: usize,
}

/// What is shown to a reader.
#[derive(Debug)]
pub struct Excerpt {
    of: Weak<Rendering>,
    pieces: Vec<Piece>,
    /// What is the reader's own, behind the pieces.
    own: String,
    /// The length of the pieces.
    length: u64,
}

impl Rendering {
    /// More of the text, which is shown to everybody.
    pub fn text(&mut self) -> &mut String {
        &mut self.text
    }

    /// Begins a family, with what the text has got since the last one as its heading.
    pub fn begin(&mut self, lines: Lines) {
        let begin = self.families.last().map_or(0, |family| family.starts.last().map_or(0, |end| *end as usize));
        self.families.push(Family { lines, begin, starts: vec![self.end()] });
    }

    /// The lines of the next queue end here.
    pub fn next(&mut self) {
        let end = self.end();
        if let Some(family) = self.families.last_mut() {
            family.starts.push(end);
        }
    }

    /// Of so many queues and so long names it is not: there is a limit to both.
    fn end(&self) -> u32 {
        u32::try_from(self.text.len()).unwrap_or(u32::MAX)
    }

    /// What it takes in memory, in bytes.
    pub fn memory(&self) -> usize {
        let starts = self.families.iter().map(|family| family.starts.capacity() * size_of::<u32>()).sum::<usize>();
        self.text.capacity() + starts
    }

    /// What is shown to a reader to whom `shown` shows the lines of the queue of that place, and `own` in addition.
    pub fn view(self: &Arc<Self>, shown: impl Fn(usize, Lines) -> bool, own: String) -> Excerpt {
        let mut view = Excerpt { of: Arc::downgrade(self), pieces: Vec::new(), own, length: 0 };
        for family in &self.families {
            let starts = &family.starts;
            view.add(family.begin, starts.first().map_or(0, |first| *first as usize));
            for (queue, lines) in starts.windows(2).enumerate() {
                if shown(queue, family.lines) {
                    view.add(lines[0] as usize, lines[1] as usize);
                }
            }
        }
        view
    }
}

impl Excerpt {
    fn add(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        match self.pieces.last_mut() {
            Some(last) if last.to == from => last.to = to,
            _ => self.pieces.push(Piece { at: self.length, from, to }),
        }
        self.length += (to - from) as u64;
    }

    /// How many bytes are shown.
    pub fn len(&self) -> u64 {
        self.length + self.own.len() as u64
    }

    /// What it takes in memory besides the text, in bytes.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.pieces.capacity() * size_of::<Piece>() + self.own.capacity()
    }

    /// Calls `with` with at most `size` bytes from `offset` on. [`Error::Stale`] when the text is not kept any more.
    pub fn read(&self, offset: u64, size: usize, with: impl FnOnce(&[u8])) -> Result<()> {
        let rendering = self.of.upgrade().ok_or(Error::Stale)?;
        let text = rendering.text.as_bytes();
        let first = self.pieces.partition_point(|piece| piece.at + (piece.to - piece.from) as u64 <= offset);
        let pieces = self.pieces[first..].iter().map(|piece| (piece.at, &text[piece.from..piece.to]));
        let pieces = pieces.chain([(self.length, self.own.as_bytes())]);
        let mut gathered: Vec<u8> = Vec::new();
        for (at, bytes) in pieces {
            let skip = usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
            let bytes = &bytes[skip..];
            if gathered.is_empty() && bytes.len() >= size {
                with(&bytes[..size]);
                return Ok(());
            }
            gathered.extend_from_slice(&bytes[..bytes.len().min(size - gathered.len())]);
            if gathered.len() == size {
                break;
            }
        }
        with(&gathered);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Arc<Rendering> {
        let mut rendering = Rendering::default();
        rendering.text().push_str("mount\n# a\n");
        rendering.begin(Lines::Readable);
        for line in ["a0\n", "", "a2\na2\n"] {
            rendering.text().push_str(line);
            rendering.next();
        }
        rendering.begin(Lines::Listed);
        for line in ["l0\n", "l1\n", "l2\n"] {
            rendering.text().push_str(line);
            rendering.next();
        }
        rendering.text().push_str("# b\n");
        rendering.begin(Lines::Readable);
        for line in ["b0\n", "b1\n", "b2\n"] {
            rendering.text().push_str(line);
            rendering.next();
        }
        Arc::new(rendering)
    }

    fn whole(view: &Excerpt) -> String {
        let mut all = String::new();
        view.read(0, usize::MAX, |bytes| all = String::from_utf8(bytes.to_vec()).unwrap()).unwrap();
        assert_eq!(view.len(), all.len() as u64);
        for size in 1..=all.len() {
            let mut pieces = String::new();
            while pieces.len() < all.len() {
                let at = pieces.len() as u64;
                view.read(at, size, |bytes| pieces.push_str(std::str::from_utf8(bytes).unwrap())).unwrap();
            }
            assert_eq!(pieces, all, "{size} at a time");
        }
        view.read(view.len(), 10, |bytes| assert!(bytes.is_empty())).unwrap();
        view.read(u64::MAX, 10, |bytes| assert!(bytes.is_empty())).unwrap();
        all
    }

    #[test]
    fn everybody_is_shown_their_own_part_of_one_text() {
        let rendering = sample();
        let all = rendering.view(|_, lines| lines == Lines::Readable, "own\n".into());
        assert_eq!(whole(&all), "mount\n# a\na0\na2\na2\n# b\nb0\nb1\nb2\nown\n");
        assert_eq!(all.pieces.len(), 2, "all that is next to each other is one piece");
        let some = rendering.view(
            |queue, lines| match lines {
                Lines::Readable => queue == 2,
                Lines::Listed => queue == 1,
            },
            String::new(),
        );
        assert_eq!(whole(&some), "mount\n# a\na2\na2\nl1\n# b\nb2\n");
        let none = rendering.view(|_, _| false, "own\n".into());
        assert_eq!(whole(&none), "mount\n# a\n# b\nown\n");
        drop(rendering);
        assert!(matches!(all.read(0, 1, |_| ()), Err(Error::Stale)));
    }
}
