//! `mqfs link` from ActiveMQ Classic and Artemis, by STOMP: what the broker is told is done is in the queue, and once.

use std::fs;
use std::path::Path;

use crate::activemq::{Broker, Kind, artemis, classic};
use crate::common::*;
use crate::extra::*;
use crate::linking::{Given, SOON, assert_each_once, attributes, run, start, state, status};

macro_rules! with_both {
    ($($name:ident),* $(,)?) => {
        mod on_classic {
            $(#[test] fn $name() { super::$name(super::classic()); })*
        }
        mod on_artemis {
            $(#[test] fn $name() { if let Some(broker) = super::artemis() { super::$name(broker); } })*
        }
    };
}

with_both!(
    what_went_out_and_came_in_is_the_same,
    messages_of_others_are_taken_in,
    each_is_enqueued_once_and_in_order,
    a_subscription_gets_what_came_meanwhile,
    what_does_not_fit_is_left_saved_or_rejected,
    a_queue_that_is_full_is_waited_for,
    a_killed_link_doubles_and_loses_nothing,
    looking_changes_nothing,
);

/// From the queue of that name, as anna, to `q`.
fn arguments(broker: &Broker, options: &[&str], queue: &str) -> Vec<String> {
    let mut all = vec!["-o".to_owned(), broker.secret("anna")];
    all.extend(options.iter().map(|option| (*option).to_owned()));
    all.extend([broker.url(&format!("?queue={queue}")), "q".to_owned()]);
    all
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// The same, as the queue tells the attributes.
pub type Before = (String, Vec<u8>, Vec<(String, Vec<u8>)>);

/// Enqueues messages with everything that can be hard about them, and tells their attributes.
pub fn enqueue_all(q: &Path) -> Vec<Before> {
    let binary: Vec<u8> = (0..=255).cycle().take(50_000).collect();
    let all: [Given; 4] = [
        (
            "größe 1.csv",
            &binary,
            &[
                ("user.mq.content_type", b"text/csv"),
                ("user.mq.correlation_id", b"c:1"),
                ("user.mq.reply_to", b"answers"),
                ("user.mq.priority", b"7"),
                ("user.mq.group", b"g"),
                ("user.colour", "röt: \\n\\".as_bytes()),
                ("user.binary", b"\xff\x00"),
                ("user.lines", b"a\nb\r\nc\t"),
                ("user.spaces", b" x "),
                ("user.empty", b""),
                ("user.a:b", b"colon"),
                ("user.destination", b"mine"),
                ("user.JMSType", b"mine"),
                ("user.mq-id", b"mine"),
            ],
        ),
        ("empty", b"", &[]),
        ("usual", b"x", &[("user.mq.priority", b"4"), ("user.mq.reply_to", b"/queue/answers")]),
        (
            "long",
            b"x",
            &[
                ("user.mq.correlation_id", &[b'c'; 300]),
                ("user.mq.content_type", b"\xff"),
                ("user.mq.reply_to", b"/temp-queue/x"),
            ],
        ),
    ];
    for (name, body, attributes) in all {
        fs::write(q.join(".d"), body).unwrap();
        attributes.iter().for_each(|(name, value)| set_xattr(q.join(".d"), name, value).unwrap());
        fs::rename(q.join(".d"), q.join(name)).unwrap();
    }
    let of = |name: &str| sent(&within(q, "peek", &named(q, name)));
    all.iter().map(|(name, body, _)| ((*name).to_owned(), body.to_vec(), of(name))).collect()
}

/// The attributes of a message but for those that say where it came from.
fn sent(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = attributes(path, &[]);
    all.retain(|(name, _)| !name.starts_with("user.link."));
    all
}

/// The message with this name.
fn named(q: &Path, name: &str) -> std::path::PathBuf {
    q.join(names(q).into_iter().find(|full| full.to_str().unwrap().ends_with(&format!("-{name}"))).unwrap())
}

/// What came is what [`enqueue_all`] has told.
#[track_caller]
pub fn assert_all(q: &Path, before: &[Before]) {
    for (name, body, attributes) in before {
        let path = within(q, "peek", &named(q, name));
        assert_eq!(fs::read(&path).unwrap(), *body, "{name}");
        assert_eq!(sent(&path), *attributes, "{name}");
        assert_eq!(xattr(&path, "user.link.hops").unwrap(), "1");
    }
    assert_eq!(names(q).len(), before.len());
}

/// "A message that went mqfs -> broker -> mqfs on another mount has the same body, name, headers, priority, correlation id, content
/// type, group."
fn what_went_out_and_came_in_is_the_same(broker: &Broker) {
    let (here, there) = (Mount::new(), Mount::new());
    let (out, into) = (here.queue("out"), there.queue("q"));
    let before = enqueue_all(&out);
    let (anna, url) = (broker.secret("anna"), broker.url("?queue=there-and-back"));
    run(&here, &["--until-empty", "-o", &anna, "out", &url]).ok();
    run(&there, &words(&arguments(broker, &["--until-empty"], "there-and-back"))).ok();
    assert_all(&into, &before);
    let path = within(&into, "peek", &named(&into, "empty"));
    assert!(xattr(&path, "user.link.destination").unwrap().ends_with("there-and-back"));
    assert_eq!(broker.drain("there-and-back").len(), 0);
}

/// What others publish has no names, and what JMS puts there.
fn messages_of_others_are_taken_in(broker: &Broker) {
    let m = Mount::new();
    let q = m.queue("q");
    broker.python(
        "send('others', ['1'], type='order', priority='2', expires=str(int(time.time() * 1000) + 60000), JMSXGroupID='g',\n\
         **{'correlation-id': 'c', 'mq.priority': 'odd', 'mq-name': 'a/b', 'x y': 'z'})\nsend('others', ['2'])",
    );
    run(&m, &words(&arguments(broker, &["--until-empty"], "others"))).ok();
    assert_eq!(producers(&q), ["message", "message"]);
    let messages = m.messages(&q);
    // Artemis sends what has a higher priority first.
    let with = |body: &[u8]| messages.iter().find(|(_, other)| other.as_slice() == body).map(|(name, _)| name).unwrap();
    let path = control(&q, "peek").join(with(b"1"));
    let group = if broker.kind == Kind::Artemis { Some("g") } else { None };
    for (name, value) in [
        ("user.mq.priority", Some("2")),
        ("user.mq.correlation_id", Some("c")),
        ("user.mq.group", group),
        ("user.link.type", Some("order")),
        ("user.x y", Some("z")),
        ("user.link.headers", Some(r#"{"mq-name":"a/b","mq.priority":"odd"}"#)),
        ("user.receipt", None),
        ("user.destination-type", None),
        ("user.transaction", None),
    ] {
        assert_eq!(xattr(&path, name).as_deref(), value, "{name}");
    }
    assert!(xattr(&path, "user.mq.ttl").is_some() && xattr(&path, "user.link.timestamp").is_some());
    assert_eq!(xattr(control(&q, "peek").join(with(b"2")), "user.mq.priority"), None);
}

/// Order, in thousands, acknowledged in batches; and what comes again under an identity that is known is not enqueued again.
fn each_is_enqueued_once_and_in_order(broker: &Broker) {
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    let ids = "**{'mq-id': 'id-%'}";
    broker.publish("once", 1000, ids);
    let linked = arguments(broker, &["--until-empty", "-o", "batch=64"], "once");
    run(&m, &words(&linked)).ok();
    assert_eq!(m.bodies(&q), (0..1000).map(|i| format!("m{i}")).collect::<Vec<_>>());
    broker.publish("once", 1001, ids);
    run(&m, &words(&linked)).ok();
    assert_each_once(&m, 1001);
    assert_eq!((&status(&m)["duplicates"], broker.drain("once").len()), (&1000.into(), 0));
    // Nothing of the kind is asked for; then all are taken in.
    broker.publish("once", 10, ids);
    run(&m, &words(&arguments(broker, &["--until-empty", "-o", "dedup=none"], "once"))).ok();
    assert_eq!(m.bodies(&q).len(), 1011);
    // What nobody has named is told apart by what the broker calls it.
    broker.publish("once", 5, "");
    run(&m, &words(&linked)).ok();
    assert_eq!(m.bodies(&q).len(), 1016);
}

/// "queues and durable topics": what is sent while the link is away waits for it.
fn a_subscription_gets_what_came_meanwhile(broker: &Broker) {
    let m = Mount::new();
    let (q, out) = (m.queue("q"), m.queue("out"));
    let (anna, url) = (broker.secret("anna"), broker.url("?topic=news&subscription=mqfs"));
    let linked = ["--until-empty", "-o", &anna, "-o", "name=news", &url, "q"];
    run(&m, &["--until-empty", "-o", &anna, &broker.url("?topic=news"), "q"]).fails("&subscription=");
    run(&m, &linked).ok();
    broker.python("send('news', ['m0', 'm1'], topic=True)");
    fs::write(out.join("m2"), "m2").unwrap();
    run(&m, &["--until-empty", "-o", &anna, "out", &broker.url("?topic=news")]).ok();
    run(&m, &linked).ok();
    assert_eq!(m.bodies(&q), ["m0", "m1", "m2"]);
    run(&m, &linked).ok();
    assert_eq!(m.bodies(&q).len(), 3);
    assert!(
        run(&m, &["--check", "-o", &anna, &url, "q"]).ok().contains("topic news, subscription mqfs of client mqfs")
    );
}

/// "Poison: stop (nothing is dropped unless told), save:DIR, reject": what came before it is not rejected with it.
fn what_does_not_fit_is_left_saved_or_rejected(broker: &Broker) {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_message_bytes=10"]);
    broker.python("send('poison', ['1', 'much too large', '2'], colour='red')");
    let ran = run(&m, &words(&arguments(broker, &["--until-empty"], "poison")));
    assert_eq!(ran.code(), Some(16), "{ran:?}");
    ran.fails("stays with the broker");
    assert_eq!(m.bodies(&q), ["1"]);
    let saved = m.scratch().join("saved");
    fs::create_dir(&saved).unwrap();
    let poison = format!("poison=save:{}", saved.display());
    run(&m, &words(&arguments(broker, &["--until-empty", "-o", &poison], "poison"))).succeeds();
    assert_eq!((m.bodies(&q), broker.bodies("poison").len()), (vec!["1".to_owned(), "2".to_owned()], 0));
    let files = listing(&saved);
    let read =
        |end: &str| fs::read_to_string(saved.join(files.iter().find(|name| name.ends_with(end)).unwrap())).unwrap();
    assert_eq!((files.len(), read(".body").as_str()), (2, "much too large"));
    let told: serde_json::Value = serde_json::from_str(&read(".json")).unwrap();
    assert_eq!(told["header.colour"], "red");
    broker.python("send('poison', ['3', '4', 'again too large', '5'])");
    run(&m, &words(&arguments(broker, &["--until-empty", "-o", "poison=reject"], "poison"))).succeeds();
    assert_eq!(
        (m.bodies(&q), broker.bodies("poison").len()),
        (["1", "2", "3", "4", "5"].map(str::to_owned).to_vec(), 0)
    );
    if broker.kind == Kind::Classic {
        assert_eq!(broker.bodies("ActiveMQ.DLQ"), ["again too large"]);
    }
    what_is_larger_than_is_kept_in_memory(broker, &m);
}

/// The same of a message that is larger than `largest`: it comes in pieces, and the next one is not disturbed.
fn what_is_larger_than_is_kept_in_memory(broker: &Broker, m: &Mount) {
    let q = m.queue("large");
    let run = |options: &[&str]| {
        let (anna, url) = (broker.secret("anna"), broker.url("?queue=large"));
        run(m, &[&["--until-empty", "-o", "largest=64K", "-o", &anna], options, &[&url, "large"]].concat())
    };
    broker.python("send('large', ['1', 'x' * 300000, '2'], colour='red')");
    let ran = run(&[]);
    assert_eq!(ran.code(), Some(16), "{ran:?}");
    ran.fails("300000 bytes: more than `largest`").fails("stays with the broker");
    assert_eq!(m.bodies(&q), ["1"]);
    let saved = m.scratch().join("large");
    fs::create_dir(&saved).unwrap();
    run(&["-o", &format!("poison=save:{}", saved.display())]).succeeds();
    assert_eq!(m.bodies(&q), ["1", "2"]);
    let files = listing(&saved);
    assert_eq!(files.len(), 2, "{files:?}");
    let read =
        |end: &str| fs::read_to_string(saved.join(files.iter().find(|name| name.ends_with(end)).unwrap())).unwrap();
    assert!(read(".body") == "x".repeat(300_000) && read(".json").contains(r#""header.colour":"red""#));
    broker.python("send('large', ['y' * 300000, '3'])");
    run(&["-o", "poison=reject"]).succeeds();
    assert_eq!((m.bodies(&q).len(), broker.bodies("large").len()), (3, 0));
    if broker.kind == Kind::Classic {
        assert_eq!(broker.python("print(*(len(b) for _, b in take('ActiveMQ.DLQ')))"), "300000\n");
    }
}

/// "EDQUOT [...]: the batch stays": nothing is acknowledged before there is room, and nothing comes twice.
fn a_queue_that_is_full_is_waited_for(broker: &Broker) {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_messages=5"]);
    broker.publish("full", 8, "");
    let link =
        start(&m, &words(&arguments(broker, &[&SOON[..], &["-o", "batch=4", "-o", "linger=1h"]].concat(), "full")));
    wait_until(|| state(&m) == "holding");
    assert_eq!((m.bodies(&q).len(), &status(&m)["why"]), (5, &"the queue is full".into()));
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    m.set(&q, "max_messages=0");
    run(&m, &words(&arguments(broker, &["--until-empty"], "full"))).succeeds();
    assert_each_once(&m, 8);
}

/// Whatever happens to the link, each message is in the queue once: by what the broker calls it, as nobody else has named it.
fn a_killed_link_doubles_and_loses_nothing(broker: &Broker) {
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    broker.publish("killed-in", 1500, "");
    for _ in 0..5 {
        let link = start(&m, &words(&arguments(broker, &["-o", "batch=40", "-o", "linger=5ms"], "killed-in")));
        let before = m.stats(&q)["enqueued_total"].as_u64().unwrap();
        wait_until(|| m.stats(&q)["enqueued_total"].as_u64().unwrap() > before + 60);
        link.signal(libc::SIGKILL);
        link.finish();
    }
    // STOMP cannot ask whether there is more: what a broker gives back late, of a link that was killed (Artemis took over ten seconds),
    // comes to the next one.
    wait_until(|| {
        run(&m, &words(&arguments(broker, &["--until-empty"], "killed-in"))).succeeds();
        m.stats(&q)["ready"].as_u64().unwrap() >= 1500
    });
    assert_each_once(&m, 1500);
    assert_eq!((broker.drain("killed-in").len(), &m.stats(&q)["batches"]), (0, &0.into()));
}

/// `--show` and `--check` leave everything where it is.
fn looking_changes_nothing(broker: &Broker) {
    let m = Mount::new();
    let q = m.queue("q");
    broker.publish("looking-in", 3, "");
    let text = run(&m, &words(&arguments(broker, &["--check"], "looking-in"))).ok().to_owned();
    assert!(text.contains("in: exactly once, as long as the broker does not forget"), "{text}");
    let shown = run(&m, &words(&arguments(broker, &["--show", "2"], "looking-in"))).ok().to_owned();
    assert_eq!(shown.lines().count(), 2);
    assert!(shown.contains(r#""body":"m0""#) && shown.contains("user.link.id"), "{shown}");
    assert_eq!((m.bodies(&q).len(), broker.bodies("looking-in").len()), (0, 3));
}
