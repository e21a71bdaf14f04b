//! Enqueueing: whole or not at all, visible and durable at the last close, in the order of closes, errors early.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use crate::common::{Mount, listing, only, producers, wait_until};

/// "Any `open(O_CREAT|O_WRONLY)`, `write`, `close` in a queue directory enqueues one message holding every byte written
/// through that open file, however many writes [...]" and "Nobody sees a message before its last writer has closed it.
/// Until then it is neither listed nor found by name".
#[test]
fn a_message_is_invisible_until_its_last_close_and_then_whole() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        exec 3> q/x
        printf one >&3
        printf two >&3
        echo "while open: [$(ls -A q)] [$(ls -A q/.mq/peek)] [$(setsid -w cat q/x 2>&1)]"
        printf three >&3
        exec 3>&-
        ls q | wc -l
    "#;
    let out = m.sh(script).ok().to_owned();
    assert_eq!(out, "while open: [] [] [cat: q/x: No such file or directory]\n1\n");
    assert_eq!(producers(&q), ["x"]);
    assert_eq!(m.bodies(&q), ["onetwothree"]);
}

/// "**Read your writes.** After `close()` returns, every later `ls`, `open`, `.mq/claim` by anybody sees the message."
#[test]
fn every_listing_after_a_close_sees_the_message() {
    let m = Mount::new();
    m.queue("q");
    let program = r#"
import os
for i in range(300):
    with open("q/x", "w") as f:
        f.write(str(i) * (i % 7))
    assert len(os.listdir("q")) == i + 1, i
    assert len(os.listdir("q/.mq/peek")) == i + 1, i
"#;
    m.python(program).ok();
}

/// "**Read your writes**", with many writers and readers at once: whoever has closed finds it, whoever claims gets it.
#[test]
fn read_your_writes_holds_among_many_processes() {
    let m = Mount::new();
    m.queue("q");
    let program = r#"
import os, sys
def worker(n):
    for i in range(60):
        name = f"w{n}-{i}"
        with open("q/" + name, "w") as f:
            f.write(name)
        names = [x[17:] for x in os.listdir("q")]
        assert name in names, (name, names)
pids = []
for n in range(8):
    pid = os.fork()
    if pid == 0:
        try:
            worker(n)
        except BaseException as e:
            sys.stderr.write(repr(e)); sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    pids.append(pid)
assert all(os.waitpid(p, 0)[1] == 0 for p in pids)
"#;
    m.python(program).ok();
    assert_eq!(m.bodies("q").len(), 480);
}

/// "Two writers of the same name make two messages."
#[test]
fn many_writers_of_one_name_make_as_many_messages() {
    let m = Mount::new();
    let q = m.queue("q");
    let program = r#"
import os
pids = []
for n in range(8):
    pid = os.fork()
    if pid == 0:
        for i in range(50):
            with open("q/same", "w") as f:
                f.write(f"{n}-{i}")
        os._exit(0)
    pids.append(pid)
assert all(os.waitpid(p, 0)[1] == 0 for p in pids)
"#;
    m.python(program).ok();
    assert!(producers(&q).iter().all(|name| name == "same"));
    let mut bodies = m.bodies(&q);
    bodies.sort();
    let mut expected: Vec<_> = (0..8).flat_map(|n| (0..50).map(move |i| format!("{n}-{i}"))).collect();
    expected.sort();
    assert_eq!(bodies, expected);
}

/// "Two writers of the same name make two messages": also when both have the name open at the same time.
#[test]
fn two_descriptors_of_one_name_open_at_once_are_two_messages() {
    let m = Mount::new();
    m.queue("q");
    m.sh("exec 3>q/x 4>q/x; echo a >&3; echo b >&4; echo a >&3; exec 3>&-; exec 4>&-").ok();
    assert_eq!(m.bodies("q"), ["a\na\n", "b\n"]);
}

/// "An empty file is a message."
#[test]
fn an_empty_file_is_a_message() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("> q/redirected; touch q/touched; cp /dev/null q/copied").ok();
    assert_eq!(producers(&q), ["redirected", "touched", "copied"]);
    assert_eq!(m.bodies(&q), ["", "", ""]);
}

/// Sizes and kinds are those of a regular file: scripts use `test -s`, `test -f`, `stat -c %s`.
#[test]
fn a_ready_message_looks_like_the_file_that_was_written() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("umask 027; printf 12345 > q/x").ok();
    let meta = fs::symlink_metadata(only(&q)).unwrap();
    assert!(meta.is_file());
    assert_eq!((meta.len(), meta.permissions().mode() & 0o7777, meta.uid(), meta.gid()), (5, 0o640, 0, 0));
    let age = std::time::SystemTime::now().duration_since(meta.modified().unwrap()).unwrap_or_default();
    assert!(age.as_secs() < 60, "mtime is {age:?} ago");
}

/// O_EXCL asks whether the name exists: it does for the session that wrote it ("the bare name still works for its
/// producer") and for nobody else.
#[test]
fn o_excl_makes_a_message_unless_the_session_sees_the_name() {
    let m = Mount::new();
    m.queue("q");
    let program = r#"
import os
fd = os.open("q/x", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
os.write(fd, b"once")
os.close(fd)
try:
    os.open("q/x", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
except FileExistsError:
    print("exists")
"#;
    assert_eq!(m.python(program).ok(), "exists\n");
    m.session("set -C; echo again > q/x").ok();
    assert_eq!(m.bodies("q"), ["once", "again\n"]);
}

/// "opening it to write (O_TRUNC, O_APPEND) makes a new message": `>>` never alters a committed message.
#[test]
fn appending_makes_a_message_each_time() {
    let m = Mount::new();
    m.queue("q");
    m.sh("echo a >> q/log; echo b >> q/log; printf 'c\\nd\\n' >> q/log").ok();
    assert_eq!(m.bodies("q"), ["a\n", "b\n", "c\nd\n"]);
}

/// "one message holding every byte written through that open file": at whatever offset.
#[test]
fn pwrite_holes_and_truncation_shape_the_message_as_on_any_filesystem() {
    let m = Mount::new();
    m.queue("q");
    let program = r#"
import os
def new(name, flags=0):
    return os.open("q/" + name, os.O_CREAT | os.O_WRONLY | flags, 0o644)
fd = new("backwards")
for at in (6, 3, 0):
    os.pwrite(fd, b"%d.." % at, at)
os.close(fd)
fd = new("hole")
os.write(fd, b"a"); os.lseek(fd, 5, os.SEEK_SET); os.write(fd, b"b")
os.close(fd)
fd = new("shrunk")
os.write(fd, b"0123456789"); os.ftruncate(fd, 4)
os.close(fd)
fd = new("grown")
os.write(fd, b"ab"); os.ftruncate(fd, 4)
os.close(fd)
fd = new("restarted")
os.write(fd, b"wrong and long"); os.ftruncate(fd, 0); os.lseek(fd, 0, os.SEEK_SET); os.write(fd, b"right")
os.close(fd)
fd = new("appended", os.O_APPEND)
os.write(fd, b"a"); os.lseek(fd, 0, os.SEEK_SET); os.write(fd, b"b")
os.close(fd)
"#;
    m.python(program).ok();
    let expected = ["0..3..6..", "a\0\0\0\0b", "0123", "ab\0\0", "right", "ab"];
    assert_eq!(m.bodies("q"), expected);
}

/// A descriptor that was opened for reading too reads what it has written so far.
#[test]
fn a_writer_reads_and_stats_its_own_open_message() {
    let m = Mount::new();
    m.queue("q");
    let program = r#"
import os
fd = os.open("q/x", os.O_CREAT | os.O_RDWR | os.O_TRUNC)
os.write(fd, b"hello world")
assert os.pread(fd, 5, 6) == b"world"
assert os.fstat(fd).st_size == 11
os.pwrite(fd, b"W", 6)
assert os.pread(fd, 100, 0) == b"hello World"
os.close(fd)
"#;
    m.python(program).ok();
    assert_eq!(m.bodies("q"), ["hello World"]);
}

/// The other ways to write a file: a shared mapping (closed after or before the descriptor), sendfile, splice,
/// O_DIRECT, posix_fallocate.
#[test]
fn every_way_to_write_a_file_writes_the_message() {
    let m = Mount::new();
    m.queue("q");
    let program = r#"
import mmap, os
def new(name, flags=os.O_RDWR):
    return os.open("q/" + name, os.O_CREAT | flags, 0o644)
for name, map_last in (("map", False), ("map-last", True)):
    fd = new(name)
    os.ftruncate(fd, 8192)
    map = mmap.mmap(fd, 8192)
    map[0:5] = b"first"
    if map_last:
        os.close(fd)
    map[5000:5006] = b"second"
    map.close()
    if not map_last:
        os.close(fd)
source = os.environ["T"] + "/source"
with open(source, "wb") as f:
    f.write(b"z" * 100_000)
with open(source, "rb") as f:
    fd = new("sent", os.O_WRONLY)
    assert os.sendfile(fd, f.fileno(), 0, 100_000) == 100_000
    os.close(fd)
r, w = os.pipe()
os.write(w, b"spliced")
fd = new("spliced", os.O_WRONLY)
assert os.splice(r, fd, 7) == 7
os.close(fd)
fd = new("direct", os.O_WRONLY | os.O_DIRECT)
page = mmap.mmap(-1, 4096)
page[:] = b"d" * 4096
assert os.write(fd, page) == 4096
os.close(fd)
fd = new("allocated")
os.posix_fallocate(fd, 0, 5)
os.write(fd, b"ab")
os.close(fd)
"#;
    m.python(program).ok();
    wait_until(|| m.bodies("q").len() == 6);
    let mapped = "first".to_owned() + &"\0".repeat(4995) + "second" + &"\0".repeat(3186);
    let z = "z".repeat(100_000);
    let expected = [&mapped, &mapped, &z, "spliced", &"d".repeat(4096), "ab\0\0\0"];
    assert!(m.bodies("q") == expected, "wrong bytes");
}

/// "`fsync` (file or directory) upgrades it", in either durability; it does not publish an open message.
#[test]
fn fsync_of_file_and_directory_work_and_publish_nothing_early() {
    let m = Mount::new();
    m.queue("sync");
    m.queue_with("async", &["durability=async"]);
    let program = r#"
import os
for q in ("sync", "async"):
    fd = os.open(q + "/x", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"one")
    os.fsync(fd)
    assert os.listdir(q) == []
    os.write(fd, b"two")
    os.fdatasync(fd)
    assert os.listdir(q) == []
    os.close(fd)
    assert len(os.listdir(q)) == 1
    d = os.open(q, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(d)
    os.close(d)
"#;
    m.python(program).ok();
    m.sh("sync; sync -f sync").ok();
    assert_eq!(m.bodies("sync"), ["onetwo"]);
    assert_eq!(m.bodies("async"), ["onetwo"]);
}

/// "FIFO is the order of closes."
#[test]
fn messages_are_in_the_order_of_their_closes() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        exec 3>q/a 4>q/b 5>q/c
        echo a >&3; echo b >&4; echo c >&5
        exec 4>&-
        : > q/empty
        exec 5>&-
        exec 3>&-
    "#;
    m.sh(script).ok();
    assert_eq!(producers(&q), ["b", "empty", "c", "a"]);
    assert_eq!(m.bodies(&q), ["b\n", "", "c\n", "a\n"]);
    assert_eq!(m.sh("for f in q/*; do cat $f; rm $f; done").ok(), "b\nc\na\n");
}

/// "In a `durability = async` queue it survives a crash of the mqfs process", and in a sync queue all the more.
#[test]
fn a_crash_of_mqfs_right_after_close_loses_nothing() {
    for durability in ["sync", "async"] {
        let mut m = Mount::new();
        let q = m.queue_with("q", &[&format!("durability={durability}")]);
        let script = r#"
            for i in {1..50}; do echo $i > q/small; done
            head -c 100000 /dev/zero | tr '\0' z > q/large
            : > q/empty
            echo draft > q/.d; mv q/.d q/published
            kill -9 $MQFS_PID
        "#;
        m.sh(script).ok();
        assert!(!m.wait_for_exit().success());
        m.detach();
        m.start();
        let mut expected: Vec<String> = (1..=50).map(|i| format!("{i}\n")).collect();
        expected.extend(["z".repeat(100_000), String::new(), "draft\n".into()]);
        assert_eq!(m.bodies(&q), expected, "durability={durability}");
        assert_eq!(listing(&q).len(), 53, "all are ready");
    }
}

/// "Whole or not at all": what was not closed when mqfs crashed is discarded, and the rest goes on.
#[test]
fn a_crash_of_mqfs_discards_what_was_still_being_written() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.sh("echo whole > q/whole").ok();
    // Closes of children, and closes that do not cover all bytes, are not the opener's last word.
    let program = r#"
import os, sys, time
fd = os.open("q/half", os.O_CREAT | os.O_WRONLY)
os.write(fd, b"h" * int(sys.argv[1]))
if os.fork() == 0:
    os._exit(0)
os.wait()
os.close(os.dup(fd))
os.write(fd, b"more")
print("ready", flush=True)
time.sleep(1000)
"#;
    let start = |size: &str| m.start_command(Command::new("python3").args(["-c", program, size]));
    let writers = [start("5"), start("1000000")];
    wait_until(|| writers.iter().all(|writer| writer.output() == "ready\n"));
    m.kill9_and_remount();
    assert_eq!(m.bodies(&q), ["whole\n"]);
    wait_until(|| m.body_files().is_empty()); // a thread sweeps
    m.sh("echo next > q/next").ok();
    assert_eq!(m.bodies(&q), ["whole\n", "next\n"]);
}

/// "After a crash between the close and the moment the message became visible, it is delivered if that close came, not
/// dying, from the process that opened it and covers all bytes".
#[test]
fn a_crash_of_mqfs_delivers_what_its_opener_had_closed_whole() {
    let mut m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        exec 3> q/x
        echo whole >&3
        sleep 1000 &
        exec 3>&-
        echo ready
        exec sleep 1000
    "#;
    let writer = m.spawn(script);
    wait_until(|| writer.output() == "ready\n");
    assert_eq!(listing(&q), [""; 0], "the background child holds it");
    m.kill9_and_remount();
    assert_eq!(m.bodies(&q), ["whole\n"]);
    assert_eq!(listing(&q).len(), 1);
}
