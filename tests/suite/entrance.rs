//! "One function decides for every way in": what a queue refuses, it refuses whichever way a message comes.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::common::*;
use crate::extra::*;
use crate::users::{ANN, BOB, ann, chmod};

/// Seven bytes.
const BODY: &str = "message";

/// Puts a message into `target`, somehow; `from` is another queue.
type Way = fn(m: &Mount, from: &Path, target: &Path) -> io::Result<()>;

fn draft(dir: &Path) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    let path = dir.join(".draft");
    fs::write(&path, BODY).unwrap();
    path
}

/// Of a refusal as it is at the first call that makes it.
const WAYS: &[(&str, Way)] = &[
    ("a write", |_, _, target| fs::write(target.join("x"), BODY)),
    ("a write with properties", |_, _, target| fs::write(target.join(".mq/with/priority=1/x"), BODY)),
    ("a line", |_, _, target| fs::write(target.join(".mq/lines"), BODY.replace('e', "\n"))),
    ("a rename of a draft", |_, from, target| fs::rename(draft(from), target.join("x"))),
    ("a link of a draft", |_, from, target| fs::hard_link(draft(from), target.join("x"))),
    ("a batch", |_, from, target| {
        let batch = from.join(".mq/batch/b");
        fs::create_dir(&batch).unwrap();
        fs::write(batch.join("a"), "1").unwrap();
        fs::write(batch.join("x"), BODY).unwrap();
        fs::rename(&batch, target.join("b"))
    }),
    ("a link of a message", |m, from, target| fs::hard_link(m.message(from, "y", BODY), target.join("x"))),
    ("a move", |m, from, target| fs::rename(m.message(from, "z", BODY), target.join("x"))),
    ("a move of a dead letter", |m, from, target| {
        let message = m.message(from, "d", BODY);
        fs::rename(transition(from, "dead", &message), target.join("x"))
    }),
];

#[test]
fn every_way_in_is_refused_alike() {
    let m = Mount::new();
    let from = m.queue("from");
    let target = m.queue_with("target", &["names=keep"]);
    fs::write(target.join("first"), "1").unwrap();
    let cases = [
        ("paused=in", libc::EAGAIN, true),
        ("paused=both", libc::EAGAIN, true),
        ("max_message_bytes=6", libc::EFBIG, false),
        ("max_messages=1", libc::EDQUOT, true),
        ("max_bytes=2", libc::EDQUOT, true),
        ("max_messages=1\noverflow=block\npaused=in", libc::EAGAIN, true),
    ];
    for (config, code, counted) in cases {
        m.set(&target, config);
        for (way, enter) in WAYS {
            let rejected = || m.stats("target")["rejected_total"].as_u64().unwrap();
            let before = rejected();
            // The second of three lines is what is too long; the first is a message.
            if *way == "a line" && code == libc::EFBIG {
                continue;
            }
            assert_eq!(errno(enter(&m, &from, &target)), code, "{way} and {config}");
            assert_eq!(m.messages("target").len(), 1, "{way} and {config}");
            assert_eq!(rejected() > before, counted, "{way} and {config}");
            m.sh("rm -rf from/.mq/batch/b; echo all > from/.mq/purge").ok();
        }
        m.set(&target, "paused=no\nmax_message_bytes=0\nmax_messages=0\nmax_bytes=0\noverflow=reject");
    }
    for (n, (way, enter)) in WAYS.iter().enumerate() {
        let target = m.queue_with(&format!("t{n}"), &["names=keep"]);
        enter(&m, &from, &target).unwrap_or_else(|error| panic!("{way}: {error}"));
        assert!(!m.messages(&target).is_empty(), "{way}");
    }
}

/// Claims a message and gives it back, in a queue where that is once too often.
fn exhaust(m: &Mount, queue: &Path, name: &str) -> PathBuf {
    let message = m.message(queue, name, BODY);
    fs::rename(transition(queue, "claimed", &message), &message).unwrap();
    message
}

/// "a dead letter whose target refuses stays in the source's own .mq/dead with a reason, never lost"
#[test]
fn a_dead_letter_comes_as_any_other_message() {
    let mut m = Mount::new();
    let q = m.queue_with("q", &["max_deliveries=1", "dead_letter=graves"]);
    let graves = m.queue("graves");
    m.message(&graves, "first", "1");
    let cases = [
        ("paused=in", "the queue is paused", true),
        ("max_message_bytes=6", "message larger than max_message_bytes", false),
        ("max_messages=1", "the queue is full", true),
        ("max_bytes=5", "the queue is full", true),
        ("max_messages=1\noverflow=block", "the queue is full", true),
    ];
    for (n, (config, why, counted)) in cases.into_iter().enumerate() {
        m.set(&graves, config);
        let before = m.stats("graves")["rejected_total"].as_u64().unwrap();
        let letter = exhaust(&m, &q, &format!("m{n}"));
        let dead = within(&q, "dead", &letter);
        assert_eq!(fs::read_to_string(&dead).unwrap(), BODY, "{config}");
        assert_eq!(xattr(&dead, "user.mq.dead_reason").as_deref(), Some("max_deliveries"));
        let refused = xattr(&dead, "user.mq.dead_refused").unwrap();
        assert!(refused.starts_with(&format!("graves: {why}")), "{config}: {refused}");
        assert_eq!(listing(&graves).len(), 1, "{config}");
        let after = m.stats("graves")["rejected_total"].as_u64().unwrap();
        assert_eq!(after - before, u64::from(counted), "{config}");
        assert!(m.log().contains(why), "{}", m.log());
        m.set(&graves, "paused=no\nmax_message_bytes=0\nmax_messages=0\nmax_bytes=0\noverflow=reject");
    }
    m.remount();
    assert_eq!(listing(control(&q, "dead")).len(), 5);
    // What the queue itself gave up comes back to it whatever it would refuse.
    m.set(&q, "paused=in\nmax_messages=1\nmax_message_bytes=1");
    m.sh("mv q/.mq/dead/*-m* q/").ok();
    assert_eq!(listing(&q).len(), 5);
    // Those that go now have nothing to tell of a refusal; the oldest in the way makes room where that is the rule.
    m.set(&graves, "max_messages=1\noverflow=drop-oldest");
    let last = q.join(&listing(&q)[4]);
    fs::rename(transition(&q, "claimed", &last), &last).unwrap();
    assert_listed(&graves, &["m4"]);
    assert_eq!(xattr(only(&graves), "user.mq.dead_refused"), None);
    assert_eq!(m.stats("graves")["dropped_total"], 1);
}

/// Two hundred letters of 100 KB do not come into a drop box that takes five messages of 1 KB, and is paused.
#[test]
fn nobody_fills_a_box_with_dead_letters() {
    let (m, q) = crate::users::mount(0o777);
    let full = m.queue_with("box", &["max_messages=5", "max_message_bytes=1K", "paused=in"]);
    chmod(&full, 0o1733);
    ann(&m, "mkdir q/mine && printf 'max_deliveries = 1\ndead_letter = box\n' > q/mine/.mq/config").ok();
    let script = "cd q/mine && for i in {1..20}; do head -c 100000 /dev/zero > m; done
        for m in 0*; do mv $m .mq/claimed/; done; for m in .mq/claimed/*; do mv $m .; done";
    ann(&m, script).ok();
    assert_eq!((listing(&full).len(), listing(control(&q.join("mine"), "dead")).len()), (0, 20));
    m.set(&full, "paused=no\nmax_message_bytes=0");
    ann(&m, "cd q/mine && mv .mq/dead/0* . && for m in 0*; do mv $m .mq/claimed/; done; mv .mq/claimed/0* .").ok();
    assert_eq!((listing(&full).len(), listing(control(&q.join("mine"), "dead")).len()), (5, 15));
}

/// Whom the mount shows a queue to belong to, and what it lets them do, holds for dead letters as for everybody.
#[test]
fn dead_letters_heed_what_the_mount_shows() {
    for (options, may) in [("umask=077", false), ("umask=000", true)] {
        let m = Mount::with(&["-o", &format!("allow_other,{options}")]);
        let (q, graves) = (m.queue_with("q", &["max_deliveries=1", "dead_letter=graves"]), m.queue("graves"));
        // As they were made, the modes say the opposite.
        chmod(&graves, if may { 0o700 } else { 0o777 });
        chown(&q, Some(ANN), Some(ANN)).unwrap();
        chown(&graves, Some(BOB), Some(BOB)).unwrap();
        assert_eq!(fs::metadata(&graves).unwrap().permissions().mode() & 0o777, if may { 0o777 } else { 0o700 });
        exhaust(&m, &q, "m");
        assert_eq!(listing(&graves).len() == 1, may, "{options}");
        if !may {
            let refused = xattr(only(control(&q, "dead")), "user.mq.dead_refused").unwrap();
            assert_eq!(refused, "graves: the owner of the queue may not go there");
        }
    }
    // Everything is shown as one user's: that user's queues let their own letters in.
    let m = Mount::with(&["-o", &format!("allow_other,uid={ANN},umask=077")]);
    let (q, graves) = (m.queue_with("q", &["max_deliveries=1", "dead_letter=graves"]), m.queue("graves"));
    chown(&graves, Some(BOB), Some(BOB)).unwrap();
    exhaust(&m, &q, "m");
    assert_listed(&graves, &["m"]);
}
