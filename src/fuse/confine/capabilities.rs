//! The capabilities that serving a mount takes.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::Reach;

/// To mount and to unmount.
const MOUNT: CapabilitySet = CapabilitySet::SYS_ADMIN;
/// To mount and to unmount, and to see how the processes of other users end.
const KEPT: CapabilitySet = MOUNT.union(CapabilitySet::SYS_PTRACE);
/// To take capabilities out of the bounding set.
const BOUND: CapabilitySet = CapabilitySet::SETPCAP;

/// Whether the process may mount by itself.
pub fn may_mount() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(MOUNT))
}

/// Leaves this thread those capabilities of [`KEPT`] that it has, and takes the others out of all its sets.
///
/// One that runs as root owns its store and needs no more. Where the store, the mount point or the log belongs to
/// somebody else, what it takes to get there is kept as well.
pub fn reduce(reach: Reach<'_>) -> io::Result<()> {
    let kept = reduce_to(KEPT, || reach.needed())?;
    if kept.intersects(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH) {
        tracing::info!("the store, the mount point or the log is another user's: permissions do not hold for mqfs");
    }
    Ok(())
}

/// The same of what it takes to take the mount off at `point`.
pub fn reduce_to_unmounting(point: &Path) -> io::Result<()> {
    reduce_to(MOUNT, || needed_to_get_to(point)).map(drop)
}

/// Leaves this thread those of `kept`, and then those of `more`, that it has.
fn reduce_to(kept: CapabilitySet, more: impl FnOnce() -> CapabilitySet) -> io::Result<CapabilitySet> {
    let held = capabilities(None)?.permitted;
    let set = |effective, permitted| {
        set_capabilities(None, CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() })
    };
    let mut kept = held & kept;
    set(kept, held)?;
    kept |= held & more();
    set(kept | held & BOUND, held)?;
    bound(kept);
    // Kernels before 4.3 have no such set.
    let _ = rustix::thread::clear_ambient_capability_set();
    set(kept, kept)?;
    Ok(kept)
}

/// Takes all but `kept` out of the bounding set. An ordinary user may not, and has nothing to gain there: `no_new_privs`
/// sees to that.
fn bound(kept: CapabilitySet) {
    for number in 0..u64::BITS {
        if kept.bits() & (1 << number) == 0 {
            // SAFETY: the call takes numbers only.
            let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
            if dropped != 0 {
                return; // not allowed, or the last one that this kernel knows was before
            }
        }
    }
}

impl Reach<'_> {
    /// What it takes to get at what has to be reached, as far as the effective capabilities do not do.
    fn needed(&self) -> CapabilitySet {
        let mut needed = needed_to_get_to(self.point);
        let log = self.log.and_then(Path::parent);
        if !log.is_none_or(is_writable) || !is_store_writable(self.store) {
            needed |= CapabilitySet::DAC_OVERRIDE;
        }
        needed
    }
}

/// What it takes to find a path.
fn needed_to_get_to(path: &Path) -> CapabilitySet {
    match rustix::fs::stat(path) {
        Err(Errno::ACCESS) => CapabilitySet::DAC_READ_SEARCH,
        _ => CapabilitySet::empty(),
    }
}

/// The directory of a store and what is in it, or where it is to be made.
fn is_store_writable(store: &Path) -> bool {
    match fs::read_dir(store) {
        Ok(entries) => is_writable(store) && entries.flatten().all(|entry| is_writable(&entry.path())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => store.parent().is_none_or(is_writable),
        Err(error) => error.kind() != io::ErrorKind::PermissionDenied,
    }
}

/// A file or directory that this process may change. Anything else that is wrong with it will be told where it is used.
fn is_writable(path: &Path) -> bool {
    let directory = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let search = if directory { Access::EXEC_OK } else { Access::empty() };
    let access = Access::READ_OK | Access::WRITE_OK | search;
    rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS) != Err(Errno::ACCESS)
}
