//! `mqfs link` from RabbitMQ: what the broker is told is done is in the queue, and once.

use std::fs;

use crate::common::*;
use crate::extra::*;
use crate::linking::{Given, SOON, assert_each_once, attributes, run, start, state, status};
use crate::rabbit::{publish, shared};

/// "A message that went mqfs -> broker -> mqfs has the same body, name, headers, priority, correlation id, content type, group."
#[test]
fn what_went_out_and_came_in_is_the_same() {
    let (m, rabbit) = (Mount::new(), shared());
    let (out, into) = (m.queue("out"), m.queue("into"));
    let binary: Vec<u8> = (0..=255).cycle().take(50_000).collect();
    let all: [Given; 3] = [
        (
            "größe 1.csv",
            &binary,
            &[
                ("user.mq.content_type", b"text/csv"),
                ("user.mq.correlation_id", b"c-1"),
                ("user.mq.reply_to", b"answers"),
                ("user.mq.priority", b"7"),
                ("user.mq.group", b"g"),
                ("user.colour", "röt".as_bytes()),
                ("user.binary", b"\xff\x00"),
                ("user.empty", b""),
            ],
        ),
        ("empty", b"", &[]),
        ("long", b"x", &[("user.mq.correlation_id", &[b'c'; 300]), ("user.mq.content_type", b"\xff")]),
    ];
    for (name, body, attributes) in all {
        fs::write(out.join(".d"), body).unwrap();
        attributes.iter().for_each(|(name, value)| set_xattr(out.join(".d"), name, value).unwrap());
        fs::rename(out.join(".d"), out.join(name)).unwrap();
    }
    let before: Vec<_> = names(control(&out, "peek"))
        .iter()
        .map(|name| attributes(&control(&out, "peek").join(name), &["user.mq.ttl"]))
        .collect();
    rabbit.queue("there-and-back");
    run(&m, &["--until-empty", "out", &rabbit.url("?queue=there-and-back")]).ok();
    run(&m, &["--until-empty", &rabbit.url("?queue=there-and-back"), "into"]).ok();
    assert_eq!(producers(&into), ["größe 1.csv", "empty", "long"]);
    for ((name, body, _), before) in all.iter().zip(before) {
        let path = into.join(names(&into).into_iter().find(|full| full.to_str().unwrap().ends_with(name)).unwrap());
        let path = within(&into, "peek", &path);
        assert_eq!(fs::read(&path).unwrap(), *body, "{name}");
        let mut after = attributes(&path, &["user.mq.ttl"]);
        after.retain(|(name, _)| !name.starts_with("user.link."));
        assert_eq!(after, before, "{name}");
        assert_eq!(xattr(&path, "user.link.hops").unwrap(), "1");
        assert_eq!(xattr(&path, "user.link.key").unwrap(), "there-and-back");
    }
    assert_eq!(rabbit.waiting("there-and-back"), 0);
}

/// What others publish has no names and headers of every type.
#[test]
fn messages_of_others_are_taken_in() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue("q");
    rabbit.queue("others");
    rabbit.python(
        "ch.basic_publish('', 'others', b'\\xff1', P(headers={'n': -7, 't': True, 'l': [1, 'a'], 'd': {'x': 1}, 'none': None,\n\
         'mq.priority': 'odd', 'mq-name': 'a/b'}, priority=200, type='order', app_id='shop', expiration='60000'))\n\
         ch.basic_publish('', 'others', '2')",
    );
    run(&m, &["--until-empty", &rabbit.url("?queue=others"), "q"]).ok();
    assert_eq!(producers(&q), ["message", "message"]);
    let messages = m.messages(&q);
    assert_eq!((messages[0].1.as_slice(), messages[1].1.as_slice()), (&b"\xff1"[..], &b"2"[..]));
    let path = control(&q, "peek").join(&messages[0].0);
    for (name, value) in [
        ("user.n", "-7"),
        ("user.t", "true"),
        ("user.l", r#"[1,"a"]"#),
        ("user.d", r#"{"x":1}"#),
        ("user.none", ""),
        ("user.mq.priority", "9"),
        ("user.mq.ttl", "60000ms"),
        ("user.link.type", "order"),
        ("user.link.app_id", "shop"),
        ("user.link.headers", r#"{"mq-name":"a/b","mq.priority":"odd"}"#),
    ] {
        assert_eq!(xattr(&path, name).as_deref(), Some(value), "{name}");
    }
}

/// A queue that remembers identities itself is told them.
#[test]
fn a_queue_with_a_dedup_window_is_told_identities() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue_with("q", &["dedup_window=1h"]);
    fs::write(q.join(".mq/with/id=id-1/before"), "before").unwrap();
    rabbit.queue("window");
    publish(rabbit, "window", 3);
    run(&m, &["--until-empty", &rabbit.url("?queue=window"), "q"]).ok();
    assert_eq!(m.bodies(&q), ["before", "m0", "m2"]);
}

/// Order, in thousands; and what comes again under an identity that is known is not enqueued again.
#[test]
fn each_is_enqueued_once_and_in_order() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue_with("q", &["durability=async"]);
    rabbit.queue("once");
    publish(rabbit, "once", 1000);
    let url = rabbit.url("?queue=once");
    run(&m, &["--until-empty", "-o", "batch=64", &url, "q"]).ok();
    assert_eq!(m.bodies(&q), (0..1000).map(|i| format!("m{i}")).collect::<Vec<_>>());
    publish(rabbit, "once", 1001);
    run(&m, &["--until-empty", "-o", "batch=64", &url, "q"]).ok();
    assert_each_once(&m, 1001);
    assert_eq!((&status(&m)["duplicates"], rabbit.waiting("once")), (&1000.into(), 0));
    // Nothing of the kind is asked for; then all are taken in.
    publish(rabbit, "once", 10);
    run(&m, &["--until-empty", "-o", "dedup=none", &url, "q"]).ok();
    assert_eq!(m.bodies(&q).len(), 1011);
}

/// "dedup = header:X"
#[test]
fn a_header_may_be_the_identity() {
    let (m, rabbit) = (Mount::new(), shared());
    m.queue("q");
    rabbit.queue("header");
    rabbit.python("for i in [1, 2, 1, 3, 2]: ch.basic_publish('', 'header', f'm{i}', P(headers={'order': str(i)}))");
    run(&m, &["--until-empty", "-o", "dedup=header:order", &rabbit.url("?queue=header"), "q"]).ok();
    assert_eq!(m.bodies("q"), ["m1", "m2", "m3"]);
}

/// "EDQUOT, EAGAIN [...]: the batch stays": a full or paused queue is waited for, and nothing is acknowledged before.
#[test]
fn a_queue_that_takes_nothing_is_waited_for() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue_with("q", &["max_messages=5"]);
    rabbit.queue("full");
    publish(rabbit, "full", 8);
    let url = rabbit.url("?queue=full");
    let link = start(&m, &[&SOON[..], &["-o", "batch=4", &url, "q"]].concat());
    wait_until(|| state(&m) == "holding");
    // A batch is a part of what a queue holds: here it is one message.
    assert_eq!((m.bodies(&q).len(), &status(&m)["why"]), (5, &"the queue is full".into()));
    // Five are acknowledged, three are not.
    let unacked = "print(ch.queue_declare('full', passive=True).method.message_count)";
    assert_eq!(rabbit.python(unacked).trim(), "0");
    m.sh("rm q/*").ok();
    wait_until(|| m.bodies(&q).len() == 3 && state(&m) == "running");
    m.set(&q, "max_messages=0\npaused=in");
    publish(rabbit, "full", 9);
    wait_until(|| state(&m) == "holding");
    m.set(&q, "paused=no");
    wait_until(|| m.bodies(&q).len() == 4);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert_eq!(rabbit.waiting("full"), 0);
    assert_eq!(m.bodies(&q), ["m5", "m6", "m7", "m8"]);
}

/// "up to `hold`; then it removes the batch, closes": the broker has its messages back, and once only.
#[test]
fn after_a_while_the_broker_has_its_messages_back() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue_with("q", &["max_messages=4"]);
    rabbit.queue("hold");
    let link =
        start(&m, &[&SOON[..], &["-o", "batch=3", "-o", "hold=200ms", &rabbit.url("?queue=hold"), "q"]].concat());
    // It is not looked whether the queue is full once the link is connected.
    wait_until(|| state(&m) == "running");
    m.fill(&q, 4);
    publish(rabbit, "hold", 3);
    wait_until(|| state(&m) == "holding" && rabbit.waiting("hold") == 3);
    holds_for(std::time::Duration::from_millis(300), || rabbit.waiting("hold") == 3);
    assert_eq!((&status(&m)["reconnects"], &m.stats(&q)["batches"]), (&0.into(), &0.into()));
    m.set(&q, "max_messages=0");
    wait_until(|| m.bodies(&q).len() == 7);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert_eq!((rabbit.waiting("hold"), &m.stats(&q)["batches"]), (0, &0.into()));
}

/// "Poison: stop (nothing is dropped unless told), save:DIR, reject".
#[test]
fn what_does_not_fit_is_left_saved_or_rejected() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue_with("q", &["max_message_bytes=10"]);
    rabbit.python(
        "ch.queue_declare('poison-dead', durable=True)\n\
         ch.queue_declare('poison', durable=True, arguments={'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'poison-dead'})\n\
         for b in ['1', 'much too large', '2']: ch.basic_publish('', 'poison', b, P(message_id=b, headers={'colour': 'red'}))",
    );
    let url = rabbit.url("?queue=poison");
    let ran = run(&m, &["--until-empty", &url, "q"]);
    assert_eq!(ran.code(), Some(16), "{ran:?}");
    ran.fails("stays with the broker");
    assert_eq!((m.bodies(&q), rabbit.waiting("poison")), (vec!["1".to_owned()], 2));
    let saved = m.scratch().join("saved");
    fs::create_dir(&saved).unwrap();
    let ran = run(&m, &["--until-empty", "-o", &format!("poison=save:{}", saved.display()), &url, "q"]);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    assert_eq!((m.bodies(&q), rabbit.waiting("poison")), (vec!["1".to_owned(), "2".to_owned()], 0));
    let files = listing(&saved);
    let read =
        |end: &str| fs::read_to_string(saved.join(files.iter().find(|name| name.ends_with(end)).unwrap())).unwrap();
    assert_eq!((files.len(), read(".body").as_str()), (2, "much too large"));
    assert!(
        files.iter().all(|name| crate::users::mode(saved.join(name)) == 0o600),
        "who may not read the queue reads neither"
    );
    let told: serde_json::Value = serde_json::from_str(&read(".json")).unwrap();
    assert_eq!((&told["header.colour"], &told["id"]), (&"red".into(), &"much too large".into()));
    rabbit.python("for b in ['again too large', '3']: ch.basic_publish('', 'poison', b)");
    run(&m, &["--until-empty", "-o", "poison=reject", &url, "q"]).succeeds();
    assert_eq!((m.bodies(&q).len(), rabbit.waiting("poison")), (3, 0));
    assert_eq!(rabbit.drain("poison-dead").len(), 1);
}

/// "over 16 is poison: two links in a ring".
#[test]
fn a_ring_is_noticed() {
    let (m, rabbit) = (Mount::new(), shared());
    m.queue("q");
    rabbit.queue("ring");
    rabbit.python("ch.basic_publish('', 'ring', 'x', P(headers={'mq-hops': '17'}))");
    run(&m, &["--until-empty", &rabbit.url("?queue=ring"), "q"]).fails("ring");
    assert_eq!(rabbit.waiting("ring"), 1);
}

/// Whatever happens to the link, what has an identity is in the queue once.
#[test]
fn a_killed_link_doubles_and_loses_nothing() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue_with("q", &["durability=async"]);
    rabbit.queue("killed-in");
    publish(rabbit, "killed-in", 1500);
    let url = rabbit.url("?queue=killed-in");
    for _ in 0..5 {
        let link = start(&m, &["-o", "batch=40", "-o", "linger=5ms", &url, "q"]);
        let before = m.stats(&q)["enqueued_total"].as_u64().unwrap();
        wait_until(|| m.stats(&q)["enqueued_total"].as_u64().unwrap() > before + 60);
        link.signal(libc::SIGKILL);
        link.finish();
    }
    run(&m, &["--until-empty", &url, "q"]).succeeds();
    assert_each_once(&m, 1500);
    assert_eq!((rabbit.waiting("killed-in"), &m.stats(&q)["batches"]), (0, &0.into()));
}

/// And to mqfs.
#[test]
fn a_killed_mount_doubles_and_loses_nothing() {
    let (mut m, rabbit) = (Mount::new(), shared());
    let q = m.queue_with("q", &["durability=sync"]);
    rabbit.queue("mount-in");
    publish(rabbit, "mount-in", 600);
    let url = rabbit.url("?queue=mount-in");
    let link = start(&m, &[&SOON[..], &["-o", "batch=40", &url, "q"]].concat());
    wait_until(|| m.bodies(&q).len() > 80);
    m.kill9();
    wait_until(|| state(&m) == "holding");
    m.start();
    wait_until(|| m.bodies(&q).len() >= 600 && rabbit.waiting("mount-in") == 0);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert_each_once(&m, 600);
}

/// "ESTALE [...] when the queue's mark is another": somebody has moved it, so the link begins anew from there.
#[test]
fn a_mark_that_was_moved_is_heeded() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue("q");
    rabbit.queue("moved");
    publish(rabbit, "moved", 2);
    let url = rabbit.url("?queue=moved");
    let link = start(&m, &[&SOON[..], &["-o", "name=moved", &url, "q"]].concat());
    wait_until(|| m.bodies(&q).len() == 2);
    set_xattr(&q, "user.mark.link-moved", b"").unwrap();
    rabbit.python("ch.basic_publish('', 'moved', 'm2', P(message_id='id-2'))");
    wait_until(|| m.bodies(&q).len() == 3);
    // By the mark, these were never there.
    publish(rabbit, "moved", 2);
    wait_until(|| m.bodies(&q).len() == 5);
    link.signal(libc::SIGTERM);
    let ran = link.finish();
    assert!(ran.status.success() && ran.stderr.contains("was moved by somebody else"), "{ran:?}");
    assert_eq!(m.bodies(&q), ["m0", "m1", "m2", "m0", "m1"]);
}

/// A queue of the broker's that goes away is told; one that is made is consumed from.
#[test]
fn a_queue_that_goes_away_is_told() {
    let (m, rabbit) = (Mount::new(), shared());
    m.queue("q");
    let url = rabbit.url("?queue=goes&declare=quorum&exchange=amq.topic&key=goes.%23");
    run(&m, &["--until-empty", "-o", "name=goes", &url, "q"]).ok();
    rabbit.python("ch.basic_publish('amq.topic', 'goes.on', 'x', P(delivery_mode=2))");
    let link = start(&m, &[&SOON[..], &["-o", "name=goes", &rabbit.url("?queue=goes"), "q"]].concat());
    wait_until(|| m.bodies("q") == ["x"]);
    rabbit.python("ch.queue_delete('goes')");
    wait_until(|| state(&m) == "failing");
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
}

/// `--show` and `--check` leave everything where it is.
#[test]
fn looking_changes_nothing() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue("q");
    rabbit.queue("looking-in");
    publish(rabbit, "looking-in", 3);
    let url = rabbit.url("?queue=looking-in");
    let text = run(&m, &["--check", &url, "q"]).ok().to_owned();
    assert!(text.contains("exactly once for messages with a message-id"), "{text}");
    let text = run(&m, &["--check", "-o", "poison=reject", &url, "q"]).ok().to_owned();
    assert!(text.contains("WARNING: in: a message that does not fit is rejected"), "{text}");
    let shown = run(&m, &["--show", "2", &url, "q"]).ok().to_owned();
    assert_eq!(shown.lines().count(), 2);
    assert!(shown.contains(r#""body":"m0""#) && shown.contains(r#""user.link.id":"id-0""#), "{shown}");
    wait_until(|| rabbit.waiting("looking-in") == 3);
    assert_eq!(m.bodies(&q).len(), 0);
}
