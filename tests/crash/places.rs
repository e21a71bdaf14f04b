//! One message is in one place.
//!
//! Whenever a message goes to another queue, moved by somebody or as a dead letter, it gets a new and larger sequence number. So
//! where it was under a smaller number it is no longer once it was seen under a larger one, nor once a move from there has
//! returned; and a number changes only with the queue.

use super::checker::{Case, History, Sight, Violation, last_until};

/// What is wrong with the places of a message.
pub fn check(case: &Case<'_>, id: &str, message: &History) -> Vec<Violation> {
    doubled(case, id, message).into_iter().chain(back(case, id, message)).collect()
}

fn doubled(case: &Case<'_>, id: &str, message: &History) -> Option<Violation> {
    let numbered: Vec<(u64, &Sight)> = message.seen.iter().filter_map(|sight| Some((sight.seq?, sight))).collect();
    for (n, (seq, one)) in numbered.iter().enumerate() {
        let both = numbered[..n].iter().find(|(other_seq, other)| {
            let (smaller, larger) = if seq < other_seq { (one, other) } else { (other, one) };
            let stayed = message.moving.is_empty() && one.own == other.own;
            seq != other_seq
                && (stayed || smaller.asked > larger.at)
                && case.same_life(one.asked.min(other.asked), one.at.max(other.at))
        });
        if let Some((other, _)) = both {
            return Some(Violation { rule: "doubled", what: id.to_owned(), why: format!("as {other} and as {seq}") });
        }
    }
    None
}

/// A power cut may take a move back, until an fsync of the queue has returned.
fn back(case: &Case<'_>, id: &str, message: &History) -> Option<Violation> {
    let stays = |moved: &Moved, until: u64| {
        case.same_life(last_until(&message.moving, moved.at), if moved.synced { moved.at } else { until })
    };
    message.seen.iter().find_map(|sight| {
        let there = |moved: &&Moved| sight.seq.is_some_and(|seq| seq <= moved.seq) && moved.at < sight.asked;
        let moved = message.moved.iter().filter(there).find(|moved| stays(moved, sight.at))?;
        let why = format!("moved away from {} by {}, asked for there at {}", moved.seq, moved.at, sight.asked);
        Some(Violation { rule: "moved back", what: id.to_owned(), why })
    })
}

/// An acknowledged move.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// When it had returned.
    pub at: u64,
    /// The number that the message had before.
    pub seq: u64,
    /// It was synced by then.
    pub synced: bool,
}
