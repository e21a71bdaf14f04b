//! The machine's clock is set while a store is mounted: what is due by the new time is done soon, and nothing is lost,
//! delivered twice, or held for ever. The clock that is set is the mount's own, by libfaketime.

use std::fs;

use crate::common::*;
use crate::extra::*;

/// Without anything else happening in the mount.
#[test]
fn what_is_due_by_a_clock_that_was_set_forward_is_delivered() {
    let m = Mount::with_clock("+0");
    let q = m.queue_with("q", &["visibility_timeout=30m", "message_ttl=0s"]);
    m.sh("echo claimed > q/claimed; mv q/*-claimed q/.mq/claimed/").ok();
    m.sh("echo delayed > q/.mq/with/delay=1h/delayed; echo later > q/.mq/with/delay=3h/later").ok();
    m.sh("echo old > q/.mq/with/ttl=1h/old").ok();
    m.set_clock("+2h");
    wait_until(|| producers(&q) == ["claimed", "delayed"]);
    assert_listed(&control(&q, "delayed"), &["later"]);
    assert_listed(&control(&q, "dead"), &["old"]);
    let stats = m.stats("q");
    assert_eq!((stats["expired_total"].as_u64(), stats["ttl_expired_total"].as_u64()), (Some(1), Some(1)));
}

/// A reader that waits is woken by what falls due so.
#[test]
fn a_waiting_reader_gets_what_is_due_by_a_clock_that_was_set_forward() {
    let m = Mount::with_clock("+0");
    m.queue("q");
    let reader = m.spawn("cat q/.mq/pop");
    m.sh("echo body > q/.mq/with/delay=1h/a").ok();
    wait_until(|| m.stats("q")["waiting"] == 1);
    m.set_clock("+2h");
    assert_eq!(reader.finish().ok(), "body\n");
    assert_eq!(m.bodies("q"), [""; 0]);
}

/// Whoever has a message open keeps it, though the lease that it had is over by the new clock.
#[test]
fn an_open_message_stays_claimed_when_the_clock_is_set_forward() {
    let m = Mount::with_clock("+0");
    let q = m.queue_with("q", &["visibility_timeout=30m", "max_lease=1h"]);
    let held = m.message(&q, "held", "held");
    let left = m.message(&q, "left", "left");
    let holder = m.holder(&held);
    transition(&q, "claimed", &left);
    m.set_clock("+2h");
    // Both leases ended at the same time, and by the new clock the longest lease is over.
    wait_until(|| producers(&q) == ["left"]);
    assert_eq!(state(&q, &held).as_deref(), Some("claimed"));
    assert_eq!(deliveries(&q, &held), 1);
    drop(holder);
}

/// Nothing that has been delivered is delivered again, and nothing waits longer than it would have from now on.
#[test]
fn a_clock_that_is_set_back_loses_nothing_and_delivers_nothing_twice() {
    let mut m = Mount::with_clock("+48h");
    let q = m.queue_with("q", &["visibility_timeout=30m", "dedup_window=1h"]);
    m.sh("echo acked > q/acked; echo claimed > q/claimed; echo ready > q/.mq/with/id=1/ready").ok();
    m.sh("echo delayed > q/.mq/with/delay=1h/delayed").ok();
    m.sh("f=$(echo q/*-acked) && cat $f && rm $f; mv q/*-claimed q/.mq/claimed/").ok();
    for restart in [false, true] {
        m.set_clock("+0");
        if restart {
            m.kill9_and_remount();
        }
        m.sh("echo again > q/.mq/with/id=1/ready; echo new > q/new; rm q/*-new").ok();
        assert_listed(&q, &["ready"]);
        assert_listed(&control(&q, "claimed"), &["claimed"]);
        assert_listed(&control(&q, "delayed"), &["delayed"]);
        let stats = m.stats("q");
        assert_eq!((stats["expired_total"].as_u64(), stats["claims_total"].as_u64()), (Some(0), Some(2)));
    }
    // By the time at which they were due, they are.
    m.set_clock("+50h");
    wait_until(|| producers(&q) == ["claimed", "ready", "delayed"]);
    assert_eq!(fs::read_to_string(q.join(&listing(&q)[0])).unwrap(), "claimed\n");
}

/// A clock that was wrong when a message was claimed, years ahead, does not hold it for years.
#[test]
fn a_lease_does_not_outlast_the_correction_of_a_wrong_clock() {
    [false, true].into_iter().for_each(lease_after_a_correction);
}

fn lease_after_a_correction(restart: bool) {
    let mut m = Mount::with_clock("+3650d");
    let q = m.queue_with("q", &["visibility_timeout=30m"]);
    let claimed = m.message(&q, "claimed", "claimed");
    transition(&q, "claimed", &claimed);
    m.set_clock("+0");
    if restart {
        m.kill9_and_remount();
    }
    let half_an_hour = std::time::Duration::from_secs(30 * 60);
    wait_until(|| deadline(&q, &claimed) <= std::time::SystemTime::now() + half_an_hour);
    assert_eq!(state(&q, &claimed).as_deref(), Some("claimed"));
    m.set_clock("+1h");
    wait_until(|| producers(&q) == ["claimed"]);
}

/// Nor does it delay for years what was delayed, or given back for later, while it was wrong.
#[test]
fn a_delay_does_not_outlast_the_correction_of_a_wrong_clock() {
    for restart in [false, true] {
        let mut m = Mount::with_clock("+3650d");
        let q = m.queue_with("q", &["dedup_window=30m"]);
        let later = m.message(&q, "later", "later");
        transition(&q, "claimed", &later);
        m.sh("mv q/.mq/claimed/*-later q/.mq/delayed/; echo delayed > q/.mq/with/delay=5m/delayed").ok();
        m.sh("echo x > q/.mq/with/id=1/x; rm q/*-x").ok();
        m.sh("echo far > q/.mq/with/deliver_at=2090-01-01T00:00:00Z/far").ok();
        m.set_clock("+0");
        if restart {
            m.kill9_and_remount();
        }
        wait_until(|| producers(&q) == ["later"]);
        assert_listed(&control(&q, "delayed"), &["delayed", "far"]);
        m.set_clock("+1h");
        wait_until(|| producers(&q) == ["later", "delayed"]);
        m.sh("echo again > q/.mq/with/id=1/again").ok();
        assert_listed(&q, &["later", "delayed", "again"]);
    }
}
