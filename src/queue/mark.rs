//! Marks: values of a queue that whoever feeds it sets in the very step that enqueues what they stand for, such as the position
//! in the source up to which it has been read; and settlements, the deliveries that publishing acknowledges in the same step.

use super::delivery::Delivery;
use super::name::{Name, classify};
use crate::error::{Error, Result};

/// Before the name of a mark: an attribute of a queue, or of a batch, which makes it the queue's.
pub const MARK: &str = "user.mark.";
/// Before the name of a mark: an attribute of a batch, which is enqueued only if that is the queue's mark.
pub const MARK_WAS: &str = "user.mark-was.";
/// An attribute of a draft or a batch: the path of the delivery that publishing it acknowledges.
pub const SETTLES: &str = "user.mq.settles";

/// No mark is longer, in bytes: no attribute is on Linux (`XATTR_SIZE_MAX`).
pub const LONGEST_MARK: usize = 64 * 1024;
/// A queue has at most so many marks, and a batch so many marks and conditions each.
pub const MARKS: usize = 64;

/// Where the path of a delivery is, below its queue.
const CLAIMED: &[u8] = b".mq/claimed";

/// What an attribute says of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// What it is, or is to be.
    Is,
    /// What it has to be when the batch is enqueued.
    Was,
}

/// The mark of which an attribute tells, if it is that of one, and what it says of it.
pub fn mark_of(attribute: &str) -> Option<(Says, &str)> {
    let is = attribute.strip_prefix(MARK).map(|name| (Says::Is, name));
    is.or_else(|| attribute.strip_prefix(MARK_WAS).map(|name| (Says::Was, name)))
}

/// The attribute that says that of the mark of a name.
pub fn attribute_of(says: Says, name: &str) -> String {
    let prefix = match says {
        Says::Is => MARK,
        Says::Was => MARK_WAS,
    };
    format!("{prefix}{name}")
}

/// Refuses what is no mark.
pub fn check_mark(name: &str, value: &[u8]) -> Result<()> {
    if name.is_empty() || name.contains('\0') {
        return Err(Error::Invalid("a mark has a name, behind `user.mark.`".into()));
    }
    if value.len() > LONGEST_MARK {
        return Err(Error::Invalid(format!("mark {name}: longer than {LONGEST_MARK} bytes")));
    }
    Ok(())
}

/// A delivery that is acknowledged together with what is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settles {
    /// The sequence number of its message.
    pub seq: u64,
    /// Which delivery of it.
    pub delivery: Delivery,
}

impl Settles {
    /// The delivery of a path as `.mq/claim` answers it, with whatever is before that, and the name that it says its message has.
    pub fn parse(path: &[u8]) -> Result<(Self, Option<&[u8]>)> {
        let path = path.strip_suffix(b"\n").unwrap_or(path);
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let (directory, name) = slash.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
        let claimed = directory.strip_suffix(CLAIMED).is_some_and(|above| above.is_empty() || above.ends_with(b"/"));
        match classify(name) {
            Name::Sequence { seq, delivery: Some(delivery), name } if claimed => Ok((Self { seq, delivery }, name)),
            _ => Err(Error::Invalid("settles: write the path of a delivery, as `.mq/claim` answers it".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_marks_are_told_apart() {
        assert_eq!(mark_of("user.mark.a.b"), Some((Says::Is, "a.b")));
        assert_eq!(mark_of("user.mark-was.a"), Some((Says::Was, "a")));
        for other in ["user.mark", "user.marks.a", "user.mq.mark", "user.mark-wa.a"] {
            assert_eq!(mark_of(other), None, "{other}");
        }
        for says in [Says::Is, Says::Was] {
            assert_eq!(mark_of(&attribute_of(says, "x")), Some((says, "x")));
        }
        assert!(check_mark("a", &[0; LONGEST_MARK]).is_ok());
        assert!(check_mark("a", &[0; LONGEST_MARK + 1]).is_err() && check_mark("", b"").is_err());
    }

    #[test]
    fn a_delivery_is_named_by_its_path() {
        let settles = Settles { seq: 42, delivery: Delivery::of(33) };
        for (path, name) in [
            (&b".mq/claimed/0000000000000042.0000000011-a-b"[..], Some(&b"a-b"[..])),
            (b".mq/claimed/0000000000000042.0000000011", None),
            (b".mq/claimed/30000000000000042.0000000011-a\n", Some(b"a")),
            (b"/srv/mq/in/.mq/claimed/0000000000000042.0000000011", None),
        ] {
            assert_eq!(Settles::parse(path).unwrap(), (settles, name));
        }
        for path in [
            &b""[..],
            b"0000000000000042.0000000011",
            b".mq/claimed/0000000000000042-a",
            b".mq/claimed/a",
            b".mq/dead/0000000000000042.0000000011",
            b"x.mq/claimed/0000000000000042.0000000011",
            b".mq/claimed/0000000000000042.0000000011/a",
        ] {
            assert!(Settles::parse(path).is_err(), "{}", String::from_utf8_lossy(path));
        }
    }
}
