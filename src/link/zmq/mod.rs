//! ZeroMQ, by libzmq itself: its transports, CURVE, and what its users know.
//!
//! There is no broker, and but for `req` and `rep` no acknowledgement: what libzmq has taken, or given to this process, is gone with
//! either of them. So buffers are small, and [`promises`] says it plainly.

pub mod address;
pub mod door;
pub mod map;
pub mod receiver;
pub mod sender;
pub mod socket;

use super::mark::Positions;
use super::net::Net;
use super::peer::{self, Ends, System};
use super::settings::Poison;
use super::trouble::Trouble;
use super::url::Target;
use address::{Address, Pattern};

/// Whoever speaks ZeroMQ.
#[derive(Debug)]
pub struct Zmq;

impl System for Zmq {
    fn check(&self, target: &Target, out: bool) -> Result<(), Trouble> {
        Address::of(target, out).map(drop)
    }

    fn sender(&self, _: &Net, ends: Ends<'_>) -> Result<Box<dyn peer::Sender>, Trouble> {
        Ok(Box::new(sender::Sender::connect(ends)?))
    }

    fn receiver(&self, _: &Net, ends: Ends<'_>, _: Option<&Positions>) -> Result<Box<dyn peer::Receiver>, Trouble> {
        Ok(Box::new(receiver::Receiver::connect(ends)?))
    }

    fn watch(&self, net: &Net, ends: Ends<'_>, mark: Option<&Positions>) -> Result<Box<dyn peer::Receiver>, Trouble> {
        match Address::of(ends.target, false)?.pattern {
            Pattern::Sub => self.receiver(net, ends, mark),
            _ => Err(Trouble::usage(
                "what a peer has given to be shown it gives to nobody else: only zmq+sub can be shown",
            )),
        }
    }

    fn look(&self, net: &Net, ends: Ends<'_>, out: bool) -> Result<Vec<String>, Trouble> {
        match out {
            true => self.sender(net, ends)?.close(net),
            false => receiver::look(ends)?,
        }
        Ok(vec!["broker: there is none: whether a peer is there, nobody can tell".to_owned()])
    }

    fn promises(&self, ends: Ends<'_>, out: bool) -> Vec<String> {
        promises(ends, out)
    }
}

fn promises(ends: Ends<'_>, out: bool) -> Vec<String> {
    let Ok(address) = Address::of(ends.target, out) else { return Vec::new() };
    let mut lines = vec![format!("{}: {address}", if out { "out" } else { "in" })];
    let promised = match address.pattern {
        Pattern::Push => {
            "out: at most once past libzmq: a message leaves the queue when libzmq has taken it for a peer that is connected; what a \
             peer has received and not dealt with when it dies is lost"
        }
        Pattern::Pub if address.wait => {
            "out: at most once past libzmq: to those who have subscribed then; while nobody has, messages stay in the queue; what a \
             slow subscriber does not take is dropped for it"
        }
        Pattern::Pub => {
            "out: at most once past libzmq: to those who have subscribed then; with nobody there it is dropped (see wait=subscriber)"
        }
        Pattern::Req => {
            "out: at least once: a message leaves the queue when it is answered; an answer `error` refuses it"
        }
        Pattern::Pull | Pattern::Sub => {
            "in: at most once: what has come here and is not enqueued when the link is killed is lost; a full queue makes the peer wait"
        }
        Pattern::Rep if address.json => {
            "in: exactly once for messages with an mq-id, else at least once: the answer comes when it is enqueued"
        }
        Pattern::Rep => "in: at least once: the answer comes when it is enqueued",
    };
    lines.push(promised.to_owned());
    if address.pattern == Pattern::Sub {
        lines.push("in: what is published while the link is away, or faster than it takes it, is lost".to_owned());
    }
    let clients = ends.secret.and_then(|secret| secret.curve().ok()).map_or(&[][..], |(_, _, clients)| clients);
    let encrypted = address.server_key.is_some() || ends.secret.is_some();
    lines.push(match encrypted {
        true if !clients.is_empty() => {
            format!("peers: by CURVE; the {} whose keys the secret names may connect", clients.len())
        }
        true => "peers: by CURVE; whoever knows the public key of the side that is bound may connect".to_owned(),
        false => "peers: not encrypted, and whoever can connect may".to_owned(),
    });
    if !out {
        lines.push(match &ends.settings.poison {
            Poison::Stop => "in: a message that does not fit ends the link".to_owned(),
            Poison::Save(directory) => format!("in: a message that does not fit is saved in {}", directory.display()),
            Poison::Reject => "in: a message that does not fit is dropped; with rep its answer is `error`".to_owned(),
        });
    }
    lines
}
