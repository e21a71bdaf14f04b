//! Batches are "all or none" when mqfs or the machine stops at any moment.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::common::{Mount, listing, set_xattr, wait_until, xattr};
use crate::disk::Disk;
use crate::extra::Random;

/// How many files the batch of a number has: few, which are synced one by one, or many, which are synced together.
fn files_of(number: usize) -> usize {
    [5, 60][number % 2]
}

/// A small body, or one that stays a file. It tells whose it is, so that a part of one shows.
fn body(number: usize, file: usize) -> Vec<u8> {
    format!("{number}-{file:03} ").repeat([1, 300, 8_000][file % 3]).into_bytes()
}

/// Makes the batch of a number in a queue and gives its path.
fn make(queue: &Path, number: usize) -> std::io::Result<std::path::PathBuf> {
    let batch = queue.join(format!(".mq/batch/{number}"));
    fs::create_dir(&batch)?;
    for file in 0..files_of(number) {
        fs::write(batch.join(format!("{number}-{file:03}")), body(number, file))?;
    }
    // Which batch was the last.
    set_xattr(&batch, "user.mark.last", number.to_string())?;
    Ok(batch)
}

/// The batches that are in the queue, each of which must be whole and in order.
#[track_caller]
fn enqueued(m: &Mount, queue: &Path) -> Vec<usize> {
    let mut found = Vec::new();
    let messages = m.messages(queue);
    let mut left = &messages[..];
    while let Some((name, _)) = left.first() {
        let number: usize = crate::common::producer(name).split('-').next().unwrap().parse().unwrap();
        assert!(left.len() >= files_of(number), "a part of batch {number}: {} of {}", left.len(), files_of(number));
        let (files, rest) = left.split_at(files_of(number));
        for (file, (name, bytes)) in files.iter().enumerate() {
            assert_eq!(crate::common::producer(name), format!("{number}-{file:03}"));
            assert!(*bytes == body(number, file), "{name} is not whole: {} bytes", bytes.len());
        }
        found.push(number);
        left = rest;
    }
    let last = found.last().map(usize::to_string);
    assert_eq!(xattr(queue, "user.mark.last"), last, "the mark stands for what is there");
    found
}

/// SIGKILL at random moments while a batch is renamed: afterwards it is in the queue, or still a batch, and nothing is in both
/// places or lost.
#[test]
fn a_crash_leaves_all_of_a_batch_or_none() {
    let mut m = Mount::new();
    let queue = m.queue("q");
    let mut random = Random::new();
    let (mut done, mut undone) = (Vec::new(), 0);
    for number in 0..24 {
        let batch = make(&queue, number).unwrap();
        let target = queue.join("b");
        let renamed = thread::scope(|scope| {
            let rename = scope.spawn(|| fs::rename(&batch, &target).is_ok());
            thread::sleep(Duration::from_micros(random.below(8_000)));
            m.kill9();
            rename.join().unwrap()
        });
        m.start();
        let there = enqueued(&m, &queue);
        let waits = listing(queue.join(".mq/batch"));
        if there.contains(&number) {
            done.push(number);
            assert_eq!(waits, [""; 0], "batch {number} is in both places");
        } else {
            assert!(!renamed, "batch {number} was acknowledged and is lost");
            undone += 1;
            assert_eq!(waits, [number.to_string()]);
            assert_eq!(listing(&batch).len(), files_of(number), "batch {number} lost files");
            assert_eq!(xattr(&batch, "user.mark.last"), Some(number.to_string()));
            m.sh(&format!("rm -r q/.mq/batch/{number}")).ok();
        }
        assert_eq!(there, done);
        assert_eq!(m.stats(&queue)["batches"], 0);
    }
    println!("{} enqueued, {undone} not", done.len());
    m.sh("find q -type f -delete").ok();
    wait_until(|| m.body_files().is_empty());
}

/// The power is cut while batches are renamed: those that were acknowledged are all there, the one under way is there as a
/// whole or not at all.
fn cut_the_power_while_batches_are_enqueued(mkfs: &[&str]) {
    let disk = Disk::new(mkfs);
    let mut m = Mount::with_store_in(&disk.path(), &[]);
    let queue = m.queue("q");
    fs::File::open(&queue).unwrap().sync_all().unwrap();
    let acknowledged = Mutex::new(Vec::new());
    let mut random = Random::new();
    let mut promised = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                let renamed = make(&queue, number).and_then(|batch| fs::rename(batch, queue.join("b")));
                if renamed.is_err() {
                    break;
                }
                acknowledged.lock().unwrap().push(number);
            }
        });
        wait_until(|| acknowledged.lock().unwrap().len() >= 6);
        thread::sleep(Duration::from_micros(random.below(50_000)));
        // While the power is being cut, the kernels' own fdatasync succeeds for what is lost: that does not count.
        promised = acknowledged.lock().unwrap().clone();
        disk.cut_the_power();
        m.kill9();
    });
    disk.start_again();
    m.start();
    let (acknowledged, there) = (acknowledged.into_inner().unwrap(), enqueued(&m, &queue));
    assert!(there.starts_with(&promised), "{promised:?} were acknowledged, {there:?} are there");
    assert!(there.len() <= acknowledged.len() + 1, "{acknowledged:?} were acknowledged, {there:?} are there");
    m.stop();
}

/// On ext4.
#[test]
fn a_power_cut_leaves_all_of_a_batch_or_none_on_ext4() {
    cut_the_power_while_batches_are_enqueued(&["mkfs.ext4", "-q", "-F"]);
}

/// On xfs.
#[test]
fn a_power_cut_leaves_all_of_a_batch_or_none_on_xfs() {
    cut_the_power_while_batches_are_enqueued(&["mkfs.xfs", "-q", "-f"]);
}
