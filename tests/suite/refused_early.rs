//! What is refused is refused before it is read: the kernel holds everybody's renames up meanwhile.

use std::fs::{self, File};

use crate::common::*;

const LARGE: u64 = 150 << 20;

/// So many bytes mqfs has read so far, of any files.
fn read_bytes(m: &Mount) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", m.pid())).unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

fn large(path: impl AsRef<std::path::Path>) {
    File::create(path).unwrap().set_len(LARGE).unwrap();
}

/// A large draft, alone, linked or in a batch, into a queue that takes none now, and a copy of a large message.
#[test]
fn a_refused_rename_reads_no_bytes() {
    let m = Mount::new();
    let q = m.queue("q");
    let to = m.queue_with("to", &["names=keep"]);
    let from = m.queue_with("from", &["names=keep"]);
    m.sh("mkdir q/.mq/batch/b q/.mq/batch/hidden; echo x > q/.mq/batch/hidden/.z").ok();
    for file in ["q/.d", "q/.mq/batch/b/a", "q/.mq/batch/hidden/a"] {
        large(m.path().join(file));
    }
    large(from.join("message"));
    let message = from.join("message");
    let before = read_bytes(&m);
    assert_eq!(errno(fs::rename(q.join(".mq/batch/hidden"), to.join("hidden"))), libc::EBUSY);
    for (config, expected) in [
        ("paused=in", libc::EAGAIN),
        ("paused=no\nmax_bytes=1M", libc::EDQUOT),
        ("max_bytes=0\nmax_message_bytes=1M", libc::EFBIG),
    ] {
        m.set("to", config);
        let rejected = m.stats("to")["rejected_total"].as_u64().unwrap();
        assert_eq!(errno(fs::rename(q.join(".d"), to.join("x"))), expected);
        assert_eq!(errno(fs::hard_link(q.join(".d"), to.join("x"))), expected);
        assert_eq!(errno(fs::hard_link(&message, to.join("x"))), expected);
        assert_eq!(errno(fs::rename(q.join(".mq/batch/b"), to.join("b"))), expected);
        let counted = if expected == libc::EFBIG { 0 } else { 4 };
        assert_eq!(m.stats("to")["rejected_total"], rejected + counted, "{config}");
    }
    let read = read_bytes(&m) - before;
    assert!(read < LARGE / 2, "{read}");
    m.set("to", "max_message_bytes=0");
    fs::rename(q.join(".d"), to.join("x")).unwrap();
    assert!(read_bytes(&m) - before > LARGE, "it is read when it is enqueued");
    assert_eq!(m.messages(&to).len(), 1);
}

/// A draft that was refused is like any other: a purge removes it.
#[test]
fn a_refused_draft_is_not_in_use() {
    let m = Mount::new();
    let q = m.queue_with("q", &["paused=in"]);
    m.queue_with("kept", &["names=keep"]);
    m.sh("echo 1 > q/.a; echo 2 > q/.b; echo there > kept/x").ok();
    m.sh("mv q/.a q/a").fails("Resource temporarily unavailable");
    m.sh("ln q/.b kept/x").fails("File exists");
    m.sh("echo drafts > q/.mq/purge").ok();
    wait_until(|| names(&q).is_empty());
}
