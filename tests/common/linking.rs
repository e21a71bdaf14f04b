//! Runs `mqfs link` in tests, with its status in a directory of the test's.

#![allow(dead_code)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Mount, Ran, Running, try_xattr, wait_until, xattrs};

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

/// What `--status --json` tells of one of several links; nothing while it has not begun.
pub fn of(m: &Mount, name: &str, key: &str) -> serde_json::Value {
    let link = told(m).into_iter().find(|link| link["name"] == name);
    link.map_or(serde_json::Value::Null, |link| link[key].clone())
}

/// A file with a user and a password, as an option.
pub fn secret(m: &Mount, user: &str, password: &str) -> String {
    let path = m.scratch().join(format!("{user}-{password}"));
    fs::write(&path, format!("user = {user}\npassword = {password}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    format!("secret={}", path.display())
}

/// Tries again soon.
pub const SOON: [&str; 2] = ["-o", "retry=20ms..200ms"];

/// Name, body and attributes of a message.
pub type Given<'a> = (&'a str, &'a [u8], &'a [(&'a str, &'a [u8])]);

/// A queue `q` with so many messages, of which none comes back by itself.
pub fn many(m: &Mount, count: usize) -> PathBuf {
    let q = m.queue_with("q", &["durability=async", "visibility_timeout=1h"]);
    m.fill(&q, count);
    q
}

/// Nothing is ready, claimed or delayed.
pub fn is_empty(m: &Mount, q: &Path) -> bool {
    let stats = m.stats(q);
    ["ready", "claimed", "delayed"].iter().all(|state| stats[*state] == 0)
}

/// Every message is in `q` once.
#[track_caller]
pub fn assert_each_once(m: &Mount, count: usize) {
    let bodies = m.bodies("q");
    let each: BTreeSet<&String> = bodies.iter().collect();
    assert_eq!((bodies.len(), each.len()), (count, count));
}

/// What goes with a message to wherever it is sent, and comes back with it.
const PROPERTIES: [&str; 6] = [
    "user.mq.content_type",
    "user.mq.correlation_id",
    "user.mq.dedup_id",
    "user.mq.group",
    "user.mq.priority",
    "user.mq.reply_to",
];

/// The attributes of a message that somebody has set, or a link, and those called `more`.
pub fn attributes(path: &Path, more: &[&str]) -> Vec<(String, Vec<u8>)> {
    let travels = |name: &str| !name.starts_with("user.mq.") || PROPERTIES.contains(&name) || more.contains(&name);
    let mut names = xattrs(path);
    names.retain(|name| travels(name));
    names.sort();
    names.into_iter().map(|name| (name.clone(), try_xattr(path, &name).unwrap())).collect()
}
