//! `mqfs link` to and from ActiveMQ Classic and Artemis, both ways at once, while the broker is killed, stopped, and set up anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::activemq::{Broker, Kind};
use crate::common::*;
use crate::link_stomp_out::assert_each_there;
use crate::linking::{SOON, is_empty, many, of, run, start};

#[test]
fn what_becomes_of_a_classic() {
    what_becomes_of(&Broker::start_classic());
}

#[test]
fn what_becomes_of_an_artemis() {
    Broker::start_artemis().iter().for_each(what_becomes_of);
}

/// One broker for all of it, since each takes long to start.
fn what_becomes_of(broker: &Broker) {
    let m = Mount::new();
    let (q, into) = (many(&m, 0), m.queue_with("into", &["durability=async"]));
    killed(&m, broker, &q, &into);
    stopped(&m, broker, &q, &into);
    set_up_anew(&m, broker, &into);
}

/// A link called `name`, as anna.
fn link(m: &Mount, broker: &Broker, name: &str, options: &[&str], ends: [&str; 2]) -> Running {
    let (name, anna) = (format!("name={name}"), broker.secret("anna"));
    start(m, &[&["-o", &name, "-o", &anna], &SOON[..], options, &ends[..]].concat())
}

fn end(link: Running) -> Ran {
    link.signal(libc::SIGTERM);
    let ran = link.finish();
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    ran
}

fn state(m: &Mount, name: &str) -> String {
    of(m, name, "state").as_str().unwrap_or_default().to_owned()
}

fn total(m: &Mount, q: &Path, what: &str) -> u64 {
    m.stats(q)[what].as_u64().unwrap()
}

/// "broker away: costs no deliveries and no leases; what was in flight stays claimed and is sent again", singly and first; and in,
/// "Classic's message-id survives kill -9 of the broker", and so does what an Artemis's messages are known by here.
fn killed(m: &Mount, broker: &Broker, q: &Path, into: &Path) {
    let window = 50;
    let out = link(m, broker, "out", &["-o", &format!("window={window}")], ["q", &broker.url("?queue=to")]);
    let taking = link(m, broker, "in", &["-o", "batch=40"], [&broker.url("?queue=from"), "into"]);
    for kills in 1..=2_usize {
        // Each time in the midst of the one or of the other, and often of both.
        let (sent, came) = (total(m, q, "acked_total"), total(m, into, "enqueued_total"));
        let (first, end) = (750 * (kills - 1), 750 * kills);
        broker.python(&format!("send('from', [f'm{{i}}' for i in range({first}, {end})])"));
        (first..end).for_each(|i| fs::write(q.join(format!("m{i}")), format!("m{i}")).unwrap());
        match kills {
            1 => wait_until(|| total(m, q, "acked_total") > sent + 100),
            _ => wait_until(|| total(m, into, "enqueued_total") > came + 100),
        }
        broker.kill9();
        wait_until(|| state(m, "out") == "connecting" && state(m, "in") == "connecting");
        broker.start_again();
    }
    wait_until(|| is_empty(m, q) && total(m, into, "enqueued_total") >= 1500);
    end(out);
    end(taking);
    let stats = m.stats(q);
    assert_eq!((&stats["dead"], &stats["expired_total"]), (&0.into(), &0.into()));
    assert_eq!(stats["claims_total"], stats["acked_total"]);
    assert_each_there(broker, "to", 1500, window * 2);
    let bodies = m.bodies(into);
    assert_eq!((bodies.len(), bodies.iter().collect::<BTreeSet<_>>().len()), (1500, 1500));
}

/// A broker that does not read holds up what is sent; one that says nothing is gone after two heart-beats. When it goes on, so do both.
fn stopped(m: &Mount, broker: &Broker, q: &Path, into: &Path) {
    let out = link(m, broker, "out", &[], ["q", &broker.url("?queue=large")]);
    wait_until(|| state(m, "out") == "running");
    broker.signal(libc::SIGSTOP);
    for i in 0..24 {
        fs::write(q.join(format!("large-{i}")), vec![b'a' + i; 1 << 20]).unwrap();
    }
    wait_until(|| state(m, "out") == "blocked");
    let why = of(m, "out", "why");
    assert!(why.as_str().unwrap().contains("does not read"), "{why}");
    broker.signal(libc::SIGCONT);
    wait_until(|| is_empty(m, q));
    end(out);
    assert_eq!(broker.python("print(len({b for _, b in take('large')}))"), "24\n");
    let out = link(m, broker, "out", &["-o", "heartbeat=1s"], ["q", &broker.url("?queue=after")]);
    let taking = link(m, broker, "in", &["-o", "heartbeat=1s"], [&broker.url("?queue=before"), "into"]);
    wait_until(|| state(m, "out") == "running" && state(m, "in") == "running");
    broker.signal(libc::SIGSTOP);
    wait_until(|| state(m, "out") == "connecting" && state(m, "in") == "connecting");
    broker.signal(libc::SIGCONT);
    fs::write(q.join("a"), "after").unwrap();
    broker.python("send('before', ['before'])");
    wait_until(|| is_empty(m, q) && m.bodies(into).iter().any(|body| body == "before"));
    for link in [out, taking] {
        assert!(end(link).stderr.contains("no heart-beat for 2 s"));
    }
    assert_eq!(broker.bodies("after"), ["after"]);
}

/// A broker that begins anew counts its messages from the first: they are not those that are known.
fn set_up_anew(m: &Mount, broker: &Broker, into: &Path) {
    let before = m.bodies(into).len();
    broker.kill9();
    broker.forget();
    broker.start_again();
    broker.publish("from", 300, "");
    let arguments =
        ["--until-empty", "-o", "name=in", "-o", &broker.secret("anna"), &broker.url("?queue=from"), "into"];
    run(m, &arguments).succeeds();
    assert_eq!((m.bodies(into).len(), of(m, "in", "duplicates")), (before + 300, 0.into()));
    assert!(broker.kind == Kind::Classic || broker.drain("from").is_empty());
}
