//! What becomes of the message of a command that has ended, and what is said of it.

use std::ffi::OsStr;
use std::io;
use std::time::Duration;

use rustix::process::WaitStatus;

use super::super::text::printable;
use super::environment::Variable;
use super::program::says_it_cannot_run;
use super::queue::{Nack, Queue};
use super::report::{End, Line, Report};
use super::watch::{Standing, Watch};
use crate::cli::ConsumeArgs;
use crate::error::is_mount_gone;
use crate::queue::duration;

/// So much is kept with a message of what was said of it, in bytes.
const LAST_ERROR: usize = 1024;
/// With this, the last line of a command's standard error says when to try again.
const RETRY_AFTER: &str = "mqfs: retry-after=";

/// Why a command was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Its time was up.
    TimeIsUp,
    /// A second signal came to the worker.
    Hurry,
    /// The claim of its message was over.
    Lost,
    /// The worker was killed.
    Orphaned,
}

/// How a command ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// What the system says.
    pub status: WaitStatus,
    /// How long it ran.
    pub after: Duration,
    /// It had been told to end.
    pub told: Option<Told>,
    /// It has ended the claim itself.
    pub settled: bool,
}

impl Ended {
    /// The work is done.
    pub fn succeeded(&self) -> bool {
        let counts = !matches!(self.told, Some(Told::TimeIsUp | Told::Lost));
        counts && self.status.exit_status() == Some(0)
    }

    /// In words.
    fn describe(&self) -> String {
        let seconds = self.after.as_secs_f64();
        match (self.told, self.status.exit_status(), self.status.terminating_signal()) {
            (Some(Told::TimeIsUp), ..) => format!("timed out after {seconds:.1} s"),
            (_, Some(code), _) => format!("exit code {code} after {seconds:.1} s"),
            (_, None, signal) => format!("killed by signal {} after {seconds:.1} s", signal.unwrap_or_default()),
        }
    }
}

/// What a message says of itself that matters for what becomes of it.
pub struct Work {
    seq: String,
    deliveries: String,
}

impl Work {
    /// From the variables that tell of the message.
    pub fn of(variables: &[Variable]) -> Work {
        let of = |wanted: &str| {
            let found = variables.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.to_string_lossy().into_owned()).unwrap_or_default()
        };
        Work { seq: of("MQFS_SEQ"), deliveries: of("MQFS_DELIVERIES") }
    }
}

/// Decides, and does what follows.
pub struct Verdict<'a> {
    /// The options of the worker.
    pub options: &'a ConsumeArgs,
    /// The queue.
    pub queue: &'a mut Queue,
    /// What the message is called in `.mq/claimed`.
    pub name: &'a OsStr,
    /// The worker: whether it wants to wait.
    pub worker: &'a Line,
    /// The claim.
    pub watch: Watch,
    /// The message.
    pub work: Work,
}

impl Verdict<'_> {
    /// A message that could not be read.
    pub fn unreadable(queue: &Queue, name: &OsStr, error: &io::Error) -> Report {
        let back = match queue.nack(name, Nack::Later, error.to_string().as_bytes()) {
            Ok(()) => "given back for later".to_owned(),
            Err(error) => format!("its claim cannot be ended: {error}"),
        };
        Report { end: End::Failed, line: Some(format!("{error}; {back}")) }
    }

    /// Ends the claim.
    pub fn settle(&mut self, ended: &Ended, tail: &[u8]) -> Report {
        if ended.settled {
            return Report { end: End::Settled, line: None };
        }
        let what = format!("{}, delivery {}", ended.describe(), self.work.deliveries);
        if ended.told == Some(Told::Lost) {
            return lost(&what);
        }
        if ended.succeeded() {
            let acked = self.attempt(|queue, name| queue.ack(name));
            return self.report(acked, &what, |_| (End::Done, None));
        }
        let (how, note) = self.judge(ended, tail);
        let said = if how == Nack::Uncounted { Vec::new() } else { last_error(&ended.describe(), tail) };
        let nacked = self.attempt(|queue, name| queue.nack(name, how, &said));
        let end = match ended.status.exit_status() {
            _ if how == Nack::Uncounted => End::Interrupted,
            Some(code) if how == Nack::Later && ended.told.is_none() && says_it_cannot_run(code) => {
                End::CannotRun(format!("it ended with {code}, which says that a command cannot be run"))
            }
            _ => End::Failed,
        };
        self.report(nacked, &what, |verdict| (end, Some(format!("{what}{note}; {}", verdict.fate(how)))))
    }

    /// How the claim of a message ends whose command did not succeed, and what is to be said of that.
    fn judge(&self, ended: &Ended, tail: &[u8]) -> (Nack, String) {
        let code = ended.status.exit_status().and_then(|code| u8::try_from(code).ok());
        let later = (Nack::Later, String::new());
        match (ended.told, code) {
            (Some(Told::Hurry), _) => return (Nack::Uncounted, String::new()),
            (Some(_), _) => return later,
            (None, Some(code)) if self.options.dead_letter_exit.contains(&code) => return (Nack::Dead, String::new()),
            (None, _) => {}
        }
        match retry_after(tail) {
            Some(Ok(delay)) => return (Nack::In(delay), String::new()),
            Some(Err(word)) => return (Nack::Later, format!(", retry-after={} is no duration", printable(&word))),
            None => {}
        }
        let chosen = self.options.retry_exit.iter().find(|(known, _)| Some(*known) == code);
        chosen.map_or(later, |(_, delay)| (Nack::In(*delay), String::new()))
    }

    /// Does something with the message; when the mount is away, waits until it is back.
    fn attempt(&mut self, act: impl Fn(&Queue, &OsStr) -> io::Result<()>) -> io::Result<()> {
        loop {
            match act(self.queue, self.name) {
                Err(error) if is_mount_gone(&error) => {
                    let worker = self.worker;
                    // An order to end means: now.
                    let go_on = || matches!(worker.ordered(), Ok(None));
                    let patience = self.options.mount_wait;
                    if !self.watch.wait_for_mount(self.queue, self.name, patience, go_on) {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }

    fn report(
        &mut self,
        done: io::Result<()>,
        what: &str,
        then: impl FnOnce(&Self) -> (End, Option<String>),
    ) -> Report {
        match done {
            Ok(()) => {
                let (end, line) = then(self);
                Report { end, line }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.watch.look(self.queue, self.name) {
                Standing::Settled => Report { end: End::Settled, line: None },
                _ => lost(what),
            },
            // Its lease expires, and it is delivered again.
            Err(error) => {
                let line = Some(format!("{what}; its claim cannot be ended: {error}"));
                let failure = self.queue.failure(&error);
                let fatal = failure.exit == super::super::exit::Exit::Queue;
                let end = if fatal { End::Unusable(failure.line().to_owned()) } else { End::Failed };
                Report { end, line }
            }
        }
    }

    /// What became of a message that was given back, or up.
    fn fate(&self, how: Nack) -> String {
        let back = match how {
            Nack::In(delay) => format!("given back for {}", duration::format(delay)),
            Nack::Later => "given back for later".to_owned(),
            Nack::Uncounted | Nack::Dead => "given back".to_owned(),
        };
        match self.queue.attribute(&self.work.seq, "user.mq.state") {
            Ok(state) if state == "dead" => "dead-lettered".to_owned(),
            // It has left the queue for another one, or somebody was very fast.
            Err(error) if error.kind() == io::ErrorKind::NotFound && (how == Nack::Dead || self.was_the_last()) => {
                match self.queue.own_attribute("user.mq.dead_letter") {
                    target if target.is_empty() => "dead-lettered, and gone since".to_owned(),
                    target => format!("dead-lettered to {}", printable(&target)),
                }
            }
            _ => back,
        }
    }

    /// Whether its deliveries were used up.
    fn was_the_last(&self) -> bool {
        let limit = self.queue.own_attribute("user.mq.max_deliveries").parse::<u32>().unwrap_or(0);
        limit > 0 && self.work.deliveries.parse::<u32>().is_ok_and(|deliveries| deliveries >= limit)
    }
}

/// What is kept with a message: how the command ended, and the end of what it said, all in so many bytes as can be kept.
fn last_error(what: &str, tail: &[u8]) -> Vec<u8> {
    let room = LAST_ERROR.saturating_sub(what.len() + 1);
    let mut from = tail.len().saturating_sub(room);
    // Not from the middle of a character.
    while from > 0 && tail.get(from).is_some_and(|byte| byte & 0xC0 == 0x80) {
        from += 1;
    }
    [what.as_bytes(), b"\n", &tail[from..]].concat()
}

fn lost(what: &str) -> Report {
    let line = format!("{what}; its claim was over before: the message is, or was, another worker's");
    Report { end: End::Lost, line: Some(line) }
}

/// When to try again, as the last line of a command's standard error says; or what it says instead of a duration.
fn retry_after(tail: &[u8]) -> Option<Result<Duration, String>> {
    let text = String::from_utf8_lossy(tail);
    let word = text.trim_end_matches(['\n', '\r']).lines().last()?.strip_prefix(RETRY_AFTER)?.trim().to_owned();
    Some(duration::parse(&word).map_err(|_| word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_what_was_said_is_kept() {
        assert_eq!(last_error("exit code 1", b"a\nb\n"), b"exit code 1\na\nb\n");
        let long = "ü".repeat(600);
        let kept = String::from_utf8(last_error("exit code 1", long.as_bytes())).unwrap();
        assert!(
            kept.len() <= LAST_ERROR && kept.len() > LAST_ERROR - 2 && kept.starts_with("exit code 1\nü"),
            "{kept}"
        );
    }

    #[test]
    fn the_last_line_says_when_to_try_again() {
        let after = |tail: &str| retry_after(tail.as_bytes());
        assert_eq!(after("busy\nmqfs: retry-after=10m\n"), Some(Ok(Duration::from_secs(600))));
        assert_eq!(after("mqfs: retry-after=1500ms"), Some(Ok(Duration::from_millis(1500))));
        assert_eq!(after("mqfs: retry-after=soon\n"), Some(Err("soon".to_owned())));
        assert_eq!(after("mqfs: retry-after=10m\nbye\n"), None);
        assert_eq!(after(""), None);
    }
}
