//! The campaign of links: what `mqfs link` promises holds when links, mounts and brokers are killed and connections are cut, at any
//! moment. Messages go from one mount through a broker into another.
//!
//! Some seconds of the systems that start fast by default; `scripts/link-test` runs the same for as long as it is told. What is checked
//! says `links/checker.rs`, and what is promised `links/systems.rs`.

#[path = "common/activemq.rs"]
mod activemq;
#[path = "common/brokers.rs"]
mod brokers;
mod common;
#[path = "crash/evidence.rs"]
mod evidence;
#[path = "common/extra.rs"]
mod extra;
#[path = "common/kafka.rs"]
mod kafka;
#[path = "common/linking.rs"]
mod linking;
mod links;
#[path = "common/maven.rs"]
mod maven;
#[path = "common/nats.rs"]
mod nats;
#[path = "common/rabbit.rs"]
mod rabbit;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use common::{remove_xattr, wait_until};
use extra::control;
use links::campaign::{Campaign, Plan, run};
use links::checker::Violation;
use links::ends::{End, IN, OUT};
use links::faults::Fault;
use links::producers::Producers;
use links::proxy::LINK;
use links::systems::{ActiveMq, Answers, JetStream, RabbitMq, System, Topic};
use rabbit::rough;

/// As long as the environment says, or some seconds.
fn plan() -> Plan {
    let minutes = std::env::var("MQFS_LINK_MINUTES").ok().map(|text| text.parse::<f64>().expect("MQFS_LINK_MINUTES"));
    match minutes {
        Some(minutes) => {
            Plan { length: Duration::from_secs_f64(minutes * 60.0), episode: Duration::from_secs(15), most: 3000 }
        }
        None => Plan { length: Duration::ZERO, episode: Duration::from_secs(4), most: 1000 },
    }
}

#[track_caller]
fn keeps_its_promises(system: &dyn System) {
    let (violations, summary) = run(system, plan());
    println!("{}: {summary}", system.name());
    let text: String = violations.iter().map(|violation| format!("{violation}\n")).collect();
    assert!(violations.is_empty(), "{} promises were not kept:\n{text}", violations.len());
    assert!(summary.arrived > 0 && summary.connections > 2, "too little happened");
}

#[test]
fn rabbitmq_keeps_its_promises() {
    keeps_its_promises(&RabbitMq::new(&rough()));
}

#[test]
fn nats_keeps_its_promises() {
    keeps_its_promises(&JetStream::new());
}

#[test]
fn zeromq_keeps_its_promises() {
    keeps_its_promises(&Answers::new());
}

#[test]
#[ignore = "takes minutes: ./scripts/link-test MINUTES kafka"]
fn kafka_keeps_its_promises() {
    Topic::new().iter().for_each(|topic| keeps_its_promises(topic));
}

#[test]
#[ignore = "takes minutes: ./scripts/link-test MINUTES activemq"]
fn activemq_keeps_its_promises() {
    keeps_its_promises(&ActiveMq::classic());
}

#[test]
#[ignore = "takes minutes: ./scripts/link-test MINUTES artemis"]
fn artemis_keeps_its_promises() {
    ActiveMq::artemis().iter().for_each(|artemis| keeps_its_promises(artemis));
}

/// So many messages of a control.
const FEW: usize = 40;

fn rules(violations: &[Violation]) -> BTreeSet<&'static str> {
    violations.iter().map(|violation| violation.rule).collect()
}

/// Enqueues a few messages.
fn produce(campaign: &Campaign<'_>) {
    let queue = campaign.ends[OUT].queue();
    Producers::start(queue, &campaign.journal, 1, 1, FEW).finish();
}

/// What was enqueued comes again, because the broker never heard of it; the link's mark is removed before, or not. What the checker
/// says, how many were known, and how many had been enqueued.
fn comes_again(is_marked: bool) -> (Vec<Violation>, u64, u64) {
    let rabbit = rough();
    let system = RabbitMq::new(&rabbit);
    let mut campaign = Campaign::new(&system);
    campaign.begin();
    campaign.start(IN);
    let end = |campaign: &Campaign<'_>| linking::state(&campaign.ends[IN].mount);
    wait_until(|| end(&campaign) == "running");
    // What it acknowledges does not arrive.
    campaign.proxies[IN].stall(LINK, Duration::from_secs(1000));
    campaign.start(OUT);
    produce(&campaign);
    wait_until(|| campaign.ends[IN].count("ready") > 0);
    campaign.make(Fault::KillLink(IN));
    let enqueued = campaign.ends[IN].count("ready");
    campaign.make(Fault::Cut(IN));
    let queue = campaign.ends[IN].queue();
    if !is_marked {
        remove_xattr(&queue, "user.mark.link-in").unwrap();
    }
    (campaign.finish(), campaign.summary.known, enqueued)
}

/// The control of marks: without its mark, the same link enqueues everything again, and the checker counts it.
#[test]
fn without_a_mark_the_checker_finds_doubles() {
    let (violations, known, enqueued) = comes_again(true);
    assert_eq!((violations, known), (Vec::new(), enqueued));
    let (violations, _, enqueued) = comes_again(false);
    assert_eq!(rules(&violations), ["doubled"].into());
    assert!(violations[0].what.starts_with(&format!("{enqueued} times")), "{violations:?}");
}

/// What both controls of programs begin with, which are none of ours: they do not wait for what has to be waited for.
const CARELESS: &str = "import os, pika, sys, time\ndef meet(mine, other):\n    open(os.environ['T'] + '/' + mine, 'w').close()\n    \
    while not os.path.exists(os.environ['T'] + '/' + other): time.sleep(0.01)\n";

fn careless(end: &End, port: u16, program: &str) -> common::Running {
    let connect =
        format!("c = pika.BlockingConnection(pika.ConnectionParameters('127.0.0.1', {port}))\nch = c.channel()\n");
    end.mount.spawn_python(&format!("{CARELESS}{connect}{program}"))
}

/// The control of confirms: a program that acknowledges here what it has written to its connection, which is cut then.
#[test]
fn without_confirms_the_checker_finds_losses() {
    let rabbit = rough();
    let system = RabbitMq::new(&rabbit);
    let mut campaign = Campaign::new(&system);
    campaign.begin();
    produce(&campaign);
    let program = format!(
        "meet('connected', 'stalled')\nfor _ in range({FEW}):\n    name = open('q/.mq/claim').read().strip()\n    \
         ch.basic_publish('campaign', 'campaign', open('q/' + name, 'rb').read())\n    os.unlink('q/' + name)\n"
    );
    let link = careless(&campaign.ends[OUT], campaign.proxies[OUT].port(), &format!("{program}meet('sent', 'over')"));
    let scratch = campaign.ends[OUT].mount.scratch();
    wait_until(|| scratch.join("connected").exists());
    campaign.proxies[OUT].stall(LINK, Duration::from_secs(1000));
    fs::write(scratch.join("stalled"), "").unwrap();
    wait_until(|| scratch.join("sent").exists());
    campaign.proxies[OUT].cut(false);
    drop(link);
    let violations = campaign.finish();
    assert!(rules(&violations).contains("lost"), "{violations:?}");
}

/// The control of the order in which what comes is enqueued and acknowledged: a program that acknowledges first, and is killed then.
#[test]
fn with_an_early_acknowledgement_the_checker_finds_losses() {
    let rabbit = rough();
    let system = RabbitMq::new(&rabbit);
    let mut campaign = Campaign::new(&system);
    campaign.begin();
    produce(&campaign);
    campaign.start(OUT);
    wait_until(|| campaign.ends[OUT].count("acked_total") == FEW as u64);
    let program = format!(
        "os.mkdir('q/.mq/batch/early')\nfor i in range({FEW}):\n    m, p, b = ch.basic_get('campaign', auto_ack=True)\n    \
         open(f'q/.mq/batch/early/{{i}}', 'wb').write(b)\nmeet('acknowledged', 'killed')\nos.rename('q/.mq/batch/early', 'q/early')"
    );
    let link = careless(&campaign.ends[IN], system.port(), &program);
    wait_until(|| campaign.ends[IN].mount.scratch().join("acknowledged").exists());
    link.signal(libc::SIGKILL);
    drop(link);
    fs::remove_dir_all(control(&campaign.ends[IN].queue(), "batch").join("early")).unwrap();
    let violations = campaign.finish();
    assert_eq!(rules(&violations), ["lost"].into());
}
