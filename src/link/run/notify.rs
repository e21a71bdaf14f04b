//! What a link tells to systemd: that it runs, what it does, that it lives; see sd_notify(3).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Whoever is told; nobody when systemd has not asked for it.
pub struct Notify(Option<(UnixDatagram, SocketAddr)>);

impl Notify {
    /// Tells what `$NOTIFY_SOCKET` names.
    pub fn of_systemd() -> Notify {
        let address = std::env::var_os("NOTIFY_SOCKET").and_then(|path| match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(path).ok(),
        });
        Notify(address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address))))
    }

    /// Says `KEY=VALUE` lines.
    pub fn say(&self, lines: &str) {
        if let Some((socket, address)) = &self.0 {
            // A manager that does not listen misses it.
            let _ = socket.send_to_addr(lines.as_bytes(), address);
        }
    }
}
