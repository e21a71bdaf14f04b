//! What a name means to the session that gave it: a message that it writes, one that it wrote, or one that it wrote and that has
//! left (see [`super::names`]).

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::state::State;

use super::access::Caller;
use super::lookup::Found;
use super::names::{Key, Meaning, Writer, Written};
use super::writer::Writer as Message;
use super::{Attributes, View, process};

impl View {
    /// For whom the names are that a caller gives; `None` when its session is not visible from here.
    pub(super) fn namer(caller: &Caller) -> Option<Writer> {
        process::session(caller.pid).map(|session| Writer { session, uid: caller.uid })
    }

    /// What a name means to the caller because its session gave it.
    pub(super) fn find_own(&self, caller: &Caller, queue: u64, name: &[u8]) -> Result<Found> {
        let by = Self::namer(caller).ok_or(Error::NotFound)?;
        let key = Key { queue, name: name.to_vec(), by };
        let now = clock::now_ms();
        // Each time round but the last, one meaning is forgotten.
        loop {
            let meaning = {
                let mut names = self.names.lock();
                let sent_back = names.is_sent_back(caller.pid, queue, name, now);
                names.get(&key, || process::tgid(caller.pid)).filter(|_| !sent_back)
            };
            let (age, seq) = match meaning.ok_or(Error::NotFound)? {
                Meaning::Unfinished(id) if self.renamed_draft(id).is_some() => return Ok(Found::Draft(id)),
                Meaning::Unfinished(id) => return Ok(Found::Unfinished(id)),
                Meaning::Written { age, seq } => (age, seq),
            };
            if let Some(seq) = seq {
                match self.store.message(seq) {
                    // One that its producer has delayed is there, if only to have its mode set.
                    Ok(message) if message.queue == queue && message.state() != State::Dead => {
                        return Ok(Found::Bare(seq, message));
                    }
                    Ok(_) | Err(Error::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
            let mut names = self.names.lock();
            if names.gone(age, now).is_some() {
                return Ok(Found::Gone(age));
            }
            names.forget(age);
        }
    }

    /// A message was written under a name, which goes on meaning it; without a number, a duplicate that was not enqueued. The store
    /// watches it already.
    fn remember(&self, key: Key, process: u32, seq: Option<u64>, shown: Attributes) {
        let left = seq.is_none().then(clock::now_ms);
        self.names.lock().set(key, Written { process, seq, left, shown });
    }

    /// The same of a message that was being written.
    pub(super) fn remember_written(&self, writer: &Message, seq: Option<u64>) {
        match (writer.key(), seq) {
            (Some(key), seq) => self.remember(key, writer.opener(), seq, self.writer_attributes(writer)),
            (None, Some(seq)) => self.store.departures().forget(seq),
            (None, None) => {}
        }
    }

    /// The same of one that others may have seen, and taken, before.
    pub(super) fn remember_placed(&self, key: Key, process: u32, seq: Option<u64>, shown: Attributes) {
        let queue = key.queue;
        self.remember(key, process, seq, shown);
        if let Some(seq) = seq {
            self.store.watch(queue, seq, clock::now_ms());
        }
    }

    /// What a message that the caller's session wrote, and that has left, shows for a while.
    pub(super) fn left_of_own(&self, caller: &Caller, seq: u64) -> Option<Attributes> {
        let by = Self::namer(caller)?;
        self.names.lock().gone_message(by, seq, clock::now_ms())
    }

    /// The caller has removed a message, or moved it away: to its own session the name means nothing any more.
    pub(super) fn forget_own(&self, caller: &Caller, seq: u64) {
        if let Some(by) = Self::namer(caller) {
            self.names.lock().forget_message_of(by, seq);
        }
    }
}
