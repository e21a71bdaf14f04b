//! Which processes wrote a message.
//!
//! A process has a number, and when it is gone another gets the number. So a number is noted with the time at which the process
//! wrote, and later stands for whoever has had it since before then. Asking when a process started takes a look at it that a write
//! cannot afford, and that is taken only of a process that ends with the file open.

use std::collections::HashMap;

use super::super::process::{self, ProcessId};

/// So many processes are told apart. When more live ones wrote, everybody who has the file open counts as a writer: rather a message
/// is dropped, and said to be, than half of one enqueued.
const MOST: usize = 64;

/// The processes that opened or wrote a message. Those of another pid namespace, which all have the number 0, cannot be told apart
/// and never count as writers.
#[derive(Debug)]
pub(super) struct Authors {
    /// Who opened it.
    opener: Author,
    /// Who wrote last; at first, who opened it.
    last: Author,
    /// When each of the processes that wrote did so, by its number.
    wrote: HashMap<u32, u64>,
    /// There were too many of them.
    everyone: bool,
    /// A write came from the process `last`, and no descriptor has been closed since. To end, or to give its number to another, a
    /// process has to close its descriptors, at its end if not before; so it is the same process still.
    /// (Processes that share a table of descriptors and are not threads of one program need not, and are not told apart.)
    fresh: bool,
}

/// A process, by its number and a time, in clock ticks since boot, at which it was that.
#[derive(Clone, Copy, Debug)]
struct Author {
    number: u32,
    at: u64,
}

impl Author {
    fn is(self, process: ProcessId) -> bool {
        self.number == process.tgid && process.start <= self.at
    }
}

impl Authors {
    /// Of a message that the thread `tid` has just opened.
    pub fn new(tid: u32) -> Self {
        let opener = Author { number: process::tgid(tid), at: process::ticks() };
        Self { opener, last: opener, wrote: HashMap::new(), everyone: false, fresh: false }
    }

    /// The number of the process that opened it.
    pub fn opener(&self) -> u32 {
        self.opener.number
    }

    /// The thread `tid` writes.
    pub fn writes(&mut self, tid: u32) {
        if self.fresh && self.is_last(tid) {
            return;
        }
        self.last = Author { number: process::tgid(tid), at: process::ticks() };
        self.fresh = true;
        if self.last.number == 0 || self.everyone {
            return;
        }
        if self.wrote.len() >= MOST && !self.wrote.contains_key(&self.last.number) {
            self.wrote.retain(|number, _| !process::is_over(ProcessId { tgid: *number, start: 0 }));
            self.everyone = self.wrote.len() >= MOST;
        }
        if self.everyone {
            self.wrote = HashMap::new();
        } else {
            self.wrote.insert(self.last.number, self.last.at);
        }
    }

    /// Whether the thread belongs to the process that wrote last.
    fn is_last(&self, tid: u32) -> bool {
        let Author { number, .. } = self.last;
        number == tid || process::is_thread_of(tid, number)
    }

    /// The thread `tid` closes a descriptor. Gives the number of its process.
    pub fn closes(&mut self, tid: u32) -> u32 {
        let known = self.fresh && self.is_last(tid);
        self.fresh = false;
        if known { self.last.number } else { process::tgid(tid) }
    }

    /// Whether the process of that number may have opened or written it: asked before its start is looked up.
    pub fn may_include(&self, number: u32) -> bool {
        number != 0 && (self.everyone || number == self.opener.number || self.wrote.contains_key(&number))
    }

    /// Whether this process opened or wrote it.
    pub fn include(&self, process: ProcessId) -> bool {
        let wrote = self.wrote.get(&process.tgid).map(|at| Author { number: process.tgid, at: *at });
        self.everyone || self.opener.is(process) || wrote.is_some_and(|author| author.is(process))
    }

    /// Whether this process wrote last, or opened it when nobody wrote.
    pub fn end_with(&self, process: ProcessId) -> bool {
        self.last.is(process)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    struct Sleeper(Child);

    impl Sleeper {
        fn new() -> Sleeper {
            Sleeper(Command::new("sleep").arg("60").spawn().unwrap())
        }

        fn number(&self) -> u32 {
            self.0.id()
        }

        fn identity(&self) -> ProcessId {
            // It may be on its way from fork to exec.
            process::identity(self.number()).unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// The process that got the number of another.
    fn successor(process: ProcessId) -> ProcessId {
        ProcessId { start: process::ticks() + 1, ..process }
    }

    #[test]
    fn who_opened_or_wrote_is_told_from_who_got_the_number_since() {
        let [opener, writer, heir] = std::array::from_fn(|_| Sleeper::new());
        let mut authors = Authors::new(opener.number());
        assert!(authors.include(opener.identity()) && authors.end_with(opener.identity()));
        authors.writes(writer.number());
        authors.writes(writer.number());
        let [opened, wrote, inherited] = [&opener, &writer, &heir].map(Sleeper::identity);
        assert!(authors.include(opened) && authors.include(wrote) && !authors.include(inherited));
        assert!(!authors.end_with(opened) && authors.end_with(wrote) && !authors.end_with(inherited));
        assert!(!authors.may_include(heir.number()));
        for process in [opened, wrote] {
            assert!(authors.may_include(process.tgid), "only its start tells");
            assert!(!authors.include(successor(process)) && !authors.end_with(successor(process)));
        }
    }

    #[test]
    fn a_number_that_writes_again_is_the_process_that_has_it_then() {
        let writer = Sleeper::new();
        let mut authors = Authors::new(std::process::id());
        authors.writes(writer.number());
        let at = authors.last.at;
        // The one that wrote first is gone: its descriptor is closed before its number is free.
        authors.wrote.insert(writer.number(), 0);
        authors.last.at = 0;
        assert!(!authors.include(writer.identity()));
        assert_eq!(authors.closes(writer.number()), writer.number());
        authors.writes(writer.number());
        assert!(authors.include(writer.identity()) && authors.end_with(writer.identity()) && authors.last.at >= at);
    }

    #[test]
    fn threads_are_their_process() {
        let own = process::identity(std::process::id()).unwrap();
        let mut authors = Authors::new(Sleeper::new().number());
        let tid = || rustix::thread::gettid().as_raw_nonzero().get() as u32;
        authors.writes(tid());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                authors.writes(tid());
                assert_eq!(authors.closes(tid()), own.tgid);
                authors.writes(tid());
            });
        });
        assert!(authors.include(own) && authors.end_with(own));
        assert_eq!(authors.wrote.len(), 1);
    }

    #[test]
    fn the_table_is_bounded_and_too_many_are_everyone() {
        let mut authors = Authors::new(0);
        for gone in (0..10 * MOST).map(|n| i32::MAX as u32 - n as u32) {
            authors.writes(gone);
        }
        assert!(authors.wrote.len() <= MOST && !authors.everyone, "those that are over make room");
        let living: Vec<Sleeper> = (0..MOST + 1).map(|_| Sleeper::new()).collect();
        for (number, writer) in living.iter().enumerate() {
            assert!(!authors.everyone, "{number}");
            authors.writes(writer.number());
        }
        let other = Sleeper::new();
        assert!(authors.everyone && authors.wrote.is_empty() && authors.include(other.identity()));
        assert!(authors.may_include(other.number()) && !authors.may_include(0));
        let last = living.last().unwrap().identity();
        assert!(authors.end_with(last) && !authors.end_with(other.identity()));
    }

    #[test]
    fn who_is_not_visible_is_nobody() {
        let mut authors = Authors::new(0);
        authors.writes(0);
        assert!(!authors.may_include(0) && authors.wrote.is_empty());
        let writer = Sleeper::new();
        authors.writes(writer.number());
        authors.writes(0);
        assert!(!authors.end_with(writer.identity()), "somebody wrote after it");
    }
}
