//! Where and why a message became a dead letter, as it is remembered with the message.

use crate::error::{Error, Result};

use super::record::Death;
use super::{Of, Store};

/// A message remembers so many entries of its deaths.
pub const DEATHS: usize = 16;

/// What a worker said is no longer than this, in bytes.
pub const LONGEST_ERROR: usize = 1024;

/// Of the path of a queue that a message died in, so many bytes are remembered: its last ones.
const LONGEST_PATH: usize = 1024;

/// The reason of deaths that are summed up.
const SEVERAL: &str = "several";

/// The end of a text, no longer than what is remembered of a path.
pub fn short(text: &str) -> String {
    let from = text.len().saturating_sub(LONGEST_PATH);
    let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text[from..].to_owned()
}

/// Adds a death in a queue, with the path that it has now, to those that a message remembers.
pub(super) fn note(deaths: &mut Vec<Death>, (queue, path): (u64, &str), reason: &str, now: u64) {
    let before = deaths.iter().position(|death| death.queue == queue && death.reason == reason);
    let (count, first) = before.map(|at| deaths.remove(at)).map_or((0, now), |death| (death.count, death.first));
    let (path, reason, count) = (short(path), reason.to_owned(), count.saturating_add(1));
    deaths.push(Death { queue, path, reason, count, first, last: now, unclaimed: true });
    if deaths.len() > DEATHS {
        let (older, old) = (deaths.remove(0), &mut deaths[0]);
        *old = Death {
            queue: 0,
            path: String::new(),
            reason: SEVERAL.to_owned(),
            count: older.count.saturating_add(old.count),
            first: older.first.min(old.first),
            last: older.last.max(old.last),
            unclaimed: older.unclaimed || old.unclaimed,
        };
    }
}

/// Whether a message may have died in a queue and not have been claimed since.
pub(super) fn goes_round(deaths: &[Death], queue: u64) -> bool {
    // Of what is summed up it is not known any more where it was; a way so long leads round, too.
    deaths.iter().any(|death| death.unclaimed && (death.queue == queue || death.queue == 0))
}

impl Store {
    /// Sets what a worker said of a message when it failed, of which the end is kept ([`LONGEST_ERROR`]); empty: nothing.
    pub fn set_last_error(&self, seq: u64, of: Of, said: &[u8], now: u64) -> Result<()> {
        let said = &said[said.len().saturating_sub(LONGEST_ERROR)..];
        let altered = self.alter(seq, now, |record, _| {
            if !of.is(record) {
                return Err(Error::NotFound);
            }
            record.last_error = said.to_vec();
            Ok(())
        });
        altered.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_are_counted_by_queue_and_reason_and_the_oldest_are_summed_up() {
        let mut deaths = Vec::new();
        note(&mut deaths, (7, "q"), "expired", 10);
        note(&mut deaths, (8, "r"), "expired", 20);
        note(&mut deaths, (7, "renamed"), "expired", 30);
        let told = |death: &Death| (death.path.clone(), death.count, death.first, death.last);
        assert_eq!(
            deaths.iter().map(told).collect::<Vec<_>>(),
            [("r".into(), 1, 20, 20), ("renamed".into(), 2, 10, 30)]
        );
        deaths[0].unclaimed = false;
        assert!(goes_round(&deaths, 7) && !goes_round(&deaths, 8) && !goes_round(&deaths, 9));
        for queue in 100..116 {
            note(&mut deaths, (queue, "many"), "rejected", queue);
        }
        assert_eq!(deaths.len(), DEATHS);
        let first = &deaths[0];
        assert_eq!((first.reason.as_str(), first.count, first.first, first.last), (SEVERAL, 4, 10, 100));
        assert!(goes_round(&deaths, 9), "its way is too long to be known");
    }

    #[test]
    fn of_a_long_path_the_end_is_remembered() {
        let path = format!("{}/é", "é".repeat(600));
        assert!(short(&path).len() <= LONGEST_PATH && short(&path).ends_with("é/é") && short("q") == "q");
    }
}
