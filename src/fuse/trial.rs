//! Whether spinning pays, found out by trying both.
//!
//! It depends on what else runs on the machine, on how many clients there are and what they do between requests: too
//! much to predict, and easy to measure. Time is an argument here, as everywhere in the model.

use std::time::{Duration, Instant};

/// How long each of the two is tried: many of a scheduler's time slices, so that neither lives on the other's credit.
const TRIAL: Duration = Duration::from_millis(32);
/// How long the verdict holds. The trials in between then take six percent of the time.
const VERDICT: Duration = Duration::from_secs(1);
/// How much faster spinning has to be, in percent of sleeping: it costs a processor.
const WORTH_PERCENT: u128 = 110;

/// What was seen of one of the two.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    requests: u64,
    time: Duration,
}

/// The trials of one mount and their last verdict.
#[derive(Debug)]
pub struct Trial {
    spinning: Seen,
    sleeping: Seen,
    /// The verdict, and until when it holds.
    spin: bool,
    until: Instant,
}

impl Trial {
    /// Nothing is known yet: the first requests are a trial.
    pub fn new(now: Instant) -> Trial {
        Trial { spinning: Seen::default(), sleeping: Seen::default(), spin: true, until: now }
    }

    /// Whether the reader should spin at `now`: by the verdict while it holds, else by whose turn it is.
    pub fn should_spin(&self, now: Instant) -> bool {
        if now < self.until { self.spin } else { self.spinning.time < TRIAL }
    }

    /// `requests` came in `time`, which ended at `now`, while the reader span or slept.
    pub fn record(&mut self, spun: bool, requests: u64, time: Duration, now: Instant) {
        if now < self.until {
            return;
        }
        let seen = if spun { &mut self.spinning } else { &mut self.sleeping };
        seen.requests += requests;
        seen.time += time;
        if self.spinning.time >= TRIAL && self.sleeping.time >= TRIAL {
            // Rates, compared without dividing.
            let spinning = u128::from(self.spinning.requests) * self.sleeping.time.as_nanos() * 100;
            let sleeping = u128::from(self.sleeping.requests) * self.spinning.time.as_nanos() * WORTH_PERCENT;
            *self = Trial { spin: spinning >= sleeping, until: now + VERDICT, ..Trial::new(now) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    /// Lets `ticks` go by with so many requests in each, spinning or sleeping; counts the ticks spent spinning.
    fn go(trial: &mut Trial, now: &mut Instant, ticks: u32, spinning: u64, sleeping: u64) -> u32 {
        let mut spun = 0;
        for _ in 0..ticks {
            let spin = trial.should_spin(*now);
            *now += TICK;
            trial.record(spin, if spin { spinning } else { sleeping }, TICK, *now);
            spun += u32::from(spin);
        }
        spun
    }

    #[test]
    fn the_faster_of_the_two_gets_nearly_all_the_time() {
        let mut now = Instant::now();
        let mut trial = Trial::new(now);
        assert!(go(&mut trial, &mut now, 1000, 30, 10) > 950);
        let mut trial = Trial::new(now);
        assert!(go(&mut trial, &mut now, 1000, 10, 30) < 50);
    }

    #[test]
    fn a_small_gain_is_not_worth_a_processor() {
        let mut now = Instant::now();
        let mut trial = Trial::new(now);
        assert!(go(&mut trial, &mut now, 1000, 105, 100) < 50);
    }

    #[test]
    fn a_verdict_is_reconsidered() {
        let mut now = Instant::now();
        let mut trial = Trial::new(now);
        assert!(go(&mut trial, &mut now, 400, 10, 30) < 50);
        let spun = go(&mut trial, &mut now, 3000, 30, 10);
        assert!(spun > 2000, "{spun}");
    }

    #[test]
    fn a_trial_may_be_made_of_pieces() {
        let mut now = Instant::now();
        let mut trial = Trial::new(now);
        for _ in 0..70 {
            go(&mut trial, &mut now, 1, 30, 10);
            now += Duration::from_millis(5);
        }
        assert!(now < trial.until && trial.spin);
    }
}
