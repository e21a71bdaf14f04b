//! The thread that watches over the requests that wait.
//!
//! The kernel cannot interrupt a request once it was told that interrupts are not served, as `fuser` tells it: a process
//! that waits for an answer would not even die of SIGKILL. So this thread looks at the signals that are pending for those
//! who wait, and has them answered [`Error::Interrupted`]. It also serves lines on that are too long for one call, and
//! tells those who poll, which must not be done where a request is being handled.

use std::time::{Duration, Instant};

use crate::clock;
use crate::error::Error;

use super::waiters::{Errands, Line, Work};
use super::{View, process};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(100);
/// At so many, at some 5 to 20 us each, which is at most a tenth of a processor; when more wait, each has its turn later.
const LOOKS: usize = 512;
/// Nothing is known of the signals of a thread that is not visible from here: it is sent away after so long, in case.
const UNSEEN: Duration = Duration::from_secs(1);

impl View {
    /// Watches until nobody waits any more; sleeps while nobody does.
    pub(super) fn keep_waiters(&self) {
        let (mut tick, mut looked) = (Instant::now(), 0);
        while let Some(work) = self.waiters.work(&mut tick, EVERY, &mut looked, LOOKS) {
            match work {
                Work::Errands(errands) => self.run_errands(errands),
                Work::Looks(looks) => {
                    for (ticket, tid, since) in looks {
                        let over = if tid == 0 { since.elapsed() >= UNSEEN } else { process::is_interrupted(tid) };
                        if over {
                            self.waiters.give_up(ticket, Error::Interrupted);
                        }
                    }
                }
            }
        }
    }

    fn run_errands(&self, errands: Errands) {
        for line in errands.serve {
            self.waiters.serve(line);
        }
        for line in errands.notify {
            // Those who wait come first.
            if self.waiters.is_polled(line) && self.has_something(line) {
                self.waiters.pollers(line).into_iter().for_each(|notify| notify());
            }
        }
    }

    /// Whether somebody who now tried would get what a line waits for. A failure is for him to meet.
    pub(super) fn has_something(&self, line: Line) -> bool {
        self.store.has_ready(line, clock::now_ms()).unwrap_or(true)
    }
}
