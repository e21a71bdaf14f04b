//! Readers that wait for a message, writers that wait for room.

#![allow(dead_code)]

use std::path::Path;

use crate::common::{Mount, Running, wait_until};

impl Mount {
    /// How many readers wait in a queue now.
    #[track_caller]
    pub fn waiting(&self, queue: impl AsRef<Path>) -> u64 {
        self.stats(queue)["waiting"].as_u64().expect("waiting")
    }

    /// How many writers wait in a queue now.
    #[track_caller]
    pub fn waiting_writers(&self, queue: impl AsRef<Path>) -> u64 {
        self.stats(queue)["waiting_writers"].as_u64().expect("waiting_writers")
    }

    /// Starts a bash script of which one reader is to wait in `queue`; returns when it does.
    #[track_caller]
    pub fn waiter(&self, queue: &Path, script: &str) -> Running {
        self.one_waits(queue, || self.spawn(script))
    }

    /// Starts a bash script of which one writer is to wait in `queue`; returns when it does.
    #[track_caller]
    pub fn blocked(&self, queue: &Path, script: &str) -> Running {
        self.one_is_blocked(queue, || self.spawn(script))
    }

    /// Starts something of which one reader is to wait in `queue`; returns when it does.
    #[track_caller]
    pub fn one_waits(&self, queue: &Path, start: impl FnOnce() -> Running) -> Running {
        let before = self.waiting(queue);
        waits(start(), || self.waiting(queue) == before + 1)
    }

    /// Starts something of which one writer is to wait in `queue`; returns when it does.
    #[track_caller]
    pub fn one_is_blocked(&self, queue: &Path, start: impl FnOnce() -> Running) -> Running {
        let before = self.waiting_writers(queue);
        waits(start(), || self.waiting_writers(queue) == before + 1)
    }
}

#[track_caller]
fn waits(mut running: Running, mut does: impl FnMut() -> bool) -> Running {
    let mut ended = false;
    wait_until(|| {
        ended = !running.is_running();
        ended || does()
    });
    assert!(!ended, "it does not wait: {} {}", running.output(), running.errors());
    running
}
