//! What open files take of the memory of mqfs: little, whatever is in them, and for each user only so much. A program of its own,
//! because the limit of descriptors that it sets is one for the whole program.

mod common;
#[path = "common/extra.rs"]
mod extra;
#[path = "common/users.rs"]
mod users;

use std::fs;

use common::*;
use users::*;

const FILES: usize = 5000;

/// As many descriptors as that takes, here and in mqfs.
fn raise_limit() {
    let limit = libc::rlimit { rlim_cur: 20_000, rlim_max: 20_000 };
    // SAFETY: a call with a valid pointer.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

/// Opens a file so often, reads a part of a block each time, tells how often that went well, and waits.
const OPEN: &str = r#"
import errno, mmap, os, sys
path, count, files = sys.argv[1], int(sys.argv[2]), []
page, refused = mmap.mmap(-1, 4096), 0
for n in range(count):
    try:
        files.append(os.open(path, os.O_RDONLY | os.O_DIRECT))
        os.preadv(files[-1], [page], 4096)
    except OSError as error:
        assert error.errno == errno.ENFILE, error
        refused += 1
print(len(files), refused, flush=True)
sys.stdin.read()
"#;

fn opened(m: &Mount, uid: u32, path: &str, count: usize) -> (Running, usize, usize) {
    fs::write(m.scratch().join("open"), OPEN).unwrap();
    let pipe = format!("$T/wait{uid}");
    let mut running =
        m.spawn_as(uid, uid, &format!("mkfifo {pipe}; exec python3 $T/open \"$(echo {path})\" {count} <> {pipe}"));
    wait_until(|| running.output().ends_with('\n') || !running.is_running());
    let told = running.output();
    let counts: Vec<usize> = told.split_whitespace().map(|count| count.parse().unwrap()).collect();
    assert_eq!(counts.len(), 2, "{told} {}", running.errors());
    (running, counts[0], counts[1])
}

#[test]
fn open_files_keep_neither_blocks_nor_checksums() {
    raise_limit();
    let (m, q) = mount(0o777);
    m.sh("truncate -s 64M $T/large && cp --sparse=never $T/large q/m").ok();
    let before = m.rss_kib();
    let (reading, opened, refused) = opened(&m, ANN, "q/.mq/peek/*-m", FILES);
    assert_eq!((opened, refused), (FILES, 0));
    let grown = m.rss_kib().saturating_sub(before) >> 10;
    // A block for each would be 625 MiB.
    assert!(grown < 100, "{grown} MiB for {FILES} open files");
    // The message goes, and its readers still get what was checked.
    m.sh("rm q/*-m").ok();
    assert_eq!(listing(&q).len(), 0);
    drop(reading);
    wait_until(|| m.stats("")["open_files"] == 0);
    assert!(!m.log().contains("ERROR"), "{}", m.log());
}

#[test]
fn small_bodies_that_are_open_are_budgeted_for_each_user() {
    raise_limit();
    let (m, _q) = mount(0o777);
    m.sh("for n in m a b; do head -c 32768 /dev/zero > q/$n; done").ok();
    let before = m.rss_kib();
    let (anns, of_ann, refused) = opened(&m, ANN, "q/.mq/peek/*-m", FILES);
    assert!(of_ann > 2500 && refused > 1500, "{of_ann} opened, {refused} refused");
    let grown = m.rss_kib().saturating_sub(before) >> 10;
    assert!(grown < 160, "{grown} MiB");
    ann(&m, "cat q/*-a").fails("Too many open files");
    ann(&m, "timeout 100 cat q/.mq/pop").fails("Too many open files");
    assert_eq!(m.stats("q")["claimed"], 0, "nobody got it");
    let (bobs, of_bob, _) = opened(&m, BOB, "q/.mq/peek/*-m", FILES);
    assert!(of_bob > 500, "{of_bob}");
    m.sh("cat q/*-b > /dev/null").ok();
    drop((anns, bobs));
    wait_until(|| ann(&m, "cat q/*-a > /dev/null").status.success());
}
