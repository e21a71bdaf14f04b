//! The reference model: what a store of queues holds after any sequence of operations, in a form that can be read at a
//! sitting. It is the definition of correct for everything but names, permissions and the disk; where it and mqfs(7)
//! disagree, one of them is wrong.
//!
//! The store (`src/store/model_tests.rs`) and a real mount (`tests/model.rs`) are driven by the same random operations
//! (`ops.rs`, `drive.rs`) as the model, and must always look like it. It calls no code of theirs. Time is [`Model::now`], which stands
//! still during an operation.

// The two test binaries use it differently.
#![allow(dead_code)]

pub mod drive;
pub mod ops;
mod things;

use std::collections::{BTreeMap, BTreeSet};

pub use things::*;

pub struct Model {
    pub now: u64,
    pub queues: Vec<Queue>,
    pub messages: BTreeMap<Tag, Message>,
    pub writers: BTreeMap<Tag, Writer>,
    pub drafts: BTreeMap<Tag, Draft>,
    /// The names that were given to messages one by one. All producers and consumers are of one session.
    pub names: BTreeMap<Tag, Named>,
    /// Where messages became dead letters, the newest last.
    pub deaths: BTreeMap<Tag, Vec<Death>>,
    /// The deliveries whose paths somebody knows: of which message, in which queue.
    pub noted: BTreeMap<u64, (Tag, usize)>,
    /// The deliveries of each message that ended without an acknowledgement, and whose they were: the newest last.
    pub lost: BTreeMap<Tag, Vec<(u64, Option<Worker>)>>,
    /// Those of them that nobody has come to settle since, nor ended by their paths.
    unsettled: BTreeSet<u64>,
    next: u64,
}

impl Model {
    pub fn new(now: u64, configs: impl IntoIterator<Item = Config>) -> Model {
        let queue = |config| Queue { config, totals: BTreeMap::new(), ids: BTreeMap::new(), marks: BTreeMap::new() };
        let queues = configs.into_iter().map(queue).collect();
        let (messages, writers, drafts, names, deaths, noted, lost) = Default::default();
        let unsettled = BTreeSet::new();
        Model { now, queues, messages, writers, drafts, names, deaths, noted, lost, unsettled, next: 1 }
    }

    /// A new tag or sequence number.
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn count(&mut self, queue: usize, what: &'static str) {
        *self.queues[queue].totals.entry(what).or_default() += 1;
    }

    // What users see.

    /// The messages of a queue in a state, in delivery order.
    pub fn list(&self, queue: usize, state: State) -> Vec<&Message> {
        let mut listed: Vec<_> = self.messages.values().filter(|m| m.queue == queue && m.state == state).collect();
        listed.sort_by_key(|m| (self.order(m), m.seq));
        listed
    }

    /// 0 for the highest priority.
    fn order(&self, message: &Message) -> u8 {
        self.order_in(message.queue, message.props)
    }

    fn order_in(&self, queue: usize, props: Props) -> u8 {
        let highest = self.queues[queue].config.priorities - 1;
        highest - props.priority.min(highest)
    }

    pub fn stats(&self, queue: usize) -> BTreeMap<&'static str, u64> {
        let mut stats = self.queues[queue].totals.clone();
        let names = [("ready", "ready_bytes"), ("delayed", "delayed_bytes"), ("claimed", "claimed_bytes")];
        for (state, (count, bytes)) in STATES.into_iter().zip(names.into_iter().chain([("dead", "dead_bytes")])) {
            let (messages, length) = sum(self.list(queue, state).into_iter().map(Message::size));
            stats.extend([(count, messages), (bytes, length)]);
        }
        for (state, age) in STATES.into_iter().zip(AGES) {
            let oldest = self.list(queue, state).iter().map(|m| m.since).min();
            stats.extend(oldest.map(|since| (age, self.now.saturating_sub(since))));
        }
        stats.insert("retrying", self.list(queue, State::Delayed).iter().filter(|m| m.retrying).count() as u64);
        stats.insert("drafts", self.drafts.values().filter(|draft| draft.queue == queue).count() as u64);
        stats
    }

    // Limits.

    /// Messages that count for the limits: dead ones do not, and promised ones do.
    fn counted(&self, queue: usize) -> impl Iterator<Item = &Message> {
        let promised = self.writers.values().filter_map(|writer| writer.promised.as_ref());
        self.messages.values().chain(promised).filter(move |m| m.queue == queue && m.state != State::Dead)
    }

    fn within(&self, queue: usize, (messages, bytes): Room) -> bool {
        let Config { max_messages, max_bytes, .. } = self.queues[queue].config;
        (max_messages == 0 || messages <= max_messages) && (max_bytes == 0 || bytes <= max_bytes)
    }

    fn is_limited(&self, queue: usize) -> bool {
        !self.within(queue, (u64::MAX, u64::MAX))
    }

    /// Whether there is room for `need`. What is ready makes room in a queue that drops its oldest, unless it has a higher priority
    /// than what comes, which is in `order`; and so will whatever else is being written. `own`: the writer whose reservation
    /// `need` replaces.
    fn fits(&self, queue: usize, need: Room, order: u8, own: Option<Tag>) -> bool {
        let drops = self.queues[queue].config.drop_oldest;
        let makes_room = |m: &Message| drops && m.state == State::Ready && self.order(m) >= order;
        let there = self.counted(queue).filter(|m| !makes_room(m)).map(Message::size);
        let others = self.writers.iter().filter(|(tag, writer)| writer.queue == queue && Some(**tag) != own && !drops);
        let reserved = others.map(|(_, writer)| writer.reserved);
        self.within(queue, sum(there.chain(reserved).chain([need])))
    }

    /// Refuses what a queue does not take now. `order`: of the least that comes.
    fn admit(&mut self, queue: usize, need: Room, order: u8) -> Answer<()> {
        let refused = match () {
            () if self.queues[queue].config.paused_in => Refusal::Again,
            () if self.is_limited(queue) && !self.fits(queue, need, order, None) => Refusal::Full,
            () => return Ok(()),
        };
        self.count(queue, "rejected_total");
        Err(refused)
    }

    /// Removes the oldest ready messages, those of the lowest priority first, while a queue that drops them is too full.
    /// `but`: those that have just come, `order`: of the least of them; nothing that goes before it is removed.
    fn drop_oldest(&mut self, queue: usize, but: &[Tag], order: u8) {
        while self.queues[queue].config.drop_oldest && !self.within(queue, sum(self.counted(queue).map(Message::size)))
        {
            let ready = self.list(queue, State::Ready);
            let ready = ready.into_iter().filter(|m| !but.contains(&m.tag) && self.order(m) >= order);
            let Some(victim) = ready.max_by_key(|m| (self.order(m), std::cmp::Reverse(m.seq))).map(|m| m.tag) else {
                return;
            };
            self.messages.remove(&victim);
            self.count(queue, "dropped_total");
        }
    }

    // Enqueue.

    /// A new message, ready or delayed, unless its id is remembered. Nobody sees it yet.
    fn make(&mut self, queue: usize, tag: Tag, body: Body, props: Props) -> Option<Message> {
        let now = self.now;
        let Queue { config, ids, .. } = &mut self.queues[queue];
        if props.id > 0 && config.dedup_window > 0 {
            if ids.get(&props.id).is_some_and(|until| *until > now) {
                self.count(queue, "duplicates_total");
                return None;
            }
            ids.insert(props.id, now + config.dedup_window);
        }
        let due = props.deliver_at.max(now + props.delay);
        let (state, due) = if due > now { (State::Delayed, due) } else { (State::Ready, 0) };
        let expires = end_of_life(now.max(due), props.ttl, config.message_ttl);
        let (since, seq, waits_since) = (now, self.number(), now.max(due));
        let (deliveries, retrying, claimed, lease, died) = (0, false, 0, 0, None);
        let (delivery, holder, said) = (0, None, 0);
        Some(Message {
            tag,
            queue,
            state,
            seq,
            body,
            props,
            deliveries,
            waits_since,
            since,
            due,
            retrying,
            expires,
            claimed,
            lease,
            delivery,
            holder,
            said,
            died,
        })
    }

    /// A message is seen by everybody.
    fn show(&mut self, message: Message) {
        self.count(message.queue, "enqueued_total");
        self.messages.insert(message.tag, message);
    }

    /// Enqueues several at once, all or none: lines, a batch, a draft. What goes along is done in the same step, or not at all.
    pub fn enqueue(&mut self, queue: usize, new: &[(Tag, Body, Props)], along: Along) -> Answer<()> {
        let Along { feed, settles } = along;
        let lasts = |tag| self.messages.get(&tag).is_some_and(|m| m.state == State::Claimed);
        if settles.is_some_and(|tag| !lasts(tag)) {
            return Err(Refusal::NotFound);
        }
        if feed.is_some_and(|Feed { mark, was, .. }| was.is_some_and(|was| was != self.mark(queue, mark))) {
            return Err(Refusal::Moved);
        }
        let order = new.iter().map(|(_, _, props)| self.order_in(queue, *props)).max().unwrap_or_default();
        self.admit(queue, sum(new.iter().map(|(_, body, _)| (1, body.len as u64))), order)?;
        for (tag, body, props) in new {
            if let Some(message) = self.make(queue, *tag, *body, *props) {
                self.show(message);
            }
        }
        if let Some(Feed { mark, is, .. }) = feed {
            self.set_mark(queue, mark, is);
        }
        settles.into_iter().for_each(|tag| self.ack(tag));
        self.drop_oldest(queue, &new.iter().map(|(tag, ..)| *tag).collect::<Vec<_>>(), order);
        Ok(())
    }

    fn mark(&self, queue: usize, mark: u8) -> u8 {
        self.queues[queue].marks.get(&mark).copied().unwrap_or_default()
    }

    /// Sets a mark of a queue; 0 removes it.
    pub fn set_mark(&mut self, queue: usize, mark: u8, is: u8) {
        let marks = &mut self.queues[queue].marks;
        if is == 0 {
            marks.remove(&mark)
        } else {
            marks.insert(mark, is)
        };
    }

    /// `open` of a new message: one that is being written counts, with a byte at least.
    pub fn open(&mut self, queue: usize, tag: Tag, props: Props) -> Answer<()> {
        // Who has not said a priority may say a higher one yet.
        let order = if props.priority > 0 { self.order_in(queue, props) } else { 0 };
        self.admit(queue, (1, 1), order)?;
        let (limited, abort_on) = (self.is_limited(queue), self.queues[queue].config.abort_on);
        let reserved = if limited { (1, 1) } else { (0, 0) };
        let (len, unfinished, promised) = (0, false, None);
        let writer = Writer { queue, props, len, limited, abort_on, unfinished, reserved, order, promised };
        self.writers.insert(tag, writer);
        Ok(())
    }

    /// `write`, of at least a byte. One that is refused drops the message as a whole.
    pub fn write(&mut self, tag: Tag, more: usize) -> Answer<()> {
        let Writer { queue, limited, .. } = self.writers[&tag];
        self.retract(tag);
        let writer = self.writers.get_mut(&tag).expect("an open writer");
        (writer.len, writer.unfinished) = (writer.len + more, false);
        let need = (1, writer.len as u64);
        if limited { self.keep_room(tag, queue, need) } else { Ok(()) }
    }

    /// Keeps room for a message that is being written, now that it is known which priority it has.
    fn keep_room(&mut self, tag: Tag, queue: usize, need: Room) -> Answer<()> {
        let Writer { props, reserved, order: admitted, .. } = self.writers[&tag];
        let order = self.order_in(queue, props);
        let comes_later = order > admitted && self.queues[queue].config.drop_oldest;
        let kept = (1, need.1.max(reserved.1));
        let need = if kept == reserved { need } else { kept };
        if (kept != reserved || comes_later) && !self.fits(queue, need, order, Some(tag)) {
            self.count(queue, "rejected_total");
            self.abort(tag);
            return Err(Refusal::Full);
        }
        let writer = self.writers.get_mut(&tag).expect("an open writer");
        (writer.reserved, writer.order) = (kept, order);
        Ok(())
    }

    /// What a close has promised is not so any more.
    pub fn retract(&mut self, tag: Tag) {
        let Writer { queue, len, .. } = self.writers[&tag];
        let room = self.is_limited(queue).then_some((1, len as u64));
        let writer = self.writers.get_mut(&tag).expect("an open writer");
        if writer.promised.take().is_some() {
            writer.reserved = room.unwrap_or_default();
        }
    }

    /// The process that wrote last ends, and has not closed the file.
    pub fn end(&mut self, tag: Tag, end: End) {
        match self.writers[&tag].abort_on.counts(end) {
            true if end == End::Killed => self.abort(tag),
            true => {
                self.retract(tag);
                self.writers.get_mut(&tag).expect("an open writer").unfinished = true;
            }
            false => {}
        }
    }

    /// A close of one descriptor of several, by the process that opened the file. (Ids are left out: whose they are shows at
    /// the last close only.)
    pub fn flush(&mut self, tag: Tag) -> Answer<()> {
        let Writer { queue, props, len, unfinished, .. } = self.writers[&tag];
        if unfinished {
            return Err(Refusal::Dropped);
        }
        if len == 0 || props.id > 0 || self.writers[&tag].promised.is_some() {
            return Ok(());
        }
        let promised = self.make(queue, tag, Body { of: tag, len }, props);
        let writer = self.writers.get_mut(&tag).expect("an open writer");
        (writer.promised, writer.reserved) = (promised, (0, 0));
        self.drop_oldest(queue, &[tag], self.order_in(queue, props));
        Ok(())
    }

    /// The last close. It makes the message's place.
    pub fn close(&mut self, tag: Tag) -> Answer<()> {
        if self.writers[&tag].unfinished {
            self.abort(tag);
            return Err(Refusal::Dropped);
        }
        let Writer { queue, props, len, limited, .. } = self.writers[&tag];
        if len == 0 && limited {
            self.keep_room(tag, queue, (1, 0))?;
        }
        let promised = self.writers.remove(&tag).and_then(|writer| writer.promised);
        let (since, seq) = (self.now, self.number());
        let message = match promised {
            Some(message) => Some(Message { seq, since, ..message }),
            None => self.make(queue, tag, Body { of: tag, len }, props),
        };
        let duplicate = message.is_none();
        if let Some(message) = message {
            self.show(message);
        }
        self.name(tag, queue);
        if !duplicate {
            self.drop_oldest(queue, &[tag], self.order_in(queue, props));
            self.drop_oldest(queue, &[], 0);
        }
        Ok(())
    }

    // Names.

    /// A message is written under its name.
    fn name(&mut self, tag: Tag, queue: usize) {
        // A duplicate is gone at once.
        let left = (!self.messages.contains_key(&tag)).then_some(self.now);
        self.names.insert(tag, Named { queue, left });
    }

    /// The messages that their names find.
    pub fn named(&self) -> Vec<Tag> {
        let there = |tag: &Tag, named: &Named| {
            self.messages.get(tag).is_some_and(|m| m.queue == named.queue && m.state != State::Dead)
        };
        self.names.iter().filter(|(tag, named)| there(tag, named)).map(|(tag, _)| *tag).collect()
    }

    /// Notes which messages have left just now.
    pub fn note_left(&mut self) {
        let (there, now) = (self.named(), self.now);
        for (tag, named) in &mut self.names {
            named.left = if there.contains(tag) { None } else { named.left.or(Some(now)) };
        }
    }

    /// Sets the mode of a message by its name, which goes on for a while to mean it when it has left.
    pub fn chmod(&mut self, tag: Tag) -> Answer<()> {
        let Some(Named { queue, left }) = self.names.get(&tag).copied() else { return Ok(()) }; // it is being written
        let kept = self.queues[queue].config.keep && self.messages.get(&tag).is_some_and(|m| m.queue == queue);
        let gone = left.is_some_and(|left| self.now < left + 2000);
        if kept || gone || self.named().contains(&tag) {
            return Ok(());
        }
        self.names.remove(&tag);
        Err(Refusal::NotFound)
    }

    /// A message that is being written is dropped.
    pub fn abort(&mut self, tag: Tag) {
        let writer = self.writers.remove(&tag).expect("an open writer");
        self.count(writer.queue, "aborted_total");
    }

    /// Publishes a draft; `link` leaves it. A duplicate is published, too, as far as its producer can tell.
    pub fn publish(&mut self, draft: Tag, (queue, tag): (usize, Tag), link: bool, settles: Option<Tag>) -> Answer<()> {
        let Draft { len, props, .. } = self.drafts[&draft];
        self.enqueue(queue, &[(tag, Body { of: draft, len }, props)], Along { settles, feed: None })?;
        self.name(tag, queue);
        if !link {
            self.drafts.remove(&draft);
        }
        Ok(())
    }

    // Consume.

    fn message(&mut self, tag: Tag) -> &mut Message {
        self.messages.get_mut(&tag).expect("a message that is there")
    }

    /// Claims a message: by reading it, or by a rename.
    pub fn claim(&mut self, tag: Tag) -> Answer<()> {
        let now = self.now;
        let Message { queue, state, expires, .. } = *self.message(tag);
        if state != State::Ready || (expires > 0 && expires <= now) {
            return Err(Refusal::NotFound);
        }
        let Config { paused_out, visibility_timeout, .. } = self.queues[queue].config;
        if paused_out || self.is_busy(queue) {
            return Err(Refusal::Again);
        }
        self.count(queue, "claims_total");
        if self.messages[&tag].deliveries > 0 {
            self.count(queue, "redelivered_total");
        }
        self.deaths.entry(tag).or_default().iter_mut().for_each(|death| death.unclaimed = false);
        let delivery = self.number();
        let message = self.message(tag);
        (message.delivery, message.holder) = (delivery, None);
        message.state = State::Claimed;
        message.deliveries += 1;
        (message.since, message.claimed, message.lease) = (now, now, now + visibility_timeout);
        Ok(())
    }

    /// A worker of its own claims a message by reading it.
    pub fn work(&mut self, tag: Tag, worker: Worker) -> Answer<()> {
        self.claim(tag)?;
        self.message(tag).holder = Some(worker);
        Ok(())
    }

    /// It removes the message by its name in the queue. When it had the message and lost it, that is refused while another has it;
    /// everybody else's is final.
    pub fn finish_work(&mut self, tag: Tag, worker: Worker) -> Answer<()> {
        let Message { queue, state, delivery, holder, .. } = *self.message(tag);
        let lost = self.lost.get(&tag).and_then(|lost| lost.iter().rev().find(|(_, whose)| *whose == Some(worker)));
        if let (State::Claimed, Some((lost, _))) = (state, lost.copied())
            && holder != Some(worker)
        {
            assert_ne!(lost, delivery);
            return Err(self.comes_late(queue, lost));
        }
        self.messages.remove(&tag);
        self.count(queue, "acked_total");
        Ok(())
    }

    /// Somebody comes to a delivery that is over.
    fn comes_late(&mut self, queue: usize, delivery: u64) -> Refusal {
        if self.unsettled.remove(&delivery) {
            self.count(queue, "late_settlements_total");
        }
        Refusal::NotFound
    }

    /// Somebody learns the path of the delivery that a message is in.
    pub fn note(&mut self, tag: Tag) {
        let Message { queue, delivery, .. } = *self.message(tag);
        self.noted.insert(delivery, (tag, queue));
    }

    /// A worker settles a delivery by its path: that delivery or none.
    pub fn settle_by_path(&mut self, delivery: u64, how: Settle) -> Answer<()> {
        let (tag, queue) = self.noted[&delivery];
        let lasts = |m: &Message| m.state == State::Claimed && m.delivery == delivery;
        if !self.messages.get(&tag).is_some_and(lasts) {
            return Err(self.comes_late(queue, delivery));
        }
        match how {
            Settle::Ack => self.ack(tag),
            Settle::Now => self.rename(tag, Place::Queue(queue))?,
            Settle::Later => self.rename(tag, Place::Delayed)?,
            Settle::Dead => self.rename(tag, Place::Dead)?,
            Settle::Renew => self.renew(tag),
            Settle::Say(said) => self.say(tag, said),
        }
        self.unsettled.remove(&delivery);
        Ok(())
    }

    /// A delivery ends without an acknowledgement: whoever has it may come late. The last eight are remembered.
    fn lose(&mut self, tag: Tag) {
        let Message { state, delivery, holder, .. } = *self.message(tag);
        if state == State::Claimed && delivery > 0 {
            self.message(tag).delivery = 0;
            self.unsettled.insert(delivery);
            let lost = self.lost.entry(tag).or_default();
            lost.push((delivery, holder));
            lost.drain(..lost.len().saturating_sub(8));
        }
    }

    /// A worker says why it failed. That stays with the message.
    pub fn say(&mut self, tag: Tag, said: Said) {
        self.message(tag).said = said;
    }

    /// As many are claimed as may be at a time.
    fn is_busy(&self, queue: usize) -> bool {
        let most = self.queues[queue].config.max_claimed;
        most > 0 && self.list(queue, State::Claimed).len() as u64 >= most
    }

    /// `.mq/claim`: of the first of each priority that is not over, the one that counts most; of two alike, the older.
    pub fn take(&mut self, queue: usize) -> Answer<Tag> {
        let over = |m: &Message| m.expires > 0 && m.expires <= self.now;
        let mut firsts: Vec<&Message> = Vec::new();
        for message in self.list(queue, State::Ready).into_iter().filter(|m| !over(m)) {
            if firsts.iter().all(|first| self.order(first) != self.order(message)) {
                firsts.push(message);
            }
        }
        let first = firsts.into_iter().min_by_key(|m| (self.level(m), m.seq)).map(|m| m.tag);
        first.filter(|tag| self.claim(*tag).is_ok()).ok_or(Refusal::Again)
    }

    /// Its order, less one for each time that it has waited for.
    fn level(&self, message: &Message) -> i64 {
        let waited = self.now.saturating_sub(message.waits_since);
        let levels = waited.checked_div(self.queues[message.queue].config.priority_ageing).unwrap_or(0);
        i64::from(self.order(message)) - levels as i64
    }

    /// Whether a renewal now would be cut short by `max_lease`.
    pub fn is_capped(&self, tag: Tag) -> bool {
        let Config { visibility_timeout, max_lease, .. } = self.queues[self.messages[&tag].queue].config;
        self.now + visibility_timeout > self.messages[&tag].claimed + max_lease
    }

    /// `touch` of a claimed message.
    pub fn renew(&mut self, tag: Tag) {
        let now = self.now;
        let Config { visibility_timeout, max_lease, .. } = self.queues[self.messages[&tag].queue].config;
        let message = self.message(tag);
        message.lease = message.lease.max((now + visibility_timeout).min(message.claimed + max_lease));
    }

    /// `.mq/pop`, when it was read.
    pub fn popped(&mut self, tag: Tag) {
        let message = self.messages.remove(&tag).expect("a message that is there");
        self.count(message.queue, "acked_total");
    }

    /// `rm`, whatever the state.
    pub fn ack(&mut self, tag: Tag) {
        let message = self.messages.remove(&tag).expect("a message that is there");
        self.names.remove(&tag);
        self.count(message.queue, "acked_total");
    }

    /// `mv`: transitions are renames.
    pub fn rename(&mut self, tag: Tag, to: Place) -> Answer<()> {
        let Message { queue, state, deliveries, .. } = *self.message(tag);
        match (state, to) {
            (State::Ready, Place::Claimed) => self.claim(tag)?,
            (State::Ready | State::Delayed | State::Claimed, Place::Dead) => {
                self.names.remove(&tag);
                self.bury(tag, "moved");
            }
            (State::Claimed, Place::Queue(own)) if own == queue => {
                self.count(queue, "nacked_total");
                self.come_back(tag, 0);
            }
            (State::Claimed, Place::Delayed) => {
                self.count(queue, "nacked_total");
                let by_default = doubled(1000, deliveries, 5 * 60 * 1000);
                self.come_back(tag, Some(self.retry_delay(tag)).filter(|delay| *delay > 0).unwrap_or(by_default));
            }
            (State::Delayed, Place::Queue(own)) if own == queue => self.become_ready(tag),
            (State::Dead, Place::Queue(own)) if own == queue => {
                self.count(queue, "redriven_total");
                let message = self.message(tag);
                (message.deliveries, message.expires) = (0, 0);
                self.become_ready(tag);
            }
            (_, Place::Queue(other)) if other != queue => {
                let Message { props, body, .. } = *self.message(tag);
                let order = self.order_in(other, props);
                self.admit(other, (1, body.len as u64), order)?;
                self.lose(tag);
                self.count(queue, "moved_out_total");
                self.settle(tag, other, state != State::Dead);
                self.name(tag, other);
                self.drop_oldest(other, &[tag], order);
            }
            _ => return Err(Refusal::Foreign),
        }
        Ok(())
    }

    /// A claimed message is given back, or up, as its worker says.
    pub fn nack(&mut self, tag: Tag, how: Nack, said: Said) -> Answer<()> {
        let Message { queue, holder, .. } = *self.message(tag);
        if how == Nack::Uncounted && holder.is_some() {
            return Err(Refusal::Foreign); // it is another's
        }
        if said > 0 {
            self.say(tag, said);
        }
        match how {
            Nack::Now => drop(self.rename(tag, Place::Queue(queue))),
            Nack::Later => drop(self.rename(tag, Place::Delayed)),
            Nack::In(delay) => {
                self.count(queue, "nacked_total");
                self.come_back(tag, delay);
            }
            Nack::Uncounted => {
                self.count(queue, "nacked_total");
                self.lose(tag);
                self.message(tag).deliveries -= 1;
                self.become_ready(tag);
            }
            Nack::Dead => {
                self.count(queue, "nacked_total");
                self.give_up(tag, "rejected");
            }
        }
        Ok(())
    }

    /// What is delivered late has been waiting since it was due.
    fn become_ready(&mut self, tag: Tag) {
        let now = self.now;
        let message = self.message(tag);
        message.since = if message.state == State::Delayed { now.min(message.due) } else { now };
        (message.state, message.due, message.retrying) = (State::Ready, 0, false);
    }

    fn retry_delay(&self, tag: Tag) -> u64 {
        let Message { queue, deliveries, .. } = self.messages[&tag];
        let Config { retry_delay, exponential, .. } = self.queues[queue].config;
        if exponential { doubled(retry_delay, deliveries, 24 * 60 * 60 * 1000) } else { retry_delay }
    }

    /// A claimed message comes back after this time, to its old place; or it has been delivered often enough.
    fn come_back(&mut self, tag: Tag, delay: u64) {
        let (now, Message { queue, deliveries, .. }) = (self.now, *self.message(tag));
        let Config { max_deliveries, .. } = self.queues[queue].config;
        if max_deliveries > 0 && deliveries >= max_deliveries {
            return self.give_up(tag, "max_deliveries");
        }
        self.lose(tag);
        self.become_ready(tag);
        if delay > 0 {
            let message = self.message(tag);
            (message.state, message.since, message.due, message.retrying) = (State::Delayed, now, now + delay, true);
        }
    }

    /// It is dead, and stays in its queue.
    fn bury(&mut self, tag: Tag, reason: &'static str) {
        self.lose(tag);
        let (now, Message { queue, deliveries, .. }) = (self.now, *self.message(tag));
        let deaths = self.deaths.entry(tag).or_default();
        let before = deaths.iter().position(|death| (death.queue, death.reason) == (queue, reason));
        let (count, first) = before.map_or((0, now), |at| (deaths[at].count, deaths.remove(at).first));
        deaths.push(Death { queue, reason, count: count + 1, first, last: now, unclaimed: true });
        let message = self.message(tag);
        message.died = Some((reason, deliveries));
        (message.state, message.since, message.due, message.retrying) = (State::Dead, now, 0, false);
        self.count(queue, "dead_lettered_total");
    }

    /// The queue gives it up: it goes to the queue that gets the dead letters, if that lets it in, as any other message. But it does
    /// not go round without end: where it died since it was last claimed, it does not come again.
    fn give_up(&mut self, tag: Tag, why: &'static str) {
        let target = self.queues[self.messages[&tag].queue].config.dead_letter;
        let was_in = |queue| self.deaths.entry(tag).or_default().iter().any(|d| d.unclaimed && d.queue == queue);
        if target.is_some_and(was_in) {
            return self.bury(tag, "cycle");
        }
        self.bury(tag, why);
        let Some(target) = target else { return };
        let Message { props, body, .. } = *self.message(tag);
        let order = self.order_in(target, props);
        if self.admit(target, (1, body.len as u64), order).is_ok() {
            self.settle(tag, target, false);
            self.drop_oldest(target, &[tag], order);
        }
    }

    /// It arrives in another queue, as the newest. `lives`: its own time to live begins anew, as that of the queue does.
    fn settle(&mut self, tag: Tag, queue: usize, lives: bool) {
        let (now, seq, message_ttl) = (self.now, self.number(), self.queues[queue].config.message_ttl);
        self.become_ready(tag);
        let message = self.message(tag);
        (message.queue, message.seq, message.deliveries, message.since) = (queue, seq, 0, now);
        message.expires = end_of_life(now, if lives { message.props.ttl } else { 0 }, message_ttl);
        self.count(queue, "enqueued_total");
    }

    // What happens by itself, and to all.

    /// When something is due next.
    pub fn next_deadline(&self) -> Option<u64> {
        self.messages.values().flat_map(Message::deadlines).map(|(at, _)| at).min()
    }

    /// Does what is due.
    pub fn look(&mut self) {
        loop {
            let of =
                |m: &Message| m.deadlines().into_iter().map(|(at, what)| (at, what, m.seq, m.tag)).collect::<Vec<_>>();
            let mut due: Vec<_> = self.messages.values().flat_map(of).filter(|(at, ..)| *at <= self.now).collect();
            due.sort_unstable();
            if due.is_empty() {
                return;
            }
            for (at, what, _, tag) in due {
                if self.messages.get(&tag).is_some_and(|message| message.deadlines().contains(&(at, what))) {
                    self.pass(tag, what);
                }
            }
        }
    }

    fn pass(&mut self, tag: Tag, what: Deadline) {
        let queue = self.messages[&tag].queue;
        match what {
            Deadline::Lease => {
                self.count(queue, "expired_total");
                self.come_back(tag, self.retry_delay(tag));
            }
            Deadline::Due => self.become_ready(tag),
            Deadline::Expires => {
                self.count(queue, "ttl_expired_total");
                if self.queues[queue].config.drop_expired {
                    self.messages.remove(&tag);
                } else {
                    self.give_up(tag, "expired");
                }
            }
        }
    }

    /// Purges messages in these states; what is being written stays.
    pub fn purge(&mut self, queue: usize, states: &[State]) {
        let before = self.messages.len();
        self.messages.retain(|_, message| message.queue != queue || !states.contains(&message.state));
        *self.queues[queue].totals.entry("purged_total").or_default() += (before - self.messages.len()) as u64;
    }

    /// The server dies and starts again. What a close has promised is there.
    pub fn crash(&mut self) {
        let promised = std::mem::take(&mut self.writers).into_values().filter_map(|writer| writer.promised);
        promised.for_each(|message| self.show(message));
        self.names.clear();
        self.lost.clear();
        self.unsettled.clear();
    }
}

fn sum(rooms: impl Iterator<Item = Room>) -> Room {
    rooms.fold((0, 0), |(messages, bytes), room| (messages + room.0, bytes + room.1))
}

fn doubled(first: u64, deliveries: u32, limit: u64) -> u64 {
    (1..deliveries.min(40)).fold(first, |delay, _| delay.saturating_mul(2)).min(limit.max(first))
}

/// The shorter of two times to live counts.
fn end_of_life(start: u64, own: u64, queues: u64) -> u64 {
    [own, queues].into_iter().filter(|ttl| *ttl > 0).min().map_or(0, |ttl| start + ttl)
}
