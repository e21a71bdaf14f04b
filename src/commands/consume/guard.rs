//! The guard of a command: a process between the worker and the command, which holds the claim.
//!
//! It is forked from the worker and is the command's parent. It is a subreaper as well, so that whatever descends from the
//! command stays below it, in sessions of its own and without its parents, too. When the command is to end, the guard ends
//! all of that, and while any of it lives the claim lasts: nobody else gets a message that is still being worked on. It
//! does so, too, when the worker is killed, whose death closes the line between them. It takes no signals itself: those that
//! end a worker are blocked, and it is in a process group of its own.
//!
//! When the command has succeeded, what it leaves behind is left to itself, and is no concern of the message any more.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitStatus};

use super::descendants;
use super::environment::{self, Variable};
use super::program::{Program, Streams};
use super::queue::{Nack, Queue};
use super::relay::{Relay, Sinks};
use super::report::{End, Line, Order, Report};
use super::signals::Children;
use super::verdict::{Ended, Told, Verdict, Work};
use super::watch::{Standing, Watch};
use crate::cli::ConsumeArgs;

/// How often those that have to die are looked for until there are none.
const AGAIN: Duration = Duration::from_millis(20);

/// What a guard has.
pub struct Guard<'a> {
    /// The options of the worker.
    pub options: &'a ConsumeArgs,
    /// The command.
    pub program: &'a Program,
    /// The queue of the message.
    pub queue: &'a mut Queue,
    /// What the message is called in `.mq/claimed`.
    pub name: &'a OsStr,
    /// The worker.
    pub worker: Line,
    /// Where the command's output goes.
    pub sinks: Sinks,
}

impl Guard<'_> {
    /// Works on the message, and tells the worker how it ended. Returns when nothing is left to pass on of what the command's
    /// descendants write.
    pub fn run(self) {
        let Guard { options, program, queue, name, worker, sinks } = self;
        let report = |report: &Report| worker.report(report);
        let children = match descendants::adopt().and_then(|()| Children::watch()) {
            Ok(children) => children,
            Err(error) => {
                let _ = queue.nack(name, Nack::Uncounted, &[]);
                return report(&Report { end: End::CannotRun(error.to_string()), line: None });
            }
        };
        let message = match queue.open_claimed(name) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return report(&Report { end: End::Gone, line: None });
            }
            opened => opened.and_then(|message| Ok((environment::of(&message)?, message))),
        };
        let (variables, message) = match message {
            Ok(message) => message,
            Err(error) => return report(&Verdict::unreadable(queue, name, &error)),
        };
        let work = Work::of(&variables);
        let started = start(program, queue, name, variables, &message, sinks);
        let (command, relays) = match started {
            Ok(started) => started,
            Err(error) => {
                let _ = queue.nack(name, Nack::Uncounted, &[]);
                return report(&Report { end: End::CannotRun(error.to_string()), line: None });
            }
        };
        let mut run = Run::new(options, (queue, name), &worker, Watch::new(message), command, &children);
        let ended = run.wait();
        let Run { watch, .. } = run;
        let mut tail = Vec::new();
        for relay in &relays {
            tail = relay.tail(!options.quiet && !ended.succeeded());
        }
        let mut verdict = Verdict { options, queue, name, worker: &worker, watch, work };
        report(&verdict.settle(&ended, &tail));
        drop(verdict);
        drop(worker);
        children.forget();
        relays.into_iter().for_each(Relay::finish);
    }
}

/// Starts the command; the last of what passes its output on is that of its standard error.
fn start(
    program: &Program,
    queue: &Queue,
    name: &OsStr,
    mut variables: Vec<Variable>,
    message: &File,
    sinks: Sinks,
) -> std::io::Result<(Pid, Vec<Relay>)> {
    let of = |name: &str, value: OsString| (OsString::from(name), value);
    variables.push(of("MQFS_PATH", queue.path_of(name).into()));
    variables.push(of("MQFS_QUEUE", queue.path().into()));
    let (mut relays, mut theirs) = (Vec::new(), Vec::new());
    for sink in sinks.output.into_iter().chain([sinks.errors]) {
        let (relay, end) = Relay::start(sink)?;
        relays.push(relay);
        theirs.push(end);
    }
    let (Some(errors), output) = (theirs.pop(), theirs.pop()) else { return Err(std::io::ErrorKind::NotFound.into()) };
    let streams = Streams { input: message.try_clone()?, output, errors };
    Ok((program.start(variables, streams)?, relays))
}

/// A command that runs.
struct Run<'a> {
    options: &'a ConsumeArgs,
    message: (&'a mut Queue, &'a OsStr),
    worker: &'a Line,
    watch: Watch,
    children: &'a Children,
    command: Pid,
    started: Instant,
    /// How the command ended, and after how long.
    status: Option<(WaitStatus, Duration)>,
    /// Why it was told to end, if it was.
    told: Option<Told>,
    /// Since when those that live are being ended.
    ending: Option<Instant>,
    killing: bool,
    /// The command has ended the claim itself.
    settled: bool,
    /// Nothing lives below this process.
    alone: bool,
    /// The worker is gone.
    orphaned: bool,
}

impl<'a> Run<'a> {
    fn new(
        options: &'a ConsumeArgs,
        message: (&'a mut Queue, &'a OsStr),
        worker: &'a Line,
        watch: Watch,
        command: Pid,
        children: &'a Children,
    ) -> Run<'a> {
        let started = Instant::now();
        let (status, told, ending) = (None, None, None);
        let (killing, settled, alone, orphaned) = (false, false, false, false);
        Run {
            options,
            message,
            worker,
            watch,
            children,
            command,
            started,
            status,
            told,
            ending,
            killing,
            settled,
            alone,
            orphaned,
        }
    }

    /// Returns when the command has ended, and with it, unless it succeeded, all that descends from it.
    fn wait(&mut self) -> Ended {
        loop {
            self.reap();
            if let Some(ended) = self.ended() {
                return ended;
            }
            self.pause();
            self.obey();
            let now = Instant::now();
            if self.options.timeout.is_some_and(|limit| self.started + limit <= now) {
                self.tell(Told::TimeIsUp);
            }
            if self.ending.is_some_and(|since| since + self.options.grace <= now) {
                self.killing = true;
            }
            if self.killing {
                descendants::signal(Signal::KILL, |_| true);
            }
            if self.watches() && self.watch.due() <= now {
                self.look();
            }
        }
    }

    fn reap(&mut self) {
        loop {
            match descendants::reap() {
                Ok(Some((pid, status))) if pid == self.command && self.status.is_none() => {
                    self.status = Some((status, self.started.elapsed()));
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => {
                    self.alone = true;
                    return;
                }
            }
        }
    }

    /// How it ended, when there is nothing more to wait for.
    fn ended(&mut self) -> Option<Ended> {
        let (status, after) = self.status?;
        let ended = Ended { status, after, told: self.told, settled: self.settled };
        if self.alone {
            return Some(ended);
        }
        if self.told.is_some() || self.ending.is_some() {
            return None;
        }
        if ended.succeeded() || self.settled {
            return Some(ended);
        }
        self.look();
        if self.settled {
            return Some(Ended { settled: true, ..ended });
        }
        self.end_all();
        None
    }

    fn watches(&self) -> bool {
        !self.settled && self.told != Some(Told::Lost)
    }

    fn look(&mut self) {
        let (queue, name) = (&mut *self.message.0, self.message.1);
        match self.watch.look(queue, name) {
            Standing::Held | Standing::Away => {}
            Standing::Settled => self.settled = true,
            Standing::Lost => self.tell(Told::Lost),
        }
    }

    /// Waits until something has happened, or is due.
    fn pause(&mut self) {
        let limit = self.options.timeout.filter(|_| self.told.is_none()).map(|limit| self.started + limit);
        let kill = self.ending.filter(|_| !self.killing).map(|since| since + self.options.grace);
        let again = self.killing.then(|| Instant::now() + AGAIN);
        let look = self.watches().then(|| self.watch.due());
        let due = [limit, kill, again, look].into_iter().flatten().min();
        // A millisecond too long, so as not to come back just before it is due.
        let left = due.map(|due| due.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let (children, worker) = (self.children.fd(), self.worker.fd());
        let mut polled = vec![PollFd::from_borrowed_fd(children, PollFlags::IN)];
        let table: Option<BorrowedFd<'_>> = self.watch.fd().filter(|_| self.watches());
        polled.extend(table.map(|table| PollFd::from_borrowed_fd(table, PollFlags::PRI)));
        polled.extend((!self.orphaned).then(|| PollFd::from_borrowed_fd(worker, PollFlags::IN)));
        match rustix::event::poll(&mut polled, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // Out of memory: what is due is done all the same.
            Err(_) => std::thread::sleep(AGAIN),
        }
        let stirred = table.is_some() && !polled[1].revents().is_empty();
        if stirred {
            self.watch.stir(self.message.0);
        }
        self.children.take();
    }

    /// Does what the worker says.
    fn obey(&mut self) {
        while !self.orphaned {
            match self.worker.ordered() {
                Ok(None) => return,
                Ok(Some(Order::End)) => self.tell(Told::Hurry),
                Ok(Some(Order::Kill)) => {
                    self.tell(Told::Hurry);
                    self.killing = true;
                }
                Err(_) => {
                    self.orphaned = true;
                    self.tell(Told::Orphaned);
                }
            }
        }
    }

    /// Tells the command to end, and all that descends from it. The first reason counts.
    fn tell(&mut self, why: Told) {
        if self.status.is_none() {
            self.told.get_or_insert(why);
        }
        self.end_all();
    }

    fn end_all(&mut self) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(Instant::now());
        // While the command has not been reaped its number is its own, and its group's.
        let group = self.status.is_none().then_some(self.command);
        // Those that are stopped have to go on to end.
        for signal in [Signal::TERM, Signal::CONT] {
            if let Some(group) = group {
                let _ = rustix::process::kill_process_group(group, signal);
            }
            descendants::signal(signal, |pid| group.is_none() || rustix::process::getpgid(Some(pid)).ok() != group);
        }
    }
}
