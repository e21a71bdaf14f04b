//! mqfs: a filesystem in which every directory is a message queue.
//!
//! Writing a file enqueues a message; reading it claims it; unlinking it acknowledges it. What the filesystem promises
//! is stated in `man/mqfs.7`. The layers, from the outside in (each uses only those below it):
//!
//! - [`commands`]: one file per verb of the command line;
//! - [`link`]: a queue bound to a broker; it uses mounted files, as any user does;
//! - [`fuse`]: decodes the kernel's requests, calls the view, replies; mounting and signals;
//! - [`view`]: the filesystem as users see it;
//! - [`store`]: messages, queues and drafts on disk;
//! - [`queue`]: the model: names, configuration, states;
//! - [`error`], [`clock`], [`background`], [`on_behalf`], [`fair`] and [`locks`]: leaves.

#![deny(missing_docs)]

pub mod background;
#[cfg(test)]
mod chance;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod error;
pub mod fair;
pub mod fuse;
#[cfg(feature = "link")]
pub mod link;
pub mod locks;
pub mod on_behalf;
pub mod queue;
pub mod store;
pub mod view;

/// What the fuzz targets assert, of the corpus and of some thousand random inputs, so that they stay true between fuzzing.
#[cfg(test)]
#[path = "../fuzz/src/properties.rs"]
mod fuzz_properties;
