//! `mqfs link`: binds a queue to a broker. What it does is in [`crate::link`]; here is what can be asked for.

mod progress;
mod status;

use std::io::Write;
use std::path::{Path, PathBuf};

use super::consume::signals::Signals;
use super::exit::{Exit, Failure};
use super::text::{self, Escape};
use crate::cli::LinkArgs;
use crate::link::run::session::Again;
use crate::link::run::stop::Stop;
use crate::link::run::{Link, check, show};
use crate::link::settings::{self, Settings};
use crate::link::trouble::{Kind, Trouble};
use progress::Progress;

/// Where named links are described.
const NAMED: &str = "/etc/mqfs/link";

/// Runs the command.
pub fn run(arguments: &LinkArgs) -> Result<(), Failure> {
    if arguments.status {
        return status::run(&arguments.link, arguments.json);
    }
    let link = settings(arguments).and_then(Link::new).map_err(failure)?;
    if arguments.check {
        return check::run(&link, &mut |line| print(line)).map_err(failure);
    }
    if let Some(count) = arguments.show {
        return show::run(&link, count, &mut |line| print_json(line)).map_err(failure);
    }
    let signals = Signals::block()
        .map_err(|error| Failure::new(Exit::Failure, format_args!("cannot take over signals: {error}")))?;
    let progress = Progress::new(&link.name, arguments.quiet);
    let again = || settings(arguments).and_then(Link::new);
    // Without a file there is nothing to read anew.
    let again: Option<Again<'_>> = (arguments.link.len() == 1).then_some(&again);
    link.run(arguments.until_empty, Stop::new(signals.fd()), again, &progress).map_err(failure)
}

/// What the file says, and then the command line.
fn settings(arguments: &LinkArgs) -> Result<Settings, Trouble> {
    let usage = |why: String| Trouble::usage(why);
    let mut settings = Settings::default();
    match &arguments.link[..] {
        [name] => {
            let path = file_of(name);
            let text = std::fs::read_to_string(&path)
                .map_err(|error| Trouble::usage(format_args!("{}: {error}", path.display())))?;
            settings.apply(&text).map_err(|why| usage(format!("{}: {why}", path.display())))?;
            if settings.name.is_none() {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                settings.name = Some(settings::name(&stem).map_err(usage)?);
            }
        }
        [from, to] => (settings.from, settings.to) = (Some(from.clone()), Some(to.clone())),
        _ => return Err(usage("write FROM and TO, or the NAME of a link".to_owned())),
    }
    for option in &arguments.options {
        settings.apply_line(option).map_err(usage)?;
    }
    Ok(settings)
}

/// A name is that of a file in [`NAMED`]; a word with a slash is a path.
fn file_of(name: &str) -> PathBuf {
    match name.contains('/') {
        true => PathBuf::from(name),
        false => Path::new(NAMED).join(format!("{name}.conf")),
    }
}

fn print(line: &str) {
    // Nobody to tell when standard output is gone.
    let _ = text::print_line(line);
}

/// Prints JSON, of one line or several, so that it stays that and does nothing to a terminal.
fn print_json(lines: &str) {
    for line in lines.lines() {
        let mut shown = String::with_capacity(line.len() + 1);
        line.chars().for_each(|c| text::push(&mut shown, c, Escape::Json));
        let _ = writeln!(text::output_for_json(), "{shown}");
    }
}

fn failure(trouble: Trouble) -> Failure {
    let exit = match trouble.kind {
        Kind::Usage => Exit::Usage,
        Kind::Queue => Exit::Queue,
        Kind::Away | Kind::Refusing | Kind::Poison | Kind::Gap => Exit::Peer,
        Kind::Local => Exit::Failure,
    };
    Failure::new(exit, trouble)
}
