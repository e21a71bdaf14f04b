//! What a broker offers to the loops: a short list of whole operations, the same of every system.

use std::sync::mpsc::Receiver as Waiting;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::envelope::Envelope;
use super::net::Net;
use super::secret::Secret;
use super::settings::Settings;
use super::trouble::Trouble;
use super::url::{System, Target};

#[cfg(feature = "link-amqp")]
use super::amqp;

/// What the broker said to a message that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is the broker's now.
    Confirmed,
    /// The broker could not, and says nothing against the message.
    Later(String),
    /// The broker does not want it, now.
    Refused(String),
    /// The broker will never take it.
    Never(String),
}

/// What became of several messages that were sent together.
#[derive(Debug)]
pub enum Sent {
    /// The broker has answered to each, in their order.
    Answered(Vec<Outcome>),
    /// The connection is of no use any more, and nothing is known of any of them: all are sent again.
    Lost(Trouble),
    /// The broker has ended the conversation because of one of them: they are sent again one at a time, and the one that does it
    /// again is the one.
    Objected(Trouble),
}

/// What a broker has said of itself, such as that it has no memory and takes nothing for now. Set by the thread of the network, read
/// by that of the files; nothing else hangs on it.
#[derive(Clone, Debug, Default)]
pub struct Condition(Arc<Mutex<Option<String>>>);

impl Condition {
    /// Why the broker takes nothing, if it has said so.
    pub fn blocked(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The broker has said so, or that it is over.
    pub fn set(&self, reason: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }
}

/// What is connected to what.
#[derive(Clone, Copy)]
pub struct Ends<'a> {
    /// The broker.
    pub target: &'a Target,
    /// Who logs in there.
    pub secret: Option<&'a Secret>,
    /// How.
    pub settings: &'a Settings,
    /// What the link is called, which brokers show.
    pub name: &'a str,
}

/// A connection by which messages are sent.
pub enum Sender {
    /// To RabbitMQ.
    #[cfg(feature = "link-amqp")]
    Amqp(amqp::sender::Sender),
}

impl Sender {
    /// Connects, logs in, and looks that what messages go to is there.
    pub fn connect(net: &Net, ends: Ends<'_>) -> Result<Sender, Trouble> {
        match ends.target.system {
            #[cfg(feature = "link-amqp")]
            System::Amqp => amqp::sender::Sender::connect(net, ends).map(Sender::Amqp),
        }
    }

    /// Sends messages in this order. What became of them is told once, when the broker has answered to all, or never will.
    pub fn send(&self, net: &Net, messages: Vec<Arc<Envelope>>) -> Waiting<Sent> {
        match self {
            #[cfg(feature = "link-amqp")]
            Sender::Amqp(sender) => sender.send(net, messages),
        }
    }

    /// What the broker says of itself.
    pub fn condition(&self) -> &Condition {
        match self {
            #[cfg(feature = "link-amqp")]
            Sender::Amqp(sender) => &sender.condition,
        }
    }

    /// Whether the connection stands, as far as is known.
    pub fn is_connected(&self) -> bool {
        match self {
            #[cfg(feature = "link-amqp")]
            Sender::Amqp(sender) => sender.is_connected(),
        }
    }

    /// Takes leave of the broker.
    pub fn close(self, net: &Net) {
        match self {
            #[cfg(feature = "link-amqp")]
            Sender::Amqp(sender) => sender.close(net),
        }
    }
}

/// A message that came.
#[derive(Debug)]
pub struct Came {
    /// The message.
    pub envelope: Envelope,
    /// What the broker is told when it is done with; later ones are larger.
    pub receipt: u64,
}

/// A connection by which messages come.
pub enum Receiver {
    /// From RabbitMQ.
    #[cfg(feature = "link-amqp")]
    Amqp(amqp::receiver::Receiver),
}

impl Receiver {
    /// Connects, logs in, and asks for messages.
    pub fn connect(net: &Net, ends: Ends<'_>) -> Result<Receiver, Trouble> {
        match ends.target.system {
            #[cfg(feature = "link-amqp")]
            System::Amqp => amqp::receiver::Receiver::connect(net, ends).map(Receiver::Amqp),
        }
    }

    /// The next message, if one comes in time.
    pub fn next(&mut self, limit: Duration) -> Result<Option<Came>, Trouble> {
        match self {
            #[cfg(feature = "link-amqp")]
            Receiver::Amqp(receiver) => receiver.next(limit),
        }
    }

    /// Tells the broker that all up to this receipt are done with, and waits until it has heard it.
    pub fn done(&mut self, net: &Net, receipt: u64) -> Result<(), Trouble> {
        match self {
            #[cfg(feature = "link-amqp")]
            Receiver::Amqp(receiver) => receiver.done(net, receipt),
        }
    }

    /// Tells the broker to give up one message.
    pub fn reject(&mut self, net: &Net, receipt: u64) -> Result<(), Trouble> {
        match self {
            #[cfg(feature = "link-amqp")]
            Receiver::Amqp(receiver) => receiver.reject(net, receipt),
        }
    }

    /// How many messages the broker has that have not come yet.
    pub fn remaining(&self, net: &Net) -> Result<u64, Trouble> {
        match self {
            #[cfg(feature = "link-amqp")]
            Receiver::Amqp(receiver) => receiver.remaining(net),
        }
    }

    /// Takes leave of the broker: what is not done with it will deliver again.
    pub fn close(self, net: &Net) {
        match self {
            #[cfg(feature = "link-amqp")]
            Receiver::Amqp(receiver) => receiver.close(net),
        }
    }
}

/// Refuses parameters of a URL that make no sense in this direction, before anything is connected.
pub fn check(target: &Target, out: bool) -> Result<(), Trouble> {
    match target.system {
        #[cfg(feature = "link-amqp")]
        System::Amqp => amqp::address::Address::of(target, out).map(drop),
    }
}

/// Connects, logs in, and looks that what messages come from is there, without asking for any.
pub fn look(net: &Net, ends: Ends<'_>) -> Result<(), Trouble> {
    match ends.target.system {
        #[cfg(feature = "link-amqp")]
        System::Amqp => amqp::receiver::look(net, ends),
    }
}

/// What is promised, line by line.
pub fn promises(ends: Ends<'_>, out: bool) -> Vec<String> {
    match ends.target.system {
        #[cfg(feature = "link-amqp")]
        System::Amqp => amqp::promises(ends, out),
    }
}
