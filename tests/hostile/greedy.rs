//! Users who take all they can get: queues, drafts, bytes, inodes, and the disk's time; and whose processes are killed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::common::*;
use crate::disk::Disk;
use crate::places::{Random, USERS};
use crate::{SECONDS, Work};

/// What they do, again and again, until nothing is given to them any more.
const GREED: [&str; 7] = [
    "for i in $(seq 60); do mkdir open/$$-$i || break; done; rmdir open/$$-*",
    "for i in $(seq 400); do : > open/.$$-$i || break; done",
    "for i in $(seq 400); do head -c 40000 /dev/zero > open/.large-$$-$i || break; done; rm -f open/.large-$$-*",
    "head -c 20000000 /dev/zero > open/.huge-$$ && mv open/.huge-$$ open/huge; rm -f open/.huge-$$ open/*-huge",
    "mkdir open/.mq/batch/$$ && for i in $(seq 50); do head -c 100000 /dev/zero > open/.mq/batch/$$/$i; done; mv open/.mq/batch/$$ open/",
    "set -- open/.mq/peek/*-long; for i in $(seq 500); do exec {f}< $1 && read -r -N 100 -u $f _ || break; done",
    "for i in $(seq 20); do head -c 3000000 /dev/zero > open/m; done; sync open; rm -f open/*-m",
];

/// More than mqfs takes here. A block of 128 KiB for each of some ten thousand files that they have open would be far beyond it.
const MEMORY_MIB: u64 = 600;

/// Few inodes, and the room of some of them.
const FEW: [&str; 7] = ["mkfs.ext4", "-q", "-F", "-m", "0", "-N", "900"];

#[test]
fn greedy_users_leave_the_others_what_they_need() {
    let seconds = std::env::var(SECONDS).map_or(10, |text| text.parse().expect(SECONDS));
    let mut random = Random::of_environment();
    let disk = Disk::sized(&FEW, 400);
    let limits = "allow_other,user_queues=40,user_drafts=200,user_bytes=60000000";
    let mut m = Mount::with_store_in(&disk.path(), &["-o", limits]);
    fs::set_permissions(m.queue("open"), fs::Permissions::from_mode(0o1777)).unwrap();
    m.sh("head -c 16000000 /dev/urandom | base64 -w 0 > open/long").ok();
    let work = Work::start(m.queue("watch"));
    let (begun, mut progress) = (Instant::now(), (0, Instant::now()));
    let mut users: Vec<Running> = Vec::new();
    let end = Duration::from_secs(seconds);
    while begun.elapsed() < end {
        std::thread::sleep(Duration::from_millis(20));
        if work.steps() != progress.0 {
            progress = (work.steps(), Instant::now());
        }
        assert!(progress.1.elapsed() < LIMIT, "mqfs does not answer root any more");
        if random.below(50) == 0 && !users.is_empty() {
            users[random.below(users.len())].signal(libc::SIGKILL);
        }
        users.retain_mut(Running::is_running);
        if users.len() < 3 * USERS.len() {
            let user = USERS[random.below(USERS.len())].uid;
            users.push(m.spawn_as(user, user, GREED[random.below(GREED.len())]));
        }
    }
    let memory = m.rss_kib() >> 10;
    users.iter().for_each(|user| user.signal(libc::SIGKILL));
    wait_until(|| users.iter_mut().all(|user| !user.is_running()));
    let steps = work.steps();
    println!("{steps} steps of root's own work beside greedy users, {memory} MiB of memory");
    assert!(memory < MEMORY_MIB, "{memory} MiB");
    work.end();
    assert!(steps > 0);
    m.end_programs();
    let log = m.log();
    let stopped = log.lines().find(|line| line.contains("nothing is written") || line.contains("bug:"));
    assert_eq!(stopped, None);
    m.remount();
    m.stop();
    let checked = m.run(std::process::Command::new(env!("CARGO_BIN_EXE_mqfs")).arg("check").arg(m.store()));
    checked.ok();
}
