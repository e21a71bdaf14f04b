//! Everything that was said before a restart or a crash of mqfs holds after it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::*;
use crate::extra::*;

/// All that users can see of a queue: for each state the names, for each message body and attributes, and the drafts.
fn picture(m: &Mount, queue: &str) -> BTreeMap<String, String> {
    let q = m.path().join(queue);
    let mut picture = BTreeMap::new();
    for (place, dir) in [("ready", q.clone()), ("claimed", control(&q, "claimed")), ("dead", control(&q, "dead"))] {
        picture.insert(format!("listing of {place}"), listing(&dir).join("\n"));
    }
    picture.insert("listing of peek".into(), listing(control(&q, "peek")).join("\n"));
    for (name, body) in m.messages(queue) {
        let path = control(&q, "peek").join(&name);
        let meta = m.sh(&format!("stat -c '%s %u %g %a %Y' '{}'", path.display())).ok().to_owned();
        let mut text = format!("{} {meta}", String::from_utf8_lossy(&body));
        for attribute in xattrs(&path) {
            text.push_str(&format!("{attribute}={}\n", xattr(&path, &attribute).unwrap_or_default()));
        }
        picture.insert(name, text);
    }
    for name in listing(&q).iter().filter(|name| name.starts_with('.')) {
        let path = q.join(name);
        let text = format!("{} {:?}", fs::read_to_string(&path).unwrap(), xattrs(&path));
        picture.insert(name.clone(), text);
    }
    let config = fs::read_to_string(control(&q, "config")).unwrap();
    picture.insert("config".into(), config);
    picture
}

fn count(m: &Mount, queue: &str, key: &str) -> u64 {
    m.stats(queue)[key].as_u64().unwrap_or_else(|| panic!("no {key} in {}", m.stats(queue)))
}

/// Asserts that the counters say what the listings show.
fn assert_counted(m: &Mount, queue: &str) {
    let q = m.path().join(queue);
    let drafts = listing(&q).iter().filter(|name| name.starts_with('.')).count();
    assert_eq!(count(m, queue, "ready"), (listing(&q).len() - drafts) as u64);
    assert_eq!(count(m, queue, "claimed"), listing(control(&q, "claimed")).len() as u64);
    assert_eq!(count(m, queue, "dead"), listing(control(&q, "dead")).len() as u64);
    assert_eq!(count(m, queue, "drafts"), drafts as u64);
    let messages = m.messages(queue);
    let bytes: usize = messages.iter().map(|(_, body)| body.len()).sum();
    let counted: u64 = ["ready_bytes", "claimed_bytes", "dead_bytes"].iter().map(|key| count(m, queue, key)).sum();
    assert_eq!(counted, bytes as u64);
}

fn restart(m: &mut Mount, kill: bool) {
    if kill { m.kill9_and_remount() } else { m.remount() }
}

/// Messages in every state, drafts, headers, modes, times, configuration: the same after SIGTERM and after kill -9.
#[test]
fn everything_is_there_after_a_restart() {
    for kill in [false, true] {
        let mut m = Mount::new();
        let q = m.queue_with("q", &["visibility_timeout=1h", "max_deliveries=9"]);
        m.fill(&q, 8);
        m.message(&q, "large", "L".repeat(300_000));
        m.message(&q, "empty", "");
        let all = listing(&q);
        transition(&q, "claimed", &q.join(&all[1]));
        transition(&q, "claimed", &q.join(&all[2]));
        transition(&q, "dead", &q.join(&all[4]));
        fs::rename(transition(&q, "claimed", &q.join(&all[5])), q.join(&all[5])).unwrap();
        fs::remove_file(q.join(&all[6])).unwrap();
        fs::remove_file(transition(&q, "claimed", &q.join(&all[7]))).unwrap();
        fs::write(q.join(".headed"), "with headers").unwrap();
        set_xattr(q.join(".headed"), "user.color", "red").unwrap();
        set_xattr(q.join(".headed"), "user.mq.correlation_id", "17").unwrap();
        fs::rename(q.join(".headed"), q.join("headed")).unwrap();
        m.sh("umask 027; echo masked > q/masked; chown 12345:54321 q/*-masked; touch -d 2001-02-03 q/*-masked").ok();
        fs::write(q.join(".draft"), "draft").unwrap();
        set_xattr(q.join(".draft"), "user.shade", "dark").unwrap();
        m.sh("printf more >> q/.draft").ok();
        m.queue("q/inner");
        assert_counted_but_nested(&m, "q");
        let before = picture(&m, "q");
        let stats = m.stats("q");

        for round in 0..2 {
            restart(&mut m, kill);
            assert_eq!(picture(&m, "q"), before, "kill -9: {kill}, round {round}");
            let now = m.stats("q");
            for (key, value) in stats.as_object().unwrap().iter().filter(|(key, _)| key.ends_with("_total")) {
                assert_eq!(&now[key], value, "{key}, kill -9: {kill}");
            }
            assert_counted_but_nested(&m, "q");
        }
        assert_eq!(fs::read_to_string(q.join(".draft")).unwrap(), "draftmore");
        assert_eq!(m.sh("cat q/*-headed").ok(), "with headers");
        m.sh("mv q/.mq/dead/* q/ && mv q/.draft q/published").ok();
        assert_listed_last(&q, "published");
    }
}

/// As [`assert_counted`], for a queue with one nested queue.
fn assert_counted_but_nested(m: &Mount, queue: &str) {
    assert_eq!(count(m, queue, "queues"), 1);
    let inner = m.path().join(queue).join("inner");
    fs::remove_dir(&inner).unwrap();
    assert_counted(m, queue);
    fs::create_dir(&inner).unwrap();
}

fn assert_listed_last(queue: &Path, name: &str) {
    let names: Vec<String> = listing(queue).into_iter().filter(|name| name.contains('-')).collect();
    assert_eq!(producer(names.last().unwrap()), name);
}

/// "Sequence numbers are unique in the store and grow": across restarts and crashes too, in all queues together.
#[test]
fn sequence_numbers_keep_growing() {
    let mut m = Mount::new();
    let (q, p) = (m.queue("q"), m.queue("p"));
    let mut last = 0;
    for round in 0..6 {
        for queue in [&q, &p, &q] {
            let message = m.message(queue, "a", "body");
            let seq: u64 = xattr(&message, "user.mq.seq").unwrap().parse().unwrap();
            assert!(seq > last, "round {round}: {seq} after {last}");
            assert!(message.file_name().unwrap().to_str().unwrap().starts_with(&format!("{seq:016}-")));
            last = seq;
            // Also when the newest is gone, so that nothing on disk shows how far the numbers went.
            fs::remove_file(message).unwrap();
        }
        restart(&mut m, round % 2 == 1);
    }
}

/// The order of delivery is the order of closes, over any number of restarts, returned messages in their places.
#[test]
fn order_is_kept() {
    let mut m = Mount::new();
    let q = m.queue("q");
    let mut expected = Vec::new();
    for round in 0..4 {
        for i in 0..20 {
            let name = format!("r{round}-{i}");
            fs::write(q.join(&name), &name).unwrap();
            expected.push(name);
        }
        let all = listing(&q);
        let claimed = transition(&q, "claimed", &q.join(&all[round * 7]));
        restart(&mut m, round % 2 == 0);
        fs::rename(claimed, q.join(&all[round * 7])).unwrap();
        assert_eq!(m.bodies("q"), expected);
        assert_listed(&q, &expected.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// Counters are "never wrong": after random work cut short by kill -9, they say what is there.
#[test]
fn counters_are_right_after_a_crash_at_any_moment() {
    let mut random = Random::new();
    let mut m = Mount::new();
    m.queue_with("q", &["max_deliveries=0", "visibility_timeout=1h"]);
    let work = r#"
import os, random, sys
random.seed(int(sys.argv[1]))
C, D = "q/.mq/claimed/", "q/.mq/dead/"
def pick(path): return random.choice([n for n in os.listdir(path) if n[0] != "."] or ["none"])
while True:
    try:
        what = random.randrange(9)
        if what < 3:
            with open("q/n", "w") as f: f.write("x" * random.choice([0, 1, 100, 50000]))
        elif what == 3: n = pick("q"); os.rename("q/" + n, C + n)
        elif what == 4: n = pick(C); os.rename(C + n, "q/" + n)
        elif what == 5: n = pick("q"); os.rename("q/" + n, D + n)
        elif what == 6: n = pick(D); os.rename(D + n, "q/" + n)
        elif what == 7: os.unlink(random.choice(["q/", C, D]) + pick("q"))
        else:
            with open("q/.draft", "w") as f: f.write("draft")
            if random.random() < 0.7: os.rename("q/.draft", "q/published")
    except FileNotFoundError: pass
    except OSError as error:
        if error.errno in (103, 107, 5): break
        raise
"#;
    for round in 0..6 {
        let seed = random.below(1 << 32).to_string();
        let workers: Vec<Running> = (0..2)
            .map(|i| {
                let mut command = std::process::Command::new("python3");
                command.args(["-c", work, &format!("{seed}{i}")]);
                m.start_command(&mut command)
            })
            .collect();
        let goal = count(&m, "q", "enqueued_total") + 20 + random.below(100);
        wait_until(|| count(&m, "q", "enqueued_total") >= goal);
        m.kill9();
        for worker in workers {
            worker.finish();
        }
        m.start();
        println!("round {round}: {}", m.stats("q"));
        assert_counted(&m, "q");
        assert!(count(&m, "q", "enqueued_total") >= goal);
        assert!(m.messages("q").iter().all(|(_, body)| body.iter().all(|byte| *byte == b'x') || body == b"draft"));
    }
}

/// "moves it to another queue atomically": whenever mqfs is killed, each message is in one of the queues, whole.
#[test]
fn moves_are_atomic_across_crashes() {
    let mut random = Random::new();
    let mut m = Mount::new();
    let (q, p) = (m.queue("q"), m.queue("p"));
    m.fill(&q, 30);
    for i in 0..5 {
        m.message(&q, "large", format!("{i}").repeat(100_000));
    }
    let ids = |m: &Mount| {
        let mut ids: Vec<String> = ["q", "p"]
            .iter()
            .flat_map(|queue| m.messages(queue).into_iter().map(move |(name, _)| (queue, name)))
            .map(|(queue, name)| xattr(m.path().join(queue).join(".mq/peek").join(name), "user.mq.id").unwrap())
            .collect();
        ids.sort();
        ids
    };
    let bodies = |m: &Mount| {
        let mut bodies = [m.bodies(&q), m.bodies(&p)].concat();
        bodies.sort();
        bodies
    };
    let (before, whole) = (ids(&m), bodies(&m));
    assert_eq!(before.len(), 35);
    let work = r#"
import os, random
while True:
    a, b = random.choice([("q", "p"), ("p", "q"), ("q/.mq/claimed", "p"), ("q", "q/.mq/claimed"), ("p", "p/.mq/dead"), ("p/.mq/dead", "q")])
    try: name = random.choice(os.listdir(a) or ["none"]); os.rename(a + "/" + name, b + "/" + name)
    except FileNotFoundError: pass
    except OSError as error:
        if error.errno in (103, 107, 5): break
        raise
"#;
    for _ in 0..6 {
        let workers = [m.spawn_python(work), m.spawn_python(work)];
        let moved = |m: &Mount| count(m, "q", "moved_out_total") + count(m, "p", "moved_out_total");
        let goal = moved(&m) + 20 + random.below(200);
        wait_until(|| moved(&m) >= goal);
        m.kill9();
        for worker in workers {
            worker.finish();
        }
        m.start();
        assert_eq!(ids(&m), before);
        assert_eq!(bodies(&m), whole);
        assert_counted(&m, "q");
        assert_counted(&m, "p");
    }
}

/// A mount that was killed is no obstacle: the next one takes the store over at once.
#[test]
fn a_crash_leaves_no_lock_behind() {
    let mut m = Mount::new();
    m.queue("q");
    for i in 0..5 {
        m.put("q/a", format!("body {i}"));
        m.kill9_and_remount();
    }
    assert_eq!(m.bodies("q").len(), 5);
}
