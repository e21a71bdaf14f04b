//! A mount that lives by a clock of its own, which the test sets: by libfaketime, loaded into mqfs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Mount;

impl Mount {
    /// Mounts an empty store that takes the wall clock to be as [`Mount::set_clock`] says. Other clocks go on as they do.
    pub fn with_clock(clock: &str) -> Mount {
        Mount::in_directory(&[], None, Some(clock))
    }

    fn clock_path(&self) -> PathBuf {
        self.dir().join("clock")
    }

    /// Sets the wall clock of a mount made with [`Mount::with_clock`]: ahead of or behind the real one by so much (`+2h`), or to
    /// stand still at so many seconds since 1970 (`1900000000.5`). What was closed before, was closed by the clock as it was: nobody
    /// waits for the last close of a file, but whatever is asked later is answered later.
    pub fn set_clock(&self, clock: &str) {
        // The kernel answers this by itself only where nothing is mounted.
        let _ = rustix::fs::statfs(self.path());
        let new = self.dir().join("clock.new");
        fs::write(&new, format!("{clock}\n")).unwrap();
        fs::rename(new, self.clock_path()).unwrap();
    }

    /// Gives a process that is about to start the clock of the mount, if that has one.
    pub(super) fn give_clock(&self, command: &mut Command) {
        if self.clock_path().exists() {
            command.env("LD_PRELOAD", library()).env("FAKETIME_TIMESTAMP_FILE", self.clock_path());
            command.env("FAKETIME_FMT", "%s").env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
    }
}

fn library() -> PathBuf {
    let inside = |dir: &Path| {
        let library = dir.join("faketime/libfaketimeMT.so.1");
        library.exists().then_some(library)
    };
    let lib = Path::new("/usr/lib");
    let nested = fs::read_dir(lib).unwrap().flatten().find_map(|entry| inside(&entry.path()));
    inside(lib).or(nested).expect("libfaketime is not installed (package faketime)")
}

/// Removes what libfaketime leaves of a process that was killed.
pub fn remove_clock_of(pid: u32) {
    for name in ["faketime_shm", "sem.faketime_sem"] {
        let _ = fs::remove_file(format!("/dev/shm/{name}_{pid}"));
    }
}
