//! `dedup_window`: of several messages with one `user.mq.dedup_id` within that time, one is enqueued.

use std::fs;
use std::path::PathBuf;

use crate::common::*;

fn unique(lines: &[&str]) -> (Mount, PathBuf) {
    let m = Mount::new();
    let q = m.queue_with("q", &[&["dedup_window=1h"], lines].concat());
    (m, q)
}

fn duplicates(m: &Mount) -> u64 {
    m.stats("q")["duplicates_total"].as_u64().unwrap()
}

/// The producer succeeds, whatever way it enqueues, and nothing is enqueued; its draft is gone.
#[test]
fn one_of_several_is_enqueued() {
    let (m, q) = unique(&[]);
    m.sh("echo one > q/.mq/with/id=a/x").ok();
    for (n, script) in (1..).zip([
        "echo two > q/.mq/with/id=a/x",
        "echo two > q/.mq/with/id=a,priority=3/y",
        "cp /etc/hostname q/.mq/with/id=a/",
        ": > q/.mq/with/id=a/empty",
        "echo two > q/.d; setfattr -n user.mq.dedup_id -v a q/.d; mv q/.d q/d",
        "echo two > q/.d; mv q/.d q/.mq/with/id=a/d",
        "echo two > q/.d; ln q/.d q/.mq/with/id=a/linked; rm q/.d",
        "{ echo two; setfattr -n user.mq.dedup_id -v a /proc/self/fd/1; } > q/x",
        "head -c 300000 /dev/zero > q/.mq/with/id=a/large",
        "head -c 300000 /dev/zero > q/.d; mv q/.d q/.mq/with/id=a/large",
        "dd if=/dev/zero of=q/.mq/with/id=a/synced bs=100k count=3 conv=fsync status=none",
        "for i in 1 2 3; do echo $i; done > q/.mq/with/id=a/x",
        "exec 3> q/.d; echo two >&3; mv q/.d q/.mq/with/id=a/open; exec 3>&-",
    ]) {
        m.sh(script).ok();
        assert_eq!(m.bodies("q"), ["one\n"], "{script}");
        assert_eq!(listing(&q).len(), 1, "{script}");
        wait_until(|| duplicates(&m) == n);
    }
    wait_until(|| m.body_files().is_empty());
    m.sh("echo other > q/.mq/with/id=b/x; echo none > q/x").ok();
    assert_eq!(m.bodies("q"), ["one\n", "other\n", "none\n"]);
    assert_eq!(m.stats("q")["enqueued_total"], 3);
}

/// An id is remembered whatever becomes of its message, in that queue only, and across mounts and crashes.
#[test]
fn ids_outlive_their_messages() {
    let (mut m, q) = unique(&[]);
    m.sh("mkdir other; for i in a b c d; do echo $i > q/.mq/with/id=$i/$i; done").ok();
    m.sh("cat q/*-a > /dev/null; rm q/*-b; mv q/*-c other/; echo ready > q/.mq/purge").ok();
    let again = "for i in a b c d; do echo again > q/.mq/with/id=$i/$i; done";
    m.sh(again).ok();
    m.kill9_and_remount();
    m.sh(again).ok();
    m.remount();
    m.sh(again).ok();
    assert_eq!(listing(&q).len(), 0);
    m.sh("echo elsewhere > other/.mq/with/id=a/a").ok();
    assert_eq!(m.bodies("other"), ["c\n", "elsewhere\n"]);
}

/// "The window counts from the enqueue"; a window that ended while nothing was mounted is over, and another `dedup_window`
/// is for messages that come after it.
#[test]
fn windows_end() {
    let mut m = Mount::with_clock("+0");
    let q = m.queue_with("q", &["dedup_window=1h", "durability=async"]);
    let put = "echo x > q/.mq/with/id=a/x";
    m.sh(&format!("{put}; {put}")).ok();
    assert_eq!(listing(&q).len(), 1);
    m.set_clock("+2h");
    m.sh(put).ok();
    assert_eq!(listing(&q).len(), 2);
    m.stop();
    m.set_clock("+4h");
    m.start();
    m.sh(put).ok();
    assert_eq!(listing(&q).len(), 3);
    m.set("q", "dedup_window=0s");
    m.sh(&format!("{put}; {put}")).ok();
    assert_eq!(listing(&q).len(), 5, "off");
    m.set("q", "dedup_window=1h");
    m.sh("echo x > q/.mq/with/id=b/x; echo x > q/.mq/with/id=b/x").ok();
    assert_eq!(listing(&q).len(), 6);
}

/// Of many producers at a time one message is enqueued, and all of them succeed.
#[test]
fn racing_producers_enqueue_one() {
    let (m, q) = unique(&[]);
    m.sh("for i in $(seq 30); do for p in 1 2 3 4; do echo $p > q/.mq/with/id=$i/$p & done; wait; done").ok();
    assert_eq!(listing(&q).len(), 30);
    assert_eq!(duplicates(&m), 90);
}

/// A message that is not enqueued in the end, because its writer is killed or still writing, makes nobody a duplicate.
#[test]
fn what_is_not_enqueued_makes_no_duplicates() {
    let (m, q) = unique(&[]);
    let killed = m.sh("sh -c 'echo half; kill -9 $$' > q/.mq/with/id=a/x; true");
    assert!(killed.status.success());
    m.sh("echo whole > q/.mq/with/id=a/x").ok();
    assert_eq!(m.bodies("q"), ["whole\n"]);
    // The first to be finished is the one.
    m.sh("exec 3> q/.mq/with/id=b/slow; echo slow >&3; echo fast > q/.mq/with/id=b/fast; exec 3>&-").ok();
    assert_eq!(m.bodies("q"), ["whole\n", "fast\n"]);
    assert_eq!(listing(&q).len(), 2);
}

/// An id is any bytes; a bad one is refused, and so is one on a message that is enqueued.
#[test]
fn ids_are_bytes() {
    let (m, q) = unique(&[]);
    m.sh("echo 1 > q/.mq/with/id=%ff%00%2f/x; echo 2 > q/.mq/with/id=%FF%00%2F/x").ok();
    assert_eq!(m.bodies("q"), ["1\n"]);
    fs::write(q.join(".d"), "x").unwrap();
    assert_eq!(errno(set_xattr(q.join(".d"), "user.mq.dedup_id", "")), libc::EINVAL);
    assert_eq!(errno(set_xattr(q.join(".d"), "user.mq.dedup_id", [b'x'; 1025])), libc::EINVAL);
    set_xattr(q.join(".d"), "user.mq.dedup_id", [b'x'; 1024]).unwrap();
    fs::rename(q.join(".d"), q.join("long")).unwrap();
    assert_eq!(errno(set_xattr(q.join(&listing(&q)[1]), "user.mq.dedup_id", "b")), libc::EPERM);
}
