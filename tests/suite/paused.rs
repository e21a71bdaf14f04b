//! "paused = in | out | both": enqueuing, claiming or both fail with EAGAIN for the time being; all else goes on.

use std::fs::{self, File};
use std::io::{Read, Write};

use crate::common::*;
use crate::extra::*;

const AGAIN: &str = "Resource temporarily unavailable";

fn rejected(m: &Mount, queue: &str) -> u64 {
    m.stats(queue)["rejected_total"].as_u64().unwrap()
}

/// Every way to enqueue is refused, and counted.
#[test]
fn nothing_is_enqueued_in_a_queue_that_is_paused_in() {
    let m = Mount::new();
    let q = m.queue("q");
    let other = m.queue("other");
    let there = m.message(&q, "there", "there");
    let stays = m.message(&other, "stays", "stays");
    m.set("q", "paused = in");
    let script = "echo hi > q/a; cp /etc/passwd q/b; mv $T/c q/c; touch q/d; dd if=/dev/zero of=q/e count=1; : > q/f";
    fs::write(m.scratch().join("c"), "c").unwrap();
    for shell in ["bash", "dash"] {
        let ran = m.shell(shell, script);
        let again = ran.stderr.matches(AGAIN).count();
        assert!(again == 6 && ran.stderr.lines().count() == 6, "{shell}: {ran:?}");
    }
    m.python("open('q/x', 'w')").fails("BlockingIOError");
    fs::write(q.join(".draft"), "drafts are files like any other").unwrap();
    m.sh("mv q/.draft q/published").fails(AGAIN);
    m.sh("ln q/.draft q/published").fails(AGAIN);
    m.sh(&format!("mv '{}' q/", stays.display())).fails(AGAIN);
    assert_eq!(m.bodies("q"), ["there"]);
    assert!(rejected(&m, "q") >= 15);
    assert_listed(&other, &["stays"]);

    // Consumers go on, and what comes back comes back.
    assert_eq!(m.sh("cat q/*-there").ok(), "there");
    fs::rename(within(&q, "claimed", &there), &there).unwrap();
    fs::rename(&there, within(&q, "dead", &there)).unwrap();
    fs::rename(within(&q, "dead", &there), &there).unwrap();
    fs::remove_file(&there).unwrap();

    m.set("q", "paused = no");
    m.sh("mv q/.draft q/published && echo hi > q/a").ok();
    assert_listed(&q, &["published", "a"]);
}

/// Writers that are open already go on; so do a draft's that was renamed while it was open.
#[test]
fn open_writers_go_on() {
    let m = Mount::new();
    let q = m.queue("q");
    let mut writer = File::create(q.join("a")).unwrap();
    let mut draft = File::create(q.join(".b")).unwrap();
    fs::rename(q.join(".b"), q.join("b")).unwrap();
    m.set("q", "paused = both");
    writer.write_all(b"a").unwrap();
    draft.write_all(b"b").unwrap();
    drop(writer);
    drop(draft);
    assert_eq!(m.bodies("q"), ["a", "b"]);
    assert_eq!(errno(File::create(q.join("c"))), libc::EAGAIN);
}

/// Claims by reading and by renaming are refused; whoever looks or already holds a claim goes on.
#[test]
fn nothing_is_claimed_in_a_queue_that_is_paused_out() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 3);
    let all = listing(&q);
    let mine = transition(&q, "claimed", &q.join(&all[0]));
    let mut open = File::open(q.join(&all[1])).unwrap();
    m.set("q", "paused = out");

    let other = q.join(&all[2]);
    m.sh(&format!("cat '{}'", other.display())).fails(AGAIN);
    m.sh(&format!("mv '{}' q/.mq/claimed/", other.display())).fails(AGAIN);
    assert_eq!(m.sh(&format!("cat q/.mq/peek/{}", all[2])).ok(), "m2");
    assert_eq!(deliveries(&q, &other), 0);

    m.fill(&q, 1);
    assert_eq!(fs::read_to_string(&mine).unwrap(), "m0");
    let mut body = String::new();
    open.read_to_string(&mut body).unwrap();
    assert_eq!(body, "m1");
    m.sh(&format!("touch -c '{}' && mv '{}' q/", mine.display(), mine.display())).ok();
    fs::remove_file(within(&q, "claimed", &q.join(&all[1]))).unwrap();
    assert_eq!(listing(&q).len(), 3, "given back, refused and new");
    assert_eq!(rejected(&m, "q"), 0, "nothing was refused to producers");

    m.set("q", "paused = no");
    assert_eq!(m.sh(&format!("cat '{}'", other.display())).ok(), "m2");
}

/// A pause outlives the mount, and is an attribute as every key.
#[test]
fn a_pause_stays_until_it_is_lifted() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.sh("setfattr -n user.mq.paused -v in q").ok();
    m.remount();
    assert_eq!(errno(File::create(q.join("a"))), libc::EAGAIN);
    m.kill9_and_remount();
    assert_eq!(errno(File::create(q.join("a"))), libc::EAGAIN);
    m.sh("setfattr -n user.mq.paused -v no q && echo a > q/a").ok();
    assert_eq!(rejected(&m, "q"), 2);
}

/// Files of a batch are enqueued when the pause is over, all of them.
#[test]
fn a_batch_waits() {
    let m = Mount::new();
    m.queue_with("q", &["paused=in"]);
    m.sh("mkdir q/.mq/batch/b && echo 1 > q/.mq/batch/b/1 && echo 2 > q/.mq/batch/b/2").ok();
    m.sh("mv q/.mq/batch/b q/").fails(AGAIN);
    m.set("q", "paused = no");
    m.sh("mv q/.mq/batch/b q/").ok();
    assert_eq!(m.bodies("q"), ["1\n", "2\n"]);
}
