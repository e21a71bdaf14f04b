//! Where log lines go, and how they look.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

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
    let filter = EnvFilter::builder();
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(text) if !text.is_empty() => filter
            .parse(&text)
            .map_err(|error| Failure::new(Exit::Usage, format_args!("{FILTER_VARIABLE}={text}: {error}")))?,
        _ => filter.parse_lossy(FILTER_DEFAULT),
    };
    match target {
        Target::Discard => {}
        Target::Stderr => install(io::stderr, io::stderr().is_terminal(), filter, format),
        Target::File(file) => install(Arc::new(file), false, filter, format),
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!("bug: {panic}")));
    Ok(())
}

fn install<W>(writer: W, colours: bool, filter: EnvFilter, format: LogFormat)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colours);
    // A line that cannot be written, for want of room on its disk say, is lost. To say so on standard error would end the
    // thread that serves if that is what cannot be written to.
    let builder = builder.log_internal_errors(false);
    // A second subscriber in one process can only come from a test; the first one stays.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
