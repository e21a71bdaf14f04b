//! A socket of libzmq, with the options that a link needs: small buffers, since what is in them is gone with the process.

use zmq::{Context, CurveKeyPair, Socket, SocketType};

use super::super::peer::Ends;
use super::super::secret::Secret;
use super::super::trouble::{Kind, Trouble};
use super::address::Address;
use super::door::Door;

/// How long what was sent may take to leave when the socket is closed, in milliseconds.
const LINGER: i32 = 2000;

/// An open socket. Its context ends with it, after whoever looks at clients, and that after the socket.
pub struct Open {
    /// The socket.
    pub socket: Socket,
    _door: Option<Door>,
    _context: Context,
}

/// What a failure of libzmq means.
pub fn trouble(address: &Address, error: zmq::Error) -> Trouble {
    Trouble::refusing(format_args!("{address}: {error}"))
}

/// Opens a socket, and binds or connects it; `room` is for so many messages of each peer.
pub fn open(ends: Ends<'_>, address: &Address, kind: SocketType, room: i32) -> Result<Open, Trouble> {
    let open = make(ends, address, kind, room)?;
    for endpoint in &address.endpoints {
        let opened = if address.bind { open.socket.bind(endpoint) } else { open.socket.connect(endpoint) };
        opened.map_err(|error| trouble(address, error))?;
    }
    Ok(open)
}

/// The same, but nobody can reach it yet.
pub fn make(ends: Ends<'_>, address: &Address, kind: SocketType, room: i32) -> Result<Open, Trouble> {
    let context = Context::new();
    let socket = context.socket(kind).map_err(|error| trouble(address, error))?;
    let largest = i64::try_from(ends.settings.largest).unwrap_or(i64::MAX);
    let beat = ends.settings.heartbeat.as_millis() as i32;
    let set = || {
        socket.set_linger(LINGER)?;
        socket.set_sndhwm(room)?;
        socket.set_rcvhwm(room)?;
        // Without a peer nothing is taken.
        socket.set_immediate(true)?;
        socket.set_maxmsgsize(largest)?;
        socket.set_ipv6(true)?;
        socket.set_heartbeat_ivl(beat)?;
        socket.set_heartbeat_timeout(2 * beat)
    };
    set().map_err(|error| trouble(address, error))?;
    let allowed = encrypt(&socket, address, ends.secret)?;
    let door = match allowed.is_empty() {
        true => None,
        false => Some(Door::keep(&context, &socket, allowed).map_err(|error| trouble(address, error))?),
    };
    Ok(Open { socket, _door: door, _context: context })
}

/// Sets CURVE up, if there are keys: whoever binds has the key of the server, and whoever connects knows its public key. Gives the keys
/// of those who alone may connect, if there are any.
fn encrypt(socket: &Socket, address: &Address, secret: Option<&Secret>) -> Result<Vec<Vec<u8>>, Trouble> {
    let own = secret.map(Secret::curve).transpose()?;
    if address.server_key.is_none() && own.is_none() {
        return Ok(Vec::new());
    }
    if zmq::has("curve") != Some(true) {
        return Err(Trouble::usage(
            "this mqfs was built with a libzmq without CURVE: install libzmq3-dev and build it anew",
        ));
    }
    let key = |what: &str, text: &str| {
        zmq::z85_decode(text).map_err(|_| Trouble::usage(format_args!("{what} is not 40 characters of Z85")))
    };
    let local = |error: zmq::Error| Trouble::new(Kind::Local, format_args!("CURVE: {error}"));
    if address.bind {
        let Some((_, secret, clients)) = own else { return Ok(Vec::new()) };
        socket.set_curve_server(true).map_err(local)?;
        socket.set_curve_secretkey(&key("curve_secret", secret)?).map_err(local)?;
        return clients.iter().map(|client| key("curve_client", client)).collect();
    }
    let Some(server) = &address.server_key else {
        return Err(Trouble::usage("to connect with a key, say whom to: server_key=PUBLIC"));
    };
    let (public, secret) = match own {
        Some((_, _, [_, ..])) => return Err(Trouble::usage("curve_client is for a side that is bound")),
        Some((public, secret, _)) => (key("curve_public", public)?, key("curve_secret", secret)?),
        None => {
            let pair = CurveKeyPair::new().map_err(local)?;
            (pair.public_key.to_vec(), pair.secret_key.to_vec())
        }
    };
    socket.set_curve_serverkey(&key("server_key", server)?).map_err(local)?;
    socket.set_curve_publickey(&public).map_err(local)?;
    socket.set_curve_secretkey(&secret).map_err(local)?;
    Ok(Vec::new())
}
