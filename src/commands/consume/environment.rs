//! What a message tells about itself, as variables of a command's environment.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::io::Errno;

use crate::view::xattr::{MESSAGE_ATTRIBUTES, PREFIX, properties};

/// What all variables begin with.
const VARIABLE: &str = "MQFS_";
/// What those of headers begin with.
const HEADER: &str = "MQFS_HEADER_";
/// What prefix headers have.
const USER: &[u8] = b"user.";
/// Attributes that say nothing to the one who holds the claim; the delivery is in the path.
const LEFT_OUT: [&str; 6] = ["state", "claimed_by", "claimed_at", "deadline", "delivery", "settled"];

/// A variable.
pub type Variable = (OsString, OsString);

/// Whether a variable is one of those that are set for each message: what is inherited is not passed on.
pub fn is_ours(variable: &OsStr) -> bool {
    let Some(name) = variable.to_str() else { return false };
    let own = |attribute: &str| variable_of(attribute) == name;
    name.starts_with(HEADER)
        || MESSAGE_ATTRIBUTES.iter().copied().chain(properties()).any(own)
        || ["path", "queue"].into_iter().any(own)
}

/// The variables of an open message: its properties as `MQFS_PRIORITY`, its headers as `MQFS_HEADER_X`.
pub fn of(message: impl AsFd) -> Result<Vec<Variable>, Errno> {
    let mut list = Vec::new();
    sized(&mut list, |buffer| rustix::fs::flistxattr(&message, buffer))?;
    let mut variables = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let Some(variable) = variable(name) else { continue };
        let mut value = Vec::new();
        match sized(&mut value, |buffer| rustix::fs::fgetxattr(&message, name, buffer)) {
            Err(Errno::NODATA) => continue, // over since it was listed
            read => read?,
        }
        // No variable can hold it.
        if !value.contains(&0) {
            variables.push((variable, OsString::from_vec(value)));
        }
    }
    Ok(variables)
}

/// The variable of an attribute, if it gets one.
fn variable(attribute: &[u8]) -> Option<OsString> {
    if let Some(own) = attribute.strip_prefix(PREFIX.as_bytes()) {
        let own = std::str::from_utf8(own).ok().filter(|own| !LEFT_OUT.contains(own))?;
        return Some(variable_of(own).into());
    }
    let header = attribute.strip_prefix(USER)?;
    let letter = |byte: &u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_uppercase() } else { b'_' };
    let letters: Vec<u8> = header.iter().map(letter).collect();
    Some([OsStr::new(HEADER), OsStr::from_bytes(&letters)].into_iter().collect())
}

fn variable_of(attribute: &str) -> String {
    VARIABLE.to_owned() + &attribute.to_ascii_uppercase()
}

/// Reads what may be of any length up to that of all attributes of a message.
fn sized(into: &mut Vec<u8>, read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<(), Errno> {
    for size in [1024, 64 * 1024] {
        into.resize(size, 0);
        match read(into) {
            Err(Errno::RANGE) => {}
            read => {
                into.truncate(read?);
                return Ok(());
            }
        }
    }
    Err(Errno::RANGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_have_variables() {
        let shown = |name: &str| variable(name.as_bytes()).map(|variable| variable.into_string().unwrap());
        assert_eq!(shown("user.mq.enqueued_at").as_deref(), Some("MQFS_ENQUEUED_AT"));
        assert_eq!(shown("user.mq.priority").as_deref(), Some("MQFS_PRIORITY"));
        assert_eq!(shown("user.color").as_deref(), Some("MQFS_HEADER_COLOR"));
        assert_eq!(shown("user.x-request.ID ü").as_deref(), Some("MQFS_HEADER_X_REQUEST_ID___"));
        assert_eq!(shown("user.mq.claimed_by"), None);
        assert_eq!(shown("security.selinux"), None);
    }

    #[test]
    fn what_is_set_is_not_inherited() {
        for ours in ["MQFS_ID", "MQFS_PATH", "MQFS_QUEUE", "MQFS_PRIORITY", "MQFS_HEADER_X", "MQFS_DEAD_REASON"] {
            assert!(is_ours(OsStr::new(ours)), "{ours}");
        }
        for other in ["MQFS_STORE", "PATH", "MQFS", "MQFS_IDENTITY"] {
            assert!(!is_ours(OsStr::new(other)), "{other}");
        }
    }
}
