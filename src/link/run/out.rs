//! From the queue to the broker: claim, send, and acknowledge only what the broker has confirmed.
//!
//! What is claimed stays open, which keeps its lease alive, until the broker has said what becomes of it. When the connection is lost it
//! stays claimed, and is sent again, first and in the same order. Nothing is claimed while there is no connection.

use std::ffi::OsString;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use super::super::envelope::Envelope;
use super::super::local::outgoing::{self, Claimed, Claims, Nack};
use super::super::local::queue::Queue;
use super::super::peer::{Outcome, Sender, Sent};
use super::super::properties;
use super::super::settings::{Order, Refused};
use super::super::status::State;
use super::super::trouble::{Kind, Trouble};
use super::answer::{Answer, answer};
use super::session::{Session, TICK};
use super::strays;
use crate::clock;
use crate::error::is_mount_gone;

/// A message that is claimed and not acknowledged.
struct Flight {
    claimed: Claimed,
    envelope: Arc<Envelope>,
}

/// How a connection ended.
enum Served {
    /// The link is to end.
    End,
    /// It is of no use any more.
    Lost(Trouble),
    /// The settings say that another one is needed.
    Changed,
    /// The same, and it has taken nothing for `confirm_timeout`.
    Stuck(Trouble),
    /// The broker objects to one of the messages.
    Objected,
}

struct Out<'a, 'b> {
    session: Session<'a, 'b>,
    queue: Queue,
    claims: Claims,
    origin: String,
    flights: Vec<Flight>,
    /// Deliveries that the broker has confirmed and that could not be acknowledged, as the mount was away.
    confirmed: Vec<OsString>,
    /// What is under way is sent one at a time, to find the one that the broker objects to.
    singly: bool,
    /// Since when the broker takes nothing for now, of all that it is sent.
    stuck: Option<Instant>,
    /// The mount was away: it may have given this link a message that never came.
    remounted: bool,
}

/// Runs the loop.
pub fn run(session: Session<'_, '_>) -> Result<(), Trouble> {
    let queue = Queue::open(&session.link.queue)?;
    let origin = queue.origin().map_err(|error| queue.trouble(&error))?;
    let (claims, flights, confirmed) = (Claims::default(), Vec::new(), Vec::new());
    let mut out =
        Out { session, queue, claims, origin, flights, confirmed, singly: false, stuck: None, remounted: false };
    // Their leases would bring them back one after another, behind others.
    let _ = strays::give_back(&out.queue, out.session.voice, &[]);
    let ended = out.run();
    out.give_back();
    ended
}

impl Out<'_, '_> {
    fn run(&mut self) -> Result<(), Trouble> {
        if self.session.link.settings.order == Order::Strict && !self.wait_for_others() {
            return Ok(());
        }
        while let Some(sender) = self.session.connect(|link, net| link.system.sender(net, link.ends()))? {
            let served = self.serve(&*sender);
            sender.close(self.session.net);
            match served? {
                Served::End => return Ok(()),
                // It would be the same the next time.
                Served::Stuck(trouble) if self.session.until_empty => return Err(trouble),
                Served::Lost(trouble) if self.session.until_empty && trouble.kind == Kind::Refusing => {
                    return Err(trouble);
                }
                Served::Lost(trouble) | Served::Stuck(trouble) if self.session.fail(&trouble)? => return Ok(()),
                Served::Lost(_) | Served::Stuck(_) | Served::Objected | Served::Changed => {}
            }
        }
        Ok(())
    }

    fn serve(&mut self, sender: &dyn Sender) -> Result<Served, Trouble> {
        loop {
            if self.session.changed() {
                return Ok(Served::Changed);
            }
            let asked = self.session.stop.asked() > 0;
            if !asked && !self.singly {
                self.fill()?;
            }
            self.session.voice.status.now.in_flight = self.flights.len() as u64;
            if self.session.voice.is_due() {
                self.session.voice.status.now.lag = self.queue.text("user.mq.ready").parse().ok();
            }
            self.session.voice.tick();
            if self.flights.is_empty() && std::mem::take(&mut self.singly) {
                continue;
            }
            if self.flights.is_empty() {
                if asked || self.session.until_empty {
                    return Ok(Served::End);
                }
                self.session.stop.wait(TICK, self.claims.fd());
                if let Some(trouble) = sender.trouble() {
                    return Ok(Served::Lost(trouble));
                }
                continue;
            }
            let count = if self.singly { 1 } else { self.flights.len() };
            let messages = self.flights[..count].iter().map(|flight| flight.envelope.clone()).collect();
            let sent = sender.send(self.session.net, messages);
            match answer(&mut self.session, sender, &sent) {
                Answer::Is(Sent::Answered(outcomes)) => {
                    let trouble = sender.trouble();
                    if trouble.is_none() {
                        self.session.worked();
                    }
                    if !self.settle(outcomes, trouble.is_none())? {
                        return Ok(Served::End);
                    }
                    if let Some(trouble) = trouble {
                        return Ok(Served::Lost(trouble));
                    }
                }
                Answer::Is(Sent::Lost(trouble)) => {
                    self.singly |= sender.repeats_singly();
                    return Ok(Served::Lost(trouble));
                }
                Answer::Is(Sent::Objected(outcome)) if count == 1 => {
                    self.settle(vec![outcome], true)?;
                    return Ok(Served::Objected);
                }
                Answer::Is(Sent::Objected(_)) => {
                    self.singly = true;
                    return Ok(Served::Objected);
                }
                Answer::Late(trouble) => {
                    self.singly |= sender.repeats_singly();
                    return Ok(Served::Stuck(trouble));
                }
                Answer::End => return Ok(Served::End),
            }
        }
    }

    /// Claims as long as there is room and something to claim.
    fn fill(&mut self) -> Result<(), Trouble> {
        let link = self.session.link.clone();
        let settings = &link.settings;
        let window = if settings.order == Order::Strict { 1 } else { settings.window };
        if self.remounted {
            self.claim_anew()?;
        }
        let mut bytes: u64 = self.flights.iter().map(|flight| flight.envelope.body.len() as u64).sum();
        while self.flights.len() < window && bytes < settings.window_bytes {
            match self.claim() {
                Ok(None) => return Ok(()),
                Ok(Some(flight)) => {
                    bytes += flight.envelope.body.len() as u64;
                    self.flights.push(flight);
                }
                Err(error) if is_mount_gone(&error) => {
                    self.wait_for_mount()?;
                    self.claim_anew()?;
                    bytes = 0;
                }
                // Paused: nothing is claimed for now.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Ok(()),
                Err(error) => return Err(self.queue.trouble(&error)),
            }
        }
        Ok(())
    }

    /// Claims the next message and reads it. One that is too large for any broker becomes a dead letter.
    fn claim(&mut self) -> io::Result<Option<Flight>> {
        loop {
            let Some(name) = self.claims.next(&self.queue)? else { return Ok(None) };
            let (mut claimed, attributes, size) = match outgoing::open(&self.queue, name) {
                Err(error) if outgoing::is_over(&error) => continue,
                opened => opened?,
            };
            if size > self.session.link.settings.largest {
                let why = format!("{size} bytes: more than `largest`");
                unless_over(self.give_up(&claimed, &why))?;
                continue;
            }
            let mut envelope = properties::outgoing(&attributes, &self.origin, clock::now_ms());
            envelope.body.reserve_exact(size as usize);
            if let Err(error) = claimed.file.read_to_end(&mut envelope.body) {
                if is_mount_gone(&error) {
                    return Err(error);
                }
                // Damaged, perhaps; the next one may be well.
                let said = format!("it cannot be read: {error}");
                self.session.voice.say(&format!("{}: {said}", claimed.name.to_string_lossy()));
                unless_over(outgoing::nack(&self.queue, &claimed.name, Nack::Later, &said))?;
                continue;
            }
            return Ok(Some(Flight { claimed, envelope: Arc::new(envelope) }));
        }
    }

    /// Does what the broker has said; tells whether the link goes on.
    fn settle(&mut self, outcomes: Vec<Outcome>, connected: bool) -> Result<bool, Trouble> {
        let rest = self.flights.split_off(outcomes.len());
        let settled = std::mem::take(&mut self.flights);
        let (mut confirmed, mut bytes, mut wait, mut end) = (0, 0, None, None);
        for (flight, outcome) in settled.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Confirmed => {
                    confirmed += 1;
                    bytes += flight.envelope.body.len() as u64;
                    self.confirmed.push(flight.claimed.name);
                }
                Outcome::Later(why) => {
                    self.session.voice.status.now.retried += 1;
                    wait = Some(why);
                    self.flights.push(flight);
                }
                Outcome::Refused(why) if self.session.link.settings.order == Order::Strict => {
                    self.session.voice.status.now.refused += 1;
                    wait = Some(why);
                    self.flights.push(flight);
                }
                Outcome::Refused(why) => {
                    self.refuse(&flight.claimed, &why)?;
                    if self.session.link.settings.refused == Refused::Stop {
                        end = Some(Trouble::refusing(why));
                    }
                }
                Outcome::Never(why) => self.retrying(|out| out.give_up(&flight.claimed, &why))?,
            }
        }
        self.flights.extend(rest);
        self.acknowledge()?;
        self.session.voice.status.succeeded(confirmed, bytes);
        if let Some(trouble) = end {
            return Err(trouble);
        }
        if wait.is_none() || confirmed > 0 {
            self.stuck = None;
        }
        // With another connection, it is that what is waited for.
        match wait.filter(|_| connected) {
            Some(why) => {
                let since = *self.stuck.get_or_insert_with(Instant::now);
                if self.session.until_empty && since.elapsed() > self.session.link.settings.confirm_timeout {
                    return Err(Trouble::refusing(why));
                }
                self.session.voice.trouble(State::Failing, &why);
                if self.session.pause() {
                    return Ok(false);
                }
            }
            None if connected && self.session.voice.status.now.state == State::Failing => self.session.voice.well(),
            None => {}
        }
        Ok(true)
    }

    /// Acknowledges what the broker has confirmed.
    fn acknowledge(&mut self) -> Result<(), Trouble> {
        while let Some(name) = self.confirmed.last() {
            match outgoing::ack(&self.queue, name) {
                Ok(()) => {}
                // The claim is over: it is delivered again, and the broker gets it twice, under one identity.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.session.voice.status.now.duplicates += 1,
                Err(error) if is_mount_gone(&error) => {
                    self.wait_for_mount()?;
                    if self.session.stop.asked() > 1 {
                        return Ok(());
                    }
                    continue;
                }
                Err(error) => return Err(self.queue.trouble(&error)),
            }
            self.confirmed.pop();
        }
        Ok(())
    }

    fn refuse(&mut self, claimed: &Claimed, why: &str) -> Result<(), Trouble> {
        let how = match self.session.link.settings.refused {
            Refused::Retry => Nack::Later,
            Refused::Dead => Nack::Dead,
            Refused::Stop => Nack::Uncounted,
        };
        self.session.voice.status.now.refused += 1;
        self.session.voice.say(&format!("{}: refused: {why}", claimed.name.to_string_lossy()));
        self.retrying(|out| outgoing::nack(&out.queue, &claimed.name, how, why))
    }

    fn give_up(&mut self, claimed: &Claimed, why: &str) -> io::Result<()> {
        self.session.voice.status.now.refused += 1;
        self.session.voice.say(&format!("{}: a dead letter: {why}", claimed.name.to_string_lossy()));
        outgoing::nack(&self.queue, &claimed.name, Nack::Dead, why)
    }

    /// Does something to a claimed message, when the mount is there; a claim that is over is nobody's concern.
    fn retrying(&mut self, mut what: impl FnMut(&mut Self) -> io::Result<()>) -> Result<(), Trouble> {
        loop {
            match what(self) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) if is_mount_gone(&error) && self.session.stop.asked() < 2 => self.wait_for_mount()?,
                Err(error) => return Err(self.queue.trouble(&error)),
            }
        }
    }

    /// Waits until the queue is there again, or the link is asked to end.
    fn wait_for_mount(&mut self) -> Result<(), Trouble> {
        self.claims = Claims::default();
        let path = self.queue.path().display().to_string();
        self.session.voice.trouble(State::Holding, &format!("{path}: the mount is gone"));
        let mut asked = false;
        loop {
            if self.queue.reopen().is_ok() {
                self.remounted = true;
                self.session.voice.well();
                return Ok(());
            }
            if asked {
                return Err(Trouble::new(Kind::Queue, format_args!("{path}: the mount is gone")));
            }
            // It may have come back while this slept.
            asked = self.session.stop.wait(TICK / 2, None) > 0;
            self.session.voice.tick();
        }
    }

    /// The mount was away: gives back all that is claimed, to claim it again in order. What the mount has given to this link and could
    /// not tell is among it, and would come back when its lease is over, behind others; and the leases of all others have not renewed
    /// themselves since. None of it is under way: a window is answered before the next is claimed.
    fn claim_anew(&mut self) -> Result<(), Trouble> {
        loop {
            self.give_back();
            match strays::give_back(&self.queue, self.session.voice, &self.confirmed) {
                Ok(()) => break,
                Err(error) if is_mount_gone(&error) => self.wait_for_mount()?,
                Err(error) => return Err(self.queue.trouble(&error)),
            }
            if self.session.stop.asked() > 1 {
                return Ok(());
            }
        }
        self.remounted = false;
        Ok(())
    }

    /// With strict order nobody else has a message: it might come back and be sent after later ones.
    fn wait_for_others(&mut self) -> bool {
        loop {
            match self.queue.text("user.mq.claimed").as_str() {
                "0" | "" => return true,
                claimed => {
                    let why = format!("{claimed} messages are claimed by others");
                    self.session.voice.trouble(State::Holding, &why);
                }
            }
            if self.session.stop.wait(TICK / 4, None) > 0 {
                return false;
            }
        }
    }

    /// Gives back what is claimed and was not confirmed, without counting it: nobody has refused it.
    fn give_back(&mut self) {
        for flight in self.flights.drain(..) {
            let _ = outgoing::nack(&self.queue, &flight.claimed.name, Nack::Uncounted, "");
        }
    }
}

/// A claim that is over is nobody's concern.
fn unless_over(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if outgoing::is_over(&error) { Ok(()) } else { Err(error) })
}
