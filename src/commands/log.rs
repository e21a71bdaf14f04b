//! Where log lines go, and how they look.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::exit::{Exit, Failure};
use crate::fuse::options::LogFormat;

/// The variable that says what is logged (`debug`, `mqfs=trace`...), and what is logged without it.
const FILTER_VARIABLE: &str = "RUST_LOG";
const FILTER_DEFAULT: &str = "info";

/// Where log lines go.
#[derive(Debug)]
pub enum Target {
    /// To standard error.
    Stderr,
    /// To the end of a file.
    File(File),
    /// Nowhere.
    Discard,
}

impl Target {
    /// A file when one is named, else standard error in the foreground, else nowhere. The file is opened here, before
    /// the process leaves its directory, its user mask and its terminal.
    pub fn choose(file: Option<&Path>, foreground: bool) -> Result<Target, Failure> {
        let Some(path) = file else {
            return Ok(if foreground { Target::Stderr } else { Target::Discard });
        };
        match OpenOptions::new().create(true).append(true).open(path) {
            Ok(file) => Ok(Target::File(file)),
            Err(error) => {
                Err(Failure::new(Exit::Failure, format_args!("cannot open the log file {}: {error}", path.display())))
            }
        }
    }
}

/// Sends the process's log lines, panics included, to `target` from now on.
pub fn init(target: Target, format: LogFormat) -> Result<(), Failure> {
    let text = std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.is_empty());
    let text = text.as_deref().unwrap_or(FILTER_DEFAULT);
    let filter: Targets =
        text.parse().map_err(|error| Failure::new(Exit::Usage, format_args!("{FILTER_VARIABLE}={text}: {error}")))?;
    match target {
        Target::Discard => {}
        Target::Stderr => install(io::stderr, io::stderr().is_terminal(), filter, format),
        Target::File(file) => install(Arc::new(file), false, filter, format),
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!("bug: {panic}")));
    Ok(())
}

/// Gives lines on so that each stays one line: what users named their files is in them.
struct OneLine<W> {
    to: W,
    /// The subscriber writes colours.
    colours: bool,
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for OneLine<W> {
    type Writer = OneLine<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLine { to: self.to.make_writer(), colours: self.colours }
    }
}

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match escaped(line, self.colours) {
            Some(text) => self.to.write_all(text.as_bytes())?,
            None => self.to.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A line with what would begin another, or control a terminal, escaped, except for `colours`; `None` when there is nothing of
/// the kind in it.
fn escaped(line: &[u8], colours: bool) -> Option<String> {
    let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line));
    if !text.contains(|c: char| c.is_control()) {
        return None;
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for (at, c) in text.char_indices() {
        if !c.is_control() || (colours && is_colour(&text[at..])) {
            shown.push(c);
        } else {
            shown.extend(c.escape_default());
        }
    }
    shown.push('\n');
    Some(shown)
}

/// Whether a text begins with what sets a colour.
fn is_colour(text: &str) -> bool {
    let numbers =
        text.strip_prefix("\x1b[").map(|text| text.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';'));
    numbers.is_some_and(|rest| rest.starts_with('m'))
}

fn install<W>(writer: W, colours: bool, filter: Targets, format: LogFormat)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE) // The filter decides.
        .with_writer(OneLine { to: writer, colours })
        .with_ansi(colours)
        // A line that cannot be written, for want of room on its disk say, is lost. To say so on standard error would end the
        // thread that serves if that is what cannot be written to.
        .log_internal_errors(false);
    // A second subscriber in one process can only come from a test; the first one stays.
    let _ = match format {
        LogFormat::Text => builder.finish().with(filter).try_init(),
        LogFormat::Json => builder.json().finish().with(filter).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line() {
        let told = |line: &[u8]| escaped(line, false);
        assert_eq!(told("INFO name=a b Ä\n".as_bytes()), None);
        assert_eq!(told(b"name=a\nERROR b\r\n").as_deref(), Some("name=a\\nERROR b\\r\n"));
        assert_eq!(told("\u{9b}31m\x07\x1b[31m\n".as_bytes()).as_deref(), Some("\\u{9b}31m\\u{7}\\u{1b}[31m\n"));
    }

    #[test]
    fn colours_stay_where_they_are_wanted() {
        let line = b"\x1b[2;32mINFO\x1b[0m name=\x1b[2Ja\n";
        assert_eq!(escaped(line, true).as_deref(), Some("\x1b[2;32mINFO\x1b[0m name=\\u{1b}[2Ja\n"));
    }
}
