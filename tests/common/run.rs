//! Running real programs in the mount.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Mount, poll};

/// How long a program in the foreground may take.
const RUN_LIMIT: Duration = Duration::from_secs(300);

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Ran {
    /// The exit code; `None` when a signal ended the program.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Asserts that the program succeeded without a complaint (exit code 0, nothing on standard error); its output.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert!(
            self.status.success() && self.stderr.is_empty(),
            "{} out:{:?} err:{}",
            self.status,
            self.stdout,
            self.stderr
        );
        &self.stdout
    }

    /// Asserts that the program succeeded, whatever it said.
    #[track_caller]
    pub fn succeeds(&self) -> &str {
        assert!(self.status.success(), "{} out:{:?} err:{}", self.status, self.stdout, self.stderr);
        &self.stdout
    }

    /// Asserts that the program failed and that its standard error contains `text`.
    #[track_caller]
    pub fn fails(&self, text: &str) -> &Ran {
        let failed = !self.status.success() && self.stderr.contains(text);
        assert!(failed, "expected {text:?}: {} out:{:?} err:{}", self.status, self.stdout, self.stderr);
        self
    }
}

/// A program in the background; killed when dropped.
pub struct Running {
    child: Option<Child>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so the process id is still its own.
        assert_eq!(unsafe { libc::kill(self.pid() as i32, signal) }, 0);
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    /// What it wrote to its standard output so far.
    pub fn output(&self) -> String {
        text_of(&self.stdout)
    }

    /// What it wrote to its standard error so far.
    pub fn errors(&self) -> String {
        text_of(&self.stderr)
    }

    /// Waits until it ends, at most [`RUN_LIMIT`].
    #[track_caller]
    pub fn finish(self) -> Ran {
        self.finish_within(RUN_LIMIT)
    }

    #[track_caller]
    fn finish_within(mut self, limit: Duration) -> Ran {
        let mut status = None;
        let ended = poll(limit, || {
            status = self.child.as_mut().unwrap().try_wait().unwrap();
            status.is_some()
        });
        assert!(ended, "the program does not end; out:{:?} err:{}", self.output(), self.errors());
        Ran { status: status.unwrap(), stdout: self.output(), stderr: self.errors() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut child = self.child.take().unwrap();
        if matches!(child.try_wait(), Ok(None)) {
            let _ = child.kill();
            // Not waited for without limit: it may be inside a request that only the end of mqfs will answer.
            poll(Duration::from_secs(2), || !matches!(child.try_wait(), Ok(None)));
        }
    }
}

impl Mount {
    /// Runs a bash script in the mount point; `$T` is a directory outside the mount.
    pub fn sh(&self, script: &str) -> Ran {
        self.shell("bash", script)
    }

    /// Runs a script by another shell: `dash`, `bash`, `busybox sh`.
    #[track_caller]
    pub fn shell(&self, shell: &str, script: &str) -> Ran {
        let mut words = shell.split(' ');
        let mut command = Command::new(words.next().unwrap());
        self.run(command.args(words).arg("-c").arg(script))
    }

    /// Runs a bash script in a session of its own.
    #[track_caller]
    pub fn session(&self, script: &str) -> Ran {
        self.run(&mut new_session(script))
    }

    /// Runs a Python program in the mount point.
    #[track_caller]
    pub fn python(&self, program: &str) -> Ran {
        self.run(Command::new("python3").arg("-c").arg(program))
    }

    /// Runs a bash script as another user, without supplementary groups or capabilities (needs `-o allow_other`).
    #[track_caller]
    pub fn run_as(&self, uid: u32, gid: u32, script: &str) -> Ran {
        self.run(&mut as_user(uid, gid, "--clear-groups", script))
    }

    /// As [`Mount::run_as`], with supplementary groups.
    #[track_caller]
    pub fn run_as_with_groups(&self, uid: u32, gid: u32, groups: &str, script: &str) -> Ran {
        self.run(&mut as_user(uid, gid, &format!("--groups={groups}"), script))
    }

    /// Starts a bash script in the background.
    pub fn spawn(&self, script: &str) -> Running {
        self.start_command(Command::new("bash").arg("-c").arg(script))
    }

    /// Starts a bash script in the background, in a session of its own.
    pub fn spawn_session(&self, script: &str) -> Running {
        self.start_command(&mut new_session(script))
    }

    /// Starts a Python program in the background.
    pub fn spawn_python(&self, program: &str) -> Running {
        self.start_command(Command::new("python3").arg("-c").arg(program))
    }

    /// Starts a bash script in the background as another user.
    pub fn spawn_as(&self, uid: u32, gid: u32, script: &str) -> Running {
        self.start_command(&mut as_user(uid, gid, "--clear-groups", script))
    }

    /// Runs `cat > path` with `body` as its input: one message.
    #[track_caller]
    pub fn put(&self, path: impl AsRef<Path>, body: impl AsRef<[u8]>) {
        let mut command = Command::new("bash");
        command.args(["-c", r#"cat > "$1""#, "put"]).arg(path.as_ref()).current_dir(self.path());
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(body.as_ref()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "put: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs a command with the tests' environment, in the mount point.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> Ran {
        self.start_command(command).finish_within(RUN_LIMIT)
    }

    /// Starts a command with the tests' environment, in the mount point.
    pub fn start_command(&self, command: &mut Command) -> Running {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Files and not pipes: a background child that keeps them open does not keep the test waiting.
        let stdout = self.dir().join(format!("out-{number}"));
        let stderr = self.dir().join(format!("err-{number}"));
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("LC_ALL", "C.UTF-8").env("HOME", self.scratch()).env("T", self.scratch());
        command.env("M", self.path()).env("MQFS_PID", self.daemon.as_ref().map_or(0, Child::id).to_string());
        command.current_dir(self.path()).stdin(Stdio::null());
        command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        // A test run that was started by nohup or in the background of a script passes on that these are ignored.
        // SAFETY: signal is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Running { child: Some(child), stdout, stderr }
    }
}

fn new_session(script: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg("-c").arg(script);
    // SAFETY: setsid is async-signal-safe.
    unsafe {
        command.pre_exec(|| match libc::setsid() {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    command
}

fn as_user(uid: u32, gid: u32, groups: &str, script: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg(groups);
    command.args(["--inh-caps=-all", "bash", "-c", script]);
    command
}

fn text_of(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Kills what scripts of the mount at `mnt` have left running in the background: they carry its path in their environment. Gives
/// how many there were.
pub fn kill_stragglers(mnt: &Path) -> usize {
    let mark = [b"M=", mnt.as_os_str().as_bytes()].concat();
    let mut found = 0;
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let environment = fs::read(process.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark) {
            // SAFETY: a call without pointers; the process is a descendant of this one.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            found += 1;
        }
    }
    found
}
