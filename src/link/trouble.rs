//! Why a link cannot go on, and whose concern that is.

use std::fmt;
use std::io;

/// Whose concern it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What was asked for makes no sense.
    Usage,
    /// The queue, or its mount.
    Queue,
    /// The broker cannot be reached, or has ended the connection: it may be there again in a moment.
    Away,
    /// The broker is there and will not: login refused, no such queue, not permitted. It stays so until somebody does something.
    Refusing,
    /// A message that cannot be taken in, and nobody has said what to do with such ones.
    Poison,
    /// A log has not what follows the mark, or is another one: something would be missed, and somebody has to decide.
    Gap,
    /// Something else on this machine.
    Local,
}

/// Why a link cannot go on.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// Whose concern it is.
    pub kind: Kind,
    /// What there is to say, without secrets.
    pub text: String,
}

impl Trouble {
    /// With what there is to say.
    pub fn new(kind: Kind, text: impl fmt::Display) -> Trouble {
        Trouble { kind, text: text.to_string() }
    }

    /// The arguments make no sense.
    pub fn usage(text: impl fmt::Display) -> Trouble {
        Trouble::new(Kind::Usage, text)
    }

    /// The connection is gone, or cannot be made.
    pub fn away(text: impl fmt::Display) -> Trouble {
        Trouble::new(Kind::Away, text)
    }

    /// The broker will not.
    pub fn refusing(text: impl fmt::Display) -> Trouble {
        Trouble::new(Kind::Refusing, text)
    }

    /// A file of this machine, with its name.
    pub fn file(path: &std::path::Path, error: &io::Error) -> Trouble {
        Trouble::new(Kind::Local, format_args!("{}: {error}", path.display()))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
