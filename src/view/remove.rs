//! Unlinking: an ack, whatever the state of the message.

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::state::State;
use crate::store::Of;
use crate::store::record::MessageRecord;

use super::access::Caller;
use super::lookup::Found;
use super::{Node, View};

/// The states in which a queue's directory shows a message.
const SHOWN: &[State] = &[State::Ready, State::Claimed];

impl View {
    /// Unlinks a file.
    pub fn unlink(&self, caller: &Caller, directory: Node, name: &[u8]) -> Result<()> {
        self.refuse_read_only()?;
        let now = clock::now_ms();
        let (queue, found) = match directory {
            Node::Queue(queue) => (queue, self.find(caller, queue, name)?),
            Node::Given(number) => {
                let queue = self.queue_given(number)?;
                (queue, self.find_given(caller, queue, name)?)
            }
            Node::Batch(batch) => {
                self.refuse_while_enqueued(batch)?;
                return self.unlink_draft(self.find_batch_file(batch, name)?, now);
            }
            _ => return self.unlink_in_state(caller, directory, name, now),
        };
        match found {
            Found::Control | Found::Queue(_) => Err(Error::IsDirectory),
            Found::Draft(draft) if self.is_publishing(draft) => self.unlink_renamed(caller, draft),
            Found::Draft(draft) => self.unlink_draft(draft, now),
            Found::Message(seq, message) => {
                let of = self.settles_by_name(caller, &message)?;
                let kept = self.store.keeps_names(queue)?;
                self.ack(caller, (queue, seq, &message), (if kept { &State::ALL } else { SHOWN }, of), now)
            }
            // Programs unlink an existing target before they write it: that must not destroy a message that nobody has
            // read.
            Found::Bare(seq, message) if message.state() != State::Claimed => {
                self.names.lock().forget_message(seq);
                Err(Error::NotFound)
            }
            Found::Bare(seq, message) => {
                let of = self.settles_by_name(caller, &message)?;
                self.names.lock().forget_message(seq);
                self.ack(caller, (queue, seq, &message), (SHOWN, of), now)
            }
            Found::Unfinished(id) => self.unlink_unfinished(caller, id),
            Found::Gone(age) => {
                self.names.lock().forget(age);
                Err(Error::NotFound)
            }
        }
    }

    fn unlink_in_state(&self, caller: &Caller, directory: Node, name: &[u8], now: u64) -> Result<()> {
        let Some((queue, states, _)) = Self::state_directory(directory) else {
            return Err(Error::NotPermitted("control files cannot be removed"));
        };
        let (seq, message, of) = self.find_in_state(caller, directory, name)?;
        self.ack(caller, (queue, seq, &message), (states, of), now)
    }

    fn ack(
        &self,
        caller: &Caller,
        (queue, seq, message): (u64, u64, &MessageRecord),
        from: (&[State], Of),
        now: u64,
    ) -> Result<()> {
        self.store.ack(queue, seq, from, now)?;
        self.forget_own(caller, seq);
        if let Some(claim) = &message.claim {
            self.note_settled(caller, seq, claim.delivery);
        }
        Ok(())
    }
}
