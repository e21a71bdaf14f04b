//! What waits for an instant when the clock was set back.
//!
//! A lease, a delay and the memory of a deduplication id end at an instant of the wall clock. If that was wrong, and ahead, when
//! the instant was reckoned, it would not come until the clock is there again, which may be years.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::queue::properties::Properties;
use crate::queue::state::State;

use super::Store;
use super::record::MessageRecord;

/// So many messages are looked at in one step.
const AT_ONCE: usize = 256;

impl Store {
    /// Lets leases, delays and the memory of deduplication ids that were reckoned from an instant after `now`, because the
    /// clock was set back since, last as long from now on as they were to last then. The instant that a producer asked for
    /// (`deliver_at`) stays. Gives how many end earlier.
    ///
    /// Only when a wait was reckoned tells: how long it is may have been another setting's doing.
    ///
    /// `opened`: the store was opened just now. Then there may be millions of delays and ids, and they are looked at only when
    /// a queue changed after `now`.
    pub fn shorten_waits(&self, opened: bool, now: impl Fn() -> u64) -> Result<usize> {
        let (mut shortened, mut ids) = (0, !opened);
        for queue in self.all_queues()? {
            shortened += self.shorten_in(queue, State::Claimed, &now)?;
            let changed = match self.queue(queue) {
                Ok(info) => info.counters.changed,
                Err(Error::NotFound) => continue, // the queue was removed
                Err(error) => return Err(error),
            };
            if !opened || changed > now() {
                shortened += self.shorten_in(queue, State::Delayed, &now)?;
                ids = true;
            }
        }
        Ok(shortened + if ids { self.shorten_memory(&now)? } else { 0 })
    }

    fn shorten_in(&self, queue: u64, state: State, now: &impl Fn() -> u64) -> Result<usize> {
        let (mut after, mut shortened) = (0, 0);
        loop {
            let mut found = Vec::new();
            let listed = self.list(queue, state, after, |entry| {
                after = entry.position;
                found.push(entry.id);
                found.len() < AT_ONCE
            });
            match listed {
                Err(Error::NotFound) => return Ok(shortened), // the queue was removed
                listed => listed?,
            }
            for seq in &found {
                match self.shorten_wait(*seq, now) {
                    Ok(()) => shortened += 1,
                    Err(Error::NotFound) => {}
                    Err(error @ Error::Damaged(_)) => {
                        tracing::error!(name = self.name_of(*seq), %error, "not looked at")
                    }
                    Err(error) => return Err(error),
                }
            }
            if found.len() < AT_ONCE {
                return Ok(shortened);
            }
        }
    }

    /// [`Error::NotFound`] when there is nothing to shorten.
    fn shorten_wait(&self, seq: u64, now: &impl Fn() -> u64) -> Result<()> {
        let record = self.message(seq)?;
        let message_ttl = self.config(record.queue)?.message_ttl;
        shortened(&record, message_ttl, now()).ok_or(Error::NotFound)?;
        let altered = self.alter(seq, now(), |record, holder| {
            *record = shortened(record, holder.config.message_ttl, now()).ok_or(Error::NotFound)?;
            Ok(())
        });
        altered.map(drop)
    }
}

/// The record of a message that waits as if that had begun `now`, when it has begun later; `None` when it has not.
fn shortened(record: &MessageRecord, message_ttl: Duration, now: u64) -> Option<MessageRecord> {
    let mut earlier = record.clone();
    if let Some(claim) = &mut earlier.claim {
        if claim.reckoned <= now {
            return None;
        }
        claim.deadline = now.saturating_add(claim.deadline.saturating_sub(claim.reckoned));
        claim.reckoned = now;
        return Some(earlier);
    }
    // What an earlier version left does not tell since when it waits, but at the earliest since it was enqueued.
    let since = record.since.max(record.enqueued_at);
    if record.state() != State::Delayed || since <= now {
        return None;
    }
    if record.deliveries > 0 || record.retrying {
        // It was given back; what its producer asked for was over then.
        earlier.due = now.saturating_add(record.due.saturating_sub(since));
    } else {
        let properties = Properties::of(&record.attributes);
        earlier.due = properties.due(now).unwrap_or(now);
        earlier.expires = properties.expires(earlier.due, message_ttl);
    }
    earlier.since = now;
    (earlier.due < record.due).then_some(earlier)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NOBODY, message, open, queue};
    use super::super::{Enqueued, Nack, NewBody, Of};
    use super::*;

    /// Of a clock that is wrong, and ahead.
    const FAR: u64 = 10_000_000_000;

    fn configured(store: &Store, lines: &str) -> u64 {
        let q = queue(store, "q");
        store
            .alter_queue(q, |record| {
                record.config.push_str(lines);
                Ok(())
            })
            .unwrap();
        q
    }

    fn enqueue(store: &Store, q: u64, properties: &[(&str, &str)], at: u64) -> Enqueued {
        let mut new = message(store, q, "m");
        new.attributes
            .extend(properties.iter().map(|(name, value)| (format!("user.mq.{name}"), value.as_bytes().into())));
        store.enqueue(new, NewBody::Inline(b"x"), false, at).unwrap()
    }

    #[test]
    fn only_claims_of_the_future_end_earlier_and_not_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = queue(&store, "q");
        let claim = |at| {
            let seq = enqueue(&store, q, &[], at).seq().unwrap();
            store.claim(q, seq, NOBODY, at).unwrap();
            seq
        };
        let (lease, far) = (30_000, 10_000_000);
        let (past, future) = (claim(1000), claim(far));
        let deadline = |seq| store.message(seq).unwrap().claim.map(|claim| claim.deadline);
        assert_eq!(store.shorten_waits(false, || 2000).unwrap(), 1);
        assert_eq!((deadline(past), deadline(future)), (Some(1000 + lease), Some(2000 + lease)));
        assert_eq!(store.shorten_waits(false, || 2500).unwrap(), 0, "no lease becomes longer");
        let due: Vec<_> = store.due(2000 + lease, None, 10).unwrap().iter().map(|due| (due.at, due.id)).collect();
        assert_eq!(due, [(1000 + lease, past), (2000 + lease, future)]);
        store.expire(future, 2000 + lease, 2000 + lease).unwrap();
        assert_eq!(store.queue(q).unwrap().counters.ready, 1);
    }

    /// A queue that is configured otherwise since is no clock that was set back.
    #[test]
    fn a_lease_or_a_retry_lasts_as_long_as_was_said_when_it_began() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = configured(&store, "visibility_timeout = 2h\nmax_lease = 1h\nretry_delay = 1h\n");
        let claimed = || {
            let seq = enqueue(&store, q, &[], 1000).seq().unwrap();
            let delivery = store.claim(q, seq, NOBODY, 1000).unwrap().claim.unwrap().delivery;
            (seq, delivery)
        };
        let ((held, _), (renewed, _), (nacked, _), (told, of)) = (claimed(), claimed(), claimed(), claimed());
        store.renew(renewed, Of::Any, 1500).unwrap();
        store.nack(q, nacked, Of::Any, true, 1500).unwrap();
        store.nack_as(q, told, of, Nack::In(Duration::from_secs(7200)), b"", 1500).unwrap();
        let lower = |record: &mut super::super::record::QueueRecord| {
            record.config.push_str("visibility_timeout = 1s\nmax_lease = 0s\nretry_delay = 1s\n");
            Ok(())
        };
        store.alter_queue(q, lower).unwrap();
        for opened in [true, false] {
            assert_eq!(store.shorten_waits(opened, || 2000).unwrap(), 0);
        }
        let waits = |seq| {
            let record = store.message(seq).unwrap();
            record.claim.map_or(record.due, |claim| claim.deadline)
        };
        assert_eq!([held, renewed].map(waits), [1000 + 7_200_000; 2]);
        assert_eq!([nacked, told].map(waits), [1500 + 3_600_000, 1500 + 7_200_000]);
        // And when the clock was set back, each lasts as long as it was to.
        assert_eq!(store.shorten_waits(false, || 1200).unwrap(), 2);
        assert_eq!([nacked, told].map(waits), [1200 + 3_600_000, 1200 + 7_200_000]);
    }

    /// However the lease was renewed meanwhile.
    #[test]
    fn a_claim_of_before_that_was_renewed_while_the_clock_was_ahead_ends_earlier() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = configured(&store, "max_lease = 1m\n");
        let seq = enqueue(&store, q, &[], 1000).seq().unwrap();
        store.claim(q, seq, NOBODY, 1000).unwrap();
        let start = std::time::Instant::now();
        store.deadlines.look(1000, start);
        store.deadlines.look(FAR, start + Duration::from_secs(1));
        let deadline = |record: MessageRecord| record.claim.unwrap().deadline;
        assert_eq!(deadline(store.renew(seq, Of::Any, FAR).unwrap()), FAR + 30_000);
        assert_eq!(store.shorten_waits(false, || 2000).unwrap(), 1);
        assert_eq!(deadline(store.message(seq).unwrap()), 32_000);
    }

    /// Whether the clock is set back while the store is open or while it is not.
    #[test]
    fn a_delay_or_a_retry_that_began_in_the_future_begins_anew_and_an_instant_that_was_asked_for_stays() {
        for opened in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path());
            let q = configured(&store, "retry_delay = 60s\n");
            let returned = |later: bool| {
                let seq = enqueue(&store, q, &[], 1000).seq().unwrap();
                let claim = store.claim(q, seq, NOBODY, 1000).unwrap().claim.unwrap();
                if later {
                    store.nack(q, seq, Of::Any, true, FAR).unwrap();
                } else {
                    store.expire(seq, claim.deadline, FAR).unwrap();
                }
                seq
            };
            let asked = "2030-01-01T00:00:00Z";
            let (expired, nacked) = (returned(false), returned(true));
            let right = enqueue(&store, q, &[("delay", "1h")], 1500).seq().unwrap();
            let [delayed, absolute, both] = [
                &[("delay", "5s"), ("ttl", "3s")][..],
                &[("deliver_at", asked)],
                &[("deliver_at", asked), ("delay", "5s")],
            ]
            .map(|properties| enqueue(&store, q, properties, FAR).seq().unwrap());
            let due = |seq| store.message(seq).unwrap().due;
            let at = due(absolute);
            assert_eq!(store.shorten_waits(opened, || 2000).unwrap(), 3);
            assert_eq!([expired, nacked, right].map(due), [62_000, 62_000, 1500 + 3_600_000]);
            assert_eq!([delayed, absolute, both].map(due), [7000, at, at]);
            assert_eq!(store.message(delayed).unwrap().expires, 10_000);
            assert_eq!(store.shorten_waits(false, || 2500).unwrap(), 0, "no delay becomes longer");
            assert_eq!(store.due(62_000, None, 10).unwrap().len(), 4, "three are due, and a time to live is over");
        }
    }

    #[test]
    fn an_id_of_the_future_is_remembered_for_a_window_from_now_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = configured(&store, "dedup_window = 60s\n");
        let id = |id: &'static str| [("dedup_id", id)];
        assert!(enqueue(&store, q, &id("past"), 1000).seq().is_some());
        assert!(enqueue(&store, q, &id("future"), FAR).seq().is_some());
        assert_eq!(store.shorten_waits(true, || 2000).unwrap(), 1);
        assert_eq!(enqueue(&store, q, &id("past"), 60_999), Enqueued::Duplicate);
        assert_eq!(enqueue(&store, q, &id("future"), 61_999), Enqueued::Duplicate);
        let due: Vec<u64> = store.due(FAR * 2, None, 10).unwrap().iter().map(|due| due.at).collect();
        assert_eq!(due, [61_000, 62_000]);
        assert!(enqueue(&store, q, &id("future"), 62_000).seq().is_some());
    }

    /// How long an id is remembered was said when its message came, whatever `dedup_window` is by now.
    #[test]
    fn an_id_is_remembered_as_long_as_it_was_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = configured(&store, "dedup_window = 60s\n");
        let id = |id: &'static str| [("dedup_id", id)];
        assert!(enqueue(&store, q, &id("past"), 1000).seq().is_some());
        assert!(enqueue(&store, q, &id("future"), FAR).seq().is_some());
        let lowered = |record: &mut super::super::record::QueueRecord| {
            record.config = "dedup_window = 1s\n".to_owned();
            Ok(())
        };
        store.alter_queue(q, lowered).unwrap();
        assert_eq!(store.shorten_waits(true, || 2000).unwrap(), 1);
        assert_eq!(enqueue(&store, q, &id("past"), 60_999), Enqueued::Duplicate);
        assert_eq!(enqueue(&store, q, &id("future"), 61_999), Enqueued::Duplicate);
        assert!(enqueue(&store, q, &id("future"), 62_000).seq().is_some());
        // Set back once more, by less: it lasts from then on.
        assert_eq!(store.shorten_waits(true, || 61_500).unwrap(), 1);
        assert_eq!(enqueue(&store, q, &id("future"), 62_499), Enqueued::Duplicate);
        assert!(enqueue(&store, q, &id("future"), 62_500).seq().is_some());
    }

    /// However far the clock was set ahead, the worker that holds a message has worked for as long as it has.
    #[test]
    fn a_clock_that_leaps_ahead_takes_nothing_of_the_longest_lease() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = configured(&store, "max_lease = 1m\n");
        let claimed = |at| {
            let seq = enqueue(&store, q, &[], at).seq().unwrap();
            store.claim(q, seq, NOBODY, at).unwrap();
            seq
        };
        let renewed = |seq, now| store.renew(seq, Of::Any, now).unwrap().claim.unwrap().deadline;
        let start = std::time::Instant::now();
        let look = |now, after| store.deadlines.look(now, start + Duration::from_millis(after));
        look(1000, 0);
        let before = claimed(1500);
        look(2000, 1000);
        look(FAR, 2000); // and not 3000
        let after = claimed(FAR);
        assert_eq!(renewed(before, FAR + 10_000), FAR + 40_000);
        assert_eq!(renewed(before, FAR + 55_000), FAR + 58_500, "a minute after the claim");
        assert_eq!(renewed(after, FAR + 55_000), FAR + 60_000);
        look(4000, 3000); // set back again
        let right = claimed(4000);
        assert_eq!(renewed(right, 50_000), 64_000);
    }
}
