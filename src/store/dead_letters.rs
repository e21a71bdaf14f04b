//! Dead letters that go to another queue.
//!
//! A message that its queue gives up, for its deliveries or its age, goes to the queue that `dead_letter` names. When that
//! cannot be, it stays where it is, dead: it is never lost.

use crate::clock::rfc3339;
use crate::error::Result;
use crate::locks::Guard;
use crate::queue::access::{EXEC, Owner, WRITE};
use crate::queue::config::Names;
use crate::queue::name::{MAX_KEPT_NAME, MAX_NAME, stripped};

use super::record::{MessageRecord, QueueRecord};
use super::state::{Queue, State};
use super::{Altered, ROOT, Store, deaths};

/// What a dead letter tells about itself: why, the path of the queue that gave it up, how often it was delivered there, and when
/// it was given up.
pub const DEAD_HEADERS: &[&str] =
    &["user.mq.dead_reason", "user.mq.dead_source", "user.mq.dead_deliveries", "user.mq.dead_at"];

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

impl Store {
    /// As [`Store::alter`], for what may end in dead: `change` tells why. Such a message gets headers that say where it died and
    /// why, and goes to the queue that `dead_letter` names; unless it died there before and nobody has claimed it since, which
    /// would go on for ever.
    pub(super) fn give_up(
        &self,
        seq: u64,
        now: u64,
        change: impl FnOnce(&mut MessageRecord, &mut Queue) -> Result<Option<DeadReason>>,
    ) -> Result<Altered> {
        let mut state = self.lock();
        let before = self.visible(&mut state, seq)?;
        let mut after = before.clone();
        let holder = state.changing(&self.db, before.queue)?;
        let Some(reason) = change(&mut after, holder)? else {
            return Ok(Altered { seq, record: self.replace(state, seq, &before, after, now)? });
        };
        let mut word = reason.word();
        let path = holder.config.dead_letter.clone();
        if reason.leaves() && !path.is_empty() {
            match self.dead_letter_place(&mut state, &path, (seq, &before))? {
                Ok((target, _)) if deaths::goes_round(&before.deaths, target) => {
                    word = CYCLE;
                    self.tell_cycle(&mut state, &before, &path)?;
                }
                Ok((target, name)) => {
                    self.note_death(&mut state, &before, &mut after, word, now)?;
                    return self.dead_letter_to(state, (target, &name), (seq, &before), after, now);
                }
                Err(why) => {
                    tracing::warn!(
                        queue = self.label(before.queue),
                        name = self.name_of(seq),
                        dead_letter = path,
                        why,
                        "a dead letter stays in .mq/dead"
                    );
                }
            }
        }
        self.note_death(&mut state, &before, &mut after, word, now)?;
        Ok(Altered { seq, record: self.replace(state, seq, &before, after, now)? })
    }

    /// Writes into a message's new record where it died, and why.
    fn note_death(
        &self,
        state: &mut State,
        before: &MessageRecord,
        after: &mut MessageRecord,
        word: &str,
        now: u64,
    ) -> Result<()> {
        let path = self.queue_path(state, before.queue)?;
        deaths::note(&mut after.deaths, (before.queue, &path), word, now);
        let values = [word.to_owned(), path, before.deliveries.to_string(), rfc3339(now)];
        after.attributes.retain(|(name, _)| !DEAD_HEADERS.contains(&name.as_str()));
        let headers = DEAD_HEADERS.iter().zip(values).map(|(name, value)| ((*name).to_owned(), value.into_bytes()));
        after.attributes.extend(headers);
        Ok(())
    }

    /// Says in the log, once for each queue, that dead letters go round.
    fn tell_cycle(&self, state: &mut State, message: &MessageRecord, dead_letter: &str) -> Result<()> {
        if !std::mem::replace(&mut state.queue(&self.db, message.queue)?.cycle_told, true) {
            let path = self.queue_path(state, message.queue)?;
            tracing::warn!(
                queue = path,
                name = %String::from_utf8_lossy(&message.name),
                dead_letter,
                "dead letters go round: a message that died there before, and that no worker has had since, stays in .mq/dead"
            );
        }
        Ok(())
    }

    /// Where a dead letter goes, and under which name, or why it cannot.
    fn dead_letter_place(
        &self,
        state: &mut State,
        path: &str,
        (seq, message): (u64, &MessageRecord),
    ) -> Result<std::result::Result<(u64, Vec<u8>), String>> {
        let target = match self.dead_letter_queue(state, path, message.queue)? {
            Ok(target) => target,
            Err(why) => return Ok(Err(why.to_owned())),
        };
        let config = state.queue(&self.db, target)?.config.clone();
        let (name, longest) = match config.names {
            Names::Keep => (&message.name[..], MAX_KEPT_NAME),
            Names::Sequence => {
                (stripped(&message.name, |seq| state.gave_out(seq)), MAX_NAME - usize::from(config.priorities > 1))
            }
        };
        let name = &name[..name.len().min(longest)];
        let name = self.fitting(state, target, seq, name);
        let free = name.and_then(|name| self.refuse_kept(state, target, &name).map(|()| name));
        Ok(free.map(|name| (target, name)).map_err(|error| error.to_string()))
    }

    /// Ends an operation that gives a message up to the queue `target`, under that name.
    fn dead_letter_to(
        &self,
        mut state: Guard<'_, State>,
        (target, name): (u64, &[u8]),
        (seq, before): (u64, &MessageRecord),
        mut after: MessageRecord,
        now: u64,
    ) -> Result<Altered> {
        self.settle(&mut state, &mut after, (target, name), false, now)?;
        let mut batch = self.db.batch();
        let new = self.renumber(&mut state, &mut batch, seq, before, &mut after)?;
        state.changing(&self.db, target)?.counters.enqueued_total += 1;
        state.commit(&self.db, batch, now)?;
        state.lost.note(before, &after);
        drop(state);
        self.note_deadlines(&after);
        Ok(Altered { seq: new, record: after })
    }

    /// The queue of a path that the dead letters of the queue `from` go to, or why they cannot. Its owner must be allowed to
    /// enqueue there, as a member of whatever group: the path is a line of configuration, which nobody has checked, and a queue
    /// made in a set-group-id queue has a group that its owner need not be in.
    fn dead_letter_queue(
        &self,
        state: &mut State,
        path: &str,
        from: u64,
    ) -> Result<std::result::Result<u64, &'static str>> {
        let owner = state.queue(&self.db, from)?.record.uid;
        let mut queue = ROOT;
        for name in path.split('/') {
            if !allows(&state.queue(&self.db, queue)?.record, owner, EXEC) {
                return Ok(Err("the owner of the queue may not go there"));
            }
            match self.child(queue, name.as_bytes())? {
                Some(nested) => queue = nested,
                None => return Ok(Err("there is no such queue")),
            }
        }
        if queue == from {
            return Ok(Err("that is the queue itself"));
        }
        if !allows(&state.queue(&self.db, queue)?.record, owner, WRITE | EXEC) {
            return Ok(Err("the owner of the queue may not enqueue there"));
        }
        Ok(Ok(queue))
    }
}

/// Whether the mode of a queue gives a user the rights in `want`.
fn allows(queue: &QueueRecord, uid: u32, want: u32) -> bool {
    Owner { uid: queue.uid, gid: queue.gid, mode: queue.mode }.allows_in_any_group(uid, want)
}
