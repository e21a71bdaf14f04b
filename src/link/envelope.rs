//! A message between the two worlds: what every system has, in one form.

/// A property that every system has somewhere, and what its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The name that the producer gave.
    Name,
    /// What the body is.
    ContentType,
    /// What this message answers or belongs to.
    CorrelationId,
    /// Where an answer is to go.
    ReplyTo,
    /// A digit.
    Priority,
    /// For how many more milliseconds it may wait, in decimal.
    Ttl,
    /// With which others it belongs together.
    Group,
    /// When it was enqueued, in milliseconds since the epoch, in decimal.
    EnqueuedAt,
    /// Of several messages with the same, one is enqueued; only where [`Envelope::id`] cannot say it.
    DedupId,
    /// Over how many links it has come, in decimal.
    Hops,
    /// `1`: it has no body, which is not the same as an empty one.
    Null,
}

/// A message on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// What tells it from others: stays the same when it is sent again. Empty when nobody has said it.
    pub id: String,
    /// The properties that it has.
    pub fields: Vec<(Field, Vec<u8>)>,
    /// What its producer has said besides, by names without `user.`.
    pub headers: Vec<(String, Vec<u8>)>,
    /// In only: where it came from, by the names that follow `user.link.`.
    pub source: Vec<(&'static str, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Envelope {
    /// A property, if it has that.
    pub fn field(&self, field: Field) -> Option<&[u8]> {
        self.fields.iter().find(|(known, _)| *known == field).map(|(_, value)| value.as_slice())
    }

    /// A header, if it has that.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }
}
