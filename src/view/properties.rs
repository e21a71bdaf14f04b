//! `user.mq.properties`: all attributes of a message as one, in the words of `.mq/with`. A worker reads them by one request, and a
//! producer sets them by one, where each by itself is a request, or two.
//!
//! It is not listed, so that programs that copy attributes do not copy them twice.

use crate::error::{Error, Result};
use crate::queue::properties::PREFIX;
use crate::queue::words::{self, PROPERTIES};

use super::xattr::{MESSAGE_ATTRIBUTES, Pairs, find, own_attribute};
use super::{Node, View};

/// So many attributes are set at once: each is looked for among those that are there.
const MOST_AT_ONCE: usize = 256;

/// Sets an attribute by `set`, or all that this one stands for, each as if it were set by itself.
pub(super) fn set_each(name: &str, value: &[u8], mut set: impl FnMut(&str, &[u8]) -> Result<()>) -> Result<()> {
    if name != PROPERTIES {
        return set(name, value);
    }
    if value.iter().filter(|byte| **byte == b',').count() >= MOST_AT_ONCE {
        return Err(Error::Invalid(format!("more than {MOST_AT_ONCE} properties at once")));
    }
    words::all_attributes_of(value)?.iter().try_for_each(|(name, value)| set(name, value))
}

/// An attribute of a file that is not a message yet, or all of them.
pub(super) fn get_given(pairs: &Pairs, name: &str) -> Result<Vec<u8>> {
    match name {
        PROPERTIES if pairs.is_empty() => Err(Error::NoAttribute),
        PROPERTIES => Ok(words::render(pairs.iter().map(|(name, value)| (name.as_str(), value.as_slice())))),
        _ => find(pairs, name),
    }
}

impl View {
    /// All attributes of a message: those that mqfs sets, and those that its producer has set.
    pub(super) fn get_properties(&self, node: Node) -> Result<Vec<u8>> {
        let (seq, message, config) = self.described(node)?;
        let own = MESSAGE_ATTRIBUTES.iter().filter_map(|name| {
            let value = own_attribute(seq, &message, &config, name)?;
            Some((format!("{PREFIX}{name}"), value))
        });
        let own: Pairs = own.collect();
        // As for those by themselves, what mqfs says counts where both are there.
        let given = message.attributes.iter().filter(|(name, _)| !own.iter().any(|(known, _)| known == name));
        Ok(words::render(own.iter().chain(given).map(|(name, value)| (name.as_str(), value.as_slice()))))
    }
}
