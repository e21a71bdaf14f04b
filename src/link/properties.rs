//! The one table of what becomes what, and both ways of going through it. mqfs-link(1) has it as well.

use std::time::UNIX_EPOCH;

use super::envelope::{Envelope, Field};
use super::overflow;
use crate::queue::name;
use crate::queue::properties::{HIGHEST_PRIORITY, LONGEST_ID, PREFIX, ms};

/// A property here, and what it is called elsewhere.
pub struct Property {
    /// Which it is.
    pub field: Field,
    /// The attribute that it is taken from.
    pub from: &'static str,
    /// The attribute that it becomes; the name of a message is that of its file, and some only tell where it came from.
    pub becomes: Option<&'static str>,
    /// The header of systems, or for values, that have no better place for it.
    pub header: &'static str,
}

/// Every property that a message keeps on its way.
pub const PROPERTIES: [Property; 11] = [
    property(Field::Name, "user.mq.name", None, "mq-name"),
    property(Field::ContentType, "user.mq.content_type", Some("user.mq.content_type"), "content-type"),
    property(Field::CorrelationId, "user.mq.correlation_id", Some("user.mq.correlation_id"), "correlation-id"),
    property(Field::ReplyTo, "user.mq.reply_to", Some("user.mq.reply_to"), "reply-to"),
    property(Field::Priority, "user.mq.priority", Some("user.mq.priority"), "mq-priority"),
    property(Field::Ttl, "user.mq.expires", Some("user.mq.ttl"), "mq-ttl"),
    property(Field::Group, "user.mq.group", Some("user.mq.group"), "group"),
    property(Field::EnqueuedAt, "user.mq.enqueued_at", Some("user.link.timestamp"), "mq-enqueued-at"),
    property(Field::DedupId, "user.mq.dedup_id", Some("user.mq.dedup_id"), "mq-dedup-id"),
    property(Field::Hops, "user.link.hops", Some("user.link.hops"), "mq-hops"),
    property(Field::Null, "user.link.null", Some("user.link.null"), "mq-null"),
];

const fn property(field: Field, from: &'static str, becomes: Option<&'static str>, header: &'static str) -> Property {
    Property { field, from, becomes, header }
}

/// What attributes tell of links; they are not sent on.
pub const LINK: &str = "user.link.";
/// Where the headers are that cannot be attributes.
pub const OVERFLOW: &str = "user.link.headers";
/// A message that has come over so many links has come in a ring.
pub const MOST_HOPS: u64 = 16;
/// The headers of a message that comes are attributes up to so many bytes, of the 64 KiB that a message may have.
pub const MOST_BYTES: usize = 60 * 1024;
/// What `user.` may be followed by in the name of an attribute, in bytes.
const LONGEST_NAME: usize = 250;
/// AMQP carries identities of up to so many bytes.
const LONGEST_NATIVE_ID: usize = 255;
/// What a message is called that has no name that a file can have.
const NAMELESS: &[u8] = b"message";

/// The header that stands for a property.
pub fn header_of(field: Field) -> &'static str {
    PROPERTIES.iter().find(|property| property.field == field).map_or("", |property| property.header)
}

/// The property that a header stands for.
pub fn field_of(header: &str) -> Option<Field> {
    PROPERTIES.iter().find(|property| property.header == header).map(|property| property.field)
}

/// What is to be said of a message with these attributes, whose origin is called `origin`, at an instant; its body is missing.
pub fn outgoing(attributes: &[(String, Vec<u8>)], origin: &str, now: u64) -> Envelope {
    let attribute = |name: &str| attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice());
    let mut envelope = Envelope { id: identity(&attribute, origin), ..Envelope::default() };
    for property in &PROPERTIES {
        let value = attribute(property.from);
        let said = match property.field {
            Field::Hops => Some((number(value.unwrap_or(b"0")).unwrap_or(0) + 1).to_string().into_bytes()),
            // It is the identity already.
            Field::DedupId => value.filter(|value| *value != envelope.id.as_bytes()).map(<[u8]>::to_vec),
            Field::Ttl => value.and_then(instant).map(|ends| ends.saturating_sub(now).max(1).to_string().into_bytes()),
            Field::EnqueuedAt => value.and_then(instant).map(|at| at.to_string().into_bytes()),
            _ => value.map(<[u8]>::to_vec),
        };
        envelope.fields.extend(said.map(|value| (property.field, value)));
    }
    for (name, value) in attributes {
        let header = name.strip_prefix("user.").filter(|_| !name.starts_with(PREFIX) && !name.starts_with(LINK));
        envelope.headers.extend(header.map(|header| (header.to_owned(), value.clone())));
    }
    envelope
}

/// The identity of a message: what its producer says, where that can be sent everywhere; else what it is called here.
fn identity<'a>(attribute: &impl Fn(&str) -> Option<&'a [u8]>, origin: &str) -> String {
    let given = attribute("user.mq.dedup_id").and_then(|id| std::str::from_utf8(id).ok());
    let sound = |id: &&str| id.len() <= LONGEST_NATIVE_ID && !id.chars().any(char::is_control);
    match given.filter(sound) {
        Some(id) => id.to_owned(),
        None => format!("{origin}/{}", String::from_utf8_lossy(attribute("user.mq.id").unwrap_or_default())),
    }
}

/// What a message that comes becomes: the name of its file, and its attributes.
#[derive(Debug, PartialEq, Eq)]
pub struct Arrival {
    /// A name that a message can have.
    pub name: Vec<u8>,
    /// The attributes, by their whole names.
    pub attributes: Vec<(String, Vec<u8>)>,
}

/// Turns a message that came into one of a queue, which remembers identities itself if `dedup`. What does not fit makes it fail,
/// with a reason.
pub fn incoming(envelope: &Envelope, dedup: bool) -> Result<Arrival, String> {
    let mut attributes = Vec::new();
    let mut left_out = Vec::new();
    let mut name = None;
    for (field, value) in &envelope.fields {
        match (field, becomes(*field)) {
            (Field::Name, _) if is_name(value) => name = Some(value.clone()),
            (Field::Name, _) => left_out.push((header_of(Field::Name).to_owned(), value.clone())),
            (_, Some(attribute)) => attributes.extend(sound(*field, value)?.map(|value| (attribute.to_owned(), value))),
            (_, None) => {}
        }
    }
    let identity = Some(envelope.id.as_bytes()).filter(|id| !id.is_empty());
    attributes.extend(identity.map(|id| (format!("{LINK}id"), id.to_vec())));
    let remembered = envelope.field(Field::DedupId).or(identity).filter(|id| id.len() <= LONGEST_ID);
    attributes.retain(|(name, _)| name != "user.mq.dedup_id");
    attributes.extend(remembered.filter(|_| dedup).map(|id| ("user.mq.dedup_id".to_owned(), id.to_vec())));
    for (name, value) in &envelope.source {
        attributes.push((format!("{LINK}{name}"), value.clone()));
    }
    let mut bytes: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    for (header, value) in &envelope.headers {
        let attribute = format!("user.{header}");
        let named = !header.is_empty() && header.len() <= LONGEST_NAME && !header.contains('\0');
        let own = attribute.starts_with(PREFIX) || attribute.starts_with(LINK);
        let size = attribute.len() + value.len();
        if named && !own && bytes + size <= MOST_BYTES {
            bytes += size;
            attributes.push((attribute, value.clone()));
        } else {
            left_out.push((header.clone(), value.clone()));
        }
    }
    if !left_out.is_empty() {
        let text = overflow::render(&left_out);
        if bytes + text.len() > MOST_BYTES {
            return Err(format!("its headers have more than {MOST_BYTES} bytes"));
        }
        attributes.push((OVERFLOW.to_owned(), text.into_bytes()));
    }
    Ok(Arrival { name: name.unwrap_or_else(|| NAMELESS.to_vec()), attributes })
}

/// Whether a message can have this name: that of a file, and not of a draft.
fn is_name(name: &[u8]) -> bool {
    let odd = name.is_empty() || name.starts_with(b".") || name.contains(&b'/') || name.contains(&0);
    !odd && name::check_producer_name(name, true).is_ok()
}

fn becomes(field: Field) -> Option<&'static str> {
    PROPERTIES.iter().find(|property| property.field == field).and_then(|property| property.becomes)
}

/// The value as a queue takes it; nothing for one that makes no sense.
fn sound(field: Field, value: &[u8]) -> Result<Option<Vec<u8>>, String> {
    Ok(match field {
        Field::Hops => {
            let hops = number(value).unwrap_or(1);
            if hops > MOST_HOPS {
                return Err(format!("it has come over {hops} links: they form a ring"));
            }
            Some(hops.to_string().into_bytes())
        }
        Field::Priority => {
            number(value).map(|priority| priority.min(u64::from(HIGHEST_PRIORITY)).to_string().into_bytes())
        }
        Field::Ttl => number(value).map(|left| format!("{left}ms").into_bytes()),
        _ => Some(value.to_vec()),
    })
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

fn instant(text: &[u8]) -> Option<u64> {
    let instant = humantime::parse_rfc3339_weak(std::str::from_utf8(text).ok()?).ok()?;
    instant.duration_since(UNIX_EPOCH).ok().map(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn what_goes_out_and_comes_in_is_the_same() {
        let here = attributes(&[
            ("user.mq.id", "00000000000000aa"),
            ("user.mq.name", "a.csv"),
            ("user.mq.content_type", "text/csv"),
            ("user.mq.correlation_id", "c 7"),
            ("user.mq.reply_to", "answers"),
            ("user.mq.priority", "9"),
            ("user.mq.group", "g"),
            ("user.mq.state", "claimed"),
            ("user.mq.enqueued_at", "1970-01-01T00:00:01.500Z"),
            ("user.mq.expires", "1970-01-01T00:00:09Z"),
            ("user.colour", "red"),
            ("user.link.key", "not sent on"),
        ]);
        let sent = outgoing(&here, "o", 2_000);
        assert_eq!(sent.id, "o/00000000000000aa");
        assert_eq!(sent.headers, [("colour".to_owned(), b"red".to_vec())]);
        assert_eq!(sent.field(Field::Ttl), Some(&b"7000"[..]));
        assert_eq!(sent.field(Field::EnqueuedAt), Some(&b"1500"[..]));
        let there = incoming(&sent, false).unwrap();
        assert_eq!(there.name, b"a.csv");
        let expected = attributes(&[
            ("user.mq.content_type", "text/csv"),
            ("user.mq.correlation_id", "c 7"),
            ("user.mq.reply_to", "answers"),
            ("user.mq.priority", "9"),
            ("user.mq.ttl", "7000ms"),
            ("user.mq.group", "g"),
            ("user.link.timestamp", "1500"),
            ("user.link.hops", "1"),
            ("user.link.id", "o/00000000000000aa"),
            ("user.colour", "red"),
        ]);
        assert_eq!(there.attributes, expected);
    }

    #[test]
    fn a_producers_identity_is_the_messages() {
        let with = |id: &[u8]| {
            let mut here = attributes(&[("user.mq.id", "1")]);
            here.push(("user.mq.dedup_id".to_owned(), id.to_vec()));
            outgoing(&here, "o", 0)
        };
        assert_eq!((with(b"order-7").id.as_str(), with(b"order-7").field(Field::DedupId)), ("order-7", None));
        for odd in [&b"\xff"[..], &[b'x'; 256], b"a\nb"] {
            assert_eq!((with(odd).id.as_str(), with(odd).field(Field::DedupId)), ("o/1", Some(odd)));
            let there = incoming(&with(odd), true).unwrap();
            assert!(there.attributes.contains(&("user.mq.dedup_id".to_owned(), odd.to_vec())));
        }
    }

    #[test]
    fn names_that_no_file_has_are_kept_beside() {
        for name in ["", ".hidden", "a/b", &"n".repeat(240)] {
            let fields = vec![(Field::Name, name.as_bytes().to_vec())];
            let there = incoming(&Envelope { fields, ..Envelope::default() }, false).unwrap();
            assert_eq!(there.name, NAMELESS);
            let (attribute, value) = &there.attributes[0];
            assert_eq!(attribute, OVERFLOW);
            assert_eq!(serde_json::from_slice::<serde_json::Value>(value).unwrap()["mq-name"], name);
        }
    }

    #[test]
    fn headers_that_no_attribute_can_be_are_kept_beside() {
        let long = "n".repeat(251);
        let headers = attributes(&[("mq.priority", "5"), ("link.x", "1"), (&long, "l"), ("", "e"), ("fine", "yes")]);
        let there = incoming(&Envelope { headers, ..Envelope::default() }, false).unwrap();
        assert_eq!(there.attributes[0], ("user.fine".to_owned(), b"yes".to_vec()));
        let kept: serde_json::Value = serde_json::from_slice(&there.attributes[1].1).unwrap();
        assert_eq!(kept, serde_json::json!({"mq.priority": "5", "link.x": "1", long.as_str(): "l", "": "e"}));
    }

    #[test]
    fn too_much_and_a_ring_are_refused() {
        let headers = vec![("x".to_owned(), vec![b'x'; MOST_BYTES])];
        assert!(incoming(&Envelope { headers, ..Envelope::default() }, false).unwrap_err().contains("more than"));
        let hops = |hops: &str| {
            let fields = vec![(Field::Hops, hops.as_bytes().to_vec())];
            incoming(&Envelope { fields, ..Envelope::default() }, false)
        };
        assert!(hops("16").is_ok());
        assert!(hops("17").unwrap_err().contains("ring"));
    }

    #[test]
    fn values_that_make_no_sense_say_nothing() {
        let fields = vec![(Field::Priority, b"200".to_vec()), (Field::Ttl, b"soon".to_vec())];
        let there = incoming(&Envelope { fields, ..Envelope::default() }, false).unwrap();
        assert_eq!(there.attributes, attributes(&[("user.mq.priority", "9")]));
    }
}
