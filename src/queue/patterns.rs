//! Patterns that names fit, as those of shells: `*` is any number of bytes, `?` is one, all else is itself.

use std::fmt;

/// So many patterns are in one list, and so long is each, in bytes: whoever looks a name up compares it with all of them.
const MOST: usize = 32;
const LONGEST: usize = 255;

/// A list of patterns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(Vec<String>);

impl Patterns {
    /// Reads patterns with spaces between them; nothing when one of them makes no sense, or would fit every name.
    pub fn parse(text: &str) -> Option<Self> {
        let patterns: Vec<String> = text.split_ascii_whitespace().map(str::to_owned).collect();
        let sound = |pattern: &String| {
            let plain = |c: char| !c.is_control() && !matches!(c, '/' | '[' | ']' | '\\' | ',');
            pattern.len() <= LONGEST && pattern.chars().all(plain) && !pattern.chars().all(|c| c == '*')
        };
        (patterns.len() <= MOST && patterns.iter().all(sound)).then_some(Self(patterns))
    }

    /// What they take in memory, in bytes.
    pub fn memory(&self) -> usize {
        self.0.iter().map(|pattern| pattern.capacity() + size_of::<String>()).sum()
    }

    /// Whether a name fits one of them.
    pub fn fit(&self, name: &[u8]) -> bool {
        self.0.iter().any(|pattern| fits(pattern.as_bytes(), name))
    }
}

impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

/// Takes no more steps than the product of the lengths: what an earlier `*` has taken need not be taken back once a later one fits.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // The last `*`, and where what it takes ends.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, end)) => {
                    star = Some((at, end + 1));
                    (p, n) = (at + 1, end + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_as_in_a_shell() {
        let usual = Patterns::parse(".* *.part *.filepart *.tmp ~*").unwrap();
        for name in [".a", ".", "x.part", ".part", "a b.filepart", "x.tar.tmp", "~x", "~"] {
            assert!(usual.fit(name.as_bytes()), "{name}");
        }
        for name in ["a", "x.part2", "part", "a~", "x.tmp.csv", ""] {
            assert!(!usual.fit(name.as_bytes()), "{name}");
        }
        for (pattern, name, expected) in [
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("*ab", "aab", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("?*", "", false),
            ("a**", "a", true),
            ("x", "x", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
        let (hard, long) = ("*a".repeat(127) + "b", "a".repeat(255));
        assert!(!fits(hard.as_bytes(), long.as_bytes()));
        assert!(!Patterns::default().fit(b".a"));
        assert!(Patterns::parse("*.p").unwrap().fit(b"\xff\xfe.p"));
    }

    #[test]
    fn patterns_read_back_and_those_that_make_no_sense_are_refused() {
        for text in ["", ".*", ".* *.part", "a?"] {
            assert_eq!(Patterns::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Patterns::parse(" .*\t*.part ").unwrap().to_string(), ".* *.part");
        for text in ["*", ".* **", "a/b", "[ab]", "a\\*", "a,b", &"a".repeat(256), &"a ".repeat(33)] {
            assert_eq!(Patterns::parse(text), None, "{text}");
        }
    }
}
