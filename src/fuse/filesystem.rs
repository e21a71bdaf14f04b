//! Each request of the kernel's: decode, call the view, reply.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FopenFlags, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::error::{Error, Result};
use crate::on_behalf;
use crate::view::xattr::Demand;
use crate::view::{Attributes, Change, Opened, View};

use super::created::Kernel;
use super::replies::{caller, entry, errno, file_attr, file_type, node, node_to_open, open_flags, time};
use super::spin::Spin;

/// The largest write that the kernel sends at once, in bytes.
const MAX_WRITE: u32 = 1 << 20;

/// The view, as fuser calls it.
pub struct Filesystem {
    view: Arc<View>,
    spin: Arc<Spin>,
    kernel: Arc<Kernel>,
}

impl Filesystem {
    /// Serves a view. `spin` is told of each request; `kernel` takes the answers to creates.
    pub fn new(view: Arc<View>, spin: Arc<Spin>, kernel: Arc<Kernel>) -> Self {
        Self { view, spin, kernel }
    }

    /// Until the next request this thread works for the user who makes this one.
    fn begin(&self, req: &Request) {
        on_behalf::set(Some(req.uid()));
        self.spin.request();
        self.view.served();
    }
}

fn empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

fn attr(reply: ReplyAttr, result: Result<Attributes>) {
    match result {
        Ok(shown) => reply.attr(&shown.valid(), &file_attr(&shown)),
        Err(error) => reply.error(errno(&error)),
    }
}

fn open(reply: ReplyOpen, writes: bool, result: Result<Opened>) {
    match result {
        Ok(opened) => reply.opened(FileHandle(opened.handle), open_flags(&opened, writes)),
        Err(error) => reply.error(errno(&error)),
    }
}

fn xattr(reply: ReplyXattr, result: Result<Vec<u8>>, size: u32) {
    match result {
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > size as usize => reply.error(errno(&Error::Range)),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(&error)),
    }
}

impl fuser::Filesystem for Filesystem {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A kernel that lacks one of them still works, only slower; but without the first, `>` on a message's bare name would
        // be a truncation of it.
        let wanted = [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                tracing::warn!(?flag, "the kernel does not support this");
            }
        }
        config.set_max_write(MAX_WRITE).map_err(|_| io::Error::other("max_write refused"))?;
        // A close must not wait for the answers to the closes before it: else later requests overtake it.
        config.set_max_background(u16::MAX).map_err(|_| io::Error::other("max_background refused"))?;
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.begin(req);
        let (caller, name) = (caller(req), name.as_bytes());
        let parent = match node(parent) {
            Ok(parent) => parent,
            Err(error) => return entry(reply, Err(error)),
        };
        match self.view.lookup(&caller, parent, name) {
            Err(Error::NotFound) => {
                let (kernel, unique) = (self.kernel.clone(), req.unique().0);
                self.view.await_name(&caller, parent, name, move |found| kernel.looked_up(unique, found, reply));
            }
            Ok(shown) if shown.node.inode() != shown.node.id() => {
                self.kernel.looked_up(req.unique().0, Ok(shown), reply);
            }
            Ok(shown) => self.view.measure(&caller, shown, |found| entry(reply, found)),
            Err(error) => entry(reply, Err(error)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        if let Ok(node) = node(ino) {
            self.view.forget(node, nlookup);
        }
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.begin(req);
        match node(ino).and_then(|node| self.view.attributes(node)) {
            Ok(shown) => self.view.measure(&caller(req), shown, |found| attr(reply, found)),
            Err(error) => attr(reply, Err(error)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.begin(req);
        let change = Change { mode, uid, gid, size, accessed: atime.map(time), modified: mtime.map(time) };
        let handle = fh.map(|fh| fh.0);
        attr(reply, node(ino).and_then(|node| self.view.set_attributes(&caller(req), node, handle, change)));
    }

    fn mknod(
        &self,
        req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        self.begin(req);
        entry(reply, Err(Error::NotPermitted("a queue holds regular files only")));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        self.begin(req);
        let made = |parent| self.view.make_directory(&caller(req), parent, name.as_bytes(), mode);
        entry(reply, node(parent).and_then(made));
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.begin(req);
        empty(reply, node(parent).and_then(|parent| self.view.unlink(&caller(req), parent, name.as_bytes())));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.begin(req);
        empty(reply, node(parent).and_then(|parent| self.view.remove_directory(parent, name.as_bytes())));
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.begin(req);
        if !RenameFlags::RENAME_NOREPLACE.contains(flags) {
            return empty(reply, Err(Error::Invalid("messages cannot be exchanged".into())));
        }
        let keep = flags.contains(RenameFlags::RENAME_NOREPLACE);
        match (node(parent), node(newparent)) {
            (Ok(from), Ok(to)) => {
                let (from, to) = ((from, name.as_bytes()), (to, newname.as_bytes()));
                let done = Box::new(move |result| empty(reply, result));
                self.view.rename(&caller(req), from, to, keep, done);
            }
            (Err(error), _) | (_, Err(error)) => empty(reply, Err(error)),
        }
    }

    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        self.begin(req);
        match (node(ino), node(newparent)) {
            (Ok(from), Ok(to)) => {
                let done = move |result| entry(reply, result);
                self.view.link(&caller(req), from, (to, newname.as_bytes()), done);
            }
            (Err(error), _) | (_, Err(error)) => entry(reply, Err(error)),
        }
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.begin(req);
        let writes = flags.0 & libc::O_ACCMODE != libc::O_RDONLY;
        let done = move |result| open(reply, writes, result);
        match node_to_open(ino) {
            Ok(node) => self.view.open_then(&caller(req), node, flags.0, done),
            Err(error) => done(Err(error)),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.begin(req);
        let created = |parent| self.view.create(&caller(req), parent, name.as_bytes(), mode, flags);
        match node(parent).and_then(created) {
            Ok((shown, opened)) => self.kernel.created(req, &shown, &opened, reply),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn read(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.begin(req);
        let nonblocking = flags.0 & libc::O_NONBLOCK != 0;
        self.view.read(&caller(req), fh.0, offset, size as usize, nonblocking, |read| match read {
            Ok(bytes) => reply.data(bytes),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.begin(req);
        // Pages that a program changed in its memory are written by the kernel, which must not wait.
        let waits = flags.0 & libc::O_NONBLOCK == 0 && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        self.view.write(fh.0, (req.pid(), waits), offset, data, move |written| match written {
            Ok(count) => reply.written(count as u32),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn flush(&self, req: &Request, _ino: INodeNo, fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        self.begin(req);
        self.view.flush(fh.0, req.pid(), Box::new(move |result| empty(reply, result)));
    }

    fn release(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.begin(req);
        // Nobody waits for this answer, but the kernel counts it among those it waits for.
        reply.ok();
        self.view.release(fh.0);
    }

    fn fsync(&self, req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.begin(req);
        self.view.fsync(fh.0, req.pid(), Box::new(move |result| empty(reply, result)));
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.begin(req);
        match node(ino).and_then(|node| self.view.open_directory(&caller(req), node)) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn releasedir(&self, req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.begin(req);
        reply.ok();
        if fh.0 != 0 {
            self.view.release(fh.0);
        }
    }

    fn readdir(&self, req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.begin(req);
        let listed = node(ino).and_then(|node| {
            self.view.list(node, offset, |entry| {
                let kind = file_type(entry.kind);
                !reply.add(INodeNo(entry.node.id()), entry.cookie, kind, OsStr::from_bytes(&entry.name))
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn fsyncdir(&self, req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.begin(req);
        match node(ino) {
            Ok(node) => self.view.fsync_directory(&caller(req), node, Box::new(move |result| empty(reply, result))),
            Err(error) => empty(reply, Err(error)),
        }
    }

    fn statfs(&self, req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.begin(req);
        match self.view.usage() {
            Ok(usage) => {
                let block = u32::try_from(usage.block).unwrap_or(4096);
                let (files, free_files) = usage.inodes.map_or((0, 0), |inodes| (inodes.total, inodes.free));
                reply.statfs(usage.blocks, usage.free, usage.free, files, free_files, block, 255, block);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.begin(req);
        let demand = match flags {
            libc::XATTR_CREATE => Demand::New,
            libc::XATTR_REPLACE => Demand::Old,
            _ => Demand::None,
        };
        let set = |node| self.view.set_xattr(&caller(req), node, name.as_bytes(), value, demand);
        empty(reply, node(ino).and_then(set));
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.begin(req);
        xattr(reply, node(ino).and_then(|node| self.view.get_xattr(node, name.as_bytes())), size);
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.begin(req);
        let names = node(ino).and_then(|node| self.view.list_xattr(&caller(req), node));
        let listed = names.map(|names| {
            let terminated = |name: String| name.into_bytes().into_iter().chain([0]);
            names.into_iter().flat_map(terminated).collect()
        });
        xattr(reply, listed, size);
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.begin(req);
        empty(reply, node(ino).and_then(|node| self.view.remove_xattr(&caller(req), node, name.as_bytes())));
    }

    fn symlink(&self, req: &Request, _parent: INodeNo, _name: &OsStr, _target: &Path, reply: ReplyEntry) {
        self.begin(req);
        entry(reply, Err(Error::NotPermitted("a queue holds regular files only")));
    }

    fn fallocate(
        &self,
        req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        self.begin(req);
        // The C library then writes zeros instead.
        empty(reply, Err(Error::NotSupported));
    }

    fn ioctl(
        &self,
        req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        self.begin(req);
        // "Not a terminal" is what programs ask, of every file that they open.
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        notifier: PollNotifier,
        events: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        self.begin(req);
        // The kernel drops what it does not know of: a descriptor that was closed meanwhile.
        let notify = || Box::new(move || drop(notifier.notify())) as Box<dyn FnOnce() + Send>;
        let notify = flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY).then(notify);
        let ready = PollEvents::POLLIN | PollEvents::POLLRDNORM | PollEvents::POLLOUT | PollEvents::POLLWRNORM;
        match self.view.is_readable(fh.0, notify) {
            Ok(true) => reply.poll(events & ready),
            Ok(false) => reply.poll(PollEvents::empty()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    // The next two are not answered for one file but for the whole mount: the kernel does them by itself from then on, and
    // ENOSYS is how it is told.

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _offset: i64, _whence: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }
}
