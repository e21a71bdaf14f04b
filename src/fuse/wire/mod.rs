//! What the kernel and mqfs say to each other, whatever carries it.

pub mod abi;
pub mod answer;
pub mod request;
