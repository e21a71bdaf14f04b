//! A message and its properties in NATS: its headers are text of one line, so what is not becomes part of one more, as JSON.

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use serde_json::Value;

use super::super::envelope::Envelope;
use super::super::overflow;
use super::super::properties::{field_of, header_of};

/// By which a stream tells messages apart.
const ID: &str = "Nats-Msg-Id";
/// How headers begin that mean something to the server.
const RESERVED: &str = "nats-";
/// What is no header.
const OTHERS: &str = "mq-headers";

/// The headers of a message that is sent; what NATS cannot carry is refused.
pub fn headers(envelope: &Envelope) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let id = header(ID, envelope.id.as_bytes()).ok_or("its identity is not text of one line")?;
    headers.insert(id.0, id.1);
    let mut others = Vec::new();
    let fields = envelope.fields.iter().map(|(field, value)| (header_of(*field), value));
    for (name, value) in fields.chain(envelope.headers.iter().map(|(name, value)| (name.as_str(), value))) {
        // Of two that differ in how they are written both are kept: headers of NATS do differ then.
        match header(name, value).filter(|_| !is_reserved(name)) {
            Some((name, value)) => headers.insert(name, value),
            None => others.push((name.to_owned(), value.clone())),
        }
    }
    if !others.is_empty() {
        headers.insert(OTHERS, overflow::render(&others).as_str());
    }
    Ok(headers)
}

/// A header, if it is text of one line without white space around it.
fn header(name: &str, value: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let text = std::str::from_utf8(value).ok()?;
    let plain = !text.contains(|c: char| c.is_control()) && text.trim() == text;
    Some((name.parse().ok()?, text.parse().ok()?)).filter(|_| plain && name.bytes().all(|byte| byte > b' '))
}

fn is_reserved(name: &str) -> bool {
    name == OTHERS || name.get(..RESERVED.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED))
}

/// What came, with what its headers say.
pub fn envelope(headers: Option<&HeaderMap>, body: Vec<u8>) -> Envelope {
    let mut envelope = Envelope { body, ..Envelope::default() };
    let mut reserved = Vec::new();
    let mut pairs = Vec::new();
    for (name, values) in headers.iter().flat_map(|headers| headers.iter()) {
        let name: &str = name.as_ref();
        let value = match &values[..] {
            [one] => one.as_str().to_owned(),
            several => several.iter().map(|value| Value::from(value.as_str())).collect::<Value>().to_string(),
        };
        match name {
            ID => envelope.id = value,
            OTHERS => pairs.extend(overflow::parse(&value).unwrap_or_else(|| vec![(name.to_owned(), value.into())])),
            _ if is_reserved(name) => reserved.push((name.to_owned(), value.into_bytes())),
            _ => pairs.push((name.to_owned(), value.into_bytes())),
        }
    }
    // They come in no order.
    pairs.sort();
    for (name, value) in pairs {
        match field_of(&name).filter(|field| envelope.field(*field).is_none()) {
            Some(field) => envelope.fields.push((field, value)),
            None => envelope.headers.push((name, value)),
        }
    }
    if !reserved.is_empty() {
        envelope.source.push(("nats", overflow::render(&reserved).into_bytes()));
    }
    envelope
}

#[cfg(test)]
mod tests {
    use super::super::super::envelope::Field;
    use super::*;

    #[test]
    fn what_is_sent_comes_back_the_same() {
        let value = |text: &str| text.as_bytes().to_vec();
        let fields = vec![
            (Field::ContentType, value("text/csv")),
            (Field::Group, value("g")),
            (Field::Hops, value("1")),
            (Field::CorrelationId, vec![0xff]),
            (Field::Name, value("größe.csv")),
        ];
        let headers = [
            ("binary", &b"\xff\0"[..]),
            ("colour", "röt".as_bytes()),
            ("empty", b""),
            ("lines", b"a\r\nb: c"),
            ("space", b" x "),
            ("a name: with", b"x"),
            ("Nats-Expected-Stream", b"not for the server"),
            ("mq-headers", b"of somebody"),
        ];
        let mut headers: Vec<_> = headers.map(|(name, value)| (name.to_owned(), value.to_vec())).into();
        headers.sort();
        let sent = Envelope { id: "o/1".to_owned(), fields, headers, source: Vec::new(), body: value("x") };
        let map = super::headers(&sent).unwrap();
        assert_eq!((map.get("Nats-Msg-Id").unwrap().as_str(), map.get("colour").unwrap().as_str()), ("o/1", "röt"));
        assert!(map.get("Nats-Expected-Stream").is_none());
        let mut came = envelope(Some(&map), value("x"));
        came.fields.sort_by_key(|(field, _)| sent.fields.iter().position(|(other, _)| other == field));
        assert_eq!(came, sent);
    }

    #[test]
    fn what_others_send_is_taken() {
        assert_eq!(envelope(None, Vec::new()), Envelope::default());
        let mut map = HeaderMap::new();
        map.append("twice", "a");
        map.append("twice", "b");
        map.insert("Nats-Stream", "S");
        map.insert("mq-headers", "no JSON");
        let came = envelope(Some(&map), Vec::new());
        let text = |name| std::str::from_utf8(came.header(name).unwrap()).unwrap();
        assert_eq!((text("twice"), text("mq-headers")), (r#"["a","b"]"#, "no JSON"));
        assert_eq!(came.source, [("nats", br#"{"Nats-Stream":"S"}"#.to_vec())]);
        assert!(headers(&Envelope { id: "a\nb".to_owned(), ..Envelope::default() }).is_err());
    }
}
