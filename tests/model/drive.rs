//! Random operations, done to the model and to a system that must look like it after each of them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::test_runner::{Config as Runs, RngAlgorithm, TestError, TestRng, TestRunner};

use super::ops::{HOUR, Op, QUEUES, beginnings, op};
use super::{
    Along, Answer, Body, Death, End, Feed, Message, Model, Place, Props, STATES, Said, Settle, State, Tag, Worker, said,
};

/// What is driven: it does what the methods say, by the ways that its users have.
pub trait System {
    /// Makes [`QUEUES`] empty queues that begin as [`super::ops::BEGINNINGS`] says; gives the time.
    fn begin(&mut self) -> u64;
    /// Removes the queues with all that they hold, which leaves nothing behind.
    fn finish(&mut self);
    /// Sets the clock. When something is `due` by it, a system that [`CAN_BE_LATE`](System::CAN_BE_LATE) has done that when this
    /// returns, and another one begins to.
    fn set_clock(&mut self, now: u64, due: bool);
    /// Whether it leaves undone what is due until it is told to do it. One that does not does by itself, and soon, what is due by
    /// its clock, and what is overdue as it appears.
    const CAN_BE_LATE: bool;
    /// Whether it compares its clock with one that nobody sets: what the clock skips does not count for `max_lease` then.
    const SEES_LEAPS: bool;

    fn open(&mut self, queue: usize, tag: Tag, props: Props) -> Answer<()>;
    /// Writes the bytes after the first `at`. After a refusal, nothing more is done with the writer.
    fn write(&mut self, tag: Tag, at: usize, bytes: &str) -> Answer<()>;
    fn flush(&mut self, tag: Tag) -> Answer<()>;
    fn close(&mut self, tag: Tag) -> Answer<()>;
    /// A process of its own writes the bytes after the first `at` and ends so with the file open; `counts`: as none may in its
    /// queue. When it is killed then, or the write is refused, nothing more is done with the writer.
    fn end(&mut self, tag: Tag, at: usize, bytes: &str, end: End, counts: bool) -> Answer<()>;
    /// Unlinks a message that is being written, by its name, and goes on with its descriptor; false where there is no way to.
    fn unlink(&mut self, tag: Tag) -> bool;
    /// Gives one another name, of which it can be told as well; false where there is no way to.
    fn name_anew(&mut self, tag: Tag) -> bool;
    /// Sets the mode of a message by the name that it was given in that queue; `None` where there is no way to.
    fn chmod(&mut self, queue: usize, tag: Tag) -> Option<Answer<()>>;
    /// Enqueues in one step; `None` where there is no way to.
    fn line(&mut self, queue: usize, tag: Tag, text: &str) -> Option<Answer<()>>;
    fn draft(&mut self, queue: usize, tag: Tag, text: &str, props: Props);
    /// `settles`: the message whose delivery is acknowledged with it, if it is claimed; else one of its that is over.
    fn publish(&mut self, draft: Tag, to: (usize, Tag), link: bool, settles: Option<&Message>) -> Answer<()>;
    fn discard(&mut self, draft: Tag);
    fn batch(
        &mut self,
        queue: usize,
        files: &[(Tag, Body, Props)],
        feed: Option<Feed>,
        settles: Option<&Message>,
    ) -> Answer<()>;
    /// 0 removes it.
    fn set_mark(&mut self, queue: usize, mark: u8, is: u8);
    /// Those that are not 0.
    fn marks(&mut self, queue: usize) -> BTreeMap<u8, u8>;

    fn take(&mut self, queue: usize) -> Answer<Tag>;
    /// Gives the body.
    fn pop(&mut self, queue: usize) -> Answer<String>;
    /// Reads a ready message; gives the body.
    fn read(&mut self, message: &Message) -> Answer<String>;
    fn rename(&mut self, message: &Message, to: Place) -> Answer<()>;
    fn ack(&mut self, message: &Message);
    fn renew(&mut self, message: &Message);
    /// By none of the workers that are told apart.
    fn nack(&mut self, message: &Message, how: super::Nack, said: &str) -> Answer<()>;
    /// A worker of its own claims a message by reading it.
    fn work(&mut self, message: &Message, worker: Worker) -> Answer<()>;
    /// It removes a message by its name in the queue; `None` where there is no way to.
    fn finish_work(&mut self, message: &Message, worker: Worker) -> Option<Answer<()>>;
    /// Notes the path of the delivery that a message is in.
    fn note(&mut self, message: &Message);
    /// Settles a delivery by the path that was noted.
    fn settle(&mut self, delivery: u64, how: Settle) -> Answer<()>;
    /// Sets what a worker said of a message.
    fn say(&mut self, message: &Message, said: &str);

    /// `clear`: what was purged is cleared away at once.
    fn purge(&mut self, queue: usize, states: &[State], clear: bool);
    fn set(&mut self, queue: usize, line: &str);
    /// The path of a queue.
    fn path(&self, queue: usize) -> String;
    /// A clean end and a new start: no writers are left. Or a crash.
    fn restart(&mut self, crash: bool);

    /// The messages of a queue in a state, in delivery order.
    fn list(&mut self, queue: usize, state: State) -> Vec<Tag>;
    /// Everything of one of them.
    fn look_at(&mut self, queue: usize, state: State, tag: Tag) -> Looks;
    fn stats(&mut self, queue: usize) -> BTreeMap<String, u64>;
}

/// What is seen of a message. Times that do not matter in its state are 0.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Looks {
    pub body: String,
    pub deliveries: u32,
    pub due: u64,
    pub expires: u64,
    pub lease: u64,
    /// `user.mq.dead_reason`, `user.mq.dead_deliveries`.
    pub died: Option<(String, u32)>,
    /// `user.mq.deaths`: queue, reason, count, first, last.
    pub deaths: Vec<(String, String, u32, u64, u64)>,
    /// `user.mq.last_error`.
    pub last_error: Option<String>,
}

/// What is kept of what a worker says.
fn kept(number: Said) -> Option<String> {
    let text = said(number);
    (number > 0).then(|| text[text.len().saturating_sub(1024)..].to_owned())
}

impl Looks {
    fn of(message: &Message, deaths: &[Death], path: impl Fn(usize) -> String) -> Looks {
        let only = |state, time| if message.state == state { time } else { 0 };
        Looks {
            body: message.body.text(),
            deliveries: message.deliveries,
            due: only(State::Delayed, message.due),
            expires: message.expires,
            lease: only(State::Claimed, message.lease),
            died: message.died.map(|(why, deliveries)| (why.to_owned(), deliveries)),
            deaths: deaths.iter().map(|d| (path(d.queue), d.reason.to_owned(), d.count, d.first, d.last)).collect(),
            last_error: kept(message.said),
        }
    }
}

/// Tells at which operation a test has failed.
struct Told<'a>(usize, &'a Op);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("at operation {}: {:?}", self.0, self.1);
        }
    }
}

/// The model and the system side by side.
pub struct Drive<'a, S> {
    model: Model,
    system: &'a mut S,
}

impl<'a, S: System> Drive<'a, S> {
    /// Does the operations to a system. After each, it must show what the model shows, and all details after every `closely`th
    /// and at the end.
    pub fn run(system: &'a mut S, ops: &[Op], closely: usize) {
        let model = Model::new(system.begin(), beginnings());
        let mut drive = Drive { model, system };
        for (at, op) in ops.iter().enumerate() {
            let told = Told(at, op);
            drive.pass(1);
            drive.model.note_left();
            drive.step(op);
            drive.settle();
            drive.model.note_left();
            drive.compare((at + 1) % closely == 0 || at + 1 == ops.len());
            drop(told);
        }
        let left: Vec<Tag> = drive.model.writers.keys().copied().collect();
        left.into_iter().for_each(|tag| drive.close(tag));
        drive.compare(true);
        drive.system.finish();
    }

    /// Time passes. A system that can be late does what is due at [`Op::Wait`] only.
    fn pass(&mut self, ms: u64) {
        self.model.now += ms;
        if S::CAN_BE_LATE {
            self.system.set_clock(self.model.now, false);
        } else {
            self.look();
        }
    }

    fn look(&mut self) {
        let due = self.is_due();
        self.system.set_clock(self.model.now, due);
        self.model.look();
        if due {
            self.wait_until_alike();
        }
    }

    fn is_due(&self) -> bool {
        self.model.next_deadline().is_some_and(|at| at <= self.model.now)
    }

    /// A message may be overdue as it appears: its time to live or its delay ran out while its writer had not closed it for the
    /// last time, or while a worker had it. Nobody can claim it then; a system that is never late deals with it at once, but by
    /// another thread than the one that answers, so that it may be seen for a moment.
    fn settle(&mut self) {
        if !S::CAN_BE_LATE && self.is_due() {
            self.model.look();
            self.wait_until_alike();
        }
    }

    /// Waits until a system that does by itself what is due has done it.
    fn wait_until_alike(&mut self) {
        let begun = Instant::now();
        while !S::CAN_BE_LATE && begun.elapsed() < PATIENCE && self.difference().is_some() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn tag(&mut self) -> Tag {
        self.model.number() as Tag
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Put { q, len, props } => {
                if let Some(tag) = self.open(*q, *props)
                    && (*len == 0 || self.write(tag, *len))
                {
                    self.close(tag);
                }
            }
            Op::Open { q, props } => drop(self.open(*q, *props)),
            Op::Write { n, len } => drop(pick(&self.model.writers, *n).is_some_and(|tag| self.write(tag, *len))),
            Op::Flush { n } => {
                if let Some(tag) = pick(&self.model.writers, *n)
                    && self.model.writers[&tag].props.id == 0
                {
                    assert_eq!(self.system.flush(tag), self.model.flush(tag));
                }
            }
            Op::Close { n } => pick(&self.model.writers, *n).into_iter().for_each(|tag| self.close(tag)),
            Op::End { n, len, end } => {
                if let Some(tag) = pick(&self.model.writers, *n) {
                    let at = self.model.writers[&tag].len;
                    let text = Body { of: tag, len: at + len }.text();
                    let counts = self.model.writers[&tag].abort_on.counts(*end);
                    let answer = self.system.end(tag, at, &text[at..], *end, counts);
                    assert_eq!(answer, self.model.write(tag, *len).map(|()| self.model.end(tag, *end)));
                }
            }
            Op::Unlink { n } => {
                if let Some(tag) = pick(&self.model.writers, *n)
                    && self.system.unlink(tag)
                {
                    self.model.abort(tag);
                }
            }
            Op::NameAnew { n } => {
                if let Some(tag) = pick(&self.model.writers, *n)
                    && self.system.name_anew(tag)
                {
                    self.model.retract(tag);
                }
            }
            Op::Chmod { n } => {
                let written = self.model.names.iter().map(|(tag, named)| (*tag, named.queue));
                let writing = self.model.writers.iter().map(|(tag, writer)| (*tag, writer.queue));
                let all: BTreeMap<Tag, usize> = written.chain(writing).collect();
                if let Some(tag) = pick(&all, *n)
                    && let Some(answer) = self.system.chmod(all[&tag], tag)
                {
                    assert_eq!(answer, self.model.chmod(tag), "the name of message {tag}");
                }
            }
            Op::Line { q, len } => {
                let tag = self.tag();
                let body = Body { of: tag, len: *len };
                if let Some(answer) = self.system.line(*q, tag, &body.text()) {
                    assert_eq!(answer, self.model.enqueue(*q, &[(tag, body, Props::default())], Along::default()));
                }
            }
            Op::Draft { q, len, props } => {
                let (tag, props) = (self.tag(), self.at(*props));
                self.system.draft(*q, tag, &Body { of: tag, len: *len }.text(), props);
                self.model.drafts.insert(tag, super::Draft { queue: *q, len: *len, props });
            }
            Op::Publish { n, q, link, settles } => {
                if let Some(draft) = pick(&self.model.drafts, *n) {
                    let (tag, settles) = (self.tag(), self.settled(*settles));
                    let answer = self.system.publish(draft, (*q, tag), *link, settles.as_ref());
                    assert_eq!(answer, self.model.publish(draft, (*q, tag), *link, settles.map(|m| m.tag)));
                }
            }
            Op::Discard { n } => {
                if let Some(draft) = pick(&self.model.drafts, *n) {
                    self.system.discard(draft);
                    self.model.drafts.remove(&draft);
                }
            }
            Op::Batch { q, files, feed, settles } => {
                let file = |(len, props): &(usize, Props)| {
                    let tag = self.tag();
                    (tag, Body { of: tag, len: *len }, self.at(*props))
                };
                let files: Vec<_> = files.iter().map(file).collect();
                let settles = self.settled(*settles);
                let answer = self.system.batch(*q, &files, *feed, settles.as_ref());
                let along = Along { feed: *feed, settles: settles.map(|message| message.tag) };
                assert_eq!(answer, self.model.enqueue(*q, &files, along));
            }
            Op::Mark { q, mark, is } => {
                self.system.set_mark(*q, *mark, *is);
                self.model.set_mark(*q, *mark, *is);
            }
            Op::Take { q } => assert_eq!(self.system.take(*q), self.model.take(*q)),
            Op::Pop { q } => {
                let taken = self.model.take(*q);
                let text = taken.map(|tag| self.model.messages[&tag].body.text());
                assert_eq!(self.system.pop(*q), text);
                taken.into_iter().for_each(|tag| self.model.popped(tag));
            }
            Op::Read { n } => {
                if let Some(message) = self.picked(*n).filter(|message| message.state == State::Ready) {
                    let answer = self.model.claim(message.tag).map(|()| message.body.text());
                    assert_eq!(self.system.read(&message), answer);
                }
            }
            Op::Rename { n, to } => {
                // A rename to where it is does nothing.
                let here = |m: &Message| match to {
                    Place::Queue(queue) => m.state == State::Ready && m.queue == *queue,
                    Place::Claimed => m.state == State::Claimed,
                    Place::Delayed => m.state == State::Delayed,
                    Place::Dead => m.state == State::Dead,
                };
                if let Some(message) = self.picked(*n).filter(|message| !here(message)) {
                    assert_eq!(self.system.rename(&message, *to), self.model.rename(message.tag, *to));
                }
            }
            Op::Ack { n } => {
                if let Some(message) = self.picked(*n) {
                    self.system.ack(&message);
                    self.model.ack(message.tag);
                }
            }
            Op::Renew { n } => {
                if let Some(message) = self.claimed(*n).filter(|message| !self.is_unsure(message)) {
                    self.system.renew(&message);
                    self.model.renew(message.tag);
                }
            }
            Op::Nack { n, how, said: number } => {
                if let Some(message) = self.claimed(*n) {
                    let answer = self.system.nack(&message, *how, &said(*number));
                    assert_eq!(answer, self.model.nack(message.tag, *how, *number));
                }
            }
            Op::Work { n, worker } => {
                if let Some(message) = self.picked(*n).filter(|message| message.state == State::Ready) {
                    assert_eq!(self.system.work(&message, *worker), self.model.work(message.tag, *worker));
                }
            }
            Op::FinishWork { n, worker } => {
                let listed = |message: &Message| matches!(message.state, State::Ready | State::Claimed);
                if let Some(message) = self.picked(*n).filter(listed)
                    && let Some(answer) = self.system.finish_work(&message, *worker)
                {
                    assert_eq!(answer, self.model.finish_work(message.tag, *worker));
                }
            }
            Op::Note { n } => {
                if let Some(message) = self.claimed(*n) {
                    self.system.note(&message);
                    self.model.note(message.tag);
                }
            }
            Op::Settle { n, how } => self.settle_noted(*n, *how),
            Op::Say { n, said: number } => {
                if let Some(message) = self.picked(*n) {
                    self.system.say(&message, &said(*number));
                    self.model.say(message.tag, *number);
                }
            }
            Op::Purge { q, states, clear } => {
                let states: Vec<State> =
                    STATES.into_iter().enumerate().filter(|(bit, _)| states >> bit & 1 == 1).map(|(_, s)| s).collect();
                self.system.purge(*q, &states, *clear);
                self.model.purge(*q, &states);
            }
            Op::Set { q, setting } => {
                let line = setting.line(|queue| self.system.path(queue), *q);
                self.system.set(*q, &line);
                setting.apply(&mut self.model.queues[*q].config, *q);
            }
            Op::Wait { ms } => {
                self.model.now += ms;
                self.look();
            }
            Op::Late { ms } => self.pass(*ms),
            Op::Restart { crash } => {
                if !crash {
                    let left: Vec<Tag> = self.model.writers.keys().copied().collect();
                    left.into_iter().for_each(|tag| self.close(tag));
                }
                self.model.crash();
                self.system.restart(*crash);
                self.settle();
            }
        }
    }

    fn settle_noted(&mut self, n: usize, how: Settle) {
        let Some(delivery) = self.model.noted.keys().nth(n % self.model.noted.len().max(1)).copied() else { return };
        let (tag, _) = self.model.noted[&delivery];
        let message = self.model.messages.get(&tag).copied();
        if how == Settle::Renew && message.is_some_and(|m| m.state == State::Claimed && self.is_unsure(&m)) {
            return;
        }
        assert_eq!(self.system.settle(delivery, how), self.model.settle_by_path(delivery, how));
    }

    /// Whether it is not known how long a message's lease would be renewed for: what the clock has skipped depends on when the server
    /// looked at it (tests/suite/clock.rs).
    fn is_unsure(&self, message: &Message) -> bool {
        S::SEES_LEAPS && self.model.is_capped(message.tag)
    }

    fn claimed(&self, n: usize) -> Option<Message> {
        self.picked(n).filter(|message| message.state == State::Claimed)
    }

    fn picked(&self, n: usize) -> Option<Message> {
        pick(&self.model.messages, n).map(|tag| self.model.messages[&tag])
    }

    /// The message whose delivery is to be acknowledged.
    fn settled(&self, n: Option<usize>) -> Option<Message> {
        let n = n?;
        let fits = |m: &&Message| n % 2 == 1 || m.state == State::Claimed;
        let all: BTreeMap<Tag, Message> = self.model.messages.values().filter(fits).map(|m| (m.tag, *m)).collect();
        pick(&all, n).map(|tag| all[&tag])
    }

    /// Properties with their instant.
    fn at(&self, props: Props) -> Props {
        let deliver_at = [0, self.model.now + HOUR, self.model.now - HOUR][props.deliver_at as usize];
        Props { deliver_at, ..props }
    }

    fn open(&mut self, queue: usize, props: Props) -> Option<Tag> {
        let (tag, props) = (self.tag(), self.at(props));
        let answer = self.system.open(queue, tag, props);
        assert_eq!(answer, self.model.open(queue, tag, props));
        answer.is_ok().then_some(tag)
    }

    fn write(&mut self, tag: Tag, more: usize) -> bool {
        let at = self.model.writers[&tag].len;
        let text = Body { of: tag, len: at + more }.text();
        let answer = self.system.write(tag, at, &text[at..]);
        assert_eq!(answer, self.model.write(tag, more));
        answer.is_ok()
    }

    fn close(&mut self, tag: Tag) {
        assert_eq!(self.system.close(tag), self.model.close(tag));
        self.settle();
    }

    fn compare(&mut self, closely: bool) {
        if let Some(difference) = self.difference() {
            panic!("{difference}");
        }
        for (queue, state) in (0..QUEUES).flat_map(|queue| STATES.map(|state| (queue, state))).filter(|_| closely) {
            for message in self.model.list(queue, state) {
                let looks = self.system.look_at(queue, state, message.tag);
                let deaths = self.model.deaths.get(&message.tag).map_or(&[][..], |deaths| deaths);
                let expected = Looks::of(message, deaths, |queue| self.system.path(queue));
                assert_eq!(looks, expected, "queue {queue}, {state:?}, message {}", message.tag);
            }
        }
    }

    /// Where the listings and counters of the system are not those of the model.
    fn difference(&mut self) -> Option<String> {
        for queue in 0..QUEUES {
            for state in STATES {
                let expected: Vec<Tag> = self.model.list(queue, state).iter().map(|message| message.tag).collect();
                let listed = self.system.list(queue, state);
                if listed != expected {
                    return Some(format!("queue {queue}, {state:?}: {listed:?} and not {expected:?}"));
                }
            }
            let (marks, expected) = (self.system.marks(queue), &self.model.queues[queue].marks);
            if marks != *expected {
                return Some(format!("queue {queue}: the marks are {marks:?} and not {expected:?}"));
            }
            let shown = self.system.stats(queue);
            let expected = self.model.stats(queue);
            // What the model does not tell has not happened.
            let told = |name: &str| expected.get(name).copied().unwrap_or_default();
            if let Some((name, count)) = shown.iter().find(|(name, count)| **count != told(name)) {
                return Some(format!("queue {queue}: {name} is {count} and not {}", told(name)));
            }
            if let Some(missing) = expected.keys().find(|name| !shown.contains_key(**name)) {
                return Some(format!("queue {queue}: {missing} is missing"));
            }
        }
        None
    }
}

/// So long at most is waited for what a system does by itself.
const PATIENCE: Duration = Duration::from_secs(60);

fn pick<T>(all: &BTreeMap<Tag, T>, n: usize) -> Option<Tag> {
    all.keys().nth(n % all.len().max(1)).copied()
}

/// Tries `cases` random sequences of at most `longest` operations, a hundred times as many with `MQFS_TEST_FULL`, or
/// `PROPTEST_CASES`; the same again for the same `MQFS_TEST_SEED`, which is printed. Of one that fails, a short one that fails
/// too is told.
pub fn random(cases: u32, longest: usize, test: impl Fn(&[Op])) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let clock = || std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
    let seed = number("MQFS_TEST_SEED").unwrap_or_else(clock);
    let cases = if std::env::var_os("MQFS_TEST_FULL").is_some() { 100 * cases } else { cases };
    let cases = number("PROPTEST_CASES").map_or(cases, |cases| cases as u32);
    println!("MQFS_TEST_SEED={seed} PROPTEST_CASES={cases}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let runs =
        Runs { cases, failure_persistence: None, max_shrink_iters: 2000, max_shrink_time: 60_000, ..Runs::default() };
    let mut runner = TestRunner::new_with_rng(runs, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let tried = runner.run(&vec(op(), 1..longest), |ops| {
        test(&ops);
        Ok(())
    });
    match tried {
        Ok(()) => {}
        Err(TestError::Abort(why)) => panic!("{why}"),
        Err(TestError::Fail(why, ops)) => {
            let mut text = String::new();
            ops.iter().for_each(|op| writeln!(text, "    Op::{op:?},").expect("a string"));
            panic!("MQFS_TEST_SEED={seed} PROPTEST_CASES={cases}: {why}\n[\n{text}]");
        }
    }
}
