//! The disk fails under the store: a sync or a write of mqfs gets EIO, or the file system becomes read-only. Who was told
//! that all is well has what he was told; the others get an error; nothing is half there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::*;
use crate::disk::Disk;
use crate::extra::{assert_listed, control};

/// Faults in the system calls of mqfs, until it is dropped.
struct Faults {
    strace: Child,
}

impl Faults {
    /// `inject` as in strace(1): `fdatasync:error=EIO:when=1+`. It is counted by each thread for itself, so `threads` says
    /// whose they are, by what their names begin with.
    fn new(m: &Mount, threads: &str, inject: &str) -> Faults {
        let tasks = fs::read_dir(format!("/proc/{}/task", m.pid())).unwrap().map(|task| task.unwrap().path());
        let named =
            tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with(threads)));
        let tasks: Vec<PathBuf> = named.collect();
        let ids: Vec<&str> = tasks.iter().map(|task| task.file_name().unwrap().to_str().unwrap()).collect();
        let log = m.scratch().join("strace");
        let call = inject.split(':').next().unwrap();
        let strace = Command::new("strace")
            .args(["-e", &format!("trace={call}"), "-e", &format!("inject={inject}"), "-p", &ids.join(",")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        // A thread may have ended before strace came to it.
        let traced = |task: &PathBuf| {
            !fs::read_to_string(task.join("status")).is_ok_and(|status| status.contains("TracerPid:\t0\n"))
        };
        wait_until(|| tasks.iter().all(traced));
        Faults { strace }
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        // SAFETY: the child has not been waited for. At SIGTERM strace lets go of the processes.
        unsafe { libc::kill(self.strace.id() as i32, libc::SIGTERM) };
        let _ = self.strace.wait();
    }
}

/// Writes a message as programs do that look at every answer; whether it was taken.
fn enqueue(path: &Path, body: &[u8]) -> bool {
    let Ok(mut file) = fs::File::create(path) else { return false };
    let written = std::io::Write::write_all(&mut file, body).is_ok();
    close(file) == 0 && written
}

fn close(file: fs::File) -> i32 {
    // SAFETY: the descriptor is given up by its owner and closed once.
    unsafe { libc::close(std::os::fd::IntoRawFd::into_raw_fd(file)) }
}

fn names(m: &Mount, queue: &Path) -> BTreeSet<String> {
    m.messages(queue).iter().map(|(name, _)| producer(name).to_owned()).collect()
}

/// The disk's cache cannot be written out: closes that promised it fail, and so does what comes after, until the store is
/// mounted again. Whatever a close has said is true then.
#[test]
fn a_sync_that_fails_fails_the_close() {
    for large in [false, true] {
        let mut m = Mount::new();
        let q = m.queue("q");
        let body = if large { vec![b'x'; 200_000] } else { b"x".to_vec() };
        let mut taken = BTreeSet::new();
        for n in 0..5 {
            assert!(enqueue(&q.join(format!("before{n}")), &body));
            taken.insert(format!("before{n}"));
        }
        let faults = Faults::new(&m, if large { "mqfs-body" } else { "" }, "fdatasync:error=EIO:when=1");
        assert!(!enqueue(&q.join("failed"), &body));
        drop(faults);
        assert!(!names(&m, &q).contains("failed"), "who is told of a failure does it again");
        for n in 0..5 {
            if enqueue(&q.join(format!("after{n}")), &body) {
                taken.insert(format!("after{n}"));
            }
        }
        if large {
            // One file could not be written; the others, and the database, can.
            assert_eq!(taken.len(), 10);
        } else {
            assert_eq!(taken.len(), 5, "what is on the disk is not known any more");
            assert!(m.log().contains("mount again when the cause is gone"), "{}", m.log());
            m.sh("echo x > q/x").fails("Input/output error");
            m.sh("rm q/*-before0").fails("Input/output error");
            m.sh("cat q/*-before0").fails("Input/output error");
            assert_eq!(m.sh("cat q/.mq/peek/*-before0").ok(), "x", "looking works");
        }
        m.stop_anyway();
        m.start();
        let there = names(&m, &q);
        assert!(taken.is_subset(&there), "{taken:?} {there:?}");
        assert!(m.messages(&q).iter().all(|(_, found)| *found == body), "whole");
        assert!(enqueue(&q.join("goes-on"), &body));
    }
}

/// A body that nobody waited for is told by the next sync of its queue, each time: the kernel itself would tell it once. Other
/// queues have nothing to do with it.
#[test]
fn a_body_that_could_not_be_written_fails_the_sync_of_its_queue() {
    let m = Mount::new();
    let (q, other) = (m.queue_with("q", &["durability=async"]), m.queue_with("other", &["durability=async"]));
    let faults = Faults::new(&m, "mqfs-body", "fdatasync:error=EIO:when=1");
    assert!(enqueue(&q.join("failed"), &[b'x'; 200_000]));
    wait_until(|| m.log().contains("sync of a body failed"));
    drop(faults);
    for n in 0..20 {
        assert!(enqueue(&other.join(format!("{n}")), &[b'x'; 200_000]));
    }
    let sync = |queue: &Path| fs::File::open(queue).unwrap().sync_all();
    sync(&other).unwrap();
    for _ in 0..2 {
        assert_eq!(sync(&q).unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    m.sh("rm q/*-failed").ok();
    sync(&q).unwrap();
}

/// A long line that could not be synced is told to its writer, once; the next ones are as good as any.
#[test]
fn a_long_line_that_fails_fails_no_others() {
    let m = Mount::new();
    let q = m.queue("q");
    let mut lines = fs::File::options().write(true).open(control(&q, "lines")).unwrap();
    let mut line = |letter: u8| {
        let line = [&[letter; 100_000][..], b"\n"].concat();
        std::io::Write::write_all(&mut lines, &line)
    };
    let faults = Faults::new(&m, "mqfs-body", "fdatasync:error=EIO:when=1");
    assert_eq!(line(b'a').unwrap_err().raw_os_error(), Some(libc::EIO));
    drop(faults);
    (b'b'..b'z').for_each(|letter| line(letter).unwrap());
    lines.sync_all().unwrap();
    assert_eq!(close(lines), 0);
}

/// The log cannot be written to.
#[test]
fn a_write_that_fails_fails_the_operation() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 3);
    let faults = Faults::new(&m, "", "write:error=EIO:when=1+");
    assert!(!enqueue(&q.join("failed"), b"x"));
    let first = q.join(&listing(&q)[0]);
    assert_eq!(errno(fs::remove_file(&first)), libc::EIO);
    assert_eq!(errno(fs::create_dir(m.path().join("r"))), libc::EIO);
    drop(faults);
    assert_eq!(names(&m, &q), BTreeSet::from(["m0".into(), "m1".into(), "m2".into()]));
    m.stop_anyway();
    m.start();
    assert_eq!(m.bodies(&q), ["m0", "m1", "m2"]);
    m.sh("echo more > q/more; rm q/*-m0").ok();
}

/// The file system under a running mqfs becomes read-only, as ext4 does it on an error.
#[test]
fn a_disk_that_becomes_read_only_is_told() {
    for small in [true, false] {
        let disk = Disk::new(&["mkfs.ext4", "-q", "-F"]);
        let mut m = Mount::with_store_in(&disk.path(), &[]);
        let q = m.queue("q");
        m.fill(&q, 3);
        m.message(&q, "large", vec![b'x'; 100_000]);
        // An error of the file system's own: with files open for writing nobody may do it politely.
        disk.fail();
        let body = if small { &b"x"[..] } else { &[b'x'; 1_000_000] };
        assert!(!enqueue(&q.join("x"), body));
        // From then on everybody is told before he writes.
        wait_until(|| m.sh("echo x > q/x").stderr.contains("Read-only file system"));
        m.sh("rm q/*-m0").fails("Read-only file system");
        assert!(m.log().contains("the database failed"), "{}", m.log());
        assert_eq!(m.sh("cat q/.mq/peek/*-m1").ok(), "m1");
        m.stop_anyway();
        disk.start_again();
        m.start();
        let there: Vec<String> = names(&m, &q).into_iter().filter(|name| name != "x").collect();
        assert_eq!(there, ["large", "m0", "m1", "m2"]);
        m.sh("rm q/*-m0; echo goes on > q/y").ok();
        m.stop();
    }
}

/// The database cannot write a table, and stops; its log can be synced as before.
fn fail_a_flush(m: &Mount) {
    let faults = Faults::new(m, "rocksdb", "write:error=EIO:when=1+");
    let mut backup = Command::new(env!("CARGO_BIN_EXE_mqfs"));
    let ran = backup.arg("backup").arg(m.path()).arg(m.scratch().join("backup")).output().unwrap();
    assert!(!ran.status.success(), "{ran:?}");
    drop(faults);
    assert_eq!(errno(fs::create_dir(m.path().join("refused"))), libc::EIO);
}

/// The database stops between a close that promised a large message and the last close of it: the message is shown, and its
/// body stays, whatever was to be written with the last close.
#[test]
fn a_promised_message_is_there_though_the_database_stops_before_the_last_close() {
    for (config, path) in [
        (&[][..], "q/large"),
        (&["dedup_window=1h"][..], "q/.mq/with/id=1/large"),
        (&["max_messages=1", "overflow=drop-oldest"][..], "q/large"),
    ] {
        let mut m = Mount::new();
        let q = m.queue_with("q", config);
        let body = vec![b'x'; 100_000];
        let files = [m.path().join(path), q.join("other")].map(|path| {
            let mut file = fs::File::create(path).unwrap();
            std::io::Write::write_all(&mut file, &body).unwrap();
            assert_eq!(close(file.try_clone().unwrap()), 0, "promised");
            file
        });
        fail_a_flush(&m);
        files.into_iter().for_each(|file| assert_eq!(close(file), 0));
        wait_until(|| names(&m, &q).len() == 2);
        m.stop_anyway();
        m.start();
        assert_eq!(names(&m, &q), BTreeSet::from(["large".into(), "other".into()]), "{config:?}");
        assert!(m.messages(&q).iter().all(|(_, found)| *found == body), "{config:?}");
    }
}

/// The same when the last close finds that a writer was killed: what cannot be taken back keeps its bytes.
#[test]
fn a_message_that_cannot_be_taken_back_keeps_its_body() {
    let mut m = Mount::new();
    let q = m.queue("q");
    let body = vec![b'x'; 100_000];
    let mut file = fs::File::create(q.join("large")).unwrap();
    std::io::Write::write_all(&mut file, &body).unwrap();
    assert_eq!(close(file.try_clone().unwrap()), 0, "promised");
    fail_a_flush(&m);
    assert!(std::io::Write::write_all(&mut file, b"more").is_err(), "the commit cannot be taken back");
    assert_ne!(close(file), 0);
    m.stop_anyway();
    m.start();
    let found = m.messages(&q);
    assert_eq!(found.len(), 1);
    assert!(found[0].1 == body, "whole, as the first close promised");
}

/// A store that cannot be written to is refused in words, read-only mount or not: what reads claims.
#[test]
fn a_read_only_store_is_refused() {
    let disk = Disk::new(&["mkfs.ext4", "-q", "-F"]);
    let mut m = Mount::with_store_in(&disk.path(), &[]);
    let q = m.queue("q");
    m.fill(&q, 3);
    m.stop();
    disk.remount("ro");
    for options in [&[][..], &["-o", "ro"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mqfs"));
        let ran = command.arg("mount").arg(m.store()).arg(m.path()).args(options).output().unwrap();
        assert_eq!(ran.status.code(), Some(4), "{ran:?}");
        let line = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(line.lines().count() == 1 && line.ends_with("Read-only file system\n"), "{line:?}");
    }
    disk.remount("rw");
    m.start();
    assert_eq!(m.bodies(&q), ["m0", "m1", "m2"]);
    m.stop();
}

/// A crash comes before a large body is on the disk, which then does not give it back. `mqfs check` says so, and sets it aside.
#[test]
fn a_body_that_was_not_durable_and_cannot_be_read_is_told_by_check() {
    let mut m = Mount::new();
    let q = m.queue_with("q", &["durability = async"]);
    m.put(q.join("before"), vec![b'x'; 100_000]);
    let faults = Faults::new(&m, "mqfs-body", "fdatasync:error=EIO:when=1+");
    m.put(q.join("after"), vec![b'x'; 200_000]);
    wait_until(|| m.log().contains("sync of a body failed"));
    drop(faults);
    m.kill9();
    let bodies = files_below(m.store().join("bodies")).into_iter().map(|(path, _)| path);
    let file = bodies.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let check = |repair: &[&str]| {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-q", "-o", "/dev/null", "-e", "trace=openat2", "-e", "inject=openat2:error=EIO", "-P"]);
        // It is opened from the descriptor of the store's directory.
        let file = file.strip_prefix(m.store()).unwrap();
        let ran = strace.arg(file).arg(env!("CARGO_BIN_EXE_mqfs")).arg("check").args(repair).arg(m.store()).output();
        String::from_utf8(ran.unwrap().stdout).unwrap()
    };
    for repair in [&[][..], &["--repair"]] {
        let told = check(repair);
        assert!(told.contains("-after: Input/output error"), "{told}");
    }
    m.start();
    assert_eq!(producers(&q), ["before"]);
    assert_listed(&control(&q, "dead"), &["after"]);
}
