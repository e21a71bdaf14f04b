//! What comes from a topic of Kafka: as a member of a consumer group, from where the queue's mark says.
//!
//! The group only says who reads which partitions. Where to go on is in the mark of the queue, which is enqueued with the data; the
//! group's offsets are committed after it, for monitors, and for another host that takes over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rdkafka::client::NativeClient;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::super::mark::{At, Positions};
use super::super::net::Net;
use super::super::peer::{self, Begins, Came, Ends};
use super::super::settings::Poison;
use super::super::trouble::{Kind, Trouble};
use super::address::Address;
use super::client::{self, ANSWER, Quiet};
use super::events::{self, Event, Events, Fault, Record, Topic};
use super::map;
use super::positions::{Committed, Partition, note};
use super::token::Tokens;
use crate::clock;

/// What marks call it.
const SYSTEM: &str = "kafka";
/// A member of the group that is silent for so long is taken for dead. Until then one that was started after it was killed waits. A
/// member with a name of its own (`group.instance.id`) would not, but it would be given what it had before, without the partitions
/// that were added meanwhile, for as long as it does not stay away.
const SESSION: Duration = Duration::from_secs(10);
/// A group's protocol takes a link for dead that does not ask for records for so long, but it may wait for a full queue.
const PATIENCE: Duration = Duration::from_secs(300);
/// When no broker is reached, it is looked so often whether one is.
const LOOK: Duration = Duration::from_secs(1);

/// A consumer.
pub struct Receiver {
    // The queue has to go first.
    events: Events,
    consumer: BaseConsumer<Quiet>,
    address: Address,
    tokens: Option<Tokens>,
    origin: String,
    /// The topic that is read.
    topic: Topic,
    /// What the mark of the queue says, or will say before anything else is enqueued.
    mark: Positions,
    /// The partitions that are read; nothing before there was an answer.
    assigned: Option<Vec<i32>>,
    /// Those of them that have no more for now.
    ended: BTreeSet<i32>,
    /// What was handed over and is not done with: its receipt, its partition, and the offset that follows.
    handed: VecDeque<(u64, i32, u64)>,
    receipt: u64,
    /// The group's offsets as of now.
    committed: BTreeMap<i32, u64>,
    /// What there is to say.
    told: Vec<String>,
    moved: Option<Begins>,
    revoked: bool,
    /// Why no broker is reached, if none is, and when it was looked last.
    away: Option<(String, Instant)>,
    /// What was told last of that.
    heard: Option<String>,
}

impl Receiver {
    /// Connects, and asks for partitions of the topic.
    pub fn connect(ends: Ends<'_>, mark: Option<&Positions>) -> Result<Receiver, Trouble> {
        let receiver = Receiver::open(ends, mark)?;
        receiver.consumer.subscribe(&[&receiver.address.topic]).map_err(|error| client::unmade(&error))?;
        Ok(receiver)
    }

    /// Connects, and reads all partitions without being a member of the group, so that no other is disturbed.
    pub fn watch(ends: Ends<'_>, mark: Option<&Positions>) -> Result<Receiver, Trouble> {
        let mut receiver = Receiver::open(ends, mark)?;
        let all = receiver.topic.partitions.iter().map(|(partition, _)| *partition).collect();
        receiver.assign(all)?;
        Ok(receiver)
    }

    fn open(ends: Ends<'_>, mark: Option<&Positions>) -> Result<Receiver, Trouble> {
        let address = Address::of(ends.target, false)?;
        if ends.settings.poison == Poison::Reject {
            return Err(Trouble::usage("poison = reject: Kafka has no place for what is rejected; say save:DIRECTORY"));
        }
        let config = config(ends, &address)?;
        let consumer = BaseConsumer::from_config_and_context(&config, Quiet).map_err(|error| client::unmade(&error))?;
        let native = consumer.client().native_client();
        let events = Events::of_consumer(native).ok_or_else(|| Trouble::new(Kind::Local, "no memory"))?;
        let tokens = Tokens::of(ends, &address);
        let topic = client::reach(native, &events, &address, tokens.as_ref())?;
        let (mark, told) = followed(mark, &address, &topic.id)?;
        Ok(Receiver {
            events,
            consumer,
            address,
            tokens,
            origin: ends.origin.to_owned(),
            topic,
            mark,
            assigned: None,
            ended: BTreeSet::new(),
            handed: VecDeque::new(),
            receipt: 0,
            committed: BTreeMap::new(),
            told: told.into_iter().collect(),
            moved: None,
            revoked: false,
            away: None,
            heard: None,
        })
    }

    fn native(&self) -> &NativeClient {
        self.consumer.client().native_client()
    }

    fn has(&self, partition: i32) -> bool {
        self.assigned.as_ref().is_some_and(|assigned| assigned.contains(&partition))
    }

    fn take(&mut self, record: Record) -> Option<Came> {
        self.away = None;
        let partition = record.partition;
        let number = u64::try_from(record.offset).ok()?;
        // It may have been on its way when the partition was taken away.
        if !self.has(partition) {
            return None;
        }
        self.ended.remove(&partition);
        self.receipt += 1;
        self.handed.push_back((self.receipt, partition, number + 1));
        let envelope = map::envelope(record, &self.address.topic, &self.topic.id, clock::now_ms());
        Some(Came { envelope, receipt: self.receipt, at: Some(At { partition, number }), large: None })
    }

    /// A partition has no more for now. Where it ends may be after markers of transactions, which nobody is given.
    fn end(&mut self, partition: i32, offset: i64) {
        self.away = None;
        let Ok(next) = u64::try_from(offset) else { return };
        if self.has(partition) {
            self.ended.insert(partition);
            self.handed.push_back((self.receipt, partition, next));
            if self.handed.len() == 1 {
                self.commit(self.receipt);
            }
        }
    }

    fn fail(&mut self, fault: &Fault) -> Result<(), Trouble> {
        let why = client::why(fault);
        match fault.code {
            Code::AllBrokersDown => self.away = Some((self.heard.clone().unwrap_or(why), Instant::now())),
            // Where to go on is found out when it is connected anew.
            Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::UnknownTopicId | Code::LogTruncation => {
                return Err(Trouble::away(why));
            }
            code if fault.fatal || client::is_refusal(code) => return Err(Trouble::refusing(why)),
            // The library goes on trying.
            _ => self.heard = Some(why),
        }
        Ok(())
    }

    /// Looks whether a broker is there again, and the topic is still the same.
    fn look(&mut self) -> Result<(), Trouble> {
        if self.away.as_ref().is_none_or(|(_, since)| since.elapsed() < LOOK) {
            return Ok(());
        }
        match client::describe(self.native(), &self.address, LOOK) {
            Ok(topic) if topic.id == self.topic.id => self.away = None,
            Ok(_) => return Err(self.made_again()),
            Err(trouble) if trouble.kind == Kind::Away => {
                self.away.iter_mut().for_each(|(_, since)| *since = Instant::now());
            }
            Err(trouble) => return Err(trouble),
        }
        Ok(())
    }

    fn made_again(&self) -> Trouble {
        Trouble::away(format_args!("{} was deleted and made again", self.address))
    }

    /// These partitions are read from now on: from where the mark says, or the group, whichever is later.
    fn assign(&mut self, partitions: Vec<i32>) -> Result<(), Trouble> {
        let topic = client::describe(self.native(), &self.address, ANSWER)?;
        if topic.id != self.topic.id {
            return Err(self.made_again());
        }
        self.topic = topic;
        let mut list = TopicPartitionList::new();
        let mut mark = self.mark.clone();
        for (number, committed) in self.group_has(&partitions)? {
            let watermarks = self.consumer.fetch_watermarks(&self.address.topic, number, ANSWER);
            let (first, end) = watermarks.map_err(|error| client::trouble_of("its offsets", &error))?;
            let (first, end) = (first.max(0) as u64, end.max(0) as u64);
            let (topic, origin) = (self.topic.id.as_str(), self.origin.as_str());
            let partition = Partition { number, first, end, committed, mark: &self.mark, topic, origin };
            let at = |why: &dyn std::fmt::Display| format!("{}, partition {number}: {why}", self.address);
            let begun = partition.begin(self.address.start);
            let (next, told) = begun.map_err(|trouble| Trouble::new(trouble.kind, at(&trouble)))?;
            let told = told.map(|told| at(&told));
            self.told.extend(told);
            mark.set(number, next);
            let wrong = |error| client::trouble_of("an offset", &error);
            list.add_partition_offset(&self.address.topic, number, offset(next)).map_err(wrong)?;
        }
        self.consumer.assign(&list).map_err(Trouble::away)?;
        (self.ended, self.handed) = (BTreeSet::new(), VecDeque::new());
        self.assigned = Some(partitions);
        self.mark = mark.clone();
        let told = std::mem::take(&mut self.told);
        self.moved = Some(Begins { mark, told: (!told.is_empty()).then(|| told.join("; ")) });
        Ok(())
    }

    fn revoke(&mut self) -> Result<(), Trouble> {
        (self.assigned, self.revoked) = (None, true);
        (self.ended, self.handed) = (BTreeSet::new(), VecDeque::new());
        self.consumer.unassign().map_err(Trouble::away)
    }

    /// What the group has of each partition.
    fn group_has(&self, partitions: &[i32]) -> Result<Vec<(i32, Option<Committed>)>, Trouble> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.address.topic, *partition);
        }
        let wrong = |error| client::trouble_of("the group's offsets", &error);
        let list = self.consumer.committed_offsets(list, ANSWER).map_err(wrong)?;
        let mut all = Vec::new();
        for element in list.elements() {
            element.error().map_err(wrong)?;
            let next = match element.offset() {
                Offset::Offset(next) => u64::try_from(next).ok(),
                _ => None,
            };
            let note = events::note_of(&list, element.partition());
            all.push((element.partition(), next.map(|next| Committed { next, note })));
        }
        Ok(all)
    }

    /// Tells the group. Nobody waits for it, and nothing hangs on it: it is told again with the next one.
    fn commit(&mut self, receipt: u64) {
        let dealt = self.handed.iter().take_while(|(given, ..)| *given <= receipt).count();
        let mut news: BTreeMap<i32, u64> = BTreeMap::new();
        news.extend(self.handed.drain(..dealt).map(|(_, partition, next)| (partition, next)));
        news.retain(|partition, next| self.committed.get(partition) != Some(next));
        if news.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::new();
        for (partition, next) in &news {
            let mut element = list.add_partition(&self.address.topic, *partition);
            let _ = element.set_offset(offset(*next));
            element.set_metadata(note(&self.origin, &self.topic.id, self.mark.next(*partition)));
        }
        match self.consumer.commit(&list, CommitMode::Async) {
            Ok(()) => self.committed.extend(news),
            Err(error) => tracing::debug!(%error, "the group is not told"),
        }
    }
}

impl peer::Receiver for Receiver {
    fn is_revoked(&mut self) -> bool {
        std::mem::take(&mut self.revoked)
    }

    fn moved(&mut self) -> Option<Begins> {
        self.moved.take()
    }

    fn away(&self) -> Option<String> {
        self.away.as_ref().map(|(why, _)| why.clone())
    }

    fn next(&mut self, limit: Duration) -> Result<Option<Came>, Trouble> {
        let begun = Instant::now();
        loop {
            match self.events.next(limit.saturating_sub(begun.elapsed())) {
                Some(Event::Came(record)) => {
                    if let Some(came) = self.take(record) {
                        return Ok(Some(came));
                    }
                }
                Some(Event::End(partition, offset)) => self.end(partition, offset),
                // What that means is to be asked before anything else.
                Some(Event::Assigned(partitions)) => return self.assign(partitions).map(|()| None),
                Some(Event::Revoked) => return self.revoke().map(|()| None),
                Some(Event::Failed(fault)) => self.fail(&fault)?,
                Some(Event::TokenWanted) => self.tokens.iter().for_each(|tokens| tokens.renew(self.native())),
                _ => {}
            }
            self.look()?;
            if begun.elapsed() >= limit {
                return Ok(None);
            }
        }
    }

    fn done(&mut self, _: &Net, receipt: u64, mark: Option<&Positions>) -> Result<(), Trouble> {
        if let Some(mark) = mark {
            self.mark = mark.clone();
        }
        self.commit(receipt);
        Ok(())
    }

    fn reject(&mut self, _: &Net, _: u64) -> Result<(), Trouble> {
        Err(Trouble::usage("Kafka has no place for what is rejected"))
    }

    // How many partitions have more than has come, as far as is known.
    fn remaining(&self, _: &Net) -> Result<u64, Trouble> {
        let open = |assigned: &Vec<i32>| assigned.iter().filter(|partition| !self.ended.contains(partition)).count();
        Ok(self.assigned.as_ref().map_or(1, open) as u64)
    }

    fn close(self: Box<Self>, _: &Net) {}
}

/// The mark, if it is one of this topic; what there is to say when it is not, and somebody has said how to go on.
fn followed(mark: Option<&Positions>, address: &Address, topic: &str) -> Result<(Positions, Option<String>), Trouble> {
    match mark {
        Some(mark) if mark.is_of(SYSTEM, topic) => Ok((mark.clone(), None)),
        Some(_) => {
            let gap = format!("{address} is not the one that was read before, but was made later, under its name");
            Ok((Positions::new(SYSTEM, topic), Some(address.start.over(gap)?)))
        }
        None => Ok((Positions::new(SYSTEM, topic), None)),
    }
}

fn offset(number: u64) -> Offset {
    Offset::Offset(number as i64)
}

fn config(ends: Ends<'_>, address: &Address) -> Result<ClientConfig, Trouble> {
    let settings = ends.settings;
    let mut config = client::config(ends, address)?;
    let ms = |time: Duration| time.as_millis().to_string();
    let patience = (PATIENCE + settings.hold * 2).min(Duration::from_secs(86_400));
    let defaults = [
        ("session.timeout.ms", ms(SESSION)),
        ("max.poll.interval.ms", ms(patience)),
        // The library asks for more before what has come is enqueued, but not for much.
        ("queued.min.messages", (settings.batch * 2).to_string()),
        ("queued.max.messages.kbytes", (settings.window_bytes >> 10).clamp(1, 2_097_151).to_string()),
        ("fetch.wait.max.ms", "1000".to_owned()),
        ("check.crcs", "true".to_owned()),
    ];
    for (name, value) in defaults {
        if config.get(name).is_none() {
            config.set(name, value);
        }
    }
    config.set("group.id", address.group.as_deref().unwrap_or(ends.name));
    config.set("partition.assignment.strategy", "range,roundrobin").set("enable.partition.eof", "true");
    config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
    config.set("auto.offset.reset", "error").set("isolation.level", "read_committed");
    Ok(config)
}
