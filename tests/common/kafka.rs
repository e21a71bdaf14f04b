//! An Apache Kafka of the tests' own: the real one, from Maven, in KRaft mode, in a [`Place`] of its own. Its jars are fetched once, and kept below `~/.cache/mqfs/`.

#![allow(dead_code)]

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::brokers::{Place, free_ports, make_certificates};
use crate::common::wait_until;
use crate::maven::skip;

/// Which one it is.
pub const VERSION: &str = "4.3.1";

/// A running server. Its topics are the tests' own by their names.
pub struct Kafka {
    place: Place,
    jars: &'static Path,
    ports: Ports,
    doors: Vec<Door>,
    server: Mutex<Option<u32>>,
}

/// One more way in, by a proxy: where the server listens, and where it says that it does.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    pub listens: u16,
    pub says: u16,
}

#[derive(Clone, Copy)]
struct Ports {
    plain: u16,
    tls: u16,
    sasl: u16,
    controller: u16,
}

/// The server that all tests share which do nothing to it. Nothing, which is told, where there is no way to Maven.
pub fn shared() -> Option<&'static Kafka> {
    static SHARED: OnceLock<Option<Kafka>> = OnceLock::new();
    SHARED.get_or_init(Kafka::start).as_ref()
}

/// Whether one can be started; fetches what that needs.
pub fn can_be_had() -> bool {
    jars().is_some()
}

/// `kafka-topics.sh --bootstrap-server HOST --create --topic NAME [--partitions N]`, which Maven does not have.
pub const TOPICS: &str = r"#!/usr/bin/python3
import argparse
from confluent_kafka.admin import AdminClient, NewTopic
p = argparse.ArgumentParser()
p.add_argument('--bootstrap-server', required=True)
p.add_argument('--create', action='store_true', required=True)
p.add_argument('--topic', required=True)
p.add_argument('--partitions', type=int, default=1)
a = p.parse_args()
admin = AdminClient({'bootstrap.servers': a.bootstrap_server})
for made in admin.create_topics([NewTopic(a.topic, a.partitions, 1)]).values(): made.result(60)
print(f'Created topic {a.topic}.')
";

/// The server of the tests that kill or stop it, one after another.
pub fn rough() -> Option<MutexGuard<'static, Kafka>> {
    static ROUGH: OnceLock<Option<Mutex<Kafka>>> = OnceLock::new();
    let kafka = ROUGH.get_or_init(|| Kafka::start().map(Mutex::new)).as_ref()?;
    let kafka = kafka.lock().unwrap_or_else(PoisonError::into_inner);
    // A test that has failed may have left it so.
    kafka.resume();
    if kafka.server.lock().unwrap().is_none() {
        kafka.start_again();
    }
    Some(kafka)
}

/// The folder with the jars, if they can be had.
fn jars() -> Option<&'static Path> {
    static JARS: OnceLock<Option<PathBuf>> = OnceLock::new();
    let jars = JARS.get_or_init(|| fetch().inspect_err(|why| skip(&format!("Apache Kafka ({why})"))).ok());
    jars.as_deref()
}

fn fetch() -> Result<PathBuf, String> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache =
        cache.unwrap_or_else(|| Path::new(&std::env::var_os("HOME").expect("HOME")).join(".cache")).join("mqfs");
    let jars = cache.join(format!("kafka-{VERSION}"));
    if jars.exists() {
        return Ok(jars);
    }
    fs::create_dir_all(&cache).unwrap();
    let new = tempfile::Builder::new().prefix("kafka-new-").tempdir_in(&cache).unwrap();
    let project = format!(
        "<project xmlns='http://maven.apache.org/POM/4.0.0'><modelVersion>4.0.0</modelVersion><groupId>mqfs</groupId>\
         <artifactId>kafka</artifactId><version>1</version><dependencies><dependency><groupId>org.apache.kafka</groupId>\
         <artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency></dependencies></project>"
    );
    fs::write(new.path().join("pom.xml"), project).unwrap();
    let mut maven = Command::new("mvn");
    maven.args(["-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"]).current_dir(new.path());
    let out = maven.stdin(Stdio::null()).output().expect("mvn (package maven)");
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        return Err(said.lines().find(|line| line.contains("ERROR")).unwrap_or("it failed").to_owned());
    }
    // Whoever is first has fetched them; they are the same.
    if fs::rename(new.path().join("lib"), &jars).is_err() {
        assert!(jars.exists());
    }
    Ok(jars)
}

impl Kafka {
    /// Starts one.
    pub fn start() -> Option<Kafka> {
        Kafka::start_at(free_ports(), Vec::new())
    }

    /// Starts one where clients look for it when they are told no port: in a network of its own.
    pub fn start_as_new() -> Option<Kafka> {
        Kafka::start_at([9092, 9093, 9094, 9095], Vec::new())
    }

    /// Starts one that proxies lead to, for those who connect by them.
    pub fn start_behind(doors: Vec<Door>) -> Option<Kafka> {
        Kafka::start_at(free_ports(), doors)
    }

    fn start_at([plain, tls, sasl, controller]: [u16; 4], doors: Vec<Door>) -> Option<Kafka> {
        let jars = jars()?;
        let place = Place::new("kafka");
        make_certificates(place.dir());
        let pem = |name: &str| fs::read_to_string(place.path(name)).unwrap();
        place.write("keystore.pem", &(pem("key.pem") + &pem("cert.pem")));
        let ports = Ports { plain, tls, sasl, controller };
        place.write("config", &config(place.dir(), ports, &doors));
        let kafka = Kafka { place, jars, ports, doors, server: Mutex::new(None) };
        let mut format = kafka.java("kafka.tools.StorageTool");
        format.args(["format", "--standalone", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", "config"]);
        let out = format.args(["--add-scram", "SCRAM-SHA-512=[name=carl,password=sesame]"]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        kafka.start_again();
        Some(kafka)
    }

    fn java(&self, class: &str) -> Command {
        let mut java = self.place.command("java");
        java.args(["-Xms128m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]);
        java.arg(format!("-Djava.io.tmpdir={}", self.place.dir().display()));
        java.arg("-cp").arg(self.jars.join("*")).arg(class).stdin(Stdio::null());
        java
    }

    /// Starts it where it was killed, and waits until it answers.
    pub fn start_again(&self) {
        let server = self.place.start(self.java("kafka.Kafka").arg("config"));
        *self.server.lock().unwrap() = Some(server);
        wait_until(|| TcpStream::connect(("127.0.0.1", self.ports.plain)).is_ok());
    }

    /// Kills it with SIGKILL.
    pub fn kill9(&self) {
        if let Some(server) = self.server.lock().unwrap().take() {
            self.place.signal(server, libc::SIGKILL);
        }
    }

    /// Where it listens without encryption.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.ports.plain)
    }

    /// Stops it with SIGSTOP: its connections stay, and nothing comes.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Has it go on.
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: i32) {
        if let Some(server) = *self.server.lock().unwrap() {
            self.place.signal(server, signal);
        }
    }

    /// The ways in by proxies.
    pub fn doors(&self) -> &[Door] {
        &self.doors
    }

    /// `kafka://HOST` and what follows.
    pub fn url(&self, rest: &str) -> String {
        format!("kafka://127.0.0.1:{}/{rest}", self.ports.plain)
    }

    /// `kafkas://HOST` and what follows, where nobody logs in.
    pub fn tls_url(&self, rest: &str) -> String {
        format!("kafkas://127.0.0.1:{}/{rest}", self.ports.tls)
    }

    /// `kafkas://HOST` and what follows, for `anna`, who may do everything, and `bob`, who may do
    /// nothing; and for `carl`, who may do everything, and is known by SCRAM only. A token that
    /// nobody has signed will do.
    pub fn sasl_url(&self, rest: &str) -> String {
        format!("kafkas://127.0.0.1:{}/{rest}", self.ports.sasl)
    }

    /// The certificate that its own is signed by.
    pub fn ca(&self) -> PathBuf {
        self.place.path("ca.pem")
    }

    /// Runs a Python program with [`HELPERS`], by another version of the library than ours; what it prints.
    #[track_caller]
    pub fn python(&self, program: &str) -> String {
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-c").arg(format!("{HELPERS}\n{program}\n")).arg(format!("127.0.0.1:{}", self.ports.plain));
        let out = command.output().unwrap();
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Makes a topic with so many partitions.
    pub fn topic(&self, name: &str, partitions: usize) {
        self.python(&format!("topic({name:?}, {partitions})"));
    }

    /// Writes `m0`, `m1`...
    pub fn publish(&self, topic: &str, count: usize) {
        self.python(&format!("put({topic:?}, [dict(value=f'm{{i}}') for i in range({count})])"));
    }

    /// Everything in a topic: key, identity and value of each record, in order by partitions.
    pub fn all(&self, topic: &str) -> Vec<(String, String, String)> {
        let program = format!(
            "for m in get({topic:?}): print((m.key() or b'-').decode(), head(m).get('mq-id', b'-').decode(), (m.value() or b'').decode(), sep='\\t')"
        );
        let text = self.python(&program);
        let mut words = text.lines().map(|line| line.split('\t').map(str::to_owned));
        let mut all = Vec::new();
        for mut line in words.by_ref() {
            let mut word = || line.next().unwrap();
            all.push((word(), word(), word()));
        }
        all
    }

    /// The values of everything in a topic.
    pub fn bodies(&self, topic: &str) -> Vec<String> {
        self.all(topic).into_iter().map(|(_, _, body)| body).collect()
    }

    /// How many records a group has left in a topic.
    pub fn lag(&self, topic: &str, group: &str) -> i64 {
        self.python(&format!("print(lag({topic:?}, {group:?}))")).trim().parse().unwrap()
    }
}

/// What the programs of tests find.
const HELPERS: &str = r"
import sys, time
from confluent_kafka import Producer, Consumer, TopicPartition, KafkaError
from confluent_kafka.admin import AdminClient, NewTopic, NewPartitions, ConfigResource
b = {'bootstrap.servers': sys.argv[1], 'log_level': 0}
admin = AdminClient(b)
def all_of(futures):
    for f in futures.values(): f.result(60)
def topic(name, partitions=1, **config):
    all_of(admin.create_topics([NewTopic(name, partitions, 1, config={k.replace('_', '.'): v for k, v in config.items()})]))
    while name not in admin.list_topics(timeout=30).topics: time.sleep(0.05)
def drop(name):
    all_of(admin.delete_topics([name]))
    while name in admin.list_topics(timeout=30).topics: time.sleep(0.05)
def put(name, records):
    def told(e, m):
        if e: raise Exception(e)
    p = Producer(b)
    for r in records: p.produce(name, on_delivery=told, **r); p.poll(0)
    assert p.flush(60) == 0
def reader(group='nobody'):
    return Consumer({**b, 'group.id': group, 'enable.auto.commit': False, 'enable.partition.eof': True, 'isolation.level': 'read_committed'})
def ends(name):
    c = reader()
    parts = c.list_topics(name, timeout=30).topics[name].partitions
    found = [c.get_watermark_offsets(TopicPartition(name, p), timeout=30) for p in sorted(parts)]
    c.close()
    return found
def get(name, begins=None):
    c, found = reader(), []
    parts = sorted(c.list_topics(name, timeout=30).topics[name].partitions)
    c.assign([TopicPartition(name, p, begins[p] if begins else 0) for p in parts])
    left = set(parts)
    while left:
        m = c.poll(30)
        if m.error() and m.error().code() == KafkaError._PARTITION_EOF: left.discard(m.partition())
        elif m.error(): raise Exception(m.error())
        else: found.append(m)
    c.close()
    return sorted(found, key=lambda m: (m.partition(), m.offset()))
def head(m):
    return dict(m.headers() or [])
def lag(name, group):
    c = reader(group)
    high = [h for _, h in ends(name)]
    at = c.committed([TopicPartition(name, p) for p in range(len(high))], timeout=30)
    c.close()
    return sum(h - max(t.offset, 0) for h, t in zip(high, at))
";

fn config(dir: &Path, ports: Ports, doors: &[Door]) -> String {
    let Ports { plain, tls, sasl, controller } = ports;
    let each = |what: &dyn Fn(usize, &Door) -> String| -> String {
        doors.iter().enumerate().map(|(number, door)| what(number, door)).collect()
    };
    let listens = each(&|number, door| format!(",DOOR{number}://127.0.0.1:{}", door.listens));
    let says = each(&|number, door| format!(",DOOR{number}://127.0.0.1:{}", door.says));
    let protocols = each(&|number, _| format!(",DOOR{number}:PLAINTEXT"));
    let dir = dir.display();
    format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
         listeners=PLAIN://127.0.0.1:{plain},TLS://127.0.0.1:{tls},SASL://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}{listens}\n\
         advertised.listeners=PLAIN://127.0.0.1:{plain},TLS://127.0.0.1:{tls},SASL://127.0.0.1:{sasl}{says}\n\
         controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAIN\n\
         listener.security.protocol.map=PLAIN:PLAINTEXT,TLS:SSL,SASL:SASL_SSL,CONTROLLER:PLAINTEXT{protocols}\n\
         log.dirs={dir}/data\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\ntransaction.state.log.num.partitions=1\n\
         share.coordinator.state.topic.replication.factor=1\nshare.coordinator.state.topic.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\nauto.create.topics.enable=false\nlog.retention.check.interval.ms=500\n\
         log.cleaner.backoff.ms=200\nlog.cleaner.dedupe.buffer.size=2000000\nnum.network.threads=2\nnum.io.threads=2\n\
         ssl.keystore.type=PEM\nssl.keystore.location={dir}/keystore.pem\n\
         sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512,OAUTHBEARER\n\
         listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
         user_anna=\"sesame\" user_bob=\"sesame\";\n\
         listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
         listener.name.sasl.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \
         unsecuredLoginStringClaim_sub=\"broker\";\n\
         listener.name.sasl.oauthbearer.connections.max.reauth.ms=3600000\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\nsuper.users=User:ANONYMOUS;User:anna;User:carl\n"
    )
}
