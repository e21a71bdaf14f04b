//! Many messages at once: the lines that one write completes.

use crate::error::Result;

use super::enqueue::NewBody;
use super::limits::Need;
use super::record::NewMessage;
use super::{Onto, Store};

impl Store {
    /// Enqueues messages, visible and in this order, as one change: after a crash all of them are there or none. `each` is what
    /// they have in common; its number is not used, as each gets one of its own: that of its body file, or a new one.
    ///
    /// Unless they are `admitted`, [`Error::QueueFull`](crate::error::Error::QueueFull) and [`Error::Paused`](crate::error::Error::Paused) when the queue does
    /// not take all of them: see [`Store::how_many_fit`]. The store's lock is held for all of them: keep to some hundreds.
    pub fn enqueue_all(&self, each: &NewMessage, bodies: &[NewBody<'_>], admitted: bool, now: u64) -> Result<()> {
        let mut state = self.lock();
        let queue = each.queue;
        let order = self.order_in(&mut state, queue, &each.attributes)?;
        let need = Need::of_all(bodies.iter().map(NewBody::size), order);
        if !admitted {
            self.admit(&mut state, queue, need, Onto::Nothing)?;
        }
        let plan = self.plan_drops(&mut state, queue, need, Onto::Nothing)?;
        let mut batch = self.db.batch();
        let mut first = None;
        for body in bodies {
            let id = match body {
                NewBody::File { id, .. } => *id,
                NewBody::Inline(_) | NewBody::Draft { .. } => state.take_id(&self.db)?,
            };
            let added = self.add(&mut state, &mut batch, NewMessage { id, ..each.clone() }, *body, now)?;
            first = first.or(added);
        }
        let dropped = self.drop_oldest(&mut state, &mut batch, queue, plan, now)?;
        state.commit(&self.db, batch, now)?;
        drop(state);
        self.discard_bodies(dropped);
        // What their deadlines depend on is the same for all.
        if let Some(added) = first {
            self.note_added(&added);
        }
        Ok(())
    }
}
