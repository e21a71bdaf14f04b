//! The loop: claim while there is room, wait for what happens, deal with it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::super::exit::{Exit, Failure};
use super::job::Job;
use super::program::Program;
use super::progress::{Progress, Tally};
use super::queue::Nack;
use super::relay::Sinks;
use super::report::{End, Order, Report};
use super::screen::Screen;
use super::signals::Signals;
use super::source::{Claim, Sources};
use crate::cli::ConsumeArgs;

/// A worker.
pub struct Worker<'a> {
    options: &'a ConsumeArgs,
    sources: Sources,
    program: Program,
    progress: Progress,
    /// Where commands write while there is a line of progress.
    screen: Option<Screen>,
    signals: Signals,
    running: Vec<Job>,
    claimed: u64,
    tally: Tally,
    /// Signals that came.
    asked: u32,
    /// What ends it: nothing more is claimed, and it returns when no command runs.
    end: Option<Result<(), Failure>>,
}

impl<'a> Worker<'a> {
    /// A worker that has not begun.
    pub fn new(
        options: &'a ConsumeArgs,
        sources: Sources,
        program: Program,
        progress: Progress,
        signals: Signals,
    ) -> Result<Worker<'a>, Failure> {
        let screen = progress.is_shown().then(Screen::new).transpose();
        let screen = screen.map_err(|error| Failure::new(Exit::Failure, error))?;
        let (running, tally) = (Vec::new(), Tally::default());
        let (claimed, asked, end) = (0, 0, None);
        Ok(Worker { options, sources, program, progress, screen, signals, running, claimed, tally, asked, end })
    }

    /// Works until something ends it.
    pub fn run(mut self) -> Result<(), Failure> {
        loop {
            self.fill();
            let all = self.running.is_empty() && self.end.is_some();
            if let Some(screen) = &mut self.screen {
                screen.show(all, |write| self.progress.aside(write));
            }
            let tally = self.tally();
            if self.running.is_empty()
                && let Some(end) = self.end.take()
            {
                self.progress.end(tally, || self.sources.ready());
                return self.outcome(end);
            }
            self.progress.show(tally, || self.sources.ready());
            if let Err(errno) = self.wait() {
                self.stop(Err(Failure::new(Exit::Failure, io::Error::from(errno))));
            }
            while self.signals.take() {
                self.obey();
            }
            if self.end.is_none()
                && let Err(failure) = self.sources.look()
            {
                self.stop(Err(failure));
            }
            self.reap();
        }
    }

    fn tally(&self) -> Tally {
        let ending = self.end.is_some() && !self.running.is_empty();
        Tally { running: self.running.len(), ending, ..self.tally }
    }

    /// What it ends with. Whoever runs it for as long as it may work, and then asks it to end, has been told of each failure; to
    /// others the exit code says that something failed.
    fn outcome(&self, end: Result<(), Failure>) -> Result<(), Failure> {
        if end.is_ok() && self.asked == 0 && self.tally.failed > 0 {
            return Err(Failure::told(Exit::Failure));
        }
        end
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
            match self.sources.claim() {
                Ok(None) => {
                    // Those that run may enqueue something.
                    if self.options.until_empty && self.running.is_empty() && !self.sources.is_waiting() {
                        self.stop(Ok(()));
                    }
                    return;
                }
                Ok(Some((at, claim))) => {
                    self.claimed += 1;
                    if self.options.max_messages == Some(self.claimed) {
                        self.stop(Ok(()));
                    }
                    self.start(at, claim);
                }
                Err(failure) => self.stop(Err(failure)),
            }
        }
    }

    fn start(&mut self, at: usize, claim: Claim) {
        let sinks = self.screen.as_ref().map_or_else(|| Ok(Sinks::own()), Screen::sinks);
        let queue = self.sources.queue(at);
        let started = match sinks {
            Ok(sinks) => Job::start(self.options, &self.program, queue, claim, sinks),
            Err(error) => Err((claim, error)),
        };
        match started {
            Ok(job) => self.running.push(job),
            Err((claim, error)) => {
                let _ = queue.nack(&claim.name, Nack::Uncounted, &[]);
                self.stop(Err(self.program.failure(&error)));
            }
        }
    }

    /// Waits until something has happened, or is due.
    fn wait(&mut self) -> Result<(), Errno> {
        let claims = self.end.is_none() && !self.is_full();
        let queues: Vec<(usize, BorrowedFd<'_>)> = if claims { self.sources.fds().collect() } else { Vec::new() };
        let others = [self.signals.fd()].into_iter().chain(self.running.iter().map(Job::fd));
        let others: Vec<BorrowedFd<'_>> = others.chain(self.screen.iter().flat_map(Screen::fds)).collect();
        let all = queues.iter().map(|(_, fd)| fd).chain(&others);
        let mut all: Vec<PollFd<'_>> = all.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let look = if self.end.is_none() { self.sources.due() } else { None };
        let due = look.into_iter().chain(self.progress.due()).min();
        // A millisecond too long, so as not to come back just before it is due.
        let left = due.map(|due| due.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match rustix::event::poll(&mut all, left.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        let stirred = queues.iter().zip(&all).filter(|(_, polled)| !polled.revents().is_empty());
        let stirred: Vec<usize> = stirred.map(|((at, _), _)| *at).collect();
        stirred.into_iter().for_each(|at| self.sources.stir(at));
        Ok(())
    }

    /// A signal: the first lets the commands finish, the second tells them to, the third kills them.
    fn obey(&mut self) {
        self.asked += 1;
        self.stop(Ok(()));
        match self.asked {
            1 => {}
            2 => {
                self.running.iter().for_each(|job| job.order(Order::End));
                self.end = Some(Err(Failure::new(Exit::Interrupted, "interrupted: commands were told to end")));
            }
            _ => self.running.iter().for_each(|job| job.order(Order::Kill)),
        }
    }

    /// Deals with the commands that have ended.
    fn reap(&mut self) {
        let mut at = 0;
        while at < self.running.len() {
            match self.running[at].reported() {
                Ok(None) => at += 1,
                Ok(Some(report)) => {
                    let job = self.running.swap_remove(at);
                    self.count(&job.name, report);
                }
                Err(_) => {
                    let job = self.running.swap_remove(at);
                    let line = "its guard was killed: it is delivered again when its lease expires".to_owned();
                    self.count(&job.name, Report { end: End::Failed, line: Some(line) });
                }
            }
        }
    }

    /// What became of a message.
    fn count(&mut self, name: &OsStr, Report { end, line }: Report) {
        // What the command wrote comes before what is said of it.
        if let Some(screen) = &mut self.screen {
            screen.show(false, |write| self.progress.aside(write));
        }
        line.into_iter().for_each(|line| self.progress.tell(name, line));
        match end {
            End::Done => self.tally.done += 1,
            End::Settled | End::Gone | End::Interrupted => {}
            End::Failed => self.tally.failed += 1,
            End::Lost => {
                self.tally.failed += 1;
                self.tally.lost += 1;
            }
            End::CannotRun(why) => {
                self.tally.failed += 1;
                self.stop(Err(self.program.failure(&why)));
            }
            End::Unusable(why) => {
                self.tally.failed += 1;
                self.stop(Err(Failure::new(Exit::Queue, why)));
            }
        }
    }
}
