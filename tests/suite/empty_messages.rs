//! "An empty file is a message", and it is as durable when the close of its opener has returned as any other. What its opener could
//! still have written to is none yet.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{Mount, Running, listing, producers, wait_until};
use crate::disk::Disk;
use crate::slow::SlowSyncs;

/// What programs make of nothing, each way of which closes the file, or ends with it open.
const NOTHINGS: [(&str, &str); 7] = [
    ("touch", "touch q/touch"),
    ("colon", ": > q/colon"),
    ("true", "/bin/true > q/true"),
    ("cp", "cp /dev/null q/cp"),
    ("dd", "dd if=/dev/null of=q/dd status=none"),
    ("exec", "exec 3> q/exec; exec 3>&-"),
    // More descriptors than are looked at in passing.
    (
        "many",
        "python3 -c 'import os; all = [os.dup(0) for _ in range(200)]; os.close(os.open(\"q/many\", os.O_CREAT | os.O_WRONLY))'",
    ),
];

/// Shells that have an empty file open twice, or have closed it while a child holds it, and say that they got there.
fn half_closed(m: &Mount, script: &str) -> Running {
    let shell = m.spawn(&format!("{script}; echo ready; exec sleep 1000"));
    wait_until(|| shell.output() == "ready\n");
    shell
}

/// "When `close()` by the process that opened the file returns 0, the message survives a power cut." And in the middle of a
/// command that has not written yet it leaves nothing.
#[test]
fn an_empty_message_survives_a_power_cut() {
    let disk = Disk::new(&["mkfs.ext4", "-q", "-F"]);
    let mut m = Mount::with_store_in(&disk.path(), &[]);
    let q = m.queue("q");
    fs::File::open(&q).unwrap().sync_all().unwrap();
    let begun = half_closed(&m, "exec 3> q/twice; exec 4>&3; exec 4>&-");
    // What nobody waits for is not on the disk yet when the power is cut.
    let slow = SlowSyncs::late(&m, 500);
    for (_, script) in NOTHINGS {
        m.sh(script).ok();
    }
    disk.cut_the_power();
    drop(slow);
    m.kill9();
    drop(begun);
    m.end_programs();
    disk.start_again();
    m.start();
    assert_eq!(producers(&q), NOTHINGS.map(|(name, _)| name));
    assert!(m.messages(&q).iter().all(|(_, body)| body.is_empty()));
    m.stop();
    drop(m);
}

/// "In a `durability = async` queue it survives a crash of the mqfs process": a close is a promise, though a child still has the
/// descriptor and so nobody sees the message yet. A duplicate that is closed promises nothing.
#[test]
fn an_empty_message_survives_a_crash_once_its_opener_has_closed_it() {
    for durability in ["sync", "async"] {
        let mut m = Mount::new();
        let q = m.queue_with("q", &[&format!("durability={durability}")]);
        let shells = [
            half_closed(&m, "exec 3> q/closed; sleep 1000 & exec 3>&-"),
            half_closed(&m, "exec 3> q/twice; exec 4>&3; exec 4>&-"),
            half_closed(&m, "exec 3> q/inherited; (exec 3>&-)"),
        ];
        assert_eq!(listing(&q), [""; 0]);
        m.kill9_and_remount();
        assert_eq!(producers(&q), ["closed"], "{durability}");
        assert_eq!(m.bodies(&q), [""]);
        drop(shells);
    }
}

/// What comes after such a close belongs to the message.
#[test]
fn bytes_of_a_child_come_after_the_close_of_an_empty_file() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = "mkfifo $T/go; exec 3> q/x; (read line < $T/go; echo $line >&3) & exec 3>&-; echo child > $T/go; wait";
    m.sh(script).ok();
    assert_eq!(m.bodies(&q), ["child\n"]);
    assert_eq!(m.stats(&q)["enqueued_total"], 1);
}

/// The close waits for the disk.
#[test]
fn the_close_of_an_empty_message_waits_for_the_disk() {
    const LATE: Duration = Duration::from_millis(700);
    let m = Mount::new();
    let q = m.queue("q");
    let _slow = SlowSyncs::late(&m, LATE.as_millis() as u32);
    let took = |path: &Path| {
        let began = Instant::now();
        drop(fs::File::create(path).unwrap());
        began.elapsed()
    };
    assert!(took(&q.join("x")) >= LATE);
    assert_eq!(producers(&q), ["x"]);
}

/// A close that has waited for room in a full queue is as good as any.
#[test]
fn an_empty_message_that_waited_for_room_survives_a_crash() {
    let mut m = Mount::new();
    let q = m.queue_with("q", &["max_messages=1", "overflow=block"]);
    m.sh("echo first > q/first").ok();
    // A child keeps the descriptor, so this close is not the last.
    let program = r#"
import os, time
fd = os.open("q/second", os.O_CREAT | os.O_WRONLY)
if os.fork() == 0:
    time.sleep(1000)
os.close(fd)
print("closed", flush=True)
time.sleep(1000)
"#;
    let second = m.spawn_python(program);
    wait_until(|| m.stats(&q)["waiting_writers"] == 1);
    m.sh("rm q/*-first").ok();
    wait_until(|| second.output() == "closed\n");
    m.kill9_and_remount();
    assert_eq!(producers(&q), ["second"]);
}
