//! Taking a `-o` argument apart.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Splits `list` at its commas. A comma belongs to a value when it is written `\,` or `\054` (as FUSE filesystems and
/// fstab have it) or stands between double quotes (as mount(8) has it); the escapes and quotes are taken off. Empty
/// items, which a trailing comma makes, are left out.
pub fn split(list: &OsStr) -> Vec<OsString> {
    let mut items = Vec::new();
    let mut item = Vec::new();
    let mut quoted = false;
    let mut rest = list.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => items.push(OsString::from_vec(std::mem::take(&mut item))),
            b'\\' if !rest.is_empty() => {
                let (escaped, length) = escape(rest);
                item.push(escaped);
                rest = &rest[length..];
            }
            _ => item.push(byte),
        }
    }
    items.push(OsString::from_vec(item));
    items.retain(|item| !item.is_empty());
    items
}

/// Writes `value` so that [`split`], libfuse and fusermount3 read it back as part of one item.
pub fn quote(value: &OsStr) -> OsString {
    let mut quoted = Vec::with_capacity(value.len());
    for &byte in value.as_bytes() {
        if byte == b',' || byte == b'\\' {
            quoted.push(b'\\');
        }
        quoted.push(byte);
    }
    OsString::from_vec(quoted)
}

/// The byte that `text`, which follows a backslash and is not empty, stands for, and how much of it that took.
fn escape(text: &[u8]) -> (u8, usize) {
    match *text {
        [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
            (((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'), 3)
        }
        _ => (text[0], 1),
    }
}

/// Undoes the octal escapes (`\040`) of `/proc/self/mountinfo`.
pub fn unescape_octal(text: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'\\', [b'0'..=b'3', b'0'..=b'7', b'0'..=b'7', ..]) => {
                plain.push(escape(after).0);
                rest = &after[3..];
            }
            _ => plain.push(byte),
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(list: &str) -> Vec<String> {
        split(OsStr::new(list)).into_iter().map(|item| item.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn commas_separate_unless_they_are_escaped_or_quoted() {
        assert_eq!(parts("ro,uid=5"), ["ro", "uid=5"]);
        assert_eq!(parts(r"fsname=a\,b,ro"), ["fsname=a,b", "ro"]);
        assert_eq!(parts(r"fsname=a\054b,ro"), ["fsname=a,b", "ro"]);
        assert_eq!(parts(r#"fsname="a,b",ro"#), ["fsname=a,b", "ro"]);
        assert_eq!(parts(r"fsname=a\\,ro"), [r"fsname=a\", "ro"]);
        assert_eq!(parts(",,ro,"), ["ro"]);
        assert!(parts("").is_empty());
    }

    #[test]
    fn mountinfo_escapes_are_undone() {
        assert_eq!(unescape_octal(br"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape_octal(br"/a\4"), r"/a\4");
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_read_back(value in "[^\"]{1,40}") {
            prop_assert_eq!(split(&quote(OsStr::new(&value))), vec![OsString::from(value)]);
        }
    }
}
