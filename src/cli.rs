//! The command line: what can be written, not what it does.
//!
//! The definitions are clap's, so that `--help`, the man page's test and the parser cannot disagree.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::fuse::options::LogFormat;
use crate::queue::duration;

/// A filesystem in which every directory is a message queue.
#[derive(Debug, Parser)]
#[command(
    name = "mqfs",
    version,
    propagate_version = true,
    after_help = "See mqfs(1) for options and exit codes, mqfs(5) for configuration and attributes, mqfs(7) for what is promised."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a store
    ///
    /// Returns when the mount works, and leaves a process in the background that serves it.
    Mount(MountArgs),
    /// Unmount: ask the serving process to finish, and wait until it has
    Umount(UmountArgs),
    /// Run a command for each message of a queue
    ///
    /// Claims the next message, runs the command with the message as its standard input, acknowledges it when the command
    /// succeeds and gives it back for later when it fails; again and again, until it is asked to end.
    Consume(ConsumeArgs),
    /// Bind a queue to a broker
    ///
    /// One of FROM and TO is a queue's directory, the other a URL such as amqp://host?queue=orders or kafka://host/orders; the order is the direction.
    #[cfg(feature = "link")]
    Link(LinkArgs),
    /// Show the queues of a mount and what is in them
    Ls(LsArgs),
    /// Show which messages are claimed, by whom, since when and until when
    Claims(ClaimsArgs),
    /// Enqueue files, standard input, or what a command prints
    Put(PutArgs),
    /// Make a backup of a mounted store while it is in use
    ///
    /// The backup is of one moment, with every queue, message and draft. On the filesystem of the store it shares the bytes
    /// with it, so it takes hardly any time and space.
    Backup(BackupArgs),
    /// Make a store of a backup
    Restore(RestoreArgs),
    /// Write queues and messages, with all that is known of them, to standard output, as lines of JSON
    Export(ExportArgs),
    /// Put what `mqfs export` has written, from standard input, into a store that is not mounted
    Import(ImportArgs),
    /// Look for damage in a store that is not mounted, and repair it
    Check(CheckArgs),
}

/// The arguments of `mqfs mount`, and of `mqfs STORE MOUNTPOINT -o OPTIONS` as mount(8) calls it.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// The directory that holds the messages; made when it is missing
    pub store: PathBuf,
    /// An empty directory
    pub mountpoint: PathBuf,
    /// Mount options, and KEY=VALUE defaults for new queues, separated by commas; may be repeated
    #[arg(short = 'o', long = "options", value_name = "OPTIONS")]
    pub options: Vec<OsString>,
    /// Stay in the foreground and log to standard error
    #[arg(short, long)]
    pub foreground: bool,
    /// How log lines look: text (the default) or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Append log lines to this file
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Use a store or backup that belongs to neither root nor you
    #[arg(long)]
    pub trust_owner: bool,
}

/// The arguments of `mqfs umount`.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// Where the store is mounted
    pub mountpoint: PathBuf,
    /// Kill a serving process that does not end, or does not answer, within 15 s, and take the mount off
    #[arg(short, long)]
    pub force: bool,
}

/// The arguments of `mqfs consume`.
#[derive(Debug, Args)]
pub struct ConsumeArgs {
    /// Queues' directories; QUEUE=N has N messages taken from it for each one from a queue without a number
    #[arg(required = true, value_name = "QUEUE")]
    pub queues: Vec<OsString>,
    /// Run so many commands at a time
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub jobs: u32,
    /// End when nothing is ready and no command runs
    #[arg(long)]
    pub until_empty: bool,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_messages: Option<u64>,
    /// End a command that runs longer; that is a failure
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    pub timeout: Option<Duration>,
    /// How long a command that was told to end may take before it is killed
    #[arg(long, value_name = "DURATION", default_value = "8s", value_parser = any_duration)]
    pub grace: Duration,
    /// With this exit code a command says that trying again is no use: the message becomes a dead letter at once; may be
    /// repeated
    #[arg(long, value_name = "CODE", value_parser = clap::value_parser!(u8).range(1..))]
    pub dead_letter_exit: Vec<u8>,
    /// With this exit code a command says when to try again; may be repeated
    #[arg(long, value_name = "CODE=DURATION", value_parser = retry_exit)]
    pub retry_exit: Vec<(u8, Duration)>,
    /// When the mount goes away, wait so long for it to come back
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = any_duration)]
    pub mount_wait: Duration,
    /// Show no progress and tell of no failures
    #[arg(short, long)]
    pub quiet: bool,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// The arguments of `mqfs link`.
#[cfg(feature = "link")]
#[derive(Debug, Args)]
pub struct LinkArgs {
    /// FROM and TO; or NAME, for /etc/mqfs/link/NAME.conf; with --status, the names of links
    #[arg(value_name = "FROM TO | NAME")]
    pub link: Vec<String>,
    /// What a file could say as well; may be repeated
    #[arg(short = 'o', long = "option", value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    /// Connect, log in, look, and say what is promised; send, claim and acknowledge nothing
    #[arg(long, conflicts_with_all = ["show", "status", "until_empty"])]
    pub check: bool,
    /// Show what the first N messages would become; send, claim and acknowledge nothing
    #[arg(long, value_name = "N", conflicts_with_all = ["status", "until_empty"])]
    pub show: Option<usize>,
    /// Show what the links of this machine do; the exit code is 1 when one is failing
    #[arg(long, conflicts_with = "until_empty")]
    pub status: bool,
    /// With --status: print an array of objects
    #[arg(long, requires = "status")]
    pub json: bool,
    /// End when there is nothing left to take, and when the broker cannot be reached
    #[arg(long)]
    pub until_empty: bool,
    /// Tell of nothing but what ends the link
    #[arg(short, long)]
    pub quiet: bool,
}

/// The arguments of `mqfs ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Mount points, or queues, shown with those in them; without any, every mqfs mount that is to be seen
    pub paths: Vec<PathBuf>,
    /// Measure for this long how many messages come and go each second
    #[arg(short, long, value_name = "DURATION", value_parser = interval)]
    pub interval: Option<Duration>,
    /// Print an array of objects
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `mqfs claims`.
#[derive(Debug, Args)]
pub struct ClaimsArgs {
    /// A queue, or a mount point, with the queues in it; without it, every mqfs mount that is to be seen
    pub queue: Option<PathBuf>,
    /// Print an array of objects
    #[arg(long)]
    pub json: bool,
}

/// A duration of more than nothing.
fn interval(text: &str) -> Result<Duration, String> {
    match duration::parse(text) {
        Ok(Duration::ZERO) => Err("it must be more than 0".to_owned()),
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

fn any_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

/// An exit code and a duration.
fn retry_exit(text: &str) -> Result<(u8, Duration), String> {
    let (code, delay) = text.split_once('=').ok_or("write CODE=DURATION, such as 75=10m")?;
    match code.parse() {
        Ok(0) | Err(_) => Err(format!("`{code}` is not an exit code of a failure, from 1 to 255")),
        Ok(code) => Ok((code, any_duration(delay)?)),
    }
}

/// The arguments of `mqfs put`.
#[derive(Debug, Args)]
pub struct PutArgs {
    /// A queue's directory
    pub queue: PathBuf,
    /// The files, one message each; - is standard input, as is none
    #[arg(id = "file")]
    pub files: Vec<PathBuf>,
    /// A command and its arguments: what it prints is the message, enqueued only if it exits with 0
    #[arg(last = true, conflicts_with = "file")]
    pub command: Vec<OsString>,
    /// Enqueue all of the files or none
    #[arg(short, long)]
    pub batch: bool,
    /// The message's name; that of the file or command otherwise
    #[arg(short, long, value_name = "NAME")]
    pub name: Option<OsString>,
    /// A property of each message, such as priority=9, delay=30s or header.customer=7; may be repeated
    #[arg(short = 'o', long = "property", value_name = "KEY=VALUE")]
    pub properties: Vec<OsString>,
    /// Print the name of each message once it is enqueued
    #[arg(short, long)]
    pub verbose: bool,
}

/// The arguments of `mqfs backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Where the store is mounted
    pub mountpoint: PathBuf,
    /// The directory to be made; it may be there if it is empty
    pub directory: PathBuf,
    /// Do not tell what is in it
    #[arg(short, long)]
    pub quiet: bool,
    /// Use a store or backup that belongs to neither root nor you
    #[arg(long)]
    pub trust_owner: bool,
}

/// The arguments of `mqfs restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// What `mqfs backup` has made; it stays as it is
    pub directory: PathBuf,
    /// The store to be made; the directory may be there if it is empty
    pub store: PathBuf,
    /// Share with the backup, on the same filesystem, the files that are never changed
    #[arg(long)]
    pub link: bool,
    /// Use a store or backup that belongs to neither root nor you
    #[arg(long)]
    pub trust_owner: bool,
}

/// The arguments of `mqfs export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A mount point, a store that is not mounted, or a backup
    pub source: PathBuf,
    /// Queues, by their paths from the root of the mount, with those nested in them; without any, all of them
    pub queues: Vec<OsString>,
    /// Use a store or backup that belongs to neither root nor you
    #[arg(long)]
    pub trust_owner: bool,
}

/// The arguments of `mqfs import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The store; made when it is missing
    pub store: PathBuf,
    /// Do not tell how much was imported
    #[arg(short, long)]
    pub quiet: bool,
    /// Use a store or backup that belongs to neither root nor you
    #[arg(long)]
    pub trust_owner: bool,
}

/// The arguments of `mqfs check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The directory that holds the messages, or a backup
    pub store: PathBuf,
    /// Repair what can be repaired, and say what was done
    #[arg(long)]
    pub repair: bool,
    /// Use a store or backup that belongs to neither root nor you
    #[arg(long)]
    pub trust_owner: bool,
}

/// Puts the verb `mount` before the arguments when they are what mount(8)'s helper passes: `STORE MOUNTPOINT -o OPTIONS`.
///
/// The helper always passes `-o`. Without it, and without a slash, the first word is more likely a verb mistyped than a
/// store, and creating a store of that name would be a poor answer.
pub fn with_verb(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let Some(first) = arguments.get(1) else {
        return arguments;
    };
    if first.as_bytes().starts_with(b"-") || is_verb(first) {
        return arguments;
    }
    let has_options = arguments[2..].iter().any(|argument| argument.as_bytes().starts_with(b"-o"));
    if has_options || first.as_bytes().contains(&b'/') {
        arguments.insert(1, "mount".into());
    }
    arguments
}

/// Puts `--` before the command of `mqfs consume QUEUE COMMAND...` when it is not there: the second word that is no option
/// begins the command.
pub fn with_dashes(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if arguments.get(1).is_none_or(|verb| verb != "consume") || arguments.iter().any(|word| word == "--") {
        return arguments;
    }
    let cli = Cli::command();
    let Some(consume) = cli.find_subcommand("consume") else { return arguments };
    let (mut at, mut words) = (2, 0);
    while let Some(argument) = arguments.get(at) {
        let argument = argument.as_bytes();
        if argument.len() < 2 || argument[0] != b'-' {
            words += 1;
            if words == 2 {
                arguments.insert(at, "--".into());
                return arguments;
            }
        } else if takes_the_next(consume, argument) {
            at += 1;
        }
        at += 1;
    }
    arguments
}

/// Whether the value of an option is the next argument.
fn takes_the_next(command: &clap::Command, option: &[u8]) -> bool {
    let has_value = |found: Option<&clap::Arg>| found.is_some_and(|found| found.get_action().takes_values());
    if let Some(long) = option.strip_prefix(b"--") {
        return has_value(
            command.get_arguments().find(|known| known.get_long().is_some_and(|name| name.as_bytes() == long)),
        );
    }
    let short =
        |letter: u8| has_value(command.get_arguments().find(|known| known.get_short() == Some(char::from(letter))));
    // What follows the letter of an option with a value is the value.
    option[1..].iter().position(|letter| short(*letter)).is_some_and(|at| at + 2 == option.len())
}

fn is_verb(word: &OsStr) -> bool {
    word == "help" || Cli::command().get_subcommands().any(|verb| word == verb.get_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_verb_of(line: &str) -> String {
        let words = with_verb(line.split(' ').map(OsString::from));
        words.join(OsStr::new(" ")).into_string().unwrap_or_default()
    }

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_form_of_the_mount_helper_is_a_mount() {
        assert_eq!(with_verb_of("mqfs store /mnt -o rw,dev"), "mqfs mount store /mnt -o rw,dev");
        assert_eq!(with_verb_of("mqfs store /mnt -orw"), "mqfs mount store /mnt -orw");
        assert_eq!(with_verb_of("mqfs /var/store /mnt"), "mqfs mount /var/store /mnt");
    }

    #[test]
    fn verbs_flags_and_mistyped_verbs_stay() {
        for line in [
            "mqfs",
            "mqfs mount a b -o ro",
            "mqfs umount /mnt",
            "mqfs help mount",
            "mqfs --version",
            "mqfs umonut /mnt",
        ] {
            assert_eq!(with_verb_of(line), line);
        }
    }

    #[test]
    fn the_command_of_a_worker_needs_no_dashes() {
        let with = |line: &str| {
            let words = with_dashes(line.split(' ').map(OsString::from).collect());
            words.join(OsStr::new(" ")).into_string().unwrap_or_default()
        };
        for (line, expected) in [
            ("mqfs consume q wc -c", "mqfs consume q -- wc -c"),
            ("mqfs consume -j 4 q --timeout 1m wc -j 5", "mqfs consume -j 4 q --timeout 1m -- wc -j 5"),
            ("mqfs consume -qj4 --grace=1s q wc", "mqfs consume -qj4 --grace=1s q -- wc"),
            ("mqfs consume -qj 4 q --until-empty wc", "mqfs consume -qj 4 q --until-empty -- wc"),
            ("mqfs consume a b -- wc", "mqfs consume a b -- wc"),
            ("mqfs consume q", "mqfs consume q"),
            ("mqfs put q x y", "mqfs put q x y"),
        ] {
            assert_eq!(with(line), expected);
        }
    }

    #[test]
    fn options_may_be_repeated_and_joined() {
        let cli = Cli::try_parse_from(["mqfs", "mount", "a", "b", "-o", "ro", "-oallow_other", "--options=uid=1"]);
        let Ok(Cli { command: Command::Mount(arguments) }) = cli else { panic!("{cli:?}") };
        assert_eq!(arguments.options, ["ro", "allow_other", "uid=1"]);
    }
}
