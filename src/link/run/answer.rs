//! Waiting for what the broker says of messages that were sent.

use std::sync::mpsc::{Receiver as Waiting, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::super::peer::{Sender, Sent};
use super::super::status::State;
use super::super::trouble::Trouble;
use super::session::Session;

/// How often it is looked what there is to tell while an answer of the broker is waited for.
const SHORT_TICK: Duration = Duration::from_millis(100);
/// How long the broker may take to confirm what is under way when the link is asked to end.
const DRAIN: Duration = Duration::from_secs(10);

/// What there is for an answer of the broker.
pub enum Answer {
    /// It has answered, or is gone.
    Is(Sent),
    /// It has not, for `confirm_timeout`.
    Late(Trouble),
    /// The link is to end without it.
    End,
}

/// Waits for the broker's answer. While it is away, or says that it takes nothing for now, it is waited for without limit, but not
/// when the link is to end by itself: it will confirm when that is over, and another connection would only send everything twice.
pub fn answer(session: &mut Session<'_, '_>, sender: &dyn Sender, sent: &Waiting<Sent>) -> Answer {
    let (mut since, mut progress, mut draining) = (Instant::now(), sender.progress(), None);
    loop {
        match sent.recv_timeout(SHORT_TICK) {
            Ok(sent) => {
                if matches!(session.voice.status.now.state, State::Blocked | State::Connecting) {
                    session.voice.well();
                }
                return Answer::Is(sent);
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Answer::Is(Sent::Lost(Trouble::away("the connection is lost")));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        match session.stop.asked() {
            0 => {}
            1 if draining.get_or_insert_with(Instant::now).elapsed() < DRAIN => {}
            _ => return Answer::End,
        }
        let waits = waits_for(sender);
        let confirms = std::mem::replace(&mut progress, sender.progress()) != progress;
        if confirms || (waits.is_some() && !session.until_empty) {
            since = Instant::now();
        }
        let limit = session.link.settings.confirm_timeout;
        let late = since.elapsed() > limit;
        match waits {
            Some((_, why)) if late => return Answer::Late(Trouble::away(why)),
            Some((state, why)) => session.voice.trouble(state, &why),
            None if late => {
                let text = format!("no confirm for {} s", limit.as_secs());
                if session.until_empty || !sender.is_patient() {
                    return Answer::Late(Trouble::away(text));
                }
                session.voice.trouble(State::Failing, &text);
            }
            None => {}
        }
        session.voice.tick();
    }
}

/// Why nothing is confirmed for now, if that is known: the broker is away, or says that it takes nothing.
fn waits_for(sender: &dyn Sender) -> Option<(State, String)> {
    let away = sender.away().map(|why| (State::Connecting, why));
    away.or_else(|| Some((State::Blocked, format!("the broker takes nothing: {}", sender.blocked()?))))
}
