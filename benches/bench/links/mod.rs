//! Links to brokers: how fast they are against the brokers' own clients, and against the mount that they read and write.
//!
//! Servers are those of the tests. What the client and the mount can do is measured in the same rounds as the link, with as many
//! messages, of the same size:
//!
//! - **out**: the link against the client publishing, and against a worker that claims, reads and acknowledges;
//! - **in**: the link against the client consuming, and against a producer that enqueues batches.
//!
//! A link is counted by what its queue tells, from the first messages that are through to the last: how long it takes to connect does
//! not belong to its speed. What it sent is what the client consumes, and what the client published is what it takes in; each counts
//! what comes, so that a fast loss would be seen.

mod broker;
mod idle;
mod kafka;
mod link;
mod processor;
mod rabbit;

use std::path::Path;

use broker::{Broker, start};
use link::Link;

use crate::Failure;
use crate::client::{BATCH, Work};
use crate::clients::{self, Sample};
use crate::options::{Options, Part};
use crate::report::{Expected, Report, Series, spread};
use crate::scratch::Scratch;
use crate::server::Mqfs;

/// How many bytes a message has.
const BYTES: usize = 200;
/// The share of the mount's own speed that a link is to reach, and how many messages a second at least.
const SHARE: Expected = Expected::AtLeast(0.7);
const LEAST: Expected = Expected::AtLeast(5000.0);

/// What is measured in one direction.
struct Direction {
    title: String,
    link: Series,
    client: Series,
    mount: Series,
    /// Microseconds of a processor for each message: of the link, of the mount meanwhile, and of the mount without a link.
    taken: [Vec<f64>; 3],
}

/// Runs the parts that are wanted.
pub fn run(options: &Options, scratch: &Scratch, report: &mut Report) -> Result<(), Failure> {
    if !options.wants(Part::Links) && !options.wants(Part::Idle) {
        return Ok(());
    }
    let mqfs = Mqfs::mount(options, scratch, "links")?;
    for &system in &options.systems {
        let Some(broker) = start(system) else { continue };
        println!("\n{}", broker.about());
        if options.wants(Part::Links) {
            let count = options.count.unwrap_or(10_000);
            let [out, into] = measure(options, scratch, &mqfs, &*broker, count)?;
            judge(report, &out);
            judge(report, &into);
        }
        if options.wants(Part::Idle) {
            idle::run(options, scratch, report, &mqfs, &*broker)?;
        }
    }
    mqfs.unmount()
}

fn measure(
    options: &Options,
    scratch: &Scratch,
    mqfs: &Mqfs,
    broker: &dyn Broker,
    count: u64,
) -> Result<[Direction; 2], Failure> {
    let direction = |what: &str, mount: &str| Direction {
        title: format!("{} {what}, {count} messages of {BYTES} bytes, {BATCH} at a time", broker.name()),
        link: Series::new("mqfs link"),
        client: Series::new(broker.client()),
        mount: Series::new(mount),
        taken: Default::default(),
    };
    let (mut out, mut into) = (direction("out", "claim, read, acknowledge"), direction("in", "batches"));
    for round in 0..options.rounds {
        let place = |what: &str| format!("{}-{what}-{round}", broker.name().to_lowercase());
        for turn in 0..3 {
            match (turn + round) % 3 {
                0 => {
                    let queue = mqfs.queue(&place("mount"), "sync")?;
                    for (direction, work) in [(&mut into, Work::Batch), (&mut out, Work::Claim)] {
                        let before = processor::taken(&[mqfs.pid()])?;
                        direction.mount.push(clients::one(scratch, work, &queue, count, BYTES)?);
                        let taken = processor::taken(&[mqfs.pid()])? - before;
                        direction.taken[2].push(taken * 1e6 / count as f64);
                    }
                    empty(&queue)?;
                }
                1 => {
                    let (queue, there) = (mqfs.queue(&place("out"), "sync")?, place("from-link"));
                    clients::one(scratch, Work::Batch, &queue, count, BYTES)?;
                    broker.make(&there)?;
                    scratch.settle()?;
                    let link = Link::out(options, scratch, &queue, &broker.url(&there, true))?;
                    out.count(link.count(scratch, "user.mq.acked_total", count, mqfs.pid())?);
                    empty(&queue)?;
                    into.client.push(broker.consume(&there, count)?);
                    broker.remove(&there)?;
                }
                _ => {
                    let (queue, there) = (mqfs.queue(&place("in"), "sync")?, place("to-link"));
                    broker.make(&there)?;
                    scratch.settle()?;
                    out.client.push(broker.publish(&there, count)?);
                    let link = Link::into(options, scratch, &broker.url(&there, false), &queue)?;
                    into.count(link.count(scratch, "user.mq.enqueued_total", count, mqfs.pid())?);
                    clients::one(scratch, Work::Claim, &queue, count, BYTES)?;
                    empty(&queue)?;
                    broker.remove(&there)?;
                }
            }
        }
    }
    Ok([out, into])
}

/// Removes a queue that holds nothing any more.
fn empty(queue: &Path) -> Result<(), Failure> {
    std::fs::remove_dir(queue).map_err(|error| format!("{} should be empty: {error}", queue.display()).into())
}

fn judge(report: &mut Report, direction: &Direction) {
    let Direction { title, link, client, mount, taken } = direction;
    report.section(title);
    for series in [link, client, mount] {
        report.rates(series, 1);
    }
    report.ratio(title, link, client, None);
    report.ratio(title, link, mount, Some(SHARE));
    let labels = ["the link's processor time", "the mount's", "the mount's without a link"];
    for (label, taken) in labels.into_iter().zip(taken) {
        report.figure(label, spread(taken)[1], "us a message", None);
    }
    let [_, median, _] = spread(&link.rates);
    report.figure(&format!("{}, messages/s", title.split(',').next().unwrap_or(title)), median, "", Some(LEAST));
}

impl Direction {
    fn count(&mut self, (sample, taken): (Sample, [f64; 2])) {
        self.link.push(sample);
        self.taken.iter_mut().zip(taken).for_each(|(series, taken)| series.push(taken));
    }
}

impl Series {
    fn push(&mut self, sample: Sample) {
        self.rates.push(sample.rate());
    }
}
