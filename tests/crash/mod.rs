//! The crash test: programs produce and consume, mqfs is killed or its disk loses power, and a checker looks at what became
//! of every message.
//!
//! ```text
//!  producers, workers ----> mount ----> store        killed, and the disk cut, by the campaign
//!          |                                 |
//!          v                                 v
//!       journals ---------> checker <--- what the campaign sees when all is quiet
//! ```
//!
//! Every process writes a journal of its own, outside the mount, of what it is about to do and what it was told. The checker
//! knows nothing but these journals and what the queues promise.

pub mod actors;
pub mod body;
pub mod campaign;
pub mod checker;
#[cfg(test)]
mod checker_tests;
pub mod evidence;
pub mod feeders;
pub mod gone;
pub mod journal;
pub mod marks;
pub mod movers;
pub mod observer;
pub mod order;
pub mod places;
pub mod producers;
pub mod promises;
pub mod workers;
