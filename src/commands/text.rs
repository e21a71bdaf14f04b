//! Text for people.

/// Text that stays on its line and does nothing to a terminal.
pub fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_nothing_to_a_terminal() {
        assert_eq!(printable("a\n\u{1b}[2Jä"), "a\\n\\u{1b}[2Jä");
    }
}
