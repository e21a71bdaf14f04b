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

    /// Its input ends.
    fn say_no_more(&mut self) {
        drop(self.0.stdin.take());
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a call without pointers; the process is a child that nobody has waited for.
        unsafe { libc::kill(self.0.id() as i32, signal) };
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
    // When it has gone nothing is taken any more, until there is another one.
    drop(peer);
    wait_until(|| {
        fs::write(q.join("lost"), "lost").unwrap();
        state(&m) == "blocked"
    });
    let taken = m.stats(&q)["acked_total"].as_u64().unwrap();
    (0..3).for_each(|i| fs::write(q.join(format!("n{i}")), format!("n{i}")).unwrap());
    assert_eq!(m.stats(&q)["acked_total"], taken);
    let mut peer = Peer::start(&format!(
        "s = c.socket(zmq.PULL)\ns.bind('tcp://127.0.0.1:{port}')\nwhile (b := s.recv()) != b'n2': say(b.decode())\nsay('end')"
    ));
    let mut came = Vec::new();
    while came.last().is_none_or(|line| line != "end") {
        came.push(peer.line());
    }
    assert!(came.ends_with(&["n0", "n1", "end"].map(str::to_owned)), "{came:?}");
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
    assert_eq!(first.lines(11), bodies(11));
    // It has taken the eleventh; those before it are done with here, though that one is not.
    wait_until(|| m.stats(&q)["acked_total"] == 10);
    first.kill();
    let mut second = Peer::start(&program(10_000));
    // On a machine that is busy some are asked of it more than once.
    let mut got = Vec::new();
    while got.len() < 30 {
        let line = second.line();
        if !got.contains(&line) {
            got.push(line);
        }
    }
    assert_eq!(got, bodies(40)[10..]);
    wait_until(|| is_empty(&m, &q));
    assert_eq!(m.stats(&q)["dead"], 0);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
}

/// What a slow peer has answered is done with here, whatever else it was asked, and nothing is asked twice of it as long as it answers.
/// One that is stopped is asked again when it goes on.
#[test]
fn a_peer_may_be_slow() {
    let m = Mount::new();
    let q = many(&m, 8);
    let port = port();
    let url = format!("zmq+req://127.0.0.1:{port}");
    let mut peer = Peer::start(&format!(
        "s = c.socket(zmq.REP)\ns.bind('tcp://127.0.0.1:{port}')\nwhile True:\n    b = s.recv()\n    say(b.decode())\n    ear.readline()\n    \
         s.send(b'ok')"
    ));
    let link = start(&m, &["q", &url]);
    for done in 1..=8 {
        assert_eq!(peer.line(), format!("m{}", done - 1));
        peer.tell("go on");
        wait_until(|| m.stats(&q)["acked_total"] == done);
    }
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert_eq!(m.stats(&q)["claims_total"], 8);
    let link = start(&m, &[&SOON[..], &["-o", "confirm_timeout=1s", "-o", "heartbeat=1s", "q", &url]].concat());
    // From here on it answers by itself; it is connected when it has.
    peer.say_no_more();
    fs::write(q.join("before"), "before").unwrap();
    wait_until(|| is_empty(&m, &q));
    peer.signal(libc::SIGSTOP);
    let before = status(&m)["reconnects"].as_u64();
    fs::write(q.join("after"), "after").unwrap();
    wait_until(|| status(&m)["reconnects"].as_u64() > before);
    peer.signal(libc::SIGCONT);
    wait_until(|| is_empty(&m, &q));
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
}

/// "ZeroMQ req/rep: at least once; exactly once when the peer sends an `mq-id`": whichever of the two links is killed.
#[test]
fn killed_links_double_and_lose_nothing() {
    let m = Mount::new();
    let (q, into) = (many(&m, 300), m.queue_with("into", &["durability=async"]));
    let port = port();
    let (ask, take) =
        (format!("zmq+req://127.0.0.1:{port}?frames=json"), format!("zmq+rep://127.0.0.1:{port}?bind=yes&frames=json"));
    let asking = || {
        start(&m, &[&SOON[..], &["-o", "name=out", "-o", "confirm_timeout=1s", "-o", "window=32", "q", &ask]].concat())
    };
    let taking = || start(&m, &["-o", "name=in", "-o", "batch=16", &take, "into"]);
    let mut links = [asking(), taking()];
    let enqueued = || m.stats(&into)["enqueued_total"].as_u64().unwrap();
    for kills in 1..=4 {
        wait_until(|| enqueued() > kills * 40);
        // Its successor has its name and its port, so it comes after it.
        let killed = &mut links[kills as usize % 2];
        killed.signal(libc::SIGKILL);
        wait_until(|| !killed.is_running());
        *killed = if kills % 2 == 0 { asking() } else { taking() };
    }
    wait_until(|| is_empty(&m, &q) && enqueued() >= 300);
    for link in links {
        link.signal(libc::SIGTERM);
        link.finish();
    }
    let there = m.bodies(&into);
    assert_eq!((there.len(), there.into_iter().collect::<BTreeSet<_>>()), (300, bodies(300).into_iter().collect()));
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
    let mut keys = Peer::start("for _ in '123': say(*[k.decode() for k in zmq.curve_keypair()])");
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
    // And the other way round: the link is the one that is connected to, by everybody who knows its key, or by one of them.
    let stranger = pair(keys.line());
    for (name, clients) in [("any", String::new()), ("one", format!("curve_client = {}\n", client.0))] {
        let option = secret(name, &server);
        let mut file = fs::File::options().append(true).open(m.scratch().join(name)).unwrap();
        file.write_all(clients.as_bytes()).unwrap();
        let url = format!("zmq+pull://127.0.0.1:{other}?bind=yes");
        let promised =
            if clients.is_empty() { "whoever knows the public key" } else { "the 1 whose keys the secret names" };
        assert!(run(&m, &["--check", "-o", &option, &url, "q"]).ok().contains(promised));
        let link = start(&m, &["-o", &format!("name={name}"), "-o", &option, &url, "q"]);
        // Each says what it has sent when it has been refused, or let in.
        let peer = |keys: Option<&(String, String)>, body: &str| {
            let curve = keys.map_or(String::new(), |(public, secret)| {
                format!(
                    "s.curve_serverkey, s.curve_publickey, s.curve_secretkey = [k.encode() for k in ({:?}, {public:?}, {secret:?})]\n",
                    server.0
                )
            });
            let mut peer = Peer::start(&format!(
                "from zmq.utils.monitor import recv_monitor_message as event\ns = c.socket(zmq.PUSH)\nm = s.get_monitor_socket()\n{curve}\
                 s.connect('tcp://127.0.0.1:{other}')\ns.send(b'{body}')\n\
                 refused = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED\n\
                 while not (e := event(m)['event']) & (refused | zmq.EVENT_HANDSHAKE_SUCCEEDED): pass\n\
                 say('let in' if e == zmq.EVENT_HANDSHAKE_SUCCEEDED else 'refused')\near.read()"
            ));
            let said = peer.line();
            (peer, said)
        };
        let all = [peer(None, "plain"), peer(Some(&stranger), "stranger"), peer(Some(&client), "known")];
        let said: Vec<&str> = all.iter().map(|(_, said)| said.as_str()).collect();
        assert_eq!(said, ["refused", if clients.is_empty() { "let in" } else { "refused" }, "let in"], "{name}");
        let expected: &[&str] =
            if clients.is_empty() { &["known", "stranger"] } else { &["known", "known", "stranger"] };
        let mut bodies = Vec::new();
        wait_until(|| {
            bodies = m.bodies(&q);
            bodies.len() >= expected.len()
        });
        bodies.sort();
        assert_eq!(bodies, expected);
        link.signal(libc::SIGTERM);
        assert_eq!(link.finish().code(), Some(0));
    }
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
