//! Sending by libzmq. A thread of its own has the socket, since a socket that waits cannot be asked anything.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver as Waiting};
use std::thread::JoinHandle;

use zmq::{DONTWAIT, POLLIN, POLLOUT, PollEvents, Socket, SocketType};

use super::super::envelope::Envelope;
use super::super::net::Net;
use super::super::peer::{self, Condition, Ends, Outcome, Sent};
use super::super::trouble::{Kind, Trouble};
use super::address::{Address, Pattern};
use super::map;
use super::socket::{self, Open};

/// How often it is looked whether the end is asked for, in milliseconds.
const TICK: i64 = 50;

/// What is to be sent, and where the answer goes.
type Job = (Vec<Arc<Envelope>>, mpsc::Sender<Sent>);

/// A socket that sends.
pub struct Sender {
    jobs: Option<mpsc::Sender<Job>>,
    worker: Option<JoinHandle<()>>,
    /// Asks the worker to end. Nothing else hangs on it, so its order does not matter.
    end: Arc<AtomicBool>,
    condition: Condition,
}

struct Worker {
    open: Open,
    address: Address,
    condition: Condition,
    end: Arc<AtomicBool>,
    /// What has been subscribed to, where that is looked at.
    subscribed: HashSet<Vec<u8>>,
    /// The number of the last message that an answer is awaited of: never used twice.
    last: u64,
}

impl Sender {
    /// Opens the socket. Peers come and go without anybody being told.
    pub fn connect(ends: Ends<'_>) -> Result<Sender, Trouble> {
        let address = Address::of(ends.target, true)?;
        let (kind, room) = match address.pattern {
            Pattern::Pub if address.wait => (SocketType::XPUB, 1000),
            Pattern::Pub => (SocketType::PUB, 1000),
            Pattern::Req => (SocketType::DEALER, ends.settings.window as i32),
            _ => (SocketType::PUSH, 1),
        };
        let open = socket::open(ends, &address, kind, room)?;
        let (condition, end) = (Condition::default(), Arc::new(AtomicBool::new(false)));
        let (jobs, take) = mpsc::channel::<Job>();
        let subscribed = HashSet::new();
        let mut worker = Worker { open, address, condition: condition.clone(), end: end.clone(), subscribed, last: 0 };
        let run = move || {
            for (messages, tell) in take {
                let _ = tell.send(worker.send(&messages));
            }
        };
        let worker = std::thread::Builder::new().name("link-zmq".to_owned()).spawn(run);
        let worker =
            worker.map_err(|error| Trouble::new(Kind::Local, format_args!("cannot start a thread: {error}")))?;
        Ok(Sender { jobs: Some(jobs), worker: Some(worker), end, condition })
    }
}

impl peer::Sender for Sender {
    fn send(&self, _: &Net, messages: Vec<Arc<Envelope>>) -> Waiting<Sent> {
        let (tell, told) = mpsc::channel();
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send((messages, tell));
        }
        told
    }

    fn blocked(&self) -> Option<String> {
        self.condition.blocked()
    }

    /// Who is connected is libzmq's own affair.
    fn is_connected(&self) -> bool {
        true
    }

    /// What libzmq has taken has a moment to leave.
    fn close(mut self: Box<Self>, _: &Net) {
        self.end.store(true, Ordering::Relaxed);
        drop(self.jobs.take());
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

impl Worker {
    fn send(&mut self, messages: &[Arc<Envelope>]) -> Sent {
        let sent = match self.address.pattern {
            Pattern::Req => self.ask(messages),
            _ => self.hand_over(messages),
        };
        sent.unwrap_or_else(|error| Sent::Lost(socket::trouble(&self.address, error)))
    }

    /// Waits until something can be done; tells what, or that the end is asked for.
    fn wait(&self, events: PollEvents) -> Result<Option<PollEvents>, zmq::Error> {
        loop {
            if self.end.load(Ordering::Relaxed) {
                return Ok(None);
            }
            match self.open.socket.poll(events, TICK) {
                Err(zmq::Error::EINTR) | Ok(0) => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(Some(self.open.socket.get_events()? & events)),
            }
        }
    }

    /// Gives messages to libzmq, which is all that can be known of them. When it takes no more, what it has taken is told, so that
    /// those are not given back and sent twice when the link ends.
    fn hand_over(&mut self, messages: &[Arc<Envelope>]) -> Result<Sent, zmq::Error> {
        let mut outcomes = Vec::new();
        for message in messages {
            loop {
                if self.is_heard()? && try_send(&self.open.socket, map::frames(message, &self.address))? {
                    break;
                }
                if !outcomes.is_empty() {
                    return Ok(Sent::Answered(outcomes));
                }
                self.condition
                    .set(Some(if self.address.wait { "nobody has subscribed" } else { "no peer takes it" }.to_owned()));
                let events = if self.address.wait { POLLIN } else { POLLOUT };
                if self.wait(events)?.is_none() {
                    return Ok(Sent::Lost(Trouble::away("the link ends")));
                }
            }
            self.condition.set(None);
            outcomes.push(Outcome::Confirmed);
        }
        Ok(Sent::Answered(outcomes))
    }

    /// Whether somebody has subscribed, where that is asked for.
    fn is_heard(&mut self) -> Result<bool, zmq::Error> {
        if !self.address.wait {
            return Ok(true);
        }
        loop {
            match self.open.socket.recv_bytes(DONTWAIT) {
                Ok(said) => match said.split_first() {
                    Some((1, topic)) => drop(self.subscribed.insert(topic.to_vec())),
                    Some((0, topic)) => drop(self.subscribed.remove(topic)),
                    _ => {}
                },
                Err(zmq::Error::EAGAIN) => return Ok(!self.subscribed.is_empty()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends messages and waits for the answer to each. A number goes along in the envelope, which the other side gives back as it is:
    /// so an answer is known to be that of its message, whoever gives it, and after whatever reconnects.
    fn ask(&mut self, messages: &[Arc<Envelope>]) -> Result<Sent, zmq::Error> {
        let first = self.last + 1;
        self.last += messages.len() as u64;
        let mut outcomes: Vec<Option<Outcome>> = vec![None; messages.len()];
        let (mut next, mut open) = (0, messages.len());
        while open > 0 {
            if next < messages.len() {
                let number = (first + next as u64).to_be_bytes().to_vec();
                let mut frames = vec![number, Vec::new()];
                frames.extend(map::frames(&messages[next], &self.address));
                if try_send(&self.open.socket, frames)? {
                    self.condition.set(None);
                    next += 1;
                } else if next == 0 {
                    self.condition.set(Some("no peer takes it".to_owned()));
                }
            }
            let events = if next < messages.len() { POLLIN | POLLOUT } else { POLLIN };
            if self.wait(events)?.is_none() {
                return Ok(Sent::Lost(Trouble::away("the link ends")));
            }
            while let Some(answer) = try_receive(&self.open.socket)? {
                let Some((number, outcome)) = read(&answer) else { continue };
                let at = number.checked_sub(first).and_then(|at| outcomes.get_mut(at as usize));
                if let Some(slot @ None) = at {
                    *slot = Some(outcome);
                    open -= 1;
                }
            }
        }
        Ok(Sent::Answered(outcomes.into_iter().flatten().collect()))
    }
}

/// An answer: the number of the message, and what is said. It is refused where the first frame says `error`.
fn read(answer: &[Vec<u8>]) -> Option<(u64, Outcome)> {
    let [number, delimiter, said @ ..] = answer else { return None };
    let number = u64::from_be_bytes(number.as_slice().try_into().ok()?);
    if !delimiter.is_empty() {
        return None;
    }
    let outcome = match said {
        [first, rest @ ..] if first == b"error" => {
            let why = rest.first().map(|why| String::from_utf8_lossy(why).chars().take(300).collect());
            Outcome::Refused(why.unwrap_or_else(|| "error".to_owned()))
        }
        _ => Outcome::Confirmed,
    };
    Some((number, outcome))
}

fn try_send(socket: &Socket, frames: Vec<Vec<u8>>) -> Result<bool, zmq::Error> {
    match socket.send_multipart(frames, DONTWAIT) {
        Ok(()) => Ok(true),
        Err(zmq::Error::EAGAIN) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A message that has come, if one has.
pub fn try_receive(socket: &Socket) -> Result<Option<Vec<Vec<u8>>>, zmq::Error> {
    match socket.recv_multipart(DONTWAIT) {
        Ok(frames) => Ok(Some(frames)),
        Err(zmq::Error::EAGAIN) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_that_of_its_number() {
        let number = 7_u64.to_be_bytes().to_vec();
        let of = |said: &[&[u8]]| {
            let frames: Vec<Vec<u8>> = [&number[..], b""].iter().chain(said).map(|frame| frame.to_vec()).collect();
            read(&frames)
        };
        assert_eq!(of(&[b"anything"]), Some((7, Outcome::Confirmed)));
        assert_eq!(of(&[]), Some((7, Outcome::Confirmed)));
        assert_eq!(of(&[b"error", b"no"]), Some((7, Outcome::Refused("no".to_owned()))));
        assert_eq!(of(&[b"error"]), Some((7, Outcome::Refused("error".to_owned()))));
        assert_eq!(
            (read(std::slice::from_ref(&number)), read(&[b"x".to_vec(), Vec::new()]), read(&[number, b"x".to_vec()])),
            (None, None, None)
        );
    }
}
