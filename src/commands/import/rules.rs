//! What the fields of a line may say: no more than mqfs itself would have written. Whoever wrote the line may have made it up, and
//! what it says counts as if it had happened here.

use crate::queue::config::QueueConfig;
use crate::queue::mark::{Says, attribute_of, check_mark};
use crate::queue::properties::{PREFIX, Properties, ms};
use crate::store::DEAD_HEADERS;
use crate::store::record::{Claim, MessageRecord};
use crate::view::process;
use crate::view::xattr::{LONGEST, properties};

use super::super::jsonl::{Attributes, MarkLine};
use super::Stop;

/// No process has a larger number: `PID_MAX_LIMIT` of Linux.
const LAST_PROCESS: u32 = 1 << 22;
/// What is kept of a worker's last words, in bytes.
const LAST_ERROR: usize = 1024;
/// So many deaths are remembered.
const DEATHS: usize = 16;

type Checked = Result<(), Stop>;

fn unless(right: bool, why: impl FnOnce() -> String) -> Checked {
    if right { Ok(()) } else { Err(Stop::Line(why())) }
}

/// A user or a group: the number that means none is no owner.
pub fn owner(id: u32) -> Result<u32, Stop> {
    unless(id != u32::MAX, || format!("{id} is no user and no group")).map(|()| id)
}

/// The record of a message, but for its numbers, which the store knows, and its name.
pub fn message(record: &MessageRecord, config: &QueueConfig) -> Checked {
    processes(&[record.producer_pid])?;
    unless(record.last_error.len() <= LAST_ERROR, || format!("`last_error` is longer than {LAST_ERROR} bytes"))?;
    unless(record.deaths.len() <= DEATHS, || format!("more than {DEATHS} `deaths`"))?;
    record.claim.as_ref().map_or(Ok(()), |found| claim(found, record.deliveries, config))
}

/// A mark: its name, too, is that of an attribute.
pub fn mark(line: &MarkLine) -> Checked {
    let attribute = attribute_of(Says::Is, &line.mark);
    unless(attribute.len() <= 255, || format!("`{attribute}` is longer than an attribute's name"))?;
    Ok(check_mark(&line.mark, &line.value.0)?)
}

fn processes(pids: &[u32]) -> Checked {
    let wrong = pids.iter().find(|pid| **pid > LAST_PROCESS);
    wrong.map_or(Ok(()), |pid| Err(Stop::Line(format!("{pid} is no process"))))
}

fn claim(claim: &Claim, deliveries: u32, config: &QueueConfig) -> Checked {
    owner(claim.uid)?;
    processes(&[claim.parent, claim.grandparent, claim.session])?;
    unless(deliveries > 0, || "claimed, and never delivered".to_owned())?;
    let longest = ms(config.max_lease.max(config.visibility_timeout));
    let within = claim.at <= claim.deadline && claim.deadline - claim.at <= longest;
    unless(within, || "its lease ends before its claim, or later than the queue allows".to_owned())?;
    let Some(holder) = claim.process else { return Ok(()) };
    processes(&[holder.tgid])?;
    unless(holder.tgid > 0, || "0 is no process".to_owned())?;
    // One that runs here can be asked; of others nothing is left, here at least, that the claim could be good for.
    let runs = process::identity(holder.tgid) == Some(holder);
    let other = runs && process::user(holder.tgid) != Some(claim.uid);
    unless(!other, || format!("process {} is not user {}'s: it has not claimed this", holder.tgid, claim.uid))
}

/// The attributes of a message, or those that users gave a queue, which has no properties.
pub fn attributes(given: Attributes, of_message: bool) -> Result<Vec<(String, Vec<u8>)>, Stop> {
    let mut length = 0;
    for (name, value) in &given {
        let kept = name.starts_with("user.") && name.len() <= 255 && !name.contains('\0');
        unless(kept, || format!("`{name}` is no attribute that mqfs keeps"))?;
        let dead = DEAD_HEADERS.contains(&name.as_str());
        if let Some(own) = name.strip_prefix(PREFIX)
            && !(of_message && dead)
        {
            let known = of_message && properties().any(|known| known == own);
            unless(known, || format!("`{name}` is no property"))?;
            Properties::default().set(own, &value.0)?;
        }
        if !dead {
            length += name.len() + value.0.len() + 1;
        }
    }
    unless(length <= LONGEST, || format!("attributes of {length} bytes: no file has more than {LONGEST}"))?;
    Ok(given.into_iter().map(|(name, value)| (name, value.0)).collect())
}
