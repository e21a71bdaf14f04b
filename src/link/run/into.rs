//! From the broker into the queue: what comes is gathered in a batch, enqueued in one step with the mark that says so, and only then
//! acknowledged to the broker.
//!
//! Whatever crashes, the mark tells what is in the queue: what comes again and is known is acknowledged and not enqueued. What is
//! enqueued and what the mark says cannot differ, as both are one rename.

use std::io;
use std::time::{Duration, Instant};

use super::super::backoff::{Backoff, chance, random};
use super::super::local::batch::{Batch, Mark};
use super::super::local::queue::{Queue, is_mount_gone};
use super::super::mark::Remembered;
use super::super::net::Net;
use super::super::peer::{Came, Receiver};
use super::super::properties;
use super::super::settings::{Dedup, Poison};
use super::super::status::State;
use super::super::trouble::{Kind, Trouble};
use super::stop::Stop;
use super::{Link, Voice, poison};

/// How often it is looked what there is to tell, while nothing comes.
const TICK: Duration = Duration::from_secs(1);
/// With nothing for so long, and nothing at the broker, a queue there is empty.
const EMPTY: Duration = Duration::from_millis(300);

/// How a connection ended.
enum Served {
    /// The link is to end.
    End,
    /// It is of no use any more.
    Lost(Trouble),
    /// The queue has taken nothing for so long that the broker shall have its messages back.
    Full,
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
    link: &'a Link,
    net: &'a Net,
    until_empty: bool,
    stop: Stop<'a>,
    voice: &'a mut Voice<'b>,
    queue: Queue,
    /// The name of the mark.
    mark: String,
    /// What the queue's mark is.
    was: Vec<u8>,
    remembered: Remembered,
    backoff: Backoff,
    connected: u64,
}

/// What has come and is not acknowledged.
#[derive(Default)]
struct Gathered {
    batch: Option<Batch>,
    /// The identities of what is in the batch.
    fresh: Vec<String>,
    /// What is acknowledged when it is enqueued.
    receipt: Option<u64>,
    since: Option<Instant>,
}

/// Runs the loop.
pub fn run(link: &Link, net: &Net, until_empty: bool, stop: Stop<'_>, voice: &mut Voice<'_>) -> Result<(), Trouble> {
    let queue = Queue::open(&link.queue)?;
    let backoff = Backoff::new(link.settings.retry_first, link.settings.retry_longest);
    let remembered = Remembered::new([0, 0], 0);
    let mark = format!("link-{}", link.name);
    let (was, connected) = (Vec::new(), 0);
    Intake { link, net, until_empty, stop, voice, queue, mark, was, remembered, backoff, connected }.run()
}

impl Intake<'_, '_> {
    fn run(&mut self) -> Result<(), Trouble> {
        loop {
            if !self.ready()? {
                return Ok(());
            }
            let Some(mut receiver) = self.connect()? else { return Ok(()) };
            let ended = self.serve(&mut receiver);
            receiver.close(self.net);
            match ended? {
                Served::End => return Ok(()),
                Served::Full => {}
                Served::Lost(trouble) => {
                    self.fail(&trouble)?;
                    if self.pause() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Waits until the queue is there and takes something, and reads what it remembers; tells whether the link goes on. Nothing is asked
    /// of the broker before, since each message that it has to take back counts as a delivery there.
    fn ready(&mut self) -> Result<bool, Trouble> {
        loop {
            match self.look() {
                Ok(None) => return Ok(true),
                Ok(Some(why)) => self.voice.trouble(State::Holding, &why),
                Err(error) if is_mount_gone(&error) => {
                    let why = format!("{}: the mount is gone", self.queue.path().display());
                    self.voice.trouble(State::Holding, &why);
                    let _ = self.queue.reopen();
                }
                Err(error) => return Err(self.queue.trouble(&error)),
            }
            if self.stop.wait(TICK / 4, None) > 0 {
                return Ok(false);
            }
        }
    }

    /// Why the queue takes nothing, if it does not.
    fn look(&mut self) -> io::Result<Option<String>> {
        Batch::sweep(&self.queue, &self.link.name)?;
        self.read_mark()?;
        if matches!(self.queue.text("user.mq.paused").as_str(), "in" | "both") {
            return Ok(Some("the queue is paused".to_owned()));
        }
        // Messages that are full of nothing are as full as can be.
        let full = self.queue.text("user.mq.fullness").parse::<f64>().is_ok_and(|full| full >= 1.0);
        Ok(full.then(|| "the queue is full".to_owned()))
    }

    fn read_mark(&mut self) -> io::Result<()> {
        self.was = self.queue.attribute(&format!("user.mark.{}", self.mark))?.unwrap_or_default();
        let capacity = self.link.settings.remember;
        let read = Remembered::parse(&self.was, capacity);
        self.remembered = read.unwrap_or_else(|| Remembered::new([random(), random()], capacity));
        Ok(())
    }

    fn connect(&mut self) -> Result<Option<Receiver>, Trouble> {
        loop {
            if self.stop.asked() > 0 {
                return Ok(None);
            }
            match Receiver::connect(self.net, self.link.ends()) {
                Ok(receiver) => {
                    self.connected += 1;
                    self.voice.status.now.reconnects = self.connected - 1;
                    self.voice.well();
                    return Ok(Some(receiver));
                }
                Err(trouble) if super::is_final(&trouble) || self.until_empty => return Err(trouble),
                Err(trouble) => {
                    self.fail(&trouble)?;
                    if self.pause() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn fail(&mut self, trouble: &Trouble) -> Result<(), Trouble> {
        match trouble.kind {
            Kind::Away => self.voice.trouble(State::Connecting, &trouble.text),
            Kind::Refusing => self.voice.trouble(State::Failing, &trouble.text),
            _ => return Err(trouble.clone()),
        }
        Ok(())
    }

    /// Waits before the next try; tells whether the link is to end instead.
    fn pause(&mut self) -> bool {
        let wait = self.backoff.wait(chance());
        self.stop.wait(wait, None) > 0
    }

    fn serve(&mut self, receiver: &mut Receiver) -> Result<Served, Trouble> {
        let mut gathered = Gathered::default();
        let ended = self.gather(receiver, &mut gathered);
        // What is left of it was not acknowledged, and comes again.
        if let Some(batch) = gathered.batch.take() {
            let _ = batch.remove(&self.queue);
        }
        match ended {
            Ok(served) | Err(Ended::By(served)) => Ok(served),
            Err(Ended::Final(trouble)) => Err(trouble),
        }
    }

    fn gather(&mut self, receiver: &mut Receiver, gathered: &mut Gathered) -> Result<Served, Ended> {
        let settings = &self.link.settings;
        loop {
            if self.stop.asked() > 0 {
                self.enqueue(receiver, gathered)?;
                return Ok(Served::End);
            }
            self.voice.status.now.in_flight = gathered.batch.as_ref().map_or(0, Batch::files) as u64;
            self.voice.status.refresh();
            let left = gathered.since.map(|since| settings.linger.saturating_sub(since.elapsed()));
            let limit = left.unwrap_or(if self.until_empty { EMPTY } else { TICK });
            match receiver.next(limit)? {
                Some(came) => self.take(receiver, gathered, came)?,
                None if gathered.since.is_some() => self.enqueue(receiver, gathered)?,
                None if self.until_empty && receiver.remaining(self.net)? == 0 => return Ok(Served::End),
                None => {}
            }
            let batch = gathered.batch.as_ref();
            let full =
                batch.is_some_and(|batch| batch.files() >= settings.batch || batch.bytes() >= settings.window_bytes);
            let late = gathered.since.is_some_and(|since| since.elapsed() >= settings.linger);
            if full || late {
                self.enqueue(receiver, gathered)?;
            }
        }
    }

    /// Takes one message in, or knows that it is in the queue already.
    fn take(&mut self, receiver: &mut Receiver, gathered: &mut Gathered, came: Came) -> Result<(), Ended> {
        let identity = self.identity(&came);
        let known = identity.as_ref().is_some_and(|id| self.remembered.has(id) || gathered.fresh.contains(id));
        if known {
            self.voice.status.now.duplicates += 1;
            gathered.note(&came);
            return Ok(());
        }
        let dedup = !matches!(self.queue.text("user.mq.dedup_window").as_str(), "" | "0s");
        let arrival = match properties::incoming(&came.envelope, dedup) {
            Ok(arrival) => arrival,
            Err(why) => return self.refuse(receiver, gathered, came, &why),
        };
        if gathered.batch.as_ref().is_some_and(|batch| batch.is_full_for(&arrival)) {
            self.enqueue(receiver, gathered)?;
        }
        let mut held = None;
        loop {
            let added = match &mut gathered.batch {
                Some(batch) => batch.add(&arrival, &came.envelope.body),
                None => {
                    self.new_batch().and_then(|batch| gathered.batch.insert(batch).add(&arrival, &came.envelope.body))
                }
            };
            match added {
                Ok(()) => break,
                Err(error) if is_poison(&error) => {
                    return self.refuse(receiver, gathered, came, &error.to_string());
                }
                Err(error) => self.hold(&mut held, &error)?,
            }
        }
        gathered.fresh.extend(identity);
        gathered.note(&came);
        Ok(())
    }

    fn new_batch(&self) -> io::Result<Batch> {
        Batch::new(&self.queue, &self.link.name, self.queue.text("user.mq.names") == "keep")
    }

    /// What tells a message from others.
    fn identity(&self, came: &Came) -> Option<String> {
        match &self.link.settings.dedup {
            Dedup::None => None,
            Dedup::MessageId => Some(came.envelope.id.clone()).filter(|id| !id.is_empty()),
            Dedup::Header(name) => came.envelope.header(name).map(|id| String::from_utf8_lossy(id).into_owned()),
        }
    }

    /// Enqueues what has been gathered, and tells the broker.
    fn enqueue(&mut self, receiver: &mut Receiver, gathered: &mut Gathered) -> Result<(), Ended> {
        let files = gathered.batch.as_ref().map_or(0, Batch::files);
        // Read anew each time: whoever changes it is to be heeded from then on.
        let sync = self.queue.text("user.mq.durability") == "async";
        let mut remembered = self.remembered.clone();
        gathered.fresh.iter().for_each(|id| remembered.add(id));
        let is = remembered.render();
        let mut held = None;
        while let Some(batch) = gathered.batch.as_ref().filter(|_| files > 0) {
            let mark = Mark { name: &self.mark, was: &self.was, is: &is, sync };
            match batch.enqueue(&self.queue, &mark) {
                Ok(()) => {
                    gathered.batch = None;
                    self.was = is.clone();
                    self.remembered = remembered.clone();
                    self.voice.status.succeeded(files);
                }
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {
                    let text = format!("the mark {} was moved by somebody else: beginning anew from there", self.mark);
                    return Err(Ended::By(Served::Lost(Trouble::away(text))));
                }
                Err(error) => self.hold(&mut held, &error)?,
            }
        }
        gathered.fresh.clear();
        gathered.since = None;
        if let Some(receipt) = gathered.receipt.take() {
            receiver.done(self.net, receipt)?;
        }
        self.backoff.reset();
        Ok(())
    }

    /// The queue has refused something that it may take later: waits before the next try. `held` is since when.
    fn hold(&mut self, held: &mut Option<Instant>, error: &io::Error) -> Result<(), Ended> {
        let why = match error.raw_os_error() {
            Some(libc::EDQUOT) => "the queue is full".to_owned(),
            Some(libc::EAGAIN) => "the queue is paused".to_owned(),
            Some(libc::ENOSPC | libc::EEXIST | libc::EBUSY | libc::EIO | libc::EROFS) => error.to_string(),
            _ if is_mount_gone(error) => return Err(Ended::By(Served::Lost(Trouble::away("the mount is gone")))),
            _ => return Err(Ended::Final(self.queue.trouble(error))),
        };
        self.voice.trouble(State::Holding, &why);
        if held.get_or_insert_with(Instant::now).elapsed() >= self.link.settings.hold {
            return Err(Ended::By(Served::Full));
        }
        if self.pause() {
            return Err(Ended::By(Served::End));
        }
        self.voice.status.refresh();
        Ok(())
    }

    /// A message that cannot be taken in, whatever is tried.
    fn refuse(&mut self, receiver: &mut Receiver, gathered: &mut Gathered, came: Came, why: &str) -> Result<(), Ended> {
        self.voice.status.now.refused += 1;
        let id = &came.envelope.id;
        match &self.link.settings.poison {
            Poison::Stop => {
                self.enqueue(receiver, gathered)?;
                let text = format!("message {id}: {why}; it stays with the broker (see `poison`)");
                Err(Ended::Final(Trouble::new(Kind::Poison, text)))
            }
            Poison::Save(directory) => {
                let saved = poison::save(directory, &came.envelope, why);
                let name = saved.map_err(|error| Ended::Final(Trouble::file(directory, &error)))?;
                self.voice.say(&format!("message {id}: {why}; saved as {name}"));
                gathered.note(&came);
                Ok(())
            }
            Poison::Reject => {
                self.voice.say(&format!("message {id}: {why}; rejected"));
                Ok(receiver.reject(self.net, came.receipt)?)
            }
        }
    }
}

impl Gathered {
    fn note(&mut self, came: &Came) {
        self.since.get_or_insert_with(Instant::now);
        self.receipt = Some(came.receipt);
    }
}

/// Whether the queue will never take a message.
fn is_poison(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EFBIG | libc::EINVAL | libc::E2BIG | libc::ERANGE | libc::ENAMETOOLONG))
}
