//! Messages that may be gone before a worker acknowledges them, or must be: their time to live is over, or their queue was purged.

use super::checker::{Case, History, Violation};

/// A purge.
#[derive(Clone, Copy, Debug)]
pub struct Purge {
    /// When it began.
    pub began: u64,
    /// When it had returned, if it has.
    pub returned: Option<u64>,
    /// Of all states.
    pub all: bool,
}

impl Purge {
    /// When it certainly was over: it ends with mqfs.
    fn over(&self, case: &Case<'_>) -> u64 {
        let ended = case.mounted.iter().map(|(ended, _)| *ended).find(|ended| *ended > self.began);
        self.returned.or(ended).unwrap_or(u64::MAX)
    }
}

/// Whether a message that was offered, or seen, at a time may be gone without anybody's acknowledgement.
pub fn may_be(case: &Case<'_>, id: &str, message: &History, since: u64) -> bool {
    let drops = case.promises(id).is_some_and(|promises| promises.drops);
    let outlived = message.offered.first().is_some_and(|offered| offered + message.ttl < case.end);
    let mut purges = case.purges_of(id);
    (drops && message.ttl > 0 && outlived) || purges.any(|purge| since < purge.over(case))
}

/// The message that is there although it must be gone.
pub fn check(case: &Case<'_>, id: &str, message: &History) -> Option<Violation> {
    let found = |rule, why| Some(Violation { rule, what: id.to_owned(), why });
    let (acknowledged, _) = message.acknowledged.first()?;
    // After a crash just then its time may begin when mqfs is mounted again.
    let seen = message.seen.iter().map(|sight| sight.at).filter(|at| at > acknowledged).min();
    let mounted = case.mounted.iter().map(|(_, at)| *at).find(|at| at > acknowledged);
    if let (Some(enqueued), false, 1..) = (seen.into_iter().chain(mounted).min(), message.redriven, message.ttl) {
        let claims = message.seen.iter().filter(|sight| sight.delivery.is_some() && !sight.dead);
        if let Some(sight) = claims.into_iter().find(|sight| sight.asked > enqueued + message.ttl + 1000) {
            return found("stale", format!("enqueued by {enqueued}, asked for at {}", sight.asked));
        }
    }
    for purge in case.purges_of(id).filter(|purge| purge.all && *acknowledged < purge.began) {
        let Some(returned) = purge.returned.filter(|at| case.same_life(purge.began, *at)) else { continue };
        if let Some(sight) = message.seen.iter().find(|sight| sight.asked > returned) {
            return found("came back", format!("purged by {returned}, asked for at {}", sight.asked));
        }
    }
    None
}
