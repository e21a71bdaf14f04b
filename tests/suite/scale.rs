//! Many messages in one queue: complete listings in order, flat memory, and a head that is always at hand.
//!
//! 20,000 messages in the normal run, 1,000,000 with `MQFS_TEST_FULL`.

use std::fs;
use std::path::PathBuf;

use crate::common::*;
use crate::extra::*;

fn count() -> usize {
    if full() { 1_000_000 } else { 20_000 }
}

/// A mount with that many messages in the queue `q`, made by two processes.
fn filled(count: usize) -> (Mount, PathBuf) {
    filled_with(&[], count)
}

fn filled_with(args: &[&str], count: usize) -> (Mount, PathBuf) {
    let m = Mount::with(args);
    let q = m.queue_with("q", &["durability=async", "max_deliveries=0", "visibility_timeout=1d"]);
    enqueue(&m, count);
    (m, q)
}

fn enqueue(m: &Mount, count: usize) {
    let program = r#"
import os, sys
for i in range(int(sys.argv[1])):
    fd = os.open("q/m%d" % i, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(fd, b"body of %d" % i)
    os.close(fd)
"#;
    let mut command = std::process::Command::new("python3");
    let mut running = m.start_command(command.args(["-c", program, &count.to_string()]));
    // As long as it makes progress it may take its time.
    let mut last = 0;
    while running.is_running() {
        wait_until(|| {
            let now = m.stats("q")["enqueued_total"].as_u64().unwrap();
            let progress = now > last;
            last = now;
            progress || !running.is_running()
        });
    }
    running.finish().ok();
}

/// "Any number of messages per queue with flat memory": the second half costs no more memory than the first.
#[test]
fn memory_is_flat() {
    let (mut m, _q) = filled(count() / 2);
    let half = m.rss_kib();
    enqueue(&m, count() / 2);
    let all = m.rss_kib();
    // The database's own buffers fill up in the beginning; a queue kept in memory would take 100 bytes a message and more.
    let allowed = 16 * 1024 + half / 4;
    assert!(all < half + allowed, "{half} KiB at {}, {all} KiB at {}", count() / 2, count());
    m.remount();
    let mounted = m.rss_kib();
    assert_eq!(m.stats("q")["ready"].as_u64(), Some(count() as u64));
    assert!(mounted <= all + 8 * 1024, "mounting reads the store: {mounted} KiB");
}

/// A listing of a big directory is complete and in order, for readers with small and large buffers.
#[test]
fn a_big_listing_is_complete_and_in_order() {
    let (m, q) = filled(count());
    let names = listing(&q);
    assert_eq!(names.len(), count());
    assert!(names.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(names.iter().enumerate().all(|(i, name)| producer(name) == format!("m{i}")));
    assert_eq!(listing(control(&q, "peek")), names);
    assert_eq!(m.sh("ls q | wc -l; ls -U q | tail -n 1; find q -type f | wc -l").ok(), {
        format!("{0}\n{1}\n{0}\n", count(), names.last().unwrap())
    });
    // The smallest buffer that getdents64 takes for these names, so that each entry is a resumption.
    let program = r#"
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("q", os.O_RDONLY | os.O_DIRECTORY)
buf = ctypes.create_string_buffer(64)
names = []
while len(names) < 3000:
    n = libc.syscall(217, fd, buf, 64)
    assert n > 0, (n, ctypes.get_errno())
    at = 0
    while at < n:
        size, = struct.unpack_from("H", buf, at + 16)
        names.append(buf.raw[at + 19 : at + size].split(b"\0")[0].decode())
        at += size
print("\n".join(name for name in names if name[0] != "."))
"#;
    let ran = m.python(program);
    let seen: Vec<&str> = ran.ok().lines().collect();
    assert!(seen.len() >= 2998);
    assert!(seen.iter().zip(&names).all(|(a, b)| a == b), "one entry at a time");
}

/// "`ls -U q | head` answers at once": the reader is served from the beginning, without the rest being gone through.
#[test]
fn the_head_of_a_big_queue_is_at_hand() {
    // What is answered by io_uring is not counted by the kernel as written.
    let (m, q) = filled_with(&["-o", "transport=dev"], count());
    let names = listing(&q);
    let heads: String = names.iter().take(10).map(|name| format!("{name}\n")).collect();
    let stats = || {
        let mut stats = m.stats("q");
        stats.as_object_mut().unwrap().remove("oldest_ready_age_ms"); // it grows
        stats
    };
    let before = stats();
    assert_eq!(m.sh("ls -U q | head").ok(), heads);
    assert_eq!(m.sh("find q -type f -print -quit").ok(), format!("q/{}\n", names[0]));
    assert_eq!(stats(), before, "looking at the head changes nothing");
    // Bounded work, seen as bounded bytes: the first entries cost mqfs far less reading than all of them.
    let cost = |script: &str| {
        let read = || {
            let io = fs::read_to_string(format!("/proc/{}/io", m.pid())).unwrap();
            let written = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
            written.trim().parse::<u64>().unwrap()
        };
        let before = read();
        m.sh(script).ok();
        read() - before
    };
    // What the database writes in the background counts as well, so once is not enough.
    let head = (0..5).map(|_| cost("python3 -c 'import os; next(os.scandir(\"q\"))'")).min().unwrap();
    let all = cost("ls -U q > /dev/null");
    assert!(head * 10 < all, "{head} bytes answered for the head, {all} for all");
}

/// A drained queue's head is found past what was consumed: the oldest message that is left is the first in the listing,
/// after draining from the front, from the back, and after a restart.
#[test]
fn the_head_is_right_after_draining() {
    let (mut m, q) = filled(count());
    let names = listing(&q);
    let keep = [count() - 1, count() / 2, 7];
    for (i, name) in names.iter().enumerate() {
        if !keep.contains(&i) {
            fs::remove_file(q.join(name)).unwrap();
        }
    }
    for round in 0..3 {
        assert_listed(&q, &[&format!("m{}", keep[2]), &format!("m{}", keep[1]), &format!("m{}", keep[0])]);
        if round == 0 { m.remount() } else { m.kill9_and_remount() }
    }
    // A message before the head comes back to its place, in front of it.
    let oldest = transition(&q, "claimed", &q.join(&names[7]));
    assert_listed(&q, &[&format!("m{}", keep[1]), &format!("m{}", keep[0])]);
    let late = m.message(&q, "late", "");
    fs::rename(oldest, q.join(&names[7])).unwrap();
    assert_listed(&q, &[&format!("m{}", keep[2]), &format!("m{}", keep[1]), &format!("m{}", keep[0]), "late"]);
    assert_eq!(m.sh("cat q/*").ok(), format!("body of 7body of {}body of {}", keep[1], keep[0]));
    assert!(late.exists());
    m.sh("rm q/.mq/claimed/*").ok();
    assert_eq!(m.messages("q").len(), 0);
    fs::remove_dir(&q).unwrap();
}

/// One ancient message does not stop the churn behind it: enqueue and dequeue go on, and the order is kept.
#[test]
fn one_ancient_message_under_churn() {
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    let ancient = m.message(&q, "ancient", "old");
    let rounds = count() / 200;
    let rss = m.rss_kib();
    for _ in 0..rounds {
        m.fill(&q, 20);
        let names = listing(&q);
        assert_eq!(names.len(), 21);
        assert_eq!(q.join(&names[0]), ancient);
        for name in &names[1..] {
            fs::remove_file(q.join(name)).unwrap();
        }
    }
    assert_eq!(listing(&q).len(), 1);
    assert_eq!(fs::read_to_string(&ancient).unwrap(), "old");
    assert!(m.rss_kib() < rss + 64 * 1024, "{rss} KiB before, {} after", m.rss_kib());
}

/// States other than ready are as large as they need to be: everything claimed, then given back in one place.
#[test]
fn big_states_list_and_return() {
    let (m, q) = filled(count() / 4);
    let names = listing(&q);
    m.sh("find q -type f -printf '%f\\n' | xargs -n 500 sh -c 'cd q && mv -t .mq/claimed \"$@\"' x").ok();
    assert_eq!(listing(&q), Vec::<String>::new());
    assert_eq!(listing(control(&q, "claimed")), names);
    m.sh("cd q/.mq/claimed && find . -type f | xargs mv -t ../dead").ok();
    assert_eq!(listing(control(&q, "dead")), names);
    m.sh("cd q/.mq/dead && find . -type f | xargs mv -t ../..").ok();
    assert_eq!(listing(&q), names);
    let stats = m.stats("q");
    assert_eq!(stats["redriven_total"].as_u64(), Some(names.len() as u64), "{stats}");
}
