//! What the serving process gives up before it looks at anything that users give it.
//!
//! A bug in what reads their requests is then worth little: no program can be started, no other user's file opened, no
//! privilege regained. Capabilities and `no_new_privs` belong to each thread, and a thread has those of the one that
//! makes it: so all of this is done while there is only one.

mod calls;
mod capabilities;
mod environment;
mod filter;
mod unknown;

use std::io;
use std::path::Path;

use rustix::process::{DumpableBehavior, Resource, Rlimit};

pub use capabilities::may_mount;

/// What the process has to reach by a path as long as it runs.
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    /// Where it mounts, and unmounts.
    pub point: &'a Path,
    /// The store, which may have yet to be made.
    pub store: &'a Path,
    /// The log file, which is opened anew when it is rotated.
    pub log: Option<&'a Path>,
}

/// Gives up what neither mqfs nor the helper that it is about to fork needs: the caller's environment, except for `PATH`,
/// and core files, in which the messages of all users would be. To be called while the process has a single thread.
pub fn give_up_surroundings() {
    environment::clear();
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = rustix::process::setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core files are not turned off");
    }
}

/// Gives up all capabilities but those that serving takes, and the means to get others. To be called while the process
/// has a single thread, and after the last set-user-ID program was started.
pub fn give_up_privileges(reach: Reach<'_>) -> io::Result<()> {
    capabilities::reduce(reach)?;
    rustix::thread::set_no_new_privs(true)?;
    // Nobody but root may look into the memory, or take the descriptors.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// From now on this thread and those that it makes can make the system calls only that mqfs is known to make. Starts the
/// thread that tells of others. To be called after [`give_up_privileges`], while there is no other thread.
pub fn filter_calls() {
    if let Err(error) = unknown::watch() {
        tracing::warn!(%error, "system calls are not filtered here");
    }
}
