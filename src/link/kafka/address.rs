//! What a URL of Kafka names: `kafka://HOST/TOPIC`, out with `?key=K`, in with `?group=G&start=...`.

use std::fmt;

use super::super::envelope::{Envelope, Field};
use super::super::mark::Start;
use super::super::trouble::Trouble;
use super::super::url::Target;

/// Names of topics have so many bytes.
const LONGEST: usize = 249;

/// What the key of a record is: records with one key stay in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The message's group.
    Group,
    /// Always this.
    Fixed(String),
    /// A header of the message.
    Header(String),
}

/// How a password, or who one is otherwise, is shown to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sasl {
    /// As it is.
    Plain,
    /// As a proof of it, by SHA-256.
    Scram256,
    /// The same, by SHA-512.
    Scram512,
    /// By a token.
    OauthBearer,
}

impl Sasl {
    /// As Kafka calls it.
    pub fn word(self) -> &'static str {
        match self {
            Sasl::Plain => "PLAIN",
            Sasl::Scram256 => "SCRAM-SHA-256",
            Sasl::Scram512 => "SCRAM-SHA-512",
            Sasl::OauthBearer => "OAUTHBEARER",
        }
    }
}

/// Where in a cluster records go, or come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The topic.
    pub topic: String,
    /// Out: what the key of a record is.
    pub key: Key,
    /// In: the consumer group; by default it is called as the link.
    pub group: Option<String>,
    /// In: where to begin in a partition without a position, and in one whose position is not there any more.
    pub start: Start,
    /// How a password is shown.
    pub sasl: Sasl,
}

impl Address {
    /// Reads it from a URL, for one direction.
    pub fn of(target: &Target, out: bool) -> Result<Address, Trouble> {
        let refused = |why: &str| Trouble::usage(format_args!("{}: {why}", target.text));
        let known: &[&str] = if out { &["key", "sasl"] } else { &["group", "start", "sasl"] };
        target.expect_parameters(known).map_err(|why| refused(&why))?;
        let topic = target.path.clone().ok_or_else(|| refused("it names no topic: write kafka://HOST/TOPIC"))?;
        if !is_name(&topic) || topic.len() > LONGEST {
            return Err(refused("a topic's name has up to 249 letters, digits, dots, dashes or underscores"));
        }
        let group = target.parameter("group").map(str::to_owned);
        if group.as_deref() == Some("") {
            return Err(refused("group: a name is needed"));
        }
        let start = Start::of(target)?;
        let sasl = match target.parameter("sasl") {
            None | Some("plain") => Sasl::Plain,
            Some("scram-sha-256") => Sasl::Scram256,
            Some("scram-sha-512") => Sasl::Scram512,
            Some("oauthbearer") => Sasl::OauthBearer,
            Some(_) => return Err(refused("sasl: allowed are plain, scram-sha-256, scram-sha-512, oauthbearer")),
        };
        let key = target.parameter("key").map_or(Key::Group, key);
        Ok(Address { topic, key, group, start, sasl })
    }

    /// The key of a record; nothing where the message has not what it is made of.
    pub fn key_of<'a>(&'a self, envelope: &'a Envelope) -> Option<&'a [u8]> {
        match &self.key {
            Key::Group => envelope.field(Field::Group),
            Key::Fixed(key) => Some(key.as_bytes()),
            Key::Header(name) => envelope.header(name),
        }
    }
}

fn is_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !matches!(name, "" | "." | "..") && name.bytes().all(letter)
}

fn key(text: &str) -> Key {
    match text.strip_prefix('%') {
        Some("group") => Key::Group,
        Some(rest) if rest.starts_with("header.") => Key::Header(rest["header.".len()..].to_owned()),
        _ => Key::Fixed(text.to_owned()),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic {}", self.topic)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::systems;
    use super::*;

    fn of(text: &str, out: bool) -> Result<Address, String> {
        Address::of(&systems::parse(text).unwrap().0, out).map_err(|trouble| trouble.text)
    }

    #[test]
    fn a_topic_is_named() {
        let address = of("kafka://h,h2/orders.new?group=g&start=latest&sasl=scram-sha-512", false).unwrap();
        assert_eq!((address.topic.as_str(), address.group.as_deref()), ("orders.new", Some("g")));
        assert_eq!((address.start, address.sasl), (Start::Latest, Sasl::Scram512));
        assert_eq!(of("kafka://h/t", true).unwrap().key, Key::Group);
    }

    #[test]
    fn a_key_may_be_the_messages() {
        let fields = vec![(Field::Group, b"g".to_vec())];
        let headers = vec![("eu".to_owned(), b"\xff".to_vec())];
        let envelope = Envelope { fields, headers, ..Envelope::default() };
        for (key, expected) in [
            ("", Some(&b"g"[..])),
            ("?key=%group", Some(b"g")),
            ("?key=new", Some(b"new")),
            ("?key=%header.eu", Some(b"\xff")),
            ("?key=%header.none", None),
            ("?key=%x", Some(b"%x")),
        ] {
            assert_eq!(of(&format!("kafka://h/t{key}"), true).unwrap().key_of(&envelope), expected, "{key}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, out, told) in [
            ("kafka://h", true, "names no topic"),
            ("kafka://h/a b", true, "a topic's name"),
            ("kafka://h/..", true, "names no topic"),
            ("kafka://h/a/b", true, "a topic's name"),
            ("kafka://h/t?group=g", true, "unknown parameter"),
            ("kafka://h/t?key=g", false, "unknown parameter"),
            ("kafka://h/t?group=", false, "a name is needed"),
            ("kafka://h/t?start=middle", false, "start: allowed are"),
            ("kafka://h/t?sasl=gssapi", false, "scram-sha-512"),
        ] {
            let why = of(text, out).expect_err(text);
            assert!(why.contains(told), "{text}: {why}");
        }
    }
}
