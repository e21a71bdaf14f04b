//! Asynchronous enqueue and consuming against the server that does nothing.

use std::ffi::OsString;
use std::fs;

use crate::Failure;
use crate::client::{self, Work};
use crate::clients;
use crate::contender::take_turns;
use crate::options::{Options, Part};
use crate::report::{Expected, Report, Series};
use crate::scratch::Scratch;
use crate::server::{Mqfs, Nothing};

/// The share of the do-nothing server's speed that mqfs is to reach.
const EXPECTED: Expected = Expected::AtLeast(0.7);

/// The contenders, in this order.
const CONTENDERS: [&str; 3] = ["mqfs", "do-nothing", "do-nothing, spinning"];
const MQFS: usize = 0;
const SPINNING: usize = 2;

/// Runs the parts that are wanted.
pub fn run(options: &Options, scratch: &Scratch, report: &mut Report) -> Result<(), Failure> {
    if !options.wants(Part::Enqueue) && !options.wants(Part::Consume) {
        return Ok(());
    }
    let mqfs = Mqfs::mount(options, scratch, "protocol")?;
    let mut nothing = Nothing::mount(scratch, "nothing")?;
    for &clients in &options.clients {
        let [enqueue, consume] = measure(options, scratch, clients, &mqfs, &mut nothing)?;
        if options.wants(Part::Enqueue) {
            judge(report, "asynchronous enqueue", clients, &enqueue);
        }
        if options.wants(Part::Consume) {
            judge(report, "consume (open, read, close, unlink)", clients, &consume);
        }
    }
    mqfs.unmount()
}

/// All rounds of enqueueing and of consuming what was enqueued.
fn measure(
    options: &Options,
    scratch: &Scratch,
    clients: u32,
    mqfs: &Mqfs,
    nothing: &mut Nothing,
) -> Result<[[Series; 3]; 2], Failure> {
    let each = options.count.unwrap_or(8_000 / u64::from(clients));
    let all = each * u64::from(clients);
    let mut enqueue = CONTENDERS.map(Series::new);
    let mut consume = CONTENDERS.map(Series::new);
    // Names that the do-nothing server takes for messages, as long as those of mqfs.
    let invented: Vec<OsString> = (0..all).map(|number| format!("{number:016}-p0-{number:07}").into()).collect();
    for round in 0..options.rounds {
        let queue = mqfs.queue(&format!("{clients}-{round}"), "async")?;
        take_turns(&mut enqueue, round, &mut |contender, _| {
            if contender == MQFS {
                return clients::run(scratch, Work::Enqueue, &queue, clients, each);
            }
            nothing.spin(contender == SPINNING)?;
            let sample = clients::run(scratch, Work::Enqueue, &nothing.queue(), clients, each);
            nothing.spin(false)?;
            sample
        })?;
        take_turns(&mut consume, round, &mut |contender, _| {
            if contender == MQFS {
                let names = client::list(&queue)?;
                if names.len() as u64 != all {
                    return Err(format!("{} messages are listed of {all}", names.len()).into());
                }
                return clients::consume(scratch, &queue, clients, &names);
            }
            nothing.spin(contender == SPINNING)?;
            let sample = clients::consume(scratch, &nothing.queue(), clients, &invented);
            nothing.spin(false)?;
            sample
        })?;
        // Everything was acknowledged, or this fails.
        fs::remove_dir(&queue).map_err(|error| format!("the queue should be empty: {error}"))?;
    }
    Ok([enqueue, consume])
}

fn judge(report: &mut Report, title: &str, clients: u32, series: &[Series; 3]) {
    let what = format!("{title}, {clients} client{}", if clients == 1 { "" } else { "s" });
    report.section(&what);
    for contender in series {
        report.rates(contender, clients);
    }
    let [ours, plain, spinning] = series;
    report.ratio(&what, ours, plain, Some(EXPECTED));
    report.ratio(&what, ours, spinning, Some(EXPECTED));
}
