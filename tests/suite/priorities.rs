//! "In a queue with `priorities = N` (2..10) the name starts with one more digit, N-1-priority, so the order still holds."

use std::fs;

use crate::common::*;
use crate::extra::*;

/// The producers' names, in the order of the listing, with the digits of their priorities.
fn listed(dir: &std::path::Path) -> Vec<String> {
    listing(dir).iter().map(|name| format!("{} {}", &name[..1], &name[18..])).collect()
}

/// `ls`, the shell's `*`, readdir and the order of delivery are the same: by priority, then first in, first out.
#[test]
fn higher_priorities_come_first() {
    let m = Mount::new();
    let q = m.queue_with("q", &["priorities=3"]);
    m.sh("echo > q/a; for p in 2 0 1 9 1; do echo > q/.mq/with/priority=$p/p$p; done; echo > q/z").ok();
    let order = ["0 p2", "0 p9", "1 p1", "1 p1", "2 a", "2 p0", "2 z"];
    assert_eq!(listed(&q), order);
    assert_eq!(listed(&control(&q, "peek")), order);
    let names: Vec<String> = listing(&q);
    assert_eq!(m.sh("cd q && ls").ok().lines().collect::<Vec<_>>(), names);
    assert_eq!(m.sh("cd q && for f in *; do echo \"$f\"; done").ok().lines().collect::<Vec<_>>(), names);
    let mut taken = Vec::new();
    for _ in &names {
        let path = m.sh("cat q/.mq/claim").ok().trim().to_owned();
        taken.push(plain(path.rsplit('/').next().unwrap()));
    }
    assert_eq!(taken, names);
    assert_eq!(listed(&control(&q, "claimed")), order);
    // What is given back is where it was.
    m.sh("mv q/.mq/claimed/*-z q/; mv q/.mq/claimed/*-p9 q/; mv q/.mq/claimed/*-p2 q/").ok();
    assert_eq!(listed(&q), ["0 p2", "0 p9", "2 z"]);
    m.sh("echo > q/.mq/with/priority=2/new").ok();
    assert_eq!(listed(&q), ["0 p2", "0 p9", "0 new", "2 z"]);
}

/// "The 16 digits alone resolve too", with the digit of the priority or without.
#[test]
fn digits_alone_find_the_message() {
    let m = Mount::new();
    let q = m.queue_with("q", &["priorities=10"]);
    m.sh("echo body > q/.mq/with/priority=4/a").ok();
    let name = listing(&q).remove(0);
    assert!(name.starts_with('5'), "{name}");
    for form in [&name[..17], &name[1..17], &name[1..], &name] {
        assert!(fs::metadata(q.join(form)).is_ok(), "{form}");
        assert!(fs::metadata(control(&q, "peek").join(form)).is_ok(), "{form}");
    }
    assert_eq!(xattr(q.join(&name), "user.mq.seq").as_deref(), Some(&name[1..17]));
    m.sh(&format!("mv q/{} q/.mq/claimed/ && rm q/.mq/claimed/{}", &name[1..17], &name[..17])).ok();
    assert_eq!(m.bodies("q").len(), 0);
}

/// "237 with priorities"
#[test]
fn names_are_one_byte_shorter() {
    let m = Mount::new();
    let q = m.queue_with("q", &["priorities=2"]);
    assert_eq!(errno(fs::write(q.join("n".repeat(238)), "")), libc::ENAMETOOLONG);
    fs::write(q.join("n".repeat(237)), "").unwrap();
    assert_eq!(listing(&q)[0].len(), 255);
    // A name that was checked before the digit came is refused at the close.
    let p = m.queue("p");
    let script = "exec 3> p/N; echo 'priorities = 2' > p/.mq/config; echo x >&3; exec 3>&-";
    m.sh(&script.replace('N', &"n".repeat(238)));
    assert_eq!((listing(&p).len(), m.stats("p")["aborted_total"].as_u64()), (0, Some(1)));
}

/// Moving to a queue with another number of priorities gives the message the place that its priority has there.
#[test]
fn moving_between_queues() {
    let m = Mount::new();
    let (many, few, none) =
        (m.queue_with("many", &["priorities=10"]), m.queue_with("few", &["priorities=2"]), m.queue("none"));
    m.sh("for p in 7 1 0; do echo > many/.mq/with/priority=$p/p$p; done").ok();
    assert_eq!(listed(&many), ["2 p7", "8 p1", "9 p0"]);
    m.sh("mv many/* few/").ok();
    assert_eq!(listed(&few), ["0 p7", "0 p1", "1 p0"]);
    m.sh("mv few/* none/").ok();
    assert_listed(&none, &["p7", "p1", "p0"]);
    m.sh("mv none/* many/").ok();
    assert_eq!(listed(&many), ["2 p7", "8 p1", "9 p0"]);
}

/// The number changes only while the queue is empty, hidden messages and every state included.
#[test]
fn the_number_is_changed_while_the_queue_is_empty() {
    let m = Mount::new();
    let q = m.queue("q");
    for bad in ["0", "11", "-1", "two", ""] {
        m.sh(&format!("echo 'priorities = {bad}' > q/.mq/config")).fails("Invalid argument");
    }
    fs::write(q.join("a"), "").unwrap();
    for dir in ["", ".mq/claimed/", ".mq/dead/"] {
        if !dir.is_empty() {
            m.sh(&format!("mv q/{}*-a q/{dir}", if dir == ".mq/dead/" { ".mq/claimed/" } else { "" })).ok();
        }
        m.sh("echo 'priorities = 2' > q/.mq/config").fails("Invalid argument");
        let text = fs::read_to_string(control(&q, "config")).unwrap();
        assert!(text.contains("priorities = 1\n") && text.contains("only while the queue holds no message"), "{text}");
        m.sh("echo 'priorities = 1' > q/.mq/config").ok();
        m.sh("setfattr -n user.mq.priorities -v 2 q").fails("Invalid argument");
        let text = fs::read_to_string(control(&q, "config")).unwrap();
        assert!(text.contains("# rejected: ") && text.contains("only while the queue holds no message"), "{text}");
    }
    m.sh("rm q/.mq/dead/*; echo 'priorities = 2' > q/.mq/config; echo > q/b").ok();
    assert_eq!(listed(&q), ["1 b"]);
}

/// Priorities hold across restarts.
#[test]
fn places_survive() {
    let mut m = Mount::new();
    let q = m.queue_with("q", &["priorities=10"]);
    m.sh("for p in 3 9 0 5; do echo > q/.mq/with/priority=$p/p$p; done").ok();
    let before = listing(&q);
    m.kill9_and_remount();
    assert_eq!(listing(&q), before);
    assert_eq!(listed(&q), ["0 p9", "4 p5", "6 p3", "9 p0"]);
}

/// "A message counts one level higher for each; it changes the order of claiming, not of the listing."
#[test]
fn what_waits_counts_more_when_the_next_is_claimed() {
    const NOON: u64 = 1_900_000_800;
    let m = Mount::with_clock(&format!("{NOON}.0005"));
    let q = m.queue_with("q", &["priorities=3", "priority_ageing=10m", "visibility_timeout=7d"]);
    let put = |minute: u64, priority: u8| {
        m.set_clock(&format!("{}.0005", NOON + minute * 60));
        m.sh(&format!("echo > q/.mq/with/priority={priority}/p{priority}-{minute}")).ok();
    };
    for (minute, priority) in [(0, 0), (5, 1), (9, 2), (12, 2)] {
        put(minute, priority);
    }
    // As long as nobody has waited for so long, the priorities count.
    let claim = || {
        let path = fs::read_to_string(control(&q, "claim")).unwrap();
        producer(&plain(path.trim_end().rsplit('/').next().unwrap())[1..]).to_owned()
    };
    assert_eq!(claim(), "p2-9");
    put(20, 2);
    // The first has waited for two levels, and the others for one and none: all are alike, and the oldest goes first.
    assert_eq!([claim(), claim(), claim(), claim()], ["p0-0", "p1-5", "p2-12", "p2-20"]);
    for (minute, priority) in [(30, 0), (31, 2)] {
        put(minute, priority);
    }
    let names: Vec<String> = listing(&q).iter().map(|name| name[18..].to_owned()).collect();
    m.set_clock(&format!("{}.0005", NOON + 51 * 60));
    assert_eq!(names, ["p2-31", "p0-30"], "the listing stays by priority");
    assert_eq!(claim(), "p2-31");
}
