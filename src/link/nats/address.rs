//! What a URL of NATS names: `nats://HOST/SUBJECT[?stream=S]`, or in `?stream=S&durable=D&start=...`.

use std::fmt;

use super::super::mark::Start;
use super::super::trouble::Trouble;
use super::super::url::Target;

/// Where in a server messages go, or come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// What messages are published to; or which of the stream's come, with wildcards; all of them when nothing is said.
    pub subject: Option<String>,
    /// The stream. When nothing is said, the one that has the subject.
    pub stream: Option<String>,
    durable: Option<String>,
    /// Where the stream is read from when the mark does not say.
    pub start: Start,
}

impl Address {
    /// Reads it from a URL, for one direction.
    pub fn of(target: &Target, out: bool) -> Result<Address, Trouble> {
        let refused = |why: &str| Trouble::usage(format_args!("{}: {why}", target.text));
        let known: &[&str] = if out { &["stream"] } else { &["stream", "durable", "start"] };
        target.expect_parameters(known).map_err(|why| refused(&why))?;
        let parameter = |key: &str| target.parameter(key).map(str::to_owned);
        let (subject, stream, durable) = (target.path.clone(), parameter("stream"), parameter("durable"));
        if subject.as_deref().is_some_and(|subject| !is_subject(subject, !out)) {
            return Err(refused("a subject is words with dots between them"));
        }
        if [&stream, &durable].into_iter().flatten().any(|name| !is_name(name)) {
            return Err(refused("a name of a stream or consumer has no white space, dot, wildcard or slash"));
        }
        match (&subject, &stream) {
            (None, _) if out => return Err(refused("it names no subject: write nats://HOST/SUBJECT")),
            (None, None) => return Err(refused("it names no stream: write ?stream=NAME, or a subject")),
            _ => {}
        }
        Ok(Address { subject, stream, durable, start: Start::of(target)? })
    }

    /// The consumer of a link.
    pub fn consumer(&self, link: &str) -> String {
        self.durable.clone().unwrap_or_else(|| link.replace('.', "_"))
    }
}

fn is_subject(subject: &str, wildcards: bool) -> bool {
    let mut words = subject.split('.').peekable();
    while let Some(word) = words.next() {
        let wild = word == "*" || word == ">" && words.peek().is_none();
        let plain = !word.is_empty() && !word.contains(['*', '>']) && !word.contains(|c: char| c <= ' ' || c == '\x7f');
        if !(plain || wild && wildcards) {
            return false;
        }
    }
    true
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['.', '*', '>', '/', '\\']) && !name.contains(|c: char| c <= ' ' || c == '\x7f')
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.subject, &self.stream) {
            (Some(subject), Some(stream)) => write!(f, "subject {subject} of stream {stream}"),
            (Some(subject), None) => write!(f, "subject {subject}"),
            (None, stream) => write!(f, "stream {}", stream.as_deref().unwrap_or_default()),
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
    fn a_url_names_a_subject_or_a_stream() {
        assert_eq!(of("nats://h/orders.new", true).unwrap().to_string(), "subject orders.new");
        let address = of("nats://h/orders.*.>?stream=ORDERS&start=latest", false).unwrap();
        assert_eq!(
            (address.to_string().as_str(), address.start),
            ("subject orders.*.> of stream ORDERS", Start::Latest)
        );
        assert_eq!(address.consumer("a.b"), "a_b");
        assert_eq!(of("nats://h?stream=S&durable=d", false).unwrap().consumer("x"), "d");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, out, told) in [
            ("nats://h?stream=S", true, "names no subject"),
            ("nats://h", false, "names no stream"),
            ("nats://h/orders.*", true, "a subject is"),
            ("nats://h/orders..x", false, "a subject is"),
            ("nats://h/%3e.x", false, "a subject is"),
            ("nats://h/a%20b", true, "a subject is"),
            ("nats://h?stream=a.b", false, "no white space"),
            ("nats://h/x?durable=d", true, "unknown parameter"),
            ("nats://h/x?start=now", false, "allowed are"),
        ] {
            let why = of(text, out).expect_err(text);
            assert!(why.contains(told), "{text}: {why}");
        }
    }
}
