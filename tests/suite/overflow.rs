//! "overflow = drop-oldest": the oldest ready messages make room for new ones.

use std::fs::{self, File};
use std::io::Write;

use crate::common::*;
use crate::extra::*;

fn dropped(m: &Mount) -> u64 {
    m.stats("q")["dropped_total"].as_u64().unwrap()
}

#[test]
fn the_oldest_make_room() {
    let mut m = Mount::new();
    let q = m.queue_with("q", &["max_messages=3", "overflow=drop-oldest"]);
    m.sh("for i in 1 2 3 4 5; do echo $i > q/m$i; done").ok();
    assert_eq!(m.bodies("q"), ["3\n", "4\n", "5\n"]);
    assert_eq!(dropped(&m), 2);
    m.sh("echo 6 > q/.6 && mv q/.6 q/6 && ln q/.6 q/6").fails("");
    m.sh("echo 7 > q/.7 && ln q/.7 q/7").ok();
    assert_eq!(m.bodies("q"), ["5\n", "6\n", "7\n"]);
    m.remount();
    m.sh("mkdir other && echo 8 > other/8 && mv other/*-8 q/").ok();
    assert_eq!(m.bodies("q"), ["6\n", "7\n", "8\n"]);
    m.sh("mkdir q/.mq/batch/b && echo 9 > q/.mq/batch/b/9 && echo 10 > q/.mq/batch/b/91 && mv q/.mq/batch/b q/").ok();
    assert_eq!(m.bodies("q"), ["8\n", "9\n", "10\n"]);
    assert_eq!(dropped(&m), 7);
    assert_eq!(m.log().matches("oldest messages are dropped").count(), 2, "once for each mount: {}", m.log());
    assert_eq!(m.stats("q")["rejected_total"], 0);
    assert_eq!(listing(&q).iter().filter(|name| !name.starts_with('.')).count(), 3);
}

/// Claimed and delayed messages are never dropped; when nothing else is left, the new one is refused.
#[test]
fn only_ready_messages_are_dropped() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_messages=3", "overflow=drop-oldest"]);
    let claimed = m.message(&q, "claimed", "claimed");
    transition(&q, "claimed", &claimed);
    fs::write(q.join(".later"), "later").unwrap();
    set_xattr(q.join(".later"), "user.mq.delay", "1h").unwrap();
    fs::rename(q.join(".later"), q.join("later")).unwrap();
    m.fill(&q, 3);
    assert_listed(&q, &["m2"]);
    let last = transition(&q, "claimed", &q.join(only_name(&q)));
    m.sh("echo hi > q/a").fails("Disk quota exceeded");
    assert_eq!(m.bodies("q"), ["claimed", "later", "m2"]);
    fs::remove_file(last).unwrap();
    m.sh("echo hi > q/a; echo ho > q/b").ok();
    assert_eq!(m.bodies("q"), ["claimed", "later", "ho\n"]);
    assert_eq!((dropped(&m), m.stats("q")["rejected_total"].as_u64()), (3, Some(1)));
}

/// By bytes: as many as it takes.
#[test]
fn bytes_make_room_too() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_bytes=100K", "overflow=drop-oldest"]);
    m.sh("for i in 1 2 3 4; do head -c 25000 /dev/zero > q/m$i; done").ok();
    assert_eq!(m.body_files().len(), 0, "in the database");
    m.sh("head -c 60000 /dev/zero > q/large").ok();
    assert_listed(&q, &["m4", "large"]);
    assert_eq!(dropped(&m), 3);
    m.sh("head -c 60000 /dev/zero > q/larger").ok();
    assert_listed(&q, &["larger"]);
    wait_until(|| m.body_files().len() == 1);
    m.sh("head -c 200000 /dev/zero > q/toolarge").fails("Disk quota exceeded");
    assert_listed(&q, &["larger"]);
}

/// "The oldest of the lowest priority first"
#[test]
fn the_lowest_priority_goes_first() {
    let m = Mount::new();
    m.queue_with("q", &["priorities=3", "max_messages=4", "overflow=drop-oldest"]);
    let put = |name: &str, priority: u8| {
        m.sh(&format!("echo {name} > q/.mq/with/priority={priority}/{name}")).ok();
    };
    put("high1", 2);
    put("low1", 0);
    put("low2", 0);
    put("middle1", 1);
    put("high2", 2);
    assert_eq!(m.bodies("q"), ["high1\n", "high2\n", "middle1\n", "low2\n"]);
    put("low3", 0);
    put("middle2", 1);
    put("high3", 2);
    // None is dropped for one of a lower priority, by whatever way that comes.
    m.sh("mkdir other && echo low > other/low").ok();
    for low in [
        "echo low > q/.mq/with/priority=0/low",
        "echo low > q/low",
        "echo low > q/.mq/lines",
        "echo low > q/.low; mv q/.low q/low",
        "mv other/*-low q/",
        "mkdir q/.mq/batch/b; echo low > q/.mq/batch/b/low; mv q/.mq/batch/b q/",
    ] {
        m.sh(low).fails("Disk quota exceeded");
        assert_eq!(m.bodies("q"), ["high1\n", "high2\n", "high3\n", "middle2\n"], "{low}");
    }
    assert_eq!(m.stats("q")["rejected_total"], 6);
    // Nor for one without bytes, or with one: its open cannot tell that it will say no priority.
    for (script, refused) in [("import os\nf = os.open('q/low', os.O_CREAT | os.O_WRONLY)", 7), ("printf x > q/low", 8)]
    {
        let script = if refused == 7 { format!("python3 -c \"{script}\nos.close(f)\"") } else { script.to_owned() };
        m.sh(&script).fails("Disk quota exceeded");
        assert_eq!(m.bodies("q"), ["high1\n", "high2\n", "high3\n", "middle2\n"], "{script}");
        assert_eq!(m.stats("q")["rejected_total"], refused);
    }
    put("middle3", 1);
    assert_eq!(m.bodies("q"), ["high1\n", "high2\n", "high3\n", "middle3\n"]);
    put("high4", 2);
    put("high5", 2);
    assert_eq!(m.bodies("q"), ["high2\n", "high3\n", "high4\n", "high5\n"]);
    assert_eq!(dropped(&m), 7);
    assert_eq!(m.messages("q").len(), 4);
}

/// Writers that are open at the same time, and a limit that is lowered: in the end it holds.
#[test]
fn what_is_open_or_too_much_is_dropped_in_the_end() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_messages=2", "overflow=drop-oldest"]);
    let mut files: Vec<File> = (0..5).map(|n| File::create(q.join(format!("m{n}"))).unwrap()).collect();
    for (n, file) in files.iter_mut().enumerate() {
        write!(file, "m{n}").unwrap();
        drop(file.try_clone().unwrap()); // a close that commits
    }
    drop(files);
    assert_listed(&q, &["m3", "m4"]);
    m.set("q", "max_messages = 0");
    m.fill(&q, 400);
    m.set("q", "max_messages = 10");
    for _ in 0..3 {
        m.fill(&q, 1);
    }
    assert_eq!(listing(&q).len(), 10);
    assert_eq!(dropped(&m), 3 + 395);
}

/// Nothing is lost but what is counted, while producers and workers race.
#[test]
fn drops_race_with_workers() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_messages=20", "overflow=drop-oldest", "durability=async"]);
    let producers: Vec<_> =
        (0..3).map(|_| m.spawn("for ((i = 0; i < 150; i++)); do echo $i > q/m || exit 1; done")).collect();
    let worker = "n=0; while ! [ -e $T/stop ]; do for f in q/[0-9]*; do
                      mv $f q/.mq/claimed/ && rm q/.mq/claimed/${f##*/} && n=$((n + 1))
                  done 2> /dev/null; done; echo $n";
    let workers: Vec<_> = (0..2).map(|_| m.spawn(worker)).collect();
    for producer in producers {
        producer.finish().ok();
    }
    fs::write(m.scratch().join("stop"), "").unwrap();
    let acked: u64 = workers.into_iter().map(|worker| worker.finish().stdout.trim().parse::<u64>().unwrap()).sum();
    let left = listing(&q).len() as u64;
    assert!(left <= 20);
    assert_eq!(acked + left + dropped(&m), 450);
    assert_eq!(m.stats("q")["ready"].as_u64().unwrap(), left);
}
