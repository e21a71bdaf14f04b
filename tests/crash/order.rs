//! First in, first out.
//!
//! - Of two messages of one producer, each of which was acknowledged before the next was offered, the first has the smaller
//!   sequence number; so have the files of a batch, by their names.
//! - Where one worker claims, the first deliveries of one producer's messages of one priority come in the order in which they
//!   were offered.

use std::collections::BTreeMap;

use super::checker::{Case, History, Violation};

/// The producer that a message's id tells, and the message's place among that producer's.
fn place(id: &str) -> (&str, Vec<u64>) {
    let producer = id.splitn(3, '.').take(2).map(str::len).sum::<usize>() + 1;
    let (producer, rest) = id.split_at_checked(producer).unwrap_or((id, ""));
    (producer, rest.split('.').filter_map(|number| number.parse().ok()).collect())
}

/// A producer's messages.
type Messages<'a> = Vec<(&'a str, &'a History)>;

/// The messages of each producer in the order in which they were offered.
fn by_producer<'a>(case: &'a Case<'_>) -> BTreeMap<&'a str, Messages<'a>> {
    let mut producers: BTreeMap<&str, Messages<'_>> = BTreeMap::new();
    for (id, history) in &case.messages {
        producers.entry(place(id).0).or_default().push((*id, history));
    }
    producers.values_mut().for_each(|messages| messages.sort_by_cached_key(|(id, _)| place(id).1));
    producers
}

/// The messages that are out of order.
pub fn check(case: &Case<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for messages in by_producer(case).values() {
        found.extend(by_number(case, messages));
        if messages.first().and_then(|(id, _)| case.promises(id)).is_some_and(|promises| promises.in_order) {
            found.extend(by_delivery(case, messages));
        }
    }
    found
}

fn by_number(case: &Case<'_>, messages: &[(&str, &History)]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut last: Option<(u64, u64, &str, &History)> = None;
    for (id, history) in messages {
        // What an async queue loses in a power cut may leave its number to another message.
        let certain = case.cuts.is_empty() || case.promises(id).is_some_and(|promises| promises.sync);
        let acknowledged = history.acknowledged.first().map(|(at, _)| *at);
        let own = || history.seen.iter().filter(|sight| sight.own);
        let seq = own().find_map(|sight| sight.seq).filter(|_| history.moving.is_empty());
        let (Some(acknowledged), Some(seq), true) = (acknowledged, seq, certain) else { continue };
        if let Some((before, smaller, other, its)) = last {
            let in_batch = history.batch.is_some() && history.batch == its.batch;
            let later = history.offered.first().is_some_and(|offered| before < *offered);
            if (in_batch || later) && smaller >= seq {
                found.push(disordered(id, format!("number {seq}, after {other} with {smaller}")));
            }
        }
        last = Some((acknowledged, seq, id, history));
    }
    found
}

fn by_delivery(case: &Case<'_>, messages: &[(&str, &History)]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut last: BTreeMap<u8, (u64, &str)> = BTreeMap::new();
    for (id, history) in messages.iter().filter(|(_, history)| history.delay == 0) {
        let Some(first) = history.seen.iter().find(|sight| sight.delivery == Some(1)) else { continue };
        let before = last.insert(history.priority, (first.at, id));
        if let Some((earlier, other)) = before
            && earlier > first.at
            && case.same_life(first.asked, earlier)
        {
            found.push(disordered(id, format!("delivered at {}, before {other} at {earlier}", first.at)));
        }
    }
    found
}

fn disordered(id: &str, why: String) -> Violation {
    Violation { rule: "disordered", what: id.to_owned(), why }
}
