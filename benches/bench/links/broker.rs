//! A broker to link to: one of the tests' servers, and its own client.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::Failure;
use crate::clients::Sample;
use crate::options::System;

use super::kafka::Kafka;
use super::rabbit::Rabbit;

/// What the parts with links need of a broker. A place is a queue or a topic.
pub trait Broker {
    /// What it is called.
    fn name(&self) -> &'static str;
    /// What its client is called in the report.
    fn client(&self) -> &'static str;
    /// Server, client, and how that is set up: a line for the report.
    fn about(&self) -> String;
    /// A place as links name it that send to it, or take all from it.
    fn url(&self, place: &str, out: bool) -> String;
    /// Makes a durable place.
    fn make(&self, place: &str) -> Result<(), Failure>;
    /// Removes it.
    fn remove(&self, place: &str) -> Result<(), Failure>;
    /// Publishes so many messages, until the broker has confirmed each.
    fn publish(&self, place: &str, count: u64) -> Result<Sample, Failure>;
    /// Consumes so many messages, acknowledging them as they come.
    fn consume(&self, place: &str, count: u64) -> Result<Sample, Failure>;
}

/// Starts a server. Where that cannot be done it is said, in a line that nobody overlooks.
pub fn start(system: System) -> Option<Box<dyn Broker>> {
    // The tests' servers panic when something is missing.
    let started = catch_unwind(AssertUnwindSafe(|| match system {
        System::Rabbitmq => Rabbit::start().map(|broker| Box::new(broker) as Box<dyn Broker>),
        System::Kafka => Kafka::start().map(|broker| Box::new(broker) as Box<dyn Broker>),
    }));
    let why = match started {
        Ok(Ok(broker)) => return Some(broker),
        Ok(Err(failure)) => failure.to_string(),
        Err(_) => "see above".to_owned(),
    };
    let name = match system {
        System::Rabbitmq => "RabbitMQ (packages rabbitmq-server, openssl)",
        System::Kafka => "Apache Kafka (packages default-jre-headless, maven, openssl)",
    };
    println!("\n*** SKIPPED: {name} cannot be started ({why}): links to it are NOT MEASURED ***");
    None
}

/// The version of a package that this program was built with.
pub fn built_with(package: &str) -> &'static str {
    let after = include_str!("../../../Cargo.lock").split_once(&format!("\nname = \"{package}\"\nversion = \""));
    after.and_then(|(_, rest)| rest.split_once('"')).map_or("of an unknown version", |(version, _)| version)
}
