//! What `mqfs put` enqueues.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::super::exit::{Exit, Failure};
use super::output::Output;
use super::usage;
use crate::cli::PutArgs;
use crate::queue::name::{check_producer_name, stripped};

/// The name of a message that comes from standard input, unless another is given.
const STDIN_NAME: &[u8] = b"stdin";

/// A file, standard input, or a command.
pub struct Source {
    from: Origin,
    /// What the message will be called; without the number of a message that it is a copy of.
    pub name: Vec<u8>,
}

/// Where the bytes come from.
enum Origin {
    File(PathBuf),
    Stdin,
    /// What a command prints.
    Command(Vec<OsString>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            Origin::File(path) => path.display().fmt(f),
            Origin::Stdin => f.write_str("standard input"),
            Origin::Command(words) => words[0].display().fmt(f),
        }
    }
}

/// What the arguments name, checked as far as it can be before anything is enqueued.
pub fn all(arguments: &PutArgs) -> Result<Vec<Source>, Failure> {
    if !arguments.command.is_empty() {
        let command = Origin::Command(arguments.command.clone());
        return Ok(vec![Source::new(command, arguments.name.as_deref())?]);
    }
    let none = [PathBuf::from("-")];
    let files = if arguments.files.is_empty() { &none[..] } else { &arguments.files[..] };
    if arguments.name.is_some() && files.len() > 1 {
        return Err(usage("--name is for one file"));
    }
    if files.iter().filter(|file| is_stdin(file)).count() > 1 {
        return Err(usage("standard input can be read once"));
    }
    let from = |file: &PathBuf| if is_stdin(file) { Origin::Stdin } else { Origin::File(file.clone()) };
    files.iter().map(|file| Source::new(from(file), arguments.name.as_deref())).collect()
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

impl Source {
    fn new(from: Origin, name: Option<&OsStr>) -> Result<Source, Failure> {
        let source = Source { name: Vec::new(), from };
        let base = || match &source.from {
            Origin::File(path) => path.file_name().map(OsStr::as_bytes),
            Origin::Stdin => Some(STDIN_NAME),
            Origin::Command(words) => Path::new(&words[0]).file_name().map(OsStr::as_bytes),
        };
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
        let Origin::File(path) = &self.from else { return Ok(()) };
        match std::fs::metadata(path) {
            Err(error) => Err(self.unreadable(&error)),
            Ok(stat) if stat.is_dir() => Err(self.unreadable(&"is a directory")),
            Ok(_) => Ok(()),
        }
    }

    /// Why it cannot be read.
    pub fn unreadable(&self, why: &dyn fmt::Display) -> Failure {
        Failure::new(Exit::Failure, format_args!("{self}: {why}"))
    }

    /// The permission bits that its message is to have, before the umask.
    pub fn mode(&self) -> Result<u32, Failure> {
        let Origin::File(path) = &self.from else { return Ok(0o666) };
        let stat = std::fs::metadata(path).map_err(|error| self.unreadable(&error))?;
        Ok(if stat.is_file() { stat.permissions().mode() & 0o777 } else { 0o666 })
    }

    /// Opens it, or starts the command.
    pub fn open(&self) -> Result<Box<dyn Read>, Failure> {
        match &self.from {
            Origin::File(path) => Ok(Box::new(File::open(path).map_err(|error| self.unreadable(&error))?)),
            Origin::Stdin => Ok(Box::new(io::stdin().lock())),
            Origin::Command(words) => match Output::of(words) {
                Ok(output) => Ok(Box::new(output)),
                Err(error) => Err(Failure::new(Exit::Command, format_args!("{self}: {error}"))),
            },
        }
    }
}
