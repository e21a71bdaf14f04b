//! Signals that end the program: what was begun is removed first.

use std::sync::atomic::{AtomicI32, Ordering};

use rustix::process::Signal;

/// The signal that came; 0: none.
static TOLD: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: libc::c_int) {
    TOLD.store(signal, Ordering::Relaxed);
}

/// From now on a signal that would end the program is noted instead; a call that blocks returns.
pub fn catch() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the structures are valid for the calls, zero is a valid value of each field, and the handler only stores
        // a number.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let ignored =
                libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN;
            if !ignored {
                action = std::mem::zeroed();
                action.sa_sigaction = note as *const () as libc::sighandler_t;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
}

/// Whether such a signal came.
pub fn told() -> bool {
    TOLD.load(Ordering::Relaxed) != 0
}

/// The signal that came.
pub fn signal() -> Option<Signal> {
    Signal::from_named_raw(TOLD.load(Ordering::Relaxed))
}

/// Ends the program by the signal that came, if one did, so that its caller sees what ended it.
pub fn die_if_told() {
    let signal = TOLD.load(Ordering::Relaxed);
    if signal != 0 {
        // SAFETY: calls without pointers.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
}
