//! NATS JetStream.
//!
//! The client is async-nats. What it does by itself when a connection is lost, to connect again and go on, is not used: what was under
//! way is not known then, so it counts as lost, and the link connects anew.
//!
//! A stream is a log: [`receiver`] makes its consumer anew at each connection, from where the mark says. So messages come in order
//! whatever was under way before, and what the server remembers of acknowledgements does not matter.

pub mod address;
pub mod connection;
pub mod map;
pub mod receiver;
pub mod sender;

use super::mark::Positions;
use super::net::Net;
use super::peer::{self, Ends, System};
use super::settings::{Order, Poison};
use super::trouble::Trouble;
use super::url::Target;
use address::Address;

/// NATS JetStream.
#[derive(Debug)]
pub struct Nats;

impl System for Nats {
    fn check(&self, target: &Target, out: bool) -> Result<(), Trouble> {
        Address::of(target, out).map(drop)
    }

    fn is_log(&self) -> bool {
        true
    }

    fn sender(&self, net: &Net, ends: Ends<'_>) -> Result<Box<dyn peer::Sender>, Trouble> {
        Ok(Box::new(sender::Sender::connect(net, ends)?))
    }

    fn receiver(
        &self,
        net: &Net,
        ends: Ends<'_>,
        mark: Option<&Positions>,
    ) -> Result<Box<dyn peer::Receiver>, Trouble> {
        Ok(Box::new(receiver::Receiver::connect(net, ends, mark)?))
    }

    fn look(&self, net: &Net, ends: Ends<'_>, out: bool) -> Result<Vec<String>, Trouble> {
        connection::look(net, ends, out)
    }

    fn promises(&self, ends: Ends<'_>, out: bool) -> Vec<String> {
        promises(ends, out)
    }
}

fn promises(ends: Ends<'_>, out: bool) -> Vec<String> {
    let Ok(address) = Address::of(ends.target, out) else { return Vec::new() };
    let settings = ends.settings;
    if out {
        let window = if settings.order == Order::Strict { 1 } else { settings.window };
        return vec![
            format!("out: to {address}, acknowledged when the stream has stored it"),
            format!(
                "out: exactly once within the stream's duplicate window, by Nats-Msg-Id; at least once beyond it: after a crash or a \
                 lost connection up to {window} messages may be sent twice, with the same Nats-Msg-Id"
            ),
        ];
    }
    vec![
        format!("in: from {address}, by the consumer {}", address.consumer(ends.name)),
        "in: exactly once, by the place in the stream, which is kept in the queue's mark; what the stream removes before it is taken in \
         stops the link, unless `start` says where to go on"
            .to_owned(),
        match &settings.poison {
            Poison::Stop => "in: a message that does not fit ends the link, and stays in the stream".to_owned(),
            Poison::Save(directory) => format!("in: a message that does not fit is saved in {}", directory.display()),
            Poison::Reject => "in: a message that does not fit is given up (term), and not delivered again".to_owned(),
        },
    ]
}
