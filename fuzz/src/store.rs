//! Of the store: its keys and records.

#[path = "../../src/store/keys.rs"]
pub mod keys;
#[path = "../../src/store/record.rs"]
pub mod record;
#[path = "../../src/store/upgrade.rs"]
mod upgrade;

pub use keys::ROOT;
