//! The lines of an export: JSON objects, each with a `type`. mqfs(1) describes them.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::queue::delivery::Delivery;
use crate::queue::worker::ProcessId;
use crate::store::record::Claim;

/// The version of the format. Version 2 has identities of deliveries, the history of deaths, times that programs set,
/// and marks.
pub const VERSION: u32 = 2;

/// Bytes, mostly text: a string, or if they are not UTF-8 `{"base64": "..."}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Plain(String),
    Encoded { base64: String },
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Form::Encoded { base64: STANDARD.encode(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Form::deserialize(deserializer)? {
            Form::Plain(text) => Ok(Text(text.into_bytes())),
            Form::Encoded { base64 } => STANDARD.decode(base64).map(Text).map_err(serde::de::Error::custom),
        }
    }
}

/// Attributes by their whole names.
pub type Attributes = BTreeMap<String, Text>;

/// A line.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Line {
    /// The first line.
    MqfsExport(Header),
    /// A queue; after the one that it is nested in.
    Queue(QueueLine),
    /// A mark of a queue; after that.
    Mark(MarkLine),
    /// A deduplication id that a queue remembers.
    DedupId(IdLine),
    /// A message; after its queue.
    Message(Box<MessageLine>),
}

/// What an export says about itself.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`VERSION`].
    pub version: u32,
}

/// A queue.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueLine {
    /// Its path from the root of the mount; empty for the root itself.
    pub path: Text,
    /// Its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Its owner; whoever imports if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its group, in the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Its permission bits, in octal.
    #[serde(default = "queue_mode")]
    pub mode: String,
    /// When it was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Its time of modification, if one was set, in nanoseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime_ns: Option<i64>,
    /// Its time of access, in the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub atime_ns: Option<i64>,
    /// Its configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
    /// Attributes that users gave it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: Attributes,
}

/// A mark.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarkLine {
    /// The path of its queue.
    pub queue: Text,
    /// Its name, as behind `user.mark.`.
    pub mark: String,
    /// Its value.
    pub value: Text,
}

/// A deduplication id.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdLine {
    /// The path of its queue.
    pub queue: Text,
    /// The id.
    pub dedup_id: Text,
    /// Until when it is remembered, RFC 3339.
    pub until: String,
    /// The number of the message that had it, as in `user.mq.id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// A message, but for its body, which is the last member of the line: `body`, in base64.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageLine {
    /// The path of its queue.
    pub queue: Text,
    /// The name that its producer gave it.
    #[serde(default)]
    pub name: Text,
    /// Its state.
    #[serde(default = "ready")]
    pub state: String,
    /// Its sequence number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Its own number, as in `user.mq.id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How often it was claimed.
    #[serde(default)]
    pub deliveries: u32,
    /// When it was enqueued, RFC 3339; now if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enqueued_at: Option<String>,
    /// When it is due, while it is delayed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
    /// When its time to live is over, if it has one, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Its owner; whoever imports if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its group, in the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Its permission bits, in octal.
    #[serde(default = "message_mode")]
    pub mode: String,
    /// Its time of modification, in nanoseconds since the epoch; that of its enqueue if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime_ns: Option<i64>,
    /// Its time of access, if one was set, in nanoseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub atime_ns: Option<i64>,
    /// Since when it is in its state, RFC 3339; since it was enqueued if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// While it is delayed: because it was delivered before.
    #[serde(default, skip_serializing_if = "is_false")]
    pub retrying: bool,
    /// Where and why it became a dead letter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deaths: Vec<DeathLine>,
    /// What a worker said when it failed.
    #[serde(default, skip_serializing_if = "Text::is_empty")]
    pub last_error: Text,
    /// The process that produced it.
    #[serde(default)]
    pub producer_pid: u32,
    /// Who has claimed it, while it is claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimLine>,
    /// Properties and headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: Attributes,
    /// The length of the body in bytes, checked if it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Empty: the body is taken out of the line before.
    #[serde(default, skip_serializing)]
    pub body: String,
}

/// A claim.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimLine {
    /// When, RFC 3339.
    pub at: String,
    /// When the lease ends, RFC 3339.
    pub deadline: String,
    /// The user.
    pub uid: u32,
    /// Which delivery it is; one that is not told gets one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<String>,
    /// The process, and when it started, in clock ticks since the boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<(u32, u64)>,
    /// Its parent, its parent's parent, its session.
    #[serde(default)]
    pub family: (u32, u32, u32),
}

/// Deaths in a queue.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeathLine {
    /// The path of the queue.
    pub queue: String,
    /// Why, in a word.
    pub reason: String,
    /// How often.
    pub count: u32,
    /// When for the first time, RFC 3339.
    pub first: String,
    /// When for the last time, RFC 3339.
    pub last: String,
    /// The message was not claimed since.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unclaimed: bool,
}

// Asked by serde, of a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

fn queue_mode() -> String {
    "0755".to_owned()
}

fn message_mode() -> String {
    "0644".to_owned()
}

fn ready() -> String {
    crate::queue::state::State::Ready.word().to_owned()
}

impl Text {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl ClaimLine {
    /// Of a claim; `time` writes an instant.
    pub fn of(claim: &Claim, time: impl Fn(u64) -> String) -> Self {
        Self {
            at: time(claim.at),
            deadline: time(claim.deadline),
            uid: claim.uid,
            delivery: Some(claim.delivery.text()),
            process: claim.process.map(|process| (process.tgid, process.start)),
            family: (claim.parent, claim.grandparent, claim.session),
        }
    }

    /// The claim; `time` reads an instant.
    pub fn claim<E>(&self, time: impl Fn(&str) -> Result<u64, E>) -> Result<Claim, E> {
        let (parent, grandparent, session) = self.family;
        let at = time(&self.at)?;
        let delivery = self.delivery.as_ref().and_then(|text| Delivery::parse(text.as_bytes()));
        Ok(Claim {
            delivery: delivery.unwrap_or(Delivery::of(at)),
            process: self.process.map(|(tgid, start)| ProcessId { tgid, start }),
            parent,
            grandparent,
            session,
            uid: self.uid,
            at,
            deadline: time(&self.deadline)?,
            reckoned: at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_encoded() {
        for (bytes, json) in [(&b"a \"b\""[..], r#""a \"b\"""#), (b"\xff", r#"{"base64":"/w=="}"#)] {
            assert_eq!(serde_json::to_string(&Text(bytes.to_vec())).unwrap(), json);
            assert_eq!(serde_json::from_str::<Text>(json).unwrap().0, bytes);
        }
        assert!(serde_json::from_str::<Text>(r#"{"base64":"?"}"#).is_err());
    }
}
