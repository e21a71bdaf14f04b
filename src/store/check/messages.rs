//! Messages: their records, their bodies, and the entries that a record stands for.

use std::io;

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::state::State as MessageState;
use crate::store::body::Body;
use crate::store::db::Family;
use crate::store::dead_letters::DEAD_HEADERS;
use crate::store::deaths;
use crate::store::keys;
use crate::store::oldest::aged;
use crate::store::record::{self, BodyPlace, MessageRecord};
use crate::store::state::deadlines;

use super::{Check, Fix};

/// Why a message whose body is damaged is dead: the value of the first of [`DEAD_HEADERS`].
const REASON: &[u8] = b"damaged";

/// What a look at a body has found.
enum Found {
    Whole,
    /// It is not whole and was not durable: a crash may have taken a part of it.
    Cut(String),
    Damaged(String),
}

impl Check<'_> {
    pub(super) fn messages(&mut self) -> Result<()> {
        let db = self.db.clone();
        db.scan(Family::Messages, b"", b"", |key, value| {
            let seq = keys::last_number(key).filter(|_| key.len() == 8);
            match (seq, record::decode_message(value)) {
                (Some(seq), Ok(record)) => self.message(seq, record)?,
                (seq, decoded) => {
                    let why = decoded.err().map_or_else(|| "its key is not one".to_owned(), |error| error.to_string());
                    let text = format!("message {:016}: {why}", seq.unwrap_or(0));
                    let name = format!("message-{:016}", seq.unwrap_or(0));
                    let fixes = vec![Fix::Save(name, value.to_vec()), Fix::Delete(Family::Messages, key.to_vec())];
                    self.damaged(&text, fixes, "its record is in lost+found");
                    self.last.seq = self.last.seq.max(seq.unwrap_or(0));
                }
            }
            Ok(true)
        })
    }

    fn message(&mut self, seq: u64, mut record: MessageRecord) -> Result<()> {
        self.last.seq = self.last.seq.max(seq);
        self.last.id = self.last.id.max(record.id);
        let cleared = self.purges.contains(&(record.queue, record.state()));
        if cleared && self.queues.get(&record.queue).is_none_or(|known| known.purged(&record)) {
            return Ok(()); // it was purged, and is about to be cleared away
        }
        self.owner(record.queue);
        let label = self.message_label(seq, &record);
        if let BodyPlace::File(id) = record.body {
            self.last.id = self.last.id.max(id);
            self.expect(Family::Meta, &keys::body_file(id), &seq.to_be_bytes(), &format!("{label}: its body's owner"))?;
        }
        let found = if self.unfinished.contains(&seq) { Found::Whole } else { self.look_at_body(&record)? };
        match found {
            Found::Whole => {}
            Found::Cut(why) => {
                self.report.note(&format!("{label}: {why}; it was not durable, and the next mount drops it"));
            }
            Found::Damaged(why) => self.set_aside(seq, &mut record, &format!("{label}: {why}"))?,
        }
        let position = keys::position(record.order, seq);
        let listed = keys::index(record.queue, record.state(), position);
        self.expect(Family::Index, &listed, &record.name, &format!("{label}: its place in the queue"))?;
        for (at, kind) in deadlines(&record) {
            self.expect(Family::Deadlines, &keys::deadline(at, kind, seq), b"", &format!("{label}: a deadline"))?;
        }
        if let Some(since) = aged(&record) {
            let key = keys::aged(record.queue, record.state(), since, seq);
            self.expect(Family::Index, &key, b"", &format!("{label}: its age"))?;
        }
        if self.queues[&record.queue].keeps_names() {
            let key = keys::message_by_name(record.queue, &record.name);
            self.expect(Family::Meta, &key, &seq.to_be_bytes(), &format!("{label}: its name"))?;
        }
        if let Some(known) = self.queues.get_mut(&record.queue) {
            known.count(&record, position);
        }
        self.report.summary.messages += 1;
        Ok(())
    }

    pub(super) fn message_label(&self, seq: u64, record: &MessageRecord) -> String {
        format!("{}: message {seq:016}-{}", self.label(record.queue), String::from_utf8_lossy(&record.name))
    }

    /// Compares all bytes of a body with its checksums.
    fn look_at_body(&mut self, record: &MessageRecord) -> Result<Found> {
        let durable = match record.body {
            BodyPlace::File(id) => self.db.get(Family::Meta, &keys::unsynced_body(id))?.is_none(),
            _ => true,
        };
        let checked = Body::open(&self.db, &self.bodies, record).and_then(|body| match body {
            Body::Inline(_) => Ok(()),
            Body::File(file) => file.check(),
        });
        match checked {
            Ok(()) => Ok(Found::Whole),
            Err(Error::Damaged(why)) if durable => Ok(Found::Damaged(why)),
            Err(Error::Damaged(why)) => Ok(Found::Cut(why)),
            Err(Error::Io(error)) if error.raw_os_error() == Some(libc::EIO) => Ok(Found::Damaged(error.to_string())),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                Ok(Found::Damaged(error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    /// A message of which the body is damaged becomes a dead letter, so that no consumer meets it.
    fn set_aside(&mut self, seq: u64, record: &mut MessageRecord, text: &str) -> Result<()> {
        let reason = |(name, value): &(String, Vec<u8>)| name == DEAD_HEADERS[0] && value == REASON;
        if record.state() == MessageState::Dead && record.attributes.iter().any(reason) {
            self.report.note(&format!("{text}: it has been set aside"));
            return Ok(());
        }
        let before = record.clone();
        let position = keys::position(record.order, seq);
        let mut fixes = vec![Fix::Delete(Family::Index, keys::index(record.queue, record.state(), position).to_vec())];
        if let Some(since) = aged(record) {
            fixes.push(Fix::Delete(Family::Index, keys::aged(record.queue, record.state(), since, seq).to_vec()));
        }
        for (at, kind) in deadlines(record) {
            fixes.push(Fix::Delete(Family::Deadlines, keys::deadline(at, kind, seq).to_vec()));
        }
        if let BodyPlace::File(id) = record.body {
            // What is set aside stays: no mount is to drop it as one that a crash has cut.
            fixes.push(Fix::Delete(Family::Meta, keys::unsynced_body(id).to_vec()));
        }
        record.set_state(MessageState::Dead);
        record.since = clock::now_ms();
        // It comes after whatever was purged there.
        let purged = self.queues.get(&record.queue).map_or(0, |known| known.purged_from(MessageState::Dead));
        record.placed = record.placed.max(purged + 1);
        (record.claim, record.due, record.expires) = (None, 0, 0);
        record.retrying = false;
        record.attributes.retain(|(name, _)| !DEAD_HEADERS.contains(&name.as_str()));
        let values = [REASON.to_vec(), clock::rfc3339(clock::now_ms()).into_bytes()];
        let label = self.label(record.queue);
        let path = label.strip_prefix("queue ").unwrap_or(&label);
        deaths::note(&mut record.deaths, (record.queue, path), "damaged", clock::now_ms());
        for (name, value) in [DEAD_HEADERS[0], DEAD_HEADERS[3]].into_iter().zip(values) {
            record.attributes.push((name.to_owned(), value));
        }
        let listed = keys::index(record.queue, MessageState::Dead, position);
        fixes.push(Fix::Put(Family::Index, listed.to_vec(), record.name.clone()));
        let since = keys::aged(record.queue, MessageState::Dead, record.since, seq);
        fixes.push(Fix::Put(Family::Index, since.to_vec(), Vec::new()));
        fixes.push(Fix::Put(Family::Messages, keys::message(seq).to_vec(), record::encode(record)));
        fixes.extend(self.recount(record.queue, |counters| {
            let (count, bytes) = counters.tally(before.state());
            (*count, *bytes) = (count.saturating_sub(1), bytes.saturating_sub(before.size));
            counters.retrying = counters.retrying.saturating_sub(u64::from(before.retrying));
            let (count, bytes) = counters.tally(MessageState::Dead);
            (*count, *bytes) = (*count + 1, *bytes + before.size);
        })?);
        self.damaged(text, fixes, "it is set aside, in .mq/dead of its queue, with user.mq.dead_reason = damaged");
        if !self.report.repair {
            *record = before;
        }
        Ok(())
    }
}
