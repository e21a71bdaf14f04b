//! What a queue refuses: more than it may hold, and anything while it is paused.

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::config::QueueConfig;
use crate::queue::properties::{PREFIX, Properties};
use crate::store::{Need, Patience};

use super::View;
use super::waiters::Line;
use super::xattr::Pairs;

impl View {
    /// Admits a new message of the number `id`, and keeps room for it, unless its producer `waits` and the queue lets it; whether
    /// room is kept. Costs nothing in a queue without limits.
    /// `attributes`: those that are known already.
    pub(super) fn admit_message(
        &self,
        (queue, id): (u64, u64),
        config: &QueueConfig,
        attributes: &Pairs,
        waits: bool,
    ) -> Result<bool> {
        config.admit(0).map_err(|error| self.rejected(queue, error))?;
        if !config.is_limited() || (waits && config.makes_wait()) {
            return Ok(false);
        }
        let reserved = match self.waiters.is_taken(Line::Room(queue)) {
            true => Err(Error::WouldBlock),
            // A byte: when those are used up, it is now that the producer is told.
            false => {
                // Who has not said a priority yet may say a higher one before the first byte.
                let said = attributes.iter().any(|(name, _)| name.strip_prefix(PREFIX) == Some("priority"));
                let order = if said { Properties::of(attributes).order(config.priorities) } else { 0 };
                self.store.reserve(queue, id, Need::of_one(1, order), Patience::None)
            }
        };
        reserved.map(|()| true).map_err(|error| self.rejected(queue, error))
    }

    /// Counts an enqueue that was refused because the queue is full or paused; other errors are passed on as they are.
    pub(super) fn rejected(&self, queue: u64, error: Error) -> Error {
        if matches!(error, Error::QueueFull | Error::WouldBlock | Error::Paused)
            && let Err(error) = self.store.count_rejected(queue, clock::now_ms())
        {
            tracing::debug!(queue = self.store.label(queue), %error, "a refused message was not counted");
        }
        error
    }
}
