//! What the fuzz targets share: the modules of mqfs that read what others wrote, the properties that are asserted of them,
//! and a limit on the memory that one input may take.

// The modules are here for what the properties use of them.
#![allow(dead_code)]

mod allocation;
pub mod properties;

#[path = "../../src/clock.rs"]
mod clock;
#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/queue/mod.rs"]
mod queue;

#[cfg(feature = "link-stomp")]
mod link;
mod store;
mod view;

/// One input may make mqfs hold so many times its length in bytes...
const MEMORY_PER_BYTE: usize = 256;
/// ...and so many bytes more. A record that says it holds many attributes makes room for up to a MiB of them beforehand.
const MEMORY: usize = 2 << 20;

/// Asserts a property of one input, and that checking it takes memory in proportion to the input.
pub fn check(property: fn(&[u8]), input: &[u8]) {
    let peak = allocation::peak_of(|| property(input));
    let limit = MEMORY + MEMORY_PER_BYTE * input.len();
    assert!(peak <= limit, "{peak} bytes of memory for an input of {}", input.len());
}
