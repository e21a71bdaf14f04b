//! A queue's `.mq/nack`: what is written gives a claimed message back, or up, as its worker says.

use std::time::Duration;

use crate::clock;
use crate::error::{Error, Result};
use crate::queue::duration;
use crate::store::Nack;
use crate::store::record::MessageRecord;

use super::access::Caller;
use super::handles::Handle;
use super::open::Opened;
use super::{Node, View};

/// No write is longer, in bytes.
const LONGEST: usize = 4096;

/// `nack`, open for writing.
pub struct Nacker {
    queue: u64,
    opener: Caller,
}

/// What one write says: how, of which message, and what is kept with it.
#[derive(Debug, PartialEq, Eq)]
struct Order<'a> {
    how: Nack,
    name: &'a [u8],
    said: &'a [u8],
}

impl<'a> Order<'a> {
    /// `HOW NAME`, and from the second line on what was said.
    fn parse(text: &'a [u8]) -> Result<Self> {
        let refused = |why: &str| Error::Invalid(format!("nack: {why}"));
        let (line, said) = match text.iter().position(|byte| *byte == b'\n') {
            Some(end) => (&text[..end], &text[end + 1..]),
            None => (text, &text[text.len()..]),
        };
        let blank = line.iter().position(|byte| *byte == b' ');
        let (how, name) = blank.map(|at| (&line[..at], &line[at + 1..])).ok_or_else(|| refused("write HOW NAME"))?;
        let how = match std::str::from_utf8(how).map_err(|_| refused("not UTF-8"))? {
            "now" => Nack::Now,
            "later" => Nack::Later,
            "uncounted" => Nack::Uncounted,
            "dead" => Nack::Dead,
            delay => match duration::parse(delay) {
                Ok(Duration::ZERO) => Nack::Now,
                Ok(delay) => Nack::In(delay),
                Err(_) => {
                    let known = "now, later, uncounted, dead, or a duration";
                    return Err(refused(&format!("unknown word `{delay}`: known are {known}")));
                }
            },
        };
        // The path that `.mq/claim` answers is as good as the name.
        let name = name.strip_prefix(b".mq/claimed/").unwrap_or(name);
        Ok(Self { how, name, said })
    }
}

impl View {
    /// Opens a queue's `nack` for writing.
    pub(super) fn open_nack(&self, caller: &Caller, queue: u64) -> Result<Opened> {
        self.refuse_consuming(caller, queue)?;
        let nacker = Nacker { queue, opener: *caller };
        Ok(Opened { direct: true, ..Opened::plain(self.handles.add(caller, Handle::Nack(nacker))) })
    }

    /// Does what a write of the thread `tid` to `nack` says.
    pub(super) fn nack_as_told(&self, nacker: &Nacker, tid: u32, text: &[u8]) -> Result<()> {
        if text.len() > LONGEST {
            return Err(Error::MessageTooLarge);
        }
        let queue = nacker.queue;
        let caller = Caller { pid: tid, ..nacker.opener };
        let order = Order::parse(text).inspect_err(
            |error| tracing::warn!(queue = self.store.label(queue), uid = caller.uid, %error, "not given back"),
        )?;
        self.refuse_consuming(&caller, queue)?;
        let (seq, message, of) = self.find_in_state(&caller, Node::Claimed(queue), order.name)?;
        let delivery = message.claim.as_ref().map(|claim| claim.delivery).ok_or(Error::NotFound)?;
        if order.how == Nack::Uncounted && !self.holds(tid, seq, &message) {
            return Err(Error::NotPermitted("only the one who holds the claim may say that it does not count"));
        }
        let back = self.store.nack_as(queue, seq, delivery, order.how, order.said, clock::now_ms())?;
        self.note_own_end(of);
        self.log_dead_letter(queue, &back);
        self.announce(&back.record);
        Ok(())
    }

    /// Whether the process of a thread has claimed a message, or has it open and so keeps the lease alive.
    fn holds(&self, tid: u32, seq: u64, message: &MessageRecord) -> bool {
        let (Some(asker), Some(claim)) = (self.workers.worker(tid), &message.claim) else { return false };
        let leases = self.handles.leases_of(seq, claim.delivery);
        claim.process == Some(asker.process) || leases.iter().any(|lease| lease.process == Some(asker.process))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_and_which() {
        let order = |text: &'static str| Order::parse(text.as_bytes()).unwrap();
        let of =
            |how, name: &'static str, said: &'static str| Order { how, name: name.as_bytes(), said: said.as_bytes() };
        assert_eq!(order("dead a b.csv\n"), of(Nack::Dead, "a b.csv", ""));
        assert_eq!(order("10m .mq/claimed/1-a"), of(Nack::In(Duration::from_secs(600)), "1-a", ""));
        assert_eq!(order("later a\nexit code 1\nno\n"), of(Nack::Later, "a", "exit code 1\nno\n"));
        assert_eq!(order("0s a\n").how, Nack::Now);
        assert_eq!(order("uncounted a\n").how, Nack::Uncounted);
    }

    #[test]
    fn what_is_no_such_line_is_refused() {
        for text in ["", "a", "soon a\n", "10 a\n", " a\n"] {
            assert!(matches!(Order::parse(text.as_bytes()), Err(Error::Invalid(_))), "{text:?}");
        }
    }
}
