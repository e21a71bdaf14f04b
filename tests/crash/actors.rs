//! The processes that produce and consume: this test binary, run again, or a shell. Any of them may be killed at any time.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::journal::Journal;
use super::{producers, workers};
use crate::common::poll;

/// The variable that tells this binary that it is an actor, and which one.
const ACTOR: &str = "MQFS_CRASH_ACTOR";

/// What an actor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Files, drafts, what `.mq/with` offers.
    Producer,
    /// The same with `cp`, `mv`, `seq`, `cat` and `mqfs put`.
    ShellProducer,
    /// Every message twice or more, under one deduplication id, until it is acknowledged.
    Repeater,
    /// Batches.
    Batches,
    /// The batch after the queue's mark, and those that others have left behind.
    Feeder,
    /// Lines.
    LineWriter,
    /// Claims the next, by `.mq/claim`.
    Worker,
    /// Takes what it likes by opening or renaming it, gives back and lets down some, or takes by `.mq/pop`.
    Rover,
    /// Moves messages to another queue, from every state.
    Mover,
    /// Claims the next and mostly gives it back, until it is a dead letter; takes dead letters up again.
    Nacker,
    /// Makes of each message one in another queue, and acknowledges it by that.
    Settler,
    /// Purges, now and then.
    Purger,
    /// `while f=$(cat q/.mq/claim)`.
    ShellWorker,
    /// `mqfs consume`.
    Commands,
    /// Reads `.mq/lines`.
    LineReader,
}

/// The cast: each of these is replaced when it is killed.
pub const CAST: [(&str, Role); 52] = [
    ("sync", Role::Producer),
    ("sync", Role::ShellProducer),
    ("sync", Role::Worker),
    ("sync", Role::Rover),
    ("sync", Role::ShellWorker),
    ("async", Role::Producer),
    ("async", Role::ShellProducer),
    ("async", Role::Worker),
    ("async", Role::Rover),
    ("async", Role::Mover),
    ("single", Role::Producer),
    ("single", Role::Producer),
    ("single", Role::Worker),
    ("priority", Role::Producer),
    ("priority", Role::Worker),
    ("unique", Role::Repeater),
    ("unique", Role::Worker),
    ("batch", Role::Batches),
    ("batch", Role::Rover),
    ("lines", Role::LineWriter),
    ("lines", Role::LineReader),
    ("late", Role::Producer),
    ("late", Role::Rover),
    ("async", Role::Commands),
    ("late", Role::Commands),
    ("keep", Role::Producer),
    ("keep", Role::Rover),
    ("late", Role::Nacker),
    ("left", Role::Producer),
    ("left", Role::Worker),
    ("left", Role::Mover),
    ("right", Role::Producer),
    ("right", Role::Rover),
    ("right", Role::Mover),
    ("mortal", Role::Producer),
    ("mortal", Role::Nacker),
    ("graves", Role::Worker),
    ("graves", Role::Mover),
    ("brief", Role::Producer),
    ("brief", Role::Worker),
    ("brief", Role::Nacker),
    ("fleeting", Role::Producer),
    ("fleeting", Role::Worker),
    ("fleeting", Role::Nacker),
    ("cleared", Role::Producer),
    ("cleared", Role::Rover),
    ("cleared", Role::Purger),
    ("fed", Role::Feeder),
    ("fed", Role::Feeder),
    ("fed", Role::Settler),
    ("fed", Role::Settler),
    ("made", Role::Worker),
];

/// One actor's part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// What it does.
    pub role: Role,
    /// The name of its queue.
    pub queue: String,
    /// The queue's directory.
    pub dir: PathBuf,
    /// Its own name: no other actor ever has it.
    pub name: String,
    /// Where it writes its journal.
    pub journal: PathBuf,
    /// For its decisions.
    pub seed: u64,
}

impl Part {
    /// The id of its next message or batch.
    pub fn id(&self, number: u64) -> String {
        format!("{}.{}.{number}", self.queue, self.name)
    }

    /// Opens its journal.
    pub fn open_journal(&self) -> Journal {
        Journal::open(&self.journal)
    }

    fn command(&self) -> Command {
        let script = match self.role {
            Role::ShellProducer => producers::SCRIPT.to_owned(),
            Role::ShellWorker => format!("{}{}", workers::LOOK, workers::LOOP),
            Role::Commands => format!("{}{}", workers::LOOK, workers::COMMANDS),
            _ => {
                let mut command = Command::new(std::env::current_exe().expect("this program"));
                command.args(["--exact", "actor", "--nocapture", "--test-threads=1"]);
                command.env(ACTOR, serde_json::to_string(self).expect("JSON"));
                return command;
            }
        };
        let mut command = Command::new("bash");
        command.args(["-c", &script]).env("MQFS", env!("CARGO_BIN_EXE_mqfs"));
        command.env("Q", &self.dir).env("QUEUE", &self.queue).env("NAME", &self.name).env("J", &self.journal);
        command.env("BODY", self.journal.with_extension("body")).env("SEED", (self.seed % 32768).to_string());
        command
    }

    /// Starts it.
    pub fn start(self, mark: &Path) -> Actor {
        let output = File::options().create(true).append(true).open(self.journal.with_extension("log")).expect("a log");
        let mut command = self.command();
        command.env("M", mark).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command.stdout(output.try_clone().expect("a log")).stderr(output);
        command.process_group(0);
        // SAFETY: both are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                Ok(())
            });
        }
        Actor { child: command.spawn().expect("an actor") }
    }
}

/// Plays the part that the environment gives to this process, until it is killed; returns when there is none.
pub fn play() {
    let Ok(part) = std::env::var(ACTOR) else { return };
    let part: Part = serde_json::from_str(&part).expect("a part");
    match part.role {
        Role::Worker | Role::Rover | Role::Mover | Role::Nacker | Role::Settler | Role::Purger | Role::LineReader => {
            workers::work(&part);
        }
        _ => producers::produce(&part),
    }
}

/// A running actor and what it has started, as far as that is in its process group.
pub struct Actor {
    child: Child,
}

impl Actor {
    /// Kills the process: what it has started goes on.
    pub fn kill_alone(&mut self) {
        let _ = self.child.kill();
    }

    /// Kills the process and all that it has started, as far as it is still there; whether nothing was.
    pub fn kill_group(&self) -> bool {
        // SAFETY: a call without pointers; the group is this actor's as long as it has members.
        unsafe { libc::kill(-self.child.id().cast_signed(), libc::SIGKILL) != 0 }
    }

    /// Kills all of them and waits until they are gone; whether they are.
    pub fn kill(mut self) -> bool {
        poll(Duration::from_secs(10), || {
            let gone = self.kill_group();
            self.child.try_wait().is_ok_and(|status| status.is_some()) && gone
        })
    }
}
