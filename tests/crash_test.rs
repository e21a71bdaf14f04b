//! The crash test: what the manual page promises about acknowledged messages holds when mqfs is killed and when its disk loses
//! power, at any moment, while every kind of producer and worker is at work, messages are moved between queues, given up until
//! they are dead letters, outlive their time, and are purged.
//!
//! A few seconds by default; `scripts/crash-test` runs the same for as long as it is told. What is checked says
//! `crash/checker.rs`.

mod common;
mod crash;
#[path = "common/disk.rs"]
mod disk;
#[path = "common/extra.rs"]
mod extra;

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::wait_until;
use crash::campaign::{Plan, Summary, run};
use crash::checker::Violation;

const EXT4: &[&str] = &["mkfs.ext4", "-q", "-F"];
const XFS: &[&str] = &["mkfs.xfs", "-q", "-f"];

/// Not a test: the producers and workers are this program, run again.
#[test]
fn actor() {
    crash::actors::play();
}

/// How long a campaign takes, and an episode of it: as long as the environment says, or some seconds.
fn lengths(default: u64) -> (Duration, Duration) {
    let minutes = std::env::var("MQFS_CRASH_MINUTES").ok().map(|text| text.parse::<f64>().expect("MQFS_CRASH_MINUTES"));
    match minutes {
        Some(minutes) => (Duration::from_secs_f64(minutes * 60.0), Duration::from_secs(15)),
        None => (Duration::ZERO, Duration::from_secs(default)),
    }
}

fn nothing_is_wrong((violations, summary): (Vec<Violation>, Summary)) {
    println!("{summary}");
    let text: String = violations.iter().map(|violation| format!("{violation}\n")).collect();
    assert!(violations.is_empty(), "{} promises were not kept:\n{text}", violations.len());
    assert!(summary.is_enough(), "too little happened");
}

#[test]
fn a_killed_mqfs_keeps_its_promises() {
    let (length, episode) = lengths(4);
    nothing_is_wrong(run(Plan::kills(length, episode), "./scripts/crash-test MINUTES"));
}

#[test]
fn a_power_cut_leaves_the_promises_kept_on_ext4() {
    let (length, episode) = lengths(3);
    nothing_is_wrong(run(Plan::power(EXT4, length / 2, episode), "./scripts/crash-test --power MINUTES"));
}

#[test]
fn a_power_cut_leaves_the_promises_kept_on_xfs() {
    let (length, episode) = lengths(3);
    nothing_is_wrong(run(Plan::power(XFS, length / 2, episode), "./scripts/crash-test --power MINUTES"));
}

/// Makes every fdatasync and fsync of a process do nothing and succeed.
fn without_syncs(pid: u32) -> Child {
    let inject =
        ["-f", "-qq", "-e", "trace=fdatasync,fsync,syncfs", "-e", "inject=fdatasync,fsync,syncfs:retval=0", "-p"];
    let mut strace = Command::new("strace");
    strace.args(inject).arg(pid.to_string()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = strace.spawn().expect("strace");
    wait_until(|| traced(pid));
    child
}

fn traced(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let status = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
    tasks.map(status).all(|status| !status.contains("TracerPid:\t0\n"))
}

/// The control: when the syncs do nothing, the same campaign finds that messages are lost. Only until the first cut, after which
/// nobody could promise that there still is a database.
#[test]
fn the_campaign_notices_that_syncs_are_missing() {
    let (length, episode) = (Duration::ZERO, Duration::from_secs(1));
    let plan = Plan { control: true, attach: Some(without_syncs), ..Plan::power(EXT4, length, episode) };
    let (violations, summary) = run(plan, "");
    println!("{summary}");
    let rules: BTreeSet<&str> = violations.iter().map(|violation| violation.rule).collect();
    assert!(rules.contains("lost"), "no loss was noticed: {violations:?}");
}
