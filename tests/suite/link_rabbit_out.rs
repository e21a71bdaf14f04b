//! `mqfs link` to RabbitMQ: what is acknowledged here is there, and what is refused is not lost.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::common::*;
use crate::linking::{is_empty, many, run, start, state, status};
use crate::rabbit::shared;

/// A message with attributes.
fn with_attributes(m: &Mount, q: &Path, name: &str, body: &[u8], attributes: &[(&str, &[u8])]) {
    let draft = q.join(format!(".{name}"));
    fs::write(&draft, body).unwrap();
    for (attribute, value) in attributes {
        set_xattr(&draft, attribute, value).unwrap();
    }
    fs::rename(draft, q.join(name)).unwrap();
    let _ = m;
}

/// "all properties there": each in the place that AMQP has for it, as another client sees it.
#[test]
fn properties_arrive_where_amqp_has_them() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue("q");
    rabbit.queue("properties");
    with_attributes(
        &m,
        &q,
        "größe.csv",
        b"a;b\n",
        &[
            ("user.mq.content_type", b"text/csv"),
            ("user.mq.correlation_id", b"c-1"),
            ("user.mq.reply_to", b"answers"),
            ("user.mq.priority", b"7"),
            ("user.mq.group", b"g"),
            ("user.mq.dedup_id", b"order-7"),
            ("user.mq.ttl", b"1h"),
            ("user.colour", "röt".as_bytes()),
            ("user.binary", b"\xff\x00"),
            ("user.link.key", b"not sent on"),
        ],
    );
    with_attributes(&m, &q, "empty", b"", &[]);
    run(&m, &["--until-empty", "q", &rabbit.url("?queue=properties")]).ok();
    assert!(is_empty(&m, &q));
    let seen = rabbit.python(
        "p, b = get('properties')\n\
         print(p.content_type, p.correlation_id, p.reply_to, p.priority, p.message_id, p.delivery_mode, 0 < int(p.expiration) <= 3600000, p.timestamp > 1700000000)\n\
         print(sorted(p.headers.items()), b)\np, b = get('properties')\nprint(p.headers['mq-name'], b, len(p.message_id))",
    );
    let expected = "text/csv c-1 answers 7 order-7 2 True True\n\
        [('binary', b'\\xff\\x00'), ('colour', 'röt'), ('group', 'g'), ('mq-hops', '1'), ('mq-name', 'größe.csv')] b'a;b\\n'\n\
        empty b'' 33\n";
    assert_eq!(seen, expected);
    assert_eq!(status(&m)["messages"], 2);
}

/// Thousands in the order of the queue, each once, and nothing left here.
#[test]
fn order_is_kept() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = many(&m, 1000);
    rabbit.queue("order");
    run(&m, &["--until-empty", "-o", "window=64", "q", &rabbit.url("?queue=order")]).ok();
    let bodies: Vec<String> = rabbit.drain("order").into_iter().map(|(_, body)| body).collect();
    assert_eq!(bodies, (0..1000).map(|i| format!("m{i}")).collect::<Vec<_>>());
    assert!(is_empty(&m, &q) && m.stats(&q)["dead"] == 0);
}

/// `--check` says what is promised and changes nothing; `--show` says what would be sent.
#[test]
fn looking_changes_nothing() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = many(&m, 3);
    rabbit.queue("looking");
    let url = rabbit.url("?queue=looking");
    let text = run(&m, &["--check", "q", &url]).ok().to_owned();
    for told in ["out: to queue looking", "at least once", "not encrypted", "max_deliveries"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let shown = run(&m, &["--show", "2", "q", &url]).ok().to_owned();
    let lines: Vec<serde_json::Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["mq-name"], &lines[1]["body"]), (&"m0".into(), &"m1".into()));
    assert_eq!((&m.stats(&q)["claims_total"], rabbit.waiting("looking")), (&0.into(), 0));
}

/// A quorum queue is made, durable, and bound.
#[test]
fn a_quorum_queue_is_declared() {
    let (m, rabbit) = (Mount::new(), shared());
    many(&m, 2);
    let url = rabbit.url("?queue=quorum-out&exchange=amq.topic&key=quorum-out.new&declare=quorum");
    run(&m, &["--until-empty", "q", &url]).ok();
    assert_eq!(rabbit.drain("quorum-out").len(), 2);
    let again = "ch.queue_declare('quorum-out', durable=True, arguments={'x-queue-type': 'quorum'})";
    rabbit.python(again);
}

/// TLS verifies: a certificate that nobody trusts is refused, however often it is tried.
#[test]
fn tls_verifies() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = many(&m, 1);
    rabbit.queue("tls");
    let url = rabbit.tls_url("?queue=tls");
    let ran = run(&m, &["--until-empty", "q", &url]);
    assert_eq!((ran.code(), &m.stats(&q)["claims_total"]), (Some(16), &0.into()), "{ran:?}");
    ran.fails("certificate");
    let ca = format!("tls_ca={}", rabbit.ca().display());
    // The certificate is that of an address, and of no name.
    let ran = run(&m, &["--until-empty", "-o", &ca, "q", &url.replace("127.0.0.1", "localhost")]);
    assert_eq!(ran.code(), Some(16), "{ran:?}");
    ran.fails("certificate");
    let ran = run(&m, &["--until-empty", "-o", &ca, "q", &rabbit.url("?queue=tls").replace("amqp:", "amqps:")]);
    ran.fails("nobody speaks TLS at this port");
    assert!(run(&m, &["--check", "-o", &ca, "q", &url]).ok().contains("its certificate is verified"));
    run(&m, &["--until-empty", "-o", &ca, "q", &url]).ok();
    assert_eq!(rabbit.waiting("tls"), 1);
}

/// "SIGTERM: no more claims, [...] clean close".
#[test]
fn a_signal_drains() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = many(&m, 2000);
    rabbit.queue("drains");
    let link = start(&m, &["-o", "window=16", "q", &rabbit.url("?queue=drains")]);
    wait_until(|| m.stats(&q)["acked_total"].as_u64().unwrap() > 50);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert_eq!(m.stats(&q)["claimed"], 0);
    let left: BTreeSet<String> = m.bodies(&q).into_iter().collect();
    let there: Vec<String> = rabbit.drain("drains").into_iter().map(|(_, body)| body).collect();
    assert!(there.iter().all(|body| !left.contains(body)), "none is here and there");
    assert_eq!(there.len() + left.len(), 2000);
}

/// "a crash of the link: up to a window twice, always with the same id". What it had claimed is given back at once by the next run, not
/// after its lease.
#[test]
fn a_killed_link_loses_nothing() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = many(&m, 1500);
    rabbit.queue("killed");
    let (url, window) = (rabbit.url("?queue=killed"), 50);
    let mut kills = 0;
    while kills < 5 {
        let link = start(&m, &["-o", &format!("window={window}"), "q", &url]);
        let before = m.stats(&q)["acked_total"].as_u64().unwrap();
        wait_until(|| m.stats(&q)["acked_total"].as_u64().unwrap() > before + 60);
        link.signal(libc::SIGKILL);
        link.finish();
        kills += 1;
    }
    run(&m, &["--until-empty", "q", &url]).succeeds();
    assert!(is_empty(&m, &q) && m.stats(&q)["dead"] == 0, "{}", m.stats(&q));
    let there = rabbit.drain("killed");
    let bodies: BTreeSet<&String> = there.iter().map(|(_, body)| body).collect();
    let ids: BTreeSet<&String> = there.iter().map(|(id, _)| id).collect();
    assert_eq!((bodies.len(), ids.len()), (1500, 1500), "each is there, under one identity");
    assert!(there.len() <= 1500 + window * kills, "{} doubles", there.len() - 1500);
}

/// "mqfs gone or killed: the link waits for the mount to come back, finishes unlinking what was confirmed, starts over."
#[test]
fn the_mount_may_go_away_and_come_back() {
    let (mut m, rabbit) = (Mount::new(), shared());
    let q = many(&m, 600);
    rabbit.queue("mount");
    let link = start(&m, &["-o", "window=20", "q", &rabbit.url("?queue=mount")]);
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
    let there = rabbit.drain("mount");
    let bodies: BTreeSet<&String> = there.iter().map(|(_, body)| body).collect();
    assert_eq!(bodies.len(), 600);
    assert!(there.len() <= 640, "{} doubles", there.len() - 600);
}

/// A certificate that the link shows says who it is; a key that others can read is refused.
#[test]
fn a_client_certificate_logs_in() {
    let (m, rabbit) = (Mount::new(), shared());
    many(&m, 1);
    rabbit.queue("external");
    let [certificate, key] = rabbit.client_certificate();
    let own = m.scratch().join("client.key");
    fs::copy(&key, &own).unwrap();
    let url = rabbit.tls_url("?queue=external").replace("amqps://", "amqps://guest@");
    let [ca, certificate, key] = [("tls_ca", &rabbit.ca()), ("tls_cert", &certificate), ("tls_key", &own)]
        .map(|(key, path)| format!("{key}={}", path.display()));
    run(&m, &["--until-empty", "-o", &ca, "-o", &certificate, "q", &url]).fails("belong together");
    let arguments = ["--until-empty", "-o", &ca, "-o", &certificate, "-o", &key, "q", &url];
    fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let ran = run(&m, &arguments);
    assert_eq!(ran.code(), Some(2), "{ran:?}");
    ran.fails("chmod 0600");
    fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    run(&m, &arguments).ok();
    assert_eq!(rabbit.waiting("external"), 1);
}
