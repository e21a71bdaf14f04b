//! ActiveMQ of the tests' own: Debian's Classic, and Artemis by Maven.

#![allow(dead_code)]

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use crate::brokers::{Place, free_ports, make_certificates};
use crate::common::wait_until;
use crate::maven;

/// The version of Artemis.
pub const ARTEMIS: &str = "2.40.0";

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ActiveMQ Classic.
    Classic,
    /// ActiveMQ Artemis.
    Artemis,
}

/// A running server. `anna` may do everything, `bob` may not send. The queue `small` has little room.
pub struct Broker {
    pub kind: Kind,
    place: Place,
    port: u16,
    tls: u16,
    server: Mutex<Option<u32>>,
}

/// The Classic that tests share which do nothing to it.
pub fn classic() -> &'static Broker {
    static SHARED: OnceLock<Broker> = OnceLock::new();
    SHARED.get_or_init(Broker::start_classic)
}

/// The Artemis that tests share which do nothing to it; nothing where it cannot be had.
pub fn artemis() -> Option<&'static Broker> {
    static SHARED: OnceLock<Option<Broker>> = OnceLock::new();
    SHARED.get_or_init(Broker::start_artemis).as_ref()
}

impl Broker {
    fn new(kind: Kind) -> Broker {
        let place = Place::new("activemq");
        make_certificates(place.dir());
        let pack = "openssl pkcs12 -export -in cert.pem -inkey key.pem -passout pass:secret -out key.p12";
        assert!(Command::new("sh").args(["-c", pack]).current_dir(place.dir()).status().unwrap().success());
        for (name, user) in [("anna", "user = anna\npassword = sesame\n"), ("bob", "user = bob\npassword = sesame\n")] {
            place.write(name, user);
            fs::set_permissions(place.path(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        let [port, tls] = free_ports();
        Broker { kind, place, port, tls, server: Mutex::new(None) }
    }

    /// Starts a Classic.
    pub fn start_classic() -> Broker {
        let broker = Broker::new(Kind::Classic);
        broker.place.write("broker.xml", &broker.classic_config());
        broker.start_again();
        broker
    }

    fn classic_config(&self) -> String {
        let (dir, port, tls) = (self.place.dir().display(), self.port, self.tls);
        let entry = |what: &str| format!(r#"<authorizationEntry {what}=">" read="all" write="writers" admin="all"/>"#);
        let (queues, topics) = (entry("queue"), entry("topic"));
        format!(
            r#"<beans xmlns="http://www.springframework.org/schema/beans" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xsi:schemaLocation="http://www.springframework.org/schema/beans http://www.springframework.org/schema/beans/spring-beans-2.0.xsd
  http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
<broker xmlns="http://activemq.apache.org/schema/core" useJmx="false" brokerName="mqfs" dataDirectory="{dir}/data">
  <destinationPolicy><policyMap><policyEntries>
    <policyEntry queue="small" memoryLimit="20kb"><pendingQueuePolicy><vmQueueCursor/></pendingQueuePolicy></policyEntry>
  </policyEntries></policyMap></destinationPolicy>
  <persistenceAdapter><kahaDB directory="{dir}/data/kahadb" journalMaxFileLength="4mb"/></persistenceAdapter>
  <plugins>
    <simpleAuthenticationPlugin><users>
      <authenticationUser username="anna" password="sesame" groups="all,writers"/>
      <authenticationUser username="bob" password="sesame" groups="all"/>
    </users></simpleAuthenticationPlugin>
    <authorizationPlugin><map><authorizationMap><authorizationEntries>{queues}{topics}
    </authorizationEntries></authorizationMap></map></authorizationPlugin>
  </plugins>
  <sslContext><sslContext keyStore="file:{dir}/key.p12" keyStoreType="PKCS12" keyStorePassword="secret"/></sslContext>
  <systemUsage><systemUsage sendFailIfNoSpace="true"/></systemUsage>
  <transportConnectors>
    <transportConnector name="stomp" uri="stomp://127.0.0.1:{port}"/>
    <transportConnector name="stomps" uri="stomp+ssl://127.0.0.1:{tls}"/>
  </transportConnectors>
</broker></beans>
"#
        )
    }

    /// Starts an Artemis.
    pub fn start_artemis() -> Option<Broker> {
        let name = format!("org.apache.activemq:apache-artemis:{ARTEMIS}:tar.gz:bin");
        let home = maven::unpacked(&name, &format!("apache-artemis-{ARTEMIS}"))?;
        let broker = Broker::new(Kind::Artemis);
        let mut create = broker.place.command(home.join("bin/artemis"));
        create.arg("create").arg(broker.path("instance")).args(["--user", "anna", "--password", "sesame", "--silent"]);
        create.args(["--no-web", "--no-autotune", "--require-login", "--host", "127.0.0.1"]);
        let out = create.env("JAVA_ARGS", JAVA).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        let config = broker.path("instance/etc/broker.xml");
        fs::write(&config, broker.artemis_config(&fs::read_to_string(&config).unwrap())).unwrap();
        broker.place.write("instance/etc/artemis-users.properties", "anna = sesame\nbob = sesame\n");
        broker.place.write("instance/etc/artemis-roles.properties", "amq = anna\nreaders = bob\n");
        broker.start_again();
        Some(broker)
    }

    fn artemis_config(&self, created: &str) -> String {
        let (dir, port, tls) = (self.place.dir().display(), self.port, self.tls);
        let acceptors = format!(
            r#"<acceptors><acceptor name="stomp">tcp://127.0.0.1:{port}?protocols=STOMP</acceptor>
            <acceptor name="stomps">tcp://127.0.0.1:{tls}?protocols=STOMP;sslEnabled=true;keyStoreType=PKCS12;keyStorePath={dir}/key.p12;keyStorePassword=secret</acceptor></acceptors>"#
        );
        let (before, rest) = created.split_once("<acceptors>").unwrap();
        let (_, after) = rest.split_once("</acceptors>").unwrap();
        let small = r#"<address-settings><address-setting match="small"><max-size-bytes>20000</max-size-bytes><address-full-policy>FAIL</address-full-policy></address-setting>"#;
        let consume = r#"<permission type="createAddress" roles="amq,readers"/>"#;
        format!("{before}{acceptors}{after}")
            // However full the disk is.
            .replace("<max-disk-usage>90<", "<max-disk-usage>-1<")
            .replace("<address-settings>", small)
            .replace(r#"<permission type="createAddress" roles="amq"/>"#, consume)
            .replace(
                r#"<permission type="createDurableQueue" roles="amq"/>"#,
                r#"<permission type="createDurableQueue" roles="amq,readers"/>"#,
            )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    /// Starts it where it was killed, and waits until it answers.
    pub fn start_again(&self) {
        let mut command = match self.kind {
            Kind::Classic => {
                let mut command = self.place.command("java");
                command.args(JAVA.split(' ')).arg(format!("-Dactivemq.base={}", self.place.dir().display()));
                command.args(["-cp", "/usr/share/activemq/lib/*:/usr/share/activemq/lib/optional/*"]);
                command.args(["org.apache.activemq.console.Main", "start"]);
                command.arg(format!("xbean:file:{}", self.path("broker.xml").display()));
                command
            }
            Kind::Artemis => {
                let mut command = self.place.command(self.path("instance/bin/artemis"));
                command.arg("run").env("JAVA_ARGS", JAVA);
                command
            }
        };
        *self.server.lock().unwrap() = Some(self.place.start(&mut command));
        wait_until(|| TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        if let Some(server) = *self.server.lock().unwrap() {
            self.place.signal(server, signal);
        }
    }

    /// Kills it with SIGKILL.
    pub fn kill9(&self) {
        self.signal(libc::SIGKILL);
        *self.server.lock().unwrap() = None;
        // Its lock would be waited for.
        let _ = fs::remove_file(self.path("data/kahadb/lock"));
    }

    /// Drops all that it has; it must not run.
    pub fn forget(&self) {
        let data = if self.kind == Kind::Classic { "data" } else { "instance/data" };
        fs::remove_dir_all(self.path(data)).unwrap();
    }

    /// `activemq://HOST` and what follows.
    pub fn url(&self, rest: &str) -> String {
        format!("activemq://127.0.0.1:{}{rest}", self.port)
    }

    /// `activemqs://HOST` and what follows.
    pub fn tls_url(&self, rest: &str) -> String {
        format!("activemqs://127.0.0.1:{}{rest}", self.tls)
    }

    /// The certificate that its own is signed by.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// `secret=FILE` of a user.
    pub fn secret(&self, user: &str) -> String {
        format!("secret={}", self.path(user).display())
    }

    /// Runs a Python program that finds `client`, `send`, `take` and `drain`; what it prints.
    #[track_caller]
    pub fn python(&self, program: &str) -> String {
        let kind = if self.kind == Kind::Classic { "classic" } else { "artemis" };
        python(self.port, kind, "anna", program)
    }

    /// Sends bodies `m0`, `m1` and so on to a queue, with headers as Python has them.
    pub fn publish(&self, queue: &str, count: usize, headers: &str) {
        self.python(&format!("send({queue:?}, [f'm{{i}}' for i in range({count})], {headers})"));
    }

    /// Takes everything out of a queue: identity and body of each, in order.
    pub fn drain(&self, queue: &str) -> Vec<(String, String)> {
        let text = self.python(&format!("drain({queue:?})"));
        let pair = |line: &str| line.split_once('\t').map(|(id, body)| (id.to_owned(), body.to_owned())).unwrap();
        text.lines().map(pair).collect()
    }

    /// The bodies of everything in a queue, which is empty then.
    pub fn bodies(&self, queue: &str) -> Vec<String> {
        self.drain(queue).into_iter().map(|(_, body)| body).collect()
    }
}

/// Small, quick to start, and nothing left in /tmp.
const JAVA: &str = "-Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData -Dlog4j2.disableJmx=true --add-opens=java.base/jdk.internal.misc=ALL-UNNAMED";

/// Runs a Python program with a client of STOMP.
#[track_caller]
pub fn python(port: u16, kind: &str, user: &str, program: &str) -> String {
    let mut command = Command::new("/usr/bin/python3");
    command.arg("-c").arg(format!("{}\n{program}\n", include_str!("stomp.py")));
    let out = command.args([&port.to_string(), kind, user, "sesame"]).output().unwrap();
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}
