//! Who may connect by CURVE: libzmq asks of each client, by a socket of its own context (ZAP, which is 27/ZAP of ZeroMQ).

use std::thread::JoinHandle;

use zmq::{Context, Error, POLLIN, Socket, SocketType};

/// Where libzmq asks.
const ASKED_AT: &str = "inproc://zeromq.zap.01";
/// Where the thread is told to end.
const END_AT: &str = "inproc://end";

/// A thread that answers for as long as this lives. The socket whose clients it looks at is closed before.
pub struct Door {
    /// Nothing is sent by it but that it is the end.
    end: Socket,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Has libzmq ask of everybody who connects to a socket that is not bound yet, and lets in those with these public keys.
    pub fn keep(context: &Context, socket: &Socket, allowed: Vec<Vec<u8>>) -> Result<Door, Error> {
        // Who shows a key is asked about in any case; without a domain nobody else would be.
        socket.set_zap_domain("mqfs")?;
        let asked = context.socket(SocketType::REP)?;
        asked.bind(ASKED_AT)?;
        let (end, ends) = (context.socket(SocketType::PAIR)?, context.socket(SocketType::PAIR)?);
        end.set_linger(0)?;
        end.bind(END_AT)?;
        ends.connect(END_AT)?;
        let run = move || while answer(&asked, &ends, &allowed).unwrap_or_else(|error| error == Error::EINTR) {};
        let thread = std::thread::Builder::new().name("link-zmq-door".to_owned()).spawn(run);
        Ok(Door { end, thread: Some(thread.map_err(|_| Error::EMTHREAD)?) })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = self.end.send("", 0);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for a question, and answers it; tells whether there may be another one.
fn answer(asked: &Socket, ends: &Socket, allowed: &[Vec<u8>]) -> Result<bool, Error> {
    let mut items = [asked.as_poll_item(POLLIN), ends.as_poll_item(POLLIN)];
    zmq::poll(&mut items, -1)?;
    if items[1].is_readable() {
        return Ok(false);
    }
    let question = asked.recv_multipart(0)?;
    asked.send_multipart(verdict(&question, allowed), 0)?;
    Ok(true)
}

/// The answer to: version, number, domain, address, identity, mechanism, and the key.
fn verdict(question: &[Vec<u8>], allowed: &[Vec<u8>]) -> [Vec<u8>; 6] {
    let known = match question {
        [_, _, _, _, _, mechanism, key] => mechanism == b"CURVE" && allowed.contains(key),
        _ => false,
    };
    let (code, text) = if known { ("200", "OK") } else { ("400", "its key is not known") };
    let number = question.get(1).cloned().unwrap_or_default();
    [b"1.0".to_vec(), number, code.into(), text.into(), Vec::new(), Vec::new()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_key_that_is_known_is_let_in() {
        let (key, other) = (vec![1; 32], vec![2; 32]);
        let code = |mechanism: &str, key: &[u8]| {
            let question =
                [b"1.0", &b"7"[..], b"mqfs", b"127.0.0.1", b"", mechanism.as_bytes(), key].map(<[u8]>::to_vec);
            let [_, number, code, ..] = verdict(&question, &[vec![1; 32]]);
            (number, code)
        };
        assert_eq!(code("CURVE", &key), (b"7".to_vec(), b"200".to_vec()));
        assert_eq!(code("CURVE", &other), (b"7".to_vec(), b"400".to_vec()));
        assert_eq!(code("PLAIN", &key), (b"7".to_vec(), b"400".to_vec()));
        assert_eq!(verdict(&[], &[key])[2], b"400");
    }
}
