//! A connection to RabbitMQ with one channel, and what its errors mean.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::{Runtime, Tokio};
use futures_core::Stream as _;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use lapin::{AsyncTcpStream, Channel, Connection, ConnectionProperties, Error, ErrorKind, Event, ExchangeKind};
use tokio::sync::watch;
use tokio_rustls::rustls::ClientConfig;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::super::net::{self, Net, Stream};
use super::super::peer::{Condition, Ends};
use super::super::trouble::{Kind, Trouble};
use super::super::url::Host;
use super::address::Address;

/// How long the broker may take to answer when nothing is sent.
pub const ANSWER: Duration = Duration::from_secs(20);

/// The user that RabbitMQ has when it is new, and his password; he is let in from its own machine only.
const GUEST: &str = "guest";

/// What ended a channel or a connection is told when the broker has been answered: so long that is waited for.
pub const WORD: Duration = Duration::from_secs(2);

/// A connection with one channel.
pub struct Open {
    /// The connection.
    pub connection: Connection,
    /// Its channel.
    pub channel: Channel,
    /// Whether the broker takes something.
    pub condition: Condition,
    host: Host,
    /// What ended the channel or the connection: the first word of it, which others only follow from.
    said: watch::Receiver<Option<Error>>,
}

impl Open {
    fn new(connection: Connection, channel: Channel, host: Host) -> Open {
        let (tell, said) = watch::channel(None);
        let condition = Condition::default();
        let (events, told) = (connection.events_listener(), condition.clone());
        tokio::spawn(async move {
            let mut events = pin!(events);
            while let Some(event) = poll_fn(|context| events.as_mut().poll_next(context)).await {
                match event {
                    Event::ConnectionBlocked(reason) => told.set(Some(reason)),
                    Event::ConnectionUnblocked => told.set(None),
                    Event::Error(error) => _ = tell.send_if_modified(|said| said.replace(error).is_none()),
                    _ => {}
                }
            }
        });
        Open { connection, channel, condition, host, said }
    }

    /// Whether connection and channel stand, as far as is known.
    pub fn stands(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }

    /// Why it does not stand any more.
    pub async fn ended(&self) -> Trouble {
        match self.word().await {
            Some(said) => self.trouble(&said),
            None => Trouble::away(format_args!("{}:{}: the connection is lost", self.host.name, self.host.port)),
        }
    }

    /// What has really gone wrong: who asks for something when the broker has closed the channel is told only that it is closed.
    pub async fn really(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::ProtocolError(_) => error,
            _ if self.stands() => error,
            _ => self.word().await.unwrap_or(error),
        }
    }

    async fn word(&self) -> Option<Error> {
        let mut said = self.said.clone();
        let word = tokio::time::timeout(WORD, said.wait_for(Option::is_some)).await;
        word.ok()?.ok()?.clone()
    }

    /// What an error of the library means for the link.
    pub fn trouble(&self, error: &Error) -> Trouble {
        trouble(&self.host, error)
    }

    /// The same, of what was asked for.
    pub async fn trouble_of(&self, error: Error) -> Trouble {
        self.trouble(&self.really(error).await)
    }

    /// The broker's place with what it has said.
    pub fn refusing(&self, why: &str) -> Trouble {
        Trouble::refusing(format_args!("{}:{}: {why}", self.host.name, self.host.port))
    }

    /// Takes leave: waits a moment for the broker to say goodbye.
    pub fn close(&self, net: &Net) {
        let _ = net.wait(Duration::from_secs(2), self.connection.close(200, "bye".into()));
    }
}

/// Connects to the first host that lets us in, and opens a channel. What is linked is looked at, or made.
pub async fn open(ends: Ends<'_>, address: &Address, tls: Option<Arc<ClientConfig>>) -> Result<Open, Trouble> {
    if let (None, None, Some(user)) = (&ends.secret, &ends.settings.tls_cert, &ends.target.user)
        && user != GUEST
    {
        return Err(Trouble::usage(format_args!("there is no password of {user}: say secret = FILE")));
    }
    net::first(&ends.target.hosts, async |host| open_at(host, ends, address, tls.clone()).await).await
}

async fn open_at(
    host: &Host,
    ends: Ends<'_>,
    address: &Address,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Open, Trouble> {
    let stream = net::connect(host, tls).await?;
    let (user, password) = ends.secret.map_or(Ok((GUEST, GUEST)), |secret| secret.password())?;
    // A certificate that is shown says who it is, where there is no password.
    let by_certificate = ends.secret.is_none() && ends.settings.tls_cert.is_some();
    let auth_mechanism = by_certificate.then_some(SASLMechanism::External);
    let heartbeat = ends.settings.heartbeat.as_secs() as u16;
    let uri = AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: user.to_owned(), password: password.to_owned() },
            host: host.name.clone(),
            port: host.port,
        },
        vhost: address.vhost.clone(),
        query: AMQPQueryString { heartbeat: Some(heartbeat), auth_mechanism, ..AMQPQueryString::default() },
    };
    let properties = ConnectionProperties::default()
        .with_connection_name(LongString::from(format!("mqfs link {}", ends.name)))
        .with_client_property("product".into(), LongString::from("mqfs"))
        .with_client_property("version".into(), LongString::from(env!("CARGO_PKG_VERSION")));
    let runtime = Runtime::new(Kit(Tokio::current()));
    let at = |error: Error| trouble(host, &error);
    let stream = std::sync::Mutex::new(Some(stream));
    let take = async move |_: AMQPUri, _: Runtime<Kit>| {
        let stream = stream.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match stream {
            Some(stream) => Ok(AsyncTcpStream::Plain(stream.compat())),
            // A second connection is for us to make, not for the library.
            None => Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into()),
        }
    };
    let connection = Connection::connector(uri, runtime, take, properties).await.map_err(at)?;
    let channel = connection.create_channel().await.map_err(at)?;
    prepare(&channel, address).await.map_err(at)?;
    Ok(Open::new(connection, channel, host.clone()))
}

/// Looks that exchange and queue are there, or makes the queue.
async fn prepare(channel: &Channel, address: &Address) -> Result<(), Error> {
    if !address.exchange.is_empty() {
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let (exchange, kind) = (address.exchange.as_str().into(), ExchangeKind::Direct);
        channel.exchange_declare(exchange, kind, options, FieldTable::default()).await?;
    }
    let Some(queue) = &address.queue else { return Ok(()) };
    let mut arguments = FieldTable::default();
    if address.declare {
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    }
    let options =
        QueueDeclareOptions { passive: !address.declare, durable: address.declare, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.as_str().into(), options, arguments).await?;
    if address.declare && !address.exchange.is_empty() {
        let (queue, exchange) = (queue.as_str().into(), address.exchange.as_str().into());
        let options = QueueBindOptions::default();
        channel.queue_bind(queue, exchange, address.binding().into(), options, FieldTable::default()).await?;
    }
    Ok(())
}

/// How many messages wait in a queue.
pub async fn waiting(channel: &Channel, queue: &str) -> Result<u64, Error> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    Ok(queue.message_count().into())
}

fn trouble(host: &Host, error: &Error) -> Trouble {
    let kind = match error.kind() {
        ErrorKind::ProtocolError(error) if is_refusal(error.kind()) => Kind::Refusing,
        _ => Kind::Away,
    };
    let text = match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        _ => error.to_string(),
    };
    Trouble::new(kind, format_args!("{}:{}: {text}", host.name, host.port))
}

/// Whether the broker says no, rather than that it goes away.
fn is_refusal(kind: &AMQPErrorKind) -> bool {
    match kind {
        AMQPErrorKind::Soft(soft) => !matches!(soft, AMQPSoftError::NOCONSUMERS),
        AMQPErrorKind::Hard(hard) => {
            matches!(hard, AMQPHardError::NOTALLOWED | AMQPHardError::NOTIMPLEMENTED | AMQPHardError::INVALIDPATH)
        }
    }
}

/// Whether the broker has ended the channel because of something in a message: it is too large, or its properties make no sense.
pub fn is_objection(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            matches!(error.kind(), AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED))
        }
        _ => false,
    }
}

/// Connects, logs in, and looks that everything is there.
pub fn look(net: &Net, ends: Ends<'_>, out: bool) -> Result<(), Trouble> {
    let address = Address::of(ends.target, out)?;
    let tls = net::tls(ends.target, ends.settings)?;
    let limit = ANSWER * ends.target.hosts.len() as u32;
    net.wait(limit, open(ends, &address, tls))??.close(net);
    Ok(())
}

/// tokio, with connections that we make ourselves.
#[derive(Clone, Debug)]
struct Kit(Tokio);

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, f: F) -> T {
        self.0.block_on(f)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        f: F,
    ) -> async_rs::util::Task<Self::Task<T>> {
        self.0.spawn(f)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        f: F,
    ) -> async_rs::util::Task<Self::Task<T>> {
        self.0.spawn_blocking(f)
    }
}

impl Reactor for Kit {
    type TcpStream = Compat<Stream>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: std::io::Read + std::io::Write + Send + 'static>(
        &self,
        _: H,
    ) -> std::io::Result<impl futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin + 'static> {
        // Never asked for: the library is given connections that are made.
        Err::<Compat<Stream>, _>(std::io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, dur: Duration) -> Self::Sleep {
        self.0.sleep(dur)
    }

    fn interval(&self, dur: Duration) -> impl futures_core::Stream<Item = std::time::Instant> + Send + 'static {
        self.0.interval(dur)
    }

    fn tcp_connect_addr(
        &self,
        _: std::net::SocketAddr,
    ) -> impl Future<Output = std::io::Result<Self::TcpStream>> + Send + 'static {
        // Nor is this: see `open_at`.
        std::future::ready(Err(std::io::ErrorKind::Unsupported.into()))
    }
}
