//! What queues and messages are called in the log: as those who read it know them.
//!
//! This is read from the database and not from what is remembered, so it needs no lock, and can be asked for by whoever holds
//! one. What is gone by then is called by its number.

use crate::queue::config::{Names, QueueConfig};
use crate::queue::name::{DEEPEST, LONGEST_PATH, listed};

use super::db::Family;
use super::record;
use super::{Store, keys};

/// Of a path that is longer than one may be, this is told instead of its beginning.
const CUT: &str = "...";

impl Store {
    /// The path of a queue, or of a batch, from the root of the mount; of one that is longer than any may be, its end.
    pub fn label(&self, queue: u64) -> String {
        let (mut names, mut length, mut last) = (Vec::new(), 0, queue);
        let walked = self.walk_up(queue, |_, head| {
            let name = String::from_utf8_lossy(&head.name);
            let name = if head.batch { format!(".mq/batch/{name}") } else { name.into_owned() };
            length += name.len() + 1;
            last = head.parent;
            let fits = length <= LONGEST_PATH + 1 && names.len() < DEEPEST;
            names.push(if fits { name } else { CUT.to_owned() });
            fits
        });
        if walked.is_err() {
            names.push(format!("queue number {last}"));
        }
        names.reverse();
        names.join("/")
    }

    /// The name under which a message is listed.
    pub fn name_of(&self, seq: u64) -> String {
        let record = self.db.get(Family::Messages, &keys::message(seq)).ok().flatten();
        let Some(record) = record.and_then(|record| record::decode_message(&record).ok()) else {
            return format!("{seq:016}");
        };
        let queue = self.db.get(Family::Meta, &keys::queue(record.queue)).ok().flatten();
        let queue = queue.and_then(|queue| record::decode_queue(&queue).ok());
        // Of a configuration that cannot be read the defaults count.
        let config = queue.and_then(|queue| QueueConfig::stored(&queue.config).ok()).unwrap_or_default();
        let name = match config.names {
            Names::Keep => record.name,
            Names::Sequence => listed((config.priorities > 1).then_some(record.order), seq, &record.name),
        };
        String::from_utf8_lossy(&name).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::NewBody;
    use super::super::tests::{message, open, queue};

    #[test]
    fn what_is_there_has_a_name_and_what_is_not_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = queue(&store, "orders");
        let seq = store.enqueue(message(&store, q, "a.csv"), NewBody::Inline(b"x"), false, 1).unwrap().seq().unwrap();
        assert_eq!(store.label(q), "orders");
        assert_eq!(store.name_of(seq), format!("{seq:016}-a.csv"));
        let _held = store.lock();
        assert_eq!(store.label(q), "orders", "whoever holds the lock");
        assert_eq!(store.name_of(seq), format!("{seq:016}-a.csv"));
        assert_eq!((store.label(99).as_str(), store.name_of(99).as_str()), ("queue number 99", "0000000000000099"));
    }
}
