//! Where a partition of a topic goes on: by the mark of the queue, and by what the group has at the broker.
//!
//! The mark is what counts. The group's offsets say the same, later, for monitors and for other hosts. What this queue has committed
//! there has a note with it: of which queue, which topic and which mark it is. By that note a mark that is older, because the store
//! was restored from a backup, is told from one that is as it was: from the older mark everything is read again.

use super::super::mark::{Positions, Start};
use super::super::trouble::Trouble;

/// What the group has at the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The next offset.
    pub next: u64,
    /// What was written beside it.
    pub note: Vec<u8>,
}

/// What is written beside what is committed, by the queue that is called `origin`: the topic's id, and what the mark says.
pub fn note(origin: &str, topic: &str, mark: Option<u64>) -> String {
    let mark = mark.map_or("-".to_owned(), |next| next.to_string());
    format!("mqfs {origin} {topic} {mark}")
}

/// What is known of a partition that is to be read.
#[derive(Clone, Debug)]
pub struct Partition<'a> {
    /// Its number.
    pub number: i32,
    /// Its first offset.
    pub first: u64,
    /// The offset that its next record will have, or a later one.
    pub end: u64,
    /// What the group has.
    pub committed: Option<Committed>,
    /// What the queue has, of this topic.
    pub mark: &'a Positions,
    /// The topic's id.
    pub topic: &'a str,
    /// What the queue is told apart from others by.
    pub origin: &'a str,
}

impl Partition<'_> {
    /// Where to go on, and what was missed; an error when nobody has said what to do then.
    pub fn begin(&self, start: Start) -> Result<(u64, Option<String>), Trouble> {
        match self.position() {
            Some(next) => start.resume(next, self.first, self.end),
            // One that was added since has been missing nothing.
            None if !self.mark.is_empty() => Ok((self.first, None)),
            None => Ok((start.begin(self.first, self.end), None)),
        }
    }

    fn position(&self) -> Option<u64> {
        let mark = self.mark.next(self.number);
        let Some(committed) = &self.committed else { return mark };
        let own = format!("mqfs {} ", self.origin);
        let as_marked = committed.note == note(self.origin, self.topic, mark).as_bytes();
        match committed.note.starts_with(own.as_bytes()) && !as_marked {
            true => mark,
            // Another host has gone on from there. Or between the mark and this are only markers of transactions.
            false => mark.max(Some(committed.next)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where partition 0 goes on, by what the queue and the group have.
    fn begin(mark: &[(i32, u64)], committed: Option<(u64, &str)>, start: Start) -> Result<(u64, bool), String> {
        let mut positions = Positions::new("kafka", "T");
        mark.iter().for_each(|(partition, next)| positions.set(*partition, *next));
        let committed = committed.map(|(next, note)| Committed { next, note: note.as_bytes().to_vec() });
        let (mark, topic, origin) = (&positions, "T", "o");
        let partition = Partition { number: 0, first: 10, end: 20, committed, mark, topic, origin };
        partition.begin(start).map(|(at, told)| (at, told.is_some())).map_err(|trouble| trouble.text)
    }

    #[test]
    fn the_later_of_mark_and_group_counts() {
        for (mark, committed, expected, why) in [
            (15, None, 15, "nothing was committed"),
            (15, Some((17, "")), 17, "another program went on"),
            (15, Some((17, "mqfs other T 17")), 17, "another host went on"),
            (17, Some((15, "mqfs o T 15")), 17, "the commit was lost"),
            (15, Some((17, "mqfs o T 15")), 17, "only markers in between"),
            (15, Some((17, "mqfs o T 17")), 15, "the store was restored"),
            (15, Some((17, "mqfs o T0 15")), 15, "another topic"),
        ] {
            assert_eq!(begin(&[(0, mark)], committed, Start::Stop), Ok((expected, false)), "{why}");
        }
        assert_eq!(begin(&[], Some((17, "mqfs o T 17")), Start::Stop), Ok((10, false)), "the mark was removed");
        assert_eq!(begin(&[], Some((17, "")), Start::Latest), Ok((17, false)), "the group was read by another");
    }

    #[test]
    fn without_a_position_start_decides() {
        for (start, expected) in [(Start::Stop, 10), (Start::Earliest, 10), (Start::Latest, 20)] {
            assert_eq!(begin(&[], None, start), Ok((expected, false)));
            assert_eq!(begin(&[(1, 5)], None, start), Ok((10, false)), "the partition was added");
        }
    }

    #[test]
    fn what_was_missed_is_told() {
        for (mark, told) in [(7, "from 7 to 9"), (21, "ends at 20, before 21")] {
            assert!(begin(&[(0, mark)], None, Start::Stop).unwrap_err().contains(told));
            assert_eq!(begin(&[(0, mark)], None, Start::Earliest), Ok((10, true)));
            assert_eq!(begin(&[(0, mark)], None, Start::Latest), Ok((20, true)));
        }
    }
}
