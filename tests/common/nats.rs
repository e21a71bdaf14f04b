//! A NATS server with JetStream of the tests' own: Debian's. It starts at once, so each test has one.

#![allow(dead_code)]

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use crate::brokers::{Place, free_ports, make_certificates};
use crate::common::wait_until;

/// Messages that are larger are refused.
pub const MOST_BYTES: usize = 100_000;
/// A key and its public half.
pub const NKEY: [&str; 2] = [
    "SUAACAQDAQCQMBYIBEFAWDANBYHRAEISCMKBKFQXDAMRUGY4DUPB6IC5CQ",
    "UB43KVROR7TFJ6KAPCYRF2FJROTZAH4FHLTJLPWX4DRZCC5NASLGJBFE",
];

/// Another client than ours, of a few lines, which speaks of JetStream what tests need.
const CLIENT: &str = r#"
import base64, json, socket, sys, time
s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
f, n = s.makefile('rb'), 0
f.readline()
s.sendall(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB _I.> 1\r\n')
def read():
    while True:
        line = f.readline()
        words = line.split()
        if words[0] == b'PING': s.sendall(b'PONG\r\n')
        elif words[0] == b'MSG': return f.read(int(words[-1]) + 2)[:-2]
        elif words[0] == b'HMSG': return f.read(int(words[-1]) + 2)[int(words[-2]):-2]
        elif words[0] == b'-ERR': raise Exception(line)
def send(subject, body, headers):
    global n
    n += 1
    head = b'NATS/1.0\r\n' + b''.join(f'{k}: {v}\r\n'.encode() for k, v in headers) + b'\r\n'
    s.sendall(f'HPUB {subject} _I.{n} {len(head)} {len(head) + len(body)}\r\n'.encode() + head + body + b'\r\n')
def answer():
    reply = json.loads(read())
    if 'error' in reply: raise Exception(reply['error'])
    return reply
def api(subject, **body):
    body = json.dumps(body).encode()
    s.sendall(f'PUB $JS.API.{subject} _I.0 {len(body)}\r\n'.encode() + body + b'\r\n')
    return answer()
def stream(name, **config):
    api(f'STREAM.CREATE.{name}', **{'name': name, 'subjects': [name.lower()], 'retention': 'limits', 'storage': 'file', 'num_replicas': 1, **config})
def publish(subject, *bodies, headers=lambda body: []):
    for body in bodies: send(subject, body.encode(), headers(body))
    for body in bodies: answer()
def get(name, number):
    m = api(f'STREAM.MSG.GET.{name}', seq=number)['message']
    head = base64.b64decode(m.get('hdrs', '')).decode().split('\r\n')[1:-2]
    return dict(line.split(': ', 1) if ': ' in line else (line.rstrip(':'), '') for line in head), base64.b64decode(m.get('data', ''))
def state(name): return api(f'STREAM.INFO.{name}')['state']
"#;

/// Keys of NATS, and what is signed with them: an operator, an account, and a user, whose credentials are printed last.
const CREDENTIALS: &str = r#"
import base64, binascii, json, subprocess, sys
def encoded(prefix, key):
    data = bytes(prefix) + key
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, 'little')).decode().rstrip('=')
def openssl(*arguments, data=b''):
    return subprocess.run(['openssl', *arguments], input=data, capture_output=True, check=True).stdout
class Key:
    def __init__(self, name, kind):
        self.file = f'{sys.argv[1]}/{name}.key'
        openssl('genpkey', '-algorithm', 'ed25519', '-out', self.file)
        self.public = encoded([kind], openssl('pkey', '-in', self.file, '-pubout', '-outform', 'DER')[-32:])
        self.seed = encoded([18 << 3 | kind >> 5, (kind & 31) << 3], openssl('pkey', '-in', self.file, '-outform', 'DER')[-32:])
    def says(self, of, claims):
        part = lambda thing: base64.urlsafe_b64encode(thing).rstrip(b'=')
        text = part(b'{"typ":"JWT","alg":"ed25519-nkey"}') + b'.' + part(json.dumps(
            {'jti': of.public, 'iat': 1, 'iss': self.public, 'name': 'mqfs', 'sub': of.public, 'nats': {'version': 2, **claims}}).encode())
        open(f'{sys.argv[1]}/text', 'wb').write(text)
        return (text + b'.' + part(openssl('pkeyutl', '-sign', '-inkey', self.file, '-rawin', '-in', f'{sys.argv[1]}/text'))).decode()
operator, account, system, user = Key('operator', 14 << 3), Key('account', 0), Key('system', 0), Key('user', 20 << 3)
limits = {name: -1 for name in ('subs', 'data', 'payload', 'imports', 'exports', 'conn', 'leaf')}
storage = {name: -1 for name in ('mem_storage', 'disk_storage', 'streams', 'consumer')}
known = {of: operator.says(of, {'type': 'account', 'limits': {**limits, **more, 'wildcards': True}, 'default_permissions': {'pub': {}, 'sub': {}}})
         for of, more in ((account, storage), (system, {}))}
print('operator:', operator.says(operator, {'type': 'operator'}))
print('resolver: MEMORY')
print('system_account:', system.public)
print('resolver_preload: {', *(f'{of.public}: {jwt}\n' for of, jwt in known.items()), '}')
print('====')
print('-----BEGIN NATS USER JWT-----')
print(account.says(user, {'type': 'user', 'pub': {}, 'sub': {}, 'subs': -1, 'data': -1, 'payload': -1}))
print('------END NATS USER JWT------')
print('-----BEGIN USER NKEY SEED-----')
print(user.seed)
print('------END USER NKEY SEED------')
"#;

/// What a server has in its configuration that knows users by what an operator has signed, and the credentials of one.
pub fn signed() -> (String, String) {
    let dir = tempfile::tempdir().unwrap();
    let out = Command::new("/usr/bin/python3").arg("-c").arg(CREDENTIALS).arg(dir.path()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let (server, user) = text.split_once("====\n").unwrap();
    (server.to_owned(), user.to_owned())
}

/// A running server.
pub struct Nats {
    place: Place,
    port: u16,
    server: Mutex<Option<u32>>,
}

impl Nats {
    /// Starts one that lets everybody in.
    pub fn start() -> Nats {
        Nats::start_with("")
    }

    /// Starts one whose configuration has this as well; in it, `DIR` is its directory, which has certificates.
    pub fn start_with(more: &str) -> Nats {
        let place = Place::new("nats");
        if more.contains("DIR") {
            make_certificates(place.dir());
        }
        let [port] = free_ports();
        let dir = place.dir().display().to_string();
        let config = format!(
            "listen: 127.0.0.1:{port}\nmax_payload: {MOST_BYTES}\njetstream {{ store_dir: {dir}/store, max_mem: 64MB, max_file: 1GB }}\n"
        );
        place.write("conf", &(config + &more.replace("DIR", &dir)));
        let nats = Nats { place, port, server: Mutex::new(None) };
        nats.start_again();
        nats
    }

    /// Starts it where it was killed, and waits until it answers.
    pub fn start_again(&self) {
        let mut command = self.place.command("/usr/sbin/nats-server");
        let server = self.place.start(command.arg("-c").arg(self.place.path("conf")));
        *self.server.lock().unwrap() = Some(server);
        wait_until(|| TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        self.place.signal(self.server.lock().unwrap().unwrap(), signal);
    }

    /// Kills it with SIGKILL.
    pub fn kill9(&self) {
        let server = self.server.lock().unwrap().take().unwrap();
        self.place.signal(server, libc::SIGKILL);
    }

    /// `nats://HOST` and what follows.
    pub fn url(&self, rest: &str) -> String {
        format!("nats://127.0.0.1:{}{rest}", self.port)
    }

    /// `natss://HOST` and what follows.
    pub fn tls_url(&self, rest: &str) -> String {
        format!("natss://127.0.0.1:{}{rest}", self.port)
    }

    /// A file of its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    /// Runs a Python program that finds the functions of [`CLIENT`]; what it prints.
    #[track_caller]
    pub fn python(&self, program: &str) -> String {
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-c").arg(format!("{CLIENT}{program}\n")).arg(self.port.to_string());
        let out = command.output().unwrap();
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Makes a stream, with the subject of its name in small letters.
    pub fn stream(&self, name: &str) {
        self.python(&format!("stream({name:?})"));
    }

    /// Publishes numbers `from..to`, as bodies `m0`, `m1`... with identities.
    pub fn publish(&self, subject: &str, from: usize, to: usize) {
        self.python(&format!(
            "publish({subject:?}, *(f'm{{i}}' for i in range({from}, {to})), headers=lambda b: [('Nats-Msg-Id', 'id-' + b)])"
        ));
    }

    /// How many messages a stream has.
    pub fn messages(&self, stream: &str) -> u64 {
        self.python(&format!("print(state({stream:?})['messages'])")).trim().parse().unwrap()
    }

    /// The bodies of a stream, in order.
    pub fn bodies(&self, stream: &str) -> Vec<String> {
        let program = format!(
            "t = state({stream:?})\nfor i in range(t['first_seq'], t['last_seq'] + 1): print(get({stream:?}, i)[1].decode().strip())"
        );
        self.python(&program).lines().map(str::to_owned).collect()
    }
}
