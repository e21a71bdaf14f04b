//! Makes the disk slow for one mqfs, by strace.

#![allow(dead_code)]

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::common::{Mount, wait_until};

const CALLS: &str = "fdatasync,fsync,syncfs,sync_file_range";

/// Each sync of mqfs takes its time, until this is dropped.
pub struct SlowSyncs(Child);

impl SlowSyncs {
    /// Each comes so many milliseconds later.
    pub fn late(m: &Mount, milliseconds: u32) -> SlowSyncs {
        SlowSyncs::with(m, "delay_enter", milliseconds)
    }

    /// Each is over at once, but returns so many milliseconds later.
    pub fn long(m: &Mount, milliseconds: u32) -> SlowSyncs {
        SlowSyncs::with(m, "delay_exit", milliseconds)
    }

    /// Each of one of these files is over at once, but returns so many milliseconds later.
    pub fn of_files(m: &Mount, milliseconds: u32, files: &[PathBuf]) -> SlowSyncs {
        let paths = files.iter().flat_map(|file| ["-P".into(), file.clone().into_os_string()]);
        SlowSyncs::of(m, "delay_exit", milliseconds, paths.collect())
    }

    fn with(m: &Mount, delay: &str, milliseconds: u32) -> SlowSyncs {
        SlowSyncs::of(m, delay, milliseconds, Vec::new())
    }

    fn of(m: &Mount, delay: &str, milliseconds: u32, more: Vec<OsString>) -> SlowSyncs {
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-e", &format!("trace={CALLS}"), "-e"])
            .arg(format!("inject={CALLS}:{delay}={milliseconds}000"))
            .args(more)
            .args(["-p", &m.pid().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace");
        let tasks = || fs::read_dir(format!("/proc/{}/task", m.pid())).unwrap().flatten();
        let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).unwrap_or_default();
        wait_until(|| tasks().map(status).all(|status| !status.contains("TracerPid:\t0\n")));
        SlowSyncs(strace)
    }
}

impl Drop for SlowSyncs {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
