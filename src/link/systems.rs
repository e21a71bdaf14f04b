//! The one place that names the systems that can be linked. A new one is a module, a feature in Cargo.toml, a constant, and a line for
//! each scheme.

use super::peer::System;
use super::url::{self, Scheme, Target};

/// A system, if this program was built with what it needs.
type Built = Option<&'static dyn System>;

#[cfg(feature = "link-amqp")]
const AMQP: Built = Some(&super::amqp::Amqp);
#[cfg(not(feature = "link-amqp"))]
const AMQP: Built = None;

#[cfg(feature = "link-stomp")]
const ACTIVEMQ: Built = Some(&super::stomp::Stomp::ActiveMq);
#[cfg(not(feature = "link-stomp"))]
const ACTIVEMQ: Built = None;
#[cfg(feature = "link-stomp")]
const STOMP: Built = Some(&super::stomp::Stomp::Other);
#[cfg(not(feature = "link-stomp"))]
const STOMP: Built = None;
#[cfg(feature = "link-nats")]
const NATS: Built = Some(&super::nats::Nats);
#[cfg(not(feature = "link-nats"))]
const NATS: Built = None;

#[cfg(feature = "link-kafka")]
const KAFKA: Built = Some(&super::kafka::Kafka);
#[cfg(not(feature = "link-kafka"))]
const KAFKA: Built = None;
#[cfg(feature = "link-zmq")]
const ZMQ: Built = Some(&super::zmq::Zmq);
#[cfg(not(feature = "link-zmq"))]
const ZMQ: Built = None;

static SCHEMES: &[(Scheme, Built)] = &[
    (Scheme { name: "amqp", tls: false, port: 5672, hosts: true }, AMQP),
    (Scheme { name: "amqps", tls: true, port: 5671, hosts: true }, AMQP),
    (Scheme { name: "activemq", tls: false, port: 61613, hosts: true }, ACTIVEMQ),
    (Scheme { name: "activemqs", tls: true, port: 61612, hosts: true }, ACTIVEMQ),
    (Scheme { name: "stomp", tls: false, port: 61613, hosts: true }, STOMP),
    (Scheme { name: "stomps", tls: true, port: 61614, hosts: true }, STOMP),
    (Scheme { name: "kafka", tls: false, port: 9092, hosts: true }, KAFKA),
    (Scheme { name: "kafkas", tls: true, port: 9093, hosts: true }, KAFKA),
    (Scheme { name: "nats", tls: false, port: 4222, hosts: true }, NATS),
    (Scheme { name: "natss", tls: true, port: 4222, hosts: true }, NATS),
    (zmq("zmq+push", true), ZMQ),
    (zmq("zmq+push+ipc", false), ZMQ),
    (zmq("zmq+pub", true), ZMQ),
    (zmq("zmq+pub+ipc", false), ZMQ),
    (zmq("zmq+req", true), ZMQ),
    (zmq("zmq+req+ipc", false), ZMQ),
    (zmq("zmq+pull", true), ZMQ),
    (zmq("zmq+pull+ipc", false), ZMQ),
    (zmq("zmq+sub", true), ZMQ),
    (zmq("zmq+sub+ipc", false), ZMQ),
    (zmq("zmq+rep", true), ZMQ),
    (zmq("zmq+rep+ipc", false), ZMQ),
];

/// ZeroMQ has a scheme for each pattern, by TCP and by sockets of the filesystem. What it encrypts has no TLS.
const fn zmq(name: &'static str, hosts: bool) -> Scheme {
    Scheme { name, tls: false, port: 0, hosts }
}

/// Reads a URL; with the system that it is one of. What it says about one that it refuses has no password in it.
pub fn parse(text: &str) -> Result<(Target, &'static dyn System), String> {
    let name = url::scheme_of(text).ok_or("it is not a URL")?;
    match SCHEMES.iter().find(|(scheme, _)| scheme.name == name) {
        Some((scheme, Some(system))) => Ok((url::parse(text, scheme)?, *system)),
        Some(_) => Err(format!("this mqfs was built without what `{name}` needs")),
        None => {
            let built = SCHEMES.iter().filter(|(_, system)| system.is_some()).map(|(scheme, _)| scheme.name);
            let known = built.collect::<Vec<_>>().join(", ");
            Err(format!("`{name}` is no system that can be linked: known are {known}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_system_is_told() {
        for (text, told) in [("kafkaesque://h/t", "no system that can be linked"), ("orders", "not a URL")] {
            let why = parse(text).expect_err(text);
            assert!(why.contains(told), "{text}: {why}");
        }
    }

    /// No two systems have one scheme, and each is written as it is looked for.
    #[test]
    fn each_scheme_is_one_systems() {
        for (at, (scheme, built)) in SCHEMES.iter().enumerate() {
            assert!(SCHEMES[..at].iter().all(|(other, _)| other.name != scheme.name), "{}", scheme.name);
            let text = match scheme.hosts {
                true => format!("{}://h:1", scheme.name.to_uppercase()),
                false => format!("{}:///p", scheme.name.to_uppercase()),
            };
            assert_eq!(parse(&text).is_ok(), built.is_some(), "{text}");
        }
    }
}
