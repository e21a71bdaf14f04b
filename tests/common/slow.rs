//! Makes the disk slow for one mqfs, by strace.

#![allow(dead_code)]

use std::fs;
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

    fn with(m: &Mount, delay: &str, milliseconds: u32) -> SlowSyncs {
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-e", &format!("trace={CALLS}"), "-e"])
            .arg(format!("inject={CALLS}:{delay}={milliseconds}000"))
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
