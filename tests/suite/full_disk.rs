//! The store's disk is full: producers are told in time, consumers go on, and everything goes on when there is room again,
//! without a new mount. Another program fills the disk here, to the last byte, within an instant.

use std::fs;
use std::path::Path;

use crate::common::*;
use crate::disk::Disk;
use crate::extra::*;
use crate::slow::SlowSyncs;

/// No room that only root gets: mqfs runs as root here, and would have it.
const EXT4: [&str; 5] = ["mkfs.ext4", "-q", "-F", "-m", "0"];

fn number(m: &Mount, queue: &str, key: &str) -> u64 {
    m.stats(queue)[key].as_u64().unwrap()
}

fn ready(m: &Mount) -> u64 {
    number(m, "q", "ready")
}

/// Fills the disk, and waits until mqfs has seen it: it looks at most every half second.
fn fill(m: &Mount, disk: &Disk) {
    let probe = m.path().join("probe");
    let _ = fs::create_dir(&probe);
    disk.fill();
    wait_until(|| fs::write(probe.join("x"), "x").is_err_and(|error| error.raw_os_error() == Some(libc::ENOSPC)));
}

fn reserve(m: &Mount) -> bool {
    m.store().join("reserve").exists()
}

/// "store's disk full | ENOSPC", in each way in which something can be stored.
#[test]
fn every_producer_is_told() {
    let disk = Disk::sized(&EXT4, 160);
    let mut m = Mount::with_store_in(&disk.path(), &[]);
    let q = m.queue_with("q", &["max_deliveries=2"]);
    m.queue_with("kept", &["names=keep"]);
    m.fill(&q, 6);
    m.sh("echo kept > kept/a; printf draft > q/.old; mkdir q/empty q/.mq/batch/b; echo 1 > q/.mq/batch/b/1").ok();
    m.sh("head -c 100000 /dev/zero > q/.large; mkdir q/.mq/batch/none").ok();
    fill(&m, &disk);
    let before = ready(&m);

    for script in [
        "echo hi > q/x",
        "head -c 1000000 /dev/zero > q/x",
        "head -c 9000000 /dev/zero > q/x",
        "echo hi > q/.mq/with/priority=1/x",
        "echo hi > kept/x",
        "echo hi > q/.x",
        "printf more >> q/.old",
        "head -c 1000000 /dev/zero > q/.old",
        "mv q/.old q/x",
        "mv q/.large q/x",
        "ln q/.old q/x",
        "ln kept/a kept/b",
        "echo hi > q/.mq/batch/b/2",
        "mv q/.mq/batch/b q/",
        "echo hi > q/.mq/lines",
        "head -c 3000000 /dev/zero | tr '\\0' x > q/.mq/lines",
        "mkdir r",
        "mkdir q/.mq/batch/c",
        "setfattr -n user.a -v b q/.old",
        "setfattr -n user.a -v b q",
    ] {
        m.sh(script).fails("No space left on device");
    }
    let df = m.sh("df --output=avail . | tail -n 1").ok().trim().to_owned();
    assert_eq!(df, "0", "df tells it");
    assert_eq!(ready(&m), before, "nothing by halves");
    // What was opened with O_TRUNC is empty, as on any file system.
    assert_eq!(fs::read(q.join(".old")).unwrap(), b"");
    assert_eq!(fs::read(q.join(".large")).unwrap().len(), 100_000);
    assert_eq!(listing(q.join(".mq/batch/b")), ["1"]);

    // Everything else works, and what somebody needs to find a way out.
    m.sh("cat q/*-m0 && mv q/.mq/claimed/*-m0 q/ && mv q/*-m0 q/.mq/dead/ && mv q/.mq/dead/*-m0 q/").ok();
    m.sh("f=$(echo q/*-m1) && cat $f > /dev/null && touch -c $f && rm $f q/*-m2 && cat q/.mq/pop").ok();
    m.sh("echo paused=in > q/.mq/config; echo paused=no > q/.mq/config; setfattr -n user.mq.max_deliveries -v 3 q")
        .ok();
    m.sh("rm q/.large; rmdir q/empty q/.mq/batch/none; mv q/*-m3 kept/m3; chmod 600 q/*-m4; mv kept/a kept/renamed")
        .ok();
    m.sh("echo ready > q/.mq/purge").ok();
    assert_eq!(number(&m, "q", "ready"), 0);

    disk.give_back();
    wait_until(|| m.sh("echo again > q/again").status.success());
    m.sh("mv q/.mq/batch/b q/; mkdir r; echo hi > q/.x; mv q/.x q/x; printf 'a\\nb\\n' > q/.mq/lines").ok();
    m.remount();
    assert_eq!(m.bodies("q"), ["again\n", "1\n", "hi\n", "a\n", "b\n"]);
    let kept = [("m3".to_owned(), b"m3".to_vec()), ("renamed".to_owned(), b"kept\n".to_vec())];
    assert_eq!(m.messages("kept"), kept);
}

/// "Messages can still be read and acknowledged": also when not a byte is free, and the log of the database needs more room than
/// it has. Leases expire, too.
#[test]
fn consuming_needs_no_room() {
    let disk = Disk::sized(&EXT4, 400);
    let mut m = Mount::with_store_in(&disk.path(), &[]);
    let q = m.queue_with("q", &["lines_batch=100", "durability=async"]);
    let leases = m.queue_with("leases", &["visibility_timeout=1s"]);
    m.message(&leases, "a", "a");
    m.sh("seq 25000 > q/.mq/lines").ok();
    assert!(reserve(&m), "room is kept");
    fill(&m, &disk);
    let claimed = transition(&leases, "claimed", &leases.join(only_name(&leases)));
    // Every line once, and each acknowledged.
    let read = m.sh("head -n 24000 q/.mq/lines 2> /dev/null | sort -n | uniq | wc -l");
    assert_eq!(read.ok().trim(), "24000");
    wait_until(|| ready(&m) <= 1000);
    m.python("import os\nfor f in os.listdir('q'):\n  open('q/' + f).read()\n  os.unlink('q/' + f)").ok();
    assert_eq!((ready(&m), number(&m, "q", "claimed")), (0, 0));
    assert!(m.log().contains("the database gets the room that was kept for it"), "{}", m.log());
    wait_until(|| number(&m, "leases", "expired_total") == 1);
    assert_eq!(state(&leases, &claimed).as_deref(), Some("ready"));
    m.sh("echo x > q/x").fails("No space left on device");

    disk.give_back();
    wait_until(|| m.sh("echo again > q/again").status.success());
    wait_until(|| {
        m.sh("echo again > q/again").ok();
        reserve(&m)
    });
    m.kill9_and_remount();
    assert!(m.bodies("q").iter().all(|body| body == "again\n"));
    assert_eq!(listing(&leases).len(), 1);
    assert_eq!(q, m.path().join("q"));
}

/// RocksDB may need seconds to go on with the room that it was given: acks wait for that and do not fail.
#[test]
fn acks_wait_for_a_database_on_a_slow_disk() {
    let disk = Disk::sized(&EXT4, 400);
    let m = Mount::with_store_in(&disk.path(), &[]);
    m.queue_with("q", &["lines_batch=100", "durability=async"]);
    m.sh("seq 20000 > q/.mq/lines").ok();
    assert!(reserve(&m), "room is kept");
    fill(&m, &disk);
    let slow = SlowSyncs::late(&m, 200);
    let begun = std::time::Instant::now();
    let read = m.sh("head -n 15000 q/.mq/lines 2> /dev/null | wc -l");
    // Half a minute is what they wait for: this disk may be slower by itself.
    let slower = begun.elapsed() > std::time::Duration::from_secs(30);
    drop(slow);
    assert!(slower || read.ok().trim() == "15000", "{read:?}");
    assert!(slower || m.log().contains("the database writes again"), "{}", m.log());
}

/// Counts what is in the queue in any state, with what was acknowledged.
fn all(m: &Mount) -> u64 {
    let stats = m.stats("q");
    ["ready", "claimed", "acked_total"].iter().map(|key| stats[key].as_u64().unwrap()).sum()
}

/// Takes from the queue until mqfs can write no more. Whatever room mqfs finds meanwhile, the other program takes.
fn exhaust(m: &Mount, disk: &Disk) {
    let met = poll(5 * LIMIT, || {
        disk.fill();
        let read = m.sh("timeout 1 cat q/.mq/lines | head -n 3000 > /dev/null; rm $(ls -U q/* | head -n 1)");
        assert!(ready(m) > 2000, "it goes on and on");
        read.stderr.contains("No space left on device")
    });
    assert!(met, "mqfs could always write");
}

/// The room that was kept is used up too, and RocksDB itself meets the full disk. The errors are those of a full disk, and
/// once there is room, all goes on by itself; after a crash as well.
#[test]
fn a_database_that_met_the_full_disk_recovers_without_a_mount() {
    for crash in [false, true] {
        let disk = Disk::sized(&EXT4, 160);
        let mut m = Mount::with_store_in(&disk.path(), &[]);
        let q = m.queue_with("q", &["lines_batch=100"]);
        m.sh("seq 60000 > q/.mq/lines").ok();
        exhaust(&m, &disk);
        let pid = m.pid();
        let count = all(&m);
        assert_eq!(count, 60_000);
        let first = q.join(m.sh("ls -U q | head -n 1").ok().trim());
        assert_eq!(errno(fs::remove_file(&first)), libc::ENOSPC);
        assert_eq!(errno(fs::File::create(q.join("new"))), libc::ENOSPC);
        assert_eq!(errno(fs::create_dir(m.path().join("r"))), libc::ENOSPC);
        // What changes nothing works.
        let body = fs::read_to_string(within(&q, "peek", &first)).unwrap();
        assert!(body.trim().parse::<u32>().is_ok(), "{body}");
        assert!(m.log().contains("nothing is written until there is room"), "{}", m.log());
        if crash {
            m.kill9();
            disk.give_back();
            m.start();
        } else {
            disk.give_back();
            wait_until(|| fs::remove_file(&first).is_ok());
            assert_eq!(m.pid(), pid);
            assert!(m.log().contains("the database writes again"));
        }
        wait_until(|| m.sh("echo again > q/again").status.success());
        assert_eq!(all(&m), count + 1, "nothing lost, nothing twice");
        m.remount();
        assert_eq!(all(&m), count + 1);
        assert_eq!(number(&m, "q", "ready") as usize, listing(&q).len());
    }
}

/// A store on a full disk can be mounted and emptied: the way to make room must not need any.
#[test]
fn a_full_store_can_be_mounted() {
    for kill in [false, true] {
        let disk = Disk::sized(&EXT4, 160);
        let mut m = Mount::with_store_in(&disk.path(), &[]);
        let q = m.queue("q");
        m.fill(&q, 50);
        m.message(&q, "large", vec![b'x'; 4 << 20]);
        m.sh("seq 5000 > q/.mq/lines").ok();
        fill(&m, &disk);
        if kill {
            m.kill9_and_remount()
        } else {
            m.remount()
        }
        m.sh("echo x > q/x").fails("No space left on device");
        assert_eq!(ready(&m), 5051);
        m.sh("for f in $(ls q | head -n 51); do cat q/$f > /dev/null && rm q/$f || exit; done").ok();
        assert_eq!(ready(&m), 5000);
        // The large body was the reserve's size and more.
        wait_until(|| free(&disk) > 3 << 20);
    }
}

fn free(disk: &Disk) -> u64 {
    let path = std::ffi::CString::new(disk.path().to_str().unwrap()).unwrap();
    // SAFETY: a valid string, and plain data that the call fills.
    let fs = unsafe {
        let mut fs: libc::statvfs = std::mem::zeroed();
        assert_eq!(libc::statvfs(path.as_ptr(), &raw mut fs), 0);
        fs
    };
    fs.f_bavail * fs.f_frsize
}

/// Open writers when the disk fills: whole or not at all, each is told, and nothing of the others is left behind.
#[test]
fn writers_that_are_under_way_are_told_or_finish() {
    let disk = Disk::sized(&EXT4, 160);
    let mut m = Mount::with_store_in(&disk.path(), &[]);
    let q = m.queue("q");
    let body = vec![b'a'; 200_000];
    let mut writers: Vec<fs::File> = (0..20).map(|n| fs::File::create(q.join(format!("w{n}"))).unwrap()).collect();
    for (n, writer) in writers.iter_mut().enumerate() {
        std::io::Write::write_all(writer, if n % 2 == 0 { b"small" } else { &body }).unwrap();
    }
    fill(&m, &disk);
    let mut expected = 0;
    for (n, mut writer) in writers.into_iter().enumerate() {
        // Every fourth wants more, and the others are whole: their room was theirs when they wrote.
        if n % 4 > 1 {
            assert_eq!(errno(std::io::Write::write_all(&mut writer, &body)), libc::ENOSPC, "{n}");
        } else {
            expected += 1;
        }
        // SAFETY: the descriptor is given up by its owner and closed once.
        let closed = unsafe { libc::close(std::os::fd::IntoRawFd::into_raw_fd(writer)) };
        assert_eq!(closed == 0, n % 4 <= 1, "{n}");
    }
    wait_until(|| ready(&m) == expected);
    let files = || m.body_files().len();
    assert!(poll(LIMIT, || files() == 5), "{:?}", m.body_files());
    disk.give_back();
    m.remount();
    let lengths: Vec<usize> = m.messages(&q).iter().map(|(_, body)| body.len()).collect();
    assert_eq!(lengths, [5, 200_000].repeat(5));
    assert_whole(&m, &q);
}

fn assert_whole(m: &Mount, q: &Path) {
    assert_eq!(listing(q).len(), m.messages(q).len());
}
