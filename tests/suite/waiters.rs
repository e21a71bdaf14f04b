//! Those who wait for a message: their order, what wakes them, what becomes of what they took, who may wait, and the end.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::*;
use crate::extra::*;
use crate::users::{ANN, DENIED, chmod, mode};

/// "serve waiters in the order they came", and one message wakes one of them.
#[test]
fn one_message_wakes_the_one_who_came_first() {
    let m = Mount::new();
    let q = m.queue("q");
    let mut readers: Vec<Running> = (0..8).map(|_| m.waiter(&q, "exec cat q/.mq/pop")).collect();
    // Somebody in the middle goes away.
    readers.remove(3).signal(libc::SIGKILL);
    wait_until(|| m.waiting("q") == 7);
    for (i, mut reader) in readers.into_iter().enumerate() {
        fs::write(q.join("m"), format!("m{i}")).unwrap();
        wait_until(|| !reader.is_running());
        assert_eq!(reader.finish().ok(), format!("m{i}"));
        assert_eq!(m.waiting("q"), 6 - i as u64);
    }
}

/// Who comes later does not overtake those who wait, nor does one who waits in one file overtake those of the other.
#[test]
fn claim_and_pop_stand_in_one_line() {
    let m = Mount::new();
    let q = m.queue("q");
    let first = m.waiter(&q, "exec cat q/.mq/claim");
    let second = m.waiter(&q, "exec cat q/.mq/pop");
    let third = m.waiter(&q, "exec cat q/.mq/claim");
    m.fill(&q, 3);
    assert!(first.finish().ok().ends_with("-m0\n"));
    assert_eq!(second.finish().ok(), "m1");
    assert!(third.finish().ok().ends_with("-m2\n"));
}

/// Whatever makes a message ready wakes who waits for it.
#[test]
fn whatever_makes_a_message_ready_wakes() {
    let m = Mount::with_clock("+0");
    let q = m.queue_with("q", &["visibility_timeout=1h"]);
    let other = m.queue("other");
    let x = m.message(&q, "x", "body");
    let name = x.file_name().unwrap().to_str().unwrap().to_owned();
    let claim = |why: &str, script: &str| {
        let reader = m.waiter(&q, "exec cat q/.mq/claim");
        match script {
            "" => m.set_clock("+2h"),
            script => drop(m.sh(script).ok()),
        }
        assert_eq!(plain(reader.finish().ok()), format!(".mq/claimed/{name}\n"), "{why}");
    };
    fs::rename(&x, within(&q, "claimed", &x)).unwrap();
    claim("nack", &format!("mv q/.mq/claimed/{name} q/"));
    claim("lease expired", "");
    m.set("q", "retry_delay=1h");
    fs::rename(within(&q, "claimed", &x), within(&q, "dead", &x)).unwrap();
    claim("redrive", &format!("mv q/.mq/dead/{name} q/"));
    fs::rename(within(&q, "claimed", &x), within(&q, "delayed", &x)).unwrap();
    claim("delivered by hand", &format!("mv q/.mq/delayed/{name} q/"));
    fs::rename(within(&q, "claimed", &x), &x).unwrap();
    m.set("q", "paused=out");
    claim("not paused any more", "echo paused=no > q/.mq/config");
    fs::rename(within(&q, "claimed", &x), &x).unwrap();
    m.set("q", "paused=both");
    claim("nor by its attribute", "setfattr -n user.mq.paused -v in q");
    m.set("q", "paused=no");
    fs::remove_file(within(&q, "claimed", &x)).unwrap();

    let pop = |why: &str, script: &str| {
        let reader = m.waiter(&q, "exec cat q/.mq/pop");
        m.sh(script).ok();
        assert_eq!(reader.finish().ok(), "hi\n", "{why}");
    };
    pop("draft", "echo hi > q/.d && mv q/.d q/d");
    // Under another name: that of what has just left is its session's for a while.
    pop("draft, linked", "echo hi > q/.d && ln q/.d q/e && rm q/.d");
    pop("draft, closed later", "exec 3> q/.d; mv q/.d q/d; echo hi >&3");
    pop("moved", "echo hi > other/m && mv other/*-m q/");
    pop("fell due", "echo hi > q/.mq/with/delay=300ms/m");
    pop("a batch", "mkdir q/.mq/batch/b && echo hi > q/.mq/batch/b/m && mv q/.mq/batch/b q/");
    m.set("other", "visibility_timeout=1s\nmax_deliveries=1\ndead_letter=q");
    pop("dead-lettered to it", "echo hi > other/m && cat other/.mq/claim > /dev/null");
    assert_eq!((m.bodies("q").len(), m.bodies(&other).len()), (0, 0));
}

/// A reader that dies before it has closed the file did not get the message: it goes back, at its old place.
#[test]
fn what_a_killed_reader_took_goes_back() {
    let m = Mount::new();
    let q = m.queue("q");
    let large: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    let x = m.message(&q, "x", &large);
    m.message(&q, "y", "later");
    for (read, signal) in [("head -c 5 <&3 >/dev/null", 9), ("cat <&3 > /dev/null", 9), ("cat <&3 >/dev/null", 15)] {
        // The reader itself is killed: a process that opens, reads, and holds the file.
        let mut holder = m.spawn(&format!("exec 3< q/.mq/pop; {read}; echo read; read -r line <&3; kill -{signal} $$"));
        wait_until(|| !holder.is_running());
        wait_until(|| state(&q, &x).as_deref() == Some("ready"));
    }
    assert_eq!(m.stats("q")["nacked_total"].as_u64(), Some(0), "nobody gave it back by hand");
    let got = m.sh("cat q/.mq/pop > $T/got");
    got.ok();
    assert!(fs::read(m.scratch().join("got")).unwrap() == large);
    wait_until(|| m.bodies("q") == ["later"]);
}

/// A part is not the message: what was not read to its end goes back, too.
#[test]
fn what_was_read_in_part_goes_back() {
    let m = Mount::new();
    let q = m.queue("q");
    let x = m.message(&q, "x", "a longer body");
    assert_eq!(m.sh("dd if=q/.mq/pop bs=1 count=3 status=none").ok(), "a l");
    wait_until(|| state(&q, &x).as_deref() == Some("ready"));
    assert_eq!(m.sh("dd if=q/.mq/claim bs=1 count=3 status=none").ok(), ".mq");
    wait_until(|| state(&q, &x).as_deref() == Some("ready"));
    drop(File::open(q.join(".mq/pop")).unwrap());
    assert_eq!(deliveries(&q, &x), 2, "to open is not to take");
    assert_eq!(m.sh("cat q/.mq/pop").ok(), "a longer body");
    assert_eq!(m.bodies("q").len(), 0);
}

/// "After `max_deliveries` [...] it goes to dead instead", also when its readers die.
#[test]
fn a_message_that_kills_its_readers_is_a_dead_letter() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_deliveries=2"]);
    let x = m.message(&q, "x", "poison");
    for _ in 0..2 {
        wait_until(|| state(&q, &x).as_deref() == Some("ready"));
        m.sh("exec 3< q/.mq/pop; read -r line <&3; kill -9 $$");
    }
    wait_until(|| state(&q, &x).as_deref() == Some("dead"));
}

/// While it is open, and its process lives, the lease renews itself; afterwards it does not come back to life.
#[test]
fn an_open_pop_keeps_its_lease() {
    let m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=1s"]);
    let x = m.message(&q, "x", "body");
    let mut holder = m.spawn("exec 3< q/.mq/pop; read -rN 4 line <&3; echo read; exec sleep 1000");
    wait_until(|| holder.output() == "read\n");
    let start = deadline(&q, &x);
    wait_until(|| deadline(&q, &x) > start + Duration::from_secs(1));
    assert_eq!(state(&q, &x).as_deref(), Some("claimed"));
    assert!(holder.is_running());
    // So that it is the end of its reader that gives it back, and not a lease that ends just then.
    m.set("q", "visibility_timeout=1h");
    wait_until(|| deadline(&q, &x) > start + Duration::from_secs(1800));
    holder.signal(libc::SIGTERM);
    wait_until(|| state(&q, &x).as_deref() == Some("ready"));
    assert_eq!(m.stats("q")["expired_total"].as_u64(), Some(0));
}

/// What somebody else acknowledged or moved meanwhile is not this reader's any more.
#[test]
fn who_lost_his_claim_acknowledges_nothing() {
    let m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=1s", "max_lease=1s"]);
    let x = m.message(&q, "x", "body");
    let mut file = File::open(q.join(".mq/pop")).unwrap();
    let mut got = String::new();
    file.read_to_string(&mut got).unwrap();
    assert_eq!(got, "body");
    wait_until(|| state(&q, &x).as_deref() == Some("ready"));
    m.set("q", "visibility_timeout=1h\nmax_lease=1h");
    fs::rename(&x, within(&q, "claimed", &x)).unwrap();
    drop(file);
    let stats = m.stats("q");
    assert_eq!((stats["acked_total"].as_u64(), stats["claimed"].as_u64()), (Some(0), Some(1)), "{stats}");
}

/// Many wait at once; each gets one, and nothing is lost or doubled.
#[test]
fn many_wait() {
    // Ten thousand take half a minute, most of it Python's.
    let readers = if full() { 10_000 } else { 500 };
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    let program = format!(
        "import os, sys, threading
threading.stack_size(256 * 1024)
got = []
def take():
    fd = os.open('q/.mq/pop', os.O_RDONLY)
    got.append(os.read(fd, 100).decode())
    os.close(fd)
threads = [threading.Thread(target=take) for _ in range({readers})]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(got), len(set(got)))"
    );
    let running = m.spawn_python(&program);
    wait_until(|| m.waiting("q") == readers as u64);
    m.fill(&q, readers + 3);
    assert_eq!(running.finish().ok(), format!("{readers} {readers}\n"));
    assert_eq!(m.bodies("q").len(), 3);
    assert_eq!(m.waiting("q"), 0);
    // And all of them at once.
    m.sh("rm q/*").ok();
    let mut running = m.spawn_python(&program);
    wait_until(|| m.waiting("q") == readers as u64);
    running.signal(libc::SIGKILL);
    wait_until(|| !running.is_running());
    wait_until(|| m.waiting("q") == 0);
}

/// A batch, or the end of a pause, makes many ready at once: each who waits gets one.
#[test]
fn many_come_at_once() {
    let m = Mount::new();
    let q = m.queue_with("q", &["paused=out", "durability=async"]);
    m.fill(&q, 150);
    let program = "import os, threading
def take():
    fd = os.open('q/.mq/pop', os.O_RDONLY)
    os.read(fd, 100)
    os.close(fd)
threads = [threading.Thread(target=take) for _ in range(150)]
for thread in threads: thread.start()
for thread in threads: thread.join()";
    let running = m.spawn_python(program);
    wait_until(|| m.waiting("q") == 150);
    m.set("q", "paused=no");
    running.finish().ok();
    wait_until(|| m.bodies("q").is_empty());
}

/// "Consuming needs r+w+x on the queue".
#[test]
fn only_consumers_may_wait() {
    let (m, q) = crate::users::mount(0o755);
    let x = m.message(&q, "x", "body");
    for (of_queue, of_files) in [(0o755, 0o400), (0o777, 0o444), (0o770, 0o440), (0o1777, 0o400), (0o733, 0o400)] {
        chmod(&q, of_queue);
        for file in ["claim", "pop"] {
            assert_eq!(mode(q.join(".mq").join(file)), of_files, "{file} of {of_queue:o}");
        }
    }
    for of_queue in [0o755, 0o733, 0o773, 0o770, 0o1777] {
        chmod(&q, of_queue);
        for file in ["claim", "pop"] {
            m.run_as(ANN, ANN, &format!("cat q/.mq/{file}")).fails(DENIED);
        }
    }
    crate::users::untouched(&q, &x);
    chmod(&q, 0o777);
    assert_eq!(m.run_as(ANN, ANN, "cat q/.mq/pop").ok(), "body");
    // Who may not any more is not given what comes.
    let reader = m.one_waits(&q, || m.spawn_as(ANN, ANN, "exec cat q/.mq/pop"));
    chmod(&q, 0o755);
    m.message(&q, "y", "later");
    reader.finish().fails(DENIED);
    assert_eq!(m.bodies("q"), ["later"]);
}

/// They are read, not written; and a read-only mount claims nothing.
#[test]
fn what_is_refused() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.message(&q, "x", "body");
    for file in ["claim", "pop"] {
        m.sh(&format!("echo hi > q/.mq/{file}")).fails("Operation not permitted");
        m.sh(&format!("rm q/.mq/{file}")).fails("Operation not permitted");
        assert_eq!(errno(fs::rename(q.join(".mq").join(file), q.join("z"))), libc::EPERM);
    }
    m.stop();
    m.set_args(&["-o", "ro"]);
    m.start();
    for file in ["claim", "pop"] {
        m.sh(&format!("cat q/.mq/{file}")).fails("Read-only file system");
    }
    assert_eq!(m.bodies("q"), ["body"]);
}

/// Who waits in a queue that is removed learns that.
#[test]
fn the_queue_is_removed() {
    let m = Mount::new();
    let q = m.queue("q");
    let reader = m.waiter(&q, "exec cat q/.mq/claim");
    m.sh("rmdir q").ok();
    reader.finish().fails("No such file or directory");
}

/// "SIGTERM, SIGINT and `mqfs umount`: parked and new blocking reads get ENODEV".
#[test]
fn the_mount_goes_away() {
    for umount in [false, true] {
        let mut m = Mount::new();
        let q = m.queue("q");
        let readers: Vec<Running> =
            ["claim", "pop"].map(|file| m.waiter(&q, &format!("exec cat q/.mq/{file}"))).into_iter().collect();
        let late = File::open(q.join(".mq/pop")).unwrap();
        if umount {
            let mut command = Command::new(env!("CARGO_BIN_EXE_mqfs"));
            let mut running = m.start_command(command.arg("umount").arg(m.path()));
            for reader in readers {
                reader.finish().fails("No such device");
            }
            assert_eq!(errno((&late).read(&mut [0; 9])), libc::ENODEV);
            drop(late);
            wait_until(|| !running.is_running());
            running.finish().ok();
            assert!(m.wait_for_exit().success());
        } else {
            drop(late);
            m.stop();
            assert!(!m.log().contains("nobody reads or writes them"), "those who wait do not keep it: {}", m.log());
            for reader in readers {
                reader.finish().fails("No such device");
            }
        }
    }
}

/// A shared descriptor is one open: what one process took of the answer the other does not get.
#[test]
fn processes_share_one_open() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 2);
    let ran = m.sh("exec 3< q/.mq/pop; read -rN 1 a <&3; b=$(cat <&3); c=$(cat <&3); echo \"$a,$b,$c\"");
    assert_eq!(ran.ok(), "m,0,\n");
    wait_until(|| m.bodies("q") == ["m1"]);
}

/// Where the paths of a queue's control files are.
#[test]
fn the_files_are_streams() {
    let m = Mount::new();
    let q = m.queue("q");
    m.message(&q, "x", "body");
    let pop: PathBuf = q.join(".mq/pop");
    seek_fails(&pop);
    assert_eq!(m.sh("tail -c 2 q/.mq/pop").ok(), "dy");
    m.message(&q, "x", "body");
    assert_eq!(m.python("print(open('q/.mq/pop').read())").ok(), "body\n");
    m.message(&q, "x", "1\n2\n3\n");
    assert_eq!(m.sh("sort -r < q/.mq/pop | head -n 1").ok(), "3\n");
    wait_until(|| m.bodies("q").is_empty());
}

#[track_caller]
fn seek_fails(path: &Path) {
    use std::io::{Seek, SeekFrom};
    let mut file = File::open(path).unwrap();
    assert_eq!(errno(file.seek(SeekFrom::Start(1))), libc::ESPIPE);
}
