//! Metadata as extended attributes.
//!
//! `user.mq.*` is the project's; any other `user.*` attribute of a message is a header that travels with it.

use std::sync::Arc;

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::config::{KEYS, QueueConfig};
use crate::queue::mark::{SETTLES, Settles};
use crate::queue::properties::{CONTROLLING, DESCRIBING, Properties};
use crate::queue::state::State;
use crate::queue::words::PROPERTIES;
use crate::store::record::{Claim, MessageRecord};
use crate::store::{Death, Of, ROOT};

use super::access::{Caller, READ};
use super::lookup::delivery_path;
use super::marks::is_mark;
use super::open::shares;
use super::properties::{get_given, set_each};
use super::stats::{COUNTERS, GAUGES, counter};
use super::{Node, View};

/// What a message tells about itself; set by mqfs only.
pub const MESSAGE_ATTRIBUTES: &[&str] = &[
    "id",
    "seq",
    "name",
    "state",
    "enqueued_at",
    "deliveries",
    "claimed_by",
    "claimed_at",
    "deadline",
    "delivery",
    SETTLED,
    "due",
    "expires",
    "producer",
    "dead_reason",
    "dead_source",
    "dead_deliveries",
    "dead_at",
    "dead_refused",
    "deaths",
    "last_error",
];
/// Of a message that is open, and whose claim is over: see [`super::settled`].
const SETTLED: &str = "settled";
pub use crate::queue::properties::PREFIX;

/// What a worker said when it failed: who may consume sets it, at any time.
const LAST_ERROR: &str = "user.mq.last_error";

/// On the root of the mount: the process that serves it.
pub const DAEMON_PID: &str = "user.mq.daemon_pid";

/// All attributes of one file together are no longer than this, in bytes: what `listxattr` can list.
pub const LONGEST: usize = 64 * 1024;

/// An attribute takes so many bytes of memory more than its name and value have.
const EACH: usize = 128;

/// What `setxattr` demands of the attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nothing.
    None,
    /// That it is not there (`XATTR_CREATE`).
    New,
    /// That it is there (`XATTR_REPLACE`).
    Old,
}

pub(super) type Pairs = Vec<(String, Vec<u8>)>;

/// The properties that a producer may set on a new file or a draft, without the prefix.
pub fn properties() -> impl Iterator<Item = &'static str> {
    CONTROLLING.iter().chain(DESCRIBING).copied()
}

/// The names of the counters of a queue, without the prefix.
pub fn counter_names() -> impl Iterator<Item = &'static str> {
    COUNTERS.iter().map(|(name, ..)| *name)
}

/// The name as text, when it is one of a kind that this filesystem keeps.
fn kept(name: &[u8]) -> Result<&str> {
    match std::str::from_utf8(name) {
        Ok(name) if name.starts_with("user.") => Ok(name),
        _ => Err(Error::NotSupported),
    }
}

pub(super) fn find(pairs: &Pairs, name: &str) -> Result<Vec<u8>> {
    pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()).ok_or(Error::NoAttribute)
}

/// What attributes count towards limits, in bytes.
pub(super) fn length(pairs: &Pairs) -> usize {
    pairs.iter().map(|(name, value)| name.len() + value.len() + 1).sum()
}

/// What the attributes of a file take, in bytes, with what it takes to find them.
pub(super) fn memory(pairs: &Pairs) -> usize {
    length(pairs) + pairs.len() * EACH
}

fn set(pairs: &mut Pairs, name: &str, value: &[u8], demand: Demand) -> Result<()> {
    let at = pairs.iter().position(|(known, _)| known == name);
    match (demand, at) {
        (Demand::New, Some(_)) => return Err(Error::Exists),
        (Demand::Old, None) => return Err(Error::NoAttribute),
        (_, Some(at)) => {
            pairs.remove(at);
        }
        (_, None) => {}
    }
    if length(pairs) + name.len() + value.len() + 1 > LONGEST {
        return Err(Error::NoSpace);
    }
    pairs.push((name.to_owned(), value.to_vec()));
    Ok(())
}

/// Sets attributes.
pub(super) fn merge(pairs: &mut Pairs, more: &Pairs) -> Result<()> {
    more.iter().try_for_each(|(name, value)| set(pairs, name, value, Demand::None))
}

fn unset(pairs: &mut Pairs, name: &str) -> Result<()> {
    let at = pairs.iter().position(|(known, _)| known == name).ok_or(Error::NoAttribute)?;
    pairs.remove(at);
    Ok(())
}

/// Sets an attribute of a file that is not a message yet. Those that mqfs sets are accepted and ignored, so that `mv` out
/// of the mount and back works.
pub(super) fn set_on_new(pairs: &mut Pairs, name: &str, value: &[u8], demand: Demand) -> Result<()> {
    set_each(name, value, |name, value| set_one_on_new(pairs, name, value, demand))
}

fn set_one_on_new(pairs: &mut Pairs, name: &str, value: &[u8], demand: Demand) -> Result<()> {
    match name.strip_prefix(PREFIX) {
        Some(own) if MESSAGE_ATTRIBUTES.contains(&own) => Ok(()),
        Some(_) if name == SETTLES => {
            Err(Error::Invalid("settles: only a draft or a batch acknowledges a delivery when it is published".into()))
        }
        Some(own) => {
            let known: Vec<&str> = properties().collect();
            if !known.contains(&own) {
                return Err(Error::Invalid(format!("unknown property {own}: known are {}", known.join(", "))));
            }
            Properties::default().set(own, value)?;
            set(pairs, name, value, demand)
        }
        None => set(pairs, name, value, demand),
    }
}

/// As [`set_on_new`], of a draft, which can say what publishing it acknowledges.
fn set_on_draft(pairs: &mut Pairs, name: &str, value: &[u8], demand: Demand) -> Result<()> {
    set_each(name, value, |name, value| {
        if name == SETTLES {
            Settles::parse(value)?;
            return set(pairs, name, value, demand);
        }
        set_one_on_new(pairs, name, value, demand)
    })
}

pub(super) fn own_attribute(seq: u64, message: &MessageRecord, config: &QueueConfig, name: &str) -> Option<Vec<u8>> {
    let claim = message.claim.as_ref();
    let text = match name {
        "id" => format!("{:016x}", message.id),
        "seq" => format!("{seq:016}"),
        "name" => return Some(message.name.clone()),
        "state" => message.state().word().to_owned(),
        "enqueued_at" => clock::rfc3339(message.enqueued_at),
        "deliveries" => message.deliveries.to_string(),
        "claimed_by" => {
            let claim = claim?;
            format!("pid={} uid={}", claim.process.map_or(0, |process| process.tgid), claim.uid)
        }
        "claimed_at" => clock::rfc3339(claim?.at),
        "deadline" => clock::rfc3339(claim?.deadline),
        "delivery" => return Some(delivery_path(config, seq, message, claim?.delivery)),
        "deaths" if !message.deaths.is_empty() => deaths(message),
        "last_error" if !message.last_error.is_empty() => return Some(message.last_error.clone()),
        "due" if message.state() == State::Delayed => clock::rfc3339(message.due),
        "expires" if message.expires > 0 => clock::rfc3339(message.expires),
        "producer" => format!("pid={} uid={}", message.producer_pid, message.uid),
        _ => return None,
    };
    Some(text.into_bytes())
}

/// The history of a message's deaths, as JSON.
fn deaths(message: &MessageRecord) -> String {
    let entry = |death: &Death| {
        let (first, last) = (clock::rfc3339(death.first), clock::rfc3339(death.last));
        serde_json::json!({
            "queue": death.path, "reason": death.reason, "count": death.count, "first": first, "last": last
        })
    };
    serde_json::Value::from_iter(message.deaths.iter().map(entry)).to_string()
}

impl View {
    /// The value of an attribute.
    pub fn get_xattr(&self, node: Node, name: &[u8]) -> Result<Vec<u8>> {
        let name = kept(name)?;
        let own = name.strip_prefix(PREFIX);
        match self.meant(node) {
            marked if is_mark(marked, name) => self.get_mark(marked, name),
            Node::Batch(batch) => find(&self.store.queue_record(batch)?.attributes, name),
            Node::Message(..) | Node::Granted(..) | Node::Delivery(..) if own == Some(SETTLED) => {
                let reach = self.reach(node)?.ok_or(Error::Stale)?;
                let is = |delivery| reach.of == Of::Any || reach.of == Of::This(Some(delivery));
                if self.was_settled(reach.seq, is) { Ok(b"yes".to_vec()) } else { Err(Error::NoAttribute) }
            }
            Node::Message(..) | Node::Granted(..) | Node::Delivery(..) if name == PROPERTIES => {
                self.get_properties(node)
            }
            Node::Message(..) | Node::Granted(..) | Node::Delivery(..) => {
                let (seq, message, config) = self.described(node)?;
                match own.and_then(|own| own_attribute(seq, &message, &config, own)) {
                    Some(value) => Ok(value),
                    None => find(&message.attributes, name),
                }
            }
            Node::Writer(id) | Node::Unfinished(id) => get_given(&self.writer(id)?.lock().attributes, name),
            Node::Draft(id) => get_given(&self.store.draft(id)?.attributes, name),
            Node::Queue(ROOT) if name == DAEMON_PID => Ok(std::process::id().to_string().into_bytes()),
            Node::Queue(queue) => match own {
                Some(own) if queue != ROOT => {
                    let info = self.store.queue(queue)?;
                    if GAUGES.contains(&own) {
                        let value = self.gauge(queue, &info, own)?;
                        return Ok(value.map(|value| value.to_string()).unwrap_or_default().into_bytes());
                    }
                    // `drafts` is a counter and a key, and the counter was there first.
                    let value = counter(&info, own).map(|value| value.to_string()).or_else(|| info.config.get(own));
                    value.map(String::into_bytes).ok_or(Error::NoAttribute)
                }
                _ => find(&self.store.queue_record(queue)?.attributes, name),
            },
            _ => Err(Error::NoAttribute),
        }
    }

    /// The names of all attributes. The kernel asks for no right to list them; here it takes the one to read their values. Who lacks it
    /// is told only what is the same of every queue, and of a file nothing.
    pub fn list_xattr(&self, caller: &Caller, node: Node) -> Result<Vec<String>> {
        let own = |name: &&str| format!("{PREFIX}{name}");
        let given = |pairs: Pairs, readable: bool| pairs.into_iter().map(|(name, _)| name).filter(move |_| readable);
        Ok(match self.meant(node) {
            Node::Message(..) | Node::Granted(..) | Node::Delivery(..) => {
                let (seq, message, config) = self.described(node)?;
                let readable = self.message_owner(&message).allows(caller, READ)
                    || self.owner(&self.store.queue(message.queue)?).may_consume(caller);
                let there = |name: &&&str| readable && own_attribute(seq, &message, &config, name).is_some();
                let mut all: Vec<String> = MESSAGE_ATTRIBUTES.iter().filter(there).map(own).collect();
                all.extend(given(message.attributes, readable));
                all
            }
            Node::Writer(id) | Node::Unfinished(id) => {
                let writer = self.writer(id)?;
                let (owner, attributes) = {
                    let writer = writer.lock();
                    (self.file_owner((writer.uid, writer.gid, writer.mode)), writer.attributes.clone())
                };
                given(attributes, owner.allows(caller, READ)).collect()
            }
            Node::Draft(id) => {
                let draft = self.store.draft(id)?;
                let readable = self.draft_owner(&draft).allows(caller, READ);
                given(draft.attributes, readable).collect()
            }
            Node::Queue(ROOT) => vec![DAEMON_PID.to_owned()],
            Node::Queue(queue) => {
                let counters: Vec<&str> = counter_names().chain(GAUGES.iter().copied()).collect();
                let keys = KEYS.iter().filter(|key| !counters.contains(key));
                let mut all: Vec<String> = keys.chain(&counters).map(own).collect();
                if self.owner(&self.store.queue(queue)?).allows(caller, READ) {
                    all.extend(self.list_given(node, queue)?);
                }
                all
            }
            Node::Batch(batch) => match self.owner(&self.store.queue(batch)?).allows(caller, READ) {
                true => self.list_given(node, batch)?,
                false => Vec::new(),
            },
            _ => Vec::new(),
        })
    }

    /// The names of what users have given a queue or batch: attributes and marks.
    fn list_given(&self, node: Node, queue: u64) -> Result<Vec<String>> {
        let attributes = self.store.queue_record(queue)?.attributes;
        let mut all: Vec<String> = attributes.into_iter().map(|(name, _)| name).collect();
        all.extend(self.list_marks(node)?);
        Ok(all)
    }

    /// Sets an attribute.
    pub fn set_xattr(&self, caller: &Caller, node: Node, name: &[u8], value: &[u8], demand: Demand) -> Result<()> {
        self.refuse_read_only()?;
        let name = kept(name)?;
        match self.meant(node) {
            Node::Writer(id) | Node::Unfinished(id) => {
                self.alter_writer(id, |attributes| set_on_new(attributes, name, value, demand))
            }
            Node::Gone(_) => Ok(()),
            Node::Draft(id) => {
                self.store.admit_bytes(0)?;
                set_each(name, value, |name, _| self.refuse_settling_late(id, name))?;
                self.store.alter_draft(id, |draft| set_on_draft(&mut draft.attributes, name, value, demand)).map(drop)
            }
            marked if is_mark(marked, name) => self.set_mark(marked, name, value, demand),
            Node::Batch(batch) if name == SETTLES => {
                Settles::parse(value)?;
                self.refuse_while_enqueued(batch)?;
                self.store.admit_bytes(0)?;
                self.store.alter_queue(batch, |record| set(&mut record.attributes, name, value, demand))
            }
            Node::Message(..) | Node::Granted(..) | Node::Delivery(..) if name == LAST_ERROR => {
                self.set_last_error(caller, node, value)
            }
            Node::Message(..) | Node::Granted(..) | Node::Delivery(..) => {
                Err(Error::NotPermitted("a committed message never changes"))
            }
            Node::Queue(ROOT) => Err(Error::NotPermitted("the root of the mount has no attributes of its own")),
            Node::Queue(queue) => match name.strip_prefix(PREFIX) {
                Some(own) => self.set_key(caller, queue, own, value),
                None => {
                    self.store.admit_bytes(0)?;
                    self.store.alter_queue(queue, |record| set(&mut record.attributes, name, value, demand))
                }
            },
            _ => Err(Error::NotPermitted("control files have no attributes")),
        }
    }

    /// The message of a node, its number, and the configuration of its queue.
    pub(super) fn described(&self, node: Node) -> Result<(u64, MessageRecord, Arc<QueueConfig>)> {
        let reach = self.reach(node)?.ok_or(Error::Stale)?;
        let message = self.reached(&reach).map_err(|error| match (error, reach.of) {
            // It was looked up by its name, and has left: the kernel looks the name up again.
            (Error::NotFound, Of::Any) => Error::Stale,
            (error, _) => error,
        })?;
        let config = self.store.config(message.queue)?;
        Ok((reach.seq, message, config))
    }

    /// A worker says why it failed. It may if it holds the claim, or may consume.
    fn set_last_error(&self, caller: &Caller, node: Node, said: &[u8]) -> Result<()> {
        self.store.admit_bytes(0)?;
        let reach = self.reach(node)?.ok_or(Error::Stale)?;
        let message = self.reached(&reach)?;
        let holds = |claim: &Claim| shares(self.workers.worker(caller.pid), claim, &self.look).is_some();
        let may = self.owner(&self.store.queue(message.queue)?).may_consume(caller);
        if !may && !message.claim.as_ref().is_some_and(holds) {
            return Err(Error::AccessDenied);
        }
        self.store.set_last_error(reach.seq, reach.of, said, clock::now_ms())
    }

    /// Changes the attributes of a new message; [`Error::TooManyOpen`] when those of all that are open take too much memory.
    fn alter_writer(&self, id: u64, change: impl FnOnce(&mut Pairs) -> Result<()>) -> Result<()> {
        let writer = self.writer(id)?;
        let mut writer = writer.lock();
        let mut attributes = writer.attributes.clone();
        change(&mut attributes)?;
        writer.held.resize(memory(&attributes))?;
        self.touched(&mut writer)?;
        writer.attributes = attributes;
        Ok(())
    }

    /// Sets a configuration key of a queue.
    fn set_key(&self, caller: &Caller, queue: u64, key: &str, value: &[u8]) -> Result<()> {
        let info = self.store.queue(queue)?;
        if counter(&info, key).is_some() || GAUGES.contains(&key) {
            return Err(Error::NotPermitted("a counter cannot be set"));
        }
        if !self.owner(&info).is_owner(caller) {
            return Err(Error::AccessDenied);
        }
        let mut config: QueueConfig = (*info.config).clone();
        let value = std::str::from_utf8(value).map_err(|_| Error::Invalid(format!("{key}: not UTF-8")));
        let applied = value.and_then(|value| config.set(key, value)).and_then(|()| {
            self.store.alter_queue(queue, |record| {
                record.config = config.render();
                record.rejected.clear();
                Ok(())
            })
        });
        applied.inspect_err(|error| self.note_refusal(queue, error))?;
        self.was_configured(queue);
        Ok(())
    }

    /// Removes an attribute. Of those that mqfs sets, and of what a queue or a message has in [`PREFIX`], nothing is removed: programs
    /// that copy attributes remove whatever the original does not have.
    pub fn remove_xattr(&self, caller: &Caller, node: Node, name: &[u8]) -> Result<()> {
        self.refuse_read_only()?;
        let name = kept(name)?;
        let own = name.strip_prefix(PREFIX);
        match self.meant(node) {
            Node::Writer(_) | Node::Unfinished(_) | Node::Draft(_)
                if own.is_some_and(|own| MESSAGE_ATTRIBUTES.contains(&own)) =>
            {
                Ok(())
            }
            Node::Writer(id) | Node::Unfinished(id) => self.alter_writer(id, |attributes| unset(attributes, name)),
            Node::Gone(_) => Ok(()),
            Node::Draft(id) => {
                self.refuse_settling_late(id, name)?;
                self.store.alter_draft(id, |draft| unset(&mut draft.attributes, name)).map(drop)
            }
            marked if is_mark(marked, name) => self.remove_mark(marked, name),
            Node::Batch(batch) => {
                self.refuse_while_enqueued(batch)?;
                self.store.alter_queue(batch, |record| unset(&mut record.attributes, name))
            }
            // Some of them come and go by themselves: whoever removes what was listed must not fail for that.
            Node::Message(..) | Node::Granted(..) | Node::Queue(ROOT) if own.is_some() => Ok(()),
            Node::Queue(queue) if queue != ROOT => match own {
                Some(own) => {
                    let info = self.store.queue(queue)?;
                    let refused = info.config.get(own).is_some() && !self.owner(&info).is_owner(caller);
                    if refused { Err(Error::AccessDenied) } else { Ok(()) }
                }
                None => self.store.alter_queue(queue, |record| unset(&mut record.attributes, name)),
            },
            _ => Err(Error::NotPermitted("this attribute cannot be removed")),
        }
    }
}
