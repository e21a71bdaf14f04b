//! A command that works on a message.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::Access;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::super::exit::{Exit, Failure};
use super::environment::{self, Variable};
use super::queue::{Message, Queue};

/// How long a command may take to end after SIGTERM, before SIGKILL.
pub const GRACE: Duration = Duration::from_secs(10);
/// The codes with which shells and their like say that a command was not there, or could not be run.
const CANNOT_RUN: [i32; 2] = [126, 127];

/// The command that is run for each message.
pub struct Program {
    words: Vec<OsString>,
    /// What of the signals that we block it starts with.
    mask: libc::sigset_t,
}

/// A command that runs.
pub struct Job {
    /// What it works on.
    pub message: Message,
    /// How often that was delivered, this time included.
    pub deliveries: String,
    child: Child,
    pidfd: OwnedFd,
    started: Instant,
    /// When it has to be told to end, and when it has to be killed after that.
    due: Option<Instant>,
    told: Option<Told>,
}

/// Why a command was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Its time was up.
    TimeIsUp,
    /// A second signal came.
    Hurry,
}

/// How a command ended.
pub struct Ended {
    /// What the system says.
    pub status: ExitStatus,
    /// It had been told to end.
    pub told: Option<Told>,
    /// How long it ran.
    pub after: Duration,
}

impl Program {
    /// The command of these words, if it can be run: a message that is claimed for nothing has used up a delivery.
    pub fn find(words: &[OsString], mask: libc::sigset_t) -> Result<Program, Failure> {
        let failed = |why: &dyn std::fmt::Display| {
            let name = words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
            Failure::new(Exit::Command, format_args!("{name}: {why}"))
        };
        let name = words.first().map(OsString::as_os_str).unwrap_or_default();
        match candidates(name).iter().map(|path| runnable(path)).reduce(|so_far, next| so_far.or(next)) {
            Some(Ok(())) => Ok(Program { words: words.to_vec(), mask }),
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(failed(&error)),
            _ => Err(failed(&"command not found")),
        }
    }

    /// Why the command could not be started.
    pub fn failure(&self, why: &dyn std::fmt::Display) -> Failure {
        Failure::new(Exit::Command, format_args!("{}: {why}", self.words[0].to_string_lossy()))
    }

    /// Starts the command on a message that these variables tell of; when that fails, the message is the caller's again.
    pub fn start(
        &self,
        queue: &Queue,
        message: Message,
        variables: Vec<Variable>,
        limit: Option<Duration>,
    ) -> Result<Job, (Message, io::Error)> {
        let deliveries = variables.iter().find(|(name, _)| name == "MQFS_DELIVERIES");
        let deliveries = deliveries.map(|(_, value)| value.to_string_lossy().into_owned()).unwrap_or_default();
        match self.spawn(queue, &message, variables) {
            Ok((child, pidfd)) => {
                let started = Instant::now();
                let due = limit.map(|limit| started + limit);
                Ok(Job { message, deliveries, child, pidfd, started, due, told: None })
            }
            Err(error) => Err((message, error)),
        }
    }

    fn spawn(&self, queue: &Queue, message: &Message, variables: Vec<Variable>) -> io::Result<(Child, OwnedFd)> {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]);
        for (name, _) in std::env::vars_os().filter(|(name, _)| environment::is_ours(name)) {
            command.env_remove(name);
        }
        command.envs(variables);
        command.env("MQFS_PATH", queue.path_of(&message.name)).env("MQFS_QUEUE", queue.path());
        // The file and not a pipe: the command can seek in it. The copy shares our descriptor's lease.
        command.stdin(Stdio::from(message.file.try_clone()?));
        // A group of its own: Ctrl-C is for us, and commands are left to finish.
        command.process_group(0);
        let (mask, parent) = (self.mask, std::process::id());
        // SAFETY: async-signal-safe calls only; the pointers are valid for the calls.
        unsafe {
            command.pre_exec(move || {
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
                // Two workers on one message are worse than a message that waits until its lease expires.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                if libc::getppid().cast_unsigned() == parent { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
            });
        }
        let mut child = command.spawn()?;
        match rustix::process::pidfd_open(pid(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok((child, pidfd)),
            Err(errno) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(errno.into())
            }
        }
    }
}

impl Job {
    /// Readable when the command has ended.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// When [`Job::attend`] is to be called, if ever.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Does what is due: tells a command whose time is up to end, kills one that does not.
    pub fn attend(&mut self, now: Instant) {
        match self.due {
            Some(due) if due <= now && self.told.is_some() => self.kill(),
            Some(due) if due <= now => self.tell(Told::TimeIsUp),
            _ => {}
        }
    }

    /// Tells it to end, with all that it has started.
    pub fn tell(&mut self, why: Told) {
        if self.told.is_none() || why == Told::Hurry {
            self.told = self.told.or(Some(why));
            self.due = Some(Instant::now() + GRACE);
            self.signal(Signal::TERM);
        }
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.due = None;
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // The child has not been waited for: its number is still its own, and its group's.
        if let Err(errno) = rustix::process::kill_process_group(pid(&self.child), signal) {
            tracing::debug!(%errno, "signal not sent");
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> io::Result<Option<Ended>> {
        let status = self.child.try_wait()?;
        Ok(status.map(|status| Ended { status, told: self.told, after: self.started.elapsed() }))
    }
}

impl Ended {
    /// The command was not there, or could not be run, says whoever was to run it.
    pub fn cannot_run(&self) -> bool {
        self.status.code().is_some_and(|code| CANNOT_RUN.contains(&code))
    }

    /// In words.
    pub fn describe(&self) -> String {
        let seconds = self.after.as_secs_f64();
        match (self.told, self.status.code(), self.status.signal()) {
            (Some(Told::TimeIsUp), ..) => format!("timed out after {seconds:.1} s"),
            (_, Some(code), _) => format!("exit code {code} after {seconds:.1} s"),
            (_, None, Some(signal)) => format!("killed by signal {signal} after {seconds:.1} s"),
            (_, None, None) => format!("{} after {seconds:.1} s", self.status),
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Where the shell would look for a command.
fn candidates(name: &OsStr) -> Vec<PathBuf> {
    if name.as_encoded_bytes().contains(&b'/') {
        return vec![name.into()];
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    std::env::split_paths(&path).map(|directory| directory.join(name)).collect()
}

fn runnable(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path)?.is_dir() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(rustix::fs::access(path, Access::EXEC_OK)?)
}
