//! `mqfs link` to ActiveMQ Classic and Artemis, by STOMP: what is acknowledged here is there, and what is refused is not lost.

use std::collections::BTreeSet;
use std::fs;

use crate::activemq::{Broker, Kind, artemis, classic};
use crate::common::*;
use crate::extra::*;
use crate::linking::{SOON, is_empty, many, run, start, status};

/// Each of these with a Classic and an Artemis.
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
    properties_arrive_where_jms_has_them,
    order_is_kept,
    what_the_broker_will_not_is_told,
    a_full_destination_is_waited_for,
    looking_changes_nothing,
    tls_verifies,
    text_is_text_for_jms,
    a_killed_link_loses_nothing,
    with_strict_order_each_waits_for_the_one_before,
    a_signal_drains,
);

/// To the queue of that name, as anna.
fn arguments(broker: &Broker, options: &[&str], queue: &str) -> Vec<String> {
    let mut all = vec!["-o".to_owned(), broker.secret("anna")];
    all.extend(options.iter().map(|option| (*option).to_owned()));
    all.extend(["q".to_owned(), broker.url(&format!("?queue={queue}"))]);
    all
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// "all properties there": each in the place that JMS has for it, as another client sees it.
fn properties_arrive_where_jms_has_them(broker: &Broker) {
    let m = Mount::new();
    let q = m.queue("q");
    fs::write(q.join(".d"), b"a;b\n\0").unwrap();
    for (attribute, value) in [
        ("user.mq.content_type", &b"text/csv"[..]),
        ("user.mq.correlation_id", b"c:1"),
        ("user.mq.reply_to", b"answers"),
        ("user.mq.priority", b"7"),
        ("user.mq.group", b"g"),
        ("user.mq.dedup_id", b"order-7"),
        ("user.mq.ttl", b"1h"),
        ("user.colour", "röt".as_bytes()),
        ("user.binary", b"\xff\x00"),
        ("user.link.key", b"not sent on"),
    ] {
        set_xattr(q.join(".d"), attribute, value).unwrap();
    }
    fs::rename(q.join(".d"), q.join("größe.csv")).unwrap();
    fs::write(q.join("empty"), "").unwrap();
    run(&m, &words(&arguments(broker, &["--until-empty"], "properties"))).ok();
    assert!(is_empty(&m, &q));
    let seen = broker.python(
        "(h, b), (e, _) = take('properties')\n\
         print(b, h['content-type'], h['correlation-id'], h['reply-to'], h['priority'], h['mq-id'], h['persistent'], h['colour'], h['mq-name'])\n\
         print(h.get('_AMQ_DUPL_ID'), h.get('_AMQ_GROUP_ID'), h['group'], h['mq-headers'], 'link.key' in h)\n\
         print(0 < int(h['expires']) - time.time() * 1000 <= 3600000, e['priority'], e['expires'], len(e['mq-id']), e['mq-name'])",
    );
    let (id, group) = if broker.kind == Kind::Artemis { ("order-7", "g") } else { ("None", "None") };
    let expected = format!(
        "b'a;b\\n\\x00' text/csv c:1 answers 7 order-7 true röt größe.csv\n\
         {id} {group} g {{\"user.binary\":{{\"base64\":\"/wA=\"}}}} False\nTrue 4 0 33 empty\n"
    );
    assert_eq!(seen, expected);
    assert_eq!(status(&m)["messages"], 2);
}

/// Thousands in the order of the queue, each once, in transactions of which some are not full.
fn order_is_kept(broker: &Broker) {
    let m = Mount::new();
    let q = many(&m, 1000);
    // "Several hosts in a URL": the first one that lets it in.
    let url = broker.url("?queue=order").replace("://", "://127.0.0.1:1,");
    run(&m, &["--until-empty", "-o", &broker.secret("anna"), "-o", "window=230", "q", &url]).ok();
    assert_eq!(broker.bodies("order"), (0..1000).map(|i| format!("m{i}")).collect::<Vec<_>>());
    assert!(is_empty(&m, &q) && m.stats(&q)["dead"] == 0);
}

/// "login refused, not authorized: fault of the link": told, in the status, and exit code 16 for cron; nothing is lost or counted.
fn what_the_broker_will_not_is_told(broker: &Broker) {
    let m = Mount::new();
    let q = many(&m, 3);
    let wrong = m.scratch().join("wrong");
    fs::write(&wrong, "user = anna\npassword = secret\n").unwrap();
    fs::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (wrong, url) = (format!("secret={}", wrong.display()), broker.url("?queue=refused"));
    for how in ["--until-empty", "--check"] {
        let ran = run(&m, &[how, "-o", &wrong, "q", &url]);
        assert_eq!(ran.code(), Some(16), "{ran:?}");
        assert!(!ran.stderr.contains("password = secret") && m.stats(&q)["claims_total"] == 0, "{ran:?}");
    }
    run(&m, &["--until-empty", "q", &url.replace("://", "://carl@")]).fails("no password of carl");
    let bob = broker.secret("bob");
    let ran = run(&m, &["--until-empty", "-o", &bob, "q", &url]);
    assert_eq!((ran.code(), &m.stats(&q)["ready"]), (Some(16), &3.into()), "{ran:?}");
    let link = start(&m, &[&SOON[..], &["-o", &bob, "q", &url]].concat());
    // It is connected again and again, and refused each time.
    wait_until(|| {
        let why = status(&m)["why"].as_str().unwrap().to_owned();
        why.contains("not authorized") || why.contains("no permission")
    });
    wait_until(|| status(&m)["reconnects"].as_u64().unwrap() >= 2);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    let stats = m.stats(&q);
    assert_eq!((&stats["ready"], &stats["dead"], &stats["delayed"]), (&3.into(), &0.into(), &0.into()));
    assert_eq!(deliveries(&q, &q.join(&names(&q)[0])), 0);
    run(&m, &words(&arguments(broker, &["--until-empty"], "refused"))).succeeds();
    assert_eq!(broker.bodies("refused"), ["m0", "m1", "m2"]);
}

/// "credit or blocked: later": nothing is counted against a message, and it is there when there is room.
fn a_full_destination_is_waited_for(broker: &Broker) {
    let m = Mount::new();
    let q = m.queue("q");
    for i in 0..12 {
        fs::write(q.join(format!("m{i}")), format!("m{i} {}", "x".repeat(5000))).unwrap();
    }
    let link = start(&m, &words(&arguments(broker, &[&SOON[..], &["-o", "window=3"]].concat(), "small")));
    wait_until(|| {
        let why = status(&m)["why"].as_str().unwrap().to_lowercase();
        why.contains("no room") || why.contains("limit reached")
    });
    let mut bodies = BTreeSet::new();
    // A last message has no room either.
    wait_until(|| {
        let taken = broker.python(
            "import select\nwhere = {key.replace('destination-type', 'subscription-type'): value for key, value in to('small').items()}\n\
             came = client.ask('SUBSCRIBE', {**where, 'id': '1', 'ack': 'client'})\n\
             while came or select.select([client.socket], [], [], 0.5)[0]:\n    _, h, b = came.pop(0) if came else client.read()\n    \
             print(b.split()[0].decode())\n    came += client.ask('ACK', {'id': h['ack']})",
        );
        bodies.extend(taken.lines().map(str::to_owned));
        bodies.len() == 12 && is_empty(&m, &q)
    });
    assert_eq!(m.stats(&q)["dead"], 0);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
}

/// `--check` says what is promised and sends nothing.
fn looking_changes_nothing(broker: &Broker) {
    let m = Mount::new();
    let q = many(&m, 3);
    let text = run(&m, &words(&arguments(broker, &["--check"], "looking"))).ok().to_owned();
    for told in ["out: to queue looking", "at least once", "not encrypted", "its name is a mistake"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let shown = run(&m, &words(&arguments(broker, &["--show", "2"], "looking"))).ok().to_owned();
    assert_eq!(shown.lines().count(), 2);
    assert_eq!((&m.stats(&q)["claims_total"], broker.drain("looking").len()), (&0.into(), 0));
}

/// TLS verifies: a certificate that nobody trusts is refused.
fn tls_verifies(broker: &Broker) {
    let m = Mount::new();
    let q = many(&m, 1);
    let (url, anna) = (broker.tls_url("?queue=tls"), broker.secret("anna"));
    let ran = run(&m, &["--until-empty", "-o", &anna, "q", &url]);
    assert_eq!((ran.code(), &m.stats(&q)["claims_total"]), (Some(16), &0.into()), "{ran:?}");
    ran.fails("certificate");
    let ca = format!("tls_ca={}", broker.ca().display());
    assert!(run(&m, &["--check", "-o", &anna, "-o", &ca, "q", &url]).ok().contains("its certificate is verified"));
    run(&m, &["--until-empty", "-o", &anna, "-o", &ca, "q", &url]).ok();
    assert_eq!(broker.bodies("tls"), ["m0"]);
}

/// "`content-length` (JMS bytes), left out with `jms=text`": what is text is a text for JMS, and what is not is bytes all the same.
fn text_is_text_for_jms(broker: &Broker) {
    let m = Mount::new();
    let q = m.queue("q");
    fs::write(q.join("text"), "größe").unwrap();
    fs::write(q.join("bytes"), b"\xff\0").unwrap();
    run(&m, &words(&arguments(broker, &["--until-empty"], "jms&jms=text"))).ok();
    // Artemis says the length of a text, too.
    let text = if broker.kind == Kind::Artemis { "True" } else { "False" };
    let seen = broker.python("for h, b in take('jms'): print(b, 'content-length' in h)");
    assert_eq!(seen, format!("b'gr\\xc3\\xb6\\xc3\\x9fe' {text}\nb'\\xff\\x00' True\n"));
}

/// "a crash of the link: up to a window twice, always with the same id"; Artemis drops the second, though a transaction with one that
/// it knows fails as a whole.
fn a_killed_link_loses_nothing(broker: &Broker) {
    let m = Mount::new();
    let q = many(&m, 1500);
    let (window, mut kills) = (50, 0);
    while kills < 5 {
        let link = start(&m, &words(&arguments(broker, &["-o", &format!("window={window}")], "killed")));
        let before = m.stats(&q)["acked_total"].as_u64().unwrap();
        wait_until(|| m.stats(&q)["acked_total"].as_u64().unwrap() > before + 60);
        link.signal(libc::SIGKILL);
        link.finish();
        kills += 1;
    }
    run(&m, &words(&arguments(broker, &["--until-empty"], "killed"))).succeeds();
    assert!(is_empty(&m, &q) && m.stats(&q)["dead"] == 0, "{}", m.stats(&q));
    assert_each_there(broker, "killed", 1500, window * kills);
}

/// Each is there, under one identity; not more than so many twice, on Artemis none.
pub fn assert_each_there(broker: &Broker, queue: &str, count: usize, twice: usize) {
    let there = broker.drain(queue);
    let bodies: BTreeSet<&String> = there.iter().map(|(_, body)| body).collect();
    let ids: BTreeSet<&String> = there.iter().map(|(id, _)| id).collect();
    assert_eq!((bodies.len(), ids.len()), (count, count), "each is there, under one identity");
    let twice = if broker.kind == Kind::Artemis { 0 } else { twice };
    assert!(there.len() <= count + twice, "{} doubles", there.len() - count);
}

/// "strict: window 1".
fn with_strict_order_each_waits_for_the_one_before(broker: &Broker) {
    let m = Mount::new();
    let q = many(&m, 20);
    run(&m, &words(&arguments(broker, &["--until-empty", "-o", "order=strict"], "strict"))).ok();
    assert_eq!(broker.bodies("strict"), (0..20).map(|i| format!("m{i}")).collect::<Vec<_>>());
    assert!(is_empty(&m, &q));
}

/// "SIGTERM: no more claims, [...] clean close".
fn a_signal_drains(broker: &Broker) {
    let m = Mount::new();
    let q = many(&m, 2000);
    let link = start(&m, &words(&arguments(broker, &["-o", "window=16"], "drains")));
    wait_until(|| m.stats(&q)["acked_total"].as_u64().unwrap() > 50);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert_eq!(m.stats(&q)["claimed"], 0);
    let left: BTreeSet<String> = m.bodies(&q).into_iter().collect();
    let there = broker.bodies("drains");
    assert!(there.iter().all(|body| !left.contains(body)), "none is here and there");
    assert_eq!(there.len() + left.len(), 2000);
}

/// "too large, malformed: never": Classic takes headers of 10 KiB. The transaction in which one is is not lost, and the others go.
#[test]
fn the_one_that_the_broker_objects_to_is_found() {
    let (m, broker) = (Mount::new(), classic());
    let q = many(&m, 5);
    fs::write(q.join(".d"), "large").unwrap();
    set_xattr(q.join(".d"), "user.large", [b'x'; 20_000]).unwrap();
    fs::rename(q.join(".d"), q.join("large")).unwrap();
    fs::write(q.join("last"), "last").unwrap();
    run(&m, &words(&arguments(broker, &["--until-empty"], "objects"))).succeeds();
    // What was sent with it was not committed.
    assert_eq!(broker.bodies("objects"), ["m0", "m1", "m2", "m3", "m4", "last"]);
    let dead = only(control(&q, "dead"));
    assert!(dead.to_str().unwrap().ends_with("-large"));
    assert!(xattr(dead, "user.mq.last_error").unwrap().contains("maximum header length"));
    assert!(is_empty(&m, &q));
}

/// A transaction with one message that Artemis knows fails as a whole: then they go one by one, and the one is dropped.
#[test]
fn what_artemis_knows_is_dropped() {
    let (m, Some(broker)) = (Mount::new(), artemis()) else { return };
    let q = m.queue_with("q", &["durability=async"]);
    let named = |from: usize, to: usize| {
        for i in from..to {
            fs::write(q.join(format!(".mq/with/id=known-{i}/m{i}")), format!("m{i}")).unwrap();
        }
    };
    named(0, 3);
    run(&m, &words(&arguments(broker, &["--until-empty"], "known"))).ok();
    named(1, 8);
    run(&m, &words(&arguments(broker, &["--until-empty"], "known"))).succeeds();
    assert_eq!(broker.bodies("known"), (0..8).map(|i| format!("m{i}")).collect::<Vec<_>>());
    assert!(is_empty(&m, &q) && m.stats(&q)["dead"] == 0);
}
