//! `.mq/lines`, read: a stream of messages, at least once for whoever reads it himself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::common::*;
use crate::extra::*;

fn queue(lines: &[&str]) -> (Mount, PathBuf) {
    let m = Mount::new();
    let q = m.queue_with("q", lines);
    (m, q)
}

fn open(m: &Mount) -> File {
    File::open(m.path().join("q/.mq/lines")).unwrap()
}

fn count(m: &Mount, key: &str) -> u64 {
    m.stats("q")[key].as_u64().unwrap_or_else(|| panic!("{key}"))
}

fn read(mut file: &File, size: usize) -> String {
    let mut bytes = vec![0; size];
    let length = file.read(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// The loop that everybody writes.
#[test]
fn a_while_read_loop() {
    let (m, _) = queue(&[]);
    for shell in ["bash", "dash", "busybox sh"] {
        m.sh("seq 5 > q/.mq/lines; printf 'a b\\tc\\\\' > q/x; : > q/empty; echo stop > q/y").ok();
        let script = "while IFS= read -r l; do [ \"$l\" = stop ] && break; echo \"<$l>\"; done < q/.mq/lines";
        assert_eq!(m.shell(shell, script).ok(), "<1>\n<2>\n<3>\n<4>\n<5>\n<a b\tc\\>\n<>\n", "{shell}");
        wait_until(|| m.messages("q").is_empty());
    }
    assert_eq!((count(&m, "acked_total"), count(&m, "claims_total")), (24, 24));
}

/// Other programs that do their work line by line.
#[test]
fn programs_that_read_line_by_line() {
    let (m, _) = queue(&[]);
    for program in [
        "gawk '{ print \"<\" $0 \">\"; fflush() } /3/ { exit }' q/.mq/lines",
        "perl -ne 'print \"<\", s/\\n//r, \">\\n\"; last if /3/' q/.mq/lines",
        "python3 -c 'import sys\nfor line in sys.stdin:\n print(\"<\" + line[:-1] + \">\")\n if \"3\" in line: break' < q/.mq/lines",
        "python3 -c 'for line in open(\"q/.mq/lines\", \"rb\"):\n print(\"<\" + line[:-1].decode() + \">\")\n if b\"3\" in line: break'",
        "sed -u 's/.*/<&>/; /3/q' < q/.mq/lines",
        "head -n 3 q/.mq/lines 2> /dev/null | sed 's/.*/<&>/'",
        "mapfile -t -n 3 a < q/.mq/lines; printf '<%s>\\n' \"${a[@]}\"",
        "for i in 1 2 3; do printf '<%s>\\n' \"$(sed -u 1q q/.mq/lines)\"; done",
    ] {
        m.sh("seq 4 > q/.mq/lines").ok();
        assert_eq!(m.sh(program).ok(), "<1>\n<2>\n<3>\n", "{program}");
        wait_until(|| count(&m, "claimed") == 0);
        assert_eq!(m.bodies("q"), ["4\n"], "{program}");
        m.sh("rm q/*").ok();
    }
    m.sh("seq 3 > q/.mq/lines").ok();
    let mut xargs = m.spawn("xargs -n 1 echo < q/.mq/lines");
    wait_until(|| xargs.output() == "1\n2\n3\n" || !xargs.is_running());
    wait_until(|| count(&m, "acked_total") == 8 * 4 + 3);
}

/// A message is acknowledged when the next read begins after it was handed out, or the file is closed.
#[test]
fn a_message_is_acknowledged_by_the_next_read() {
    let (m, _) = queue(&[]);
    m.sh("printf 'one\\ntwo\\nthree\\n' > q/.mq/lines").ok();
    let file = open(&m);
    assert_eq!(count(&m, "claims_total"), 0, "opening takes nothing");
    assert_eq!(read(&file, 4096), "one\n");
    assert_eq!((count(&m, "claimed"), count(&m, "acked_total")), (1, 0));
    assert_eq!(read(&file, 4096), "two\n");
    assert_eq!((count(&m, "claimed"), count(&m, "acked_total")), (1, 1));
    for (size, bytes) in [(1, "t"), (1, "h"), (3, "ree"), (1, "\n")] {
        assert_eq!(read(&file, size), bytes);
        assert_eq!((count(&m, "claimed"), count(&m, "acked_total")), (1, 2), "{bytes:?}");
    }
    drop(file);
    wait_until(|| count(&m, "acked_total") == 3);
    assert!(m.messages("q").is_empty());
}

/// What was not read to its end goes back to its place when the file is closed.
#[test]
fn what_was_not_read_goes_back() {
    let (m, q) = queue(&[]);
    m.sh("printf 'one\\ntwo\\n' > q/.mq/lines").ok();
    let file = open(&m);
    assert_eq!(read(&file, 2), "on");
    assert_eq!(m.bodies("q"), ["one\n", "two\n"]);
    drop(file);
    wait_until(|| count(&m, "ready") == 2);
    let first = q.join(&listing(&q)[0]);
    assert_eq!(deliveries(&q, &first), 1);
    assert_eq!((count(&m, "acked_total"), count(&m, "nacked_total")), (0, 0));
    // The added newline is a byte of the message's like others.
    fs::remove_file(first).unwrap();
    m.sh("rm q/*; printf bare > q/x").ok();
    let file = open(&m);
    assert_eq!((read(&file, 4), count(&m, "claimed")), ("bare".into(), 1));
    drop(file);
    wait_until(|| count(&m, "ready") == 1);
    assert_eq!(m.sh("sed -u 1q q/.mq/lines").ok(), "bare\n");
    assert!(m.log().contains("a reader did not finish"), "{}", m.log());
}

/// Messages of any length, also those that fill what the kernel asks for at once.
#[test]
fn long_messages() {
    let (m, q) = queue(&[]);
    let lengths = [40_000, 65_536, 131_071, 131_072, 131_073, 262_144, 1 << 20, (1 << 20) + 1, 2 << 20, 3_000_000];
    for (n, length) in lengths.iter().enumerate() {
        let mut body = vec![b'a' + n as u8; *length];
        if n % 3 > 0 {
            body[length - 1] = b'\n';
        }
        fs::write(q.join("m"), &body).unwrap();
    }
    for size in [4096, 131_072, 1 << 20, 8 << 20] {
        let file = open(&m);
        let mut buffer = vec![0; size];
        for (n, length) in lengths.iter().enumerate() {
            let mut line = Vec::new();
            while line.last() != Some(&b'\n') {
                let count = (&file).read(&mut buffer).unwrap();
                line.extend_from_slice(&buffer[..count]);
            }
            assert_eq!(line.len(), length + usize::from(n % 3 == 0), "{n} with {size}");
            assert!(line[..length - 1].iter().all(|byte| *byte == b'a' + n as u8), "{n} with {size}");
            assert_eq!(count(&m, "claimed"), 1, "{n} with {size}: nothing more is taken");
            assert_eq!(count(&m, "ready") as usize, lengths.len() - n - 1);
        }
        drop(file);
        wait_until(|| m.messages("q").is_empty());
        if size < 8 << 20 {
            for (n, length) in lengths.iter().enumerate() {
                let mut body = vec![b'a' + n as u8; *length];
                if n % 3 > 0 {
                    body[length - 1] = b'\n';
                }
                fs::write(q.join("m"), &body).unwrap();
            }
        }
    }
    wait_until(|| m.body_files().is_empty());
}

/// There is no end: a read waits for what comes, and serves those who wait in their order.
#[test]
fn a_read_waits_for_what_comes() {
    let (m, q) = queue(&[]);
    let first = m.waiter(&q, "sed -u 2q q/.mq/lines");
    let second = m.waiter(&q, "read -r l < q/.mq/lines; echo $l");
    m.sh("echo one > q/.mq/lines").ok();
    wait_until(|| count(&m, "acked_total") == 1 && m.waiting("q") == 2);
    m.sh("echo two > q/x").ok();
    assert_eq!(second.finish().ok(), "two\n");
    m.sh("echo three > q/.mq/lines").ok();
    assert_eq!(first.finish().ok(), "one\nthree\n");
    wait_until(|| count(&m, "acked_total") == 3);
    // Paused is as empty.
    m.sh("echo four > q/.mq/lines; echo 'paused = out' > q/.mq/config").ok();
    let paused = m.waiter(&q, "sed -u 1q q/.mq/lines");
    m.sh("echo 'paused = no' > q/.mq/config").ok();
    assert_eq!(paused.finish().ok(), "four\n");
}

/// A blocked reader is in nobody's way: not of others who share its descriptor, its file, or the mount.
#[test]
fn a_blocked_reader_blocks_nobody_else() {
    let (m, q) = queue(&[]);
    let script = "exec 3< q/.mq/lines; dd bs=100 count=1 status=none <&3 & dd bs=100 count=1 status=none <&3 > $T/first; wait; cat $T/first";
    let readers = m.spawn(script);
    wait_until(|| m.waiting("q") == 2);
    m.sh("mkdir other; echo x > other/x; cat other/0*; stat q/.mq/lines > $T/stat; : > q/.mq/lines").ok();
    m.sh("echo one > q/.mq/lines").ok();
    wait_until(|| m.waiting("q") == 1);
    m.sh("echo two >> q/.mq/lines").ok();
    let got = readers.finish().stdout;
    assert!(got == "one\ntwo\n" || got == "two\none\n", "{got}");
    wait_until(|| m.messages(&q).is_empty());
}

/// "EAGAIN with O_NONBLOCK", poll, interruption, and the end of the mount.
#[test]
fn waiting_ends_as_elsewhere() {
    let (mut m, q) = queue(&[]);
    let path = q.join(".mq/lines");
    let mut nonblocking = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    assert_eq!(errno(nonblocking.read(&mut [0; 9])), libc::EAGAIN);
    m.sh("echo one > q/.mq/lines").ok();
    assert_eq!(read(&nonblocking, 9), "one\n");
    assert_eq!(errno(nonblocking.read(&mut [0; 9])), libc::EAGAIN);
    assert_eq!(count(&m, "acked_total"), 1, "acknowledged although nothing came");
    drop(nonblocking);
    for signal in [libc::SIGINT, libc::SIGKILL] {
        let reader = m.waiter(&q, "exec cat q/.mq/lines");
        reader.signal(signal);
        assert_eq!(reader.finish().status.signal(), Some(signal));
        wait_until(|| m.waiting("q") == 0);
    }
    let poller = "
import os, select, sys
fd = os.open('q/.mq/lines', os.O_RDONLY)
p = select.poll(); p.register(fd, select.POLLIN)
print(p.poll(0)); sys.stdout.flush()
print(len(p.poll())); print(os.read(fd, 2)); print(len(p.poll(0)), os.read(fd, 9)); print(p.poll(0))";
    let poller = m.spawn_python(poller);
    wait_until(|| poller.output() == "[]\n");
    m.sh("echo two > q/.mq/lines").ok();
    assert_eq!(poller.finish().ok(), "[]\n1\nb'tw'\n1 b'o\\n'\n[]\n");
    let reader = m.waiter(&q, "cat q/.mq/lines");
    m.signal(libc::SIGTERM);
    reader.finish().fails("No such device");
    assert!(m.wait_for_exit().success());
}

/// A reader that is killed, or fails, gives back what it has not done with; one that ends well, or closes the file, has done.
#[test]
fn a_reader_that_fails_gives_back() {
    let (m, _) = queue(&[]);
    let take = "read -r l; echo $l";
    for (end, back) in [
        ("kill -9 $$", true),
        ("kill -TERM $$", true),
        ("kill -INT $$", true),
        ("exit 1", true),
        ("exec false", true),
        ("set -e; false", true),
        ("exit 0", false),
        ("exec true", false),
        ("exec < /dev/null; exit 1", false),
        ("exec < /dev/null; kill -9 $$", false),
        ("bash -c 'kill -9 $$'; exit 0", false),
        ("true", false),
    ] {
        m.sh("echo one > q/.mq/lines").ok();
        let ran = m.sh(&format!("bash -c '{take}; {}' < q/.mq/lines", end.replace('\'', "'\\''")));
        assert_eq!(ran.stdout, "one\n", "{end}");
        wait_until(|| count(&m, "claimed") == 0);
        assert_eq!(count(&m, "ready"), u64::from(back), "{end}");
        if back {
            assert_eq!(m.sh("sed -u 1q q/.mq/lines").ok(), "one\n");
        }
    }
    // The one that was killed is not the only one that has it open.
    m.sh("seq 3 > q/.mq/lines").ok();
    let script = "exec 3< q/.mq/lines; bash -c 'read -r l <&3; echo $l; kill -9 $$'; read -r l <&3; echo $l; read -r l <&3; echo $l";
    assert_eq!(m.sh(script).stdout, "1\n1\n2\n");
    wait_until(|| count(&m, "claimed") == 0);
    assert_eq!(m.bodies("q"), ["3\n"]);
}

/// "A `.mq/lines` reader that fails gives back as `retry_delay` and `retry_backoff` say": restarts burn no deliveries.
#[test]
fn a_reader_that_fails_does_not_get_its_line_again_at_once() {
    let (m, q) = queue(&["retry_delay=1h"]);
    m.sh("seq 3 > q/.mq/lines").ok();
    for line in ["1", "2", "3"] {
        assert_eq!(m.sh("bash -c 'read -r l; echo $l; exit 1' < q/.mq/lines").stdout, format!("{line}\n"));
        wait_until(|| count(&m, "claimed") == 0);
    }
    assert_eq!((count(&m, "delayed"), count(&m, "retrying"), count(&m, "ready")), (3, 3, 0));
    let due = xattr(control(&q, "delayed").join(&listing(control(&q, "delayed"))[0]), "user.mq.due").unwrap();
    let due = humantime::parse_rfc3339(&due).unwrap();
    assert!(due > std::time::SystemTime::now() + Duration::from_secs(3000), "{due:?}");
    // Of `.mq/pop` the same holds, and who ends well before the end has not failed.
    m.sh("printf four > q/4; bash -c 'read -rn1 c; kill -9 $$' < q/.mq/pop").fails("");
    wait_until(|| count(&m, "delayed") == 4);
    m.sh("printf five > q/5; dd bs=1 count=1 if=q/.mq/pop 2> /dev/null").ok();
    wait_until(|| count(&m, "ready") == 1);
}

/// A reader that has ended leaves its message with those who share the descriptor, until one of them reads on.
#[test]
fn a_reader_in_a_subshell() {
    let (m, _) = queue(&[]);
    m.sh("seq 2 > q/.mq/lines").ok();
    let script =
        "exec 3< q/.mq/lines; l=$(sed -u 1q <&3); ls q/.mq/claimed | wc -l; l=$l$(sed -u 1q <&3); echo $l; kill -9 $$";
    assert_eq!(m.sh(script).stdout, "1\n12\n");
    wait_until(|| count(&m, "claimed") == 0);
    assert_eq!((m.bodies("q"), count(&m, "acked_total")), (vec!["2\n".into()], 1));
}

/// "a `while read` loop killed at any line loses none (at least once)": workers, each with an open of its own, killed again and
/// again.
#[test]
fn killed_workers_lose_nothing() {
    const LINES: usize = 400;
    let (m, _) = queue(&["max_deliveries=0"]);
    m.sh(&format!("seq {LINES} > q/.mq/lines")).ok();
    let worker = "while read -r l; do echo $l | cat >> $T/done; done < q/.mq/lines";
    let done = || {
        let text = fs::read_to_string(m.scratch().join("done")).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut random = Random::new();
    let mut workers: Vec<Running> = (0..3).map(|_| m.spawn(worker)).collect();
    for kills in 1.. {
        let enough = done().len() + random.below(12) as usize;
        wait_until(|| done().len() >= enough || count(&m, "ready") + count(&m, "claimed") == 0 || m.waiting("q") == 3);
        let victim = random.below(3) as usize;
        workers[victim].signal(libc::SIGKILL);
        workers.remove(victim).finish();
        if count(&m, "ready") + count(&m, "claimed") == 0 {
            assert!(kills > 10, "{kills} kills");
            break;
        }
        workers.push(m.spawn(worker));
    }
    drop(workers);
    let done = done();
    let distinct: BTreeSet<usize> = done.iter().map(|line| line.parse().unwrap()).collect();
    assert!(distinct.into_iter().eq(1..=LINES), "lost some");
    assert!(done.len() < LINES + 300, "{} deliveries", done.len());
}

/// `lines_batch = N`: up to N that are ready and fit; they are acknowledged together.
#[test]
fn several_messages_for_one_read() {
    let (m, _) = queue(&["lines_batch=3"]);
    m.sh("seq 7 > q/.mq/lines; printf bare > q/x").ok();
    let file = open(&m);
    assert_eq!(read(&file, 4096), "1\n2\n3\n");
    assert_eq!((count(&m, "claimed"), count(&m, "acked_total")), (3, 0));
    assert_eq!(read(&file, 5), "4\n5\n", "what fits");
    assert_eq!((count(&m, "claimed"), count(&m, "acked_total")), (2, 3));
    assert_eq!(read(&file, 1), "6", "of the first a part");
    assert_eq!(read(&file, 4096), "\n");
    assert_eq!((count(&m, "claimed"), count(&m, "acked_total")), (1, 5));
    assert_eq!(read(&file, 4096), "7\nbare\n", "what is ready now, without waiting for a third");
    drop(file);
    wait_until(|| count(&m, "acked_total") == 8);
    m.sh("seq 5 > q/.mq/lines; bash -c 'head -c 4 > $T/out; exec kill -9 $$' < q/.mq/lines");
    wait_until(|| count(&m, "claimed") == 0);
    let left = m.bodies("q");
    assert!(left.len() >= 3 && left.ends_with(&["3\n".into(), "4\n".into(), "5\n".into()]), "{left:?}");
}

/// The leases of a reader run on while it lives; a consumer that is killed with mqfs itself comes back by its lease.
#[test]
fn leases_run_on() {
    let (mut m, q) = queue(&["visibility_timeout=1s", "lines_batch=2"]);
    m.sh("seq 3 > q/.mq/lines").ok();
    m.sh("mkfifo $T/fifo").ok();
    let reader = m.spawn(
        "exec 3< q/.mq/lines; dd bs=100 count=1 status=none <&3 > $T/out; echo ready; read -r go < $T/fifo; exec 3<&-",
    );
    wait_until(|| reader.output() == "ready\n");
    let held: Vec<PathBuf> =
        listing(control(&q, "claimed")).iter().map(|name| control(&q, "claimed").join(name)).collect();
    assert_eq!(held.len(), 2);
    let first = deadline(&q, &held[1]);
    wait_until(|| deadline(&q, &held[1]) > first + std::time::Duration::from_secs(2));
    assert_eq!((deliveries(&q, &held[0]), count(&m, "expired_total")), (1, 0));
    m.sh("echo go > $T/fifo").ok();
    reader.finish();
    wait_until(|| m.bodies("q") == ["3\n"]);
    let reader =
        m.spawn("exec 3< q/.mq/lines; dd bs=100 count=1 status=none <&3 > $T/out; echo ready; read -r go < $T/fifo");
    wait_until(|| reader.output() == "ready\n");
    m.kill9_and_remount();
    wait_until(|| count(&m, "ready") == 1);
    drop(reader);
    assert_eq!(m.sh("sed -u 1q q/.mq/lines").ok(), "3\n");
}

/// Who may not consume may not read lines; on a read-only mount nobody may.
#[test]
fn reading_needs_the_right_to_consume() {
    let mut m = Mount::with(&["-o", "allow_other"]);
    let q = m.queue("q");
    m.sh("seq 9 > q/.mq/lines").ok();
    for (mode, allowed) in [("755", false), ("733", false), ("777", true), ("1777", false)] {
        m.sh(&format!("chmod {mode} q")).ok();
        let ran = m.run_as(12345, 12345, "read -r l < q/.mq/lines");
        assert_eq!(ran.status.success(), allowed, "{mode}: {}", ran.stderr);
        assert!(allowed || ran.stderr.contains("Permission denied"), "{mode}: {}", ran.stderr);
    }
    wait_until(|| m.bodies(&q).len() == 8);
    m.set_args(&["-o", "ro"]);
    m.remount();
    m.sh("read -r l < q/.mq/lines").fails("Read-only file system");
    assert_eq!(m.bodies(&q).len(), 8);
}

/// A damaged message does not stop the stream: it stays claimed, until its lease ends and in the end it is a dead letter.
#[test]
fn a_damaged_message_is_passed_over() {
    let (mut m, q) = queue(&["visibility_timeout=1s", "max_deliveries=2"]);
    m.sh("echo one > q/.mq/lines; head -c 100000 /dev/zero > q/damaged; head -c 100000 /dev/zero > q/cut; echo two > q/.mq/lines").ok();
    wait_until(|| m.body_files().len() == 2);
    m.stop();
    let mut files: Vec<PathBuf> = m.body_files().into_iter().map(|(path, _)| path).collect();
    files.sort();
    fs::remove_file(&files[0]).unwrap();
    OpenOptions::new().write(true).open(&files[1]).unwrap().set_len(9).unwrap();
    m.start();
    let reader = m.spawn("exec sed -u 3q q/.mq/lines");
    wait_until(|| listing(control(&q, "dead")).len() == 2);
    m.sh("echo three > q/.mq/lines").ok();
    assert_eq!(reader.finish().ok(), "one\ntwo\nthree\n");
    assert!(m.log().contains("unreadable message"), "{}", m.log());
}

/// A worker that gives up gets its line back when it opened the file for itself. If it is the loop's redirection, shells close it
/// before they exit, which is no different from `break`.
#[test]
fn a_worker_that_gives_up_gives_its_line_back() {
    let (m, _) = queue(&[]);
    for shell in ["bash", "dash", "busybox sh"] {
        for give_up in ["[ $l = 2 ] && exit 1; :", "set -e; [ $l != 2 ]"] {
            m.sh("seq 3 > q/.mq/lines").ok();
            let script = format!("exec < q/.mq/lines; while IFS= read -r l; do {give_up}; done");
            assert_eq!(m.sh(&format!("{shell} -c '{script}'")).code(), Some(1), "{shell}");
            wait_until(|| m.bodies("q") == ["2\n", "3\n"]);
            m.sh("rm q/*").ok();
        }
    }
}

/// From producer to worker: what goes in comes out, in order, however many come at once.
#[test]
fn a_stream_through_the_queue() {
    let (m, _) = queue(&["lines_batch=1000"]);
    let reader = m.spawn("head -n 20000 q/.mq/lines 2> /dev/null");
    let writer = m.spawn("seq 20000 | tee q/.mq/lines > /dev/null");
    writer.finish().ok();
    assert!(reader.finish().ok() == (1..=20_000).map(|n| format!("{n}\n")).collect::<String>());
    // Several workers share the work, and each message goes to one.
    m.set("q", "lines_batch=1");
    let workers: Vec<Running> =
        (0..4).map(|_| m.spawn("while read -r l; do [ $l = end ] && break; echo $l; done < q/.mq/lines")).collect();
    m.sh("seq 400 | tee q/.mq/lines > /dev/null; for i in 1 2 3 4; do echo end; done > q/.mq/lines").ok();
    let mut seen = BTreeMap::new();
    for worker in workers {
        let ran = worker.finish();
        let own: Vec<u32> = ran.ok().lines().map(|line| line.parse().unwrap()).collect();
        assert!(own.is_sorted(), "{own:?}");
        own.into_iter().for_each(|line| *seen.entry(line).or_insert(0) += 1);
    }
    assert!(seen.iter().map(|(line, times)| (*line, *times)).eq((1..=400).map(|line| (line, 1))), "{seen:?}");
}
