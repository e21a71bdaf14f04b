//! What open files take of the memory of mqfs: little, whatever is in them, and for each user only so much. A program of its own,
//! because the limit of descriptors that it sets is one for the whole program.

mod common;
#[path = "common/extra.rs"]
mod extra;
#[path = "common/users.rs"]
mod users;

use std::fs;

use common::*;
use extra::full;
use users::*;

const FILES: usize = 5000;

/// In its long form the test opens so many, or as many as the limit of descriptors lets two users have open.
const MANY: usize = 50_000;

/// As many descriptors as that takes, here and in mqfs, as far as the system lets this process have them. Gives how many.
fn raise_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: calls with a valid pointer.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        let most = if full() { 70_000 } else { 20_000 };
        for most in [most, limit.rlim_max.min(most)] {
            limit = libc::rlimit { rlim_cur: most, rlim_max: most };
            if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0 {
                break;
            }
        }
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
    }
    limit.rlim_cur as usize
}

/// Opens files so often, by turns, reads a part of a block each time, another one, tells how often that went well, and waits.
const OPEN: &str = r#"
import errno, mmap, os, sys
count, paths, files = int(sys.argv[1]), sys.argv[2:], []
page, refused, blocks = mmap.mmap(-1, 4096), 0, max(1, os.stat(paths[0]).st_size >> 17)
for n in range(count):
    try:
        files.append(os.open(paths[n % len(paths)], os.O_RDONLY | os.O_DIRECT))
        os.preadv(files[-1], [page], (n % blocks << 17) + 4096)
    except OSError as error:
        assert error.errno == errno.ENFILE, error
        refused += 1
print(len(files), refused, flush=True)
sys.stdin.read()
"#;

fn opened(m: &Mount, uid: u32, path: &str, count: usize) -> (Running, usize, usize) {
    fs::write(m.scratch().join("open"), OPEN).unwrap();
    let pipe = format!("$T/wait{uid}");
    let mut running = m.spawn_as(uid, uid, &format!("mkfifo {pipe}; exec python3 $T/open {count} {path} <> {pipe}"));
    wait_until(|| running.output().ends_with('\n') || !running.is_running());
    let told = running.output();
    let counts: Vec<usize> = told.split_whitespace().map(|count| count.parse().unwrap()).collect();
    assert_eq!(counts.len(), 2, "{told} {}", running.errors());
    (running, counts[0], counts[1])
}

#[test]
fn open_files_keep_neither_blocks_nor_checksums() {
    let descriptors = raise_limit();
    let (m, q) = mount(0o777);
    // One user may not have as many open as all may.
    let (bodies, size, users) = if full() { (4, "1G", &[ANN, BOB][..]) } else { (1, "64M", &[ANN][..]) };
    // Two users may have all but a sixteenth open, of what is not kept for other things.
    let each = if full() { MANY.min((descriptors - 1024) / 16 * 15 - 10) / 2 } else { FILES };
    m.sh(&format!("for n in $(seq {bodies}); do truncate -s {size} q/m$n; done")).ok();
    let before = m.rss_kib() >> 10;
    let most = if full() { 200 } else { before + 100 };
    let mut reading = Vec::new();
    for user in users {
        let (reader, opened, refused) = opened(&m, *user, "q/.mq/peek/*-m*", each);
        assert_eq!((opened, refused), (each, 0));
        reading.push(reader);
    }
    let (count, all) = (each * users.len(), m.rss_kib() >> 10);
    println!("{count} open files of {size}: {all} MiB, before them {before} MiB");
    // A block for each would be 625 MiB, or 6,250.
    assert!(all < most, "{all} MiB, and {before} before, with {count} open files");
    // The messages go, and their readers still get what was checked.
    m.sh("rm q/*-m*").ok();
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
