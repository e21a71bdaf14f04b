//! The command line: what can be written, not what it does.
//!
//! The definitions are clap's, so that `--help`, the man page's test and the parser cannot disagree.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::fuse::options::LogFormat;

/// A filesystem in which every directory is a message queue.
#[derive(Debug, Parser)]
#[command(
    name = "mqfs",
    version,
    propagate_version = true,
    after_help = "See mqfs(1) for options and exit codes, mqfs(7) for what the filesystem promises."
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
}

/// The arguments of `mqfs umount`.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// Where the store is mounted
    pub mountpoint: PathBuf,
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
    fn options_may_be_repeated_and_joined() {
        let cli = Cli::try_parse_from(["mqfs", "mount", "a", "b", "-o", "ro", "-oallow_other", "--options=uid=1"]);
        let Ok(Cli { command: Command::Mount(arguments) }) = cli else { panic!("{cli:?}") };
        assert_eq!(arguments.options, ["ro", "allow_other", "uid=1"]);
    }
}
