//! What tells of all queues: put together by a thread of its own, at most once a second for all who are told the same.
//!
//! With many queues that takes a while, and monitoring asks again and again: `stat`, for the length, then `open`. All within a
//! second get one text, and what `stat` shows is the length of the text that an open by then gives. Of a file that the asking
//! process has open, `stat` shows the length of what is read there, so that whoever copies by length (rsync, web servers) copies
//! all of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::background::Alarm;
use crate::error::Result;
use crate::queue::access::Owner;
use crate::store::ROOT;

use super::access::{Caller, READ};
use super::handles::Text;
use super::offload::Offload;
use super::{Attributes, Node, View, process};

/// A text is told so long to whoever asks.
const FRESH: Duration = Duration::from_secs(1);
/// So many texts are remembered; each of them counts as held by the user who asked for it first.
const REMEMBERED: usize = 8;

/// Who is told: those of one user with the same groups are told the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Audience {
    /// That of a caller, whose request is being served: so its process is there.
    pub fn of(caller: &Caller) -> Self {
        match caller.uid {
            0 => Self { uid: 0, gid: 0, groups: Vec::new() }, // whom nothing is refused
            uid => Self { uid, gid: caller.gid, groups: process::groups(caller.pid) },
        }
    }

    /// They have all the rights in `want`.
    pub fn allows(&self, owner: &Owner, want: u32) -> bool {
        owner.allows_user(self.uid, self.gid, want, || self.groups.clone())
    }
}

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// The metrics, as these may know them.
    Metrics(Audience),
    /// The statistics of the mount, which are the same for everybody.
    Stats,
}

impl Subject {
    fn of(node: Node, caller: &Caller) -> Option<Self> {
        match node {
            Node::Metrics => Some(Self::Metrics(Audience::of(caller))),
            Node::Stats(ROOT) => Some(Self::Stats),
            _ => None,
        }
    }
}

struct Told {
    subject: Subject,
    text: Arc<Text>,
    at: Instant,
}

/// The thread, and what it has put together lately.
///
/// The lock is held for a look only, never while a text is made. One thread makes them, so nothing is made twice.
pub struct Telling {
    thread: Offload,
    told: Mutex<Vec<Told>>,
}

impl Telling {
    /// Starts the thread, whose end by a panic raises the alarm.
    pub fn start(alarm: &Alarm) -> std::io::Result<Self> {
        Ok(Self { thread: Offload::start(alarm, "mqfs-telling", 1)?, told: Mutex::default() })
    }

    /// Ends the thread, when it has done what waits.
    pub fn stop(&self) {
        self.thread.stop();
        self.told.lock().clear();
    }

    fn fresh(&self, subject: &Subject) -> Option<Arc<Text>> {
        let mut told = self.told.lock();
        told.retain(|told| told.at.elapsed() < FRESH);
        told.iter().find(|told| told.subject == *subject).map(|told| told.text.clone())
    }

    fn remember(&self, subject: Subject, text: &Arc<Text>) {
        let mut told = self.told.lock();
        told.retain(|told| told.subject != subject);
        told.truncate(REMEMBERED - 1);
        told.insert(0, Told { subject, text: text.clone(), at: Instant::now() });
    }
}

impl View {
    /// The text of what tells of all queues, not older than a second. Takes long, unless [`View::told`] has it.
    pub(super) fn tell(&self, caller: &Caller, subject: Subject) -> Result<Arc<Text>> {
        if let Some(text) = self.telling.fresh(&subject) {
            return Ok(text);
        }
        let text = match &subject {
            Subject::Metrics(audience) => self.metrics(audience)?,
            Subject::Stats => self.status_text(Node::Stats(ROOT))?,
        };
        let text = self.handles.text(caller, text)?;
        self.telling.remember(subject, &text);
        Ok(text)
    }

    /// Calls `act` at once, or, when that is to tell of all queues and nobody was told lately, on the thread that does. The
    /// statistics of the mount are put together anew for each who opens them: scripts look at them after each step.
    pub(super) fn when_told(
        self: &Arc<Self>,
        caller: &Caller,
        node: Node,
        anew: bool,
        act: impl FnOnce(&Arc<Self>, Option<Subject>) + Send + 'static,
    ) {
        let subject = Subject::of(node, caller);
        let slow = match &subject {
            Some(Subject::Stats) if anew => true,
            Some(subject) => self.telling.fresh(subject).is_none(),
            None => false,
        };
        if !slow {
            return act(self, subject);
        }
        let view = self.clone();
        self.telling.thread.run(Box::new(move || act(&view, subject)));
    }

    /// Completes what `stat` shows of a text with its length for this caller, and calls `done`: another thread does, when the text
    /// has to be made first. To who may not read it, it is empty: the length of statistics tells how many digits they have.
    pub fn measure(
        self: &Arc<Self>,
        caller: &Caller,
        shown: Attributes,
        done: impl FnOnce(Result<Attributes>) + Send + 'static,
    ) {
        if !matches!(shown.node, Node::Config(_) | Node::Stats(_) | Node::Version | Node::Metrics) {
            return done(Ok(shown));
        }
        if let Some(size) = self.handles.length_open(shown.node, caller.pid) {
            return done(Ok(Attributes { size, ..shown }));
        }
        let owner = Owner { uid: shown.uid, gid: shown.gid, mode: shown.mode };
        if !owner.allows(caller, READ) {
            return done(Ok(shown));
        }
        let caller = *caller;
        self.when_told(&caller, shown.node, false, move |view, subject| {
            let length = match (subject, shown.node) {
                (Some(subject), _) => view.tell(&caller, subject).map(|text| text.bytes().len()),
                (None, Node::Config(queue)) => view.config_text(queue).map(|text| text.len()),
                (None, node) => view.status_text(node).map(|text| text.len()),
            };
            done(length.map(|length| Attributes { size: length as u64, ..shown }));
        });
    }
}
