//! The loop: claim while there is room, wait for what happens, deal with it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::super::exit::{Exit, Failure};
use super::environment;
use super::job::{Ended, Job, Program, Told};
use super::progress::{Progress, Tally};
use super::queue::{Claimed, Message, Queue, To};
use super::signals::Signals;
use crate::cli::ConsumeArgs;

/// A worker.
pub struct Worker<'a> {
    options: &'a ConsumeArgs,
    queue: Queue,
    program: Program,
    progress: Progress,
    signals: Signals,
    running: Vec<Job>,
    claimed: u64,
    done: u64,
    failed: u64,
    /// Signals that came.
    asked: u32,
    /// What ends it: nothing more is claimed, and it returns when no command runs.
    end: Option<Result<(), Failure>>,
}

impl<'a> Worker<'a> {
    /// A worker that has not begun.
    pub fn new(
        options: &'a ConsumeArgs,
        queue: Queue,
        program: Program,
        progress: Progress,
        signals: Signals,
    ) -> Worker<'a> {
        let running = Vec::new();
        let (claimed, done, failed, asked) = (0, 0, 0, 0);
        Worker { options, queue, program, progress, signals, running, claimed, done, failed, asked, end: None }
    }

    /// Works until something ends it.
    pub fn run(mut self) -> Result<(), Failure> {
        loop {
            self.fill();
            let tally = self.tally();
            if self.running.is_empty()
                && let Some(end) = self.end.take()
            {
                self.progress.end(tally, || self.queue.ready());
                return end;
            }
            self.progress.show(tally, || self.queue.ready());
            if let Err(errno) = self.wait() {
                self.stop(Err(Failure::new(Exit::Failure, io::Error::from(errno))));
            }
            while self.signals.take() {
                self.obey();
            }
            let now = Instant::now();
            self.running.iter_mut().for_each(|job| job.attend(now));
            self.reap();
        }
    }

    fn tally(&self) -> Tally {
        let ending = self.end.is_some() && !self.running.is_empty();
        Tally { done: self.done, failed: self.failed, running: self.running.len(), ending }
    }

    /// Claims nothing more. The first reason counts.
    fn stop(&mut self, end: Result<(), Failure>) {
        self.end.get_or_insert(end);
    }

    fn is_full(&self) -> bool {
        self.running.len() >= self.options.jobs as usize
    }

    /// Claims and starts as long as there is room.
    fn fill(&mut self) {
        while self.end.is_none() && !self.is_full() {
            match self.queue.claim() {
                Ok(Claimed::Nothing) => {
                    // Those that run may enqueue something.
                    if self.options.until_empty && self.running.is_empty() {
                        self.stop(Ok(()));
                    }
                    return;
                }
                Ok(Claimed::Gone) => {}
                Ok(Claimed::Unreadable(name, error)) => {
                    self.count_claim();
                    self.fail(&name, &error);
                }
                Ok(Claimed::Message(message)) => {
                    self.count_claim();
                    self.start(message);
                }
                Err(error) => self.stop(Err(self.queue.failure(&error))),
            }
        }
    }

    fn start(&mut self, message: Message) {
        let variables = match environment::of(&message.file) {
            Err(Errno::NOENT) => return, // removed since
            Err(errno) => return self.fail(&message.name, &errno.into()),
            Ok(variables) => variables,
        };
        match self.program.start(&self.queue, message, variables, self.options.timeout) {
            Ok(job) => self.running.push(job),
            Err((message, error)) => {
                self.put(&message.name, To::Ready);
                self.stop(Err(self.program.failure(&error)));
            }
        }
    }

    fn count_claim(&mut self) {
        self.claimed += 1;
        if self.options.max_messages == Some(self.claimed) {
            self.stop(Ok(()));
        }
    }

    /// Waits until something has happened, or is due.
    fn wait(&self) -> Result<(), Errno> {
        let claim = if self.end.is_none() && !self.is_full() { self.queue.fd() } else { None };
        let jobs = self.running.iter().map(Job::fd);
        let all: Vec<BorrowedFd<'_>> = [self.signals.fd()].into_iter().chain(claim).chain(jobs).collect();
        let mut all: Vec<PollFd<'_>> = all.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let due = self.running.iter().filter_map(Job::due).chain(self.progress.due()).min();
        // A millisecond too long, so as not to come back just before it is due.
        let left = due.map(|due| due.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match rustix::event::poll(&mut all, left.as_ref()) {
            Err(Errno::INTR) => Ok(()),
            result => result.map(drop),
        }
    }

    /// A signal: the first lets the commands finish, the second tells them to, the third kills them.
    fn obey(&mut self) {
        self.asked += 1;
        self.stop(Ok(()));
        match self.asked {
            1 => {}
            2 => {
                self.running.iter_mut().for_each(|job| job.tell(Told::Hurry));
                self.end = Some(Err(Failure::new(Exit::Interrupted, "interrupted: commands were told to end")));
            }
            _ => self.running.iter_mut().for_each(Job::kill),
        }
    }

    /// Deals with the commands that have ended.
    fn reap(&mut self) {
        let mut at = 0;
        while at < self.running.len() {
            match self.running[at].ended() {
                Ok(None) => at += 1,
                Ok(Some(ended)) => {
                    let job = self.running.swap_remove(at);
                    self.settle(&job, &ended);
                }
                Err(error) => {
                    self.running.swap_remove(at);
                    self.stop(Err(Failure::new(Exit::Failure, error)));
                }
            }
        }
    }

    /// What becomes of the message of a command that has ended.
    fn settle(&mut self, job: &Job, ended: &Ended) {
        let name = &job.message.name;
        let code = ended.status.code();
        let (to, what) = if code == Some(0) && ended.told != Some(Told::TimeIsUp) {
            self.done += 1;
            return self.put(name, To::Done);
        } else if ended.told == Some(Told::Hurry) {
            (To::Ready, "given back")
        } else if code.is_some() && code == self.options.dead_letter_exit.map(i32::from) {
            (To::Dead, "dead-lettered")
        } else {
            (To::Delayed, "given back for later")
        };
        self.failed += 1;
        self.progress.tell(name, format_args!("{}, delivery {}; {what}", ended.describe(), job.deliveries));
        self.put(name, to);
        if to == To::Delayed && ended.cannot_run() {
            let why = format!("it ended with {}, which says that a command cannot be run", code.unwrap_or_default());
            self.stop(Err(self.program.failure(&why)));
        }
    }

    /// A message that could not be worked on.
    fn fail(&mut self, name: &OsStr, error: &io::Error) {
        self.failed += 1;
        self.progress.tell(name, format_args!("{error}; given back for later"));
        self.put(name, To::Delayed);
    }

    fn put(&mut self, name: &OsStr, to: To) {
        if let Err(error) = self.queue.put(name, to) {
            // Its lease expires, and it is delivered again.
            self.progress.tell(name, format_args!("its claim cannot be ended: {error}"));
            if let Exit::Queue = self.queue.failure(&error).exit {
                self.stop(Err(self.queue.failure(&error)));
            }
        }
    }
}
