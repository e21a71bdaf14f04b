//! Many queues: listed completely, counted right, each of them working.

use std::fs;

use crate::common::*;
use crate::extra::*;

/// Directories of many queues are listed completely, and each queue works; 100,000 with `MQFS_TEST_FULL`.
#[test]
fn many_queues() {
    let count = if full() { 100_000 } else { 2_000 };
    let mut m = Mount::new();
    let top = m.queue_with("top", &["durability=async"]);
    let rss = m.rss_kib();
    for i in 0..count {
        fs::create_dir(top.join(format!("q{i}"))).unwrap();
    }
    let expected: Vec<String> = (0..count).map(|i| format!("q{i}")).collect();
    let sorted = |mut names: Vec<String>| {
        names.sort_by_key(|name| name[1..].parse::<usize>().unwrap());
        names
    };
    assert_eq!(sorted(listing(&top)), expected);
    let step = (count / 500).max(1);
    for i in (0..count).step_by(step) {
        fs::write(top.join(format!("q{i}/m")), i.to_string()).unwrap();
    }
    m.kill9_and_remount();
    assert_eq!(sorted(listing(&top)), expected);
    for i in (0..count).step_by(step) {
        let queue = top.join(format!("q{i}"));
        let message = only(&queue);
        assert_eq!(fs::read_to_string(&message).unwrap(), i.to_string());
        assert_eq!(errno(fs::remove_dir(&queue)), libc::ENOTEMPTY);
        fs::remove_file(message).unwrap();
    }
    m.sh("find top -mindepth 1 -depth -delete").ok();
    assert_eq!(listing(&top), Vec::<String>::new());
    fs::remove_dir(&top).unwrap();
    let grown = m.peak_rss_kib().saturating_sub(rss);
    assert!(grown < 200 * 1024, "{count} queues: {grown} KiB more");
}

/// The counters of each queue are right although there are more queues than mqfs keeps in memory: what is in a queue keeps it
/// from being removed, and what is not does not.
#[test]
fn counters_of_more_queues_than_are_kept_in_memory() {
    let m = Mount::new();
    let top = m.queue_with("top", &["durability=async"]);
    let queues: Vec<_> = (0..4_500).map(|i| top.join(format!("q{i}"))).collect();
    for queue in &queues {
        fs::create_dir(queue).unwrap();
        fs::write(queue.join("m"), "body").unwrap();
    }
    assert_eq!(xattr(&top, "user.mq.queues").unwrap(), "4500");
    // Each message to the next queue but one, so that half of the queues are left behind empty.
    for pair in queues.chunks(2) {
        fs::rename(only(&pair[0]), pair[1].join("moved")).unwrap();
    }
    for pair in queues.chunks(2) {
        assert_eq!(xattr(&pair[0], "user.mq.ready").as_deref(), Some("0"), "{}", pair[0].display());
        assert_eq!(xattr(&pair[1], "user.mq.ready").as_deref(), Some("2"), "{}", pair[1].display());
        assert_eq!(errno(fs::remove_dir(&pair[1])), libc::ENOTEMPTY, "{}", pair[1].display());
        fs::remove_dir(&pair[0]).unwrap();
    }
    assert_eq!(listing(&top).len(), 2_250);
    assert_eq!(xattr(&top, "user.mq.queues").unwrap(), "2250");
    m.sh("find top -depth -delete").ok();
    assert_eq!(listing(m.path()), Vec::<String>::new());
}
