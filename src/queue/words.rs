//! The properties that the name of a directory in `.mq/with` says: `priority=9,id=order-7,header.colour=dark%20red`; and all attributes
//! of a message in the same words.

use std::collections::HashSet;

use super::properties::{DESCRIBING, PREFIX, Properties};
use crate::error::{Error, Result};

/// The attribute that is all attributes of a message at once, in these words.
pub const PROPERTIES: &str = "user.mq.properties";

/// What a word may be, besides those of [`DESCRIBING`] and headers, and the property that it sets.
const CONTROLLING_WORDS: &[(&str, &str)] =
    &[("priority", "priority"), ("delay", "delay"), ("deliver_at", "deliver_at"), ("ttl", "ttl"), ("id", "dedup_id")];

/// What the words of headers begin with.
const HEADER: &str = "header.";

/// What the words of the project's other attributes begin with; their names follow.
const OWN: &str = "mq.";

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// The longest name of an attribute, in bytes, as everywhere on Linux.
const LONGEST_NAME: usize = 255;

/// Reads `K=V,K=V`: the attributes that a message gets, by their whole names. Keys and values may be percent-encoded. An
/// unknown key, a value that makes no sense, or a key that is there twice is refused.
pub fn attributes_of(name: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    each_once(name, one)
}

/// Reads what [`render`] writes: as [`attributes_of`], with words for the project's other attributes, which are looked at no further.
pub fn all_attributes_of(text: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    each_once(text, |word| {
        let (key, value) = split(word)?;
        let key = decoded(key)?;
        match std::str::from_utf8(&key).ok().and_then(|key| key.strip_prefix(OWN)) {
            Some(own) => Ok((format!("{PREFIX}{own}"), decoded(value)?)),
            None => attribute(word, key, decoded(value)?),
        }
    })
}

/// Writes attributes, by their whole names, as words. What would have to be encoded in the name of a directory in `.mq/with` is; the
/// attributes that can be set there have the words that they have there.
pub fn render<'a>(attributes: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in attributes {
        if !text.is_empty() {
            text.push(b',');
        }
        let (kind, key) = match name.strip_prefix(PREFIX) {
            Some(own) => word_of(own).map_or((OWN, own), |word| ("", word)),
            None => (HEADER, name.strip_prefix("user.").unwrap_or(name)),
        };
        text.extend(kind.as_bytes());
        encode(key.as_bytes(), &mut text);
        text.push(b'=');
        encode(value, &mut text);
    }
    text
}

/// The word of a property that a producer can set.
fn word_of(property: &str) -> Option<&str> {
    let controlling = CONTROLLING_WORDS.iter().find(|(_, known)| *known == property).map(|(word, _)| *word);
    controlling.or_else(|| DESCRIBING.iter().find(|known| **known == property).copied())
}

fn each_once(text: &[u8], one: impl Fn(&[u8]) -> Result<(String, Vec<u8>)>) -> Result<Vec<(String, Vec<u8>)>> {
    let mut attributes: Vec<(String, Vec<u8>)> = Vec::new();
    let mut known = HashSet::new();
    for word in text.split(|byte| *byte == b',') {
        let (attribute, value) = one(word)?;
        if !known.insert(attribute.clone()) {
            return Err(Error::Invalid(format!("`{}`: {attribute} is given twice", shown(word))));
        }
        attributes.push((attribute, value));
    }
    Ok(attributes)
}

fn one(word: &[u8]) -> Result<(String, Vec<u8>)> {
    let (key, value) = split(word)?;
    attribute(word, decoded(key)?, decoded(value)?)
}

/// Reads one `K=V` that is not encoded: the attribute by its whole name, and its value.
pub fn word(word: &[u8]) -> Result<(String, Vec<u8>)> {
    let (key, value) = split(word)?;
    attribute(word, key.to_vec(), value.to_vec())
}

fn split(word: &[u8]) -> Result<(&[u8], &[u8])> {
    let at = word.iter().position(|byte| *byte == b'=');
    let at = at.ok_or_else(|| Error::Invalid(format!("`{}` is not `key=value`", shown(word))))?;
    Ok((&word[..at], &word[at + 1..]))
}

fn attribute(word: &[u8], key: Vec<u8>, value: Vec<u8>) -> Result<(String, Vec<u8>)> {
    let key = String::from_utf8(key).map_err(|_| Error::Invalid(format!("`{}`: not UTF-8", shown(word))))?;
    if let Some(header) = key.strip_prefix(HEADER) {
        return Ok((header_attribute(header)?, value));
    }
    let known = CONTROLLING_WORDS.iter().find(|(word, _)| *word == key).map(|(_, property)| *property);
    let property = known.or_else(|| DESCRIBING.iter().find(|property| **property == key).copied());
    let property =
        property.ok_or_else(|| Error::Invalid(format!("unknown property `{key}`: known are {}", known_words())))?;
    Properties::default().set(property, &value)?;
    Ok((format!("{PREFIX}{property}"), value))
}

/// The attribute of a header. Those of the project's own are no headers.
fn header_attribute(header: &str) -> Result<String> {
    let attribute = format!("user.{header}");
    let sound = !header.is_empty() && !attribute.starts_with(PREFIX) && !attribute.contains('\0');
    if sound && attribute.len() <= LONGEST_NAME {
        Ok(attribute)
    } else {
        Err(Error::Invalid(format!("`{HEADER}{}` is no header", header.escape_default())))
    }
}

fn known_words() -> String {
    let controlling = CONTROLLING_WORDS.iter().map(|(word, _)| *word);
    let words: Vec<&str> = controlling.chain(DESCRIBING.iter().copied()).chain(["header.NAME"]).collect();
    words.join(", ")
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Puts the percent-encoding on.
fn encode(bytes: &[u8], into: &mut Vec<u8>) {
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'+' | b'@' => {
                into.push(*byte)
            }
            _ => into.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
}

/// Takes the percent-encoding off.
fn decoded(text: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let pair = after.get(..2).and_then(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?));
        let byte =
            pair.ok_or_else(|| Error::Invalid(format!("`{}`: two hexadecimal digits follow a %", shown(text))))?;
        bytes.push(byte);
        rest = &after[2..];
    }
    Ok(bytes)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str) -> Vec<(String, String)> {
        let attributes = attributes_of(name.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        attributes.into_iter().map(|(name, value)| (name, String::from_utf8(value).unwrap())).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_word_is_an_attribute() {
        assert_eq!(
            read("priority=9,delay=5s,deliver_at=2026-01-31T08:00:00Z,ttl=1h,id=a=b"),
            pairs(&[
                ("user.mq.priority", "9"),
                ("user.mq.delay", "5s"),
                ("user.mq.deliver_at", "2026-01-31T08:00:00Z"),
                ("user.mq.ttl", "1h"),
                ("user.mq.dedup_id", "a=b"),
            ])
        );
        assert_eq!(
            read("content_type=text%2Fcsv,correlation_id=,reply_to=answers,group=g"),
            pairs(&[
                ("user.mq.content_type", "text/csv"),
                ("user.mq.correlation_id", ""),
                ("user.mq.reply_to", "answers"),
                ("user.mq.group", "g"),
            ])
        );
        assert_eq!(
            read("header.colour=dark red%2c 5%25,header.a%3Db=x,header.mqx=+"),
            pairs(&[("user.colour", "dark red, 5%"), ("user.a=b", "x"), ("user.mqx", "+")])
        );
    }

    #[test]
    fn what_is_written_is_read() {
        let given = [
            ("user.mq.id", &b"00ff"[..]),
            ("user.mq.priority", b"9"),
            ("user.mq.dedup_id", b"a,b=c%"),
            ("user.mq.content_type", b"text/csv"),
            ("user.mq.settles", b".mq/claimed/1"),
            ("user.colour", b"dark red"),
            ("user.a=b,c", b""),
            ("user.mqx", b"\xff\0\n"),
            ("user.gr\u{fc}n", "gr\u{fc}n".as_bytes()),
        ];
        let text = render(given);
        let expected = "mq.id=00ff,priority=9,id=a%2Cb%3Dc%25,content_type=text%2Fcsv,mq.settles=.mq%2Fclaimed%2F1,\
            header.colour=dark%20red,header.a%3Db%2Cc=,header.mqx=%FF%00%0A,header.gr%C3%BCn=gr%C3%BCn";
        assert_eq!(String::from_utf8(text.clone()).unwrap(), expected);
        let given: Vec<(String, Vec<u8>)> = given.map(|(name, value)| (name.to_owned(), value.to_vec())).into();
        assert_eq!(all_attributes_of(&text).unwrap(), given);
    }

    #[test]
    fn an_attribute_has_one_word() {
        for text in ["priority=1,mq.priority=2", "mq.id=1,mq.id=1", "header.x=1,header.%78=1"] {
            let error = all_attributes_of(text.as_bytes()).expect_err(text);
            assert!(matches!(&error, Error::Invalid(why) if why.contains("twice")), "{text}: {error}");
        }
        assert!(attributes_of(b"mq.id=1").is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_told() {
        for (name, told) in [
            ("", "not `key=value`"),
            ("priority", "`priority` is not `key=value`"),
            ("priority=9,", "`` is not `key=value`"),
            ("priority=10", "priority `10`"),
            ("colour=red", "unknown property `colour`: known are priority, delay, deliver_at, ttl, id, content_type"),
            ("dedup_id=a", "unknown property"),
            ("seq=7", "unknown property"),
            ("=x", "unknown property"),
            ("id=", "dedup_id"),
            ("delay=5", "duration"),
            ("priority=1,priority=2", "twice"),
            ("header.=x", "no header"),
            ("header.mq.priority=9", "no header"),
            ("header.%00=x", "no header"),
            ("header.%ff=x", "not UTF-8"),
            ("id=%4", "hexadecimal"),
            ("id=%+1", "hexadecimal"),
            ("id=%zz", "hexadecimal"),
            ("id=a%", "hexadecimal"),
        ] {
            let error = attributes_of(name.as_bytes()).expect_err(name);
            assert!(matches!(&error, Error::Invalid(why) if why.contains(told)), "{name}: {error}");
        }
        assert!(attributes_of(format!("header.{}=x", "n".repeat(250)).as_bytes()).is_ok());
        assert!(attributes_of(format!("header.{}=x", "n".repeat(251)).as_bytes()).is_err());
        assert_eq!(attributes_of(b"id=\xff%fe").unwrap()[0].1, b"\xff\xfe");
    }
}
