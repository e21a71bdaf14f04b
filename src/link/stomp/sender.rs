//! Sending to a server of STOMP: persistent, and confirmed by receipts.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver as Waiting};

use tokio::sync::Mutex;

use super::super::envelope::Envelope;
use super::super::net::{self, Net};
use super::super::peer::{self, Condition, Ends, Outcome, Sent};
use super::super::trouble::Trouble;
use super::address::Address;
use super::connection::{self, Connection, Heard};
use super::dialect::{self, Meaning};
use super::frame::Frame;
use super::session::Session;
use crate::clock;

/// A connection by which messages are sent.
pub struct Sender {
    line: Arc<Mutex<Line>>,
    address: Arc<Address>,
    condition: Condition,
}

struct Line {
    connection: Connection,
    /// How it ended when some of what was sent had been confirmed before: told the next time.
    ended: Option<Sent>,
}

impl Sender {
    /// Connects, and logs in.
    pub fn connect(net: &Net, ends: Ends<'_>) -> Result<Sender, Trouble> {
        let address = Address::of(ends.target, true)?;
        let tls = net::tls(ends.target, ends.settings)?;
        let limit = connection::ANSWER * 2 * ends.target.hosts.len() as u32;
        let condition = Condition::default();
        // For a receipt of each message and each transaction, so that what comes never holds up what is sent.
        let room = ends.settings.window * 2 + 16;
        let connection = net.wait(limit, connection::open(ends, &address, tls, room, &condition))??;
        let line = Arc::new(Mutex::new(Line { connection, ended: None }));
        Ok(Sender { line, address: Arc::new(address), condition })
    }
}

impl peer::Sender for Sender {
    fn send(&self, net: &Net, messages: Vec<Arc<Envelope>>) -> Waiting<Sent> {
        let (tell, told) = mpsc::channel();
        let (line, address) = (self.line.clone(), self.address.clone());
        net.handle().spawn(async move {
            let sent = line.lock().await.send(&address, &messages).await;
            let _ = tell.send(sent);
        });
        told
    }

    fn blocked(&self) -> Option<String> {
        self.condition.blocked()
    }

    /// While something is sent, that will tell.
    fn is_connected(&self) -> bool {
        self.trouble().is_none()
    }

    fn trouble(&self) -> Option<Trouble> {
        let mut line = self.line.try_lock().ok().filter(|line| line.ended.is_none())?;
        line.connection.trouble()
    }

    fn repeats_singly(&self) -> bool {
        true
    }

    fn close(self: Box<Self>, net: &Net) {
        // What is still being sent is not waited for.
        if let Ok(line) = Arc::try_unwrap(self.line) {
            let leaving = line.into_inner().connection.leave();
            let _ = net.wait(connection::ANSWER, leaving);
        }
    }
}

impl Line {
    async fn send(&mut self, address: &Address, messages: &[Arc<Envelope>]) -> Sent {
        if let Some(ended) = self.ended.take() {
            return ended;
        }
        let Connection { dialect, write, read, receipt, host, .. } = &mut self.connection;
        let mut session = Session::new(messages, address, *dialect, clock::now_ms(), receipt);
        let ended = loop {
            if session.is_done() {
                return Sent::Answered(session.outcomes());
            }
            let bytes = session.write();
            let came = if bytes.is_empty() || write.send(bytes).await.is_err() {
                Some(read.recv().await)
            } else {
                read.try_recv().ok().map(Some)
            };
            match came {
                None => {}
                Some(Some(Ok(Heard { frame, .. }))) => match frame.command.as_str() {
                    "RECEIPT" => session.heard(frame.header("receipt-id").unwrap_or_default()),
                    "ERROR" => {
                        let at = format!("{}:{}: ", host.name, host.port);
                        break verdict(&frame, &at, messages.len() == 1);
                    }
                    _ => {}
                },
                Some(Some(Err(trouble))) => break Sent::Lost(trouble),
                Some(None) => break Sent::Lost(Trouble::away("the connection is lost")),
            }
        };
        let confirmed = session.outcomes();
        if confirmed.is_empty() {
            return ended;
        }
        self.ended = Some(ended);
        Sent::Answered(confirmed)
    }
}

/// What an ERROR means for what was sent; the connection is not used any more. Of one message it is known that it is meant.
fn verdict(error: &Frame, at: &str, alone: bool) -> Sent {
    let words = dialect::words(error);
    match dialect::meaning(error) {
        Meaning::Full => Sent::Lost(Trouble::away(format_args!("{at}{words}"))),
        Meaning::Forbidden => Sent::Lost(Trouble::refusing(format_args!("{at}{words}"))),
        Meaning::Never => Sent::Objected(Outcome::Never(words)),
        Meaning::Unknown if alone => Sent::Objected(Outcome::Refused(words)),
        Meaning::Unknown => Sent::Objected(Outcome::Later(words)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::trouble::Kind;
    use super::*;

    /// Only what is known to be the message's fault is laid to it, and only when it was alone.
    #[test]
    fn an_error_is_laid_to_whom_it_is_about() {
        let of = |message: &str, alone| verdict(&Frame::new("ERROR").with("message", message), "h:1: ", alone);
        for alone in [true, false] {
            assert!(matches!(of("q is full", alone), Sent::Lost(trouble) if trouble.kind == Kind::Away));
            assert!(matches!(of("not authorized", alone), Sent::Lost(trouble) if trouble.kind == Kind::Refusing));
            assert!(matches!(of("The maximum was exceeded", alone), Sent::Objected(Outcome::Never(_))));
        }
        assert!(matches!(of("Error committing t1", true), Sent::Objected(Outcome::Refused(_))));
        assert!(matches!(of("Error committing t1", false), Sent::Objected(Outcome::Later(_))));
    }
}
