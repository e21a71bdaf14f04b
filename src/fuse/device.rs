//! The kernel's requests by way of `/dev/fuse`.
//!
//! Each read gives one request, each write takes one answer; several threads may write. Without requests the read sleeps, unless
//! [`super::spin`] keeps it from that.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use clap::ValueEnum;
use fuser::InitFlags;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::dispatch::{Admitted, Dispatch, Wake};
use super::spin::Spin;
use super::uring::{Ended, Rings};
use super::wire::abi::{self, InitOut, OutHeader, PollWakeupOut};
use super::wire::answer::{Answer, Carrier, framed};
use super::wire::request::{Call, Request};
use crate::store::Probe;
use crate::view::View;

/// The largest write that the kernel sends at once, in bytes.
const MAX_WRITE: u32 = 1 << 20;
/// So much is read at once: the largest write, and what stands before its bytes.
const BUFFER: usize = MAX_WRITE as usize + 4096;
/// An entry of a ring has room for so much: a request's bytes, or those of its answer.
const PAYLOAD: usize = MAX_WRITE as usize;
/// Where the kernel says whether it offers io_uring.
const ENABLED: &str = "/sys/module/fuse/parameters/enable_uring";
/// A close must not wait for the answers to the closes before it: else later requests overtake it.
const MAX_BACKGROUND: u16 = u16::MAX;

/// The flags that are asked for. A kernel that lacks one of them still works, only slower; but without the first, `>` on a message's
/// bare name would be a truncation of it.
const WANTED: InitFlags = InitFlags::FUSE_ATOMIC_O_TRUNC
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);

/// The flags without which it would be less at a time, or said in fewer words.
const EXTENT: InitFlags = InitFlags::FUSE_BIG_WRITES.union(InitFlags::FUSE_MAX_PAGES).union(InitFlags::FUSE_INIT_EXT);

/// By what way requests come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// By io_uring where the kernel offers that.
    #[default]
    Auto,
    /// By io_uring, or there is no mount.
    Uring,
    /// By `/dev/fuse`.
    Dev,
}

/// The kernel's end of the mount.
#[derive(Debug)]
pub struct Device(OwnedFd);

/// What a read gave.
enum Received {
    /// A request of so many bytes.
    Request(usize),
    /// There is none now.
    Nothing,
    /// There will be none: the mount is gone.
    End,
}

impl Device {
    /// That of this descriptor.
    pub fn new(descriptor: OwnedFd) -> Arc<Self> {
        Arc::new(Self(descriptor))
    }

    /// Reads a request into `buffer`, and waits for one.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            match self.receive_now(buffer)? {
                Received::Nothing => {} // while we spin
                received => return Ok(received),
            }
        }
    }

    /// The same; does not wait where the descriptor says so.
    fn receive_now(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            match rustix::io::read(&self.0, &mut *buffer) {
                Ok(length) => return Ok(Received::Request(length)),
                // It was taken back before it was read; a signal.
                Err(Errno::NOENT | Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(Errno::NODEV) => return Ok(Received::End),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Tells a poller that it is to look again. The kernel drops what it does not know of: a descriptor that was closed meanwhile.
    fn wake(&self, kernel_handle: u64) -> io::Result<()> {
        let wakeup = PollWakeupOut { kh: kernel_handle };
        // A notification has no number, and what it is where others have their errno, which is negative there.
        framed(0, -abi::NOTIFY_POLL, &[wakeup.as_bytes()], |slices| rustix::io::writev(&self.0, slices))?;
        Ok(())
    }
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Carrier for Device {
    fn carry(&self, unique: u64, errno: i32, parts: &[&[u8]]) -> io::Result<()> {
        // It is taken whole or refused.
        framed(unique, errno, parts, |slices| rustix::io::writev(&self.0, slices))?;
        Ok(())
    }
}

/// A mount whose kernel was told what is served.
pub struct Session {
    device: Arc<Device>,
    dispatch: Dispatch,
    transport: Transport,
    /// The kernel was told that its requests are taken by way of these.
    rings: Option<Rings>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("device", &self.device).finish_non_exhaustive()
    }
}

impl Session {
    /// Answers the first request of the mount at `point`, in which the kernel says what it can do.
    pub fn begin(
        device: Arc<Device>,
        view: Arc<View>,
        spin: Arc<Spin>,
        admitted: Admitted,
        (transport, point): (Transport, &Path),
    ) -> io::Result<Self> {
        let rings = handshake(&device, |offered| rings(&device, transport, offered, point))?;
        let waker = device.clone();
        let wake = move |kernel_handle| {
            let device = waker.clone();
            Box::new(move || drop(device.wake(kernel_handle))) as Wake
        };
        Ok(Self { device, dispatch: Dispatch::new(view, spin, admitted, wake), transport, rings })
    }

    /// Requests come by way of io_uring.
    pub fn by_rings(&self) -> bool {
        self.rings.is_some()
    }

    /// Tells the thread that serves whether a request waits.
    pub fn probe(&self) -> io::Result<Probe> {
        if let Some(rings) = &self.rings {
            return Ok(Box::new(rings.probe()?));
        }
        let device = self.device.clone();
        Ok(Box::new(move || readable(&[device.as_fd()])))
    }

    /// Serves requests, one after the other, in the order in which the kernel hands them out, on which the view relies; until the mount
    /// is gone.
    pub fn run(mut self) -> io::Result<()> {
        if let Some(rings) = self.rings.take() {
            self.set_nonblocking(true)?;
            match rings.run(&self)? {
                Ended::Gone => return Ok(()),
                Ended::Refused(errno) if self.transport == Transport::Uring => {
                    return Err(io::Error::from_raw_os_error(errno));
                }
                Ended::Refused(errno) => by_device(&io::Error::from_raw_os_error(errno).to_string()),
            }
            self.set_nonblocking(false)?;
        }
        let mut buffer = vec![0; BUFFER];
        while let Received::Request(length) = self.device.receive(&mut buffer)? {
            if !self.serve_bytes(&buffer[..length])? {
                break;
            }
        }
        Ok(())
    }

    fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        let mut flags = rustix::fs::fcntl_getfl(&self.device)?;
        flags.set(OFlags::NONBLOCK, on);
        Ok(rustix::fs::fcntl_setfl(&self.device, flags)?)
    }

    /// Serves what waits in the device, which does not let us wait. False when the mount is gone.
    pub fn serve_waiting(&self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        buffer.resize(BUFFER, 0);
        loop {
            match self.device.receive_now(buffer)? {
                Received::Request(length) if self.serve_bytes(&buffer[..length])? => {}
                Received::Nothing => return Ok(true),
                _ => return Ok(false),
            }
        }
    }

    /// False when it was the last.
    fn serve_bytes(&self, bytes: &[u8]) -> io::Result<bool> {
        let request = parse(bytes)?;
        let answer = Answer::new(request.unique, self.device.clone());
        match request.call {
            Call::Destroy => {
                answer.done(Ok(()));
                return Ok(false);
            }
            Call::Init { .. } => answer.errno(libc::EIO),
            _ => self.serve(request, answer),
        }
        Ok(true)
    }

    /// Serves a request.
    pub fn serve(&self, request: Request<'_>, answer: Answer) {
        self.dispatch.serve(request, answer);
    }
}

/// A request whose structure is unknown here cannot be answered either; but that a newer kernel adds something at the end of one, or
/// another request, does not matter.
fn parse(bytes: &[u8]) -> io::Result<Request<'_>> {
    Request::parse(bytes)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the kernel's request is not understood"))
}

/// Whether there is something to read from one of these.
pub fn readable(descriptors: &[BorrowedFd<'_>]) -> bool {
    let mut polled: Vec<_> = descriptors.iter().map(|descriptor| PollFd::new(descriptor, PollFlags::IN)).collect();
    rustix::event::poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// The rings, if requests are to come so; `offered`: by the kernel.
fn rings(device: &Arc<Device>, transport: Transport, offered: bool, point: &Path) -> io::Result<Option<Rings>> {
    if transport == Transport::Dev {
        return Ok(None);
    }
    let made = if offered { Rings::new(device.clone(), PAYLOAD, point) } else { Err(why_not_offered()) };
    match made {
        Ok(rings) => {
            tracing::info!("requests come by io_uring");
            Ok(Some(rings))
        }
        Err(error) if transport == Transport::Uring => {
            Err(io::Error::new(error.kind(), format!("requests cannot come by io_uring: {error}")))
        }
        Err(error) => {
            by_device(&error.to_string());
            Ok(None)
        }
    }
}

fn by_device(why: &str) {
    tracing::info!("requests come by /dev/fuse: {why}");
}

/// Why this kernel does not offer io_uring.
fn why_not_offered() -> io::Error {
    let why = match fs::read_to_string(ENABLED).as_deref().map(str::trim) {
        Ok("N" | "0") => format!("{ENABLED} is N"),
        Ok(_) => "the kernel does not offer io_uring for this mount".to_owned(),
        Err(_) => "this kernel has no FUSE over io_uring (it came with Linux 6.14)".to_owned(),
    };
    io::Error::new(io::ErrorKind::Unsupported, why)
}

/// Tells the kernel what is served. `rings`: given whether the kernel offers io_uring, they are what its requests come by from now on,
/// if there are some.
fn handshake(device: &Arc<Device>, rings: impl FnOnce(bool) -> io::Result<Option<Rings>>) -> io::Result<Option<Rings>> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let Received::Request(length) = device.receive(&mut buffer)? else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let request = parse(&buffer[..length])?;
        let answer = Answer::new(request.unique, device.clone());
        let Call::Init { major, minor, max_readahead, flags } = request.call else {
            answer.errno(libc::EIO);
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's first request is not the first"));
        };
        if major > abi::MAJOR {
            // It asks again, by that version.
            answer.init(&offer(InitFlags::empty(), 0));
            continue;
        }
        // Of 2015, with the first of the structures that are used here.
        if (major, minor) < (7, 23) {
            answer.errno(libc::EPROTO);
            return Err(io::Error::new(io::ErrorKind::Unsupported, format!("the kernel speaks FUSE {major}.{minor}")));
        }
        let offered = InitFlags::from_bits_retain(flags);
        let lacking = WANTED - offered;
        if !lacking.is_empty() {
            tracing::warn!(flags = ?lacking, "the kernel does not support this");
        }
        let rings = rings(offered.contains(InitFlags::FUSE_OVER_IO_URING))?;
        let more = if rings.is_some() { InitFlags::FUSE_OVER_IO_URING } else { InitFlags::empty() };
        answer.init(&offer((offered & (WANTED | EXTENT)) | more, max_readahead));
        return Ok(rings);
    }
}

/// What is told to a kernel with these flags.
fn offer(flags: InitFlags, max_readahead: u32) -> InitOut {
    let flags = flags.bits();
    let pages = PAYLOAD / rustix::param::page_size();
    InitOut {
        major: abi::MAJOR,
        minor: abi::MINOR,
        max_readahead: max_readahead.min(MAX_WRITE),
        flags: flags as u32,
        max_background: MAX_BACKGROUND,
        congestion_threshold: MAX_BACKGROUND / 4 * 3,
        max_write: MAX_WRITE,
        time_gran: 1,
        max_pages: u16::try_from(pages).unwrap_or(u16::MAX),
        map_alignment: 0,
        flags2: (flags >> 32) as u32,
        max_stack_depth: 0,
        request_timeout: 0,
        unused: [0; 11],
    }
}

// The header's length is what the kernel compares with that of the write.
const _: () = assert!(size_of::<OutHeader>() == 16 && size_of::<InitOut>() == 64);
