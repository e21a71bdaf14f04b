//! Where a worker claims: queues, of which each has a weight.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::super::exit::{Exit, Failure};
use super::queue::{CLAIMED, Queue};
use crate::error::{Error, Refusal, is_mount_gone};

/// Longer than any answer of `.mq/claim`.
const LONGEST: usize = 1024;
/// The largest weight of a queue.
const HEAVIEST: u32 = 1000;
/// How often it is tried whether a mount that went away is there again.
const RETRY: Duration = Duration::from_millis(500);

/// A claim that was just made.
pub struct Claim {
    /// What the message is called in `.mq/claimed`.
    pub name: OsString,
    /// What answered. While it is open, and this process lives, so does the lease.
    pub answer: File,
}

/// A queue, and where it stands among the others.
pub struct Source {
    /// The queue.
    pub queue: Queue,
    weight: u32,
    /// How much was taken, in units of its weight: the queue with the least is next.
    taken: f64,
    /// An open `.mq/claim` that has claimed nothing yet.
    claim: Option<File>,
    /// It may have something.
    stirred: bool,
    /// Since when its mount is gone.
    gone: Option<Instant>,
}

impl Source {
    /// Opens a queue that was given as `QUEUE` or `QUEUE=WEIGHT`, and `.mq/claim` as a proof that the caller may consume.
    pub fn open(given: &OsStr) -> Result<Source, Failure> {
        let (path, weight) = weighed(given)?;
        let queue = Queue::open(path)?;
        let claim = open_claim(&queue).map_err(|error| {
            let why: &dyn std::fmt::Display = match Refusal::of(&error) {
                Refusal::NotFound => &"not a queue of an mqfs mount",
                _ => &error,
            };
            Failure::new(Exit::Queue, format_args!("{}: {why}", path.display()))
        })?;
        Ok(Source { queue, weight, taken: 0.0, claim: Some(claim), stirred: true, gone: None })
    }

    /// Claims the next message, if there is one.
    fn claim(&mut self) -> io::Result<Option<Claim>> {
        let mut claim = match self.claim.take() {
            Some(claim) => claim,
            None => open_claim(&self.queue)?,
        };
        let mut answer = Vec::with_capacity(LONGEST);
        match claim.by_ref().take(LONGEST as u64).read_to_end(&mut answer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && answer.is_empty() => {
                self.claim = Some(claim);
                return Ok(None);
            }
            read => read?,
        };
        let name = answer.strip_prefix(CLAIMED.as_bytes()).and_then(|name| name.strip_suffix(b"\n"));
        let name =
            name.ok_or_else(|| io::Error::other(format!("{:?}: not a path", String::from_utf8_lossy(&answer))))?;
        Ok(Some(Claim { name: OsString::from_vec(name.to_vec()), answer: claim }))
    }
}

/// The queues of a worker.
pub struct Sources {
    all: Vec<Source>,
    /// How long a mount that went away is waited for.
    patience: Duration,
}

impl Sources {
    /// Opens the queues.
    pub fn open(given: &[OsString], patience: Duration) -> Result<Sources, Failure> {
        let all = given.iter().map(|given| Source::open(given)).collect::<Result<_, _>>()?;
        Ok(Sources { all, patience })
    }

    /// A queue.
    pub fn queue(&mut self, at: usize) -> &mut Queue {
        &mut self.all[at].queue
    }

    /// Claims from the queue whose turn it is, of those that have something; tells which that is.
    pub fn claim(&mut self) -> Result<Option<(usize, Claim)>, Failure> {
        while let Some(at) = self.next() {
            let least =
                self.all.iter().filter(|source| source.stirred).map(|source| source.taken).fold(f64::MAX, f64::min);
            let source = &mut self.all[at];
            match source.claim() {
                Ok(Some(claim)) => {
                    // Who had nothing for a while has not saved up for it.
                    source.taken = source.taken.max(least) + 1.0 / f64::from(source.weight);
                    return Ok(Some((at, claim)));
                }
                Ok(None) => source.stirred = false,
                Err(error) if is_mount_gone(&error) => {
                    source.stirred = false;
                    source.claim = None;
                    source.gone.get_or_insert_with(Instant::now);
                }
                Err(error) => return Err(source.queue.failure(&error)),
            }
        }
        Ok(None)
    }

    /// The queue whose turn it is.
    fn next(&self) -> Option<usize> {
        let stirred = self.all.iter().enumerate().filter(|(_, source)| source.stirred);
        stirred.min_by(|(_, a), (_, b)| a.taken.total_cmp(&b.taken)).map(|(at, _)| at)
    }

    /// Whether a mount is waited for.
    pub fn is_waiting(&self) -> bool {
        self.all.iter().any(|source| source.gone.is_some())
    }

    /// Looks whether mounts that went away are there again; fails when that took too long.
    pub fn look(&mut self) -> Result<(), Failure> {
        for source in &mut self.all {
            let Some(since) = source.gone else { continue };
            if source.queue.reopen().is_ok() {
                (source.gone, source.stirred) = (None, true);
            } else if since.elapsed() >= self.patience {
                return Err(source.queue.failure(&io::Error::from_raw_os_error(Error::GoingAway.errno())));
            }
        }
        Ok(())
    }

    /// When [`Sources::look`] is to be called.
    pub fn due(&self) -> Option<Instant> {
        let ends = self.all.iter().filter_map(|source| source.gone).map(|since| since + self.patience).min();
        ends.map(|ends| ends.min(Instant::now() + RETRY))
    }

    /// What is readable when a queue may have something, and which that is.
    pub fn fds(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let waits = |source: &Source| !source.stirred && source.gone.is_none();
        self.all
            .iter()
            .enumerate()
            .filter(move |(_, source)| waits(source))
            .filter_map(|(at, source)| source.claim.as_ref().map(|claim| (at, claim.as_fd())))
    }

    /// That queue may have something.
    pub fn stir(&mut self, at: usize) {
        self.all[at].stirred = true;
    }

    /// How many messages are ready, if the caller may know.
    pub fn ready(&self) -> Option<u64> {
        self.all.iter().map(|source| source.queue.own_attribute("user.mq.ready").parse::<u64>().ok()).sum()
    }
}

fn open_claim(queue: &Queue) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(queue.directory(), ".mq/claim", flags, Mode::empty())?.into())
}

/// The path and the weight of `PATH` or `PATH=WEIGHT`. What is there as it is written has no weight behind it.
fn weighed(given: &OsStr) -> Result<(&Path, u32), Failure> {
    let at = given.as_bytes().iter().rposition(|byte| *byte == b'=');
    let split = at.map(|at| (&given.as_bytes()[..at], &given.as_bytes()[at + 1..]));
    let weight = split.and_then(|(path, weight)| Some((path, std::str::from_utf8(weight).ok()?.parse::<u32>().ok()?)));
    match weight {
        Some(_) if Path::new(given).exists() => Ok((Path::new(given), 1)),
        None => Ok((Path::new(given), 1)),
        Some((path, weight @ 1..=HEAVIEST)) => Ok((Path::new(OsStr::from_bytes(path)), weight)),
        Some((_, weight)) => {
            let why = format!("{}: a weight is from 1 to {HEAVIEST}, not {weight}", given.display());
            Err(Failure::new(Exit::Usage, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_behind_a_path_is_its_weight() {
        let of =
            |given: &str| weighed(OsStr::new(given)).map(|(path, weight)| (path.to_str().unwrap().to_owned(), weight));
        assert_eq!(of("q").unwrap(), ("q".to_owned(), 1));
        assert_eq!(of("a=b=3").unwrap(), ("a=b".to_owned(), 3));
        assert_eq!(of("a=b").unwrap(), ("a=b".to_owned(), 1));
        assert!(of("q=0").is_err() && of("q=1001").is_err());
    }
}
