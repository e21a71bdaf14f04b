//! Where log lines go, and how they look.

mod file;
mod held;
mod one_line;
mod system;

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::exit::{Exit, Failure};
use super::text::Escape;
use crate::fuse::options::LogFormat;
use crate::fuse::signals::Hangup;
use file::LogFile;
pub use held::Teller;
use held::{Held, Holding};
use one_line::OneLine;
use system::SystemLog;

/// The variable that says what is logged (`debug`, `mqfs=trace`...), and what is logged without it.
const FILTER_VARIABLE: &str = "RUST_LOG";
const FILTER_DEFAULT: &str = "info";

/// Where log lines go.
#[derive(Debug)]
pub enum Target {
    /// To standard error.
    Stderr,
    /// To the end of a file.
    File(Arc<LogFile>),
    /// To the system's log: the journal, or syslog.
    System,
}

impl Target {
    /// A file when one is named, else standard error in the foreground, else the system's log. The file is opened here, before
    /// the process leaves its directory, its user mask and its terminal.
    pub fn choose(file: Option<&Path>, foreground: bool) -> Result<Target, Failure> {
        let Some(path) = file else {
            return Ok(if foreground { Target::Stderr } else { Target::System });
        };
        match LogFile::open(path) {
            Ok(file) => Ok(Target::File(Arc::new(file))),
            Err(error) => {
                Err(Failure::new(Exit::Failure, format_args!("cannot open the log file {}: {error}", path.display())))
            }
        }
    }

    /// The descriptor that the process in the background needs of the one that started it.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Target::File(file) => Some(file.as_fd()),
            Target::Stderr | Target::System => None,
        }
    }

    /// The file's path, absolute.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Target::File(file) => Some(file.path().to_owned()),
            Target::Stderr | Target::System => None,
        }
    }

    /// What SIGHUP does: with a file, it is opened anew, as whoever rotates it asks. Where the lines go to a terminal, that is
    /// gone, and the mount goes as well. In the background there is nothing to be done.
    pub fn on_hangup(&self) -> Hangup {
        match self {
            Target::Stderr => Hangup::Ends,
            Target::System => Hangup::Does(Box::new(|| tracing::info!("SIGHUP: there is no log file to open anew"))),
            Target::File(file) => {
                let file = file.clone();
                Hangup::Does(Box::new(move || match file.reopen() {
                    Ok(()) => tracing::info!("the log file was opened anew"),
                    Err(error) => {
                        tracing::error!(%error, "the log file cannot be opened anew; the old one is written to")
                    }
                }))
            }
        }
    }
}

/// The log that was begun.
pub struct Log(Arc<Held>);

impl Log {
    /// Starts the thread that tells of lines that are held back; it ends when what this gives is dropped.
    pub fn tell(&self) -> io::Result<Teller> {
        Teller::start(&self.0)
    }
}

/// Sends the process's log lines, panics included, to `target` from now on.
pub fn init(target: Target, format: LogFormat) -> Result<Log, Failure> {
    let text = std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.is_empty());
    let text = text.as_deref().unwrap_or(FILTER_DEFAULT);
    let filter: Targets =
        text.parse().map_err(|error| Failure::new(Exit::Usage, format_args!("{FILTER_VARIABLE}={text}: {error}")))?;
    let held = Arc::new(Held::default());
    let layers = (filter, Holding(held.clone()));
    match target {
        Target::Stderr => install(io::stderr, io::stderr().is_terminal(), layers, format),
        Target::File(file) => install(file, false, layers, format),
        Target::System => install_system(SystemLog::default(), layers, format),
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!("bug: {panic}")));
    Ok(Log(held))
}

/// What decides which lines are written.
type Layers = (Targets, Holding);

fn one_line<W>(to: W, colours: bool, format: LogFormat) -> OneLine<W> {
    let escape = match format {
        LogFormat::Text => Escape::Text,
        LogFormat::Json => Escape::Json,
    };
    OneLine { to, colours: colours && format == LogFormat::Text, escape }
}

fn install<W>(writer: W, colours: bool, (filter, holding): Layers, format: LogFormat)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE) // The filter decides.
        .with_writer(one_line(writer, colours, format))
        .with_ansi(colours)
        // A line that cannot be written, for want of room on its disk say, is lost. To say so on standard error would end the
        // thread that serves if that is what cannot be written to.
        .log_internal_errors(false);
    // A second subscriber in one process can only come from a test; the first one stays.
    let _ = match format {
        LogFormat::Text => builder.finish().with(holding).with(filter).try_init(),
        LogFormat::Json => builder.json().finish().with(holding).with(filter).try_init(),
    };
}

/// The system's log knows the time and the level of each line by itself.
fn install_system(writer: SystemLog, (filter, holding): Layers, format: LogFormat) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE) // The filter decides.
        .with_writer(one_line(writer, false, format))
        .with_ansi(false)
        .log_internal_errors(false)
        .without_time();
    let _ = match format {
        LogFormat::Text => builder.with_level(false).finish().with(holding).with(filter).try_init(),
        LogFormat::Json => builder.json().finish().with(holding).with(filter).try_init(),
    };
}
