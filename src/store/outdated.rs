//! Which ready messages of a queue a search for the next need not look at again, because their time to live is over, or their
//! records are damaged.
//!
//! Many may be over at the same time, and the thread that deals with them takes a while: whoever claims the next message then
//! must not walk over all of them each time.

/// A run of ready messages, by their positions, that were over when they were looked at: whatever is ready between the first
/// and the last of them was.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outdated {
    run: Option<Run>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    first: u64,
    last: u64,
    /// When the last of them was looked at, in milliseconds since the epoch.
    at: u64,
}

impl Outdated {
    /// The message at `position` is over at `now`, and the search that found it came from `from`: gives the position after
    /// which it can go on.
    pub fn skip(&mut self, position: u64, from: Option<u64>, now: u64) -> u64 {
        // When the clock was set back, they may have time again.
        let run = match self.run.filter(|run| run.at <= now) {
            Some(run) if (run.first..=run.last).contains(&position) => run,
            Some(run) if from == Some(run.last) => Run { last: position, at: now, ..run },
            _ => Run { first: position, last: position, at: now },
        };
        self.run = Some(run);
        run.last
    }

    /// Whether the message at `position` has been skipped.
    pub fn knows(&self, position: u64) -> bool {
        self.run.is_some_and(|run| (run.first..=run.last).contains(&position))
    }

    /// A message became ready.
    pub fn placed(&mut self, position: u64) {
        self.run = self.run.filter(|run| !(run.first..=run.last).contains(&position));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_skipped_at_once_and_grows_at_its_end() {
        let mut outdated = Outdated::default();
        assert_eq!(outdated.skip(3, None, 100), 3);
        assert_eq!(outdated.skip(5, Some(3), 100), 5);
        assert_eq!(outdated.skip(9, Some(5), 101), 9);
        assert_eq!(outdated.skip(3, None, 102), 9);
        assert_eq!(outdated.skip(5, Some(1), 102), 9);
        assert_eq!(outdated.skip(12, Some(9), 103), 12);
        // Something that is not over was between, so this is a run of its own.
        assert_eq!(outdated.skip(20, Some(15), 104), 20);
        assert_eq!(outdated.skip(3, None, 105), 3);
    }

    #[test]
    fn what_comes_into_it_ends_it_and_so_does_a_clock_that_goes_back() {
        let mut outdated = Outdated::default();
        for (position, from) in [(3, None), (5, Some(3)), (9, Some(5))] {
            outdated.skip(position, from, 100);
        }
        outdated.placed(2);
        outdated.placed(10);
        assert_eq!(outdated.skip(3, None, 100), 9);
        assert_eq!(outdated.skip(3, None, 99), 3);
        outdated.skip(5, Some(3), 100);
        outdated.placed(4);
        assert_eq!(outdated.skip(3, None, 100), 3);
    }
}
