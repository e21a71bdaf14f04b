//! "`.mq/claim` and `.mq/pop` block while the queue is empty (EAGAIN with O_NONBLOCK), serve waiters in the order they came, [...]
//! and a blocked reader can always be interrupted (Ctrl-C, kill -9)."

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;

use crate::common::*;
use crate::extra::*;

/// The first read answers the path; whoever reads it goes on with the message there.
#[test]
fn claim_answers_the_path_of_the_oldest_message() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 3);
    let all = listing(&q);
    for (i, name) in all.iter().enumerate() {
        let answer = m.sh("cat q/.mq/claim");
        assert_eq!(plain(answer.ok()), format!(".mq/claimed/{name}\n"));
        let path = q.join(answer.ok().trim_end());
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("m{i}"));
        assert_eq!(deliveries(&q, &path), 1);
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(m.bodies("q").len(), 0);
    let stats = m.stats("q");
    assert_eq!((stats["claims_total"].as_u64(), stats["acked_total"].as_u64()), (Some(3), Some(3)), "{stats}");
}

/// bash reads byte by byte, and what one read leaves the next one gets.
#[test]
fn the_answer_is_read_in_pieces() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 3);
    let all = listing(&q);
    let read = "read -r f < q/.mq/claim; echo \"$f\"";
    assert_eq!(plain(m.sh(read).ok()), format!(".mq/claimed/{}\n", all[0]));
    assert_eq!(plain(m.shell("dash", read).ok()), format!(".mq/claimed/{}\n", all[1]));
    let mut file = File::open(q.join(".mq/claim")).unwrap();
    let mut got = Vec::new();
    let mut piece = [0; 5];
    loop {
        match file.read(&mut piece).unwrap() {
            0 => break,
            length => got.extend(&piece[..length]),
        }
    }
    assert_eq!(plain(&String::from_utf8(got).unwrap()), format!(".mq/claimed/{}\n", all[2]));
    assert_eq!(file.read(&mut piece).unwrap(), 0, "each open claims once");
    assert_eq!(m.stats("q")["claimed"].as_u64(), Some(3));
}

/// "`claim` answers only [the number and the delivery] when the name holds a newline."
#[test]
fn the_answer_is_one_line() {
    let m = Mount::new();
    let q = m.queue("q");
    let x = m.message(&q, "two\nlines", "body");
    let digits = &x.file_name().unwrap().to_str().unwrap()[..16];
    let answer = m.sh("cat q/.mq/claim");
    assert_eq!(plain(answer.ok()), format!(".mq/claimed/{digits}\n"));
    assert_eq!(m.sh(&format!("cat q/{0}; rm q/{0}", answer.ok().trim_end())).ok(), "body");
    assert_eq!(m.bodies("q").len(), 0);
}

/// Whatever the queue's names look like, the answer is a path that works.
#[test]
fn the_answer_is_a_path_in_every_queue() {
    let m = Mount::new();
    for (name, config) in [("kept", "names=keep"), ("urgent", "priorities=3"), ("rename", "claim=rename")] {
        let q = m.queue_with(name, &[config]);
        for producer in ["a b", "two\nlines"] {
            fs::write(q.join(producer), "body").unwrap();
            let script = format!("f=$(cat {name}/.mq/claim) && cat \"{name}/$f\" && rm \"{name}/$f\"");
            assert_eq!(m.sh(&script).ok(), "body", "{name} {producer:?}");
        }
        assert_eq!(m.bodies(name).len(), 0);
    }
    fs::write(m.path().join("kept/a b"), "body").unwrap();
    let answer = m.sh("cat kept/.mq/claim");
    assert_eq!((answer.ok().len(), answer.ok().contains("a b")), (".mq/claimed/".len() + 28, false), "{}", answer.ok());
}

/// The shell of the process that claimed is not that process, nor need it be its parent: it is not refused.
#[test]
fn whoever_was_told_the_path_gets_in() {
    let m = Mount::new();
    let q = m.queue("q");
    m.message(&q, "a", "body");
    let path = m.worker("cat q/.mq/claim").ok().trim_end().to_owned();
    for _ in 0..2 {
        assert_eq!(m.worker(&format!("cat q/{path}")).ok(), "body");
    }
}

/// What comes later wakes who waits, at once.
#[test]
fn a_blocked_reader_gets_what_comes() {
    let m = Mount::new();
    let q = m.queue("q");
    for file in ["claim", "pop"] {
        let reader = m.waiter(&q, &format!("cat q/.mq/{file}"));
        fs::write(q.join("a"), "body").unwrap();
        let answer = reader.finish();
        match file {
            "pop" => assert_eq!(answer.ok(), "body"),
            _ => assert_eq!(plain(answer.ok()), format!(".mq/claimed/{}\n", only_name(&control(&q, "claimed")))),
        }
    }
    assert_eq!(m.stats("q")["acked_total"].as_u64(), Some(1));
}

/// "`pop` [...] the first read of each open takes the oldest ready message and answers its body", of any size.
#[test]
fn pop_answers_bodies_and_acks() {
    let m = Mount::new();
    let q = m.queue("q");
    let large: Vec<u8> = (0..3_000_000_u32).map(|i| (i * 7 % 253) as u8).collect();
    for body in [&b"small\n"[..], b"", &large, b"last"] {
        fs::write(q.join("m"), body).unwrap();
    }
    assert_eq!(m.sh("cat q/.mq/pop").ok(), "small\n");
    assert_eq!(m.sh("cat q/.mq/pop").ok(), "", "an empty message");
    assert_eq!(m.stats("q")["ready"].as_u64(), Some(2));
    m.sh("cp q/.mq/pop $T/large").ok();
    assert!(fs::read(m.scratch().join("large")).unwrap() == large);
    assert_eq!(fs::read_to_string(q.join(".mq/pop")).unwrap(), "last");
    wait_until(|| m.stats("q")["acked_total"].as_u64() == Some(4));
    assert_eq!(m.bodies("q").len(), 0);
    // It goes once that is durable.
    wait_until(|| m.body_files().is_empty());
}

/// "EAGAIN with O_NONBLOCK", whether it was set at open or later.
#[test]
fn nobody_waits_with_nonblock() {
    let m = Mount::new();
    let q = m.queue("q");
    for file in ["claim", "pop"] {
        let path = q.join(".mq").join(file);
        let mut open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        assert_eq!(errno(open.read(&mut [0; 9])), libc::EAGAIN);
        m.sh(&format!("dd iflag=nonblock if=q/.mq/{file}")).fails("Resource temporarily unavailable");
        let later = "import os, fcntl, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
try: os.read(fd, 9)
except BlockingIOError: print('again')";
        let mut python = std::process::Command::new("python3");
        assert_eq!(m.run(python.args(["-c", later]).arg(&path)).ok(), "again\n");
        fs::write(q.join("a"), "body").unwrap();
        let mut got = String::new();
        open.read_to_string(&mut got).unwrap();
        assert!(got == "body" || got.starts_with(".mq/claimed/"), "the same open works later: {got}");
    }
}

/// Ctrl-C, `timeout`, `kill -9`.
#[test]
fn a_blocked_reader_is_interrupted() {
    let m = Mount::new();
    let q = m.queue("q");
    for (file, signal) in [
        ("claim", libc::SIGINT),
        ("pop", libc::SIGTERM),
        ("claim", libc::SIGKILL),
        ("pop", libc::SIGKILL),
        ("claim", libc::SIGHUP),
    ] {
        let reader = m.waiter(&q, &format!("exec cat q/.mq/{file}"));
        reader.signal(signal);
        assert_eq!(reader.finish().status.signal(), Some(signal), "{file}");
        wait_until(|| m.waiting("q") == 0);
    }
    assert_eq!(m.sh("timeout 0.2 cat q/.mq/claim; echo $?").ok(), "124\n");
    m.message(&q, "a", "body");
    assert_eq!(m.stats("q")["claims_total"].as_u64(), Some(0), "nothing was taken for those who are gone");
    assert_eq!(m.sh("cat q/.mq/pop").ok(), "body");
}
