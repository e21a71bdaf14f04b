//! A message and its properties in NATS: its headers are text of one line, so what is not becomes part of one more, as JSON.

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use serde_json::Value;

use super::super::envelope::{Envelope, Field};
use super::super::overflow;
use super::super::properties::{field_of, header_of};

/// By which a stream tells messages apart.
const ID: &str = "Nats-Msg-Id";
/// How headers begin that mean something to the server.
const RESERVED: &str = "nats-";
/// For how long a stream keeps a message, where it permits that.
const TTL: &str = "Nats-TTL";
/// What is no header.
const OTHERS: &str = "mq-headers";

/// The headers of a message that is sent; what NATS cannot carry is refused. `ttl` is whether the stream lets a message say for how long it
/// is kept.
pub fn headers(envelope: &Envelope, ttl: bool) -> Result<HeaderMap, String> {
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
    if let Some(left) = envelope.field(Field::Ttl).and_then(number).filter(|_| ttl) {
        // In whole seconds: what is left of one here ends it there.
        headers.insert(TTL, format!("{}s", left.div_ceil(1000).max(1)).as_str());
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
    let (mut reserved, mut pairs, mut kept) = (Vec::new(), Vec::new(), None);
    for (name, values) in headers.iter().flat_map(|headers| headers.iter()) {
        let name: &str = name.as_ref();
        let value = match &values[..] {
            [one] => one.as_str().to_owned(),
            several => several.iter().map(|value| Value::from(value.as_str())).collect::<Value>().to_string(),
        };
        match name {
            ID => envelope.id = value,
            OTHERS => pairs.extend(overflow::parse(&value).unwrap_or_else(|| vec![(name.to_owned(), value.into())])),
            TTL => {
                kept = seconds(&value);
                reserved.push((name.to_owned(), value.into_bytes()));
            }
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
    if let Some(kept) = kept.filter(|_| envelope.field(Field::Ttl).is_none()) {
        envelope.fields.push((Field::Ttl, (kept * 1000).to_string().into_bytes()));
    }
    if !reserved.is_empty() {
        envelope.source.push(("nats", overflow::render(&reserved).into_bytes()));
    }
    envelope
}

/// Time goes on while a message is in a stream, so many milliseconds by now.
pub fn age(envelope: &mut Envelope, age: u64) {
    for (_, value) in envelope.fields.iter_mut().filter(|(field, _)| *field == Field::Ttl) {
        if let Some(left) = number(value) {
            *value = left.saturating_sub(age).max(1).to_string().into_bytes();
        }
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// Seconds as they are, or such as `1h30m`; `never` is none.
fn seconds(value: &str) -> Option<u64> {
    let parsed = value.parse().ok().or_else(|| Some(humantime::parse_duration(value).ok()?.as_secs()));
    parsed.filter(|seconds| (1..=u64::MAX / 1000).contains(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of it, and less the longer it was in the stream; by the server's own header where that is not ours.
    #[test]
    fn time_goes_on_in_a_stream() {
        let sent = Envelope { fields: vec![(Field::Ttl, b"1500".to_vec())], ..Envelope::default() };
        assert_eq!(headers(&sent, false).unwrap().get(TTL), None);
        let map = headers(&sent, true).unwrap();
        assert_eq!(map.get(TTL).unwrap().as_str(), "2s");
        for (aged, left) in [(0, "1500"), (400, "1100"), (9000, "1")] {
            let mut came = envelope(Some(&map), Vec::new());
            age(&mut came, aged);
            assert_eq!(came.field(Field::Ttl), Some(left.as_bytes()));
        }
        for (said, left) in
            [("60", Some("60000")), ("1h30m", Some("5400000")), ("never", None), ("0", None), ("x", None)]
        {
            let mut map = HeaderMap::new();
            map.insert(TTL, said);
            assert_eq!(envelope(Some(&map), Vec::new()).field(Field::Ttl), left.map(str::as_bytes), "{said}");
        }
    }

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
        let map = super::headers(&sent, false).unwrap();
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
        assert!(headers(&Envelope { id: "a\nb".to_owned(), ..Envelope::default() }, true).is_err());
    }
}
