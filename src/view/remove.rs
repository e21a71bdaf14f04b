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
        let Node::Queue(queue) = directory else {
            let Some((queue, states, _)) = Self::state_directory(directory) else {
                return Err(Error::NotPermitted("control files cannot be removed"));
            };
            let (seq, _) = self.find_in_state(caller, directory, name)?;
            return self.store.ack(queue, seq, states, now);
        };
        match self.find(caller, queue, name)? {
            Found::Control | Found::Queue(_) => Err(Error::IsDirectory),
            Found::Draft(draft) => self.store.remove_draft(draft, now),
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
}
