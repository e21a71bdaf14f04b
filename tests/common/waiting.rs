//! Readers that wait.

#![allow(dead_code)]

use std::path::Path;

use crate::common::{Mount, Running, wait_until};

impl Mount {
    /// How many requests wait in a queue now.
    #[track_caller]
    pub fn waiting(&self, queue: impl AsRef<Path>) -> u64 {
        self.stats(queue)["waiting"].as_u64().expect("waiting")
    }

    /// Starts a bash script of which one reader is to wait in `queue`; returns when it does.
    #[track_caller]
    pub fn waiter(&self, queue: &Path, script: &str) -> Running {
        self.one_waits(queue, || self.spawn(script))
    }

    /// Starts something of which one reader is to wait in `queue`; returns when it does.
    #[track_caller]
    pub fn one_waits(&self, queue: &Path, start: impl FnOnce() -> Running) -> Running {
        let before = self.waiting(queue);
        let mut running = start();
        let mut ended = false;
        wait_until(|| {
            ended = !running.is_running();
            ended || self.waiting(queue) == before + 1
        });
        assert!(!ended, "it does not wait: {} {}", running.output(), running.errors());
        running
    }
}
