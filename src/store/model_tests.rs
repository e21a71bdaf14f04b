//! The store against the reference model of `tests/model`: random operations, the store being opened again in between, and those
//! sequences of operations that once showed a difference.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;

use tempfile::TempDir;

use super::record::{DraftBody, DraftRecord, InlineDraft, MessageRecord, NewMessage};
use super::sums::Sums;
use super::tests::{NOBODY, message, open};
use super::{DeadReason, DeadlineKind, Enqueued, INLINE_MAX, NewBody, Of, Seen, Store};
use crate::clock::rfc3339;
use crate::error::{Error, Result};
use crate::queue::delivery::Delivery;
use crate::queue::mark::Settles;
use crate::queue::state::State as StoreState;

#[path = "../../tests/model/mod.rs"]
mod model;
mod system;

use model::drive::{Drive, random};
use model::ops::{NOON, tour};
use model::{Answer, Message, Props, Refusal, State, Tag};

/// A writer, as the view has one.
struct Writer {
    new: NewMessage,
    /// Its queue was limited when it was opened.
    limited: bool,
    /// Whoever wrote last ended as none may.
    unfinished: bool,
    bytes: Vec<u8>,
    /// Committed, hidden.
    seq: Option<u64>,
}

/// The body of a message to be.
struct Staged<'a> {
    id: u64,
    bytes: &'a [u8],
    sums: Option<Sums>,
    /// The draft that has it in the database and leaves it there.
    stored: Option<InlineDraft>,
}

impl Staged<'_> {
    fn body(&self) -> NewBody<'_> {
        match (&self.sums, self.stored) {
            (None, None) => NewBody::Inline(self.bytes),
            (None, Some(InlineDraft { size, crc, .. })) => NewBody::Draft { id: self.id, size, crc },
            (Some(sums), _) => NewBody::File { id: self.id, size: self.bytes.len() as u64, synced: true, sums },
        }
    }
}

struct Tested {
    /// `None` only while it is opened again.
    store: Option<Store>,
    now: u64,
    round: usize,
    queues: Vec<u64>,
    /// What was purged has not been cleared away.
    left: bool,
    writers: BTreeMap<Tag, Writer>,
    drafts: BTreeMap<Tag, u64>,
    /// By the model's number of the delivery: the queue, the message and the delivery.
    noted: BTreeMap<u64, (u64, u64, Delivery)>,
    /// The last field, as it must outlive the store: what the store still writes would be left behind.
    dir: TempDir,
}

impl Tested {
    fn new() -> Tested {
        let dir = tempfile::tempdir().unwrap();
        let store = Some(open(dir.path()));
        let (queues, writers, drafts, noted) = Default::default();
        Tested { dir, store, now: NOON, round: 0, queues, left: false, writers, drafts, noted }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn new_message(&self, queue: usize, tag: Tag, props: Props) -> NewMessage {
        let mut new = message(self.store(), self.queues[queue], &format!("m{tag}"));
        new.attributes = attributes(props);
        new
    }

    /// Large bodies are in files of the store.
    fn staged<'a>(&self, id: u64, bytes: &'a [u8]) -> Staged<'a> {
        let sums = (bytes.len() > INLINE_MAX).then(|| {
            let bodies = self.store().bodies();
            let mut file = bodies.open_write(id).or_else(|_| bodies.create(id)).unwrap();
            file.write_all(bytes).unwrap();
            bodies.sync(id, &file).unwrap();
            Sums::of_file(&bodies.open_read(id).unwrap(), bytes.len() as u64).unwrap()
        });
        Staged { id, bytes, sums, stored: None }
    }

    /// The same of a draft, which is gone then.
    fn left_by<'a>(&self, draft: u64, bytes: &'a [u8]) -> Staged<'a> {
        match self.store().draft(draft).unwrap().body {
            DraftBody::Inline(inline) => Staged { id: draft, bytes, sums: None, stored: Some(inline) },
            DraftBody::File => self.staged(draft, bytes),
        }
    }

    /// The sequence number and record of a message.
    fn find(&self, queue: usize, state: State, tag: Tag) -> (u64, MessageRecord) {
        let name = format!("m{tag}");
        let mut found = None;
        let listed = self.store().list(self.queues[queue], store_state(state), 0, |entry| {
            if entry.name == name.as_bytes() {
                found = Some(entry.id);
            }
            found.is_none()
        });
        listed.unwrap();
        let seq = found.unwrap();
        (seq, self.store().message(seq).unwrap())
    }

    /// The delivery of a message, or when it has none one that is over.
    fn settles(&self, message: &Message) -> Settles {
        let (seq, record) = self.find(message.queue, message.state, message.tag);
        let delivery = record.claim.map_or(Delivery::of(0), |claim| claim.delivery);
        Settles { seq, delivery }
    }

    fn text(&self, record: &MessageRecord) -> String {
        let body = self.store().body(record).unwrap();
        let mut text = Vec::new();
        body.read(0, body.size() as usize, |bytes| text.extend(bytes)).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// What the view makes of a refusal: it counts those of full and paused queues.
    fn answer<T>(&self, queue: usize, result: Result<T>) -> Answer<T> {
        if matches!(result, Err(Error::QueueFull | Error::Paused)) {
            self.store().count_rejected(self.queues[queue], self.now).unwrap();
        }
        refused(result)
    }

    fn make_draft(&self, queue: u64, name: &str, text: &str, props: Props) -> u64 {
        let name = name.as_bytes().to_vec();
        let (uid, gid, mode, created, due, attributes) = (0, 0, 0o644, self.now, 0, attributes(props));
        let body = DraftBody::Inline(InlineDraft::new(created));
        let record = DraftRecord { queue, name, uid, gid, mode, created, due, body, attributes };
        let draft = self.store().make_draft(record, Seen::ALL).unwrap();
        if text.len() <= INLINE_MAX {
            self.store().put_draft(draft, InlineDraft::new(created), Some(text.as_bytes())).unwrap();
            return draft;
        }
        let mut file = self.store().bodies().create(draft).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        self.store().bodies().sync(draft, &file).unwrap();
        self.store().draft_to_file(draft, text.len() as u64).unwrap();
        draft
    }

    fn commit(&mut self, tag: Tag) -> Enqueued {
        let writer = &self.writers[&tag];
        let staged = self.staged(writer.new.id, &writer.bytes);
        let enqueued = self.store().enqueue(writer.new.clone(), staged.body(), true, self.now).unwrap();
        self.writers.get_mut(&tag).unwrap().seq = enqueued.seq();
        enqueued
    }

    /// Does what is due, as the thread of the view does.
    fn look(&self) {
        let store = self.store();
        loop {
            let mut done = 0;
            for due in store.due(self.now, None, usize::MAX).unwrap() {
                let dealt = match due.kind {
                    DeadlineKind::Duplicate => store.forget_duplicate(&due),
                    DeadlineKind::Lease => store.expire(due.id, due.at, self.now).map(drop),
                    DeadlineKind::TimeToLive => store.end_time_to_live(due.id, due.at, self.now).map(drop),
                    DeadlineKind::Deliver => {
                        let queue = store.message_due(&due).map(|message| message.queue);
                        queue.and_then(|queue| store.deliver(queue, due.id, Some(due.at), self.now)).map(drop)
                    }
                    DeadlineKind::Draft | DeadlineKind::Batch => panic!("{due:?}"),
                };
                match dealt {
                    Ok(()) => done += 1,
                    Err(Error::NotFound) => drop(store.message_due(&due)),
                    Err(error) => panic!("{due:?}: {error}"),
                }
            }
            if done == 0 {
                return;
            }
        }
    }

    /// What cannot happen to a message in its state is refused, and changes nothing.
    fn refuses_others(&self, queue: u64, seq: u64, state: State) {
        let (store, now) = (self.store(), self.now);
        assert!(state == State::Ready || matches!(store.claim(queue, seq, NOBODY, now), Err(Error::NotFound)));
        assert!(state == State::Claimed || store.nack(queue, seq, Of::Any, false, now).is_err());
        assert!(state == State::Delayed || store.deliver(queue, seq, None, now).is_err());
        assert!(state == State::Dead || store.redrive(queue, seq, now).is_err());
        let dead = (StoreState::Dead, Of::Any);
        assert!(state != State::Dead || store.dead_letter(queue, seq, dead, DeadReason::Moved, now).is_err());
    }
}

fn refused<T>(result: Result<T>) -> Answer<T> {
    result.map_err(|error| match error {
        Error::NotFound => Refusal::NotFound,
        Error::QueueFull => Refusal::Full,
        Error::Paused | Error::WouldBlock => Refusal::Again,
        Error::MarkMoved => Refusal::Moved,
        error => panic!("{error}"),
    })
}

fn store_state(state: State) -> StoreState {
    match state {
        State::Ready => StoreState::Ready,
        State::Delayed => StoreState::Delayed,
        State::Claimed => StoreState::Claimed,
        State::Dead => StoreState::Dead,
    }
}

fn attributes(props: Props) -> Vec<(String, Vec<u8>)> {
    let all = [
        ("priority", props.priority > 0, props.priority.to_string()),
        ("delay", props.delay > 0, format!("{}ms", props.delay)),
        ("deliver_at", props.deliver_at > 0, rfc3339(props.deliver_at)),
        ("ttl", props.ttl > 0, format!("{}ms", props.ttl)),
        ("dedup_id", props.id > 0, format!("id{}", props.id)),
    ];
    let said = all.into_iter().filter(|(_, said, _)| *said);
    said.map(|(name, _, value)| (format!("user.mq.{name}"), value.into_bytes())).collect()
}

/// What a mark is to the store; 0 is empty.
fn mark_text(is: u8) -> Vec<u8> {
    if is == 0 { Vec::new() } else { is.to_string().into_bytes() }
}

#[test]
fn random_operations_do_what_the_model_says() {
    let tested = RefCell::new(Tested::new());
    random(100, 100, |ops| {
        let mut tested = tested.borrow_mut();
        if !tested.queues.is_empty() {
            *tested = Tested::new(); // the one before has failed
        }
        Drive::run(&mut *tested, ops, 10);
    });
}

#[test]
fn one_operation_after_the_other() {
    Drive::run(&mut Tested::new(), &tour(), 1);
}
