//! What the kernel asks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{InitFlags, PollFlags, WriteFlags};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::abi::{self, InHeader, fattr, op};
use crate::view::Change;

/// One request.
#[derive(Debug)]
pub struct Request<'a> {
    /// Its number, with which it is answered.
    pub unique: u64,
    /// The node that it is about.
    pub node: u64,
    /// The user who asks; 0 for what the kernel does by itself.
    pub uid: u32,
    /// That user's group.
    pub gid: u32,
    /// The thread that asks; 0 when it is not visible from here.
    pub pid: u32,
    /// What is asked.
    pub call: Call<'a>,
}

/// What is asked. Names are without a slash and a zero byte.
#[derive(Debug)]
#[allow(missing_docs, reason = "as system calls and the kernel's header have it")]
pub enum Call<'a> {
    Init {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u64,
    },
    Destroy,
    Interrupt {
        unique: u64,
    },
    Lookup {
        name: &'a [u8],
    },
    Forget {
        count: u64,
    },
    BatchForget {
        nodes: &'a [abi::ForgetOne],
    },
    Getattr,
    Setattr {
        handle: Option<u64>,
        change: Change,
    },
    Symlink,
    Mknod,
    Mkdir {
        name: &'a [u8],
        mode: u32,
    },
    Unlink {
        name: &'a [u8],
    },
    Rmdir {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        to: u64,
        to_name: &'a [u8],
        flags: u32,
    },
    Link {
        node: u64,
        name: &'a [u8],
    },
    Open {
        flags: i32,
    },
    Create {
        name: &'a [u8],
        mode: u32,
        flags: i32,
    },
    Read {
        handle: u64,
        offset: u64,
        size: u32,
        flags: i32,
    },
    Write {
        handle: u64,
        offset: u64,
        data: &'a [u8],
        cached: bool,
        flags: i32,
    },
    Flush {
        handle: u64,
    },
    Release {
        handle: u64,
    },
    Fsync {
        handle: u64,
    },
    Opendir,
    Readdir {
        offset: u64,
        size: u32,
    },
    Releasedir {
        handle: u64,
    },
    Fsyncdir,
    Statfs,
    Setxattr {
        name: &'a [u8],
        value: &'a [u8],
        flags: i32,
    },
    Getxattr {
        name: &'a [u8],
        size: u32,
    },
    Listxattr {
        size: u32,
    },
    Removexattr {
        name: &'a [u8],
    },
    Fallocate,
    Ioctl,
    Poll {
        handle: u64,
        kernel_handle: u64,
        notify: bool,
        events: u32,
    },
    /// What is not known, or not served.
    Other,
}

/// What is left of a request's bytes. By way of a ring, the structure that a call begins with stands elsewhere than the rest.
struct Rest<'a> {
    structure: Option<&'a [u8]>,
    rest: &'a [u8],
}

impl<'a> Rest<'a> {
    fn take<T: FromBytes + KnownLayout + Immutable + Copy>(&mut self) -> Option<T> {
        if let Some(structure) = self.structure.take() {
            return T::read_from_prefix(structure).ok().map(|(taken, _)| taken);
        }
        let (taken, rest) = T::read_from_prefix(self.rest).ok()?;
        self.rest = rest;
        Some(taken)
    }

    /// Up to the next zero byte.
    fn name(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| *byte == 0)?;
        let (name, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        Some(name)
    }

    fn bytes(&mut self, length: u32) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length as usize)?;
        self.rest = rest;
        Some(bytes)
    }
}

impl<'a> Request<'a> {
    /// Reads a request from the kernel's bytes; `None` when they are none.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = Rest { structure: None, rest: bytes };
        let header: InHeader = rest.take()?;
        if header.len as usize != bytes.len() {
            return None;
        }
        Self::with(&header, rest)
    }

    /// As [`Request::parse`], of what an entry of a ring has: a header, the structure that the call begins with if it has one, and the
    /// rest.
    pub fn of_entry(header: &[u8], structure: &'a [u8], rest: &'a [u8]) -> Option<Self> {
        let (header, _) = InHeader::read_from_prefix(header).ok()?;
        Self::with(&header, Rest { structure: Some(structure), rest })
    }

    fn with(header: &InHeader, rest: Rest<'a>) -> Option<Self> {
        let InHeader { unique, nodeid: node, uid, gid, pid, .. } = *header;
        Some(Self { unique, node, uid, gid, pid, call: call(header.opcode, rest)? })
    }
}

/// The call of that number.
fn call(opcode: u32, mut rest: Rest<'_>) -> Option<Call<'_>> {
    Some(match opcode {
        op::INIT => return init(rest.rest),
        op::DESTROY => Call::Destroy,
        op::INTERRUPT => Call::Interrupt { unique: rest.take::<abi::InterruptIn>()?.unique },
        op::LOOKUP => Call::Lookup { name: rest.name()? },
        op::FORGET => Call::Forget { count: rest.take::<abi::ForgetIn>()?.nlookup },
        op::BATCH_FORGET => {
            let count = rest.take::<abi::BatchForgetIn>()?.count as usize;
            let (nodes, _) = <[abi::ForgetOne]>::ref_from_prefix_with_elems(rest.rest, count).ok()?;
            Call::BatchForget { nodes }
        }
        op::GETATTR => Call::Getattr,
        op::SETATTR => setattr(&rest.take()?),
        op::SYMLINK => Call::Symlink,
        op::MKNOD => Call::Mknod,
        op::MKDIR => {
            let abi::MkdirIn { mode, .. } = rest.take()?;
            Call::Mkdir { name: rest.name()?, mode }
        }
        op::UNLINK => Call::Unlink { name: rest.name()? },
        op::RMDIR => Call::Rmdir { name: rest.name()? },
        op::RENAME => {
            let to = rest.take::<abi::RenameIn>()?.newdir;
            Call::Rename { name: rest.name()?, to, to_name: rest.name()?, flags: 0 }
        }
        op::RENAME2 => {
            let abi::Rename2In { newdir: to, flags, .. } = rest.take()?;
            Call::Rename { name: rest.name()?, to, to_name: rest.name()?, flags }
        }
        op::LINK => Call::Link { node: rest.take::<abi::LinkIn>()?.oldnodeid, name: rest.name()? },
        op::OPEN => Call::Open { flags: rest.take::<abi::OpenIn>()?.flags },
        op::CREATE => {
            let abi::CreateIn { flags, mode, .. } = rest.take()?;
            Call::Create { name: rest.name()?, mode, flags }
        }
        op::OPENDIR => Call::Opendir,
        op::READDIR => {
            let abi::ReadIn { offset, size, .. } = rest.take()?;
            Call::Readdir { offset, size }
        }
        op::RELEASEDIR => Call::Releasedir { handle: rest.take::<abi::ReleaseIn>()?.fh },
        op::FSYNCDIR => Call::Fsyncdir,
        op::STATFS => Call::Statfs,
        op::FALLOCATE => Call::Fallocate,
        op::IOCTL => Call::Ioctl,
        _ => return of_file(opcode, rest),
    })
}

/// The same of calls for open files, and of attributes.
fn of_file(opcode: u32, mut rest: Rest<'_>) -> Option<Call<'_>> {
    Some(match opcode {
        op::READ => {
            let abi::ReadIn { fh: handle, offset, size, flags, .. } = rest.take()?;
            Call::Read { handle, offset, size, flags }
        }
        op::WRITE => {
            let abi::WriteIn { fh: handle, offset, size, write_flags, flags, .. } = rest.take()?;
            let data = rest.bytes(size)?;
            Call::Write { handle, offset, data, cached: write_flags & WriteFlags::FUSE_WRITE_CACHE.bits() != 0, flags }
        }
        op::FLUSH => Call::Flush { handle: rest.take::<abi::FlushIn>()?.fh },
        op::RELEASE => Call::Release { handle: rest.take::<abi::ReleaseIn>()?.fh },
        op::FSYNC => Call::Fsync { handle: rest.take::<abi::FsyncIn>()?.fh },
        op::SETXATTR => {
            let abi::SetxattrIn { size, flags } = rest.take()?;
            Call::Setxattr { name: rest.name()?, value: rest.bytes(size)?, flags }
        }
        op::GETXATTR => {
            let abi::GetxattrIn { size, .. } = rest.take()?;
            Call::Getxattr { name: rest.name()?, size }
        }
        op::LISTXATTR => Call::Listxattr { size: rest.take::<abi::GetxattrIn>()?.size },
        op::REMOVEXATTR => Call::Removexattr { name: rest.name()? },
        op::POLL => {
            let abi::PollIn { fh: handle, kh: kernel_handle, flags, events } = rest.take()?;
            Call::Poll {
                handle,
                kernel_handle,
                notify: flags & PollFlags::FUSE_POLL_SCHEDULE_NOTIFY.bits() != 0,
                events,
            }
        }
        _ => Call::Other,
    })
}

/// Older kernels send a shorter one.
fn init(bytes: &[u8]) -> Option<Call<'_>> {
    let mut whole = [0; size_of::<abi::InitIn>()];
    let length = bytes.len().min(whole.len());
    whole[..length].copy_from_slice(&bytes[..length]);
    let abi::InitIn { major, minor, max_readahead, flags, flags2, .. } =
        Rest { structure: None, rest: &whole }.take()?;
    let more = if u64::from(flags) & InitFlags::FUSE_INIT_EXT.bits() != 0 { flags2 } else { 0 };
    Some(Call::Init { major, minor, max_readahead, flags: u64::from(flags) | u64::from(more) << 32 })
}

fn setattr(arg: &abi::SetattrIn) -> Call<'static> {
    let given = |flag: u32| arg.valid & flag != 0;
    let time = |flag, now, seconds, nanoseconds| match (given(flag), given(now)) {
        (false, _) => None,
        (true, true) => Some(SystemTime::now()),
        (true, false) => Some(time(seconds, nanoseconds)),
    };
    let change = Change {
        mode: given(fattr::MODE).then_some(arg.mode),
        uid: given(fattr::UID).then_some(arg.uid),
        gid: given(fattr::GID).then_some(arg.gid),
        size: given(fattr::SIZE).then_some(arg.size),
        accessed: time(fattr::ATIME, fattr::ATIME_NOW, arg.atime, arg.atimensec),
        modified: time(fattr::MTIME, fattr::MTIME_NOW, arg.mtime, arg.mtimensec),
    };
    Call::Setattr { handle: given(fattr::FH).then_some(arg.fh), change }
}

/// A time of the kernel's, which counts nanoseconds forward also before the epoch.
fn time(seconds: i64, nanoseconds: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let second = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    second.and_then(|second| second.checked_add(Duration::from_nanos(nanoseconds.into()))).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    fn header(opcode: u32, arguments: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((40 + arguments.len() as u32).to_ne_bytes());
        bytes.extend(opcode.to_ne_bytes());
        for long in [7_u64, 1] {
            bytes.extend(long.to_ne_bytes());
        }
        bytes.extend([1000_u32, 100, 42, 0].as_bytes());
        bytes.extend(arguments);
        bytes
    }

    #[test]
    fn requests_are_read_whole_or_not_at_all() {
        let bytes = header(op::LOOKUP, b"name\0");
        let request = Request::parse(&bytes).unwrap();
        assert_eq!((request.unique, request.node, request.uid, request.gid, request.pid), (7, 1, 1000, 100, 42));
        assert!(matches!(request.call, Call::Lookup { name: b"name" }));
        for (opcode, arguments) in [(op::LOOKUP, &b"name"[..]), (op::READ, b"short"), (op::RENAME, b"12345678from\0to")]
        {
            assert!(Request::parse(&header(opcode, arguments)).is_none(), "{opcode}");
        }
        assert!(Request::parse(&bytes[..bytes.len() - 1]).is_none());
        assert!(matches!(Request::parse(&header(4711, b"")).unwrap().call, Call::Other));
    }

    #[test]
    fn bytes_that_are_written_are_as_many_as_said() {
        let write = |size: u32, data: &[u8]| {
            let mut arguments = Vec::new();
            arguments.extend([3_u64, 9].as_bytes());
            arguments.extend([size, 0, 0, 0, 0, 0].as_bytes());
            arguments.extend(data);
            header(op::WRITE, &arguments)
        };
        let bytes = write(3, b"abc");
        let call = Request::parse(&bytes).unwrap().call;
        assert!(matches!(call, Call::Write { handle: 3, offset: 9, data: b"abc", cached: false, .. }), "{call:?}");
        assert!(Request::parse(&write(4, b"abc")).is_none());
    }

    #[test]
    fn times_before_the_epoch_count_their_nanoseconds_forward() {
        let half = Duration::from_millis(500);
        assert_eq!(time(-1, 500_000_000), UNIX_EPOCH - half);
        assert_eq!(time(1, 500_000_000), UNIX_EPOCH + Duration::from_secs(1) + half);
    }
}
