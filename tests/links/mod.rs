//! The campaign of links: what is enqueued in one mount goes through a broker into the queue of another, everything between them is
//! killed, cut and stalled, and a checker counts.
//!
//! ```text
//!  producers --> mount --> mqfs link --> proxy --> broker --> proxy --> mqfs link --> mount
//!      |                                              |                                  |
//!      v                                              v                                  v
//!   journal ----------------------------> checker <--- what is there when all is quiet
//! ```
//!
//! The checker knows nothing but the journal and what a system promises, `systems.rs`.

pub mod campaign;
pub mod checker;
#[cfg(test)]
mod checker_tests;
pub mod ends;
pub mod faults;
pub mod journal;
pub mod keeper;

pub mod message;
pub mod producers;
pub mod proxy;
pub mod summary;
pub mod systems;
