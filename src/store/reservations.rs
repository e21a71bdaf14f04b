//! Room that is kept for messages on their way into a queue that has limits, and those who wait for it.
//!
//! With `overflow = block` the answer to whom there is no room for is [`Error::WouldBlock`], and the queue remembers how full it
//! was then. When it is less full, or has another configuration, the one who waits is told, once ([`Store::watch_room`]): he is
//! to try again, which makes the queue remember again if it was in vain. So no change of a queue costs more than a look at a
//! field while nobody waits, and no change is missed: the try and the change are both made under the store's lock.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::queue::config::Overflow;

use super::limits::{Need, Room};
use super::state::{Queue, State};
use super::{Onto, Store};

/// The room that is kept for messages that are on their way into a queue, by their own numbers.
///
/// `sum` is that of all that is in `of`. A message is in it from [`Store::reserve`] until it is in the queue's counters
/// instead, in the same step ([`Store::enqueue`], [`Store::publish`]), or until [`Store::release`]; one that is taken back
/// ([`Store::retract`]) is in it again. So none counts twice, and giving back twice does no harm.
#[derive(Debug, Default)]
pub struct Reservations {
    of: HashMap<u64, Reserved>,
    sum: Room,
    /// Those of them that wait for more. Newcomers get nothing meanwhile: else they would take what the others need to end.
    growing: HashSet<u64>,
    /// The one that may use room that others hold who wait for more themselves.
    beyond: Option<u64>,
    /// Somebody waits for room: so full was the queue when there was none for him.
    awaited: Option<Room>,
}

/// What is kept for one message.
#[derive(Clone, Copy, Debug, Default)]
struct Reserved {
    room: Room,
    /// It was admitted as one of this place among the priorities: one that turns out to come after it is admitted anew.
    order: u8,
}

/// What whoever asks for room does when there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// He goes away.
    None,
    /// He begins to wait.
    Waits,
    /// He waits, and it is his turn. `overdue`: he has waited for so long that it is to be seen whether everybody waits for
    /// everybody else.
    Turn {
        /// As told.
        overdue: bool,
    },
}

/// Told of a queue in which somebody may find room who found none, or may claim who could not because too much was claimed. It
/// is called under the store's lock.
pub type RoomWatch = Box<dyn Fn(u64) + Send>;

impl Reservations {
    /// Whether nothing is reserved, and nobody waits.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty() && self.awaited.is_none()
    }

    /// What is reserved in all.
    pub(super) fn sum(&self) -> Room {
        self.sum
    }

    /// Some of those who have room wait for more.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.growing.is_empty()
    }

    /// Whether anything is reserved for a message.
    pub fn holds(&self, id: u64) -> bool {
        self.of.contains_key(&id)
    }

    /// What is reserved for a message.
    fn get(&self, id: u64) -> Room {
        self.of.get(&id).map(|reserved| reserved.room).unwrap_or_default()
    }

    pub(super) fn set(&mut self, id: u64, room: Room) {
        let reserved = self.of.entry(id).or_default();
        self.sum = self.sum.minus(reserved.room).plus(room);
        reserved.room = room;
    }

    /// Whether a message was admitted as one that comes before `order`, if at all.
    fn comes_before(&self, id: u64, order: u8) -> bool {
        self.of.get(&id).is_some_and(|reserved| reserved.order < order)
    }

    pub(super) fn admitted_as(&mut self, id: u64, order: u8) {
        if let Some(reserved) = self.of.get_mut(&id) {
            reserved.order = order;
        }
    }

    /// Gives the room of a message back.
    fn take(&mut self, id: u64) {
        let reserved = self.of.remove(&id).unwrap_or_default();
        self.sum = self.sum.minus(reserved.room);
        self.growing.remove(&id);
        self.beyond = self.beyond.filter(|beyond| *beyond != id);
    }

    /// What those hold who do not wait for more, and are not `id`.
    fn held_by_others_at_work(&self, id: u64) -> Room {
        let waiting = self.growing.iter().filter(|other| **other != id).map(|other| self.get(*other));
        waiting.fold(self.sum.minus(self.get(id)), Room::minus)
    }
}

impl Queue {
    /// Whether one of those who hold room and wait for more, `id`, may go on with room that the others hold. They cannot end
    /// before they get more, and if nobody can take a message, only this one's end makes room: so what is enqueued never is
    /// more than allowed.
    fn fits_beyond(&self, id: u64, need: Room) -> bool {
        let shown = self.shown();
        shown.messages() == shown.dead
            && self.reserved.beyond.is_none_or(|beyond| beyond == id)
            && need.plus(self.filled()).plus(self.reserved.held_by_others_at_work(id)).within(Room::limit(&self.config))
    }

    /// As [`Store::reserve`].
    fn reserve(&mut self, id: u64, need: Room, patience: Patience) -> Result<()> {
        let held = self.reserved.get(id);
        let need = need.max(held);
        if need == held {
            return Ok(());
        }
        let new = held == Room::default();
        let behind = match patience {
            Patience::Turn { .. } if !new => false,
            _ => self.config.makes_wait() && self.reserved.growing.iter().any(|other| *other != id),
        };
        if behind || !self.fits(need, held) {
            let refused = self.full(need);
            if new || patience == Patience::None || matches!(refused, Error::QueueFull) {
                return Err(refused);
            }
            self.reserved.growing.insert(id);
            let goes_on = patience == Patience::Turn { overdue: true } || self.reserved.beyond == Some(id);
            if !goes_on || !self.fits_beyond(id, need) {
                return Err(refused);
            }
            self.reserved.beyond = Some(id);
        }
        self.reserved.set(id, need);
        Ok(())
    }

    /// What fills the queue or will.
    fn used(&self) -> Room {
        self.filled().plus(self.reserved.sum)
    }

    /// There is no room for `need` now: whether it is worth waiting for.
    pub(super) fn full(&mut self, need: Room) -> Error {
        if self.config.overflow != Overflow::Block || !need.within(Room::limit(&self.config)) {
            return Error::QueueFull;
        }
        self.reserved.awaited = Some(self.used());
        Error::WouldBlock
    }

    /// Whether somebody who found no room may find some now; says so once.
    pub(super) fn has_room_again(&mut self) -> bool {
        let less = self.reserved.awaited.is_some_and(|then| !then.within(self.used()));
        less && self.reserved.awaited.take().is_some()
    }

    /// As [`Queue::has_room_again`] after something else has changed that he waited for.
    pub(super) fn is_awaited(&mut self) -> bool {
        self.reserved.awaited.take().is_some()
    }
}

impl Store {
    /// Tells who is to be told when there may be room for somebody who found none.
    pub fn watch_room(&self, watch: RoomWatch) {
        self.lock().watch_room(watch);
    }

    /// Keeps room for the message of the number `id`, which is on its way into a queue; `need` is what it needs in all.
    /// What was kept for it before stays when there is none: [`Error::QueueFull`], or [`Error::WouldBlock`] when the queue lets
    /// its producers wait. Whoever then waits and goes away without an answer has to call [`Store::stop_waiting`].
    pub fn reserve(&self, queue: u64, id: u64, need: impl Into<Need>, patience: Patience) -> Result<()> {
        let mut state = self.lock();
        let need = need.into();
        let reservations = &state.queue(&self.db, queue)?.reserved;
        let held = reservations.get(id);
        if need.room().max(held) != held || reservations.comes_before(id, need.order()) {
            self.refuse_below(&mut state, queue, need, Onto::Nothing)?;
        }
        let remembered = state.queue(&self.db, queue)?;
        let reserved = remembered.reserve(id, need.room(), patience);
        if reserved.is_ok() {
            remembered.reserved.admitted_as(id, need.order());
        }
        if !matches!(reserved, Err(Error::WouldBlock)) {
            state.stop_waiting(queue, id);
        }
        reserved
    }

    /// The writer of a message does not wait for room any more.
    pub fn stop_waiting(&self, queue: u64, id: u64) {
        self.lock().stop_waiting(queue, id);
    }

    /// Gives back the room that was kept for a message.
    pub fn release(&self, queue: u64, id: u64) {
        self.lock().give_back_room(queue, id);
    }
}

impl State {
    /// Sets who is told of room.
    pub fn watch_room(&mut self, watch: RoomWatch) {
        self.room_watch = Some(watch);
    }

    /// Tells that somebody may find room in these queues.
    pub fn tell_of_room(&self, queues: impl IntoIterator<Item = u64>) {
        if let Some(watch) = &self.room_watch {
            queues.into_iter().for_each(watch);
        }
    }

    /// Gives back the room that was kept for a message.
    pub fn give_back_room(&mut self, queue: u64, id: u64) {
        let Some(remembered) = self.remembered(queue) else { return };
        let grew = remembered.reserved.growing.contains(&id);
        remembered.reserved.take(id);
        if remembered.has_room_again() || (grew && remembered.is_awaited()) {
            self.tell_of_room([queue]);
        }
    }

    /// The writer of a message does not wait any more: others may get what was to be his.
    fn stop_waiting(&mut self, queue: u64, id: u64) {
        let Some(remembered) = self.remembered(queue) else { return };
        if remembered.reserved.growing.remove(&id) && remembered.is_awaited() {
            self.tell_of_room([queue]);
        }
    }
}

#[cfg(test)]
#[path = "reservations_tests.rs"]
mod tests;
