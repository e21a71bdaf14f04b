//! What `--check` says of a topic: what is promised, and where that is less than somebody may think.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::config::FromClientConfigAndContext;

use super::super::mark::Start;
use super::super::net::Net;
use super::super::peer::Ends;
use super::super::settings::{Order, Poison};
use super::super::trouble::Trouble;
use super::address::{Address, Key};
use super::client::{self, ANSWER, Quiet};
use super::events::Topic;
use super::sender;
use super::token::Tokens;
use crate::queue::duration;

/// Connects, looks at the topic, and says what there is to say of it, line by line.
pub fn look(net: &Net, ends: Ends<'_>, out: bool) -> Result<Vec<String>, Trouble> {
    let address = Address::of(ends.target, out)?;
    let topic = sender::look(ends, &address)?;
    let config = configuration(net, ends, &address);
    let value = |name: &str| config.as_ref().ok().and_then(|config| config.get(name)?.value.clone());
    let mut lines = kept(&address, &topic, value("min.insync.replicas").as_deref());
    match &config {
        Ok(_) if out => {
            lines.extend(value("max.message.bytes").map(|bytes| {
                format!(
                    "broker: a record of more than {bytes} bytes, compressed, is refused, and becomes a dead letter"
                )
            }));
            if value("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
                lines.push("broker: the topic is compacted: a message without a key is refused".to_owned());
            }
        }
        Ok(_) => lines.extend(value("retention.ms").filter(|ms| ms != "-1").map(|ms| {
            let after = ms.parse().map_or(format!("{ms} ms"), |ms| duration::format(Duration::from_millis(ms)));
            format!("broker: records may be gone after {after}: a link that comes later stops, and says what it missed")
        })),
        Err(trouble) => lines.push(format!("broker: the topic's configuration cannot be seen: {trouble}")),
    }
    Ok(lines)
}

fn configuration(net: &Net, ends: Ends<'_>, address: &Address) -> Result<ConfigResource, Trouble> {
    let config = client::config(ends, address)?;
    let admin = AdminClient::from_config_and_context(&config, Quiet).map_err(|error| client::unmade(&error))?;
    let tokens = Tokens::of(ends, address);
    tokens.map_or(Ok(()), |tokens| tokens.offer(admin.inner().native_client()))?;
    let topic = [ResourceSpecifier::Topic(&address.topic)];
    let options = AdminOptions::new().request_timeout(Some(ANSWER));
    let asked = net.wait(ANSWER * 2, admin.describe_configs(&topic, &options))?;
    let wrong = |error: &dyn std::fmt::Display| Trouble::away(error);
    let one = asked.map_err(|error| wrong(&error))?.into_iter().next();
    one.ok_or_else(|| wrong(&"no answer"))?.map_err(|error| wrong(&error))
}

/// How well the cluster keeps what it has acknowledged.
fn kept(address: &Address, topic: &Topic, in_sync: Option<&str>) -> Vec<String> {
    let replicas = topic.partitions.iter().map(|(_, replicas)| *replicas).min().unwrap_or(0);
    let number = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let partitions = number(topic.partitions.len(), "partition");
    let mut lines = vec![format!("broker: {address} has {partitions}, on {} each", number(replicas, "machine"))];
    if replicas <= 1 {
        lines.push(
            "WARNING: its replication factor is 1: what is acknowledged is in the memory of one machine, and lost with it"
                .to_owned(),
        );
    }
    if in_sync == Some("1") {
        lines.push(
            "WARNING: its min.insync.replicas is 1: when others lag, what is acknowledged is in the memory of one machine"
                .to_owned(),
        );
    }
    lines
}

/// What is promised, line by line.
pub fn promises(ends: Ends<'_>, out: bool) -> Vec<String> {
    let Ok(address) = Address::of(ends.target, out) else { return Vec::new() };
    if out { outgoing(ends, &address) } else { incoming(ends, &address) }
}

fn outgoing(ends: Ends<'_>, address: &Address) -> Vec<String> {
    let window = if ends.settings.order == Order::Strict { 1 } else { ends.settings.window };
    let key = match &address.key {
        Key::Group => "the message's group".to_owned(),
        Key::Fixed(key) => format!("`{key}`"),
        Key::Header(name) => format!("the header `{name}`"),
    };
    vec![
        format!("out: to {address}, idempotent, acknowledged by all in-sync replicas; the key is {key}"),
        "out: at least once: a message leaves the queue when the cluster has acknowledged it, which has it in memory then, \
         not on disk"
            .to_owned(),
        "out: messages with one key stay in order; a broker that is away is waited for, and nothing is sent twice".to_owned(),
        format!("out: after a crash of the link up to {window} messages may be sent twice, with the same mq-id"),
    ]
}

fn incoming(ends: Ends<'_>, address: &Address) -> Vec<String> {
    let group = address.group.as_deref().unwrap_or(ends.name);
    vec![
        format!("in: from {address}, as a member of the group {group}; only what was committed, if by transactions"),
        "in: exactly once into this queue, by position; another host that takes over has again what was not committed yet"
            .to_owned(),
        match address.start {
            Start::Stop => "in: it begins with the oldest record, and stops when it has missed some".to_owned(),
            Start::Earliest => "in: it begins with the oldest record, also when it has missed some".to_owned(),
            Start::Latest => "in: it begins with the next record, also when it has missed some".to_owned(),
        },
        match &ends.settings.poison {
            Poison::Save(directory) => format!("in: a message that does not fit is saved in {}", directory.display()),
            _ => "in: a message that does not fit ends the link, and stays in the topic".to_owned(),
        },
    ]
}
