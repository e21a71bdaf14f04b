//! The system's log: the socket of syslog(3), which journald and every syslogd read.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;

use parking_lot::Mutex;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Where it is read.
const SOCKET: &str = "/dev/log";
/// The facility of system services, as syslog(3) numbers it.
const DAEMON: u8 = 3;
/// Of a longer line the rest is cut off, in bytes: what reads them may take no more.
const LONGEST: usize = 8 << 10;

/// The system's log. A line that it does not take at once, or that comes while there is none, is lost: whoever serves requests
/// cannot wait for it.
///
/// The lock is held for one connect and one send, both of which do not block.
#[derive(Debug, Default)]
pub struct SystemLog(Mutex<Option<UnixDatagram>>);

impl SystemLog {
    fn send(&self, line: &[u8]) -> io::Result<()> {
        let mut socket = self.0.lock();
        if let Some(socket) = &*socket {
            match socket.send(line) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => {} // it was started anew
                Ok(_) => return Ok(()),
            }
        }
        *socket = None;
        let new = UnixDatagram::unbound()?;
        new.set_nonblocking(true)?;
        new.connect(SOCKET)?;
        let sent = new.send(line);
        *socket = Some(new);
        sent.map(drop)
    }
}

impl<'a> MakeWriter<'a> for SystemLog {
    type Writer = Entry<'a>;

    fn make_writer(&'a self) -> Entry<'a> {
        Entry { log: self, severity: severity(Level::INFO) }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Entry<'a> {
        Entry { log: self, severity: severity(*meta.level()) }
    }
}

/// A line of a level.
pub struct Entry<'a> {
    log: &'a SystemLog,
    severity: u8,
}

impl Write for Entry<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.log.send(&datagram(self.severity, std::process::id(), line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The severity of a level, as syslog(3) numbers it.
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// `<PRIORITY>mqfs[PID]: LINE`; the reader adds time and host.
fn datagram(severity: u8, pid: u32, line: &[u8]) -> Vec<u8> {
    let mut bytes = format!("<{}>mqfs[{pid}]: ", DAEMON << 3 | severity).into_bytes();
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.trim_ascii_start();
    bytes.extend_from_slice(&line[..line.len().min(LONGEST)]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_priority_and_its_process() {
        assert_eq!(datagram(severity(Level::ERROR), 7, b" mqfs: gone\n"), b"<27>mqfs[7]: mqfs: gone");
        assert_eq!(datagram(severity(Level::INFO), 7, b"x"), b"<30>mqfs[7]: x");
        assert!(datagram(6, 1, &[b'x'; 100_000]).len() < LONGEST + 100);
    }
}
