//! A mark and what it stands for are enqueued in one step: what is up to the mark is there, and nothing else.

use super::checker::{Case, Violation};

/// The number of a batch, by the id of one of its files.
fn number(id: &str) -> Option<u64> {
    id.split('.').nth(2)?.parse().ok()
}

/// The messages that are there, or missing, against the mark of their queue.
pub fn check(case: &Case<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (id, history) in &case.messages {
        let mark = id.split('.').next().and_then(|queue| case.marks.get(queue)).copied();
        let (Some(mark), Some(number)) = (mark, number(id)) else { continue };
        // A power cut takes both.
        let there = history.seen.iter().any(|sight| case.same_life(sight.asked, u64::MAX));
        let why = match number <= mark {
            true if history.seen.is_empty() => format!("the mark is {mark}, and it was not enqueued"),
            false if there => format!("enqueued, and the mark is {mark}"),
            _ => continue,
        };
        found.push(Violation { rule: "unmarked", what: (*id).to_owned(), why });
    }
    found
}
