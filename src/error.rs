//! The project's one error type and its one map to errno.
//!
//! Every layer returns [`Error`]; the kernel is told [`Error::errno`]. What a command or a link, which use mounted files like any other
//! program, takes an errno for is [`Refusal`]. `ENOSYS` is never among the answers: the kernel
//! takes it as "this filesystem does not have that call" and stops sending it for the whole mount.

use std::fmt;
use std::io;

/// The result of every operation of the library.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation was refused or failed.
#[derive(Debug)]
pub enum Error {
    /// No such queue, message, draft or attribute holder; also what the losers of a race for a claim get.
    NotFound,
    /// The message is claimed by somebody else, or the queue cannot be replaced while it is in use.
    Busy,
    /// The name is taken.
    Exists,
    /// The queue still holds something.
    NotEmpty,
    /// The operation is never allowed here; the text says why and goes to the log.
    NotPermitted(&'static str),
    /// The caller lacks the right: not the owner, or not a consumer.
    AccessDenied,
    /// A configuration key or value, a property or a flag that makes no sense; the text says which.
    Invalid(String),
    /// The producer's name is longer than the filesystem can list.
    NameTooLong,
    /// The message is larger than `max_message_bytes`.
    MessageTooLarge,
    /// The disk under the store is full (or within its reserve).
    NoSpace,
    /// The disk under the store has become read-only.
    StoreReadOnly,
    /// The mount is read-only.
    MountReadOnly,
    /// The queue is full: `max_messages` or `max_bytes`.
    QueueFull,
    /// The user has as much as one user may have; the mount option that says so.
    UserLimit(&'static str),
    /// Nothing is enqueued, or nothing claimed, for the time being.
    Paused,
    /// Nothing to take, and the caller does not wait.
    WouldBlock,
    /// A signal came while the caller waited.
    Interrupted,
    /// The mount is going away while the caller waits.
    GoingAway,
    /// The message's writer was killed, or an earlier error already dropped the message.
    Aborted,
    /// No such extended attribute.
    NoAttribute,
    /// The buffer offered for an extended attribute is too small.
    Range,
    /// This kind of extended attribute or call is not supported.
    NotSupported,
    /// The path was looked up under a name that is about to mean something else; the kernel looks it up again.
    Stale,
    /// The batch has as many files as the mount allows, or more.
    BatchFull,
    /// A mark of the queue is not what the batch demands: others have moved it.
    MarkMoved,
    /// A directory where a file is needed.
    IsDirectory,
    /// A file where a directory is needed.
    NotDirectory,
    /// Source and destination are not on the same mount, or the transition crosses what one rename can do.
    CrossDevice,
    /// The process is out of file descriptors.
    TooManyOpen,
    /// A record or body is damaged; the text says which.
    Damaged(String),
    /// The operating system or the database failed.
    Io(io::Error),
}

impl Error {
    /// The same for another one whom it concerns.
    pub fn again(&self) -> Error {
        match self {
            Error::NoSpace => Error::NoSpace,
            Error::StoreReadOnly => Error::StoreReadOnly,
            Error::TooManyOpen => Error::TooManyOpen,
            Error::GoingAway => Error::GoingAway,
            Error::UserLimit(option) => Error::UserLimit(option),
            other => Error::Io(io::Error::other(other.to_string())),
        }
    }

    /// The errno that the caller sees.
    pub fn errno(&self) -> i32 {
        match self {
            Error::NotFound => libc::ENOENT,
            Error::Busy => libc::EBUSY,
            Error::Exists => libc::EEXIST,
            Error::NotEmpty => libc::ENOTEMPTY,
            Error::NotPermitted(_) => libc::EPERM,
            Error::AccessDenied => libc::EACCES,
            Error::Invalid(_) => libc::EINVAL,
            Error::NameTooLong => libc::ENAMETOOLONG,
            Error::MessageTooLarge => libc::EFBIG,
            // As in a directory that cannot grow.
            Error::NoSpace | Error::BatchFull => libc::ENOSPC,
            Error::StoreReadOnly | Error::MountReadOnly => libc::EROFS,
            Error::QueueFull | Error::UserLimit(_) => libc::EDQUOT,
            // Both pass by themselves: it is worth trying again.
            Error::Paused | Error::WouldBlock => libc::EAGAIN,
            Error::Interrupted => libc::EINTR,
            Error::GoingAway => libc::ENODEV,
            // EIO: the bytes that the caller wrote are gone, and only an I/O error says so.
            Error::Aborted | Error::Damaged(_) => libc::EIO,
            Error::NoAttribute => libc::ENODATA,
            Error::Range => libc::ERANGE,
            Error::NotSupported => libc::EOPNOTSUPP,
            Error::Stale | Error::MarkMoved => libc::ESTALE,
            Error::IsDirectory => libc::EISDIR,
            Error::NotDirectory => libc::ENOTDIR,
            Error::CrossDevice => libc::EXDEV,
            Error::TooManyOpen => libc::ENFILE,
            // What the system said is passed on only where it means the same to the caller of mqfs.
            Error::Io(error) => match error.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => libc::ENOSPC,
                _ => libc::EIO,
            },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotFound => f.write_str("no such queue or message"),
            Error::Busy => f.write_str("claimed by somebody else"),
            Error::Exists => f.write_str("name taken"),
            Error::NotEmpty => f.write_str("queue not empty"),
            Error::NotPermitted(why) => f.write_str(why),
            Error::AccessDenied => f.write_str("not the owner or not a consumer"),
            Error::Invalid(what) => f.write_str(what),
            Error::NameTooLong => f.write_str("name too long"),
            Error::MessageTooLarge => {
                f.write_str("message larger than max_message_bytes, or than a file of the store can be")
            }
            Error::NoSpace => f.write_str("no space left on the store's disk"),
            Error::StoreReadOnly => f.write_str("the store's disk is read-only"),
            Error::MountReadOnly => f.write_str("the mount is read-only"),
            Error::QueueFull => f.write_str("the queue is full"),
            Error::UserLimit(option) => write!(f, "the user has all that {option} allows"),
            Error::Paused => f.write_str("the queue is paused"),
            Error::WouldBlock => f.write_str("nothing to take now"),
            Error::Interrupted => f.write_str("interrupted while waiting"),
            Error::GoingAway => f.write_str("the mount is going away"),
            Error::Aborted => f.write_str("the message was dropped because a writer failed or was killed"),
            Error::NoAttribute => f.write_str("no such attribute"),
            Error::Range => f.write_str("buffer too small"),
            Error::NotSupported => f.write_str("not supported"),
            Error::Stale => f.write_str("the name means something else now"),
            Error::BatchFull => f.write_str("the batch has as many files as batch_files allows"),
            Error::MarkMoved => f.write_str("a mark of the queue is another"),
            Error::IsDirectory => f.write_str("is a directory"),
            Error::NotDirectory => f.write_str("not a directory"),
            Error::CrossDevice => f.write_str("not within one mount"),
            Error::TooManyOpen => f.write_str("too many open files"),
            Error::Damaged(what) => write!(f, "damaged: {what}"),
            Error::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Error::NoSpace,
            Some(libc::EROFS) => Error::StoreReadOnly,
            Some(libc::EMFILE | libc::ENFILE) => Error::TooManyOpen,
            // A write or truncation beyond what the filesystem under the store can hold: no failure of it.
            Some(libc::EFBIG) => Error::MessageTooLarge,
            _ => Error::Io(error),
        }
    }
}

/// Why a call on mounted files failed, to the program that made it: the other end of [`Error::errno`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody serves the mount any more.
    MountGone,
    /// There is no such thing.
    NotFound,
    /// The name, or a mark, is not any more what it was.
    Stale,
    /// A file where a directory is needed.
    NotDirectory,
    /// No such extended attribute.
    NoAttribute,
    /// The caller lacks the right.
    Denied,
    /// The mount or the store's disk is read-only.
    ReadOnly,
    /// The queue is full, or its user has all that one may have.
    QueueFull,
    /// Paused, or nothing to take: it passes by itself.
    NotNow,
    /// The disk under the store is full.
    NoSpace,
    /// The name is taken.
    Exists,
    /// Somebody else has it.
    Busy,
    /// The message is larger than its queue takes.
    TooLarge,
    /// A name, an attribute or a value that no queue takes.
    Unfit,
    /// The store has failed.
    Failed,
    /// Anything else.
    Other,
}

impl Refusal {
    /// That of a failed call.
    pub fn of(error: &io::Error) -> Refusal {
        error.raw_os_error().map_or(Refusal::Other, Refusal::of_errno)
    }

    /// That of an errno.
    pub fn of_errno(errno: i32) -> Refusal {
        match errno {
            libc::ENODEV | libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED => Refusal::MountGone,
            libc::ENOENT => Refusal::NotFound,
            libc::ESTALE => Refusal::Stale,
            libc::ENOTDIR => Refusal::NotDirectory,
            libc::ENODATA => Refusal::NoAttribute,
            libc::EACCES | libc::EPERM => Refusal::Denied,
            libc::EROFS => Refusal::ReadOnly,
            libc::EDQUOT => Refusal::QueueFull,
            libc::EAGAIN => Refusal::NotNow,
            libc::ENOSPC => Refusal::NoSpace,
            libc::EEXIST => Refusal::Exists,
            libc::EBUSY => Refusal::Busy,
            libc::EFBIG => Refusal::TooLarge,
            libc::EINVAL | libc::E2BIG | libc::ERANGE | libc::ENAMETOOLONG => Refusal::Unfit,
            libc::EIO => Refusal::Failed,
            _ => Refusal::Other,
        }
    }
}

/// Whether a failed call says that nobody serves the mount any more.
pub fn is_mount_gone(error: &io::Error) -> bool {
    Refusal::of(error) == Refusal::MountGone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_taken_for_what_it_is() {
        for (error, refusal) in [
            (Error::GoingAway, Refusal::MountGone),
            (Error::NotFound, Refusal::NotFound),
            (Error::MarkMoved, Refusal::Stale),
            (Error::NoAttribute, Refusal::NoAttribute),
            (Error::NotPermitted(""), Refusal::Denied),
            (Error::AccessDenied, Refusal::Denied),
            (Error::MountReadOnly, Refusal::ReadOnly),
            (Error::QueueFull, Refusal::QueueFull),
            (Error::UserLimit(""), Refusal::QueueFull),
            (Error::Paused, Refusal::NotNow),
            (Error::NoSpace, Refusal::NoSpace),
            (Error::Exists, Refusal::Exists),
            (Error::Busy, Refusal::Busy),
            (Error::MessageTooLarge, Refusal::TooLarge),
            (Error::NameTooLong, Refusal::Unfit),
            (Error::Aborted, Refusal::Failed),
        ] {
            assert_eq!(Refusal::of(&io::Error::from_raw_os_error(error.errno())), refusal, "{error}");
        }
        // The kernel's own, when nobody answers any more; the last when a process is killed that takes requests by io_uring.
        let gone = [libc::ENOTCONN, libc::ECONNABORTED, libc::ECANCELED];
        assert!(gone.map(io::Error::from_raw_os_error).iter().all(is_mount_gone));
        assert_eq!(Refusal::of(&io::Error::other("without a number")), Refusal::Other);
    }
}
