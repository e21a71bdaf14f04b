//! Kept names: in a queue with `names = keep` a name means one message, whatever its state.
//!
//! The key of a name is written and removed together with the message, by [`State::place`] and [`State::displace`], so that
//! no operation forgets it. Beyond that a name is held while a message of that name is being written: that is remembered in
//! memory only, as the writer is gone when the store is opened again.
//!
//! A key may lead to a message that was purged and is not cleared away yet: the name is free, and its next message's.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::queue::config::Names;
use crate::queue::name::{MAX_KEPT_NAME, check_producer_name, listed};
use crate::queue::state::State as MessageState;

use super::db::{Batch, Db, Family};
use super::keys;
use super::record::{BodyPlace, MessageRecord};
use super::state::State;
use super::{ROOT, Store};

/// Who has a name in a queue that keeps names.
#[derive(Debug)]
pub enum Holder {
    /// Nobody: it is free.
    Nobody,
    /// A nested queue.
    Queue,
    /// A message that is being written, of this number.
    Writer(u64),
    /// A message in any state, by its sequence number.
    Message(u64, Box<MessageRecord>),
}

/// What a message that gets a name in a queue that keeps names finds there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onto {
    /// The name must be free: else [`Error::Exists`].
    Nothing,
    /// This message makes room, if it has the name still; [`Error::Busy`] when another has it, or this one was claimed
    /// meanwhile.
    Message {
        /// Its sequence number.
        seq: u64,
        /// When it was claimed, as of the decision to replace it.
        claimed_at: Option<u64>,
    },
}

impl Onto {
    /// This message as it is now.
    pub fn message(seq: u64, record: &MessageRecord) -> Self {
        Onto::Message { seq, claimed_at: record.claim.as_ref().map(|claim| claim.at) }
    }

    /// Whether it is the message of that sequence number that makes room.
    pub(super) fn names(self, number: u64) -> bool {
        matches!(self, Onto::Message { seq, .. } if seq == number)
    }

    fn is(self, seq: u64, record: &MessageRecord) -> bool {
        self == Onto::message(seq, record)
    }

    fn refusal(self) -> Error {
        match self {
            Onto::Nothing => Error::Exists,
            Onto::Message { .. } => Error::Busy,
        }
    }
}

/// Names of messages that are being written, with the numbers of those messages.
#[derive(Default)]
pub(super) struct HeldNames(HashMap<(u64, Vec<u8>), u64>);

impl HeldNames {
    fn by(&self, queue: u64, name: &[u8]) -> Option<u64> {
        if self.0.is_empty() { None } else { self.0.get(&(queue, name.to_vec())).copied() }
    }
}

/// Adds to a change: the name of the message `seq` leads to it, in a queue that keeps names.
pub(super) fn enter_name(batch: &mut Batch<'_>, seq: u64, record: &MessageRecord) {
    batch.put(Family::Meta, &keys::message_by_name(record.queue, &record.name), &seq.to_be_bytes());
}

/// Adds to a change: the name of the message `seq` leads to it no more. It may lead to a newer one already, when this one was
/// purged.
pub(super) fn leave_name(db: &Db, batch: &mut Batch<'_>, seq: u64, record: &MessageRecord) -> Result<()> {
    let key = keys::message_by_name(record.queue, &record.name);
    if db.get(Family::Meta, &key)?.is_some_and(|named| *named == seq.to_be_bytes()) {
        batch.delete(Family::Meta, &key);
    }
    Ok(())
}

impl State {
    /// Whether a queue keeps names.
    pub(super) fn keeps_names(&mut self, db: &Db, queue: u64) -> Result<bool> {
        Ok(queue != ROOT && self.queue(db, queue)?.config.names == Names::Keep)
    }
}

impl Store {
    /// Whether a queue keeps names.
    pub fn keeps_names(&self, queue: u64) -> Result<bool> {
        self.lock().keeps_names(&self.db, queue)
    }

    /// The message of a name in a queue that keeps names, when users can see it.
    pub fn message_named(&self, queue: u64, name: &[u8]) -> Result<(u64, MessageRecord)> {
        let mut state = self.lock();
        let (seq, record) = self.named(&mut state, queue, name)?.ok_or(Error::NotFound)?;
        if state.is_hidden(queue, seq) { Err(Error::NotFound) } else { Ok((seq, record)) }
    }

    /// The message that a name leads to, unless it was purged.
    fn named(&self, state: &mut State, queue: u64, name: &[u8]) -> Result<Option<(u64, MessageRecord)>> {
        let found = self.db.get(Family::Meta, &keys::message_by_name(queue, name))?;
        let Some(seq) = found.and_then(|seq| keys::last_number(&seq)) else { return Ok(None) };
        match self.record(seq) {
            Ok(record) if state.is_purged(&self.db, &record)? => Ok(None),
            Ok(record) => Ok(Some((seq, record))),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Who has a name in a queue; nobody in one that does not keep names.
    pub fn name_holder(&self, queue: u64, name: &[u8]) -> Result<Holder> {
        self.holder(&mut self.lock(), queue, name)
    }

    /// The number of the message that is being written under a name in a queue that keeps names.
    pub fn name_writer(&self, queue: u64, name: &[u8]) -> Option<u64> {
        self.lock().held.by(queue, name)
    }

    fn holder(&self, state: &mut State, queue: u64, name: &[u8]) -> Result<Holder> {
        if !state.keeps_names(&self.db, queue)? {
            return Ok(Holder::Nobody);
        }
        if let Some(writer) = state.held.by(queue, name) {
            return Ok(Holder::Writer(writer));
        }
        if self.child(queue, name)?.is_some() {
            return Ok(Holder::Queue);
        }
        Ok(match self.named(state, queue, name)? {
            None => Holder::Nobody,
            Some((seq, record)) if state.is_hidden(queue, seq) => Holder::Writer(record.id),
            Some((seq, record)) => Holder::Message(seq, Box::new(record)),
        })
    }

    /// Refuses a name that somebody has in a queue that keeps names.
    pub(super) fn refuse_kept(&self, state: &mut State, queue: u64, name: &[u8]) -> Result<()> {
        match self.holder(state, queue, name)? {
            Holder::Nobody => Ok(()),
            Holder::Queue => Err(Error::IsDirectory),
            Holder::Writer(_) | Holder::Message(..) => Err(Error::Exists),
        }
    }

    /// Whether a message has a name, or will have it, in a queue that keeps names.
    pub(super) fn is_kept(&self, state: &mut State, queue: u64, name: &[u8]) -> Result<bool> {
        Ok(matches!(self.holder(state, queue, name)?, Holder::Writer(_) | Holder::Message(..)))
    }

    /// Holds a name for the message `id`, which is being written, until [`Store::release_name`]; with it nobody else gets the
    /// name. Nothing happens in a queue that does not keep names.
    pub fn hold_name(&self, queue: u64, name: &[u8], id: u64, onto: Onto) -> Result<()> {
        let mut state = self.lock();
        match self.holder(&mut state, queue, name)? {
            Holder::Nobody if !state.keeps_names(&self.db, queue)? => return Ok(()),
            Holder::Nobody => {}
            Holder::Writer(other) if other == id => {}
            Holder::Message(seq, record) if onto.is(seq, &record) => {}
            Holder::Queue => return Err(Error::IsDirectory),
            Holder::Writer(_) | Holder::Message(..) => return Err(onto.refusal()),
        }
        state.held.0.insert((queue, name.to_vec()), id);
        Ok(())
    }

    /// The message `id` has its name, or will never have it.
    pub fn release_name(&self, queue: u64, name: &[u8], id: u64) {
        let mut state = self.lock();
        if state.held.by(queue, name) == Some(id) {
            state.held.0.remove(&(queue, name.to_vec()));
        }
    }

    /// The name of a new message, checked: one without a name has its number for a name in a queue that keeps names.
    pub(super) fn name_new(&self, state: &mut State, seq: u64, new: &MessageRecord) -> Result<Vec<u8>> {
        let name = self.fitting(state, new.queue, seq, &new.name)?;
        // Who makes way for the one that holds the name was decided when it was held.
        if state.held.by(new.queue, &name) != Some(new.id) {
            self.refuse_kept(state, new.queue, &name)?;
        }
        Ok(name)
    }

    /// The name with which the message `seq` can be listed in a queue, as like to the given one as possible.
    pub(super) fn fitting(&self, state: &mut State, queue: u64, seq: u64, name: &[u8]) -> Result<Vec<u8>> {
        let config = state.queue(&self.db, queue)?.config.clone();
        match config.names {
            Names::Keep if name.is_empty() => return Ok(listed(None, seq, b"")),
            Names::Keep if name.len() > MAX_KEPT_NAME => return Err(Error::NameTooLong),
            Names::Keep => {}
            Names::Sequence => check_producer_name(name, config.priorities > 1)?,
        }
        Ok(name.to_vec())
    }

    /// Adds to a change: whoever has a name makes way for the message `id`. Call it before the name is given to that message.
    /// Gives the body file to be removed when the change is applied.
    pub(super) fn make_way(
        &self,
        state: &mut State,
        batch: &mut Batch<'_>,
        to: (u64, &[u8]),
        id: u64,
        onto: Onto,
    ) -> Result<Option<u64>> {
        if !state.keeps_names(&self.db, to.0)? {
            return Ok(None);
        }
        if state.held.by(to.0, to.1).is_some_and(|by| by != id) {
            return Err(onto.refusal());
        }
        if self.child(to.0, to.1)?.is_some() {
            return Err(Error::IsDirectory);
        }
        let Some((seq, record)) = self.named(state, to.0, to.1)? else { return Ok(None) };
        if !onto.is(seq, &record) || state.is_hidden(to.0, seq) {
            return Err(onto.refusal());
        }
        self.erase(state, batch, seq, &record)?;
        state.changing(&self.db, to.0)?.counters.dropped_total += 1;
        Ok(match record.body {
            BodyPlace::File(file) => Some(file),
            _ => None,
        })
    }

    /// Gives a message of `queue` in state `from` another name, in a queue that keeps names. Its place in the order stays.
    pub fn rename_message(
        &self,
        queue: u64,
        seq: u64,
        from: MessageState,
        name: &[u8],
        onto: Onto,
        now: u64,
    ) -> Result<()> {
        let mut state = self.lock();
        let before = self.visible(&mut state, seq)?;
        if before.queue != queue || before.state() != from {
            return Err(Error::NotFound);
        }
        let mut after = MessageRecord { name: self.fitting(&mut state, queue, seq, name)?, ..before.clone() };
        let mut batch = self.db.batch();
        let replaced = self.make_way(&mut state, &mut batch, (queue, name), before.id, onto)?;
        state.displace(&self.db, &mut batch, seq, &before)?;
        state.place(&self.db, &mut batch, seq, &mut after)?;
        state.commit(&self.db, batch, now)?;
        drop(state);
        self.discard_replaced(replaced);
        Ok(())
    }

    /// Removes the body file of a message that made way.
    pub(super) fn discard_replaced(&self, file: Option<u64>) {
        if let Some(file) = file {
            self.discard_body(file);
        }
    }
}
