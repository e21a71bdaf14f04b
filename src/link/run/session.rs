//! What both loops do alike: they connect, however long that takes, and wait between the tries.

use std::time::Duration;

use super::super::backoff::{Backoff, chance};
use super::super::net::Net;
use super::super::peer::Ends;
use super::super::status::State;
use super::super::trouble::{Kind, Trouble};
use super::stop::Stop;
use super::{Link, Voice};

/// How often it is looked what there is to tell, while nothing happens.
pub const TICK: Duration = Duration::from_secs(1);

/// A link that runs.
pub struct Session<'a, 'b> {
    /// What links what.
    pub link: &'a Link,
    /// Where asynchronous code runs.
    pub net: &'a Net,
    /// The link ends when there is nothing left to take, and when the broker cannot be reached.
    pub until_empty: bool,
    /// Being asked to end.
    pub stop: Stop<'a>,
    /// What it says.
    pub voice: &'a mut Voice<'b>,
    backoff: Backoff,
    connected: u64,
}

impl<'a, 'b> Session<'a, 'b> {
    /// Nothing is connected yet.
    pub fn new(
        link: &'a Link,
        net: &'a Net,
        until_empty: bool,
        stop: Stop<'a>,
        voice: &'a mut Voice<'b>,
    ) -> Session<'a, 'b> {
        let backoff = Backoff::new(link.settings.retry_first, link.settings.retry_longest);
        Session { link, net, until_empty, stop, voice, backoff, connected: 0 }
    }

    /// Connects, however long that takes; nothing when the link is to end.
    pub fn connect<T: ?Sized>(
        &mut self,
        open: impl Fn(&Net, Ends<'_>) -> Result<Box<T>, Trouble>,
    ) -> Result<Option<Box<T>>, Trouble> {
        while self.stop.asked() == 0 {
            match open(self.net, self.link.ends()) {
                Ok(peer) => {
                    self.voice.status.now.reconnects = self.connected;
                    self.connected += 1;
                    self.voice.well();
                    return Ok(Some(peer));
                }
                Err(trouble) if self.until_empty => return Err(trouble),
                Err(trouble) if self.fail(&trouble)? => return Ok(None),
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Tells of trouble with the broker, and waits before the next try; tells whether the link is to end instead. What does not go away
    /// by itself is the error.
    pub fn fail(&mut self, trouble: &Trouble) -> Result<bool, Trouble> {
        match trouble.kind {
            Kind::Away => self.voice.trouble(State::Connecting, &trouble.text),
            Kind::Refusing => self.voice.trouble(State::Failing, &trouble.text),
            Kind::Usage | Kind::Queue | Kind::Local | Kind::Poison | Kind::Gap => return Err(trouble.clone()),
        }
        Ok(self.pause())
    }

    /// Waits before the next try; tells whether the link is to end instead.
    pub fn pause(&mut self) -> bool {
        let wait = self.backoff.wait(chance());
        self.stop.wait(wait, None) > 0
    }

    /// It has worked: the next failure is the first one.
    pub fn worked(&mut self) {
        self.backoff.reset();
    }
}
