//! What a URL of a STOMP server names: `activemq://HOST?queue=Q`, `?topic=T&subscription=S`, or `stomp://HOST?destination=D`.

use std::fmt;

use super::super::trouble::Trouble;
use super::super::url::Target;
use super::dialect::Dialect;
use super::frame::Frame;

/// What messages go to or come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A queue of ActiveMQ.
    Queue(String),
    /// A topic of ActiveMQ; messages come from it by a durable subscription.
    Topic(String),
    /// Whatever the server takes it for.
    Destination(String),
}

/// Whether the URL says that the server is one of ActiveMQ.
pub fn is_activemq(target: &Target) -> bool {
    target.scheme.starts_with("activemq")
}

/// Where in a broker messages go, or come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The destination.
    pub place: Place,
    /// The name of the durable subscription to a topic.
    pub subscription: Option<String>,
    /// As whom the subscription was made; the subscription's name when nobody says.
    pub client: Option<String>,
    /// The virtual host that is asked for.
    pub host: Option<String>,
    /// Bodies that are text are sent as such, and not as bytes.
    pub text: bool,
}

impl Address {
    /// Reads it from a URL, for one direction.
    pub fn of(target: &Target, out: bool) -> Result<Address, Trouble> {
        let refused = |why: &str| Trouble::usage(format_args!("{}: {why}", target.text));
        let known: &[&str] = match is_activemq(target) {
            false => &["destination"],
            true => &["queue", "topic", "subscription", "client", "jms"],
        };
        target.expect_parameters(known).map_err(|why| refused(&why))?;
        let parameter = |key: &str| target.parameter(key).map(str::to_owned);
        let place = match (parameter("queue"), parameter("topic"), parameter("destination")) {
            (Some(queue), None, None) => Place::Queue(queue),
            (None, Some(topic), None) => Place::Topic(topic),
            (None, None, Some(destination)) => Place::Destination(destination),
            (None, None, None) if !is_activemq(target) => {
                return Err(refused("it names no destination: write ?destination=NAME"));
            }
            (None, None, None) => return Err(refused("it names no queue: write ?queue=NAME, or ?topic=NAME")),
            _ => return Err(refused("name a queue or a topic, not both")),
        };
        let (subscription, client) = (parameter("subscription"), parameter("client"));
        match (&place, out, &subscription) {
            (Place::Topic(_), false, None) => {
                return Err(refused(
                    "from a topic messages come only while the link is connected, unless there is a subscription: \
                     write &subscription=NAME",
                ));
            }
            (Place::Topic(_), false, Some(_)) | (_, _, None) => {}
            _ => return Err(refused("a subscription is for messages that come from a topic")),
        }
        if client.is_some() && subscription.is_none() {
            return Err(refused("a client needs a subscription"));
        }
        let text = match parameter("jms").as_deref() {
            None | Some("bytes") => false,
            Some("text") if out => true,
            Some("text") => return Err(refused("jms is for messages that are sent")),
            Some(_) => return Err(refused("jms: allowed are bytes, text")),
        };
        let (Place::Queue(name) | Place::Topic(name) | Place::Destination(name)) = &place;
        let names = [Some(name), subscription.as_ref(), client.as_ref(), target.path.as_ref(), target.user.as_ref()];
        if names.into_iter().flatten().any(|name| name.is_empty() || name.chars().any(char::is_control)) {
            return Err(refused("a name is empty, or has control characters in it"));
        }
        Ok(Address { place, subscription, client, host: target.path.clone(), text })
    }

    /// As whom the link connects, where that matters.
    pub fn client(&self) -> Option<&str> {
        self.client.as_deref().or(self.subscription.as_deref())
    }

    /// The destination as a server calls it.
    pub fn destination(&self, dialect: Dialect) -> String {
        match (&self.place, dialect) {
            (Place::Destination(name), _) | (Place::Queue(name) | Place::Topic(name), Dialect::Artemis) => name.clone(),
            (Place::Queue(name), _) => format!("/queue/{name}"),
            (Place::Topic(name), _) => format!("/topic/{name}"),
        }
    }

    /// Artemis must be told what a destination is.
    fn routing(&self, dialect: Dialect) -> Option<&'static str> {
        match (&self.place, dialect) {
            (Place::Queue(_), Dialect::Artemis) => Some("ANYCAST"),
            (Place::Topic(_), Dialect::Artemis) => Some("MULTICAST"),
            _ => None,
        }
    }

    /// A frame that sends to it.
    pub fn send(&self, dialect: Dialect) -> Frame {
        let frame = Frame::new("SEND").with("destination", self.destination(dialect));
        match self.routing(dialect) {
            Some(routing) => frame.with("destination-type", routing),
            None => frame,
        }
    }

    /// A frame that asks for its messages, so many at a time, or of so many bytes.
    pub fn subscribe(&self, dialect: Dialect, prefetch: usize, bytes: usize) -> Frame {
        let mut frame = Frame::new("SUBSCRIBE").with("id", "0").with("destination", self.destination(dialect));
        frame = frame.with("ack", "client");
        if let Some(routing) = self.routing(dialect) {
            frame = frame.with("subscription-type", routing);
        }
        frame = match dialect {
            Dialect::Classic => frame.with("activemq.prefetchSize", prefetch.to_string()),
            Dialect::Artemis => frame.with("consumer-window-size", bytes.to_string()),
            Dialect::Rabbit | Dialect::Other => frame.with("prefetch-count", prefetch.to_string()),
        };
        match (&self.subscription, dialect) {
            (None, _) => frame,
            (Some(name), Dialect::Artemis) => frame.with("durable-subscription-name", name),
            (Some(name), _) => frame.with("activemq.subscriptionName", name),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Queue(name) => write!(f, "queue {name}")?,
            Place::Topic(name) => write!(f, "topic {name}")?,
            Place::Destination(name) => write!(f, "destination {name}")?,
        }
        match (&self.subscription, self.client()) {
            (Some(name), Some(client)) => write!(f, ", subscription {name} of client {client}"),
            _ => Ok(()),
        }
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
    fn each_dialect_has_its_own_names() {
        let queue = of("activemq://h?queue=q", true).unwrap();
        assert_eq!(queue.send(Dialect::Classic), Frame::new("SEND").with("destination", "/queue/q"));
        let artemis = Frame::new("SEND").with("destination", "q").with("destination-type", "ANYCAST");
        assert_eq!(queue.send(Dialect::Artemis), artemis);
        let topic = of("activemq://h?topic=t&subscription=s", false).unwrap();
        let classic = topic.subscribe(Dialect::Classic, 8, 1000);
        assert_eq!(classic.text("destination"), "/topic/t");
        assert_eq!(
            (classic.text("activemq.subscriptionName"), classic.text("activemq.prefetchSize")),
            ("s".into(), "8".into())
        );
        let artemis = topic.subscribe(Dialect::Artemis, 8, 1000);
        assert_eq!(
            (artemis.text("subscription-type"), artemis.text("consumer-window-size")),
            ("MULTICAST".into(), "1000".into())
        );
        assert_eq!((artemis.text("durable-subscription-name"), topic.client()), ("s".into(), Some("s")));
        let other = of("stomp://h/v?destination=/amq/queue/q", true).unwrap();
        assert_eq!((other.destination(Dialect::Rabbit), other.host.as_deref()), ("/amq/queue/q".into(), Some("v")));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, out, told) in [
            ("activemq://h", true, "names no queue"),
            ("stomp://h", true, "names no destination"),
            ("stomp://h?queue=q", true, "unknown parameter"),
            ("activemq://h?destination=q", true, "unknown parameter"),
            ("activemq://h?queue=q&topic=t", true, "not both"),
            ("activemq://h?topic=t", false, "&subscription="),
            ("activemq://h?topic=t&subscription=s", true, "come from a topic"),
            ("activemq://h?queue=q&subscription=s", false, "come from a topic"),
            ("activemq://h?queue=q&client=c", false, "needs a subscription"),
            ("activemq://h?queue=q&jms=map", true, "bytes, text"),
            ("activemq://h?queue=q&jms=text", false, "are sent"),
            ("activemq://h?queue=", true, "empty"),
            ("activemq://h?queue=a%0Ab", true, "control characters"),
        ] {
            let why = of(text, out).expect_err(text);
            assert!(why.contains(told), "{text}: {why}");
        }
        assert!(of("activemq://h?topic=t", true).is_ok());
    }
}
