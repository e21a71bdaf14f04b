//! What a link that takes messages in leaves in the queue's mark, in the same step that enqueues them: so it knows after any crash
//! what is in the queue.
//!
//! - [`remembered`]: of a queue, the newest identities;
//! - [`positions`]: of a log, where it goes on.

pub mod positions;
pub mod remembered;

pub use positions::{At, Positions, Start};
pub use remembered::Remembered;

/// What tells a message from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// What its producer has called it.
    Named(String),
    /// Its place in a log.
    At(At),
}

/// What is in the queue, as its mark tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Of a queue.
    Identities(Remembered),
    /// Of a log.
    Positions(Positions),
}

impl Known {
    /// Whether it is in the queue.
    pub fn has(&self, identity: &Identity) -> bool {
        match (self, identity) {
            (Known::Identities(remembered), Identity::Named(name)) => remembered.has(name),
            (Known::Positions(positions), Identity::At(at)) => positions.has(*at),
            _ => false,
        }
    }

    /// It will be in the queue.
    pub fn add(&mut self, identity: &Identity) {
        match (self, identity) {
            (Known::Identities(remembered), Identity::Named(name)) => remembered.add(name),
            (Known::Positions(positions), Identity::At(at)) => positions.add(*at),
            _ => {}
        }
    }

    /// Writes the mark that says so.
    pub fn render(&self) -> Vec<u8> {
        match self {
            Known::Identities(remembered) => remembered.render(),
            Known::Positions(positions) => positions.render().into_bytes(),
        }
    }

    /// Of a log, where it goes on.
    pub fn positions(&self) -> Option<&Positions> {
        match self {
            Known::Identities(_) => None,
            Known::Positions(positions) => Some(positions),
        }
    }
}
