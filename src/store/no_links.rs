//! A directory through which the kernel follows no symbolic link, whoever asks.
//!
//! RocksDB opens its files by their paths. Where others can put something else in their places at any time, looking before is not
//! enough. So the directory is taken out of a mount of its own, which only this process has, with the flag `nosymfollow`.
//! That takes root, and Linux 5.14.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::{OpenTreeFlags, open_tree};

/// `MOUNT_ATTR_NOSYMFOLLOW` of linux/mount.h.
const NOSYMFOLLOW: u64 = 0x0020_0000;

/// `struct mount_attr` of linux/mount.h, as of its first version.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// The same directory, with all that is mounted below it.
pub fn taken_out(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(directory, "", flags)?;
    let attributes = Attributes { set: NOSYMFOLLOW, ..Attributes::default() };
    // SAFETY: a descriptor, a string, and a struct of the length told, all of which outlive the call.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if set == 0 { Ok(tree) } else { Err(io::Error::last_os_error()) }
}
