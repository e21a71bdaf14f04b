//! Links that have nothing to do: what they and the mount take of the processors.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::broker::Broker;
use super::link::Link;
use super::processor;
use crate::Failure;
use crate::options::Options;
use crate::report::{Expected, Report};
use crate::scratch::Scratch;
use crate::server::Mqfs;

/// How long a link has to become quiet, and how long it is looked at.
const SETTLE: Duration = Duration::from_secs(5);
const LOOKED_AT: Duration = Duration::from_secs(20);
/// How long all of them may take to connect.
const START: Duration = Duration::from_secs(180);
/// The share of one processor that a link without work may take, in percent: `top` shows 0.0 of less.
const MOST: Expected = Expected::AtMost(0.05);

/// Runs the part.
pub fn run(
    options: &Options,
    scratch: &Scratch,
    report: &mut Report,
    mqfs: &Mqfs,
    broker: &dyn Broker,
) -> Result<(), Failure> {
    for &links in &options.idle {
        for out in [true, false] {
            let way = if out { "out" } else { "in" };
            let title = format!("{} {way}, {links} links with nothing to do", broker.name());
            report.section(&title);
            let [each, mount] = measure(options, scratch, mqfs, broker, links, out)?;
            report.fraction(&title, "each link", each, "% of a processor", Some(MOST));
            report.fraction(&title, "the mount", mount, "% of a processor", None);
        }
    }
    Ok(())
}

/// What one of so many links takes, and what the mount, in percent.
fn measure(
    options: &Options,
    scratch: &Scratch,
    mqfs: &Mqfs,
    broker: &dyn Broker,
    count: u32,
    out: bool,
) -> Result<[f64; 2], Failure> {
    let mut links = Vec::new();
    let mut queues: Vec<PathBuf> = Vec::new();
    let place = format!("idle-{count}-{out}");
    broker.make(&place)?;
    for number in 0..count {
        let queue = mqfs.queue(&format!("{}-{place}-{number}", broker.name().to_lowercase()), "sync")?;
        let url = broker.url(&place, out);
        links.push(match out {
            true => Link::out(options, scratch, &queue, &url)?,
            false => Link::into(options, scratch, &url, &queue)?,
        });
        queues.push(queue);
    }
    let begun = Instant::now();
    while let Some(link) = links.iter().find(|link| !link.is_running(scratch)) {
        scratch.check()?;
        if begun.elapsed() > START {
            return Err(format!("a link does not connect: {}", link.said()).into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    rest(scratch, SETTLE)?;
    let pids: Vec<u32> = links.iter().map(Link::pid).collect();
    let taken = || Ok::<_, Failure>([processor::taken(&pids)? / f64::from(count), processor::taken(&[mqfs.pid()])?]);
    let (before, begun) = (taken()?, Instant::now());
    rest(scratch, LOOKED_AT)?;
    let (after, seconds) = (taken()?, begun.elapsed().as_secs_f64());
    for link in &mut links {
        link.end()?;
    }
    broker.remove(&place)?;
    queues.iter().try_for_each(std::fs::remove_dir)?;
    Ok([0, 1].map(|which: usize| (after[which] - before[which]) / seconds * 100.0))
}

fn rest(scratch: &Scratch, time: Duration) -> Result<(), Failure> {
    let ends = Instant::now() + time;
    while Instant::now() < ends {
        scratch.check()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
