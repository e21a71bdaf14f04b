//! What is due when. One thread of the view's sleeps until the next deadline and does what is due; this is what it sleeps
//! on, and how it learns of a deadline that is earlier than the one it sleeps for.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::Result;

use super::Store;
use super::keys::DeadlineKind;

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
    stopped: bool,
}

impl DeadlineWatch {
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
    /// The deadlines that have passed at `now`, at most `limit` of them, oldest first.
    pub fn due(&self, now: u64, limit: usize) -> Result<Vec<Due>> {
        let low = {
            let mut times = self.deadlines.times.lock();
            times.next = None;
            std::mem::replace(&mut times.low, u64::MAX)
        };
        let looked = self.deadlines_from(low, now, limit);
        let mut times = self.deadlines.times.lock();
        let Ok((due, later)) = looked else {
            times.low = times.low.min(low);
            times.next = Some(now);
            return looked.map(|(due, _)| due);
        };
        // What is due stays in the store until it was dealt with, so the next look starts there again.
        let first = due.first().map(|due| due.at).or(later);
        times.low = times.low.min(first.unwrap_or(u64::MAX));
        if let Some(later) = later {
            times.next = Some(times.next.map_or(later, |next| next.min(later)));
        }
        Ok(due)
    }

    /// Sleeps until the next deadline, by `now` (a clock of milliseconds since the epoch).
    pub fn wait_for_deadline(&self, now: impl Fn() -> u64) -> Wake {
        let mut times = self.deadlines.times.lock();
        loop {
            if times.stopped {
                return Wake::Stop;
            }
            match times.next.map(|next| next.saturating_sub(now())) {
                Some(0) => return Wake::Look,
                Some(left) => {
                    self.deadlines.changed.wait_for(&mut times, Duration::from_millis(left).min(LOOK_AGAIN));
                }
                None => self.deadlines.changed.wait(&mut times),
            }
        }
    }
}
