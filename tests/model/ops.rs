//! The random operations.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{AbortOn, Config, End, Feed, Place, Props, Said, Settle, Worker};

const SECOND: u64 = 1000;
pub const HOUR: u64 = 3600 * SECOND;
/// When the operations begin: a day in 2030.
pub const NOON: u64 = 1_900_000_800_000;

/// One operation. `n` picks one of what there is, modulo its number; a `q` is a queue; `settles` picks a message that is claimed, or
/// when it is odd any. [`Props::deliver_at`] is an hour after
/// now for 1, and an hour ago for 2.
#[derive(Clone, Debug)]
pub enum Op {
    /// Writes a message, which takes an open, a write and a close.
    Put {
        q: usize,
        len: usize,
        props: Props,
    },
    /// Enqueues in one step.
    Line {
        q: usize,
        len: usize,
    },
    Open {
        q: usize,
        props: Props,
    },
    Write {
        n: usize,
        len: usize,
    },
    Flush {
        n: usize,
    },
    Close {
        n: usize,
    },
    /// A process writes, and ends so while it has the file open.
    End {
        n: usize,
        len: usize,
        end: End,
    },
    /// Unlinks, by its name, a message that is being written.
    Unlink {
        n: usize,
    },
    /// Gives one another name.
    NameAnew {
        n: usize,
    },
    /// `chmod` by the name that a message was given, whatever has become of it.
    Chmod {
        n: usize,
    },
    Draft {
        q: usize,
        len: usize,
        props: Props,
    },
    Publish {
        n: usize,
        q: usize,
        link: bool,
        settles: Option<usize>,
    },
    Discard {
        n: usize,
    },
    Batch {
        q: usize,
        files: Vec<(usize, Props)>,
        feed: Option<Feed>,
        settles: Option<usize>,
    },
    /// Sets a mark of a queue by hand; 0 removes it.
    Mark {
        q: usize,
        mark: u8,
        is: u8,
    },
    Take {
        q: usize,
    },
    Pop {
        q: usize,
    },
    Read {
        n: usize,
    },
    Rename {
        n: usize,
        to: Place,
    },
    Ack {
        n: usize,
    },
    Renew {
        n: usize,
    },
    Nack {
        n: usize,
        how: super::Nack,
        said: Said,
    },
    /// A worker of its own reads a message.
    Work {
        n: usize,
        worker: Worker,
    },
    /// It removes one by its name in the queue.
    FinishWork {
        n: usize,
        worker: Worker,
    },
    /// Somebody notes the path of a delivery.
    Note {
        n: usize,
    },
    /// Settles a delivery whose path is noted, late or not.
    Settle {
        n: usize,
        how: Settle,
    },
    /// Sets what a worker said, whatever the state.
    Say {
        n: usize,
        said: Said,
    },
    Purge {
        q: usize,
        states: usize,
        clear: bool,
    },
    Set {
        q: usize,
        setting: Setting,
    },
    /// Time passes, and what is due is done.
    Wait {
        ms: u64,
    },
    /// Time passes, and the system has not yet done what is due. (A mount cannot be late.)
    Late {
        ms: u64,
    },
    /// The system ends, cleanly or not, and starts again.
    Restart {
        crash: bool,
    },
}

/// A line of configuration.
#[derive(Clone, Copy, Debug)]
pub enum Setting {
    VisibilityTimeout(u64),
    MaxLease(u64),
    MaxClaimed(u64),
    PriorityAgeing(u64),
    MaxDeliveries(u32),
    RetryDelay(u64),
    Exponential(bool),
    DeadLetter(Grave),
    MessageTtl(u64),
    DropExpired(bool),
    MaxMessages(u64),
    MaxBytes(u64),
    DropOldest(bool),
    DedupWindow(u64),
    Paused(bool, bool),
    AbortOn(AbortOn),
}

/// Where dead letters go.
#[derive(Clone, Copy, Debug)]
pub enum Grave {
    Here,
    /// The queue itself, which means here.
    Itself,
    /// A queue that is not there, which means here.
    Nowhere,
    /// The queue after this one.
    Next,
}

impl Setting {
    pub fn line(self, path: impl Fn(usize) -> String, queue: usize) -> String {
        let word = |yes, this: &str, that: &str| if yes { this.to_owned() } else { that.to_owned() };
        let (key, value) = match self {
            Setting::VisibilityTimeout(ms) => ("visibility_timeout", format!("{ms}ms")),
            Setting::MaxLease(ms) => ("max_lease", format!("{ms}ms")),
            Setting::MaxClaimed(count) => ("max_claimed", count.to_string()),
            Setting::PriorityAgeing(ms) => ("priority_ageing", format!("{ms}ms")),
            Setting::MaxDeliveries(count) => ("max_deliveries", count.to_string()),
            Setting::RetryDelay(ms) => ("retry_delay", format!("{ms}ms")),
            Setting::Exponential(yes) => ("retry_backoff", word(yes, "exponential", "fixed")),
            Setting::DeadLetter(Grave::Here) => ("dead_letter", String::new()),
            Setting::DeadLetter(Grave::Itself) => ("dead_letter", path(queue)),
            Setting::DeadLetter(Grave::Nowhere) => ("dead_letter", "no/such/queue".to_owned()),
            Setting::DeadLetter(Grave::Next) if queue + 1 == QUEUES => ("dead_letter", String::new()),
            Setting::DeadLetter(Grave::Next) => ("dead_letter", path(queue + 1)),
            Setting::MessageTtl(ms) => ("message_ttl", format!("{ms}ms")),
            Setting::DropExpired(yes) => ("expired", word(yes, "drop", "dead")),
            Setting::MaxMessages(count) => ("max_messages", count.to_string()),
            Setting::MaxBytes(count) => ("max_bytes", count.to_string()),
            Setting::DropOldest(yes) => ("overflow", word(yes, "drop-oldest", "reject")),
            Setting::DedupWindow(ms) => ("dedup_window", format!("{ms}ms")),
            Setting::Paused(false, out) => ("paused", word(out, "out", "no")),
            Setting::Paused(true, out) => ("paused", word(out, "both", "in")),
            Setting::AbortOn(AbortOn::Killed) => ("abort_on", "killed".to_owned()),
            Setting::AbortOn(AbortOn::Failed) => ("abort_on", "failed".to_owned()),
            Setting::AbortOn(AbortOn::Unclosed) => ("abort_on", "unclosed".to_owned()),
            Setting::AbortOn(AbortOn::Never) => ("abort_on", "never".to_owned()),
        };
        format!("{key} = {value}\n")
    }

    pub fn apply(self, config: &mut Config, queue: usize) {
        match self {
            Setting::VisibilityTimeout(ms) => config.visibility_timeout = ms,
            Setting::MaxLease(ms) => config.max_lease = ms,
            Setting::MaxClaimed(count) => config.max_claimed = count,
            Setting::PriorityAgeing(ms) => config.priority_ageing = ms,
            Setting::MaxDeliveries(count) => config.max_deliveries = count,
            Setting::RetryDelay(ms) => config.retry_delay = ms,
            Setting::Exponential(yes) => config.exponential = yes,
            Setting::DeadLetter(Grave::Next) if queue + 1 < QUEUES => config.dead_letter = Some(queue + 1),
            Setting::DeadLetter(_) => config.dead_letter = None,
            Setting::MessageTtl(ms) => config.message_ttl = ms,
            Setting::DropExpired(yes) => config.drop_expired = yes,
            Setting::MaxMessages(count) => config.max_messages = count,
            Setting::MaxBytes(count) => config.max_bytes = count,
            Setting::DropOldest(yes) => config.drop_oldest = yes,
            Setting::DedupWindow(ms) => config.dedup_window = ms,
            Setting::Paused(incoming, outgoing) => (config.paused_in, config.paused_out) = (incoming, outgoing),
            Setting::AbortOn(abort_on) => config.abort_on = abort_on,
        }
    }
}

/// So many queues there are: a plain one, one with priorities, and one that keeps names.
pub const QUEUES: usize = 3;
/// So many workers that have nothing to do with each other.
pub const WORKERS: usize = 2;
/// How they begin, besides the defaults.
pub const BEGINNINGS: [&str; QUEUES] = ["", "priorities = 3\n", "names = keep\n"];

/// The same to the model.
pub fn beginnings() -> [Config; QUEUES] {
    let plain = Config {
        keep: false,
        abort_on: AbortOn::Killed,
        priorities: 1,
        priority_ageing: 0,
        visibility_timeout: 30 * SECOND,
        max_lease: 12 * HOUR,
        max_claimed: 0,
        max_deliveries: 20,
        retry_delay: 0,
        exponential: false,
        dead_letter: None,
        message_ttl: 0,
        drop_expired: false,
        max_messages: 0,
        max_bytes: 0,
        drop_oldest: false,
        dedup_window: 0,
        paused_in: false,
        paused_out: false,
    };
    let priorities = Config { priorities: 3, ..plain.clone() };
    [plain.clone(), priorities, Config { keep: true, ..plain }]
}

fn props() -> impl Strategy<Value = Props> {
    let one = |values: &'static [u64]| select(values);
    let all = (0..4_u8, one(&[0, 0, 0, HOUR, 2 * HOUR]), one(&[0, 0, 0, 1, 2]), one(&[0, 0, HOUR, 3 * HOUR]));
    let props = (all, select(&[0_u8, 0, 0, 1, 2, 3][..]));
    let props =
        props.prop_map(|((priority, delay, deliver_at, ttl), id)| Props { priority, delay, deliver_at, ttl, id });
    prop_oneof![2 => Just(Props::default()), 3 => props]
}

fn setting() -> impl Strategy<Value = Setting> {
    let times = |values: &'static [u64]| select(values);
    prop_oneof![
        times(&[SECOND, HOUR, 2 * HOUR]).prop_map(Setting::VisibilityTimeout),
        times(&[0, HOUR, 12 * HOUR]).prop_map(Setting::MaxLease),
        times(&[0, 0, 1, 3]).prop_map(Setting::MaxClaimed),
        times(&[0, 3, SECOND, HOUR]).prop_map(Setting::PriorityAgeing),
        select(&[0_u32, 1, 2, 20][..]).prop_map(Setting::MaxDeliveries),
        times(&[0, 0, SECOND, HOUR]).prop_map(Setting::RetryDelay),
        any::<bool>().prop_map(Setting::Exponential),
        select(&[Grave::Here, Grave::Itself, Grave::Nowhere, Grave::Next, Grave::Next][..])
            .prop_map(Setting::DeadLetter),
        times(&[0, HOUR, 2 * HOUR]).prop_map(Setting::MessageTtl),
        any::<bool>().prop_map(Setting::DropExpired),
        times(&[0, 2, 5]).prop_map(Setting::MaxMessages),
        times(&[0, 30, 100]).prop_map(Setting::MaxBytes),
        any::<bool>().prop_map(Setting::DropOldest),
        times(&[0, HOUR, 2 * HOUR]).prop_map(Setting::DedupWindow),
        select(&[(false, false), (false, false), (true, false), (false, true), (true, true)][..])
            .prop_map(|(incoming, outgoing)| Setting::Paused(incoming, outgoing)),
        select(&[AbortOn::Killed, AbortOn::Failed, AbortOn::Unclosed, AbortOn::Never][..]).prop_map(Setting::AbortOn),
    ]
}

/// A random operation.
pub fn op() -> impl Strategy<Value = Op> {
    let q = || 0..QUEUES;
    let n = || 0..40_usize;
    let len = || prop_oneof![30 => 0..40_usize, 1 => Just(40_000)];
    let ms = || select(&[1, 999, SECOND, 30 * SECOND, HOUR - 1, HOUR, 2 * HOUR][..]);
    let place = prop_oneof![
        q().prop_map(Place::Queue),
        q().prop_map(Place::Queue),
        Just(Place::Claimed),
        Just(Place::Claimed),
        Just(Place::Delayed),
        Just(Place::Dead)
    ];
    prop_oneof![
        12 => (q(), len(), props()).prop_map(|(q, len, props)| Op::Put { q, len, props }),
        2 => (q(), len()).prop_map(|(q, len)| Op::Line { q, len }),
        3 => (q(), props()).prop_map(|(q, props)| Op::Open { q, props }),
        3 => (n(), 1..40_usize).prop_map(|(n, len)| Op::Write { n, len }),
        2 => n().prop_map(|n| Op::Flush { n }),
        3 => n().prop_map(|n| Op::Close { n }),
        2 => (n(), 1..40_usize, select(&[End::Killed, End::Failed, End::Well][..]))
            .prop_map(|(n, len, end)| Op::End { n, len, end }),
        1 => n().prop_map(|n| Op::Unlink { n }),
        1 => n().prop_map(|n| Op::NameAnew { n }),
        6 => n().prop_map(|n| Op::Chmod { n }),
        2 => (q(), len(), props()).prop_map(|(q, len, props)| Op::Draft { q, len, props }),
        3 => (n(), q(), any::<bool>(), settles())
            .prop_map(|(n, q, link, settles)| Op::Publish { n, q, link, settles }),
        1 => n().prop_map(|n| Op::Discard { n }),
        3 => (q(), vec((len(), props()), 0..4), option::of(feed()), settles())
            .prop_map(|(q, files, feed, settles)| Op::Batch { q, files, feed, settles }),
        1 => (q(), 0..2_u8, 0..3_u8).prop_map(|(q, mark, is)| Op::Mark { q, mark, is }),
        8 => q().prop_map(|q| Op::Take { q }),
        2 => q().prop_map(|q| Op::Pop { q }),
        3 => n().prop_map(|n| Op::Read { n }),
        16 => (n(), place).prop_map(|(n, to)| Op::Rename { n, to }),
        4 => n().prop_map(|n| Op::Ack { n }),
        2 => n().prop_map(|n| Op::Renew { n }),
        4 => (n(), how(), 0..4_usize).prop_map(|(n, how, said)| Op::Nack { n, how, said }),
        4 => (n(), 0..WORKERS).prop_map(|(n, worker)| Op::Work { n, worker }),
        4 => (n(), 0..WORKERS).prop_map(|(n, worker)| Op::FinishWork { n, worker }),
        5 => n().prop_map(|n| Op::Note { n }),
        6 => (n(), settle()).prop_map(|(n, how)| Op::Settle { n, how }),
        1 => (n(), 0..4_usize).prop_map(|(n, said)| Op::Say { n, said }),
        1 => (q(), 0..16_usize, any::<bool>()).prop_map(|(q, states, clear)| Op::Purge { q, states, clear }),
        6 => (q(), setting()).prop_map(|(q, setting)| Op::Set { q, setting }),
        4 => ms().prop_map(|ms| Op::Wait { ms }),
        2 => ms().prop_map(|ms| Op::Late { ms }),
        1 => any::<bool>().prop_map(|crash| Op::Restart { crash }),
    ]
}

fn feed() -> impl Strategy<Value = Feed> {
    (0..2_u8, 0..3_u8, option::of(0..3_u8)).prop_map(|(mark, is, was)| Feed { mark, is, was })
}

fn settles() -> impl Strategy<Value = Option<usize>> {
    option::weighted(0.4, 0..40_usize)
}

fn settle() -> impl Strategy<Value = Settle> {
    prop_oneof![
        2 => Just(Settle::Ack),
        2 => Just(Settle::Now),
        1 => Just(Settle::Later),
        1 => Just(Settle::Dead),
        2 => Just(Settle::Renew),
        1 => (0..4_usize).prop_map(Settle::Say),
    ]
}

fn how() -> impl Strategy<Value = super::Nack> {
    use super::Nack;
    prop_oneof![
        Just(Nack::Now),
        Just(Nack::Later),
        select(&[1, SECOND, HOUR][..]).prop_map(Nack::In),
        Just(Nack::Uncounted),
        Just(Nack::Dead)
    ]
}

/// Each operation at least once, in an order in which it does something.
pub fn tour() -> Vec<Op> {
    let plain = Props::default();
    let put = |q, len| Op::Put { q, len, props: plain };
    let with = |q, props| Op::Put { q, len: 5, props };
    let set = |q, setting| Op::Set { q, setting };
    let rename = |n, to| Op::Rename { n, to };
    let batch = |files, feed, settles| Op::Batch { q: 1, files, feed, settles };
    vec![
        put(0, 3),
        put(0, 0),
        put(0, 40_000),
        with(1, Props { priority: 1, ..plain }),
        with(1, Props { priority: 9, delay: HOUR, ..plain }),
        with(2, Props { deliver_at: 1, ttl: HOUR, ..plain }),
        Op::Line { q: 0, len: 4 },
        Op::Take { q: 0 },
        Op::Renew { n: 0 },
        rename(0, Place::Queue(0)),
        Op::Read { n: 0 },
        Op::Nack { n: 0, how: super::Nack::Uncounted, said: 3 },
        Op::Work { n: 0, worker: 0 },
        Op::Note { n: 0 },
        Op::Settle { n: 0, how: Settle::Renew },
        Op::Settle { n: 0, how: Settle::Say(1) },
        Op::Settle { n: 0, how: Settle::Now },
        Op::Settle { n: 0, how: Settle::Ack },
        Op::Work { n: 0, worker: 1 },
        Op::Note { n: 0 },
        Op::FinishWork { n: 0, worker: 0 },
        rename(0, Place::Queue(0)),
        Op::Settle { n: 1, how: Settle::Dead },
        Op::Settle { n: 1, how: Settle::Later },
        Op::Work { n: 0, worker: 0 },
        Op::FinishWork { n: 0, worker: 1 },
        Op::FinishWork { n: 0, worker: 0 },
        Op::Say { n: 0, said: 2 },
        Op::Read { n: 0 },
        rename(0, Place::Delayed),
        rename(0, Place::Queue(0)),
        rename(0, Place::Dead),
        rename(0, Place::Claimed),
        rename(0, Place::Queue(0)),
        rename(0, Place::Queue(2)),
        Op::Pop { q: 1 },
        Op::Pop { q: 1 },
        Op::Chmod { n: 3 },
        Op::Ack { n: 1 },
        Op::Wait { ms: HOUR },
        Op::Open { q: 2, props: plain },
        Op::Write { n: 0, len: 7 },
        Op::Flush { n: 0 },
        Op::Open { q: 0, props: plain },
        put(2, 1),
        Op::Restart { crash: true },
        Op::Open { q: 1, props: plain },
        Op::Write { n: 0, len: 7 },
        Op::Flush { n: 0 },
        put(1, 1),
        Op::Close { n: 0 },
        Op::Open { q: 1, props: plain },
        Op::Write { n: 0, len: 7 },
        Op::End { n: 0, len: 3, end: End::Killed },
        set(1, Setting::AbortOn(AbortOn::Failed)),
        Op::Open { q: 1, props: plain },
        Op::Write { n: 0, len: 7 },
        Op::Flush { n: 0 },
        Op::End { n: 0, len: 3, end: End::Well },
        Op::End { n: 0, len: 3, end: End::Failed },
        Op::Flush { n: 0 },
        Op::Write { n: 0, len: 1 },
        Op::End { n: 0, len: 3, end: End::Failed },
        Op::Close { n: 0 },
        Op::Open { q: 1, props: plain },
        Op::Write { n: 0, len: 7 },
        Op::Flush { n: 0 },
        Op::NameAnew { n: 0 },
        Op::Chmod { n: 0 },
        Op::Unlink { n: 0 },
        Op::Draft { q: 0, len: 3, props: Props { priority: 2, ..plain } },
        Op::Publish { n: 0, q: 1, link: true, settles: None },
        Op::Publish { n: 0, q: 0, link: false, settles: None },
        Op::Draft { q: 0, len: 3, props: plain },
        Op::Discard { n: 0 },
        set(1, Setting::MaxMessages(5)),
        batch(vec![(1, plain), (2, plain), (3, plain)], None, None),
        set(1, Setting::DropOldest(true)),
        batch(vec![(1, plain), (2, Props { priority: 1, ..plain }), (3, plain)], None, None),
        batch(vec![], Some(Feed { mark: 0, is: 1, was: Some(0) }), None),
        batch(vec![(1, plain)], Some(Feed { mark: 0, is: 2, was: Some(0) }), None),
        Op::Mark { q: 1, mark: 0, is: 2 },
        put(0, 3),
        Op::Take { q: 0 },
        batch(vec![(1, plain)], Some(Feed { mark: 0, is: 1, was: Some(2) }), Some(0)),
        batch(vec![(1, plain)], Some(Feed { mark: 1, is: 1, was: None }), Some(1)),
        Op::Draft { q: 0, len: 3, props: plain },
        put(0, 40_000),
        Op::Take { q: 0 },
        Op::Publish { n: 0, q: 0, link: true, settles: Some(0) },
        Op::Publish { n: 0, q: 0, link: false, settles: Some(1) },
        Op::Take { q: 0 },
        Op::Publish { n: 0, q: 0, link: false, settles: Some(0) },
        set(2, Setting::DedupWindow(HOUR)),
        with(2, Props { id: 1, ..plain }),
        with(2, Props { id: 1, ..plain }),
        set(1, Setting::MaxDeliveries(1)),
        set(1, Setting::DeadLetter(Grave::Next)),
        Op::Take { q: 1 },
        Op::Late { ms: HOUR },
        Op::Take { q: 1 },
        Op::Wait { ms: 1 },
        set(1, Setting::PriorityAgeing(2)),
        with(1, Props { priority: 0, ..plain }),
        with(1, Props { priority: 1, ..plain }),
        with(1, Props { priority: 2, ..plain }),
        Op::Take { q: 1 },
        Op::Pop { q: 1 },
        set(0, Setting::MaxClaimed(1)),
        put(0, 1),
        put(0, 1),
        Op::Take { q: 0 },
        Op::Take { q: 0 },
        Op::Read { n: 9 },
        set(0, Setting::MaxClaimed(0)),
        set(1, Setting::Paused(true, true)),
        put(1, 1),
        Op::Take { q: 1 },
        Op::Purge { q: 1, states: 15, clear: false },
        Op::Restart { crash: false },
    ]
}
