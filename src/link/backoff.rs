//! How long to wait before the next try: twice as long each time, and never the same for two links, so that a broker that comes back
//! does not meet all of them at once.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

/// The tries so far.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Begins with `first` and ends at `longest`.
    pub fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff { first, longest, next: first }
    }

    /// How long to wait now; `chance` is between 0 and 1, and makes it up to a fifth longer or shorter.
    pub fn wait(&mut self, chance: f64) -> Duration {
        let wait = self.next;
        self.next = (self.next * 2).min(self.longest);
        wait.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0))
    }

    /// It has worked.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A number between 0 and 1 that nobody can foresee; a half where the system has none.
pub fn chance() -> f64 {
    f64::from(random() as u32) / f64::from(u32::MAX)
}

/// Random bits.
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    match File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)) {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_) => 1 << 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_until_the_longest() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));
        let mut waits = || (0..4).map(|_| backoff.wait(0.5).as_millis()).collect::<Vec<_>>();
        assert_eq!(waits(), [200, 400, 800, 1000]);
        backoff.reset();
        assert_eq!((backoff.wait(0.0).as_millis(), backoff.wait(1.0).as_millis()), (160, 480));
    }
}
