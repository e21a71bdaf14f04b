//! What a link has claimed and not acknowledged: its window.
//!
//! Messages come to the broker in the order of the queue, because
//!
//! - what is claimed is put at the end of `flights`, what is sent is taken from its front, and what the broker has not taken stays where
//!   it is;
//! - a message that the mount has given to this link, or to the process before it, and could not tell, is older than what is claimed
//!   later. So all is claimed anew before the next one is claimed: `anew` is set from when the mount may have been away until that is
//!   done, and nothing is claimed while it is set;
//! - what is under way is never claimed anew: it would be sent again behind what follows it, whatever the broker answers. While something
//!   is under way nobody waits for the mount either; `anew` keeps it in mind until the broker has answered.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::super::envelope::Envelope;
use super::super::local::outgoing::{self, Claimed, Claims, Nack};
use super::super::local::queue::Queue;
use super::super::properties;
use super::super::settings::Order;
use super::super::status::State;
use super::super::trouble::{Kind, Trouble};
use super::session::{Session, TICK};
use super::strays;
use crate::clock;
use crate::error::{Refusal, is_mount_gone};

/// One part of the window is with the broker, while what was confirmed before is acknowledged, and then what comes next is claimed.
const PARTS: usize = 2;

/// A message that is claimed and not acknowledged.
pub struct Flight {
    /// The claim.
    pub claimed: Claimed,
    /// What is sent.
    pub envelope: Arc<Envelope>,
}

/// How much of the window is filled.
#[derive(Clone, Copy)]
pub enum Upto {
    /// What is sent together.
    Part,
    /// All of it.
    Whole,
}

/// The window.
pub struct Window {
    queue: Queue,
    claims: Claims,
    origin: String,
    flights: Vec<Flight>,
    /// So many of the first are with the broker.
    under_way: usize,
    /// Deliveries that the broker has confirmed and that are not acknowledged yet.
    confirmed: Vec<OsString>,
    /// All is claimed anew before anything else is claimed.
    anew: bool,
}

impl Window {
    /// Opens the queue. What the processes before this one have claimed is given back: their leases would bring it back one after
    /// another, behind others.
    pub fn open(session: &mut Session<'_, '_>) -> Result<Window, Trouble> {
        let queue = Queue::open(&session.link.queue)?;
        let origin = queue.origin().map_err(|error| queue.trouble(&error))?;
        let anew = strays::give_back(&queue, session.voice, &[]).is_err();
        let (claims, flights, confirmed) = (Claims::default(), Vec::new(), Vec::new());
        Ok(Window { queue, claims, origin, flights, under_way: 0, confirmed, anew })
    }

    /// The queue.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Readable when there may be something to claim, after there was nothing. Otherwise only asking tells.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.claims.fd()
    }

    /// How many messages are to be sent, or are under way.
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    /// The first of them, which are under way from now on.
    pub fn send(&mut self, count: usize) -> Vec<Arc<Envelope>> {
        self.under_way = count;
        self.flights[..count].iter().map(|flight| flight.envelope.clone()).collect()
    }

    /// Nothing is under way any more. Takes out so many, of which the broker has said what becomes of them.
    pub fn landed(&mut self, count: usize) -> Vec<Flight> {
        self.under_way = 0;
        self.flights.drain(..count).collect()
    }

    /// Puts in what is to be sent again, before all others.
    pub fn put_back(&mut self, flights: Vec<Flight>) {
        self.flights.splice(..0, flights);
    }

    /// The broker has confirmed it.
    pub fn confirm(&mut self, flight: Flight) {
        self.confirmed.push(flight.claimed.name);
    }

    /// Claims as long as there is room and something to claim.
    pub fn fill(&mut self, session: &mut Session<'_, '_>, upto: Upto) -> Result<(), Trouble> {
        loop {
            if self.anew {
                if self.under_way > 0 {
                    return Ok(());
                }
                // It was left for when the next part is sent, which is given back now.
                self.acknowledge(session)?;
                self.claim_anew(session)?;
            }
            let held = self.confirmed.len();
            let Window { queue, claims, origin, flights, .. } = self;
            let filled = claim_upto(queue, claims, origin, flights, session, upto, held);
            if !self.goes_on(filled)? {
                return Ok(());
            }
        }
    }

    /// While the broker has one part: acknowledges what is confirmed, and fills all of the window.
    pub fn turn_over(&mut self, session: &mut Session<'_, '_>) -> Result<(), Trouble> {
        self.acknowledge(session)?;
        match self.fd() {
            // There was nothing more to claim just now.
            Some(_) => Ok(()),
            None => self.fill(session, Upto::Whole),
        }
    }

    /// What follows of how claiming ended; whether it is to be tried again, as the mount was away.
    fn goes_on(&mut self, filled: io::Result<()>) -> Result<bool, Trouble> {
        let Err(error) = filled else { return Ok(false) };
        match Refusal::of(&error) {
            Refusal::MountGone => {
                self.anew = true;
                Ok(true)
            }
            // Paused: nothing is claimed for now.
            Refusal::NotNow => Ok(false),
            _ => Err(self.queue.trouble(&error)),
        }
    }

    /// Acknowledges what is confirmed. While nothing is under way, it waits for the mount to do that.
    pub fn acknowledge(&mut self, session: &mut Session<'_, '_>) -> Result<(), Trouble> {
        loop {
            let (over, ended) = acknowledge(&self.queue, &mut self.confirmed);
            session.voice.status.now.duplicates += over;
            match ended {
                Ok(()) => return Ok(()),
                Err(error) if is_mount_gone(&error) => self.anew = true,
                Err(error) => return Err(self.queue.trouble(&error)),
            }
            if self.under_way > 0 {
                return Ok(());
            }
            self.wait_for_mount(session)?;
            if session.stop.asked() > 1 {
                return Ok(());
            }
        }
    }

    /// Gives a claimed message back, or up, when the mount is there. A claim that is over is nobody's concern.
    pub fn nack(
        &mut self,
        session: &mut Session<'_, '_>,
        flight: &Flight,
        how: Nack,
        why: &str,
    ) -> Result<(), Trouble> {
        loop {
            match unless_over(outgoing::nack(&self.queue, &flight.claimed.name, how, why)) {
                Ok(()) => return Ok(()),
                Err(error) if is_mount_gone(&error) && session.stop.asked() < 2 => self.wait_for_mount(session)?,
                Err(error) => return Err(self.queue.trouble(&error)),
            }
        }
    }

    /// Waits until the queue is there again, or the link is asked to end.
    fn wait_for_mount(&mut self, session: &mut Session<'_, '_>) -> Result<(), Trouble> {
        self.claims = Claims::default();
        self.anew = true;
        let path = self.queue.path().display().to_string();
        session.voice.trouble(State::Holding, &format!("{path}: the mount is gone"));
        let mut asked = false;
        loop {
            if self.queue.reopen().is_ok() {
                session.voice.well();
                return Ok(());
            }
            if asked {
                return Err(Trouble::new(Kind::Queue, format_args!("{path}: the mount is gone")));
            }
            // It may have come back while this slept.
            asked = session.stop.wait(TICK / 2, None) > 0;
            session.voice.tick();
        }
    }

    /// Gives back all that is claimed, to claim it again in order. What the mount has given to this link and could not tell is among it,
    /// and would come back when its lease is over, behind others; and the leases of all others have not renewed themselves since the
    /// mount was away.
    fn claim_anew(&mut self, session: &mut Session<'_, '_>) -> Result<(), Trouble> {
        debug_assert_eq!(self.under_way, 0, "what is under way would be sent again, behind others");
        loop {
            self.give_back();
            match strays::give_back(&self.queue, session.voice, &self.confirmed) {
                Ok(()) => break,
                Err(error) if is_mount_gone(&error) => self.wait_for_mount(session)?,
                Err(error) => return Err(self.queue.trouble(&error)),
            }
        }
        self.anew = false;
        Ok(())
    }

    /// Gives back what is claimed and was not confirmed, without counting it: nobody has refused it.
    pub fn give_back(&mut self) {
        for flight in self.flights.drain(..) {
            let _ = outgoing::nack(&self.queue, &flight.claimed.name, Nack::Uncounted, "");
        }
    }
}

/// How many messages are sent together.
pub fn part(session: &Session<'_, '_>) -> usize {
    window(session).div_ceil(PARTS)
}

/// How many are claimed at most.
fn window(session: &Session<'_, '_>) -> usize {
    let settings = &session.link.settings;
    if settings.order == Order::Strict { 1 } else { settings.window }
}

/// Claims as long as there is room beside the `held` ones, and something to claim.
fn claim_upto(
    queue: &Queue,
    claims: &mut Claims,
    origin: &str,
    flights: &mut Vec<Flight>,
    session: &mut Session<'_, '_>,
    upto: Upto,
    held: usize,
) -> io::Result<()> {
    let (most, most_bytes) = match upto {
        Upto::Part => (part(session), session.link.settings.window_bytes.div_ceil(PARTS as u64)),
        Upto::Whole => (window(session), session.link.settings.window_bytes),
    };
    let mut bytes: u64 = flights.iter().map(|flight| flight.envelope.body.len() as u64).sum();
    while flights.len() + held < most && bytes < most_bytes {
        let Some(flight) = claim(queue, claims, origin, session)? else { return Ok(()) };
        bytes += flight.envelope.body.len() as u64;
        flights.push(flight);
    }
    Ok(())
}

/// Claims the next message and reads it. One that is too large for any broker becomes a dead letter.
fn claim(
    queue: &Queue,
    claims: &mut Claims,
    origin: &str,
    session: &mut Session<'_, '_>,
) -> io::Result<Option<Flight>> {
    loop {
        let Some(name) = claims.next(queue)? else { return Ok(None) };
        let (mut claimed, attributes, size) = match outgoing::open(queue, name) {
            Err(error) if outgoing::is_over(&error) => continue,
            opened => opened?,
        };
        if size > session.link.settings.largest {
            let why = format!("{size} bytes: more than `largest`");
            session.voice.gives_up(&claimed.name, &why);
            unless_over(outgoing::nack(queue, &claimed.name, Nack::Dead, &why))?;
            continue;
        }
        let mut envelope = properties::outgoing(&attributes, origin, clock::now_ms());
        envelope.body.reserve_exact(size as usize);
        if let Err(error) = claimed.file.read_to_end(&mut envelope.body) {
            if is_mount_gone(&error) {
                return Err(error);
            }
            // Damaged, perhaps; the next one may be well.
            let said = format!("it cannot be read: {error}");
            session.voice.say(&format!("{}: {said}", claimed.name.to_string_lossy()));
            unless_over(outgoing::nack(queue, &claimed.name, Nack::Later, &said))?;
            continue;
        }
        return Ok(Some(Flight { claimed, envelope: Arc::new(envelope) }));
    }
}

/// Acknowledges as many as it can; what is left is what could not be. With the number of those whose claim was over: they are delivered
/// again, and the broker gets them twice, under one identity.
fn acknowledge(queue: &Queue, confirmed: &mut Vec<OsString>) -> (u64, io::Result<()>) {
    let mut over = 0;
    while let Some(name) = confirmed.last() {
        match outgoing::ack(queue, name) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => over += 1,
            Err(error) => return (over, Err(error)),
        }
        confirmed.pop();
    }
    (over, Ok(()))
}

/// A claim that is over is nobody's concern.
fn unless_over(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if outgoing::is_over(&error) { Ok(()) } else { Err(error) })
}
