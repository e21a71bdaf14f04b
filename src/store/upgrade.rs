//! Records as earlier versions wrote them, and what they are today. See [`super::record`].

use serde::Deserialize;

use crate::queue::delivery::Delivery;
use crate::queue::state::State;
use crate::queue::worker::ProcessId;

use super::record::{BodyPlace, Claim, Counters, DraftBody, DraftRecord, MessageRecord, QueueRecord};

/// [`Claim`] before version 3: deliveries had no identity.
#[derive(Deserialize)]
pub struct Claim2 {
    process: Option<ProcessId>,
    parent: u32,
    grandparent: u32,
    session: u32,
    uid: u32,
    at: u64,
    deadline: u64,
}

/// [`MessageRecord`] of version 1: no priorities, delays or times to live.
#[derive(Deserialize)]
pub struct Message1 {
    id: u64,
    queue: u64,
    state: u8,
    deliveries: u32,
    name: Vec<u8>,
    uid: u32,
    gid: u32,
    mode: u32,
    size: u64,
    body: BodyPlace,
    crc: u32,
    enqueued_at: u64,
    modified_ns: i64,
    producer_pid: u32,
    claim: Option<Claim2>,
    attributes: Vec<(String, Vec<u8>)>,
}

/// [`QueueRecord`] of version 1: no batches, nothing purged.
#[derive(Deserialize)]
pub struct Queue1 {
    parent: u64,
    name: Vec<u8>,
    uid: u32,
    gid: u32,
    mode: u32,
    created: u64,
    config: String,
    rejected: String,
    attributes: Vec<(String, Vec<u8>)>,
}

/// [`Counters`] of version 1.
#[derive(Deserialize)]
pub struct Counters1 {
    ready: u64,
    ready_bytes: u64,
    claimed: u64,
    claimed_bytes: u64,
    delayed: u64,
    delayed_bytes: u64,
    dead: u64,
    dead_bytes: u64,
    drafts: u64,
    queues: u64,
    enqueued_total: u64,
    claims_total: u64,
    acked_total: u64,
    nacked_total: u64,
    expired_total: u64,
    dead_lettered_total: u64,
    redriven_total: u64,
    moved_out_total: u64,
    aborted_total: u64,
    head: u64,
    changed: u64,
}

/// [`MessageRecord`] of version 2: no deaths.
#[derive(Deserialize)]
pub struct Message2 {
    id: u64,
    queue: u64,
    state: u8,
    deliveries: u32,
    order: u8,
    name: Vec<u8>,
    uid: u32,
    gid: u32,
    mode: u32,
    size: u64,
    body: BodyPlace,
    crc: u32,
    enqueued_at: u64,
    modified_ns: i64,
    producer_pid: u32,
    claim: Option<Claim2>,
    due: u64,
    expires: u64,
    placed: u64,
    attributes: Vec<(String, Vec<u8>)>,
}

/// [`QueueRecord`] of version 2: nobody sets its times.
#[derive(Deserialize)]
pub struct Queue2 {
    parent: u64,
    batch: bool,
    name: Vec<u8>,
    uid: u32,
    gid: u32,
    mode: u32,
    created: u64,
    config: String,
    rejected: String,
    purged: [u64; 4],
    attributes: Vec<(String, Vec<u8>)>,
}

/// [`Counters`] of version 2.
#[derive(Deserialize)]
pub struct Counters2 {
    ready: u64,
    ready_bytes: u64,
    claimed: u64,
    claimed_bytes: u64,
    delayed: u64,
    delayed_bytes: u64,
    dead: u64,
    dead_bytes: u64,
    drafts: u64,
    queues: u64,
    enqueued_total: u64,
    claims_total: u64,
    acked_total: u64,
    nacked_total: u64,
    expired_total: u64,
    dead_lettered_total: u64,
    redriven_total: u64,
    moved_out_total: u64,
    aborted_total: u64,
    head: u64,
    changed: u64,
    batches: u64,
    ttl_expired_total: u64,
    duplicates_total: u64,
    dropped_total: u64,
    purged_total: u64,
    rejected_total: u64,
}

/// [`DraftRecord`] before version 3: each draft had a file.
#[derive(Deserialize)]
pub struct Draft2 {
    queue: u64,
    name: Vec<u8>,
    uid: u32,
    gid: u32,
    mode: u32,
    created: u64,
    due: u64,
    attributes: Vec<(String, Vec<u8>)>,
}

impl From<Draft2> for DraftRecord {
    fn from(old: Draft2) -> Self {
        Self {
            queue: old.queue,
            name: old.name,
            uid: old.uid,
            gid: old.gid,
            mode: old.mode,
            created: old.created,
            due: old.due,
            body: DraftBody::File,
            attributes: old.attributes,
        }
    }
}

impl From<Claim2> for Claim {
    fn from(old: Claim2) -> Self {
        Self {
            // Nobody was told of it, but it has to be the same at every look.
            delivery: Delivery::of(old.at),
            process: old.process,
            parent: old.parent,
            grandparent: old.grandparent,
            session: old.session,
            uid: old.uid,
            at: old.at,
            deadline: old.deadline,
            reckoned: old.at,
        }
    }
}

impl From<Message1> for Message2 {
    fn from(old: Message1) -> Self {
        Self {
            id: old.id,
            queue: old.queue,
            state: old.state,
            deliveries: old.deliveries,
            order: 0,
            name: old.name,
            uid: old.uid,
            gid: old.gid,
            mode: old.mode,
            size: old.size,
            body: old.body,
            crc: old.crc,
            enqueued_at: old.enqueued_at,
            modified_ns: old.modified_ns,
            producer_pid: old.producer_pid,
            claim: old.claim,
            due: 0,
            expires: 0,
            placed: 0,
            attributes: old.attributes,
        }
    }
}

impl From<Message2> for MessageRecord {
    fn from(old: Message2) -> Self {
        Self {
            id: old.id,
            queue: old.queue,
            state: old.state,
            deliveries: old.deliveries,
            order: old.order,
            name: old.name,
            uid: old.uid,
            gid: old.gid,
            mode: old.mode,
            size: old.size,
            body: old.body,
            crc: old.crc,
            enqueued_at: old.enqueued_at,
            modified_ns: old.modified_ns,
            producer_pid: old.producer_pid,
            accessed_ns: None,
            claim: old.claim.map(Claim::from),
            // Of other states it was not kept.
            since: if old.state == State::Ready as u8 { old.enqueued_at } else { 0 },
            retrying: false,
            due: old.due,
            expires: old.expires,
            placed: old.placed,
            deaths: Vec::new(),
            last_error: Vec::new(),
            attributes: old.attributes,
        }
    }
}

impl From<Queue1> for Queue2 {
    fn from(old: Queue1) -> Self {
        Self {
            parent: old.parent,
            batch: false,
            name: old.name,
            uid: old.uid,
            gid: old.gid,
            mode: old.mode,
            created: old.created,
            config: old.config,
            rejected: old.rejected,
            purged: [0; 4],
            attributes: old.attributes,
        }
    }
}

impl From<Queue2> for QueueRecord {
    fn from(old: Queue2) -> Self {
        Self {
            parent: old.parent,
            batch: old.batch,
            name: old.name,
            uid: old.uid,
            gid: old.gid,
            mode: old.mode,
            created: old.created,
            modified_ns: None,
            modified_at: 0,
            accessed_ns: None,
            config: old.config,
            rejected: old.rejected,
            purged: old.purged,
            attributes: old.attributes,
        }
    }
}

impl From<Counters1> for Counters2 {
    fn from(old: Counters1) -> Self {
        Self {
            ready: old.ready,
            ready_bytes: old.ready_bytes,
            claimed: old.claimed,
            claimed_bytes: old.claimed_bytes,
            delayed: old.delayed,
            delayed_bytes: old.delayed_bytes,
            dead: old.dead,
            dead_bytes: old.dead_bytes,
            drafts: old.drafts,
            queues: old.queues,
            enqueued_total: old.enqueued_total,
            claims_total: old.claims_total,
            acked_total: old.acked_total,
            nacked_total: old.nacked_total,
            expired_total: old.expired_total,
            dead_lettered_total: old.dead_lettered_total,
            redriven_total: old.redriven_total,
            moved_out_total: old.moved_out_total,
            aborted_total: old.aborted_total,
            head: old.head,
            changed: old.changed,
            batches: 0,
            ttl_expired_total: 0,
            duplicates_total: 0,
            dropped_total: 0,
            purged_total: 0,
            rejected_total: 0,
        }
    }
}

impl From<Counters2> for Counters {
    fn from(old: Counters2) -> Self {
        Self {
            ready: old.ready,
            ready_bytes: old.ready_bytes,
            claimed: old.claimed,
            claimed_bytes: old.claimed_bytes,
            delayed: old.delayed,
            delayed_bytes: old.delayed_bytes,
            dead: old.dead,
            dead_bytes: old.dead_bytes,
            drafts: old.drafts,
            queues: old.queues,
            enqueued_total: old.enqueued_total,
            claims_total: old.claims_total,
            acked_total: old.acked_total,
            nacked_total: old.nacked_total,
            expired_total: old.expired_total,
            dead_lettered_total: old.dead_lettered_total,
            redriven_total: old.redriven_total,
            moved_out_total: old.moved_out_total,
            aborted_total: old.aborted_total,
            head: old.head,
            changed: old.changed,
            batches: old.batches,
            ttl_expired_total: old.ttl_expired_total,
            duplicates_total: old.duplicates_total,
            dropped_total: old.dropped_total,
            purged_total: old.purged_total,
            rejected_total: old.rejected_total,
            retrying: 0,
            redelivered_total: 0,
            late_settlements_total: 0,
        }
    }
}
