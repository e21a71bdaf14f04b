//! ActiveMQ Classic and Artemis, and RabbitMQ's plugin, by STOMP 1.2.
//!
//! The client is our own: what there was is not kept any more. [`frame`] and [`session`] are pure: bytes, and what is sent when.

pub mod address;
pub mod connection;
pub mod dialect;
pub mod frame;
pub mod map;
pub mod receiver;
pub mod sender;
pub mod session;

use super::mark::Positions;
use super::net::Net;
use super::peer::{self, Ends, System};
use super::settings::{Dedup, Order, Poison, Refused};
use super::trouble::Trouble;
use super::url::Target;
use address::{Address, is_activemq};

/// What is reached by STOMP.
#[derive(Debug)]
pub enum Stomp {
    /// ActiveMQ Classic or Artemis.
    ActiveMq,
    /// RabbitMQ's plugin, or another one.
    Other,
}

impl System for Stomp {
    fn check(&self, target: &Target, out: bool) -> Result<(), Trouble> {
        Address::of(target, out).map(drop)
    }

    fn sender(&self, net: &Net, ends: Ends<'_>) -> Result<Box<dyn peer::Sender>, Trouble> {
        Ok(Box::new(sender::Sender::connect(net, ends)?))
    }

    fn receiver(&self, net: &Net, ends: Ends<'_>, _: Option<&Positions>) -> Result<Box<dyn peer::Receiver>, Trouble> {
        Ok(Box::new(receiver::Receiver::connect(net, ends)?))
    }

    fn look(&self, net: &Net, ends: Ends<'_>, out: bool) -> Result<Vec<String>, Trouble> {
        let name = receiver::look(net, ends, out)?;
        Ok(vec![format!("broker: it is {name}")])
    }

    fn promises(&self, ends: Ends<'_>, out: bool) -> Vec<String> {
        match (Address::of(ends.target, out), out) {
            (Ok(address), true) => promises_out(ends, &address),
            (Ok(address), false) => promises_in(ends, &address),
            (Err(_), _) => Vec::new(),
        }
    }
}

fn promises_out(ends: Ends<'_>, address: &Address) -> Vec<String> {
    let settings = ends.settings;
    let window = if settings.order == Order::Strict { 1 } else { settings.window };
    let mut lines = vec![
        format!("out: to {address}, persistent, with a receipt of each message or transaction"),
        "out: at least once: a message leaves the queue when the broker has given its receipt; ActiveMQ gives it when its journal \
         has the message"
            .to_owned(),
        format!(
            "out: after a crash or a lost connection up to {window} messages may be sent twice, with the same mq-id; ActiveMQ \
             Artemis drops the second"
        ),
        "out: a destination that is not there may be made by the broker: nobody can tell that its name is a mistake".to_owned(),
    ];
    if !is_activemq(ends.target) {
        lines.push(
            "out: RabbitMQ drops what is sent to an exchange without a route: to be told of it, use amqp".to_owned(),
        );
    }
    lines.push(match settings.refused {
        _ if settings.order == Order::Strict => "out: a message that is refused holds up all others".to_owned(),
        Refused::Retry => "out: a message that is refused is tried again later, until max_deliveries".to_owned(),
        Refused::Dead => "out: a message that is refused becomes a dead letter".to_owned(),
        Refused::Stop => "out: a message that is refused ends the link".to_owned(),
    });
    lines
}

fn promises_in(ends: Ends<'_>, address: &Address) -> Vec<String> {
    let settings = ends.settings;
    let most = settings.remember;
    let mut lines = vec![format!(
        "in: from {address}, acknowledged when it is enqueued, as durable as the queue's `durability` says"
    )];
    lines.push(match (&settings.dedup, is_activemq(ends.target)) {
        (Dedup::None, _) => "in: at least once: after a crash up to a batch may come twice".to_owned(),
        (Dedup::Header(name), _) => format!(
            "in: exactly once for messages with a header `{name}`, as long as the broker does not forget more than {most} \
             acknowledgements; at least once for others"
        ),
        (_, false) => format!(
            "in: exactly once for messages with an mq-id, and with a message-id of AMQP where the broker is RabbitMQ, as long as it \
             does not forget more than {most} acknowledgements; at least once for others"
        ),
        _ => format!("in: exactly once, as long as the broker does not forget more than {most} acknowledgements"),
    });
    lines.push(
        "in: a broker that has sent a message so often as it is set up to (ActiveMQ Artemis: 10 times) gives it up"
            .to_owned(),
    );
    lines.push(match &settings.poison {
        Poison::Stop => "in: a message that does not fit ends the link, and stays with the broker".to_owned(),
        Poison::Save(directory) => format!("in: a message that does not fit is saved in {}", directory.display()),
        Poison::Reject => {
            "in: a message that does not fit is rejected: ActiveMQ Classic keeps it in its dead letter queue, ActiveMQ \
                           Artemis drops it"
                .to_owned()
        }
    });
    lines
}
