//! The command that is run for each message.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::Access;
use rustix::process::Pid;

use super::super::exit::{Exit, Failure};
use super::environment::{self, Variable};

/// The codes with which shells and their like say that a command was not there, or could not be run.
const CANNOT_RUN: [i32; 2] = [126, 127];

/// The command that is run for each message.
pub struct Program {
    words: Vec<OsString>,
    /// What of the signals that we block it starts with.
    mask: libc::sigset_t,
}

/// What a command starts with.
pub struct Streams {
    /// The message. The file and not a pipe: the command can seek in it, and the copy shares our descriptor's lease.
    pub input: File,
    /// Its standard output, when that is not ours.
    pub output: Option<OwnedFd>,
    /// Its standard error.
    pub errors: OwnedFd,
}

impl Program {
    /// The command of these words, if it can be run: a message that is claimed for nothing has to be given back.
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

    /// Starts the command on a message that these variables tell of. It leads a process group of its own.
    pub fn start(&self, variables: impl IntoIterator<Item = Variable>, streams: Streams) -> io::Result<Pid> {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]);
        for (name, _) in std::env::vars_os().filter(|(name, _)| environment::is_ours(name)) {
            command.env_remove(name);
        }
        command.envs(variables);
        command.stdin(Stdio::from(streams.input)).stderr(Stdio::from(streams.errors));
        if let Some(output) = streams.output {
            command.stdout(Stdio::from(output));
        }
        // A group of its own: Ctrl-C is for the worker, and commands are left to finish.
        command.process_group(0);
        let (mask, parent) = (self.mask, std::process::id());
        // SAFETY: async-signal-safe calls only; the pointers are valid for the calls.
        unsafe {
            command.pre_exec(move || {
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
                // If its guard is killed all the same: two workers on one message are worse than one that is interrupted.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                if libc::getppid().cast_unsigned() == parent { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
            });
        }
        Ok(Pid::from_child(&command.spawn()?))
    }
}

/// Whether an exit code says that the command was not there, or could not be run.
pub fn says_it_cannot_run(code: i32) -> bool {
    CANNOT_RUN.contains(&code)
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
