//! From the broker into the queue: what comes is gathered in a batch, enqueued in one step with the mark that says so, and only then
//! acknowledged to the broker.
//!
//! Whatever crashes, the mark tells what is in the queue: what comes again and is known is acknowledged and not enqueued. What is
//! enqueued and what the mark says cannot differ, as both are one rename. A log is read from where the mark says.

use std::io;
use std::time::{Duration, Instant};

use super::super::local::batch::{Batch, Mark};
use super::super::local::queue::Queue;
use super::super::mark::{Identity, Known};
use super::super::peer::{Begins, Came, Receiver};
use super::super::properties;
use super::super::settings::Poison;
use super::super::status::State;
use super::super::trouble::{Kind, Trouble};
use super::gathered::{Asked, Gathered};
use super::marked::{self, Marked};
use super::poison;
use super::session::{Session, TICK};
use crate::error::{Refusal, is_mount_gone};

/// With nothing for so long, and nothing at the broker, a queue there is empty.
const EMPTY: Duration = Duration::from_millis(300);

/// How a connection ended.
enum Served {
    /// The link is to end.
    End,
    /// It is of no use any more.
    Lost(Trouble),
    /// The settings say that another one is needed.
    Changed,
    /// The queue has taken nothing for so long, for this reason, that the broker shall have its messages back.
    Full(String),
}

/// What ends a connection, as the error of what is done with it.
enum Ended {
    By(Served),
    Final(Trouble),
}

impl From<Trouble> for Ended {
    fn from(trouble: Trouble) -> Ended {
        match trouble.kind {
            Kind::Away | Kind::Refusing => Ended::By(Served::Lost(trouble)),
            _ => Ended::Final(trouble),
        }
    }
}

struct Intake<'a, 'b> {
    session: Session<'a, 'b>,
    queue: Queue,
    mark: Marked,
    /// For which part of the queue there was no room: the broker is asked for messages again when there is.
    wanted: f64,
}

/// Runs the loop.
pub fn run(session: Session<'_, '_>) -> Result<(), Trouble> {
    // Nothing is claimed in this direction.
    session.voice.status.inherited();
    let queue = Queue::open(&session.link.queue)?;
    let mark = Marked::of(&session.link);
    if session.link.system.is_log() {
        let origin = queue.origin().map_err(|error| queue.trouble(&error))?;
        session.link.origin.get_or_init(|| origin);
    }
    Intake { session, queue, mark, wanted: 0.0 }.run()
}

impl Intake<'_, '_> {
    fn run(&mut self) -> Result<(), Trouble> {
        loop {
            if !self.ready()? {
                return Ok(());
            }
            let Some(mut receiver) = self.connect()? else { return Ok(()) };
            let ended = self.serve(&mut *receiver);
            receiver.close(self.session.net);
            match ended? {
                Served::End => return Ok(()),
                Served::Lost(trouble) if self.session.fail(&trouble)? => return Ok(()),
                Served::Full(why) if self.session.until_empty => return Err(Trouble::new(Kind::Queue, why)),
                Served::Lost(_) | Served::Full(_) | Served::Changed => {}
            }
        }
    }

    /// Waits until the queue is there and takes something, and reads what it remembers; tells whether the link goes on. Nothing is asked
    /// of the broker before, since each message that it has to take back counts as a delivery there.
    fn ready(&mut self) -> Result<bool, Trouble> {
        let begun = Instant::now();
        loop {
            let why = match self.look() {
                Ok(None) => return Ok(true),
                Ok(Some(why)) => why,
                Err(error) if is_mount_gone(&error) => {
                    let _ = self.queue.reopen();
                    format!("{}: the mount is gone", self.queue.path().display())
                }
                Err(error) => return Err(self.queue.trouble(&error)),
            };
            if self.session.until_empty && begun.elapsed() >= self.session.link.settings.hold {
                return Err(Trouble::new(Kind::Queue, why));
            }
            self.session.voice.trouble(State::Holding, &why);
            if self.session.stop.wait(TICK / 4, None) > 0 {
                return Ok(false);
            }
        }
    }

    /// Why the queue takes nothing, if it does not.
    fn look(&mut self) -> io::Result<Option<String>> {
        Batch::sweep(&self.queue, &self.session.link.name)?;
        self.mark.read(&self.queue, &self.session.link)?;
        if matches!(self.queue.text("user.mq.paused").as_str(), "in" | "both") {
            return Ok(Some("the queue is paused".to_owned()));
        }
        // It is not there where there are no limits.
        let fullness = self.queue.text("user.mq.fullness").parse::<f64>();
        if fullness.is_ok_and(|full| full >= 1.0 || full + self.wanted > 1.0) {
            return Ok(Some("the queue is full".to_owned()));
        }
        self.wanted = 0.0;
        Ok(None)
    }

    fn connect(&mut self) -> Result<Option<Box<dyn Receiver>>, Trouble> {
        let mark = self.mark.positions();
        self.session.connect(|link, net| link.system.receiver(net, link.ends(), mark))
    }

    /// Of a log, says in the mark at once where the link begins: what comes next would be another place after a crash.
    fn begin(&mut self, begins: Begins) -> Result<(), Ended> {
        begins.told.iter().for_each(|told| self.session.voice.say(told));
        let mark = begins.mark.render().into_bytes();
        if mark != self.mark.was {
            self.move_on(None, &mark, false)?;
        }
        self.mark.is_now(mark, Some(Known::Positions(begins.mark)));
        Ok(())
    }

    fn serve(&mut self, receiver: &mut dyn Receiver) -> Result<Served, Trouble> {
        let mut gathered = Gathered::default();
        let ended = self.gather(receiver, &mut gathered);
        if let Err(Ended::By(Served::Full(_))) = &ended {
            self.wanted = gathered.part();
        }
        self.drop(&mut gathered);
        match ended {
            Ok(served) | Err(Ended::By(served)) => Ok(served),
            Err(Ended::Final(trouble)) => Err(trouble),
        }
    }

    /// Drops what was not enqueued: it was not acknowledged either, and comes again, here or elsewhere.
    fn drop(&self, gathered: &mut Gathered) {
        if let Some(batch) = std::mem::take(gathered).batch {
            let _ = batch.remove(&self.queue);
        }
    }

    /// Says whether the broker is there, where the connection does not end when it is not.
    fn tell_of(&mut self, receiver: &dyn Receiver) -> Result<(), Ended> {
        match receiver.away() {
            Some(why) if self.session.until_empty => return Err(Ended::Final(Trouble::away(why))),
            Some(why) => self.session.voice.trouble(State::Connecting, &why),
            None if self.session.voice.status.now.state == State::Connecting => self.session.voice.well(),
            None => {}
        }
        Ok(())
    }

    fn gather(&mut self, receiver: &mut dyn Receiver, gathered: &mut Gathered) -> Result<Served, Ended> {
        receiver.begins().map_or(Ok(()), |begins| self.begin(begins))?;
        loop {
            if self.session.changed() {
                self.enqueue(receiver, gathered)?;
                return Ok(Served::Changed);
            }
            if self.session.stop.asked() > 0 {
                self.enqueue(receiver, gathered)?;
                return Ok(Served::End);
            }
            let link = self.session.link.clone();
            let settings = &link.settings;
            self.session.voice.status.now.lag = receiver.lag();
            self.session.voice.status.now.in_flight = gathered.batch.as_ref().map_or(0, Batch::files) as u64;
            self.session.voice.tick();
            let limit =
                gathered.left(settings).unwrap_or(if self.session.until_empty { EMPTY } else { TICK }).min(TICK);
            let came = match receiver.next(limit) {
                Err(trouble) if self.session.link.system.is_log() => {
                    // What is missing when it is asked for again, as nothing is kept for ever, is here.
                    self.store(gathered)?;
                    return Err(trouble.into());
                }
                came => came?,
            };
            if receiver.is_revoked() {
                self.drop(gathered);
            }
            receiver.moved().map_or(Ok(()), |begins| self.begin(begins))?;
            self.tell_of(receiver)?;
            let more = came.is_some();
            match came {
                Some(came) => self.take(receiver, gathered, came)?,
                None if gathered.since.is_none()
                    && self.session.until_empty
                    && receiver.remaining(self.session.net)? == 0 =>
                {
                    return Ok(Served::End);
                }
                None => {}
            }
            if gathered.is_due(settings, more) {
                self.enqueue(receiver, gathered)?;
            }
        }
    }

    /// Takes one message in, or knows that it is in the queue already.
    fn take(&mut self, receiver: &mut dyn Receiver, gathered: &mut Gathered, came: Came) -> Result<(), Ended> {
        let identity = marked::identity(&came, &self.session.link.settings.dedup);
        if identity.as_ref().is_some_and(|id| self.mark.has(id) || gathered.fresh.contains(id)) {
            self.session.voice.status.now.duplicates += 1;
            gathered.note(&came);
            return Ok(());
        }
        let Asked { dedup, room } = gathered.ask(&self.queue);
        let size = came.envelope.body.len() as u64;
        if !room.holds(size) {
            let why = format!("{size} bytes: more than the queue's max_bytes, {}", room.max_bytes());
            return self.refuse(receiver, gathered, came, identity, &why);
        }
        let arrival = match came.fits().and_then(|()| properties::incoming(&came.envelope, dedup)) {
            Ok(arrival) => arrival,
            Err(why) => return self.refuse(receiver, gathered, came, identity, &why),
        };
        if gathered.is_full_for(&arrival, size) {
            self.enqueue(receiver, gathered)?;
        }
        let mut held = None;
        loop {
            let added = gathered.add(&self.queue, &self.session.link.name, &arrival, &came.envelope.body);
            match added {
                Ok(()) => break,
                Err(error) if is_poison(&error) => {
                    return self.refuse(receiver, gathered, came, identity, &error.to_string());
                }
                Err(error) => self.hold(&mut held, &error)?,
            }
        }
        gathered.fresh.extend(identity);
        gathered.note(&came);
        Ok(())
    }

    /// Enqueues what has been gathered, and tells the broker.
    fn enqueue(&mut self, receiver: &mut dyn Receiver, gathered: &mut Gathered) -> Result<(), Ended> {
        self.store(gathered)?;
        if let Some(receipt) = gathered.receipt.take() {
            receiver.done(self.session.net, receipt, self.mark.positions())?;
        }
        self.session.worked();
        if self.session.voice.status.now.state == State::Holding {
            self.session.voice.well();
        }
        Ok(())
    }

    /// Enqueues what has been gathered.
    fn store(&mut self, gathered: &mut Gathered) -> Result<(), Ended> {
        let (files, bytes) = gathered.batch.as_ref().map_or((0, 0), |batch| (batch.files(), batch.bytes()));
        // Read anew each time: whoever changes it is to be heeded from then on.
        let sync = self.queue.text("user.mq.durability") == "async";
        let mut known = self.mark.known.clone();
        known.iter_mut().for_each(|known| gathered.fresh.iter().for_each(|identity| known.add(identity)));
        let is = known.as_ref().map(Known::render).unwrap_or_default();
        // All of them were saved, or rejected: in a log the link goes on behind them.
        let only_moves = files == 0 && self.session.link.system.is_log() && is != self.mark.was;
        if files > 0 || only_moves {
            self.move_on(gathered.batch.as_ref().filter(|_| files > 0), &is, sync)?;
            self.mark.is_now(is, known);
            self.session.voice.status.succeeded(files, bytes);
        }
        gathered.is_done();
        Ok(())
    }

    /// Moves the mark, with a batch or without one, however long that takes.
    fn move_on(&mut self, batch: Option<&Batch>, is: &[u8], sync: bool) -> Result<(), Ended> {
        let mut held = None;
        loop {
            let mark = Mark { name: &self.mark.name, was: &self.mark.was, is, sync };
            let moved = match batch {
                Some(batch) => batch.enqueue(&self.queue, &mark),
                None => self.mark.set(&self.queue, is),
            };
            match moved {
                Ok(()) => return Ok(()),
                Err(error) => self.hold(&mut held, &error)?,
            }
        }
    }

    /// The queue has refused something that it may take later: waits before the next try. `held` is since when.
    fn hold(&mut self, held: &mut Option<Instant>, error: &io::Error) -> Result<(), Ended> {
        let why = match Refusal::of(error) {
            Refusal::Stale => {
                let text = format!("the mark {} was moved by somebody else: beginning anew from there", self.mark.name);
                return Err(Ended::By(Served::Lost(Trouble::away(text))));
            }
            // Nothing of it was acknowledged. A queue that is gone itself is found out when it is looked at anew.
            Refusal::NotFound => {
                return Err(Ended::By(Served::Lost(Trouble::away("the batch was removed by somebody else"))));
            }
            // `max_message_bytes` was lowered since it was written: which one it is, is found out when they come again.
            Refusal::TooLarge => {
                return Err(Ended::By(Served::Lost(Trouble::away(
                    "the queue does not take messages that large any more",
                ))));
            }
            Refusal::QueueFull => "the queue is full".to_owned(),
            Refusal::NotNow => "the queue is paused".to_owned(),
            Refusal::NoSpace | Refusal::Exists | Refusal::Busy | Refusal::Failed | Refusal::ReadOnly => {
                error.to_string()
            }
            Refusal::MountGone => return Err(Ended::By(Served::Lost(Trouble::away("the mount is gone")))),
            _ => return Err(Ended::Final(self.queue.trouble(error))),
        };
        self.session.voice.trouble(State::Holding, &why);
        if held.get_or_insert_with(Instant::now).elapsed() >= self.session.link.settings.hold {
            return Err(Ended::By(Served::Full(why)));
        }
        if self.session.pause() {
            return Err(Ended::By(Served::End));
        }
        self.session.voice.tick();
        Ok(())
    }

    /// A message that cannot be taken in, whatever is tried.
    fn refuse(
        &mut self,
        receiver: &mut dyn Receiver,
        gathered: &mut Gathered,
        came: Came,
        identity: Option<Identity>,
        why: &str,
    ) -> Result<(), Ended> {
        self.session.voice.status.now.refused += 1;
        let id = &came.envelope.id;
        match &self.session.link.clone().settings.poison {
            Poison::Stop => {
                self.enqueue(receiver, gathered)?;
                let text = format!("message {id}: {why}; it stays with the broker (see `poison`)");
                Err(Ended::Final(Trouble::new(Kind::Poison, text)))
            }
            Poison::Save(directory) => {
                let saved = poison::save(directory, &came, why);
                let name = saved.map_err(|error| Ended::Final(Trouble::file(directory, &error)))?;
                self.session.voice.say(&format!("message {id}: {why}; saved as {name}"));
                gathered.fresh.extend(identity.filter(|identity| matches!(identity, Identity::At(_))));
                gathered.note(&came);
                Ok(())
            }
            Poison::Reject => {
                // Some brokers take it for all that came before, too.
                self.enqueue(receiver, gathered)?;
                self.session.voice.say(&format!("message {id}: {why}; rejected"));
                receiver.reject(self.session.net, came.receipt)?;
                // In a log the link goes on behind it.
                gathered.fresh.extend(identity.filter(|identity| matches!(identity, Identity::At(_))));
                gathered.since.get_or_insert_with(Instant::now);
                Ok(())
            }
        }
    }
}

/// Whether the queue will never take a message.
fn is_poison(error: &io::Error) -> bool {
    matches!(Refusal::of(error), Refusal::TooLarge | Refusal::Unfit)
}
