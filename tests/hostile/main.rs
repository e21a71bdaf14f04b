//! Users without privileges who make whatever system calls they can on a mount that lets them in, while root works on it.
//!
//! Nothing that they do ends mqfs, makes it stop answering, or makes it show or lose what the modes of its queues keep
//! from them. `./scripts/hostile MINUTES` runs it for longer; the seed of a run is printed (`MQFS_TEST_SEED`).

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/disk.rs"]
mod disk;

mod calls;
mod greedy;
mod places;
mod user;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::*;
use places::{Random, USERS};

/// What a user's process is told; see [`user::main`].
const PART: &str = "MQFS_HOSTILE_USER";
/// For how many seconds.
const SECONDS: &str = "MQFS_HOSTILE_SECONDS";
/// So many processes of each user.
const PROCESSES: usize = 2;

/// Not a test but what the processes of the test below run: they are this program again.
#[test]
fn a_hostile_user() {
    if let Ok(part) = std::env::var(PART) {
        user::main(&part);
    }
}

/// A step of root's own work takes fewer requests.
const MOST_REQUESTS: u64 = 30;

/// Root's own work: goes on, and every step of it within [`LIMIT`].
struct Work {
    steps: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Work {
    fn start(queue: PathBuf) -> Work {
        let (steps, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, ended) = (steps.clone(), over.clone());
        let work = move || {
            while !ended.load(Ordering::SeqCst) {
                let step = counted.fetch_add(1, Ordering::SeqCst);
                fs::metadata(queue.join("../open")).expect("stat");
                fs::write(queue.join("job"), format!("job {step}")).expect("enqueue");
                let claimed = fs::read_to_string(queue.join(".mq/claim")).expect("claim");
                let message = queue.join(claimed.trim_end());
                assert_eq!(fs::read_to_string(&message).expect("read"), format!("job {step}"));
                fs::remove_file(&message).expect("ack");
                fs::read_to_string(queue.join("../.mq/metrics")).expect("metrics");
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        Work { steps, over, thread: Some(std::thread::spawn(work)) }
    }

    fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    fn end(mut self) {
        self.over.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().expect("root's own work failed");
    }
}

fn start_user(m: &Mount, random: &mut Random) -> Child {
    let user = &USERS[random.below(USERS.len())];
    start(m, user, random)
}

fn start(m: &Mount, user: &places::User, random: &mut Random) -> Child {
    let part = format!("{}:{}:{}", user.uid, random.next(), m.path().display());
    let log = fs::File::options().create(true).append(true).open(m.scratch().join("users")).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_hostile_user", "--nocapture", "--test-threads=1"]).env(PART, part);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

#[test]
fn hostile_users_break_nothing_and_see_nothing() {
    let seconds = std::env::var(SECONDS).map_or(10, |text| text.parse().expect(SECONDS));
    let mut random = Random::of_environment();
    let mut m = Mount::with(&["-o", "allow_other"]);
    let kept = places::make(&m);
    let work = Work::start(m.path().join("watch"));
    let of_ours = requests(&m);
    let mut users: Vec<Child> = Vec::new();
    for _ in 0..PROCESSES {
        users.extend(USERS.iter().map(|user| start(&m, user, &mut random)));
    }

    let (begun, mut progress) = (Instant::now(), (0, Instant::now()));
    let (busy, mut end) = (1000, Duration::from_secs(seconds));
    while begun.elapsed() < end {
        std::thread::sleep(Duration::from_millis(20));
        if work.steps() != progress.0 {
            progress = (work.steps(), Instant::now());
        }
        assert!(progress.1.elapsed() < LIMIT, "mqfs does not answer root any more");
        for child in &mut users {
            if random.below(100) == 0 {
                let _ = child.kill();
            }
            if let Some(status) = child.try_wait().unwrap() {
                assert_ne!(status.code(), Some(user::SAW_A_SECRET), "{}", told(&m));
                *child = start_user(&m, &mut random);
            }
        }
        // On a slow machine they may need longer to do something.
        let done = || requests(&m) - of_ours > busy + MOST_REQUESTS * work.steps();
        if begun.elapsed() >= end && end < LIMIT && !done() {
            end += Duration::from_secs(10);
        }
    }
    for child in &mut users {
        let _ = child.kill();
        child.wait().unwrap();
    }
    let (steps, requests) = (work.steps(), requests(&m) - of_ours);
    println!("{steps} steps of root's own work, {requests} requests");
    assert!(requests > busy + MOST_REQUESTS * steps, "the users did nothing");
    work.end();

    // Children of theirs live for a second at most.
    wait_until(|| fs::read_dir("/proc").unwrap().flatten().all(|entry| !is_users(&entry.path())));
    wait_until(|| numbers(&m, "writers") == 0);
    places::untouched(&m, &kept);
    let all = queues(&m);
    all.iter().for_each(|queue| consistent(queue));
    m.remount();
    places::untouched(&m, &kept);
    all.iter().for_each(|queue| consistent(queue));
    let told = told(&m);
    assert!(!told.contains("panicked") && !told.contains("saw"), "{told}");
    let log = m.log();
    let mut wrong = BTreeMap::new();
    for line in log.lines().filter(|line| line.split_whitespace().nth(1) == Some("ERROR") || line.contains("bug:")) {
        *wrong.entry(line.split_once("ERROR").map_or(line, |(_, text)| text)).or_insert(0) += 1;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What the users' processes said.
fn told(m: &Mount) -> String {
    fs::read_to_string(m.scratch().join("users")).unwrap_or_default()
}

fn is_users(process: &Path) -> bool {
    let owner = fs::metadata(process).map_or(0, |process| process.uid());
    // One that has ended and that nobody waits for has a name, but no program.
    let running =
        || fs::read_link(process.join("exe")).is_ok_and(|program| program.to_string_lossy().contains("hostile"));
    USERS.iter().any(|user| user.uid == owner) && running()
}

fn numbers(m: &Mount, name: &str) -> u64 {
    m.stats("")[name].as_u64().unwrap_or_else(|| panic!("{name}"))
}

fn requests(m: &Mount) -> u64 {
    numbers(m, "requests_total")
}

/// Every queue of the mount, as deep as a path leads.
fn queues(m: &Mount) -> Vec<PathBuf> {
    let (mut all, mut left) = (Vec::new(), vec![m.path().to_owned()]);
    while let Some(dir) = left.pop() {
        let entries = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap());
        let nested: Vec<PathBuf> =
            entries.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()).collect();
        let nested = nested.into_iter().filter(|path| path.as_os_str().len() < 3500).collect::<Vec<_>>();
        all.extend(nested.iter().cloned());
        left.extend(nested);
    }
    all
}

/// A queue's counters are what its directories hold. Leases and times to live may be running out meanwhile, so it is looked
/// at until it is so.
fn consistent(queue: &Path) {
    let mut seen = String::new();
    let so = poll(LIMIT, || {
        let text = fs::read_to_string(queue.join(".mq/stats")).unwrap();
        let stats: serde_json::Value = serde_json::from_str(&text).unwrap();
        let count = |dir: &str, wanted: fn(&fs::DirEntry) -> bool| {
            let entries = fs::read_dir(queue.join(dir)).unwrap().map(|entry| entry.unwrap());
            entries.filter(wanted).count() as u64
        };
        let is_file = |entry: &fs::DirEntry| entry.file_type().unwrap().is_file();
        let found = [
            (
                "ready",
                count("", |entry| entry.file_type().unwrap().is_file() && entry.file_name().as_bytes()[0] != b'.'),
            ),
            (
                "drafts",
                count("", |entry| entry.file_type().unwrap().is_file() && entry.file_name().as_bytes()[0] == b'.'),
            ),
            ("queues", count("", |entry| entry.file_type().unwrap().is_dir())),
            ("claimed", count(".mq/claimed", is_file)),
            ("delayed", count(".mq/delayed", is_file)),
            ("dead", count(".mq/dead", is_file)),
            ("batches", count(".mq/batch", |_| true)),
        ];
        let sizes = fs::read_dir(queue.join(".mq/peek"))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().map_or(0, |meta| meta.len()));
        let bytes: u64 = sizes.sum();
        let states = ["ready", "claimed", "delayed", "dead"];
        let counted: u64 = states.iter().map(|state| stats[format!("{state}_bytes")].as_u64().unwrap()).sum();
        seen = format!("{found:?} {bytes}: {text}");
        found.iter().all(|(name, count)| stats[*name].as_u64() == Some(*count)) && bytes == counted
    });
    assert!(so, "{}: {seen}", queue.display());
}
