//! What comes from a server of STOMP.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use tokio::runtime::Handle;

use super::super::mark::Positions;
use super::super::net::{self, Net};
use super::super::peer::{self, Came, Condition, Ends};
use super::super::trouble::Trouble;
use super::address::Address;
use super::connection::{self, Connection, Heard};
use super::dialect::Dialect;
use super::frame::Frame;
use super::map;
use crate::clock;

/// So many frames that have come wait for being taken; then nothing is read.
const ROOM: usize = 64;
/// Artemis is told how many bytes it may send ahead, not how many messages: so many for each.
const BYTES_EACH: usize = 4096;
/// A server cannot say what it has. With nothing for so long it has nothing.
const QUIET: Duration = Duration::from_secs(2);

/// A connection with a subscription.
pub struct Receiver {
    handle: Handle,
    /// Asked how much more there is, it has to look.
    line: RefCell<Line>,
    /// What is not acknowledged: its receipt, and what the server calls it.
    open: VecDeque<(u64, Vec<u8>)>,
    last: u64,
}

struct Line {
    connection: Connection,
    /// What has come while something else was waited for.
    came: VecDeque<Heard>,
}

impl Receiver {
    /// Connects, logs in, and subscribes.
    pub fn connect(net: &Net, ends: Ends<'_>) -> Result<Receiver, Trouble> {
        let address = Address::of(ends.target, false)?;
        let tls = net::tls(ends.target, ends.settings)?;
        let limit = connection::ANSWER * 2 * ends.target.hosts.len() as u32;
        // One batch is being enqueued while the next one comes.
        let prefetch = ends.settings.batch * 2;
        let bytes = (prefetch * BYTES_EACH).min(ends.settings.window_bytes as usize).min(i32::MAX as usize);
        let mut came = VecDeque::new();
        let opening = async {
            let mut connection = connection::open(ends, &address, tls, ROOM, &Condition::default()).await?;
            let subscribe = address.subscribe(connection.dialect, prefetch, bytes);
            connection.ask(subscribe, &mut |heard| came.push_back(heard)).await?;
            Ok::<_, Trouble>(connection)
        };
        let connection = net.wait(limit, opening)??;
        let (handle, line) = (net.handle().clone(), RefCell::new(Line { connection, came }));
        Ok(Receiver { handle, line, open: VecDeque::new(), last: 0 })
    }

    fn take(&mut self, Heard { frame, large }: Heard) -> Came {
        self.last += 1;
        let known_as = frame.header("ack").or_else(|| frame.header("message-id")).unwrap_or_default().to_vec();
        self.open.push_back((self.last, known_as));
        let dialect = self.line.get_mut().connection.dialect;
        Came { envelope: map::came(frame, dialect, clock::now_ms()), receipt: self.last, at: None, large }
    }
}

impl Line {
    /// The next frame, if one comes in time.
    fn next(&mut self, handle: &Handle, limit: Duration) -> Result<Option<Heard>, Trouble> {
        if let Some(heard) = self.came.pop_front() {
            return Ok(Some(heard));
        }
        if let Ok(came) = self.connection.read.try_recv() {
            return came.map(Some);
        }
        let next = async { tokio::time::timeout(limit, self.connection.next()).await };
        match handle.block_on(next) {
            Ok(came) => came.map(Some),
            Err(_) => Ok(None),
        }
    }

    fn ask(&mut self, net: &Net, frame: Frame) -> Result<(), Trouble> {
        let came = &mut self.came;
        net.wait(connection::ANSWER, self.connection.ask(frame, &mut |heard| came.push_back(heard)))?
    }
}

impl peer::Receiver for Receiver {
    fn next(&mut self, limit: Duration) -> Result<Option<Came>, Trouble> {
        loop {
            let line = self.line.get_mut();
            let Some(heard) = line.next(&self.handle, limit)? else { return Ok(None) };
            match heard.frame.command.as_str() {
                "MESSAGE" => return Ok(Some(self.take(heard))),
                "ERROR" => return Err(line.connection.refused(&heard.frame)),
                _ => {}
            }
        }
    }

    fn done(&mut self, net: &Net, receipt: u64, _: Option<&Positions>) -> Result<(), Trouble> {
        let mut last = None;
        while self.open.front().is_some_and(|(open, _)| *open <= receipt) {
            last = self.open.pop_front();
        }
        let Some((_, known_as)) = last else { return Ok(()) };
        self.line.get_mut().ask(net, Frame::new("ACK").with("id", known_as))
    }

    /// All before it have been acknowledged: to some servers it says the same of those.
    fn reject(&mut self, net: &Net, receipt: u64) -> Result<(), Trouble> {
        let Some(at) = self.open.iter().position(|(open, _)| *open == receipt) else { return Ok(()) };
        let Some((_, known_as)) = self.open.remove(at) else { return Ok(()) };
        let (frame, line) = (Frame::new("NACK").with("id", known_as), self.line.get_mut());
        let frame = if line.connection.dialect == Dialect::Rabbit { frame.with("requeue", "false") } else { frame };
        line.ask(net, frame)
    }

    /// How much more comes, nobody can say: one, if anything does.
    fn remaining(&self, _: &Net) -> Result<u64, Trouble> {
        let line = &mut *self.line.borrow_mut();
        let next = line.next(&self.handle, QUIET)?;
        line.came.extend(next);
        Ok(line.came.len() as u64)
    }

    fn close(self: Box<Self>, net: &Net) {
        let _ = net.wait(connection::ANSWER, self.line.into_inner().connection.leave());
    }
}

/// Connects, and logs in; says who the server is.
pub fn look(net: &Net, ends: Ends<'_>, out: bool) -> Result<&'static str, Trouble> {
    let mut address = Address::of(ends.target, out)?;
    // Two of one client are not let in.
    address.client = None;
    address.subscription = None;
    let tls = net::tls(ends.target, ends.settings)?;
    let limit = connection::ANSWER * 2 * ends.target.hosts.len() as u32;
    let connection = net.wait(limit, connection::open(ends, &address, tls, ROOM, &Condition::default()))??;
    let name = connection.dialect.name();
    let _ = net.wait(connection::ANSWER, connection.leave());
    Ok(name)
}
