//! "-o user_queues=, user_drafts=, user_bytes=": how much one user may have in a store that all share.

use std::fs;
use std::os::unix::fs::chown;

use crate::common::*;
use crate::extra::*;
use crate::users::*;

const OVER: &str = "Disk quota exceeded";

fn limited(options: &str) -> (Mount, std::path::PathBuf) {
    let m = Mount::with(&["-o", &format!("allow_other,{options}")]);
    let q = m.queue("q");
    chmod(&q, 0o1777);
    (m, q)
}

fn checked(m: &mut Mount) {
    m.stop();
    let store = m.store();
    let out = std::process::Command::new(binary()).arg("check").arg(&store).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
}

fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_mqfs")
}

/// A user's queues, also after a new mount; what is removed or given away makes room, and root is not bound.
#[test]
fn queues_are_counted_for_their_owner() {
    let (mut m, q) = limited("user_queues=3");
    ann(&m, "mkdir q/1 q/2 q/1/3").ok();
    ann(&m, "mkdir q/4").fails(OVER);
    bob(&m, "mkdir q/b1 q/b2 q/b3").ok();
    m.sh("mkdir r1 r2 r3 r4 r5").ok();
    m.kill9_and_remount();
    ann(&m, "mkdir q/4").fails(OVER);
    ann(&m, "rmdir q/1/3 && mkdir q/4").ok();
    chown(q.join("2"), Some(0), None).unwrap();
    ann(&m, "mkdir q/5").ok();
    ann(&m, "mkdir q/6").fails(OVER);
    checked(&mut m);
}

/// Drafts, and batches with their files.
#[test]
fn drafts_are_counted_for_their_owner() {
    let (mut m, q) = limited("user_drafts=4");
    ann(&m, "touch q/.1 q/.2; mkdir q/.mq/batch/b; touch q/.mq/batch/b/f").ok();
    ann(&m, "touch q/.3").fails(OVER);
    ann(&m, "touch q/.mq/batch/b/g").fails(OVER);
    ann(&m, "mkdir q/.mq/batch/c").fails(OVER);
    bob(&m, "touch q/.b").ok();
    m.kill9_and_remount();
    ann(&m, "touch q/.3").fails(OVER);
    ann(&m, "mv q/.1 q/one; touch q/.3").ok();
    ann(&m, "touch q/.4").fails(OVER);
    ann(&m, "mv q/.mq/batch/b q/; touch q/.4 q/.5").ok();
    ann(&m, "touch q/.6").fails(OVER);
    chown(q.join(".4"), Some(BOB), None).unwrap();
    ann(&m, "touch q/.6").ok();
    checked(&mut m);
}

/// Bytes of messages in any state, of what is being written, and of drafts, each with 256 for its record.
#[test]
fn bytes_are_counted_for_their_owner() {
    let (mut m, q) = limited("user_bytes=300000");
    ann(&m, "head -c 100000 /dev/zero > q/a; head -c 100000 /dev/zero > q/.d").ok();
    ann(&m, "head -c 100000 /dev/zero > q/b").fails(OVER);
    ann(&m, "head -c 100000 /dev/zero > q/.e").fails(OVER);
    ann(&m, "rm q/.e; truncate -s 250000 q/.d").fails(OVER);
    ann(&m, "head -c 100000 /dev/zero | tr '\\0' '\\n' > q/.mq/lines").fails(OVER);
    ann(&m, "ln q/.d q/linked").fails(OVER);
    bob(&m, "head -c 200000 /dev/zero > q/b").ok();
    m.kill9_and_remount();
    ann(&m, "head -c 100000 /dev/zero > q/c").fails(OVER);
    // A draft that is published is charged once.
    ann(&m, "mv q/.d q/d").ok();
    m.sh("rm q/*-a").ok();
    ann(&m, "head -c 150000 /dev/zero > q/c").ok();
    // What is being written counts before it is enqueued.
    ann(&m, "exec 5> q/w; head -c 30000 /dev/zero >&5; head -c 30000 /dev/zero > q/x").fails(OVER);
    let c = fs::read_dir(&q).unwrap().map(|entry| entry.unwrap().path());
    for path in c.filter(|path| path.to_string_lossy().ends_with("-c")) {
        chown(path, Some(BOB), None).unwrap();
    }
    ann(&m, "head -c 100000 /dev/zero > q/y").ok();
    bob(&m, "head -c 10000 /dev/zero > q/y").fails(OVER);
    m.sh("echo all > q/.mq/purge").ok();
    wait_until(|| bob(&m, "head -c 250000 /dev/zero > q/z").status.success());
    checked(&mut m);
}

/// What is written by way of memory, with no user's number in the request, and what is unlinked while it is open.
#[test]
fn nobody_writes_past_the_limit_by_another_way() {
    let (mut m, _) = limited("user_bytes=300000");
    ann(
        &m,
        "python3 -c '
import errno, os
def fill(f):
    n = 0
    try:
        while n < 1000000: n += os.pwrite(f, bytes(50000), n)
    except OSError as e:
        assert e.errno == errno.EDQUOT, e
    return n
# Bytes that nobody can name any more take as much room.
f = os.open(\"q/.u\", os.O_RDWR | os.O_CREAT)
os.write(f, bytes(100000))
os.unlink(\"q/.u\")
w = os.open(\"q/w\", os.O_WRONLY | os.O_CREAT)
assert 250000 < fill(f) < 300000
assert fill(w) < 50000
'",
    )
    .ok();
    // A mapped draft cannot grow, and its length was charged when it was made so long.
    ann(
        &m,
        "python3 -c '
import mmap, os
f = os.open(\"q/.m\", os.O_RDWR | os.O_CREAT)
os.truncate(f, 200000)
mapped = mmap.mmap(f, 200000)
mapped[:] = b\"x\" * 200000
mapped.flush()
os.close(f)
mapped.close()
'; head -c 150000 /dev/zero > q/more",
    )
    .fails(OVER);
    checked(&mut m);
}

/// Marks and other attributes of a queue are its owner's bytes, whoever sets them, and go with it: when it is given away, or removed.
#[test]
fn what_is_long_about_a_queue_is_its_owners() {
    let (mut m, q) = limited("user_bytes=300000");
    let python = |text: &str| format!("python3 -c 'import os\n{text}'");
    let set = |path: &str, name: &str| python(&format!("os.setxattr(\"{path}\", \"user.{name}\", bytes(60000))"));
    ann(&m, "mkdir q/mine; chmod 777 q/mine; mkdir q/mine/.mq/batch/b").ok();
    for name in ["mark.a", "mark.b", "x"] {
        ann(&m, &set("q/mine", name)).ok();
    }
    bob(&m, &set("q/mine", "mark.c")).ok();
    ann(&m, &set("q/mine", "mark.d")).fails(OVER);
    ann(&m, &set("q/mine", "mark.a")).ok();
    ann(&m, &set("q/mine/.mq/batch/b", "mark.a")).fails(OVER);
    ann(&m, "head -c 100000 /dev/zero > q/a").fails(OVER);
    m.kill9_and_remount();
    ann(&m, &set("q/mine", "mark.d")).fails(OVER);
    ann(&m, "setfattr -x user.mark.c q/mine; setfattr -x user.x q/mine").ok();
    // What a batch makes of a mark costs no more than the mark that there was.
    ann(&m, &set("q/mine/.mq/batch/b", "mark.a")).ok();
    ann(&m, "mv q/mine/.mq/batch/b q/mine/").ok();
    ann(&m, &set("q/mine", "mark.c")).ok();
    ann(&m, &set("q/mine", "mark.d")).ok();
    ann(&m, &set("q/mine", "mark.e")).fails(OVER);
    chown(q.join("mine"), Some(BOB), None).unwrap();
    ann(&m, "head -c 200000 /dev/zero > q/a").ok();
    bob(&m, "head -c 100000 /dev/zero > q/b").fails(OVER);
    bob(&m, "rmdir q/mine && head -c 200000 /dev/zero > q/b").ok();
    checked(&mut m);
}

/// 100,000 queues and drafts, and any number of bytes, unless somebody says otherwise; 0 is no limit, and nonsense is refused.
#[test]
fn limits_are_set_at_the_mount() {
    let m = Mount::with(&["-o", "allow_other,user_queues=0,user_drafts=0"]);
    let q = m.queue("q");
    chmod(&q, 0o777);
    ann(&m, "mkdir q/a q/b; touch q/.a").ok();
    let out = std::process::Command::new(binary())
        .args(["mount", "-o", "user_queues=many"])
        .args([m.scratch().join("s"), m.scratch().join("m")])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("user_queues=many"), "{out:?}");
    assert_eq!(out.status.code(), Some(2));
    assert_eq!(listing(control(&q, "batch")).len(), 0);
}
