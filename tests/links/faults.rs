//! What is done to a link, its mount, its connection and its broker.

use std::time::Duration;

use super::ends::{IN, OUT};
use super::proxy::{BROKER, LINK};
use crate::extra::Random;

/// Something that goes wrong. What has a side concerns one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its connections end.
    Cut(usize),
    /// They are reset.
    Reset(usize),
    /// They end after so many bytes more.
    CutAfter(usize, u64),
    /// One end, of the link or of the broker, is told that nothing more comes.
    HalfClose(usize, usize),
    /// What comes from this end is held up, for so long.
    Stall(usize, usize, Duration),
    /// What comes from both.
    StallBoth(usize, Duration),
    /// Its connections end, and it is not let in for so long.
    Close(usize, Duration),
    /// The link is killed.
    KillLink(usize),
    /// It is asked to end.
    EndLink(usize),
    /// The mqfs that serves its mount is killed.
    KillMqfs(usize),
    /// Its queue is paused for so long.
    Pause(usize, Duration),
    /// The broker is killed.
    KillBroker,
}

/// What each episode begins with, in some order.
pub const FIRST: [Fault; 7] = [
    Fault::KillLink(OUT),
    Fault::KillLink(IN),
    Fault::KillMqfs(OUT),
    Fault::KillMqfs(IN),
    Fault::Cut(OUT),
    Fault::Cut(IN),
    Fault::HalfClose(OUT, LINK),
];

impl Fault {
    /// Any. One in so many is the broker's end.
    pub fn any(random: &mut Random, broker: u64) -> Fault {
        if random.below(broker) == 0 {
            return Fault::KillBroker;
        }
        let side = [OUT, IN][random.below(2) as usize];
        let end = [LINK, BROKER][random.below(2) as usize];
        // Most are short; some are longer than an answer is waited for.
        let most = if random.below(8) == 0 { 5000 } else { 600 };
        let duration = Duration::from_millis(random.below(most));
        match random.below(100) {
            0..14 => Fault::Cut(side),
            14..24 => Fault::Reset(side),
            24..40 => Fault::CutAfter(side, random.below(20_000)),
            40..50 => Fault::HalfClose(side, end),
            50..60 => Fault::Stall(side, end, duration),
            60..66 => Fault::StallBoth(side, duration),
            66..72 => Fault::Close(side, duration),
            72..84 => Fault::KillLink(side),
            84..88 => Fault::EndLink(side),
            88..96 => Fault::KillMqfs(side),
            _ => Fault::Pause(side, duration),
        }
    }

    /// Its kind, in the journal.
    pub fn kind(self) -> &'static str {
        match self {
            Fault::Cut(_) => "cut",
            Fault::Reset(_) => "reset",
            Fault::CutAfter(..) => "cut in the middle",
            Fault::HalfClose(..) => "half-close",
            Fault::Stall(..) => "stall one way",
            Fault::StallBoth(..) => "stall",
            Fault::Close(..) => "let nobody in",
            Fault::KillLink(_) => "kill link",
            Fault::EndLink(_) => "end link",
            Fault::KillMqfs(_) => "kill mqfs",
            Fault::Pause(..) => "pause",
            Fault::KillBroker => "kill broker",
        }
    }

    /// What it concerns.
    pub fn side(self) -> Option<usize> {
        match self {
            Fault::Cut(side)
            | Fault::Reset(side)
            | Fault::CutAfter(side, _)
            | Fault::HalfClose(side, _)
            | Fault::Stall(side, ..)
            | Fault::StallBoth(side, _)
            | Fault::Close(side, _)
            | Fault::KillLink(side)
            | Fault::EndLink(side)
            | Fault::KillMqfs(side)
            | Fault::Pause(side, _) => Some(side),
            Fault::KillBroker => None,
        }
    }
}
