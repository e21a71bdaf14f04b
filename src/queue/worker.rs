//! Who works on a message: the identity of a process, and the rule by which a claim belongs to one worker.

use serde::{Deserialize, Serialize};

/// A process, told apart from a later one that got the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The thread group's number.
    pub tgid: u32,
    /// When it started, in the kernel's clock ticks since boot.
    pub start: u64,
}

/// What is known of a process that claims a message or wants to read a claimed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    /// The process.
    pub process: ProcessId,
    /// Its parent's number.
    pub parent: u32,
    /// Its session's number.
    pub session: u32,
}

impl Worker {
    /// Whether this worker may read a message that `claimer` claimed, without claiming it anew.
    ///
    /// A claim belongs to the process that made it. Its parent gets in, and so does, once the claimer has exited, another
    /// child of the same parent: so `wc -c "$f"; cat "$f"; rm "$f"` in one script works. Orphans do not count as siblings:
    /// their parent is pid 1 or a subreaper. The kernel does not tell who is a subreaper; but one is not in the
    /// session of the processes it adopts, whereas a script is in that of its commands.
    ///
    /// `claimer_alive` and `parent_session` (the session of the common parent now) are asked only when they matter.
    pub fn shares_claim_of(
        &self,
        claimer: &Worker,
        claimer_alive: impl FnOnce() -> bool,
        parent_session: impl FnOnce(u32) -> Option<u32>,
    ) -> bool {
        if self.process == claimer.process || self.process.tgid == claimer.parent {
            return true;
        }
        self.parent == claimer.parent
            && self.parent > 1
            && self.session == claimer.session
            && !claimer_alive()
            && parent_session(self.parent) == Some(self.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(tgid: u32, parent: u32, session: u32) -> Worker {
        Worker {
            process: ProcessId {
                tgid,
                start: u64::from(tgid) * 10,
            },
            parent,
            session,
        }
    }

    fn shares(asker: Worker, claimer: Worker, alive: bool) -> bool {
        asker.shares_claim_of(&claimer, || alive, |_| Some(7))
    }

    #[test]
    fn a_claim_is_shared_with_itself_its_parent_and_the_siblings_of_the_dead() {
        let claimer = worker(100, 50, 7);
        assert!(shares(claimer, claimer, true));
        assert!(shares(worker(50, 2, 7), claimer, true), "its parent");
        assert!(!shares(worker(101, 50, 7), claimer, true), "a sibling while it lives");
        assert!(shares(worker(101, 50, 7), claimer, false), "a sibling once it is gone");
        assert!(!shares(worker(102, 51, 7), claimer, false), "a stranger");
        assert!(!shares(worker(103, 100, 7), claimer, true), "its own child");
    }

    #[test]
    fn orphans_are_not_siblings() {
        assert!(!shares(worker(101, 1, 7), worker(100, 1, 7), false));
        let (asker, claimer) = (worker(101, 50, 7), worker(100, 50, 7));
        assert!(
            !asker.shares_claim_of(&claimer, || false, |_| Some(50)),
            "a parent in another session"
        );
        let reused = Worker {
            process: ProcessId { tgid: 100, start: 1 },
            ..worker(100, 60, 7)
        };
        assert!(!shares(reused, claimer, false), "the same number, another process");
    }
}
