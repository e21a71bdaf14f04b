//! What comes from a queue of RabbitMQ.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver as Waiting, RecvTimeoutError};
use std::time::Duration;

use futures_core::Stream;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions};
use lapin::types::FieldTable;
use lapin::{Consumer, Error};

use super::super::mark::Positions;
use super::super::net::{self, Net};
use super::super::peer::{self, Came, Ends};
use super::super::trouble::Trouble;
use super::address::Address;
use super::connection::{self, Open};
use super::map;

/// A connection with a consumer.
pub struct Receiver {
    open: Arc<Open>,
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
            let open = connection::open(ends, &address, tls).await?;
            match consume(&open, &queue, prefetch).await {
                Ok(consumer) => Ok((Arc::new(open), consumer)),
                Err(error) => Err(open.trouble_of(error).await),
            }
        };
        let (open, mut consumer) = net.wait(limit, opening)??;
        let on = open.clone();
        net.handle().spawn(async move {
            while let Some(came) = poll_fn(|context| Pin::new(&mut consumer).poll_next(context)).await {
                let came = match came {
                    Ok(delivery) => Ok(delivery),
                    Err(error) => Err(on.trouble_of(error).await),
                };
                if tell.send(came).is_err() {
                    return;
                }
            }
            let _ = tell.send(Err(match on.stands() {
                true => on.refusing("the broker has ended the subscription: the queue is gone"),
                false => on.ended().await,
            }));
        });
        Ok(Receiver { open, queue, prefetch, came })
    }
}

impl Receiver {
    /// Asks the broker for something, and waits for its answer.
    fn ask<T>(&self, net: &Net, what: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
        net.wait(connection::ANSWER, async {
            match what.await {
                Ok(answer) => Ok(answer),
                Err(error) => Err(self.open.trouble_of(error).await),
            }
        })?
    }
}

impl peer::Receiver for Receiver {
    fn next(&mut self, limit: Duration) -> Result<Option<Came>, Trouble> {
        let came = match self.came.recv_timeout(limit) {
            Err(RecvTimeoutError::Timeout) if self.open.stands() => return Ok(None),
            // Why it does not stand any more, the consumer is told a moment later.
            Err(RecvTimeoutError::Timeout) => self.came.recv_timeout(connection::WORD),
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
        self.ask(net, async {
            self.open.channel.basic_ack(receipt, options).await?;
            self.open.channel.basic_qos(self.prefetch, BasicQosOptions::default()).await
        })
    }

    fn reject(&mut self, net: &Net, receipt: u64) -> Result<(), Trouble> {
        self.ask(net, self.open.channel.basic_reject(receipt, BasicRejectOptions { requeue: false }))
    }

    fn remaining(&self, net: &Net) -> Result<u64, Trouble> {
        self.ask(net, connection::waiting(&self.open.channel, &self.queue))
    }

    fn close(self: Box<Self>, net: &Net) {
        self.open.close(net);
    }
}

async fn consume(open: &Open, queue: &str, prefetch: u16) -> Result<Consumer, Error> {
    open.channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    open.channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await
}
