//! The nouns of the model. Nothing is decided here.

use std::collections::BTreeMap;

/// What tells a message, writer or draft from all others. It goes with a message wherever that goes.
pub type Tag = usize;

/// Messages, and the bytes of their bodies.
pub type Room = (u64, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Ready,
    Delayed,
    Claimed,
    Dead,
}

pub const STATES: [State; 4] = [State::Ready, State::Delayed, State::Claimed, State::Dead];

/// What tells for how long the oldest message of each state has been in it.
pub const AGES: [&str; 4] =
    ["oldest_ready_age_ms", "oldest_delayed_age_ms", "oldest_claimed_age_ms", "oldest_dead_age_ms"];

/// Why an operation is refused. Nothing has changed then, except that a counter may say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such message, or not in that state.
    NotFound,
    /// The queue is full.
    Full,
    /// The queue is paused, or nothing is ready.
    Again,
    /// No transition leads there.
    Foreign,
    /// The message is dropped, unless somebody writes again.
    Dropped,
    /// A mark is another.
    Moved,
}

pub type Answer<T> = Result<T, Refusal>;

/// How a worker gives a message back, or up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nack {
    /// At once.
    Now,
    /// When its queue says.
    Later,
    /// After so many milliseconds.
    In(u64),
    /// At once, and the delivery does not count.
    Uncounted,
    /// It is no use.
    Dead,
}

/// What a worker does by the path of its delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// `rm`.
    Ack,
    /// `mv` to its queue, to `.mq/delayed`, to `.mq/dead`.
    Now,
    Later,
    Dead,
    /// `touch -c`.
    Renew,
    /// Says why it failed.
    Say(Said),
}

/// What a worker says, by a number; 0 is nothing.
pub type Said = usize;

/// The text of it; of a long one the end is kept.
pub fn said(number: Said) -> String {
    if number == 0 { String::new() } else { format!("{}{number}", "why ".repeat(120 * number)) }
}

/// One of the workers that have nothing to do with each other. What is claimed otherwise is claimed by none of them.
pub type Worker = usize;

/// What a producer says of a message. Times in milliseconds; 0 says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Props {
    pub priority: u8,
    pub delay: u64,
    /// An instant.
    pub deliver_at: u64,
    pub ttl: u64,
    /// `dedup_id`.
    pub id: u8,
}

/// What a batch does to a mark of its queue. 0 is no mark, or an empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feed {
    pub mark: u8,
    pub is: u8,
    /// What it has to be.
    pub was: Option<u8>,
}

/// What is done in the step that enqueues.
#[derive(Clone, Copy, Debug, Default)]
pub struct Along {
    pub feed: Option<Feed>,
    /// The message whose delivery is acknowledged.
    pub settles: Option<Tag>,
}

/// The bytes of a body: how many, and of which tag they tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    pub of: Tag,
    pub len: usize,
}

impl Body {
    pub fn text(self) -> String {
        format!("{};", self.of).chars().cycle().take(self.len).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub tag: Tag,
    pub queue: usize,
    pub state: State,
    /// First in, first out: the smaller goes first.
    pub seq: u64,
    pub body: Body,
    pub props: Props,
    pub deliveries: u32,
    /// When it was enqueued, or due for the first time.
    pub waits_since: u64,
    /// Since when it is in its state.
    pub since: u64,
    /// While delayed: when it is ready.
    pub due: u64,
    /// While delayed: because it was delivered before.
    pub retrying: bool,
    /// When its time to live is over; 0 is never.
    pub expires: u64,
    /// While claimed: since when, and until when.
    pub claimed: u64,
    pub lease: u64,
    /// While claimed: which delivery it is, a number that no other has, and whose.
    pub delivery: u64,
    pub holder: Option<Worker>,
    /// What a worker said last.
    pub said: Said,
    /// How it died last, if it has: why, and after how many deliveries.
    pub died: Option<(&'static str, u32)>,
}

impl Message {
    pub fn size(&self) -> Room {
        (1, self.body.len as u64)
    }

    /// What will happen to it, and when. Of several at a time, leases end first, then delays, then lives.
    pub fn deadlines(&self) -> Vec<(u64, Deadline)> {
        let waits = matches!(self.state, State::Ready | State::Delayed);
        let all = [
            (self.state == State::Claimed).then_some((self.lease, Deadline::Lease)),
            (self.state == State::Delayed).then_some((self.due, Deadline::Due)),
            (waits && self.expires > 0).then_some((self.expires, Deadline::Expires)),
        ];
        all.into_iter().flatten().collect()
    }
}

/// Deaths of a message in a queue for one reason.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    pub queue: usize,
    pub reason: &'static str,
    pub count: u32,
    pub first: u64,
    pub last: u64,
    /// Nobody has claimed it since.
    pub unclaimed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deadline {
    Lease,
    Due,
    Expires,
}

/// How a process ends that has the file open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Killed,
    Failed,
    Well,
}

/// What drops a message that is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortOn {
    Killed,
    Failed,
    Unclosed,
    Never,
}

impl AbortOn {
    /// Whether a process that wrote last and ends so has not finished.
    pub fn counts(self, end: End) -> bool {
        match end {
            End::Killed => self != AbortOn::Never,
            End::Failed => matches!(self, AbortOn::Failed | AbortOn::Unclosed),
            End::Well => self == AbortOn::Unclosed,
        }
    }
}

/// A message that is being written.
#[derive(Clone, Debug)]
pub struct Writer {
    pub queue: usize,
    pub props: Props,
    pub len: usize,
    /// Its queue was limited when it was opened: its bytes are admitted as they are written.
    pub limited: bool,
    /// What its queue did about writers that end, when it was opened.
    pub abort_on: AbortOn,
    /// The process that wrote last has ended as none may: the message is dropped at the last close.
    pub unfinished: bool,
    /// What it counts for in a limited queue as long as it is not promised.
    pub reserved: Room,
    /// The place among the priorities that it was admitted for.
    pub order: u8,
    /// A close has promised all bytes so far: this is there after a crash.
    pub promised: Option<Message>,
}

/// A name that a producer gave, as its own session sees it.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    pub queue: usize,
    /// When its message left, if others made it leave.
    pub left: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub struct Draft {
    pub queue: usize,
    pub len: usize,
    pub props: Props,
}

/// The configuration of a queue; times in milliseconds, 0 is off.
#[derive(Clone, Debug)]
pub struct Config {
    pub keep: bool,
    pub abort_on: AbortOn,
    pub priorities: u8,
    pub priority_ageing: u64,
    pub visibility_timeout: u64,
    pub max_lease: u64,
    pub max_claimed: u64,
    pub max_deliveries: u32,
    pub retry_delay: u64,
    pub exponential: bool,
    /// The queue that gets the dead letters.
    pub dead_letter: Option<usize>,
    pub message_ttl: u64,
    pub drop_expired: bool,
    pub max_messages: u64,
    pub max_bytes: u64,
    pub drop_oldest: bool,
    pub dedup_window: u64,
    pub paused_in: bool,
    pub paused_out: bool,
}

pub struct Queue {
    pub config: Config,
    /// The counters that only grow.
    pub totals: BTreeMap<&'static str, u64>,
    /// Until when ids are remembered.
    pub ids: BTreeMap<u8, u64>,
    /// Those that are not 0.
    pub marks: BTreeMap<u8, u8>,
}

/// Where a rename leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Queue(usize),
    Claimed,
    Delayed,
    Dead,
}
