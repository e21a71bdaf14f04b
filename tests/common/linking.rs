//! Runs `mqfs link` in tests, with its status in a directory of the test's.

#![allow(dead_code)]

use std::fs;
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

/// What the links of this test tell; others may run on the machine.
fn told(m: &Mount) -> Vec<serde_json::Value> {
    let files = fs::read_dir(m.scratch().join("mqfs-link")).into_iter().flatten().flatten().map(|entry| entry.path());
    let names: Vec<String> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "json"))
        .map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    if names.is_empty() {
        return Vec::new();
    }
    let arguments: Vec<&str> = ["--status", "--json"].into_iter().chain(names.iter().map(String::as_str)).collect();
    serde_json::from_str(&run(m, &arguments).stdout).unwrap()
}

/// What `--status --json` tells of the only link.
#[track_caller]
pub fn status(m: &Mount) -> serde_json::Value {
    let mut all = Vec::new();
    // It has just been started, perhaps.
    wait_until(|| {
        all = told(m);
        all.len() == 1
    });
    all.remove(0)
}

/// The state that it tells; nothing when no link has run.
pub fn state(m: &Mount) -> String {
    told(m).first().and_then(|link| link["state"].as_str()).unwrap_or_default().to_owned()
}
