//! Dead letters that go to another queue.
//!
//! A message that its queue gives up, for its deliveries or its age, goes to the queue that `dead_letter` names. There it comes
//! anew, as from the owner of the queue that gives it up: that queue lets it in or refuses it as any other message. When it
//! cannot go there it stays where it is, dead, with what was in its way: it is never lost.

use crate::clock::rfc3339;
use crate::error::{Error, Result};
use crate::locks::{self, Guard};
use crate::queue::access::{EXEC, Owner, WRITE};
use crate::queue::config::Names;
use crate::queue::name::{MAX_KEPT_NAME, MAX_NAME, stripped};
use crate::queue::properties::Properties;

use super::limits::{Need, Plan};
use super::record::{MessageRecord, QueueHead};
use super::state::{Queue, State};
use super::{Altered, Onto, ROOT, Store, deaths};

/// What a dead letter tells about itself: why, the path of the queue that gave it up, how often it was delivered there, and when
/// it was given up; last, why it is not where `dead_letter` says, if it is not.
pub const DEAD_HEADERS: &[&str] = &[
    "user.mq.dead_reason",
    "user.mq.dead_source",
    "user.mq.dead_deliveries",
    "user.mq.dead_at",
    "user.mq.dead_refused",
];

/// Why a message is a dead letter. Its word becomes a header of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadReason {
    /// `max_deliveries`.
    MaxDeliveries,
    /// Its time to live was over.
    Expired,
    /// Its worker gave it up.
    Rejected,
    /// Somebody moved it to the dead letters.
    Moved,
}

/// The word for one that would have gone round.
const CYCLE: &str = "cycle";

impl DeadReason {
    fn word(self) -> &'static str {
        match self {
            DeadReason::MaxDeliveries => "max_deliveries",
            DeadReason::Expired => "expired",
            DeadReason::Rejected => "rejected",
            DeadReason::Moved => "moved",
        }
    }

    /// Whether it goes to the queue that `dead_letter` names. What was moved by hand is found where it was moved to.
    fn leaves(self) -> bool {
        self != DeadReason::Moved
    }
}

/// Where the dead letters of a queue go, as it was looked up without the lock.
struct Way {
    /// The queue.
    from: u64,
    /// Its path.
    path: String,
    /// What its configuration says.
    dead_letter: String,
    /// The queue that they go to, or why they cannot; `None` when they stay.
    target: Option<std::result::Result<u64, String>>,
}

/// A dead letter that another queue lets in.
struct Entrance {
    target: u64,
    /// The name that it gets there.
    name: Vec<u8>,
    /// What makes room for it.
    plan: Plan,
}

impl Store {
    /// As [`Store::alter`], for what may end in dead: `change` tells why. Such a message gets headers that say where it died and
    /// why, and goes to the queue that `dead_letter` names, if that lets it in; unless it died there before and nobody has claimed it
    /// since, which would go on for ever.
    ///
    /// The path of the queue, and the way to the other one, are looked up without the lock when it turns out that they are needed,
    /// and the change is made again: the tree may be deep, and nobody waits for a walk through it. That is repeated only if
    /// somebody changes the configuration, or moves the message, just then.
    pub(super) fn give_up(
        &self,
        seq: u64,
        now: u64,
        change: impl Fn(&mut MessageRecord, &mut Queue) -> Result<Option<DeadReason>>,
    ) -> Result<Altered> {
        let mut known: Option<Way> = None;
        loop {
            let mut state = self.lock();
            let before = self.visible(&mut state, seq)?;
            let mut after = before.clone();
            let holder = state.changing(&self.db, before.queue)?;
            let Some(reason) = change(&mut after, holder)? else {
                return Ok(Altered { seq, record: self.replace(state, seq, &before, after, now)? });
            };
            let dead_letter = if reason.leaves() { holder.config.dead_letter.clone() } else { String::new() };
            match known.take().filter(|way| (way.from, &way.dead_letter) == (before.queue, &dead_letter)) {
                Some(way) => return self.bury(state, (seq, &before), after, (reason, way), now),
                None => {
                    drop(state);
                    known = Some(self.way_of(before.queue, dead_letter)?);
                }
            }
        }
    }

    /// Ends an operation that gives a message up, which is changed to `after`.
    fn bury(
        &self,
        mut state: Guard<'_, State>,
        (seq, before): (u64, &MessageRecord),
        mut after: MessageRecord,
        (reason, way): (DeadReason, Way),
        now: u64,
    ) -> Result<Altered> {
        let (mut word, mut refused, mut goes_round) = (reason.word(), None, false);
        match way.target {
            None => {}
            Some(Ok(target)) if deaths::goes_round(&before.deaths, target) => {
                word = CYCLE;
                let told = &mut state.queue(&self.db, before.queue)?.cycle_told;
                goes_round = !std::mem::replace(told, true);
            }
            Some(Ok(target)) => match self.let_in(&mut state, target, seq, &after) {
                Ok(entrance) => {
                    note_death(before, &mut after, &way.path, (word, None), now);
                    return self.dead_letter_to(state, entrance, (seq, before), after, now);
                }
                Err(error) => {
                    if matches!(error, Error::QueueFull | Error::WouldBlock | Error::Paused) {
                        state.changing(&self.db, target)?.counters.rejected_total += 1;
                    }
                    refused = Some(match error {
                        Error::WouldBlock => Error::QueueFull.to_string(), // nobody waits with it
                        other => other.to_string(),
                    });
                }
            },
            Some(Err(why)) => refused = Some(why),
        }
        let header = refused.as_ref().map(|why| format!("{}: {why}", way.dead_letter));
        note_death(before, &mut after, &way.path, (word, header), now);
        let record = self.replace(state, seq, before, after, now)?;
        let (queue, dead_letter) = (way.path, way.dead_letter);
        if let Some(why) = refused {
            tracing::warn!(queue, name = self.name_of(seq), dead_letter, why, "a dead letter stays in .mq/dead");
        } else if goes_round {
            tracing::warn!(
                queue,
                name = %String::from_utf8_lossy(&before.name),
                dead_letter,
                "dead letters go round: a message that died there before, and that no worker has had since, stays in .mq/dead"
            );
        }
        Ok(Altered { seq, record })
    }

    /// Whether the queue `target` lets a dead letter in, and how; else why not.
    fn let_in(&self, state: &mut State, target: u64, seq: u64, message: &MessageRecord) -> Result<Entrance> {
        let config = state.queue(&self.db, target)?.config.clone();
        let (name, longest) = match config.names {
            Names::Keep => (&message.name[..], MAX_KEPT_NAME),
            Names::Sequence => {
                (stripped(&message.name, |seq| state.gave_out(seq)), MAX_NAME - usize::from(config.priorities > 1))
            }
        };
        let name = self.fitting(state, target, seq, &name[..name.len().min(longest)])?;
        self.refuse_kept(state, target, &name)?;
        let need = Need::of_one(message.size, Properties::of(&message.attributes).order(config.priorities));
        self.admit(state, target, need, Onto::Nothing)?;
        let plan = self.plan_drops(state, target, need, Onto::Nothing)?;
        Ok(Entrance { target, name, plan })
    }

    /// Ends an operation that gives a message up to another queue.
    fn dead_letter_to(
        &self,
        mut state: Guard<'_, State>,
        Entrance { target, name, plan }: Entrance,
        (seq, before): (u64, &MessageRecord),
        mut after: MessageRecord,
        now: u64,
    ) -> Result<Altered> {
        self.settle(&mut state, &mut after, (target, &name), false, now)?;
        let mut batch = self.db.batch();
        let new = self.renumber(&mut state, &mut batch, seq, before, &mut after)?;
        state.changing(&self.db, target)?.counters.enqueued_total += 1;
        let dropped = self.drop_oldest(&mut state, &mut batch, target, plan, now)?;
        state.commit(&self.db, batch, now)?;
        state.lost.note(before, &after);
        drop(state);
        self.note_deadlines(&after);
        self.discard_bodies(dropped);
        Ok(Altered { seq: new, record: after })
    }

    /// The way of the dead letters of the queue `from`, of which the configuration says where they go.
    fn way_of(&self, from: u64, dead_letter: String) -> Result<Way> {
        locks::assert_free(locks::STORE);
        let target = match dead_letter.as_str() {
            "" => None,
            path => Some(self.dead_letter_queue(path, from)?),
        };
        Ok(Way { from, path: self.label(from), dead_letter, target })
    }

    /// The queue of a path that the dead letters of the queue `from` go to, or why they cannot. Its owner, as the mount shows it, must
    /// be allowed to enqueue there, as a member of whatever group: the path is a line of configuration, which nobody has
    /// checked, and a queue made in a set-group-id queue has a group that its owner need not be in.
    fn dead_letter_queue(&self, path: &str, from: u64) -> Result<std::result::Result<u64, String>> {
        let owner = self.guise.of(owner_of(&self.queue_head(from)?)).uid;
        let allows = |head: &QueueHead, want| self.guise.of(owner_of(head)).allows_in_any_group(owner, want);
        let (mut queue, mut head) = (ROOT, self.queue_head(ROOT)?);
        for name in path.split('/') {
            if !allows(&head, EXEC) {
                return Ok(Err("the owner of the queue may not go there".to_owned()));
            }
            let nested = self.child(queue, name.as_bytes())?;
            // One that has just been removed is not there either.
            match nested.map(|nested| (nested, self.queue_head(nested))) {
                Some((nested, Ok(found))) => (queue, head) = (nested, found),
                None | Some((_, Err(Error::NotFound))) => return Ok(Err("there is no such queue".to_owned())),
                Some((_, Err(error))) => return Err(error),
            }
        }
        if queue == from {
            return Ok(Err("that is the queue itself".to_owned()));
        }
        if !allows(&head, WRITE | EXEC) {
            return Ok(Err("the owner of the queue may not enqueue there".to_owned()));
        }
        Ok(Ok(queue))
    }
}

/// Writes into a message's new record where it died, and why; and why it is not where dead letters go, if it is not.
fn note_death(
    before: &MessageRecord,
    after: &mut MessageRecord,
    path: &str,
    (word, refused): (&str, Option<String>),
    now: u64,
) {
    deaths::note(&mut after.deaths, (before.queue, path), word, now);
    after.attributes.retain(|(name, _)| !DEAD_HEADERS.contains(&name.as_str()));
    let values = [
        Some(word.to_owned()),
        Some(path.to_owned()),
        Some(before.deliveries.to_string()),
        Some(rfc3339(now)),
        refused,
    ];
    for (name, value) in DEAD_HEADERS.iter().zip(values) {
        after.attributes.extend(value.map(|value| ((*name).to_owned(), value.into_bytes())));
    }
}

fn owner_of(queue: &QueueHead) -> Owner {
    Owner { uid: queue.uid, gid: queue.gid, mode: queue.mode }
}
