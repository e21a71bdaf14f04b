//! Runs `mqfs link` in tests, with its status in a directory of the test's.

#![allow(dead_code)]

use std::process::Command;

use crate::common::{Mount, Ran, Running, wait_until};

const MQFS: &str = env!("CARGO_BIN_EXE_mqfs");

fn link(m: &Mount, arguments: &[&str]) -> Command {
    let mut command = Command::new("env");
    command.arg(format!("XDG_RUNTIME_DIR={}", m.scratch().display())).arg(MQFS).arg("link");
    command.args(arguments);
    command
}

/// Runs `mqfs link ARGUMENTS` in the mount point to its end.
#[track_caller]
pub fn run(m: &Mount, arguments: &[&str]) -> Ran {
    m.run(&mut link(m, arguments))
}

/// Starts it.
pub fn start(m: &Mount, arguments: &[&str]) -> Running {
    m.start_command(&mut link(m, arguments))
}

/// What `--status --json` tells of the only link.
#[track_caller]
pub fn status(m: &Mount) -> serde_json::Value {
    let mut only = serde_json::Value::Null;
    // It has just been started, perhaps.
    wait_until(|| {
        let all: serde_json::Value = serde_json::from_str(&run(m, &["--status", "--json"]).stdout).unwrap();
        only = all[0].clone();
        !only.is_null() && all[1].is_null()
    });
    only
}

/// The state that it tells; nothing when no link has run.
pub fn state(m: &Mount) -> String {
    let ran = run(m, &["--status", "--json"]);
    let all: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    all[0]["state"].as_str().unwrap_or_default().to_owned()
}
