//! What has come from the broker and is not acknowledged there.

use std::io;
use std::time::{Duration, Instant};

use super::super::local::batch::Batch;
use super::super::local::queue::Queue;
use super::super::local::room::Room;
use super::super::mark::Identity;
use super::super::peer::Came;
use super::super::properties::Arrival;
use super::super::settings::Settings;

/// While more is there at once, a batch becomes so many times as old as otherwise.
const MOST_LINGERS: u32 = 10;

/// What has come.
#[derive(Default)]
pub struct Gathered {
    /// The batch that it is in.
    pub batch: Option<Batch>,
    /// What is in the batch, or done with otherwise.
    pub fresh: Vec<Identity>,
    /// What is acknowledged when it is enqueued.
    pub receipt: Option<u64>,
    /// When the first came.
    pub since: Option<Instant>,
    /// What the queue has said for this batch.
    asked: Option<Asked>,
}

/// What a queue is asked once for each batch.
#[derive(Clone, Copy)]
pub struct Asked {
    /// Whether it looks for duplicates itself.
    pub dedup: bool,
    /// How much it holds.
    pub room: Room,
}

impl Gathered {
    /// What the queue says.
    pub fn ask(&mut self, queue: &Queue) -> Asked {
        *self.asked.get_or_insert_with(|| {
            let dedup = !matches!(queue.text("user.mq.dedup_window").as_str(), "" | "0s");
            Asked { dedup, room: Room::of(queue) }
        })
    }

    fn room(&self) -> Room {
        self.asked.map_or_else(Room::default, |asked| asked.room)
    }

    /// Something has come, and is in the batch or done with otherwise.
    pub fn note(&mut self, came: &Came) {
        self.since.get_or_insert_with(Instant::now);
        self.receipt = Some(came.receipt);
    }

    /// Whether the batch has to be enqueued before this can be added.
    pub fn is_full_for(&self, arrival: &Arrival, size: u64) -> bool {
        let room = self.room();
        let full = |batch: &Batch| batch.is_full_for(arrival) || !room.is_enough_for(batch.bytes() + size);
        self.batch.as_ref().is_some_and(full)
    }

    /// Whether it is time to enqueue it: it is large enough, or old enough. While there is `more` at once, it may become older: each
    /// batch costs the broker an answer and the queue a sync, whatever its size.
    pub fn is_due(&self, settings: &Settings, more: bool) -> bool {
        let room = self.room();
        let large = self.batch.as_ref().is_some_and(|batch| {
            let (files, bytes) = (batch.files(), batch.bytes());
            files >= settings.batch || bytes >= settings.window_bytes || room.is_taken_by(files, bytes)
        });
        let linger = if more { settings.linger.saturating_mul(MOST_LINGERS) } else { settings.linger };
        large || self.since.is_some_and(|since| since.elapsed() >= linger)
    }

    /// How long it can wait; nothing when there is nothing.
    pub fn left(&self, settings: &Settings) -> Option<Duration> {
        self.since.map(|since| settings.linger.saturating_sub(since.elapsed()))
    }

    /// Which part of the queue the batch is.
    pub fn part(&self) -> f64 {
        self.batch.as_ref().map_or(0.0, |batch| self.room().part(batch.files(), batch.bytes()))
    }

    /// Adds a message to the batch, which is made if there is none.
    pub fn add(&mut self, queue: &Queue, link: &str, arrival: &Arrival, body: &[u8]) -> io::Result<()> {
        let batch = match &mut self.batch {
            Some(batch) => batch,
            None => self.batch.insert(Batch::new(queue, link, queue.text("user.mq.names") == "keep")?),
        };
        batch.add(arrival, body)
    }

    /// All of it is done with. A batch that has been made and is empty is used again.
    pub fn is_done(&mut self) {
        self.batch = self.batch.take().filter(|batch| batch.files() == 0);
        self.fresh.clear();
        (self.since, self.asked) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_at_once_is_waited_for_but_not_for_ever() {
        let settings = Settings { linger: Duration::from_secs(6), ..Settings::default() };
        let due = |age: u64, more: bool| {
            let since = Instant::now().checked_sub(Duration::from_millis(age));
            assert!(since.is_some(), "the machine has run for long enough");
            Gathered { since, ..Gathered::default() }.is_due(&settings, more)
        };
        assert_eq!([due(10, false), due(10, true)], [false, false]);
        assert_eq!([due(6500, false), due(6500, true)], [true, false]);
        assert_eq!([due(61_000, false), due(61_000, true)], [true, true]);
        assert!(!Gathered::default().is_due(&settings, false), "there is nothing");
    }
}
