//! How messages are claimed, settled, moved and given up.

use super::*;

impl Model {
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
    pub(super) fn become_ready(&mut self, tag: Tag) {
        let now = self.now;
        let message = self.message(tag);
        message.since = if message.state == State::Delayed { now.min(message.due) } else { now };
        (message.state, message.due, message.retrying) = (State::Ready, 0, false);
    }

    pub(super) fn retry_delay(&self, tag: Tag) -> u64 {
        let Message { queue, deliveries, .. } = self.messages[&tag];
        let Config { retry_delay, exponential, .. } = self.queues[queue].config;
        if exponential { doubled(retry_delay, deliveries, 24 * 60 * 60 * 1000) } else { retry_delay }
    }

    /// A claimed message comes back after this time, to its old place; or it has been delivered often enough.
    pub(super) fn come_back(&mut self, tag: Tag, delay: u64) {
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
    pub(super) fn give_up(&mut self, tag: Tag, why: &'static str) {
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
}
