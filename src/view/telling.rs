//! What tells of all queues: put together by a thread of its own, at most once a second for all who ask.
//!
//! With many queues that takes a while, and monitoring asks again and again: `stat`, for the length, then `open`. The metrics are
//! one text ([`super::rendering`]), of which each user is shown what they may know; so however many users ask, nobody waits for
//! more than one of them to be put together. What `stat` shows is the length of what an open within that second gives. Of a file that
//! the asking process has open, `stat` shows the length of what is read there, so that whoever copies by length (rsync, web
//! servers) copies all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::background::Alarm;
use crate::error::Result;
use crate::queue::access::Owner;
use crate::store::ROOT;

use super::access::{Caller, READ};
use super::handles::Text;
use super::metrics::Metrics;
use super::offload::Offload;
use super::{Attributes, Node, View, process};

/// What was put together is told so long to whoever asks; for as long as it took, if that was longer.
const FRESH: Duration = Duration::from_secs(1);
/// Of one text so many excerpts are remembered.
const REMEMBERED: usize = 64;
/// The texts that somebody reads, and the newest, are no longer than this in all, in bytes.
const BYTES: usize = 384 << 20;
/// One that is being read is kept so long, if newer ones have no room.
const KEPT: Duration = Duration::from_secs(60);
/// With no more queues than these the statistics of the mount are put together anew for each who opens them: scripts look at them
/// after each step.
const FEW: usize = 1000;

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

/// Something, and until when it is told.
struct Timed<T> {
    what: T,
    at: Instant,
    until: Instant,
}

impl<T> Timed<T> {
    /// It was begun then and is complete now.
    fn new(what: T, begun: Instant, now: Instant) -> Self {
        Self { what, at: now, until: now + FRESH.max(now.saturating_duration_since(begun)) }
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now < self.until
    }
}

/// The metrics, and what was shown of them.
struct Told {
    metrics: Arc<Metrics>,
    bytes: usize,
    shown: Vec<(Audience, Arc<Text>)>,
}

impl Told {
    fn new(metrics: Metrics) -> Self {
        Self { bytes: metrics.memory(), metrics: Arc::new(metrics), shown: Vec::new() }
    }

    fn is_read(&self) -> bool {
        self.shown.iter().any(|(_, text)| Arc::strong_count(text) > 1)
    }
}

/// What was put together lately, the newest last.
#[derive(Default)]
struct Table {
    told: Vec<Timed<Told>>,
    stats: Option<Timed<Arc<Text>>>,
}

impl Table {
    /// What these are told: the newest, when it is fresh, and what of it was shown to them.
    fn fresh(&self, audience: &Audience, now: Instant) -> Option<Arc<Text>> {
        let newest = self.told.last().filter(|told| told.is_fresh(now))?;
        newest.what.shown.iter().find(|(other, _)| other == audience).map(|(_, text)| text.clone())
    }

    fn fresh_stats(&self, now: Instant) -> Option<Arc<Text>> {
        self.stats.as_ref().filter(|stats| stats.is_fresh(now)).map(|stats| stats.what.clone())
    }

    /// The newest metrics, unless they are to be put together anew. So they are when they are not fresh any more, and there is room
    /// for more: what nobody reads is forgotten, and in need also what somebody has been reading for long. Whoever
    /// reads slowly, or never closes what he reads, so makes the others' older, but keeps nobody from them.
    fn newest(&mut self, now: Instant) -> Option<Arc<Metrics>> {
        let last = self.told.len().checked_sub(1)?;
        let mut at = 0;
        self.told.retain(|told| {
            at += 1;
            at - 1 == last || told.what.is_read()
        });
        let newest = self.told.last()?;
        if newest.is_fresh(now) {
            return Some(newest.what.metrics.clone());
        }
        // The next one is as long as this one.
        let next = newest.what.bytes;
        while self.told.iter().map(|told| told.what.bytes).sum::<usize>() + next > BYTES {
            let oldest = self.told.first()?;
            if oldest.what.is_read() && now.saturating_duration_since(oldest.at) < KEPT {
                return self.told.last().map(|newest| newest.what.metrics.clone());
            }
            self.told.remove(0);
        }
        None
    }

    /// What of the newest metrics, if they are those, is shown to these.
    fn remember(&mut self, metrics: &Arc<Metrics>, audience: Audience, text: &Arc<Text>) {
        if let Some(told) = self.told.last_mut().filter(|told| Arc::ptr_eq(&told.what.metrics, metrics)) {
            let shown = &mut told.what.shown;
            if shown.len() == REMEMBERED {
                // One that is read must stay, to be seen.
                let unread = shown.iter().position(|(_, text)| Arc::strong_count(text) == 1);
                unread.into_iter().for_each(|at| drop(shown.remove(at)));
            }
            shown.push((audience, text.clone()));
        }
    }
}

/// The thread, and what it has put together lately.
///
/// The lock is held for a look only, never while a text is made. One thread makes them, so nothing is made twice.
pub struct Telling {
    thread: Offload,
    table: Mutex<Table>,
    /// How often all queues were gone through for the metrics. Only a number: it orders nothing.
    made: AtomicU64,
    /// How many queues there were when the statistics were put together last. Only a number.
    queues: AtomicUsize,
}

impl Telling {
    /// Starts the thread, whose end by a panic raises the alarm.
    pub fn start(alarm: &Alarm) -> std::io::Result<Self> {
        Ok(Self {
            thread: Offload::start(alarm, "mqfs-telling", 1, 1)?,
            table: Mutex::default(),
            made: AtomicU64::new(0),
            queues: AtomicUsize::new(0),
        })
    }

    /// Ends the thread, when it has done what waits.
    pub fn stop(&self) {
        self.thread.stop();
        *self.table.lock() = Table::default();
    }

    /// How often all queues were gone through for the metrics.
    #[cfg(test)]
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// `anew`: the statistics of few queues are not told again.
    fn fresh(&self, subject: &Subject, anew: bool) -> Option<Arc<Text>> {
        let (table, now) = (self.table.lock(), Instant::now());
        match subject {
            Subject::Metrics(audience) => table.fresh(audience, now),
            Subject::Stats if anew && self.queues.load(Ordering::Relaxed) <= FEW => None,
            Subject::Stats => table.fresh_stats(now),
        }
    }
}

impl View {
    /// The text of what tells of all queues. Takes long, unless [`Telling::fresh`] has it.
    pub(super) fn tell(&self, caller: &Caller, subject: Subject, anew: bool) -> Result<Arc<Text>> {
        if let Some(text) = self.telling.fresh(&subject, anew) {
            return Ok(text);
        }
        let audience = match subject {
            Subject::Metrics(audience) => audience,
            Subject::Stats => return self.tell_stats(caller),
        };
        let newest = self.telling.table.lock().newest(Instant::now());
        let metrics = match newest {
            Some(metrics) => metrics,
            None => {
                let begun = Instant::now();
                let told = Told::new(self.metrics()?);
                self.telling.made.fetch_add(1, Ordering::Relaxed);
                let metrics = told.metrics.clone();
                self.telling.table.lock().told.push(Timed::new(told, begun, Instant::now()));
                metrics
            }
        };
        let text = self.handles.excerpt(caller, metrics.told_to(&audience))?;
        self.telling.table.lock().remember(&metrics, audience, &text);
        Ok(text)
    }

    fn tell_stats(&self, caller: &Caller) -> Result<Arc<Text>> {
        let begun = Instant::now();
        let (text, queues) = self.mount_stats()?;
        let text = self.handles.text(caller, text)?;
        self.telling.queues.store(queues, Ordering::Relaxed);
        self.telling.table.lock().stats = Some(Timed::new(text.clone(), begun, Instant::now()));
        Ok(text)
    }

    /// Calls `act` at once, or, when that is to tell of all queues and nobody was told lately, on the thread that does.
    pub(super) fn when_told(
        self: &Arc<Self>,
        caller: &Caller,
        node: Node,
        anew: bool,
        act: impl FnOnce(&Arc<Self>, Option<Subject>) + Send + 'static,
    ) {
        let subject = Subject::of(node, caller);
        let slow = subject.as_ref().is_some_and(|subject| self.telling.fresh(subject, anew).is_none());
        if !slow {
            return act(self, subject);
        }
        let view = self.clone();
        self.telling.thread.run_anyway(caller.uid, move || act(&view, subject));
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
                (Some(subject), _) => view.tell(&caller, subject, false).map(|text| text.len()),
                (None, Node::Config(queue)) => view.config_text(queue).map(|text| text.len() as u64),
                (None, node) => view.status_text(node).map(|text| text.len() as u64),
            };
            done(length.map(|size| Attributes { size, ..shown }));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::ViewOptions;
    use super::super::rendering::Excerpt;
    use super::*;
    use crate::queue::config::QueueConfig;
    use crate::store::{NewQueue, Store};

    fn view(dir: &std::path::Path) -> Arc<View> {
        let view = View::new(Store::open(dir, QueueConfig::default()).unwrap(), ViewOptions::default()).unwrap();
        for (name, uid, mode) in [("open", 0, 0o755), ("anns", 1, 0o700), ("bobs", 2, 0o700)] {
            let new = NewQueue { parent: ROOT, name: name.as_bytes(), uid, gid: uid, mode };
            let queue = view.store.make_queue(new).unwrap();
            view.store.make_queue(NewQueue { parent: queue, name: b"inner", uid, gid: uid, mode }).unwrap();
        }
        view
    }

    fn caller(uid: u32) -> Caller {
        Caller { uid, gid: uid, pid: std::process::id() }
    }

    fn told(view: &View, uid: u32) -> Arc<Text> {
        let audience = Audience { uid, gid: uid, groups: Vec::new() };
        view.tell(&caller(uid), Subject::Metrics(audience), true).unwrap()
    }

    fn read(text: &Text) -> String {
        let mut all = String::new();
        text.read(0, usize::MAX, |bytes| all = String::from_utf8(bytes.to_vec()).unwrap()).unwrap();
        all
    }

    /// However many users ask, and however different what they may know is.
    #[test]
    fn all_are_told_of_one_look_at_the_queues() {
        let dir = tempfile::tempdir().unwrap();
        let view = view(dir.path());
        // None of it is over before the test is.
        view.telling.table.lock().told.clear();
        let texts: Vec<_> = (0..20).map(|uid| told(&view, uid)).collect();
        let again: Vec<_> = (0..20).map(|uid| told(&view, uid)).collect();
        let fresh = view.telling.table.lock().told.iter().all(|told| told.is_fresh(Instant::now()));
        assert!(!fresh || view.telling.made() == 1, "{}", view.telling.made());
        assert!(!fresh || texts.iter().zip(&again).all(|(text, again)| Arc::ptr_eq(text, again)));
        let queues = |uid: usize| {
            let text = read(&texts[uid]);
            assert_eq!(text.len() as u64, texts[uid].len());
            let labels = text.lines().filter_map(|line| line.strip_prefix("mqfs_queue_readable{mount=\"\",queue=\""));
            labels.map(|line| line.replace("\"}", "")).collect::<Vec<_>>()
        };
        assert_eq!(queues(0), ["anns 1", "anns/inner 1", "bobs 1", "bobs/inner 1", "open 1", "open/inner 1"]);
        assert_eq!(queues(1), ["anns 1", "anns/inner 1", "open 1", "open/inner 1", "bobs 0"]);
        assert_eq!(queues(3), ["open 1", "open/inner 1", "anns 0", "bobs 0"]);
        view.close();
    }

    /// What is shown of one text takes little beside it.
    #[test]
    fn an_excerpt_is_no_copy() {
        let dir = tempfile::tempdir().unwrap();
        let view = view(dir.path());
        let metrics = view.metrics().unwrap();
        let excerpt: Excerpt = metrics.told_to(&Audience { uid: 0, gid: 0, groups: Vec::new() });
        assert!(excerpt.len() > 8000 && excerpt.memory() < 1000, "{} {}", excerpt.len(), excerpt.memory());
        view.close();
    }

    /// Who never closes what he reads keeps memory, and makes what the others are told older, for a while; nobody is refused.
    #[test]
    fn texts_that_are_read_slowly_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let view = view(dir.path());
        let (mut table, begun) = (Table::default(), Instant::now());
        let add = |table: &mut Table, at: Instant, reads: bool| {
            let mut told = Told::new(view.metrics().unwrap());
            told.bytes = BYTES / 3;
            let audience = Audience { uid: 1, gid: 1, groups: Vec::new() };
            let text = view.handles.excerpt(&caller(1), told.metrics.told_to(&audience)).unwrap();
            told.shown.push((audience, text.clone()));
            table.told.push(Timed::new(told, at, at));
            reads.then_some(text)
        };
        let later = |seconds| begun + Duration::from_secs(seconds);
        assert!(table.newest(begun).is_none());
        assert!(add(&mut table, begun, false).is_none());
        assert!(table.newest(begun).is_some() && table.newest(later(2)).is_none(), "once a second");
        let first = add(&mut table, later(2), true).unwrap();
        assert!(table.newest(later(4)).is_none() && table.told.len() == 1, "what nobody reads is forgotten");
        let second = add(&mut table, later(4), true).unwrap();
        assert!(table.newest(later(6)).is_none());
        let third = add(&mut table, later(6), true).unwrap();
        let newest = table.newest(later(8)).expect("the newest is told though it is old");
        assert!(Arc::ptr_eq(&newest, &table.told[2].what.metrics));
        drop(newest);
        first.read(0, 10, |_| ()).unwrap();
        assert!(table.newest(later(63)).is_none() && table.told.len() == 2);
        assert!(matches!(first.read(0, 10, |_| ()), Err(crate::error::Error::Stale)), "it was read for long enough");
        second.read(0, 10, |_| ()).unwrap();
        third.read(0, 10, |_| ()).unwrap();
        view.close();
    }
}
