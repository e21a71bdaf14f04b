//! What can be said about a link: `key = value` lines of `/etc/mqfs/link/NAME.conf`, and the same with `-o`.

use std::path::PathBuf;
use std::time::Duration;

use crate::queue::duration;

/// What happens in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As the queue has it, but a message that is refused or repeated does not hold up others.
    Kept,
    /// As the queue has it, one message at a time: one that is refused holds up all.
    Strict,
}

/// What becomes of a message that the broker refuses, and may take later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is tried again, later and later; it counts as a delivery.
    Retry,
    /// It becomes a dead letter.
    Dead,
    /// The link ends.
    Stop,
}

/// What becomes of a message that cannot be taken in, ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Poison {
    /// The link ends; the broker keeps the message.
    Stop,
    /// Body and headers are written to files in this directory, and the broker is told that it is done.
    Save(PathBuf),
    /// The broker is told to give it up: it has a place for such messages, or drops it.
    Reject,
}

/// What tells one message of a broker from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dedup {
    /// What its producer has called it, if it did.
    MessageId,
    /// This header.
    Header(String),
    /// Nothing: whatever comes is taken in.
    None,
}

/// What can be said about a link.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where messages come from.
    pub from: Option<String>,
    /// Where they go.
    pub to: Option<String>,
    /// What the link is called: its status and its mark have this name.
    pub name: Option<String>,
    /// A file with lines `user = ...` and `password = ...`.
    pub secret: Option<PathBuf>,
    /// Out: so many messages may be claimed; one half of them is under way.
    pub window: usize,
    /// Out: their bodies have so many bytes, unless one alone has more. In: a batch is enqueued when it has so many.
    pub window_bytes: u64,
    /// In: so many messages are enqueued at a time.
    pub batch: usize,
    /// In: so long after the first message a batch is enqueued, whatever came.
    pub linger: Duration,
    /// What happens in which order.
    pub order: Order,
    /// What becomes of refused messages.
    pub refused: Refused,
    /// What becomes of those that cannot be taken in.
    pub poison: Poison,
    /// In: what tells one message from another.
    pub dedup: Dedup,
    /// In: so many identities are remembered.
    pub remember: usize,
    /// After a failure it waits so long, then twice as long...
    pub retry_first: Duration,
    /// ...but not longer than this.
    pub retry_longest: Duration,
    /// Out: without any answer for so long the connection is taken for dead.
    pub confirm_timeout: Duration,
    /// How often the broker and the link tell each other that they are alive.
    pub heartbeat: Duration,
    /// In: a full or paused queue is waited for so long before the messages are left to the broker.
    pub hold: Duration,
    /// The largest body that is sent; with STOMP and ZeroMQ also the largest that is taken in.
    pub largest: u64,
    /// A file with the certificates that are trusted, instead of the system's.
    pub tls_ca: Option<PathBuf>,
    /// A file with the certificate that is shown to the broker, and those that it is signed by.
    pub tls_cert: Option<PathBuf>,
    /// A file with its key.
    pub tls_key: Option<PathBuf>,
    /// A file that is written for Prometheus.
    pub metrics: Option<PathBuf>,
    /// A password may go over a connection that is not encrypted, to another machine.
    pub plaintext: bool,
    /// What else librdkafka is told.
    pub kafka: Vec<(String, String)>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            from: None,
            to: None,
            name: None,
            secret: None,
            window: 512,
            window_bytes: 64 << 20,
            batch: 256,
            linger: Duration::from_millis(20),
            order: Order::Kept,
            refused: Refused::Retry,
            poison: Poison::Stop,
            dedup: Dedup::MessageId,
            remember: 4000,
            retry_first: Duration::from_millis(200),
            retry_longest: Duration::from_secs(30),
            confirm_timeout: Duration::from_secs(60),
            heartbeat: Duration::from_secs(15),
            hold: Duration::from_secs(600),
            largest: 128 << 20,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            metrics: None,
            plaintext: false,
            kafka: Vec::new(),
        }
    }
}

/// Every key, in the order of the manual.
pub const KEYS: &[&str] = &[
    "from",
    "to",
    "name",
    "secret",
    "window",
    "window_bytes",
    "batch",
    "linger",
    "order",
    "refused",
    "poison",
    "dedup",
    "remember",
    "retry",
    "confirm_timeout",
    "heartbeat",
    "hold",
    "largest",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "metrics",
    "plaintext",
    "kafka.PROPERTY",
];

impl Settings {
    /// The same, without what the loops look up each time: when these differ, a link has to connect anew.
    pub fn of_connections(&self) -> Settings {
        let now = Settings::default();
        Settings {
            window: now.window,
            window_bytes: now.window_bytes,
            linger: now.linger,
            order: now.order,
            refused: now.refused,
            retry_first: now.retry_first,
            retry_longest: now.retry_longest,
            largest: now.largest,
            metrics: now.metrics,
            ..self.clone()
        }
    }

    /// Takes the lines of a file. Empty ones, and those that begin with `#`, say nothing.
    pub fn apply(&mut self, text: &str) -> Result<(), String> {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                self.apply_line(line).map_err(|why| format!("line {}: {why}", number + 1))?;
            }
        }
        Ok(())
    }

    /// Takes one `key = value`.
    pub fn apply_line(&mut self, line: &str) -> Result<(), String> {
        let (key, value) = line.split_once('=').ok_or_else(|| format!("`{line}` is not `key = value`"))?;
        self.set(key.trim(), value.trim())
    }

    /// Sets a key.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "from" => self.from = Some(value.to_owned()),
            "to" => self.to = Some(value.to_owned()),
            "name" => self.name = Some(name(value)?),
            "secret" => self.secret = Some(value.into()),
            "window" => self.window = number(key, value, 1, 4096)? as usize,
            "window_bytes" => self.window_bytes = bytes(key, value)?,
            "batch" => self.batch = number(key, value, 1, 10_000)? as usize,
            "linger" => self.linger = time(key, value)?,
            "order" => self.order = word(key, value, &[("kept", Order::Kept), ("strict", Order::Strict)])?,
            "refused" => self.refused = word(key, value, &REFUSED)?,
            "poison" => self.poison = poison(value)?,
            "dedup" => self.dedup = dedup(value)?,
            "remember" => self.remember = number(key, value, 0, 7000)? as usize,
            "retry" => (self.retry_first, self.retry_longest) = range(value)?,
            "confirm_timeout" => self.confirm_timeout = time(key, value)?,
            "heartbeat" => self.heartbeat = heartbeat(value)?,
            "hold" => self.hold = time(key, value)?,
            "largest" => self.largest = bytes(key, value)?,
            "tls_ca" => self.tls_ca = Some(value.into()),
            "tls_cert" => self.tls_cert = Some(value.into()),
            "tls_key" => self.tls_key = Some(value.into()),
            "metrics" => self.metrics = Some(metrics(value)?),
            "plaintext" => self.plaintext = word(key, value, &[("yes", true), ("no", false)])?,
            _ => match key.strip_prefix("kafka.").filter(|name| !name.is_empty()) {
                Some(name) => self.kafka.push((name.to_owned(), value.to_owned())),
                None => return Err(format!("unknown key `{key}`: known are {}", KEYS.join(", "))),
            },
        }
        Ok(())
    }
}

/// The textfile collector reads files of that kind only.
fn metrics(value: &str) -> Result<PathBuf, String> {
    match value.ends_with(".prom") {
        true => Ok(value.into()),
        false => Err(format!("metrics `{value}`: write a file whose name ends with .prom")),
    }
}

const REFUSED: [(&str, Refused); 3] = [("retry", Refused::Retry), ("dead", Refused::Dead), ("stop", Refused::Stop)];

/// A name of a link: it becomes one of a file, and of an attribute.
pub fn name(value: &str) -> Result<String, String> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=100).contains(&value.len()) && !value.starts_with('.') && value.bytes().all(letter) {
        Ok(value.to_owned())
    } else {
        Err(format!("name `{value}`: write up to 100 letters, digits, dots, dashes or underscores"))
    }
}

fn number(key: &str, value: &str, least: u64, most: u64) -> Result<u64, String> {
    let parsed = value.parse().ok().filter(|number| (least..=most).contains(number));
    parsed.ok_or_else(|| format!("{key} `{value}`: write a number from {least} to {most}"))
}

/// Bytes, with `K`, `M` or `G` for powers of 1024.
fn bytes(key: &str, value: &str) -> Result<u64, String> {
    let (digits, shift) = match value.char_indices().last() {
        Some((at, 'K')) => (&value[..at], 10),
        Some((at, 'M')) => (&value[..at], 20),
        Some((at, 'G')) => (&value[..at], 30),
        _ => (value, 0),
    };
    let number = digits.trim().parse::<u64>().ok().filter(|number| (1..=(1 << 33) >> shift).contains(number));
    number.map(|number| number << shift).ok_or_else(|| format!("{key} `{value}`: write bytes, such as 64M, up to 8G"))
}

fn time(key: &str, value: &str) -> Result<Duration, String> {
    duration::parse(value).map_err(|error| format!("{key}: {error}"))
}

/// Of some systems it has whole seconds.
fn heartbeat(value: &str) -> Result<Duration, String> {
    let parsed = time("heartbeat", value)?;
    match (1..=3600).contains(&parsed.as_secs()) && parsed.subsec_nanos() == 0 {
        true => Ok(parsed),
        false => Err(format!("heartbeat `{value}`: write whole seconds, from 1s to 1h")),
    }
}

fn word<T: Copy>(key: &str, value: &str, known: &[(&str, T)]) -> Result<T, String> {
    let words = || known.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    let found = known.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning);
    found.ok_or_else(|| format!("{key} `{value}`: allowed are {}", words()))
}

fn poison(value: &str) -> Result<Poison, String> {
    match value.split_once(':') {
        Some(("save", directory)) if !directory.is_empty() => Ok(Poison::Save(directory.into())),
        _ => word("poison", value, &[("stop", false), ("reject", true)])
            .map(|reject| if reject { Poison::Reject } else { Poison::Stop })
            .map_err(|why| format!("{why}, save:DIRECTORY")),
    }
}

fn dedup(value: &str) -> Result<Dedup, String> {
    match value.split_once(':') {
        Some(("header", name)) if !name.is_empty() => Ok(Dedup::Header(name.to_owned())),
        _ => word("dedup", value, &[("message-id", true), ("none", false)])
            .map(|id| if id { Dedup::MessageId } else { Dedup::None })
            .map_err(|why| format!("{why}, header:NAME")),
    }
}

/// `FIRST..LONGEST`.
fn range(value: &str) -> Result<(Duration, Duration), String> {
    let (first, longest) =
        value.split_once("..").ok_or_else(|| format!("retry `{value}`: write such as 200ms..30s"))?;
    let (first, longest) = (time("retry", first)?, time("retry", longest)?);
    if first.is_zero() || longest < first {
        return Err(format!("retry `{value}`: the first is more than 0, and the second not less than the first"));
    }
    Ok((first, longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_can_be_set() {
        let mut settings = Settings::default();
        let text = "# a comment\n\nfrom = /srv/mq/orders\nto=amqp://h?queue=q\nname = orders\nsecret = /x\nwindow = 10\n\
                    window_bytes = 2M\nbatch = 7\nlinger = 1s\norder = strict\nrefused = dead\npoison = save:/var/poison\n\
                    dedup = header:id\nremember = 9\nretry = 1s..2m\nconfirm_timeout = 5s\nheartbeat = 7s\nhold = 1m\nlargest = 1G\ntls_ca = /ca\n\
                    tls_cert = /cert\ntls_key = /key\nmetrics = /m.prom\nplaintext = yes\nkafka.PROPERTY = 1\n";
        settings.apply(text).unwrap();
        let expected = Settings {
            from: Some("/srv/mq/orders".into()),
            to: Some("amqp://h?queue=q".into()),
            name: Some("orders".into()),
            secret: Some("/x".into()),
            window: 10,
            window_bytes: 2 << 20,
            batch: 7,
            linger: Duration::from_secs(1),
            order: Order::Strict,
            refused: Refused::Dead,
            poison: Poison::Save("/var/poison".into()),
            dedup: Dedup::Header("id".into()),
            remember: 9,
            retry_first: Duration::from_secs(1),
            retry_longest: Duration::from_secs(120),
            confirm_timeout: Duration::from_secs(5),
            heartbeat: Duration::from_secs(7),
            hold: Duration::from_secs(60),
            largest: 1 << 30,
            tls_ca: Some("/ca".into()),
            tls_cert: Some("/cert".into()),
            tls_key: Some("/key".into()),
            metrics: Some("/m.prom".into()),
            plaintext: true,
            kafka: vec![("PROPERTY".into(), "1".into())],
        };
        assert_eq!(settings, expected);
        for key in KEYS {
            assert!(text.contains(&format!("\n{key}")), "{key}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_told() {
        for (line, told) in [
            ("window", "key = value"),
            ("windw = 1", "unknown key"),
            ("window = 0", "from 1 to 4096"),
            ("window_bytes = 1T", "bytes"),
            ("window_bytes = 9G", "up to 8G"),
            ("linger = 5", "duration"),
            ("order = any", "kept, strict"),
            ("poison = save:", "save:DIRECTORY"),
            ("dedup = seq", "header:NAME"),
            ("retry = 1s", "200ms..30s"),
            ("retry = 0s..1s", "more than 0"),
            ("name = a/b", "letters"),
            ("name = .x", "letters"),
            ("metrics = /m.txt", ".prom"),
        ] {
            let why = Settings::default().apply_line(line).expect_err(line);
            assert!(why.contains(told), "{line}: {why}");
        }
        assert!(Settings::default().apply("from = x\noops").unwrap_err().contains("line 2"));
    }
}
