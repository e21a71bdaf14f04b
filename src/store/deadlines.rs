//! What is due when. One thread of the view's sleeps until the next deadline and does what is due; this is what it sleeps
//! on, and how it learns of a deadline that is earlier than the one it sleeps for.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};
use crate::queue::properties::ms;

use super::Store;
use super::db::Family;
use super::keys::{self, DeadlineKind};
use super::record::MessageRecord;
use super::state::deadlines;

/// A deadline that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// When it was due, in milliseconds since the epoch.
    pub at: u64,
    /// What for.
    pub kind: DeadlineKind,
    /// A sequence number or a draft, by the kind.
    pub id: u64,
}

/// Why [`Store::wait_for_deadline`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something may be due.
    Look,
    /// The clock was set back.
    SetBack,
    /// The store is being closed.
    Stop,
}

/// The wall clock may be set while the thread sleeps; it looks again at least this often while anything is pending.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Invariant: every deadline in the store is at or after `low`, and at or after `next` unless the thread is looking now.
///
/// A deadline is noted after it was written. While the thread looks (it has set `next` to "none" before it reads), a
/// deadline written too late for its look is noted into `next`, which the thread takes the minimum with afterwards: so none
/// is slept through.
#[derive(Default)]
pub(super) struct DeadlineWatch {
    times: Mutex<Times>,
    changed: Condvar,
}

#[derive(Default)]
struct Times {
    low: u64,
    next: Option<u64>,
    /// The clock at the last look at it.
    clock: u64,
    /// When that was.
    looked: Option<Instant>,
    /// The clock was set back, and the thread does not know yet.
    set_back: bool,
    /// The latest leaps of the clock, in their order.
    leaps: Vec<Leap>,
    stopped: bool,
}

/// The clock was set forward.
struct Leap {
    /// What it would have been otherwise when that was seen.
    instead_of: u64,
    /// By how much, in milliseconds.
    by: u64,
}

/// So many leaps are remembered.
const LEAPS: usize = 64;

impl Times {
    fn look(&mut self, now: u64, at: Instant) {
        let before = std::mem::replace(&mut self.clock, now);
        self.set_back |= now.saturating_add(ms(LOOK_AGAIN)) < before;
        let Some(looked) = self.looked.replace(at) else { return };
        let instead_of = before.saturating_add(ms(at.saturating_duration_since(looked)));
        if now > instead_of.saturating_add(ms(LOOK_AGAIN)) {
            if self.leaps.len() == LEAPS {
                self.leaps.remove(0);
            }
            self.leaps.push(Leap { instead_of, by: now - instead_of });
        } else if now.saturating_add(ms(LOOK_AGAIN)) < instead_of {
            // What is set back takes back the leaps that were before.
            let mut back = instead_of - now;
            while let Some(last) = self.leaps.last_mut().filter(|_| back > 0) {
                let taken = back.min(last.by);
                (last.by, back) = (last.by - taken, back - taken);
                if last.by == 0 {
                    self.leaps.pop();
                }
            }
        }
    }
}

impl DeadlineWatch {
    /// Compares the clock, which is `now`, with the one that nobody sets, which is `at`.
    pub fn look(&self, now: u64, at: Instant) {
        self.times.lock().look(now, at);
    }

    /// By how much the clock was set forward since it was `since`, in milliseconds, as far as that was seen.
    pub fn leapt_since(&self, since: u64) -> u64 {
        let times = self.times.lock();
        let later = times.leaps.iter().filter(|leap| leap.instead_of >= since);
        later.fold(0, |sum, leap| sum.saturating_add(leap.by))
    }

    /// Tells of a deadline that was written.
    pub fn note(&self, at: u64) {
        let mut times = self.times.lock();
        times.low = times.low.min(at);
        if times.next.is_none_or(|next| at < next) {
            times.next = Some(at);
            self.changed.notify_one();
        }
    }

    /// Ends the wait for good.
    pub fn stop(&self) {
        self.times.lock().stopped = true;
        self.changed.notify_all();
    }
}

impl Store {
    /// The deadlines that have passed at `now`, at most `limit` of them, oldest first; those after `after`, to go on with a look
    /// that has found so many. What is due stays in the store until it was dealt with, and is found again by the next look.
    pub fn due(&self, now: u64, after: Option<Due>, limit: usize) -> Result<Vec<Due>> {
        let low = {
            let mut times = self.deadlines.times.lock();
            if after.is_none() {
                times.next = None;
                std::mem::replace(&mut times.low, u64::MAX)
            } else {
                times.low
            }
        };
        let looked = self.deadlines_from(low, now, after, limit);
        let mut times = self.deadlines.times.lock();
        let Ok((due, later)) = looked else {
            times.low = times.low.min(low);
            times.next = Some(now);
            return looked.map(|(due, _)| due);
        };
        let first = due.first().map(|due| due.at).or(later);
        times.low = times.low.min(first.unwrap_or(u64::MAX));
        if let Some(later) = later {
            times.next = Some(times.next.map_or(later, |next| next.min(later)));
        }
        Ok(due)
    }

    /// The deadlines of [`Store::due`], and the time of the next that has not passed, when there are no more of them.
    fn deadlines_from(&self, low: u64, now: u64, after: Option<Due>, limit: usize) -> Result<(Vec<Due>, Option<u64>)> {
        let start = match after {
            Some(Due { at, kind, id }) => [&keys::deadline(at, kind, id)[..], &[0]].concat(),
            None => keys::deadline(low, DeadlineKind::Lease, 0).to_vec(),
        };
        let mut due = Vec::new();
        let mut later = None;
        self.db.scan(Family::Deadlines, b"", &start, |key, _| {
            let Some((at, kind, id)) = keys::parse_deadline(key) else {
                return Ok(true);
            };
            if at > now {
                later = Some(at);
                return Ok(false);
            }
            due.push(Due { at, kind, id });
            Ok(due.len() < limit)
        })?;
        Ok((due, later))
    }

    /// The message of a deadline that has passed. [`Error::NotFound`] when it is hidden, in which case the thread is told again
    /// when it is revealed; or gone or purged, in which case the deadline is forgotten.
    pub fn message_due(&self, due: &Due) -> Result<MessageRecord> {
        let mut state = self.lock();
        match self.record(due.id) {
            Ok(record) if state.is_hidden(record.queue, due.id) => return Err(Error::NotFound),
            Ok(record) => match state.is_purged(&self.db, &record) {
                Ok(false) => return Ok(record),
                Ok(true) | Err(Error::NotFound) => {} // or with its whole queue
                Err(error) => return Err(error),
            },
            Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
        self.delete_deadline(due)?;
        Err(Error::NotFound)
    }

    /// Forgets a deadline, unless its message has it.
    pub fn drop_deadline(&self, due: &Due) -> Result<()> {
        let _state = self.lock();
        let of_message = matches!(due.kind, DeadlineKind::Lease | DeadlineKind::Deliver | DeadlineKind::TimeToLive);
        if of_message && self.record(due.id).is_ok_and(|record| deadlines(&record).any(|own| own == (due.at, due.kind)))
        {
            return Ok(());
        }
        self.delete_deadline(due)
    }

    fn delete_deadline(&self, due: &Due) -> Result<()> {
        let mut batch = self.db.batch();
        batch.delete(Family::Deadlines, &keys::deadline(due.at, due.kind, due.id));
        self.db.write(batch)
    }

    /// Has the thread look again at `at`, for deadlines that could not be dealt with.
    pub fn look_again(&self, at: u64) {
        self.deadlines.note(at);
    }

    /// The clock is `now`. When it was set forward, the time that it skipped does not count as time that a worker has taken
    /// ([`Store::renew`]).
    pub fn look_at_clock(&self, now: u64) {
        self.deadlines.look(now, Instant::now());
    }

    /// Sleeps until the next deadline, by `now` (a clock of milliseconds since the epoch).
    pub fn wait_for_deadline(&self, now: impl Fn() -> u64) -> Wake {
        let mut times = self.deadlines.times.lock();
        loop {
            if times.stopped {
                return Wake::Stop;
            }
            let now = now();
            times.look(now, Instant::now());
            if std::mem::take(&mut times.set_back) {
                return Wake::SetBack;
            }
            match times.next.map(|next| next.saturating_sub(now)) {
                Some(0) => return Wake::Look,
                Some(left) => {
                    self.deadlines.changed.wait_for(&mut times, Duration::from_millis(left).min(LOOK_AGAIN));
                }
                None => self.deadlines.changed.wait(&mut times),
            }
        }
    }
}
