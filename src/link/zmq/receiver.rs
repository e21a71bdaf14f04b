//! What comes by libzmq.

use std::collections::VecDeque;
use std::time::Duration;

use zmq::{DONTWAIT, POLLIN, SocketType};

use super::super::mark::Positions;
use super::super::net::Net;
use super::super::peer::{self, Came, Ends};
use super::super::trouble::Trouble;
use super::address::{Address, Pattern, Topic};
use super::map;
use super::sender::try_receive;
use super::socket::{self, Open};

/// Nobody says that there is no more. With nothing for so long there is nothing.
const QUIET: Duration = Duration::from_secs(2);

/// A socket by which messages come.
pub struct Receiver {
    open: Open,
    address: Address,
    last: u64,
    /// What is not answered: its receipt, and what its answer begins with.
    asked: VecDeque<(u64, Vec<Vec<u8>>)>,
}

fn kind(address: &Address) -> SocketType {
    match address.pattern {
        Pattern::Sub => SocketType::SUB,
        Pattern::Rep => SocketType::ROUTER,
        _ => SocketType::PULL,
    }
}

/// Looks whether a socket can be had with these settings. No peer can reach it: what one gave it would be lost with it.
pub fn look(ends: Ends<'_>) -> Result<(), Trouble> {
    let address = Address::of(ends.target, false)?;
    socket::make(ends, &address, kind(&address), ends.settings.batch as i32).map(drop)
}

impl Receiver {
    /// Opens the socket.
    pub fn connect(ends: Ends<'_>) -> Result<Receiver, Trouble> {
        let address = Address::of(ends.target, false)?;
        let open = socket::open(ends, &address, kind(&address), ends.settings.batch as i32)?;
        if address.pattern == Pattern::Sub {
            let topic = match &address.topic {
                Some(Topic::Fixed(topic)) => topic.as_str(),
                _ => "",
            };
            open.socket.set_subscribe(topic.as_bytes()).map_err(|error| socket::trouble(&address, error))?;
        }
        Ok(Receiver { open, address, last: 0, asked: VecDeque::new() })
    }

    fn wrong(&self, error: zmq::Error) -> Trouble {
        socket::trouble(&self.address, error)
    }

    fn is_ready(&self, limit: Duration) -> Result<bool, Trouble> {
        match self.open.socket.poll(POLLIN, limit.as_millis() as i64) {
            Err(zmq::Error::EINTR) => Ok(false),
            ready => ready.map(|ready| ready > 0).map_err(|error| self.wrong(error)),
        }
    }

    fn take(&mut self, mut frames: Vec<Vec<u8>>) -> Came {
        self.last += 1;
        if self.address.pattern == Pattern::Rep {
            // Who asks, and what is between that and an empty frame, is given back as it is.
            let end = frames.iter().position(Vec::is_empty).filter(|end| end + 1 < frames.len()).unwrap_or(0);
            let body = frames.split_off((end + 1).min(frames.len()));
            self.asked.push_back((self.last, std::mem::replace(&mut frames, body)));
        }
        let envelope = map::came(frames, self.address.json, self.address.pattern == Pattern::Sub);
        Came { envelope, receipt: self.last, at: None, large: None }
    }

    fn answer(&self, mut frames: Vec<Vec<u8>>, said: &[&[u8]]) -> Result<(), Trouble> {
        frames.extend(said.iter().map(|frame| frame.to_vec()));
        match self.open.socket.send_multipart(frames, DONTWAIT) {
            // Whoever has asked has gone, and asks again.
            Ok(()) | Err(zmq::Error::EAGAIN | zmq::Error::EHOSTUNREACH) => Ok(()),
            Err(error) => Err(self.wrong(error)),
        }
    }
}

impl peer::Receiver for Receiver {
    fn next(&mut self, limit: Duration) -> Result<Option<Came>, Trouble> {
        let mut frames = try_receive(&self.open.socket).map_err(|error| self.wrong(error))?;
        if frames.is_none() && self.is_ready(limit)? {
            frames = try_receive(&self.open.socket).map_err(|error| self.wrong(error))?;
        }
        Ok(frames.map(|frames| self.take(frames)))
    }

    fn done(&mut self, _: &Net, receipt: u64, _: Option<&Positions>) -> Result<(), Trouble> {
        while self.asked.front().is_some_and(|(asked, _)| *asked <= receipt) {
            let envelope = self.asked.pop_front().map(|(_, envelope)| envelope);
            self.answer(envelope.unwrap_or_default(), &[b"ok"])?;
        }
        Ok(())
    }

    fn reject(&mut self, _: &Net, receipt: u64) -> Result<(), Trouble> {
        let at = self.asked.iter().position(|(asked, _)| *asked == receipt);
        match at.and_then(|at| self.asked.remove(at)) {
            Some((_, envelope)) => self.answer(envelope, &[b"error", b"the queue cannot take it"]),
            None => Ok(()),
        }
    }

    /// How much more comes, nobody can say: one, if anything does.
    fn remaining(&self, _: &Net) -> Result<u64, Trouble> {
        Ok(u64::from(self.is_ready(QUIET)?))
    }

    fn close(self: Box<Self>, _: &Net) {}
}
