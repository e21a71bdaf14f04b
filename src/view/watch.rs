//! The thread that watches over the requests that wait.
//!
//! The kernel tells when whoever waits has got a signal ([`View::interrupt`]). But it tells once for each request, and not of every
//! request that is made to wait, as not all of that is done where requests are served. So this thread looks at the signals that are
//! pending for the others, and has them answered [`Error::Interrupted`]. It also serves lines on that are too long for one call, and
//! those for room, and tells those who poll, which must not be done where a request is being handled.

use std::time::{Duration, Instant};

use crate::clock;
use crate::error::Error;

use super::View;
use super::waiters::{Errands, Line, Seen, Work};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(100);
/// At so many, at some 5 to 20 us each, which is at most a tenth of a processor; when more wait, each has its turn later.
const LOOKS: usize = 512;
/// Nothing is known of the signals of a thread that is not visible from here: it is sent away after so long, in case.
const UNSEEN: Duration = Duration::from_secs(1);
/// When who holds room has waited for more for so long, it is to be seen whether everybody waits for everybody else.
pub(super) const OVERDUE: Duration = Duration::from_secs(1);

impl View {
    /// Watches until nobody waits any more; sleeps while nobody does.
    pub(super) fn keep_waiters(&self) {
        let (mut tick, mut looked) = (Instant::now(), 0);
        while let Some(work) = self.waiters.work(&mut tick, EVERY, &mut looked, LOOKS) {
            match work {
                Work::Errands(errands) => self.run_errands(errands),
                Work::Looks(looks) => {
                    for Seen { ticket, line, tid, since } in looks {
                        let over = if tid == 0 { since.elapsed() >= UNSEEN } else { line.is_interrupted(tid) };
                        if over {
                            self.waiters.give_up(ticket, Error::Interrupted);
                        }
                    }
                    self.waiters.overdue(OVERDUE).into_iter().for_each(|line| self.waiters.serve(line));
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
        match line {
            Line::Message(queue) => self.store.has_ready(queue, clock::now_ms()).unwrap_or(true),
            Line::More(_) | Line::Room(_) => true,
        }
    }
}
