//! The ring by which entries go to the kernel and come back.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, register::Restriction, squeue};
use zerocopy::IntoBytes;

use super::super::wire::abi::RingCommand;

/// It takes so many commands at once.
const COMMANDS: u32 = 256;
/// It holds so many completions until they are seen.
const COMPLETIONS: u32 = 16 * COMMANDS;

/// A ring that knows commands to `/dev/fuse` and polls, and nothing else.
pub struct Ring(IoUring<squeue::Entry128, cqueue::Entry>);

/// What came back: of what, and an errno or 0.
pub type Completion = (u64, i32);

impl Ring {
    /// Makes one. It works when [`Ring::enable`] was called, by the thread that uses it.
    ///
    /// Whatever runs in this process could do nothing else with it: no filter of system calls sees what is asked by way of a ring.
    pub fn new() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_cqsize(COMPLETIONS).setup_r_disabled();
        // Completions are handed over when the thread is in the kernel anyway: otherwise it would be interrupted for each.
        builder.setup_single_issuer().setup_coop_taskrun();
        let ring = builder.build(COMMANDS)?;
        let mut allowed = [opcode::UringCmd80::CODE, opcode::PollAdd::CODE].map(Restriction::sqe_op);
        ring.submitter().register_restrictions(&mut allowed)?;
        Ok(Self(ring))
    }

    /// From now on it is this thread's.
    pub fn enable(&self) -> io::Result<()> {
        self.0.submitter().register_enable_rings()
    }

    /// Asks to be told, by that number, when there is something to read.
    pub fn poll(&mut self, descriptor: RawFd, told: u64) -> io::Result<()> {
        self.push(opcode::PollAdd::new(Fd(descriptor), libc::POLLIN as u32).build().user_data(told).into())
    }

    /// A command for an entry, which comes back by that number. `segments`: the address of the entry's memory, and of how many parts it
    /// is; it must live as long as the ring.
    pub fn command(
        &mut self,
        device: RawFd,
        (code, command): (u32, RingCommand),
        (address, count): (u64, u32),
        told: u64,
    ) -> io::Result<()> {
        let mut bytes = [0; 80];
        bytes[..size_of::<RingCommand>()].copy_from_slice(command.as_bytes());
        let entry = opcode::UringCmd80::new(Fd(device), code).cmd(bytes).addr(Some(address)).build().user_data(told);
        self.push(with_length(entry, count))
    }

    fn push(&mut self, entry: squeue::Entry128) -> io::Result<()> {
        // SAFETY: what the entry refers to lives as long as the ring does, as the callers see to.
        while unsafe { self.0.submission().push(&entry) }.is_err() {
            self.0.submit()?; // it was full
        }
        Ok(())
    }

    /// Hands over what was pushed, and takes what came back into `completions`: all of which the kernel had made something by then. Waits
    /// for something if `wait` says for how long at most.
    pub fn exchange(&mut self, wait: Option<Option<Duration>>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let submitter = self.0.submitter();
        let submitted = match wait {
            None => submitter.submit(),
            Some(None) => submitter.submit_and_wait(1),
            Some(Some(time)) => {
                let time = Timespec::from(time);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        match submitted {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY)) => {
                return Err(error);
            }
            _ => completions.extend(self.0.completion().map(|done| (done.user_data(), done.result()))),
        }
        Ok(())
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl std::os::fd::AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring has it open.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// An entry whose `len` is that: the crate has no way to say it, and the kernel wants to be told of how many segments it is.
fn with_length(entry: squeue::Entry128, length: u32) -> squeue::Entry128 {
    // SAFETY: both are 128 bytes without padding or invalid values: `struct io_uring_sqe`, in which `len` stands at byte 24.
    unsafe {
        let mut bytes: [u8; 128] = std::mem::transmute(entry);
        bytes[24..28].copy_from_slice(&length.to_ne_bytes());
        std::mem::transmute(bytes)
    }
}
