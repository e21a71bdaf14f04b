//! The store's disk has no inodes left: producers of large files are told in time, all else goes on, and so does the next mount.

use std::fs;

use crate::common::*;
use crate::disk::Disk;
use crate::users::*;

/// Two hundred and fifty-six directories of the store's own, some files of the database, the reserve, and not many more.
const FEW: [&str; 7] = ["mkfs.ext4", "-q", "-F", "-m", "0", "-N", "720"];

fn free_inodes(m: &Mount) -> u64 {
    m.sh(&format!("df --output=iavail {} | tail -n 1", m.store().display())).ok().trim().parse().unwrap()
}

/// So much that the database makes new files again and again.
fn work(m: &Mount, rounds: usize) {
    for round in 0..rounds {
        m.sh("yes $(head -c 900 /dev/zero | tr '\\0' x) | head -n 4000 > jobs/.mq/lines").ok();
        let read = m.sh("head -n 4000 jobs/.mq/lines 2> /dev/null | wc -l");
        assert_eq!(read.ok().trim(), "4000", "{round}");
    }
    wait_until(|| m.stats("jobs")["ready"] == 0 && m.stats("jobs")["claimed"] == 0);
}

fn jobs(m: &Mount) {
    m.queue_with("jobs", &["lines_batch=100", "durability=async"]);
}

/// A user fills a drop box with files that are too large for the database.
#[test]
fn a_user_who_takes_all_inodes_leaves_the_database_its_own() {
    let disk = Disk::sized(&FEW, 200);
    let mut m = Mount::with_store_in(&disk.path(), &["-o", "allow_other"]);
    let q = m.queue("q");
    chmod(&q, 0o1733);
    jobs(&m);
    let made = ann(&m, "for i in $(seq 900); do head -c 33000 /dev/zero > q/.d$i || break; done 2>&1; echo $i");
    assert!(made.stdout.contains("No space left on device"), "{made:?}");
    let count: u64 = made.stdout.split_whitespace().last().unwrap().parse().unwrap();
    assert!((100..700).contains(&count), "{count}");
    // What is small needs no inode of its own, and root's work goes on.
    ann(&m, "echo small > q/small").ok();
    work(&m, 6);
    m.remount();
    work(&m, 2);
    assert_eq!(m.bodies("q"), ["small\n"]);
    m.sh("echo drafts > q/.mq/purge").ok();
    wait_until(|| ann(&m, "head -c 33000 /dev/zero > q/.again").status.success());
}

/// Another program takes the rest, to the last one.
#[test]
fn consuming_and_mounting_need_no_inode() {
    let disk = Disk::sized(&FEW, 200);
    let mut m = Mount::with_store_in(&disk.path(), &[]);
    jobs(&m);
    m.sh("seq 20000 > jobs/.mq/lines; seq 300 > jobs/.mq/lines").ok();
    let hog = disk.path().join("hog");
    fs::create_dir(&hog).unwrap();
    // Those that the database gets meanwhile it is left.
    let free = free_inodes(&m);
    let taken = (0..free).take_while(|n| fs::write(hog.join(n.to_string()), "").is_ok()).count();
    assert!(taken > 10);
    let read = m.sh("head -n 20000 jobs/.mq/lines 2> /dev/null | sort -n | uniq | wc -l");
    assert_eq!(read.ok().trim(), "20000");
    m.remount();
    let read = m.sh("head -n 200 jobs/.mq/lines 2> /dev/null | sort -n | uniq | wc -l");
    assert_eq!(read.ok().trim(), "200");
    m.sh("head -c 40000 /dev/zero > jobs/large").fails("No space left on device");
    fs::remove_dir_all(&hog).unwrap();
    wait_until(|| m.sh("head -c 40000 /dev/zero > jobs/large").status.success());
    assert!(free_inodes(&m) > 0);
}

/// Empty and small drafts, and the files of batches, are in the database: however many, they take no inode of the disk.
#[test]
fn small_drafts_take_no_inode() {
    let disk = Disk::sized(&FEW, 200);
    let mut m = Mount::with_store_in(&disk.path(), &["-o", "allow_other"]);
    let q = m.queue("q");
    chmod(&q, 0o1733);
    let before = free_inodes(&m);
    let script = "import os
for n in range(4000): open(f'q/.e{n}', 'w').close()
for n in range(2000): open(f'q/.s{n}', 'w').write('small' * (n % 50 + 1))
os.mkdir('q/.mq/batch/b')
for n in range(1000): open(f'q/.mq/batch/b/{n}', 'w').write('x' * n)
";
    ann(&m, &format!("python3 -c \"{script}\"")).ok();
    let taken = |m: &Mount| before.saturating_sub(free_inodes(m));
    // The database makes a file now and then.
    assert!(taken(&m) < 30, "{} inodes for 7,000 drafts", taken(&m));
    assert_eq!((m.stats(&q)["drafts"].as_u64(), m.body_files().len()), (Some(6000), 0));
    m.remount();
    ann(&m, "mv q/.mq/batch/b q/; for n in $(seq 0 99); do mv q/.s$n q/s$n; done").ok();
    assert_eq!(m.stats(&q)["ready"], 1100);
    assert_eq!(fs::read_to_string(q.join(".s1999")).unwrap(), "small".repeat(50));
    assert_eq!(m.body_files().len(), 0);
    m.sh("echo all > q/.mq/purge").ok();
    wait_until(|| m.stats(&q)["drafts"] == 0);
    assert!(taken(&m) < 30, "{} inodes", taken(&m));
}
