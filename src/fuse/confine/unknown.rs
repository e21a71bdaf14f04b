//! Who is asked about the system calls that are not in the list, says no, and tells of it in the log.
//!
//! Such a call is a bug of the list, or somebody else's code in this process, and in neither case a reason to end the
//! mount: it fails with ENOSYS, which libraries take for an older kernel and find another way. Whoever looks at the log
//! is to know of it.
//!
//! The kernel's own ways to tell do not do. Its log is not ours, often off, and cut at so many lines; and a signal
//! (SECCOMP_RET_TRAP) kills a thread that blocks signals at that moment, as the C library does around the making of
//! threads. So the caller waits while a thread of ours is asked, which takes Linux 5.0. The kernel asks nobody
//! any more, and lets the call fail, when that thread has ended.
//!
//! That thread has a filter of its own which asks nobody, so it never waits for itself. It is set before the one of all
//! others; hence each thread sets its own or has that of its maker, and not one for all threads at once
//! (SECCOMP_FILTER_FLAG_TSYNC).

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use super::calls::CALLS;
use super::filter::{Unknown, set};

/// The log tells of so many different calls, and of each once: whoever makes them can make them often.
const TOLD: usize = 64;

/// Sets the filters and starts the thread.
pub fn watch() -> io::Result<()> {
    let (ready, is_ready) = channel();
    let (listeners, listener) = channel();
    thread::Builder::new().name("calls".to_owned()).spawn(move || {
        let filtered = set(CALLS, Unknown::Fails, 0).map(drop);
        let works = filtered.is_ok();
        if ready.send(filtered).is_ok() && works {
            answer_all(&listener);
        }
    })?;
    is_ready.recv().map_err(io::Error::other)??;
    match set(CALLS, Unknown::IsAsked, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER) {
        Ok(number) => {
            // SAFETY: the kernel has just made it, and nobody else has it.
            let listener = unsafe { OwnedFd::from_raw_fd(number) };
            // The thread waits for nothing else. If it is gone, the listener is, and calls fail.
            let _ = listeners.send(listener);
        }
        // An older kernel, or somebody outside is asked already.
        Err(error) => {
            tracing::info!(%error, "system calls that mqfs does not know of fail, and are not told of");
            set(CALLS, Unknown::Fails, 0)?;
        }
    }
    Ok(())
}

/// Room for what the kernel writes, which may be more one day.
#[repr(C)]
struct Question {
    asked: libc::seccomp_notif,
    more: [u64; 16],
}

#[repr(C)]
struct Answer {
    said: libc::seccomp_notif_resp,
    more: [u64; 16],
}

fn answer_all(listeners: &Receiver<OwnedFd>) {
    let Ok(listener) = listeners.recv() else { return };
    let mut told = BTreeSet::new();
    loop {
        // SAFETY: plain numbers, for which 0 is a value.
        let mut question: Question = unsafe { std::mem::zeroed() };
        match ioctl(&listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &mut question) {
            // The one who asked is gone.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ENOENT)) => continue,
            Err(error) => return tracing::warn!(%error, "system calls that mqfs does not know of are not told of"),
            Ok(()) => {}
        }
        // SAFETY: as above.
        let mut answer: Answer = unsafe { std::mem::zeroed() };
        answer.said.id = question.asked.id;
        answer.said.error = -libc::ENOSYS;
        // It fails when the caller was killed meanwhile. Answered before anything is logged: nobody waits for that.
        let _ = ioctl(&listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &mut answer);
        let call = question.asked.data.nr;
        if told.len() < TOLD && told.insert(call) {
            tracing::warn!(call, thread = question.asked.pid, "a system call that mqfs does not know of: ENOSYS");
        }
    }
}

fn ioctl<T>(listener: &OwnedFd, request: libc::Ioctl, room: &mut T) -> io::Result<()> {
    // SAFETY: the room is large enough for what the kernel reads and writes there.
    match unsafe { libc::ioctl(listener.as_raw_fd(), request, std::ptr::from_mut(room)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
