//! A RabbitMQ of the tests' own: Debian's, with an epmd of its own.

#![allow(dead_code)]

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::brokers::{Place, free_ports, make_certificates};
use crate::common::wait_until;

const BIN: &str = "/usr/lib/rabbitmq/bin";
/// Messages that are larger end the channel.
pub const MOST_BYTES: usize = 100_000;

/// A running server. Its queues are the tests' own by their names.
pub struct Rabbit {
    place: Place,
    ports: Ports,
    server: Mutex<Option<u32>>,
}

struct Ports {
    amqp: u16,
    amqps: u16,
    stomp: u16,
    dist: u16,
    epmd: u16,
}

/// The server that all tests share which do nothing to it.
pub fn shared() -> &'static Rabbit {
    static SHARED: OnceLock<Rabbit> = OnceLock::new();
    SHARED.get_or_init(Rabbit::start)
}

/// The server of the tests that kill or stop it, one after another. It notices within ten seconds, and lets others notice, that nobody
/// is there any more.
pub fn rough() -> MutexGuard<'static, Rabbit> {
    static ROUGH: OnceLock<Mutex<Rabbit>> = OnceLock::new();
    let rabbit = ROUGH.get_or_init(|| Mutex::new(Rabbit::start_at(free_ports(), "heartbeat = 5\n")));
    let rabbit = rabbit.lock().unwrap_or_else(PoisonError::into_inner);
    // A test that has failed may have left it so.
    rabbit.resume();
    if rabbit.server.lock().unwrap().is_none() {
        rabbit.start_again();
    }
    rabbit
}

impl Rabbit {
    /// Starts one.
    pub fn start() -> Rabbit {
        Rabbit::start_at(free_ports(), "")
    }

    /// Starts one where clients look for it when they are told no port: in a network of its own.
    pub fn start_as_new() -> Rabbit {
        Rabbit::start_at([5672, 5671, 61613, 25672, 4369], "")
    }

    fn start_at([amqp, amqps, stomp, dist, epmd]: [u16; 5], more: &str) -> Rabbit {
        let place = Place::new("rabbit");
        for name in ["home", "mnesia", "log"] {
            fs::create_dir(place.path(name)).unwrap();
        }
        place.write("plugins", "[rabbitmq_auth_mechanism_ssl,rabbitmq_stomp].\n");
        make_certificates(place.dir());
        let ports = Ports { amqp, amqps, stomp, dist, epmd };
        let path = place.dir().display();
        let config = format!(
            "listeners.tcp.1 = 127.0.0.1:{amqp}\nlisteners.ssl.1 = 127.0.0.1:{amqps}\n\
             ssl_options.cacertfile = {path}/ca.pem\nssl_options.certfile = {path}/cert.pem\n\
             ssl_options.keyfile = {path}/key.pem\nssl_options.verify = verify_peer\n\
             ssl_options.fail_if_no_peer_cert = false\nssl_cert_login_from = common_name\n\
             auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = AMQPLAIN\nauth_mechanisms.3 = EXTERNAL\n\
             stomp.listeners.tcp.1 = 127.0.0.1:{stomp}\nstomp.default_user = guest\nstomp.default_pass = guest\n\
             vm_memory_high_watermark.absolute = 256MB\n\
             disk_free_limit.absolute = 1MB\nlog.console = false\nmax_message_size = {MOST_BYTES}\n{more}"
        );
        place.write("rabbitmq.conf", &config);
        // Ours, so that nobody else's is used, and none is left.
        place.start(place.command("epmd").args(["-port", &ports.epmd.to_string(), "-address", "127.0.0.1"]));
        let rabbit = Rabbit { place, ports, server: Mutex::new(None) };
        wait_until(|| TcpStream::connect(("127.0.0.1", rabbit.ports.epmd)).is_ok());
        rabbit.start_again();
        rabbit
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.place.command(format!("{BIN}/{program}"));
        for (name, value) in
            [("MNESIA_BASE", "mnesia"), ("LOG_BASE", "log"), ("CONFIG_FILE", "rabbitmq"), ("PID_FILE", "pid")]
        {
            command.env(format!("RABBITMQ_{name}"), self.path(value));
        }
        command.env("HOME", self.path("home")).env("RABBITMQ_ENABLED_PLUGINS_FILE", self.path("plugins"));
        command.env("RABBITMQ_NODENAME", format!("mqfs{}@localhost", self.ports.amqp));
        command.env("RABBITMQ_CONF_ENV_FILE", "/dev/null").env("RABBITMQ_DIST_PORT", self.ports.dist.to_string());
        command.env("ERL_EPMD_PORT", self.ports.epmd.to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
        let arguments = "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none";
        command.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", arguments);
        command
    }

    /// Starts it where it was killed, and waits until it answers.
    pub fn start_again(&self) {
        let server = self.place.start(&mut self.command("rabbitmq-server"));
        *self.server.lock().unwrap() = Some(server);
        wait_until(|| TcpStream::connect(("127.0.0.1", self.ports.amqp)).is_ok());
    }

    /// Kills it with SIGKILL.
    pub fn kill9(&self) {
        let Some(server) = self.server.lock().unwrap().take() else { return };
        let pid = self.signal(libc::SIGKILL);
        self.place.signal(server, libc::SIGKILL);
        wait_until(|| pid.is_none_or(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
        let _ = fs::remove_file(self.path("pid"));
    }

    /// Stops it with SIGSTOP: its connections stay, and nothing comes.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP).expect("it runs");
    }

    /// Has it go on.
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Sends a signal to the server; its process id, if it runs.
    fn signal(&self, signal: i32) -> Option<i32> {
        let pid = fs::read_to_string(self.path("pid")).ok()?.trim().parse::<i32>().ok()?;
        // SAFETY: a call without pointers; the server has written its own id.
        unsafe { libc::kill(pid, signal) };
        Some(pid)
    }

    /// `amqp://HOST` and what follows.
    pub fn url(&self, rest: &str) -> String {
        format!("amqp://127.0.0.1:{}{rest}", self.ports.amqp)
    }

    /// `amqps://HOST` and what follows.
    pub fn tls_url(&self, rest: &str) -> String {
        format!("amqps://127.0.0.1:{}{rest}", self.ports.amqps)
    }

    /// `stomp://HOST` and what follows, with the user that it has when it is new.
    pub fn stomp_url(&self, rest: &str) -> String {
        format!("stomp://127.0.0.1:{}{rest}", self.ports.stomp)
    }

    /// The certificate that its own is signed by.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A certificate of a client called guest, and its key.
    pub fn client_certificate(&self) -> [PathBuf; 2] {
        [self.path("client.pem"), self.path("client.key")]
    }

    /// Runs `rabbitmqctl`.
    pub fn control(&self, arguments: &[&str]) {
        let out = self.command("rabbitmqctl").args(arguments).output().unwrap();
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// Runs a Python program that finds a channel as `ch`, of another library than ours; what it prints.
    #[track_caller]
    pub fn python(&self, program: &str) -> String {
        let setup = "import pika, sys, time\nfrom pika import BasicProperties as P\n\
                     c = pika.BlockingConnection(pika.ConnectionParameters('127.0.0.1', int(sys.argv[1])))\nch = c.channel()\n\
                     def get(q):\n    m, p, b = ch.basic_get(q, auto_ack=True)\n    return (p, b) if m else None\n";
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-c").arg(format!("{setup}{program}\nc.close()\n")).arg(self.ports.amqp.to_string());
        let out = command.output().unwrap();
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Makes a durable queue.
    pub fn queue(&self, name: &str) {
        self.python(&format!("ch.queue_declare({name:?}, durable=True)"));
    }

    /// How many messages wait in a queue.
    pub fn waiting(&self, name: &str) -> u64 {
        let program = format!("print(ch.queue_declare({name:?}, passive=True).method.message_count)");
        self.python(&program).trim().parse().unwrap()
    }

    /// Takes everything out of a queue: identity and body of each, in order.
    pub fn drain(&self, name: &str) -> Vec<(String, String)> {
        let program = format!("while x := get({name:?}): print(x[0].message_id, x[1].decode().strip(), sep='\\t')");
        let text = self.python(&program);
        text.lines()
            .map(|line| line.split_once('\t').unwrap())
            .map(|(id, body)| (id.to_owned(), body.to_owned()))
            .collect()
    }
}

/// Publishes numbers with identities. They are on the broker's disk when it returns.
pub fn publish(rabbit: &Rabbit, queue: &str, count: usize) {
    rabbit.python(&format!(
        "ch.confirm_delivery()\nfor i in range({count}): ch.basic_publish('', {queue:?}, f'm{{i}}', P(message_id=f'id-{{i}}', delivery_mode=2))"
    ));
}
