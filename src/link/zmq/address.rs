//! What a URL of ZeroMQ names: `zmq+PATTERN://HOST:PORT`, where the host `*` is bound, or `zmq+PATTERN+ipc:///PATH`.

use std::fmt;

use super::super::trouble::Trouble;
use super::super::url::Target;

/// What the socket is, which decides what can be promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Out: each message to one of those that pull.
    Push,
    /// Out: each message to all that have subscribed.
    Pub,
    /// Out: each message is answered.
    Req,
    /// In: what is pushed.
    Pull,
    /// In: what is published.
    Sub,
    /// In: what is asked, and answered.
    Rep,
}

const PATTERNS: [(&str, Pattern); 6] = [
    ("push", Pattern::Push),
    ("pub", Pattern::Pub),
    ("req", Pattern::Req),
    ("pull", Pattern::Pull),
    ("sub", Pattern::Sub),
    ("rep", Pattern::Rep),
];

/// What a message is published under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Always this; in, what begins so is subscribed to.
    Fixed(String),
    /// Out: the message's group.
    Group,
}

/// Where a socket is bound or connected to, and how messages look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// What the socket is.
    pub pattern: Pattern,
    /// As libzmq calls them.
    pub endpoints: Vec<String>,
    /// The others connect to us.
    pub bind: bool,
    /// The first frame of what is published.
    pub topic: Option<Topic>,
    /// A frame before the body has all properties, as JSON.
    pub json: bool,
    /// Out: what nobody has subscribed to is kept back.
    pub wait: bool,
    /// The public key of whom we connect to.
    pub server_key: Option<String>,
}

impl Address {
    /// Reads it from a URL, for one direction.
    pub fn of(target: &Target, out: bool) -> Result<Address, Trouble> {
        let refused = |why: &str| Trouble::usage(format_args!("{}: {why}", target.text));
        let mut words = target.scheme.split('+').skip(1);
        let word = words.next().unwrap_or_default();
        let pattern = PATTERNS.iter().find(|(name, _)| *name == word).map(|(_, pattern)| *pattern);
        let pattern = pattern.ok_or_else(|| refused("there is no such pattern"))?;
        if out != matches!(pattern, Pattern::Push | Pattern::Pub | Pattern::Req) {
            return Err(refused(if out {
                "messages go by push, pub or req"
            } else {
                "messages come by pull, sub or rep"
            }));
        }
        target.expect_parameters(&["bind", "topic", "frames", "wait", "server_key"]).map_err(|why| refused(&why))?;
        let choice = |key: &str, word: &str| match target.parameter(key) {
            None => Ok(false),
            Some(value) if value == word => Ok(true),
            Some(_) => Err(refused(&format!("{key}: allowed is {word}"))),
        };
        let (bind, json, wait) = (choice("bind", "yes")?, choice("frames", "json")?, choice("wait", "subscriber")?);
        let ipc = words.next() == Some("ipc");
        let (endpoints, bind) = if ipc {
            let path = target.path.as_deref().ok_or_else(|| refused("it names no path"))?;
            (vec![format!("ipc:///{path}")], bind)
        } else {
            tcp(target, bind).map_err(refused)?
        };
        if bind && endpoints.len() > 1 {
            return Err(refused("one host can be bound"));
        }
        if target.user.is_some() || (!ipc && target.path.is_some()) {
            return Err(refused("neither a user nor a path means anything here"));
        }
        let topic = match target.parameter("topic") {
            Some(_) if !matches!(pattern, Pattern::Pub | Pattern::Sub) => {
                return Err(refused("a topic is for pub and sub"));
            }
            Some("%group") if out => Some(Topic::Group),
            topic => topic.map(|topic| Topic::Fixed(topic.to_owned())),
        };
        if wait && pattern != Pattern::Pub {
            return Err(refused("wait is for pub"));
        }
        let server_key = target.parameter("server_key").map(str::to_owned);
        match &server_key {
            Some(_) if bind => return Err(refused("a server_key is for whom we connect to")),
            Some(key) if key.len() != 40 => return Err(refused("a server_key has 40 characters")),
            _ => {}
        }
        Ok(Address { pattern, endpoints, bind, topic, json, wait, server_key })
    }
}

fn tcp(target: &Target, bind: bool) -> Result<(Vec<String>, bool), &'static str> {
    let mut bind = bind;
    let mut endpoints = Vec::new();
    for host in &target.hosts {
        if host.port == 0 {
            return Err("it names no port");
        }
        bind |= host.name == "*";
        let name = if host.name.contains(':') { format!("[{}]", host.name) } else { host.name.clone() };
        endpoints.push(format!("tcp://{name}:{}", host.port));
    }
    Ok((endpoints, bind))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = PATTERNS.iter().find(|(_, pattern)| *pattern == self.pattern).map_or("", |(name, _)| name);
        let how = if self.bind { "bound to" } else { "connected to" };
        write!(f, "{name}, {how} {}", self.endpoints.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::systems;
    use super::*;

    fn of(text: &str, out: bool) -> Result<Address, String> {
        Address::of(&systems::parse(text)?.0, out).map_err(|trouble| trouble.text)
    }

    #[test]
    fn endpoints_are_connected_to_or_bound() {
        let push = of("zmq+push://h:5555,[::1]:6", true).unwrap();
        assert_eq!((push.endpoints.join(" ").as_str(), push.bind), ("tcp://h:5555 tcp://[::1]:6", false));
        let publish = of("zmq+pub://*:5555?topic=%group&wait=subscriber", true).unwrap();
        assert_eq!(
            (publish.endpoints[0].as_str(), publish.bind, publish.topic),
            ("tcp://*:5555", true, Some(Topic::Group))
        );
        let rep = of("zmq+rep+ipc:///run/x.sock?bind=yes&frames=json", false).unwrap();
        assert_eq!((rep.endpoints[0].as_str(), rep.bind, rep.json), ("ipc:///run/x.sock", true, true));
        assert_eq!(of("zmq+sub://127.0.0.1:1?bind=yes", false).unwrap().to_string(), "sub, bound to tcp://127.0.0.1:1");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let key = "k".repeat(40);
        for (text, out, told) in [
            ("zmq+push://h:1", false, "come by pull"),
            ("zmq+sub://h:1", true, "go by push"),
            ("zmq+push://h", true, "no port"),
            ("zmq+push+ipc://", true, "no path"),
            ("zmq+push://*:1,h:2", true, "one host"),
            ("zmq+push://h:1?topic=t", true, "pub and sub"),
            ("zmq+push://h:1?wait=subscriber", true, "for pub"),
            ("zmq+push://h:1?frames=xml", true, "allowed is json"),
            ("zmq+push://u@h:1", true, "neither a user"),
            ("zmq+push://h:1?server_key=k", true, "40 characters"),
            (&format!("zmq+push://*:1?server_key={key}"), true, "whom we connect to"),
            ("zmq+pair://h:1", true, "no system"),
        ] {
            let why = of(text, out).expect_err(text);
            assert!(why.contains(told), "{text}: {why}");
        }
    }
}
