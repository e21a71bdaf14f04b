//! Of STOMP: its frames.

#[path = "../../src/link/stomp/frame.rs"]
pub mod frame;
