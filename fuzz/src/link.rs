//! Of the links: what brokers say.

#[path = "stomp.rs"]
pub mod stomp;
