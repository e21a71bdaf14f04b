//! Sending by libzmq. A thread of its own has the socket, since a socket that waits cannot be asked anything.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver as Waiting};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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

/// What is answered is told so often, though others of the same window are not.
const TOLD: Duration = Duration::from_millis(100);

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
    /// What is asked and not told of, in order. A message that is given again, as an answer to it was not there, is not asked again.
    asked: VecDeque<Asked>,
    /// The number of the last question: never used twice.
    last: u64,
}

/// A message that is to be answered.
struct Asked {
    message: Arc<Envelope>,
    /// The number that goes along, once it is sent.
    number: Option<u64>,
    outcome: Option<Outcome>,
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
        let (subscribed, asked) = (HashSet::new(), VecDeque::new());
        let mut worker =
            Worker { open, address, condition: condition.clone(), end: end.clone(), subscribed, asked, last: 0 };
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

    /// Waits a moment for something that can be done; tells whether the end is asked for.
    fn is_ending(&self, events: PollEvents) -> Result<bool, zmq::Error> {
        match self.open.socket.poll(events, TICK) {
            Err(error) if error != zmq::Error::EINTR => Err(error),
            _ => Ok(self.end.load(Ordering::Relaxed)),
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
                if self.is_ending(events)? {
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

    /// Sends messages and waits for the answers to them, or to the first of them: whoever answers may take long for each. A number goes
    /// along in the envelope, which the other side gives back as it is: so an answer is known to be that of its message, whoever gives it,
    /// and after whatever reconnects.
    fn ask(&mut self, messages: &[Arc<Envelope>]) -> Result<Sent, zmq::Error> {
        self.take(messages);
        let since = Instant::now();
        loop {
            while let Some(answer) = try_receive(&self.open.socket)? {
                self.hear(&answer);
            }
            let answered = self.asked.iter().take_while(|asked| asked.outcome.is_some()).count();
            if answered == self.asked.len() || (answered > 0 && since.elapsed() >= TOLD) {
                return Ok(Sent::Answered(self.asked.drain(..answered).filter_map(|asked| asked.outcome).collect()));
            }
            let all = self.send_next()?;
            if self.is_ending(if all { POLLIN } else { POLLIN | POLLOUT })? {
                return Ok(Sent::Lost(Trouble::away("the link ends")));
            }
        }
    }

    /// What is given again is asked already.
    fn take(&mut self, messages: &[Arc<Envelope>]) {
        let mut before = std::mem::take(&mut self.asked);
        for message in messages {
            let known = before.front().is_some_and(|asked| Arc::ptr_eq(&asked.message, message));
            let asked = if known { before.pop_front() } else { None };
            let new = || Asked { message: message.clone(), number: None, outcome: None };
            self.asked.push_back(asked.unwrap_or_else(new));
        }
    }

    /// Sends the next message, if there is one, and a peer that takes it; tells whether all are sent.
    fn send_next(&mut self) -> Result<bool, zmq::Error> {
        let waiting = self.asked.iter().any(|asked| asked.number.is_some() && asked.outcome.is_none());
        let Some(next) = self.asked.iter_mut().find(|asked| asked.number.is_none()) else { return Ok(true) };
        let number = self.last + 1;
        let mut frames = vec![number.to_be_bytes().to_vec(), Vec::new()];
        frames.extend(map::frames(&next.message, &self.address));
        if try_send(&self.open.socket, frames)? {
            (next.number, self.last) = (Some(number), number);
            self.condition.set(None);
        } else if !waiting {
            self.condition.set(Some("no peer takes it".to_owned()));
        }
        Ok(false)
    }

    fn hear(&mut self, answer: &[Vec<u8>]) {
        let Some((number, outcome)) = read(answer) else { return };
        let asked = self.asked.iter_mut().find(|asked| asked.number == Some(number));
        if let Some(slot) = asked.map(|asked| &mut asked.outcome).filter(|outcome| outcome.is_none()) {
            *slot = Some(outcome);
        }
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
