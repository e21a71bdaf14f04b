//! The mark of what comes from a log, which can be read again from any place: `v1 SYSTEM LOG PARTITION:NEXT ...`, with the number that
//! follows the last one that was enqueued, of each partition.
//!
//! Numbers are counted by a broker, so LOG names the incarnation: a log that was made anew under its old name counts anew.

use std::collections::BTreeMap;

use super::super::trouble::{Kind, Trouble};
use super::super::url::Target;

const VERSION: &str = "v1";

/// A place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Which part of the log; 0 where there is but one.
    pub partition: i32,
    /// The number there.
    pub number: u64,
}

/// Where a log goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions {
    system: String,
    log: String,
    next: BTreeMap<i32, u64>,
}

impl Positions {
    /// Nothing is enqueued of this incarnation of a log; neither word has white space.
    pub fn new(system: &str, log: &str) -> Positions {
        Positions { system: system.to_owned(), log: log.to_owned(), next: BTreeMap::new() }
    }

    /// Reads a mark. `None` when it is of another kind.
    pub fn parse(mark: &[u8]) -> Option<Positions> {
        let mut words = std::str::from_utf8(mark).ok()?.split(' ');
        words.next().filter(|version| *version == VERSION)?;
        let mut positions = Positions::new(words.next()?, words.next()?);
        for word in words {
            let (partition, next) = word.split_once(':')?;
            positions.next.insert(partition.parse().ok()?, next.parse().ok()?);
        }
        Some(positions)
    }

    /// Writes the mark.
    pub fn render(&self) -> String {
        let mut mark = format!("{VERSION} {} {}", self.system, self.log);
        self.next.iter().for_each(|(partition, next)| mark += &format!(" {partition}:{next}"));
        mark
    }

    /// Whether these are places of that incarnation.
    pub fn is_of(&self, system: &str, log: &str) -> bool {
        self.system == system && self.log == log
    }

    /// What follows in a partition, if anything was enqueued of it.
    pub fn next(&self, partition: i32) -> Option<u64> {
        self.next.get(&partition).copied()
    }

    /// Whether nothing was enqueued.
    pub fn is_empty(&self) -> bool {
        self.next.is_empty()
    }

    /// What is said to follow in a partition.
    pub fn set(&mut self, partition: i32, next: u64) {
        self.next.insert(partition, next);
    }

    /// Whether it was enqueued.
    pub fn has(&self, at: At) -> bool {
        self.next(at.partition).is_some_and(|next| at.number < next)
    }

    /// It will be enqueued, and with it all before it.
    pub fn add(&mut self, at: At) {
        let next = self.next.entry(at.partition).or_insert(0);
        *next = (*next).max(at.number + 1);
    }
}

/// Where a log is read from when its mark does not say, or cannot be followed: `start=` of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Without a mark, from the first message that there is. A mark that cannot be followed ends the link. What holds when nothing is
    /// said.
    Stop,
    /// From the first that there is.
    Earliest,
    /// From what comes next.
    Latest,
}

impl Start {
    /// What a URL says.
    pub fn of(target: &Target) -> Result<Start, Trouble> {
        match target.parameter("start") {
            None | Some("stop") => Ok(Start::Stop),
            Some("earliest") => Ok(Start::Earliest),
            Some("latest") => Ok(Start::Latest),
            Some(_) => Err(Trouble::usage(format_args!("{}: start: allowed are stop, earliest, latest", target.text))),
        }
    }

    /// Where to begin when there is no mark, in what has the numbers from `first` up to, and not including, `end`.
    pub fn begin(self, first: u64, end: u64) -> u64 {
        match self {
            Start::Stop | Start::Earliest => first,
            Start::Latest => end,
        }
    }

    /// Where to go on when the mark says `next`. What cannot be had any more is missed: that is the error, unless something else was
    /// said; then it is told.
    pub fn resume(self, next: u64, first: u64, end: u64) -> Result<(u64, Option<String>), Trouble> {
        let gap = if next < first {
            format!("{} messages were removed before they were taken in: from {next} to {}", first - next, first - 1)
        } else if next > end {
            format!("the log ends at {end}, before {next}, up to which messages were taken in: it was cut or made anew")
        } else {
            return Ok((next, None));
        };
        self.over(gap).map(|told| (self.begin(first, end), Some(told)))
    }

    /// What there is to tell of a gap that is gone over; the error when it is not to be.
    pub fn over(self, gap: String) -> Result<String, Trouble> {
        match self {
            Start::Stop => Err(Trouble::new(
                Kind::Gap,
                format_args!("{gap}; `start=earliest` or `start=latest` in the URL goes on from there"),
            )),
            Start::Earliest => Ok(format!("{gap}; going on with the first that there is")),
            Start::Latest => Ok(format!("{gap}; going on with what comes next")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_where_each_partition_goes_on() {
        let mut positions = Positions::new("kafka", "topic-id");
        for (partition, number) in [(1, 98), (0, 4710), (0, 7)] {
            positions.add(At { partition, number });
        }
        assert_eq!(positions.render(), "v1 kafka topic-id 0:4711 1:99");
        let read = Positions::parse(positions.render().as_bytes()).unwrap();
        assert_eq!(read, positions);
        let has = |partition, number| read.has(At { partition, number });
        assert!(has(0, 4710) && !has(0, 4711) && has(1, 0) && !has(2, 0));
        assert!(read.is_of("kafka", "topic-id") && !read.is_of("kafka", "other") && !read.is_of("nats", "topic-id"));
        assert_eq!(Positions::parse(b"v1 nats x"), Some(Positions::new("nats", "x")));
    }

    #[test]
    fn what_is_no_such_mark_is_not_taken_for_one() {
        for other in [&b""[..], b"v2 kafka x 0:1", b"v1 kafka", b"v1 kafka x 0", b"v1 kafka x 0:-1", b"\xff"] {
            assert_eq!(Positions::parse(other), None);
        }
    }

    #[test]
    fn a_gap_is_an_error_unless_it_is_gone_over() {
        for start in [Start::Stop, Start::Earliest, Start::Latest] {
            for next in [5, 7, 9] {
                assert_eq!(start.resume(next, 5, 9).unwrap(), (next, None));
            }
        }
        for (next, told) in [(3, "2 messages were removed before they were taken in: from 3 to 4"), (10, "ends at 9")] {
            let trouble = Start::Stop.resume(next, 5, 9).unwrap_err();
            assert!(trouble.kind == Kind::Gap && trouble.text.contains(told), "{trouble}");
            for (start, from) in [(Start::Earliest, 5), (Start::Latest, 9)] {
                let (begins, said) = start.resume(next, 5, 9).unwrap();
                assert!(begins == from && said.unwrap().contains(told));
            }
        }
        assert_eq!([Start::Stop, Start::Earliest, Start::Latest].map(|start| start.begin(5, 9)), [5, 5, 9]);
    }
}
