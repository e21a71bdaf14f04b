//! `mqfs put`: enqueues files, standard input, or what a command prints, through a mount: what any user can do with `cp` and `mv`, with
//! the errors told.
//!
//! A file is written under a name that nobody takes for a message or can guess, for its owner only; and only when all of it is
//! there, and its close has succeeded, it is given its mode and its name. So a failure in the middle enqueues nothing of it. With `--batch` the same holds for all files.

mod output;
mod source;
mod staged;

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use super::exit::{Exit, Failure};
use super::interrupt;
use super::text::print_names;
use crate::cli::PutArgs;
use crate::error::Refusal;
use crate::queue::words;
use source::Source;
use staged::{Batch, Draft};

/// The type that statfs(2) tells of a FUSE mount.
const FUSE: u64 = 0x6573_5546;

/// Between two tries in a full queue.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Attributes by their whole names, with their values.
type Attributes = Vec<(String, Vec<u8>)>;

/// A queue on a mount.
struct Queue {
    path: PathBuf,
    /// The directory in which files are drafts if their names begin with a dot, and only then.
    entrance: PathBuf,
    /// It has `names = keep`, as far as the user may know.
    keeps_names: bool,
    /// What the user's umask takes from the modes of messages.
    umask: u32,
}

/// The umask of this process, which can only be learned by setting it: there is one thread.
fn umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    rustix::process::umask(mask);
    mask.as_raw_mode()
}

/// Runs the command.
pub fn run(arguments: &PutArgs) -> Result<(), Failure> {
    let attributes = attributes(arguments)?;
    let sources = source::all(arguments)?;
    let one_id = attributes.iter().any(|(name, _)| name == "user.mq.dedup_id");
    if one_id && sources.len() > 1 {
        return Err(usage("a property `id` for several files would enqueue one of them"));
    }
    let queue = Queue::open(&arguments.queue, &attributes)?;
    interrupt::catch();
    let put = if arguments.batch {
        put_together(&queue, &sources, &attributes, arguments.verbose)
    } else {
        sources.iter().try_for_each(|source| put_one(&queue, source, &attributes, arguments.verbose))
    };
    // What was staged has been removed by now.
    interrupt::die_if_told();
    put
}

fn usage(line: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, line)
}

fn attributes(arguments: &PutArgs) -> Result<Attributes, Failure> {
    let mut attributes = Attributes::new();
    for property in &arguments.properties {
        let bytes = property.as_bytes();
        let (attribute, value) = words::word(bytes).map_err(usage)?;
        if attributes.iter().any(|(known, _)| *known == attribute) {
            return Err(usage(format_args!("the property {attribute} is given twice")));
        }
        attributes.push((attribute, value));
    }
    Ok(attributes)
}

/// The name of a directory of properties that gives a message no other priority than it has. There names are as ever, whatever the
/// queue takes for those of drafts.
fn priority(attributes: &Attributes) -> String {
    let given = attributes.iter().find(|(name, _)| name == "user.mq.priority");
    format!("priority={}", given.map_or("0".into(), |(_, value)| String::from_utf8_lossy(value)))
}

impl Queue {
    /// Makes sure that it is one: in another directory a file of the same name would be overwritten.
    fn open(path: &Path, attributes: &Attributes) -> Result<Queue, Failure> {
        let failed =
            |why: &dyn std::fmt::Display| Failure::new(Exit::Queue, format_args!("queue {}: {why}", path.display()));
        std::fs::metadata(path).map_err(|error| failed(&error))?;
        let mounted = rustix::fs::statfs(path).map_err(|errno| failed(&io::Error::from(errno)))?;
        let is_fuse = u64::try_from(mounted.f_type).is_ok_and(|kind| kind == FUSE);
        match std::fs::metadata(path.join(".mq/config")) {
            Ok(_) if is_fuse => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(failed(&error)),
            _ if is_fuse && path.join(".mq/version").exists() => {
                return Err(failed(&"the root of a mount holds queues"));
            }
            _ => return Err(failed(&"not a queue of an mqfs mount")),
        }
        let mut queue = Queue { path: path.to_owned(), entrance: path.to_owned(), keeps_names: false, umask: umask() };
        queue.keeps_names = queue.attribute("user.mq.names").is_some_and(|names| names == b"keep");
        // Who may not know it takes the way that is always right.
        let config = std::fs::read_to_string(path.join(".mq/config")).unwrap_or_default();
        if !config.lines().any(|line| line == "drafts = .*") {
            queue.entrance = path.join(".mq/with").join(priority(attributes));
        }
        Ok(queue)
    }

    /// A key of the configuration, when the user may know it.
    fn attribute(&self, name: &str) -> Option<Vec<u8>> {
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(&self.path, name, &mut value).ok()?;
        Some(value[..length].to_vec())
    }

    /// Whether the queue takes nothing because it is paused, when the user may know it.
    fn is_paused(&self) -> Option<bool> {
        self.attribute("user.mq.paused").map(|paused| [&b"in"[..], b"both"].contains(&&paused[..]))
    }

    /// Enqueues by a rename. The rename cannot wait in a full queue, so where producers are to wait it is tried again.
    fn enqueue(&self, rename: impl Fn() -> rustix::io::Result<()>) -> io::Result<()> {
        let mut pause = FIRST_PAUSE;
        loop {
            let renamed = rename();
            let full =
                || self.is_paused() == Some(false) && self.attribute("user.mq.overflow") == Some(b"block".into());
            if renamed != Err(Errno::AGAIN) || interrupt::told() || !full() {
                return Ok(renamed?);
            }
            std::thread::sleep(pause);
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Why the queue refused something, with a code that tells what can be expected of another try.
    fn refused(&self, what: &dyn std::fmt::Display, error: &io::Error) -> Failure {
        let refusal = Refusal::of(error);
        let exit = match refusal {
            Refusal::NotNow | Refusal::QueueFull | Refusal::NoSpace => Exit::Refused,
            Refusal::NotFound | Refusal::Denied | Refusal::ReadOnly | Refusal::MountGone => Exit::Queue,
            _ => Exit::Failure,
        };
        let line = match refusal {
            Refusal::NotNow => match self.is_paused() {
                Some(true) => "the queue is paused".to_owned(),
                Some(false) => "the queue is full".to_owned(),
                None => "the queue is paused or full".to_owned(),
            },
            Refusal::QueueFull => "the queue is full".to_owned(),
            Refusal::Exists => "the name is taken".to_owned(),
            Refusal::TooLarge => "larger than the queue's max_message_bytes".to_owned(),
            _ => error.to_string(),
        };
        Failure::new(exit, format_args!("queue {}: {what}: {line}", self.path.display()))
    }
}

fn put_one(queue: &Queue, source: &Source, attributes: &Attributes, verbose: bool) -> Result<(), Failure> {
    let draft = Draft::write(queue, source, attributes)?;
    draft.publish(queue).map_err(|error| queue.refused(source, &error))?;
    told(&[source], verbose)
}

fn put_together(queue: &Queue, sources: &[Source], attributes: &Attributes, verbose: bool) -> Result<(), Failure> {
    let batch = Batch::make(queue).map_err(|error| queue.refused(&"the batch", &error))?;
    for (number, source) in (1..).zip(sources) {
        batch.write(queue, number, source, attributes)?;
    }
    batch.publish(queue).map_err(|error| queue.refused(&"the batch", &error))?;
    told(&sources.iter().collect::<Vec<_>>(), verbose)
}

/// Prints the names of what was enqueued.
fn told(sources: &[&Source], verbose: bool) -> Result<(), Failure> {
    if !verbose {
        return Ok(());
    }
    print_names(sources.iter().map(|source| &source.name[..]))
        .map_err(|error| Failure::new(Exit::Failure, format_args!("enqueued, but standard output: {error}")))
}
