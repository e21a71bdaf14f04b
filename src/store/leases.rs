//! Leases when the clock was set back.
//!
//! A lease ends at an instant of the wall clock. If that was wrong, and ahead, when a message was claimed, the lease would last
//! until the clock is there again, which may be years.

use crate::error::{Error, Result};
use crate::queue::properties::ms;
use crate::queue::state::State;

use super::Store;

/// So many claimed messages are looked at in one step.
const AT_ONCE: usize = 256;

impl Store {
    /// Lets the leases of claims that began after `now`, because the clock was set back since, end when one that begins now
    /// would, at the latest. Gives how many leases became shorter.
    pub fn shorten_leases(&self, now: u64) -> Result<usize> {
        let mut shortened = 0;
        for queue in self.all_queues()? {
            let mut after = 0;
            loop {
                let mut claimed = Vec::new();
                let listed = self.list(queue, State::Claimed, after, |entry| {
                    after = entry.position;
                    claimed.push(entry.id);
                    claimed.len() < AT_ONCE
                });
                match listed {
                    Err(Error::NotFound) => break, // the queue was removed
                    listed => listed?,
                }
                for seq in &claimed {
                    match self.shorten_lease(*seq, now) {
                        Ok(()) => shortened += 1,
                        Err(Error::NotFound) => {}
                        Err(error @ Error::Damaged(_)) => tracing::error!(seq, %error, "lease not looked at"),
                        Err(error) => return Err(error),
                    }
                }
                if claimed.len() < AT_ONCE {
                    break;
                }
            }
        }
        Ok(shortened)
    }

    /// [`Error::NotFound`] when there is nothing to shorten.
    fn shorten_lease(&self, seq: u64, now: u64) -> Result<()> {
        let later = |at: Option<u64>| at.filter(|at| *at > now).ok_or(Error::NotFound);
        later(self.message(seq)?.claim.map(|claim| claim.at))?;
        let altered = self.alter(seq, now, |record, holder| {
            let claim = record.claim.as_mut().filter(|claim| claim.at > now).ok_or(Error::NotFound)?;
            let latest = now.saturating_add(ms(holder.config.visibility_timeout));
            if claim.deadline <= latest {
                return Err(Error::NotFound);
            }
            claim.deadline = latest;
            Ok(())
        });
        altered.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::super::NewBody;
    use super::super::tests::{NOBODY, message, open, queue};

    #[test]
    fn only_claims_of_the_future_end_earlier_and_not_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let q = queue(&store, "q");
        let claim = |at| {
            let seq = store.enqueue(message(&store, q, "m"), NewBody::Inline(b""), false, at).unwrap().seq().unwrap();
            store.claim(q, seq, NOBODY, at).unwrap();
            seq
        };
        let (lease, far) = (30_000, 10_000_000);
        let (past, future) = (claim(1000), claim(far));
        let deadline = |seq| store.message(seq).unwrap().claim.map(|claim| claim.deadline);
        assert_eq!(store.shorten_leases(2000).unwrap(), 1);
        assert_eq!((deadline(past), deadline(future)), (Some(1000 + lease), Some(2000 + lease)));
        assert_eq!(store.shorten_leases(2500).unwrap(), 0, "no lease becomes longer");
        let due: Vec<_> = store.due(2000 + lease, None, 10).unwrap().iter().map(|due| (due.at, due.id)).collect();
        assert_eq!(due, [(1000 + lease, past), (2000 + lease, future)]);
        store.expire(future, 2000 + lease, 2000 + lease).unwrap();
        assert_eq!(store.queue(q).unwrap().counters.ready, 1);
    }
}
