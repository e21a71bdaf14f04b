//! "`purge`: write `ready` | `claimed` | `delayed` | `dead` | `drafts` | `all`": what it names is gone at once, and nothing else.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::common::*;
use crate::extra::*;
use crate::users::{ANN, BOB, DENIED, ann, bob, chmod};

/// One message in each state, by the name of its state, and a draft.
fn one_of_each(m: &Mount, q: &Path) -> [PathBuf; 3] {
    let messages = ["ready", "claimed", "dead"].map(|name| m.message(q, name, name));
    transition(q, "claimed", &messages[1]);
    transition(q, "dead", &messages[2]);
    fs::write(q.join(".draft"), "draft").unwrap();
    fs::write(q.join(".soon"), "delayed").unwrap();
    set_xattr(q.join(".soon"), "user.mq.delay", "1h").unwrap();
    fs::rename(q.join(".soon"), q.join("delayed")).unwrap();
    messages
}

fn counts(m: &Mount, queue: &str) -> [u64; 5] {
    let stats = m.stats(queue);
    ["ready", "claimed", "delayed", "dead", "drafts"].map(|name| stats[name].as_u64().unwrap())
}

#[test]
fn each_word_purges_its_state_and_no_other() {
    let words = ["ready", "claimed", "delayed", "dead", "drafts"];
    for (at, word) in words.into_iter().enumerate() {
        for shell in ["bash", "dash", "busybox sh"] {
            let m = Mount::new();
            let q = m.queue("q");
            one_of_each(&m, &q);
            assert_eq!(counts(&m, "q"), [1; 5]);
            m.shell(shell, &format!("echo {word} > q/.mq/purge")).ok();
            let mut left = [1; 5];
            left[at] = 0;
            assert_eq!(counts(&m, "q"), left, "{word} {shell}");
            let bodies: Vec<_> = words[..4].iter().filter(|other| **other != word).collect();
            let mut there = m.bodies("q");
            there.sort();
            let mut expected: Vec<_> = bodies.iter().map(|body| body.to_string()).collect();
            expected.sort();
            assert_eq!(there, expected, "{word}");
            assert_eq!(q.join(".draft").exists(), word != "drafts");
            assert_eq!(m.stats("q")["purged_total"], u64::from(word != "drafts"));
        }
    }
}

#[test]
fn several_words_and_all() {
    let m = Mount::new();
    let q = m.queue("q");
    one_of_each(&m, &q);
    m.sh("printf 'ready dead\\n delayed' > q/.mq/purge").ok();
    assert_eq!(counts(&m, "q"), [0, 1, 0, 0, 1]);
    m.fill(&q, 3);
    m.sh("printf all >> q/.mq/purge").ok();
    assert_eq!(counts(&m, "q"), [0; 5]);
    assert_eq!(m.stats("q")["purged_total"], 7);
    m.sh("rmdir q").ok();
    assert!(m.log().contains("purged queue="), "{}", m.log());
}

#[test]
fn an_unknown_word_purges_nothing() {
    let m = Mount::new();
    let q = m.queue("q");
    one_of_each(&m, &q);
    m.sh("echo ready everything > q/.mq/purge").fails("Invalid argument");
    m.sh("cat q/.mq/purge").fails("not permitted");
    m.sh(": > q/.mq/purge; touch q/.mq/purge").ok();
    m.sh("rm q/.mq/purge").fails("not permitted");
    assert_eq!(counts(&m, "q"), [1; 5]);
}

#[test]
fn purging_needs_the_owner_or_root() {
    let m = Mount::with(&["-o", "allow_other"]);
    let q = m.queue("q");
    chmod(&q, 0o777);
    std::os::unix::fs::chown(&q, Some(ANN), Some(ANN)).unwrap();
    m.fill(&q, 2);
    bob(&m, "echo ready > q/.mq/purge").fails(DENIED);
    assert_eq!(counts(&m, "q")[0], 2);
    ann(&m, "echo ready > q/.mq/purge").ok();
    assert_eq!(counts(&m, "q")[0], 0);
    assert!(m.log().contains(&format!("uid={ANN}")) && !m.log().contains(&format!("uid={BOB}")), "{}", m.log());
    m.fill(&q, 2);
    m.sh("echo ready > q/.mq/purge").ok();
    assert_eq!(counts(&m, "q")[0], 0);
}

/// "A worker who holds a purged claim gets ENOENT at rm. Open descriptors stay readable."
#[test]
fn workers_at_purged_messages() {
    let m = Mount::new();
    let q = m.queue("q");
    let large: Vec<u8> = (0..3_000_000).map(|i: usize| (i * 7 % 251) as u8).collect();
    let small = m.message(&q, "small", "small body");
    let big = m.message(&q, "big", &large);
    let mut files = [fs::File::open(&small).unwrap(), fs::File::open(&big).unwrap()];
    m.sh("echo claimed > q/.mq/purge").ok();
    wait_until(|| m.body_files().is_empty());
    assert_eq!(errno(fs::remove_file(within(&q, "claimed", &small))), libc::ENOENT);
    assert_eq!(errno(fs::rename(within(&q, "claimed", &big), &big)), libc::ENOENT);
    let mut read = [Vec::new(), Vec::new()];
    for (file, bytes) in files.iter_mut().zip(&mut read) {
        file.read_to_end(bytes).unwrap();
    }
    assert!(read[0] == b"small body" && read[1] == large);
    assert_eq!(counts(&m, "q"), [0; 5]);
}

/// A message that was claimed before the ready ones were purged comes back to its old place.
#[test]
fn what_was_claimed_survives_a_purge_of_ready() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 3);
    let all = listing(&q);
    let claimed = transition(&q, "claimed", &q.join(&all[1]));
    m.sh("echo ready > q/.mq/purge").ok();
    m.message(&q, "new", "");
    fs::rename(&claimed, q.join(&all[1])).unwrap();
    assert_listed(&q, &["m1", "new"]);
    assert_eq!(m.sh("cat q/*-m1").ok(), "m1");
}

/// What is being written is not purged, and neither is a draft that is open.
#[test]
fn open_writers_and_drafts_survive() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 1);
    fs::write(q.join(".closed"), "closed").unwrap();
    m.sh("exec 3> q/message 4> q/.draft 5> q/promised
          echo one >&3; echo one >&4; echo whole >&5; (exec 5>&-); exec 6>&5 5>&-
          echo all > q/.mq/purge
          echo two >&3; echo two >&4")
        .ok();
    assert_eq!(counts(&m, "q"), [2, 0, 0, 0, 1]);
    let mut bodies = m.bodies("q");
    bodies.sort();
    assert_eq!(bodies, ["one\ntwo\n", "whole\n"]);
    assert_eq!(fs::read_to_string(q.join(".draft")).unwrap(), "one\ntwo\n");
    m.kill9_and_remount();
    assert_eq!(m.bodies("q").len(), 2);
}

/// Bare names, files and listings of a queue with everything in it: at once, also in the next mount, and the store forgets it.
#[test]
fn a_hundred_thousand_messages_at_once() {
    let mut m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    let other = m.queue("other");
    m.sh("yes x | head -n 99999 > q/.mq/lines; echo x > q/last").ok();
    m.fill(&other, 3);
    assert_eq!(counts(&m, "q")[0], 100_000);
    let script =
        "echo ready > q/.mq/purge && ls q && ls q/.mq/peek && grep '\"ready\\|purged' q/.mq/stats && cat q/last";
    let ran = m.sh(script);
    ran.fails("No such file or directory");
    let shown: Vec<&str> = ran.stdout.split_whitespace().collect();
    assert_eq!(shown, ["\"purged_total\":", "100000,", "\"ready\":", "0,", "\"ready_bytes\":", "0,"]);
    m.message(&q, "next", "next");
    m.kill9_and_remount();
    assert_eq!((m.bodies("q"), m.bodies("other").len()), (vec!["next".to_owned()], 3));
    m.sh("echo ready > q/.mq/purge; rmdir q").ok();
}

/// Purges while others enqueue, claim and give back: counters and listings agree, and nobody sees an error but ENOENT.
#[test]
fn purges_race_with_everything() {
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    let producers: Vec<_> =
        (0..2).map(|_| m.spawn("for ((i = 0; i < 400; i++)); do echo $i > q/m$i || exit 1; done")).collect();
    // `mv` of coreutils, which is told that the target exists and then finds that it is gone, looks at what it has not read and may
    // take the target for a directory: `strace -e inject=renameat2:error=EEXIST mv a dir/` shows that anywhere.
    let worker = "while ! [ -e $T/stop ]; do
                      for f in q/[0-9]*; do
                          mv $f q/.mq/claimed/ && { cat q/.mq/claimed/${f##*/}; mv q/.mq/claimed/${f##*/} q/; }
                      done
                  done 2>&1 >/dev/null | grep -v -e 'No such file' -e 'mv: cannot overwrite directory'";
    let workers: Vec<_> = (0..2).map(|_| m.spawn(worker)).collect();
    for _ in 0..30 {
        m.sh("echo ready claimed > q/.mq/purge").ok();
    }
    for producer in producers {
        producer.finish().ok();
    }
    fs::write(m.scratch().join("stop"), "").unwrap();
    for worker in workers {
        assert_eq!(worker.finish().stdout, "");
    }
    let stats = m.stats("q");
    let there = stats["ready"].as_u64().unwrap() + stats["claimed"].as_u64().unwrap();
    assert_eq!(m.bodies("q").len() as u64, there, "{stats}");
    assert_eq!(stats["purged_total"].as_u64().unwrap() + there, 800, "{stats}");
    m.sh("echo all > q/.mq/purge").ok();
    assert_eq!(m.stats("q")["purged_total"], 800);
    assert_eq!((m.bodies("q").len(), listing(&q).len()), (0, 0));
}
