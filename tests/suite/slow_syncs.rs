//! What has to wait for a sync waits for it, however long that takes. On a quick disk somebody syncs every few milliseconds, and
//! a wait that is missing hardly shows: here each sync comes late, and the power is cut as soon as the producer goes on.

use crate::common::{Mount, poll, wait_until};
use crate::disk::Disk;
use crate::slow::SlowSyncs;

const EXT4: [&str; 3] = ["mkfs.ext4", "-q", "-F"];

/// A store with the queues q, k (which keeps names) and a (asynchronous).
fn mount(disk: &Disk) -> Mount {
    let m = Mount::with_store_in(&disk.path(), &[]);
    m.queue("q");
    m.queue_with("k", &["names=keep"]);
    m.queue_with("a", &["durability=async"]);
    m.sh("head -c 100000 /dev/zero > $T/large; { cat $T/large; echo; } > $T/line; printf old > k/old; sync . q k a")
        .ok();
    m
}

/// The power is cut and comes back; how long the messages of the queue are.
#[track_caller]
fn lengths_after_a_cut(mut m: Mount, disk: &Disk, slow: SlowSyncs, queue: &str) -> Vec<usize> {
    disk.cut_the_power();
    drop(slow);
    m.kill9();
    disk.start_again();
    m.start();
    let lengths = m.messages(queue).into_iter().map(|(_, body)| body.len()).collect();
    m.stop();
    lengths
}

#[test]
fn whoever_promises_durability_waits_for_the_sync() {
    for (script, lengths) in [
        ("printf x > q/m", &[1][..]),
        ("cat $T/large > q/m", &[100_000]),
        ("printf x > q/.d; mv q/.d q/m", &[1]),
        ("cat $T/large > q/.d; mv q/.d q/m", &[100_000]),
        ("cat $T/large > q/.d; ln q/.d q/m", &[100_000]),
        ("b=q/.mq/batch/b; mkdir $b; printf x > $b/1; cat $T/large > $b/2; mv $b q/", &[1, 100_000]),
        ("printf 'a\\nb\\n' > q/.mq/lines", &[2, 2]),
        ("cat $T/line > q/.mq/lines", &[100_001]),
        ("printf new! > k/.d; mv k/.d k/old", &[4]),
        ("printf x > a/m; sync a", &[1]),
        ("cat $T/large > a/m; sync a", &[100_000]),
        // More than are synced by themselves meanwhile.
        ("for i in 1 2 3 4 5 6; do cat $T/large > a/m; done; sync a", &[100_000; 6]),
        ("exec 3> a/m; cat $T/large >&3; sync /dev/fd/3; exec 3>&-; sync a", &[100_000]),
    ] {
        let disk = Disk::new(&EXT4);
        let m = mount(&disk);
        let slow = SlowSyncs::late(&m, 200);
        m.sh(script).ok();
        let queue = if script.contains("k/") {
            "k"
        } else if script.contains("a/m") {
            "a"
        } else {
            "q"
        };
        assert_eq!(lengths_after_a_cut(m, &disk, slow, queue), lengths, "{script}");
    }
}

/// A sync is for what was written before it began: who comes while it is under way waits for the next one.
#[test]
fn who_comes_during_a_sync_waits_for_the_next() {
    let disk = Disk::new(&EXT4);
    let m = mount(&disk);
    let slow = SlowSyncs::long(&m, 400);
    let first = m.spawn("printf x > k/first");
    mostly_under_way();
    m.sh("printf x > q/second").ok();
    assert_eq!(lengths_after_a_cut(m, &disk, slow, "q"), [1]);
    drop(first);
}

/// And so does who asks afterwards for what was committed while it was under way.
#[test]
fn what_was_committed_during_a_sync_is_not_durable_by_it() {
    let disk = Disk::new(&EXT4);
    let m = mount(&disk);
    let slow = SlowSyncs::long(&m, 400);
    let first = m.spawn("printf x > k/first");
    mostly_under_way();
    let program = "
import os, time
fd = os.open('a/second', os.O_CREAT | os.O_WRONLY)
os.write(fd, b'x')
os.close(os.dup(fd))
print('committed', flush=True)
while not os.path.exists(os.environ['T'] + '/go'): time.sleep(0.01)
os.fsync(fd)
print('synced', flush=True)
time.sleep(1000)
";
    let second = m.spawn_python(program);
    wait_until(|| second.output() == "committed\n");
    first.finish().ok();
    std::fs::write(m.scratch().join("go"), "").unwrap();
    wait_until(|| second.output() == "committed\nsynced\n");
    assert_eq!(lengths_after_a_cut(m, &disk, slow, "a"), [1]);
    drop(second);
}

/// A power cut may undo an acknowledgement that is not durable: then the message comes back, and has its body.
#[test]
fn the_body_of_what_was_acknowledged_stays_until_that_is_durable() {
    let m = Mount::new();
    m.queue("q");
    m.sh("head -c 100000 /dev/zero > q/m").ok();
    // None ends before this is dropped.
    let slow = SlowSyncs::late(&m, 600_000);
    m.sh("rm q/*-m").ok();
    assert_eq!(m.body_files().len(), 1);
    drop(slow);
    wait_until(|| m.body_files().is_empty());
}

/// A sync that began a moment ago is under way by now. If it is not, it covers what follows, and the test shows nothing.
fn mostly_under_way() {
    poll(std::time::Duration::from_millis(150), || false);
}
