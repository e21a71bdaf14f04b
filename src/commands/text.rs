//! Text for people: what users named their files is in it, and it goes to terminals and logs. All that the commands say goes
//! through here, but for what the programs say that they run.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::Value;

/// What a character that does not stay as it is becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// As Rust writes it: `\n`, `\u{1b}`.
    Text,
    /// As JSON has it within a string: `\u001b`.
    Json,
}

/// Text that stays on its line and does nothing to a terminal, nor to the order in which it is read.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    text.chars().for_each(|c| push(&mut shown, c, Escape::Text));
    shown
}

/// Adds a character, escaped where [`controls`] says so.
pub fn push(text: &mut String, c: char, escape: Escape) {
    match escape {
        _ if !controls(c) => text.push(c),
        Escape::Text => text.extend(c.escape_default()),
        // Each of them is one UTF-16 unit.
        Escape::Json => text.push_str(&format!("\\u{:04x}", u32::from(c))),
    }
}

/// Whether a character controls a terminal (C0, DEL, C1), ends a line, or changes the order in which others are shown, so that
/// a name looks like another.
pub fn controls(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A value as JSON on one line. What controls a terminal is escaped in it, as JSON escapes only some of that; who reads it gets the
/// same text.
pub fn json(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(value).map(escape_json)
}

/// As [`json`], on several lines for people.
pub fn json_for_people(value: &Value) -> String {
    escape_json(format!("{value:#}\n"))
}

/// Ends of lines are left: JSON has none within a text.
fn escape_json(text: String) -> String {
    let unsafe_in_it = |c: char| c != '\n' && controls(c);
    if !text.contains(unsafe_in_it) {
        return text;
    }
    let mut shown = String::with_capacity(text.len() + 16);
    text.chars().for_each(|c| if unsafe_in_it(c) { push(&mut shown, c, Escape::Json) } else { shown.push(c) });
    shown
}

/// Writes a line to standard output, printable.
pub fn print_line(line: &str) -> io::Result<()> {
    print(&(printable(line) + "\n"))
}

/// Writes lines to standard output, printable but for their ends.
pub fn print(lines: &str) -> io::Result<()> {
    let shown: Vec<String> = lines.split('\n').map(printable).collect();
    let mut out = io::stdout().lock();
    out.write_all(shown.join("\n").as_bytes())?;
    out.flush()
}

/// Writes names to standard output, each on a line: as they are for a program, printable for a terminal.
pub fn print_names<'a>(names: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
    let terminal = io::stdout().is_terminal();
    let mut out = io::stdout().lock();
    for name in names {
        match terminal {
            true => out.write_all(printable(&String::from_utf8_lossy(name)).as_bytes())?,
            false => out.write_all(name)?,
        }
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Where many lines of [`json`] go.
pub fn output_for_json() -> impl Write {
    io::stdout().lock()
}

/// Writes a line to standard error, printable. There is nobody to tell when that is gone.
pub fn complain(line: &str) {
    drop(writeln!(io::stderr(), "{}", complaint(line)));
}

/// A line as [`complain`] writes it.
pub fn complaint(line: &str) -> String {
    printable(&format!("mqfs: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_nothing_to_a_terminal() {
        assert_eq!(printable("a\n\u{1b}[2Jä"), "a\\n\\u{1b}[2Jä");
        assert_eq!(printable("\u{7f}\u{9b}2J"), "\\u{7f}\\u{9b}2J");
        assert_eq!(printable("x\u{202e}gpj.exe\u{2066}\u{200f}"), "x\\u{202e}gpj.exe\\u{2066}\\u{200f}");
        assert_eq!(printable("größe 例 🦀 a\u{301}"), "größe 例 🦀 a\u{301}");
    }

    #[test]
    fn json_stays_json() {
        let mut text = String::from("\"");
        "\u{9b}\u{202e}é".chars().for_each(|c| push(&mut text, c, Escape::Json));
        text.push('"');
        assert_eq!(text, "\"\\u009b\\u202eé\"");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), "\u{9b}\u{202e}é");
        let every = (0..=0x2100).filter_map(char::from_u32).collect::<String>();
        let value = serde_json::json!({every.as_str(): [every.as_str()]});
        for shown in [json(&value).unwrap(), json_for_people(&value)] {
            assert!(!shown.chars().any(|c| c != '\n' && controls(c)), "{shown}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }
}
