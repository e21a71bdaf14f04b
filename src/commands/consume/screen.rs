//! The output of commands while a line shows the progress: it comes through the worker, so that the two do not mix.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::pipe::PipeFlags;

use super::relay::{Sink, Sinks};

/// A line that does not end is shown when it is this long, in bytes.
const LONGEST: usize = 64 * 1024;

/// A stream of the commands' that ends on a terminal.
struct Stream {
    from: File,
    to: File,
    /// The beginning of a line of which the end is missing.
    held: Vec<u8>,
}

impl Stream {
    fn new() -> io::Result<Stream> {
        let (from, to) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&from, true)?;
        Ok(Stream { from: from.into(), to: to.into(), held: Vec::new() })
    }

    /// What can be shown. `all`: what is no whole line, too, with a line end.
    fn take(&mut self, all: bool) -> Vec<u8> {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = self.from.read(&mut buffer) {
            self.held.extend(&buffer[..length]);
            if self.held.len() > LONGEST && !all {
                break;
            }
        }
        let whole = self.held.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let cut = if all || self.held.len() > LONGEST { self.held.len() } else { whole };
        let mut shown: Vec<u8> = self.held.drain(..cut).collect();
        if cut > whole {
            shown.push(b'\n');
        }
        shown
    }
}

/// What commands write to a terminal on which there is a line of progress.
pub struct Screen {
    output: Option<Stream>,
    errors: Stream,
}

impl Screen {
    /// For a worker that shows a line on standard error.
    pub fn new() -> io::Result<Screen> {
        let output = if io::stdout().is_terminal() { Some(Stream::new()?) } else { None };
        Ok(Screen { output, errors: Stream::new()? })
    }

    /// Where a command's standard output, if it does not stay what it is, and its standard error are to go.
    pub fn sinks(&self) -> io::Result<Sinks> {
        let sink = |stream: &Stream| -> io::Result<Sink> {
            Ok(Sink::Worker { pipe: stream.to.try_clone()?, held: Vec::new() })
        };
        let output = self.output.as_ref().map(sink).transpose()?;
        Ok(Sinks { output, errors: sink(&self.errors)? })
    }

    /// Readable when commands have written something.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.output.iter().chain([&self.errors]).map(|stream| stream.from.as_fd())
    }

    /// Shows what they have written, within `aside`, which clears the line for it. `all`: nothing more will come.
    pub fn show(&mut self, all: bool, aside: impl FnOnce(&mut dyn FnMut())) {
        let output = self.output.as_mut().map(|stream| stream.take(all)).unwrap_or_default();
        let errors = self.errors.take(all);
        if output.is_empty() && errors.is_empty() {
            return;
        }
        // Nobody to tell when the terminal is gone.
        aside(&mut || {
            let _ = io::stdout().write_all(&output).and_then(|()| io::stdout().flush());
            let _ = io::stderr().write_all(&errors);
        });
    }
}
