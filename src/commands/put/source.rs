//! What `mqfs put` enqueues.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::super::exit::{Exit, Failure};
use super::usage;
use crate::cli::PutArgs;
use crate::queue::name::{check_producer_name, stripped};

/// The name of a message that comes from standard input, unless another is given.
const STDIN_NAME: &[u8] = b"stdin";

/// A file, or standard input.
pub struct Source {
    /// `None`: standard input.
    path: Option<PathBuf>,
    /// What the message will be called; without the number of a message that it is a copy of.
    pub name: Vec<u8>,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => path.display().fmt(f),
            None => f.write_str("standard input"),
        }
    }
}

/// What the arguments name, checked as far as it can be before anything is enqueued.
pub fn all(arguments: &PutArgs) -> Result<Vec<Source>, Failure> {
    let none = [PathBuf::from("-")];
    let files = if arguments.files.is_empty() { &none[..] } else { &arguments.files[..] };
    if arguments.name.is_some() && files.len() > 1 {
        return Err(usage("--name is for one file"));
    }
    if files.iter().filter(|file| is_stdin(file)).count() > 1 {
        return Err(usage("standard input can be read once"));
    }
    files.iter().map(|file| Source::new(file, arguments.name.as_deref())).collect()
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

impl Source {
    fn new(file: &Path, name: Option<&OsStr>) -> Result<Source, Failure> {
        let path = (!is_stdin(file)).then(|| file.to_owned());
        let source = Source { name: Vec::new(), path };
        let base = || if source.path.is_none() { Some(STDIN_NAME) } else { file.file_name().map(OsStr::as_bytes) };
        let name = match name.map(OsStr::as_bytes).or_else(base) {
            // Whether digits alone are a message's number, the queue knows.
            Some(name) if !name.contains(&b'/') => stripped(name, |_| false).to_vec(),
            _ => return Err(usage(format_args!("{source}: not a name for a message; give one with --name"))),
        };
        if name.starts_with(b".") {
            return Err(usage(format_args!(
                "{source}: a message's name cannot begin with a dot; give one with --name"
            )));
        }
        check_producer_name(&name, false).map_err(|error| usage(format_args!("{source}: {error}")))?;
        source.check()?;
        Ok(Source { name, ..source })
    }

    fn check(&self) -> Result<(), Failure> {
        match self.path.as_ref().map(std::fs::metadata) {
            Some(Err(error)) => Err(self.unreadable(&error)),
            Some(Ok(stat)) if stat.is_dir() => Err(self.unreadable(&"is a directory")),
            _ => Ok(()),
        }
    }

    /// Why it cannot be read.
    pub fn unreadable(&self, why: &dyn fmt::Display) -> Failure {
        Failure::new(Exit::Failure, format_args!("{self}: {why}"))
    }

    /// Opens it; gives the permission bits that its message is to have, before the umask.
    pub fn open(&self) -> io::Result<(Box<dyn Read>, u32)> {
        let Some(path) = &self.path else { return Ok((Box::new(io::stdin().lock()), 0o666)) };
        let file = File::open(path)?;
        let stat = file.metadata()?;
        let mode = if stat.is_file() { stat.permissions().mode() & 0o777 } else { 0o666 };
        Ok((Box::new(file), mode))
    }
}
