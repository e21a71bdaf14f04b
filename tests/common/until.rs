//! Waiting for what is to come about. Nothing of a mount, so that other programs can have servers of the tests' as well.

#![allow(dead_code)]

use std::time::{Duration, Instant};

/// How long any condition may take to come true before the test fails.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Waits until the condition holds; fails the test after [`LIMIT`].
#[track_caller]
pub fn wait_until(condition: impl FnMut() -> bool) {
    assert!(poll(LIMIT, condition), "the condition did not come true within {LIMIT:?}");
}

/// Waits until the condition holds, at most for `limit`; tells whether it does.
pub fn poll(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
