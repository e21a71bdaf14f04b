//! Crashes of mqfs while programs write: "whole or not at all", and nothing that was acknowledged is lost or doubled.

use std::collections::{HashMap, HashSet};
use std::fs;

use crate::common::{Mount, listing, producer, wait_until};

/// Writes numbered messages until mqfs is gone, small and large, directly and by way of a draft, and notes each that was
/// acknowledged (by a close or rename that returned 0). Bodies tell name and length, so that a part of one shows.
const PRODUCER: &str = r#"
import os, sys
worker, start = sys.argv[1], int(sys.argv[2])
acknowledged = os.open(os.environ["T"] + "/acknowledged-" + worker, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
try:
    for i in range(start, start + 1_000_000):
        name = f"{worker}-{i}"
        size = (10, 3_000, 40_000, 200_000)[i % 4]
        body = (f"{name} {size} ".encode() + b"x" * size)[:size - 1] + b"."
        path = "q/." + name if i % 3 == 0 else "q/" + name
        fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        for at in range(0, size, 100_000):
            os.write(fd, body[at:at + 100_000])
        os.close(fd)
        if i % 3 == 0:
            os.rename(path, "q/" + name)
        os.write(acknowledged, (name + "\n").encode())
except OSError:
    pass
"#;

fn acknowledged(m: &Mount, worker: u32) -> Vec<String> {
    let path = m.scratch().join(format!("acknowledged-{worker}"));
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The bytes that [`PRODUCER`] writes under a name.
fn body_of(name: &str) -> Vec<u8> {
    let number: usize = name.split('-').nth(1).unwrap().parse().unwrap();
    let size = [10, 3_000, 40_000, 200_000][number % 4];
    let mut body = format!("{name} {size} ").into_bytes();
    body.resize(body.len() + size, b'x');
    body.truncate(size - 1);
    body.push(b'.');
    body
}

/// "when `close()` by the process that opened the file, or the `rename()` that publishes a draft, returns 0, the message
/// survives": in either durability when mqfs crashes, each exactly once, and at most the one under way besides.
fn crash_while_programs_write(durability: &str) {
    const WORKERS: u32 = 4;
    let mut m = Mount::new();
    let q = m.queue_with("q", &[&format!("durability={durability}")]);
    let mut started: HashMap<u32, usize> = HashMap::new();
    for round in 1..=5 {
        let before: usize = (0..WORKERS).map(|worker| acknowledged(&m, worker).len()).sum();
        let producers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let start = started.entry(worker).and_modify(|start| *start += 10_000).or_insert(0);
                let arguments = ["-c", PRODUCER, &worker.to_string(), &start.to_string()];
                m.start_command(std::process::Command::new("python3").args(arguments))
            })
            .collect();
        let enough = before + 37 * round;
        wait_until(|| (0..WORKERS).map(|worker| acknowledged(&m, worker).len()).sum::<usize>() >= enough);
        m.kill9_and_remount();
        for producer in producers {
            producer.finish();
        }
        let promised: HashSet<String> = (0..WORKERS).flat_map(|worker| acknowledged(&m, worker)).collect();
        let mut found = HashSet::new();
        for (name, body) in m.messages(&q) {
            let name = producer(&name).to_owned();
            assert!(body == body_of(&name), "round {round}: {name} is not whole: {} bytes", body.len());
            assert!(found.insert(name.clone()), "round {round}: {name} is there twice");
        }
        let lost: Vec<_> = promised.difference(&found).collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?}");
        let extra = found.len() - promised.len();
        assert!(extra <= round * WORKERS as usize, "round {round}: {extra} that nobody was told of");
        m.sh("rm -f q/.[0-9]*").ok();
        assert_eq!(m.stats(&q)["ready"], found.len());
        assert_eq!(listing(&q).len(), found.len(), "round {round}: not all are ready");
    }
}

/// In a `durability = sync` queue.
#[test]
fn crashes_lose_nothing_acknowledged_in_a_sync_queue() {
    crash_while_programs_write("sync");
}

/// "In a `durability = async` queue it survives a crash of the mqfs process".
#[test]
fn crashes_lose_nothing_acknowledged_in_an_async_queue() {
    crash_while_programs_write("async");
}

/// Body files of what a crash left half-written do not pile up.
#[test]
fn crashes_leave_no_orphaned_bodies() {
    let mut m = Mount::new();
    let q = m.queue("q");
    for round in 1..=3 {
        let writer = m.spawn("exec 3> q/x; head -c 1000000 /dev/zero >&3; echo ready; exec sleep 1000");
        wait_until(|| writer.output() == "ready\n");
        m.sh(&format!("head -c 100000 /dev/zero > q/whole{round}; head -c 100000 /dev/zero > q/gone; rm q/*-gone"))
            .ok();
        m.kill9_and_remount();
    }
    assert_eq!(m.bodies(&q).iter().map(String::len).collect::<Vec<_>>(), [100_000; 3]);
    wait_until(|| m.body_files().len() == 3);
    m.sh("rm q/*").ok();
    wait_until(|| m.body_files().is_empty());
}

/// A line is in the store when the write that completed it has returned, and no line is there in parts, or twice.
#[test]
fn crashes_lose_no_line_that_was_written() {
    const LINES: &str = r#"
import os, sys
worker, start = sys.argv[1], int(sys.argv[2])
acknowledged = os.open(os.environ["T"] + "/acknowledged-" + worker, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
try:
    fd = os.open("q/.mq/lines", os.O_WRONLY)
    for i in range(start, start + 1_000_000):
        size = (10, 3_000, 40_000)[i % 3]
        line = (f"{worker}-{i} ".encode() + b"x" * size)[:size - 2] + b".\n"
        at = 0
        while at < size:
            at += os.write(fd, line[at:at + 17_000])
        os.write(acknowledged, f"{worker}-{i}\n".encode())
except OSError:
    pass
"#;
    let mut m = Mount::new();
    let q = m.queue("q");
    for round in 0..3 {
        let start = |worker: u32| {
            let arguments = ["-c", LINES, &worker.to_string(), &(round * 10_000).to_string()];
            m.start_command(std::process::Command::new("python3").args(arguments))
        };
        let before: usize = (0..3).map(|worker| acknowledged(&m, worker).len()).sum();
        let producers: Vec<_> = (0..3).map(start).collect();
        wait_until(|| (0..3).map(|worker| acknowledged(&m, worker).len()).sum::<usize>() >= before + 200);
        m.kill9_and_remount();
        for producer in producers {
            producer.finish();
        }
        let promised: HashSet<String> = (0..3).flat_map(|worker| acknowledged(&m, worker)).collect();
        let mut found = HashSet::new();
        for line in m.bodies(&q) {
            let name = line.split(' ').next().unwrap().to_owned();
            let number: usize = name.split('-').nth(1).unwrap().parse().unwrap();
            assert_eq!(line.len(), [10, 3_000, 40_000][number % 3], "{name}");
            assert!(line.ends_with(".\n"), "{name}");
            assert!(found.insert(name.clone()), "{name} is there twice");
        }
        assert!(promised.is_subset(&found), "lost {:?}", promised.difference(&found));
        assert!(found.len() <= promised.len() + 3 * (round + 1));
    }
}
