//! Each log line stays one line and does nothing to a terminal: what users named their files is in it.

use std::io::{self, Write};

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use super::super::text::{Escape, controls, push};

/// Gives lines on, escaped.
pub struct OneLine<W> {
    /// To whom.
    pub to: W,
    /// The subscriber writes colours.
    pub colours: bool,
    /// How it is escaped.
    pub escape: Escape,
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for OneLine<W> {
    type Writer = OneLine<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLine { to: self.to.make_writer(), colours: self.colours, escape: self.escape }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        OneLine { to: self.to.make_writer_for(meta), colours: self.colours, escape: self.escape }
    }
}

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match escaped(line, self.colours, self.escape) {
            Some(text) => self.to.write_all(text.as_bytes())?,
            None => self.to.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A line with what would begin another, or control a terminal, escaped, except for `colours`; `None` when there is nothing of
/// the kind in it.
fn escaped(line: &[u8], colours: bool, escape: Escape) -> Option<String> {
    let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line));
    if !text.contains(controls) {
        return None;
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for (at, c) in text.char_indices() {
        if colours && is_colour(&text[at..]) { shown.push(c) } else { push(&mut shown, c, escape) }
    }
    shown.push('\n');
    Some(shown)
}

/// Whether a text begins with what sets a colour.
fn is_colour(text: &str) -> bool {
    let numbers =
        text.strip_prefix("\x1b[").map(|text| text.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';'));
    numbers.is_some_and(|rest| rest.starts_with('m'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line() {
        let told = |line: &[u8]| escaped(line, false, Escape::Text);
        assert_eq!(told("INFO name=a b Ä\n".as_bytes()), None);
        assert_eq!(told(b"name=a\nERROR b\r\n").as_deref(), Some("name=a\\nERROR b\\r\n"));
        assert_eq!(told("\u{9b}31m\x07\x1b[31m\n".as_bytes()).as_deref(), Some("\\u{9b}31m\\u{7}\\u{1b}[31m\n"));
        assert_eq!(told("a\u{202e}b\n".as_bytes()).as_deref(), Some("a\\u{202e}b\n"));
    }

    #[test]
    fn colours_stay_where_they_are_wanted() {
        let line = b"\x1b[2;32mINFO\x1b[0m name=\x1b[2Ja\n";
        let told = escaped(line, true, Escape::Text);
        assert_eq!(told.as_deref(), Some("\x1b[2;32mINFO\x1b[0m name=\\u{1b}[2Ja\n"));
    }
}
