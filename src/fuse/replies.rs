//! The view's answers in fuser's types.

use fuser::{Errno, FileAttr, FileType, FopenFlags, Generation, INodeNo, ReplyEntry, Request, TimeOrNow};

use crate::error::Error;
use crate::view::access::Caller;
use crate::view::{Attributes, Kind, Node, Opened};

/// The errno of an error. What an operator should know of is logged here, once for all requests.
pub fn errno(error: &Error) -> Errno {
    match error {
        Error::Io(_) | Error::Damaged(_) => tracing::error!(%error, "request failed"),
        Error::NotPermitted(why) => tracing::debug!(why, "request refused"),
        _ => {}
    }
    Errno::from_i32(error.errno())
}

/// Answers what finds or makes an entry of a directory.
pub fn entry(reply: ReplyEntry, result: Result<Attributes, Error>) {
    match result {
        Ok(shown) => {
            reply.entry_with_ttls(&shown.valid(), &shown.name_valid(), &file_attr(&shown), Generation(0));
        }
        Err(error) => reply.error(errno(&error)),
    }
}

/// Who asks.
pub fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

/// What a node id stands for, for all calls except open.
pub fn node(id: INodeNo) -> Result<Node, Error> {
    node_to_open(id).map(Node::plain)
}

/// What a node id stands for, for an open.
pub fn node_to_open(id: INodeNo) -> Result<Node, Error> {
    Node::from_id(id.0).ok_or(Error::Stale)
}

/// The type of a directory entry.
pub fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
    }
}

/// What `stat` shows.
pub fn file_attr(shown: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(shown.node.inode()),
        size: shown.size,
        blocks: shown.size.div_ceil(512),
        atime: shown.accessed,
        mtime: shown.modified,
        ctime: shown.changed,
        crtime: shown.changed,
        kind: file_type(shown.kind),
        perm: (shown.mode & 0o7777) as u16,
        nlink: shown.links,
        uid: shown.uid,
        gid: shown.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// How the kernel is to treat an open file.
pub fn open_flags(opened: &Opened, writes: bool) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    if opened.direct || opened.stream {
        flags |= FopenFlags::FOPEN_DIRECT_IO;
    }
    if opened.stream {
        flags |= FopenFlags::FOPEN_STREAM;
    }
    if opened.immutable {
        flags |= FopenFlags::FOPEN_KEEP_CACHE;
        if !writes {
            flags |= FopenFlags::FOPEN_NOFLUSH;
        }
    }
    flags
}

/// A time that is to be set.
pub fn time(given: TimeOrNow) -> std::time::SystemTime {
    match given {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => std::time::SystemTime::now(),
    }
}
