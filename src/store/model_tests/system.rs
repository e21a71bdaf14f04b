//! What the operations of the model are to the store: what the view makes of them, without a mount.

use std::collections::BTreeMap;

use super::super::db::Family;
use super::super::record::{Counters, DraftBody, DraftRecord, MessageRecord, NewMessage, QueueRecord};
use super::super::tests::{NOBODY, keys_in, open, queue};
use super::super::{
    BatchFile, ClaimEnd, DeadReason, Enqueued, MarkRights, Need, NewQueue, Of, Onto, Patience, Published, ROOT, Taker,
};
use super::model::drive::{Looks, System};
use super::model::ops::{BEGINNINGS, HOUR, QUEUES};
use super::model::{Answer, Body, End, Feed, Message, Place, Props, Refusal, STATES, Settle, State, Tag, said};
use super::{StoreState, Tested, mark_text, refused, store_state};
use crate::error::{Error, Result};
use crate::queue::config::QueueConfig;
use crate::queue::mark::{Says, Settles};
use crate::queue::properties::Properties;
use crate::queue::worker::{ProcessId, Worker};

impl System for Tested {
    const CAN_BE_LATE: bool = true;
    const SEES_LEAPS: bool = false;

    fn begin(&mut self) -> u64 {
        self.round += 1;
        self.writers.clear();
        self.drafts.clear();
        let round = self.round;
        let made = BEGINNINGS.iter().enumerate().map(|(number, keys)| {
            let queue = queue(self.store(), &format!("q{number}-{round}"));
            self.store()
                .alter_queue(queue, |record| configure(record, &format!("max_deliveries = 20\n{keys}")))
                .unwrap();
            queue
        });
        self.queues = made.collect();
        self.now
    }

    fn finish(&mut self) {
        for number in 0..QUEUES {
            self.purge(number, &STATES, true);
            let mut drafts = Vec::new();
            let listed = self.store().list_drafts(self.queues[number], 0, |entry| {
                drafts.push(entry.id);
                true
            });
            listed.unwrap();
            drafts.into_iter().for_each(|draft| self.store().remove_draft(draft, self.now).unwrap());
        }
        if std::mem::take(&mut self.left) {
            self.restart(true);
            self.store().clear_left(|| true).unwrap();
        }
        self.now += 24 * HOUR;
        self.look();
        for number in 0..QUEUES {
            self.store().remove_queue(ROOT, self.path(number).as_bytes()).unwrap();
        }
        self.queues.clear();
        let users = self.store().owners().unwrap();
        assert!(users.is_empty(), "nobody is charged for what is gone: {users:?}");
        for family in [Family::Messages, Family::Index, Family::Bodies, Family::Deadlines] {
            assert_eq!(keys_in(self.store(), family), 0, "{family:?}: nothing is left");
        }
    }

    fn set_clock(&mut self, now: u64, due: bool) {
        self.now = now;
        if due {
            self.look();
        }
    }

    fn open(&mut self, queue: usize, tag: Tag, props: Props) -> Answer<()> {
        let new = self.new_message(queue, tag, props);
        let config = self.store().config(new.queue).unwrap();
        let admitted = match config.paused_in() {
            true => Err(Error::Paused),
            false if config.is_limited() => {
                // Who has not said a priority may say a higher one yet.
                let order = if props.priority > 0 { order(&new, config.priorities) } else { 0 };
                self.store().reserve(new.queue, new.id, Need::of_one(1, order), Patience::None)
            }
            false => Ok(()),
        };
        self.answer(queue, admitted)?;
        let limited = config.is_limited();
        self.writers.insert(tag, super::Writer { new, limited, unfinished: false, bytes: Vec::new(), seq: None });
        Ok(())
    }

    fn write(&mut self, tag: Tag, at: usize, bytes: &str) -> Answer<()> {
        let (now, writer) = (self.now, self.writers.get_mut(&tag).unwrap());
        assert_eq!(at, writer.bytes.len());
        writer.unfinished = false;
        writer.bytes.extend(bytes.bytes());
        let (queue, id, length) = (writer.new.queue, writer.new.id, writer.bytes.len() as u64);
        let store = self.store.as_ref().unwrap();
        if let Some(seq) = writer.seq.take() {
            store.retract(queue, seq, now).unwrap();
        }
        if !writer.limited {
            return Ok(());
        }
        let order = order(&writer.new, store.config(queue).unwrap().priorities);
        let admitted = store.reserve(queue, id, Need::of_one(length, order), Patience::None);
        if admitted.is_err() {
            store.count_rejected(queue, now).unwrap();
            self.abort(tag);
        }
        refused(admitted)
    }

    fn flush(&mut self, tag: Tag) -> Answer<()> {
        let writer = &self.writers[&tag];
        if writer.unfinished {
            return Err(Refusal::Dropped);
        }
        if writer.seq.is_none() && !writer.bytes.is_empty() {
            assert!(self.commit(tag).seq().is_some());
        }
        Ok(())
    }

    fn close(&mut self, tag: Tag) -> Answer<()> {
        if self.writers[&tag].unfinished {
            self.abort(tag);
            return Err(Refusal::Dropped);
        }
        let super::Writer { new, seq, bytes, limited, .. } = &self.writers[&tag];
        let (queue, id) = (new.queue, new.id);
        if bytes.is_empty() && *limited {
            let order = order(new, self.store().config(queue).unwrap().priorities);
            let admitted = self.store().reserve(queue, id, Need::of_one(0, order), Patience::None);
            if admitted.is_err() {
                self.store().count_rejected(queue, self.now).unwrap();
                self.abort(tag);
                return refused(admitted);
            }
        }
        let enqueued = match *seq {
            // Others may have been closed since.
            Some(seq) => Enqueued::As(self.store().resequence(queue, seq, None, self.now).unwrap()),
            None => self.commit(tag),
        };
        match enqueued {
            Enqueued::As(seq) => drop(self.store().reveal(queue, seq, self.now).unwrap()),
            Enqueued::Duplicate => {
                self.store().release(queue, id);
                self.store().count_duplicate(queue, self.now).unwrap();
            }
        }
        self.writers.remove(&tag);
        Ok(())
    }

    fn end(&mut self, tag: Tag, at: usize, bytes: &str, end: End, counts: bool) -> Answer<()> {
        self.write(tag, at, bytes)?;
        if counts && end == End::Killed {
            self.abort(tag);
        } else if counts {
            self.writers.get_mut(&tag).unwrap().unfinished = true;
        }
        Ok(())
    }

    fn unlink(&mut self, _tag: Tag) -> bool {
        false // names are the view's
    }

    fn name_anew(&mut self, _tag: Tag) -> bool {
        false
    }

    fn chmod(&mut self, _queue: usize, _tag: Tag) -> Option<Answer<()>> {
        None
    }

    fn line(&mut self, queue: usize, tag: Tag, text: &str) -> Option<Answer<()>> {
        let new = self.new_message(queue, tag, Props::default());
        let staged = self.staged(new.id, text.as_bytes());
        let enqueued = self.store().enqueue(new.clone(), staged.body(), false, self.now);
        Some(self.answer(queue, enqueued.map(drop)))
    }

    fn draft(&mut self, queue: usize, tag: Tag, text: &str, props: Props) {
        let draft = self.make_draft(self.queues[queue], &format!(".d{tag}"), text, props);
        self.drafts.insert(tag, draft);
    }

    fn publish(&mut self, draft: Tag, (queue, tag): (usize, Tag), link: bool, settles: Option<&Message>) -> Answer<()> {
        let id = self.drafts[&draft];
        let settles = settles.map(|message| self.settles(message));
        let DraftRecord { attributes, body, .. } = self.store().draft(id).unwrap();
        let bytes = match body {
            DraftBody::Inline(inline) => self.store().draft_bytes(id, &inline).unwrap(),
            DraftBody::File => std::fs::read(self.store().bodies().path(id)).unwrap(),
        };
        let mut new = NewMessage { attributes, ..self.new_message(queue, tag, Props::default()) };
        let then = if link { Published::Stays } else { Published::Gone };
        if !link {
            new.id = id;
        }
        let staged = if link { self.staged(new.id, &bytes) } else { self.left_by(id, &bytes) };
        let published = self.store().publish(id, new.clone(), staged.body(), (then, Onto::Nothing, settles), self.now);
        self.answer(queue, published.map(drop))?;
        if !link {
            self.drafts.remove(&draft);
        }
        Ok(())
    }

    fn discard(&mut self, draft: Tag) {
        let draft = self.drafts.remove(&draft).unwrap();
        self.store().remove_draft(draft, self.now).unwrap();
    }

    fn batch(
        &mut self,
        queue: usize,
        files: &[(Tag, Body, Props)],
        feed: Option<Feed>,
        settles: Option<&Message>,
    ) -> Answer<()> {
        let store = self.store();
        let settles: Vec<Settles> = settles.map(|message| self.settles(message)).into_iter().collect();
        let new = NewQueue { parent: self.queues[queue], name: b"batch", uid: 0, gid: 0, mode: 0o755 };
        let batch = store.make_batch(new).unwrap();
        if let Some(Feed { mark, is, was }) = feed {
            let name = format!("m{mark}");
            store.set_mark(batch, (Says::Is, &name), &mark_text(is), None).unwrap();
            if let Some(was) = was {
                store.set_mark(batch, (Says::Was, &name), &mark_text(was), None).unwrap();
            }
        }
        let made = files.iter().map(|(tag, body, props)| {
            let name = format!("m{tag}");
            (self.make_draft(batch, &name, &body.text(), *props), name, body.text())
        });
        let made: Vec<_> = made.collect();
        let staged: Vec<_> = made.iter().map(|(draft, _, text)| self.left_by(*draft, text.as_bytes())).collect();
        let contents: Vec<_> = made
            .iter()
            .zip(&staged)
            .map(|((draft, name, _), staged)| BatchFile {
                draft: *draft,
                name: name.as_bytes(),
                modified_ns: 0,
                accessed_ns: 0,
                body: staged.body(),
            })
            .collect();
        let enqueued = store.publish_batch(
            batch,
            self.queues[queue],
            &contents,
            (&settles, MarkRights { set: true, read: true }),
            self.now,
            |_| Ok(()),
        );
        match &enqueued {
            Ok(left) => left.iter().for_each(|file| store.discard_body(*file)),
            Err(_) => drop(store.drop_batch(batch, self.now).unwrap()),
        }
        self.answer(queue, enqueued.map(drop))
    }

    fn set_mark(&mut self, queue: usize, mark: u8, is: u8) {
        let (store, queue, name) = (self.store(), self.queues[queue], format!("m{mark}"));
        match is {
            0 => drop(store.remove_mark(queue, Says::Is, &name)),
            is => store.set_mark(queue, (Says::Is, &name), &mark_text(is), None).unwrap(),
        }
    }

    fn marks(&mut self, queue: usize) -> BTreeMap<u8, u8> {
        let (store, queue) = (self.store(), self.queues[queue]);
        let names = store.mark_names(queue, Says::Is).unwrap();
        let of = |name: String| {
            let value = store.mark(queue, Says::Is, &name).unwrap().unwrap();
            let is = std::str::from_utf8(&value).unwrap().parse().unwrap_or(0);
            (name[1..].parse().unwrap(), is)
        };
        names.into_iter().map(of).filter(|(_, is)| *is != 0).collect()
    }

    fn take(&mut self, queue: usize) -> Answer<Tag> {
        let (_, record) = refused(self.store().claim_next(self.queues[queue], NOBODY, self.now))?;
        Ok(String::from_utf8(record.name).unwrap()[1..].parse().unwrap())
    }

    fn pop(&mut self, queue: usize) -> Answer<String> {
        let (seq, record) = refused(self.store().claim_next(self.queues[queue], NOBODY, self.now))?;
        let text = self.text(&record);
        let delivery = record.claim.unwrap().delivery;
        assert!(self.store().end_claim(seq, delivery, ClaimEnd::Ack, self.now).unwrap().is_none());
        Ok(text)
    }

    fn read(&mut self, message: &Message) -> Answer<String> {
        let (seq, record) = self.find(message.queue, message.state, message.tag);
        refused(self.store().claim(record.queue, seq, NOBODY, self.now))?;
        Ok(self.text(&record))
    }

    fn rename(&mut self, message: &Message, to: Place) -> Answer<()> {
        let (seq, MessageRecord { queue, .. }) = self.find(message.queue, message.state, message.tag);
        self.refuses_others(queue, seq, message.state);
        let (store, now, from) = (self.store(), self.now, store_state(message.state));
        match (message.state, to) {
            (State::Ready, Place::Claimed) => refused(store.claim(queue, seq, NOBODY, now).map(drop)),
            (_, Place::Dead) => {
                refused(store.dead_letter(queue, seq, (from, Of::Any), DeadReason::Moved, now).map(drop))
            }
            (State::Claimed, Place::Delayed) => refused(store.nack(queue, seq, Of::Any, true, now).map(drop)),
            (_, Place::Queue(target)) if target != message.queue => {
                let name = format!("m{}", message.tag);
                let to = (self.queues[target], name.as_bytes(), Onto::Nothing);
                self.answer(target, store.move_to(queue, seq, (from, Of::Any), to, now).map(drop))
            }
            (State::Claimed, Place::Queue(_)) => refused(store.nack(queue, seq, Of::Any, false, now).map(drop)),
            (State::Delayed, Place::Queue(_)) => refused(store.deliver(queue, seq, None, now).map(drop)),
            (State::Dead, Place::Queue(_)) => refused(store.redrive(queue, seq, now).map(drop)),
            // The view tells that these are none.
            _ => Err(Refusal::Foreign),
        }
    }

    fn ack(&mut self, message: &Message) {
        let (seq, record) = self.find(message.queue, message.state, message.tag);
        self.store().ack(record.queue, seq, (&[record.state()], Of::Any), self.now).unwrap();
    }

    fn renew(&mut self, message: &Message) {
        let (seq, _) = self.find(message.queue, message.state, message.tag);
        self.store().renew(seq, Of::Any, self.now).unwrap();
    }

    fn work(&mut self, message: &Message, worker: usize) -> Answer<()> {
        let (seq, record) = self.find(message.queue, message.state, message.tag);
        let process = ProcessId { tgid: 1000 + worker as u32, start: 1 };
        let worker = Some(Worker { process, parent: 1, grandparent: 1, session: process.tgid });
        refused(self.store().claim(record.queue, seq, Taker { worker, uid: 0 }, self.now).map(drop))
    }

    fn finish_work(&mut self, _message: &Message, _worker: usize) -> Option<Answer<()>> {
        None // whose a claim is, the view decides
    }

    fn note(&mut self, message: &Message) {
        let (seq, record) = self.find(message.queue, message.state, message.tag);
        self.noted.insert(message.delivery, (record.queue, seq, record.claim.unwrap().delivery));
    }

    fn settle(&mut self, delivery: u64, how: Settle) -> Answer<()> {
        let (queue, seq, delivery) = self.noted[&delivery];
        let (store, now, of) = (self.store(), self.now, Of::This(Some(delivery)));
        let claimed = StoreState::Claimed;
        let settled = match how {
            Settle::Ack => store.ack(queue, seq, (&[claimed], of), now),
            Settle::Now | Settle::Later => store.nack(queue, seq, of, how == Settle::Later, now).map(drop),
            Settle::Dead => store.dead_letter(queue, seq, (claimed, of), DeadReason::Moved, now).map(drop),
            Settle::Renew => store.renew(seq, of, now).map(drop),
            Settle::Say(number) => store.set_last_error(seq, of, said(number).as_bytes(), now),
        };
        match &settled {
            Err(Error::NotFound) => drop(store.came_late(delivery, now).unwrap()),
            Ok(()) => store.ended_by_its_worker(delivery),
            Err(_) => {}
        }
        refused(settled)
    }

    fn say(&mut self, message: &Message, said: &str) {
        let (seq, _) = self.find(message.queue, message.state, message.tag);
        self.store().set_last_error(seq, Of::Any, said.as_bytes(), self.now).unwrap();
    }

    fn nack(&mut self, message: &Message, how: super::model::Nack, said: &str) -> Answer<()> {
        use super::super::Nack;
        use super::model::Nack as How;
        if how == How::Uncounted && message.holder.is_some() {
            return Err(Refusal::Foreign); // the view's rule
        }
        let (seq, MessageRecord { queue, claim, .. }) = self.find(message.queue, message.state, message.tag);
        let how = match how {
            How::Now => Nack::Now,
            How::Later => Nack::Later,
            How::In(ms) => Nack::In(std::time::Duration::from_millis(ms)),
            How::Uncounted => Nack::Uncounted,
            How::Dead => Nack::Dead,
        };
        refused(self.store().nack_as(queue, seq, claim.unwrap().delivery, how, said.as_bytes(), self.now).map(drop))
    }

    fn purge(&mut self, queue: usize, states: &[State], clear: bool) {
        self.left |= !clear;
        let states: Vec<_> = states.iter().copied().map(store_state).collect();
        let (_, mut remains) = self.store().purge(self.queues[queue], &states, self.now).unwrap();
        if clear {
            while remains.clear_some().unwrap() {}
            remains.finish().unwrap();
        }
    }

    fn set(&mut self, queue: usize, line: &str) {
        self.store().alter_queue(self.queues[queue], |record| configure(record, line)).unwrap();
    }

    fn path(&self, queue: usize) -> String {
        format!("q{queue}-{}", self.round)
    }

    fn restart(&mut self, crash: bool) {
        self.writers.clear();
        if !crash {
            self.store().close().unwrap();
        }
        self.store = None;
        self.store = Some(open(self.dir.path()));
        assert_eq!(self.store().shorten_waits(true, || self.now).unwrap(), 0, "nobody has set the clock back");
    }

    fn list(&mut self, queue: usize, state: State) -> Vec<Tag> {
        let mut tags = Vec::new();
        let listed = self.store().list(self.queues[queue], store_state(state), 0, |entry| {
            tags.push(std::str::from_utf8(entry.name).unwrap()[1..].parse().unwrap());
            true
        });
        listed.unwrap();
        tags
    }

    fn look_at(&mut self, queue: usize, state: State, tag: Tag) -> Looks {
        let (_, record) = self.find(queue, state, tag);
        assert_eq!((record.queue, record.state()), (self.queues[queue], store_state(state)));
        let attribute = |name: &str| {
            let value = record.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            value.map(|value| String::from_utf8(value).unwrap())
        };
        Looks {
            body: self.text(&record),
            deliveries: record.deliveries,
            due: record.due,
            expires: record.expires,
            lease: record.claim.as_ref().map_or(0, |claim| claim.deadline),
            died: attribute("user.mq.dead_reason")
                .map(|why| (why, attribute("user.mq.dead_deliveries").unwrap().parse().unwrap())),
            deaths: record.deaths.into_iter().map(|d| (d.path, d.reason, d.count, d.first, d.last)).collect(),
            last_error: Some(String::from_utf8(record.last_error).unwrap()).filter(|said| !said.is_empty()),
        }
    }

    fn stats(&mut self, queue: usize) -> BTreeMap<String, u64> {
        let counters = self.store().queue(self.queues[queue]).unwrap().counters;
        let counters = Counters { head: 0, changed: 0, ..counters }; // nobody is shown these
        let mut stats: BTreeMap<_, _> = serde_json::from_value(serde_json::to_value(counters).unwrap()).unwrap();
        for state in STATES.map(store_state) {
            let oldest = self.store().oldest(self.queues[queue], state).unwrap();
            let name = format!("oldest_{}_age_ms", state.word());
            stats.extend(oldest.map(|since| (name, self.now.saturating_sub(since))));
        }
        stats
    }
}

impl Tested {
    /// What is being written is dropped.
    fn abort(&mut self, tag: Tag) {
        let super::Writer { new, seq, .. } = self.writers.remove(&tag).unwrap();
        if let Some(seq) = seq {
            self.store().retract(new.queue, seq, self.now).unwrap();
        }
        self.store().count_aborted(new.queue, self.now).unwrap();
        self.store().release(new.queue, new.id);
    }
}

/// The place among priorities.
fn order(new: &NewMessage, priorities: u8) -> u8 {
    Properties::of(&new.attributes).order(priorities)
}

fn configure(record: &mut QueueRecord, lines: &str) -> Result<()> {
    let mut config = QueueConfig::default();
    config.apply(&record.config)?;
    config.apply(lines)?;
    record.config = config.render();
    Ok(())
}
