//! What comes from a stream of NATS: by a consumer that is made anew where the mark says, so that nothing is skipped and nothing comes
//! out of order.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::mpsc::{self, Receiver as Waiting, RecvTimeoutError};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::message::{AckKind, Acker};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind, RetentionPolicy, Stream};
use async_nats::jetstream::{ErrorCode, Message};
use futures_core::Stream as _;

use super::super::envelope::{Envelope, Field};
use super::super::mark::{At, Positions};
use super::super::net::{self, Net};
use super::super::peer::{self, Begins, Came, Ends};
use super::super::trouble::Trouble;
use super::address::Address;
use super::connection::{self, Connection};
use super::map;
use crate::clock;

/// A server that says nothing for twice as long has forgotten us. It takes no more than half of the 30 s that it is asked for.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// What the marks of this system begin with.
const SYSTEM: &str = "nats";

/// A connection with a consumer.
pub struct Receiver {
    connection: Connection,
    consumer: PullConsumer,
    begins: Option<Begins>,
    came: Waiting<Result<Message, Trouble>>,
    /// What is not acknowledged, in order, by receipts.
    open: VecDeque<(u64, Acker)>,
    /// How many have come; a receipt is the number that a message has among them, which is also the server's own count.
    count: u64,
    lag: Option<u64>,
}

impl Receiver {
    /// Connects, and makes the consumer.
    pub fn connect(net: &Net, ends: Ends<'_>, mark: Option<&Positions>) -> Result<Receiver, Trouble> {
        let address = Address::of(ends.target, false)?;
        let tls = net::tls(ends.target, ends.settings)?;
        let (tell, came) = mpsc::channel();
        let opening = async {
            let connection = Connection::open(ends, tls).await?;
            let stream = connection.stream(&address).await?;
            connection::check_retention(&stream.cached_info().config)?;
            let (next, begins) = place(&stream, &address, mark)?;
            let consumer = make(&stream, ends, &address, next).await?;
            let messages = consumer
                .stream()
                .max_messages_per_batch(ends.settings.batch * 2)
                .heartbeat(HEARTBEAT.min(ends.settings.heartbeat))
                .messages()
                .await
                .map_err(Trouble::away)?;
            Ok::<_, Trouble>((connection, stream, consumer, messages, next, begins))
        };
        let (connection, stream, consumer, mut messages, mut next, begins) =
            net.wait(connection::limit(ends), opening)??;
        let everything = has_all(&stream, &address);
        net.handle().spawn(async move {
            while let Some(message) = poll_fn(|context| Pin::new(&mut messages).poll_next(context)).await {
                let message = match message {
                    Ok(message) => checked(&stream, message, &mut next, everything).await,
                    Err(error) => Err(Trouble::away(error)),
                };
                let last = message.is_err();
                if tell.send(message).is_err() || last {
                    return;
                }
            }
        });
        Ok(Receiver { connection, consumer, begins: Some(begins), came, open: VecDeque::new(), count: 0, lag: None })
    }
}

/// Where the stream is read from.
fn place(stream: &Stream, address: &Address, mark: Option<&Positions>) -> Result<(u64, Begins), Trouble> {
    let info = stream.cached_info();
    let log = format!("{}@{}", info.config.name, info.created.unix_timestamp_nanos());
    let (first, end) = (info.state.first_sequence.max(1), info.state.last_sequence + 1);
    let mut positions = Positions::new(SYSTEM, &log);
    let (next, told) = match mark {
        None => (address.start.begin(first, end), None),
        Some(mark) if !mark.is_of(SYSTEM, &log) => {
            let gap = format!(
                "the mark is of another stream than this {}, or of one that had its name before",
                info.config.name
            );
            (address.start.begin(first, end), Some(address.start.over(gap)?))
        }
        Some(mark) => match mark.next(0) {
            // What is missing may have been of other subjects, or replaced by newer ones.
            Some(next) if next < first && !has_all(stream, address) => {
                let told =
                    format!("the stream has removed messages from {next} to {}, perhaps some for here", first - 1);
                (first, Some(told))
            }
            Some(next) => address.start.resume(next, first, end)?,
            None => (first, None),
        },
    };
    positions.set(0, next);
    Ok((next, Begins { mark: positions, told }))
}

/// Whether every number in the stream is a message for this link, until the stream's limits remove it.
fn has_all(stream: &Stream, address: &Address) -> bool {
    let config = &stream.cached_info().config;
    let all = address.subject.as_ref().is_none_or(|subject| config.subjects.iter().all(|other| other == subject));
    all && config.retention == RetentionPolicy::Limits && config.max_messages_per_subject <= 0
}

async fn make(stream: &Stream, ends: Ends<'_>, address: &Address, next: u64) -> Result<PullConsumer, Trouble> {
    let name = address.consumer(ends.name);
    match stream.delete_consumer(&name).await {
        Ok(_) => {}
        Err(error) if code(&error) == Some(ErrorCode::CONSUMER_NOT_FOUND) => {}
        Err(error) => return Err(wrong(&name, &error)),
    }
    let deliver_policy = match stream.cached_info().config.retention {
        // It has no other; what is acknowledged is not there any more.
        RetentionPolicy::WorkQueue => DeliverPolicy::All,
        _ => DeliverPolicy::ByStartSequence { start_sequence: next },
    };
    let config = pull::Config {
        durable_name: Some(name.clone()),
        description: Some(format!("mqfs link {}", ends.name)),
        deliver_policy,
        ack_policy: AckPolicy::Explicit,
        // What is under way for so long is asked for anew by the link itself.
        ack_wait: ends.settings.hold + ends.settings.linger + Duration::from_secs(60),
        filter_subject: address.subject.clone().unwrap_or_default(),
        max_ack_pending: (ends.settings.batch * 2) as i64,
        ..pull::Config::default()
    };
    stream.create_consumer(config).await.map_err(|error| wrong(&name, &error))
}

fn code(error: &ConsumerError) -> Option<ErrorCode> {
    match error.kind() {
        ConsumerErrorKind::JetStream(error) => Some(error.error_code()),
        _ => None,
    }
}

fn wrong(consumer: &str, error: &ConsumerError) -> Trouble {
    let text = format!("consumer {consumer}: {error}");
    match code(error) {
        Some(_) => Trouble::refusing(text),
        None => Trouble::away(text),
    }
}

/// Looks whether the stream has removed something between the last message and this one. Connecting again finds out what is to become of
/// that.
async fn checked(stream: &Stream, message: Message, next: &mut u64, everything: bool) -> Result<Message, Trouble> {
    let number = message.info().map_err(Trouble::away)?.stream_sequence;
    if number > *next && everything {
        let first = stream.get_info().await.map_err(Trouble::away)?.state.first_sequence;
        if first > *next {
            return Err(Trouble::away("the stream has removed messages before they came"));
        }
    }
    *next = number + 1;
    Ok(message)
}

impl peer::Receiver for Receiver {
    fn begins(&mut self) -> Option<Begins> {
        self.begins.take()
    }

    fn next(&mut self, limit: Duration) -> Result<Option<Came>, Trouble> {
        let lost = || Trouble::away("the connection is lost");
        if !self.connection.is_connected() {
            return Err(lost());
        }
        let message = match self.came.recv_timeout(limit) {
            Ok(came) => came?,
            Err(RecvTimeoutError::Timeout) if self.connection.is_connected() => return Ok(None),
            Err(_) => return Err(lost()),
        };
        let info = message.info().map_err(Trouble::away)?;
        self.count += 1;
        // Each delivery has the next number: when one does not, another one was lost on its way, or comes again out of order.
        if info.consumer_sequence != self.count {
            return Err(Trouble::away("a delivery is missing: beginning anew from the mark"));
        }
        self.lag = Some(info.pending);
        let at = At { partition: 0, number: info.stream_sequence };
        let mut envelope = map::envelope(message.headers.as_ref(), message.payload.to_vec());
        about(&mut envelope, message.subject.as_str(), &info, clock::now_ms());
        let receipt = self.count;
        let (_, acker) = message.split();
        self.open.push_back((receipt, acker));
        Ok(Some(Came { envelope, receipt, at: Some(at), large: None }))
    }

    fn done(&mut self, net: &Net, receipt: u64, _: Option<&Positions>) -> Result<(), Trouble> {
        let split = self.open.partition_point(|(open, _)| *open <= receipt);
        let done: Vec<Acker> = self.open.drain(..split).map(|(_, acker)| acker).collect();
        let telling = async {
            let Some((last, others)) = done.split_last() else { return Ok(()) };
            for acker in others {
                acker.ack().await?;
            }
            // The server answers to this one, and has heard the others before it.
            last.double_ack().await
        };
        net.wait(connection::ANSWER, telling)?.map_err(Trouble::away)
    }

    fn reject(&mut self, net: &Net, receipt: u64) -> Result<(), Trouble> {
        let at = self.open.iter().position(|(open, _)| *open == receipt);
        let Some((_, acker)) = at.and_then(|at| self.open.remove(at)) else { return Ok(()) };
        net.wait(connection::ANSWER, acker.double_ack_with(AckKind::Term))?.map_err(Trouble::away)
    }

    fn lag(&self) -> Option<u64> {
        self.lag
    }

    fn remaining(&self, net: &Net) -> Result<u64, Trouble> {
        let info = net.wait(connection::ANSWER, self.consumer.get_info())?.map_err(Trouble::away)?;
        Ok(info.num_pending + info.delivered.consumer_sequence.saturating_sub(self.count))
    }

    fn close(self: Box<Self>, net: &Net) {
        self.connection.close(net);
    }
}

/// What a message's place says of it.
fn about(envelope: &mut Envelope, subject: &str, info: &async_nats::jetstream::message::Info<'_>, now: u64) {
    let published = info.published.unix_timestamp_nanos() / 1_000_000;
    map::age(envelope, u64::try_from(published).map_or(0, |published| now.saturating_sub(published)));
    if envelope.field(Field::EnqueuedAt).is_none() {
        envelope.fields.push((Field::EnqueuedAt, published.to_string().into_bytes()));
    }
    envelope.source.push(("subject", subject.as_bytes().to_vec()));
    envelope.source.push(("stream", info.stream.as_bytes().to_vec()));
    envelope.source.push(("sequence", info.stream_sequence.to_string().into_bytes()));
}
