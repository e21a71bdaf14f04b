//! Node ids: what the kernel calls a file by. An id says by itself what it stands for, so no table of them is needed, and
//! none is ever given to something else: the numbers in it are never used twice.
//!
//! The top byte is the kind; the rest a queue, a sequence number, a writer or a draft. The same message has a different id
//! on each path that leads to it, because `open` gets an id only and must do a different thing on each.

use crate::queue::delivery::Delivery;
use crate::store::ROOT;

/// The path on which a message was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// By its listed name in the queue.
    Queue,
    /// In the queue by the name that its producer gave it.
    Bare,
    /// In `.mq/claimed`.
    Claimed,
    /// In `.mq/dead`.
    Dead,
    /// In `.mq/peek`.
    Peek,
    /// In `.mq/delayed`.
    Delayed,
}

impl Via {
    const ALL: [Via; 6] = [Via::Queue, Via::Bare, Via::Claimed, Via::Dead, Via::Peek, Via::Delayed];

    fn code(self) -> u64 {
        self as u64
    }

    fn from_code(code: u64) -> Option<Via> {
        Self::ALL.into_iter().find(|via| via.code() == code)
    }
}

/// What a node id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// A queue's directory, or the root's.
    Queue(u64),
    /// A queue's `.mq`.
    Control(u64),
    /// A queue's `.mq/peek`.
    Peek(u64),
    /// A queue's `.mq/claimed`.
    Claimed(u64),
    /// A queue's `.mq/dead`.
    Dead(u64),
    /// A queue's `.mq/delayed`.
    Delayed(u64),
    /// A queue's `.mq/batch`.
    Batches(u64),
    /// A batch that is being prepared.
    Batch(u64),
    /// A queue's `.mq/with`.
    With(u64),
    /// A directory in `.mq/with`, by a number that stands for the properties that its name says.
    Given(u64),
    /// A queue's `.mq/claim`.
    Claim(u64),
    /// A queue's `.mq/pop`.
    Pop(u64),
    /// A queue's `.mq/lines`. In a queue that lets its producers wait each lookup finds another of the same: the kernel lets
    /// only one at a time write to an inode, and who waits behind another one could not be interrupted. 0 is the first.
    Lines(u64, u32),
    /// A queue's `.mq/purge`.
    Purge(u64),
    /// A queue's `.mq/nack`.
    Nack(u64),
    /// A queue's `.mq/config`.
    Config(u64),
    /// A queue's `.mq/stats`, or the whole mount's.
    Stats(u64),
    /// The mount's `.mq/version`.
    Version,
    /// The mount's `.mq/metrics`.
    Metrics,
    /// The mount's `.mq/backup`.
    Backup,
    /// A committed message.
    Message(u64, Via),
    /// The same as somebody sees it whom its mode would refuse, but who may consume. The kernel decides by the mode that a
    /// node shows to everybody, so those to whom more is shown get a node of their own.
    Granted(u64, Via),
    /// A message, granted or not, as it is opened for reading and writing, to lock it: see [`super::locking`]. Only a lookup
    /// answers it and only an open is asked of it.
    Locked(u64, Via, bool),
    /// A message in `.mq/claimed` by a path that names the delivery. With `true`, as somebody sees it whom its mode would refuse,
    /// but who may consume.
    Delivery(Delivery, bool),
    /// A message that is being written.
    Writer(u64),
    /// The same by the name that its session gave it.
    Unfinished(u64),
    /// A message that has left, by the name that its session gave it. The number is the table's of such names.
    Gone(u64),
    /// A draft.
    Draft(u64),
}

const KIND_SHIFT: u32 = 56;
const NUMBER: u64 = (1 << KIND_SHIFT) - 1;
/// Numbers of queues below this many bits leave room for another number beside them.
const QUEUE_BITS: u32 = 36;
/// The largest of those.
const LANES: u32 = (1 << (KIND_SHIFT - QUEUE_BITS)) - 1;

impl Node {
    /// The root of the mount; the kernel demands that its id is 1.
    pub const ROOT: Node = Node::Queue(ROOT);

    /// The id that the kernel gets.
    pub fn id(self) -> u64 {
        let (kind, number) = match self {
            Node::Queue(queue) => (0, queue),
            Node::Control(queue) => (1, queue),
            Node::Peek(queue) => (2, queue),
            Node::Claimed(queue) => (3, queue),
            Node::Dead(queue) => (4, queue),
            Node::Delayed(queue) => (5, queue),
            Node::Batches(queue) => (6, queue),
            Node::With(queue) => (7, queue),
            Node::Config(queue) => (8, queue),
            Node::Stats(queue) => (9, queue),
            Node::Version => (10, 0),
            Node::Claim(queue) => (11, queue),
            Node::Pop(queue) => (12, queue),
            Node::Lines(queue, lane) if lane == 0 || queue >> QUEUE_BITS > 0 => (13, queue),
            Node::Lines(queue, lane) => (37, u64::from(lane & LANES) << QUEUE_BITS | queue),
            Node::Purge(queue) => (14, queue),
            Node::Metrics => (15, 0),
            Node::Message(seq, via) => (16 + via.code(), seq),
            Node::Granted(seq, via) => (24 + via.code(), seq),
            Node::Writer(id) => (32, id),
            Node::Draft(id) => (33, id),
            Node::Batch(id) => (34, id),
            Node::Given(id) => (35, id),
            Node::Backup => (36, 0),
            Node::Locked(seq, via, false) => (40 + via.code(), seq),
            Node::Locked(seq, via, true) => (48 + via.code(), seq),
            Node::Nack(queue) => (64, queue),
            Node::Unfinished(id) => (38, id),
            Node::Gone(number) => (39, number),
            Node::Delivery(delivery, granted) => (65 + u64::from(granted), delivery.bits()),
        };
        (kind << KIND_SHIFT) | (number & NUMBER)
    }

    /// What `stat` shows as the number of its inode: the same for all nodes of one file.
    pub fn inode(self) -> u64 {
        match self.plain() {
            Node::Lines(queue, _) => Node::Lines(queue, 0).id(),
            Node::Unfinished(id) => Node::Writer(id).id(),
            node => node.id(),
        }
    }

    /// The same for all that does not depend on how it is opened.
    pub fn plain(self) -> Node {
        match self {
            Node::Locked(seq, via, false) => Node::Message(seq, via),
            Node::Locked(seq, via, true) => Node::Granted(seq, via),
            node => node,
        }
    }

    /// What an id stands for; `None` for one that was never given out.
    pub fn from_id(id: u64) -> Option<Node> {
        let number = id & NUMBER;
        Some(match id >> KIND_SHIFT {
            0 => Node::Queue(number),
            1 => Node::Control(number),
            2 => Node::Peek(number),
            3 => Node::Claimed(number),
            4 => Node::Dead(number),
            5 => Node::Delayed(number),
            6 => Node::Batches(number),
            7 => Node::With(number),
            8 => Node::Config(number),
            9 => Node::Stats(number),
            10 => Node::Version,
            11 => Node::Claim(number),
            12 => Node::Pop(number),
            13 => Node::Lines(number, 0),
            14 => Node::Purge(number),
            15 => Node::Metrics,
            kind @ 16..24 => Node::Message(number, Via::from_code(kind - 16)?),
            kind @ 24..32 => Node::Granted(number, Via::from_code(kind - 24)?),
            32 => Node::Writer(number),
            33 => Node::Draft(number),
            34 => Node::Batch(number),
            35 => Node::Given(number),
            36 => Node::Backup,
            37 => Node::Lines(number & ((1 << QUEUE_BITS) - 1), (number >> QUEUE_BITS) as u32),
            kind @ 40..48 => Node::Locked(number, Via::from_code(kind - 40)?, false),
            kind @ 48..56 => Node::Locked(number, Via::from_code(kind - 48)?, true),
            kind @ 65..67 if Delivery::of(number).bits() == number => Node::Delivery(Delivery::of(number), kind == 66),
            64 => Node::Nack(number),
            38 => Node::Unfinished(number),
            39 => Node::Gone(number),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_the_root_is_1() {
        let mut nodes: Vec<Node> = Via::ALL.iter().map(|via| Node::Message(7, *via)).collect();
        nodes.extend(Via::ALL.iter().map(|via| Node::Granted(7, *via)));
        nodes.extend(Via::ALL.iter().flat_map(|via| [true, false].map(|granted| Node::Locked(7, *via, granted))));
        nodes.extend([Node::Queue(7), Node::Control(7), Node::Peek(7), Node::Claimed(7), Node::Dead(7)]);
        nodes.extend([
            Node::Config(7),
            Node::Stats(7),
            Node::Version,
            Node::Metrics,
            Node::Backup,
            Node::Writer(7),
            Node::Draft(7),
        ]);
        nodes.extend([false, true].map(|granted| Node::Delivery(Delivery::of(u64::MAX), granted)));
        nodes.extend([Node::Delayed(7), Node::Batches(7), Node::Batch(7), Node::With(7), Node::Given(7)]);
        nodes.extend([
            Node::Claim(7),
            Node::Pop(7),
            Node::Lines(7, 0),
            Node::Lines(7, 9),
            Node::Lines(7, LANES),
            Node::Purge(7),
            Node::Nack(7),
            Node::Unfinished(7),
            Node::Gone(7),
        ]);
        for node in nodes {
            assert_eq!(Node::from_id(node.id()), Some(node));
        }
        assert_eq!(Node::ROOT.id(), 1);
        assert_eq!(Node::Locked(7, Via::Queue, false).inode(), Node::Message(7, Via::Queue).id());
        assert_eq!(Node::Locked(7, Via::Peek, true).inode(), Node::Granted(7, Via::Peek).id());
        assert_eq!(Node::Lines(7, 9).inode(), Node::Lines(7, 0).id());
        assert_eq!(Node::Unfinished(7).inode(), Node::Writer(7).id());
        assert_eq!(Node::from_id(u64::MAX), None);
    }
}
