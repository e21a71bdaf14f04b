//! A message and its properties as headers of STOMP.
//!
//! A header is text in one line. What is none, or is called like something that a server takes for its own, goes into one header
//! [`REST`] as JSON, so that a queue on the other side gets everything back.

use super::super::envelope::{Envelope, Field};
use super::super::overflow;
use super::super::properties::{field_of, header_of};
use super::address::Address;
use super::dialect::Dialect;
use super::frame::Frame;

/// The identity of a message.
const ID: &str = "mq-id";
/// What can be no header of its own.
const REST: &str = "mq-headers";
/// JMS's name for a group. ActiveMQ Classic does not give it back, Artemis by another name.
const JMS_GROUP: &str = "JMSXGroupID";
const ARTEMIS_GROUP: &str = "_AMQ_GROUP_ID";
/// Of two messages with the same, Artemis keeps one.
const ARTEMIS_ID: &str = "_AMQ_DUPL_ID";
/// The property of AMQP as RabbitMQ's plugin calls it.
const RABBIT_ID: &str = "amqp-message-id";
/// What RabbitMQ's plugin puts before the name of a queue that answers go to.
const RABBIT_REPLY: &[u8] = b"/reply-queue/";
/// What JMS says of messages of which nobody said anything.
const JMS_PRIORITY: &[u8] = b"4";

/// What servers take for their own, or put there themselves.
const RESERVED: [&str; 37] = [
    "ack",
    "amqp-message-id",
    "app-id",
    "browser",
    "cluster-id",
    "content-encoding",
    "content-length",
    "content-type",
    "correlation-id",
    "destination",
    "destination-type",
    "exchange",
    "expiration",
    "expires",
    "heart-beat",
    "host",
    "id",
    "ingress-timestamp",
    "login",
    "message-id",
    "original-destination",
    "passcode",
    "persistent",
    "priority",
    "receipt",
    "receipt-id",
    "redelivered",
    "reply-to",
    "selector",
    "subscription",
    "subscription-type",
    "timestamp",
    "transaction",
    "transformation",
    "transformation-error",
    "type",
    "user-id",
];
/// And so do names that begin so.
const RESERVED_PREFIXES: [&str; 7] = ["AMQ", "JMS", "_", "activemq.", "mq-", "x-", "amq"];
/// Of those, what says something about the message to whoever reads it.
const TOLD: [(&str, &str); 5] = [
    ("destination", "destination"),
    ("type", "type"),
    ("user-id", "user_id"),
    ("JMSXUserID", "user_id"),
    ("original-destination", "original_destination"),
];

/// A message as a SEND. What a server refuses anyway is not looked for here.
pub fn send(envelope: &Envelope, address: &Address, dialect: Dialect, now: u64) -> Frame {
    let mut frame = address.send(dialect).with("persistent", "true");
    let mut rest = Vec::new();
    if is_plain(envelope.id.as_bytes()) {
        frame = frame.with(ID, &envelope.id);
    } else {
        rest.push((ID.to_owned(), envelope.id.clone().into_bytes()));
    }
    match dialect {
        Dialect::Artemis => frame = frame.with(ARTEMIS_ID, &envelope.id),
        Dialect::Rabbit => frame = frame.with(RABBIT_ID, &envelope.id),
        _ => {}
    }
    for (field, value) in &envelope.fields {
        match field {
            Field::Priority => frame = frame.with("priority", value).with(header_of(*field), value),
            Field::Ttl if dialect == Dialect::Rabbit => frame = frame.with("expiration", value),
            Field::Ttl => frame = frame.with("expires", (now + number(value).unwrap_or(1)).to_string()),
            // Servers make such queues, or rename them.
            Field::ReplyTo if value.starts_with(b"/temp-") || value.starts_with(RABBIT_REPLY) => {
                rest.push((header_of(*field).to_owned(), value.clone()))
            }
            _ if !is_plain(value) => rest.push((header_of(*field).to_owned(), value.clone())),
            Field::Group if dialect.has_transactions() => {
                frame = frame.with(JMS_GROUP, value).with(header_of(*field), value);
            }
            _ => frame = frame.with(header_of(*field), value),
        }
    }
    for (name, value) in &envelope.headers {
        if is_plain(name.as_bytes()) && !is_reserved(name) && is_plain(value) {
            frame = frame.with(name, value);
        } else {
            rest.push((format!("user.{name}"), value.clone()));
        }
    }
    if !rest.is_empty() {
        frame = frame.with(REST, overflow::render(&rest));
    }
    let is_text = address.text && !envelope.body.contains(&0) && std::str::from_utf8(&envelope.body).is_ok();
    if !is_text {
        frame = frame.with("content-length", envelope.body.len().to_string());
    }
    frame.body = envelope.body.clone();
    frame
}

/// What came. Where a header is there twice the first one counts.
pub fn came(frame: Frame, dialect: Dialect, now: u64) -> Envelope {
    let mut envelope = Envelope { id: identity(&frame, dialect), ..Envelope::default() };
    let ours = frame.header(ID).is_some();
    let mut known = Vec::new();
    for (name, value) in &frame.headers {
        if known.contains(&name) {
            continue;
        }
        known.push(name);
        match name.as_str() {
            REST => match std::str::from_utf8(value).ok().and_then(overflow::parse) {
                Some(rest) => rest.into_iter().for_each(|(name, value)| take_rest(&mut envelope, name, value)),
                None => envelope.headers.push((name.clone(), value.clone())),
            },
            JMS_GROUP | ARTEMIS_GROUP => add(&mut envelope, Field::Group, value.clone()),
            "expires" => {
                if let Some(at) = number(value).filter(|at| *at > 0) {
                    add(&mut envelope, Field::Ttl, at.saturating_sub(now).max(1).to_string().into_bytes());
                }
            }
            // So that an answer to it goes to the queue, whatever that is called.
            "reply-to" if dialect == Dialect::Rabbit => {
                let queue = value.strip_prefix(RABBIT_REPLY).unwrap_or(value);
                add(&mut envelope, Field::ReplyTo, queue.to_vec());
            }
            "expiration" => add(&mut envelope, Field::Ttl, value.clone()),
            "redelivered" if value == b"true" => envelope.source.push(("redelivered", b"1".to_vec())),
            // A queue of ours says itself whether a message has a priority.
            "priority" if ours || value == JMS_PRIORITY => {}
            "priority" => add(&mut envelope, Field::Priority, value.clone()),
            "timestamp" if frame.header(header_of(Field::EnqueuedAt)).is_none() => {
                add(&mut envelope, Field::EnqueuedAt, value.clone());
            }
            _ => match (field_of(name), TOLD.iter().find(|(told, _)| told == name)) {
                (Some(field), _) => add(&mut envelope, field, value.clone()),
                (None, Some((_, source))) => envelope.source.push((source, value.clone())),
                (None, None) if is_reserved(name) => {}
                (None, None) => envelope.headers.push((name.clone(), value.clone())),
            },
        }
    }
    envelope.body = frame.body;
    envelope
}

fn take_rest(envelope: &mut Envelope, name: String, value: Vec<u8>) {
    match (name.strip_prefix("user."), field_of(&name)) {
        (Some(header), _) => envelope.headers.push((header.to_owned(), value)),
        (None, Some(field)) => add(envelope, field, value),
        (None, None) => {}
    }
}

fn add(envelope: &mut Envelope, field: Field, value: Vec<u8>) {
    if envelope.field(field).is_none() {
        envelope.fields.push((field, value));
    }
}

/// What tells a message from others, if anything does.
///
/// What a broker counts by itself has to name the broker's incarnation, or the messages of one that was set up anew would be taken for
/// old ones: Artemis's number of a message begins again with a new journal, so it counts only with time and destination. RabbitMQ's
/// plugin makes a new one for each session.
fn identity(frame: &Frame, dialect: Dialect) -> String {
    let text = |name: &str| frame.header(name).map(|value| String::from_utf8_lossy(value).into_owned());
    let given = text(ID).or_else(|| match dialect {
        Dialect::Artemis => text(ARTEMIS_ID),
        Dialect::Rabbit => text(RABBIT_ID),
        Dialect::Classic | Dialect::Other => None,
    });
    let counted = || match dialect {
        Dialect::Classic => text("message-id"),
        Dialect::Artemis => {
            let id = text("message-id")?;
            let number = id.split_once(',').map(|(_, number)| number.to_owned())?;
            Some(format!("{number}@{}@{}", text("timestamp")?, text("destination")?))
        }
        Dialect::Rabbit | Dialect::Other => None,
    };
    given.filter(|id| !id.is_empty()).or_else(counted).unwrap_or_default()
}

fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
        || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || field_of(name).is_some()
}

/// Whether every server gives it back as it was: text in one line, without spaces at its ends, which some take off.
fn is_plain(value: &[u8]) -> bool {
    let text = std::str::from_utf8(value);
    text.is_ok_and(|text| !text.is_empty() && text.trim() == text && !text.chars().any(char::is_control))
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::super::systems;
    use super::*;

    const NOW: u64 = 1_000_000;

    fn address(text: &str) -> Address {
        Address::of(&systems::parse(text).unwrap().0, true).unwrap()
    }

    fn bytes(text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    fn full() -> Envelope {
        let fields = vec![
            (Field::ContentType, bytes("text/csv")),
            (Field::CorrelationId, bytes("c\n7")),
            (Field::ReplyTo, bytes("answers")),
            (Field::Ttl, bytes("7000")),
            (Field::Priority, bytes("4")),
            (Field::Group, bytes("g:1")),
            (Field::EnqueuedAt, bytes("5000")),
            (Field::DedupId, vec![0xff]),
            (Field::Hops, bytes("1")),
            (Field::Name, bytes("größe.csv")),
        ];
        let headers = vec![
            ("binary".to_owned(), vec![0xff, 0]),
            ("colour".to_owned(), bytes("röt: \\n")),
            ("destination".to_owned(), bytes("mine")),
            ("mq-name".to_owned(), bytes("not it")),
            (" spaced ".to_owned(), bytes(" x ")),
            ("empty".to_owned(), Vec::new()),
        ];
        Envelope { id: "o/1".to_owned(), fields, headers, source: Vec::new(), body: bytes("x") }
    }

    /// A server keeps what it does not know, and says more.
    #[test]
    fn what_is_sent_comes_back_the_same() {
        for (url, dialect) in [
            ("activemq://h?queue=q", Dialect::Classic),
            ("activemq://h?queue=q", Dialect::Artemis),
            ("stomp://h?destination=q", Dialect::Rabbit),
            ("stomp://h?destination=q", Dialect::Other),
        ] {
            let mut frame = send(&full(), &address(url), dialect, NOW);
            assert_eq!((frame.text("persistent"), frame.text("content-length")), ("true".into(), "1".into()));
            frame = frame.with("message-id", "7,8").with("timestamp", "9").with("subscription", "0").with("ack", "7,8");
            let mut came = came(frame, dialect, NOW);
            assert_eq!(
                came.source,
                [("destination", bytes(if dialect == Dialect::Classic { "/queue/q" } else { "q" }))]
            );
            came.source.clear();
            let place = |field: &Field| full().fields.iter().position(|(other, _)| other == field);
            came.fields.sort_by_key(|(field, _)| place(field));
            came.headers.sort();
            let mut expected = full();
            expected.headers.sort();
            assert_eq!(came, expected, "{dialect:?}");
        }
    }

    #[test]
    fn a_message_of_jms_says_what_it_is() {
        let frame = Frame::new("MESSAGE")
            .with("message-id", "ID:host-1")
            .with("destination", "/queue/q")
            .with("priority", "7")
            .with("priority", "2")
            .with("expires", (NOW + 5).to_string())
            .with("timestamp", "1700")
            .with("type", "order")
            .with("redelivered", "true")
            .with("persistent", "true")
            .with("JMSXGroupID", "g")
            .with("colour", "red");
        let jms = came(frame, Dialect::Classic, NOW);
        assert_eq!((jms.id.as_str(), jms.field(Field::Priority)), ("ID:host-1", Some(&b"7"[..])));
        assert_eq!((jms.field(Field::Ttl), jms.field(Field::EnqueuedAt)), (Some(&b"5"[..]), Some(&b"1700"[..])));
        assert_eq!(jms.headers, [("colour".to_owned(), bytes("red"))]);
        let source = [("destination", bytes("/queue/q")), ("type", bytes("order")), ("redelivered", bytes("1"))];
        assert_eq!(jms.source, source);
        let usual = Frame::new("MESSAGE").with("priority", "4").with("expires", "0");
        assert_eq!(came(usual, Dialect::Classic, NOW).fields, []);
    }

    #[test]
    fn an_identity_names_the_incarnation_of_who_counts() {
        let frame = |headers: &[(&str, &str)]| {
            let empty =
                Frame::new("MESSAGE").with("message-id", "12,345").with("timestamp", "99").with("destination", "q");
            headers.iter().fold(empty, |frame, (name, value)| frame.with(name, value))
        };
        for (headers, dialect, expected) in [
            (&[][..], Dialect::Classic, "12,345"),
            (&[], Dialect::Artemis, "345@99@q"),
            (&[], Dialect::Rabbit, ""),
            (&[], Dialect::Other, ""),
            (&[("_AMQ_DUPL_ID", "d")], Dialect::Artemis, "d"),
            (&[("_AMQ_DUPL_ID", "d")], Dialect::Other, ""),
            (&[("amqp-message-id", "a")], Dialect::Rabbit, "a"),
            (&[("_AMQ_DUPL_ID", "d"), ("mq-id", "m")], Dialect::Artemis, "m"),
            (&[("mq-id", "m")], Dialect::Classic, "m"),
        ] {
            assert_eq!(came(frame(headers), dialect, NOW).id, expected, "{dialect:?}");
        }
    }

    #[test]
    fn text_is_sent_as_text_where_that_is_wanted_and_possible() {
        let text = address("activemq://h?queue=q&jms=text");
        let length = |body: &[u8]| {
            let envelope = Envelope { body: body.to_vec(), ..Envelope::default() };
            send(&envelope, &text, Dialect::Classic, NOW).header("content-length").map(<[u8]>::to_vec)
        };
        assert_eq!(length("größe".as_bytes()), None);
        assert_eq!((length(b"a\0b"), length(b"\xff")), (Some(bytes("3")), Some(bytes("1"))));
    }

    #[test]
    fn what_is_no_rest_is_a_header_like_others() {
        let odd = came(Frame::new("MESSAGE").with(REST, "{"), Dialect::Classic, NOW);
        assert_eq!(odd.headers, [(REST.to_owned(), bytes("{"))]);
    }
}
