//! How messages come into a queue: written, as drafts and in batches; and the names that their producers gave them.

use super::*;

impl Model {
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
    pub(super) fn show(&mut self, message: Message) {
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
    pub(super) fn name(&mut self, tag: Tag, queue: usize) {
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
}
