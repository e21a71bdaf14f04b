//! RabbitMQ, and lapin, the library that links use as well: persistent, mandatory, with confirms.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::process::Command;
use std::time::Instant;

use futures_core::Stream;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm};
use tokio::runtime::{Builder, Runtime};

use super::BYTES;
use super::broker::{Broker, built_with};
use crate::Failure;
use crate::client::{BATCH, body};
use crate::clients::Sample;
use crate::rabbit;

/// The server.
pub struct Rabbit {
    server: rabbit::Rabbit,
    runtime: Runtime,
}

impl Rabbit {
    /// Starts it.
    pub fn start() -> Result<Rabbit, Failure> {
        Ok(Rabbit { server: rabbit::Rabbit::start(), runtime: Builder::new_current_thread().enable_all().build()? })
    }

    /// Does something on a channel of its own.
    fn with<T, F: Future<Output = Result<T, Failure>>>(&self, what: impl FnOnce(Channel) -> F) -> Result<T, Failure> {
        self.runtime.block_on(async {
            let connection = Connection::connect(&self.server.url(""), ConnectionProperties::default()).await?;
            // Kept until the connection ends: a channel that is dropped is closed, and so cannot be closed with it.
            let channel = connection.create_channel().await?;
            let done = what(channel.clone()).await?;
            connection.close(200, "bye".into()).await?;
            Ok(done)
        })
    }
}

impl Broker for Rabbit {
    fn name(&self) -> &'static str {
        "RabbitMQ"
    }

    fn client(&self) -> &'static str {
        "lapin"
    }

    fn about(&self) -> String {
        let version = Command::new("dpkg-query").args(["-W", "-f", "${Version}", "rabbitmq-server"]).output();
        let version = version.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
        let lapin = built_with("lapin");
        format!(
            "RabbitMQ {version} on one scheduler, a durable classic queue; lapin {lapin} on one thread: persistent, mandatory, at most \
             {BATCH} unconfirmed; prefetch {}, acknowledged by {BATCH}",
            2 * BATCH
        )
    }

    fn url(&self, place: &str, _: bool) -> String {
        self.server.url(&format!("?queue={place}"))
    }

    fn make(&self, place: &str) -> Result<(), Failure> {
        self.with(async |channel| {
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(place.into(), options, FieldTable::default()).await?;
            Ok(())
        })
    }

    fn remove(&self, place: &str) -> Result<(), Failure> {
        self.with(async |channel| {
            channel.queue_delete(place.into(), QueueDeleteOptions::default()).await?;
            Ok(())
        })
    }

    fn publish(&self, place: &str, count: u64) -> Result<Sample, Failure> {
        self.with(async |channel| {
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let (body, begun) = (body(BYTES), Instant::now());
            let mut unconfirmed: VecDeque<PublisherConfirm> = VecDeque::new();
            for number in 0..count {
                if unconfirmed.len() as u64 == BATCH {
                    confirmed(unconfirmed.pop_front()).await?;
                }
                // As links do: each has an identity.
                let properties =
                    BasicProperties::default().with_delivery_mode(2).with_message_id(number.to_string().into());
                unconfirmed
                    .push_back(channel.basic_publish("".into(), place.into(), options, &body, properties).await?);
            }
            for confirm in unconfirmed {
                confirmed(Some(confirm)).await?;
            }
            Ok(Sample { operations: count, seconds: begun.elapsed().as_secs_f64() })
        })
    }

    fn consume(&self, place: &str, count: u64) -> Result<Sample, Failure> {
        self.with(async |channel| {
            channel.basic_qos(2 * BATCH as u16, BasicQosOptions::default()).await?;
            let begun = Instant::now();
            let options = BasicConsumeOptions::default();
            let mut consumer = channel.basic_consume(place.into(), "".into(), options, FieldTable::default()).await?;
            for number in 1..=count {
                let came = poll_fn(|context| Pin::new(&mut consumer).poll_next(context)).await;
                let delivery = came.ok_or("the subscription ended")??;
                if delivery.data.len() != BYTES {
                    return Err(format!("a message of {} bytes", delivery.data.len()).into());
                }
                if number % BATCH == 0 || number == count {
                    channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true }).await?;
                }
            }
            // Its answer comes when the acknowledgements have been dealt with.
            channel.basic_qos(1, BasicQosOptions::default()).await?;
            Ok(Sample { operations: count, seconds: begun.elapsed().as_secs_f64() })
        })
    }
}

async fn confirmed(confirm: Option<PublisherConfirm>) -> Result<(), Failure> {
    let Some(confirm) = confirm else { return Ok(()) };
    match confirm.await? {
        Confirmation::Ack(None) => Ok(()),
        other => Err(format!("a message was not confirmed: {other:?}").into()),
    }
}
