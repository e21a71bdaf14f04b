//! Sending to NATS: stored by the stream before it counts.

use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver as Waiting};

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{Context, ErrorCode};

use super::super::envelope::Envelope;
use super::super::net::{self, Net};
use super::super::peer::{self, Ends, Outcome, Sent};
use super::super::trouble::Trouble;
use super::address::Address;
use super::connection::{self, Connection};
use super::map;

/// A connection that publishes to a subject.
pub struct Sender {
    connection: Connection,
    to: Arc<To>,
}

/// Where messages go.
struct To {
    subject: String,
    stream: String,
    /// The stream lets a message say for how long it is kept.
    ttl: bool,
}

impl Sender {
    /// Connects, and looks that a stream has the subject.
    pub fn connect(net: &Net, ends: Ends<'_>) -> Result<Sender, Trouble> {
        let address = Address::of(ends.target, true)?;
        let tls = net::tls(ends.target, ends.settings)?;
        let opening = async {
            let connection = Connection::open(ends, tls).await?;
            let stream = connection.stream(&address).await?.cached_info().config.name.clone();
            let ttl = connection.permits_ttl(&stream).await?;
            let to = Arc::new(To { subject: address.subject.clone().unwrap_or_default(), stream, ttl });
            Ok::<_, Trouble>(Sender { connection, to })
        };
        net.wait(connection::limit(ends), opening)?
    }
}

impl peer::Sender for Sender {
    fn send(&self, net: &Net, messages: Vec<Arc<Envelope>>) -> Waiting<Sent> {
        let (tell, told) = mpsc::channel();
        let (context, to) = (self.connection.context.clone(), self.to.clone());
        let mut lost = self.connection.lost.clone();
        net.handle().spawn(async move {
            // Answers to what was sent over a connection that is lost never come.
            let sent = tokio::select! {
                sent = send(&context, &to, &messages) => sent,
                _ = lost.wait_for(|lost| *lost) => Sent::Lost(Trouble::away("the connection is lost")),
            };
            let _ = tell.send(sent);
        });
        told
    }

    fn is_connected(&self) -> bool {
        self.connection.is_connected()
    }

    fn close(self: Box<Self>, net: &Net) {
        self.connection.close(net);
    }
}

/// Publishes all, and then waits for all.
async fn send(context: &Context, to: &To, messages: &[Arc<Envelope>]) -> Sent {
    let mut acks = Vec::new();
    for message in messages {
        let ack = match map::headers(message, to.ttl) {
            Ok(headers) => {
                let publish = PublishMessage::build()
                    .payload(message.body.clone().into())
                    .headers(headers)
                    .expected_stream(&to.stream);
                context.send_publish(to.subject.clone(), publish).await.map_err(Err)
            }
            Err(why) => Err(Ok(Outcome::Never(why))),
        };
        acks.push(ack);
    }
    let mut outcomes = Vec::new();
    for ack in acks {
        let outcome = match ack {
            // That it is known already is as good.
            Ok(ack) => ack.into_future().await.map(|_| Outcome::Confirmed).map_err(Err),
            Err(error) => Err(error),
        };
        match outcome.or_else(|error| error.or_else(|error| judged(&error))) {
            Ok(outcome) => outcomes.push(outcome),
            Err(trouble) => return Sent::Lost(trouble),
        }
    }
    Sent::Answered(outcomes)
}

/// What an error means for its message; or for all of them.
fn judged(error: &PublishError) -> Result<Outcome, Trouble> {
    match (error.kind(), connection::code(error)) {
        (PublishErrorKind::MaxPayloadExceeded, _) => Ok(Outcome::Never(error.to_string())),
        (_, Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM)) => {
            Ok(Outcome::Never(error.to_string()))
        }
        // The stream is full, or has no place to keep it.
        (_, Some(_)) => Ok(Outcome::Later(error.to_string())),
        // The subject, or its stream, was taken away.
        (PublishErrorKind::StreamNotFound, None) => Err(Trouble::refusing(error)),
        _ => Err(Trouble::away(error)),
    }
}
