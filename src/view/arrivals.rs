//! Lookups that wait a moment for a message to arrive, in queues that keep names.
//!
//! The kernel tells watchers of a directory (inotify's `close_write`) that a file was closed after it has told us of the close
//! and before it tells us that it was the last: a watcher may ask for the name before the message is visible. Its lookup
//! is not answered before the message is there, or was dropped, or the moment has passed.
//!
//! The kernel holds the directory meanwhile: nobody can create or remove anything there. So a message is waited for only so long in
//! all, however often its descriptors are closed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::background::Alarm;
use crate::error::{Error, Result};

use super::access::Caller;
use super::{Attributes, Node};

/// A lookup waits when the last close known of came so short a time ago, and then for so long at most.
const MOMENT: Duration = Duration::from_secs(1);
/// The same for a message without bytes: shells close duplicates of the descriptor before they write.
const MOMENT_WHEN_EMPTY: Duration = Duration::from_millis(250);
/// One message is waited for so long in all, by however many lookups.
const IN_ALL: Duration = Duration::from_secs(1);

/// What is told to whoever looked a name up.
pub type Found = Box<dyn FnOnce(Result<Attributes>) + Send>;

/// A lookup that waits.
pub struct Waiting {
    /// Who asked.
    pub caller: Caller,
    /// In which directory.
    pub directory: Node,
    /// For which name.
    pub name: Vec<u8>,
    /// Gets the answer.
    pub found: Found,
}

/// The messages on their way, and who waits for them.
pub struct Arrivals {
    alarm: Alarm,
    shared: Arc<Shared>,
    /// How long a message is waited for in all.
    in_all: Duration,
}

#[derive(Default)]
struct Shared {
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Default)]
struct Table {
    /// By the numbers of messages that are being written.
    coming: HashMap<u64, Coming>,
    /// The thread that ends waits runs.
    watched: bool,
}

struct Coming {
    /// Which thread closed a descriptor last, when, and how long to wait for more.
    closed: Option<(u32, Instant, Duration)>,
    waiting: Vec<(Instant, Waiting)>,
    /// Up to when somebody waits, or has waited, and how much longer it may be.
    waited: Instant,
    left: Duration,
}

impl Coming {
    /// Until when somebody who comes now may wait, for a `moment` at most; `None` when this message was waited for long enough. Time
    /// in which several wait counts once.
    fn until(&mut self, moment: Duration) -> Option<Instant> {
        let now = Instant::now();
        let from = self.waited.max(now);
        let until = (now + moment).min(from + self.left);
        if until <= now {
            return None;
        }
        self.left -= until.saturating_duration_since(from);
        self.waited = from.max(until);
        Some(until)
    }
}

impl Arrivals {
    /// None yet.
    pub fn new(alarm: &Alarm) -> Self {
        Self { alarm: alarm.clone(), shared: Arc::default(), in_all: IN_ALL }
    }

    /// A message is being written. [`Arrivals::end`] is to be called.
    pub fn begin(&self, id: u64) {
        let coming = Coming { closed: None, waiting: Vec::new(), waited: Instant::now(), left: self.in_all };
        self.shared.table.lock().coming.insert(id, coming);
    }

    /// The thread `tid` has closed a descriptor of the message `id`, which has bytes or is `empty` so far.
    pub fn closed(&self, id: u64, tid: u32, empty: bool) {
        let moment = if empty { MOMENT_WHEN_EMPTY } else { MOMENT };
        if let Some(coming) = self.shared.table.lock().coming.get_mut(&id) {
            coming.closed = Some((tid, Instant::now(), moment));
        }
    }

    /// Nothing is on its way: asked first, as most names that are looked up in vain are not.
    pub fn none(&self) -> bool {
        self.shared.table.lock().coming.is_empty()
    }

    /// Lets a lookup wait for the message `id`; gives it back when it is not about to arrive, or was waited for long enough.
    ///
    /// The thread that closed it does not wait: what it asks comes after the last close, if that was the last.
    pub fn wait(&self, id: u64, lookup: Waiting) -> std::result::Result<(), Waiting> {
        let mut table = self.shared.table.lock();
        let Some(coming) = table.coming.get_mut(&id) else { return Err(lookup) };
        let about_to = coming.closed.filter(|(tid, at, moment)| *tid != lookup.caller.pid && at.elapsed() < *moment);
        let Some(until) = about_to.and_then(|(_, _, moment)| coming.until(moment)) else { return Err(lookup) };
        coming.waiting.push((until, lookup));
        if table.watched {
            self.shared.changed.notify_one();
            return Ok(());
        }
        let shared = self.shared.clone();
        match self.alarm.spawn("mqfs-arrivals", move || shared.watch()) {
            Ok(_) => {
                table.watched = true;
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "nobody could end the wait of a lookup, so it does not wait");
                let last = table.coming.get_mut(&id).and_then(|coming| coming.waiting.pop());
                last.map_or(Ok(()), |(_, lookup)| Err(lookup))
            }
        }
    }

    /// The message has arrived, or never will. Gives who waited.
    pub fn end(&self, id: u64) -> Vec<Waiting> {
        let coming = self.shared.table.lock().coming.remove(&id);
        coming.into_iter().flat_map(|coming| coming.waiting).map(|(_, lookup)| lookup).collect()
    }
}

impl Shared {
    /// Ends waits whose moment has passed, until nobody waits.
    fn watch(&self) {
        let mut table = self.table.lock();
        loop {
            let now = Instant::now();
            let mut over = Vec::new();
            for coming in table.coming.values_mut() {
                over.extend(coming.waiting.extract_if(.., |(until, _)| *until <= now).map(|(_, lookup)| lookup));
            }
            if !over.is_empty() {
                drop(table);
                over.into_iter().for_each(|lookup| (lookup.found)(Err(Error::NotFound)));
                table = self.table.lock();
                continue;
            }
            let next = table.coming.values().flat_map(|coming| &coming.waiting).map(|(until, _)| *until).min();
            let Some(next) = next else {
                table.watched = false;
                return;
            };
            self.changed.wait_until(&mut table, next);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn arrivals(in_all: Duration) -> Arrivals {
        Arrivals { in_all, ..Arrivals::new(&Alarm::default()) }
    }

    fn lookup(pid: u32, answers: &mpsc::Sender<i32>) -> Waiting {
        let (caller, answers) = (Caller { uid: 0, gid: 0, pid }, answers.clone());
        let found: Found = Box::new(move |found| answers.send(found.unwrap_err().errno()).unwrap());
        Waiting { caller, directory: Node::ROOT, name: b"x".to_vec(), found }
    }

    #[test]
    fn only_what_was_just_closed_is_waited_for_and_not_by_who_closed_it() {
        let (answers, _answered) = mpsc::channel();
        let arrivals = arrivals(IN_ALL);
        assert!(arrivals.none());
        assert!(arrivals.wait(1, lookup(5, &answers)).is_err());
        arrivals.begin(1);
        assert!(arrivals.wait(1, lookup(5, &answers)).is_err());
        arrivals.closed(1, 5, false);
        assert!(arrivals.wait(1, lookup(5, &answers)).is_err());
        assert!(arrivals.wait(1, lookup(6, &answers)).is_ok());
        assert_eq!(arrivals.end(1).len(), 1);
        assert!(arrivals.none() && arrivals.end(1).is_empty());
    }

    /// However often its descriptors are closed, a message does not make its directory stand still.
    #[test]
    fn a_message_is_waited_for_only_so_long_in_all() {
        let (answers, answered) = mpsc::channel();
        let arrivals = arrivals(Duration::from_millis(20));
        arrivals.begin(1);
        arrivals.closed(1, 5, false);
        assert!(arrivals.wait(1, lookup(6, &answers)).is_ok());
        assert_eq!(answered.recv_timeout(Duration::from_secs(20)), Ok(libc::ENOENT));
        for _ in 0..3 {
            arrivals.closed(1, 5, false);
            assert!(arrivals.wait(1, lookup(6, &answers)).is_err());
        }
        // Others have their own time.
        arrivals.begin(2);
        arrivals.closed(2, 5, false);
        assert!(arrivals.wait(2, lookup(6, &answers)).is_ok());
    }

    #[test]
    fn those_who_wait_at_a_time_share_it() {
        let (answers, _answered) = mpsc::channel();
        let arrivals = arrivals(10 * MOMENT);
        arrivals.begin(1);
        for _ in 0..100 {
            arrivals.closed(1, 5, false);
            assert!(arrivals.wait(1, lookup(6, &answers)).is_ok());
        }
    }

    #[test]
    fn waits_end_by_themselves() {
        let (answers, answered) = mpsc::channel();
        let arrivals = arrivals(IN_ALL);
        for round in 0..2 {
            arrivals.begin(round);
            arrivals.closed(round, 5, false);
            for pid in 6..9 {
                assert!(arrivals.wait(round, lookup(pid, &answers)).is_ok());
            }
            for _ in 0..3 {
                assert_eq!(answered.recv_timeout(Duration::from_secs(20)), Ok(libc::ENOENT));
            }
            assert!(arrivals.end(round).is_empty());
        }
    }
}
