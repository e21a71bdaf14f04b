//! The memory of one entry of a ring: a page with its header, and room for the longest payload.
//!
//! Whose it is: the kernel's from the moment in which the entry is handed in (registered, or committed) to that in which its completion
//! is seen; in between it is ours. Of what is ours only the serving thread reads or writes, so no lock is needed: an answer that comes
//! from another thread is kept beside ([`super::answers`]) until the serving thread puts it in.

use std::io;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use zerocopy::IntoBytes;

use super::super::wire::abi::{OutHeader, RingEntry, RingHeader};

const PAGE: usize = 4096;
/// What is longer than this is given back while the request waits.
const LONG: usize = 64 << 10;

/// The memory of one entry.
pub struct Slot {
    memory: NonNull<u8>,
    length: usize,
    /// Where the kernel looks for the header and the payload, when the entry is registered.
    segments: Box<[libc::iovec; 2]>,
    /// The queue of the kernel's that it belongs to.
    pub queue: u16,
}

// SAFETY: it is nobody else's memory.
unsafe impl Send for Slot {}

impl Slot {
    /// Maps the memory of an entry whose payload has at most so many bytes. It takes what is used of it.
    pub fn new(queue: u16, payload: usize) -> io::Result<Self> {
        let length = PAGE + payload;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: new memory, at an address that the kernel chooses.
        let memory = unsafe { mmap_anonymous(std::ptr::null_mut(), length, protection, flags)? }.cast::<u8>();
        let memory = NonNull::new(memory).ok_or(io::ErrorKind::OutOfMemory)?;
        let segment = |offset: usize, iov_len| libc::iovec {
            // SAFETY: within the mapping.
            iov_base: unsafe { memory.as_ptr().add(offset) }.cast(),
            iov_len,
        };
        let segments = Box::new([segment(0, size_of::<RingHeader>()), segment(PAGE, payload)]);
        Ok(Self { memory, length, segments, queue })
    }

    /// The address of the two segments, and how many they are.
    pub fn segments(&self) -> (u64, u32) {
        (self.segments.as_ptr() as u64, 2)
    }

    /// What the kernel has put in: the header, the structure that the call begins with, and the rest.
    pub fn request(&self) -> (&[u8], &[u8], &[u8]) {
        // SAFETY: the mapping is a page and more, zeroed or written by the kernel, which is done with it; any bytes will do.
        let header = unsafe { &*self.memory.as_ptr().cast::<RingHeader>() };
        let length = (header.entry.payload_sz as usize).min(self.length - PAGE);
        // SAFETY: within the mapping, as above.
        let payload = unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(PAGE), length) };
        (&header.in_out, &header.op_in, payload)
    }

    /// The number of the request.
    pub fn unique(&self) -> u64 {
        let (header, _, _) = self.request();
        header.get(8..16).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
    }

    /// Its payload takes more than a little memory.
    pub fn is_long(&self) -> bool {
        let (_, _, payload) = self.request();
        payload.len() > LONG
    }

    /// The request is served, as far as its payload is concerned, and waits: gives the memory back.
    pub fn forget_payload(&mut self) {
        // SAFETY: what is behind the first page of the mapping, to which nobody has a reference: this is `&mut self`. It is zeros then.
        let _ = unsafe {
            let payload = self.memory.as_ptr().add(PAGE).cast();
            madvise(payload, self.length - PAGE, Advice::LinuxDontNeed) // it stays, at the worst
        };
    }

    /// By what number the answer is committed.
    pub fn commit_id(&self) -> u64 {
        // SAFETY: as in `request`.
        unsafe { (*self.memory.as_ptr().cast::<RingHeader>()).entry.commit_id }
    }

    /// Puts an answer in. What does not fit is an error of ours: the kernel said how much it wants.
    pub fn answer(&mut self, unique: u64, errno: i32, bytes: &[u8]) {
        let fits = bytes.len() <= self.length - PAGE;
        let (errno, bytes) = if fits { (errno, bytes) } else { (libc::EIO, &[][..]) };
        let length = size_of::<OutHeader>() + bytes.len();
        let out = OutHeader { len: u32::try_from(length).unwrap_or(u32::MAX), error: -errno, unique };
        // SAFETY: as in `request`, and nobody has a reference into it: this is `&mut self`.
        let header = unsafe { &mut *self.memory.as_ptr().cast::<RingHeader>() };
        header.in_out[..size_of::<OutHeader>()].copy_from_slice(out.as_bytes());
        header.entry = RingEntry { payload_sz: bytes.len() as u32, ..header.entry };
        // SAFETY: it fits in what is behind the first page.
        unsafe { self.memory.as_ptr().add(PAGE).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: the mapping that was made, which nobody refers to any more: the ring is gone, or never had it.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), self.length) };
    }
}
