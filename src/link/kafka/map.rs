//! A message and a record of Kafka: a record has a key, a value, a timestamp and headers, and all else becomes headers.

use super::super::envelope::{Envelope, Field};
use super::super::properties::{field_of, header_of};
use super::address::{Address, Key};
use super::events::Record;

/// The identity of a message that comes from a queue.
const ID: &str = "mq-id";
/// Until when a message may wait, in milliseconds since the epoch: nobody counts it down on the way.
const EXPIRES: &str = "mq-expires";

/// A header; a value may be null.
pub type Header<'a> = (&'a str, Option<Vec<u8>>);

/// The headers of a record that is sent at `now`, in milliseconds since the epoch.
pub fn headers<'a>(envelope: &'a Envelope, address: &Address, now: u64) -> Vec<Header<'a>> {
    let mut headers: Vec<Header> = vec![(ID, Some(envelope.id.clone().into_bytes()))];
    for (field, value) in &envelope.fields {
        match field {
            Field::EnqueuedAt | Field::Null => {}
            Field::Group if address.key == Key::Group => {}
            Field::Ttl => {
                let until = number(value).map(|left| now.saturating_add(left).to_string().into_bytes());
                headers.push((EXPIRES, until.or_else(|| Some(value.clone()))));
            }
            field => headers.push((header_of(*field), Some(value.clone()))),
        }
    }
    // The key is something else: it must not be taken for the group.
    if address.key != Key::Group && envelope.field(Field::Group).is_none() {
        headers.push((header_of(Field::Group), None));
    }
    headers.extend(envelope.headers.iter().map(|(name, value)| (name.as_str(), Some(value.clone()))));
    headers
}

/// The value of a record; null for a message that came as one.
pub fn value(envelope: &Envelope) -> Option<&[u8]> {
    let null = envelope.body.is_empty() && envelope.field(Field::Null) == Some(b"1");
    (!null).then_some(&envelope.body)
}

/// When the message was enqueued, in milliseconds since the epoch.
pub fn timestamp(envelope: &Envelope) -> Option<i64> {
    number(envelope.field(Field::EnqueuedAt)?)?.try_into().ok()
}

/// What came at `now` from a topic that has this name, and this id.
pub fn envelope(record: Record, topic: &str, topic_id: &str, now: u64) -> Envelope {
    let text = |number: &dyn ToString| number.to_string().into_bytes();
    let mut envelope = Envelope::default();
    let mut grouped = false;
    for (name, value) in record.headers {
        let name = String::from_utf8_lossy(&name).into_owned();
        let field = field_of(&name).filter(|field| *field != Field::Null && envelope.field(*field).is_none());
        match (name.as_str(), field, value) {
            (ID, _, Some(value)) if std::str::from_utf8(&value).is_ok() => {
                envelope.id = String::from_utf8_lossy(&value).into_owned();
            }
            (EXPIRES, _, Some(value)) => {
                let left = number(&value).map(|until| until.saturating_sub(now).max(1).to_string().into_bytes());
                envelope.fields.push((Field::Ttl, left.unwrap_or(value)));
            }
            (_, Some(Field::Group), value) => {
                grouped = true;
                envelope.fields.extend(value.map(|value| (Field::Group, value)));
            }
            (_, Some(field), Some(value)) => envelope.fields.push((field, value)),
            (_, _, value) => envelope.headers.push((name, value.unwrap_or_default())),
        }
    }
    if envelope.id.is_empty() {
        envelope.id = format!("{topic_id}/{}/{}", record.partition, record.offset);
    }
    envelope.source.push(("topic", topic.as_bytes().to_vec()));
    envelope.source.push(("partition", text(&record.partition)));
    envelope.source.push(("offset", text(&record.offset)));
    if let Some(key) = record.key {
        envelope.source.push(("key", key.clone()));
        if !grouped {
            envelope.fields.push((Field::Group, key));
        }
    }
    if let Some(at) = record.timestamp {
        envelope.fields.retain(|(field, _)| *field != Field::EnqueuedAt);
        envelope.fields.push((Field::EnqueuedAt, text(&at)));
    }
    match record.value {
        Some(value) => envelope.body = value,
        None => envelope.fields.push((Field::Null, b"1".to_vec())),
    }
    envelope
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::super::systems;
    use super::*;

    fn address(key: &str) -> Address {
        Address::of(&systems::parse(&format!("kafka://h/t{key}")).unwrap().0, true).unwrap()
    }

    /// What a record of this message is when it comes.
    fn there_and_back(sent: &Envelope, address: &Address) -> Envelope {
        let headers = headers(sent, address, 1000).into_iter();
        let record = Record {
            partition: 3,
            offset: 42,
            timestamp: timestamp(sent).map(|at| at as u64),
            key: address.key_of(sent).map(<[u8]>::to_vec),
            value: value(sent).map(<[u8]>::to_vec),
            headers: headers.map(|(name, value)| (name.as_bytes().to_vec(), value)).collect(),
        };
        envelope(record, "t", "ID", 3000)
    }

    #[test]
    fn what_is_sent_comes_back_the_same() {
        let value = |text: &str| text.as_bytes().to_vec();
        let fields = vec![
            (Field::Name, value("größe.csv")),
            (Field::ContentType, value("text/csv")),
            (Field::CorrelationId, vec![0xff]),
            (Field::ReplyTo, value("r")),
            (Field::Priority, value("9")),
            (Field::Ttl, value("7000")),
            (Field::Group, value("g")),
            (Field::EnqueuedAt, value("5000")),
            (Field::DedupId, vec![0xfe]),
            (Field::Hops, value("1")),
        ];
        let headers = vec![("binary".to_owned(), vec![0xff, 0]), ("empty".to_owned(), Vec::new())];
        let sent = Envelope { id: "o/1".to_owned(), fields, headers, source: Vec::new(), body: value("x") };
        for key in ["", "?key=all", "?key=%header.binary"] {
            let mut came = there_and_back(&sent, &address(key));
            came.fields.sort_by_key(|(field, _)| sent.fields.iter().position(|(other, _)| other == field));
            let mut expected = sent.clone();
            // Two of its seven seconds are over.
            expected.fields[5].1 = value("5000");
            expected.source = vec![("topic", value("t")), ("partition", value("3")), ("offset", value("42"))];
            expected.source.push(("key", address(key).key_of(&sent).unwrap().to_vec()));
            assert_eq!(came, expected, "{key}");
        }
    }

    #[test]
    fn a_key_that_is_no_group_does_not_become_one() {
        let sent = Envelope { id: "1".to_owned(), ..Envelope::default() };
        assert_eq!(there_and_back(&sent, &address("?key=all")).field(Field::Group), None);
        assert_eq!(there_and_back(&sent, &address("")).field(Field::Group), None);
        let record = Record { key: Some(b"k".to_vec()), ..Record::default() };
        assert_eq!(envelope(record, "t", "ID", 0).field(Field::Group), Some(&b"k"[..]));
    }

    #[test]
    fn null_and_empty_are_told_apart() {
        let null = Envelope { fields: vec![(Field::Null, b"1".to_vec())], ..Envelope::default() };
        assert_eq!((value(&null), value(&Envelope::default())), (None, Some(&b""[..])));
        assert_eq!(there_and_back(&null, &address("")).field(Field::Null), Some(&b"1"[..]));
        assert_eq!(there_and_back(&Envelope::default(), &address("")).field(Field::Null), None);
        assert_eq!(value(&Envelope { body: b"x".to_vec(), ..null }), Some(&b"x"[..]), "it has a value by now");
    }

    #[test]
    fn what_others_write_has_its_place_as_identity() {
        let headers = vec![(b"\xff".to_vec(), None), (b"mq-id".to_vec(), Some(vec![0xff]))];
        let came = envelope(Record { partition: 1, offset: 7, headers, ..Record::default() }, "t", "ID", 0);
        assert_eq!(came.id, "ID/1/7");
        assert_eq!(came.headers, [("\u{fffd}".to_owned(), Vec::new()), ("mq-id".to_owned(), vec![0xff])]);
    }
}
