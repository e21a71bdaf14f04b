//! Between the kernel and the view: requests decoded, replies sent, mounting, signals. Only here is `fuser` named.

pub mod ask;
pub mod confine;
pub mod created;
pub mod daemon;
pub mod filesystem;
pub mod fusermount;
pub mod helper;
pub mod mount;
pub mod mountinfo;
pub mod option_list;
pub mod options;
pub mod remounts;
mod replies;
pub mod serve;
pub mod signals;
pub mod spin;
pub mod trial;
