//! The mark of a link that takes messages in: what the queue remembers of what is in it.

use std::io;

use super::super::backoff::random;
use super::super::local::queue::Queue;
use super::super::mark::{Identity, Known, Positions, Remembered};
use super::super::peer::Came;
use super::super::settings::Dedup;
use super::Link;
use crate::error::Error;

/// What the queue's mark is, as far as this link knows.
#[derive(Debug)]
pub struct Marked {
    /// Its name, after `user.mark.`.
    pub name: String,
    /// Its value.
    pub was: Vec<u8>,
    /// What it says is in the queue; nothing before it was read, and of a log that has not begun.
    pub known: Option<Known>,
}

impl Marked {
    /// That of a link; it is not read yet.
    pub fn of(link: &Link) -> Marked {
        Marked { name: format!("link-{}", link.name), was: Vec::new(), known: None }
    }

    fn attribute(&self) -> String {
        format!("user.mark.{}", self.name)
    }

    /// Reads it.
    pub fn read(&mut self, queue: &Queue, link: &Link) -> io::Result<()> {
        self.was = queue.attribute(&self.attribute())?.unwrap_or_default();
        self.known = match link.system.is_log() {
            true if self.was.is_empty() => None,
            // A mark of another kind is of no log that there is.
            true => {
                let positions = Positions::parse(&self.was);
                Some(Known::Positions(positions.unwrap_or_else(|| Positions::new("none", "none"))))
            }
            false => {
                let capacity = link.settings.remember;
                let read = Remembered::parse(&self.was, capacity);
                Some(Known::Identities(read.unwrap_or_else(|| Remembered::new([random(), random()], capacity))))
            }
        };
        Ok(())
    }

    /// Sets it without enqueuing anything.
    pub fn set(&self, queue: &Queue, is: &[u8]) -> io::Result<()> {
        if queue.attribute(&self.attribute())?.unwrap_or_default() != self.was {
            return Err(io::Error::from_raw_os_error(Error::MarkMoved.errno()));
        }
        queue.set_attribute(&self.attribute(), is)
    }

    /// What it is set to.
    pub fn is_now(&mut self, was: Vec<u8>, known: Option<Known>) {
        (self.was, self.known) = (was, known);
    }

    /// Whether a message is in the queue.
    pub fn has(&self, identity: &Identity) -> bool {
        self.known.as_ref().is_some_and(|known| known.has(identity))
    }

    /// Of a log, where it goes on.
    pub fn positions(&self) -> Option<&Positions> {
        self.known.as_ref().and_then(Known::positions)
    }
}

/// What tells a message from others, if anything does.
pub fn identity(came: &Came, dedup: &Dedup) -> Option<Identity> {
    if let Some(at) = came.at {
        return Some(Identity::At(at));
    }
    let named = match dedup {
        Dedup::None => None,
        Dedup::MessageId => Some(came.envelope.id.clone()).filter(|id| !id.is_empty()),
        Dedup::Header(name) => came.envelope.header(name).map(|id| String::from_utf8_lossy(id).into_owned()),
    };
    named.map(Identity::Named)
}
