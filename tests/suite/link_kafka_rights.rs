//! `mqfs link` and an Apache Kafka that takes rights away in the midst of it.

use std::fs;
use std::time::Duration;

use crate::common::*;
use crate::extra::holds_for;
use crate::kafka::{Kafka, shared};
use crate::linking::{SOON, is_empty, many, secret, start};

/// CreateAcls and DeleteAcls of Kafka's protocol, which Debian's client does not know: of one resource and one user.
const ACL: &str = r"
import socket, struct
def acl(api, kind, name, right):
    text = lambda t: struct.pack('>h', len(t)) + t.encode()
    ask = struct.pack('>hhi', api, 1, 1) + text('mqfs') + struct.pack('>ib', 1, kind) + text(name) + b'\x03' + text('User:bob') + text('*') + bytes([right, 3])
    host, port = sys.argv[1].split(':')
    with socket.create_connection((host, int(port))) as c:
        c.sendall(struct.pack('>i', len(ask)) + ask)
        f = c.makefile('rb')
        answer = f.read(struct.unpack('>i', f.read(4))[0])
    assert answer[8:14] == b'\0\0\0\1\0\0', answer
";

/// What may be allowed to bob, by the numbers that Kafka has for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Right {
    Write,
    Read,
    Group,
}

impl Right {
    fn set(self, kafka: &Kafka, api: u8) {
        let (kind, right) = match self {
            Right::Write => (2, 4),
            Right::Read => (2, 3),
            Right::Group => (3, 3),
        };
        kafka.python(&format!("{ACL}\nacl({api}, {kind}, 'rights', {right})"));
    }

    fn give(self, kafka: &Kafka) {
        self.set(kafka, 30);
    }

    fn take_away(self, kafka: &Kafka) {
        self.set(kafka, 31);
    }
}

/// "Topic or authorization errors: its messages are unconfirmed, not lost": who may no longer write, read, or be of the group is told so,
/// and goes on when it may again. Nothing is counted against a message, nothing comes twice.
#[test]
fn rights_that_are_taken_away_are_told() {
    let Some(kafka) = shared() else { return };
    let m = Mount::new();
    let (from, q) = (many(&m, 1), m.queue("into"));
    kafka.topic("rights", 1);
    let rights = [Right::Write, Right::Read, Right::Group];
    rights.iter().for_each(|right| right.give(kafka));
    let (bob, ca) = (secret(&m, "bob", "sesame"), format!("tls_ca={}", kafka.ca().display()));
    let bob = [&SOON[..], &["-o", &ca, "-o", &bob]].concat();
    let url = kafka.sasl_url("rights");
    let out = start(&m, &[&bob[..], &["-o", "name=out", "q", &url]].concat());
    let into = start(&m, &[&bob[..], &["-o", "name=in", &format!("{url}?group=rights"), "into"]].concat());
    wait_until(|| m.bodies(&q).len() == 1 && is_empty(&m, &from));
    for (number, right) in (1..).zip(rights) {
        right.take_away(kafka);
        fs::write(from.join(format!("m{number}")), format!("m{number}")).unwrap();
        let (link, told) = match right {
            Right::Write => (&out, "failing: Broker: Topic authorization failed"),
            Right::Read => (&into, "Topic authorization failed"),
            Right::Group => (&into, "Group authorization failed"),
        };
        wait_until(|| link.errors().contains(told));
        if right == Right::Write {
            holds_for(Duration::from_millis(500), || m.stats(&from)["claimed"] == 1);
        }
        right.give(kafka);
        wait_until(|| m.bodies(&q).len() == number + 1 && is_empty(&m, &from));
    }
    for link in [out, into] {
        link.signal(libc::SIGTERM);
        let ran = link.finish();
        assert!(ran.status.success() && ran.stderr.contains("failing"), "{ran:?}");
    }
    let stats = m.stats(&from);
    assert_eq!((&stats["claims_total"], &stats["dead"], &stats["acked_total"]), (&4.into(), &0.into(), &4.into()));
    assert_eq!((m.bodies(&q), kafka.bodies("rights").len()), ((0..4).map(|i| format!("m{i}")).collect(), 4));
}
