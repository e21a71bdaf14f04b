//! The thread that does what is due: leases that end, drafts that have been left lying.

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::state::State;
use crate::store::{DeadlineKind, Due, Wake};

use super::{View, process};

/// So many deadlines are dealt with before the store is asked again.
const AT_ONCE: usize = 1024;

impl View {
    /// Sleeps until the next deadline and deals with it, until the store is closed.
    pub(super) fn keep_deadlines(&self) {
        // Whatever became due while the store was closed.
        self.deal_with_due();
        while self.store.wait_for_deadline(clock::now_ms) == Wake::Look {
            self.deal_with_due();
        }
    }

    fn deal_with_due(&self) {
        let now = clock::now_ms();
        let due = match self.store.due(now, AT_ONCE) {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(%error, "deadlines cannot be read");
                return;
            }
        };
        for due in due {
            let dealt = match due.kind {
                DeadlineKind::Lease => self.lease_due(&due, now),
                DeadlineKind::Draft => self.draft_due(&due, now),
            };
            match dealt {
                // Acked, renewed or returned since the deadlines were read.
                Ok(()) | Err(Error::NotFound) => {}
                Err(error) => tracing::error!(?due, %error, "deadline not dealt with"),
            }
        }
    }

    fn lease_due(&self, due: &Due, now: u64) -> Result<()> {
        let message = self.store.message(due.id)?;
        let Some(claim) = message.claim.filter(|claim| claim.deadline == due.at) else {
            return self.store.drop_deadline(due);
        };
        let leases = self.handles.leases_of(due.id, (claim.at, message.deliveries));
        if leases.iter().any(|lease| lease.process.is_none_or(process::alive)) {
            let renewed = self.store.renew(due.id, now)?;
            if renewed.claim.is_some_and(|claim| claim.deadline > now) {
                return Ok(());
            }
        }
        let back = self.store.expire(due.id, due.at, now)?;
        tracing::info!(
            seq = due.id,
            queue = back.queue,
            deliveries = back.deliveries,
            to = back.state().word(),
            "lease expired"
        );
        if back.state() == State::Dead {
            tracing::warn!(seq = due.id, queue = back.queue, "deliveries used up: the message is a dead letter now");
        }
        Ok(())
    }

    fn draft_due(&self, due: &Due, now: u64) -> Result<()> {
        let draft = self.store.draft(due.id)?;
        if draft.due != due.at {
            return self.store.drop_deadline(due);
        }
        if self.drafts.lock().contains_key(&due.id) {
            let ttl = self.store.config(draft.queue)?.draft_ttl;
            let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1000);
            return self.store.postpone_draft(due.id, now.saturating_add(ttl));
        }
        self.store.remove_draft(due.id, now)?;
        tracing::warn!(queue = draft.queue, name = %String::from_utf8_lossy(&draft.name), "draft_ttl: draft removed");
        Ok(())
    }
}
