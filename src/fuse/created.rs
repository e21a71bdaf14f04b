//! The answer to CREATE, with a time-out for the name and another one for the attributes, and that to LOOKUP of a file that has
//! several nodes.
//!
//! `fuser` gives both the same. The name must be asked for again at once, because it means something else to the next process;
//! with attributes that must be asked for again as well, the kernel sends a GETATTR before the first write: one request of seven
//! for each message. And it takes the number that `stat` is to show for the node, which is not the same where one file has
//! several nodes. So these two answers are written here, as `struct fuse_entry_out` and `struct fuse_open_out` of the kernel's
//! `include/uapi/linux/fuse.h` (unchanged since its version 7.9, of 2007).

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Duration;

use fuser::{Errno, FileAttr, ReplyCreate, ReplyEntry, Request};

use crate::error::Result;
use crate::view::{Attributes, Node, Opened};

use super::replies::{self, file_attr, open_flags};

/// How long the kernel may believe the attributes of a message that is being written. They change by requests of this
/// kernel's only, and those it knows of.
const WRITER_VALID: Duration = Duration::from_secs(1);

/// The kernel's end of the mount, once it is known.
#[derive(Debug, Default)]
pub struct Kernel(OnceLock<OwnedFd>);

/// Bytes of the answers: `fuse_out_header` and `fuse_entry_out`, and of that to a create `fuse_open_out` besides.
const ENTRY_LENGTH: usize = 16 + 40 + 88;
const LENGTH: usize = ENTRY_LENGTH + 16;

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
        let mut answer = entry(LENGTH, request.unique().0, shown.node, &file_attr(shown), valid);
        // fuse_open_out
        answer.extend_from_slice(&opened.handle.to_ne_bytes());
        answer.extend_from_slice(&flags.bits().to_ne_bytes());
        answer.extend_from_slice(&[0; 4]);
        debug_assert_eq!(answer.len(), LENGTH);
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

    /// Answers the LOOKUP of that number.
    pub fn looked_up(&self, unique: u64, found: Result<Attributes>, reply: ReplyEntry) {
        match found {
            Ok(shown) if shown.node.inode() != shown.node.id() => self.found(unique, &shown, reply),
            found => replies::entry(reply, found),
        }
    }

    /// Answers a LOOKUP that found one of several nodes of a file.
    fn found(&self, unique: u64, shown: &Attributes, reply: ReplyEntry) {
        let Some(device) = self.0.get() else { return reply.error(Errno::EIO) };
        let answer = entry(ENTRY_LENGTH, unique, shown.node, &file_attr(shown), shown.valid());
        debug_assert_eq!(answer.len(), ENTRY_LENGTH);
        match rustix::io::write(device, &answer) {
            Ok(_) => std::mem::forget(reply), // as above
            Err(error) => {
                tracing::debug!(%error, "the answer to a lookup was not taken");
                reply.error(Errno::EIO);
            }
        }
    }
}

/// An answer of so many bytes, up to the end of `fuse_entry_out`.
fn entry(length: usize, unique: u64, node: Node, attr: &FileAttr, valid: Duration) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
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
    long(pair(length as u32, 0));
    long(unique);
    // fuse_entry_out: the node, its generation, how long the name and the attributes are valid
    long(node.id());
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
    bytes
}
