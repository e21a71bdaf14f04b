//! RabbitMQ, by AMQP 0-9-1.
//!
//! The client is lapin. It announces that it understands `connection.blocked` and refused logins, and takes headers that are not UTF-8;
//! amqprs does neither, and a single message with such a header would end each connection for ever. What lapin does not do is tell
//! which message a `basic.return` belongs to: it gives it to whichever confirm comes next. So [`sender`] goes by the message's identity,
//! and concludes nothing before every confirm of what it sent is there.

pub mod address;
pub mod connection;
pub mod map;
pub mod receiver;
pub mod sender;

use super::mark::Positions;
use super::net::Net;
use super::peer::{self, Ends, System};
use super::settings::{Dedup, Order, Poison, Refused};
use super::trouble::Trouble;
use super::url::Target;
use address::Address;

/// RabbitMQ, and others that speak AMQP 0-9-1.
#[derive(Debug)]
pub struct Amqp;

impl System for Amqp {
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
        connection::look(net, ends, out)?;
        Ok(vec![format!("broker: {} is there", Address::of(ends.target, out)?)])
    }

    fn promises(&self, ends: Ends<'_>, out: bool) -> Vec<String> {
        promises(ends, out)
    }
}

fn promises(ends: Ends<'_>, out: bool) -> Vec<String> {
    let Ok(address) = Address::of(ends.target, out) else { return Vec::new() };
    let settings = ends.settings;
    let mut lines = Vec::new();
    if out {
        lines.push(format!("out: to {address}, persistent, mandatory, with confirms"));
        lines.push("out: at least once: a message leaves the queue when the broker has confirmed it; in a durable queue it is on \
                    disk then, in a quorum queue on those of a majority"
            .to_owned());
        let window = if settings.order == Order::Strict { 1 } else { settings.window };
        lines.push(format!(
            "out: after a crash or a lost connection up to {window} messages may be sent twice, with the same message-id"
        ));
        lines.push(match settings.refused {
            _ if address.exchange.is_empty() => {
                "out: when the queue goes away, all wait until it is there again".to_owned()
            }
            _ if settings.order == Order::Strict => "out: a message without a route holds up all others".to_owned(),
            Refused::Retry => "out: a message without a route is tried again later, until max_deliveries".to_owned(),
            Refused::Dead => "out: a message without a route becomes a dead letter".to_owned(),
            Refused::Stop => "out: a message without a route ends the link".to_owned(),
        });
        return lines;
    }
    lines.push(format!(
        "in: from {address}, acknowledged when it is enqueued, as durable as the queue's `durability` says"
    ));
    lines.push(match &settings.dedup {
        Dedup::None => "in: at least once: after a crash up to a batch may come twice".to_owned(),
        by => format!(
            "in: exactly once for messages with {}, as long as the broker does not forget more than {} acknowledgements; at least \
             once for others",
            match by {
                Dedup::Header(name) => format!("a header `{name}`"),
                _ => "a message-id".to_owned(),
            },
            settings.remember
        ),
    });
    lines.push(match &settings.poison {
        Poison::Stop => "in: a message that does not fit ends the link, and stays with the broker".to_owned(),
        Poison::Save(directory) => format!("in: a message that does not fit is saved in {}", directory.display()),
        Poison::Reject => {
            "WARNING: in: a message that does not fit is rejected: unless the queue has a dead letter exchange, which \
                           cannot be seen from here, the broker drops it"
                .to_owned()
        }
    });
    lines
}
