//! The queue as files, as any worker and any producer uses it. Nothing but the standard library and system calls.
//!
//! - [`queue`]: the directory, its attributes, and whether its mount is there;
//! - [`outgoing`]: claim, read, acknowledge, give back;
//! - [`batch`]: what is written to be enqueued together, and the mark that goes with it; [`room`]: how much that may be.

pub mod batch;
pub mod outgoing;
pub mod queue;
pub mod room;
