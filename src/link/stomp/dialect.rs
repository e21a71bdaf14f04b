//! What servers of STOMP do each in their own way, and what their errors mean.

use super::frame::Frame;

/// Who the server is, by the header `server` of its first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// ActiveMQ Classic.
    Classic,
    /// ActiveMQ Artemis.
    Artemis,
    /// RabbitMQ's plugin.
    Rabbit,
    /// Another one.
    Other,
}

/// What an ERROR says of what it answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// There is no room now.
    Full,
    /// It is not permitted, or there is no such destination: no message is at fault.
    Forbidden,
    /// The message will never do.
    Never,
    /// Something else, which may be the message's fault.
    Unknown,
}

impl Dialect {
    /// Reads it from a CONNECTED.
    pub fn of(connected: &Frame) -> Dialect {
        let server = connected.text("server");
        match () {
            () if server.starts_with("ActiveMQ-Artemis") => Dialect::Artemis,
            () if server.starts_with("ActiveMQ") => Dialect::Classic,
            () if server.starts_with("RabbitMQ") => Dialect::Rabbit,
            () => Dialect::Other,
        }
    }

    /// Whether a COMMIT's receipt comes when all of the transaction is on disk. RabbitMQ's does not wait for that.
    pub fn has_transactions(self) -> bool {
        matches!(self, Dialect::Classic | Dialect::Artemis)
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Classic => "ActiveMQ Classic",
            Dialect::Artemis => "ActiveMQ Artemis",
            Dialect::Rabbit => "RabbitMQ",
            Dialect::Other => "a server of STOMP",
        }
    }
}

/// Phrases in errors, in lower case. There are no codes: this is what the sources of the three say.
const PHRASES: [(&str, Meaning); 18] = [
    ("is full", Meaning::Full),
    ("limit reached", Meaning::Full),
    ("resourceallocationexception", Meaning::Full),
    ("free storage space", Meaning::Full),
    ("not authorized", Meaning::Forbidden),
    ("does not have permission", Meaning::Forbidden),
    ("access_refused", Meaning::Forbidden),
    ("access refused", Meaning::Forbidden),
    ("destination does not exist", Meaning::Forbidden),
    ("not_found", Meaning::Forbidden),
    ("unknown destination", Meaning::Forbidden),
    ("invalid destination", Meaning::Forbidden),
    ("semantics on", Meaning::Forbidden),
    // Artemis says no more than this, whether it is about permission or room.
    ("amq339011", Meaning::Forbidden),
    ("was exceeded", Meaning::Never),
    ("header too big", Meaning::Never),
    ("frame_too_large", Meaning::Never),
    ("larger than", Meaning::Never),
];

/// What an ERROR says.
pub fn meaning(error: &Frame) -> Meaning {
    let said = format!("{}\n{}", error.text("message"), String::from_utf8_lossy(&error.body)).to_lowercase();
    PHRASES.iter().find(|(phrase, _)| said.contains(phrase)).map_or(Meaning::Unknown, |(_, meaning)| *meaning)
}

/// The words of an ERROR, in one line.
pub fn words(error: &Frame) -> String {
    /// Brokers send whole stacks of calls.
    const LONGEST: usize = 300;
    let (short, long) = (error.text("message"), String::from_utf8_lossy(&error.body).into_owned());
    let first = |text: &str| text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
    let mut words = first(&short).filter(|words| words != "null");
    match first(&long) {
        Some(more) if words.as_deref() != Some(&more) && words.as_ref().is_none_or(|words| !more.contains(words)) => {
            words = Some(words.map_or(more.clone(), |words| format!("{words}: {more}")));
        }
        _ => {}
    }
    let words = words.unwrap_or_else(|| "an ERROR without words".to_owned());
    match words.split_once(" CoreMessage[") {
        Some((told, _)) => format!("{told}; the broker's log says why: no permission, perhaps, or no room"),
        None => words.chars().take(LONGEST).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_what_it_says() {
        for (server, dialect) in [
            ("ActiveMQ/5.17.2", Dialect::Classic),
            ("ActiveMQ-Artemis/2.40.0 ActiveMQ Artemis Messaging Engine", Dialect::Artemis),
            ("RabbitMQ/3.10.8", Dialect::Rabbit),
            ("", Dialect::Other),
        ] {
            assert_eq!(Dialect::of(&Frame::new("CONNECTED").with("server", server)), dialect);
        }
    }

    #[test]
    fn errors_are_told_apart_by_their_words() {
        let error = |message: &str, body: &str| Frame {
            body: body.as_bytes().to_vec(),
            ..Frame::new("ERROR").with("message", message)
        };
        for (message, body, expected) in [
            ("AMQ229102: Address \"q\" is full.", "", Meaning::Full),
            ("User anna is not authorized to write to: queue://q", "", Meaning::Forbidden),
            (
                "AMQ339011: Error sending message",
                "AMQ229032: User: anna does not have permission='SEND'",
                Meaning::Forbidden,
            ),
            ("The maximum header length was exceeded", "", Meaning::Never),
            ("AMQ339013: Error committing 7", "", Meaning::Unknown),
        ] {
            assert_eq!(meaning(&error(message, body)), expected, "{message}");
        }
        assert_eq!(words(&error("null", "\njava.lang.X: no\n\tat y")), "java.lang.X: no");
        assert_eq!(words(&error("short", "long\n")), "short: long");
        assert_eq!(words(&error("no", "x.Y: no\n\tat")), "no");
        assert_eq!(words(&error("", "")), "an ERROR without words");
        let artemis = error("AMQ339011 Error sending message CoreMessage[messageID=7, properties=...]", "");
        assert!(words(&artemis).starts_with("AMQ339011 Error sending message; the broker's log"));
        assert_eq!(meaning(&artemis), Meaning::Forbidden);
    }
}
