//! `user.mq.settles`: what publishes a draft or a batch acknowledges a delivery in the same step.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use crate::common::*;
use crate::users::{ANN, DENIED, GONE, ann, bob, chmod, mount};

/// Claims the next message of a queue; the path that `.mq/claim` answers.
fn claim(m: &Mount, queue: &str) -> String {
    fs::read_to_string(m.path().join(queue).join(".mq/claim")).unwrap().trim_end().to_owned()
}

/// Makes a draft that settles a delivery.
fn draft(m: &Mount, path: &str, settles: &str) -> PathBuf {
    let draft = m.path().join(path);
    fs::write(&draft, path).unwrap();
    set_xattr(&draft, "user.mq.settles", settles).unwrap();
    draft
}

#[test]
fn a_draft_acknowledges_with_its_message_or_is_not_published() {
    let mut m = Mount::new();
    let (a, b) = (m.queue("a"), m.queue("b"));
    for n in 0..3 {
        m.put(format!("a/{n}"), "x".repeat(1 + n * 50_000));
    }
    let (first, second, third) = (claim(&m, "a"), claim(&m, "a"), claim(&m, "a"));
    let new = draft(&m, "b/.new", &first);
    fs::rename(new, b.join("new")).unwrap();
    let counts = |m: &Mount| {
        let (a, b) = (m.stats("a"), m.stats("b"));
        [&a["claimed"], &a["acked_total"], &b["ready"]].map(|count| count.as_u64().unwrap())
    };
    assert_eq!(counts(&m), [2, 1, 1]);
    assert!(!a.join(&first).exists());
    assert_eq!(xattrs(only(&b)).iter().filter(|name| name.contains("settles")).count(), 0, "it is not passed on");
    // A message that has come back is another delivery.
    m.sh(&format!("mv 'a/{second}' a/")).ok();
    let again = claim(&m, "a");
    assert_ne!(again, second);
    let late = draft(&m, "b/.late", &second);
    m.sh("mv b/.late b/late").fails(GONE);
    m.sh("ln b/.late b/late").fails(GONE);
    assert_eq!((counts(&m), late.exists()), ([2, 1, 1], true));
    assert!(m.log().contains("the delivery that it settles is over"));
    // It tries once more, with a path from elsewhere, and leaves its draft.
    set_xattr(&late, "user.mq.settles", a.join(&again).to_str().unwrap()).unwrap();
    m.sh("ln b/.late b/late").ok();
    assert_eq!(counts(&m), [1, 2, 2]);
    m.sh("mv b/.late b/late").fails(GONE);
    m.remount();
    let new = draft(&m, "b/.third", &third);
    fs::rename(new, a.join("third")).unwrap();
    assert_eq!(counts(&m), [0, 3, 2]);
    fs::remove_file(late).unwrap();
    wait_until(|| m.body_files().is_empty());
}

#[test]
fn a_batch_acknowledges_with_its_files() {
    let m = Mount::new();
    let (_, b) = (m.queue("a"), m.queue("b"));
    for n in 0..4 {
        m.put(format!("a/{n}"), "x");
    }
    let held: Vec<String> = (0..4).map(|_| claim(&m, "a")).collect();
    let batch = b.join(".mq/batch/b");
    fs::create_dir(&batch).unwrap();
    draft(&m, "b/.mq/batch/b/one", &held[0]);
    // What two files are made of is named twice.
    draft(&m, "b/.mq/batch/b/two", &held[0]);
    draft(&m, "b/.mq/batch/b/three", &held[1]);
    set_xattr(&batch, "user.mq.settles", &held[2]).unwrap();
    set_xattr(&batch, "user.mark.a", "1").unwrap();
    assert_eq!(xattr(&batch, "user.mq.settles").as_ref(), Some(&held[2]));
    m.sh(&format!("rm 'a/{}'", held[1])).ok();
    m.sh("mv b/.mq/batch/b b/").fails(GONE);
    assert_eq!((m.stats("a")["claimed"].as_u64(), xattr(&b, "user.mark.a")), (Some(3), None));
    assert_eq!((listing(&batch).len(), m.bodies("b").len()), (3, 0));
    remove_xattr(batch.join("three"), "user.mq.settles").unwrap();
    m.sh("mv b/.mq/batch/b b/").ok();
    let stats = m.stats("a");
    assert_eq!((stats["claimed"].as_u64(), stats["acked_total"].as_u64(), m.bodies("b").len()), (Some(1), Some(3), 3));
    assert_eq!(xattr(&b, "user.mark.a").as_deref(), Some("1"));
    assert!(listing(&b).iter().all(|name| xattr(b.join(name), "user.mq.settles").is_none()));
    // A batch needs no file to acknowledge.
    m.sh(&format!("mkdir b/.mq/batch/b && setfattr -n user.mq.settles -v '{}' b/.mq/batch/b", held[3])).ok();
    m.sh("mv b/.mq/batch/b b/").ok();
    assert_eq!((m.stats("a")["claimed"].as_u64(), m.bodies("b").len()), (Some(0), 3));
}

/// Of a draft that is renamed while it is open, the last close enqueues and acknowledges.
#[test]
fn a_draft_that_is_renamed_before_its_close_acknowledges_at_that() {
    let m = Mount::new();
    let b = m.queue("b");
    m.queue("a");
    for late in [false, true] {
        m.put("a/x", "x");
        let held = claim(&m, "a");
        let new = draft(&m, "b/.new", &held);
        let mut open = fs::OpenOptions::new().append(true).open(&new).unwrap();
        fs::rename(&new, b.join("new")).unwrap();
        open.write_all(b" more").unwrap();
        assert_eq!((m.stats("a")["claimed"].as_u64(), m.bodies("b").len()), (Some(1), 0));
        if late {
            m.sh(&format!("mv 'a/{held}' a/")).ok();
        }
        let fd = std::os::fd::IntoRawFd::into_raw_fd(open);
        // SAFETY: the descriptor was the file's, and is nobody's now.
        let closed = unsafe { libc::close(fd) };
        let error = std::io::Error::last_os_error().raw_os_error();
        if late {
            assert_eq!((closed, error), (-1, Some(libc::ENOENT)));
            wait_until(|| listing(&b).iter().any(|name| name.contains("unpublished")));
            assert_eq!((m.stats("a")["ready"].as_u64(), m.bodies("b").len()), (Some(1), 0));
        } else {
            assert_eq!(closed, 0);
            wait_until(|| m.bodies("b") == ["b/.new more"]);
            assert_eq!((m.stats("a")["claimed"].as_u64(), m.stats("a")["acked_total"].as_u64()), (Some(0), Some(1)));
            m.sh("rm b/*").ok();
        }
    }
}

#[test]
fn what_names_no_delivery_is_refused() {
    let m = Mount::new();
    let (a, b) = (m.queue("a"), m.queue_with("keep", &["names=keep"]));
    m.put("a/x", "x");
    let held = claim(&m, "a");
    let draft = a.join(".d");
    fs::write(&draft, "").unwrap();
    let plain = format!(".mq/claimed/{}", only_in_claimed(&a));
    for wrong in ["", "x", &plain, held.trim_start_matches(".mq/claimed/"), ".mq/claimed/0000000000000001"] {
        assert_eq!(errno(set_xattr(&draft, "user.mq.settles", wrong)), libc::EINVAL, "{wrong}");
    }
    set_xattr(&draft, "user.mq.settles", format!("{held}\n")).unwrap();
    // The name in it has to be the message's.
    set_xattr(&draft, "user.mq.settles", format!("{held}y")).unwrap();
    m.sh("mv a/.d a/d").fails(GONE);
    remove_xattr(&draft, "user.mq.settles").unwrap();
    m.sh("mv a/.d a/d").ok();
    assert_eq!(m.stats("a")["claimed"].as_u64(), Some(1));
    // A message that is being written can be acknowledged for by no promise that may be taken back.
    m.sh(&format!("setfattr -n user.mq.settles -v '{held}' /proc/self/fd/1 > a/new")).fails("Invalid argument");
    // Where names are kept, what `.mq/claim` answers works as well.
    m.put("keep/page", "x");
    m.put("keep/other", "x".repeat(100_000));
    let (held, other) = (claim(&m, "keep"), claim(&m, "keep"));
    let rename = |settles: &str, name: &str| {
        fs::write(b.join(".d"), "new").unwrap();
        set_xattr(b.join(".d"), "user.mq.settles", settles).unwrap();
        fs::rename(b.join(".d"), b.join(name)).unwrap();
        let stats = m.stats("keep");
        ["ready", "claimed", "claimed_bytes", "acked_total", "dropped_total"]
            .map(|count| stats[count].as_u64().unwrap())
    };
    // Its worker may replace it: that is one message that leaves, and not two.
    assert_eq!(rename(&held, "page"), [1, 1, 100_000, 1, 0]);
    assert_eq!(rename(&other, "page.done"), [2, 0, 0, 2, 0]);
    assert_eq!(listing(&b), ["page", "page.done"]);
    wait_until(|| m.body_files().is_empty());
}

fn only_in_claimed(queue: &std::path::Path) -> String {
    listing(queue.join(".mq/claimed")).pop().unwrap()
}

/// "Who may: exactly who may acknowledge it by rm": each mode is asked both ways.
#[test]
fn who_could_not_remove_it_settles_nothing() {
    let (m, q) = mount(0o777);
    let deep = m.queue("p");
    fs::create_dir(deep.join("q")).unwrap();
    m.queue("out");
    chmod(m.path().join("out"), 0o777);
    // `way`: the queue; its mode, and that of the one it is in; the message's owner is Ann where `own`.
    let modes = [0o777, 0o755, 0o733, 0o766, 0o722, 0o1777, 0o1733];
    let mut cases: Vec<(&str, u32, u32, bool)> = Vec::new();
    for mode in modes {
        cases.extend([("q", 0o755, mode, false), ("q", 0o755, mode, true)]);
    }
    cases.extend([("p/q", 0o755, 0o777, false), ("p/q", 0o711, 0o777, false), ("p/q", 0o700, 0o777, false)]);
    for (queue, above, mode, own) in cases {
        let held = |m: &Mount| {
            m.put(format!("{queue}/x"), "x");
            if own {
                m.sh(&format!("chown {ANN}:{ANN} {queue}/*-x")).ok();
            }
            claim(m, queue)
        };
        let (one, two) = (held(&m), held(&m));
        chmod(m.path().join(queue), mode);
        chmod(&deep, above);
        let removed = ann(&m, &format!("rm '{queue}/{one}'")).code() == Some(0);
        let script = format!(
            "echo new > out/.new && setfattr -n user.mq.settles -v '{two}' out/.new && mv out/.new out/new; s=$?; rm -f out/.new; exit $s"
        );
        let settled = ann(&m, &script);
        assert_eq!(settled.code() == Some(0), removed, "{queue}: {above:o} {mode:o} own: {own}: {}", settled.stderr);
        chmod(m.path().join(queue), 0o777);
        chmod(&deep, 0o755);
        let left = 2 * u64::from(!removed);
        assert_eq!(m.stats(queue)["claimed"].as_u64(), Some(left), "{queue}: {above:o} {mode:o} own: {own}");
        m.sh(&format!("echo all > {queue}/.mq/purge; rm -f out/*")).ok();
    }
    let _ = q;
}

/// Who learns of a delivery of others from a batch of others settles nothing by it.
#[test]
fn a_file_of_somebody_else_settles_by_the_rights_of_who_publishes() {
    let (m, q) = mount(0o755);
    m.queue("out");
    chmod(m.path().join("out"), 0o777);
    m.put("q/x", "x");
    let held = claim(&m, "q");
    ann(&m, "umask 0; mkdir out/.mq/batch/b && echo 1 > out/.mq/batch/b/f").ok();
    ann(&m, &format!("setfattr -n user.mq.settles -v '{held}' out/.mq/batch/b/f")).ok();
    bob(&m, "mv out/.mq/batch/b out/").fails(DENIED);
    assert!(q.join(&held).exists());
    m.sh("mv out/.mq/batch/b out/").ok();
    assert!(!q.join(&held).exists());
}

/// A worker is told by `user.mq.settled` that it was itself who has settled.
#[test]
fn a_worker_that_settles_by_publishing_knows_it() {
    let m = Mount::new();
    m.queue("a");
    m.put("a/x", "x");
    let script = r#"f=$(cat a/.mq/claim); exec 5< "a/$f"; echo new > a/.new
        setfattr -n user.mq.settles -v "$f" a/.new; mv a/.new a/new
        getfattr --only-values -n user.mq.settled /proc/self/fd/5; getfattr --only-values -n user.mq.settled /dev/fd/5"#;
    assert_eq!(m.sh(script).stdout, "yesyes");
}
