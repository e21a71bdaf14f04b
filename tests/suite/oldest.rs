//! How long the oldest ready message has been waiting, as `.mq/stats` and the queue's attribute tell.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::common::*;
use crate::extra::*;

const OLDEST: &str = "oldest_ready_age_ms";
const ATTRIBUTE: &str = "user.mq.oldest_ready_age_ms";

fn age(m: &Mount, queue: &str) -> Option<u64> {
    m.stats(queue)[OLDEST].as_u64()
}

fn ms_since(at: SystemTime) -> u64 {
    SystemTime::now().duration_since(at).unwrap_or_default().as_millis() as u64
}

/// The instants and ages that mqfs tells are whole milliseconds of the wall clock: an age may be one more than what has passed by a
/// finer clock, so what is compared with them is counted in the same way.
fn now_ms() -> u64 {
    ms_since(UNIX_EPOCH)
}

/// Asserts that the queue's oldest message is this one.
#[track_caller]
fn is_oldest(m: &Mount, queue: &str, message: &Path) {
    let message = within(&m.path().join(queue), "peek", message);
    let at = humantime::parse_rfc3339(&xattr(message, "user.mq.enqueued_at").unwrap()).unwrap();
    let before = ms_since(at);
    let told = age(m, queue).expect("something is ready");
    assert!((before..=ms_since(at)).contains(&told), "{told} ms, and not {before}");
}

#[test]
fn nothing_is_ready() {
    let m = Mount::new();
    let q = m.queue("q");
    assert!(m.stats("q")[OLDEST].is_null() && m.stats("")[OLDEST].is_null());
    assert_eq!(xattr(&q, ATTRIBUTE).as_deref(), Some(""));
    let listed = xattrs(&q);
    assert!(listed.contains(&ATTRIBUTE.to_owned()));
    let x = m.message(&q, "x", "");
    assert_eq!(xattrs(&q), listed, "the names do not tell whether there is one");
    assert!(xattr(&q, ATTRIBUTE).unwrap().parse::<u64>().is_ok());
    m.sh("setfattr -n user.mq.oldest_ready_age_ms -v 1 q").fails("Operation not permitted");
    transition(&q, "claimed", &x);
    assert_eq!((age(&m, "q"), xattr(&q, ATTRIBUTE).as_deref()), (None, Some("")), "what is claimed does not wait");
}

/// The first in line is the oldest; what comes back to its place has been waiting since then; the mount tells the oldest of all.
#[test]
fn the_oldest_is_at_the_head() {
    let mut m = Mount::new();
    let q = m.queue("q");
    let first = m.message(&q, "first", "");
    wait_until(|| age(&m, "q").is_some_and(|age| age >= 5));
    let second = m.message(&q, "second", "");
    is_oldest(&m, "q", &first);
    let claimed = transition(&q, "claimed", &first);
    is_oldest(&m, "q", &second);
    std::fs::rename(&claimed, &first).unwrap();
    is_oldest(&m, "q", &second);
    m.remount();
    is_oldest(&m, "q", &second);
    let other = m.queue("other");
    m.message(&other, "x", "");
    let of_other = age(&m, "other").unwrap();
    assert!(age(&m, "").unwrap() >= of_other + 5);
}

/// With priorities, the oldest may be one that others overtake.
#[test]
fn the_oldest_may_have_a_low_priority() {
    let m = Mount::new();
    let q = m.queue_with("q", &["priorities=3"]);
    let low = m.message(&q, "low", "");
    wait_until(|| age(&m, "q").is_some_and(|age| age >= 5));
    m.sh("echo > q/.high && setfattr -n user.mq.priority -v 2 q/.high && mv q/.high q/high").ok();
    assert!(listing(&q)[0].ends_with("-high"));
    is_oldest(&m, "q", &low);
}

/// A message that its producer delayed waits since it was due.
#[test]
fn what_was_delayed_waits_since_it_was_due() {
    let m = Mount::new();
    m.queue("q");
    m.sh("echo > q/.x && setfattr -n user.mq.delay -v 1h q/.x && mv q/.x q/x").ok();
    assert_eq!(age(&m, "q"), None);
    let moved = now_ms();
    m.sh("mv q/.mq/delayed/* q/").ok();
    let waits = age(&m, "q").unwrap();
    assert!(waits <= now_ms() - moved, "{waits} ms, and delivered early");
    m.queue("late");
    let begun = now_ms();
    m.sh("echo > late/.x && setfattr -n user.mq.delay -v 2s late/.x && mv late/.x late/x").ok();
    wait_until(|| age(&m, "late").is_some_and(|age| age > 0));
    let waits = age(&m, "late").unwrap();
    let since_due = now_ms() - begun - 2000;
    assert!(waits <= since_due, "{waits} ms, and not since it was enqueued");
}

/// A bulk redrive of what died long ago makes nothing old, nor does it hide what waits behind; and each other state has an age of
/// its own.
#[test]
fn each_state_counts_since_it_began() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 5);
    m.sh("for f in q/*; do mv $f q/.mq/dead/; done").ok();
    let of = |m: &Mount, state: &str| m.stats("q")[format!("oldest_{state}_age_ms")].as_u64();
    wait_until(|| of(&m, "dead").is_some_and(|age| age >= 200));
    assert_eq!((of(&m, "ready"), of(&m, "claimed"), of(&m, "delayed")), (None, None, None));
    let redriven = now_ms();
    m.sh("mv q/.mq/dead/* q/").ok();
    let ready = of(&m, "ready").unwrap();
    assert!(ready <= now_ms() - redriven, "{ready} ms, of dead letters that were redriven");
    assert_eq!(of(&m, "dead"), None);
    // Behind them in line, and before them by age.
    let waiting = m.message(&q, "behind", "");
    wait_until(|| of(&m, "ready").is_some_and(|age| age >= 100));
    for name in listing(&q).iter().take(5) {
        let claimed = transition(&q, "claimed", &q.join(name));
        std::fs::rename(claimed, q.join(name)).unwrap();
    }
    is_oldest(&m, "q", &waiting);
    m.remount();
    is_oldest(&m, "q", &waiting);
    let begun = now_ms();
    let claimed = transition(&q, "claimed", &waiting);
    let held = of(&m, "claimed").unwrap();
    assert!(held <= now_ms() - begun, "{held} ms");
    wait_until(|| of(&m, "claimed").is_some_and(|age| age >= 50));
    let begun = now_ms();
    std::fs::rename(claimed, within(&q, "delayed", &waiting)).unwrap();
    let delayed = of(&m, "delayed").unwrap();
    assert!(delayed <= now_ms() - begun, "{delayed} ms");
    assert_eq!(xattr(&q, "user.mq.oldest_claimed_age_ms").as_deref(), Some(""));
    assert_ne!(xattr(&q, "user.mq.oldest_delayed_age_ms").as_deref(), Some(""));
    m.sh("echo ready > q/.mq/purge && echo delayed > q/.mq/purge").ok();
    assert_eq!((of(&m, "ready"), of(&m, "delayed")), (None, None));
}
