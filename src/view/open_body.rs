//! The bytes of a message that somebody has open, and what they take of the memory that there is for all.

use std::ops::Deref;
use std::sync::Arc;

use crate::error::Result;
use crate::store::record::{BodyPlace, MessageRecord};
use crate::store::{Body, INLINE_MAX, Store};

use super::held::{Budget, Held};

/// What an open file takes besides the bytes of a small body: its entries in tables here and in the system.
const FILE: usize = 1024;

/// Memory that a user was given for an open message: to be had before the message is claimed.
pub struct Room(Held);

/// The body of an open message.
pub struct OpenBody {
    body: Body,
    /// For its drop.
    _held: Room,
}

impl Room {
    /// For a message; [`crate::error::Error::TooManyOpen`] when the user, or all of them, hold too much.
    pub fn of(budget: &Arc<Budget>, uid: u32, message: &MessageRecord) -> Result<Self> {
        budget.hold(uid, bytes(message)).map(Self)
    }

    /// For any message: what is too much is given back when it is opened.
    pub fn of_any(budget: &Arc<Budget>, uid: u32) -> Result<Self> {
        budget.hold(uid, FILE + INLINE_MAX).map(Self)
    }

    /// Opens the message.
    pub fn open(mut self, store: &Store, message: &MessageRecord) -> Result<OpenBody> {
        self.0.resize(bytes(message))?;
        Ok(OpenBody { body: store.body(message)?, _held: self })
    }

    /// Bytes of this side's own in place of a message's, a few.
    pub fn hold(mut self, bytes: Vec<u8>) -> Result<OpenBody> {
        self.0.resize(FILE + bytes.len())?;
        Ok(OpenBody { body: Body::Inline(bytes), _held: self })
    }
}

impl Deref for OpenBody {
    type Target = Body;

    fn deref(&self) -> &Body {
        &self.body
    }
}

/// What an open message keeps in memory. The bytes of a large one, and its checksums, are read as they are asked for.
fn bytes(message: &MessageRecord) -> usize {
    match message.body {
        BodyPlace::Inline(_) | BodyPlace::Draft(_) => FILE + usize::try_from(message.size).unwrap_or(INLINE_MAX),
        BodyPlace::Empty | BodyPlace::File(_) => FILE,
    }
}
