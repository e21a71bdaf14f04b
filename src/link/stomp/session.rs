//! What is sent when, and what is known then: pure, so that every order of answers can be tested without a server.
//!
//! Where the server has transactions, messages go in transactions of [`TOGETHER`], two of them under way. Each message of one is
//! answered before the COMMIT is sent: ActiveMQ Classic says of a message that it refuses only that, and would commit the others.
//! Else each message is answered by itself. A receipt is the only thing that confirms.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::envelope::Envelope;
use super::super::peer::Outcome;
use super::address::Address;
use super::dialect::Dialect;
use super::frame::Frame;
use super::map;

/// So many messages are in a transaction.
const TOGETHER: usize = 100;
/// So many transactions are under way.
const UNDER_WAY: usize = 2;
/// Frames are handed over in pieces of some such size, in bytes.
const PIECE: usize = 64 * 1024;

/// Messages that are sent together: a transaction, or one message.
struct Unit {
    /// Which of the messages.
    messages: std::ops::Range<usize>,
    /// The transaction's name.
    transaction: Option<String>,
    /// So many of its frames are still to be answered.
    awaited: usize,
    /// The COMMIT has been sent, or there is none.
    closing: bool,
}

/// Several messages on their way, in order.
pub struct Session<'a> {
    address: &'a Address,
    dialect: Dialect,
    now: u64,
    messages: &'a [Arc<Envelope>],
    /// The number of the next receipt; receipts are never used twice in a connection.
    receipt: &'a mut u64,
    units: Vec<Unit>,
    /// Units before this one are confirmed.
    confirmed: usize,
    /// The next message that is to be sent.
    next: usize,
    /// Which unit a receipt belongs to.
    receipts: HashMap<u64, usize>,
}

impl<'a> Session<'a> {
    /// Begins; what is sent is what [`Session::write`] gives.
    pub fn new(
        messages: &'a [Arc<Envelope>],
        address: &'a Address,
        dialect: Dialect,
        now: u64,
        receipt: &'a mut u64,
    ) -> Session<'a> {
        let (units, receipts) = (Vec::new(), HashMap::new());
        Session { address, dialect, now, messages, receipt, units, confirmed: 0, next: 0, receipts }
    }

    /// One message goes by itself: no other is held up by it, and what the server says is said of it.
    fn alone(&self) -> bool {
        !self.dialect.has_transactions() || self.messages.len() == 1
    }

    fn receipt(&mut self, unit: usize) -> String {
        *self.receipt += 1;
        self.receipts.insert(*self.receipt, unit);
        self.receipt.to_string()
    }

    /// The bytes that may be sent now; empty when answers have to come first.
    pub fn write(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.commit(&mut bytes);
        let most = if self.alone() { self.messages.len() } else { UNDER_WAY };
        while bytes.len() < PIECE && self.next < self.messages.len() {
            // A transaction may be handed over in several pieces.
            let open = self.units.last().filter(|unit| !unit.closing && unit.messages.len() < TOGETHER);
            if open.is_none() {
                if self.units.len() - self.confirmed >= most {
                    break;
                }
                self.begin(&mut bytes);
            }
            self.send(&mut bytes);
        }
        bytes
    }

    fn begin(&mut self, bytes: &mut Vec<u8>) {
        let transaction = (!self.alone()).then(|| format!("t{}", *self.receipt + 1));
        if let Some(name) = &transaction {
            Frame::new("BEGIN").with("transaction", name).encode(bytes);
        }
        let closing = transaction.is_none();
        self.units.push(Unit { messages: self.next..self.next, transaction, awaited: 0, closing });
    }

    fn send(&mut self, bytes: &mut Vec<u8>) {
        let unit = self.units.len() - 1;
        let receipt = self.receipt(unit);
        let mut frame =
            map::send(&self.messages[self.next], self.address, self.dialect, self.now).with("receipt", receipt);
        if let Some(name) = &self.units[unit].transaction {
            frame = frame.with("transaction", name);
        }
        frame.encode(bytes);
        self.next += 1;
        self.units[unit].messages.end = self.next;
        self.units[unit].awaited += 1;
    }

    /// Commits transactions whose messages are all answered: in their order, which is that of the messages.
    fn commit(&mut self, bytes: &mut Vec<u8>) {
        for unit in self.confirmed..self.units.len() {
            let known = &self.units[unit];
            let whole = known.messages.len() == TOGETHER || known.messages.end == self.messages.len();
            match &known.transaction {
                Some(name) if !known.closing && known.awaited == 0 && whole => {
                    let frame = Frame::new("COMMIT").with("transaction", name);
                    let receipt = self.receipt(unit);
                    frame.with("receipt", receipt).encode(bytes);
                    self.units[unit].awaited = 1;
                    self.units[unit].closing = true;
                }
                Some(_) if !known.closing => return,
                _ => {}
            }
        }
    }

    /// A RECEIPT has come.
    pub fn heard(&mut self, receipt: &[u8]) {
        let number = std::str::from_utf8(receipt).ok().and_then(|text| text.parse().ok());
        // Another one's is of no concern.
        let Some(unit) = number.and_then(|number: u64| self.receipts.remove(&number)) else { return };
        self.units[unit].awaited -= 1;
        while self.units.get(self.confirmed).is_some_and(|unit| unit.closing && unit.awaited == 0) {
            self.confirmed += 1;
        }
    }

    /// What is known of the messages, from the first on: those after them are not confirmed.
    pub fn outcomes(&self) -> Vec<Outcome> {
        let confirmed = self.confirmed.checked_sub(1).map_or(0, |last| self.units[last].messages.end);
        vec![Outcome::Confirmed; confirmed]
    }

    /// Whether all are confirmed.
    pub fn is_done(&self) -> bool {
        self.outcomes().len() == self.messages.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::systems;
    use super::super::frame::{Decoder, Limits, Piece};
    use super::*;

    fn messages(count: usize) -> Vec<Arc<Envelope>> {
        (0..count)
            .map(|i| Arc::new(Envelope { body: vec![b'x'; 1000], id: i.to_string(), ..Envelope::default() }))
            .collect()
    }

    /// A server that keeps what is committed, and answers when it is asked to.
    #[derive(Default)]
    struct Server {
        /// What is in open transactions.
        open: HashMap<String, Vec<String>>,
        kept: Vec<String>,
        answers: Vec<String>,
        most_open: usize,
    }

    impl Server {
        fn take(&mut self, bytes: &[u8]) {
            let mut decoder = Decoder::new(Limits { head: 1000, headers: 20, body: 2000 });
            decoder.feed(bytes);
            while let Some(Piece::Frame(frame)) = decoder.take().unwrap() {
                let transaction = frame.text("transaction");
                match frame.command.as_str() {
                    "BEGIN" => assert!(self.open.insert(transaction, Vec::new()).is_none()),
                    "SEND" if transaction.is_empty() => self.kept.push(frame.text("mq-id")),
                    "SEND" => self.open.get_mut(&transaction).unwrap().push(frame.text("mq-id")),
                    "COMMIT" => self.kept.extend(self.open.remove(&transaction).unwrap()),
                    other => panic!("{other}"),
                }
                self.most_open = self.most_open.max(self.open.len());
                self.answers
                    .extend(frame.header("receipt").map(|receipt| String::from_utf8_lossy(receipt).into_owned()));
            }
        }
    }

    fn exchange(
        count: usize,
        dialect: Dialect,
        picks: &[usize],
        mut look: impl FnMut(&Server, &Session<'_>),
    ) -> Server {
        let address = Address::of(&systems::parse("activemq://h?queue=q").unwrap().0, true).unwrap();
        let (messages, mut receipt, mut server) = (messages(count), 0, Server::default());
        let mut session = Session::new(&messages, &address, dialect, 0, &mut receipt);
        let mut picks = picks.iter().cycle();
        while !session.is_done() {
            let bytes = session.write();
            assert!(!bytes.is_empty() || !server.answers.is_empty(), "nobody says anything");
            server.take(&bytes);
            look(&server, &session);
            // Answers come in any order, and some later.
            if bytes.is_empty() || picks.next().unwrap().is_multiple_of(2) {
                let at = picks.next().unwrap() % server.answers.len();
                session.heard(server.answers.remove(at).as_bytes());
            }
            look(&server, &session);
        }
        server
    }

    #[test]
    fn a_window_goes_in_transactions_of_which_two_are_under_way() {
        let server = exchange(256, Dialect::Artemis, &[1, 0], |_, _| {});
        assert_eq!(server.kept, (0..256).map(|i| i.to_string()).collect::<Vec<_>>());
        assert_eq!((server.most_open, server.open.len()), (2, 0));
    }

    #[test]
    fn one_message_or_a_server_without_transactions_needs_no_transaction() {
        for (count, dialect) in [(1, Dialect::Classic), (5, Dialect::Rabbit)] {
            let server = exchange(count, dialect, &[0], |server, _| assert_eq!(server.most_open, 0));
            assert_eq!(server.kept.len(), count);
        }
    }

    #[test]
    fn a_receipt_of_somebody_else_confirms_nothing() {
        let address = Address::of(&systems::parse("activemq://h?queue=q").unwrap().0, true).unwrap();
        let (messages, mut receipt) = (messages(1), 7);
        let mut session = Session::new(&messages, &address, Dialect::Classic, 0, &mut receipt);
        session.write();
        for other in [&b"7"[..], b"9", b"x", b""] {
            session.heard(other);
        }
        assert!(!session.is_done());
        session.heard(b"8");
        assert!(session.is_done());
    }

    proptest! {
        /// Whatever the order of answers: what is confirmed is kept, in order, and all is confirmed in the end.
        #[test]
        fn what_is_confirmed_is_kept(count in 1_usize..450, picks in proptest::collection::vec(any::<usize>(), 2..50)) {
            for dialect in [Dialect::Classic, Dialect::Rabbit] {
                // One that answers at times, at least.
                let picks: Vec<usize> = picks.iter().copied().chain([0, 0, 1]).collect();
                let server = exchange(count, dialect, &picks, |server, session| {
                    let confirmed = session.outcomes().len();
                    assert!(confirmed <= server.kept.len());
                });
                prop_assert_eq!(server.kept, (0..count).map(|i| i.to_string()).collect::<Vec<_>>());
            }
        }
    }
}
