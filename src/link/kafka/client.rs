//! How librdkafka is set up, and what its errors mean.

use std::ffi::CString;
use std::time::{Duration, Instant};

use rdkafka::client::{ClientContext, NativeClient};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::super::peer::Ends;
use super::super::secret::Secret;
use super::super::trouble::{Kind, Trouble};
use super::super::url::Target;
use super::address::{Address, Sasl};
use super::events::{Event, Events, Fault, Topic};
use super::token::Tokens;

/// How long a broker may take to answer.
pub const ANSWER: Duration = Duration::from_secs(10);
/// How long it is tried to reach any broker at all before that is told. A name may have several addresses, of which the first is
/// of no use.
const NOBODY: Duration = Duration::from_secs(2);

/// What promises hang on, or what other settings say: nobody sets it by `kafka.NAME`. Some have two names.
const OURS: [&str; 33] = [
    "acks",
    "request.required.acks",
    "allow.auto.create.topics",
    "auto.commit.enable",
    "auto.offset.reset",
    "bootstrap.servers",
    "metadata.broker.list",
    "delivery.timeout.ms",
    "message.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "enable.ssl.certificate.verification",
    "enabled_events",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "partition.assignment.strategy",
    "plugin.library.paths",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.keystore.password",
    "transactional.id",
];

/// What producers and consumers have in common.
pub fn config(ends: Ends<'_>, address: &Address) -> Result<ClientConfig, Trouble> {
    let Ends { target, settings, .. } = ends;
    check(&settings.kafka)?;
    let mut config = ClientConfig::new();
    config.set("allow.auto.create.topics", "false");
    config.set_log_level(RDKafkaLogLevel::Warning);
    config.set("bootstrap.servers", servers(target)).set("client.id", format!("mqfs-link-{}", ends.name));
    config
        .set("broker.address.family", "any")
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true");
    let backoff = |wait: Duration| wait.as_millis().clamp(1, 3_600_000).to_string();
    config.set("reconnect.backoff.ms", backoff(settings.retry_first.min(settings.retry_longest)));
    config.set("reconnect.backoff.max.ms", backoff(settings.retry_longest));
    for (name, value) in &settings.kafka {
        config.set(name, value);
    }
    config.set(
        "security.protocol",
        match (target.tls, ends.secret.is_some()) {
            (false, false) => "plaintext",
            (false, true) => "sasl_plaintext",
            (true, false) => "ssl",
            (true, true) => "sasl_ssl",
        },
    );
    if target.tls {
        config.set("enable.ssl.certificate.verification", "true");
        config.set("ssl.endpoint.identification.algorithm", "https");
        let files = [&settings.tls_ca, &settings.tls_cert, &settings.tls_key];
        for (name, file) in ["ssl.ca.location", "ssl.certificate.location", "ssl.key.location"].into_iter().zip(files) {
            if let Some(file) = file {
                config.set(name, file.to_string_lossy());
            }
        }
    }
    match (ends.secret, &target.user) {
        // The token itself is handed over when there is a client.
        (Some(Secret::Token(_)), _) if address.sasl == Sasl::OauthBearer => {
            config.set("sasl.mechanism", address.sasl.word());
        }
        (_, _) if address.sasl == Sasl::OauthBearer => {
            return Err(Trouble::usage("sasl=oauthbearer: say secret = FILE, with a line `token = ...`"));
        }
        (Some(secret), _) => {
            let (user, password) = secret.password()?;
            config.set("sasl.mechanism", address.sasl.word()).set("sasl.username", user).set("sasl.password", password);
        }
        (None, Some(user)) => {
            return Err(Trouble::usage(format_args!("there is no password of {user}: say secret = FILE")));
        }
        (None, None) => {}
    }
    Ok(config)
}

/// Refuses settings of librdkafka that are not for anybody to set.
pub fn check(settings: &[(String, String)]) -> Result<(), Trouble> {
    match settings.iter().find(|(name, _)| OURS.contains(&name.as_str()) || name.ends_with("_cb")) {
        Some((name, _)) => Err(Trouble::usage(format_args!("kafka.{name}: the link sets it by itself"))),
        None => Ok(()),
    }
}

fn servers(target: &Target) -> String {
    let one = |name: &str, port: u16| match name.contains(':') {
        true => format!("[{name}]:{port}"),
        false => format!("{name}:{port}"),
    };
    target.hosts.iter().map(|host| one(&host.name, host.port)).collect::<Vec<_>>().join(",")
}

/// What is wrong with a configuration, or with a client that could not be made of it.
pub fn unmade(error: &KafkaError) -> Trouble {
    match error {
        // A value may be a password.
        KafkaError::ClientConfig(_, why, name, _) => Trouble::usage(format_args!("kafka.{name}: {why}")),
        other => Trouble::usage(other),
    }
}

/// What an error means for the link.
pub fn trouble(fault: &Fault) -> Trouble {
    let kind = if fault.fatal || is_refusal(fault.code) { Kind::Refusing } else { Kind::Away };
    Trouble::new(kind, why(fault))
}

/// What there is to say, without what is another time each time it is said.
pub fn why(fault: &Fault) -> String {
    fault.text.split_once(" (after ").map_or(fault.text.as_str(), |(why, _)| why).to_owned()
}

/// The same, of a call that says no more than which error it is.
pub fn trouble_of(what: &str, error: &KafkaError) -> Trouble {
    let code = error.rdkafka_error_code();
    let kind = if code.is_some_and(is_refusal) { Kind::Refusing } else { Kind::Away };
    match code {
        Some(code) => Trouble::new(kind, format_args!("{what}: {code}")),
        None => Trouble::new(kind, format_args!("{what}: {error}")),
    }
}

/// Whether the cluster says no, rather than that it is not there.
pub fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::Authentication
            | Code::SSL
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::IllegalSASLState
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::InvalidTopic
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::InvalidGroupId
            | Code::InvalidSessionTimeout
            | Code::InconsistentGroupProtocol
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature
            | Code::UnsupportedCompressionType
            | Code::NotImplemented
            | Code::Fenced
            | Code::FencedInstanceId
    )
}

/// Whether it is no use to wait for a connection.
fn is_hopeless(code: Code) -> bool {
    matches!(code, Code::Authentication | Code::SSL | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism)
}

/// Connects, and asks what a topic is like; it is not made by that. `events` is the client's own queue, which nobody else reads yet.
pub fn reach(
    client: &NativeClient,
    events: &Events,
    address: &Address,
    tokens: Option<&Tokens>,
) -> Result<Topic, Trouble> {
    tokens.map_or(Ok(()), |tokens| tokens.offer(client))?;
    let (asked, answers) = (Instant::now(), ask(client, address, ANSWER)?);
    let (mut heard, mut down) = (None, None);
    loop {
        match events.next(Duration::from_millis(10)) {
            Some(Event::Failed(fault)) if fault.code == Code::AllBrokersDown => {
                down.get_or_insert_with(Instant::now);
            }
            Some(Event::Failed(fault)) if fault.fatal || is_hopeless(fault.code) => return Err(trouble(&fault)),
            Some(Event::Failed(fault)) => heard = Some(why(&fault)),
            Some(Event::TokenWanted) => tokens.iter().for_each(|tokens| tokens.renew(client)),
            _ => {}
        }
        if let Some(Event::Described(described)) = answers.next(Duration::from_millis(10)) {
            return described.map_err(|fault| missing(address, &fault, heard));
        }
        let nobody = down.is_some_and(|since: Instant| since.elapsed() > NOBODY);
        if nobody || asked.elapsed() > ANSWER + NOBODY {
            return Err(Trouble::away(heard.unwrap_or_else(|| "no broker answers".to_owned())));
        }
    }
}

/// Asks what a topic is like, when connected.
pub fn describe(client: &NativeClient, address: &Address, limit: Duration) -> Result<Topic, Trouble> {
    match ask(client, address, limit)?.next(limit * 2) {
        Some(Event::Described(described)) => described.map_err(|fault| missing(address, &fault, None)),
        _ => Err(Trouble::away("no answer about the topic")),
    }
}

fn ask(client: &NativeClient, address: &Address, limit: Duration) -> Result<Events, Trouble> {
    let topic = CString::new(address.topic.as_str()).map_err(Trouble::usage)?;
    let answers = Events::of_answers(client).ok_or_else(|| Trouble::new(Kind::Local, "no memory"))?;
    answers.ask(client, &topic, limit);
    Ok(answers)
}

fn missing(address: &Address, fault: &Fault, heard: Option<String>) -> Trouble {
    let trouble = trouble(fault);
    match (trouble.kind, heard) {
        (Kind::Away, Some(heard)) => Trouble::away(heard),
        _ => Trouble::new(trouble.kind, format_args!("{address}: {}", trouble.text)),
    }
}

/// Its events are read where they are waited for; nothing is called back.
#[derive(Clone, Copy, Debug)]
pub struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, what: &str, text: &str) {
        tracing::debug!(what, text, "librdkafka");
    }

    fn error(&self, error: KafkaError, text: &str) {
        tracing::debug!(%error, text, "librdkafka");
    }
}

impl ConsumerContext for Quiet {}

impl ProducerContext for Quiet {
    type DeliveryOpaque = usize;

    fn delivery(&self, _: &DeliveryResult<'_>, _: usize) {}
}

#[cfg(test)]
mod tests {
    use super::super::super::settings::Settings;
    use super::super::super::systems;
    use super::*;

    #[test]
    fn nobody_sets_what_promises_hang_on() {
        let of = |line: &str| {
            let mut settings = Settings::default();
            settings.apply_line(line).unwrap();
            check(&settings.kafka).map_err(|trouble| trouble.text)
        };
        assert_eq!(of("kafka.linger.ms = 50"), Ok(()));
        for name in ["acks", "delivery.timeout.ms", "sasl.password", "plugin.library.paths", "dr_msg_cb"] {
            assert!(of(&format!("kafka.{name} = 1")).unwrap_err().contains("by itself"), "{name}");
        }
    }

    #[test]
    fn the_connection_is_as_the_url_says() {
        let settings = Settings::default();
        let of = |text: &str| {
            let target = systems::parse(text).unwrap().0;
            let address = Address::of(&target, true).unwrap();
            config(Ends { target: &target, secret: None, settings: &settings, name: "n", origin: "" }, &address)
        };
        let plain = of("kafka://a,[::1]:9093/t").unwrap();
        assert_eq!(plain.get("bootstrap.servers"), Some("a:9092,[::1]:9093"));
        assert_eq!(plain.get("security.protocol"), Some("plaintext"));
        assert_eq!(of("kafkas://a/t").unwrap().get("security.protocol"), Some("ssl"));
        assert!(of("kafkas://anna@a/t").unwrap_err().text.contains("no password of anna"));
    }
}
