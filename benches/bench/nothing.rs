//! The FUSE server that does nothing: it answers the calls that mqfs answers, with the same protocol features, and keeps
//! no state but a counter. What it reaches is what any FUSE server can reach on this machine.
//!
//! Every directory in the root is the same queue. A name that begins with a digit is a message of that number and always
//! there; every other name never is.

use std::ffi::OsStr;
use std::io::{self, BufRead, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenAccMode, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request, Session, SessionACL, WriteFlags,
};
use rustix::fs::OFlags;

use crate::Failure;
use crate::client::BODY;

const QUEUE: INodeNo = INodeNo(2);
/// Set in the node ids of messages; the rest is the number.
const MESSAGE: u64 = 1 << 62;
/// Set in the node ids of files that are being written.
const WRITER: u64 = 1 << 61;

/// How new files are opened: past the page cache, which spares a request for `security.capability` before the first write.
const NEW_FILE: FopenFlags = FopenFlags::FOPEN_DIRECT_IO;

const NAME_TIMEOUT: Duration = Duration::ZERO;
const DIRECTORY_TIMEOUT: Duration = Duration::from_secs(1);
const ATTRIBUTE_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves until the standard input ends; the lines `spin` and `sleep` on it say how to wait for requests.
pub fn serve(mountpoint: &Path) -> Result<(), Failure> {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("nothing".to_owned()), MountOption::DefaultPermissions];
    config.acl = SessionACL::Owner;
    let session = Session::new(Nothing::new(), mountpoint, &config)?;
    let device = session.as_fd().try_clone_to_owned()?;
    let flags = rustix::fs::fcntl_getfl(&device)?;
    let session = session.spawn()?;
    for line in io::stdin().lock().lines() {
        // fuser asks again at once when a non-blocking read finds nothing, which spares the wake-up of a sleeper.
        rustix::fs::fcntl_setfl(&device, if line? == "spin" { flags | OFlags::NONBLOCK } else { flags })?;
        println!("ok");
        io::stdout().flush()?;
    }
    rustix::fs::fcntl_setfl(&device, flags)?;
    Ok(session.umount_and_join()?)
}

struct Nothing {
    created: AtomicU64,
    started: SystemTime,
    body: Vec<u8>,
}

impl Nothing {
    fn new() -> Nothing {
        Nothing { created: AtomicU64::new(0), started: SystemTime::now(), body: vec![b'.'; BODY] }
    }

    fn attributes(&self, node: INodeNo) -> FileAttr {
        let directory = matches!(node, INodeNo::ROOT | QUEUE);
        FileAttr {
            ino: node,
            size: if node.0 & MESSAGE != 0 { BODY as u64 } else { 0 },
            blocks: 0,
            atime: self.started,
            mtime: self.started,
            ctime: self.started,
            crtime: self.started,
            kind: if directory { FileType::Directory } else { FileType::RegularFile },
            perm: if directory { 0o755 } else { 0o644 },
            nlink: 1,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// The node that a name stands for.
fn resolve(parent: INodeNo, name: &[u8]) -> Option<INodeNo> {
    if parent == INodeNo::ROOT {
        return Some(QUEUE);
    }
    let digits = name.iter().take_while(|byte| byte.is_ascii_digit());
    let number = digits.fold(None, |number, digit| Some(number.unwrap_or(0) * 10 + u64::from(digit - b'0')));
    number.map(|number| INodeNo(MESSAGE | number))
}

impl Filesystem for Nothing {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted =
            [InitFlags::FUSE_ATOMIC_O_TRUNC, InitFlags::FUSE_HANDLE_KILLPRIV_V2, InitFlags::FUSE_PARALLEL_DIROPS];
        for flag in wanted {
            // An older kernel goes without.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(1 << 20);
        let _ = config.set_max_background(u16::MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match resolve(parent, name.as_encoded_bytes()) {
            Some(node) => {
                let timeout = if node.0 & MESSAGE != 0 { NAME_TIMEOUT } else { DIRECTORY_TIMEOUT };
                reply.entry_with_ttls(&ATTRIBUTE_TIMEOUT, &timeout, &self.attributes(node), Generation(0));
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&ATTRIBUTE_TIMEOUT, &self.attributes(node));
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let number = self.created.fetch_add(1, Relaxed);
        let attributes = self.attributes(INodeNo(WRITER | number));
        reply.created(&NAME_TIMEOUT, &attributes, Generation(0), FileHandle(number), NEW_FILE);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let flags = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
            _ => NEW_FILE,
        };
        reply.opened(FileHandle(node.0), flags);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let from = BODY.min(offset as usize);
        let to = BODY.min(from + size as usize);
        reply.data(&self.body[from..to]);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENODATA);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.ok();
    }
}
