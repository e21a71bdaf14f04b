//! A process beside the serving one, for what that cannot do itself.
//!
//! It is forked before the serving process gives up its privileges, and before the first thread. An ordinary user's mount
//! always has one: it mounts and unmounts through `fusermount3`, which is set-user-ID and so not to be had under
//! `no_new_privs`. And it outlives the serving process: when that has gone without unmounting, however it went, it takes
//! the dead mount off. Root has that with `-o auto_unmount`; libfuse leaves it to fusermount3, which demands
//! `allow_other` for it.
//!
//! The two share a socket whose other end nobody else holds: end of file means that the serving process is gone.

use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};

use super::confine;
use super::daemon;
use super::fusermount;
use super::mount::{self, MountError};
use super::mountinfo::{self, Entry};
use super::options::MountOptions;

/// How long the kernel may take to close a dead process's descriptors.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the mount point is looked at meanwhile.
const PAUSE: Duration = Duration::from_millis(20);
/// No order and no answer is longer, in bytes: a line for the user.
const LONGEST: usize = 8 << 10;

/// What it can be told to do: the first byte of a message.
const MOUNT: u8 = b'm';
const UNMOUNT: u8 = b'u';
/// Not an order: which device the mount is that it is to take off.
const MOUNTED: u8 = b'd';

/// What it answers: the first byte, before a line that says more.
const DONE: u8 = 0;
const BAD_MOUNT_POINT: u8 = 1;
const NOT_PERMITTED: u8 = 2;
const FAILED: u8 = 3;

/// The serving process's end. The helper wakes up when it is dropped, or closed by the kernel.
#[derive(Debug)]
pub struct Helper {
    socket: OwnedFd,
}

impl Helper {
    /// Starts one for the mount that is to come at `point`. Like [`daemon::fork`], to be called while the process has a
    /// single thread.
    pub fn start(point: &Path, source: &OsStr, options: &MountOptions) -> io::Result<Helper> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        if daemon::fork_single_threaded()?.is_some() {
            return Ok(Helper { socket: ours });
        }
        drop(ours);
        // From here on this is the helper, which has nobody to report to when this fails.
        let _ = Work { socket: theirs, point, source, options, device: None }.work();
        daemon::leave(0)
    }

    /// Mounts, and returns the descriptor on which the kernel will ask.
    pub fn mount(&self) -> Result<OwnedFd, MountError> {
        let other = |error: io::Error| MountError::Other(format!("cannot talk to the helper that mounts: {error}"));
        send(&self.socket, &[MOUNT], None).map_err(other)?;
        let (answer, device) = receive(&self.socket).map_err(other)?;
        let line = || String::from_utf8_lossy(answer.get(1..).unwrap_or_default()).into_owned();
        match (answer.first(), device) {
            (Some(&DONE), Some(device)) => Ok(device),
            (Some(&BAD_MOUNT_POINT), _) => Err(MountError::MountPoint(line())),
            (Some(&NOT_PERMITTED), _) => Err(MountError::NotPermitted(line())),
            (Some(&FAILED), _) => Err(MountError::Other(line())),
            _ => Err(other(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Says which device is mounted now: that one it takes off, and no other, when the serving process is gone.
    pub fn mounted(&self, device: &str) -> io::Result<()> {
        send(&self.socket, &[&[MOUNTED], device.as_bytes()].concat(), None)
    }

    /// Takes the mount off, lazily.
    pub fn unmount(&self) -> io::Result<()> {
        send(&self.socket, &[UNMOUNT], None)?;
        let (answer, _) = receive(&self.socket)?;
        match answer.split_first() {
            Some((&DONE, _)) => Ok(()),
            Some((_, line)) => Err(io::Error::other(String::from_utf8_lossy(line).into_owned())),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// The helper's end.
struct Work<'a> {
    socket: OwnedFd,
    point: &'a Path,
    source: &'a OsStr,
    options: &'a MountOptions,
    /// Which device is mounted, once that was said.
    device: Option<String>,
}

impl Work<'_> {
    fn work(&mut self) -> io::Result<()> {
        // Out of reach of the terminal's Ctrl-C, and holding nothing of the caller's.
        rustix::process::setsid()?;
        rustix::process::chdir("/")?;
        daemon::leave_standard_streams()?;
        daemon::close_all_but(&[self.socket.as_raw_fd()]);
        confine::confine_helper(self.point)?;
        // At end of file, and also if reading fails, it is time to look.
        while let Ok((order, _)) = receive(&self.socket)
            && let Some((&order, more)) = order.split_first()
        {
            match order {
                MOUNT => self.mount()?,
                UNMOUNT => self.unmount()?,
                MOUNTED => self.device = Some(String::from_utf8_lossy(more).into_owned()),
                _ => {}
            }
        }
        self.take_off_dead()
    }

    fn mount(&self) -> io::Result<()> {
        match fusermount::mount(self.point, self.source, self.options) {
            Ok(device) => send(&self.socket, &[DONE], Some(&device)),
            Err(MountError::MountPoint(line)) => self.answer(BAD_MOUNT_POINT, &line),
            Err(MountError::NotPermitted(line)) => self.answer(NOT_PERMITTED, &line),
            Err(MountError::Other(line)) => self.answer(FAILED, &line),
        }
    }

    fn unmount(&self) -> io::Result<()> {
        match mount::detach(self.point) {
            Ok(()) => send(&self.socket, &[DONE], None),
            Err(error) => self.answer(FAILED, &error.to_string()),
        }
    }

    fn answer(&self, how: u8, line: &str) -> io::Result<()> {
        let line = &line.as_bytes()[..line.len().min(LONGEST - 1)];
        send(&self.socket, &[&[how], line].concat(), None)
    }

    /// Takes the mount off if it is still there and dead.
    fn take_off_dead(&self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match mountinfo::at(self.point)? {
                Some(entry) if self.is_ours(&entry) => {}
                // Unmounted, or somebody else's by now.
                _ => return Ok(()),
            }
            if mount::is_dead(self.point) {
                return mount::detach(self.point);
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn is_ours(&self, entry: &Entry) -> bool {
        let device = self.device.as_ref().is_none_or(|device| entry.device == *device);
        device && entry.kind == self.options.kind() && entry.source == *self.source
    }
}

fn send(socket: &OwnedFd, message: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor.as_fd()]);
    if let Some(descriptors) = &descriptors {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A message, which is empty at end of file, and the descriptor that came with it.
pub(super) fn receive(socket: impl AsFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut message = vec![0; LONGEST];
    let length = loop {
        let mut buffers = [IoSliceMut::new(&mut message)];
        match rustix::net::recvmsg(&socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?.bytes,
        }
    };
    message.truncate(length);
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((message, descriptor))
}
