//! Work that takes long is done in turns: a user who asks for much keeps nobody else waiting, and nobody who is killed.
//!
//! The kernel lets one process at a time rename in a directory, or list it meanwhile: so each of Ann's drafts has a queue of its own.

use std::fs;
use std::path::PathBuf;

use crate::common::*;
use crate::slow::SlowSyncs;
use crate::users::*;

const SIZE: usize = 100_000;

/// A queue for everybody, and some in each of which [`ANN`] has a large draft; and the files of those.
fn drafts(count: usize) -> (Mount, PathBuf, Vec<PathBuf>) {
    let (m, q) = mount(0o1777);
    for n in 0..count {
        chmod(m.queue(&format!("a{n}")), 0o777);
    }
    ann(&m, &format!("for q in a*; do head -c {SIZE} /dev/zero > $q/.draft; done")).ok();
    let files: Vec<PathBuf> = m.body_files().into_iter().map(|(path, _)| path).collect();
    assert_eq!(files.len(), count);
    (m, q, files)
}

/// Ann publishes one of them, and waits for it.
fn publishes(m: &Mount, n: usize) -> Running {
    let running = m.spawn_as(ANN, ANN, &format!("exec mv a{n}/.draft a{n}/m"));
    wait_until(|| waits(running.pid(), libc::SYS_renameat2));
    running
}

/// The process is within that call, and waits for mqfs to answer.
fn waits(pid: u32, call: libc::c_long) -> bool {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    read("syscall").starts_with(&format!("{call} ")) && read("wchan").contains("request_wait_answer")
}

fn running(all: &mut [Running]) -> usize {
    all.iter_mut().filter_map(|running| running.is_running().then_some(())).count()
}

/// Ann publishes all that she has, and the disk takes as long as it likes; Bob's close and rename come through, and root's work. Then
/// all of hers are killed, and end, but for those at which the disk is.
#[test]
fn much_work_of_one_user_holds_up_nobody_else() {
    let (m, q, files) = drafts(8);
    let slow = SlowSyncs::of_files(&m, 600_000, &files);
    let mut all: Vec<_> = (0..8).map(|n| publishes(&m, n)).collect();
    bob(&m, &format!("head -c {SIZE} /dev/zero > q/b; head -c {SIZE} /dev/zero > q/.b; mv q/.b q/b; sync q")).ok();
    m.sh(&format!("head -c {SIZE} /dev/zero > q/r; echo dead > q/.mq/purge")).ok();
    assert_eq!(producers(&q), ["b", "b", "r"]);
    assert_eq!(running(&mut all), 8, "none of Ann's is done");
    all.iter().for_each(|running| running.signal(libc::SIGKILL));
    wait_until(|| running(&mut all) == 2);
    drop(slow);
    wait_until(|| running(&mut all) == 0);
    for n in 0..8 {
        assert_eq!(
            listing(m.path().join(format!("a{n}"))),
            [".draft"],
            "a rename that has not returned has done nothing"
        );
    }
    ann(&m, "mv a7/.draft a7/m").ok();
    assert_eq!(producers(m.path().join("a7")), ["m"]);
}

/// A close that waits in the same way: it has promised nothing, and enqueues nothing.
#[test]
fn a_process_that_is_killed_as_it_closes_enqueues_nothing() {
    let (m, q, files) = drafts(2);
    let slow = SlowSyncs::of_files(&m, 600_000, &files);
    let first = [publishes(&m, 0), publishes(&m, 1)];
    let close = format!(
        "exec python3 -c 'import os; f = os.open(\"q/w\", os.O_WRONLY | os.O_CREAT); os.write(f, bytes({SIZE})); os.close(f)'"
    );
    let mut writer = m.spawn_as(ANN, ANN, &close);
    wait_until(|| waits(writer.pid(), libc::SYS_close));
    writer.signal(libc::SIGKILL);
    wait_until(|| !writer.is_running());
    wait_until(|| m.stats("")["writers"] == 0);
    drop(slow);
    first.into_iter().for_each(|running| drop(running.finish().ok().to_owned()));
    assert_eq!(producers(&q), [""; 0]);
    assert_eq!(m.stats("q")["aborted_total"], 1);
}
