//! Who reads what an open `.mq/claim`, `.mq/pop` or `.mq/lines` has taken: while one of them lives, so do the leases.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::queue::worker::{ProcessId, Worker};

use super::process;

/// So many processes are remembered. Of more that live, those that came last keep the leases alive, and the one that took the
/// message does.
const MOST: usize = 64;

/// The thread that opened a file, and its process.
pub(super) struct Opener {
    tid: u32,
    worker: Option<Worker>,
    /// A descriptor was closed: from then on the thread may have ended, and its number be that of another. Only a hint that saves a
    /// look, so it orders nothing.
    closed: AtomicBool,
}

/// The processes; `None` for one that is not visible from here.
#[derive(Default)]
pub(super) struct Holders(Vec<Option<ProcessId>>);

impl Opener {
    /// The thread `tid` of this process.
    pub fn new(tid: u32, worker: Option<Worker>) -> Self {
        Self { tid, worker, closed: AtomicBool::new(false) }
    }

    /// A descriptor is closed.
    pub fn closes(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// The process of the thread `tid`, which reads; `look` tells when it is not known.
    pub fn worker_of(&self, tid: u32, look: impl FnOnce(u32) -> Option<Worker>) -> Option<Worker> {
        if tid == self.tid && !self.closed.load(Ordering::Relaxed) { self.worker } else { look(tid) }
    }
}

impl Holders {
    /// `reader` takes a message through a file of this opener's.
    pub fn new(reader: Option<Worker>, opener: &Opener) -> Self {
        let [reader, opened] = [reader, opener.worker].map(|worker| worker.map(|worker| worker.process));
        let opened = if opened == reader { None } else { opened };
        Self([reader].into_iter().chain(opened.map(Some)).collect())
    }

    /// The processes.
    pub fn processes(&self) -> impl Iterator<Item = Option<ProcessId>> {
        self.0.iter().copied()
    }

    /// Whether the process of the thread `tid` is one of them.
    pub fn include(&self, tid: u32) -> bool {
        let number = process::tgid(tid);
        self.0.iter().flatten().any(|process| process.tgid == number)
    }

    /// The thread `tid` reads.
    pub fn read_by(&mut self, tid: u32) {
        if tid == 0 || self.include(tid) {
            return;
        }
        if self.0.len() >= MOST {
            self.0.retain(|process| !process.is_some_and(process::is_over));
        }
        if self.0.len() >= MOST {
            self.0.remove(1);
        }
        self.0.extend(process::identity(tid).map(Some));
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn any_number_of_readers_takes_little_and_those_that_live_are_known() {
        let opener = Opener::new(0, None);
        let mut holders = Holders::new(None, &opener);
        let first = sleeper();
        holders.read_by(first.id());
        for _ in 0..2 * MOST {
            let reader = sleeper();
            holders.read_by(reader.id());
            holders.read_by(reader.id());
            assert!(holders.include(reader.id()));
            end(reader);
            assert!(holders.0.len() <= MOST);
        }
        assert!(holders.include(first.id()) && holders.0[0].is_none());
        let living: Vec<Child> = (0..MOST).map(|_| sleeper()).collect();
        living.iter().for_each(|reader| holders.read_by(reader.id()));
        assert!(holders.0.len() == MOST && holders.0[0].is_none() && !holders.include(first.id()));
        assert!(holders.include(living.last().unwrap().id()));
        living.into_iter().chain([first]).for_each(end);
    }

    #[test]
    fn a_thread_is_the_opener_until_a_descriptor_is_closed() {
        let process = ProcessId { tgid: 7, start: 1 };
        let worker = |process| Some(Worker { process, parent: 1, grandparent: 0, session: 7 });
        let opener = Opener::new(7, worker(process));
        let other = || worker(ProcessId { start: 2, ..process });
        assert_eq!(opener.worker_of(7, |_| other()), worker(process));
        assert_eq!(opener.worker_of(8, |_| other()), other());
        opener.closes();
        assert_eq!(opener.worker_of(7, |_| other()), other(), "the number may be another's");
        assert_eq!(Holders::new(worker(process), &opener).0.len(), 1);
        assert_eq!(Holders::new(other(), &opener).0.len(), 2);
    }
}
