//! How much of the log a user may take.
//!
//! Whoever writes nonsense into a configuration, or is refused in a loop, would fill the disk under the log, and what an
//! operator has to know would be lost among it. So the lines that a user causes are counted, and beyond so many at a time
//! they are held back; a line says how many. What mqfs says for itself is never held back. Nor are errors by other lines:
//! each error has a measure of its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::on_behalf;

/// A user may cause so many lines at once...
const BURST: u64 = 200;
/// ...and then one in this time: some 18 MB an hour of the longest ones.
const EACH: Duration = Duration::from_millis(200);
/// How often it is told how many were held back.
const TELL: Duration = Duration::from_secs(10);
/// So many measures are kept. Where users are more, those that come later share one.
const MEASURES: usize = 4096;

/// Whose lines, and if they are errors, which.
type Key = (Option<u32>, Option<Identifier>);

/// Counts the lines of the users, and holds back those that are too many.
///
/// The lock is a leaf: it is held for a look at the table, and while nothing is logged.
#[derive(Default)]
pub struct Held {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    measures: HashMap<Key, Measure>,
    /// When it was last looked for measures that nobody needs any more.
    looked: Option<Instant>,
    /// Lines of a user were held back and are not told of.
    untold: bool,
    ending: bool,
}

struct Measure {
    /// How many more lines there may be, as of then.
    left: u64,
    since: Instant,
    /// How many were held back since that was told.
    held: u64,
}

impl Measure {
    fn new(now: Instant) -> Measure {
        Measure { left: BURST, since: now, held: 0 }
    }

    /// Whether there may be another line.
    fn takes(&mut self, now: Instant) -> bool {
        let more = now.saturating_duration_since(self.since).as_nanos() / EACH.as_nanos();
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        if self.left.saturating_add(more) >= BURST {
            (self.left, self.since) = (BURST, now);
        } else {
            self.left += more;
            self.since += EACH * u32::try_from(more).unwrap_or(u32::MAX);
        }
        if self.left == 0 {
            self.held += 1;
            return false;
        }
        self.left -= 1;
        true
    }

    /// It is as a new one is.
    fn is_spare(&self, now: Instant) -> bool {
        self.held == 0 && now.saturating_duration_since(self.since) >= EACH * u32::try_from(BURST).unwrap_or(u32::MAX)
    }
}

impl State {
    /// Whether a line may be written.
    fn takes(&mut self, key: Key, now: Instant) -> bool {
        let key = if self.has_room(&key, now) { key } else { (None, None) };
        let takes = self.measures.entry(key).or_insert_with(|| Measure::new(now)).takes(now);
        self.untold |= !takes;
        takes
    }

    fn has_room(&mut self, key: &Key, now: Instant) -> bool {
        if self.measures.contains_key(key) || self.measures.len() < MEASURES {
            return true;
        }
        // Not for each line of those who find no room.
        if self.looked.is_none_or(|at| now.saturating_duration_since(at) >= TELL) {
            self.looked = Some(now);
            self.measures.retain(|_, measure| !measure.is_spare(now));
        }
        self.measures.len() < MEASURES
    }

    /// How many lines of which user were held back since this was asked last; of those who share a measure, of no user.
    fn held(&mut self) -> BTreeMap<Option<u32>, u64> {
        let mut held = BTreeMap::new();
        for ((user, _), measure) in &mut self.measures {
            let lines = std::mem::take(&mut measure.held);
            if lines > 0 {
                *held.entry(*user).or_default() += lines;
            }
        }
        self.untold = false;
        held
    }
}

impl Held {
    fn takes(&self, key: Key) -> bool {
        let mut state = self.state.lock();
        let untold = state.untold;
        let takes = state.takes(key, Instant::now());
        if state.untold && !untold {
            self.changed.notify_all();
        }
        takes
    }

    /// Waits until lines were held back, and tells at once that it is so, and then every [`TELL`] how many more were, until
    /// there are none. Ends when [`Teller`] is dropped, and tells the rest.
    fn tell(&self) {
        let mut state = self.state.lock();
        while !state.ending {
            if !state.untold {
                self.changed.wait(&mut state);
                continue;
            }
            let held = state.held();
            drop(state);
            log(held);
            state = self.state.lock();
            let until = Instant::now() + TELL;
            while !state.ending && !self.changed.wait_until(&mut state, until).timed_out() {}
        }
        let held = state.held();
        drop(state);
        log(held);
    }
}

fn log(held: BTreeMap<Option<u32>, u64>) {
    for (user, lines) in held {
        match user {
            Some(user) => tracing::warn!(user, lines, "held back: this user causes too many lines"),
            None => tracing::warn!(lines, "held back: too many users cause too many lines"),
        }
    }
}

/// What decides before a line is even put together.
pub struct Holding(pub Arc<Held>);

impl<S: Subscriber> Layer<S> for Holding {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let Some(user) = on_behalf::user() else { return true };
        let of = event.metadata();
        self.0.takes((Some(user), (*of.level() == Level::ERROR).then(|| of.callsite())))
    }
}

/// The thread that tells how many lines were held back.
pub struct Teller {
    held: Arc<Held>,
    thread: Option<JoinHandle<()>>,
}

impl Teller {
    /// Starts it.
    pub fn start(held: &Arc<Held>) -> std::io::Result<Teller> {
        let of = held.clone();
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || of.tell())?;
        Ok(Teller { held: held.clone(), thread: Some(thread) })
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.held.state.lock().ending = true;
        self.held.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_burst_and_then_some_and_costs_others_nothing() {
        let (mut state, start) = (State::default(), Instant::now());
        let taken = |state: &mut State, user: u32, now: Instant| {
            (0..1000).filter(|_| state.takes((Some(user), None), now)).count()
        };
        assert_eq!(taken(&mut state, 1, start), 200);
        assert_eq!(taken(&mut state, 1, start + EACH * 5), 5);
        assert_eq!(taken(&mut state, 2, start + EACH * 5), 200);
        assert_eq!(state.held(), BTreeMap::from([(Some(1), 1795), (Some(2), 800)]));
        assert_eq!(state.held(), BTreeMap::new());
        assert_eq!(taken(&mut state, 1, start + EACH * 10_000), 200, "no more than a burst, however long it was quiet");
    }

    #[test]
    fn users_without_end_cost_a_bounded_amount_of_memory() {
        let (mut state, start) = (State::default(), Instant::now());
        for user in 0..100_000 {
            state.takes((Some(user), None), start);
        }
        assert!(state.measures.len() <= MEASURES + 1);
        assert!(state.held().contains_key(&None), "those that came late share a measure");
        let later = start + EACH * 1000;
        assert!(state.takes((Some(7_000_000), None), later) && state.measures.len() <= MEASURES);
    }
}
