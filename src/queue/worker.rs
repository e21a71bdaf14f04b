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
    /// Its parent's parent's number.
    pub grandparent: u32,
    /// Its session's number.
    pub session: u32,
}

/// What is asked about processes when a claim is to be shared; only when the answer matters, because it costs a look at the system.
pub trait Processes {
    /// Whether the process still runs.
    fn alive(&self, process: ProcessId) -> bool;
    /// The parent and the session of the process of that number now; `None` when there is none.
    fn parent_and_session(&self, pid: u32) -> Option<(u32, u32)>;
}

/// How a process gets in on a claim that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// It belongs to the claimer: the claim stays the claimer's.
    Joins,
    /// The claimer has exited and this process goes on with the same work: the claim is its own from now on, so that of
    /// several who could go on only one does.
    Inherits {
        /// The process that both descend from.
        script: u32,
    },
}

/// So many generations are followed from a process upwards.
const GENERATIONS: usize = 8;

impl Worker {
    /// Whether and how this worker may read a message that `claimer` claimed, without claiming it anew.
    ///
    /// A claim belongs to one worker, and a worker may be a script of many processes: `wc -c "$f"; cat "$f"; rm "$f"`, with
    /// sub-shells, pipelines and `timeout` in it. Whose script a process belongs to is told by descent:
    ///
    /// - the claimer, its parent, and the claimer's descendants while it lives are one worker;
    /// - when the claimer has exited, the descendants of its parent go on with it, and when that was a sub-shell that has
    ///   exited too, those of its grandparent.
    ///
    /// Orphans do not count: their parent is pid 1 or a subreaper. The kernel does not tell who is a subreaper; but one is
    /// not in the session of the processes it adopts, whereas a script is in that of its commands.
    pub fn shares_claim_of(&self, claimer: &Worker, processes: &impl Processes) -> Option<Share> {
        if self.process == claimer.process || self.process.tgid == claimer.parent {
            return Some(Share::Joins);
        }
        if self.session != claimer.session {
            return None;
        }
        let descends_from = |ancestor| self.descends_from(ancestor, processes);
        if processes.alive(claimer.process) {
            return descends_from(claimer.process.tgid).then_some(Share::Joins);
        }
        let lives = |pid| processes.parent_and_session(pid).is_some_and(|(_, session)| session == self.session);
        let script = if lives(claimer.parent) { claimer.parent } else { claimer.grandparent };
        (script > 1 && lives(script) && descends_from(script)).then_some(Share::Inherits { script })
    }

    /// This worker as it inherits a claim: however many sub-shells it sits in, the claim stays that of its script.
    pub fn within(self, script: u32) -> Worker {
        if self.parent == script { self } else { Worker { grandparent: script, ..self } }
    }

    /// Whether `ancestor` is among this worker's parents, all of one session.
    fn descends_from(&self, ancestor: u32, processes: &impl Processes) -> bool {
        let mut parent = self.parent;
        for _ in 0..GENERATIONS {
            if parent == ancestor {
                return true;
            }
            match processes.parent_and_session(parent) {
                Some((above, session)) if parent > 1 && session == self.session => parent = above,
                _ => return false,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Living processes: number, parent, session.
    struct Living(&'static [(u32, u32, u32)]);

    impl Processes for Living {
        fn alive(&self, process: ProcessId) -> bool {
            self.0.iter().any(|(pid, _, _)| *pid == process.tgid)
        }

        fn parent_and_session(&self, pid: u32) -> Option<(u32, u32)> {
            self.0.iter().find(|(known, _, _)| *known == pid).map(|(_, parent, session)| (*parent, *session))
        }
    }

    fn worker(tgid: u32, parent: u32, grandparent: u32) -> Worker {
        Worker { process: ProcessId { tgid, start: u64::from(tgid) * 10 }, parent, grandparent, session: 7 }
    }

    const SHELL: (u32, u32, u32) = (50, 7, 7);

    #[test]
    fn a_living_claimer_shares_with_its_own() {
        let claimer = worker(100, 50, 7);
        let living = Living(&[SHELL, (100, 50, 7), (101, 50, 7), (110, 100, 7), (111, 110, 7)]);
        let shares = |asker: Worker| asker.shares_claim_of(&claimer, &living);
        assert_eq!(shares(claimer), Some(Share::Joins));
        assert_eq!(shares(worker(50, 7, 1)), Some(Share::Joins), "its parent");
        assert_eq!(shares(worker(110, 100, 50)), Some(Share::Joins), "its child");
        assert_eq!(shares(worker(111, 110, 100)), Some(Share::Joins), "its child's child");
        assert_eq!(shares(worker(101, 50, 7)), None, "its sibling: another worker");
        let reused = Worker { process: ProcessId { tgid: 100, start: 1 }, ..worker(100, 60, 7) };
        assert_eq!(shares(reused), None, "the same number, another process");
    }

    #[test]
    fn the_script_of_a_claimer_that_has_exited_goes_on() {
        let living = Living(&[SHELL, (101, 50, 7), (120, 50, 7), (121, 120, 7), (60, 7, 7), (61, 60, 7)]);
        let shares = |asker: Worker, claimer: Worker| asker.shares_claim_of(&claimer, &living);
        assert_eq!(
            shares(worker(101, 50, 7), worker(100, 50, 7)),
            Some(Share::Inherits { script: 50 }),
            "the next command"
        );
        assert_eq!(
            shares(worker(121, 120, 50), worker(100, 50, 7)),
            Some(Share::Inherits { script: 50 }),
            "in a sub-shell"
        );
        assert_eq!(
            shares(worker(101, 50, 7), worker(100, 99, 50)),
            Some(Share::Inherits { script: 50 }),
            "it was in a sub-shell"
        );
        assert_eq!(shares(worker(61, 60, 7), worker(100, 50, 7)), None, "another script");
        let heir = worker(130, 129, 128).within(50);
        assert_eq!(shares(worker(101, 50, 7), heir), Some(Share::Inherits { script: 50 }), "from two sub-shells down");
        assert_eq!(shares(worker(61, 60, 7), worker(100, 99, 50)), None, "another script");
    }

    #[test]
    fn orphans_have_no_script() {
        let living = Living(&[(1, 0, 1), (50, 1, 50), (101, 1, 7), (102, 50, 7)]);
        let shares = |asker: Worker, claimer: Worker| asker.shares_claim_of(&claimer, &living);
        assert_eq!(shares(worker(101, 1, 0), worker(100, 1, 0)), None);
        assert_eq!(shares(worker(102, 50, 1), worker(100, 50, 1)), None, "a parent in another session");
        let stranger = Worker { session: 8, ..worker(101, 50, 7) };
        assert_eq!(shares(stranger, worker(100, 50, 7)), None);
    }
}
