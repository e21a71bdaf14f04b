//! Whether a process lives, asked by a thread that must not be held up.
//!
//! `/proc/PID/stat` makes its reader wait while that process is in exec (see [`process::stat`]), and in exec the process may be
//! waiting for an answer of the very thread that asks, or for somebody who never answers. [`process::alive`] does not look
//! while it sees that, but the process may begin just then. So the look is another thread's, and who asks does not wait for
//! ever.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};

use super::held::shares;
use super::process::{self, ProcessId};
use crate::background::Alarm;
use crate::locks::{self, Ranked};

/// A look takes some microseconds. After this long the process is taken to live: in exec, it does.
const PATIENCE: Duration = Duration::from_millis(50);

/// So many looks can be stuck at a time, each with a thread of its own, and users share them: those of somebody who makes them hang on
/// purpose are not all. When there are more, every process is taken to live; when they are one user's, every one of that user.
const MOST_STUCK: usize = 32;

type Question = (ProcessId, Sender<bool>);

/// The thread that looks, for one thread that asks.
pub struct Look {
    alarm: Alarm,
    asking: Ranked<Asking, { locks::LOOK }>,
    stuck: Stuck,
    ask: Ask,
}

/// What is asked of the system.
#[derive(Clone, Copy)]
struct Ask {
    /// [`process::alive`].
    alive: fn(ProcessId) -> bool,
    /// [`process::real_user`].
    user: fn(u32) -> Option<u32>,
    /// Whose this process is.
    owner: u32,
}

/// The processes, with their users, at which a thread looks and does not come back. Whoever asks about one of them is answered at once, so a process
/// takes one thread and [`PATIENCE`] once.
type Stuck = Arc<Ranked<HashMap<ProcessId, u32>, { locks::STUCK }>>;

enum Asking {
    /// The thread that looks has nothing else to do.
    Free(Sender<Question>),
    /// It is stuck.
    Nobody,
    Stopped,
}

impl Look {
    /// Starts the thread; it ends when this is dropped or stopped.
    pub fn start(alarm: &Alarm) -> std::io::Result<Self> {
        let owner = rustix::process::geteuid().as_raw();
        Self::with(alarm, Ask { alive: process::alive, user: process::real_user, owner })
    }

    fn with(alarm: &Alarm, ask: Ask) -> std::io::Result<Self> {
        let stuck = Stuck::default();
        let asking = Ranked::new(Asking::Free(begin(alarm, ask.alive, &stuck)?));
        Ok(Self { alarm: alarm.clone(), asking, stuck, ask })
    }

    /// Whether one more look at a process of that number may be stuck.
    fn may_be_stuck(&self, tgid: u32) -> bool {
        let stuck = self.stuck.lock();
        if stuck.is_empty() {
            return true;
        }
        let uid = (self.ask.user)(tgid).unwrap_or_default();
        let (of_all, own) = shares(MOST_STUCK, uid, self.ask.owner);
        stuck.len() < of_all && stuck.values().filter(|other| **other == uid).count() < own
    }

    /// Whether the process lives, as far as is known at once.
    pub fn alive(&self, process: ProcessId) -> bool {
        // One asks at a time, so a question never waits behind another one.
        let mut asking = self.asking.lock();
        if self.stuck.lock().contains_key(&process) || !self.may_be_stuck(process.tgid) {
            return true;
        }
        if matches!(*asking, Asking::Nobody)
            && let Ok(thread) = begin(&self.alarm, self.ask.alive, &self.stuck)
        {
            *asking = Asking::Free(thread);
        }
        let Asking::Free(thread) = &*asking else { return true };
        let (answer, answered) = bounded(1);
        if thread.send((process, answer)).is_err() {
            return true;
        }
        answered.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            // The thread answers first and then removes the process here: either the answer is there now, or it is removed later.
            let uid = (self.ask.user)(process.tgid).unwrap_or_default();
            let mut stuck = self.stuck.lock();
            if let Ok(alive) = answered.try_recv() {
                return alive;
            }
            stuck.insert(process, uid);
            *asking = Asking::Nobody;
            true
        })
    }

    /// Ends the thread.
    pub fn stop(&self) {
        *self.asking.lock() = Asking::Stopped;
    }
}

/// Starts a thread that looks until nobody can ask it any more.
fn begin(alarm: &Alarm, look: fn(ProcessId) -> bool, stuck: &Stuck) -> std::io::Result<Sender<Question>> {
    let (questions, asked) = unbounded::<Question>();
    let stuck = stuck.clone();
    alarm.spawn("mqfs-look", move || {
        for (process, answer) in asked {
            // Who asked may have given up.
            let _ = answer.send(look(process));
            stuck.lock().remove(&process);
        }
    })?;
    Ok(questions)
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn a_process_is_told_from_another_of_its_number() {
        let look = Look::start(&Alarm::default()).unwrap();
        let this = process::identity(std::process::id()).unwrap();
        assert!(look.alive(this));
        // On a busy machine a look may not come back in time, but a later one does.
        while look.alive(ProcessId { start: this.start + 1, ..this }) {}
        look.stop();
        assert!(look.alive(this), "nobody looks: it is given the benefit of the doubt");
    }

    #[test]
    fn looks_that_do_not_come_back_hold_up_no_others() {
        static HELD: Mutex<()> = Mutex::new(());
        let held = HELD.lock();
        // Those of an even number are looked at in vain as long as the lock is held; none lives. Those of larger ones are one user's.
        let alive = |process: ProcessId| {
            if process.tgid.is_multiple_of(2) {
                drop(HELD.lock());
            }
            false
        };
        let user = |tgid| Some(if tgid < 1000 { 7 } else { 0 });
        let look = Look::with(&Alarm::default(), Ask { alive, user, owner: 0 });
        let (look, number) = (look.unwrap(), |tgid| ProcessId { tgid, start: 1 });
        // On a busy machine a look may not come back in time, but the next one does.
        let found_dead = |n| while look.alive(number(n)) {};
        for _ in 0..2 {
            (1..4).for_each(|n| assert!(look.alive(number(2 * n))));
            (1..4).for_each(|n| found_dead(2 * n + 1));
        }
        while look.stuck.lock().len() != 3 {
            std::thread::yield_now();
        }
        (4..100).for_each(|n| assert!(look.alive(number(2 * n))));
        assert!(look.alive(number(1)), "no more threads of a user than so many");
        assert_eq!(look.stuck.lock().len(), shares(MOST_STUCK, 7, 0).1);
        found_dead(1001);
        (500..600).for_each(|n| assert!(look.alive(number(2 * n))));
        assert!(look.alive(number(1001)), "no more threads than so many");
        assert_eq!(look.stuck.lock().len(), MOST_STUCK);
        drop(held);
        while !look.stuck.lock().is_empty() {
            std::thread::yield_now();
        }
        (1..100).chain(1000..1100).for_each(found_dead);
    }
}
