//! How the program ends: an exit code for each kind of failure, and one line on standard error.

use std::fmt;

use super::text::printable;

/// The exit codes. Scripts depend on them: a number keeps its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It worked. For `mqfs mount`: the mount answers; in the foreground: it was unmounted or asked to end.
    Success = 0,
    /// Something that has no code of its own; the line says what. For `mqfs consume`, which told of each: a message failed, or
    /// was given up.
    Failure = 1,
    /// A wrong argument, an unknown mount option, or a value that an option or configuration key does not take.
    Usage = 2,
    /// Another process has the store open.
    StoreInUse = 3,
    /// The store cannot be opened: of a newer format, damaged, not a store, or not readable and writable.
    StoreUnusable = 4,
    /// The mount point is missing, not a directory, not empty, already taken, or (umount) not an mqfs mount.
    MountPoint = 5,
    /// There is no FUSE here, or the user may not mount or unmount.
    NotPermitted = 6,
    /// `mqfs umount` asked the serving process to end, and it had not after 15 seconds.
    StillRunning = 7,
    /// A signal before the mount worked, or a second one while it was ending: it left at once, without waiting.
    Interrupted = 8,
    /// The queue is not there, is gone with its mount, or the user may not do this with it.
    Queue = 9,
    /// Not for the time being: the queue is full or paused, a disk is full, or another backup is being made.
    Refused = 10,
    /// The command that was to be run is not there, or cannot be run.
    Command = 11,
    /// The directory that is to be made is there already and not empty, or cannot be made.
    Destination = 12,
    /// It is done, but something had to be left out, or was damaged before; each was told.
    Incomplete = 13,
    /// `mqfs check` found damage, and has not repaired it, or not all of it.
    Damaged = 14,
    /// `mqfs check --repair` found damage, and has repaired it.
    Repaired = 15,
    /// `mqfs link`: the broker cannot be reached, will not let the link in or has not what it names, or a message cannot be taken.
    Peer = 16,
}

impl Exit {
    /// Every code, for the tests of the manual.
    pub const ALL: [Exit; 17] = [
        Exit::Success,
        Exit::Failure,
        Exit::Usage,
        Exit::StoreInUse,
        Exit::StoreUnusable,
        Exit::MountPoint,
        Exit::NotPermitted,
        Exit::StillRunning,
        Exit::Interrupted,
        Exit::Queue,
        Exit::Refused,
        Exit::Command,
        Exit::Destination,
        Exit::Incomplete,
        Exit::Damaged,
        Exit::Repaired,
        Exit::Peer,
    ];

    /// The number that the caller's `$?` shows.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The code with this number; an unknown number is [`Exit::Failure`].
    pub fn from_code(code: u8) -> Exit {
        Exit::ALL.into_iter().find(|exit| exit.code() == code).unwrap_or(Exit::Failure)
    }
}

/// A command that failed: the exit code, and the one line that says why.
#[derive(Debug)]
pub struct Failure {
    /// What the process exits with.
    pub exit: Exit,
    line: String,
}

impl Failure {
    /// Line breaks in `reason` (from paths, or from other programs' messages) are made blanks: it stays one line, and does
    /// nothing to a terminal. The number that the standard library appends to the system's words is left out.
    pub fn new(exit: Exit, reason: impl fmt::Display) -> Failure {
        let text = reason.to_string();
        let line = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
        Failure { exit, line: printable(without_os_error(&line)) }
    }

    /// A failure of which all has been told, or nothing is to be told.
    pub fn told(exit: Exit) -> Failure {
        Failure { exit, line: String::new() }
    }

    /// The reason, without a line break; empty when all has been told.
    pub fn line(&self) -> &str {
        &self.line
    }
}

/// `No such file or directory (os error 2)`, without what is in the brackets.
fn without_os_error(line: &str) -> &str {
    match line.rsplit_once(" (os error ") {
        Some((words, number)) if number.trim_end_matches(')').bytes().all(|byte| byte.is_ascii_digit()) => words,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_and_its_number_agree() {
        for exit in Exit::ALL {
            assert_eq!(Exit::from_code(exit.code()), exit);
        }
        assert_eq!(Exit::from_code(99), Exit::Failure);
    }

    #[test]
    fn a_failure_is_one_line() {
        assert_eq!(Failure::new(Exit::Failure, "a\nb\n").line(), "a b");
        assert_eq!(Failure::new(Exit::Failure, "a\u{1b}[2J\u{202e}b").line(), "a\\u{1b}[2J\\u{202e}b");
    }

    #[test]
    fn a_failure_names_no_error_numbers() {
        let error = std::io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(Failure::new(Exit::Failure, format_args!("x: {error}")).line(), "x: No such file or directory");
        assert_eq!(Failure::new(Exit::Failure, "x (os error y)").line(), "x (os error y)");
    }
}
