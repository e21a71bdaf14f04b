//! What is true of every input, whoever wrote it. Each property takes any bytes and panics when it does not hold.
//!
//! This file is part of two crates: of the fuzz targets, and of the tests of mqfs, where `replay` runs all of them.

use std::time::Duration;

use crate::clock::rfc3339;
#[cfg(feature = "link-stomp")]
use crate::link::stomp::frame::{Decoder, Frame, Limits, Piece};
use crate::queue::config::{KEYS, QueueConfig};
use crate::queue::delivery::Delivery;
use crate::queue::duration;
use crate::queue::name::{self, Name, classify, delivered, listed, stripped};
use crate::queue::properties::{LONGEST_ID, PREFIX, Properties};
use crate::queue::state::State;
use crate::queue::words;
use crate::store::keys::{self, DeadlineKind};
use crate::store::record;
use crate::view::line_cut::{Cut, LINES_AT_ONCE};
use crate::view::{Node, Via};

/// What must hold of some input, whatever it is.
type Property = fn(&[u8]);

/// All of them by the names of their targets.
pub const ALL: &[(&str, Property)] = &[
    ("config", config),
    ("words", words_of_properties),
    ("times", times),
    ("records", records),
    ("keys", keys_of_the_store),
    ("names", names),
    ("nodes", nodes),
    ("lines", lines),
    #[cfg(feature = "link-stomp")]
    ("stomp_frame", stomp_frame),
];

/// The largest sequence number that 16 digits write.
const LARGEST_SEQ: u64 = 9_999_999_999_999_999;

/// Numbers from the front of an input; zeros when it is used up.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_at(N.min(self.0.len()));
        self.0 = rest;
        let mut bytes = [0; N];
        bytes[..taken.len()].copy_from_slice(taken);
        bytes
    }

    fn byte(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn number(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }
}

/// `.mq/config`: what is accepted is printed so that it means the same again, on any queue; what is refused changes
/// nothing; and whatever is accepted keeps to its limits.
pub fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut config = QueueConfig { max_messages: 7, ..QueueConfig::default() };
    let before = config.clone();
    if config.apply(text).is_err() {
        assert_eq!(config, before, "a refused configuration changed something");
        return;
    }
    let printed = config.render();
    for mut other in [QueueConfig::default(), before, config.clone()] {
        other.apply(&printed).expect("what is printed is accepted");
        assert_eq!(other, config);
        assert_eq!(other.render(), printed);
    }
    for key in KEYS {
        let value = config.get(key).expect("every key has a value");
        let mut other = config.clone();
        other.set(key, &value).expect("a value that was got can be set");
        assert_eq!(other, config);
        assert!(!value.contains('\n'), "a value is one line");
    }
    assert!((1..=10).contains(&config.priorities) && (1..=100_000).contains(&config.lines_batch));
    assert!(!config.visibility_timeout.is_zero());
    for deliveries in [0, 1, 2, 31, 32, 33, u32::MAX] {
        assert!(config.retry_after(deliveries) <= duration::LONGEST);
        assert!(config.later_after(deliveries) > Duration::ZERO);
    }
}

/// The name of a directory in `.mq/with`: what it says can be said again, and makes sense.
pub fn words_of_properties(input: &[u8]) {
    let Ok(attributes) = words::attributes_of(input) else { return };
    let encode = |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let mut again = Vec::new();
    for (name, value) in &attributes {
        assert!(name.len() <= 255 && !name.contains('\0'), "an attribute that no file can have: {name:?}");
        let word = match name.strip_prefix(PREFIX) {
            Some("dedup_id") => "id".to_owned(),
            Some(own) => own.to_owned(),
            None => format!("header.{}", name.strip_prefix("user.").expect("an attribute of the user's")),
        };
        let plain = [word.as_bytes(), b"=", value].concat();
        if !word.contains('=') {
            assert_eq!(words::word(&plain).expect("the same word, not encoded"), (name.clone(), value.clone()));
        }
        again.push(format!("{}={}", encode(word.as_bytes()), encode(value)));
    }
    assert_eq!(words::attributes_of(again.join(",").as_bytes()).expect("the same words, encoded"), attributes);
    treatment(&Properties::of(&attributes));
}

/// What properties say is within their limits at any time.
fn treatment(properties: &Properties) {
    assert!(properties.dedup_id.as_ref().is_none_or(|id| (1..=LONGEST_ID).contains(&id.len())));
    for now in [0, 1, 1_769_846_400_000, u64::MAX] {
        assert!(properties.due(now).is_none_or(|due| due > now));
        let expires = properties.expires(now, Duration::from_secs(9));
        assert!(expires >= now && expires <= now.saturating_add(9000));
    }
    for priorities in 1..=10 {
        assert!(properties.order(priorities) < priorities);
    }
}

/// Durations and instants: what is accepted is printed so that it means the same again.
pub fn times(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(parsed) = duration::parse(text) {
        assert!(parsed <= duration::LONGEST && parsed.subsec_nanos().is_multiple_of(1_000_000));
        assert_eq!(duration::parse(&duration::format(parsed)).expect("what is printed is accepted"), parsed);
    }
    let mut properties = Properties::default();
    if properties.set("deliver_at", input).is_ok() {
        let at = properties.deliver_at.expect("what was set");
        properties.set("deliver_at", rfc3339(at).as_bytes()).expect("what is printed is accepted");
        assert_eq!(properties.deliver_at, Some(at));
    }
    for name in ["priority", "delay", "ttl", "dedup_id"] {
        let before = properties.clone();
        if properties.set(name, input).is_err() {
            assert_eq!(properties, before, "a refused property changed something");
        }
    }
    treatment(&properties);
}

/// Records, of every kind and version: what is read is written so that it is the same when read again. The first byte
/// says which kind.
pub fn records(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    macro_rules! check {
        ($decode:path) => {
            if let Ok(read) = $decode(bytes) {
                let written = record::encode(&read);
                assert_eq!(written[0], record::VERSION);
                let again = $decode(&written).expect("what was written is read");
                assert_eq!(again, read);
                assert_eq!(record::encode(&again), written);
            }
        };
    }
    match kind % 4 {
        0 => {
            check!(record::decode_message);
            if let Ok(message) = record::decode_message(bytes) {
                assert!(State::ALL.contains(&message.state()));
                treatment(&Properties::of(&message.attributes));
            }
        }
        1 => check!(record::decode_queue),
        2 => check!(record::decode_counters),
        _ => check!(record::decode_draft),
    }
}

/// Keys: those that are read are those that are written, they sort as what they say, and prefixes hold what they should.
pub fn keys_of_the_store(input: &[u8]) {
    if let Some((due, kind, id)) = keys::parse_deadline(input) {
        assert_eq!(keys::deadline(due, kind, id)[..], *input);
    }
    if let Some((queue, state)) = keys::parse_purge(input) {
        assert_eq!(keys::purge(queue, state)[1..], input[1..]);
    }
    if let Some(position) = keys::indexed_position(input) {
        assert!(position <= keys::LAST_POSITION);
        assert_eq!((keys::order_of(position), keys::seq_of(position)), (input[9], keys::last_number(input).unwrap()));
    }
    let after = keys::after_prefix(input);
    assert!(after.is_empty() || after.as_slice() > input);
    assert!(after.is_empty() || [input, &[0xff; 300]].concat() < after);

    let mut numbers = Numbers(input);
    let kinds = [
        DeadlineKind::Lease,
        DeadlineKind::Draft,
        DeadlineKind::Deliver,
        DeadlineKind::TimeToLive,
        DeadlineKind::Duplicate,
        DeadlineKind::Batch,
    ];
    let mut deadline = || {
        let (due, kind, id) = (numbers.number(), usize::from(numbers.byte()) % kinds.len(), numbers.number());
        let key = keys::deadline(due, kinds[kind], id);
        assert_eq!(keys::parse_deadline(&key), Some((due, kinds[kind], id)));
        ((due, kind, id), key)
    };
    let (one, other) = (deadline(), deadline());
    assert_eq!(one.0.cmp(&other.0), one.1.cmp(&other.1));

    let mut place = || {
        let (queue, state) = (numbers.number(), State::ALL[usize::from(numbers.byte()) % 4]);
        let (order, seq) = (numbers.byte() % 10, numbers.number() % (LARGEST_SEQ + 1));
        let at = keys::position(order, seq);
        assert!(at < keys::LAST_POSITION && (keys::order_of(at), keys::seq_of(at)) == (order, seq));
        let key = keys::index(queue, state, at);
        assert_eq!(keys::indexed_position(&key), Some(at));
        assert!(key.starts_with(&keys::indexed(queue, state)));
        assert!(key.starts_with(&keys::indexed_order(queue, state, order)));
        assert_eq!(keys::parse_purge(&keys::purge(queue, state)), Some((queue, state)));
        assert_eq!(keys::last_number(&keys::body(seq)), Some(seq));
        ((queue, state as u8, order, seq), key)
    };
    let (one, other) = (place(), place());
    assert_eq!(one.0.cmp(&other.0), one.1.cmp(&other.1));
}

/// Names in a queue: what is listed is found again, sorts as it is delivered, and fits into a directory.
pub fn names(input: &[u8]) {
    let mut numbers = Numbers(input);
    let (seq, other) = (numbers.number() % (LARGEST_SEQ + 1), numbers.number() % (LARGEST_SEQ + 1));
    let priority = numbers.byte() % 16;
    let order = (priority < 10).then_some(priority);
    for name in [input, numbers.0] {
        let given = |_| true;
        let bare = stripped(name, given);
        assert_eq!(stripped(bare, given), bare);
        assert!(name.ends_with(bare));
        assert!(!matches!(classify(bare), Name::Sequence { .. }), "a prefix is left");
        match classify(name) {
            Name::Control => assert_eq!(name, name::CONTROL),
            Name::Draft(whole) => assert!(whole == name && name[0] == b'.'),
            Name::Plain(whole) => assert!(whole == name && bare == name),
            Name::Sequence { seq, .. } => assert!(seq <= LARGEST_SEQ),
        }
        let shown = listed(order, seq, bare);
        let called = (!bare.is_empty()).then_some(bare);
        assert_eq!(classify(&shown), Name::Sequence { seq, delivery: None, name: called });
        assert_eq!(stripped(&shown, given), bare);
        let delivery = Delivery::of(other);
        let claimed = delivered(order, seq, delivery, called);
        assert!(claimed.len() <= 255 && !claimed.contains(&b'\n'));
        let told = matches!(classify(&claimed), Name::Sequence { seq: known, delivery: Some(of), name }
            if known == seq && of == delivery && name.is_none_or(|name| name == bare));
        assert!(told, "{claimed:?}");
        if name::check_producer_name(bare, order.is_some()).is_ok() {
            assert!(shown.len() <= 255);
        }
        let next = listed(order, other, name);
        if seq != other {
            assert_eq!(shown.cmp(&next), seq.cmp(&other));
        }
    }
}

/// Node ids: the kernel's number stands for one node, and only for that.
pub fn nodes(input: &[u8]) {
    let mut numbers = Numbers(input);
    let (id, number) = (numbers.number(), numbers.number() >> 8);
    if let Some(node) = Node::from_id(id) {
        assert_eq!(Node::from_id(node.id()), Some(node));
        // Of these there is one, whatever the number; and the first lane of lines has a short form.
        if !matches!(node, Node::Version | Node::Metrics | Node::Backup | Node::Lines(_, 0)) {
            assert_eq!(node.id(), id);
        }
    }
    for via in [Via::Queue, Via::Bare, Via::Claimed, Via::Dead, Via::Peek, Via::Delayed] {
        let (shown, granted) = (Node::Message(number, via), Node::Granted(number, via));
        assert_ne!(shown.id(), granted.id());
        for node in
            [shown, granted, Node::Queue(number), Node::Writer(number), Node::Draft(number), Node::Given(number)]
        {
            assert_eq!(Node::from_id(node.id()), Some(node));
        }
    }
}

/// A write to `.mq/lines`: what is taken is the front of what was written, in whole lines and at most one beginning, and
/// keeps to the limits; when nothing is taken that is told.
pub fn lines(input: &[u8]) {
    let mut numbers = Numbers(input);
    let (begun, longest) = (u64::from(numbers.byte()), u64::from(numbers.byte()));
    let data = numbers.0;
    let begun = if longest == 0 { begun } else { begun.min(longest) };
    let Ok(mut cut) = Cut::new(data, begun, longest) else {
        let first = data.iter().position(|byte| *byte == b'\n').map_or(data.len(), |end| end + 1);
        assert!(longest > 0 && begun + first as u64 > longest, "refused though it fits");
        return;
    };
    let whole = [cut.lines.concat(), cut.rest.to_vec()].concat();
    assert_eq!(whole, data[..cut.length()]);
    assert!(cut.length() > 0 || data.is_empty());
    assert!(cut.lines.len() <= LINES_AT_ONCE && !cut.rest.contains(&b'\n'));
    for (at, line) in cut.lines.iter().enumerate() {
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        let before = if at == 0 { begun } else { 0 };
        assert!(longest == 0 || before + line.len() as u64 <= longest);
    }
    let count = usize::from(numbers.byte());
    let all = cut.lines.len();
    cut.shorten(count);
    assert_eq!(cut.lines.len(), all.min(count));
    assert!(data.starts_with(&cut.lines.concat()));
}

/// What a server of STOMP sends: frames within their limits, the same ones however the bytes are cut, and the same again when they
/// are written anew; or none.
#[cfg(feature = "link-stomp")]
pub fn stomp_frame(input: &[u8]) {
    let mut numbers = Numbers(input);
    let piece = usize::from(numbers.byte()).max(1);
    let limits = Limits { head: 300, headers: 8, body: 200 };
    let decode = |bytes: &[u8], piece: usize| {
        // Each with whether it was too large; then its body is put together here.
        let (mut decoder, mut frames) = (Decoder::new(limits), Vec::<(Frame, bool)>::new());
        for piece in bytes.chunks(piece) {
            decoder.feed(piece);
            loop {
                match decoder.take() {
                    Ok(Some(Piece::Frame(frame))) => frames.push((frame, false)),
                    Ok(Some(Piece::Large(frame))) => frames.push((frame, true)),
                    Ok(Some(Piece::Body(more))) => frames.last_mut().expect("it has begun").0.body.extend(more),
                    Ok(Some(Piece::End)) => assert!(frames.last().is_some_and(|(_, large)| *large)),
                    Ok(None) => break,
                    Err(_) => return (frames, false),
                }
            }
        }
        (frames, true)
    };
    let (frames, sound) = decode(numbers.0, numbers.0.len().max(1));
    let cut = decode(numbers.0, piece);
    // What has come whole before what is no frame is taken in any case.
    assert!(!sound || cut == (frames.clone(), true), "{frames:?} and {cut:?}");
    for (frame, large) in frames {
        if large {
            assert!(frame.command == "MESSAGE");
            continue;
        }
        assert!(frame.headers.len() <= limits.headers && frame.body.len() <= limits.body);
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        if matches!(frame.command.as_str(), "CONNECT" | "CONNECTED") {
            continue; // without escapes not everything can be written
        }
        let roomy = Limits { head: 4 * limits.head, ..limits };
        let mut decoder = Decoder::new(roomy);
        decoder.feed(&bytes);
        assert_eq!(decoder.take().ok().flatten(), Some(Piece::Frame(frame)));
    }
}

#[cfg(test)]
#[path = "replay.rs"]
mod replay;
