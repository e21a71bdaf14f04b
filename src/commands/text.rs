//! Text for people: what users named their files is in it, and it goes to terminals and logs.

use std::io::{self, IsTerminal, Write};

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

/// Writes a name to standard output as it is for a program, printable for a terminal.
pub fn name_for_output(name: &[u8]) -> Vec<u8> {
    match io::stdout().is_terminal() {
        true => printable(&String::from_utf8_lossy(name)).into_bytes(),
        false => name.to_vec(),
    }
}

/// Writes a line to standard error, printable. There is nobody to tell when that is gone.
pub fn complain(line: &str) {
    drop(writeln!(io::stderr(), "mqfs: {}", printable(line)));
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
    }
}
