//! A directory with a store to be and a mount point, for tests of mounting itself: nothing is mounted yet.
//!
//! Included by path, beside `common`, by the tests that run `mqfs mount` in their own way.

#![allow(dead_code)]

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take before the test fails.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A directory of its own for each test; whatever is mounted in it is unmounted and whoever serves it is killed on drop.
pub struct Place {
    dir: Option<TempDir>,
    /// The test has mqfs make system calls that it is not known to make; elsewhere they are a failure.
    pub expects_unknown_calls: bool,
}

/// What the log says of a system call that is not in mqfs's list.
pub const UNKNOWN_CALL: &str = "a system call that mqfs does not know of";

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Place {
    pub fn new() -> Place {
        // Else a program that another test starts holds this one's files between fork and exec.
        // SAFETY: the calling thread gets a copy of the table of descriptors, and only it uses that.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
        let dir = tempfile::Builder::new().prefix("mqfs-place-").tempdir().unwrap();
        // Other users must be able to walk to what is in it.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let place = Place { dir: Some(dir), expects_unknown_calls: false };
        fs::create_dir(place.mnt()).unwrap();
        place
    }

    /// The directory.
    pub fn dir(&self) -> PathBuf {
        // What the kernel will show, should the temporary directory be reached by a symbolic link.
        fs::canonicalize(self.dir.as_ref().unwrap().path()).unwrap()
    }

    /// Where the store will be; nothing is there yet.
    pub fn store(&self) -> PathBuf {
        self.dir().join("store")
    }

    /// An empty directory.
    pub fn mnt(&self) -> PathBuf {
        self.dir().join("mnt")
    }

    /// A path in the mount.
    pub fn at(&self, path: &str) -> PathBuf {
        self.mnt().join(path)
    }

    /// `mqfs` with these arguments, in the directory.
    pub fn mqfs(&self, arguments: &[&str]) -> Ran {
        run(Command::new(binary()).args(arguments).current_dir(self.dir()))
    }

    /// `mqfs mount store mnt` with more arguments. Unless they say something else, the log goes to the file `log-unasked`.
    pub fn mount(&self, more: &[&str]) -> Ran {
        let log: &[&str] = match more.iter().any(|argument| argument.contains("log")) {
            true => &[],
            false => &["--log-file", "log-unasked"],
        };
        self.mqfs(&[&["mount", "store", "mnt"], more, log].concat())
    }

    /// What the files of the directory that are called like logs say of system calls that mqfs is not known to make.
    fn unknown_calls(&self) -> Vec<String> {
        let files =
            ["errors", "log", "log.1", "log.2", "log-unasked"].map(|name| self.dir.as_ref().unwrap().path().join(name));
        // Opening a pipe would wait until somebody writes to it.
        let files = files.iter().filter(|file| file.is_file());
        let text: String = files.filter_map(|file| fs::read_to_string(file).ok()).collect();
        text.lines().filter(|line| line.contains(UNKNOWN_CALL)).map(str::to_owned).collect()
    }

    /// The same, which must work; returns the process that serves the mount.
    #[track_caller]
    pub fn mounted(&self, more: &[&str]) -> Process {
        self.mount(more).succeeded();
        self.daemon()
    }

    /// `mqfs mount --foreground store mnt`, once it works. Its standard error goes to the file `errors`.
    #[track_caller]
    pub fn foreground(&self, more: &[&str]) -> Child {
        let errors = fs::File::create(self.dir().join("errors")).unwrap();
        let mut command = Command::new(binary());
        command.args(["mount", "store", "mnt", "--foreground"]).args(more).current_dir(self.dir());
        // A test run under nohup passes on that SIGHUP is ignored, which mqfs respects.
        // SAFETY: signal is async-signal-safe.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, || {
                libc::signal(libc::SIGHUP, libc::SIG_DFL);
                Ok(())
            });
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().unwrap();
        until(|| is_mounted(&self.mnt()) || child.try_wait().unwrap().is_some());
        assert!(is_mounted(&self.mnt()), "{}", self.errors());
        // The kernel shows a mount before it is served.
        fs::read_dir(self.mnt()).unwrap();
        child
    }

    /// What a process started by [`Place::foreground`] said.
    pub fn errors(&self) -> String {
        fs::read_to_string(self.dir().join("errors")).unwrap_or_default()
    }

    /// A bash script in the directory. `$MQFS` is the binary.
    pub fn sh(&self, script: &str) -> Ran {
        run(self.script(Command::new("bash")).arg("-c").arg(script))
    }

    /// The same in a mount namespace of its own, where it may mount over the system's directories. It must itself
    /// unmount what it mounts.
    pub fn sh_in_namespace(&self, script: &str) -> Ran {
        let mut command = self.script(Command::new("unshare"));
        run(command.args(["--mount", "--propagation", "private", "bash", "-c"]).arg(script))
    }

    fn script(&self, mut command: Command) -> Command {
        command.current_dir(self.dir()).env("MQFS", binary());
        command
    }

    /// The process that serves the mount, as the mount says.
    #[track_caller]
    pub fn daemon(&self) -> Process {
        let ran = run(Command::new("getfattr")
            .args(["--absolute-names", "--only-values", "-n", "user.mq.daemon_pid"])
            .arg(self.mnt()));
        ran.succeeded();
        Process(ran.stdout.trim().parse().unwrap())
    }

    /// A column of findmnt's line about the mount.
    #[track_caller]
    pub fn findmnt(&self, column: &str) -> String {
        let ran = run(Command::new("findmnt").args(["-n", "-o", column, "-M"]).arg(self.mnt()));
        ran.succeeded();
        ran.stdout.trim().to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let unknown = self.unknown_calls();
        self.clean_up();
        assert!(unknown.is_empty() || self.expects_unknown_calls || std::thread::panicking(), "{unknown:#?}");
    }
}

impl Place {
    fn clean_up(&mut self) {
        let dir = self.dir.take().unwrap();
        while is_mounted(&self_mnt(dir.path())) {
            if let Some(pid) = daemon_of(&self_mnt(dir.path())) {
                Process(pid).kill(libc::SIGKILL);
            }
            if !detach(&self_mnt(dir.path())) {
                // Removing the directory would walk into the mount.
                let _ = dir.keep();
                return;
            }
        }
        // After umount(8) the process still writes to its store for a moment.
        let path = dir.keep();
        until(|| fs::remove_dir_all(&path).is_ok() || !path.exists());
    }
}

fn self_mnt(dir: &Path) -> PathBuf {
    fs::canonicalize(dir).unwrap().join("mnt")
}

fn daemon_of(mnt: &Path) -> Option<u32> {
    let output = Command::new("getfattr")
        .args(["--absolute-names", "--only-values", "-n", "user.mq.daemon_pid"])
        .arg(mnt)
        .output()
        .ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

fn detach(mnt: &Path) -> bool {
    let path = CString::new(mnt.as_os_str().as_bytes()).unwrap();
    // SAFETY: a call with a valid string.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) == 0 }
}

impl Ran {
    /// Asserts success without a word of complaint.
    #[track_caller]
    pub fn succeeded(&self) -> &Ran {
        assert!(self.code == Some(0) && self.stderr.is_empty(), "{self:?}");
        self
    }

    /// Asserts failure with this exit code and one line on standard error that contains `words`, and nothing else.
    #[track_caller]
    pub fn failed(&self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert!(lines.len() == 1 && lines[0].starts_with("mqfs: ") && lines[0].contains(words), "{self:?}");
        assert!(self.stdout.is_empty(), "{self:?}");
    }
}

/// A process that is not our child, or not known as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(pub u32);

impl Process {
    /// Sends a signal.
    pub fn kill(self, signal: i32) {
        // SAFETY: kill takes numbers only.
        unsafe { libc::kill(self.0.cast_signed(), signal) };
    }

    /// Whether it still runs; a zombie does not.
    pub fn runs(self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    /// Waits until it has ended.
    #[track_caller]
    pub fn ends(self) {
        until(|| !self.runs());
    }

    /// A file of its directory in `/proc`.
    pub fn proc(self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.0))
    }

    /// What its descriptors refer to.
    pub fn descriptors(self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.proc("fd")).unwrap();
        entries.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect()
    }
}

/// The program under test.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_mqfs")
}

/// Runs a command to its end, with nothing on its standard input.
pub fn run(command: &mut Command) -> Ran {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    Ran {
        code: status.code().or(status.signal().map(|signal| 128 + signal)),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Waits until the child has ended, and returns how.
#[track_caller]
pub fn end_of(child: &mut Child) -> ExitStatus {
    let mut status = None;
    until(|| {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// Whether something is mounted at `path`.
pub fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

/// Waits until the condition holds.
#[track_caller]
pub fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition did not come true within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
