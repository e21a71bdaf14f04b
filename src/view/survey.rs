//! A look at all queues, for what tells of them: from the root down, with what it takes to know who may be told what.
//!
//! It is made without the store's lock, but for a moment for each queue that is in use.

use std::collections::HashMap;

use crate::clock;
use crate::error::{Error, Result};
use crate::store::{Alike, Oldest, QueueInfo, ROOT};

use super::View;
use super::access::{EXEC, Owner, READ};
use super::held::shares;
use super::metrics::label;
use super::telling::Audience;
use super::waiters::Line;

/// Of no more queues is told than have paths of this length in all, in bytes; each is told some thirty times. One user's take no
/// more of it than a user's share.
const PATHS: usize = 4 << 20;
/// A path counts as so many bytes more, for what is told with it.
const PATHS_MORE: usize = 64;

/// A queue that was looked at.
pub struct Surveyed {
    /// Its path from the root of the mount, as the value of a label; empty for the root.
    pub path: String,
    place: Place,
    /// What there is to tell of it.
    pub info: QueueInfo,
    /// Since when the oldest message of each state has been in it.
    pub oldest: Oldest,
    /// Readers that wait for a message.
    pub waiting: usize,
    /// Writers that wait for room.
    pub waiting_writers: usize,
}

/// What it takes to know who may know of a queue.
#[derive(Clone, Copy)]
struct Place {
    /// Which of those before it it is nested in.
    parent: usize,
    owner: Owner,
    /// How many of those nested in it are left out.
    left_out: u64,
}

/// The same of all queues, in the order of the survey.
pub struct Places(Vec<Place>);

/// All queues.
pub struct Survey {
    /// The root first, and each behind the one that it is nested in.
    pub queues: Vec<Surveyed>,
    /// When the look began, in milliseconds since the epoch.
    pub at: u64,
}

/// Who may know what of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Nothing.
    Hidden,
    /// That it is there.
    Listed,
    /// All.
    Readable,
}

/// What the paths that are told take, in all and of each user.
#[derive(Default)]
struct Paths {
    sum: usize,
    of: HashMap<u32, usize>,
}

impl Paths {
    /// Whether one more may be told, of a queue of the user `uid`.
    fn take(&mut self, uid: u32, length: usize, owner: u32) -> bool {
        let (most, own_most) = shares(PATHS, uid, owner);
        let own = self.of.entry(uid).or_default();
        let fits = self.sum + length <= most && *own + length <= own_most;
        if fits {
            self.sum += length + PATHS_MORE;
            *own += length + PATHS_MORE;
        }
        fits
    }
}

impl Survey {
    /// What is left of it when everything was told.
    pub fn places(&self) -> Places {
        Places(self.queues.iter().map(|queue| queue.place).collect())
    }
}

impl Places {
    /// What it takes in memory, in bytes.
    pub fn memory(&self) -> usize {
        self.0.capacity() * size_of::<Place>()
    }

    /// What these may know of each queue.
    pub fn shown_to(&self, audience: &Audience) -> Vec<Shown> {
        let mut shown: Vec<Shown> = Vec::with_capacity(self.0.len());
        for (at, queue) in self.0.iter().enumerate() {
            // A queue is found by who can list the one that it is nested in.
            let found = at == 0 || shown[queue.parent] == Shown::Readable;
            shown.push(match found {
                false => Shown::Hidden,
                true if audience.allows(&queue.owner, READ | EXEC) => Shown::Readable,
                true => Shown::Listed,
            });
        }
        shown
    }

    /// How many of the queues that they could find are left out.
    pub fn left_out(&self, shown: &[Shown]) -> u64 {
        let told = self.0.iter().zip(shown).filter(|(_, shown)| **shown == Shown::Readable);
        told.map(|(queue, _)| queue.left_out).sum()
    }
}

impl View {
    /// Looks at all queues. Those at the top come first, so that nobody who nests queues without end crowds out the others'.
    pub(super) fn survey(&self) -> Result<Survey> {
        let (at, mut like, mut paths) = (clock::now_ms(), Alike::default(), Paths::default());
        let mut queues = vec![self.surveyed(ROOT, String::new(), 0, &mut like)?];
        let mut ids = vec![ROOT];
        let mut next = 0;
        while next < queues.len() {
            let parent = &queues[next];
            if parent.info.counters.queues > 0 {
                let (above, mut left_out, mut failed) = (parent.path.clone(), 0, None);
                self.store.list_queues(ids[next], 0, |nested| {
                    let name = label(nested.name);
                    let path = if above.is_empty() { name } else { format!("{above}/{name}") };
                    let length = path.len();
                    match self.surveyed(nested.id, path, next, &mut like) {
                        Ok(found) if paths.take(found.info.uid, length, Self::process_owner()) => {
                            queues.push(found);
                            ids.push(nested.id);
                        }
                        Ok(_) => left_out += 1,
                        Err(Error::NotFound) => {} // removed meanwhile
                        Err(error) => failed = Some(error),
                    }
                    failed.is_none()
                })?;
                if let Some(error) = failed {
                    return Err(error);
                }
                queues[next].place.left_out = left_out;
            }
            next += 1;
        }
        Ok(Survey { queues, at })
    }

    fn surveyed(&self, queue: u64, path: String, parent: usize, like: &mut Alike) -> Result<Surveyed> {
        let (info, oldest) = self.store.look_at_queue(queue, like)?;
        Ok(Surveyed {
            path,
            place: Place { parent, owner: self.owner(&info), left_out: 0 },
            info,
            oldest,
            waiting: self.waiters.waiting(Line::Message(queue)),
            waiting_writers: self.waiters.waiting_for_room(queue),
        })
    }
}
