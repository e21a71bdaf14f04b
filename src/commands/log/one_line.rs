//! Each log line stays one line and does nothing to a terminal: what users named their files is in it. One that a user causes
//! has a bounded length.

use std::io::{self, Write};

use serde_json::Value;
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use super::super::text::{Escape, controls, json, push};
use crate::on_behalf;

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
        let escaped = escaped(line, self.colours, self.escape);
        let text = escaped.as_ref().map_or(line, |text| text.as_bytes());
        match on_behalf::user().and_then(|_| cut(text, self.escape)) {
            Some(text) => self.to.write_all(text.as_bytes())?,
            None => self.to.write_all(text)?,
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

/// A line that a user causes is no longer than this, in bytes.
const LONGEST: usize = 1024;
/// What stands for the rest.
const CUT: &str = "...";

/// A line without what makes it too long; `None` when it is not. One of JSON stays JSON: its longest texts are shortened.
fn cut(line: &[u8], escape: Escape) -> Option<String> {
    if line.len() <= LONGEST {
        return None;
    }
    let text = String::from_utf8_lossy(line);
    if escape == Escape::Json
        && let Ok(mut value) = serde_json::from_str::<Value>(&text)
    {
        while let Some(longest) = longest(&mut value) {
            let half = boundary(longest, longest.len() / 2);
            longest.truncate(half);
            longest.push_str(CUT);
            match json(&value) {
                Ok(shown) if shown.len() < LONGEST => return Some(shown + "\n"),
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    let end = boundary(&text, LONGEST - CUT.len() - 1);
    Some(format!("{}{CUT}\n", &text[..end]))
}

/// The last place where a text can be cut, up to `at`.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// The longest of the texts in a value that can be shortened.
fn longest(value: &mut Value) -> Option<&mut String> {
    let found = match value {
        Value::String(text) => Some(text),
        Value::Object(members) => members.values_mut().filter_map(longest).max_by_key(|text| text.len()),
        Value::Array(items) => items.iter_mut().filter_map(longest).max_by_key(|text| text.len()),
        _ => None,
    };
    found.filter(|text| text.len() > 4 * CUT.len())
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
    fn a_line_that_a_user_causes_is_cut_and_json_stays_json() {
        assert_eq!(cut(&[b'x'; LONGEST], Escape::Text), None);
        let line = format!("INFO name={} queue=q\n", "ä\\u{1b}".repeat(1000));
        let shown = cut(line.as_bytes(), Escape::Text).unwrap();
        assert!(shown.len() <= LONGEST && shown.ends_with("...\n") && shown.starts_with("INFO name=ä"), "{shown}");
        let fields =
            serde_json::json!({"name": "\u{9b}ä\"".repeat(1000), "queue": "q".repeat(3000), "message": "refused"});
        let line = json(&serde_json::json!({"level": "INFO", "fields": fields})).unwrap() + "\n";
        let shown = cut(line.as_bytes(), Escape::Json).unwrap();
        assert!(shown.len() <= LONGEST && shown.ends_with("}\n"), "{shown}");
        let value: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(value["fields"]["message"], "refused");
        assert!(value["fields"]["name"].as_str().unwrap().starts_with("\u{9b}ä\""));
        // One that another library has written.
        assert_eq!(cut(&[b'x'; 2000], Escape::Json).unwrap().len(), LONGEST);
    }

    #[test]
    fn colours_stay_where_they_are_wanted() {
        let line = b"\x1b[2;32mINFO\x1b[0m name=\x1b[2Ja\n";
        let told = escaped(line, true, Escape::Text);
        assert_eq!(told.as_deref(), Some("\x1b[2;32mINFO\x1b[0m name=\\u{1b}[2Ja\n"));
    }
}
