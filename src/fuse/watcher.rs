//! `-o auto_unmount`: a process that outlives the serving one and unmounts when that one died.
//!
//! libfuse leaves this to fusermount3, which demands `allow_other` for it. Ours is a fork made before the first thread.
//! It reads a pipe whose other end only the serving process holds: end of file means that it is gone, however it went.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::pipe::PipeFlags;

use super::daemon;
use super::mount;
use super::mountinfo;

/// How long the kernel may take to close a dead process's descriptors.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the mount point is looked at meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

/// Keeps the watcher waiting; it wakes up when this is dropped, or closed by the kernel.
#[derive(Debug)]
pub struct Watched {
    _pipe: OwnedFd,
}

/// Starts a watcher of the mount of type `kind` named `source` that is to come at `point`. Like [`daemon::fork`], to be
/// called while the process has a single thread.
pub fn start(point: &Path, kind: &str, source: &OsString) -> io::Result<Watched> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    if daemon::fork_single_threaded()?.is_some() {
        return Ok(Watched { _pipe: write });
    }
    drop(write);
    // From here on this is the watcher, which has nobody to report to.
    let _ = watch(read, point, kind, source);
    daemon::leave(0)
}

fn watch(pipe: OwnedFd, point: &Path, kind: &str, source: &OsString) -> io::Result<()> {
    // Out of reach of the terminal's Ctrl-C, and holding nothing of the caller's.
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    daemon::leave_standard_streams()?;
    daemon::close_all_but(&[pipe.as_raw_fd()]);
    // At end of file, and also if reading fails, it is time to look.
    let _ = std::fs::File::from(pipe).read_to_end(&mut Vec::new());
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match mountinfo::at(point)? {
            Some(entry) if entry.kind == kind && entry.source == *source => {}
            // Unmounted, or somebody else's by now.
            _ => return Ok(()),
        }
        if mount::is_dead(point) {
            return mount::detach(point);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
