//! Bare names: for the processes of a session, the name that one of them wrote goes on meaning the newest message that the
//! session wrote under it. So `install`, `rsync --inplace` and `echo hi > q/a; cat q/a; rm q/a` work.
//!
//! The table is a convenience in memory: it is bounded, forgets what was used longest ago, and is gone after a remount. An entry
//! may outlive its message; whoever follows it checks.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// So many names are remembered for the whole mount.
pub const REMEMBERED: usize = 16_384;

/// A thread that was sent back to look a name up again finds nothing under it for so long, unless it creates it before.
const SENT_BACK: Duration = Duration::from_secs(1);

type Key = (u64, Vec<u8>);

#[derive(Default)]
struct Slot {
    /// The sessions that wrote the name: session, sequence number, age.
    by_session: Vec<(u32, u64, u64)>,
}

/// The table.
#[derive(Default)]
pub struct BareNames {
    slots: HashMap<Key, Slot>,
    /// Age to key, oldest first.
    ages: BTreeMap<u64, (Key, u32)>,
    clock: u64,
    /// Threads that want to write a name anew and were sent back for it.
    ///
    /// The kernel looks up again once only, and another process of the session may have written the name meanwhile: so
    /// the thread must find nothing whatever the table says by then.
    sent_back: HashMap<u32, (Key, Instant)>,
}

impl BareNames {
    /// The thread `tid` is sent back to look the name up again and create it.
    pub fn send_back(&mut self, tid: u32, queue: u64, name: &[u8]) {
        self.sent_back.retain(|_, (_, since)| since.elapsed() < SENT_BACK);
        self.sent_back.insert(tid, ((queue, name.to_vec()), Instant::now()));
    }

    /// Whether the thread was sent back for that name.
    pub fn is_sent_back(&self, tid: u32, queue: u64, name: &[u8]) -> bool {
        let entry = self.sent_back.get(&tid);
        entry.is_some_and(|((of, called), since)| *of == queue && called == name && since.elapsed() < SENT_BACK)
    }

    /// The thread has created what it was sent back for.
    pub fn arrived(&mut self, tid: u32) {
        if !self.sent_back.is_empty() {
            self.sent_back.remove(&tid);
        }
    }

    /// Whether any session wrote that name: asked first, because a caller's session costs a look into `/proc`.
    pub fn knows(&self, queue: u64, name: &[u8]) -> bool {
        // Looking up without building a key would need a borrowed pair; most mounts of one-name producers are empty here.
        !self.slots.is_empty() && self.slots.contains_key(&(queue, name.to_vec()))
    }

    /// The message that the session wrote under that name.
    pub fn get(&self, queue: u64, name: &[u8], session: u32) -> Option<u64> {
        let slot = self.slots.get(&(queue, name.to_vec()))?;
        slot.by_session.iter().find(|(of, _, _)| *of == session).map(|(_, seq, _)| *seq)
    }

    /// The session wrote a message under that name.
    pub fn set(&mut self, queue: u64, name: &[u8], session: u32, seq: u64) {
        self.forget(queue, name, session);
        self.clock += 1;
        let key = (queue, name.to_vec());
        self.slots.entry(key.clone()).or_default().by_session.push((session, seq, self.clock));
        self.ages.insert(self.clock, (key, session));
        if self.ages.len() > REMEMBERED
            && let Some((_, ((queue, name), session))) = self.ages.pop_first()
        {
            self.forget(queue, &name, session);
        }
    }

    /// The name means nothing to the session any more.
    pub fn forget(&mut self, queue: u64, name: &[u8], session: u32) {
        let key = (queue, name.to_vec());
        let Some(slot) = self.slots.get_mut(&key) else { return };
        if let Some(at) = slot.by_session.iter().position(|(of, _, _)| *of == session) {
            let (_, _, age) = slot.by_session.swap_remove(at);
            self.ages.remove(&age);
        }
        if slot.by_session.is_empty() {
            self.slots.remove(&key);
        }
    }

    /// Forgets whichever names mean the message `seq` under the name `name`.
    pub fn forget_message(&mut self, queue: u64, name: &[u8], seq: u64) {
        let Some(slot) = self.slots.get(&(queue, name.to_vec())) else {
            return;
        };
        let sessions: Vec<u32> =
            slot.by_session.iter().filter(|(_, of, _)| *of == seq).map(|(session, _, _)| *session).collect();
        for session in sessions {
            self.forget(queue, name, session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_session_has_its_own_and_the_newest_counts() {
        let mut names = BareNames::default();
        names.set(1, b"a", 10, 5);
        names.set(1, b"a", 11, 6);
        names.set(1, b"a", 10, 7);
        assert_eq!(names.get(1, b"a", 10), Some(7));
        assert_eq!(names.get(1, b"a", 11), Some(6));
        assert_eq!(names.get(2, b"a", 10), None);
        names.forget_message(1, b"a", 7);
        assert_eq!(names.get(1, b"a", 10), None);
        assert!(names.knows(1, b"a"));
        names.forget(1, b"a", 11);
        assert!(!names.knows(1, b"a") && names.ages.is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let mut names = BareNames::default();
        for n in 0..REMEMBERED as u64 + 10 {
            names.set(1, format!("f{n}").as_bytes(), 1, n);
        }
        assert_eq!(names.slots.len(), REMEMBERED);
        assert_eq!(names.get(1, b"f9", 1), None);
        assert_eq!(names.get(1, b"f10", 1), Some(10));
    }
}
