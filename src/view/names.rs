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

/// For whom a bare name means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer {
    /// The session.
    pub session: u32,
    /// The user: two users of one session do not stand in each other's way.
    pub uid: u32,
}

struct Meaning {
    key: Key,
    seq: u64,
}

/// The table.
#[derive(Default)]
pub struct BareNames {
    /// By age, oldest first.
    meanings: BTreeMap<u64, Meaning>,
    /// Who wrote a name, with the age.
    writers: HashMap<Key, Vec<(Writer, u64)>>,
    /// The age of the name of a message.
    of_message: HashMap<u64, u64>,
    clock: u64,
    /// Threads that want to write a name anew and were sent back for it, and when.
    ///
    /// The kernel looks up again once only, and another process of the session may have written the name meanwhile, or
    /// a consumer taken the message: so the thread must find nothing, whatever the table says by then.
    sent_back: HashMap<u32, Instant>,
}

impl BareNames {
    /// Whether anybody wrote that name: asked first, because a caller's session costs a look into `/proc`.
    pub fn knows(&self, queue: u64, name: &[u8]) -> bool {
        !self.writers.is_empty() && self.writers.contains_key(&(queue, name.to_vec()))
    }

    /// The message that the writer wrote under that name.
    pub fn get(&self, queue: u64, name: &[u8], writer: Writer) -> Option<u64> {
        let written = self.writers.get(&(queue, name.to_vec()))?;
        let (_, age) = written.iter().find(|(by, _)| *by == writer)?;
        self.meanings.get(age).map(|meaning| meaning.seq)
    }

    /// The writer wrote a message under that name.
    pub fn set(&mut self, queue: u64, name: &[u8], writer: Writer, seq: u64) {
        self.forget(queue, name, writer);
        self.clock += 1;
        let key = (queue, name.to_vec());
        self.writers.entry(key.clone()).or_default().push((writer, self.clock));
        self.of_message.insert(seq, self.clock);
        self.meanings.insert(self.clock, Meaning { key, seq });
        if self.meanings.len() > REMEMBERED
            && let Some((&oldest, _)) = self.meanings.first_key_value()
        {
            self.drop_meaning(oldest);
        }
    }

    /// The queue and the name under which somebody finds the message `seq`.
    pub fn name_of(&self, seq: u64) -> Option<(u64, Vec<u8>)> {
        let age = self.of_message.get(&seq)?;
        self.meanings.get(age).map(|meaning| meaning.key.clone())
    }

    /// The name means nothing to the writer any more.
    pub fn forget(&mut self, queue: u64, name: &[u8], writer: Writer) {
        let written = self.writers.get(&(queue, name.to_vec()));
        let age = written.and_then(|written| written.iter().find(|(by, _)| *by == writer)).map(|(_, age)| *age);
        if let Some(age) = age {
            self.drop_meaning(age);
        }
    }

    /// Forgets the name that means the message `seq`.
    pub fn forget_message(&mut self, seq: u64) {
        if let Some(&age) = self.of_message.get(&seq) {
            self.drop_meaning(age);
        }
    }

    fn drop_meaning(&mut self, age: u64) -> Option<Key> {
        let Meaning { key, seq, .. } = self.meanings.remove(&age)?;
        self.of_message.remove(&seq);
        if let Some(written) = self.writers.get_mut(&key) {
            written.retain(|(_, of)| *of != age);
            if written.is_empty() {
                self.writers.remove(&key);
            }
        }
        Some(key)
    }

    /// The thread `tid` is sent back to look a name up again and create it.
    pub fn send_back(&mut self, tid: u32) {
        self.sent_back.retain(|_, since| since.elapsed() < SENT_BACK);
        self.sent_back.insert(tid, Instant::now());
    }

    /// Whether the thread was sent back and has not created yet.
    pub fn is_sent_back(&self, tid: u32) -> bool {
        self.sent_back.get(&tid).is_some_and(|since| since.elapsed() < SENT_BACK)
    }

    /// The thread has created what it was sent back for.
    pub fn arrived(&mut self, tid: u32) {
        if !self.sent_back.is_empty() {
            self.sent_back.remove(&tid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(session: u32) -> Writer {
        Writer { session, uid: 0 }
    }

    #[test]
    fn each_writer_has_its_own_and_the_newest_counts() {
        let mut names = BareNames::default();
        names.set(1, b"a", by(10), 5);
        names.set(1, b"a", by(11), 6);
        names.set(1, b"a", Writer { session: 10, uid: 9 }, 8);
        names.set(1, b"a", by(10), 7);
        assert_eq!(names.get(1, b"a", by(10)), Some(7));
        assert_eq!(names.get(1, b"a", by(11)), Some(6));
        assert_eq!(names.get(1, b"a", Writer { session: 10, uid: 9 }), Some(8));
        assert_eq!(names.get(2, b"a", by(10)), None);
        assert_eq!(names.name_of(7), Some((1, b"a".to_vec())));
        names.forget_message(7);
        assert_eq!((names.get(1, b"a", by(10)), names.name_of(7)), (None, None));
        names.forget_message(8);
        assert!(names.knows(1, b"a"));
        names.forget(1, b"a", by(11));
        assert!(!names.knows(1, b"a") && names.meanings.is_empty() && names.of_message.is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let mut names = BareNames::default();
        for n in 0..REMEMBERED as u64 + 10 {
            names.set(1, format!("f{n}").as_bytes(), by(1), n);
        }
        assert_eq!(names.writers.len(), REMEMBERED);
        assert_eq!(names.get(1, b"f9", by(1)), None);
        assert_eq!(names.get(1, b"f10", by(1)), Some(10));
    }

    #[test]
    fn a_thread_that_is_sent_back_finds_nothing_until_it_has_created() {
        let mut names = BareNames::default();
        names.send_back(5);
        assert!(names.is_sent_back(5) && !names.is_sent_back(6));
        names.arrived(5);
        assert!(!names.is_sent_back(5));
    }
}
