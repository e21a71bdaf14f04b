//! A million messages: what they cost in memory, and how long listing and mounting take with them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Failure;
use crate::client::Work;
use crate::clients;
use crate::options::Options;
use crate::report::{Expected, Report, spread};
use crate::scratch::Scratch;
use crate::server::Mqfs;

/// Producers at once.
const PRODUCERS: u32 = 4;
/// The messages are enqueued in this many batches, so that a slowdown would show.
const BATCHES: u64 = 10;
/// How often the first lines are listed, and how often memory is looked at.
const LISTINGS: usize = 20;
const LOOK: Duration = Duration::from_millis(100);

const MEMORY_MIB: f64 = 200.0;
const LISTING_MS: f64 = 50.0;
const REMOUNT_S: f64 = 2.0;

/// Runs the part.
pub fn run(options: &Options, scratch: &Scratch, report: &mut Report) -> Result<(), Failure> {
    let each = options.messages / BATCHES / u64::from(PRODUCERS);
    let messages = each * BATCHES * u64::from(PRODUCERS);
    report.section(&format!("{messages} messages in one asynchronous queue, {PRODUCERS} producers"));
    let mqfs = Mqfs::mount(options, scratch, "million")?;
    let queue = mqfs.queue("q", "async")?;
    let empty = mqfs.memory("VmRSS")?;
    let done = AtomicBool::new(false);
    let (rates, resident) = std::thread::scope(|threads| {
        let watcher = threads.spawn(|| most_resident(&mqfs, &done));
        let rates = (0..BATCHES)
            .map(|_| Ok(clients::run(scratch, Work::Enqueue, &queue, PRODUCERS, each)?.rate()))
            .collect::<Result<Vec<f64>, Failure>>();
        done.store(true, Ordering::Relaxed);
        (rates, watcher.join())
    });
    let rates = rates?;
    let resident = resident.map_err(|_| "the memory watcher failed")??;
    report.figure("enqueue, first tenth", rates[0], "op/s", None);
    report.figure("enqueue, last tenth", rates[rates.len() - 1], "op/s", None);
    report.figure("RSS while empty", empty, "MiB", None);
    report.figure("largest RSS while enqueuing", resident, "MiB", Some(Expected::AtMost(MEMORY_MIB)));
    list_first(scratch, &queue, report)?;
    let began = Instant::now();
    let listed = shell(&queue, "ls -U \"$1\" | wc -l")?;
    report.figure("the whole ls -U", began.elapsed().as_secs_f64(), "s", None);
    if listed.trim() != messages.to_string() {
        return Err(format!("{} messages are listed of {messages}", listed.trim()).into());
    }
    report.figure("high-water RSS (VmHWM)", mqfs.memory("VmHWM")?, "MiB", Some(Expected::AtMost(MEMORY_MIB)));

    let began = Instant::now();
    mqfs.unmount()?;
    let unmounted = began.elapsed();
    let mqfs = Mqfs::mount(options, scratch, "million")?;
    let mounted = began.elapsed();
    if shell(&queue, "ls -U \"$1\" | head")?.lines().count() != 10 {
        return Err("the messages are gone after mounting again".into());
    }
    report.figure("unmount", unmounted.as_secs_f64(), "s", None);
    report.figure("mount", (mounted - unmounted).as_secs_f64(), "s", None);
    let remount = began.elapsed().as_secs_f64();
    report.figure("remount, to the first listing", remount, "s", Some(Expected::AtMost(REMOUNT_S)));
    list_first(scratch, &queue, report)?;
    report.figure("VmHWM after the remount", mqfs.memory("VmHWM")?, "MiB", Some(Expected::AtMost(MEMORY_MIB)));
    mqfs.unmount()
}

/// The largest RSS seen until `done`.
fn most_resident(mqfs: &Mqfs, done: &AtomicBool) -> Result<f64, Failure> {
    let mut most = 0_f64;
    while !done.load(Ordering::Relaxed) {
        most = most.max(mqfs.memory("VmRSS")?);
        std::thread::sleep(LOOK);
    }
    Ok(most)
}

/// Times `ls -U q | head` several times; the slowest counts.
fn list_first(scratch: &Scratch, queue: &Path, report: &mut Report) -> Result<(), Failure> {
    let mut times = Vec::new();
    for _ in 0..LISTINGS {
        scratch.check()?;
        let began = Instant::now();
        shell(queue, "ls -U \"$1\" | head")?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    let [_, median, slowest] = spread(&times);
    report.figure("ls -U q | head, median", median, "ms", None);
    report.figure("ls -U q | head, slowest", slowest, "ms", Some(Expected::AtMost(LISTING_MS)));
    std::io::stdout().flush()?;
    Ok(())
}

/// What a shell command prints, with the queue as `$1`.
fn shell(queue: &Path, command: &str) -> Result<String, Failure> {
    let output = Command::new("sh").args(["-c", command, "sh"]).arg(queue).stderr(Stdio::inherit()).output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{command} failed").into()),
    }
}
