//! `mqfs claims`: which messages are claimed, by whom, since when and until when.
//!
//! The names and the deadlines are the mount's, from `.mq/claimed` of each queue; what runs under a process's number is this
//! machine's. Nothing is claimed by looking.

mod output;
mod worker;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::exit::{Exit, Failure};
use super::targets::{Target, ask_all, targets};
use super::text::{complain, print};
use crate::cli::ClaimsArgs;
use crate::error::Refusal;
use worker::Worker;

/// A message that somebody has claimed.
#[derive(Serialize, Deserialize)]
pub struct Claim {
    /// Where its mount is seen.
    #[serde(skip)]
    pub mount: PathBuf,
    /// The path of its queue from there, as text.
    pub queue: String,
    /// Its name in `.mq/claimed`.
    pub message: Vec<u8>,
    /// Who has it.
    pub worker: Worker,
    /// How often it was claimed.
    pub deliveries: u64,
    /// When, if that could be read.
    pub since: Option<SystemTime>,
    /// When the lease ends unless it is renewed.
    pub deadline: Option<SystemTime>,
}

/// What was found on a mount.
#[derive(Default, Serialize, Deserialize)]
struct Found {
    /// There is such a queue.
    queue: bool,
    claims: Vec<Claim>,
    /// What could not be looked at, and why.
    complaints: Vec<String>,
}

/// Runs the command.
pub fn run(arguments: &ClaimsArgs) -> Result<(), Failure> {
    let named: Vec<PathBuf> = arguments.queue.iter().cloned().collect();
    let mut claims = Vec::new();
    for (target, answer) in ask_all(targets(&named)?, look) {
        let found = answer.and_then(|bytes| {
            let found: Found = serde_json::from_slice(&bytes).map_err(|error| target.failed(&error))?;
            if found.queue { Ok(found) } else { Err(target.no_queue()) }
        });
        match found {
            Ok(found) => {
                found.complaints.iter().for_each(|line| complain(line));
                claims.extend(found.claims.into_iter().map(|claim| Claim { mount: target.point.clone(), ..claim }));
            }
            Err(failure) if !named.is_empty() => return Err(failure),
            Err(failure) => complain(failure.line()),
        }
    }
    let now = SystemTime::now();
    let text = if arguments.json { output::json(&claims) } else { output::table(&claims, now) };
    match print(&text) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(Exit::Failure, error)),
        _ => Ok(()),
    }
}

/// Looks at a mount; gives what was [`Found`].
fn look(target: &Target) -> io::Result<Vec<u8>> {
    let queues = target.queues(&target.metrics()?);
    let mut found = Found { queue: queues.is_some(), ..Found::default() };
    let queues = queues.unwrap_or_default();
    for queue in queues.iter().filter(|queue| queue.numbers.is_some()) {
        let path = path_of(&target.point, &queue.label);
        match claims_in(&path, &queue.label) {
            Ok(claims) => found.claims.extend(claims),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // the queue was removed since
            Err(error) => found.complaints.push(format!("{}: {error}", path.display())),
        }
    }
    Ok(serde_json::to_vec(&found)?)
}

/// The path of a queue that is called so in the metrics: bytes that are not UTF-8 are written `\xNN` there.
fn path_of(point: &Path, label: &str) -> PathBuf {
    let plain = point.join(label);
    if plain.symlink_metadata().is_ok() { plain } else { point.join(OsString::from_vec(bytes_of(label))) }
}

fn bytes_of(label: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(label.len());
    let mut rest = label;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        match after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                rest = after;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

fn claims_in(queue: &Path, label: &str) -> io::Result<Vec<Claim>> {
    let mut claims = Vec::new();
    for entry in fs::read_dir(queue.join(".mq/claimed"))? {
        let entry = entry?;
        let path = entry.path();
        let by = match attribute(&path, "user.mq.claimed_by") {
            Ok(by) => by,
            // It was settled meanwhile.
            Err(error) if is_over(&error) => continue,
            Err(error) => return Err(error),
        };
        let time = |name| humantime::parse_rfc3339(&attribute(&path, name).ok()?).ok();
        let since = time("user.mq.claimed_at");
        claims.push(Claim {
            mount: PathBuf::new(),
            queue: label.to_owned(),
            message: entry.file_name().as_bytes().to_vec(),
            worker: Worker::of(&by, since),
            deliveries: attribute(&path, "user.mq.deliveries").ok().and_then(|text| text.parse().ok()).unwrap_or(0),
            since,
            deadline: time("user.mq.deadline"),
        });
    }
    Ok(claims)
}

/// Whether an answer about a claimed message says that it is claimed no more.
fn is_over(error: &io::Error) -> bool {
    matches!(Refusal::of(error), Refusal::NotFound | Refusal::NoAttribute | Refusal::Stale)
}

fn attribute(path: &Path, name: &str) -> io::Result<String> {
    let mut value = [0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value)?;
    Ok(String::from_utf8_lossy(&value[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_lead_back_to_names() {
        assert_eq!(bytes_of("a/gr\u{f6}\u{df}e"), "a/größe".as_bytes());
        assert_eq!(bytes_of(r"a\xff\xfe b\x"), b"a\xff\xfe b\\x");
        assert_eq!(bytes_of(r"\xzz"), br"\xzz");
    }
}
