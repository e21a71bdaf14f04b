//! A TCP proxy that misbehaves when it is told to: it cuts, resets, stalls, half-closes, and lets nobody in.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What comes from the link is this direction, and the link is this end of a connection.
pub const LINK: usize = 0;
/// What comes from the broker, and the broker.
pub const BROKER: usize = 1;
/// How often it is looked whether a stall is over.
const TICK: Duration = Duration::from_millis(5);

/// A running proxy; ends when it is dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    to: u16,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    stalled: [Option<Instant>; 2],
    closed: Option<Instant>,
    ended: bool,
    connections: Vec<Arc<Connection>>,
}

struct Connection {
    ends: [TcpStream; 2],
    /// So many bytes still pass, of both directions, before it is cut.
    left: AtomicI64,
    /// It was cut, and how.
    is_cut: AtomicBool,
    rudely: AtomicBool,
}

impl Proxy {
    /// Starts one that leads to a port of this machine, and listens on another one, or where there is one.
    pub fn start([port, to]: [u16; 2]) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared { to, now: Mutex::default() });
        let serving = shared.clone();
        std::thread::spawn(move || serving.serve(&listener));
        Proxy { port, shared }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn now(&self) -> std::sync::MutexGuard<'_, Now> {
        self.shared.now.lock().unwrap()
    }

    /// Ends all connections, in the middle of whatever they are at; `rudely` by a reset.
    pub fn cut(&self, rudely: bool) {
        self.now().connections.drain(..).for_each(|connection| connection.cut(rudely));
    }

    /// Lets so many bytes pass on each connection, and cuts it then.
    pub fn cut_after(&self, bytes: u64) {
        self.now().connections.iter().for_each(|connection| connection.left.store(bytes as i64, Ordering::Relaxed));
    }

    /// Tells one end of all connections that the other will send nothing more, while the other may go on to listen.
    pub fn half_close(&self, end: usize) {
        for connection in &self.now().connections {
            let _ = connection.ends[end].shutdown(Shutdown::Write);
        }
    }

    /// Passes on nothing that comes from this end, for so long; what waits is passed on then.
    pub fn stall(&self, from: usize, duration: Duration) {
        self.now().stalled[from] = Some(Instant::now() + duration);
    }

    /// Lets nobody in for so long.
    pub fn close(&self, duration: Duration) {
        self.now().closed = Some(Instant::now() + duration);
    }

    /// Behaves well again.
    pub fn behave(&self) {
        let mut now = self.now();
        (now.stalled, now.closed) = ([None; 2], None);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.now().ended = true;
        self.cut(false);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn serve(self: Arc<Shared>, listener: &TcpListener) {
        for link in listener.incoming().flatten() {
            if self.now.lock().unwrap().ended {
                return;
            }
            let is_closed = self.now.lock().unwrap().closed.is_some_and(|until| Instant::now() < until);
            let Some(broker) = (!is_closed).then(|| TcpStream::connect(("127.0.0.1", self.to)).ok()).flatten() else {
                continue;
            };
            let _ = link.set_nodelay(true);
            let _ = broker.set_nodelay(true);
            let ends = [link, broker];
            ends.iter().for_each(|end| end.set_write_timeout(Some(TICK * 10)).unwrap());
            let connection = Arc::new(Connection::new(ends));
            self.now.lock().unwrap().connections.push(connection.clone());
            for from in [LINK, BROKER] {
                let (shared, connection) = (self.clone(), connection.clone());
                std::thread::spawn(move || shared.pump(&connection, from));
            }
        }
    }

    /// Waits while this direction is stalled.
    fn wait(&self, from: usize) {
        while self.now.lock().unwrap().stalled[from].is_some_and(|until| Instant::now() < until) {
            sleep(TICK);
        }
    }

    fn pump(&self, connection: &Arc<Connection>, from: usize) {
        let mut buffer = vec![0; 32 << 10];
        let (mut source, target) = (&connection.ends[from], &connection.ends[1 - from]);
        loop {
            self.wait(from);
            let Ok(length @ 1..) = source.read(&mut buffer) else { break };
            self.wait(from);
            let left = connection.left.fetch_sub(length as i64, Ordering::Relaxed);
            let passes = length.min(usize::try_from(left).unwrap_or(0));
            if !connection.write(target, &buffer[..passes]) {
                break;
            }
            if passes < length {
                connection.cut(false);
            }
        }
        if !connection.rudely.load(Ordering::Relaxed) {
            let _ = target.shutdown(Shutdown::Write);
        }
        // One more than the two pumps and the list when the other pump has ended.
        let mut now = self.now.lock().unwrap();
        if Arc::strong_count(connection) <= 2 {
            now.connections.retain(|other| !Arc::ptr_eq(other, connection));
        }
    }
}

impl Connection {
    fn new(ends: [TcpStream; 2]) -> Connection {
        let [is_cut, rudely] = [AtomicBool::new(false), AtomicBool::new(false)];
        Connection { ends, left: AtomicI64::new(i64::MAX), is_cut, rudely }
    }

    fn cut(&self, rudely: bool) {
        self.rudely.store(rudely, Ordering::Relaxed);
        self.is_cut.store(true, Ordering::Relaxed);
        for end in &self.ends {
            let _ = match rudely {
                // The last close sends a reset, and nothing is sent before it.
                true => no_linger(end).and_then(|()| end.shutdown(Shutdown::Read)),
                false => end.shutdown(Shutdown::Both),
            };
        }
    }

    /// Writes all, unless it is cut meanwhile.
    fn write(&self, mut target: &TcpStream, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.is_cut.load(Ordering::Relaxed) {
                return false;
            }
            match target.write(bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        true
    }
}

fn no_linger(socket: &TcpStream) -> std::io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let (address, size) = ((&raw const linger).cast(), size_of::<libc::linger>() as libc::socklen_t);
    // SAFETY: the option's value, with its size.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, address, size) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::wait_until;

    /// A proxy, with the two ends of a connection by way of it.
    fn connected() -> (Proxy, TcpListener, TcpStream, TcpStream) {
        let broker = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start([0, broker.local_addr().unwrap().port()]);
        let link = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        let there = broker.accept().unwrap().0;
        (proxy, broker, link, there)
    }

    fn said(mut from: &TcpStream, mut to: &TcpStream) -> bool {
        let mut buffer = [0; 1];
        from.write_all(b"x").is_ok() && to.read(&mut buffer).is_ok_and(|length| length == 1)
    }

    #[test]
    fn it_passes_on_and_cuts() {
        for rudely in [false, true] {
            let (proxy, _listener, link, broker) = connected();
            assert!(said(&link, &broker) && said(&broker, &link));
            proxy.cut(rudely);
            wait_until(|| !said(&link, &broker) && !said(&broker, &link));
        }
    }

    #[test]
    fn it_cuts_in_the_middle_and_lets_nobody_in() {
        let (proxy, listener, mut link, mut broker) = connected();
        assert!(said(&link, &broker));
        proxy.cut_after(3);
        link.write_all(b"hello").unwrap();
        let mut came = String::new();
        broker.read_to_string(&mut came).unwrap();
        assert_eq!(came, "hel");
        proxy.close(Duration::from_secs(1000));
        let mut refused = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        assert!(!matches!(refused.read(&mut [0]), Ok(1..)));
        proxy.behave();
        let link = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        assert!(said(&listener.accept().unwrap().0, &link));
    }

    #[test]
    fn a_half_closed_connection_goes_on_the_other_way() {
        let (proxy, _listener, link, broker) = connected();
        assert!(said(&link, &broker));
        proxy.half_close(LINK);
        assert_eq!((&link).read(&mut [0]).unwrap(), 0);
        assert!(said(&link, &broker));
    }

    #[test]
    fn what_was_stalled_comes_later() {
        let (proxy, _listener, link, broker) = connected();
        proxy.stall(BROKER, Duration::from_secs(1000));
        assert!(said(&link, &broker));
        (&broker).write_all(b"x").unwrap();
        link.set_nonblocking(true).unwrap();
        assert_eq!((&link).read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        proxy.behave();
        link.set_nonblocking(false).unwrap();
        assert_eq!((&link).read(&mut [0]).unwrap(), 1);
    }
}
