//! What the tests share: a real mount of the real binary, programs run in it, and ways to look at the outcome.
//!
//! Rules that keep the tests honest and independent:
//!
//! - Every test has a mount and a store of its own; tests of one binary run in parallel.
//! - [`Mount::new`] gives the calling thread a descriptor table of its own (`unshare(CLONE_FILES)`). Otherwise a program
//!   that one test starts would, between fork and exec, hold the files that another test is writing, and delay their
//!   last close. A descriptor that a test itself holds while it starts a program is still inherited until the exec.
//! - Nothing sleeps for a fixed time to "let things settle": [`wait_until`] waits for a condition.
//! - A test that must not claim messages looks at them through [`Mount::bodies`] or [`Mount::messages`] (`.mq/peek`).

// Every test binary compiles this module, and none uses all of it.
#![allow(dead_code, unused_imports)]

mod clock;
mod files;
mod mounts;
mod run;
mod until;

pub use files::*;
pub use mounts::is_mounted;
pub use run::{Ran, Running};
pub use until::{LIMIT, poll, wait_until};

use mounts::{PREFIX, detach, remove_leftovers};
use run::kill_stragglers;

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;

use tempfile::TempDir;

/// A store and its mount, served by a child process; both go away with it.
pub struct Mount {
    /// Holds `store`, `mnt`, `scratch` and `log`. `None` only while dropping.
    dir: Option<TempDir>,
    mnt: PathBuf,
    args: Vec<OsString>,
    daemon: Option<Child>,
}

impl Mount {
    /// Mounts an empty store without options.
    pub fn new() -> Mount {
        Mount::with(&[])
    }

    /// Mounts an empty store with more arguments of `mqfs mount`, such as `["-o", "allow_other"]`.
    pub fn with(args: &[&str]) -> Mount {
        Mount::in_directory(args, None, None)
    }

    /// Mounts an empty store in `directory/store` (a file system of the caller's) instead of one beside the mount point.
    pub fn with_store_in(directory: &Path, args: &[&str]) -> Mount {
        Mount::in_directory(args, Some(directory), None)
    }

    fn in_directory(args: &[&str], store: Option<&Path>, clock: Option<&str>) -> Mount {
        static CLEAN: Once = Once::new();
        CLEAN.call_once(remove_leftovers);
        // SAFETY: only the calling thread's descriptor table is replaced, by a copy of itself.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0, "unshare(CLONE_FILES)");
        let dir = tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir().unwrap();
        // Other users must be able to walk to the mount point; what they may do there is the filesystem's business.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mnt = dir.path().join("mnt");
        fs::create_dir(&mnt).unwrap();
        fs::create_dir(dir.path().join("scratch")).unwrap();
        fs::set_permissions(dir.path().join("scratch"), fs::Permissions::from_mode(0o1777)).unwrap();
        if let Some(other) = store {
            std::os::unix::fs::symlink(other.join("store"), dir.path().join("store")).unwrap();
            fs::create_dir_all(other.join("store")).unwrap();
        } else {
            fs::create_dir(dir.path().join("store")).unwrap();
        }
        let args = args.iter().map(OsString::from).collect();
        let mut mount = Mount { dir: Some(dir), mnt, args, daemon: None };
        if let Some(clock) = clock {
            mount.set_clock(clock);
        }
        mount.start();
        mount
    }

    fn dir(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.mnt
    }

    /// The store's directory.
    pub fn store(&self) -> PathBuf {
        self.dir().join("store")
    }

    /// The files in which the store keeps the bodies of large messages, with the bytes they take on disk.
    pub fn body_files(&self) -> Vec<(PathBuf, u64)> {
        files_below(self.store().join("bodies"))
    }

    /// A directory outside the mount, writable by everybody; scripts find it as `$T`.
    pub fn scratch(&self) -> PathBuf {
        self.dir().join("scratch")
    }

    /// The file that collects the standard error of every mqfs process of this mount.
    pub fn log_path(&self) -> PathBuf {
        self.dir().join("log")
    }

    /// What mqfs logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// Makes the queue `name` and returns its path.
    pub fn queue(&self, name: &str) -> PathBuf {
        let path = self.mnt.join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("mkdir {name}: {error}"));
        path
    }

    /// Makes the queue `name` with these `key=value` lines of configuration.
    pub fn queue_with(&self, name: &str, lines: &[&str]) -> PathBuf {
        let path = self.queue(name);
        self.set(&path, &lines.join("\n"));
        path
    }

    /// Writes `lines` (`key=value`) to the queue's configuration.
    pub fn set(&self, queue: impl AsRef<Path>, lines: &str) {
        let config = self.mnt.join(queue).join(".mq/config");
        fs::write(&config, format!("{lines}\n")).unwrap_or_else(|error| panic!("set {lines:?}: {error}"));
    }

    /// The queue's counters, from `.mq/stats`.
    pub fn stats(&self, queue: impl AsRef<Path>) -> serde_json::Value {
        let path = self.mnt.join(queue).join(".mq/stats");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("stats are not JSON: {error}: {text}"))
    }

    /// Every message of the queue in any state, in delivery order: name below `.mq/peek` and body. Claims nothing.
    pub fn messages(&self, queue: impl AsRef<Path>) -> Vec<(String, Vec<u8>)> {
        let peek = self.mnt.join(queue).join(".mq/peek");
        let entries = fs::read_dir(&peek).unwrap_or_else(|error| panic!("{}: {error}", peek.display()));
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let read = |path: PathBuf| {
            let body = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path.file_name().unwrap().to_string_lossy().into_owned(), body)
        };
        paths.into_iter().map(read).collect()
    }

    /// The bodies of every message of the queue in any state, in delivery order, as text. Claims nothing.
    pub fn bodies(&self, queue: impl AsRef<Path>) -> Vec<String> {
        self.messages(queue).into_iter().map(|(_, body)| String::from_utf8_lossy(&body).into_owned()).collect()
    }

    /// The process id of the serving mqfs.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("mqfs is not running").id()
    }

    /// The resident memory of mqfs now.
    pub fn rss_kib(&self) -> u64 {
        process_status(self.pid(), "VmRSS:")
    }

    /// The largest resident memory that mqfs ever had.
    pub fn peak_rss_kib(&self) -> u64 {
        process_status(self.pid(), "VmHWM:")
    }

    /// Sends SIGTERM, waits until mqfs has gone (with exit code 0 and without its mount), and mounts again.
    pub fn remount(&mut self) {
        self.stop();
        self.start();
    }

    /// Sends SIGTERM and waits until mqfs has gone, with exit code 0 and without its mount.
    pub fn stop(&mut self) {
        self.signal(libc::SIGTERM);
        let status = self.wait_for_exit();
        assert!(status.success(), "mqfs after SIGTERM: {status}");
        assert!(!is_mounted(&self.mnt), "mqfs left its mount behind");
    }

    /// Sends SIGTERM and waits until mqfs has gone, however it ends: its disk may have failed.
    pub fn stop_anyway(&mut self) {
        self.signal(libc::SIGTERM);
        self.wait_for_exit();
        assert!(!is_mounted(&self.mnt), "mqfs left its mount behind");
    }

    /// Kills mqfs with SIGKILL, as a crash would, and mounts again.
    pub fn kill9_and_remount(&mut self) {
        self.kill9();
        self.start();
    }

    /// Kills mqfs with SIGKILL and detaches the dead mount.
    pub fn kill9(&mut self) {
        self.signal(libc::SIGKILL);
        let status = self.wait_for_exit();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "mqfs after SIGKILL: {status}");
        self.detach();
    }

    /// Sends SIGKILL to mqfs unless it has ended, and detaches what is mounted; how it ended.
    pub fn cut_short(&mut self) -> ExitStatus {
        self.signal(libc::SIGKILL);
        let status = self.wait_for_exit();
        self.detach();
        status
    }

    /// Kills every program that runs for this mount, and waits until they are gone.
    pub fn end_programs(&self) {
        wait_until(|| kill_stragglers(&self.mnt) == 0);
    }

    /// Detaches the mount of an mqfs that has died.
    pub fn detach(&self) {
        assert!(self.daemon.is_none(), "mqfs is still running");
        assert!(detach(&self.mnt), "the dead mount stays");
    }

    /// Sends a signal to mqfs.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so the process id is still its own.
        assert_eq!(unsafe { libc::kill(self.pid() as i32, signal) }, 0);
    }

    /// Waits until mqfs has exited by itself.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("mqfs is not running");
        let mut status = None;
        let exited = poll(LIMIT, || {
            status = daemon.try_wait().unwrap();
            status.is_some()
        });
        if !exited {
            self.daemon = Some(daemon);
            panic!("mqfs does not exit");
        }
        clock::remove_clock_of(daemon.id());
        status.unwrap()
    }

    /// Replaces the arguments for the next [`Mount::start`] or [`Mount::remount`].
    pub fn set_args(&mut self, args: &[&str]) {
        self.args = args.iter().map(OsString::from).collect();
    }

    /// Starts mqfs and does not wait for the mount.
    pub fn launch(&mut self) {
        assert!(self.daemon.is_none(), "mqfs is running already");
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mqfs"));
        command.arg("mount").arg(self.store()).arg(&self.mnt).arg("--foreground").args(&self.args);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.give_clock(&mut command);
        self.daemon = Some(command.spawn().expect("start mqfs"));
    }

    /// Mounts the store (again) and waits until the mount is there.
    pub fn start(&mut self) {
        self.launch();
        let mut died = None;
        let mounted = poll(LIMIT, || {
            died = self.daemon.as_mut().unwrap().try_wait().unwrap();
            died.is_some() || is_mounted(&self.mnt)
        });
        if let Some(status) = died {
            self.daemon = None;
            panic!("mqfs did not mount: {status}\n{}", self.log());
        }
        assert!(mounted, "mqfs does not mount");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        let mut complaint = None;
        if let Some(mut daemon) = self.daemon.take() {
            if let Some(status) = daemon.try_wait().unwrap() {
                complaint = Some(format!("mqfs died: {status}"));
            }
            let _ = daemon.kill();
            let _ = daemon.wait();
            clock::remove_clock_of(daemon.id());
        }
        kill_stragglers(&self.mnt);
        let gone = detach(&self.mnt);
        let log = self.log();
        if log.contains("panicked at") {
            complaint = Some("mqfs panicked".into());
        }
        if log.contains("a system call that mqfs does not know of") {
            complaint = Some("mqfs made a system call that is not in its list".into());
        }
        let dir = self.dir.take().unwrap();
        if gone {
            drop(dir);
        } else {
            // Removing the directory would walk into the mount.
            let path = dir.keep();
            complaint = Some(format!("cannot unmount {}", path.display()));
        }
        if panicking || complaint.is_some() {
            eprintln!("--- log of mqfs ---\n{log}--- end of the log ---");
        }
        match complaint {
            Some(text) if panicking => eprintln!("{text}"),
            Some(text) => panic!("{text}"),
            None => {}
        }
    }
}

fn process_status(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
