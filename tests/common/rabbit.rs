//! A RabbitMQ of the tests' own: Debian's, in a directory, on ports and with an epmd of its own, all on loopback, ended by its pid.

#![allow(dead_code)]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};

use tempfile::TempDir;

use crate::common::wait_until;

const BIN: &str = "/usr/lib/rabbitmq/bin";
/// Messages that are larger end the channel.
pub const MOST_BYTES: usize = 100_000;

/// A running server. Its queues are the tests' own by their names.
pub struct Rabbit {
    dir: TempDir,
    ports: Ports,
    epmd: Child,
    server: Mutex<Option<Child>>,
}

struct Ports {
    amqp: u16,
    amqps: u16,
    dist: u16,
    epmd: u16,
}

/// The server that tests share which do nothing to it; it ends with the last of them that runs.
pub fn shared() -> Arc<Rabbit> {
    static SHARED: Mutex<Weak<Rabbit>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(rabbit) = shared.upgrade() {
        return rabbit;
    }
    let rabbit = Arc::new(Rabbit::start());
    *shared = Arc::downgrade(&rabbit);
    rabbit
}

impl Rabbit {
    /// Starts one.
    pub fn start() -> Rabbit {
        let dir = tempfile::Builder::new().prefix("mqfs-test-rabbit-").tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["home", "mnesia", "log"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("plugins"), "[].\n").unwrap();
        make_certificates(dir.path());
        let [amqp, amqps, dist, epmd] = free_ports();
        let ports = Ports { amqp, amqps, dist, epmd };
        let path = dir.path().display();
        let config = format!(
            "listeners.tcp.1 = 127.0.0.1:{amqp}\nlisteners.ssl.1 = 127.0.0.1:{amqps}\n\
             ssl_options.cacertfile = {path}/ca.pem\nssl_options.certfile = {path}/cert.pem\n\
             ssl_options.keyfile = {path}/key.pem\nvm_memory_high_watermark.absolute = 256MB\n\
             disk_free_limit.absolute = 1MB\nlog.console = false\nmax_message_size = {MOST_BYTES}\n"
        );
        fs::write(at("rabbitmq.conf"), config).unwrap();
        // Ours, so that nobody else's is used, and none is left.
        let mut epmd = Command::new("epmd");
        epmd.args(["-port", &ports.epmd.to_string(), "-address", "127.0.0.1"]);
        let epmd = quiet(&mut epmd).spawn().expect("epmd (package erlang-base)");
        let rabbit = Rabbit { dir, ports, epmd, server: Mutex::new(None) };
        wait_until(|| TcpStream::connect(("127.0.0.1", rabbit.ports.epmd)).is_ok());
        rabbit.start_again();
        rabbit
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(format!("{BIN}/{program}"));
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        // By which scripts/test finds what a test has left behind.
        command.envs(std::env::var_os("TMPDIR").map(|dir| ("TMPDIR", dir)));
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
        let mut command = self.command("rabbitmq-server");
        // A group of its own: the shell that starts it, and what it starts, end together.
        let server = quiet(&mut command).process_group(0).spawn().expect("rabbitmq-server is not installed");
        *self.server.lock().unwrap() = Some(server);
        wait_until(|| TcpStream::connect(("127.0.0.1", self.ports.amqp)).is_ok());
    }

    /// Kills it with SIGKILL.
    pub fn kill9(&self) {
        let Some(mut server) = self.server.lock().unwrap().take() else { return };
        let kill = |pid: i32| {
            // SAFETY: a call without pointers; the process, or group, is a child's.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        };
        let pid = fs::read_to_string(self.path("pid")).ok().and_then(|text| text.trim().parse::<i32>().ok());
        pid.into_iter().for_each(kill);
        kill(-(server.id() as i32));
        let _ = server.wait();
        wait_until(|| pid.is_none_or(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
        let _ = fs::remove_file(self.path("pid"));
    }

    /// `amqp://HOST` and what follows.
    pub fn url(&self, rest: &str) -> String {
        format!("amqp://127.0.0.1:{}{rest}", self.ports.amqp)
    }

    /// `amqps://HOST` and what follows.
    pub fn tls_url(&self, rest: &str) -> String {
        format!("amqps://127.0.0.1:{}{rest}", self.ports.amqps)
    }

    /// The certificate that its own is signed by.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
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

impl Drop for Rabbit {
    fn drop(&mut self) {
        self.kill9();
        let _ = self.epmd.kill();
        let _ = self.epmd.wait();
    }
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

/// Ports that nobody has now.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// A certificate of this machine, and the one that it is signed by.
fn make_certificates(dir: &Path) {
    let script = "set -e
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem
        openssl req -newkey rsa:2048 -nodes -subj /CN=broker -keyout key.pem -out csr
        printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext
        openssl x509 -req -in csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out cert.pem";
    let out = Command::new("bash").args(["-c", script]).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
