//! What comes from a queue of RabbitMQ.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::mpsc::{self, Receiver as Waiting, RecvTimeoutError};
use std::time::Duration;

use futures_core::Stream;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};

use super::super::mark::Positions;
use super::super::net::{self, Net};
use super::super::peer::{self, Came, Ends};
use super::super::trouble::Trouble;
use super::super::url::Host;
use super::address::Address;
use super::{connection, map};

/// When a connection is lost, so long is waited for the reason.
const WORD: Duration = Duration::from_secs(2);

/// A connection with a consumer.
pub struct Receiver {
    connection: Connection,
    channel: Channel,
    host: Host,
    queue: String,
    prefetch: u16,
    /// At most as many as the prefetch count: the broker sends no more before something is acknowledged.
    came: Waiting<Result<Delivery, Trouble>>,
}

impl Receiver {
    /// Connects, and consumes.
    pub fn connect(net: &Net, ends: Ends<'_>) -> Result<Receiver, Trouble> {
        let address = Address::of(ends.target, false)?;
        let tls = net::tls(ends.target, ends.settings)?;
        let limit = connection::ANSWER * ends.target.hosts.len() as u32;
        let queue = address.queue.clone().unwrap_or_default();
        // One batch is being enqueued while the next one comes.
        let prefetch = u16::try_from(ends.settings.batch * 2).unwrap_or(u16::MAX);
        let (tell, came) = mpsc::channel();
        let opening = async {
            let (connection, channel, host) = connection::open(ends, &address, tls).await?;
            let wrong = |error| connection::trouble(&host, &error);
            channel.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(wrong)?;
            let options = BasicConsumeOptions::default();
            let consumer =
                channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default()).await;
            let consumer = consumer.map_err(wrong)?;
            Ok::<_, Trouble>((connection, channel, consumer, host))
        };
        let (connection, channel, mut consumer, host) = net.wait(limit, opening)??;
        let at = host.clone();
        net.handle().spawn(async move {
            while let Some(came) = poll_fn(|context| Pin::new(&mut consumer).poll_next(context)).await {
                if tell.send(came.map_err(|error| connection::trouble(&at, &error))).is_err() {
                    return;
                }
            }
            let _ = tell.send(Err(Trouble::refusing("the broker has ended the subscription: the queue is gone")));
        });
        Ok(Receiver { connection, channel, host, queue, prefetch, came })
    }
}

impl peer::Receiver for Receiver {
    fn next(&mut self, limit: Duration) -> Result<Option<Came>, Trouble> {
        let came = match self.came.recv_timeout(limit) {
            Err(RecvTimeoutError::Timeout) if self.connection.status().connected() => return Ok(None),
            // Why it is lost, the consumer is told a moment later.
            Err(RecvTimeoutError::Timeout) => self.came.recv_timeout(WORD),
            came => came,
        };
        let delivery = came.map_err(|_| Trouble::away("the connection is lost"))??;
        let mut envelope = map::envelope(&delivery.properties, delivery.data);
        let text = |text: &lapin::types::ShortString| text.as_str().as_bytes().to_vec();
        envelope.source.push(("exchange", text(&delivery.exchange)));
        envelope.source.push(("key", text(&delivery.routing_key)));
        envelope.source.extend(delivery.redelivered.then(|| ("redelivered", b"1".to_vec())));
        Ok(Some(Came { envelope, receipt: delivery.delivery_tag, at: None, large: None }))
    }

    fn done(&mut self, net: &Net, receipt: u64, _: Option<&Positions>) -> Result<(), Trouble> {
        // The answer to what is asked next comes when the broker has dealt with it.
        let options = BasicAckOptions { multiple: true };
        let telling = async {
            self.channel.basic_ack(receipt, options).await?;
            self.channel.basic_qos(self.prefetch, BasicQosOptions::default()).await
        };
        net.wait(connection::ANSWER, telling)?.map_err(|error| connection::trouble(&self.host, &error))
    }

    fn reject(&mut self, net: &Net, receipt: u64) -> Result<(), Trouble> {
        let rejecting = self.channel.basic_reject(receipt, BasicRejectOptions { requeue: false });
        net.wait(connection::ANSWER, rejecting)?.map_err(|error| connection::trouble(&self.host, &error))
    }

    fn remaining(&self, net: &Net) -> Result<u64, Trouble> {
        let asking = connection::waiting(&self.channel, &self.queue);
        net.wait(connection::ANSWER, asking)?.map_err(|error| connection::trouble(&self.host, &error))
    }

    fn close(self: Box<Self>, net: &Net) {
        connection::close(net, &self.connection);
    }
}
