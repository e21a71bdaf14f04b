//! One client: a process of its own that makes plain system calls, as a shell, `cp` or a worker would.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use rustix::fs::{Mode, OFlags};
use rustix::time::ClockId;

use crate::Failure;

/// The size of every message, where nothing else is said.
pub const BODY: usize = 1024;
/// So many messages are enqueued together.
pub const BATCH: u64 = 256;

/// What a client does over and over.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// `open(O_CREAT)`, `write`, `close` of a new name
    Enqueue,
    /// the spool idiom: a temporary file, fsync, rename, fsync of the directory
    Spool,
    /// `open`, `read` to the end, `close`, `unlink` of names that it was given
    Consume,
    /// a read of `.mq/claim`, and the same with the path that it answers
    Claim,
    /// `Enqueue` in a directory of `.mq/batch`, which is renamed when it has [`BATCH`] of them
    Batch,
}

/// One client's task.
#[derive(Args)]
pub struct Task {
    /// What to do
    pub work: Work,
    /// The queue or spool directory
    pub dir: PathBuf,
    /// What the names of new files begin with
    pub prefix: String,
    /// How many times (the names for `consume` are read from the standard input)
    pub count: u64,
    /// How many bytes each message has
    #[arg(default_value_t = BODY)]
    pub bytes: usize,
}

/// Waits for the word to go, does the work, and prints when it began and ended on the machine's monotonic clock.
pub fn run(task: &Task) -> Result<(), Failure> {
    let mut input = io::stdin().lock();
    let body = body(task.bytes);
    let names = match task.work {
        Work::Consume => read_names(&mut input, task.count)?,
        _ => Vec::new(),
    };
    let spool = match task.work {
        Work::Spool => Some(open(&task.dir, OFlags::RDONLY | OFlags::DIRECTORY)?),
        _ => None,
    };
    println!("ready");
    io::stdout().flush()?;
    if input.read_line(&mut String::new())? == 0 {
        return Err("the benchmark went away".into());
    }
    let began = now();
    match (task.work, &spool) {
        (Work::Spool, Some(directory)) => {
            for i in 0..task.count {
                spool_one(directory.as_fd(), &task.dir, &format!("{}-{i:07}", task.prefix), &body)?;
            }
        }
        (Work::Enqueue | Work::Spool, _) => {
            for i in 0..task.count {
                let path = task.dir.join(format!("{}-{i:07}", task.prefix));
                write_file(&path, OFlags::TRUNC, &body).map_err(|e| describe("enqueue", &path, e))?;
            }
        }
        (Work::Consume, _) => {
            for name in &names {
                let path = task.dir.join(name);
                consume(&path, task.bytes).map_err(|e| describe("consume", &path, e))?;
            }
        }
        (Work::Claim, _) => {
            for _ in 0..task.count {
                claim(&task.dir, task.bytes).map_err(|e| describe("claim", &task.dir, e))?;
            }
        }
        (Work::Batch, _) => {
            let mut left = task.count;
            while left > 0 {
                let files = left.min(BATCH);
                batch(task, files, left, &body).map_err(|e| describe("enqueue", &task.dir, e))?;
                left -= files;
            }
        }
    }
    println!("{began} {}", now());
    Ok(())
}

/// A body that does not compress.
pub fn body(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn read_names(input: &mut impl BufRead, count: u64) -> io::Result<Vec<OsString>> {
    input.split(b'\n').take(count as usize).map(|name| name.map(OsString::from_vec)).collect()
}

fn spool_one(directory: BorrowedFd<'_>, dir: &Path, name: &str, body: &[u8]) -> Result<(), Failure> {
    let draft = dir.join(format!(".{name}"));
    let file = open(&draft, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY)?;
    write_all(file.as_fd(), body)?;
    rustix::fs::fsync(&file)?;
    close(file)?;
    rustix::fs::rename(&draft, dir.join(name))?;
    rustix::fs::fsync(directory)?;
    Ok(())
}

fn write_file(path: &Path, flags: OFlags, body: &[u8]) -> io::Result<()> {
    let file = open(path, OFlags::CREATE | OFlags::WRONLY | flags)?;
    write_all(file.as_fd(), body)?;
    close(file)
}

/// Claims the next message as workers do, reads it and acknowledges it.
fn claim(dir: &Path, bytes: usize) -> io::Result<()> {
    let mut answer = [0; 1024];
    let file = open(&dir.join(".mq/claim"), OFlags::RDONLY)?;
    let length = rustix::io::read(&file, &mut answer)?;
    close(file)?;
    let path = answer[..length].strip_suffix(b"\n").ok_or_else(|| io::Error::other("not a path"))?;
    consume(&dir.join(OsStr::from_bytes(path)), bytes)
}

/// Enqueues so many messages in one step; `left` makes its name another one each time.
fn batch(task: &Task, files: u64, left: u64, body: &[u8]) -> io::Result<()> {
    let name = format!("{}-{left}", task.prefix);
    let dir = task.dir.join(".mq/batch").join(&name);
    fs::create_dir(&dir)?;
    for i in 0..files {
        write_file(&dir.join(format!("{i:07}")), OFlags::TRUNC, body)?;
    }
    fs::rename(dir, task.dir.join(name))
}

fn consume(path: &Path, bytes: usize) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    let mut length = 0;
    let file = open(path, OFlags::RDONLY)?;
    loop {
        match rustix::io::read(&file, &mut buffer)? {
            0 => break,
            n => length += n,
        }
    }
    close(file)?;
    if length != bytes {
        return Err(io::Error::other(format!("a message of {length} bytes instead of {bytes}")));
    }
    Ok(rustix::fs::unlink(path)?)
}

fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))?)
}

fn write_all(file: BorrowedFd<'_>, body: &[u8]) -> io::Result<()> {
    match rustix::io::write(file, body)? {
        n if n == body.len() => Ok(()),
        n => Err(io::Error::other(format!("wrote {n} bytes of {}", body.len()))),
    }
}

/// `close`, whose error counts: it is where mqfs says that a message is not durable.
fn close(file: OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor was owned here and is given up here, so nothing else uses it.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn now() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn describe(action: &str, path: &Path, error: io::Error) -> Failure {
    format!("cannot {action} {}: {error}", path.display()).into()
}

/// The names in a directory that are not dotfiles, in the order in which they are listed.
pub fn list(dir: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    Ok(names)
}
