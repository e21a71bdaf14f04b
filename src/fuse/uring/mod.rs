//! The kernel's requests by way of io_uring (`Documentation/filesystems/fuse/fuse-io-uring.rst`).
//!
//! The kernel has a queue for each processor that there may be, and each of them needs entries of ours, into which it puts requests that
//! are made on that processor. One ring has all of them, and one thread serves it, because the view relies on requests being handled one
//! after the other. What has come is handled in the order of the requests' numbers; [`queues`] says what else the order takes.
//!
//! A request that is not answered keeps its entry. So that a processor's requests do not wait for one, a queue of which few are free
//! gets more.
//!
//! FORGET and INTERRUPT come by `/dev/fuse` all the same, which is polled by the ring.

mod answers;
mod kick;
mod order;
mod queues;
mod ring;
mod slot;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::device::{Device, Session};
use super::wire::abi::{RING_COMMIT_AND_FETCH, RING_REGISTER, RingCommand};
use super::wire::answer::Answer;
use super::wire::request::Request;
use answers::{Answered, Answers};
use kick::Kicker;
use order::{Order, Verdict};
use queues::{DEPTH, Handed, Queues};
use ring::{Completion, Ring};
use slot::Slot;

/// Numbers of what is polled, beyond those of entries.
const EVENT: u64 = u64::MAX;
const DEVICE: u64 = u64::MAX - 1;
/// How often it is looked whether a request must still wait for older ones.
const SOON: Duration = Duration::from_millis(1);

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The mount is gone.
    Gone,
    /// The kernel did not take the entries. It uses `/dev/fuse` from now on.
    Refused(i32),
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the kernel; it was handed in for the first time in that round, or with an answer to another request.
    Kernel { registered: Option<u64> },
    /// With us, with the request of that number.
    Ours(u64),
}

/// The rings of a mount.
pub struct Rings {
    device: Arc<Device>,
    // Before the memory that it refers to, so that it goes first.
    ring: Ring,
    payload: usize,
    slots: Vec<Slot>,
    places: Vec<Place>,
    queues: Queues,
    /// How often we have exchanged something with the kernel.
    round: u64,
    answers: Arc<Answers>,
    /// What has come and is not served yet, by the numbers.
    arrived: BTreeMap<u64, usize>,
    order: Order,
    /// Something has come and is not served yet: for who asks while a request is served.
    more: Arc<AtomicBool>,
    kicker: Kicker,
}

impl Rings {
    /// Makes a ring and the entries of the mount at `point`, for payloads of so many bytes. An error means that there can be none here.
    pub fn new(device: Arc<Device>, payload: usize, point: &Path) -> io::Result<Self> {
        let ring = Ring::new()?;
        let queues = Queues::new(processors()?);
        let mut rings = Self {
            device,
            ring,
            payload,
            slots: Vec::new(),
            places: Vec::new(),
            queues,
            round: 0,
            answers: Arc::new(Answers::new()?),
            arrived: BTreeMap::new(),
            order: Order::default(),
            more: Arc::default(),
            kicker: Kicker::new(point),
        };
        for queue in rings.queues.numbers() {
            for _ in 0..DEPTH {
                rings.add(queue)?;
            }
        }
        Ok(rings)
    }

    /// Tells whether something waits to be served, for the thread that serves.
    pub fn probe(&self) -> io::Result<impl Fn() -> bool + Send + Sync + use<>> {
        let ring: OwnedFd = self.ring.as_fd().try_clone_to_owned()?;
        let (device, more) = (self.device.clone(), self.more.clone());
        Ok(move || more.load(Ordering::Relaxed) || super::device::readable(&[ring.as_fd(), device.as_fd()]))
    }

    fn add(&mut self, queue: u16) -> io::Result<usize> {
        self.slots.push(Slot::new(queue, self.payload)?);
        self.places.push(Place::Ours(0));
        Ok(self.slots.len() - 1)
    }

    /// Serves until the mount is gone. To be called at once when INIT was answered, since the kernel holds all requests until then.
    pub fn run(mut self, session: &Session) -> io::Result<Ended> {
        self.answers.serve_here();
        self.ring.enable()?;
        for slot in 0..self.slots.len() {
            self.register(slot)?;
        }
        if let Some(refused) = self.first_refusal()? {
            return Ok(Ended::Refused(refused));
        }
        self.poll()?;
        let mut buffer = Vec::new();
        loop {
            self.commit()?;
            self.top_up();
            let wait = match (self.arrived.is_empty(), self.queues.any_behind()) {
                (true, false) => None,
                _ => Some(SOON),
            };
            if let Some(ended) = self.exchange(Some(wait), session, &mut buffer)? {
                return Ok(ended);
            }
            // Now, as the entries that such a queue has got are in the kernel.
            self.kicker.set(self.queues.stranded().collect());
            if let Some(ended) = self.serve_all(session, &mut buffer)? {
                return Ok(ended);
            }
        }
    }

    fn poll(&mut self) -> io::Result<()> {
        self.ring.poll(self.answers.as_raw_fd(), EVENT)?;
        self.ring.poll(self.device.as_raw_fd(), DEVICE)
    }

    /// Hands all entries in; the errno with which the kernel has refused one. (An entry that is taken comes back with the first request.)
    fn first_refusal(&mut self) -> io::Result<Option<i32>> {
        let mut done = Vec::new();
        self.ring.exchange(None, &mut done)?;
        let refused = done.iter().find(|(_, result)| *result < 0).map(|(_, result)| -result);
        for (slot, result) in done {
            self.completed(slot as usize, result);
        }
        self.queues.begin();
        self.round += 1;
        Ok(refused)
    }

    fn settle(&mut self) {
        self.queues.settle();
        self.round += 1;
    }

    /// Hands over what was pushed, and takes what came.
    fn exchange(
        &mut self,
        wait: Option<Option<Duration>>,
        session: &Session,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Option<Ended>> {
        let mut completed: Vec<Completion> = Vec::new();
        self.ring.exchange(wait, &mut completed)?;
        for (what, result) in completed {
            match what {
                EVENT => {
                    self.answers.seen();
                    self.ring.poll(self.answers.as_raw_fd(), EVENT)?;
                }
                DEVICE => {
                    if !session.serve_waiting(buffer)? {
                        return Ok(Some(Ended::Gone));
                    }
                    self.ring.poll(self.device.as_raw_fd(), DEVICE)?;
                }
                _ if result == -libc::ENOTCONN || result == -libc::ECONNABORTED || result == -libc::ENODEV => {
                    return Ok(Some(Ended::Gone));
                }
                _ if result < 0 => return Err(io::Error::from_raw_os_error(-result)),
                slot => self.completed(slot as usize, result),
            }
        }
        self.settle();
        Ok(None)
    }

    /// An entry came back.
    fn completed(&mut self, slot: usize, result: i32) {
        if result < 0 {
            return;
        }
        let unique = self.slots[slot].unique();
        let handed = match self.places[slot] {
            Place::Kernel { registered: Some(round) } if round == self.round => Handed::New,
            Place::Kernel { registered: Some(_) } => Handed::Registered,
            _ => Handed::Committed,
        };
        self.places[slot] = Place::Ours(unique);
        self.queues.filled(self.slots[slot].queue, unique, handed);
        self.arrived.insert(unique, slot);
    }

    /// Serves what has come, the oldest first, but for what must wait for something older.
    fn serve_all(&mut self, session: &Session, buffer: &mut Vec<u8>) -> io::Result<Option<Ended>> {
        let mut held = BTreeMap::new();
        while let Some((unique, slot)) = self.arrived.pop_first() {
            let queue = self.slots[slot].queue;
            self.more.store(!self.arrived.is_empty() || !held.is_empty(), Ordering::Relaxed);
            let misses = self.queues.may_miss_older(unique, queue);
            let (header, structure, rest) = self.slots[slot].request();
            match Request::of_entry(header, structure, rest) {
                Some(request) if self.order.verdict(&request, misses) == Verdict::Wait => {
                    held.insert(unique, slot);
                    continue;
                }
                Some(request) => session.serve(request, Answer::new(slot as u64, self.answers.clone())),
                None => Answer::new(slot as u64, self.answers.clone()).errno(libc::EINVAL),
            }
            self.order.served(unique);
            if self.slots[slot].is_long() && self.answers.lacks(slot) {
                self.slots[slot].forget_payload();
            }
            // What waits in the kernel for an entry comes before what came later by other queues.
            if self.queues.is_behind(queue) {
                self.commit()?;
                if let Some(ended) = self.exchange(None, session, buffer)? {
                    return Ok(Some(ended));
                }
            }
        }
        self.arrived = held;
        Ok(None)
    }

    /// Pushes what is answered.
    fn commit(&mut self) -> io::Result<()> {
        for Answered { slot, errno, bytes } in self.answers.take() {
            let Place::Ours(unique) = self.places[slot] else { continue };
            self.slots[slot].answer(unique, errno, &bytes);
            self.places[slot] = Place::Kernel { registered: None };
            self.queues.committed(self.slots[slot].queue);
            self.command(slot, RING_COMMIT_AND_FETCH, self.slots[slot].commit_id())?;
        }
        Ok(())
    }

    fn register(&mut self, slot: usize) -> io::Result<()> {
        self.places[slot] = Place::Kernel { registered: Some(self.round) };
        self.queues.registered(self.slots[slot].queue);
        self.command(slot, RING_REGISTER, 0)
    }

    fn command(&mut self, slot: usize, code: u32, commit_id: u64) -> io::Result<()> {
        let command = RingCommand { flags: 0, commit_id, qid: self.slots[slot].queue, padding: [0; 6] };
        self.ring.command(self.device.as_raw_fd(), (code, command), self.slots[slot].segments(), slot as u64)
    }

    /// Gives entries to the queues that need some.
    fn top_up(&mut self) {
        let held: BTreeSet<u16> = self.arrived.values().map(|slot| self.slots[*slot].queue).collect();
        for queue in self.queues.numbers() {
            for _ in 0..self.queues.wanted(queue, !held.contains(&queue)) {
                if let Err(error) = self.add(queue).and_then(|slot| self.register(slot)) {
                    // Then requests wait until others are answered.
                    tracing::warn!(%error, entries = self.slots.len(), "no further entry for the kernel's requests");
                    break;
                }
            }
        }
    }
}

/// How many processors there may be.
fn processors() -> io::Result<u16> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<u16>().ok());
    last.and_then(|last| last.checked_add(1)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
