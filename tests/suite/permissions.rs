//! Who may enqueue, list and consume, tried by users who are neither root nor the owner.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use crate::common::*;
use crate::extra::*;
use crate::users::*;

/// "POSIX modes are enforced by the kernel (`default_permissions`)": a private queue is private, in all its parts.
#[test]
fn a_private_queue_is_private() {
    let (m, q) = mount(0o700);
    let a = m.message(&q, "a", "secret");
    let x = a.display();
    for script in [
        "ls q".to_owned(),
        "ls q/.mq".into(),
        "ls q/.mq/peek".into(),
        "cat q/.mq/config".into(),
        "cat q/.mq/stats".into(),
        "mkdir q/inner".into(),
        "echo x > q/x".into(),
        "echo x > q/.draft".into(),
        format!("cat '{x}'"),
        format!("rm -f '{x}'"),
        format!("mv '{x}' $T/"),
        "rmdir q".into(),
        "mv q p".into(),
        "chmod 777 q".into(),
        "chown 12345 q".into(),
    ] {
        let ran = ann(&m, &script);
        let refused = [DENIED, "Operation not permitted"].iter().any(|text| ran.stderr.contains(text));
        assert!(!ran.status.success() && refused, "{script}: {ran:?}");
    }
    untouched(&q, &a);
    assert_eq!(m.bodies("q"), ["secret"]);
}

/// "Enqueue needs w+x on the queue; listing r+x."
#[test]
fn enqueueing_needs_write_and_listing_needs_read() {
    let (m, q) = mount(0o755);
    let a = m.message(&q, "a", "body");
    assert_eq!(ann(&m, "ls q | wc -l").ok(), "1\n");
    ann(&m, "echo x > q/x").fails(DENIED);
    ann(&m, "echo x > q/.draft").fails(DENIED);
    ann(&m, "mkdir q/inner").fails(DENIED);
    chmod(&q, 0o733);
    ann(&m, "echo from ann > q/x && cp q/x $T/own; mkdir q/inner").ok();
    ann(&m, "ls q").fails(DENIED);
    ann(&m, "ls q/inner").ok();
    assert_listed(&q, &["a", "x"], &["inner"]);
    chmod(&q, 0o771);
    ann(&m, "echo x > q/x").fails(DENIED);
    ann(&m, "ls q").fails(DENIED);
    untouched(&q, &a);
}

/// Asserts the producers' names of the messages and the names of the nested queues of a queue.
fn assert_listed(queue: &Path, messages: &[&str], queues: &[&str]) {
    let (inner, outer): (Vec<_>, Vec<_>) = listing(queue).into_iter().partition(|name| queues.contains(&name.as_str()));
    assert_eq!(inner, queues);
    assert_eq!(outer.iter().map(|name| producer(name)).collect::<Vec<_>>(), messages);
}

/// "Consuming needs r+w+x on the queue, by whatever means [...]; whoever lacks it and may read the file gets a plain read
/// that claims nothing."
#[test]
fn a_reader_who_may_not_consume() {
    let (m, q) = mount(0o755);
    let a = m.message(&q, "a", "body\n");
    let name = a.file_name().unwrap().to_str().unwrap();
    assert_eq!(ann(&m, &format!("cat q/{name}; cat < q/{name}; cat q/.mq/peek/{name}")).ok(), "body\nbody\nbody\n");
    untouched(&q, &a);
    for script in [
        format!("mv q/{name} q/.mq/claimed/"),
        format!("mv q/{name} q/.mq/dead/"),
        format!("rm -f q/{name}"),
        format!("mv q/{name} q/other"),
        format!("mv q/{name} $T/out"),
    ] {
        ann(&m, &script).fails(DENIED);
    }
    // A plain read does not wait for a worker either, and does not become one.
    transition(&q, "claimed", &a);
    assert_eq!(ann(&m, &format!("cat q/.mq/claimed/{name}")).ok(), "body\n");
    for script in [
        format!("mv q/.mq/claimed/{name} q/"),
        format!("rm -f q/.mq/claimed/{name}"),
        format!("mv q/.mq/claimed/{name} q/.mq/dead/"),
    ] {
        ann(&m, &script).fails(DENIED);
    }
    let due = deadline(&q, &a);
    ann(&m, &format!("touch -c q/.mq/claimed/{name}; true"));
    assert_eq!(deadline(&q, &a), due, "who may not consume renews nothing");
    assert_eq!(deliveries(&q, &a), 1);
    transition(&q, "dead", &within(&q, "claimed", &a));
    ann(&m, &format!("mv q/.mq/dead/{name} q/")).fails(DENIED);
    ann(&m, &format!("rm -f q/.mq/dead/{name}")).fails(DENIED);
    assert_eq!(m.bodies("q"), ["body\n"]);
}

/// "Consuming needs r+w+x": whoever has it claims by reading, and transitions.
#[test]
fn a_consumer_may_consume() {
    let (m, q) = mount(0o777);
    m.fill(&q, 3);
    let names = listing(&q);
    assert_eq!(ann(&m, &format!("cat q/{}", names[0])).ok(), "m0");
    assert_eq!(state(&q, &q.join(&names[0])).as_deref(), Some("claimed"));
    ann(&m, &format!("mv q/{} q/.mq/claimed/ && mv q/.mq/claimed/{} q/.mq/dead/", names[1], names[1])).ok();
    ann(&m, &format!("mv q/.mq/dead/{} q/ && rm q/{} q/{}", names[1], names[1], names[2])).ok();
    ann(&m, "rm q/.mq/claimed/*").ok();
    assert_eq!(m.bodies("q").len(), 0);
}

/// "r+w+x on a queue is the right to read every message in it", whatever the mode of the message.
#[test]
fn a_consumer_reads_every_message() {
    let (m, _) = mount(0o777);
    ann(&m, "umask 077; echo private > q/a; echo second > q/b").ok();
    assert_eq!(bob(&m, "cat q/.mq/peek/*-a").ok(), "private\n");
    assert_eq!(bob(&m, "for f in q/*; do cat \"$f\" && rm \"$f\"; done").ok(), "private\nsecond\n");
    assert_eq!(m.bodies("q").len(), 0);
}

/// The same message for two users at once: who may consume always gets in, who may not never does.
#[test]
fn consumers_and_strangers_at_the_same_message() {
    let (m, q) = mount(0o775);
    chown(&q, None, Some(STAFF)).unwrap();
    let a = m.message(&q, "a", "private");
    chmod(&a, 0o600);
    let read = r#"
import glob, sys
got = refused = 0
for i in range(400):
    for path in glob.glob("q/.mq/peek/*"):
        try: got += open(path).read() == "private"
        except PermissionError: refused += 1
print(got, refused)
"#;
    fs::write(m.scratch().join("read"), read).unwrap();
    let strangers: Vec<_> = [ANN, BOB].iter().map(|user| m.spawn_as(*user, *user, "python3 $T/read")).collect();
    let consumers: Vec<_> = [ANN, BOB].iter().map(|user| m.spawn_as(*user, STAFF, "python3 $T/read")).collect();
    for stranger in strangers {
        assert_eq!(stranger.finish().ok(), "0 400\n");
    }
    for consumer in consumers {
        assert_eq!(consumer.finish().ok(), "400 0\n");
    }
    untouched(&q, &a);
}

/// Whoever may not consume is bound by the mode of the message.
#[test]
fn a_reader_is_bound_by_the_message_s_mode() {
    let (m, q) = mount(0o755);
    let a = m.message(&q, "a", "body");
    chmod(&a, 0o640);
    ann(&m, "cat q/*").fails(DENIED);
    ann(&m, "cat q/.mq/peek/*").fails(DENIED);
    chown(&a, None, Some(ANN)).unwrap();
    assert_eq!(ann(&m, "cat q/*").ok(), "body");
    untouched(&q, &a);
}

/// In a sticky queue nobody else can remove what others put in, so nobody else claims it either.
#[test]
fn a_sticky_queue_is_consumed_by_its_owner() {
    let (m, q) = mount(0o1777);
    ann(&m, "umask 022; echo letter > q/a; echo draft > q/.d; mkdir q/inner").ok();
    assert_eq!(bob(&m, "cat q/*-a").ok(), "letter\n");
    assert_eq!(listing(control(&q, "claimed")).len(), 0, "a plain read");
    for script in [
        "rm -f q/.d",
        "rmdir q/inner",
        "mv q/.d q/stolen",
        "mv q/inner q/stolen",
        "rm -f q/*-a",
        "mv q/*-a q/.mq/claimed/",
    ] {
        let ran = bob(&m, script);
        assert!(!ran.status.success(), "{script}: {ran:?}");
    }
    assert_eq!(m.bodies("q"), ["letter\n"]);
    ann(&m, "rm q/*-a").ok();
    bob(&m, "echo mine > q/b").ok();
    m.sh("set -- q/*-b; cat \"$1\"; rm \"$1\"").ok();
    assert_eq!(m.stats("q")["claims_total"], 1, "by its owner");
    assert_eq!(fs::read_to_string(q.join(".d")).unwrap(), "draft\n");
}

/// "Supplementary groups are not in a FUSE request: read them from /proc only when the answer depends on them."
#[test]
fn supplementary_groups_count() {
    let (m, q) = mount(0o775);
    chown(&q, None, Some(STAFF)).unwrap();
    let a = m.message(&q, "a", "body\n");
    let name = a.file_name().unwrap().to_str().unwrap();
    let with_groups = |script: &str| m.run_as_with_groups(ANN, ANN, &format!("4,{STAFF},9"), script);

    assert_eq!(ann(&m, "cat q/*").ok(), "body\n");
    ann(&m, &format!("mv q/{name} q/.mq/claimed/")).fails(DENIED);
    untouched(&q, &a);
    with_groups("echo new > q/new").ok();
    assert_eq!(with_groups(&format!("cat q/{name}")).ok(), "body\n");
    assert_eq!(state(&q, &a).as_deref(), Some("claimed"), "a member of the group consumes");
    with_groups(&format!(
        "mv q/.mq/claimed/{name} q/ && mv q/{name} q/.mq/dead/ && mv q/.mq/dead/{name} q/ && rm q/{name}"
    ))
    .ok();
    assert_eq!(state(&q, &a), None);

    // The group has fewer rights than others: its members are bound by the group's.
    chmod(&q, 0o757);
    let b = q.join(&listing(&q)[0]);
    let name = b.file_name().unwrap().to_str().unwrap();
    assert_eq!(with_groups(&format!("cat q/{name}")).ok(), "new\n");
    untouched(&q, &b);
    with_groups("echo x > q/x").fails(DENIED);
    assert_eq!(bob(&m, &format!("cat q/{name}")).ok(), "new\n");
    assert_eq!(state(&q, &b).as_deref(), Some("claimed"));
}

/// "-o allow_other" is what lets others in at all: without it the mount is its owner's.
#[test]
fn without_allow_other_nobody_else_gets_in() {
    let m = Mount::new();
    m.queue("q");
    chmod(m.path().join("q"), 0o777);
    ann(&m, "cd /; ls \"$M\"").fails(DENIED);
    ann(&m, "cd /; echo x > \"$M/q/x\"").fails(DENIED);
    assert_eq!(m.bodies("q").len(), 0);
}

/// Moving to another queue needs the right to consume here and to enqueue there.
#[test]
fn moving_needs_both_rights() {
    let (m, q) = mount(0o777);
    let target = m.queue("target");
    for (here, there, allowed) in
        [(0o777, 0o755, false), (0o733, 0o777, false), (0o755, 0o777, false), (0o777, 0o733, true)]
    {
        chmod(&q, 0o777);
        ann(&m, "echo x > q/a").ok();
        let name = listing(&q)[0].clone();
        chmod(&q, here);
        chmod(&target, there);
        let ran = ann(&m, &format!("mv q/{name} target/"));
        assert_eq!(ran.status.success(), allowed, "{here:o} {there:o}: {ran:?}");
        let moved = m.messages("target").len();
        assert_eq!(moved, usize::from(allowed), "{here:o} {there:o}");
        m.sh("find q target -type f -delete").ok();
    }
}
