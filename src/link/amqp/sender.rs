//! Sending to RabbitMQ: persistent, mandatory, confirmed.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver as Waiting};
use std::sync::{Arc, OnceLock};

use futures_core::Stream;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, Connection, Error, Event, PublisherConfirm};

use super::super::envelope::Envelope;
use super::super::net::{self, Net};
use super::super::peer::{self, Condition, Ends, Outcome, Sent};
use super::super::trouble::Trouble;
use super::super::url::Host;
use super::address::Address;
use super::{connection, map};

/// A connection with a channel in confirm mode.
pub struct Sender {
    connection: Connection,
    channel: Channel,
    address: Arc<Address>,
    host: Host,
    condition: Condition,
    /// How many confirms have come. Only that it changes is looked at.
    confirms: Arc<AtomicU64>,
    /// The queue that all is sent to is not there any more. Once it is set by the thread of the network, the connection is of no use.
    gone: Arc<OnceLock<Trouble>>,
}

impl Sender {
    /// Connects, and looks that the exchange or queue is there.
    pub fn connect(net: &Net, ends: Ends<'_>) -> Result<Sender, Trouble> {
        let address = Address::of(ends.target, true)?;
        let tls = net::tls(ends.target, ends.settings)?;
        let limit = connection::ANSWER * ends.target.hosts.len() as u32;
        let condition = Condition::default();
        let opening = async {
            let (connection, channel, host) = connection::open(ends, &address, tls).await?;
            let selected = channel.confirm_select(ConfirmSelectOptions::default()).await;
            selected.map_err(|error| connection::trouble(&host, &error))?;
            Ok::<_, Trouble>((connection, channel, host))
        };
        let (connection, channel, host) = net.wait(limit, opening)??;
        let (events, told) = (connection.events_listener(), condition.clone());
        net.handle().spawn(async move {
            let mut events = pin!(events);
            while let Some(event) = poll_fn(|context| events.as_mut().poll_next(context)).await {
                match event {
                    Event::ConnectionBlocked(reason) => told.set(Some(reason)),
                    Event::ConnectionUnblocked => told.set(None),
                    _ => {}
                }
            }
        });
        let (confirms, gone) = (Arc::default(), Arc::default());
        Ok(Sender { connection, channel, address: Arc::new(address), host, condition, confirms, gone })
    }
}

impl peer::Sender for Sender {
    fn send(&self, net: &Net, messages: Vec<Arc<Envelope>>) -> Waiting<Sent> {
        let (tell, told) = mpsc::channel();
        let (channel, address, host) = (self.channel.clone(), self.address.clone(), self.host.clone());
        let (confirms, gone) = (self.confirms.clone(), self.gone.clone());
        net.handle().spawn(async move {
            let sent = match send(&channel, &address, &messages, &confirms).await {
                Ok(mut outcomes) => {
                    if let Some(why) = is_gone(&address, &mut outcomes) {
                        let _ = gone.set(Trouble::refusing(format_args!("{}:{}: {why}", host.name, host.port)));
                    }
                    Sent::Answered(outcomes)
                }
                Err(error) if connection::is_objection(&error) => {
                    Sent::Objected(Outcome::Never(connection::trouble(&host, &error).text))
                }
                Err(error) => Sent::Lost(connection::trouble(&host, &error)),
            };
            let _ = tell.send(sent);
        });
        told
    }

    fn blocked(&self) -> Option<String> {
        self.condition.blocked()
    }

    fn progress(&self) -> u64 {
        self.confirms.load(Ordering::Relaxed)
    }

    fn trouble(&self) -> Option<Trouble> {
        let lost = || Trouble::away("the connection is lost");
        self.gone.get().cloned().or_else(|| (!self.is_connected()).then(lost))
    }

    fn is_connected(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }

    fn close(self: Box<Self>, net: &Net) {
        connection::close(net, &self.connection);
    }
}

/// Where all is sent to one queue, a message without a route says that it is not there, and nothing of the message: none is refused,
/// and the reason is given.
fn is_gone(address: &Address, outcomes: &mut [Outcome]) -> Option<String> {
    let queue = address.queue.as_ref().filter(|_| address.exchange.is_empty())?;
    let mut found = None;
    for outcome in outcomes {
        if let Outcome::Refused(why) = outcome {
            let text = format!("queue {queue} is not there: {why}");
            *outcome = Outcome::Later(text.clone());
            found = Some(text);
        }
    }
    found
}

/// Publishes all, and then waits for all: a `basic.return` comes before the confirm of its message, but nothing says which confirm
/// comes next, so only when every confirm is there is every return known. It is told by its identity.
async fn send(
    channel: &Channel,
    address: &Address,
    messages: &[Arc<Envelope>],
    confirms: &AtomicU64,
) -> Result<Vec<Outcome>, Error> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let mut waiting: Vec<Result<PublisherConfirm, String>> = Vec::new();
    for message in messages {
        let ready = address.key_of(message).and_then(|key| Ok((key, map::properties(message)?)));
        waiting.push(match ready {
            Ok((key, properties)) => {
                let exchange = address.exchange.as_str().into();
                let key = key.as_str().into();
                match channel.basic_publish(exchange, key, options, &message.body, properties).await {
                    Ok(confirm) => Ok(confirm),
                    Err(error) => return Err(reason(waiting, error).await),
                }
            }
            Err(why) => Err(why),
        });
    }
    let mut outcomes = Vec::new();
    let mut returned = HashSet::new();
    let mut why = String::new();
    for confirm in waiting {
        let confirmation = match confirm {
            Ok(confirm) => confirm.await.inspect(|_| _ = confirms.fetch_add(1, Ordering::Relaxed))?,
            Err(why) => {
                outcomes.push(Outcome::Never(why));
                continue;
            }
        };
        outcomes.push(match confirmation {
            Confirmation::Nack(_) => Outcome::Later("the broker could not take it (basic.nack)".to_owned()),
            _ => Outcome::Confirmed,
        });
        if let Some(message) = confirmation.take_message() {
            why = format!("{} {}", message.reply_code, message.reply_text);
            returned.insert(map::identity(&message.delivery.properties));
        }
    }
    for (outcome, message) in outcomes.iter_mut().zip(messages) {
        if *outcome == Outcome::Confirmed && returned.contains(&message.id) {
            *outcome = Outcome::Refused(why.clone());
        }
    }
    Ok(outcomes)
}

/// Why a channel takes nothing more. Who publishes when the broker has closed it is told only that it is closed; what the broker said is
/// what became of the messages that were under way.
async fn reason(waiting: Vec<Result<PublisherConfirm, String>>, error: Error) -> Error {
    for confirm in waiting.into_iter().flatten() {
        if let Err(said) = confirm.await {
            return said;
        }
    }
    error
}
