//! SIGTERM, SIGINT and SIGHUP: the first asks the mount to go away, the second is obeyed at once. SIGHUP may mean something
//! else, see [`Hangup`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::daemon;

/// Takes the signals off all threads that are made from now on, and handles them on one of its own.
pub struct Signals {
    set: libc::sigset_t,
    hangup: Hangup,
}

/// What SIGHUP is for.
pub enum Hangup {
    /// It ends the process as SIGTERM does, unless the caller ignores it, as nohup(1) does.
    Ends,
    /// This is done, whenever it comes.
    Does(Box<dyn Fn() + Send>),
}

/// Whether there is a mount that must be taken off before the process may end.
#[derive(Debug, Default)]
pub struct Serving(AtomicBool);

impl Serving {
    /// To be said before the attempt to mount: from here on a signal waits for the main thread.
    pub fn begin(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Signals {
    /// Blocks the signals in this thread and those that it will make. To be called before any is made: a thread without
    /// the block would be killed by the signal, and the process with it.
    ///
    /// SIGHUP is left alone where it would end the process and the caller ignores it. SIGINT is not: shells ignore it for
    /// everything that they start in the background, and `kill -INT` is to work there.
    pub fn block(hangup: Hangup) -> io::Result<Signals> {
        let of_use = matches!(hangup, Hangup::Does(_));
        // SAFETY: sigset_t is plain data; it is initialised by sigemptyset before it is read.
        let set = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            if of_use || !is_ignored(libc::SIGHUP) {
                libc::sigaddset(&raw mut set, libc::SIGHUP);
            }
            set
        };
        // SAFETY: both pointers are valid or null for the duration of the call.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
            0 => {}
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
        if of_use && is_ignored(libc::SIGHUP) {
            // What is ignored cannot be waited for. It is blocked by now, so it ends nothing.
            // SAFETY: the default action is no function.
            unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
        }
        Ok(Signals { set, hangup })
    }

    /// Starts the thread that waits for them. The first one while serving calls `asked`; any other ends the process at
    /// once with exit code `hurried`, and so does the first one before there is anything to take off.
    pub fn handle(self, hurried: u8, asked: impl FnOnce(i32) + Send + 'static) -> io::Result<Arc<Serving>> {
        let serving = Arc::new(Serving::default());
        let shared = serving.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let signal = self.wait();
            if !shared.0.load(Ordering::SeqCst) {
                daemon::leave(hurried);
            }
            asked(signal);
            self.wait();
            tracing::warn!("a second signal: leaving at once, what is uncommitted is dropped");
            daemon::leave(hurried);
        })?;
        Ok(serving)
    }

    /// Waits for one of the signals that end the process and returns its number.
    fn wait(&self) -> i32 {
        loop {
            let mut signal = 0;
            // SAFETY: both pointers are valid for the duration of the call.
            while unsafe { libc::sigwait(&raw const self.set, &raw mut signal) } != 0 {}
            match &self.hangup {
                Hangup::Does(act) if signal == libc::SIGHUP => act(),
                _ => return signal,
            }
        }
    }
}

/// Whether the process ignores a signal.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: sigaction only writes to `action`, which is plain data.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}
