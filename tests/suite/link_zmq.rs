//! `mqfs link` by ZeroMQ, with libzmq's own Python binding on the other side.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use crate::brokers::free_ports;
use crate::common::*;
use crate::extra::*;
use crate::linking::{SOON, is_empty, many, run, start, state, status};

/// A Python program that runs beside the link; it ends when its input does.
struct Peer(Child, BufReader<std::process::ChildStdout>);

impl Peer {
    /// Finds `zmq` and `c`, a context; `say` prints a line, and `ear` is the input.
    fn start(program: &str) -> Peer {
        let setup = "import zmq, sys, json\nc = zmq.Context()\nc.linger = 2000\ndef say(*w): print(*w, flush=True)\near = sys.stdin\n";
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-c").arg(format!("{setup}{program}\n")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Peer(child, out)
    }

    /// The next line that it prints.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn lines(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }

    /// Says a line to it.
    fn tell(&mut self, line: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn port() -> u16 {
    let [port] = free_ports();
    port
}

fn bodies(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("m{i}")).collect()
}

/// Nothing is taken while no peer is connected; then all goes, in order. The peer may be the one that binds, or not.
#[test]
fn what_is_pushed_is_pulled() {
    let m = Mount::new();
    let q = many(&m, 300);
    let port = port();
    // For cron it is told after a while, and nothing is lost.
    let nobody = format!("zmq+push://127.0.0.1:{port}");
    let ran = run(&m, &["--until-empty", "-o", "confirm_timeout=50ms", "q", &nobody]);
    assert_eq!((ran.code(), &m.stats(&q)["ready"]), (Some(16), &300.into()), "{ran:?}");
    let link = start(&m, &["-o", "confirm_timeout=200ms", "q", &format!("zmq+push://127.0.0.1:{port}")]);
    wait_until(|| state(&m) == "blocked");
    assert_eq!(m.stats(&q)["acked_total"], 0);
    let mut peer = Peer::start(&format!(
        "s = c.socket(zmq.PULL)\ns.bind('tcp://127.0.0.1:{port}')\nfor _ in range(300): say(s.recv().decode())"
    ));
    assert_eq!(peer.lines(300), bodies(300));
    wait_until(|| is_empty(&m, &q));
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    drop(peer);
    // The other way round, by a socket of the filesystem.
    m.fill(&q, 3);
    let path = m.scratch().join("push.sock");
    let mut peer = Peer::start(&format!(
        "s = c.socket(zmq.PULL)\ns.connect('ipc://{}')\nfor _ in range(3): say(s.recv().decode())",
        path.display()
    ));
    run(&m, &["--until-empty", "q", &format!("zmq+push+ipc://{}?bind=yes", path.display())]).succeeds();
    assert_eq!(peer.lines(3), bodies(3));
}

/// What comes is enqueued, in order; several frames are kept.
#[test]
fn what_is_pushed_here_is_enqueued() {
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    let port = port();
    let link = start(&m, &[&format!("zmq+pull://127.0.0.1:{port}?bind=yes"), "q"]);
    let peer = Peer::start(&format!(
        "s = c.socket(zmq.PUSH)\ns.connect('tcp://127.0.0.1:{port}')\nfor i in range(500): s.send(f'm{{i}}'.encode())\n\
         s.send_multipart([b'one', b'\\xff', b'last'])\near.read()"
    ));
    wait_until(|| m.bodies(&q).len() == 501);
    assert_eq!(m.bodies(&q), [bodies(500), vec!["last".to_owned()]].concat());
    let last = within(&q, "peek", &q.join(names(&q).pop().unwrap()));
    assert_eq!(xattr(&last, "user.frame-1").unwrap(), "one");
    assert_eq!(try_xattr(&last, "user.frame-2").unwrap(), b"\xff");
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    drop(peer);
}

/// "--check, --show: nothing is acknowledged": a peer never gets back what it has given.
#[test]
fn looking_takes_nothing_from_a_peer() {
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    let port = port();
    let mut peer = Peer::start(&format!(
        "s = c.socket(zmq.PUSH)\ns.bind('tcp://127.0.0.1:{port}')\nsay('bound')\nfor i in range(3): s.send(f'm{{i}}'.encode())\near.read()"
    ));
    assert_eq!(peer.line(), "bound");
    let url = format!("zmq+pull://127.0.0.1:{port}");
    let shown = run(&m, &["--show", "1", &url, "q"]);
    assert_eq!(shown.code(), Some(2), "{shown:?}");
    shown.fails("gives to nobody else");
    run(&m, &["--check", &url, "q"]).ok();
    run(&m, &["--until-empty", &url, "q"]).ok();
    assert_eq!(m.bodies(&q), bodies(3));
}

/// "topic=%group"; with `wait=subscriber` nothing is dropped before somebody listens.
#[test]
fn what_is_published_is_by_topic() {
    let m = Mount::new();
    let q = m.queue("q");
    for (group, name) in [("eu.de", "a"), ("us", "b"), ("eu.fr", "c")] {
        fs::write(q.join(format!(".mq/with/group={group}/{name}")), name).unwrap();
    }
    let port = port();
    let link = start(&m, &["q", &format!("zmq+pub://127.0.0.1:{port}?bind=yes&topic=%group&wait=subscriber")]);
    wait_until(|| state(&m) == "blocked");
    assert_eq!(m.stats(&q)["acked_total"], 0);
    let mut peer = Peer::start(&format!(
        "s = c.socket(zmq.SUB)\ns.subscribe(b'eu.')\ns.connect('tcp://127.0.0.1:{port}')\nfor _ in '12': say(s.recv_multipart())"
    ));
    assert_eq!(peer.lines(2), ["[b'eu.de', b'a']", "[b'eu.fr', b'c']"]);
    wait_until(|| is_empty(&m, &q));
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
}

/// And comes by topic, which is kept.
#[test]
fn what_is_subscribed_to_is_enqueued() {
    let m = Mount::new();
    let q = m.queue("q");
    let port = port();
    let link = start(&m, &[&format!("zmq+sub://127.0.0.1:{port}?topic=eu."), "q"]);
    // It publishes when it has seen the subscription.
    let peer = Peer::start(&format!(
        "s = c.socket(zmq.XPUB)\ns.bind('tcp://127.0.0.1:{port}')\nassert s.recv() == b'\\x01eu.'\n\
         for t in [b'eu.de', b'us', b'eu.fr']: s.send_multipart([t, b'about ' + t])\near.read()"
    ));
    wait_until(|| m.bodies(&q).len() == 2);
    assert_eq!(m.bodies(&q), ["about eu.de", "about eu.fr"]);
    let first = within(&q, "peek", &q.join(&names(&q)[0]));
    assert_eq!(xattr(first, "user.link.topic").unwrap(), "eu.de");
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    drop(peer);
}

/// "any reply acknowledges; a reply whose first frame is `error` refuses": and each answer is that of its message.
#[test]
fn what_is_asked_is_confirmed_by_its_answer() {
    let m = Mount::new();
    let q = many(&m, 200);
    let port = port();
    let mut peer = Peer::start(&format!(
        "s = c.socket(zmq.REP)\ns.bind('tcp://127.0.0.1:{port}')\nsay('up')\nfor _ in range(200):\n    b = s.recv()\n    \
         s.send_multipart([b'error', b'no sevens'] if b.endswith(b'7') else [b'thanks'])\n    say(b.decode())\near.read()"
    ));
    assert_eq!(peer.line(), "up");
    run(&m, &["-q", "--until-empty", "-o", "refused=dead", "q", &format!("zmq+req://127.0.0.1:{port}")]).ok();
    assert_eq!(peer.lines(200), bodies(200));
    let dead: BTreeSet<String> = m.bodies(&q).into_iter().collect();
    assert_eq!(dead, bodies(200).into_iter().filter(|body| body.ends_with('7')).collect());
    let one = fs::read_dir(control(&q, "dead")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(xattr(one, "user.mq.last_error").unwrap(), "no sevens");
}

/// "a new connection sends all unanswered again": what a peer has not answered when it dies is asked of the next one.
#[test]
fn what_a_peer_has_not_answered_is_asked_again() {
    let m = Mount::new();
    let q = many(&m, 40);
    let port = port();
    let program = |answers: usize| {
        format!(
            "s = c.socket(zmq.REP)\ns.bind('tcp://127.0.0.1:{port}')\nfor _ in range({answers}):\n    b = s.recv()\n    \
             s.send(b'ok')\n    say(b.decode())\nsay(s.recv().decode() if {answers} == 10 else '')\near.read()"
        )
    };
    let link =
        start(&m, &[&SOON[..], &["-o", "confirm_timeout=1s", "q", &format!("zmq+req://127.0.0.1:{port}")]].concat());
    let mut first = Peer::start(&program(10));
    let mut got: BTreeSet<String> = first.lines(11).into_iter().take(10).collect();
    // It has taken the eleventh, and dies.
    first.kill();
    let mut second = Peer::start(&program(10_000));
    while got.len() < 40 {
        got.insert(second.line());
    }
    wait_until(|| is_empty(&m, &q));
    assert_eq!(m.stats(&q)["dead"], 0);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
}

/// "replies `ok` after the commit, `error` and text when refused": a message of the queue is answered, and none before.
#[test]
fn who_asks_is_answered_when_it_is_enqueued() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_message_bytes=10"]);
    let port = port();
    let link = start(&m, &["-o", "poison=reject", &format!("zmq+rep://*:{port}"), "q"]);
    let mut peer = Peer::start(&format!(
        "s = c.socket(zmq.REQ)\ns.connect('tcp://127.0.0.1:{port}')\nfor line in ear:\n    s.send(line.strip().encode())\n    \
         say(*[f.decode() for f in s.recv_multipart()])"
    ));
    for (asked, answer, there) in
        [("one", "ok", 1), ("much too large", "error the queue cannot take it", 1), ("two", "ok", 2)]
    {
        peer.tell(asked);
        assert_eq!(peer.line(), answer);
        assert_eq!(m.bodies(&q).len(), there);
    }
    m.set(&q, "paused=in");
    peer.tell("three");
    wait_until(|| state(&m) == "holding");
    m.set(&q, "paused=no");
    assert_eq!((peer.line().as_str(), m.bodies(&q).len()), ("ok", 3));
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
}

/// "`frames=json`: one frame of all before the body": from a mount to another, confirmed, and what is asked twice is there once.
#[test]
fn what_went_out_and_came_in_is_the_same() {
    let (here, there) = (Mount::new(), Mount::new());
    let (out, into) = (here.queue("out"), there.queue("q"));
    let before = crate::link_stomp_in::enqueue_all(&out);
    let port = port();
    let taking = start(&there, &[&format!("zmq+rep://127.0.0.1:{port}?bind=yes&frames=json"), "q"]);
    run(&here, &["--until-empty", "out", &format!("zmq+req://127.0.0.1:{port}?frames=json")]).succeeds();
    crate::link_stomp_in::assert_all(&into, &before);
    let mut peer = Peer::start(&format!(
        "s = c.socket(zmq.REQ)\ns.connect('tcp://127.0.0.1:{port}')\nfor _ in '12':\n    s.send_multipart([b'{{\"mq-id\": \"same\"}}', b'x'])\n    say(s.recv().decode())"
    ));
    assert_eq!(peer.lines(2), ["ok", "ok"]);
    assert_eq!(names(&into).len(), before.len() + 1);
    wait_until(|| status(&there)["duplicates"] == 1);
    taking.signal(libc::SIGTERM);
    assert_eq!(taking.finish().code(), Some(0));
}

/// CURVE: who has not the key gets nothing, and gives nothing.
#[test]
fn curve_keeps_others_out() {
    let m = Mount::new();
    let q = many(&m, 2);
    let mut keys = Peer::start("for _ in '12': say(*[k.decode() for k in zmq.curve_keypair()])");
    let pair =
        |line: String| line.split_once(' ').map(|(public, secret)| (public.to_owned(), secret.to_owned())).unwrap();
    let (server, client) = (pair(keys.line()), pair(keys.line()));
    let secret = |name: &str, keys: &(String, String)| {
        let path = m.scratch().join(name);
        fs::write(&path, format!("curve_public = {}\ncurve_secret = {}\n", keys.0, keys.1)).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        format!("secret={}", path.display())
    };
    let (port, other) = (port(), port());
    let listen = format!(
        "s = c.socket(zmq.PULL)\ns.curve_server = True\ns.curve_secretkey = {:?}.encode()\ns.bind('tcp://127.0.0.1:{port}')\n\
         for _ in '12': say(s.recv().decode())",
        server.1
    );
    let mut peer = Peer::start(&listen);
    // Without keys, and with the key of another.
    for key in [
        "",
        &format!(
            "?server_key={}",
            client.0.replace('%', "%25").replace('&', "%26").replace('+', "%2b").replace('#', "%23")
        ),
    ] {
        let link = start(&m, &["q", &format!("zmq+push://127.0.0.1:{port}{key}")]);
        wait_until(|| state(&m) == "blocked");
        link.signal(libc::SIGTERM);
        assert_eq!(link.finish().code(), Some(0));
        assert_eq!(m.stats(&q)["acked_total"], 0);
    }
    let key = server.0.replace('%', "%25").replace('&', "%26").replace('+', "%2b").replace('#', "%23");
    let url = format!("zmq+push://127.0.0.1:{port}?server_key={key}");
    run(&m, &["--until-empty", "-o", &secret("client", &client), "q", &url]).succeeds();
    assert_eq!(peer.lines(2), ["m0", "m1"]);
    // And the other way round: the link is the one that is connected to.
    let link = start(
        &m,
        &["-o", "name=bound", "-o", &secret("server", &server), &format!("zmq+pull://127.0.0.1:{other}?bind=yes"), "q"],
    );
    let plain = Peer::start(&format!(
        "s = c.socket(zmq.PUSH)\ns.connect('tcp://127.0.0.1:{other}')\ns.send(b'plain')\near.read()"
    ));
    let known = Peer::start(&format!(
        "s = c.socket(zmq.PUSH)\ns.curve_serverkey = {:?}.encode()\ns.curve_publickey, s.curve_secretkey = zmq.curve_keypair()\n\
         s.connect('tcp://127.0.0.1:{other}')\ns.send(b'known')\near.read()",
        server.0
    ));
    wait_until(|| !m.bodies(&q).is_empty());
    assert_eq!(m.bodies(&q), ["known"]);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    drop((plain, known));
}

/// `--check` says in plain words what each pattern can promise.
#[test]
fn each_pattern_says_what_it_promises() {
    let m = Mount::new();
    m.queue("q");
    let port = port();
    for (pattern, out, told) in [
        ("push", true, "out: at most once past libzmq"),
        ("pub", true, "with nobody there it is dropped"),
        ("req", true, "out: at least once"),
        ("pull", false, "in: at most once"),
        ("sub", false, "while the link is away"),
        ("rep", false, "in: at least once: the answer comes when it is enqueued"),
    ] {
        let url = format!("zmq+{pattern}://127.0.0.1:{port}");
        let ends = if out { ["q", &url] } else { [&url, "q"] };
        let text = run(&m, &[&["--check"], &ends[..]].concat()).ok().to_owned();
        assert!(text.contains(told) && text.contains("not encrypted"), "{pattern}: {text}");
    }
    // What is bound twice is told.
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let ran = run(&m, &["--until-empty", "q", &format!("zmq+push://127.0.0.1:{port}?bind=yes")]);
    assert_eq!(ran.code(), Some(16), "{ran:?}");
    drop(taken);
}
