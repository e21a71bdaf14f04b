//! What a user without privileges could try in order to harm others, and does not succeed with. `tests/hostile` tries
//! everything else at random.

use std::fs;
use std::os::unix::fs::chown;

use crate::common::*;
use crate::extra::*;
use crate::users::*;

/// A sum of a duration that no number holds once ended the mount for everybody.
#[test]
fn no_duration_ends_the_mount() {
    let (m, q) = mount(0o777);
    for much in ["18446744073709551615s999999us1us", "18446744073709551615s999999999ns1ns", "9999999999999999999999w"] {
        ann(&m, &format!("ls q/.mq/with/delay={much}/")).fails("Invalid argument");
        ann(&m, &format!("touch q/.d; setfattr -n user.mq.ttl -v {much} q/.d")).fails("Invalid argument");
    }
    chown(&q, Some(ANN), None).unwrap();
    ann(&m, "echo max_lease=18446744073709551615s999999us1us > q/.mq/config").fails("Invalid argument");
    ann(&m, "echo x > q/a").ok();
    assert_eq!(m.bodies("q"), ["x\n"]);
}

/// What users name their files and properties stays within its line of the log.
#[test]
fn the_log_cannot_be_forged() {
    let (m, q) = mount(0o777);
    chown(&q, Some(ANN), None).unwrap();
    ann(&m, "ls q/.mq/with/header.mq.%0aERROR%20forged=x/").fails("Invalid argument");
    ann(&m, "setfattr -n user.mq.max_lease -v $'1\\nERROR forged\\r\\e[31m' q").fails("Invalid argument");
    ann(&m, "mkdir q/.mq/batch/b; echo x > q/.mq/batch/b/$'.a\\nERROR forged'; mv q/.mq/batch/b q/").fails("busy");
    let log = m.log();
    for told in ["nERROR forged`", "1 ERROR forged\\r", ".a\\nERROR forged"] {
        assert!(log.contains(told), "{told}: {log}");
    }
    for line in log.lines() {
        assert!(line.starts_with("20") && !line.contains(|c: char| c.is_control()), "{line:?}");
    }
}

/// Whoever can put links into a store's database can make root follow them: root is told. What is somebody else's is refused.
#[test]
fn a_store_that_others_can_change_is_told_of() {
    let mut m = Mount::new();
    m.stop();
    assert!(!m.log().contains("others can change"), "{}", m.log());
    chmod(m.store(), 0o777);
    m.start();
    m.stop();
    let told = "others can change the store (user 0, mode 0777)";
    assert!(m.log().contains(told), "{}", m.log());
    let checked = m.sh(&format!("{} check $T/../store", env!("CARGO_BIN_EXE_mqfs")));
    assert!(checked.ok().starts_with(&format!("note: {told}")), "{checked:?}");
    chown(m.store(), Some(ANN), None).unwrap();
    m.launch();
    assert_eq!(m.wait_for_exit().code(), Some(4));
    assert!(m.log().contains(&format!("it belongs to user {ANN}, neither to root nor to you")), "{}", m.log());
}

/// The kernel passes names on that no directory entry can have: no listing shows one.
#[test]
fn no_entry_has_a_name_that_is_too_long() {
    let (m, q) = mount(0o777);
    let long = "n".repeat(255);
    for script in [
        format!("echo x > q/.{long}"),
        format!("mkdir q/{long}n"),
        format!("mkdir q/.mq/batch/{long}n"),
        format!("touch q/.d; mv q/.d q/.{long}"),
        format!("touch q/.d; ln q/.d q/.{long}"),
        format!("mkdir q/.mq/batch/b; touch q/.mq/batch/b/.{long}"),
        format!("touch q/.d; mv q/.d q/.mq/with/priority=1/.{long}"),
        format!("echo x > q/{long}"),
    ] {
        ann(&m, &script).fails("File name too long");
    }
    ann(&m, &format!("echo x > q/.{}", &long[1..])).ok();
    assert!(names(&q).iter().all(|name| name.len() <= 255));
}

/// "r+w+x on a queue is the right to read every message in it": nobody gets at the bytes of a draft that is not for them by
/// making it a message where they may consume.
#[test]
fn a_draft_that_is_not_readable_is_not_published() {
    let (m, q) = mount(0o777);
    m.queue("bobs");
    chown(m.path().join("bobs"), Some(BOB), Some(BOB)).unwrap();
    ann(&m, "umask 077; echo private > q/.d; echo more > q/.e; umask 022; echo public > q/.f").ok();
    bob(&m, "mv q/.d bobs/x").fails(DENIED);
    bob(&m, "mv q/.d q/x").fails(DENIED);
    bob(&m, "mv q/.e bobs/.e; cat bobs/.e").fails(DENIED); // as on any filesystem
    bob(&m, "mv bobs/.e bobs/e").fails(DENIED);
    bob(&m, "mkdir bobs/.mq/batch/b && mv bobs/.e bobs/.mq/batch/b/e && mv bobs/.mq/batch/b bobs/").fails(DENIED);
    assert!(!bob(&m, "ln q/.d bobs/x").status.success());
    assert_eq!(m.bodies("bobs").len() + m.bodies("q").len(), 0);
    // Who may not list does not even find it.
    chmod(&q, 0o733);
    for script in ["mv q/.f bobs/f", "ln q/.f bobs/f", "mv q/.d q/x", "cat q/.f"] {
        bob(&m, script).fails(GONE);
    }
    chmod(&q, 0o777);
    bob(&m, "mv q/.f bobs/f").ok();
    assert_eq!(m.bodies("bobs"), ["public\n"]);
    ann(&m, "mv q/.d q/x").ok();
    assert_eq!(m.bodies("q"), ["private\n"]);
    assert_eq!(listing(&q).len(), 1);
}

/// A copy has room or is not made, and leaves nothing behind when it is not wanted.
#[test]
fn copies_of_drafts_do_not_fill_the_disk() {
    let (m, q) = mount(0o777);
    ann(&m, "head -c 1000000 /dev/zero > q/.e").ok();
    m.set(&q, "max_bytes = 100K");
    for _ in 0..5 {
        ann(&m, "ln q/.e q/x").fails("Disk quota exceeded");
    }
    wait_until(|| m.body_files().len() == 1);
    assert_eq!(m.bodies("q").len(), 0);
}

/// A draft that is being written while it is linked makes a message that is whole: its length is that of its bytes.
#[test]
fn a_copy_of_a_draft_that_changes_is_readable() {
    let (m, _q) = mount(0o777);
    let changes = r#"
import os, threading
path = "q/.d"
fd = os.open(path, os.O_RDWR | os.O_CREAT)
over = False
def change():
    while not over:
        os.ftruncate(fd, 50000)
        os.pwrite(fd, b"x" * 600000, 0)
thread = threading.Thread(target=change, daemon=True)
thread.start()
for n in range(60):
    os.link(path, f"q/m{n}")
over = True
thread.join()
for name in os.listdir("q/.mq/peek"):
    file = "q/.mq/peek/" + name
    assert len(open(file, "rb").read()) == os.stat(file).st_size, name
"#;
    fs::write(m.scratch().join("changes"), changes).unwrap();
    ann(&m, "python3 $T/changes").ok();
    assert_eq!(m.stats("q")["ready"], 60);
    assert!(!m.log().contains("unreadable"));
}

/// Nobody can nest queues without end, so the text about those that there are has one, and tells of all.
#[test]
fn metrics_of_nested_queues_are_bounded() {
    let m = Mount::with(&["-o", "allow_other"]);
    chmod(m.path(), 0o1777);
    m.queue("roots");
    let nest = "import os\nfor n in range(300): os.mkdir('n' * 255); os.chdir('n' * 255)";
    fs::write(m.scratch().join("nest"), nest).unwrap();
    ann(&m, "umask 022; python3 $T/nest").fails("File name too long");
    let deepest = vec!["n".repeat(255); 16].join("/"); // 4,095 bytes
    let mut metrics = String::new();
    // The text is as old as a second.
    wait_until(|| {
        metrics = m.sh("cat .mq/metrics").ok().to_owned();
        metrics.contains(&deepest)
    });
    assert!(metrics.len() < 4_000_000, "{}", metrics.len());
    assert!(metrics.contains("queue=\"roots\",state=\"ready\"} 0"));
    let left_out = metrics.lines().find(|line| line.starts_with("mqfs_queues_untold{")).unwrap();
    assert!(left_out.ends_with(" 0"), "{left_out}");
}

/// Offsets that no file has are no failure of the disk.
#[test]
fn offsets_beyond_every_file_are_no_failure() {
    let (m, _q) = mount(0o777);
    let offsets = r#"
import errno, os
def refused(call, *expected):
    try: call()
    except OSError as error: assert error.errno in expected, error
for name in "q/.d", "q/a":
    fd = os.open(name, os.O_CREAT | os.O_RDWR)
    os.write(fd, b"x")
    for at in 2**63 - 2, 2**63 - 4097, 2**62: assert os.pread(fd, 1, at) == b""
    refused(lambda: os.ftruncate(fd, 2**63 - 1), errno.EFBIG, errno.ENOSPC)
    refused(lambda: os.pwrite(fd, b"x", 2**63 - 2), errno.EFBIG, errno.ENOSPC)
    for times in (2**63 - 1, -2**63), (-1, 2**40): refused(lambda: os.utime(name, times), errno.ENOENT)
"#;
    fs::write(m.scratch().join("offsets"), offsets).unwrap();
    let ran = ann(&m, "python3 $T/offsets");
    assert!(ran.status.success(), "{ran:?}");
    assert!(!m.log().contains("ERROR"), "{}", m.log());
}

/// Holes take room on the disk: no file is longer than that, so no sum of lengths is beyond all numbers, and nobody has to read
/// or remember more than there is.
#[test]
fn no_file_is_longer_than_the_disk() {
    let dir = tempfile::Builder::new().prefix("mqfs-test-tmpfs-").tempdir().unwrap();
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=400M", "none"]).arg(dir.path()).status();
    assert!(mounted.unwrap().success());
    {
        let m = Mount::with_store_in(dir.path(), &["-o", "allow_other"]);
        let q = m.queue("q");
        chmod(&q, 0o777);
        let holes = r#"
import errno, os
def refused(call):
    try: call()
    except OSError as error: assert error.errno in (errno.ENOSPC, errno.EFBIG), error
    else: assert False
def attempt(call):
    fd = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    refused(lambda: call(fd))
    try: os.close(fd)
    except OSError as error: assert error.errno == errno.ENOSPC, error
os.mkdir("q/.mq/batch/b")
for name in "q/m", "q/.d", "q/.mq/batch/b/f":
    for length in 2**62, 2**42, 2**30:
        attempt(lambda fd: os.pwrite(fd, b"x", length))
        attempt(lambda fd: os.ftruncate(fd, length))
    if name != "q/m": refused(lambda: os.truncate(name, 2**42))
fd = os.open("q/.gone", os.O_CREAT | os.O_RDWR)
other = os.open("q/.gone", os.O_RDONLY)
os.unlink("q/.gone")
refused(lambda: os.pwrite(fd, b"x", 2**42))
refused(lambda: os.ftruncate(fd, 2**42))
os.ftruncate(fd, 5)
assert os.fstat(fd).st_size == 5
with open("q/.hole", "wb") as file: os.pwrite(file.fileno(), b"end", 10**6)
os.rename("q/.hole", "q/hole")
"#;
        fs::write(m.scratch().join("holes"), holes).unwrap();
        let ran = ann(&m, "python3 $T/holes");
        assert!(ran.status.success(), "{ran:?}");
        assert!(m.peak_rss_kib() < 300_000, "{} KiB", m.peak_rss_kib());
        let holes = format!("{}end", "\0".repeat(1_000_000));
        assert_eq!(fs::read_to_string(q.join(".mq/pop")).unwrap(), holes);
        assert!(!m.log().contains("ERROR"), "{}", m.log());
    }
    wait_until(|| std::process::Command::new("umount").arg(dir.path()).status().unwrap().success());
}

/// The lease of a claimed message is its consumer's: the producer, or whoever may write to the file, does not prolong it.
#[test]
fn a_producer_does_not_renew_a_lease() {
    let (m, q) = mount(0o733);
    ann(&m, "umask 0; echo x > q/a").ok();
    let a = q.join(&listing(&q)[0]);
    let name = a.file_name().unwrap().to_str().unwrap();
    transition(&q, "claimed", &a);
    let due = deadline(&q, &a);
    ann(&m, &format!("touch -c q/.mq/claimed/{name} q/{name}; touch -d 2001-01-01 q/{name}"));
    chmod(&q, 0o755);
    bob(&m, &format!("touch -c q/.mq/claimed/{name} q/{name}")).ok();
    assert_eq!(deadline(&q, &a), due);
    wait_until(|| {
        m.sh(&format!("touch -c q/.mq/claimed/{name}")).ok();
        deadline(&q, &a) > due
    });
}

/// Attributes of new messages are in memory until these are closed: nobody makes mqfs keep them without end, nor takes what is for
/// the others.
#[test]
fn attributes_of_open_files_are_bounded() {
    let (m, _q) = mount(0o777);
    let open = r#"
import errno, os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
files = []
try:
    for n in range(3800):
        files.append(os.open(f"q/{n}", os.O_CREAT | os.O_WRONLY))
        os.setxattr(files[-1], "user.x", b"x" * 64000)
except OSError as error: assert error.errno == errno.ENFILE, error
os.setxattr(files[0], "user.x", b"shorter")
print(len(files), flush=True)
sys.stdin.read()
"#;
    fs::write(m.scratch().join("open"), open).unwrap();
    let mut greedy = m.spawn_as(ANN, ANN, "mkfifo $T/wait; exec python3 $T/open <> $T/wait");
    wait_until(|| greedy.output().ends_with('\n') || !greedy.is_running());
    let told = greedy.output();
    // Three quarters of 256 MiB.
    let count: usize = told.trim().parse().unwrap_or_else(|_| panic!("{}", greedy.errors()));
    assert!((3100..3150).contains(&count), "{count}");
    let two = "import os\nfor name in 'xy':\n file = os.open(f'q/{name}', os.O_CREAT | os.O_WRONLY)\n os.setxattr(file, 'user.x', b'x' * 64000)";
    fs::write(m.scratch().join("two"), two).unwrap();
    ann(&m, "python3 $T/two").fails("Too many open files");
    ann(&m, "echo x > q/without").ok();
    bob(&m, "python3 $T/two").ok();
    drop(greedy);
    wait_until(|| ann(&m, "python3 $T/two").status.success());
    assert!(!m.log().contains("ERROR"), "{}", m.log());
}
