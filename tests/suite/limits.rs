//! "max_messages", "max_bytes": a full queue refuses what comes with EDQUOT, early, with room reserved for every open writer.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::common::*;
use crate::extra::*;

const FULL: &str = "Disk quota exceeded";

fn rejected(m: &Mount) -> u64 {
    m.stats("q")["rejected_total"].as_u64().unwrap()
}

/// The queue takes exactly `count` more messages.
#[track_caller]
fn takes(q: &Path, count: usize) {
    let files: Vec<File> = (0..count).map(|n| File::create(q.join(format!("more{n}"))).expect("room")).collect();
    assert_eq!(errno(File::create(q.join("toomuch"))), libc::EDQUOT);
    drop(files);
}

#[test]
fn so_many_messages_and_no_more() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_messages=2"]);
    for shell in ["bash", "dash", "busybox sh"] {
        m.shell(shell, "echo a > q/a; echo b > q/b").ok();
        let ran = m.shell(shell, "echo c > q/c; cp /etc/passwd q/d; touch q/e");
        assert_eq!(ran.stderr.matches(FULL).count(), 3, "{shell}: {}", ran.stderr);
        m.shell(shell, "dd if=/dev/zero of=q/f count=1").fails(FULL);
        m.python("open('q/g', 'w')").fails(FULL);
        assert_eq!(m.bodies("q"), ["a\n", "b\n"]);
        // Claimed ones count; dead ones do not.
        let first = q.join(&listing(&q)[0]);
        let claimed = transition(&q, "claimed", &first);
        m.shell(shell, "echo c > q/c").fails("");
        transition(&q, "dead", &claimed);
        m.shell(shell, "echo c > q/c").ok();
        m.shell(shell, "echo d > q/d").fails("");
        // What comes back is never refused.
        m.shell(shell, "mv q/.mq/dead/* q/").ok();
        assert_eq!(m.bodies("q"), ["a\n", "b\n", "c\n"]);
        m.shell(shell, "rm q/[0-9]*").ok();
    }
    assert_eq!(rejected(&m), 3 * 7);
    takes(&q, 2);
}

/// "with room reserved for every open writer": whatever becomes of it, the room is there again once.
#[test]
fn open_writers_hold_their_room() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_messages=3", "max_bytes=1M"]);
    m.message(&q, "there", "12345");
    let mut a = File::create(q.join("a")).unwrap();
    let b = File::create(q.join("b")).unwrap();
    assert_eq!(errno(File::create(q.join("c"))), libc::EDQUOT);
    drop(b);
    assert_eq!(errno(File::create(q.join("c"))), libc::EDQUOT, "an empty file is a message");
    a.write_all(b"a").unwrap();
    // Closes of duplicates commit, and later writes take that back.
    m.sh("exec 3> q/x").fails(FULL);
    drop(a.try_clone().unwrap());
    a.write_all(b"more").unwrap();
    drop(a.try_clone().unwrap());
    assert_eq!(errno(File::create(q.join("c"))), libc::EDQUOT);
    drop(a);
    assert_eq!(m.bodies("q"), ["12345", "", "amore"]);
    m.sh("rm q/[0-9]*").ok();
    // Killed writers and failed writes give theirs back.
    for _ in 0..5 {
        m.sh("for i in 1 2 3; do sh -c 'echo part; kill -9 $$' > q/killed & done; wait");
        m.sh("head -c 2M /dev/zero > q/large").fails(FULL);
    }
    assert_eq!(m.bodies("q").len(), 0);
    takes(&q, 3);
}

/// "EDQUOT at open when the message count or bytes are used up, at write when its bytes would not fit"
#[test]
fn so_many_bytes_and_no_more() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_bytes=64K"]);
    m.sh("head -c 40000 /dev/zero > q/a").ok();
    m.sh("head -c 40000 /dev/zero > q/b").fails(FULL);
    m.sh("cp /bin/bash q/c").fails(FULL);
    m.sh("truncate -s 1G q/c").fails(FULL);
    // Two at a time: what one has written is not there for the other.
    let mut first = File::create(q.join("first")).unwrap();
    let mut second = File::create(q.join("second")).unwrap();
    first.write_all(&[1; 20_000]).unwrap();
    assert_eq!(errno(second.write_all(&[2; 10_000])), libc::EDQUOT);
    assert_eq!(errno(second.write_all(b"2")), libc::EDQUOT, "it was dropped as a whole");
    drop(second);
    first.write_all(&[1; 5_536]).unwrap();
    drop(first);
    assert_eq!(errno(File::create(q.join("d"))), libc::EDQUOT, "used up");
    let stats = m.stats("q");
    assert_eq!((stats["ready"].as_u64(), stats["ready_bytes"].as_u64()), (Some(2), Some(65536)), "{stats}");
    assert!(stats["aborted_total"].as_u64().unwrap() >= 3, "{stats}");
    m.sh("rm q/*-a && head -c 40000 /dev/zero > q/b").ok();
}

/// A large copy stops long before it has filled the disk.
#[test]
fn a_large_copy_fails_early() {
    let m = Mount::new();
    m.queue_with("q", &["max_bytes=8M"]);
    let ran = m.sh("dd if=/dev/zero of=q/large bs=1M count=100000");
    ran.fails(FULL);
    m.sh("truncate -s 100G $T/sparse && cp --sparse=never $T/sparse q/large").fails(FULL);
    wait_until(|| m.body_files().is_empty());
    let stats = m.stats("q");
    assert_eq!((stats["ready"].as_u64(), stats["rejected_total"].as_u64()), (Some(0), Some(2)), "{stats}");
}

/// Drafts count when they are published, and moves when they arrive.
#[test]
fn drafts_moves_and_batches() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_messages=2", "max_bytes=1000000"]);
    let other = m.queue("other");
    let moves = m.message(&other, "moves", "moves");
    m.sh("echo 1 > q/.1 && echo 2 > q/.2 && echo 3 > q/.3 && head -c 2M /dev/zero > q/.large").ok();
    m.sh("mv q/.large q/large").fails(FULL);
    m.sh("ln q/.large q/large").fails(FULL);
    m.sh("mv q/.1 q/1 && ln q/.2 q/2").ok();
    m.sh("mv q/.3 q/3").fails(FULL);
    m.sh("ln q/.3 q/3").fails(FULL);
    m.sh(&format!("mv '{}' q/", moves.display())).fails(FULL);
    m.sh("mkdir q/.mq/batch/b && echo 4 > q/.mq/batch/b/4 && echo 5 > q/.mq/batch/b/5").ok();
    m.sh("mv q/.mq/batch/b q/").fails(FULL);
    m.sh("rm q/*-1").ok();
    m.sh("mv q/.mq/batch/b q/").fails(FULL);
    m.sh(&format!("mv '{}' q/", moves.display())).ok();
    assert_eq!(m.bodies("q"), ["2\n", "moves"]);
    m.sh("rm q/[0-9]* && mv q/.mq/batch/b q/").ok();
    assert_eq!(m.bodies("q"), ["4\n", "5\n"]);
    assert_eq!(rejected(&m), 7);
    let drafts: Vec<_> = listing(&q).into_iter().filter(|name| name.starts_with('.')).collect();
    assert_eq!(drafts, [".2", ".3", ".large"], "what was refused is still there");
}

/// A draft that is renamed while it is open has its place, whatever comes until it is closed.
#[test]
fn a_draft_that_is_open_when_it_is_renamed() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_messages=1"]);
    let mut draft = File::create(q.join(".a")).unwrap();
    fs::rename(q.join(".a"), q.join("a")).unwrap();
    assert_eq!(errno(File::create(q.join("b"))), libc::EDQUOT);
    fs::write(q.join(".b"), "b").unwrap();
    assert_eq!(errno(fs::rename(q.join(".b"), q.join("b"))), libc::EDQUOT);
    draft.write_all(b"a").unwrap();
    drop(draft);
    assert_eq!(m.bodies("q"), ["a"]);
    fs::remove_file(only_message(&q)).unwrap();
    fs::rename(q.join(".b"), q.join("b")).unwrap();
    fs::remove_file(only_message(&q)).unwrap();
    takes(&q, 1);
}

fn only_message(q: &Path) -> std::path::PathBuf {
    let messages: Vec<_> = listing(q).into_iter().filter(|name| !name.starts_with('.')).collect();
    assert_eq!(messages.len(), 1);
    q.join(&messages[0])
}

/// Limits hold across mounts, can be changed at any time, and concern what comes afterwards.
#[test]
fn changes_and_restarts() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 5);
    let mut open = File::create(q.join("open")).unwrap();
    m.set("q", "max_messages = 3");
    open.write_all(b"open").unwrap();
    drop(open);
    assert_eq!(listing(&q).len(), 6, "who was there before goes on");
    assert_eq!(errno(File::create(q.join("a"))), libc::EDQUOT);
    m.remount();
    m.sh("rm q/*-m[0-2]").ok();
    assert_eq!(errno(File::create(q.join("a"))), libc::EDQUOT);
    m.sh("rm q/*-m3").ok();
    takes(&q, 1);
    m.kill9_and_remount();
    m.sh("echo all > q/.mq/purge").ok();
    takes(&q, 3);
    m.set("q", "max_messages = 0");
    m.fill(&q, 10);
}

/// Many producers at once never overfill a queue, and none is lost that was told it is enqueued.
#[test]
fn producers_race() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_messages=50", "durability=async"]);
    let script = "n=0; for ((i = 0; i < 40; i++)); do { echo $i > q/m; } 2> /dev/null && n=$((n + 1)); done; echo $n";
    let producers: Vec<_> = (0..4).map(|_| m.spawn(script)).collect();
    let told: usize = producers.into_iter().map(|one| one.finish().ok().trim().parse::<usize>().unwrap()).sum();
    assert_eq!((told, listing(&q).len()), (50, 50));
    assert_eq!(rejected(&m), 110);
}

/// Where names are kept, a message that replaces another needs no room beside it; names of what was refused are free.
#[test]
fn kept_names() {
    let m = Mount::new();
    m.queue_with("q", &["names=keep", "max_messages=2", "max_bytes=1000"]);
    m.sh("echo a > q/a && echo b > q/b").ok();
    m.sh("echo c > q/c").fails(FULL);
    m.sh("echo new > q/.a && mv q/.a q/a").ok();
    m.sh("echo c > q/.c && mv q/.c q/c").fails(FULL);
    m.sh("ln q/a q/copy").fails(FULL);
    m.sh("head -c 999 /dev/zero > q/.a && mv q/.a q/a").fails(FULL);
    m.sh("rm q/.a q/.c q/b && echo c > q/c && cat q/.mq/peek/*").ok();
    let mut there = listing(m.path().join("q"));
    there.sort();
    assert_eq!(there, ["a", "c"]);
    assert_eq!(fs::read_to_string(m.path().join("q/.mq/peek/a")).unwrap(), "new\n");

    m.queue_with("ring", &["names=keep", "max_messages=2", "overflow=drop-oldest"]);
    m.sh("cd ring; echo 1 > a; echo 2 > b; echo 3 > .b; mv .b b; echo 4 > .a; mv .a a").ok();
    assert_eq!(m.bodies("ring").len(), 2);
    m.sh("cd ring; echo 5 > c; echo 6 > d").ok();
    assert_eq!(listing(m.path().join("ring")), ["c", "d"]);
    let stats = m.stats("ring");
    assert_eq!((stats["ready"].as_u64(), stats["dropped_total"].as_u64()), (Some(2), Some(4)), "{stats}");
}

/// Lines are taken as far as there is room; the writer is told of the first that is not.
#[test]
fn lines() {
    let m = Mount::new();
    m.queue_with("q", &["max_messages=4"]);
    m.sh("seq 10 > q/.mq/lines").fails(FULL);
    assert_eq!(m.bodies("q").concat(), "1\n2\n3\n4\n");
    m.sh("rm q/[0-9]* && exec 3> q/.mq/lines && printf begun >&3 && printf ' and ended\nlast' >&3").ok();
    assert_eq!(m.bodies("q").concat(), "begun and ended\nlast");
    assert_eq!(rejected(&m), 1);

    m.queue_with("ring", &["max_messages=5", "overflow=drop-oldest"]);
    m.sh("seq 2000 > ring/.mq/lines; echo end > ring/.mq/lines").ok();
    assert_eq!(m.bodies("ring").concat(), "1997\n1998\n1999\n2000\nend\n");
    assert_eq!(m.stats("ring")["dropped_total"], 1996);

    m.set("q", "paused = in");
    m.sh("echo no > q/.mq/lines").fails("Resource temporarily unavailable");
}
