//! `mqfs link` to Apache Kafka: what is acknowledged here is there, and what is refused is not lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::common::*;
use crate::extra::*;
use crate::kafka::shared;
use crate::linking::{SOON, is_empty, many, run, secret, start, state, status};

/// A message with attributes.
fn with_attributes(q: &Path, name: &str, body: &[u8], attributes: &[(&str, &[u8])]) {
    let draft = q.join(format!(".{name}"));
    fs::write(&draft, body).unwrap();
    for (attribute, value) in attributes {
        set_xattr(&draft, attribute, value).unwrap();
    }
    fs::rename(draft, q.join(name)).unwrap();
}

/// "all properties there": each in the place that Kafka has for it, as another client sees it.
#[test]
fn properties_arrive_where_kafka_has_them() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = m.queue("q");
    kafka.topic("properties", 1);
    let attributes: [(&str, &[u8]); 11] = [
        ("user.mq.content_type", b"text/csv"),
        ("user.mq.correlation_id", b"c-1"),
        ("user.mq.reply_to", b"answers"),
        ("user.mq.priority", b"7"),
        ("user.mq.group", b"g\xff"),
        ("user.mq.dedup_id", b"order-7"),
        ("user.mq.ttl", b"1h"),
        ("user.colour", "röt".as_bytes()),
        ("user.binary", b"\xff\x00"),
        ("user.empty", b""),
        ("user.link.key", b"not sent on"),
    ];
    with_attributes(&q, "größe.csv", b"a;b\n", &attributes);
    with_attributes(&q, "empty", b"", &[]);
    with_attributes(&q, "null", b"", &[("user.link.null", b"1")]);
    run(&m, &["--until-empty", "q", &kafka.url("properties")]).ok();
    assert!(is_empty(&m, &q));
    let seen = kafka.python(
        "a, e, n = get('properties')\nh = head(a)\nleft = int(h.pop('mq-expires')) - time.time() * 1000\n\
         print(a.key(), a.value(), 3500000 < left <= 3600000, abs(a.timestamp()[1] - time.time() * 1000) < 60000)\n\
         print(sorted(h.items()))\nprint(e.key(), e.value(), head(e)['mq-name'], len(head(e)['mq-id']))\nprint(n.value(), head(n)['mq-name'])",
    );
    let expected = "b'g\\xff' b'a;b\\n' True True\n\
        [('binary', b'\\xff\\x00'), ('colour', b'r\\xc3\\xb6t'), ('content-type', b'text/csv'), ('correlation-id', b'c-1'), \
        ('empty', b''), ('mq-hops', b'1'), ('mq-id', b'order-7'), ('mq-name', b'gr\\xc3\\xb6\\xc3\\x9fe.csv'), ('mq-priority', b'7'), \
        ('reply-to', b'answers')]\n\
        None b'' b'empty' 33\nNone b'null'\n";
    assert_eq!(seen, expected);
    assert_eq!(status(&m)["messages"], 3);
}

/// "Kafka key (partition)" keeps the order; each message once, and nothing left here.
#[test]
fn messages_of_a_group_stay_in_order() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    for i in 0..600 {
        fs::write(q.join(format!(".mq/with/group=g{}/m", i % 7)), i.to_string()).unwrap();
    }
    kafka.topic("order", 3);
    run(&m, &["--until-empty", "-o", "window=64", "q", &kafka.url("order")]).ok();
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (key, _, body) in kafka.all("order") {
        groups.entry(key).or_default().push(body.parse().unwrap());
    }
    for i in 0..7 {
        assert_eq!(groups[&format!("g{i}")], (i..600).step_by(7).collect::<Vec<_>>());
    }
    assert!(is_empty(&m, &q) && m.stats(&q)["dead"] == 0);
    // As Java's clients choose it: who else writes under these keys writes to the same partitions.
    let java = kafka.python(
        "def murmur2(d):\n    M, h = 0x5bd1e995, 0x9747b28c ^ len(d)\n    for i in range(0, len(d) - len(d) % 4, 4):\n        \
         k = int.from_bytes(d[i:i+4], 'little') * M & 0xffffffff\n        k = (k ^ k >> 24) * M & 0xffffffff\n        h = h * M & 0xffffffff ^ k\n    \
         r = d[len(d) - len(d) % 4:]\n    if r: h = (h ^ int.from_bytes(r, 'little')) * M & 0xffffffff\n    h = (h ^ h >> 13) * M & 0xffffffff\n    \
         return h ^ h >> 15\nprint(all(m.partition() == (murmur2(m.key()) & 0x7fffffff) % 3 for m in get('order')))",
    );
    assert_eq!(java.trim(), "True");
}

/// "key=": what the key is may be said. "several hosts in a URL": the first that is there.
#[test]
fn the_key_may_be_a_header_or_always_the_same() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = m.queue("q");
    kafka.topic("keys", 1);
    for (key, i) in [("%25header.customer", 0), ("always", 1), ("%25group", 2)] {
        fs::write(q.join(format!(".mq/with/group=g,header.customer=c/m{i}")), i.to_string()).unwrap();
        let url = kafka.url(&format!("keys?key={key}")).replace("kafka://", "kafka://127.0.0.1:1,");
        run(&m, &["--until-empty", "q", &url]).ok();
    }
    let keys: Vec<String> = kafka.all("keys").into_iter().map(|(key, _, _)| key).collect();
    assert_eq!(keys, ["c", "always", "g"]);
}

/// "MSG_SIZE_TOO_LARGE: refused": `.mq/dead` at once, with the reason; and not those that were sent with it.
#[test]
fn what_is_too_large_is_a_dead_letter_and_no_other() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = many(&m, 5);
    // Each of these is small enough; all together, as one batch, they are not.
    for i in 0..6 {
        let body: String = (0..3000).map(|j| char::from(b'a' + (i * 7 + j * j * 31 + j) as u8 % 26)).collect();
        fs::write(q.join(format!("fits{i}")), body).unwrap();
    }
    let mut random = Random::new();
    let noise: Vec<u8> = (0..40_000).map(|_| random.below(256) as u8).collect();
    fs::write(q.join("large"), noise).unwrap();
    fs::write(q.join("last"), "last").unwrap();
    kafka.python("topic('large', 1, max_message_bytes='10000', compression_type='uncompressed')");
    let ran = run(&m, &["--until-empty", "-o", "kafka.compression.codec=none", "q", &kafka.url("large")]);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let there = kafka.bodies("large");
    let each: BTreeSet<&String> = there.iter().collect();
    assert_eq!((there.len(), each.len()), (12, 12), "{ran:?}");
    let dead = only(control(&q, "dead"));
    assert!(dead.to_str().unwrap().ends_with("-large"));
    assert!(xattr(dead, "user.mq.last_error").unwrap().contains("too large"), "{ran:?}");
    assert!(is_empty(&m, &q));
}

/// "INVALID_RECORD: refused": a compacted topic takes nothing without a key.
#[test]
fn an_invalid_record_is_a_dead_letter_and_no_other() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = m.queue("q");
    for i in 0..4 {
        fs::write(q.join(format!(".mq/with/group=g{i}/m{i}")), i.to_string()).unwrap();
        if i == 1 {
            fs::write(q.join("keyless"), "x").unwrap();
        }
    }
    kafka.python("topic('compacted', 1, cleanup_policy='compact')");
    run(&m, &["--until-empty", "q", &kafka.url("compacted")]).succeeds();
    let mut there = kafka.bodies("compacted");
    there.sort();
    assert_eq!(there, ["0", "1", "2", "3"]);
    assert!(only(control(&q, "dead")).to_str().unwrap().ends_with("-keyless"));
    assert!(is_empty(&m, &q));
}

/// "login refused, topic missing, not authorized: fault of the link": told, in the status, and exit code 16 for cron.
#[test]
fn what_the_cluster_will_not_is_told() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = many(&m, 1);
    kafka.topic("forbidden", 1);
    let ca = format!("tls_ca={}", kafka.ca().display());
    let (wrong, bob) = (secret(&m, "anna", "wrong"), secret(&m, "bob", "sesame"));
    for (arguments, url, told) in [
        (&["-o", &ca, "-o", &wrong][..], kafka.sasl_url("forbidden"), "Authentication failed"),
        (&["-o", &ca, "-o", &bob], kafka.sasl_url("forbidden"), "Topic authorization failed"),
        (&[], kafka.url("missing"), "topic missing: "),
    ] {
        for how in ["--until-empty", "--check"] {
            let ran = run(&m, &[&[how], arguments, &["q", &url]].concat());
            assert_eq!(ran.code(), Some(16), "{ran:?}");
            ran.fails(told);
            assert!(!ran.stderr.contains("sesame") && !ran.stderr.contains("wrong"));
        }
    }
    let link = start(&m, &[&SOON[..], &["-o", "name=waits", "q", &kafka.url("comes-later")]].concat());
    let failing = || run(&m, &["--status", "waits"]);
    wait_until(|| failing().stdout.contains("failing"));
    assert_eq!(m.stats(&q)["claims_total"], 0, "nothing is claimed without a connection");
    kafka.topic("comes-later", 1);
    wait_until(|| is_empty(&m, &q));
    assert_eq!(kafka.bodies("comes-later").len(), 1);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    // Nobody has made it by looking.
    assert_eq!(kafka.python("print('missing' in admin.list_topics(timeout=30).topics)").trim(), "False");
}

/// "Topic errors: the producer is closed and made anew with back-off; its messages are unconfirmed, not lost."
#[test]
fn a_topic_that_is_deleted_and_made_again_is_sent_to() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = many(&m, 1);
    kafka.topic("goes", 1);
    let quick = ["-o", "kafka.topic.metadata.propagation.max.ms=500"];
    let link = start(&m, &[&SOON[..], &quick, &["q", &kafka.url("goes")]].concat());
    wait_until(|| is_empty(&m, &q));
    kafka.python("drop('goes')");
    m.fill(&q, 20);
    wait_until(|| state(&m) == "failing");
    kafka.topic("goes", 1);
    wait_until(|| is_empty(&m, &q));
    link.signal(libc::SIGTERM);
    let ran = link.finish();
    assert_eq!((ran.code(), &m.stats(&q)["dead"], kafka.bodies("goes").len()), (Some(0), &0.into(), 20), "{ran:?}");
}

/// `--check` says what is promised, and where it is less than one may think; `--show` what would be sent. Neither changes anything.
#[test]
fn looking_changes_nothing() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = many(&m, 3);
    kafka.topic("looking", 2);
    let url = kafka.url("looking");
    let text = run(&m, &["--check", "q", &url]).ok().to_owned();
    for told in [
        "out: to topic looking, idempotent",
        "at least once",
        "not encrypted",
        "has 2 partitions",
        "WARNING: its replication factor is 1",
        "WARNING: its min.insync.replicas is 1",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let shown = run(&m, &["--show", "2", "q", &url]).ok().to_owned();
    assert_eq!(shown.lines().count(), 2);
    assert_eq!((&m.stats(&q)["claims_total"], kafka.bodies("looking").len()), (&0.into(), 0));
    run(&m, &["-o", "kafka.acks=1", "q", &url]).fails("by itself");
    run(&m, &["--until-empty", "-o", "kafka.no.such.thing=1", "q", &url]).fails("kafka.no.such.thing");
}

/// TLS verifies: a certificate that nobody trusts is refused, however often it is tried. A password is shown in each of the ways.
#[test]
fn tls_verifies_and_passwords_are_shown() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = many(&m, 1);
    kafka.topic("tls", 1);
    let url = kafka.tls_url("tls");
    let ran = run(&m, &["--until-empty", "q", &url]);
    assert_eq!((ran.code(), &m.stats(&q)["claims_total"]), (Some(16), &0.into()), "{ran:?}");
    ran.fails("certificate");
    let ca = format!("tls_ca={}", kafka.ca().display());
    // The certificate is that of an address, and of no name.
    let ran = run(&m, &["--until-empty", "-o", &ca, "q", &url.replace("127.0.0.1", "localhost")]);
    assert_eq!(ran.code(), Some(16), "{ran:?}");
    ran.fails("certificate");
    assert!(run(&m, &["--check", "-o", &ca, "q", &url]).ok().contains("its certificate is verified"));
    run(&m, &["--until-empty", "-o", &ca, "q", &url]).ok();
    let (anna, carl) = (secret(&m, "anna", "sesame"), secret(&m, "carl", "sesame"));
    for (sasl, who) in [("", &anna), ("?sasl=plain", &anna), ("?sasl=scram-sha-512", &carl)] {
        fs::write(q.join("x"), sasl).unwrap();
        run(&m, &["--until-empty", "-o", &ca, "-o", who, "q", &kafka.sasl_url(&format!("tls{sasl}"))]).ok();
    }
    assert_eq!(kafka.bodies("tls"), ["m0", "", "?sasl=plain", "?sasl=scram-sha-512"]);
}

/// "SIGTERM: no more claims, [...] clean close".
#[test]
fn a_signal_drains() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = many(&m, 2000);
    kafka.topic("drains", 1);
    let link = start(&m, &["-o", "window=16", "q", &kafka.url("drains")]);
    wait_until(|| m.stats(&q)["acked_total"].as_u64().unwrap() > 50);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert_eq!(m.stats(&q)["claimed"], 0);
    let left: BTreeSet<String> = m.bodies(&q).into_iter().collect();
    let there = kafka.bodies("drains");
    assert!(there.iter().all(|body| !left.contains(body)), "none is here and there");
    assert_eq!(there.len() + left.len(), 2000);
}

/// "a crash of the link may double up to a window", each under one identity.
#[test]
fn a_killed_link_loses_nothing() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let q = many(&m, 1500);
    kafka.topic("killed", 2);
    let (url, window, kills) = (kafka.url("killed"), 50, 4);
    for _ in 0..kills {
        let link = start(&m, &["-o", &format!("window={window}"), "q", &url]);
        let before = m.stats(&q)["acked_total"].as_u64().unwrap();
        wait_until(|| m.stats(&q)["acked_total"].as_u64().unwrap() > before + 60);
        link.signal(libc::SIGKILL);
        link.finish();
    }
    run(&m, &["--until-empty", "q", &url]).succeeds();
    assert!(is_empty(&m, &q) && m.stats(&q)["dead"] == 0, "{}", m.stats(&q));
    let there = kafka.all("killed");
    let bodies: BTreeSet<&String> = there.iter().map(|(_, _, body)| body).collect();
    let ids: BTreeSet<&String> = there.iter().map(|(_, id, _)| id).collect();
    assert_eq!((bodies.len(), ids.len()), (1500, 1500), "each is there, under one identity");
    assert!(there.len() <= 1500 + window * kills, "{} doubles", there.len() - 1500);
}

/// "mqfs gone or killed: the link waits for the mount to come back, finishes unlinking what was confirmed, starts over."
#[test]
fn the_mount_may_go_away_and_come_back() {
    let Some(kafka) = shared() else { return };
    let mut m = Mount::new();
    let q = many(&m, 600);
    kafka.topic("mount", 1);
    let link = start(&m, &["-o", "window=20", "q", &kafka.url("mount")]);
    wait_until(|| m.stats(&q)["acked_total"].as_u64().unwrap() > 100);
    m.kill9();
    wait_until(|| state(&m) == "holding");
    m.start();
    // What was claimed before comes back when its lease is over, or at once.
    m.set("q", "visibility_timeout=1s");
    m.sh("for f in q/.mq/claimed/*; do [ -e $f ] && mv $f q/; done; true");
    wait_until(|| is_empty(&m, &q));
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    let there = kafka.bodies("mount");
    let bodies: BTreeSet<&String> = there.iter().collect();
    assert_eq!(bodies.len(), 600);
    assert!(there.len() <= 640, "{} doubles", there.len() - 600);
}
