//! What both loops do alike: they connect, however long that takes, wait between the tries, and take over settings that were changed.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::super::backoff::{Backoff, chance};
use super::super::net::Net;
use super::super::status::State;
use super::super::trouble::{Kind, Trouble};
use super::Link;
use super::stop::Stop;
use super::voice::Voice;

/// How often it is looked what there is to tell, while nothing happens.
pub const TICK: Duration = Duration::from_secs(1);

/// No wait is longer than this without a word to systemd.
const SLICE: Duration = Duration::from_secs(5);

/// Reads anew what was asked for.
pub type Again<'a> = &'a dyn Fn() -> Result<Link, Trouble>;

/// A link that runs.
pub struct Session<'a, 'b> {
    /// What links what.
    pub link: Rc<Link>,
    /// Where asynchronous code runs.
    pub net: &'a Net,
    /// The link ends when there is nothing left to take, and when the broker cannot be reached.
    pub until_empty: bool,
    /// Being asked to end.
    pub stop: Stop<'a>,
    /// What it says.
    pub voice: &'a mut Voice<'b>,
    again: Option<Again<'a>>,
    backoff: Backoff,
    connected: u64,
}

impl<'a, 'b> Session<'a, 'b> {
    /// Nothing is connected yet. Without `again`, SIGHUP ends the link.
    pub fn new(
        link: Link,
        net: &'a Net,
        until_empty: bool,
        mut stop: Stop<'a>,
        again: Option<Again<'a>>,
        voice: &'a mut Voice<'b>,
    ) -> Session<'a, 'b> {
        let backoff = Backoff::new(link.settings.retry_first, link.settings.retry_longest);
        stop.minds_hangups(again.is_none());
        Session { link: Rc::new(link), net, until_empty, stop, voice, again, backoff, connected: 0 }
    }

    /// Takes over what was asked for anew, if that was said; tells whether the link has to connect anew for that. What makes no sense is
    /// told, and changes nothing.
    pub fn changed(&mut self) -> bool {
        let Some(again) = self.again.filter(|_| self.stop.hung_up()) else { return false };
        let read = again().and_then(|new| Ok((self.link.becomes(&new)?, new)));
        match read {
            Err(trouble) => {
                self.voice.say(&format!("SIGHUP: the settings stay as they were: {trouble}"));
                false
            }
            Ok((anew, new)) => {
                self.voice.metrics.clone_from(&new.settings.metrics);
                self.backoff = Backoff::new(new.settings.retry_first, new.settings.retry_longest);
                if let Some(origin) = self.link.origin.get() {
                    let _ = new.origin.set(origin.clone());
                }
                self.link = Rc::new(new);
                self.voice.say(match anew {
                    true => "SIGHUP: the settings were read, connecting anew",
                    false => "SIGHUP: the settings were read",
                });
                anew
            }
        }
    }

    /// Connects, however long that takes; nothing when the link is to end.
    pub fn connect<T: ?Sized>(
        &mut self,
        open: impl Fn(&Link, &Net) -> Result<Box<T>, Trouble>,
    ) -> Result<Option<Box<T>>, Trouble> {
        while self.stop.asked() == 0 {
            self.changed();
            let opened = self.net.unless(self.stop.fd(), || open(&self.link, self.net));
            match opened {
                Ok(peer) => {
                    self.voice.status.now.reconnects = self.connected;
                    self.connected += 1;
                    self.voice.well();
                    return Ok(Some(peer));
                }
                // It was given up for that.
                Err(_) if self.stop.asked() > 0 || self.stop.is_hung_up() => {}
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
        let ends = Instant::now() + self.backoff.wait(chance());
        loop {
            self.voice.tick();
            let left = ends.saturating_duration_since(Instant::now());
            if self.stop.wait(left.min(SLICE), None) > 0 {
                return true;
            }
            if left <= SLICE || self.stop.is_hung_up() {
                return false;
            }
        }
    }

    /// It has worked: the next failure is the first one.
    pub fn worked(&mut self) {
        self.backoff.reset();
    }
}
