//! "Durable at close": what a close or a publishing rename acknowledged survives a power cut, and syncs are shared.
//!
//! The cut is real: the store lies on a file system in an image, which is shut down so that whatever was not synced is
//! thrown away, as `xfs_io -x -c shutdown` does it. A negative control shows that the cut cuts.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::common::{Mount, producer, wait_until};
use crate::disk::Disk;
use crate::slow::SlowSyncs;

/// Enqueues small and large messages, straight and by way of a draft, and gives the names that were acknowledged.
fn enqueue(queue: &Path, producer: usize, count: usize) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    for n in 0..count {
        let name = format!("{producer}-{n}");
        let body = body(&name);
        if n % 3 == 0 {
            let draft = queue.join(format!(".{name}"));
            fs::write(&draft, &body).unwrap();
            fs::rename(&draft, queue.join(&name)).unwrap();
            acknowledged.insert(name);
        } else {
            // fs::write ignores what close answers.
            let file = fs::File::create(queue.join(&name)).unwrap();
            std::io::Write::write_all(&mut &file, body.as_bytes()).unwrap();
            if close(file) == 0 {
                acknowledged.insert(name);
            }
        }
    }
    acknowledged
}

fn close(file: fs::File) -> i32 {
    // SAFETY: the descriptor is given up by its owner and closed once.
    unsafe { libc::close(std::os::fd::IntoRawFd::into_raw_fd(file)) }
}

fn body(name: &str) -> String {
    let n: usize = name.split('-').nth(1).unwrap().parse().unwrap();
    format!("{name} ").repeat([1, 200, 20_000][n % 3])
}

/// Four producers, then a power cut without any grace: what is there afterwards, by producer's name.
fn survivors(mkfs: &[&str], durability: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let disk = Disk::new(mkfs);
    let mut m = Mount::with_store_in(&disk.path(), &[]);
    let queue = m.queue_with("q", &[&format!("durability={durability}")]);
    // The queue itself is older than the cut.
    fs::File::open(&queue).unwrap().sync_all().unwrap();
    let producers: Vec<_> = (0..4)
        .map(|producer| {
            let queue = queue.clone();
            thread::spawn(move || enqueue(&queue, producer, 30))
        })
        .collect();
    let mut acknowledged: BTreeSet<String> = producers.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(acknowledged.len(), 120);
    if durability == "async" {
        // Large bodies and drafts that are gone make the log be synced soon. When that is over comes one that does not.
        let mut last = syncs(&m);
        wait_until(|| {
            thread::sleep(Duration::from_millis(300));
            let now = syncs(&m);
            std::mem::replace(&mut last, now) == now
        });
        fs::write(queue.join("9-1"), body("9-1")).unwrap();
        acknowledged.insert("9-1".to_owned());
    }
    disk.cut_the_power();
    m.kill9();
    disk.start_again();
    m.start();
    let mut there = BTreeSet::new();
    for (listed, bytes) in m.messages(&queue) {
        let name = producer(&listed).to_owned();
        assert_eq!(bytes, body(&name).into_bytes(), "{name} is not whole");
        assert!(there.insert(name.clone()), "{name} is there twice");
    }
    m.stop();
    drop(m);
    (acknowledged, there)
}

/// "In a `durability = sync` queue, when `close()` [...] or the `rename()` that publishes a draft returns 0, the message
/// survives a power cut."
#[test]
fn what_was_acknowledged_survives_a_power_cut_on_ext4() {
    let (acknowledged, there) = survivors(&["mkfs.ext4", "-q", "-F"], "sync");
    assert_eq!(acknowledged, there);
}

/// The same on xfs.
#[test]
fn what_was_acknowledged_survives_a_power_cut_on_xfs() {
    let (acknowledged, there) = survivors(&["mkfs.xfs", "-q", "-f"], "sync");
    assert_eq!(acknowledged, there);
}

/// The negative control: without the syncs, the same cut loses messages; but what is left is whole. The file system may write
/// what nobody has asked it to: so not each time.
#[test]
fn without_syncs_a_power_cut_loses_messages() {
    let loses = || {
        let (acknowledged, there) = survivors(&["mkfs.ext4", "-q", "-F"], "async");
        assert!(there.is_subset(&acknowledged));
        there.len() < acknowledged.len()
    };
    assert!((0..10).any(|_| loses()), "nothing was lost: the cut does not cut");
}

/// Writes lines, short and long, by several descriptors that are closed, or synced and kept, and cuts the power: what is there.
fn surviving_lines(durability: &str, sync: bool) -> BTreeSet<String> {
    let disk = Disk::new(&["mkfs.ext4", "-q", "-F"]);
    let mut m = Mount::with_store_in(&disk.path(), &[]);
    let queue = m.queue_with("q", &[&format!("durability={durability}")]);
    fs::File::open(&queue).unwrap().sync_all().unwrap();
    let mut kept = Vec::new();
    for producer in 0..6 {
        let file = fs::File::options().append(true).open(queue.join(".mq/lines")).unwrap();
        for n in 0..40 {
            let line = format!("{}.\n", body(&format!("{producer}-{n}")));
            std::io::Write::write_all(&mut &file, line.as_bytes()).unwrap();
        }
        if sync {
            file.sync_all().unwrap();
            kept.push(file);
        } else {
            assert_eq!(close(file), 0);
        }
    }
    disk.cut_the_power();
    m.kill9();
    drop(kept);
    disk.start_again();
    m.start();
    let mut there = BTreeSet::new();
    for line in m.bodies(&queue) {
        let name = line.split(' ').next().unwrap().to_owned();
        assert_eq!(line, format!("{}.\n", body(&name)), "{name} is not whole");
        assert!(there.insert(name.clone()), "{name} is there twice");
    }
    m.stop();
    there
}

/// Lines survive when a close or an fsync of their file has returned.
#[test]
fn lines_that_were_closed_or_synced_survive_a_power_cut() {
    assert_eq!(surviving_lines("sync", false).len(), 240);
    assert_eq!(surviving_lines("async", true).len(), 240);
    assert!(surviving_lines("async", false).len() < 240, "nothing was lost: the cut does not cut");
}

/// "In a `durability = async` queue [...] `fsync` upgrades it": also what a close of a duplicate has committed before, whether
/// the descriptor is closed afterwards or not.
#[test]
fn what_was_synced_after_a_close_of_a_duplicate_survives_a_power_cut() {
    let disk = Disk::new(&["mkfs.ext4", "-q", "-F"]);
    let mut m = Mount::with_store_in(&disk.path(), &[]);
    let queue = m.queue_with("q", &["durability=async"]);
    fs::File::open(&queue).unwrap().sync_all().unwrap();
    let (mut promised, mut open) = (BTreeSet::new(), Vec::new());
    for (n, name) in ["closed-2", "open-2", "closed-1", "open-1"].into_iter().enumerate() {
        let mut file = fs::File::create(queue.join(name)).unwrap();
        std::io::Write::write_all(&mut file, body(name).as_bytes()).unwrap();
        assert_eq!(close(file.try_clone().unwrap()), 0);
        file.sync_all().unwrap();
        promised.insert(name.to_owned());
        if n % 2 == 0 {
            assert_eq!(close(file), 0);
        } else {
            open.push(file);
        }
    }
    disk.cut_the_power();
    m.kill9();
    drop(open);
    disk.start_again();
    m.start();
    let found = m.messages(&queue);
    let there: BTreeSet<String> = found.iter().map(|(listed, _)| producer(listed).to_owned()).collect();
    assert_eq!(there, promised);
    assert!(found.iter().all(|(listed, bytes)| *bytes == body(producer(listed)).into_bytes()), "whole");
    m.stop();
}

/// "`fsync` of the file or its directory": what is in the directory then is there with its bodies.
#[test]
fn what_was_in_a_synced_directory_survives_a_power_cut() {
    let disk = Disk::new(&["mkfs.ext4", "-q", "-F"]);
    let mut m = Mount::with_store_in(&disk.path(), &[]);
    let queue = m.queue_with("q", &["durability=async"]);
    for n in 0..30 {
        fs::write(queue.join(format!("m-{}", 3 * n + 2)), body(&format!("m-{}", 3 * n + 2))).unwrap();
    }
    // A shell's builtin closes a duplicate each time.
    let thousand = "x=$(printf %01000d 0); exec 3> q/loop";
    m.sh(&format!("{thousand}; for i in $(seq 200); do printf %s \"$x\" >&3; done; exec 3>&-")).ok();
    fs::File::open(&queue).unwrap().sync_all().unwrap();
    disk.cut_the_power();
    m.kill9();
    disk.start_again();
    m.start();
    let mut found = m.messages(&queue);
    assert_eq!(found.len(), 31);
    assert!(found.pop().is_some_and(|(_, bytes)| bytes == [b'0'; 200_000]), "whole");
    assert!(found.iter().all(|(listed, bytes)| *bytes == body(producer(listed)).into_bytes()), "whole");
    m.stop();
}

/// A draft that is renamed while it is open is found again as a draft, with all that a close has promised.
#[test]
fn what_was_closed_of_a_draft_renamed_while_open_survives_a_power_cut() {
    let disk = Disk::new(&["mkfs.ext4", "-q", "-F"]);
    let mut m = Mount::with_store_in(&disk.path(), &[]);
    let queue = m.queue("q");
    fs::File::open(&queue).unwrap().sync_all().unwrap();
    let mut open = Vec::new();
    for name in ["d-1", "d-2"] {
        let draft = queue.join(format!(".{name}"));
        let mut file = fs::File::create(&draft).unwrap();
        fs::rename(&draft, queue.join(name)).unwrap();
        std::io::Write::write_all(&mut file, body(name).as_bytes()).unwrap();
        assert_eq!(close(file.try_clone().unwrap()), 0);
        open.push(file);
    }
    disk.cut_the_power();
    m.kill9();
    drop(open);
    disk.start_again();
    m.start();
    for name in ["d-1", "d-2"] {
        let mut found = fs::read_dir(&queue).unwrap().map(|entry| entry.unwrap().path());
        let begin = queue.join(format!(".{name}.unpublished-"));
        let draft = found.find(|path| path.to_str().unwrap().starts_with(begin.to_str().unwrap()));
        assert_eq!(fs::read_to_string(draft.unwrap()).unwrap(), body(name));
    }
    m.stop();
}

fn syncs(m: &Mount) -> u64 {
    let text = fs::read_to_string(m.path().join(".mq/stats")).unwrap();
    serde_json::from_str::<serde_json::Value>(&text).unwrap()["syncs_total"].as_u64().unwrap()
}

/// A close of a message that is durable already costs nothing.
#[test]
fn a_message_costs_one_sync_however_often_it_is_closed() {
    let m = Mount::new();
    let queue = m.queue("q");
    let before = syncs(&m);
    for n in 0..40 {
        let mut file = fs::File::create(queue.join(format!("m-{n}"))).unwrap();
        std::io::Write::write_all(&mut file, b"x").unwrap();
        for _ in 0..n % 3 {
            assert_eq!(close(file.try_clone().unwrap()), 0);
        }
        assert_eq!(close(file), 0);
    }
    let used = syncs(&m) - before;
    assert!((40..60).contains(&used), "{used} syncs for 40 messages");
}

/// Many producers share syncs: "while one sync is under way, whatever arrives joins the next".
#[test]
fn producers_share_syncs() {
    let m = Mount::new();
    let queue = m.queue("q");
    // Where a sync takes no time, none is shared.
    let _slow = SlowSyncs::late(&m, 50);
    let before = syncs(&m);
    let producers: Vec<_> = (0..16)
        .map(|producer| {
            let queue = queue.clone();
            thread::spawn(move || {
                for n in 0..40 {
                    fs::write(queue.join(format!("{producer}-{n}")), "x").unwrap();
                }
            })
        })
        .collect();
    producers.into_iter().for_each(|thread| thread.join().unwrap());
    let used = syncs(&m) - before;
    assert!(used > 0, "nothing was synced");
    assert!(used < 16 * 40 / 2, "{used} syncs for {} messages", 16 * 40);
}
