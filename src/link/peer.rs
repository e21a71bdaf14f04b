//! What a broker offers to the loops: a short list of whole operations, the same of every system.
//!
//! A system is a [`System`], named in [`super::systems`] and nowhere else. Its operations wait for the broker; what is asynchronous goes
//! on in the thread of [`Net`].

use std::fs::File;
use std::sync::mpsc::Receiver as Waiting;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::envelope::Envelope;
use super::mark::{At, Positions};
use super::net::Net;
use super::secret::Secret;
use super::settings::Settings;
use super::trouble::Trouble;
use super::url::Target;

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
    /// again is the one: this is what becomes of it then.
    Objected(Outcome),
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
    /// What the queue is told apart from others by; empty where nobody has asked it.
    pub origin: &'a str,
}

/// A kind of broker.
pub trait System: std::fmt::Debug + Sync {
    /// Refuses what a URL says that makes no sense in this direction, before anything is connected.
    fn check(&self, target: &Target, out: bool) -> Result<(), Trouble>;

    /// What comes has a place in a log that can be read again from any place: the mark is [`Positions`]. Otherwise it comes from a
    /// queue, and the mark remembers identities.
    fn is_log(&self) -> bool {
        false
    }

    /// Connects, logs in, and looks that what messages go to is there.
    fn sender(&self, net: &Net, ends: Ends<'_>) -> Result<Box<dyn Sender>, Trouble>;

    /// Connects, logs in, and asks for messages. Of a log: from where the mark says, or, when there is none, from where the URL says.
    /// A log that has not what follows the mark, or is another one of that name, is refused with [`Kind::Gap`](super::trouble::Kind),
    /// unless the URL says where to go on (see [`super::mark::Start`]).
    fn receiver(&self, net: &Net, ends: Ends<'_>, mark: Option<&Positions>) -> Result<Box<dyn Receiver>, Trouble>;

    /// The same, only to look at what comes: nobody else is disturbed by it, where that can be.
    fn watch(&self, net: &Net, ends: Ends<'_>, mark: Option<&Positions>) -> Result<Box<dyn Receiver>, Trouble> {
        self.receiver(net, ends, mark)
    }

    /// Connects, logs in, and looks that everything is there, without asking for a message; says line by line what there is to say of
    /// it.
    fn look(&self, net: &Net, ends: Ends<'_>, out: bool) -> Result<Vec<String>, Trouble>;

    /// What is promised, line by line.
    fn promises(&self, ends: Ends<'_>, out: bool) -> Vec<String>;
}

/// A connection by which messages are sent.
pub trait Sender {
    /// Sends messages in this order. What became of them is told once, when the broker has answered to all, or never will.
    fn send(&self, net: &Net, messages: Vec<Arc<Envelope>>) -> Waiting<Sent>;

    /// Why the broker takes nothing for now, if it has said so.
    fn blocked(&self) -> Option<String> {
        None
    }

    /// A number that changes when something is confirmed of what is under way, where that is known before all of it is answered.
    fn progress(&self) -> u64 {
        0
    }

    /// Whether the connection stands, as far as is known.
    fn is_connected(&self) -> bool;

    /// Whether what may have been sent before is sent again one at a time: a broker that knows it already may refuse all that it is
    /// sent together with.
    fn repeats_singly(&self) -> bool {
        false
    }

    /// Why another connection is needed, if it is, as far as is known.
    fn trouble(&self) -> Option<Trouble> {
        (!self.is_connected()).then(|| Trouble::away("the connection is lost"))
    }

    /// Whether it goes on by itself with what is under way, however long the broker is away: another connection could only send it
    /// twice.
    fn is_patient(&self) -> bool {
        false
    }

    /// Why it is waiting for the broker, if it is patient and does.
    fn away(&self) -> Option<String> {
        None
    }

    /// Takes leave of the broker.
    fn close(self: Box<Self>, net: &Net);
}

/// A message that came.
#[derive(Debug)]
pub struct Came {
    /// The message.
    pub envelope: Envelope,
    /// What the broker is told when it is done with; later ones are larger.
    pub receipt: u64,
    /// Its place, if it comes from a log. In each partition places come in order.
    pub at: Option<At>,
    /// Its body is larger than `largest`: the envelope is without it, and the queue never takes it.
    pub large: Option<Large>,
}

impl Came {
    /// Whether there is all of it here; the error is why not.
    pub fn fits(&self) -> Result<(), String> {
        match &self.large {
            Some(large) => Err(format!("{} bytes: more than `largest`", large.bytes)),
            None => Ok(()),
        }
    }
}

/// A body that is larger than `largest`, and so in no memory.
#[derive(Debug)]
pub struct Large {
    /// So many bytes it has.
    pub bytes: u64,
    /// All of it, in a file without a name, where such messages are to be saved.
    pub file: Option<File>,
}

/// Where a log is read from.
#[derive(Debug)]
pub struct Begins {
    /// What the mark is to be before the first message.
    pub mark: Positions,
    /// What there is to tell of it, such as what is missing before it.
    pub told: Option<String>,
}

/// A connection by which messages come.
pub trait Receiver {
    /// Of a log: where it is read from. Asked once, before the first message is.
    fn begins(&mut self) -> Option<Begins> {
        None
    }

    /// Of a log whose parts may go to others and come back: what has come and is not done with comes to somebody else now, so it is not
    /// to be enqueued. Asked after each [`Receiver::next`].
    fn is_revoked(&mut self) -> bool {
        false
    }

    /// Of such a log: where it is read from by now, when that is news. Asked after each [`Receiver::next`].
    fn moved(&mut self) -> Option<Begins> {
        None
    }

    /// Why it is waiting for the broker, if it does that by itself.
    fn away(&self) -> Option<String> {
        None
    }

    /// The next message, if one comes in time.
    fn next(&mut self, limit: Duration) -> Result<Option<Came>, Trouble>;

    /// Tells the broker that all up to this receipt are done with, and waits until it has heard it. Of a log, the mark in the queue is
    /// `mark` by now.
    fn done(&mut self, net: &Net, receipt: u64, mark: Option<&Positions>) -> Result<(), Trouble>;

    /// Tells the broker to give up one message.
    fn reject(&mut self, net: &Net, receipt: u64) -> Result<(), Trouble>;

    /// How many messages the broker had behind the last one that came, if it says so by itself.
    fn lag(&self) -> Option<u64> {
        None
    }

    /// How many messages the broker has that have not come yet.
    fn remaining(&self, net: &Net) -> Result<u64, Trouble>;

    /// Takes leave of the broker: what is not done with it will deliver again.
    fn close(self: Box<Self>, net: &Net);
}
