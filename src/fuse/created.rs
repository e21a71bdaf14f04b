//! The answer to CREATE, with a time-out for the name and another one for the attributes.
//!
//! `fuser` gives both the same. The name must be asked for again at once, because it means something else to the next process;
//! with attributes that must be asked for again as well, the kernel sends a GETATTR before the first write: one request of seven
//! for each message. So this one answer is written here, as `struct fuse_entry_out` and `struct fuse_open_out` of the kernel's
//! `include/uapi/linux/fuse.h` (unchanged since its version 7.9, of 2007).

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Duration;

use fuser::{Errno, FileAttr, FopenFlags, ReplyCreate, Request};

use crate::view::{Attributes, Node, Opened};

use super::replies::{file_attr, open_flags};

/// How long the kernel may believe the attributes of a message that is being written. They change by requests of this
/// kernel's only, and those it knows of.
const WRITER_VALID: Duration = Duration::from_secs(1);

/// The kernel's end of the mount, once it is known.
#[derive(Debug, Default)]
pub struct Kernel(OnceLock<OwnedFd>);

/// Bytes of the answer: `fuse_out_header`, `fuse_entry_out`, `fuse_open_out`.
const LENGTH: usize = 16 + 40 + 88 + 16;

impl Kernel {
    /// Answers are written to this duplicate of the session's descriptor.
    pub fn attach(&self, device: OwnedFd) {
        self.0.get_or_init(|| device);
    }

    /// Answers a CREATE.
    pub fn created(&self, request: &Request, shown: &Attributes, opened: &Opened, reply: ReplyCreate) {
        let flags = open_flags(opened, true);
        let Some(device) = self.0.get() else { return reply.error(Errno::EIO) };
        let valid = match shown.node {
            Node::Writer(_) => WRITER_VALID,
            _ => shown.valid(),
        };
        let answer = encode(request.unique().0, &file_attr(shown), valid, opened.handle, flags);
        match rustix::io::write(device, &answer) {
            // It is answered: dropping it would answer once more. What it holds is a reference to the session's descriptor,
            // which lives as long as the process does anyway.
            Ok(_) => std::mem::forget(reply),
            Err(error) => {
                tracing::debug!(%error, "the answer to a create was not taken");
                reply.error(Errno::EIO);
            }
        }
    }
}

fn encode(unique: u64, attr: &FileAttr, valid: Duration, handle: u64, flags: FopenFlags) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LENGTH);
    let seconds = |time: std::time::SystemTime| {
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        (since.as_secs(), since.subsec_nanos())
    };
    let [accessed, modified, changed] = [attr.atime, attr.mtime, attr.ctime].map(seconds);
    let mut long = |value: u64| bytes.extend_from_slice(&value.to_ne_bytes());
    let pair = |first: u32, second: u32| {
        let mut both = [0; 8];
        both[..4].copy_from_slice(&first.to_ne_bytes());
        both[4..].copy_from_slice(&second.to_ne_bytes());
        u64::from_ne_bytes(both)
    };
    // fuse_out_header
    long(pair(LENGTH as u32, 0));
    long(unique);
    // fuse_entry_out: the node, its generation, how long the name and the attributes are valid
    long(attr.ino.0);
    long(0);
    long(0);
    long(valid.as_secs());
    long(pair(0, valid.subsec_nanos()));
    // fuse_attr
    long(attr.ino.0);
    long(attr.size);
    long(attr.blocks);
    long(accessed.0);
    long(modified.0);
    long(changed.0);
    long(pair(accessed.1, modified.1));
    long(pair(changed.1, libc::S_IFREG | u32::from(attr.perm)));
    long(pair(attr.nlink, attr.uid));
    long(pair(attr.gid, attr.rdev));
    long(pair(attr.blksize, 0));
    // fuse_open_out
    long(handle);
    long(pair(flags.bits(), 0));
    debug_assert_eq!(bytes.len(), LENGTH);
    bytes
}
