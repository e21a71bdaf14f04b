//! A connection to NATS, and what its errors mean.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::{ContextBuilder, GetStreamByNameErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{self, RetentionPolicy};
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use tokio::sync::watch;
use tokio_rustls::rustls::ClientConfig;

use super::super::net::{self, Net};
use super::super::peer::Ends;
use super::super::secret::Secret;
use super::super::trouble::{Kind, Trouble};
use super::address::Address;

/// How long the server may take to answer.
pub const ANSWER: Duration = Duration::from_secs(20);
/// How long it may take to connect to one host.
const CONNECT: Duration = Duration::from_secs(10);

/// A connection.
pub struct Connection {
    /// What is asked of JetStream.
    pub context: Context,
    /// Whether the connection was lost. It is not used again then, though the library may have made another one.
    pub lost: watch::Receiver<bool>,
    client: Client,
}

impl Connection {
    /// Connects to the first host that lets us in.
    pub async fn open(ends: Ends<'_>, tls: Option<Arc<ClientConfig>>) -> Result<Connection, Trouble> {
        let (tell, lost) = watch::channel(false);
        let tell = Arc::new(tell);
        let options = ConnectOptions::new()
            .name(format!("mqfs link {}", ends.name))
            .connection_timeout(CONNECT)
            // A server that does not answer three of these is gone.
            .ping_interval(ends.settings.heartbeat)
            .request_timeout(Some(ANSWER))
            .retain_servers_order()
            .ignore_discovered_servers()
            // One try for each host, now; what it does once a connection was lost is of no concern.
            .max_reconnects(ends.target.hosts.len())
            .reconnect_delay_callback(|_| Duration::ZERO)
            .event_callback(move |event| {
                if matches!(event, Event::Disconnected | Event::Closed) {
                    tell.send_replace(true);
                }
                std::future::ready(())
            });
        let options = authorised(options, ends)?;
        let options = match tls {
            Some(config) => options.require_tls(true).tls_client_config(ClientConfig::clone(&config)),
            None => options,
        };
        let wrong = |error: std::io::Error| Trouble::usage(format_args!("{}: {error}", ends.target.text));
        let addresses = ends.target.hosts.iter().map(|host| {
            let name = if host.name.contains(':') { format!("[{}]", host.name) } else { host.name.clone() };
            format!("nats://{name}:{}", host.port).parse::<ServerAddr>().map_err(wrong)
        });
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        let client = options.connect(addresses).await.map_err(|error| refused(ends, &error))?;
        let context = ContextBuilder::new()
            .timeout(ANSWER)
            .ack_timeout(ends.settings.confirm_timeout)
            .max_ack_inflight(ends.settings.window.max(1))
            .build(client.clone());
        Ok(Connection { context, lost, client })
    }

    /// Whether the connection stands, as far as is known.
    pub fn is_connected(&self) -> bool {
        !*self.lost.borrow()
    }

    /// The stream that is meant.
    pub async fn stream(&self, address: &Address) -> Result<stream::Stream, Trouble> {
        let name = match (&address.stream, &address.subject) {
            (Some(name), _) => name.clone(),
            (None, subject) => {
                let subject = subject.clone().unwrap_or_default();
                let found = self.context.stream_by_subject(subject.clone()).await;
                found.map_err(|error| match error.kind() {
                    GetStreamByNameErrorKind::NotFound => {
                        Trouble::refusing(format_args!("no stream has the subject {subject}"))
                    }
                    GetStreamByNameErrorKind::JetStream(error) => Trouble::refusing(error),
                    _ => Trouble::away(error),
                })?
            }
        };
        self.context.get_stream(&name).await.map_err(|error| match error.kind() {
            GetStreamErrorKind::JetStream(error) => Trouble::refusing(format_args!("stream {name}: {error}")),
            GetStreamErrorKind::InvalidStreamName => Trouble::usage(format_args!("stream {name}: {error}")),
            _ => Trouble::away(format_args!("stream {name}: {error}")),
        })
    }

    /// Whether a message may say for how long a stream keeps it. Elsewhere, and by servers before 2.11, one that does is refused or not
    /// heeded.
    pub async fn permits_ttl(&self, stream: &str) -> Result<bool, Trouble> {
        let asked = self.context.request::<_, _, serde_json::Value>(format!("STREAM.INFO.{stream}"), &()).await;
        let info = asked.map_err(|error| Trouble::away(format_args!("stream {stream}: {error}")))?;
        Ok(info["config"]["allow_msg_ttl"] == true)
    }

    /// Takes leave: waits a moment until what was said is on its way.
    pub fn close(&self, net: &Net) {
        if self.is_connected() {
            let _ = net.wait(Duration::from_secs(2), self.client.flush());
        }
    }
}

fn authorised(options: ConnectOptions, ends: Ends<'_>) -> Result<ConnectOptions, Trouble> {
    Ok(match (ends.secret, &ends.target.user) {
        (Some(Secret::Password { user, password }), _) => options.user_and_password(user.clone(), password.clone()),
        (Some(Secret::Token(token)), _) => options.token(token.clone()),
        (Some(Secret::Nkey(seed)), _) => options.nkey(seed.clone()),
        (Some(Secret::Credentials(text)), _) => {
            // What is wrong with it is not repeated: it has a key.
            options
                .credentials(text)
                .map_err(|_| Trouble::usage("the secret: it has no JWT, or no seed that belongs to it"))?
        }
        (None, Some(user)) => {
            return Err(Trouble::usage(format_args!("there is no password of {user}: say secret = FILE")));
        }
        (Some(Secret::Curve { .. }), _) => return Err(Trouble::usage("the secret: NATS knows no keys of CURVE")),
        (None, None) => options,
    })
}

fn refused(ends: Ends<'_>, error: &ConnectError) -> Trouble {
    let kind = match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Tls => {
            Kind::Refusing
        }
        _ => Kind::Away,
    };
    let hosts = ends.target.hosts.iter().map(|host| format!("{}:{}", host.name, host.port));
    let hosts = hosts.collect::<Vec<_>>().join(",");
    if net::is_no_tls(error) {
        return Trouble::refusing(format_args!("{hosts}: {}", net::NO_TLS));
    }
    // What lies behind it says more.
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text += &format!(": {next}");
        }
        source = error.source();
    }
    Trouble::new(kind, format_args!("{hosts}: {text}"))
}

/// What JetStream said, if an error comes from there.
pub fn code(error: &(dyn std::error::Error + 'static)) -> Option<ErrorCode> {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<jetstream::Error>() {
            return Some(error.error_code());
        }
        source = error.source();
    }
    None
}

/// Connects, logs in, and looks at the stream; says what there is to say of it.
pub fn look(net: &Net, ends: Ends<'_>, out: bool) -> Result<Vec<String>, Trouble> {
    let address = Address::of(ends.target, out)?;
    let tls = net::tls(ends.target, ends.settings)?;
    let looking = async {
        let connection = Connection::open(ends, tls).await?;
        let stream = connection.stream(&address).await?;
        Ok::<_, Trouble>((connection, stream.cached_info().clone()))
    };
    let (connection, info) = net.wait(limit(ends), looking)??;
    connection.close(net);
    let (config, state) = (info.config, info.state);
    let mut lines = vec![format!("broker: stream {} is there, with {} messages", config.name, state.messages)];
    if config.storage == stream::StorageType::Memory {
        lines.push(
            "broker: the stream is kept in memory: what it has acknowledged is lost when its servers stop".to_owned(),
        );
    } else if config.num_replicas <= 1 {
        lines.push("broker: the stream has one copy, on the disk of one server".to_owned());
    }
    if out {
        lines.push(format!("broker: the stream knows doubles for {} s", config.duplicate_window.as_secs()));
    } else {
        check_retention(&config)?;
    }
    Ok(lines)
}

/// A stream that keeps what somebody is interested in forgets it when a consumer is made anew, as those of links are.
pub fn check_retention(config: &stream::Config) -> Result<(), Trouble> {
    match config.retention {
        RetentionPolicy::Interest => Err(Trouble::refusing(format_args!(
            "stream {}: its retention is interest, which no link can read from without losing messages; limits and workqueue can be",
            config.name
        ))),
        _ => Ok(()),
    }
}

/// How long it may take to connect and to look.
pub fn limit(ends: Ends<'_>) -> Duration {
    CONNECT * ends.target.hosts.len() as u32 + ANSWER
}
