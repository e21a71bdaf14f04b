//! A connection to a server of STOMP: logged in, with heart-beats both ways.
//!
//! Two tasks have the two halves of the stream. What is read goes through a channel that holds so much and no more: then nothing is
//! read, and the server has to wait.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;

use super::super::backoff::random;
use super::super::net::{self, Stream};
use super::super::peer::{Condition, Ends, Large};
use super::super::settings::Poison;
use super::super::trouble::Trouble;
use super::super::url::Host;
use super::address::{Address, is_activemq};
use super::dialect::{self, Dialect};
use super::frame::{Decoder, Frame, Limits, Piece};

/// How long the server may take to answer when nothing is sent.
pub const ANSWER: Duration = Duration::from_secs(20);
/// A server that reads nothing for so long takes nothing for now.
const STALLED: Duration = Duration::from_secs(3);
/// Headers have so many bytes, and there are so many: more than any message that a queue takes.
const LIMITS: Limits = Limits { head: 1 << 20, headers: 4096, body: 0 };
/// So much is read at a time, in bytes.
const PIECE: usize = 64 * 1024;

/// A connection.
pub struct Connection {
    /// Who the server is.
    pub dialect: Dialect,
    /// Where.
    pub host: Host,
    /// Frames that are sent.
    pub write: Sender<Vec<u8>>,
    /// Frames that have come; an error is the last.
    pub read: Receiver<Result<Heard, Trouble>>,
    /// The number of the last receipt that was asked for.
    pub receipt: u64,
    tasks: [AbortHandle; 2],
}

/// A frame that has come.
pub struct Heard {
    /// The frame.
    pub frame: Frame,
    /// A message's body that is not in the frame, as it is too large.
    pub large: Option<Large>,
}

/// How often who says something; nothing is never.
#[derive(Debug, PartialEq, Eq)]
struct Beats {
    ours: Option<Duration>,
    theirs: Option<Duration>,
}

/// Connects to the first host that lets us in. `room` is for so many frames that have come and are not taken yet.
pub async fn open(
    ends: Ends<'_>,
    address: &Address,
    tls: Option<Arc<ClientConfig>>,
    room: usize,
    condition: &Condition,
) -> Result<Connection, Trouble> {
    if let (None, Some(user)) = (&ends.secret, &ends.target.user) {
        return Err(Trouble::usage(format_args!("there is no password of {user}: say secret = FILE")));
    }
    net::first(&ends.target.hosts, async |host| open_at(host, ends, address, tls.clone(), room, condition).await).await
}

async fn open_at(
    host: &Host,
    ends: Ends<'_>,
    address: &Address,
    tls: Option<Arc<ClientConfig>>,
    room: usize,
    condition: &Condition,
) -> Result<Connection, Trouble> {
    let mut stream = net::connect(host, tls).await?;
    let at = |why: &dyn std::fmt::Display| format!("{}:{}: {why}", host.name, host.port);
    let mut bytes = Vec::new();
    connect(ends, address, host)?.encode(&mut bytes);
    let mut decoder = Decoder::new(Limits { body: ends.settings.largest as usize, ..LIMITS });
    let connecting = async {
        stream.write_all(&bytes).await.map_err(|error| Trouble::away(at(&error)))?;
        stream.flush().await.map_err(|error| Trouble::away(at(&error)))?;
        loop {
            match decoder.take().map_err(|error| Trouble::refusing(at(&error)))? {
                Some(Piece::Frame(frame)) => return Ok::<_, Trouble>(frame),
                Some(_) => return Err(Trouble::refusing(at(&"a message came before anything was said"))),
                None => {}
            }
            let mut piece = [0; 4096];
            match stream.read(&mut piece).await.map_err(|error| Trouble::away(at(&error)))? {
                0 => return Err(Trouble::away(at(&"the server has ended the connection"))),
                length => decoder.feed(&piece[..length]),
            }
        }
    };
    let answered = timeout(ANSWER, connecting).await.map_err(|_| Trouble::away(at(&"no answer")))??;
    match answered.command.as_str() {
        "CONNECTED" if answered.text("version") == "1.2" => {}
        "CONNECTED" => return Err(Trouble::refusing(at(&"the server does not speak STOMP 1.2"))),
        _ => return Err(Trouble::refusing(at(&dialect::words(&answered)))),
    }
    let beats = beats(&answered.text("heart-beat"), ends.settings.heartbeat);
    let (reading, writing) = tokio::io::split(stream);
    let (write, to_write) = channel(2);
    let (has_read, read) = channel(room);
    let saved_in = match &ends.settings.poison {
        Poison::Save(directory) => Some(directory.clone()),
        Poison::Stop | Poison::Reject => None,
    };
    let reader = Reader { decoder, large: None, saved_in, tell: has_read, host: host.clone() };
    let tasks = [
        tokio::spawn(reader.read(reading, beats.theirs)).abort_handle(),
        tokio::spawn(self::write(writing, to_write, beats.ours, condition.clone())).abort_handle(),
    ];
    Ok(Connection { dialect: Dialect::of(&answered), host: host.clone(), write, read, receipt: 0, tasks })
}

fn connect(ends: Ends<'_>, address: &Address, host: &Host) -> Result<Frame, Trouble> {
    // RabbitMQ takes the host for one of its virtual hosts, of which the first is called so; others want a host's name.
    let default = if is_activemq(ends.target) { host.name.as_str() } else { "/" };
    let beat = ends.settings.heartbeat.as_millis();
    let mut frame = Frame::new("CONNECT")
        .with("accept-version", "1.2")
        .with("host", address.host.as_deref().unwrap_or(default))
        .with("heart-beat", format!("{beat},{beat}"));
    if let Some(secret) = ends.secret {
        let (user, password) = secret.password()?;
        frame = frame.with("login", user).with("passcode", password);
    }
    Ok(match address.client() {
        Some(client) => frame.with("client-id", client),
        None => frame,
    })
}

/// What both have agreed on: the slower wish of the two.
fn beats(theirs: &str, ours: Duration) -> Beats {
    let number = |text: &str| text.trim().parse::<u64>().unwrap_or(0);
    let (they_can, they_want) = theirs.split_once(',').map_or((0, 0), |(can, want)| (number(can), number(want)));
    let agreed = |theirs: u64| (theirs > 0).then(|| Duration::from_millis(theirs).max(ours));
    Beats { ours: agreed(they_want), theirs: agreed(they_can) }
}

/// What reads.
struct Reader {
    decoder: Decoder,
    /// A message whose body is too large, as far as it has come.
    large: Option<(Frame, Large)>,
    /// Where such bodies are kept, if anybody wants them.
    saved_in: Option<PathBuf>,
    tell: Sender<Result<Heard, Trouble>>,
    host: Host,
}

impl Reader {
    /// Reads until there is no more, and says why; or until nobody listens.
    async fn read(mut self, mut stream: ReadHalf<Stream>, beat: Option<Duration>) {
        let mut piece = vec![0; PIECE];
        let why = loop {
            match self.hand_over().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(why) => break why,
            }
            let reading = stream.read(&mut piece);
            let read = match beat {
                Some(beat) => timeout(beat * 2, reading).await,
                None => Ok(reading.await),
            };
            let ended = match read {
                Ok(Ok(length)) if length > 0 => {
                    self.decoder.feed(&piece[..length]);
                    continue;
                }
                Ok(Ok(_)) => "the server has ended the connection".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no heart-beat for {} s", (beat.unwrap_or_default() * 2).as_secs()),
            };
            break Trouble::away(format_args!("{}:{}: {ended}", self.host.name, self.host.port));
        };
        let _ = self.tell.send(Err(why)).await;
    }

    /// Hands over the frames that have come; tells whether anybody listens.
    async fn hand_over(&mut self) -> Result<bool, Trouble> {
        loop {
            let came = self.decoder.take();
            let came =
                came.map_err(|why| Trouble::refusing(format_args!("{}:{}: {why}", self.host.name, self.host.port)))?;
            let heard = match came {
                None => return Ok(true),
                Some(Piece::Frame(frame)) => Heard { frame, large: None },
                Some(Piece::Large(frame)) => {
                    let file = self.saved_in.as_deref().map(nameless).transpose()?;
                    self.large = Some((frame, Large { bytes: 0, file }));
                    continue;
                }
                Some(Piece::Body(more)) => {
                    if let Some((_, large)) = &mut self.large {
                        large.bytes += more.len() as u64;
                        // It goes into the kernel's memory, and to disk when it is given a name.
                        let written = large.file.as_mut().map_or(Ok(()), |file| file.write_all(&more));
                        let directory = self.saved_in.as_deref().unwrap_or(Path::new(""));
                        written.map_err(|error| Trouble::file(directory, &error))?;
                    }
                    continue;
                }
                Some(Piece::End) => match self.large.take() {
                    Some((frame, large)) => Heard { frame, large: Some(large) },
                    None => continue,
                },
            };
            if self.tell.send(Ok(heard)).await.is_err() {
                return Ok(false);
            }
        }
    }
}

/// A file that is gone when it is closed.
fn nameless(directory: &Path) -> Result<File, Trouble> {
    let path = directory.join(format!(".mqfs-link-{:016x}", random()));
    let open = || -> io::Result<File> {
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    };
    open().map_err(|error| Trouble::file(directory, &error))
}

/// Ends when there is nobody any more who sends, or nobody who reads.
async fn write(
    mut stream: WriteHalf<Stream>,
    mut frames: Receiver<Vec<u8>>,
    beat: Option<Duration>,
    condition: Condition,
) {
    loop {
        let bytes = match beat {
            Some(beat) => timeout(beat / 2, frames.recv()).await.unwrap_or_else(|_| Some(b"\n".to_vec())),
            None => frames.recv().await,
        };
        let Some(bytes) = bytes else { break };
        let mut writing = std::pin::pin!(async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        });
        let written = loop {
            match timeout(STALLED, &mut writing).await {
                Ok(written) => break written,
                // It says so nowhere, so that is how it is seen.
                Err(_) => condition.set(Some("it does not read what is sent".to_owned())),
            }
        };
        condition.set(None);
        if written.is_err() {
            // What it has said before it went is read by the other task.
            return;
        }
    }
    let _ = stream.shutdown().await;
}

impl Connection {
    /// Why it is of no use any more, if it is not; while nothing is awaited of it.
    pub fn trouble(&mut self) -> Option<Trouble> {
        if !self.write.is_closed() && !self.read.is_closed() {
            return None;
        }
        while let Ok(came) = self.read.try_recv() {
            match came {
                Ok(heard) if heard.frame.command == "ERROR" => return Some(self.refused(&heard.frame)),
                Ok(_) => {}
                Err(trouble) => return Some(trouble),
            }
        }
        Some(Trouble::away(format_args!("{}:{}: the connection is lost", self.host.name, self.host.port)))
    }

    /// The number of a new receipt.
    pub fn next_receipt(&mut self) -> u64 {
        self.receipt += 1;
        self.receipt
    }

    /// Sends a frame and waits for its receipt; other frames that come before it are given to `other`.
    pub async fn ask(&mut self, frame: Frame, other: &mut (dyn FnMut(Heard) + Send)) -> Result<(), Trouble> {
        let receipt = self.next_receipt().to_string();
        let mut bytes = Vec::new();
        frame.with("receipt", &receipt).encode(&mut bytes);
        // A server that is gone may have said why.
        let _ = self.write.send(bytes).await;
        loop {
            let came = self.next().await?;
            match came.frame.command.as_str() {
                "RECEIPT" if came.frame.header("receipt-id") == Some(receipt.as_bytes()) => return Ok(()),
                "ERROR" => return Err(self.refused(&came.frame)),
                _ => other(came),
            }
        }
    }

    /// The next frame.
    pub async fn next(&mut self) -> Result<Heard, Trouble> {
        match self.read.recv().await {
            Some(came) => came,
            None => Err(Trouble::away(format_args!("{}:{}: the connection is lost", self.host.name, self.host.port))),
        }
    }

    /// What an ERROR means that is about no message.
    pub fn refused(&self, error: &Frame) -> Trouble {
        Trouble::refusing(format_args!("{}:{}: {}", self.host.name, self.host.port, dialect::words(error)))
    }

    /// Takes leave: waits a moment for the server to say that it has dealt with all.
    pub async fn leave(mut self) {
        let mut ignored = |_| {};
        let _ = timeout(Duration::from_secs(2), self.ask(Frame::new("DISCONNECT"), &mut ignored)).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_are_as_slow_as_the_slower_wants() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (theirs, ours, expected) in [
            ("0,0", None, None),
            ("", None, None),
            ("10000,10000", seconds(15), seconds(15)),
            ("60000,0", None, seconds(60)),
            ("0,30000", seconds(30), None),
        ] {
            assert_eq!(beats(theirs, Duration::from_secs(15)), Beats { ours, theirs: expected }, "{theirs}");
        }
    }
}
