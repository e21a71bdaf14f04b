//! What `mqfs ls` and `mqfs claims` are asked about: mounts, or queues of them.
//!
//! Whatever the state of their servers is, an answer or a failure comes in time: all that a mount is asked is asked by way of
//! [`Asked`].

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::exit::{Exit, Failure};
use super::numbers::{self, Queue};
use crate::error::Refusal;
use crate::fuse::ask::{Asked, ask};
use crate::fuse::mountinfo::{self, Entry};
use crate::view::metrics::label;

/// A mount is given so long to say anything at all: its server may have been stopped, or be stuck.
const PATIENCE: Duration = Duration::from_secs(15);
/// One that has very much to tell, and says other things meanwhile, is given so many times as long.
const PATIENT: u32 = 20;
/// What was told is told again for so long, in seconds.
const FRESH: f64 = 1.0;
/// When it was so is told within so many bytes.
const BEGINNING: u64 = 64 * 1024;
/// What was told before it was asked for is taken after so long: the clock was set back.
const STALE: Duration = Duration::from_secs(5);

/// What is to be shown: a whole mount, or a queue of it with those nested in it.
pub struct Target {
    /// Where the mount is seen.
    pub point: PathBuf,
    /// The queue's path from there; empty for the whole mount.
    pub queue: String,
    /// It was named, or is the caller's or root's. A mount that any other user has made is not waited for because it says that
    /// it has more to tell.
    pub trusted: bool,
}

impl Target {
    fn path(&self) -> PathBuf {
        self.point.join(&self.queue)
    }

    /// A failure that names it.
    pub fn failed(&self, why: &dyn std::fmt::Display) -> Failure {
        Failure::new(Exit::Queue, format_args!("{}: {why}", self.path().display()))
    }

    /// The metrics of its mount, of a moment not before this call. They are put together at most once a second, so this may take
    /// as long; of those that are older no more is read than tells it. To be called by who may be left behind.
    pub fn metrics(&self) -> io::Result<String> {
        let start = Instant::now();
        let asked = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let asked = asked.as_millis() as f64 / 1000.0;
        loop {
            let mut file = File::open(self.point.join(".mq/metrics"))?;
            let mut text = Vec::new();
            (&mut file).take(BEGINNING).read_to_end(&mut text)?;
            let at = numbers::timestamp(&String::from_utf8_lossy(&text)).unwrap_or(asked);
            if at >= asked || start.elapsed() >= STALE {
                match file.read_to_end(&mut text) {
                    // Its memory was needed for newer ones.
                    Err(error) if Refusal::of(&error) == Refusal::Stale => continue,
                    read => read?,
                };
                return Ok(String::from_utf8_lossy(&text).into_owned());
            }
            let left = (at + FRESH - asked - start.elapsed().as_secs_f64()).clamp(0.01, FRESH);
            thread::sleep(Duration::from_secs_f64(left));
        }
    }

    /// Of the queues that the metrics tell of, those that belong to it; `None` when its own queue is not among them.
    pub fn queues(&self, metrics: &str) -> Option<Vec<Queue>> {
        let mut queues = numbers::parse(metrics);
        queues.retain(|queue| self.shows(&queue.label));
        (self.queue.is_empty() || queues.iter().any(|found| found.label == self.queue)).then_some(queues)
    }

    fn shows(&self, label: &str) -> bool {
        let rest = label.strip_prefix(self.queue.as_str());
        self.queue.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// That its queue is none.
    pub fn no_queue(&self) -> Failure {
        self.failed(&"not a queue, or not one that you can list")
    }
}

/// Those of some paths; without any, every mount that is to be seen.
pub fn targets(paths: &[PathBuf]) -> Result<Vec<Target>, Failure> {
    if !paths.is_empty() {
        return paths.iter().map(|path| target(path)).collect();
    }
    let entries = mountinfo::all(mountinfo::KIND).map_err(|error| Failure::new(Exit::Failure, error))?;
    let user = rustix::process::getuid().as_raw();
    let trusted = |entry: &Entry| entry.user_id().is_some_and(|owner| owner == 0 || owner == user);
    let target = |entry: Entry| Target { trusted: trusted(&entry), point: entry.point, queue: String::new() };
    Ok(entries.into_iter().map(target).collect())
}

/// The mount and queue of a path.
fn target(path: &Path) -> Result<Target, Failure> {
    let failed = |why: &dyn std::fmt::Display| Failure::new(Exit::Queue, format_args!("{}: {why}", path.display()));
    let resolve = || Ok(mountinfo::resolve(path)?.into_os_string().into_vec());
    let full = ask(Instant::now() + PATIENCE, resolve).ok_or_else(|| silent(path))?;
    let full = PathBuf::from(OsString::from_vec(full.map_err(|error| failed(&error))?));
    let Some(Entry { point, device, root, .. }) = mountinfo::of(&full).map_err(|error| failed(&error))? else {
        return Err(failed(&"not on an mqfs mount"));
    };
    // The kind may be any, as the option `subtype` has it: whether it is one of ours shows when it is read.
    let within = full.strip_prefix(&point).unwrap_or(&full);
    if root == Path::new("/") {
        return Ok(Target { point, queue: queue_label(within), trusted: true });
    }
    // A bind mount of a queue: what tells of all queues is to be seen elsewhere, if at all.
    let whole = mountinfo::whole(&device).map_err(|error| failed(&error))?;
    let whole = whole.ok_or_else(|| failed(&"only a part of the mqfs mount is to be seen here"))?;
    let within = root.strip_prefix("/").unwrap_or(&root).join(within);
    Ok(Target { point: whole.point, queue: queue_label(&within), trusted: true })
}

/// A path as the metrics write it.
fn queue_label(path: &Path) -> String {
    let names = path.components().map(|name| label(name.as_os_str().as_encoded_bytes()));
    names.collect::<Vec<_>>().join("/")
}

fn silent(path: &Path) -> Failure {
    let seconds = PATIENCE.as_secs();
    Failure::new(Exit::StillRunning, format_args!("{}: no answer within {seconds} s", path.display()))
}

/// Asks all of them at the same time: one that does not answer costs the others nothing, and many that do not no more than one.
/// The question is asked by processes of their own, whose standard output and error go nowhere.
pub fn ask_all(
    targets: Vec<Target>,
    question: impl Fn(&Target) -> io::Result<Vec<u8>>,
) -> Vec<(Target, Result<Vec<u8>, Failure>)> {
    let asked = targets.iter().map(|target| Asked::new(|| question(target))).collect();
    let answers = patiently(asked, &targets);
    let told = |(target, answer): (Target, Option<io::Result<Vec<u8>>>)| {
        let answer = answer.ok_or_else(|| silent(&target.path())).and_then(|answer| {
            answer.map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => target.failed(&"not on an mqfs mount, or one of another version"),
                _ => target.failed(&error),
            })
        });
        (target, answer)
    };
    targets.into_iter().zip(answers).map(told).collect()
}

/// An answer, once there is one.
type Answer = Option<io::Result<Vec<u8>>>;

/// Waits for the answers of all as long as their mounts answer anything.
fn patiently(asked: Vec<io::Result<Asked>>, targets: &[Target]) -> Vec<Answer> {
    let mut answers: Vec<Answer> = asked.iter().map(|_| None).collect();
    let mut waiting: Vec<(usize, Asked)> = Vec::new();
    for (at, asked) in asked.into_iter().enumerate() {
        match asked {
            Ok(asked) => waiting.push((at, asked)),
            Err(error) => answers[at] = Some(Err(error)),
        }
    }
    for _ in 0..PATIENT {
        let until = Instant::now() + PATIENCE;
        let lives = |at: usize| {
            let version = targets[at].point.join(".mq/version");
            Asked::new(|| std::fs::metadata(version).map(|_| Vec::new()))
        };
        let round: Vec<_> = waiting.drain(..).map(|(at, asked)| (at, asked, lives(at))).collect();
        for (at, mut asked, lives) in round {
            answers[at] = asked.answer(until);
            let says_nothing = |mut lives: Asked| !matches!(lives.answer(Instant::now()), Some(Ok(_)));
            if answers[at].is_none() && targets[at].trusted && !lives.map_or(true, says_nothing) {
                waiting.push((at, asked));
            }
        }
        if waiting.is_empty() {
            break;
        }
    }
    answers
}

/// When it was so, in seconds since the epoch, and the queues.
type Told = (f64, Vec<Queue>);

/// What their mounts tell of the queues, sorted by their paths: of a moment not before this call.
pub fn queues_of(targets: Vec<Target>) -> Vec<(Target, Result<Told, Failure>)> {
    let told = |(target, answer): (Target, Result<Vec<u8>, Failure>)| {
        let queues = answer.and_then(|text| {
            let text = String::from_utf8_lossy(&text);
            let at = numbers::timestamp(&text).unwrap_or_default();
            Ok((at, target.queues(&text).ok_or_else(|| target.no_queue())?))
        });
        (target, queues)
    };
    ask_all(targets, |target| target.metrics().map(String::into_bytes)).into_iter().map(told).collect()
}
