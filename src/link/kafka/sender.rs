//! Sending to Kafka: an idempotent producer, acknowledged by all in-sync replicas.
//!
//! The library repeats what a broker has not acknowledged, in order and without doubling it, for as long as the producer lives. So
//! a broker that is away is waited for with what is under way: only a new producer could send twice.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver as Waiting};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::super::envelope::Envelope;
use super::super::net::Net;
use super::super::peer::{self, Ends, Outcome, Sent};
use super::super::trouble::{Kind, Trouble};
use super::address::Address;
use super::client::{self, Quiet};
use super::events::{Event, Events, Fault, Topic};
use super::map;
use super::token::Tokens;
use crate::clock;

/// How often the thread looks, when nothing is told.
const TICK: Duration = Duration::from_secs(1);
/// A producer that holds as much as it may is tried again after so long.
const FULL: Duration = Duration::from_millis(10);
/// The number of a record is that of its job, and its place in that.
const PLACES: usize = 1 << 16;

/// A producer.
pub struct Sender {
    work: Arc<Work>,
    thread: Option<JoinHandle<()>>,
}

struct Work {
    // The queue has to go first.
    events: Events,
    producer: BaseProducer<Quiet>,
    address: Address,
    tokens: Option<Tokens>,
    /// Never held while something is told or sent.
    state: Mutex<State>,
    stop: AtomicBool,
}

#[derive(Default)]
struct State {
    next: usize,
    jobs: HashMap<usize, Job>,
    /// Why this producer is of no use any more.
    broken: Option<Trouble>,
    /// Why no broker is reached, if none is.
    away: Option<String>,
    /// What was told last of that.
    heard: Option<String>,
}

/// Records that were sent together, and what became of them.
struct Job {
    messages: Vec<Arc<Envelope>>,
    outcomes: Vec<Option<Outcome>>,
    left: usize,
    /// Those that were refused together with others: each is sent alone, since it may be another's fault.
    alone: VecDeque<usize>,
    singly: bool,
    tell: mpsc::Sender<Sent>,
}

/// What the report of a record says.
enum Verdict {
    Is(Outcome),
    /// Something in the batch, which the library had put together, is refused.
    Suspect(String),
    /// Another producer has to try.
    Broken(Trouble),
}

/// Makes a producer, and looks at the topic.
fn produce(ends: Ends<'_>, address: &Address) -> Result<(BaseProducer<Quiet>, Events, Topic), Trouble> {
    let mut config = client::config(ends, address)?;
    for (name, value) in [("linger.ms", "5"), ("partitioner", "murmur2_random"), ("compression.codec", "lz4")] {
        if config.get(name).is_none() {
            config.set(name, value);
        }
    }
    // The broker decides what is too large.
    let largest = ends.settings.largest.saturating_add(1 << 20).clamp(1_000_000, 1_000_000_000);
    config.set("message.max.bytes", largest.to_string());
    config.set("enable.idempotence", "true").set("acks", "all").set("message.timeout.ms", "0");
    let producer = BaseProducer::from_config_and_context(&config, Quiet).map_err(|error| client::unmade(&error))?;
    let native = producer.client().native_client();
    let events = Events::of_producer(native).ok_or_else(|| Trouble::new(Kind::Local, "no memory"))?;
    let topic = client::reach(native, &events, address, Tokens::of(ends, address).as_ref())?;
    Ok((producer, events, topic))
}

/// Looks at the topic, as who sends does.
pub fn look(ends: Ends<'_>, address: &Address) -> Result<Topic, Trouble> {
    let (producer, events, topic) = produce(ends, address)?;
    drop(events);
    drop(producer);
    Ok(topic)
}

impl Sender {
    /// Connects, and looks that the topic is there.
    pub fn connect(ends: Ends<'_>) -> Result<Sender, Trouble> {
        let address = Address::of(ends.target, true)?;
        let (producer, events, _) = produce(ends, &address)?;
        let (state, stop, tokens) = (Mutex::default(), AtomicBool::new(false), Tokens::of(ends, &address));
        let work = Arc::new(Work { events, producer, address, tokens, state, stop });
        let own = work.clone();
        let thread = std::thread::Builder::new().name("link-kafka".to_owned()).spawn(move || own.run());
        let thread =
            thread.map_err(|error| Trouble::new(Kind::Local, format_args!("cannot start a thread: {error}")))?;
        Ok(Sender { work, thread: Some(thread) })
    }
}

impl peer::Sender for Sender {
    fn send(&self, _: &Net, messages: Vec<Arc<Envelope>>) -> Waiting<Sent> {
        let (tell, told) = mpsc::channel();
        let count = messages.len();
        let job = Job {
            outcomes: vec![None; count],
            left: count,
            messages: messages.clone(),
            alone: VecDeque::new(),
            singly: false,
            tell,
        };
        let number = {
            let mut state = self.work.state();
            state.next += 1;
            let number = state.next;
            state.jobs.insert(number, job);
            number
        };
        for (place, message) in messages.iter().enumerate() {
            self.work.send(number, place, message);
        }
        told
    }

    fn is_connected(&self) -> bool {
        self.trouble().is_none()
    }

    // With nothing under way, nothing should be claimed while no broker is there.
    fn trouble(&self) -> Option<Trouble> {
        let state = self.work.state();
        let away = || state.away.clone().filter(|_| state.jobs.is_empty()).map(Trouble::away);
        state.broken.clone().or_else(away)
    }

    fn is_patient(&self) -> bool {
        true
    }

    fn away(&self) -> Option<String> {
        self.work.state().away.clone()
    }

    fn close(mut self: Box<Self>, _: &Net) {
        self.work.stop.store(true, Ordering::Relaxed);
        self.work.events.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Work {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: hears what is told.
    fn run(&self) {
        // A flag that is seen late is seen after a tick.
        while !self.stop.load(Ordering::Relaxed) {
            match self.events.next(TICK) {
                Some(Event::Reported(reports)) => {
                    reports.into_iter().for_each(|(number, report)| self.settle(number, verdict(report)));
                }
                Some(Event::Failed(fault)) => self.fail(fault),
                Some(Event::TokenWanted) => {
                    let client = self.producer.client().native_client();
                    self.tokens.iter().for_each(|tokens| tokens.renew(client));
                }
                _ => {}
            }
        }
    }

    /// Hands a record to the library.
    fn send(&self, job: usize, place: usize, message: &Envelope) {
        let mut headers = OwnedHeaders::new();
        for (key, value) in map::headers(message, &self.address, clock::now_ms()) {
            headers = headers.insert(Header { key, value: value.as_deref() });
        }
        let number = job * PLACES + place;
        let mut record = BaseRecord::with_opaque_to(&self.address.topic, number).headers(headers);
        record.key = self.address.key_of(message);
        record.payload = map::value(message);
        record.timestamp = map::timestamp(message);
        loop {
            let (error, back) = match self.producer.send::<[u8], [u8]>(record) {
                Ok(()) => return,
                Err(refused) => refused,
            };
            let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
            if code != Code::QueueFull || self.stop.load(Ordering::Relaxed) {
                return self.settle(number, verdict(Err(Fault { code, text: code.to_string(), fatal: false })));
            }
            // Reports make room.
            std::thread::sleep(FULL);
            record = back;
        }
    }

    /// Notes what became of a record, and tells when that is known of all that were sent with it.
    fn settle(&self, number: usize, verdict: Verdict) {
        if let Some((job, place, message)) = self.note(number, verdict) {
            self.send(job, place, &message);
        }
    }

    /// The same; gives what is to be sent alone next.
    fn note(&self, number: usize, verdict: Verdict) -> Option<(usize, usize, Arc<Envelope>)> {
        let (number, place) = (number / PLACES, number % PLACES);
        let mut state = self.state();
        if !matches!(verdict, Verdict::Broken(_)) {
            state.away = None;
        }
        let broken = match &verdict {
            Verdict::Broken(trouble) => Some(trouble.clone()),
            _ => None,
        };
        state.broken = state.broken.take().or(broken);
        let job = state.jobs.get_mut(&number)?;
        job.left -= 1;
        match verdict {
            Verdict::Is(outcome) => job.outcomes[place] = Some(outcome),
            Verdict::Suspect(_) if !job.singly && job.messages.len() > 1 => job.alone.push_back(place),
            Verdict::Suspect(why) => job.outcomes[place] = Some(Outcome::Never(why)),
            Verdict::Broken(trouble) => job.outcomes[place] = Some(Outcome::Later(trouble.text)),
        }
        if job.left > 0 {
            return None;
        }
        if let Some(place) = job.alone.pop_front() {
            (job.singly, job.left) = (true, 1);
            return Some((number, place, job.messages[place].clone()));
        }
        let job = state.jobs.remove(&number)?;
        drop(state);
        let unknown = || Outcome::Later("no report".to_owned());
        let outcomes = job.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(unknown)).collect();
        let _ = job.tell.send(Sent::Answered(outcomes));
        None
    }

    fn fail(&self, fault: Fault) {
        let mut state = self.state();
        match fault.code {
            Code::AllBrokersDown => state.away = state.heard.clone().or(Some(fault.text)),
            code if fault.fatal => {
                state.broken = Some(Trouble::away(format_args!("the producer has ended: {} ({code})", fault.text)));
            }
            code => {
                let why = client::why(&fault);
                if client::is_refusal(code) || state.away.is_some() {
                    state.away = Some(why.clone());
                }
                state.heard = Some(why);
            }
        }
    }
}

fn verdict(report: Result<(), Fault>) -> Verdict {
    let Err(fault) = report else { return Verdict::Is(Outcome::Confirmed) };
    match fault.code {
        Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::InvalidDifferentRecord
        | Code::InvalidTimestamp
        | Code::UnsupportedForMessageFormat => Verdict::Suspect(fault.text),
        _ => Verdict::Broken(client::trouble(&fault)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_anothers_fault_is_told_from_the_producers() {
        let of = |code: Code| verdict(Err(Fault { code, text: code.to_string(), fatal: false }));
        assert!(matches!(verdict(Ok(())), Verdict::Is(Outcome::Confirmed)));
        assert!(matches!(of(Code::MessageSizeTooLarge), Verdict::Suspect(_)));
        assert!(matches!(of(Code::InvalidRecord), Verdict::Suspect(_)));
        let kind = |code| match of(code) {
            Verdict::Broken(trouble) => trouble.kind,
            _ => Kind::Usage,
        };
        assert_eq!(kind(Code::UnknownTopicOrPartition), Kind::Refusing);
        assert_eq!(kind(Code::TopicAuthorizationFailed), Kind::Refusing);
        assert_eq!(kind(Code::Fatal), Kind::Away);
        assert_eq!(kind(Code::PurgeQueue), Kind::Away);
    }
}
