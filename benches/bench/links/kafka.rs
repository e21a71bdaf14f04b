//! Apache Kafka, and librdkafka, the library that links use as well: idempotent, acks=all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use tokio::runtime::{Builder, Runtime};

use super::BYTES;
use super::broker::{Broker, built_with};
use crate::Failure;
use crate::client::{BATCH, body};
use crate::clients::Sample;
use crate::kafka;

/// How long the broker may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// The server.
pub struct Kafka {
    server: kafka::Kafka,
    runtime: Runtime,
}

/// Counts what was delivered.
#[derive(Default)]
struct Delivered(AtomicU64);

impl ClientContext for Delivered {}

impl ProducerContext for Delivered {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.0.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
    }
}

impl Kafka {
    /// Starts it.
    pub fn start() -> Result<Kafka, Failure> {
        let server = kafka::Kafka::start().ok_or("Maven cannot be reached")?;
        Ok(Kafka { server, runtime: Builder::new_current_thread().enable_all().build()? })
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.server.host());
        config
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
        self.config().create()
    }
}

impl Broker for Kafka {
    fn name(&self) -> &'static str {
        "Kafka"
    }

    fn client(&self) -> &'static str {
        "librdkafka"
    }

    fn about(&self) -> String {
        let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
        format!(
            "Apache Kafka {} with a heap of 256 MiB, one partition; librdkafka {librdkafka} by rdkafka {}: idempotent, acks=all, \
             linger.ms=5, lz4, as many under way as it likes; offsets committed by {BATCH}",
            kafka::VERSION,
            built_with("rdkafka")
        )
    }

    fn url(&self, place: &str, out: bool) -> String {
        self.server.url(&format!("{place}{}", if out { "" } else { "?start=earliest" }))
    }

    fn make(&self, place: &str) -> Result<(), Failure> {
        let topic = NewTopic::new(place, 1, TopicReplication::Fixed(1));
        let made = self.runtime.block_on(self.admin()?.create_topics(&[topic], &AdminOptions::new()))?;
        made.into_iter().try_for_each(|made| made.map(drop)).map_err(|(topic, code)| format!("{topic}: {code}"))?;
        Ok(())
    }

    fn remove(&self, place: &str) -> Result<(), Failure> {
        self.runtime.block_on(self.admin()?.delete_topics(&[place], &AdminOptions::new()))?;
        Ok(())
    }

    fn publish(&self, place: &str, count: u64) -> Result<Sample, Failure> {
        let mut config = self.config();
        config.set("enable.idempotence", "true").set("acks", "all").set("linger.ms", "5");
        config.set("compression.codec", "lz4");
        let producer: BaseProducer<Delivered> = config.create_with_context(Delivered::default())?;
        producer.client().fetch_metadata(Some(place), PATIENCE)?;
        let (body, begun) = (body(BYTES), Instant::now());
        for _ in 0..count {
            let mut record = BaseRecord::<(), _>::to(place).payload(&body);
            while let Err((error, back)) = producer.send(record) {
                match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::QueueFull) => producer.poll(Duration::from_millis(10)),
                    _ => return Err(error.into()),
                };
                record = back;
            }
            producer.poll(Duration::ZERO);
        }
        producer.flush(PATIENCE)?;
        let seconds = begun.elapsed().as_secs_f64();
        match producer.context().0.load(Ordering::Relaxed) {
            delivered if delivered == count => Ok(Sample { operations: count, seconds }),
            delivered => Err(format!("{delivered} messages were delivered of {count}").into()),
        }
    }

    fn consume(&self, place: &str, count: u64) -> Result<Sample, Failure> {
        let mut config = self.config();
        config.set("group.id", format!("{place}-client")).set("enable.auto.commit", "false");
        config.set("isolation.level", "read_committed");
        let consumer: BaseConsumer = config.create()?;
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(place, 0, Offset::Beginning)?;
        consumer.assign(&from)?;
        let mut begun = Instant::now();
        for number in 1..=count {
            let message = consumer.poll(PATIENCE).ok_or("no message comes")??;
            // How long it takes to connect is not counted of a link either.
            if number == 1 {
                begun = Instant::now();
            }
            if message.payload_len() != BYTES {
                return Err(format!("a message of {} bytes", message.payload_len()).into());
            }
            if number % BATCH == 0 || number == count {
                let mode = if number == count { CommitMode::Sync } else { CommitMode::Async };
                consumer.commit_message(&message, mode)?;
            }
        }
        Ok(Sample { operations: count - 1, seconds: begun.elapsed().as_secs_f64() })
    }
}
