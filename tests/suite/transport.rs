//! By what way requests come: `-o transport=auto | uring | dev`, as mqfs(1) has it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::common::*;
use crate::extra::*;

const ENABLED: &str = "/sys/module/fuse/parameters/enable_uring";

/// Whether this kernel offers io_uring; where not, says so.
fn offered() -> bool {
    let offers = fs::read_to_string(ENABLED).is_ok_and(|text| text.trim() == "Y");
    if !offers {
        eprintln!("SKIPPED: the kernel does not offer FUSE over io_uring ({ENABLED})");
    }
    offers
}

/// Lets this thread run on that processor only.
fn pin(processor: usize) {
    let mut only = CpuSet::new();
    only.set(processor);
    sched_setaffinity(None, &only).unwrap();
}

/// The first and the last of the processors that we may use.
fn processors() -> (usize, usize) {
    let mine = sched_getaffinity(None).unwrap();
    let mut numbers = (0..CpuSet::MAX_CPU).filter(|number| mine.is_set(*number));
    let first = numbers.next().unwrap();
    (first, numbers.next_back().unwrap_or(first))
}

#[test]
fn the_log_says_by_what_way_requests_come() {
    let m = Mount::with(&["-o", "transport=dev"]);
    assert!(!m.log().contains("io_uring"), "{}", m.log());
    let m = Mount::new();
    let auto = if offered() { "requests come by io_uring" } else { "requests come by /dev/fuse: " };
    wait_until(|| m.log().contains(auto));
    let q = m.queue("q");
    fs::write(q.join("x"), "body").unwrap();
    assert_eq!(m.bodies("q"), ["body"]);
}

/// Without what it takes there is no mount with `uring`, and one by `/dev/fuse` with `auto`.
#[test]
fn where_io_uring_is_not_to_be_had_requests_come_by_the_device() {
    let m = Mount::new();
    let (store, point) = (m.scratch().join("store"), m.scratch().join("point"));
    fs::create_dir(&point).unwrap();
    let log = m.scratch().join("other.log");
    // The kernel may offer it, and refuse a ring.
    let mount = |transport: &str, then: &str| {
        let refused = "strace -D -qq -f -o /dev/null -e trace=io_uring_setup -e inject=io_uring_setup:error=EPERM";
        let (mqfs, log) = (env!("CARGO_BIN_EXE_mqfs"), log.display());
        let options = format!("-o transport={transport} --log-file {log} {} {}", store.display(), point.display());
        m.sh(&format!("cd {}; {refused} {mqfs} mount {options} {then}", m.scratch().display()))
    };
    let ran = mount("uring", "; code=$?; mountpoint -q point && echo mounted; exit $code");
    assert_eq!((ran.code(), ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.stderr.contains("requests cannot come by io_uring: "), "{ran:?}");
    let ran = mount("auto", "&& mkdir point/q && echo hi > point/q/x && cat point/q/*; umount point");
    assert_eq!(ran.ok(), "hi\n");
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("requests come by /dev/fuse: "), "{log}");
}

/// "Whoever looks after a close returned finds the message", from whatever processor: also when so many requests of one processor wait
/// in the kernel that those of another overtake them.
#[test]
fn what_was_closed_on_one_processor_is_seen_from_another() {
    const THREADS: usize = 100;
    const EACH: usize = 30;
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    let (first, last) = processors();
    let (closed, wrong) = (AtomicU64::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for writer in 0..THREADS {
            let (q, closed, wrong) = (&q, &closed, &wrong);
            scope.spawn(move || {
                for n in 0..EACH {
                    pin(first);
                    fs::write(q.join(format!("{writer}-{n}")), "x").unwrap();
                    let before = closed.fetch_add(1, Ordering::SeqCst) + 1;
                    pin(last);
                    let ready: u64 = xattr(q, "user.mq.ready").unwrap().parse().unwrap();
                    wrong.fetch_add(usize::from(ready < before), Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(wrong.into_inner(), 0, "of {} looks missed a message", THREADS * EACH);
    assert_eq!(m.stats("q")["ready"].as_u64(), Some((THREADS * EACH) as u64));
}

/// Those who wait keep their places in the kernel's queues, and nobody else waits for one.
#[test]
fn many_readers_that_wait_on_one_processor_hold_up_nobody_there() {
    let readers = if full() { 5_000 } else { 1_000 };
    let mut m = Mount::new();
    let q = m.queue("q");
    let (first, _) = processors();
    let before = m.rss_kib();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..readers)
            .map(|_| {
                let start = thread::Builder::new().stack_size(64 << 10);
                let claim = q.join(".mq/claim");
                start.spawn_scoped(scope, move || {
                    pin(first);
                    File::open(claim).and_then(|mut file| file.read(&mut [0; 4096])).unwrap_err().raw_os_error()
                })
            })
            .collect();
        let readers = readers.into_iter().map(Result::unwrap).collect::<Vec<_>>();
        wait_until(|| m.stats("q")["waiting"].as_u64() == Some(readers.len() as u64));
        println!("{} readers wait: {} KiB of memory, {before} before", readers.len(), m.rss_kib());
        let other = m.queue("r");
        let there = format!("echo hi > {0}/x && ls {0} && cat {0}/*", other.display());
        let ran = m.sh(&format!("taskset -c {first} sh -c '{there}'"));
        m.stop();
        for reader in readers {
            assert!(matches!(
                reader.join().unwrap(),
                Some(libc::ENODEV | libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED)
            ));
        }
        assert_eq!(ran.ok(), "0000000000000001-x\nhi\n");
    });
}

/// The kernel tells of a signal, by whatever way: who waits sleeps as others do, also after somebody else was interrupted.
#[test]
fn whoever_waits_sleeps_and_ends_at_a_signal() {
    let state = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix("State:\t")?.chars().next())
    };
    for transport in ["auto", "dev"] {
        let m = Mount::with(&["-o", &format!("transport={transport}")]);
        let q = m.queue("q");
        for round in 0..3 {
            let reader = m.waiter(&q, "exec cat q/.mq/claim");
            wait_until(|| state(reader.pid()) == Some('S'));
            holds_for(Duration::from_millis(100), || state(reader.pid()) == Some('S'));
            reader.signal(libc::SIGTERM);
            assert_eq!(reader.finish().status.signal(), Some(libc::SIGTERM), "{transport}, {round}");
        }
    }
}

/// Large bodies go and come as they are, several at a time.
#[test]
fn large_bodies_go_both_ways() {
    let m = Mount::new();
    let q = m.queue("q");
    thread::scope(|scope| {
        for writer in 0..8_u32 {
            let q = &q;
            scope.spawn(move || {
                let body: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n * 31 + writer).to_le_bytes()).collect();
                File::create(q.join(format!("{writer}"))).unwrap().write_all(&body).unwrap();
            });
        }
    });
    let messages = m.messages("q");
    assert_eq!(messages.len(), 8);
    for (name, body) in messages {
        let writer: u32 = producer(&name).parse().unwrap();
        let expected = |n: usize| ((n as u32) * 31 + writer).to_le_bytes();
        assert_eq!(body.len(), 12_000_000);
        assert!(body.chunks(4).enumerate().all(|(n, chunk)| chunk == expected(n)), "{name}");
    }
}
