//! Unlinking: an ack, whatever the state of the message.

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::state::State;

use super::access::Caller;
use super::lookup::Found;
use super::{Node, View};

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
                return self.store.remove_draft(self.find_batch_file(batch, name)?, now);
            }
            _ => return self.unlink_in_state(caller, directory, name, now),
        };
        match found {
            Found::Control | Found::Queue(_) => Err(Error::IsDirectory),
            Found::Draft(draft) => self.store.remove_draft(draft, now),
            Found::Message(seq, _) if self.store.keeps_names(queue)? => self.store.ack(queue, seq, &State::ALL, now),
            Found::Message(seq, _) => self.store.ack(queue, seq, &[State::Ready, State::Claimed], now),
            // Programs unlink an existing target before they write it: that must not destroy a message that nobody has
            // read.
            Found::Bare(_, message, writer) if message.state() == State::Ready => {
                self.names.lock().forget(queue, name, writer);
                Err(Error::NotFound)
            }
            Found::Bare(seq, _, writer) => {
                self.names.lock().forget(queue, name, writer);
                self.store.ack(queue, seq, &[State::Ready, State::Claimed], now)
            }
        }
    }
    fn unlink_in_state(&self, caller: &Caller, directory: Node, name: &[u8], now: u64) -> Result<()> {
        let Some((queue, states, _)) = Self::state_directory(directory) else {
            return Err(Error::NotPermitted("control files cannot be removed"));
        };
        let (seq, _) = self.find_in_state(caller, directory, name)?;
        self.store.ack(queue, seq, states, now)
    }
}
