//! Queues, batches, and their counters.

use std::sync::Arc;

use crate::clock;
use crate::error::Result;
use crate::queue::config::{Names, QueueConfig};
use crate::queue::state::State as MessageState;
use crate::store::db::Family;
use crate::store::record::{self, Counters, MessageRecord, QueueRecord};
use crate::store::{ROOT, keys};

use super::{Check, Fix};

/// A queue, and what was counted in it.
pub(super) struct Known {
    pub record: QueueRecord,
    pub config: Arc<QueueConfig>,
    pub tally: Counters,
}

impl Known {
    fn new(record: QueueRecord, config: QueueConfig) -> Self {
        // No ready message has been seen.
        let tally = Counters { head: keys::LAST_POSITION, ..Counters::default() };
        Self { record, config: config.into(), tally }
    }

    pub fn keeps_names(&self) -> bool {
        self.config.names == Names::Keep
    }

    /// Whether a message was purged, and only its remains are there.
    pub fn purged(&self, message: &MessageRecord) -> bool {
        let purged = self.purged_from(message.state());
        purged > 0 && message.placed <= purged
    }

    /// What was placed in a state at or before this number is purged.
    pub fn purged_from(&self, state: MessageState) -> u64 {
        self.record.purged[state as usize - 1]
    }

    pub fn count(&mut self, message: &MessageRecord, position: u64) {
        if message.state() == MessageState::Ready {
            self.tally.head = self.tally.head.min(position);
        }
        self.tally.retrying += u64::from(message.retrying);
        let (count, bytes) = self.tally.tally(message.state());
        *count += 1;
        *bytes += message.size;
    }
}

fn queue_record(parent: u64, batch: bool, name: &[u8]) -> QueueRecord {
    QueueRecord {
        parent,
        batch,
        name: name.to_vec(),
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mode: if parent == 0 { 0o755 } else { 0o700 },
        created: clock::now_ms(),
        modified_ns: None,
        modified_at: 0,
        accessed_ns: None,
        config: if batch { String::new() } else { QueueConfig::default().render() },
        rejected: String::new(),
        purged: [0; 4],
        attributes: Vec::new(),
    }
}

impl Check<'_> {
    /// What a queue is called in the report.
    pub(super) fn label(&self, id: u64) -> String {
        let (mut names, mut queue) = (Vec::new(), id);
        while queue != ROOT
            && names.len() < 64
            && let Some(known) = self.queues.get(&queue)
        {
            names.push(String::from_utf8_lossy(&known.record.name).into_owned());
            queue = known.record.parent;
        }
        names.reverse();
        if names.is_empty() { format!("queue number {id}") } else { format!("queue {}", names.join("/")) }
    }

    pub(super) fn purges(&mut self) -> Result<()> {
        let db = self.db.clone();
        db.scan(Family::Meta, keys::PURGES, keys::PURGES, |key, _| {
            self.purges.extend(keys::parse_purge(key));
            Ok(true)
        })
    }

    pub(super) fn queues(&mut self) -> Result<()> {
        let db = self.db.clone();
        db.scan(Family::Meta, keys::QUEUES, keys::QUEUES, |key, value| {
            if let Some(id) = keys::last_number(key) {
                self.queue(id, value);
            }
            Ok(true)
        })?;
        if !self.queues.contains_key(&ROOT) {
            self.make_queue("the root has no record", ROOT, queue_record(0, false, b""));
        }
        // What a listing names and has no record: its messages may be there.
        for (prefix, batch) in [(b"c", false), (b"e", true)] {
            db.scan(Family::Meta, prefix, prefix, |key, name| {
                let parent = key.get(1..9).and_then(keys::last_number);
                if let (Some(parent), Some(id), 17) = (parent, keys::last_number(key), key.len())
                    && !self.queues.contains_key(&id)
                {
                    let name = name.to_vec();
                    let text = format!("the record of queue {} is missing", String::from_utf8_lossy(&name));
                    self.make_queue(&text, id, queue_record(parent, batch, &name));
                }
                Ok(true)
            })?;
        }
        self.report.summary.queues = self.queues.values().filter(|known| !known.record.batch).count() as u64 - 1;
        Ok(())
    }

    fn queue(&mut self, id: u64, value: &[u8]) {
        self.last.id = self.last.id.max(id);
        let mut record = match record::decode_queue(value) {
            Ok(record) => record,
            Err(error) => {
                let fixes = vec![
                    Fix::Save(format!("queue-{id}"), value.to_vec()),
                    Fix::Delete(Family::Meta, keys::queue(id).to_vec()),
                ];
                return self.damaged(&format!("queue number {id}: {error}"), fixes, "moved to lost+found");
            }
        };
        // A message that comes must not be taken for one of those that were purged.
        self.last.seq = record.purged.into_iter().fold(self.last.seq, u64::max);
        let stored = QueueConfig::stored(&record.config);
        if let Err(error) = &stored {
            let text = format!("the configuration of queue {}: {error}", String::from_utf8_lossy(&record.name));
            let kept = std::mem::replace(&mut record.config, QueueConfig::default().render());
            let fixes = vec![
                Fix::Save(format!("config-{id}"), kept.into_bytes()),
                Fix::Put(Family::Meta, keys::queue(id).to_vec(), record::encode(&record)),
            ];
            self.damaged(&text, fixes, "it has the defaults now; what it had is in lost+found");
        }
        self.queues.insert(id, Known::new(record, stored.unwrap_or_default()));
    }

    fn make_queue(&mut self, text: &str, id: u64, record: QueueRecord) {
        self.last.id = self.last.id.max(id);
        let put = Fix::Put(Family::Meta, keys::queue(id).to_vec(), record::encode(&record));
        let done = format!("made anew with defaults, mode {:o}", record.mode);
        self.damaged(text, vec![put], &done);
        self.queues.insert(id, Known::new(record, QueueConfig::default()));
    }

    /// A queue that something is in; when there is no such queue, one is made.
    pub(super) fn owner(&mut self, id: u64) {
        if !self.queues.contains_key(&id) {
            let name = format!("recovered-{id}");
            let text = format!("queue number {id} has no record, and messages or drafts");
            self.make_queue(&text, id, queue_record(ROOT, false, name.as_bytes()));
            self.enter_queue(id);
        }
    }

    fn enter_queue(&mut self, id: u64) {
        let record = &self.queues[&id].record;
        let (parent, name) = (record.parent, record.name.clone());
        let (listed, named) = match record.batch {
            true => (keys::batch(parent, id), keys::batch_by_name(parent, &name)),
            false => (keys::child(parent, id), keys::child_by_name(parent, &name)),
        };
        let batch = record.batch;
        let label = self.label(id);
        let entries = [
            (listed.to_vec(), name, format!("{label} in the listing of its parent")),
            (named, id.to_be_bytes().to_vec(), format!("the name of {label}")),
        ];
        for (key, value, what) in entries {
            if self.db.get(Family::Meta, &key).ok().flatten().is_none_or(|found| *found != *value) {
                let put = Fix::Put(Family::Meta, key, value);
                self.damaged(&format!("{what} is missing or wrong"), vec![put], "entered");
            }
        }
        if let Some(parent) = self.queues.get_mut(&parent) {
            let count = if batch { &mut parent.tally.batches } else { &mut parent.tally.queues };
            *count += 1;
        }
    }

    /// The listings of nested queues and of batches.
    pub(super) fn queue_lists(&mut self) -> Result<()> {
        let mut ids: Vec<u64> = self.queues.keys().copied().filter(|id| *id != ROOT).collect();
        ids.sort_unstable();
        for id in ids {
            let record = &self.queues[&id].record;
            if !self.queues.contains_key(&record.parent) || record.parent == id {
                let text = format!("{} is in a queue that is not there", self.label(id));
                let name = format!("recovered-{id}").into_bytes();
                let record = QueueRecord { parent: ROOT, name, ..record.clone() };
                let put = Fix::Put(Family::Meta, keys::queue(id).to_vec(), record::encode(&record));
                self.damaged(&text, vec![put], &format!("it is recovered-{id} in the root now"));
                if let Some(known) = self.queues.get_mut(&id) {
                    known.record = record;
                }
            }
            self.enter_queue(id);
        }
        let db = self.db.clone();
        for (tag, batch, names) in [(b"c", false, false), (b"n", false, true), (b"e", true, false), (b"i", true, true)]
        {
            db.scan(Family::Meta, tag, tag, |key, value| {
                let parent = key.get(1..9).and_then(keys::last_number);
                let (id, name) = match names {
                    true => (keys::last_number(value), key.get(9..).unwrap_or_default()),
                    false => (keys::last_number(key), value),
                };
                let fits = id.and_then(|id| self.queues.get(&id)).is_some_and(|known| {
                    let record = &known.record;
                    Some(record.parent) == parent && record.batch == batch && record.name == name
                });
                if !fits {
                    let name = String::from_utf8_lossy(name).into_owned();
                    self.leads_nowhere(Family::Meta, key, &format!("the entry of a queue {name}"));
                }
                Ok(true)
            })?;
        }
        Ok(())
    }

    pub(super) fn counters(&mut self) -> Result<()> {
        let mut ids: Vec<u64> = self.queues.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let Some(known) = self.queues.get(&id) else { continue };
            let found = self.db.get(Family::Meta, &keys::counters(id))?;
            let found = found.map(|found| record::decode_counters(&found));
            let stored = match &found {
                Some(Ok(counters)) => *counters,
                _ => Counters::default(),
            };
            let mut right = stored;
            for state in MessageState::ALL {
                let mut tally = known.tally;
                let (count, bytes) = tally.tally(state);
                let counted = (*count, *bytes);
                let (count, bytes) = right.tally(state);
                (*count, *bytes) = counted;
            }
            right.retrying = known.tally.retrying;
            (right.drafts, right.queues, right.batches) = (known.tally.drafts, known.tally.queues, known.tally.batches);
            right.head = stored.head.min(known.tally.head);
            let missing = found.is_none() && right != Counters::default();
            if right != stored || missing || matches!(found, Some(Err(_))) {
                let shown = |c: &Counters| {
                    format!(
                        "{} ready, {} claimed, {} delayed ({} retrying), {} dead, {} drafts, {} queues, {} batches",
                        c.ready, c.claimed, c.delayed, c.retrying, c.dead, c.drafts, c.queues, c.batches
                    )
                };
                let text = format!("the counters of {}: {} and not {}", self.label(id), shown(&stored), shown(&right));
                let put = Fix::Put(Family::Meta, keys::counters(id).to_vec(), record::encode(&right));
                self.damaged(&text, vec![put], "they say what is there now");
            }
        }
        Ok(())
    }

    /// The next numbers: none that is in use is given out once more.
    pub(super) fn numbers(&mut self) -> Result<()> {
        for (name, last) in [("next_seq", self.last.seq), ("next_id", self.last.id)] {
            let key = keys::setting(name);
            let value = self.db.get(Family::Meta, &key)?.map(|value| keys::last_number(&value).unwrap_or(0));
            if last.max(value.unwrap_or(0)) > keys::LAST_NUMBER {
                let text = format!("the number {name} has more than 16 digits: export, and import into a new store");
                self.damaged(&text, Vec::new(), "");
                continue;
            }
            if value.unwrap_or(0) <= last && (value.is_some() || last > ROOT) {
                // A number behind it may have been in use, and lost.
                let next = (last + 1_000_000).to_be_bytes().to_vec();
                let text = format!("the number {name} is {}, and {last} is in use", value.unwrap_or(0));
                self.damaged(&text, vec![Fix::Put(Family::Meta, key, next)], "set behind it");
            }
        }
        Ok(())
    }
}
