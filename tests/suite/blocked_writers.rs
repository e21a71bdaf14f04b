//! "overflow = block": who writes to a full queue waits until there is room, in the order of arrival, and can be interrupted.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::common::*;
use crate::extra::*;

/// A queue with these limits in which writers wait.
fn queue(m: &Mount, limits: &[&str]) -> PathBuf {
    m.queue_with("q", &[limits, &["overflow=block"]].concat())
}

/// Acknowledges the first message.
fn ack(q: &std::path::Path) {
    let first = listing(q).into_iter().find(|name| !name.starts_with('.')).expect("a message");
    fs::remove_file(q.join(first)).unwrap();
}

#[test]
fn a_producer_waits_until_there_is_room() {
    let m = Mount::new();
    let q = queue(&m, &["max_messages=1"]);
    fs::write(m.scratch().join("file"), "body\n").unwrap();
    for (shell, command) in [
        ("bash", "echo body > q/a"),
        ("dash", "echo body > q/a"),
        ("busybox sh", "echo body > q/a"),
        ("bash", "cp $T/file q/a"),
        ("bash", "cat $T/file > q/a"),
        ("bash", "dd if=$T/file of=q/a bs=1 status=none"),
        ("bash", "tee q/a < $T/file > $T/tee"),
        ("bash", "python3 -c 'print(\"body\", file=open(\"q/a\", \"w\"))'"),
        ("bash", "echo body > q/.mq/with/priority=0/a"),
        ("bash", "echo body > q/.mq/lines"),
    ] {
        m.sh("echo first > q/first").ok();
        let mut words: Vec<&str> = shell.split(' ').collect();
        words.extend(["-c", command]);
        let start = || m.start_command(std::process::Command::new(words[0]).args(&words[1..]));
        let mut producer = m.one_is_blocked(&q, start);
        assert_eq!(m.bodies("q"), ["first\n"], "{shell}: {command}");
        assert!(producer.is_running());
        ack(&q);
        producer.finish().ok();
        assert_eq!(m.bodies("q"), ["body\n"], "{shell}: {command}");
        ack(&q);
    }
    let stats = m.stats("q");
    for counter in ["rejected_total", "aborted_total", "dropped_total", "waiting_writers", "waiting"] {
        assert_eq!(stats[counter], 0, "{stats}");
    }
}

/// "in the order of arrival", of writers of messages and of lines, one for each room; and who comes new does not overtake.
#[test]
fn those_who_wait_are_served_in_the_order_in_which_they_came() {
    let m = Mount::new();
    let q = queue(&m, &["max_messages=1"]);
    m.sh("echo first > q/first").ok();
    let to = |n: usize| if n % 3 == 1 { "q/.mq/lines".to_owned() } else { format!("q/m{n}") };
    let mut producers: Vec<_> = (0..6).map(|n| m.blocked(&q, &format!("echo {n} > {}", to(n)))).collect();
    for n in 0..6 {
        ack(&q);
        producers.remove(0).finish().ok();
        assert_eq!(m.bodies("q"), [format!("{n}\n")]);
        // Who is asked whether he finds room now is not counted.
        wait_until(|| m.waiting_writers("q") == 5 - n as u64);
    }
    // There is room for a small message, but a larger one was first.
    m.set("q", "max_messages = 0\nmax_bytes = 100");
    let large = m.blocked(&q, "head -c 99 /dev/zero > q/large");
    let small = m.blocked(&q, "echo small > q/small");
    holds_for(Duration::from_millis(300), || m.waiting_writers("q") == 2);
    ack(&q);
    large.finish().ok();
    assert_eq!(listing(&q).len(), 1);
    wait_until(|| m.waiting_writers("q") == 1);
    ack(&q);
    small.finish().ok();
    // Nor has who comes later to wait when the one before him goes away.
    let write = |count| format!("import os; os.write(os.open('q/m', os.O_WRONLY | os.O_CREAT), b'x' * {count})");
    let large = m.one_is_blocked(&q, || m.spawn_python(&write(99)));
    let small = m.one_is_blocked(&q, || m.spawn_python(&write(9)));
    large.signal(libc::SIGKILL);
    small.finish().ok();
    wait_until(|| m.bodies("q") == ["small\n", "xxxxxxxxx"]);
}

/// Ctrl-C, `timeout`, `kill`, `kill -9`: the wait ends at once, and the message with it.
#[test]
fn a_wait_can_be_interrupted() {
    let m = Mount::new();
    let q = queue(&m, &["max_messages=1"]);
    m.sh("echo first > q/first").ok();
    for to in ["q/a", "q/.mq/lines"] {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGKILL] {
            for command in [format!("exec seq 100000 > {to}"), format!("echo body > {to}")] {
                let behind = m.blocked(&q, &format!("echo behind > {to}"));
                let producer = m.blocked(&q, &command);
                producer.signal(signal);
                assert_eq!(producer.finish().status.signal(), Some(signal), "{command}");
                behind.signal(libc::SIGKILL);
                behind.finish();
            }
        }
        assert_eq!(m.sh(&format!("timeout 0.2 cp /etc/passwd {to}")).code(), Some(124));
        // Python goes on with the same write after its handler has run.
        let handler = "import os, signal\nsignal.signal(signal.SIGUSR1, lambda *a: print('signal', flush=True))";
        let script = format!("{handler}\nopen('{to}', 'w').write('body\\n')");
        let producer = m.one_is_blocked(&q, || m.spawn_python(&script));
        producer.signal(libc::SIGUSR1);
        wait_until(|| producer.output() == "signal\n" && m.waiting_writers("q") == 1);
        assert_eq!(m.bodies("q"), ["first\n"]);
        ack(&q);
        producer.finish().ok();
        assert_eq!(m.bodies("q"), ["body\n"]);
        m.sh("rm q/*; echo first > q/first").ok();
    }
    wait_until(|| m.waiting_writers("q") == 0 && m.stats("")["writers"] == 0);
    assert_eq!(m.bodies("q"), ["first\n"]);
    ack(&q);
    m.sh("echo a > q/a").ok();
}

/// Those who wait keep no more of mqfs' memory than is theirs, 48 MiB: who comes then is told to try again, and others wait as ever.
#[test]
fn the_bytes_of_those_who_wait_are_bounded() {
    let (m, q) = crate::users::mount(0o777);
    for (to, flags) in [("q/.mq/lines", "os.O_WRONLY"), ("q/m", "os.O_WRONLY | os.O_CREAT")] {
        m.set("q", "max_messages=1\noverflow=block");
        m.sh("echo first > q/first").ok();
        let write = format!(
            "exec python3 - <<'END'\n\
             import errno, os\n\
             for n in range(54):\n\
             \x20   if os.fork() == 0:\n\
             \x20       try: os.write(os.open('{to}', {flags}), (b'x' * 999 + b'\\n') * 1000)\n\
             \x20       except OSError as error: os.write(1, errno.errorcode[error.errno].encode() + b'\\n')\n\
             \x20       os._exit(0)\n\
             for n in range(54): os.wait()\n\
             END\n"
        );
        let many = m.spawn_as(crate::users::ANN, crate::users::ANN, &write);
        wait_until(|| m.waiting_writers("q") == 50 && many.output() == "EAGAIN\n".repeat(4));
        let other = m.blocked(&q, &format!("echo other > {to}"));
        m.set("q", "max_messages=0");
        other.finish().ok();
        many.finish().ok();
        wait_until(|| m.stats("")["writers"] == 0);
        let long = |length| m.messages("q").iter().filter(|(_, body)| body.len() == length).count();
        assert!(if to == "q/m" { long(1_000_000) == 50 } else { long(1000) >= 50 }, "{to}");
        m.sh("echo all > q/.mq/purge").ok();
    }
}

/// Programs that are told of an interrupted write mostly give up, so a child's end is no reason.
#[test]
fn the_end_of_a_child_does_not_end_a_wait() {
    let m = Mount::new();
    let q = queue(&m, &["max_messages=1"]);
    m.set("q", "max_messages = 0\nmax_bytes = 10");
    m.sh("echo first > q/first").ok();
    // There is room for the file, but not for what is written to it.
    let script = "trap 'echo child' CHLD; exec 3> q/a; { read -r line < $T/fifo; } & echo body >&3 && echo done; wait";
    m.sh("mkfifo $T/fifo").ok();
    let mut producer = m.blocked(&q, script);
    m.sh("echo go > $T/fifo").ok();
    holds_for(Duration::from_millis(400), || producer.is_running() && m.bodies("q") == ["first\n"]);
    ack(&q);
    assert!(producer.finish().ok().contains("done\n"));
    assert_eq!(m.bodies("q"), ["body\n"]);
}

/// A message that is written in many pieces waits in the middle; it is there as a whole or not at all.
#[test]
fn a_large_message_waits_where_the_room_ends() {
    let m = Mount::new();
    let q = queue(&m, &["max_bytes=100000"]);
    m.sh("head -c 60000 /dev/zero > q/first").ok();
    let producer = m.blocked(&q, "seq 20000 | head -c 90000 | dd of=q/large bs=1000 iflag=fullblock status=none");
    assert_listed(&q, &["first"]);
    // What it has is its own.
    let other = m.blocked(&q, "echo other > q/other");
    ack(&q);
    producer.finish().ok();
    other.finish().ok();
    let expected = m.sh("seq 20000 | head -c 90000").ok().to_owned();
    let mut bodies = m.bodies("q");
    bodies.sort();
    assert!(bodies == [expected, "other\n".to_owned()]);
    m.sh("rm q/*").ok();

    let q = m.queue_with("wide", &["max_bytes=4M", "overflow=block"]);
    m.sh("head -c 3M /dev/zero > wide/first").ok();
    let producer = m.blocked(&q, "head -c 3M /dev/urandom | tee $T/copy > wide/large");
    ack(&q);
    producer.finish().ok();
    assert!(m.messages("wide")[0].1 == fs::read(m.scratch().join("copy")).unwrap());
}

/// Messages that are being written and together are too much do not wait for each other for ever; nor do they become more than
/// is allowed. A writer that holds hardly anything and does nothing is not in their way.
#[test]
fn unfinished_messages_do_not_block_each_other() {
    let m = Mount::new();
    let q = queue(&m, &["max_bytes=100000"]);
    let idle = File::create(q.join("idle")).unwrap();
    drop(idle.try_clone().unwrap());
    let script =
        "import os\nfd = os.open('q/m', os.O_WRONLY | os.O_CREAT)\nfor _ in range(6): os.write(fd, b'x' * 10000)";
    let partial =
        format!("{script}\nprint('part', flush=True)\nopen('$T/go').read()\nos.write(fd, b'y' * 30000)\nos.close(fd)")
            .replace("$T", m.scratch().to_str().unwrap());
    m.sh("mkfifo $T/go").ok();
    let first = m.spawn_python(&partial);
    wait_until(|| first.output() == "part\n");
    let second = m.one_is_blocked(&q, || m.spawn_python(&partial));
    let third = m.blocked(&q, "echo small > q/third");
    m.sh("timeout 20 sh -c ': > $T/go'").ok();
    wait_until(|| m.waiting_writers("q") == 3 || !listing(&q).is_empty());
    first.finish().ok();
    assert_eq!(m.bodies("q").concat().len(), 90_000);
    ack(&q);
    m.sh("timeout 20 sh -c ': > $T/go'").ok();
    second.finish().ok();
    wait_until(|| listing(&q).len() <= 2);
    ack(&q);
    third.finish().ok();
    drop(idle);
    let stats = m.stats("q");
    assert_eq!((stats["aborted_total"].as_u64(), stats["enqueued_total"].as_u64()), (Some(0), Some(4)), "{stats}");
}

/// An empty file is a message: its close waits. Who ends without closing could not be interrupted, and does not wait.
#[test]
fn the_close_of_an_empty_file_waits() {
    let m = Mount::new();
    let q = queue(&m, &["max_messages=1"]);
    for command in [": > q/empty", "cp /dev/null q/empty", "python3 -c 'open(\"q/empty\", \"w\").close()'"] {
        m.sh("echo first > q/first").ok();
        let producer = m.blocked(&q, command);
        ack(&q);
        producer.finish().ok();
        wait_until(|| m.bodies("q") == [""]);
        ack(&q);
    }
    m.sh("echo first > q/first").ok();
    let producer = m.blocked(&q, ": > q/empty; echo not reached");
    producer.signal(libc::SIGINT);
    assert_eq!(producer.finish().stdout, "");
    for ends in ["os._exit(0)", "os.kill(os.getpid(), 9)", "os.execvp('true', ['true'])"] {
        m.python(&format!("import os\nos.open('q/empty', os.O_WRONLY | os.O_CREAT)\n{ends}"));
    }
    wait_until(|| m.stats("q")["aborted_total"] == 4);
    assert_eq!(m.bodies("q"), ["first\n"]);
    assert_eq!(m.log().matches("closed before there was room for it").count(), 2, "{}", m.log());
    ack(&q);
    holds_for(Duration::from_millis(200), || m.bodies("q").is_empty());
}

/// Renames, links, and who does not want to wait, get EAGAIN, and nothing is lost.
#[test]
fn who_cannot_wait_is_told_to_try_again() {
    let m = Mount::new();
    let q = queue(&m, &["max_messages=1", "max_bytes=1000"]);
    let again = "Resource temporarily unavailable";
    let moves = m.message(&m.queue("other"), "moves", "moves");
    m.sh("echo first > q/first; echo draft > q/.draft; mkdir q/.mq/batch/b; echo 1 > q/.mq/batch/b/1").ok();
    m.sh("mv q/.draft q/draft").fails(again);
    m.sh("ln q/.draft q/draft").fails(again);
    m.sh(&format!("mv '{}' q/", moves.display())).fails(again);
    m.sh("mv q/.mq/batch/b q/").fails(again);
    m.sh("touch q/empty").fails(again);
    let open = |name| OpenOptions::new().write(true).create(true).custom_flags(libc::O_NONBLOCK).open(q.join(name));
    assert_eq!(errno(open("nonblocking")), libc::EAGAIN);
    assert_eq!(m.stats("q")["rejected_total"], 6);
    ack(&q);
    // What is too large whatever happens does not wait for it.
    m.sh("head -c 1001 /dev/zero > q/large").fails("Disk quota exceeded");
    m.sh("yes | head -c 1001 | tr -d '\\n' > q/.mq/lines; yes $(yes | head -n 1001) | head -n 1 > q/.mq/lines")
        .fails("Disk quota exceeded");
    m.sh("echo all > q/.mq/purge; echo draft > q/.draft").ok();
    m.sh("mv q/.draft q/draft").ok();
    assert_eq!(m.bodies("q"), ["draft\n"]);
    ack(&q);
    // Who opened when there was room is told by the write.
    let mut file = open("nonblocking").unwrap();
    file.write_all(&[b'x'; 1000]).unwrap();
    drop(file);
    m.set("q", "max_messages = 2\nmax_bytes = 2000");
    let mut file = open("another").unwrap();
    file.write_all(&[b'y'; 600]).unwrap();
    assert_eq!(errno(file.write(&[b'y'; 500])), libc::EAGAIN);
    ack(&q);
    file.write_all(&[b'y'; 500]).unwrap();
    drop(file);
    wait_until(|| m.bodies("q") == ["y".repeat(1100)]);
    let mut file = open("third").unwrap();
    assert_eq!(errno(file.write(&[b'z'; 1000])), libc::EAGAIN);
    drop(file);
    wait_until(|| m.stats("")["writers"] == 0);
    assert_eq!(m.bodies("q").len(), 1, "it was not written as a whole");
}

/// Whoever looks at the queue, takes from it, or writes drafts, does not wait with the writers.
#[test]
fn the_queue_goes_on_while_writers_wait() {
    let m = Mount::new();
    let q = queue(&m, &["max_messages=2"]);
    m.sh("echo 1 > q/1; echo 2 > q/2").ok();
    let writers: Vec<_> = ["q/a", "q/.mq/lines", "q/c"].map(|to| m.blocked(&q, &format!("echo more > {to}"))).into();
    m.sh("ls -l q; ls q/*-1; test ! -e q/none; mkdir q/nested; rmdir q/nested; stat q q/.mq/lines; cat q/.mq/stats")
        .succeeds();
    m.sh("echo draft > q/.draft; rm q/.draft; getfattr -d -m - q").succeeds();
    assert_eq!(m.sh("getfattr --only-values -n user.mq.waiting_writers q").ok(), "3");
    assert_eq!(m.stats("")["waiting_writers"], 3);
    // They are put together at most once a second.
    wait_until(|| m.sh(r#"grep '^mqfs_waiting_writers{.*queue="q"} 3$' .mq/metrics"#).status.success());
    for n in 0..5 {
        m.sh("f=$(cat q/.mq/claim) && rm q/$f").ok();
        wait_until(|| m.waiting_writers("q") == 2_u64.saturating_sub(n));
    }
    for writer in writers {
        writer.finish().ok();
    }
    wait_until(|| m.stats("q")["acked_total"] == 5);
}

/// Whatever makes room ends the wait.
#[test]
fn every_way_to_make_room_ends_the_wait() {
    let m = Mount::new();
    let q = queue(&m, &["max_messages=1", "max_deliveries=1"]);
    for frees in [
        "cat q/.mq/pop",
        "read -r line < q/.mq/lines",
        "echo ready > q/.mq/purge",
        "mkdir other; mv q/[0-9]* other/",
        "mv q/[0-9]* q/.mq/dead/",
        "f=$(cat q/.mq/claim); mv q/$f q/",
        "echo 'max_messages = 2' > q/.mq/config",
        "echo 'max_messages = 0' > q/.mq/config",
        "setfattr -n user.mq.overflow -v drop-oldest q",
    ] {
        m.set("q", "max_messages = 1\noverflow = block");
        m.sh("echo first > q/first").ok();
        let writer = m.blocked(&q, "echo second > q/second");
        m.sh(frees).succeeds();
        assert!(writer.finish().status.success(), "{frees}");
        assert!(m.bodies("q").contains(&"second\n".to_owned()), "{frees}");
        m.sh("echo all > q/.mq/purge").ok();
    }
    // By itself: the time to live.
    m.set("q", "max_messages = 1\noverflow = block\nmessage_ttl = 1s\nexpired = drop");
    m.sh("echo first > q/first").ok();
    m.sh("echo second > q/second").ok();
    wait_until(|| listing(&q).is_empty());
    // Another writer that was killed.
    m.set("q", "message_ttl = 0s");
    let unfinished = m.spawn("exec 3> q/a; echo part >&3; echo open; exec sleep 1000");
    wait_until(|| unfinished.output() == "open\n");
    let writer = m.blocked(&q, "echo second > q/second");
    unfinished.signal(libc::SIGKILL);
    writer.finish().ok();
    // The other way round: they are refused.
    let writers = ["q/third", "q/.mq/lines"].map(|to| m.blocked(&q, &format!("echo third > {to}")));
    m.set("q", "overflow = reject");
    for writer in writers {
        writer.finish().fails("Disk quota exceeded");
    }
    assert_eq!(m.bodies("q"), ["second\n"]);
}

/// `tail -F log > q/.mq/lines`: all lines, in order, as fast as they are taken.
#[test]
fn lines_wait() {
    let m = Mount::new();
    let q = queue(&m, &["max_messages=10"]);
    let writer = m.blocked(&q, "seq 1000 > q/.mq/lines; printf 'with\\nout' > q/.mq/lines");
    assert_eq!(m.bodies("q").concat(), (1..=10).map(|n| format!("{n}\n")).collect::<String>());
    let reader = m.spawn("while read -r line; do echo \"$line\"; [ $line = out ] && exit; done < q/.mq/lines");
    let ran = reader.finish();
    writer.finish().ok();
    let expected: String = (1..=1000).map(|n| format!("{n}\n")).chain(["with\nout\n".into()]).collect();
    assert!(ran.stdout == expected, "{} {}", ran.stdout, ran.stderr);
    assert_eq!(m.stats("q")["aborted_total"], 0);

    // Several at once, each interrupted by itself, whoever is before it.
    m.set("q", "max_messages = 1");
    m.sh("echo all > q/.mq/purge; echo first > q/.mq/lines").ok();
    let writers: Vec<_> = (0..4).map(|n| m.blocked(&q, &format!("echo {n} >> q/.mq/lines"))).collect();
    for n in [2, 3, 0] {
        writers[n].signal(libc::SIGKILL);
        wait_until(|| is_zombie(writers[n].pid()));
    }
    assert_eq!(m.waiting_writers("q"), 1);
    ack(&q);
    wait_until(|| m.bodies("q") == ["1\n"]);
}

/// The mount ends while writers wait: they are told so, as often as they try, and nothing of them is enqueued.
#[test]
fn the_mount_goes_away() {
    let mut m = Mount::new();
    let q = queue(&m, &["max_messages=1"]);
    m.sh("echo first > q/first").ok();
    let gone = "No such device";
    let script = "import os\nfd = os.open('TO', os.O_WRONLY | os.O_CREAT)\nfor call in (lambda: os.write(fd, b'body\\n'),) * 2 + (lambda: os.close(fd),):\n try:\n  call()\n  print('done')\n except OSError as error:\n  print(error.strerror)";
    let mut writers = Vec::new();
    for to in ["q/a", "q/.mq/lines"] {
        writers.push((to, m.one_is_blocked(&q, || m.spawn_python(&script.replace("TO", to)))));
    }
    let echo = m.blocked(&q, "echo body > q/b");
    let empty = m.blocked(&q, ": > q/c");
    m.stop();
    for (to, writer) in writers {
        let last = if to == "q/a" { gone } else { "done" };
        assert_eq!(writer.finish().ok(), format!("{gone}\n{gone}\n{last}\n"), "{to}");
    }
    echo.finish().fails(gone);
    empty.finish();
    m.start();
    assert_eq!(m.bodies("q"), ["first\n"]);
    // Or it is killed.
    let writer = m.blocked(&q, "echo body > q/b");
    m.kill9_and_remount();
    assert!(!writer.finish().status.success());
    assert_eq!(m.bodies("q"), ["first\n"]);
}

/// A name that is kept is held while its writer waits, and free again if he gives up.
#[test]
fn kept_names() {
    let m = Mount::new();
    let q = queue(&m, &["names=keep", "max_messages=1"]);
    m.sh("echo a > q/a").ok();
    let writer = m.blocked(&q, "echo b > q/b");
    m.sh("set -C; echo other > q/b").fails("q/b");
    m.sh("echo new > q/.new; mv q/.new q/a").ok();
    assert_eq!(m.bodies("q"), ["new\n"]);
    writer.signal(libc::SIGKILL);
    writer.finish();
    let writer = m.blocked(&q, "echo again > q/b");
    m.sh("rm q/a").ok();
    writer.finish().ok();
    assert_eq!((listing(&q), m.bodies("q")), (vec!["b".to_owned()], vec!["again\n".to_owned()]));
}
