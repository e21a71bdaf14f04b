//! `mqfs link` and an Apache Kafka that is killed or stopped.

use std::time::Duration;

use crate::common::*;
use crate::extra::*;
use crate::kafka::rough;
use crate::linking::{SOON, assert_each_once, is_empty, of, run, start};

/// And to the broker, with what goes out and comes in at once: "idempotent": nothing is lost, and nothing doubled, since the link waits
/// with the producer that it has; no delivery is spent.
#[test]
fn a_killed_broker_doubles_and_loses_nothing() {
    let Some(kafka) = rough() else { return };
    let m = Mount::new();
    let from = m.queue_with("from", &["durability=async", "visibility_timeout=1h"]);
    let q = m.queue_with("q", &["durability=async"]);
    m.fill(&from, 1500);
    kafka.topic("broker", 2);
    let out = start(&m, &[&SOON[..], &["-o", "window=50", "-o", "name=out", "from", &kafka.url("broker")]].concat());
    let into = start(&m, &[&SOON[..], &["-o", "batch=40", "-o", "name=in", &kafka.url("broker"), "q"]].concat());
    let connecting = |name: &str| run(&m, &["--status", name]).stdout.contains("connecting");
    for kills in 1..=2 {
        wait_until(|| m.stats(&q)["enqueued_total"].as_u64().unwrap() > 300 * kills);
        kafka.kill9();
        wait_until(|| connecting("out") && connecting("in"));
        kafka.start_again();
    }
    wait_until(|| m.stats(&q)["enqueued_total"].as_u64().unwrap() >= 1500 && m.stats(&from)["acked_total"] == 1500);
    for link in [out, into] {
        link.signal(libc::SIGTERM);
        assert_eq!(link.finish().code(), Some(0));
    }
    assert_each_once(&m, 1500);
    let stats = m.stats(&from);
    assert_eq!((&stats["dead"], &stats["claims_total"], &stats["expired_total"]), (&0.into(), &1500.into(), &0.into()));
    assert_eq!(kafka.bodies("broker").len(), 1500);
}

/// "no heartbeat, no confirm: later, nothing is counted": a cluster that says nothing any more is noticed. What is under way stays claimed
/// however long that lasts, and is there once. Who is to end ends.
#[test]
fn a_broker_that_falls_silent_is_noticed() {
    let Some(kafka) = rough() else { return };
    let m = Mount::new();
    let from = m.queue_with("from", &["durability=async", "visibility_timeout=1s"]);
    let cron = m.queue_with("cron", &["durability=async"]);
    m.queue("q");
    m.fill(&cron, 2000);
    kafka.topic("silent", 1);
    kafka.topic("cron", 1);
    let quick = ["-o", "kafka.socket.timeout.ms=3000", "-o", "kafka.api.version.request.timeout.ms=1000"];
    let out = start(
        &m,
        &[&SOON[..], &quick, &["-o", "name=out", "-o", "confirm_timeout=1s", "from", &kafka.url("silent")]].concat(),
    );
    let into = start(&m, &[&SOON[..], &quick, &["-o", "name=in", &kafka.url("silent"), "q"]].concat());
    let ends = ["--until-empty", "-o", "name=cron", "-o", "window=1", "-o", "confirm_timeout=1s", "cron"];
    let ends = start(&m, &[&ends[..], &[&kafka.url("cron")]].concat());
    wait_until(|| ["out", "in"].iter().all(|name| of(&m, name, "state") == "running"));
    m.fill(&from, 1);
    wait_until(|| m.bodies("q").len() == 1 && m.stats(&cron)["acked_total"].as_u64().unwrap() > 0);
    kafka.pause();
    for name in ["a", "b", "c"] {
        std::fs::write(from.join(name), name).unwrap();
    }
    let ran = ends.finish();
    assert_eq!((ran.code(), &m.stats(&cron)["claimed"]), (Some(16), &0.into()), "{ran:?}");
    ran.fails("no confirm for 1 s");
    wait_until(|| out.errors().contains("failing: no confirm for 1 s"));
    wait_until(|| ["out", "in"].iter().all(|name| of(&m, name, "state") == "connecting"));
    // Far longer than a lease.
    holds_for(Duration::from_secs(3), || {
        let stats = m.stats(&from);
        stats["claimed"] == 3 && stats["expired_total"] == 0
    });
    kafka.resume();
    wait_until(|| is_empty(&m, &from) && m.bodies("q").len() == 4);
    wait_until(|| ["out", "in"].iter().all(|name| of(&m, name, "state") == "running"));
    for link in [out, into] {
        link.signal(libc::SIGTERM);
        assert_eq!(link.finish().code(), Some(0));
    }
    assert_eq!(kafka.bodies("silent").len(), 4, "each once");
    assert_eq!(m.stats(&from)["claims_total"], 4);
}
