//! What a URL of RabbitMQ names: `amqp://HOST/VHOST?queue=Q`, or out `?exchange=E&key=K`.

use std::fmt;

use super::super::envelope::{Envelope, Field};
use super::super::trouble::Trouble;
use super::super::url::Target;

/// AMQP's short strings have so many bytes.
pub const LONGEST: usize = 255;

/// What the routing key of a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Always this.
    Fixed(String),
    /// The message's group.
    Group,
    /// A header of the message.
    Header(String),
}

/// Where in a broker messages go, or come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The virtual host.
    pub vhost: String,
    /// The exchange that is published to; empty is the default one.
    pub exchange: String,
    /// The routing key.
    pub key: Key,
    /// The queue that is published to or consumed from.
    pub queue: Option<String>,
    /// The queue is made, as a quorum queue, when it is not there.
    pub declare: bool,
}

impl Address {
    /// Reads it from a URL, for one direction.
    pub fn of(target: &Target, out: bool) -> Result<Address, Trouble> {
        let refused = |why: &str| Trouble::usage(format_args!("{}: {why}", target.text));
        target.expect_parameters(&["queue", "exchange", "key", "declare"]).map_err(|why| refused(&why))?;
        let parameter = |key: &str| target.parameter(key).map(str::to_owned);
        let (queue, exchange, key) = (parameter("queue"), parameter("exchange"), parameter("key"));
        let declare = match parameter("declare").as_deref() {
            None => false,
            Some("quorum") if queue.is_some() => true,
            Some("quorum") => return Err(refused("declare needs a queue")),
            Some(_) => return Err(refused("declare: allowed is quorum")),
        };
        let long = [&queue, &exchange, &key, &target.path].into_iter().flatten().any(|text| text.len() > LONGEST);
        if long || queue.as_deref() == Some("") {
            return Err(refused("a name of AMQP has 1 to 255 bytes"));
        }
        match (out, &queue, &exchange) {
            (_, None, None) => return Err(refused("it names no queue: write ?queue=NAME")),
            (false, None, _) => return Err(refused("messages come from a queue: write ?queue=NAME")),
            (true, Some(_), Some(_)) if !declare => return Err(refused("name a queue or an exchange, not both")),
            (false, _, Some(_)) if !declare => {
                return Err(refused("an exchange needs declare=quorum, which binds the queue"));
            }
            _ => {}
        }
        let key = match (key, &exchange, &queue) {
            (Some(key), Some(_), _) => parse_key(key),
            (Some(_), None, _) => return Err(refused("a key needs an exchange")),
            (None, None, Some(queue)) => Key::Fixed(queue.clone()),
            (None, ..) => Key::Fixed(String::new()),
        };
        let vhost = target.path.clone().unwrap_or_else(|| "/".to_owned());
        Ok(Address { vhost, exchange: exchange.unwrap_or_default(), key, queue, declare })
    }

    /// The routing key of a message; one that cannot be sent is refused.
    pub fn key_of(&self, envelope: &Envelope) -> Result<String, String> {
        let value = match &self.key {
            Key::Fixed(key) => return Ok(key.clone()),
            Key::Group => envelope.field(Field::Group),
            Key::Header(name) => envelope.header(name),
        };
        let value = String::from_utf8(value.unwrap_or_default().to_vec());
        value.ok().filter(|key| key.len() <= LONGEST).ok_or_else(|| "its routing key is not short text".to_owned())
    }

    /// The key with which a queue that is declared is bound.
    pub fn binding(&self) -> &str {
        match &self.key {
            Key::Fixed(key) => key,
            Key::Group | Key::Header(_) => "#",
        }
    }
}

fn parse_key(text: String) -> Key {
    match text.strip_prefix('%') {
        Some("group") => Key::Group,
        Some(rest) if rest.starts_with("header.") => Key::Header(rest["header.".len()..].to_owned()),
        _ => Key::Fixed(text),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.queue, self.exchange.as_str()) {
            (Some(queue), "") => write!(f, "queue {queue}")?,
            (Some(queue), exchange) => write!(f, "queue {queue} of exchange {exchange}")?,
            (None, exchange) => write!(f, "exchange {exchange}")?,
        }
        write!(f, " of virtual host {}", self.vhost)
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
    fn a_queue_is_reached_by_the_default_exchange() {
        let address = of("amqp://h?queue=q", true).unwrap();
        assert_eq!((address.vhost.as_str(), address.exchange.as_str()), ("/", ""));
        assert_eq!(address.key_of(&Envelope::default()).unwrap(), "q");
        assert_eq!(of("amqp://h/v?queue=q", false).unwrap().vhost, "v");
    }

    #[test]
    fn a_key_may_be_the_messages() {
        let fields = vec![(Field::Group, b"g".to_vec())];
        let headers = vec![("eu".to_owned(), b"de".to_vec()), ("odd".to_owned(), b"\xff".to_vec())];
        let envelope = Envelope { fields, headers, ..Envelope::default() };
        for (key, expected) in
            [("new", "new"), ("%group", "g"), ("%header.eu", "de"), ("%header.none", ""), ("%x", "%x")]
        {
            assert_eq!(
                of(&format!("amqp://h?exchange=e&key={key}"), true).unwrap().key_of(&envelope).unwrap(),
                expected
            );
        }
        assert!(of("amqp://h?exchange=e&key=%header.odd", true).unwrap().key_of(&envelope).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, out, told) in [
            ("amqp://h", true, "names no queue"),
            ("amqp://h?exchange=e", false, "come from a queue"),
            ("amqp://h?queue=q&exchange=e", true, "not both"),
            ("amqp://h?queue=q&exchange=e", false, "declare=quorum"),
            ("amqp://h?queue=q&key=k", true, "needs an exchange"),
            ("amqp://h?exchange=e&declare=quorum", true, "needs a queue"),
            ("amqp://h?queue=q&declare=classic", true, "quorum"),
            ("amqp://h?queue=q&prefetch=1", true, "unknown parameter"),
            ("amqp://h?queue=", true, "1 to 255"),
        ] {
            let why = of(text, out).expect_err(text);
            assert!(why.contains(told), "{text}: {why}");
        }
    }
}
