//! Apache Kafka, by librdkafka.
//!
//! - [`address`]: what a URL names; [`client`]: how the library is set up, and what its errors mean;
//! - [`events`]: what the library tells, as values: the one place where its pointers are followed;
//! - [`map`]: a message and a record; [`positions`]: the mark of a queue, and where to go on from it;
//! - [`token`]: who a link is, where that is shown by tokens;
//! - [`sender`] and [`receiver`]; [`check`]: what `--check` says.

pub mod address;
pub mod check;
pub mod client;
pub mod events;
pub mod map;
pub mod positions;
pub mod receiver;
pub mod sender;
pub mod token;

use super::mark::Positions;
use super::net::Net;
use super::peer::{self, Ends};
use super::trouble::Trouble;
use super::url::Target;

/// Apache Kafka.
#[derive(Debug)]
pub struct Kafka;

impl peer::System for Kafka {
    fn check(&self, target: &Target, out: bool) -> Result<(), Trouble> {
        address::Address::of(target, out).map(drop)
    }

    fn is_log(&self) -> bool {
        true
    }

    fn sender(&self, _: &Net, ends: Ends<'_>) -> Result<Box<dyn peer::Sender>, Trouble> {
        Ok(Box::new(sender::Sender::connect(ends)?))
    }

    fn receiver(&self, _: &Net, ends: Ends<'_>, mark: Option<&Positions>) -> Result<Box<dyn peer::Receiver>, Trouble> {
        Ok(Box::new(receiver::Receiver::connect(ends, mark)?))
    }

    fn watch(&self, _: &Net, ends: Ends<'_>, mark: Option<&Positions>) -> Result<Box<dyn peer::Receiver>, Trouble> {
        Ok(Box::new(receiver::Receiver::watch(ends, mark)?))
    }

    fn look(&self, net: &Net, ends: Ends<'_>, out: bool) -> Result<Vec<String>, Trouble> {
        check::look(net, ends, out)
    }

    fn promises(&self, ends: Ends<'_>, out: bool) -> Vec<String> {
        check::promises(ends, out)
    }
}
