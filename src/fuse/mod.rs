//! Between the kernel and the view: requests decoded, answers sent, mounting, signals. Only here is `fuser` named.
//!
//! Requests come by `/dev/fuse` ([`device`]) or by io_uring ([`uring`]); [`wire`] reads and writes what is the same on both, and
//! [`dispatch`] has the view do what is asked. `fuser` has only the one way, answers INTERRUPT by itself, and hands out requests decoded
//! and nothing else: so its definitions are used, and not its session.

pub mod ask;
pub mod confine;
pub mod daemon;
pub mod device;
pub mod dispatch;
pub mod fusermount;
pub mod helper;
pub mod mount;
pub mod mountinfo;
pub mod option_list;
pub mod options;
pub mod remounts;
pub mod serve;
pub mod signals;
pub mod spin;
pub mod trial;
pub mod uring;
pub mod wire;
