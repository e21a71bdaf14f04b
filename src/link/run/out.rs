//! From the queue to the broker: claim, send, and acknowledge only what the broker has confirmed.
//!
//! What is claimed stays open, which keeps its lease alive, until the broker has said what becomes of it. When the connection is lost it
//! stays claimed, and is sent again, first and in the same order. Nothing is claimed while there is no connection.
//!
//! While the broker has one part of the window, the part before it is acknowledged, and the next one is claimed: see [`window`].

use std::time::{Duration, Instant};

use super::super::local::outgoing::Nack;
use super::super::peer::{Outcome, Sender, Sent};
use super::super::settings::{Order, Refused};
use super::super::status::State;
use super::super::trouble::{Kind, Trouble};
use super::answer::{Answer, answer};
use super::session::{Session, TICK};
use super::window::{self, Flight, Upto, Window};

/// How often it is looked whether there is something to claim although nothing tells so.
const LOOK: Duration = Duration::from_secs(10);

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
    window: Window,
    /// What is under way is sent one at a time, to find the one that the broker objects to.
    singly: bool,
    /// Since when there is nothing to claim, and the queue tells when there is.
    quiet: Option<Instant>,
    /// It was told since then how much there is.
    told: bool,
    /// Since when the broker takes nothing for now, of all that it is sent.
    stuck: Option<Instant>,
}

/// Runs the loop.
pub fn run(mut session: Session<'_, '_>) -> Result<(), Trouble> {
    let window = Window::open(&mut session)?;
    let mut out = Out { session, window, singly: false, quiet: None, told: false, stuck: None };
    let ended = out.run();
    out.window.give_back();
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
            self.window.landed(0);
            let acknowledged = self.window.acknowledge(&mut self.session);
            match served.and_then(|served| acknowledged.map(|()| served))? {
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
            let quiet = self.quiet.is_some_and(|since| since.elapsed() < LOOK);
            if !asked && !self.singly && !quiet {
                self.window.fill(&mut self.session, Upto::Part)?;
            }
            self.session.voice.status.now.in_flight = self.window.len() as u64;
            if self.session.voice.is_due() && !(quiet && self.told) {
                self.session.voice.status.now.lag = self.window.queue().text("user.mq.ready").parse().ok();
                self.told = quiet;
            }
            self.session.voice.tick();
            if self.window.len() == 0 && std::mem::take(&mut self.singly) {
                continue;
            }
            if asked || self.window.len() == 0 && self.session.until_empty {
                return Ok(Served::End);
            }
            if self.window.len() == 0 {
                self.wait(quiet);
                if let Some(trouble) = sender.trouble() {
                    return Ok(Served::Lost(trouble));
                }
                continue;
            }
            let count = if self.singly { 1 } else { self.window.len().min(window::part(&self.session)) };
            let sent = sender.send(self.session.net, self.window.send(count));
            if !self.singly {
                self.window.turn_over(&mut self.session)?;
            }
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

    /// Waits until there is something to claim, or it is time to look.
    fn wait(&mut self, quiet: bool) {
        // Where nothing tells, as the queue is paused, only asking does.
        let tells = self.window.fd().is_some();
        let readable = self.session.stop.wait_for(TICK, self.window.fd());
        self.quiet = match tells && !readable {
            true => self.quiet.filter(|_| quiet).or_else(|| Some(Instant::now())),
            false => None,
        };
    }

    /// Does what the broker has said; tells whether the link goes on.
    fn settle(&mut self, outcomes: Vec<Outcome>, connected: bool) -> Result<bool, Trouble> {
        let settled = self.window.landed(outcomes.len());
        let (mut confirmed, mut bytes, mut again, mut wait, mut end) = (0, 0, Vec::new(), None, None);
        for (flight, outcome) in settled.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Confirmed => {
                    confirmed += 1;
                    bytes += flight.envelope.body.len() as u64;
                    self.window.confirm(flight);
                }
                Outcome::Later(why) => {
                    self.session.voice.status.now.retried += 1;
                    wait = Some(why);
                    again.push(flight);
                }
                Outcome::Refused(why) if self.session.link.settings.order == Order::Strict => {
                    self.session.voice.status.now.refused += 1;
                    wait = Some(why);
                    again.push(flight);
                }
                Outcome::Refused(why) => {
                    self.refuse(&flight, &why)?;
                    if self.session.link.settings.refused == Refused::Stop {
                        end = Some(Trouble::refusing(why));
                    }
                }
                Outcome::Never(why) => {
                    self.session.voice.gives_up(&flight.claimed.name, &why);
                    self.window.nack(&mut self.session, &flight, Nack::Dead, &why)?;
                }
            }
        }
        self.window.put_back(again);
        // Where the next part is there, that is sent first, and the broker does not wait for the acknowledgements.
        let next = self.window.len() >= window::part(&self.session) && !self.singly;
        if !(connected && next && wait.is_none() && end.is_none()) {
            self.window.acknowledge(&mut self.session)?;
        }
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

    fn refuse(&mut self, flight: &Flight, why: &str) -> Result<(), Trouble> {
        let how = match self.session.link.settings.refused {
            Refused::Retry => Nack::Later,
            Refused::Dead => Nack::Dead,
            Refused::Stop => Nack::Uncounted,
        };
        self.session.voice.status.now.refused += 1;
        self.session.voice.say(&format!("{}: refused: {why}", flight.claimed.name.to_string_lossy()));
        self.window.nack(&mut self.session, flight, how, why)
    }

    /// With strict order nobody else has a message: it might come back and be sent after later ones.
    fn wait_for_others(&mut self) -> bool {
        loop {
            match self.window.queue().text("user.mq.claimed").as_str() {
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
}
