//! Sending to RabbitMQ: persistent, mandatory, confirmed.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver as Waiting};
use std::sync::{Arc, OnceLock};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Confirmation, Error, PublisherConfirm};
use tokio::runtime::Handle;

use super::super::envelope::Envelope;
use super::super::net::{self, Net};
use super::super::peer::{self, Ends, Outcome, Sent};
use super::super::trouble::Trouble;
use super::address::Address;
use super::connection::{self, Open};
use super::map;

/// A connection with a channel in confirm mode.
pub struct Sender {
    open: Arc<Open>,
    network: Handle,
    address: Arc<Address>,
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
        let opening = async {
            let open = connection::open(ends, &address, tls).await?;
            match open.channel.confirm_select(ConfirmSelectOptions::default()).await {
                Ok(()) => Ok(open),
                Err(error) => Err(open.trouble_of(error).await),
            }
        };
        let (open, network) = (Arc::new(net.wait(limit, opening)??), net.handle().clone());
        let (confirms, gone) = (Arc::default(), Arc::default());
        Ok(Sender { open, network, address: Arc::new(address), confirms, gone })
    }
}

impl peer::Sender for Sender {
    fn send(&self, net: &Net, messages: Vec<Arc<Envelope>>) -> Waiting<Sent> {
        let (tell, told) = mpsc::channel();
        let (open, address) = (self.open.clone(), self.address.clone());
        let (confirms, gone) = (self.confirms.clone(), self.gone.clone());
        net.handle().spawn(async move {
            let sent = match send(&open, &address, &messages, &confirms).await {
                Ok(mut outcomes) => {
                    if let Some(why) = is_gone(&address, &mut outcomes) {
                        let _ = gone.set(open.refusing(&why));
                    }
                    Sent::Answered(outcomes)
                }
                Err(error) => match open.really(error).await {
                    error if connection::is_objection(&error) => {
                        Sent::Objected(Outcome::Never(open.trouble(&error).text))
                    }
                    error => Sent::Lost(open.trouble(&error)),
                },
            };
            let _ = tell.send(sent);
        });
        told
    }

    fn blocked(&self) -> Option<String> {
        self.open.condition.blocked()
    }

    fn progress(&self) -> u64 {
        self.confirms.load(Ordering::Relaxed)
    }

    fn trouble(&self) -> Option<Trouble> {
        let ended = || self.network.block_on(self.open.ended());
        self.gone.get().cloned().or_else(|| (!self.is_connected()).then(ended))
    }

    fn is_connected(&self) -> bool {
        self.open.stands()
    }

    fn close(self: Box<Self>, net: &Net) {
        self.open.close(net);
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
    open: &Open,
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
                Ok(open.channel.basic_publish(exchange, key, options, &message.body, properties).await?)
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
