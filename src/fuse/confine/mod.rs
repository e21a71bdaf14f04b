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

/// Leaves the helper of a mount, which takes it off at `point`, what it needs for that. To be called while the process has a single
/// thread.
///
/// That of an ordinary user's mount has no capabilities, and keeps its system calls: it mounts and unmounts by starting fusermount3,
/// which gets its own privileges only without `no_new_privs`, and without that or a capability the kernel takes no filter.
pub fn confine_helper(point: &Path) -> io::Result<()> {
    // Nobody but root may look into the memory, or take the descriptors. What it starts as another program decides for itself.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    if !may_mount() {
        return Ok(());
    }
    capabilities::reduce_to_unmounting(point)?;
    rustix::thread::set_no_new_privs(true)?;
    // Where there are no filters, it is without one, as the serving process is, which tells of that.
    let _ = filter::set(calls::OF_HELPER, filter::Unknown::Fails, 0);
    Ok(())
}

/// From now on this thread and those that it makes can make the system calls only that mqfs is known to make. Starts the
/// thread that tells of others. To be called after [`give_up_privileges`], while there is no other thread.
pub fn filter_calls() {
    if let Err(error) = unknown::watch() {
        tracing::warn!(%error, "system calls are not filtered here");
    }
}
