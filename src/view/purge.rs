//! A queue's `.mq/purge`: what is written names the states whose messages are to vanish.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::clock;
use crate::error::{Error, Result};
use crate::on_behalf;
use crate::queue::config::Durability;
use crate::queue::state::State;
use crate::store::{Done, Remains};

use super::access::Caller;
use super::handles::Handle;
use super::offload::{By, Call, once};
use super::open::Opened;
use super::{View, process};

/// `purge`, open for writing.
pub struct Purger {
    queue: u64,
    uid: u32,
    pid: u32,
}

/// What is to be purged.
#[derive(Debug, Default, PartialEq, Eq)]
struct What {
    states: Vec<State>,
    drafts: bool,
}

impl What {
    /// Words, with white space between them.
    fn parse(text: &[u8]) -> Result<Self> {
        let refused = |word: &str| {
            let known = "ready, claimed, delayed, dead, drafts and all";
            Error::Invalid(format!("purge: unknown word `{word}`: known are {known}"))
        };
        let text = std::str::from_utf8(text).map_err(|_| refused("(not UTF-8)"))?;
        let mut what = Self::default();
        for word in text.split_whitespace() {
            match (word, State::ALL.into_iter().find(|state| state.word() == word)) {
                ("all", _) => what = Self { states: State::ALL.to_vec(), drafts: true },
                ("drafts", _) => what.drafts = true,
                (_, Some(state)) if what.states.contains(&state) => {}
                (_, Some(state)) => what.states.push(state),
                (_, None) => return Err(refused(word)),
            }
        }
        Ok(what)
    }
}

impl View {
    /// Opens a queue's `purge` for writing.
    pub(super) fn open_purge(&self, caller: &Caller, queue: u64) -> Result<Opened> {
        if !self.owner(&self.store.queue(queue)?).is_owner(caller) {
            return Err(Error::AccessDenied);
        }
        let purger = Purger { queue, uid: caller.uid, pid: process::tgid(caller.pid) };
        Ok(Opened { direct: true, ..Opened::plain(self.handles.add(caller, Handle::Purge(purger))) })
    }

    /// Purges what a write of the thread `tid` to `purge` names. Another thread does it, because it also clears away what is left;
    /// `done` when nobody can see the messages any more, and that is as durable as the queue promises.
    pub(super) fn purge(self: &Arc<Self>, purger: &Purger, tid: u32, text: &[u8], done: Done) {
        let what = match What::parse(text) {
            Ok(what) => what,
            Err(error) => {
                tracing::warn!(queue = self.store.label(purger.queue), uid = purger.uid, %error, "purge refused");
                return done(Err(error));
            }
        };
        let (view, by) = (self.clone(), Purger { ..*purger });
        let user = purger.uid;
        let work = move |turn| match turn {
            Call::Go => view.purge_and_clear(&by, &what, done),
            Call::Drop(why) => done(Err(why)),
        };
        self.purging.run(By { user, thread: tid }, once(work));
    }

    /// Runs what nobody waits for on a thread of its own.
    pub(super) fn in_background(&self, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let user = on_behalf::user();
        let thread = self.store.alarm().spawn("mqfs-background", move || on_behalf::of(user, work))?;
        let mut threads = self.purges.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    fn purge_and_clear(&self, by: &Purger, what: &What, done: Done) {
        let remains = match self.purge_now(by, what) {
            Ok(remains) => remains,
            Err(error) => return done(Err(error)),
        };
        match self.store.config(by.queue) {
            Ok(config) if config.durability == Durability::Sync => self.store.after_sync(done),
            _ => done(Ok(())),
        }
        if let Err(error) = self.clear(remains) {
            tracing::error!(queue = self.store.label(by.queue), %error, "what was purged is not cleared away before the next start");
        }
    }

    fn purge_now(&self, by: &Purger, what: &What) -> Result<Remains<'_>> {
        let Purger { queue, uid, pid } = *by;
        let (messages, remains) = self.store.purge(queue, &what.states, clock::now_ms())?;
        if !what.states.is_empty() {
            let states: Vec<&str> = what.states.iter().map(|state| state.word()).collect();
            tracing::info!(queue = self.store.label(queue), uid, pid, states = states.join(" "), messages, "purged");
        }
        if what.drafts {
            let drafts = self.purge_drafts(queue)? + self.purge_batches(queue)?;
            tracing::info!(queue = self.store.label(queue), uid, pid, drafts, "drafts purged");
        }
        Ok(remains)
    }

    /// Removes the drafts of a queue that nobody has open; gives how many.
    fn purge_drafts(&self, queue: u64) -> Result<u64> {
        const AT_ONCE: usize = 256;
        let (mut after, mut removed) = (0, 0);
        loop {
            let mut found = Vec::new();
            self.store.list_drafts(queue, after, |entry| {
                found.push(entry.id);
                found.len() < AT_ONCE
            })?;
            let Some(last) = found.last() else { return Ok(removed) };
            after = *last;
            for id in found {
                // Nobody opens it while this is held.
                let drafts = self.drafts.lock();
                if drafts.contains_key(&id) {
                    continue;
                }
                match self.store.remove_draft(id, clock::now_ms()) {
                    Ok(()) => removed += 1,
                    Err(Error::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn clear(&self, mut remains: Remains<'_>) -> Result<()> {
        while remains.clear_some()? {
            if self.going_away.load(Ordering::SeqCst) {
                return Ok(()); // the rest is cleared after the next start
            }
        }
        remains.finish()
    }

    /// Clears away what purges before this mount have left.
    pub(super) fn clear_left(&self) {
        match self.store.clear_left(|| !self.going_away.load(Ordering::SeqCst)) {
            Ok(0) => {}
            Ok(messages) => tracing::info!(messages, "cleared away messages that were purged before this mount"),
            Err(error) => tracing::error!(%error, "what was purged before this mount is not cleared away"),
        }
        if let Err(error) = self.store.count_messages(|| !self.going_away.load(Ordering::SeqCst)) {
            tracing::error!(%error, "what users have in a store of an earlier version is not counted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_may_come_in_any_number_and_on_any_lines() {
        let what = |text: &str| What::parse(text.as_bytes()).unwrap();
        assert_eq!(what("ready"), What { states: vec![State::Ready], drafts: false });
        assert_eq!(
            what(" dead\nclaimed dead\tdrafts\n"),
            What { states: vec![State::Dead, State::Claimed], drafts: true }
        );
        assert_eq!(what("all\n"), What { states: State::ALL.to_vec(), drafts: true });
        assert_eq!(what("all dead"), what("all"));
        assert_eq!(what("\n"), What::default());
    }

    #[test]
    fn an_unknown_word_is_refused() {
        for text in [&b"everything"[..], b"ready dead!", b"Ready", b"\xff", b"ready,dead"] {
            assert!(matches!(What::parse(text), Err(Error::Invalid(_))), "{text:?}");
        }
    }
}
