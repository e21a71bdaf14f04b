//! Requests that wait for the next message of a queue, or for room in it. No thread waits with them.
//!
//! To make a request wait, hand it to [`View::wait`] as a [`Waiter`], a closure that owns the reply:
//!
//! ```text
//! let mut reply = Some(reply);
//! view.wait(Line::Message(queue), caller.pid, Box::new(move |turn| {
//!     let outcome = match turn {
//!         Turn::Try => match view.take_something() {
//!             Err(Error::WouldBlock) => return false,         // goes on waiting, in its old place
//!             outcome => outcome,
//!         },
//!         Turn::GiveUp(why) => Err(why),                      // interrupted, or the mount goes away
//!     };
//!     if let Some(reply) = reply.take() { reply(outcome) }    // with no lock held
//!     true
//! }));
//! ```
//!
//! Whoever makes come true what a line waits for calls [`View::became_ready`] once it is visible,
//! holding no lock that a waiter may take. For room it is the store that calls [`Waiters::room_came`], and the watch thread
//! serves the lines.
//!
//! - A line is served in the order of arrival. The first is asked to try; if it is satisfied, the next; the first that is
//!   not ends the round. So one message wakes one waiter.
//! - No wake-up is lost. A waiter is in the table before its first try, and a try looks at the store under the store's
//!   lock; a message becomes visible under the same lock, before the call. So either the try sees the message, or the call
//!   comes after the waiter was entered and finds it. A call that finds somebody else serving the line leaves the mark
//!   `again`, which is looked at under the table's lock before the round ends.
//! - A request is answered once. Whoever calls a waiter has first taken it out of the table under the table's lock: the
//!   one who serves the line, the thread that gives up those who were interrupted, or the end. While it is out, nobody else
//!   can find it.
//! - The table's lock is held for no call: neither a waiter's, nor the store's, nor a notification.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::Error;
use crate::on_behalf;
use crate::queue::state::State;
use crate::store::record::MessageRecord;

use super::View;

pub use super::line::Line;

/// What a waiter is to do.
pub enum Turn {
    /// Try to take what is waited for, and if that succeeds or fails for good, answer.
    Try,
    /// Answer with this error.
    GiveUp(Error),
}

/// A request that waits. Says whether it has answered; if not, it goes on waiting.
pub type Waiter = Box<dyn FnMut(Turn) -> bool + Send>;

/// Tells somebody who polls to look again.
pub type Notify = Box<dyn FnOnce() + Send>;

/// So many are served by one call; the rest by the watch thread, as the caller has other things to do.
const AT_ONCE: usize = 64;
/// The kernel may tell that a request is interrupted before it hands the request over: so many are remembered.
const EARLY: usize = 1024;

/// All who wait.
#[derive(Default)]
pub struct Waiters {
    /// Whether there is a line, to tell at no cost that there is none.
    ///
    /// Relaxed: what orders this store and load is the store's lock, as told above.
    busy: AtomicBool,
    table: Mutex<Table>,
    /// There is something for the watch thread to do.
    changed: Condvar,
}

#[derive(Default)]
struct Table {
    /// The next ticket. Tickets are given in the order of arrival.
    next: u64,
    parked: BTreeMap<u64, Parked>,
    lines: HashMap<Line, Queue>,
    /// The tickets of requests of which the kernel tells when they are interrupted, by their numbers; also while they are being
    /// served.
    requests: HashMap<u64, u64>,
    /// Requests that were interrupted and were not parked then: they are being served, or are yet to come.
    interrupted: VecDeque<u64>,
    /// How many are parked whose signals have to be looked at.
    looked_at: usize,
    /// How many are parked that hold room and want more.
    more: usize,
    errands: Errands,
    /// The watch thread sleeps until there is something to look at.
    asleep: bool,
    /// Nobody waits any more.
    closed: bool,
}

struct Parked {
    line: Line,
    /// Comes before those of a higher rank in its line.
    rank: u64,
    /// The thread that asks; 0 if it is not visible from here.
    tid: u32,
    /// The number of the request, as long as the kernel will tell when it is interrupted. Otherwise the thread's signals have to be
    /// looked at.
    request: Option<u64>,
    since: Instant,
    waiter: Waiter,
}

/// Who is in one line. It is there while anybody is in it, or it is being served.
#[derive(Default)]
struct Queue {
    /// With the ranks.
    tickets: BTreeSet<(u64, u64)>,
    /// Somebody is serving it...
    served: bool,
    /// ...and has to look again.
    again: bool,
    /// Those who poll, by their open files.
    pollers: HashMap<u64, Notify>,
}

/// What is left to the watch thread.
#[derive(Default)]
pub(super) struct Errands {
    /// Lines to be served on.
    pub serve: BTreeSet<Line>,
    /// Lines in which something may be there for those who poll.
    pub notify: BTreeSet<Line>,
}

impl Errands {
    fn is_empty(&self) -> bool {
        self.serve.is_empty() && self.notify.is_empty()
    }
}

/// What the watch thread is to do next.
pub(super) enum Work {
    /// At once.
    Errands(Errands),
    /// Look whether these are to be given up.
    Looks(Vec<Seen>),
}

/// Somebody who waits.
pub(super) struct Seen {
    /// The ticket.
    pub ticket: u64,
    /// What for.
    pub line: Line,
    /// The thread that asks; 0 if it is not visible from here.
    pub tid: u32,
    /// Since when.
    pub since: Instant,
}

impl Table {
    fn park(&mut self, ticket: u64, parked: Parked) {
        self.lines.entry(parked.line).or_default().tickets.insert((parked.rank, ticket));
        self.count(&parked, usize::wrapping_add);
        self.parked.insert(ticket, parked);
    }

    fn count(&mut self, parked: &Parked, change: fn(usize, usize) -> usize) {
        self.looked_at = change(self.looked_at, usize::from(parked.request.is_none()));
        self.more = change(self.more, usize::from(matches!(parked.line, Line::More(_))));
    }

    /// Whether the request was interrupted while it was not parked.
    fn was_interrupted(&mut self, request: Option<u64>) -> bool {
        let at = self.interrupted.iter().position(|interrupted| Some(*interrupted) == request);
        at.and_then(|at| self.interrupted.remove(at)).is_some()
    }

    /// The request of somebody who was taken out is answered.
    fn answered(&mut self, parked: &Parked) {
        if let Some(request) = parked.request {
            self.requests.remove(&request);
            self.was_interrupted(parked.request);
        }
    }

    fn take(&mut self, ticket: u64) -> Option<Parked> {
        let parked = self.parked.remove(&ticket)?;
        self.count(&parked, usize::wrapping_sub);
        if let Some(queue) = self.lines.get_mut(&parked.line) {
            queue.tickets.remove(&(parked.rank, ticket));
        }
        self.tidy(parked.line);
        Some(parked)
    }

    /// There is somebody for the watch thread to look at now and then.
    fn is_to_be_looked_at(&self) -> bool {
        self.looked_at > 0 || self.more > 0
    }

    /// Takes the first of a line that is being served. When there is nobody, the round is over.
    fn first(&mut self, line: Line) -> Option<(u64, Parked)> {
        let queue = self.lines.get_mut(&line)?;
        queue.again = false;
        let first = queue.tickets.first().copied();
        match first.and_then(|(_, ticket)| Some((ticket, self.take(ticket)?))) {
            Some(first) => Some(first),
            None => {
                self.end(line);
                None
            }
        }
    }

    /// Ends a round.
    fn end(&mut self, line: Line) {
        if let Some(queue) = self.lines.get_mut(&line) {
            queue.served = false;
            if !queue.pollers.is_empty() {
                self.errands.notify.insert(line);
            }
        }
        self.tidy(line);
    }

    fn tidy(&mut self, line: Line) {
        let idle = |queue: &Queue| queue.tickets.is_empty() && queue.pollers.is_empty() && !queue.served;
        if self.lines.get(&line).is_some_and(idle) {
            self.lines.remove(&line);
        }
    }
}

impl Waiters {
    fn with<R>(&self, change: impl FnOnce(&mut Table) -> R) -> R {
        let mut table = self.table.lock();
        let result = change(&mut table);
        self.busy.store(!table.lines.is_empty(), Ordering::Relaxed);
        if !table.errands.is_empty() || (table.asleep && table.is_to_be_looked_at()) {
            self.changed.notify_one();
        }
        result
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// How many wait in a line.
    pub fn waiting(&self, line: Line) -> usize {
        let waiting = |table: &mut Table| table.lines.get(&line).map_or(0, |queue| queue.tickets.len());
        if self.is_busy() { self.with(waiting) } else { 0 }
    }

    /// How many wait in the lines of all queues that `of` chooses.
    pub fn all_waiting(&self, of: impl Fn(Line) -> bool) -> usize {
        let counted = |(line, queue): (&Line, &Queue)| if of(*line) { queue.tickets.len() } else { 0 };
        self.with(|table| table.lines.iter().map(counted).sum())
    }

    /// How many wait for room in a queue.
    pub fn waiting_for_room(&self, queue: u64) -> usize {
        self.waiting(Line::More(queue)) + self.waiting(Line::Room(queue))
    }

    /// How many wait for room in all queues.
    pub fn all_waiting_for_room(&self) -> usize {
        self.all_waiting(Line::is_for_room)
    }

    /// There may be room in a queue, or a message that may be claimed now: the watch thread is to serve who waits for it. May be
    /// called under any lock.
    pub fn room_came(&self, queue: u64) {
        self.with(|table| {
            let lines = [Line::More(queue), Line::Room(queue), Line::Message(queue)].into_iter();
            let there: Vec<Line> = lines.filter(|line| table.lines.contains_key(line)).collect();
            table.errands.serve.extend(there);
        });
    }

    /// The lines for more room whose first has waited for so long.
    pub(super) fn overdue(&self, wait: Duration) -> Vec<Line> {
        self.with(|table| {
            let since = |queue: &Queue| Some(table.parked.get(&queue.tickets.first()?.1)?.since);
            let overdue = |(line, queue): (&Line, &Queue)| {
                let long = since(queue).is_some_and(|since| since.elapsed() >= wait);
                (matches!(line, Line::More(_)) && long).then_some(*line)
            };
            table.lines.iter().filter_map(overdue).collect()
        })
    }

    /// Whether whoever comes now has to wait behind others.
    pub fn is_taken(&self, line: Line) -> bool {
        self.is_busy() && self.with(|table| table.lines.get(&line).is_some_and(|q| q.served || !q.tickets.is_empty()))
    }

    /// Enters a waiter: the request of that number, of the thread `tid`. Gives it back with the reason when it cannot wait.
    fn enter(
        &self,
        (line, rank): (Line, u64),
        (tid, request): (u32, Option<u64>),
        waiter: Waiter,
    ) -> Result<(), (Waiter, Error)> {
        self.with(|table| {
            if table.closed {
                return Err((waiter, Error::GoingAway));
            }
            if table.was_interrupted(request) {
                return Err((waiter, Error::Interrupted));
            }
            table.next += 1;
            let ticket = table.next;
            if let Some(request) = request {
                table.requests.insert(request, ticket);
            }
            table.park(ticket, Parked { line, rank, tid, request, since: Instant::now(), waiter });
            Ok(())
        })
    }

    /// The kernel tells that whoever waits for the answer to that request has got a signal.
    ///
    /// It tells once. So whoever goes on waiting, because the signal would do nothing to a writer, is looked at from then on.
    pub fn interrupt(&self, request: u64) {
        let given_up = self.with(|table| {
            let ticket = table.requests.get(&request).copied();
            let Some((ticket, parked)) = ticket.and_then(|ticket| Some((ticket, table.take(ticket)?))) else {
                table.interrupted.truncate(EARLY - 1);
                table.interrupted.push_front(request);
                return None;
            };
            table.requests.remove(&request);
            Some((ticket, parked))
        });
        let Some((ticket, mut parked)) = given_up else { return };
        if !parked.line.is_for_room() || parked.tid == 0 || parked.line.is_interrupted(parked.tid) {
            return self.send_away(parked, Error::Interrupted);
        }
        parked.request = None;
        let line = parked.line;
        self.with(|table| table.park(ticket, parked));
        self.serve(line); // what came meanwhile
    }

    /// Serves a line, one after the other, until one is not satisfied.
    pub(super) fn serve(&self, line: Line) {
        let begun = self.with(|table| match table.lines.get_mut(&line) {
            Some(queue) if queue.served => {
                queue.again = true;
                false
            }
            Some(queue) => {
                queue.served = true;
                true
            }
            None => false,
        });
        if !begun {
            return;
        }
        for _ in 0..AT_ONCE {
            let Some((ticket, mut parked)) = self.with(|table| table.first(line)) else { return };
            // What is given to the dying is given back, but only when they are gone.
            let turn = if line.is_interrupted(parked.tid) { Turn::GiveUp(Error::Interrupted) } else { Turn::Try };
            if (parked.waiter)(turn) {
                self.with(|table| table.answered(&parked));
                continue;
            }
            let back = self.with(|table| {
                let why = match table.was_interrupted(parked.request) {
                    _ if table.closed => Some(Error::GoingAway),
                    true => Some(Error::Interrupted),
                    false => None,
                };
                if let Some(why) = why {
                    table.end(line);
                    return Err((parked, why));
                }
                table.park(ticket, parked);
                let again = table.lines.get(&line).is_some_and(|queue| queue.again);
                if !again {
                    table.end(line);
                }
                Ok(again)
            });
            match back {
                Ok(true) => {}
                Ok(false) => return,
                Err((parked, why)) => return self.send_away(parked, why),
            }
        }
        self.with(|table| {
            table.errands.serve.insert(line);
            table.end(line);
        });
    }

    /// Answers one with an error, if it still waits.
    pub(super) fn give_up(&self, ticket: u64, why: Error) {
        if let Some(parked) = self.with(|table| table.take(ticket)) {
            self.send_away(parked, why);
        }
    }

    /// Answers somebody who was taken out with an error.
    fn send_away(&self, mut parked: Parked, why: Error) {
        (parked.waiter)(Turn::GiveUp(why));
        self.with(|table| table.answered(&parked));
        // Somebody else may get what this one did not: the next, who needs less room, or what came while this one was out.
        self.serve(parked.line);
    }

    /// Notes who is to be told when there is something for a line: once, and in place of who was noted for that open file
    /// before. Whoever has noted looks himself afterwards. When nobody waits any more, nobody is noted.
    pub fn note_poller(&self, line: Line, handle: u64, notify: Notify) {
        self.with(|table| {
            if !table.closed {
                table.lines.entry(line).or_default().pollers.insert(handle, notify);
            }
        });
    }

    /// Forgets who polled an open file.
    pub fn forget_poller(&self, line: Line, handle: u64) {
        if self.is_busy() {
            self.with(|table| {
                if let Some(queue) = table.lines.get_mut(&line) {
                    queue.pollers.remove(&handle);
                }
                table.tidy(line);
            });
        }
    }

    /// Takes those out who poll for a line.
    pub(super) fn pollers(&self, line: Line) -> Vec<Notify> {
        self.with(|table| {
            let pollers = table.lines.get_mut(&line).map(|queue| std::mem::take(&mut queue.pollers));
            table.tidy(line);
            pollers.into_iter().flat_map(HashMap::into_values).collect()
        })
    }

    /// Whether anybody polls for a line.
    pub(super) fn is_polled(&self, line: Line) -> bool {
        self.with(|table| table.lines.get(&line).is_some_and(|queue| !queue.pollers.is_empty()))
    }

    /// Sends everybody away with [`Error::GoingAway`], and whoever comes later.
    pub fn close(&self) {
        let (parked, pollers) = self.with(|table| {
            table.closed = true;
            let parked: Vec<u64> = table.parked.keys().copied().collect();
            let parked: Vec<Parked> = parked.into_iter().filter_map(|ticket| table.take(ticket)).collect();
            let queues = table.lines.values_mut();
            let pollers: Vec<Notify> =
                queues.flat_map(|queue| std::mem::take(&mut queue.pollers).into_values()).collect();
            table.lines.retain(|_, queue| queue.served);
            (parked, pollers)
        });
        self.changed.notify_all();
        for mut parked in parked {
            (parked.waiter)(Turn::GiveUp(Error::GoingAway));
        }
        pollers.into_iter().for_each(|notify| notify());
    }

    /// For the watch thread: sleeps until there is something to do. At `tick`, and each `every` after it, that is to look at
    /// the next `at_most` who wait, from the ticket after `looked` on; errands come at once. `None` when it is over.
    pub(super) fn work(&self, tick: &mut Instant, every: Duration, looked: &mut u64, at_most: usize) -> Option<Work> {
        let mut table = self.table.lock();
        loop {
            if table.closed {
                return None;
            }
            if !table.errands.is_empty() {
                return Some(Work::Errands(std::mem::take(&mut table.errands)));
            }
            if !table.is_to_be_looked_at() {
                table.asleep = true;
                self.changed.wait(&mut table);
                table.asleep = false;
                *tick = Instant::now() + every;
                continue;
            }
            if Instant::now() < *tick {
                self.changed.wait_until(&mut table, *tick);
                continue;
            }
            *tick = Instant::now() + every;
            let from = table.parked.range(*looked + 1..).chain(table.parked.range(..=*looked));
            let from = from.filter(|(_, parked)| parked.request.is_none());
            let seen = |(ticket, parked): (&u64, &Parked)| {
                let Parked { line, tid, since, .. } = *parked;
                Seen { ticket: *ticket, line, tid, since }
            };
            let looks: Vec<_> = from.take(at_most).map(seen).collect();
            *looked = looks.last().map_or(0, |seen| seen.ticket);
            return Some(Work::Looks(looks));
        }
    }
}

impl View {
    /// Makes a request of the thread `tid` wait in a line, or answers it at once if what it waits for is there.
    pub(super) fn wait(&self, line: Line, tid: u32, waiter: Waiter) {
        self.wait_ranked(line, 0, tid, waiter);
    }

    /// As [`View::wait`], behind those of a lower rank and before those of a higher one.
    pub(super) fn wait_ranked(&self, line: Line, rank: u64, tid: u32, waiter: Waiter) {
        // (Who is served is looked at once: the kernel does not tell of a signal that came before it handed the request over.)
        match self.waiters.enter((line, rank), (tid, on_behalf::request()), waiter) {
            Ok(()) => self.waiters.serve(line),
            Err((mut waiter, why)) => {
                waiter(Turn::GiveUp(why));
            }
        }
    }

    /// The kernel tells that whoever waits for the answer to the request of that number has got a signal. Who waits for something
    /// that may never come is answered [`Error::Interrupted`].
    pub fn interrupt(&self, request: u64) {
        self.waiters.interrupt(request);
    }

    /// A message of `queue` may have become ready, or may be claimed from now on. To be called after it is visible to all, with
    /// no lock held that a waiter may take. Costs next to nothing when nobody waits for anything.
    pub(super) fn became_ready(&self, queue: u64) {
        if self.waiters.is_busy() {
            self.waiters.serve(Line::Message(queue));
        }
    }

    /// Calls those who wait for a message, when the one of this record, which has just changed its state, is for them.
    pub(super) fn announce(&self, message: &MessageRecord) {
        if message.state() == State::Ready {
            self.became_ready(message.queue);
        }
    }
}

#[cfg(test)]
#[path = "waiters_tests.rs"]
mod tests;
