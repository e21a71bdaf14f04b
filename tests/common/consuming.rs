//! Starts `mqfs consume` with scripts that tell by files what they do.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Mount, Running};
use crate::extra::*;

const MQFS: &str = env!("CARGO_BIN_EXE_mqfs");

/// Starts `mqfs consume q OPTIONS -- bash -c SCRIPT`.
pub fn start(m: &Mount, options: &[&str], script: &str) -> Running {
    m.start_command(Command::new(MQFS).args(["consume", "q"]).args(options).args(["--", "bash", "-c", script]))
}

/// What a script has written to a file of `$T`.
pub fn said(m: &Mount, file: &str) -> String {
    fs::read_to_string(m.scratch().join(file)).unwrap_or_default()
}

/// Whether a script has made a file of `$T`.
pub fn exists(m: &Mount, file: &str) -> bool {
    m.scratch().join(file).exists()
}

/// Makes a file of `$T` that a script waits for.
pub fn touch(m: &Mount, file: &str) {
    fs::write(m.scratch().join(file), "").unwrap();
}

/// Whether a process has not ended.
pub fn lives(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists() && !is_zombie(pid)
}

/// The processes that a script has noted in `$T/pids`.
pub fn noted(m: &Mount) -> Vec<u32> {
    said(m, "pids").lines().map(|line| line.parse().unwrap()).collect()
}
