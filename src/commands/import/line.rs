//! Reading the lines of an export, each in bounded memory: the value of `body` goes elsewhere as it comes.

use std::io::{self, BufRead};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Result};

/// A line without its body is no longer than this, in bytes.
const LONGEST: usize = 1 << 20;

/// So many characters are decoded at once; a multiple of 4.
const DECODED_AT_ONCE: usize = 1 << 16;

/// A line.
pub struct RawLine {
    /// Without the line break, and without the value of its `body`, which is an empty string here.
    pub text: Vec<u8>,
    /// Why it cannot be used.
    pub refused: Option<String>,
}

/// Where a scan of a line is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// Between the strings.
    Outside,
    /// In a string; behind a backslash.
    String { escaped: bool },
    /// In the value of `body`; behind a backslash.
    Body { escaped: bool },
}

/// A scan of a line.
struct Scan<'a> {
    at: At,
    depth: u32,
    text: Vec<u8>,
    /// Where in the text the last string began that may be a key.
    key: usize,
    /// The last string is followed by a colon, at the top.
    is_body: bool,
    refused: Option<String>,
    body: Decoder<'a>,
}

/// Reads a line; nothing at the end of the input. What its `body` says goes to `body`, decoded; an error of that which the
/// next line would meet too is an error here.
pub fn read(input: &mut impl BufRead, body: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Option<RawLine>> {
    let body = Decoder { pending: Vec::new(), ended: false, to: body };
    let mut scan = Scan { at: At::Outside, depth: 0, text: Vec::new(), key: 0, is_body: false, refused: None, body };
    let mut any = false;
    loop {
        let chunk = match input.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::Io(error)),
        };
        if chunk.is_empty() {
            break;
        }
        any = true;
        let end = chunk.iter().position(|byte| *byte == b'\n');
        scan.feed(&chunk[..end.unwrap_or(chunk.len())])?;
        let used = end.map_or(chunk.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            break;
        }
    }
    if scan.refused.is_none() {
        scan.refused = scan.body.finish()?;
    }
    Ok(any.then_some(RawLine { text: scan.text, refused: scan.refused }))
}

impl Scan<'_> {
    fn feed(&mut self, mut bytes: &[u8]) -> Result<()> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.at == (At::Body { escaped: false }) {
                let plain = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(bytes.len());
                if plain > 0 {
                    self.decode(&bytes[..plain])?;
                    bytes = &bytes[plain..];
                    continue;
                }
            }
            self.step(*first)?;
            bytes = rest;
        }
        Ok(())
    }

    fn decode(&mut self, characters: &[u8]) -> Result<()> {
        if self.refused.is_none() {
            self.refused = self.body.write(characters)?;
        }
        Ok(())
    }

    fn step(&mut self, byte: u8) -> Result<()> {
        match self.at {
            // Some writers of JSON escape slashes.
            At::Body { escaped: true } if byte == b'/' => {
                self.at = At::Body { escaped: false };
                return self.decode(b"/");
            }
            At::Body { escaped: true } => {
                self.at = At::Body { escaped: false };
                self.refused.get_or_insert_with(|| "body: not base64".to_owned());
                return Ok(());
            }
            At::Body { escaped: false } if byte == b'\\' => {
                self.at = At::Body { escaped: true };
                return Ok(());
            }
            At::Body { escaped: false } => self.at = At::Outside,
            At::String { escaped: true } => self.at = At::String { escaped: false },
            At::String { escaped: false } if byte == b'\\' => self.at = At::String { escaped: true },
            At::String { escaped: false } if byte == b'"' => self.at = At::Outside,
            At::String { .. } => {}
            At::Outside => self.step_outside(byte),
        }
        if self.text.len() < LONGEST {
            self.text.push(byte);
        } else {
            self.refused.get_or_insert_with(|| format!("longer than {LONGEST} bytes without its body"));
        }
        Ok(())
    }

    fn step_outside(&mut self, byte: u8) {
        match byte {
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b'"' if self.is_body => self.at = At::Body { escaped: false },
            b'"' => {
                self.at = At::String { escaped: false };
                self.key = self.text.len();
            }
            b':' => self.is_body = self.depth == 1 && self.text[self.key..].trim_ascii_end() == b"\"body\"",
            _ => {}
        }
        if !matches!(byte, b':' | b' ' | b'\t') {
            self.is_body = false;
        }
    }
}

/// Base64, a piece at a time.
struct Decoder<'a> {
    pending: Vec<u8>,
    /// Padding was met: nothing can follow.
    ended: bool,
    to: &'a mut dyn FnMut(&[u8]) -> Result<()>,
}

impl Decoder<'_> {
    /// Takes characters; tells what is wrong with them.
    fn write(&mut self, characters: &[u8]) -> Result<Option<String>> {
        self.pending.extend_from_slice(characters);
        if self.pending.len() < DECODED_AT_ONCE { Ok(None) } else { self.decode(self.pending.len() / 4 * 4) }
    }

    fn finish(&mut self) -> Result<Option<String>> {
        self.decode(self.pending.len())
    }

    fn decode(&mut self, count: usize) -> Result<Option<String>> {
        if count == 0 {
            return Ok(None);
        }
        let Ok(bytes) = STANDARD.decode(&self.pending[..count]).map_err(drop).and_then(|bytes| match self.ended {
            true => Err(()),
            false => Ok(bytes),
        }) else {
            return Ok(Some("body: not base64".to_owned()));
        };
        self.ended = self.pending[..count].ends_with(b"=");
        self.pending.drain(..count);
        (self.to)(&bytes)?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &str) -> Vec<(String, Option<String>, Vec<u8>)> {
        // The smallest pieces show what the borders between them do.
        let mut reader = io::BufReader::with_capacity(3, input.as_bytes());
        let mut all = Vec::new();
        loop {
            let mut body = Vec::new();
            let line = read(&mut reader, &mut |bytes| {
                body.extend_from_slice(bytes);
                Ok(())
            });
            let Some(line) = line.unwrap() else { return all };
            all.push((String::from_utf8(line.text).unwrap(), line.refused, body));
        }
    }

    #[test]
    fn the_body_is_taken_out_wherever_it_is() {
        for (line, text, body) in [
            (r#"{"a":1,"body":"aGVsbG8="}"#, r#"{"a":1,"body":""}"#, "hello"),
            (r#"{ "body" : "aGVsbG8=" , "a":"b" }"#, r#"{ "body" : "" , "a":"b" }"#, "hello"),
            (
                r#"{"a":"\"body\":","x":{"body":"no"},"body":"aGk="}"#,
                r#"{"a":"\"body\":","x":{"body":"no"},"body":""}"#,
                "hi",
            ),
            (r#"{"a":"body","b":["body","x"]}"#, r#"{"a":"body","b":["body","x"]}"#, ""),
            (r#"{"body":"Pz8\/"}"#, r#"{"body":""}"#, "???"),
            (r#"{"body":""}"#, r#"{"body":""}"#, ""),
        ] {
            assert_eq!(lines(line), [(text.to_owned(), None, body.as_bytes().to_vec())], "{line}");
        }
    }

    #[test]
    fn lines_end_with_and_without_a_line_break_and_one_bad_line_spoils_no_other() {
        let all = lines("{\"body\":\"!\"}\n\n{\"body\":\"aA==aA==\"}\n{\"body\":\"\\u0041\"}\n{\"body\":\"aGk=\"}");
        let refused: Vec<bool> = all.iter().map(|(_, refused, _)| refused.is_some()).collect();
        assert_eq!(refused, [true, false, true, true, false]);
        assert_eq!(all[4].2, b"hi");
    }

    #[test]
    fn a_large_body_is_decoded_piece_by_piece() {
        let bytes: Vec<u8> = (0..1_000_003_u32).map(|n| (n * 7) as u8).collect();
        let line = format!("{{\"body\":\"{}\"}}\n", STANDARD.encode(&bytes));
        let (mut decoded, mut largest) = (Vec::new(), 0);
        let read = read(&mut line.as_bytes(), &mut |piece| {
            largest = largest.max(piece.len());
            decoded.extend_from_slice(piece);
            Ok(())
        });
        assert!(read.unwrap().unwrap().refused.is_none());
        assert!(decoded == bytes);
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_without_being_kept() {
        let line = format!("{{\"a\":\"{}\"}}\n{{}}\n", "x".repeat(2 * LONGEST));
        let all = lines(&line);
        assert!(all[0].1.as_ref().unwrap().contains("longer") && all[0].0.len() <= LONGEST);
        assert_eq!(all[1].1, None);
    }
}
