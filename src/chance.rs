//! Random numbers for tests, the same again for the same `MQFS_TEST_SEED`, which is printed.

/// A source of them.
pub struct Random(u64);

impl Random {
    /// A new one.
    #[allow(clippy::new_without_default, reason = "it prints")]
    pub fn new() -> Self {
        let given = std::env::var("MQFS_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
        let seed = given.unwrap_or_else(now);
        println!("MQFS_TEST_SEED={seed}");
        Self(seed | 1)
    }

    /// One below that.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }
}
