//! Reading that does not consume: peeking, the dead, `claim = rename`, read-only mounts, readers without the right.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::*;
use crate::extra::*;

/// "peek/ every message in any state, readable, never claimed by reading (search and back up here)"
#[test]
fn peek_never_claims() {
    let m = Mount::new();
    let q = m.queue("q");
    let ready = m.message(&q, "ready", "needle 1\n");
    let claimed = m.message(&q, "claimed", "needle 2\n");
    let dead = m.message(&q, "dead", "needle 3\n");
    transition(&q, "claimed", &claimed);
    transition(&q, "dead", &dead);

    assert_eq!(m.worker("cat q/.mq/peek/*").ok(), "needle 1\nneedle 2\nneedle 3\n");
    assert_eq!(m.worker("grep -rh needle q/.mq/peek").ok().lines().count(), 3);
    m.worker("cp -r q/.mq/peek $T/backup").ok();
    assert_eq!(fs::read_dir(m.scratch().join("backup")).unwrap().count(), 3);

    assert_eq!(state(&q, &ready).as_deref(), Some("ready"));
    assert_eq!(deliveries(&q, &ready), 0);
    assert_eq!(deliveries(&q, &claimed), 1);
    assert_eq!(state(&q, &dead).as_deref(), Some("dead"));
    assert_listed(&q, &["ready"]);
}

/// The same message has a page cache of its own under each path: peeking first must not make a later open a peek.
#[test]
fn reading_claims_after_peeking() {
    let m = Mount::new();
    let q = m.queue("q");
    let a = m.message(&q, "a", "body");
    assert_eq!(fs::read_to_string(within(&q, "peek", &a)).unwrap(), "body");
    assert_eq!(fs::read_to_string(&a).unwrap(), "body");
    assert_eq!(state(&q, &a).as_deref(), Some("claimed"));
    assert_eq!(deliveries(&q, &a), 1);
}

/// Dead messages are for people to look at: reading one where it lies changes nothing.
#[test]
fn reading_the_dead_changes_nothing() {
    let m = Mount::new();
    let q = m.queue("q");
    let a = transition(&q, "dead", &m.message(&q, "a", "body"));
    assert_eq!(m.worker("cat q/.mq/dead/*").ok(), "body");
    assert_eq!(state(&q, &a).as_deref(), Some("dead"));
    assert_eq!(deliveries(&q, &a), 0);
    assert_listed(&control(&q, "dead"), &["a"]);
}

/// "With `claim = rename` [...] reading never claims"; the rename does.
#[test]
fn claim_by_rename_only() {
    let m = Mount::new();
    let q = m.queue_with("q", &["claim=rename"]);
    let a = m.message(&q, "a", "body");
    assert_eq!(m.sh("cat q/*; cat < q/*").ok(), "bodybody");
    assert_eq!(m.worker("cat q/*").ok(), "body", "and keeps nobody else out");
    assert_eq!(state(&q, &a).as_deref(), Some("ready"));
    assert_eq!(deliveries(&q, &a), 0);
    assert_listed(&q, &["a"]);

    m.sh("mv q/* q/.mq/claimed/").ok();
    assert_listed(&q, &[]);
    assert_eq!(deliveries(&q, &a), 1);
    assert_eq!(m.worker("cat q/.mq/claimed/* && rm q/.mq/claimed/*").ok(), "body");
    assert_eq!(m.bodies("q").len(), 0);
}

/// "on a read-only mount, reading never claims"
#[test]
fn a_read_only_mount_never_claims() {
    let mut m = Mount::new();
    let q = m.queue("q");
    let a = m.message(&q, "a", "body");
    let b = m.message(&q, "b", "other");
    transition(&q, "claimed", &b);
    m.stop();
    m.set_args(&["-o", "ro"]);
    m.start();
    assert_eq!(m.sh("cat q/*").ok(), "body");
    assert_eq!(m.worker("cat q/* q/.mq/claimed/*").ok(), "bodyother");
    assert_listed(&q, &["a"]);
    assert_eq!(errno(fs::remove_file(&a)), libc::EROFS);
    assert_eq!(errno(fs::write(q.join("new"), "x")), libc::EROFS);
    assert_eq!(errno(fs::rename(&a, within(&q, "claimed", &a))), libc::EROFS);
    m.stop();
    m.set_args(&[]);
    m.start();
    assert_eq!(state(&q, &a).as_deref(), Some("ready"));
    assert_eq!(deliveries(&q, &a), 0);
    assert_eq!(deliveries(&q, &b), 1);
}

/// On a read-only mount nothing changes by itself either: a lease that ends meanwhile is still a claim afterwards, or
/// has expired by the next writable mount, but the message is never lost.
#[test]
fn a_read_only_mount_loses_nothing() {
    let mut m = Mount::with_clock("+0");
    let q = m.queue_with("q", &["visibility_timeout=1h"]);
    transition(&q, "claimed", &m.message(&q, "a", "body"));
    m.stop();
    m.set_args(&["-o", "ro"]);
    m.start();
    m.set_clock("+2h");
    assert_eq!(m.bodies("q"), ["body"]);
    m.stop();
    m.set_args(&[]);
    m.start();
    wait_until(|| listing(&q).len() == 1);
    assert_eq!(m.bodies("q"), ["body"]);
}

/// "whoever lacks it [the right to consume] and may read the file gets a plain read that claims nothing"
#[test]
fn a_reader_who_may_not_consume_claims_nothing() {
    let m = Mount::with(&["-o", "allow_other"]);
    let q = m.queue("q");
    fs::set_permissions(&q, fs::Permissions::from_mode(0o755)).unwrap();
    let a = m.message(&q, "a", "body\n");
    assert_eq!(m.run_as(12345, 12345, "cat q/*; cat q/*").ok(), "body\nbody\n");
    assert_eq!(state(&q, &a).as_deref(), Some("ready"));
    assert_eq!(deliveries(&q, &a), 0);
    assert_eq!(m.sh("cat q/*").ok(), "body\n");
    assert_eq!(state(&q, &a).as_deref(), Some("claimed"));
}
