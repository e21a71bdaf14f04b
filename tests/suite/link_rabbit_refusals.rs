//! `mqfs link` to RabbitMQ: what becomes of a message that the broker does not take, for each way of saying so.

use std::collections::BTreeSet;
use std::fs;

use crate::common::*;
use crate::extra::*;
use crate::linking::{SOON, is_empty, many, run, secret, start, state, status};
use crate::rabbit::{MOST_BYTES, shared};

/// "no route: refused: retry": `mv` to delayed, and why; others are not held up.
#[test]
fn without_a_route_a_message_is_tried_again_later() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = many(&m, 2);
    let url = rabbit.url("?exchange=amq.direct&key=nowhere");
    let link = start(&m, &["q", &url]);
    wait_until(|| m.stats(&q)["delayed"] == 2);
    let message = names(control(&q, "delayed")).remove(0);
    assert_eq!(xattr(control(&q, "delayed").join(message), "user.mq.last_error").unwrap(), "312 NO_ROUTE");
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert!(m.stats(&q)["claimed"] == 0 && status(&m)["refused"].as_u64().unwrap() >= 2);
}

/// "refused = dead", and "stop", which gives it back without counting the delivery.
#[test]
fn refused_messages_may_be_dead_letters_or_end_the_link() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = many(&m, 2);
    let url = rabbit.url("?exchange=amq.direct&key=nowhere");
    let ran = run(&m, &["--until-empty", "-o", "refused=stop", "-o", "window=1", "q", &url]);
    assert_eq!(ran.code(), Some(16), "{ran:?}");
    ran.fails("312 NO_ROUTE");
    assert_eq!((&m.stats(&q)["ready"], deliveries(&q, &q.join(&names(&q)[0]))), (&2.into(), 0));
    let ran = run(&m, &["--until-empty", "-o", "refused=dead", "q", &url]);
    assert_eq!((ran.code(), &m.stats(&q)["dead"]), (Some(0), &2.into()), "{ran:?}");
    // "after `max_deliveries` dead".
    m.set(&q, "max_deliveries=1");
    m.fill(&q, 1);
    run(&m, &["--until-empty", "q", &url]).succeeds();
    assert_eq!(m.stats(&q)["dead"], 3);
}

/// The returns of a pipeline belong to the messages that have no route, and to no others: to tell them by the order of confirms loses
/// some.
#[test]
fn each_return_is_that_of_its_message() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue_with("q", &["durability=async"]);
    rabbit.python("ch.queue_declare('returns', durable=True)\nch.queue_bind('returns', 'amq.direct', 'returns-yes')");
    for i in 0..1000 {
        let key = if i % 10 == 3 { "returns-no" } else { "returns-yes" };
        fs::write(q.join(format!(".mq/with/header.key={key}/m{i}")), format!("m{i}")).unwrap();
    }
    let url = rabbit.url("?exchange=amq.direct&key=%header.key");
    run(&m, &["-q", "--until-empty", "-o", "refused=dead", "q", &url]).ok();
    let of = |refused: bool| (0..1000).filter(move |i| (i % 10 == 3) == refused).map(|i| format!("m{i}"));
    let there: Vec<String> = rabbit.drain("returns").into_iter().map(|(_, body)| body).collect();
    assert_eq!(there, of(false).collect::<Vec<_>>());
    let dead: BTreeSet<String> = m.bodies(&q).into_iter().collect();
    assert_eq!(dead, of(true).collect());
    assert_eq!(m.stats(&q)["dead"], 100);
}

/// "channel.close with a window in flight: [...] the one that closes the channel again is refused (406: too large)".
#[test]
fn the_one_that_the_broker_objects_to_is_found() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = many(&m, 5);
    fs::write(q.join("large"), vec![b'x'; MOST_BYTES + 1]).unwrap();
    fs::write(q.join("last"), "last").unwrap();
    rabbit.queue("large");
    let ran = run(&m, &["--until-empty", "q", &rabbit.url("?queue=large")]);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let there: Vec<String> = rabbit.drain("large").into_iter().map(|(_, body)| body).collect();
    // Some may have been there before the channel was closed, and are twice.
    let each: BTreeSet<&str> = there.iter().map(String::as_str).collect();
    assert_eq!(each, ["m0", "m1", "m2", "m3", "m4", "last"].into());
    assert!(there.len() <= 11, "{there:?}");
    let dead = only(control(&q, "dead"));
    assert!(dead.to_str().unwrap().ends_with("-large"));
    assert!(xattr(dead, "user.mq.last_error").unwrap().contains("larger than"), "{ran:?}");
    assert!(is_empty(&m, &q));
}

/// A body that is larger than `largest` is not even read.
#[test]
fn more_than_largest_is_a_dead_letter() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = many(&m, 1);
    fs::write(q.join("large"), "12345").unwrap();
    rabbit.queue("largest");
    run(&m, &["--until-empty", "-o", "largest=4", "q", &rabbit.url("?queue=largest")]).succeeds();
    assert_eq!(xattr(only(control(&q, "dead")), "user.mq.last_error").unwrap(), "5 bytes: more than `largest`");
    assert_eq!(rabbit.waiting("largest"), 1);
}

/// "nack: later": the message stays claimed, nothing is counted against it, and it is there when the broker can.
#[test]
fn what_the_broker_cannot_take_now_is_sent_again() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = many(&m, 3);
    rabbit.python(
        "ch.queue_declare('nacks', durable=True, arguments={'x-max-length': 1, 'x-overflow': 'reject-publish'})",
    );
    let url = rabbit.url("?queue=nacks");
    let link = start(&m, &[&SOON[..], &["q", &url]].concat());
    wait_until(|| status(&m)["retried"].as_u64().unwrap() >= 4);
    assert_eq!(state(&m), "failing");
    let mut bodies = BTreeSet::new();
    wait_until(|| {
        bodies.extend(rabbit.drain("nacks").into_iter().map(|(_, body)| body));
        bodies.len() == 3
    });
    wait_until(|| is_empty(&m, &q));
    assert_eq!(m.stats(&q)["dead"], 0);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
}

/// "strict: at the head and all wait".
#[test]
fn with_strict_order_a_refused_message_holds_up_all() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = m.queue("q");
    for (key, name) in [("strict-later", "first"), ("strict-now", "second")] {
        fs::write(q.join(format!(".mq/with/header.key={key}/{name}")), name).unwrap();
    }
    rabbit.python("ch.queue_declare('strict', durable=True)\nch.queue_bind('strict', 'amq.direct', 'strict-now')");
    let url = rabbit.url("?exchange=amq.direct&key=%header.key");
    let link = start(&m, &[&SOON[..], &["-o", "order=strict", "q", &url]].concat());
    wait_until(|| status(&m)["refused"].as_u64().unwrap() >= 3);
    assert_eq!((rabbit.waiting("strict"), &m.stats(&q)["ready"], &m.stats(&q)["delayed"]), (0, &1.into(), &0.into()));
    rabbit.python("ch.queue_bind('strict', 'amq.direct', 'strict-later')");
    wait_until(|| is_empty(&m, &q));
    let bodies: Vec<String> = rabbit.drain("strict").into_iter().map(|(_, body)| body).collect();
    assert_eq!(bodies, ["first", "second"]);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
}

/// "login refused, exchange/queue missing: fault of the link": told, in the status, and exit code 16 for cron.
#[test]
fn what_the_broker_will_not_is_told() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = many(&m, 1);
    let secret = m.scratch().join("secret");
    fs::write(&secret, "user = guest\npassword = sesame\n").unwrap();
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let secret = format!("secret={}", secret.display());
    for (arguments, url, told) in [
        (&["-o", &secret][..], "?queue=q", "ACCESS_REFUSED"),
        (&[], "?queue=missing", "NOT_FOUND - no queue 'missing'"),
        (&[], "?exchange=missing", "NOT_FOUND - no exchange 'missing'"),
        (&[], "/nowhere?queue=q", "vhost nowhere not found"),
    ] {
        for how in ["--until-empty", "--check"] {
            let ran = run(&m, &[&[how], arguments, &["q", &rabbit.url(url)]].concat());
            assert_eq!(ran.code(), Some(16), "{ran:?}");
            ran.fails(told);
            assert!(!ran.stderr.contains("sesame"));
        }
    }
    let link = start(&m, &[&SOON[..], &["-o", "name=waits", "q", &rabbit.url("?queue=comes-later")]].concat());
    let failing = || run(&m, &["--status", "waits"]);
    wait_until(|| failing().stdout.contains("failing"));
    assert_eq!(failing().code(), Some(1));
    assert_eq!(m.stats(&q)["claims_total"], 0, "nothing is claimed without a connection");
    rabbit.queue("comes-later");
    wait_until(|| is_empty(&m, &q));
    assert_eq!(rabbit.waiting("comes-later"), 1);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
}

/// "exchange/queue missing: [...] retry for ever", also when it goes away while the link runs: nothing is counted against a message.
#[test]
fn a_queue_that_goes_away_is_waited_for() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = many(&m, 1);
    rabbit.queue("goes-out");
    let link = start(&m, &[&SOON[..], &["q", &rabbit.url("?queue=goes-out")]].concat());
    wait_until(|| is_empty(&m, &q));
    rabbit.python("ch.queue_delete('goes-out')");
    m.fill(&q, 20);
    wait_until(|| state(&m) == "failing");
    assert!(status(&m)["why"].as_str().unwrap().contains("goes-out"), "{}", status(&m));
    holds_for(std::time::Duration::from_millis(500), || m.stats(&q)["delayed"] == 0);
    rabbit.queue("goes-out");
    wait_until(|| is_empty(&m, &q));
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert_eq!((&m.stats(&q)["claims_total"], &m.stats(&q)["dead"]), (&21.into(), &0.into()));
    assert_eq!(rabbit.drain("goes-out").len(), 20);
}

/// "not authorized: fault of the link": who may not write is told, and nothing is counted against a message. The broker closes the channel
/// while others of the window are still being published; what it said is told all the same.
#[test]
fn who_may_not_write_waits() {
    let (m, rabbit) = (Mount::new(), shared());
    let q = many(&m, 200);
    rabbit.queue("not-for-bob");
    let may = |what: &str| {
        rabbit.control(&["eval", &format!("rabbit_auth_backend_internal:set_permissions(<<\"bob\">>, <<\"/\">>, <<\"\">>, <<\"{what}\">>, <<\".*\">>, <<\"t\">>).")]);
    };
    rabbit.control(&["add_user", "bob", "sesame"]);
    may("");
    let secret = secret(&m, "bob", "sesame");
    let host = rabbit.url("").replace("amqp://", "");
    let url = rabbit.url("?queue=not-for-bob").replace("amqp://", "amqp://127.0.0.1:1,");
    let ran = run(&m, &["--until-empty", "-o", &secret, "q", &url]);
    assert_eq!(ran.code(), Some(16), "{ran:?}");
    ran.fails(&format!("{host}: ACCESS_REFUSED"));
    let link = start(&m, &[&SOON[..], &["-o", &secret, "q", &url]].concat());
    wait_until(|| state(&m) == "failing" && status(&m)["reconnects"].as_u64().unwrap() > 1);
    may(".*");
    wait_until(|| is_empty(&m, &q));
    link.signal(libc::SIGTERM);
    let ran = link.finish();
    let told = ran.stderr.matches("ACCESS_REFUSED").count();
    assert_eq!((ran.code(), told), (Some(0), 1), "the same is told once a minute: {ran:?}");
    assert_eq!((&m.stats(&q)["dead"], rabbit.waiting("not-for-bob")), (&0.into(), 200));
}
