//! Spinning on the kernel's queue while requests come thick.
//!
//! In a virtual machine, waking a thread that sleeps in read(2) on `/dev/fuse` takes longer than serving the request.
//! With O_NONBLOCK set on that descriptor the read answers EAGAIN instead of sleeping, it is read again at once, and
//! a request is picked up without anybody being woken: several times as fast for one client, at the price of a busy
//! processor. So the flag is set when requests come thick and cleared after a millisecond without one; an idle mount
//! sleeps.
//!
//! When other programs want the processors as well, spinning takes them from the very clients that are waited for, and
//! is slower than sleeping. [`super::trial`] finds out which it is.
//!
//! Why that is safe:
//!
//! - The flag belongs to the open file description, which the reader and our duplicate of its descriptor share. Only
//!   the thread made by [`Spin::attach`] changes it, so no two changes race.
//! - A reader that already sleeps is not woken by setting the flag, and need not be: the next request wakes it, and its
//!   read after that one sees the flag. A reader that spins sees the cleared flag at its next read, and sleeps in the
//!   kernel, which looks at its queue under its own lock: no request is missed in between.
//! - The counters are hints. A request counted late makes the reader spin a millisecond longer or sleep once more, and
//!   neither is wrong.
//! - Replies are written to the same description, but writing to `/dev/fuse` never waits, with or without the flag.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustix::fs::OFlags;

use super::trial::Trial;

/// When the reader may spin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SpinMode {
    /// While requests come thick, if that is faster; never on a single processor, where it cannot be.
    #[default]
    Auto,
    /// While requests come thick.
    On,
    /// Never.
    Off,
}

/// So many requests...
const BURST: u64 = 8;
/// ...within this time are thick.
const BURST_TIME: Duration = Duration::from_millis(2);
/// How long the reader spins without a request; in a burst the pauses are some tens of microseconds.
const IDLE: Duration = Duration::from_millis(1);

/// Counts requests and turns the spinning on and off. Dropping it turns it off for good.
#[derive(Debug)]
pub struct Spin {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    requests: AtomicU64,
    /// When the last full [`BURST`] of requests was complete, in nanoseconds since `start`.
    burst_at: AtomicU64,
    start: Instant,
    /// Whether the flag is set, or about to be.
    hot: AtomicBool,
    stop: AtomicBool,
    /// Who sets and clears the flag; nobody while there is no descriptor, or when spinning is off.
    keeper: OnceLock<Thread>,
    mode: SpinMode,
}

impl Spin {
    /// Counts from now on; spins only once there is a descriptor to spin on.
    pub fn new(mode: SpinMode) -> Arc<Spin> {
        let single = || thread::available_parallelism().is_ok_and(|processors| processors.get() == 1);
        let mode = if mode == SpinMode::Auto && single() { SpinMode::Off } else { mode };
        let shared = Shared {
            requests: AtomicU64::new(0),
            burst_at: AtomicU64::new(0),
            start: Instant::now(),
            hot: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            keeper: OnceLock::new(),
            mode,
        };
        Arc::new(Spin { shared: Arc::new(shared) })
    }

    /// One that never spins.
    pub fn off() -> Arc<Spin> {
        Spin::new(SpinMode::Off)
    }

    /// Starts the thread that sets and clears the flag on `device`, a duplicate of the descriptor that the session reads.
    pub fn attach(&self, device: OwnedFd) -> io::Result<()> {
        if self.shared.mode == SpinMode::Off {
            return Ok(());
        }
        let shared = self.shared.clone();
        let handle = thread::Builder::new().name("spin".to_owned()).spawn(move || shared.keep(&device))?;
        // There is one descriptor per mount; a second thread would find the place taken and never be woken.
        self.shared.keeper.get_or_init(|| handle.thread().clone());
        Ok(())
    }

    /// To be called once for each request, by the thread that reads them.
    #[inline]
    pub fn request(&self) {
        let before = self.shared.requests.fetch_add(1, Ordering::Relaxed);
        if before % BURST == BURST - 1 {
            self.shared.burst();
        }
    }
}

impl Drop for Spin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(keeper) = self.shared.keeper.get() {
            keeper.unpark();
        }
    }
}

impl Shared {
    /// A full burst came; wakes the keeper if it came fast.
    fn burst(&self) {
        let Some(keeper) = self.keeper.get() else { return };
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let last = self.burst_at.swap(now, Ordering::Relaxed);
        let fast = u128::from(now.saturating_sub(last)) <= BURST_TIME.as_nanos();
        if fast && !self.hot.swap(true, Ordering::Relaxed) {
            keeper.unpark();
        }
    }

    /// The keeper's life: parked while cold, a look each millisecond while hot. A wake-up without a reason, or two for
    /// one reason, only lead to another look at the variables.
    fn keep(&self, device: &OwnedFd) {
        let mut trial = Trial::new(Instant::now());
        while !self.stop.load(Ordering::Relaxed) {
            if !self.hot.load(Ordering::Relaxed) {
                thread::park();
                continue;
            }
            let result = self.stay_hot(device, &mut trial);
            if let Err(error) = result.and(set_nonblocking(device, false)) {
                tracing::warn!("no more spinning: {error}");
                return;
            }
            self.hot.store(false, Ordering::Relaxed);
        }
    }

    /// Returns when there was no request for [`IDLE`]. The flag may be set then.
    fn stay_hot(&self, device: &OwnedFd, trial: &mut Trial) -> io::Result<()> {
        let mut seen = self.requests.load(Ordering::Relaxed);
        let mut start = Instant::now();
        let mut spinning = None;
        while !self.stop.load(Ordering::Relaxed) {
            let spin = self.mode == SpinMode::On || trial.should_spin(start);
            if spinning != Some(spin) {
                set_nonblocking(device, spin)?;
                spinning = Some(spin);
            }
            thread::sleep(IDLE);
            let (now, end) = (self.requests.load(Ordering::Relaxed), Instant::now());
            if now == seen {
                break;
            }
            trial.record(spin, now.wrapping_sub(seen), end - start, end);
            (seen, start) = (now, end);
        }
        Ok(())
    }
}

fn set_nonblocking(device: &OwnedFd, on: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(device)?;
    flags.set(OFlags::NONBLOCK, on);
    Ok(rustix::fs::fcntl_setfl(device, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonblocking(descriptor: &OwnedFd) -> bool {
        rustix::fs::fcntl_getfl(descriptor).unwrap().contains(OFlags::NONBLOCK)
    }

    /// Polls until `condition`, for as long as a loaded machine may take.
    fn eventually(mut condition: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if condition() {
                return true;
            }
            thread::yield_now();
        }
        false
    }

    fn attached(mode: SpinMode) -> (Arc<Spin>, OwnedFd) {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let spin = Spin::new(mode);
        spin.attach(reader.try_clone().unwrap()).unwrap();
        (spin, reader)
    }

    #[test]
    fn a_burst_makes_it_hot_and_idleness_cold() {
        let (spin, descriptor) = attached(SpinMode::On);
        assert!(!nonblocking(&descriptor));
        for _ in 0..3 {
            assert!(eventually(|| {
                spin.request();
                nonblocking(&descriptor)
            }));
            assert!(eventually(|| !nonblocking(&descriptor)));
        }
    }

    #[test]
    fn it_stays_cold_when_off_or_when_requests_are_few() {
        let (spin, descriptor) = attached(SpinMode::Off);
        (0..1000).for_each(|_| spin.request());
        assert!(spin.shared.keeper.get().is_none() && !nonblocking(&descriptor));

        let (spin, _descriptor) = attached(SpinMode::On);
        (0..BURST - 1).for_each(|_| spin.request());
        assert!(!spin.shared.hot.load(Ordering::Relaxed));
    }

    #[test]
    fn dropping_it_while_hot_clears_the_flag() {
        let (spin, descriptor) = attached(SpinMode::On);
        assert!(eventually(|| {
            spin.request();
            nonblocking(&descriptor)
        }));
        let shared = Arc::downgrade(&spin.shared);
        drop(spin);
        assert!(eventually(|| shared.upgrade().is_none()));
        assert!(!nonblocking(&descriptor));
    }
}
