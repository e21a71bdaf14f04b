//! More of what tests of consumers share: independent workers, transitions, states, random numbers.

#![allow(dead_code)]

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::common::{Mount, Ran, Running, only, xattr};

/// A script that is nobody's sibling: its parent is a shell of its own, so that it shares no claim with the test, nor
/// with any other script.
fn stranger(script: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", r#"bash -c "$1"; exit $?"#, "stranger", script]);
    command
}

impl Mount {
    /// Runs a bash script as a worker who shares no claim with the test or with another worker.
    #[track_caller]
    pub fn worker(&self, script: &str) -> Ran {
        self.run(&mut stranger(script))
    }

    /// Starts a worker who claims `path` and holds its descriptor until it is dropped or killed; returns when the
    /// message is claimed. The process with the id of the `Running` is the claimer, the test is its parent.
    #[track_caller]
    pub fn holder(&self, path: &Path) -> Running {
        let script = format!("exec 3< '{}' && echo open && exec sleep 1000", path.display());
        let mut running = self.spawn(&script);
        let mut ended = false;
        crate::common::wait_until(|| {
            ended = !running.is_running();
            ended || running.output() == "open\n"
        });
        assert!(!ended, "the holder could not claim: {}", running.errors());
        running
    }

    /// Enqueues `m0`, `m1`... with their names as bodies.
    #[track_caller]
    pub fn fill(&self, queue: &Path, count: usize) {
        for i in 0..count {
            let path = queue.join(format!("m{i}"));
            fs::write(&path, format!("m{i}")).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }

    /// Enqueues one message and returns the path under which it is listed.
    #[track_caller]
    pub fn message(&self, queue: &Path, name: &str, body: impl AsRef<[u8]>) -> PathBuf {
        let before = crate::common::listing(queue);
        fs::write(queue.join(name), body).unwrap_or_else(|error| panic!("{name}: {error}"));
        let after = crate::common::listing(queue);
        let new: Vec<&String> = after.iter().filter(|name| !before.contains(name)).collect();
        assert_eq!(new.len(), 1, "one new name: {before:?} {after:?}");
        queue.join(new[0])
    }
}

/// The queue's directory of a state: `claimed`, `dead`, `peek`...
pub fn control(queue: &Path, what: &str) -> PathBuf {
    queue.join(".mq").join(what)
}

/// A name that `.mq/claim` answered, or a path that ends with one, without what names the delivery: as it is listed.
pub fn plain(path: &str) -> String {
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    match path[name..].find('.') {
        Some(dot) if dot >= 16 && path[name..][..dot].bytes().all(|byte| byte.is_ascii_digit()) => {
            [&path[..name + dot], &path[name + dot + 11..]].concat()
        }
        _ => path.to_owned(),
    }
}

/// The path of a message of `queue` (its name is taken from `message`) in a state's directory.
pub fn within(queue: &Path, what: &str, message: &Path) -> PathBuf {
    control(queue, what).join(plain(&message.file_name().unwrap().to_string_lossy()))
}

/// Renames a message into a state's directory of its queue; its path there.
#[track_caller]
pub fn transition(queue: &Path, what: &str, message: &Path) -> PathBuf {
    let to = within(queue, what, message);
    fs::rename(message, &to).unwrap_or_else(|error| panic!("{} to {what}: {error}", message.display()));
    to
}

/// `user.mq.state` as seen through `.mq/peek`; `None` when there is no such message.
#[track_caller]
pub fn state(queue: &Path, message: &Path) -> Option<String> {
    let path = within(queue, "peek", message);
    fs::symlink_metadata(&path).ok()?;
    xattr(path, "user.mq.state")
}

/// `user.mq.deliveries` as seen through `.mq/peek`.
#[track_caller]
pub fn deliveries(queue: &Path, message: &Path) -> u32 {
    let value = xattr(within(queue, "peek", message), "user.mq.deliveries").expect("user.mq.deliveries");
    value.parse().expect("a number of deliveries")
}

/// When the lease of a claimed message ends.
#[track_caller]
pub fn deadline(queue: &Path, message: &Path) -> SystemTime {
    let value = xattr(within(queue, "peek", message), "user.mq.deadline").expect("user.mq.deadline");
    humantime::parse_rfc3339(&value).unwrap_or_else(|error| panic!("deadline {value:?}: {error}"))
}

/// Asserts that a queue holds exactly these, by the producers' names, in order.
#[track_caller]
pub fn assert_listed(dir: &Path, expected: &[&str]) {
    assert_eq!(crate::common::producers(dir), expected, "{}", dir.display());
}

/// renameat2(2) with RENAME_NOREPLACE, as `mv` calls it first.
pub fn rename_noreplace(from: &Path, to: &Path) -> io::Result<()> {
    rename_flags(from, to, libc::RENAME_NOREPLACE)
}

/// renameat2(2) with flags.
pub fn rename_flags(from: &Path, to: &Path, flags: libc::c_uint) -> io::Result<()> {
    let from = CString::new(from.as_os_str().as_bytes()).unwrap();
    let to = CString::new(to.as_os_str().as_bytes()).unwrap();
    // SAFETY: valid strings.
    match unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Asserts throughout `window` that `condition` holds: for what must not happen.
#[track_caller]
pub fn holds_for(window: Duration, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while start.elapsed() < window {
        assert!(condition(), "did not hold {:?} into {window:?}", start.elapsed());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process has ended but was not waited for.
pub fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z"))
}

/// The path of the only entry, with the directory's name replaced: where the only message of a state resolves in its
/// queue.
#[track_caller]
pub fn only_name(dir: &Path) -> String {
    only(dir).file_name().unwrap().to_string_lossy().into_owned()
}

/// Random numbers, the same again for the same seed (`MQFS_TEST_SEED`), which is printed.
pub struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    /// Seeded from the environment or the clock.
    pub fn new() -> Random {
        let given = std::env::var("MQFS_TEST_SEED").ok().map(|text| text.parse().expect("MQFS_TEST_SEED"));
        let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = given.unwrap_or_else(clock);
        println!("MQFS_TEST_SEED={seed}");
        Random::seeded(seed)
    }

    /// From a given seed.
    pub fn seeded(seed: u64) -> Random {
        Random { seed, state: seed | 1 }
    }

    /// What it began with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) % limit
    }
}

/// Whether the long versions of tests were asked for.
pub fn full() -> bool {
    std::env::var_os("MQFS_TEST_FULL").is_some()
}
