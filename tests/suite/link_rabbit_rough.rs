//! `mqfs link` and a RabbitMQ that is killed, stopped or out of memory.

use std::time::{Duration, Instant};

use crate::common::*;
use crate::extra::*;
use crate::linking::{SOON, assert_each_once, is_empty, many, of, run, start};
use crate::rabbit::rough;

/// "broker away: [...] costs no deliveries and no leases; what was in flight stays claimed and is sent again"; and what comes again
/// because of that, or because the broker has forgotten that it was told it is done, is known.
#[test]
fn a_killed_broker_doubles_and_loses_nothing() {
    let (m, rabbit) = (Mount::new(), rough());
    let from = m.queue_with("from", &["durability=async", "visibility_timeout=1h"]);
    let q = m.queue_with("q", &["durability=async"]);
    m.fill(&from, 1500);
    rabbit.queue("killed-broker");
    let url = rabbit.url("?queue=killed-broker");
    let out = start(&m, &[&SOON[..], &["-o", "window=50", "-o", "name=out", "from", &url]].concat());
    let into = start(&m, &[&SOON[..], &["-o", "batch=40", "-o", "name=in", &url, "q"]].concat());
    for kills in 1..=2 {
        wait_until(|| m.stats(&q)["enqueued_total"].as_u64().unwrap() > 300 * kills);
        rabbit.kill9();
        wait_until(|| ["out", "in"].iter().all(|name| of(&m, name, "state") == "connecting"));
        rabbit.start_again();
    }
    wait_until(|| m.stats(&q)["enqueued_total"].as_u64().unwrap() >= 1500 && m.stats(&from)["acked_total"] == 1500);
    wait_until(|| rabbit.waiting("killed-broker") == 0);
    for link in [out, into] {
        link.signal(libc::SIGTERM);
        assert_eq!(link.finish().code(), Some(0));
    }
    assert_each_once(&m, 1500);
    let stats = m.stats(&from);
    assert_eq!((&stats["dead"], &stats["claims_total"], &stats["expired_total"]), (&0.into(), &1500.into(), &0.into()));
}

/// "no heartbeat, no confirm for 60 s: later, nothing is counted": a broker that says nothing any more is noticed by either, whichever
/// is sooner. What is under way stays claimed however long that lasts, and there is no more of it than `window_bytes`.
#[test]
fn a_broker_that_falls_silent_is_noticed() {
    let (m, rabbit) = (Mount::new(), rough());
    let from = m.queue_with("from", &["durability=async", "visibility_timeout=1s"]);
    let q = m.queue("q");
    rabbit.queue("silent");
    let url = rabbit.url("?queue=silent");
    let arguments = ["-o", "name=out", "-o", "window_bytes=5", "-o", "confirm_timeout=1s", "from", &url];
    let out = start(&m, &[&SOON[..], &arguments].concat());
    let into = start(&m, &[&SOON[..], &["-o", "name=in", &url, "q"]].concat());
    wait_until(|| ["out", "in"].iter().all(|name| of(&m, name, "state") == "running"));
    rabbit.pause();
    m.fill(&from, 10);
    wait_until(|| of(&m, "out", "state") == "connecting");
    assert!(out.errors().contains("no confirm for 1 s"), "{}", out.errors());
    wait_until(|| of(&m, "in", "state") == "connecting");
    assert!(into.errors().contains("no heartbeat"), "{}", into.errors());
    // Far longer than a lease.
    holds_for(Duration::from_secs(3), || {
        let stats = m.stats(&from);
        stats["claimed"] == 3 && stats["expired_total"] == 0
    });
    rabbit.resume();
    wait_until(|| is_empty(&m, &from) && m.bodies(&q).len() == 10);
    for link in [out, into] {
        link.signal(libc::SIGTERM);
        assert_eq!(link.finish().code(), Some(0));
    }
    assert_each_once(&m, 10);
    let stats = m.stats(&from);
    assert_eq!((&stats["claims_total"], &stats["acked_total"], &stats["dead"]), (&10.into(), &10.into(), &0.into()));
}

/// "`connection.blocked` is a state of its own": nothing is sent twice, and it goes on when the alarm is over. Who is to end when there
/// is nothing more to do ends; and so does who is asked twice, and gives back what is not confirmed.
#[test]
fn a_broker_without_memory_blocks() {
    let (m, rabbit) = (Mount::new(), rough());
    let q = many(&m, 100);
    rabbit.queue("blocked");
    rabbit.control(&["set_vm_memory_high_watermark", "absolute", "1"]);
    let url = rabbit.url("?queue=blocked");
    let ran = run(&m, &["--until-empty", "-o", "confirm_timeout=1s", "-o", "name=cron", "q", &url]);
    assert_eq!((ran.code(), &m.stats(&q)["ready"]), (Some(16), &100.into()), "{ran:?}");
    ran.fails("the broker takes nothing: low on memory");
    // It says so to who publishes, and not before.
    let link = start(&m, &["-o", "name=twice", "q", &url]);
    wait_until(|| of(&m, "twice", "state") == "blocked");
    let asked = Instant::now();
    link.signal(libc::SIGTERM);
    holds_for(Duration::from_millis(500), || m.stats(&q)["claimed"] == 100);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "what is under way has ten seconds only until it is asked twice"
    );
    let first = q.join(&names(&q)[0]);
    assert_eq!((&m.stats(&q)["ready"], deliveries(&q, &first)), (&100.into(), 0), "nobody has refused anything");
    rabbit.python("ch.queue_purge('blocked')");
    // "At `max_lease` it returns by itself": whoever has it then, the broker has it too.
    m.set(&q, "visibility_timeout=1s\nmax_lease=2s");
    let link = start(&m, &["-o", "confirm_timeout=1s", "-o", "name=waits", "q", &url]);
    wait_until(|| of(&m, "waits", "state") == "blocked" && m.stats(&q)["ready"] == 100);
    assert!(of(&m, "waits", "why").as_str().unwrap().contains("low on memory"));
    m.set(&q, "visibility_timeout=1h\nmax_lease=12h");
    rabbit.control(&["set_vm_memory_high_watermark", "absolute", "256MB"]);
    wait_until(|| is_empty(&m, &q));
    // Their claims were over when they were confirmed.
    wait_until(|| of(&m, "waits", "duplicates").as_u64().unwrap() >= 100);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    let each: std::collections::BTreeSet<_> = rabbit.drain("blocked").into_iter().collect();
    assert_eq!(each.len(), 100);
}
