//! A message and its properties in AMQP: those that AMQP has go there, the others become headers.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use serde_json::{Value, json};

use super::super::envelope::{Envelope, Field};
use super::super::properties::{field_of, header_of};
use super::address::LONGEST;

/// What a quorum queue says of a message that it delivers again: it is no header of the producer's.
const DELIVERY_COUNT: &str = "x-delivery-count";
/// A message that is kept on disk.
const PERSISTENT: u8 = 2;

/// The properties of a message that is sent; what AMQP cannot carry is refused.
pub fn properties(envelope: &Envelope) -> Result<BasicProperties, String> {
    let id = short(envelope.id.as_bytes()).ok_or("its identity is longer than 255 bytes")?;
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT).with_message_id(id);
    let mut headers = FieldTable::default();
    for (name, value) in &envelope.headers {
        let name = short(name.as_bytes()).ok_or("a header's name is longer than 255 bytes")?;
        headers.insert(name, header_value(value));
    }
    for (field, value) in &envelope.fields {
        let text = short(value);
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
        properties = match (field, text, number) {
            (Field::ContentType, Some(text), _) => properties.with_content_type(text),
            (Field::CorrelationId, Some(text), _) => properties.with_correlation_id(text),
            (Field::ReplyTo, Some(text), _) => properties.with_reply_to(text),
            (Field::Ttl, Some(text), Some(_)) => properties.with_expiration(text),
            (Field::Priority, _, Some(priority @ 0..=255)) => properties.with_priority(priority as u8),
            (Field::EnqueuedAt, _, Some(at)) => properties.with_timestamp(at / 1000),
            _ => {
                headers.insert(header_of(*field).into(), header_value(value));
                properties
            }
        };
    }
    Ok(properties.with_headers(headers))
}

/// The identity that the properties of a message carry.
pub fn identity(properties: &BasicProperties) -> String {
    properties.message_id().as_ref().map(ShortString::to_string).unwrap_or_default()
}

/// What came, with what the properties say.
pub fn envelope(properties: &BasicProperties, body: Vec<u8>) -> Envelope {
    let mut envelope = Envelope { id: identity(properties), body, ..Envelope::default() };
    let text = |value: &Option<ShortString>| value.as_ref().map(|text| text.as_str().as_bytes().to_vec());
    let number = |value: u64| Some(value.to_string().into_bytes());
    let native = [
        (Field::ContentType, text(properties.content_type())),
        (Field::CorrelationId, text(properties.correlation_id())),
        (Field::ReplyTo, text(properties.reply_to())),
        (Field::Ttl, text(properties.expiration())),
        (Field::Priority, properties.priority().and_then(|priority| number(priority.into()))),
        (Field::EnqueuedAt, properties.timestamp().and_then(|seconds| number(seconds.saturating_mul(1000)))),
    ];
    envelope.fields.extend(native.into_iter().filter_map(|(field, value)| Some((field, value?))));
    for (name, value) in properties.headers().iter().flat_map(|headers| headers.inner()) {
        let value = header_bytes(value);
        if name.as_str() == DELIVERY_COUNT {
            envelope.source.push(("deliveries", value));
            continue;
        }
        match field_of(name.as_str()).filter(|field| envelope.field(*field).is_none()) {
            Some(field) => envelope.fields.push((field, value)),
            None => envelope.headers.push((name.to_string(), value)),
        }
    }
    let others = [
        ("type", text(properties.kind())),
        ("app_id", text(properties.app_id())),
        ("user_id", text(properties.user_id())),
        ("content_encoding", text(properties.content_encoding())),
    ];
    envelope.source.extend(others.into_iter().filter_map(|(name, value)| Some((name, value?))));
    envelope
}

fn short(bytes: &[u8]) -> Option<ShortString> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= LONGEST)?;
    Some(text.into())
}

/// Text is a string; what is not UTF-8 is an array of bytes.
fn header_value(value: &[u8]) -> AMQPValue {
    match std::str::from_utf8(value) {
        Ok(text) => AMQPValue::LongString(LongString::from(text)),
        Err(_) => AMQPValue::ByteArray(value.to_vec().into()),
    }
}

/// Strings and bytes as they are, numbers as text, tables and lists as JSON.
fn header_bytes(value: &AMQPValue) -> Vec<u8> {
    match value {
        AMQPValue::LongString(text) => text.as_bytes().to_vec(),
        AMQPValue::ShortString(text) => text.as_str().as_bytes().to_vec(),
        AMQPValue::ByteArray(bytes) => bytes.as_slice().to_vec(),
        AMQPValue::Void => Vec::new(),
        other => json_of(other).to_string().into_bytes(),
    }
}

fn json_of(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => json!(value),
        AMQPValue::ShortShortInt(value) => json!(value),
        AMQPValue::ShortShortUInt(value) => json!(value),
        AMQPValue::ShortInt(value) => json!(value),
        AMQPValue::ShortUInt(value) => json!(value),
        AMQPValue::LongInt(value) => json!(value),
        AMQPValue::LongUInt(value) => json!(value),
        AMQPValue::LongLongInt(value) => json!(value),
        AMQPValue::Float(value) => json!(value),
        AMQPValue::Double(value) => json!(value),
        AMQPValue::Timestamp(value) => json!(value),
        AMQPValue::DecimalValue(value) => json!(f64::from(value.value) / 10_f64.powi(value.scale.into())),
        AMQPValue::FieldArray(list) => list.as_slice().iter().map(json_of).collect(),
        AMQPValue::FieldTable(table) => {
            Value::Object(table.inner().iter().map(|(name, value)| (name.to_string(), json_of(value))).collect())
        }
        AMQPValue::Void => Value::Null,
        AMQPValue::LongString(_) | AMQPValue::ShortString(_) | AMQPValue::ByteArray(_) => {
            json!(String::from_utf8_lossy(&header_bytes(value)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_comes_back_the_same() {
        let value = |text: &str| text.as_bytes().to_vec();
        let fields = vec![
            (Field::ContentType, value("text/csv")),
            (Field::CorrelationId, value("c")),
            (Field::ReplyTo, value("r")),
            (Field::Ttl, value("7000")),
            (Field::Priority, value("9")),
            (Field::EnqueuedAt, value("5000")),
            (Field::DedupId, vec![0xff]),
            (Field::Group, value("g")),
            (Field::Hops, value("1")),
            (Field::Name, value("größe.csv")),
        ];
        let headers = vec![("binary".to_owned(), vec![0xff, 0]), ("colour".to_owned(), value("röt"))];
        let sent = Envelope { id: "o/1".to_owned(), fields, headers, source: Vec::new(), body: value("x") };
        let properties = properties(&sent).unwrap();
        assert_eq!((properties.delivery_mode(), properties.timestamp()), (&Some(2), &Some(5)));
        let mut came = envelope(&properties, value("x"));
        // Headers come in the order of their names.
        came.fields.sort_by_key(|(field, _)| sent.fields.iter().position(|(other, _)| other == field));
        assert_eq!(came, sent);
    }

    #[test]
    fn what_amqp_cannot_carry_in_its_place_becomes_a_header() {
        let long = vec![b'x'; 256];
        let sent =
            Envelope { id: "1".to_owned(), fields: vec![(Field::ContentType, long.clone())], ..Envelope::default() };
        let properties = properties(&sent).unwrap();
        assert_eq!(properties.content_type(), &None);
        assert_eq!(envelope(&properties, Vec::new()).field(Field::ContentType), Some(&long[..]));
        let bad = Envelope { id: "i".repeat(256), ..Envelope::default() };
        assert!(super::properties(&bad).is_err());
    }

    #[test]
    fn values_of_every_type_are_text() {
        let mut table = FieldTable::default();
        table.insert("n".into(), AMQPValue::LongInt(-7));
        let list = vec![AMQPValue::Boolean(true), AMQPValue::FieldTable(table), AMQPValue::Void];
        for (value, text) in [
            (AMQPValue::LongLongInt(-5), "-5"),
            (AMQPValue::Boolean(true), "true"),
            (AMQPValue::Double(1.5), "1.5"),
            (AMQPValue::FieldArray(list.into()), r#"[true,{"n":-7},null]"#),
            (AMQPValue::Void, ""),
        ] {
            assert_eq!(String::from_utf8(header_bytes(&value)).unwrap(), text);
        }
        assert_eq!(header_bytes(&AMQPValue::LongString(LongString::from(&b"\xff"[..]))), b"\xff");
    }
}
