//! `mqfs link` from Apache Kafka: everything in the topic is in the queue, and once, by positions that the queue keeps.

use std::collections::BTreeSet;
use std::fs;

use crate::common::*;
use crate::extra::*;
use crate::kafka::{Kafka, shared};
use crate::link_kafka_places::mark;
use crate::linking::{Given, SOON, assert_each_once, attributes, run, start, state, status};

/// "A message that went mqfs -> broker -> mqfs on another mount has the same body, name, headers, priority, correlation id, content type,
/// group."
#[test]
fn what_went_out_and_came_in_on_another_mount_is_the_same() {
    let Some(kafka) = shared() else { return };
    let (here, there) = (Mount::new(), Mount::new());
    let (out, into) = (here.queue("out"), there.queue("into"));
    let binary: Vec<u8> = (0..=255).cycle().take(50_000).collect();
    let all: [Given; 4] = [
        (
            "größe 1.csv",
            &binary,
            &[
                ("user.mq.content_type", b"text/csv"),
                ("user.mq.correlation_id", b"c-1"),
                ("user.mq.reply_to", b"answers"),
                ("user.mq.priority", b"7"),
                ("user.mq.group", b"g\xff"),
                ("user.mq.ttl", b"2h"),
                ("user.colour", "röt".as_bytes()),
                ("user.binary", b"\xff\x00"),
                ("user.empty", b""),
            ],
        ),
        ("empty", b"", &[]),
        ("null", b"", &[("user.link.null", b"1")]),
        ("long", b"x", &[("user.mq.correlation_id", &[b'c'; 300]), ("user.mq.content_type", b"\xff")]),
    ];
    for (name, body, attributes) in all {
        fs::write(out.join(".d"), body).unwrap();
        attributes.iter().for_each(|(name, value)| set_xattr(out.join(".d"), name, value).unwrap());
        fs::rename(out.join(".d"), out.join(name)).unwrap();
    }
    let before: Vec<_> =
        names(control(&out, "peek")).iter().map(|name| attributes(&control(&out, "peek").join(name), &[])).collect();
    kafka.topic("there-and-back", 1);
    run(&here, &["--until-empty", "out", &kafka.url("there-and-back")]).ok();
    run(&there, &["--until-empty", &kafka.url("there-and-back"), "into"]).ok();
    assert_eq!(producers(&into), ["größe 1.csv", "empty", "null", "long"]);
    for (offset, ((name, body, _), before)) in all.iter().zip(before).enumerate() {
        let path = into.join(names(&into).into_iter().find(|full| full.to_str().unwrap().ends_with(name)).unwrap());
        let path = within(&into, "peek", &path);
        assert_eq!(fs::read(&path).unwrap(), *body, "{name}");
        let mut after = attributes(&path, &[]);
        after.retain(|(name, _)| !name.starts_with("user.link.") || name == "user.link.null");
        assert_eq!(after, before, "{name}");
        assert_eq!(xattr(&path, "user.link.hops").unwrap(), "1");
        assert_eq!(xattr(&path, "user.link.topic").unwrap(), "there-and-back");
        assert_eq!(xattr(&path, "user.link.offset").unwrap(), offset.to_string());
        assert_eq!(xattr(&path, "user.mq.expires").is_some(), *name == "größe 1.csv");
    }
    assert_eq!(
        kafka.lag("there-and-back", &named(kafka, "out-to", "there-and-back")),
        4,
        "nobody reads under that name"
    );
    assert_eq!(kafka.lag("there-and-back", &named(kafka, "into-from", "there-and-back")), 0);
}

/// What a link to or from a topic is called when nobody says.
fn named(kafka: &Kafka, begins: &str, topic: &str) -> String {
    let url = kafka.url(topic);
    let port = url.rsplit(':').next().unwrap().split('/').next().unwrap();
    format!("{begins}-kafka-127.0.0.1-{port}-{topic}")
}

/// What others write has no names, and keys, values and headers of every kind.
#[test]
fn messages_of_others_are_taken_in() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = m.queue("q");
    kafka.topic("others", 1);
    kafka.python(
        "put('others', [dict(value=b'\\xff1', key=b'k\\xff', timestamp=1700000000123, headers=[('n', None), ('x', b'\\xff'), ('mq.priority', b'odd'), \
         ('mq-priority', b'200'), ('mq-name', b'a/b'), ('twice', b'1'), ('twice', b'2')]), dict(value=None, key='gone'), dict(value='')])",
    );
    run(&m, &["--until-empty", &kafka.url("others"), "q"]).ok();
    assert_eq!(producers(&q), ["message", "message", "message"]);
    let messages = m.messages(&q);
    assert_eq!(messages.iter().map(|(_, body)| body.as_slice()).collect::<Vec<_>>(), [&b"\xff1"[..], b"", b""]);
    let paths: Vec<_> = messages.iter().map(|(name, _)| control(&q, "peek").join(name)).collect();
    for (name, value) in [
        ("user.n", "".as_bytes()),
        ("user.x", b"\xff"),
        ("user.twice", b"2"),
        ("user.mq.priority", b"9"),
        ("user.mq.group", b"k\xff"),
        ("user.link.key", b"k\xff"),
        ("user.link.timestamp", b"1700000000123"),
        ("user.link.headers", br#"{"mq-name":"a/b","mq.priority":"odd"}"#),
    ] {
        assert_eq!(try_xattr(&paths[0], name).unwrap(), value, "{name}");
    }
    assert_eq!(xattr(&paths[1], "user.link.null").as_deref(), Some("1"));
    assert_eq!(xattr(&paths[2], "user.link.null"), None);
    assert!(xattr(&paths[2], "user.link.id").unwrap().ends_with("/0/2"));
}

/// Order, in thousands; the mark says where it is, and the group is told after it.
#[test]
fn each_is_enqueued_once_and_in_order() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    kafka.topic("once", 1);
    kafka.publish("once", 1000);
    let url = kafka.url("once?group=once-group");
    let arguments = ["--until-empty", "-o", "batch=64", "-o", "name=once", &url, "q"];
    run(&m, &arguments).ok();
    let expected: Vec<String> = (0..1000).map(|i| format!("m{i}")).collect();
    assert_eq!(m.bodies(&q), expected);
    let (text, topic) = mark(&q, "once");
    assert_eq!(text, format!("v1 kafka {topic} 0:1000"));
    assert!(topic.len() >= 22 && kafka.lag("once", "once-group") == 0);
    run(&m, &arguments).ok();
    kafka.python("put('once', [dict(value='new')])");
    run(&m, &arguments).ok();
    assert_eq!(m.bodies(&q).len(), 1001);
}

/// "EDQUOT, EAGAIN [...]: the batch stays": a full or paused queue is waited for, and the group is not told before.
#[test]
fn a_queue_that_takes_nothing_is_waited_for() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = m.queue_with("q", &["max_messages=5"]);
    kafka.topic("full", 1);
    kafka.publish("full", 8);
    let url = kafka.url("full?group=full");
    let link = start(&m, &[&SOON[..], &["-o", "batch=4", &url, "q"]].concat());
    wait_until(|| state(&m) == "holding");
    // As many as came in time are one batch.
    let here = m.bodies(&q).len();
    assert!((1..=5).contains(&here) && status(&m)["why"] == "the queue is full", "{here}: {}", status(&m));
    wait_until(|| kafka.lag("full", "full") == 8 - here as i64);
    m.sh("rm q/*").ok();
    wait_until(|| m.bodies(&q).len() == 8 - here);
    m.set(&q, "max_messages=0\npaused=in");
    kafka.python("put('full', [dict(value='m8')])");
    wait_until(|| state(&m) == "holding");
    m.set(&q, "paused=no");
    wait_until(|| m.bodies(&q).len() == 9 - here);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    let rest: Vec<String> = (here..9).map(|i| format!("m{i}")).collect();
    assert_eq!((m.bodies(&q), kafka.lag("full", "full")), (rest, 0));
}

/// "up to `hold`; then it removes the batch, closes": another host of the group has the partition meanwhile. A batch is a part of what the
/// queue holds, so that what is far more than it holds comes all the same.
#[test]
fn after_a_while_others_have_the_partition() {
    let Some(kafka) = shared() else { return };
    let (m, other) = (Mount::new(), Mount::new());
    let q = m.queue_with("q", &["max_messages=8"]);
    other.queue("q");
    kafka.topic("hold", 1);
    kafka.publish("hold", 30);
    let url = kafka.url("hold?group=hold");
    let link = start(&m, &[&SOON[..], &["-o", "hold=200ms", &url, "q"]].concat());
    wait_until(|| state(&m) == "holding" && m.stats(&q)["batches"] == 0);
    let here = m.bodies(&q).len();
    assert!((7..=8).contains(&here), "{here}");
    run(&other, &["--until-empty", &url, "q"]).ok();
    assert_eq!(other.bodies("q").len(), 30 - here);
    m.sh("rm q/*").ok();
    kafka.python("put('hold', [dict(value='m30')])");
    wait_until(|| m.bodies(&q) == ["m30"] && state(&m) == "running");
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
}

/// "Poison: stop (nothing is dropped unless told), save:DIR"; Kafka has no place for what is rejected. What was saved is not saved again.
#[test]
fn what_does_not_fit_is_left_or_saved() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = m.queue_with("q", &["max_message_bytes=10"]);
    kafka.python(
        "topic('poison')\nput('poison', [dict(value='1'), dict(value='2', headers={'mq-hops': b'17'}), dict(value='much too large', headers={'colour': b'red'})])",
    );
    let url = kafka.url("poison");
    let ran = run(&m, &["--until-empty", &url, "q"]);
    assert_eq!(ran.code(), Some(16), "{ran:?}");
    ran.fails("ring");
    assert_eq!(m.bodies(&q), ["1"]);
    let ran = run(&m, &["-o", "poison=reject", &url, "q"]);
    assert_eq!(ran.code(), Some(2), "{ran:?}");
    let saved = m.scratch().join("saved");
    fs::create_dir(&saved).unwrap();
    let save = format!("poison=save:{}", saved.display());
    for _ in 0..2 {
        let ran = run(&m, &["--until-empty", "-o", &save, &url, "q"]);
        assert_eq!((ran.code(), listing(&saved).len()), (Some(0), 4), "{ran:?}");
    }
    let files = listing(&saved);
    let told = |name: &String| fs::read_to_string(saved.join(name)).unwrap();
    assert!(files.iter().any(|name| name.ends_with(".body") && told(name) == "much too large"));
    assert!(files.iter().any(|name| name.ends_with(".json") && told(name).contains(r#""header.colour":"red""#)));
    assert_eq!(m.bodies(&q), ["1"]);
    // And all goes on after it: one at a time, so that a batch has been made for nothing.
    kafka.python("put('poison', [dict(value='again too large'), dict(value='3')])");
    run(&m, &["--until-empty", "-o", "linger=0s", "-o", "hold=1h", "-o", &save, &url, "q"]).succeeds();
    assert_eq!((m.bodies(&q), listing(&saved).len()), (vec!["1".to_owned(), "3".to_owned()], 6));
}

/// "rebalances: a batch gathered under a lost assignment is dropped, not enqueued": its messages come to who has the partition now.
#[test]
fn partitions_that_go_to_another_link_take_their_messages_with_them() {
    let Some(kafka) = shared() else { return };
    let (m, other) = (Mount::new(), Mount::new());
    let (q, _) = (m.queue("q"), other.queue("q"));
    kafka.topic("shared", 2);
    let url = kafka.url("shared?group=shared");
    let many = |from: usize| {
        kafka.python(&format!(
            "put('shared', [dict(value=f'm{{i}}', partition=i % 2) for i in range({from}, {from} + 100)])"
        ));
    };
    many(0);
    // The first has all of it, and enqueues nothing for long.
    let first = start(&m, &["-o", "name=first", "-o", "linger=1h", "-o", "batch=10000", &url, "q"]);
    wait_until(|| status(&m)["in_flight"] == 100);
    let second = start(&other, &["-o", "name=second", &url, "q"]);
    wait_until(|| other.bodies("q").len() == 50);
    many(100);
    wait_until(|| other.bodies("q").len() == 100);
    wait_until(|| status(&m)["in_flight"] == 100);
    first.signal(libc::SIGTERM);
    let ran = first.finish();
    assert_eq!((ran.code(), m.bodies(&q).len()), (Some(0), 100), "{ran:?}");
    second.signal(libc::SIGTERM);
    assert_eq!(second.finish().code(), Some(0));
    let all: BTreeSet<String> = m.bodies(&q).into_iter().chain(other.bodies("q")).collect();
    assert_eq!((all.len(), kafka.lag("shared", "shared")), (200, 0));
}

/// Whatever happens to the link, each is in the queue once.
#[test]
fn a_killed_link_doubles_and_loses_nothing() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    kafka.topic("killed-in", 2);
    kafka.publish("killed-in", 1500);
    let url = kafka.url("killed-in");
    // The least that a broker allows.
    let session = ["-o", "kafka.session.timeout.ms=6000"];
    for _ in 0..3 {
        let link = start(&m, &[&session[..], &["-o", "batch=40", "-o", "linger=5ms", &url, "q"]].concat());
        let before = m.stats(&q)["enqueued_total"].as_u64().unwrap();
        wait_until(|| m.stats(&q)["enqueued_total"].as_u64().unwrap() > before + 60);
        link.signal(libc::SIGKILL);
        link.finish();
    }
    run(&m, &["--until-empty", &url, "q"]).succeeds();
    assert_each_once(&m, 1500);
    assert_eq!(m.stats(&q)["batches"], 0);
}

/// And to mqfs.
#[test]
fn a_killed_mount_doubles_and_loses_nothing() {
    let Some(kafka) = shared() else { return };
    let mut m = Mount::new();
    let q = m.queue_with("q", &["durability=sync"]);
    kafka.topic("mount-in", 1);
    kafka.publish("mount-in", 600);
    let url = kafka.url("mount-in");
    let link = start(&m, &[&SOON[..], &["-o", "batch=40", &url, "q"]].concat());
    wait_until(|| m.bodies(&q).len() > 80);
    m.kill9();
    wait_until(|| state(&m) == "holding");
    m.start();
    wait_until(|| m.bodies(&q).len() >= 600);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert_each_once(&m, 600);
}

/// `--show` and `--check` leave everything where it is, and the place in the group to the link that has it.
#[test]
fn looking_changes_nothing() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = m.queue("q");
    kafka.topic("looking-in", 1);
    kafka.publish("looking-in", 3);
    let url = kafka.url("looking-in?group=looking-in");
    let text = run(&m, &["--check", &url, "q"]).ok().to_owned();
    for told in [
        "exactly once into this queue",
        "has 1 partition, on 1 machine each",
        "gone after 7d",
        "replication factor is 1",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let shown = run(&m, &["--show", "2", &url, "q"]).ok().to_owned();
    assert_eq!(shown.lines().count(), 2);
    assert!(shown.contains(r#""body":"m0""#) && shown.contains(r#""user.link.offset":"1""#), "{shown}");
    assert_eq!((m.bodies(&q).len(), kafka.lag("looking-in", "looking-in")), (0, 3));
    assert_eq!(xattr(&q, &format!("user.mark.link-{}", named(kafka, "q-from", "looking-in"))), None);
    let link = start(&m, &["-o", "name=looks", &url, "q"]);
    wait_until(|| m.bodies(&q).len() == 3);
    run(&m, &["--show", "2", "-o", "name=looks", &url, "q"]).ok();
    kafka.python("put('looking-in', [dict(value='m3')])");
    wait_until(|| m.bodies(&q).len() == 4);
    link.signal(libc::SIGTERM);
    let ran = link.finish();
    assert!(ran.status.success() && ran.stderr.is_empty(), "{ran:?}");
}

/// A topic that goes away is told.
#[test]
fn a_topic_that_goes_away_is_told() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    m.queue("q");
    kafka.topic("goes-in", 1);
    kafka.publish("goes-in", 1);
    let link = start(&m, &[&SOON[..], &["-o", "name=goes", &kafka.url("goes-in"), "q"]].concat());
    wait_until(|| m.bodies("q") == ["m0"]);
    kafka.python("drop('goes-in')");
    wait_until(|| state(&m) == "failing");
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
}
