//! `.mq/with/K=V,K=V/`: directories in which whatever is created gets properties.
//!
//! There is a directory for each combination of properties that anybody may name, so they are numbered as they are looked
//! up. The kernel tells when it has forgotten one, and forgets it at once when nobody uses it ([`Attributes::name_valid`]): so
//! the table holds those in use, however many deduplication ids producers name.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fair::FairMap;
use crate::queue::words::attributes_of;

use super::access::Caller;
use super::lookup::Found;
use super::xattr::Pairs;
use super::{Attributes, Node, View};

/// So many directories are known at a time. When more are in use, those are forgotten of whoever uses most, the oldest first:
/// who is in one is told [`Error::Stale`], and the kernel looks its path up again.
const KNOWN: usize = 65_536;

/// The directories that the kernel knows.
pub(super) struct Givens {
    /// The newest number; none is used twice.
    last: u64,
    /// By who looked them up first.
    by_number: FairMap<u64, Given>,
    by_name: HashMap<(u64, Arc<[u8]>), u64>,
}

struct Given {
    queue: u64,
    name: Arc<[u8]>,
    /// How often the kernel was told of it.
    told: u64,
}

impl Default for Givens {
    fn default() -> Self {
        Self { last: 0, by_number: FairMap::new(KNOWN), by_name: HashMap::new() }
    }
}

impl Givens {
    /// The kernel is told of the directory of that name, because the user `uid` looks it up.
    fn tell(&mut self, uid: u32, queue: u64, name: &[u8]) -> u64 {
        let key = (queue, Arc::from(name));
        if let Some(number) = self.by_name.get(&key) {
            if let Some(given) = self.by_number.get_mut(*number) {
                given.told += 1;
            }
            return *number;
        }
        self.last += 1;
        let given = Given { queue, name: key.1.clone(), told: 1 };
        self.by_name.insert(key, self.last);
        if let Some((_, Given { queue, name, .. })) = self.by_number.insert(uid, self.last, given) {
            self.by_name.remove(&(queue, name));
        }
        self.last
    }

    /// The kernel has forgotten so many times that it was told.
    fn forget(&mut self, number: u64, times: u64) {
        let Some(given) = self.by_number.get_mut(number) else { return };
        given.told = given.told.saturating_sub(times);
        if given.told == 0 {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u64) {
        if let Some(Given { queue, name, .. }) = self.by_number.remove(number) {
            self.by_name.remove(&(queue, name));
        }
    }

    fn get(&self, number: u64) -> Result<(u64, Arc<[u8]>)> {
        self.by_number.get(number).map(|given| (given.queue, given.name.clone())).ok_or(Error::Stale)
    }
}

/// Whether a file of that name is a draft in a directory of properties. All others are messages there, whatever the queue is
/// configured to.
pub(super) fn is_draft_given(name: &[u8]) -> bool {
    name.starts_with(b".")
}

impl View {
    /// Looks up a directory of properties.
    pub(super) fn lookup_given(&self, caller: &Caller, queue: u64, name: &[u8]) -> Result<Attributes> {
        if let Err(error) = attributes_of(name) {
            tracing::info!(queue = self.store.label(queue), %error, "not a directory of properties");
            return Err(error);
        }
        let number = self.givens.lock().tell(caller.uid, queue, name);
        self.attributes(Node::Given(number)).inspect_err(|_| self.givens.lock().forget(number, 1))
    }

    /// The kernel has forgotten a node that it was told of so many times.
    pub fn forget(&self, node: Node, times: u64) {
        match node {
            Node::Given(number) => self.givens.lock().forget(number, times),
            Node::Delivery(delivery, _) => self.deliveries.lock().forget(delivery, times),
            _ => {}
        }
    }

    /// The queue of a directory of properties.
    pub(super) fn queue_given(&self, number: u64) -> Result<u64> {
        self.givens.lock().get(number).map(|(queue, _)| queue)
    }

    /// The queue of a directory in which messages and drafts can be made, and the properties that they get there.
    pub(super) fn entrance(&self, directory: Node) -> Result<(u64, Pairs)> {
        match directory {
            Node::Queue(queue) => Ok((queue, Pairs::new())),
            Node::Given(number) => {
                let (queue, name) = self.givens.lock().get(number)?;
                Ok((queue, attributes_of(&name)?))
            }
            _ => Err(Error::NotPermitted("nothing is created in a control directory")),
        }
    }

    /// What a name in a directory of properties means: a draft of the queue's, or what the caller's session wrote. So what was
    /// written there is found there by those who wrote it, and programs that go on to set its mode succeed.
    pub(super) fn find_given(&self, caller: &Caller, queue: u64, name: &[u8]) -> Result<Found> {
        match self.find_with(caller, queue, name, is_draft_given(name))? {
            found @ (Found::Draft(_) | Found::Bare(..) | Found::Unfinished(_) | Found::Gone(_)) => Ok(found),
            found @ Found::Message(..) if self.store.keeps_names(queue)? => Ok(found),
            _ => Err(Error::NotFound),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_number_until_the_kernel_has_forgotten_it() {
        let mut givens = Givens::default();
        let first = givens.tell(1, 7, b"priority=9");
        assert_eq!(givens.tell(1, 7, b"priority=9"), first);
        assert_ne!(givens.tell(1, 8, b"priority=9"), first);
        givens.forget(first, 1);
        assert_eq!(givens.get(first).unwrap(), (7, Arc::from(&b"priority=9"[..])));
        givens.forget(first, 1);
        assert!(matches!(givens.get(first), Err(Error::Stale)));
        let again = givens.tell(1, 7, b"priority=9");
        assert!(again > first + 1, "no number is used twice");
        givens.forget(first, 1);
        assert!(givens.get(again).is_ok());
    }

    #[test]
    fn the_table_is_bounded_and_nobody_fills_it_for_others() {
        let mut givens = Givens::default();
        let other = givens.tell(2, 1, b"priority=9");
        let numbers: Vec<u64> = (0..KNOWN + 4).map(|n| givens.tell(1, 1, format!("id={n}").as_bytes())).collect();
        assert_eq!((givens.by_number.len(), givens.by_name.len()), (KNOWN, KNOWN));
        assert!(numbers[..5].iter().all(|number| givens.get(*number).is_err()));
        assert!(numbers[5..].iter().chain([&other]).all(|number| givens.get(*number).is_ok()));
    }
}
