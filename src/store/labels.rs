//! What queues and messages are called in the log: as those who read it know them.
//!
//! This is read from the database and not from what is remembered, so it needs no lock, and can be asked for by whoever holds
//! one. What is gone by then is called by its number.

use crate::queue::config::{Names, QueueConfig};
use crate::queue::name::listed;

use super::db::Family;
use super::record::{self, QueueRecord};
use super::{ROOT, Store, keys};

/// No queue is nested so deeply that its path could still be used; in a damaged store one may be nested in itself.
const DEEPEST: usize = 4096;

impl Store {
    /// The path of a queue, or of a batch, from the root of the mount.
    pub fn label(&self, queue: u64) -> String {
        let (mut names, mut id) = (Vec::new(), queue);
        while id != ROOT && id != 0 && names.len() < DEEPEST {
            let Some(record) = self.record_of_queue(id) else {
                names.push(format!("queue number {id}"));
                break;
            };
            let name = String::from_utf8_lossy(&record.name).into_owned();
            names.push(if record.batch { format!(".mq/batch/{name}") } else { name });
            id = record.parent;
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
        let mut config = QueueConfig::default();
        if let Some(queue) = self.record_of_queue(record.queue) {
            // Of a configuration that cannot be read the defaults count.
            let _ = config.apply(&queue.config);
        }
        let name = match config.names {
            Names::Keep => record.name,
            Names::Sequence => listed((config.priorities > 1).then_some(record.order), seq, &record.name),
        };
        String::from_utf8_lossy(&name).into_owned()
    }

    fn record_of_queue(&self, id: u64) -> Option<QueueRecord> {
        record::decode_queue(&self.db.get(Family::Meta, &keys::queue(id)).ok()??).ok()
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
