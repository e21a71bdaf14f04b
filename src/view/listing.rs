//! Directory listings, each from a cookie. A cookie says what kind of entry was listed last and its number, never how many
//! came before: so a listing stays right while entries vanish around it.

use crate::error::{Error, Result};
use crate::queue::state::State;
use crate::store::{Entry, ROOT};

use super::attributes::Kind;
use super::lookup::{QUEUE_CONTROLS, ROOT_CONTROLS, control, listed_name};
use super::{Node, Via, View};

/// One entry of a directory.
#[derive(Clone, Debug)]
pub struct DirectoryEntry {
    /// Its node.
    pub node: Node,
    /// A directory or a file.
    pub kind: Kind,
    /// Its name.
    pub name: Vec<u8>,
    /// From where to go on after it.
    pub cookie: u64,
}

/// What is listed one after the other; the phase is the top of a cookie.
const DOTS: u64 = 0;
const CONTROLS: u64 = 1;
const MESSAGES: u64 = 2;
const QUEUES: u64 = 3;
const DRAFTS: u64 = 4;
/// Positions of messages fit below it, and a cookie is not negative as an `off_t`.
const PHASE_SHIFT: u32 = 60;

fn cookie(phase: u64, number: u64) -> u64 {
    (phase << PHASE_SHIFT) | number
}

impl View {
    /// Lists a directory from after `from` (0: from the start) until `each` answers false: messages in delivery order,
    /// then nested queues, then drafts.
    pub fn list(&self, directory: Node, from: u64, mut each: impl FnMut(DirectoryEntry) -> bool) -> Result<()> {
        let mut lister = Lister { view: self, from, each: &mut each, full: false };
        lister.dots(directory)?;
        match directory {
            Node::Queue(queue) => {
                if queue != ROOT {
                    lister.messages(queue, &[State::Ready], Via::Queue)?;
                }
                lister.queues(queue)?;
                lister.drafts(queue)
            }
            Node::Control(queue) => lister.controls(queue),
            Node::With(_) | Node::Given(_) => Ok(()),
            Node::Batches(queue) => lister.batches(queue),
            Node::Batch(batch) => lister.drafts(batch),
            _ => {
                let (queue, states, via) = Self::state_directory(directory).ok_or(Error::NotDirectory)?;
                lister.messages(queue, states, via)
            }
        }
    }

    fn parent(&self, directory: Node) -> Result<Node> {
        Ok(match directory {
            Node::Queue(queue) => Node::Queue(self.store.queue(queue)?.parent.max(ROOT)),
            Node::Control(queue) => Node::Queue(queue),
            Node::With(queue) => Node::Control(queue),
            Node::Given(number) => Node::With(self.queue_given(number)?),
            Node::Batches(queue) => Node::Control(queue),
            Node::Batch(batch) => Node::Batches(self.store.queue(batch)?.parent),
            _ => Node::Control(Self::state_directory(directory).ok_or(Error::NotDirectory)?.0),
        })
    }
}

struct Lister<'a, F: FnMut(DirectoryEntry) -> bool> {
    view: &'a View,
    from: u64,
    each: &'a mut F,
    full: bool,
}

impl<F: FnMut(DirectoryEntry) -> bool> Lister<'_, F> {
    fn phase(&self) -> u64 {
        self.from >> PHASE_SHIFT
    }

    /// The number after which a phase goes on; `None` when it is over, or nothing more is wanted.
    fn position(&self, phase: u64) -> Option<u64> {
        if self.full || self.phase() > phase {
            None
        } else if self.phase() == phase {
            Some(self.from & ((1 << PHASE_SHIFT) - 1))
        } else {
            Some(0)
        }
    }

    fn give(&mut self, phase: u64, number: u64, node: Node, kind: Kind, name: Vec<u8>) -> bool {
        self.full |= !(self.each)(DirectoryEntry { node, kind, name, cookie: cookie(phase, number) });
        !self.full
    }

    fn dots(&mut self, directory: Node) -> Result<()> {
        let Some(after) = self.position(DOTS) else {
            return Ok(());
        };
        if after < 1 {
            self.give(DOTS, 1, directory, Kind::Directory, b".".to_vec());
        }
        if after < 2 && !self.full {
            let parent = self.view.parent(directory)?;
            self.give(DOTS, 2, parent, Kind::Directory, b"..".to_vec());
        }
        Ok(())
    }

    fn controls(&mut self, queue: u64) -> Result<()> {
        let Some(after) = self.position(CONTROLS) else {
            return Ok(());
        };
        let names = if queue == ROOT { ROOT_CONTROLS } else { QUEUE_CONTROLS };
        for (number, name) in (1..).zip(names).skip(usize::try_from(after).unwrap_or(usize::MAX)) {
            let Some(node) = control(queue, name.as_bytes()) else {
                continue;
            };
            let directory = View::state_directory(node).is_some() || matches!(node, Node::Batches(_) | Node::With(_));
            let kind = if directory { Kind::Directory } else { Kind::File };
            if !self.give(CONTROLS, number, node, kind, name.as_bytes().to_vec()) {
                break;
            }
        }
        Ok(())
    }

    fn messages(&mut self, queue: u64, states: &[State], via: Via) -> Result<()> {
        let Some(after) = self.position(MESSAGES) else { return Ok(()) };
        let view = self.view;
        let config = view.store.config(queue)?;
        view.store.list_states(queue, states, after, |Entry { position, id, order, name }| {
            self.give(MESSAGES, position, Node::Message(id, via), Kind::File, listed_name(&config, order, id, name))
        })
    }

    fn queues(&mut self, queue: u64) -> Result<()> {
        let Some(after) = self.position(QUEUES) else {
            return Ok(());
        };
        let view = self.view;
        view.store.list_queues(queue, after, |Entry { id, name, .. }| {
            self.give(QUEUES, id, Node::Queue(id), Kind::Directory, name.to_vec())
        })
    }

    fn batches(&mut self, queue: u64) -> Result<()> {
        let Some(after) = self.position(QUEUES) else {
            return Ok(());
        };
        let view = self.view;
        view.store.list_batches(queue, after, |Entry { id, name, .. }| {
            self.give(QUEUES, id, Node::Batch(id), Kind::Directory, name.to_vec())
        })
    }

    fn drafts(&mut self, queue: u64) -> Result<()> {
        let Some(after) = self.position(DRAFTS) else {
            return Ok(());
        };
        let view = self.view;
        view.store.list_drafts(queue, after, |Entry { id, name, .. }| {
            view.is_publishing(id) || self.give(DRAFTS, id, Node::Draft(id), Kind::File, name.to_vec())
        })
    }
}
