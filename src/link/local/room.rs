//! How much of a queue a batch may take. A queue with limits takes a batch as a whole or not at all, so one that is larger than the
//! queue would wait for ever.

use super::queue::Queue;

/// A batch is at most this part of what the queue holds in all, so that it finds room beside what is not worked off yet.
const PART: u64 = 4;

/// What a queue says of its limits; it is asked once for each batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// `max_messages`; 0 is no limit.
    messages: u64,
    /// `max_bytes`; 0 is no limit.
    bytes: u64,
}

impl Room {
    /// Asks the queue.
    pub fn of(queue: &Queue) -> Room {
        let number = |name: &str| queue.text(name).parse().unwrap_or(0);
        Room { messages: number("user.mq.max_messages"), bytes: number("user.mq.max_bytes") }
    }

    /// Whether a batch of so many messages, of so many bytes in all, should not become larger.
    pub fn is_taken_by(self, messages: usize, bytes: u64) -> bool {
        let over = |used: u64, limit: u64| limit > 0 && used >= (limit / PART).max(1);
        over(messages as u64, self.messages) || over(bytes, self.bytes)
    }

    /// Whether a batch of so many bytes is small enough.
    pub fn is_enough_for(self, bytes: u64) -> bool {
        self.bytes == 0 || bytes <= self.bytes / PART
    }

    /// Whether the queue has room for so many bytes when it is empty.
    pub fn holds(self, bytes: u64) -> bool {
        self.bytes == 0 || bytes <= self.bytes
    }

    /// `max_bytes`.
    pub fn max_bytes(self) -> u64 {
        self.bytes
    }

    /// Which part of the queue a batch is: 1 is all of it.
    pub fn part(self, messages: usize, bytes: u64) -> f64 {
        let of = |used: u64, limit: u64| if limit > 0 { used as f64 / limit as f64 } else { 0.0 };
        of(messages as u64, self.messages).max(of(bytes, self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_a_part_of_what_the_queue_holds() {
        let room = Room { messages: 100, bytes: 0 };
        assert!(!room.is_taken_by(24, 1 << 40) && room.is_taken_by(25, 0) && room.holds(u64::MAX));
        let room = Room { messages: 0, bytes: 10 };
        assert!(!room.is_taken_by(1000, 1) && room.is_taken_by(1, 2) && room.holds(10) && !room.holds(11));
        assert!(room.is_enough_for(2) && !room.is_enough_for(3) && Room::default().is_enough_for(u64::MAX));
        assert!(Room { messages: 2, bytes: 0 }.is_taken_by(1, 0), "one message is always enough");
        assert!(!Room::default().is_taken_by(usize::MAX, u64::MAX));
        let room = Room { messages: 10, bytes: 100 };
        assert_eq!([room.part(5, 10), room.part(1, 70), Room::default().part(9, 9)], [0.5, 0.7, 0.0]);
    }
}
