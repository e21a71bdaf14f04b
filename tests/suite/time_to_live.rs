//! Times to live: `ttl` of a message, `message_ttl` of a queue, `expired=dead|drop`.

use std::fs;

use crate::common::*;
use crate::extra::*;

fn count(m: &Mount, key: &str) -> u64 {
    m.stats("q")[key].as_u64().unwrap()
}

/// What nobody claims in time is dead, counted, and can be redriven; then it has all the time there is.
#[test]
fn what_waits_too_long_is_dead() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo > q/.mq/with/ttl=300ms/short; echo > q/.mq/with/ttl=1h/long; echo > q/.mq/with/ttl=0s/none; echo > q/plain").ok();
    assert!(xattr(control(&q, "peek").join(&listing(control(&q, "peek"))[1]), "user.mq.expires").is_some());
    wait_until(|| listing(control(&q, "dead")).len() == 1);
    assert_listed(&control(&q, "dead"), &["short"]);
    assert_listed(&q, &["long", "none", "plain"]);
    assert_eq!((count(&m, "ttl_expired_total"), count(&m, "dead_lettered_total"), count(&m, "dead")), (1, 1, 1));
    m.sh("mv q/.mq/dead/* q/").ok();
    let short = q.join(&listing(&q)[0]);
    assert_eq!(xattr(&short, "user.mq.expires"), None);
    assert_eq!(xattr(&short, "user.mq.ttl").as_deref(), Some("300ms"));
}

/// `expired=drop` removes it for good; the shorter of the message's and the queue's time counts; a changed `message_ttl` is
/// for messages to come.
#[test]
fn a_queue_can_drop_what_expires() {
    let m = Mount::new();
    let q = m.queue("q");
    fs::write(q.join("before"), "").unwrap();
    m.set("q", "message_ttl=400ms\nexpired=drop");
    m.sh("echo > q/a; echo > q/.mq/with/ttl=1h/b; head -c 100000 /dev/zero > q/c").ok();
    wait_until(|| count(&m, "ttl_expired_total") == 3);
    assert_listed(&q, &["before"]);
    assert_eq!((m.bodies("q").len(), count(&m, "dead"), count(&m, "dead_lettered_total")), (1, 0, 0));
    wait_until(|| m.body_files().is_empty());
}

/// "claimed messages do not expire while claimed but do when they come back"
#[test]
fn a_claimed_message_expires_when_it_comes_back() {
    let m = Mount::with_clock("+0");
    let q = m.queue_with("q", &["visibility_timeout=12h"]);
    m.sh("echo body > q/.mq/with/ttl=1h/a; mv q/*-a q/.mq/claimed/; echo > q/.mq/with/ttl=1h/witness").ok();
    m.set_clock("+2h");
    wait_until(|| count(&m, "ttl_expired_total") == 1);
    assert_listed(&control(&q, "claimed"), &["a"]);
    assert_eq!(m.sh("cat q/.mq/claimed/*-a").ok(), "body\n");
    m.sh("mv q/.mq/claimed/*-a q/").ok();
    wait_until(|| listing(control(&q, "dead")).len() == 2);
    assert_eq!(count(&m, "ttl_expired_total"), 2);
    assert_eq!(listing(&q).len(), 0);
}

/// The time of a delayed message begins when it is due.
#[test]
fn a_delayed_message_has_its_time_when_it_is_due() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo > q/.mq/with/delay=1h,ttl=1h/a; echo > q/.mq/with/ttl=100ms/witness").ok();
    let a = control(&q, "delayed").join(&listing(control(&q, "delayed"))[0]);
    let at = |name: &str| humantime::parse_rfc3339(&xattr(&a, name).unwrap()).unwrap();
    assert_eq!(at("user.mq.expires").duration_since(at("user.mq.due")).unwrap().as_secs(), 3600);
    m.sh("echo > q/.mq/with/delay=600ms,ttl=300ms/b").ok();
    wait_until(|| listing(control(&q, "dead")).len() == 2);
    assert_listed(&control(&q, "dead"), &["witness", "b"]);
}

/// A move begins it anew, by the message's own time and that of the other queue; a message that is dead has none of its own.
#[test]
fn moving_begins_it_anew() {
    let m = Mount::new();
    let (q, other) = (m.queue("q"), m.queue_with("other", &["message_ttl=2h"]));
    let plain = m.queue("plain");
    m.sh("echo > q/.mq/with/ttl=3h/a; echo > q/.mq/with/ttl=1h/b; echo > q/.mq/with/ttl=1h/c; mv q/*-c q/.mq/dead/")
        .ok();
    m.sh("mv q/* other/; mv q/.mq/dead/* plain/").ok();
    let hours = |path: &std::path::Path| {
        let at = humantime::parse_rfc3339(&xattr(path, "user.mq.expires")?).unwrap();
        Some(at.duration_since(std::time::SystemTime::now()).unwrap().as_secs().div_ceil(3600))
    };
    let of = |i: usize| hours(&other.join(&listing(&other)[i]));
    assert_eq!((of(0), of(1), hours(&only(&plain))), (Some(2), Some(1), None));
    assert_eq!(listing(&q).len(), 0);
}

/// It runs out while nothing is mounted, and across crashes. What is over cannot be claimed.
#[test]
fn it_runs_out_while_nothing_is_mounted() {
    let mut m = Mount::with_clock("+0");
    let q = m.queue_with("q", &["durability=async"]);
    for (kill, clock) in [(false, "+2h"), (true, "+4h")] {
        m.sh("echo > q/.mq/with/ttl=1h/a; echo > q/.mq/with/ttl=9h/b").ok();
        let a = q.join(&listing(&q)[0]);
        if kill {
            m.kill9()
        } else {
            m.stop()
        }
        m.set_clock(clock);
        m.start();
        let claimed = m.sh("cat q/.mq/claim").ok().to_owned();
        assert!(claimed.ends_with("-b\n"), "{claimed}");
        wait_until(|| state(&q, &a).as_deref() == Some("dead"));
        m.sh("rm q/.mq/claimed/* q/.mq/dead/*").ok();
    }
}
