//! What a guard tells its worker, and how.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

/// No report is longer, in bytes.
const LONGEST: usize = 16 * 1024;

/// How it ended with a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What became of it.
    pub end: End,
    /// What there is to tell of it.
    pub line: Option<String>,
}

/// What became of a message, and what that means for the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It is acknowledged.
    Done,
    /// The command has removed or moved it.
    Settled,
    /// It was gone before the command began.
    Gone,
    /// The command did not succeed.
    Failed,
    /// The command was told to end by the worker's user, and it was given back.
    Interrupted,
    /// The claim was over before the work was: somebody else has it, or will.
    Lost,
    /// No command can be run, and why.
    CannotRun(String),
    /// The queue cannot be used any more, and why.
    Unusable(String),
}

/// What a worker tells a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// The command is to end.
    End = b'e',
    /// It is to be killed.
    Kill = b'k',
}

/// One end of the connection of a worker and a guard. The other one's death is the end of what comes from there.
pub struct Line(OwnedFd);

impl Line {
    /// The two ends.
    pub fn pair() -> io::Result<(Line, Line)> {
        let (one, other) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        Ok((Line(one), Line(other)))
    }

    /// Readable when the other one has said something, or has ended.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Says how it ended.
    pub fn report(&self, report: &Report) {
        let bytes = postcard::to_stdvec(report).unwrap_or_default();
        self.send(&bytes[..bytes.len().min(LONGEST)]);
    }

    /// Tells the guard to do something.
    pub fn order(&self, order: Order) {
        self.send(&[order as u8]);
    }

    fn send(&self, bytes: &[u8]) {
        if let Err(errno) = rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL) {
            tracing::debug!(%errno, "the other end of a guard's line is gone");
        }
    }

    /// The report, if it is there; fails when there will be none.
    pub fn reported(&self) -> io::Result<Option<Report>> {
        let mut bytes = [0; LONGEST];
        match self.receive(&mut bytes)? {
            None => Ok(None),
            Some(length) => postcard::from_bytes(&bytes[..length]).map(Some).map_err(io::Error::other),
        }
    }

    /// An order, if there is one; fails when the worker is gone.
    pub fn ordered(&self) -> io::Result<Option<Order>> {
        let mut byte = [0];
        Ok(match self.receive(&mut byte)? {
            None => None,
            Some(_) if byte[0] == Order::Kill as u8 => Some(Order::Kill),
            Some(_) => Some(Order::End),
        })
    }

    fn receive(&self, bytes: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::net::recv(&self.0, &mut *bytes, RecvFlags::empty()) {
            Ok((0, _)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((length, _)) => Ok(Some(length.min(bytes.len()))),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}
