//! The systems, and what is promised of each: `mqfs-link(1)`, in figures.
//!
//! What a link has sent and heard nothing of when it, its mount, its connection or the broker was lost may be there twice, a window of
//! it each time, unless the system itself knows a message again. What is taken in is there once, as it has an identity. Order is that
//! of first comings: a repetition is out of order by nature.

use std::sync::Mutex;

use crate::activemq::{self, Kind};
use crate::brokers::free_ports;
use crate::kafka::{Door, Kafka};
use crate::nats::Nats;
use crate::rabbit::Rabbit;

/// So many messages are under way at a time.
pub const WINDOW: usize = 64;

/// Which messages of one producer stay in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lanes {
    /// All.
    One,
    /// Those of one group.
    Group,
    /// Those of one priority.
    Priority,
}

/// How often a message may be there that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubles {
    /// Once.
    None,
    /// As often as it was in the broker, which gives each place of its log once.
    AsThere,
    /// A window more for each fault of these kinds, in the journal's words; of all kinds that concern what sends, if there are none.
    Window(&'static [&'static str]),
    /// As often as it likes.
    Any,
}

/// What is promised of a system.
#[derive(Clone, Copy, Debug)]
pub struct Promises {
    /// What was acknowledged here arrives.
    pub loses_nothing: bool,
    /// In the broker, where that can be looked at.
    pub doubles_out: Doubles,
    /// In the queue that is taken into.
    pub doubles_in: Doubles,
    /// What stays in order.
    pub lanes: Lanes,
    /// Whether the order holds in the last queue though what takes in has lost its connection: what a queue's broker gave to the
    /// connection before comes after what it gives to the next one, but a log is read in order.
    pub order_in: bool,
}

/// A message that a broker has, or has had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub id: String,
    pub identity: String,
    pub lane: u32,
}

/// A broker, or what is in its place, with a queue that the campaign goes through.
pub trait System {
    /// What it is called on the command line.
    fn name(&self) -> &'static str;
    fn promises(&self) -> Promises;
    /// The port that it listens on.
    fn port(&self) -> u16;
    /// Where the proxies of both sides listen, 0 for anywhere, and where they lead to.
    fn doors(&self) -> [[u16; 2]; 2] {
        [[0, self.port()]; 2]
    }
    /// URL of what sends, by way of a port.
    fn out_url(&self, port: u16) -> String;
    /// URL of what takes in.
    fn in_url(&self, port: u16) -> String;
    /// More settings of both links.
    fn settings(&self) -> Vec<String> {
        Vec::new()
    }
    /// Kills it and starts it again; tells whether there is anything that can be killed.
    fn kill(&self) -> bool;
    /// One in so many faults is that.
    fn killed_once_in(&self) -> u64;
    /// Whether a link that takes in can tell that there is nothing left.
    fn has_an_end(&self) -> bool {
        true
    }
    /// All that has come since the last time, by another client; nothing where it is gone when it was taken.
    fn kept(&self) -> Option<Vec<Kept>>;
    /// How many messages it has not given away, as it says itself; where it can be asked.
    fn left(&self) -> u64;
}

const ONCE_IN_GROUPS: Promises = Promises {
    loses_nothing: true,
    doubles_out: Doubles::None,
    doubles_in: Doubles::None,
    lanes: Lanes::Group,
    order_in: true,
};

fn port_of(url: &str) -> u16 {
    url.rsplit_once(':').unwrap().1.trim_end_matches('/').parse().unwrap()
}

/// Lines of words that are separated by tabs.
fn kept(text: &str) -> Vec<Kept> {
    let one = |line: &str| {
        let mut words = line.split('\t').map(str::to_owned);
        let mut word = || words.next().unwrap();
        Kept { id: word(), identity: word(), lane: word().parse().unwrap() }
    };
    text.lines().map(one).collect()
}

/// RabbitMQ: an exchange gives to the queue that is taken from, and to another one, which is only looked at.
pub struct RabbitMq<'a>(&'a Rabbit);

impl<'a> RabbitMq<'a> {
    /// Sets it up.
    pub fn new(rabbit: &'a Rabbit) -> RabbitMq<'a> {
        rabbit.python(
            "ch.exchange_declare('campaign', 'fanout', durable=True)\n\
             for q in ('campaign', 'tap'): ch.queue_declare(q, durable=True); ch.queue_bind(q, 'campaign'); ch.queue_purge(q)",
        );
        RabbitMq(rabbit)
    }
}

impl System for RabbitMq<'_> {
    fn name(&self) -> &'static str {
        "rabbitmq"
    }

    fn promises(&self) -> Promises {
        let doubles_out = Doubles::Window(&[]);
        Promises { doubles_out, lanes: Lanes::One, order_in: false, ..ONCE_IN_GROUPS }
    }

    fn port(&self) -> u16 {
        port_of(&self.0.url(""))
    }

    fn out_url(&self, port: u16) -> String {
        format!("amqp://127.0.0.1:{port}?exchange=campaign&key=campaign")
    }

    fn in_url(&self, port: u16) -> String {
        format!("amqp://127.0.0.1:{port}?queue=campaign")
    }

    fn kill(&self) -> bool {
        self.0.kill9();
        self.0.start_again();
        true
    }

    fn killed_once_in(&self) -> u64 {
        40
    }

    fn kept(&self) -> Option<Vec<Kept>> {
        let program = "while x := get('tap'): print(x[1].split(b'\\n')[0].decode(), x[0].message_id, 0, sep='\\t')";
        Some(kept(&self.0.python(program)))
    }

    fn left(&self) -> u64 {
        self.0.waiting("campaign")
    }
}

/// NATS: a stream.
pub struct JetStream(Nats);

impl JetStream {
    /// Starts it.
    pub fn new() -> JetStream {
        let nats = Nats::start();
        nats.stream("CAMPAIGN");
        JetStream(nats)
    }
}

impl System for JetStream {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn promises(&self) -> Promises {
        Promises { lanes: Lanes::One, ..ONCE_IN_GROUPS }
    }

    fn port(&self) -> u16 {
        port_of(&self.0.url(""))
    }

    fn out_url(&self, port: u16) -> String {
        format!("nats://127.0.0.1:{port}/campaign")
    }

    fn in_url(&self, port: u16) -> String {
        format!("nats://127.0.0.1:{port}/campaign?stream=CAMPAIGN")
    }

    fn kill(&self) -> bool {
        self.0.kill9();
        self.0.start_again();
        true
    }

    fn killed_once_in(&self) -> u64 {
        12
    }

    fn kept(&self) -> Option<Vec<Kept>> {
        let program = "t = state('CAMPAIGN')\n\
             for i in range(t['first_seq'], t['last_seq'] + 1):\n    h, b = get('CAMPAIGN', i)\n    \
             print(b.split(b'\\n')[0].decode(), h['Nats-Msg-Id'], 0, sep='\\t')\n\
             api('STREAM.PURGE.CAMPAIGN')";
        Some(kept(&self.0.python(program)))
    }

    fn left(&self) -> u64 {
        // The consumer is the link's own, and what it has read is in its mark: all that is there was taken, or the queue lacks it.
        0
    }
}

/// Apache Kafka: a topic with three partitions.
pub struct Topic {
    kafka: Kafka,
    seen: Mutex<Vec<i64>>,
}

impl Topic {
    /// Starts it, if it can be had.
    pub fn new() -> Option<Topic> {
        // Whoever has connected is told where the servers are, which has to be the proxy again.
        let [a, b, c, d] = free_ports();
        let kafka = Kafka::start_behind(vec![Door { listens: a, says: b }, Door { listens: c, says: d }])?;
        kafka.topic("campaign", 3);
        Some(Topic { kafka, seen: Mutex::new(vec![0; 3]) })
    }
}

impl System for Topic {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn promises(&self) -> Promises {
        // Retries do not double; what a link has sent that was killed, or whose mount was, is sent again.
        let doubles_out = Doubles::Window(&["kill link", "end link", "kill mqfs"]);
        Promises { doubles_out, doubles_in: Doubles::AsThere, ..ONCE_IN_GROUPS }
    }

    fn port(&self) -> u16 {
        port_of(&self.kafka.url(""))
    }

    fn doors(&self) -> [[u16; 2]; 2] {
        [0, 1].map(|side| self.kafka.doors()[side]).map(|door| [door.says, door.listens])
    }

    fn out_url(&self, port: u16) -> String {
        format!("kafka://127.0.0.1:{port}/campaign")
    }

    fn in_url(&self, port: u16) -> String {
        format!("kafka://127.0.0.1:{port}/campaign?group=campaign")
    }

    fn kill(&self) -> bool {
        self.kafka.kill9();
        self.kafka.start_again();
        true
    }

    fn killed_once_in(&self) -> u64 {
        40
    }

    fn kept(&self) -> Option<Vec<Kept>> {
        let mut seen = self.seen.lock().unwrap();
        let program = format!(
            "for m in get('campaign', {seen:?}): print(m.value().split(b'\\n')[0].decode(), head(m)['mq-id'].decode(), m.partition(), sep='\\t')"
        );
        let all = kept(&self.kafka.python(&program));
        all.iter().for_each(|record| seen[record.lane as usize] += 1);
        Some(all)
    }

    fn left(&self) -> u64 {
        self.kafka.lag("campaign", "campaign").unsigned_abs()
    }
}

/// ActiveMQ, of both kinds: a queue.
pub struct ActiveMq(activemq::Broker);

impl ActiveMq {
    /// A Classic.
    pub fn classic() -> ActiveMq {
        ActiveMq(activemq::Broker::start_classic())
    }

    /// An Artemis, if it can be had.
    pub fn artemis() -> Option<ActiveMq> {
        activemq::Broker::start_artemis().map(ActiveMq)
    }
}

impl System for ActiveMq {
    fn name(&self) -> &'static str {
        if self.0.kind == Kind::Classic { "activemq" } else { "artemis" }
    }

    fn promises(&self) -> Promises {
        let lanes = if self.0.kind == Kind::Classic { Lanes::One } else { Lanes::Priority };
        Promises { doubles_out: Doubles::Any, lanes, order_in: false, ..ONCE_IN_GROUPS }
    }

    fn port(&self) -> u16 {
        port_of(&self.0.url(""))
    }

    fn out_url(&self, port: u16) -> String {
        format!("activemq://127.0.0.1:{port}?queue=campaign")
    }

    fn in_url(&self, port: u16) -> String {
        self.out_url(port)
    }

    fn settings(&self) -> Vec<String> {
        vec![self.0.secret("anna")]
    }

    fn kill(&self) -> bool {
        self.0.kill9();
        self.0.start_again();
        true
    }

    fn killed_once_in(&self) -> u64 {
        40
    }

    fn kept(&self) -> Option<Vec<Kept>> {
        None
    }

    fn left(&self) -> u64 {
        self.0.python("print(len(take('campaign')))").trim().parse().unwrap()
    }
}

/// ZeroMQ: the link that takes in answers the one that sends.
pub struct Answers(u16);

impl Answers {
    /// On a port that is free.
    pub fn new() -> Answers {
        let [port] = free_ports();
        Answers(port)
    }
}

impl System for Answers {
    fn name(&self) -> &'static str {
        "zeromq"
    }

    fn promises(&self) -> Promises {
        Promises { lanes: Lanes::One, doubles_out: Doubles::Any, order_in: false, ..ONCE_IN_GROUPS }
    }

    fn port(&self) -> u16 {
        self.0
    }

    fn out_url(&self, port: u16) -> String {
        format!("zmq+req://127.0.0.1:{port}?frames=json")
    }

    fn in_url(&self, _: u16) -> String {
        format!("zmq+rep://127.0.0.1:{}?bind=yes&frames=json", self.0)
    }

    fn kill(&self) -> bool {
        false
    }

    fn killed_once_in(&self) -> u64 {
        u64::MAX
    }

    fn has_an_end(&self) -> bool {
        false
    }

    fn kept(&self) -> Option<Vec<Kept>> {
        None
    }

    fn left(&self) -> u64 {
        0
    }
}
