//! The project's one error type and its one map to errno.
//!
//! Every layer returns [`Error`]; the kernel is told [`Error::errno`]. `ENOSYS` is never among the answers: the kernel
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
            Error::NoSpace => libc::ENOSPC,
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
