//! The model of a queue: what names mean, what can be configured, which states a message passes through.
//!
//! No I/O, no locks and no clock: everything here is a function of its arguments.

pub mod access;
pub mod config;
pub mod delivery;
pub mod duration;
pub mod mark;
pub mod name;
pub mod patterns;
pub mod properties;
pub mod state;
pub mod words;
pub mod worker;
