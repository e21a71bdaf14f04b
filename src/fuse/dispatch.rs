//! Each request of the kernel's: what it asks, the view does, and what the view says is the answer.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::on_behalf;
use crate::view::access::Caller;
use crate::view::xattr::Demand;
use crate::view::{Attributes, DirectoryEntry, Node, Opened, View};

use super::spin::Spin;
use super::wire::abi::StatfsOut;
use super::wire::answer::{Answer, Listing};
use super::wire::request::{Call, Request};

/// How long the kernel may believe the attributes of a message that is being written. They change by requests of this
/// kernel's only, and those it knows of. (With attributes that must be asked for again it would send a GETATTR before the first
/// write: one request of seven for each message.)
const WRITER_VALID: Duration = Duration::from_secs(1);

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Whom the kernel lets in.
    All,
    /// Of those, root and this user.
    RootAnd(u32),
}

/// Tells a poller that it is to look again.
pub type Wake = Box<dyn FnOnce() + Send>;

/// The view, as the kernel calls it.
pub struct Dispatch {
    view: Arc<View>,
    spin: Arc<Spin>,
    admitted: Admitted,
    /// Makes what wakes the poller of that number.
    wake: Box<dyn Fn(u64) -> Wake + Send + Sync>,
}

impl Dispatch {
    /// Serves a view. `spin` is told of each request.
    pub fn new(
        view: Arc<View>,
        spin: Arc<Spin>,
        admitted: Admitted,
        wake: impl Fn(u64) -> Wake + Send + Sync + 'static,
    ) -> Self {
        Self { view, spin, admitted, wake: Box::new(wake) }
    }

    /// Whether this user may ask this. What the kernel asks by itself, it asks as root, or for a file that is open.
    fn admits(&self, request: &Request<'_>) -> bool {
        match self.admitted {
            Admitted::All => true,
            Admitted::RootAnd(owner) => {
                let of_kernel = matches!(
                    request.call,
                    Call::Read { .. }
                        | Call::Write { .. }
                        | Call::Readdir { .. }
                        | Call::Fsync { .. }
                        | Call::Fsyncdir
                        | Call::Release { .. }
                        | Call::Releasedir { .. }
                );
                request.uid == 0 || request.uid == owner || of_kernel
            }
        }
    }

    /// Has the view do what is asked; it answers now or later.
    pub fn serve(&self, request: Request<'_>, answer: Answer) {
        match request.call {
            Call::Forget { count } => {
                self.forget(request.node, count);
                return answer.none();
            }
            Call::BatchForget { nodes } => {
                nodes.iter().for_each(|one| self.forget(one.nodeid, one.nlookup));
                return answer.none();
            }
            Call::Interrupt { unique } => {
                self.view.interrupt(unique);
                return answer.none();
            }
            _ => {}
        }
        if !self.admits(&request) {
            return answer.errno(libc::EACCES);
        }
        // Until the next request this thread works for the user who makes this one.
        on_behalf::set(Some(request.uid));
        on_behalf::serve(Some(request.unique));
        self.spin.request();
        self.view.served();
        let caller = Caller { uid: request.uid, gid: request.gid, pid: request.pid };
        self.serve_named(&caller, request, answer);
    }

    fn forget(&self, node: u64, count: u64) {
        if let Ok(node) = plain(node) {
            self.view.forget(node, count);
        }
    }

    /// Calls for names in directories.
    fn serve_named(&self, caller: &Caller, request: Request<'_>, answer: Answer) {
        let of = request.node;
        match request.call {
            Call::Lookup { name } => self.lookup(caller, of, name, answer),
            Call::Mkdir { name, mode } => {
                answer.entry(plain(of).and_then(|parent| self.view.make_directory(caller, parent, name, mode)));
            }
            Call::Unlink { name } => answer.done(plain(of).and_then(|parent| self.view.unlink(caller, parent, name))),
            Call::Rmdir { name } => {
                answer.done(plain(of).and_then(|parent| self.view.remove_directory(parent, name)));
            }
            Call::Rename { name, to, to_name, flags } => {
                self.rename(caller, (of, name), (to, to_name), flags, answer);
            }
            Call::Link { node, name } => match (plain(node), plain(of)) {
                (Ok(from), Ok(to)) => self.view.link(caller, from, (to, name), move |result| answer.entry(result)),
                (Err(error), _) | (_, Err(error)) => answer.error(&error),
            },
            Call::Create { name, mode, flags } => {
                match plain(of).and_then(|parent| self.view.create(caller, parent, name, mode, flags)) {
                    Ok((shown, opened)) => created(answer, &shown, &opened),
                    Err(error) => answer.error(&error),
                }
            }
            Call::Mknod | Call::Symlink => {
                answer.error(&Error::NotPermitted("a queue holds regular files only"));
            }
            call => self.serve_node(caller, of, call, answer),
        }
    }

    /// Calls for a node.
    fn serve_node(&self, caller: &Caller, of: u64, call: Call<'_>, answer: Answer) {
        let node = plain(of);
        match call {
            Call::Getattr => match node.and_then(|node| self.view.attributes(node)) {
                Ok(shown) => self.view.measure(caller, shown, move |found| answer.attributes(found)),
                Err(error) => answer.error(&error),
            },
            Call::Setattr { handle, change } => {
                answer.attributes(node.and_then(|node| self.view.set_attributes(caller, node, handle, change)));
            }
            Call::Open { flags } => {
                let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
                let done = move |result: Result<Opened>| answer.opened(writes, result);
                match Node::from_id(of).ok_or(Error::Stale) {
                    Ok(node) => self.view.open_then(caller, node, flags, done),
                    Err(error) => done(Err(error)),
                }
            }
            Call::Opendir => match node.and_then(|node| self.view.open_directory(caller, node)) {
                Ok(handle) => answer.opened_directory(handle),
                Err(error) => answer.error(&error),
            },
            Call::Readdir { offset, size } => {
                let mut listing = Listing::new(size);
                let add = |entry: DirectoryEntry| listing.add(entry.node.id(), entry.cookie, entry.kind, &entry.name);
                match node.and_then(|node| self.view.list(node, offset, add)) {
                    Ok(()) => answer.bytes(listing.bytes()),
                    Err(error) => answer.error(&error),
                }
            }
            Call::Fsyncdir => match node {
                Ok(node) => self.view.fsync_directory(caller, node, Box::new(move |result| answer.done(result))),
                Err(error) => answer.error(&error),
            },
            Call::Statfs => self.statfs(answer),
            Call::Setxattr { name, value, flags } => {
                let demand = match flags {
                    libc::XATTR_CREATE => Demand::New,
                    libc::XATTR_REPLACE => Demand::Old,
                    _ => Demand::None,
                };
                answer.done(node.and_then(|node| self.view.set_xattr(caller, node, name, value, demand)));
            }
            Call::Getxattr { name, size } => {
                answer.extended(node.and_then(|node| self.view.get_xattr(node, name)), size);
            }
            Call::Listxattr { size } => {
                let names = node.and_then(|node| self.view.list_xattr(caller, node));
                let terminated = |name: String| name.into_bytes().into_iter().chain([0]);
                answer.extended(names.map(|names| names.into_iter().flat_map(terminated).collect()), size);
            }
            Call::Removexattr { name } => {
                answer.done(node.and_then(|node| self.view.remove_xattr(caller, node, name)));
            }
            call => self.serve_open(caller, call, answer),
        }
    }

    /// Calls for an open file.
    fn serve_open(&self, caller: &Caller, call: Call<'_>, answer: Answer) {
        match call {
            Call::Read { handle, offset, size, flags } => {
                let nonblocking = flags & libc::O_NONBLOCK != 0;
                self.view.read(caller, handle, offset, size as usize, nonblocking, move |read| match read {
                    Ok(bytes) => answer.bytes(bytes),
                    Err(error) => answer.error(&error),
                });
            }
            Call::Write { handle, offset, data, cached, flags } => {
                // Pages that a program changed in its memory are written by the kernel, which must not wait.
                let waits = flags & libc::O_NONBLOCK == 0 && !cached;
                self.view.write(handle, (caller.pid, waits), offset, data, move |written| answer.written(written));
            }
            Call::Flush { handle } => {
                self.view.flush(handle, caller.pid, Box::new(move |result| answer.done(result)));
            }
            Call::Fsync { handle } => {
                self.view.fsync(handle, caller.pid, Box::new(move |result| answer.done(result)));
            }
            Call::Release { handle } => {
                // Nobody waits for this answer, but the kernel counts it among those it waits for.
                answer.done(Ok(()));
                self.view.release(handle);
            }
            Call::Releasedir { handle } => {
                answer.done(Ok(()));
                if handle != 0 {
                    self.view.release(handle);
                }
            }
            Call::Poll { handle, kernel_handle, notify, events } => {
                let notify = notify.then(|| (self.wake)(kernel_handle));
                let ready = libc::POLLIN | libc::POLLRDNORM | libc::POLLOUT | libc::POLLWRNORM;
                match self.view.is_readable(handle, notify) {
                    Ok(true) => answer.polled(events & ready.cast_unsigned() as u32),
                    Ok(false) => answer.polled(0),
                    Err(error) => answer.error(&error),
                }
            }
            // The C library then writes zeros instead.
            Call::Fallocate => answer.error(&Error::NotSupported),
            // "Not a terminal" is what programs ask, of every file that they open.
            Call::Ioctl => answer.errno(libc::ENOTTY),
            // The kernel does these by itself from then on, of the whole mount: ENOSYS is how it is told.
            _ => answer.errno(libc::ENOSYS),
        }
    }

    fn lookup(&self, caller: &Caller, parent: u64, name: &[u8], answer: Answer) {
        let parent = match plain(parent) {
            Ok(parent) => parent,
            Err(error) => return answer.error(&error),
        };
        match self.view.lookup(caller, parent, name) {
            Err(Error::NotFound) => {
                self.view.await_name(caller, parent, name, move |found| answer.entry(found));
            }
            Ok(shown) if shown.node.inode() != shown.node.id() => answer.entry(Ok(shown)),
            Ok(shown) => self.view.measure(caller, shown, move |found| answer.entry(found)),
            Err(error) => answer.error(&error),
        }
    }

    fn rename(&self, caller: &Caller, from: (u64, &[u8]), to: (u64, &[u8]), flags: u32, answer: Answer) {
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return answer.error(&Error::Invalid("messages cannot be exchanged".into()));
        }
        let keep = flags & libc::RENAME_NOREPLACE != 0;
        match (plain(from.0), plain(to.0)) {
            (Ok(source), Ok(target)) => {
                let done = Box::new(move |result| answer.done(result));
                self.view.rename(caller, (source, from.1), (target, to.1), keep, done);
            }
            (Err(error), _) | (_, Err(error)) => answer.error(&error),
        }
    }

    fn statfs(&self, answer: Answer) {
        match self.view.usage() {
            Ok(usage) => {
                let block = u32::try_from(usage.block).unwrap_or(4096);
                let (files, ffree) = usage.inodes.map_or((0, 0), |inodes| (inodes.total, inodes.free));
                answer.usage(&StatfsOut {
                    blocks: usage.blocks,
                    bfree: usage.free,
                    bavail: usage.free,
                    files,
                    ffree,
                    bsize: block,
                    namelen: 255,
                    frsize: block,
                    padding: 0,
                    spare: [0; 6],
                });
            }
            Err(error) => answer.error(&error),
        }
    }
}

/// What a node id stands for, for all calls except open.
fn plain(id: u64) -> Result<Node> {
    Node::from_id(id).map(Node::plain).ok_or(Error::Stale)
}

fn created(answer: Answer, shown: &Attributes, opened: &Opened) {
    let valid = match shown.node {
        Node::Writer(_) => WRITER_VALID,
        _ => shown.valid(),
    };
    answer.created(shown, valid, opened);
}
