//! `mqfs link` to NATS JetStream: what is acknowledged here is in the stream, and once.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::*;
use crate::extra::*;
use crate::linking::{SOON, is_empty, many, run, start, state, status};
use crate::nats::{MOST_BYTES, NKEY, Nats, signed};

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("m{i}")).collect()
}

/// "all properties there": each in the header that the manual names, as another client sees it.
#[test]
fn properties_arrive_as_headers() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = m.queue("q");
    nats.stream("PROPS");
    fs::write(q.join(".d"), "a;b\n").unwrap();
    for (name, value) in [
        ("user.mq.content_type", &b"text/csv"[..]),
        ("user.mq.correlation_id", b"c-1"),
        ("user.mq.reply_to", b"answers"),
        ("user.mq.priority", b"7"),
        ("user.mq.group", b"g"),
        ("user.mq.dedup_id", b"order-7"),
        ("user.colour", "röt".as_bytes()),
        ("user.binary", b"\xff"),
        ("user.Nats-Expected-Last-Sequence", b"99"),
    ] {
        set_xattr(q.join(".d"), name, value).unwrap();
    }
    fs::rename(q.join(".d"), q.join("größe.csv")).unwrap();
    run(&m, &["--until-empty", "q", &nats.url("/props?stream=PROPS")]).ok();
    assert!(is_empty(&m, &q));
    let seen = nats.python("h, b = get('PROPS', 1)\nh.pop('mq-enqueued-at')\nprint(sorted(h.items()), b)");
    let expected = r#"[('Nats-Expected-Stream', 'PROPS'), ('Nats-Msg-Id', 'order-7'), ('colour', 'röt'), ('content-type', 'text/csv'), ('correlation-id', 'c-1'), ('group', 'g'), ('mq-headers', '{"Nats-Expected-Last-Sequence":"99","binary":{"base64":"/w=="}}'), ('mq-hops', '1'), ('mq-name', 'größe.csv'), ('mq-priority', '7'), ('reply-to', 'answers')] b'a;b\n'"#;
    assert_eq!(seen.trim().replace("\\n", "\n"), expected.replace("\\n", "\n"));
}

/// Thousands in the order of the queue, each once; and a link that is killed sends again what may not have arrived, under the same
/// identity, so that the stream has it once.
#[test]
fn a_killed_link_loses_and_doubles_nothing() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = many(&m, 1500);
    nats.stream("KILLED");
    let url = nats.url("/killed");
    for _ in 0..4 {
        let link = start(&m, &["-o", "window=50", "q", &url]);
        let before = m.stats(&q)["acked_total"].as_u64().unwrap();
        wait_until(|| m.stats(&q)["acked_total"].as_u64().unwrap() > before + 60);
        link.signal(libc::SIGKILL);
        link.finish();
    }
    run(&m, &["--until-empty", "q", &url]).succeeds();
    assert!(is_empty(&m, &q) && m.stats(&q)["dead"] == 0, "{}", m.stats(&q));
    let mut there = nats.bodies("KILLED");
    there.sort_by_key(|body| body[1..].parse::<u32>().unwrap());
    assert_eq!(there, numbers(1500));
}

/// The order of the queue, and a clean end when it is asked for.
#[test]
fn order_is_kept_and_a_signal_drains() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = many(&m, 2000);
    nats.stream("ORDER");
    let link = start(&m, &["-o", "window=16", "q", &nats.url("/order")]);
    wait_until(|| m.stats(&q)["acked_total"].as_u64().unwrap() > 50);
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert_eq!(m.stats(&q)["claimed"], 0);
    assert_eq!(nats.messages("ORDER") + m.stats(&q)["ready"].as_u64().unwrap(), 2000, "none is here and there");
    run(&m, &["--until-empty", "q", &nats.url("/order")]).ok();
    assert_eq!(nats.bodies("ORDER"), numbers(2000));
}

/// A server that is killed and comes back, with what it had.
#[test]
fn a_killed_server_loses_and_doubles_nothing() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = many(&m, 1500);
    nats.stream("SERVER");
    let link = start(&m, &[&SOON[..], &["-o", "window=50", "q", &nats.url("/server")]].concat());
    for kills in 1..=2 {
        wait_until(|| m.stats(&q)["acked_total"].as_u64().unwrap() > 300 * kills);
        nats.kill9();
        wait_until(|| state(&m) == "connecting");
        nats.start_again();
    }
    wait_until(|| is_empty(&m, &q));
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    let stats = m.stats(&q);
    assert_eq!((&stats["dead"], &stats["claims_total"], &stats["expired_total"]), (&0.into(), &1500.into(), &0.into()));
    let mut there = nats.bodies("SERVER");
    there.sort_by_key(|body| body[1..].parse::<u32>().unwrap());
    assert_eq!(there, numbers(1500));
}

/// "an outage of hours costs no deliveries and no leases": longer than leases are, and a server that says nothing is away, too.
#[test]
fn a_server_that_is_away_for_long_costs_nothing() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = m.queue_with("q", &["durability=async", "visibility_timeout=1s"]);
    let clock = m.queue_with("clock", &["visibility_timeout=1s", "max_deliveries=0"]);
    fs::write(clock.join("tick"), "").unwrap();
    m.fill(&q, 400);
    nats.stream("LONG");
    let link = start(&m, &[&SOON[..], &["-o", "window=20", "-o", "heartbeat=1s", "q", &nats.url("/long")]].concat());
    wait_until(|| m.stats(&q)["acked_total"].as_u64().unwrap() > 20);
    nats.signal(libc::SIGSTOP);
    wait_until(|| state(&m) == "connecting");
    nats.signal(libc::SIGCONT);
    wait_until(|| m.stats(&q)["acked_total"].as_u64().unwrap() > 100);
    nats.kill9();
    wait_until(|| state(&m) == "connecting");
    let before = m.stats(&q);
    // Each time it is had again when a lease of a second is over.
    for _ in 0..4 {
        m.sh("cat clock/.mq/claim").ok();
    }
    let stats = m.stats(&q);
    for same in ["claimed", "claims_total", "acked_total"] {
        assert_eq!(stats[same], before[same], "{same}");
    }
    nats.start_again();
    wait_until(|| is_empty(&m, &q));
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    let stats = m.stats(&q);
    assert_eq!((&stats["claims_total"], &stats["expired_total"], &stats["dead"]), (&400.into(), &0.into(), &0.into()));
    assert_eq!(nats.messages("LONG"), 400);
}

/// "too large: `.mq/dead` at once, reason in log and status", whoever says so; the others go on.
#[test]
fn what_is_too_large_is_a_dead_letter() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = many(&m, 2);
    for (name, size) in [("for-the-stream", 5000), ("for-the-server", MOST_BYTES)] {
        fs::write(q.join(name), vec![b'x'; size]).unwrap();
    }
    fs::write(q.join("last"), "last").unwrap();
    nats.python("stream('LARGE', max_msg_size=2000)");
    let ran = run(&m, &["--until-empty", "q", &nats.url("/large")]);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    assert_eq!(nats.bodies("LARGE"), ["m0", "m1", "last"]);
    let dead = control(&q, "dead");
    let why: Vec<String> =
        names(&dead).iter().map(|name| xattr(dead.join(name), "user.mq.last_error").unwrap()).collect();
    assert_eq!(why.len(), 2);
    assert!(why[0].contains("size exceeds maximum") && why[1].contains("max payload"), "{why:?}");
}

/// "nack: later": a stream that is full takes them when there is room, and nothing is counted against them.
#[test]
fn a_full_stream_is_waited_for() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = many(&m, 3);
    nats.python("stream('FULL', max_msgs=1, discard='new')");
    let link = start(&m, &[&SOON[..], &["q", &nats.url("/full")]].concat());
    wait_until(|| status(&m)["retried"].as_u64().unwrap() >= 4);
    assert_eq!(state(&m), "failing");
    assert!(status(&m)["why"].as_str().unwrap().contains("maximum messages exceeded"), "{}", status(&m));
    nats.python("api('STREAM.UPDATE.FULL', name='FULL', subjects=['full'], retention='limits', storage='file', num_replicas=1, max_msgs=9, discard='new')");
    wait_until(|| is_empty(&m, &q));
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert_eq!((&m.stats(&q)["dead"], nats.messages("FULL")), (&0.into(), 3));
}

/// "login refused, topic missing: fault of the link": told, in the status, and exit code 16 for cron; nothing is claimed.
#[test]
fn what_the_server_will_not_is_told() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = many(&m, 1);
    for (url, told) in [("/nowhere", "no stream has the subject nowhere"), ("/x?stream=NONE", "stream not found")] {
        for how in ["--until-empty", "--check"] {
            let ran = run(&m, &[how, "q", &nats.url(url)]);
            assert_eq!(ran.code(), Some(16), "{ran:?}");
            ran.fails(told);
        }
    }
    let link = start(&m, &[&SOON[..], &["-o", "name=waits", "q", &nats.url("/later")]].concat());
    wait_until(|| run(&m, &["--status", "waits"]).stdout.contains("failing"));
    assert_eq!(m.stats(&q)["claims_total"], 0, "nothing is claimed without a stream");
    nats.stream("LATER");
    wait_until(|| is_empty(&m, &q));
    // A stream that is taken away meanwhile is the same.
    nats.python("api('STREAM.DELETE.LATER')");
    fs::write(q.join("more"), "more").unwrap();
    wait_until(|| run(&m, &["--status", "waits"]).stdout.contains("failing"));
    nats.stream("LATER");
    wait_until(|| is_empty(&m, &q));
    link.signal(libc::SIGTERM);
    assert_eq!(link.finish().code(), Some(0));
    assert_eq!(nats.bodies("LATER"), ["more"]);
}

fn secret(m: &Mount, text: &str) -> String {
    let path = m.scratch().join("secret");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    format!("secret={}", path.display())
}

/// By password, token and key, each from the file only; a wrong one is told without being repeated.
#[test]
fn each_way_to_log_in_works() {
    let m = Mount::new();
    many(&m, 0);
    let [seed, public] = NKEY;
    let (operator, credentials) = signed();
    for (authorization, right, wrong) in [
        (
            "authorization { user: anna, password: sesame }",
            "user = anna\npassword = sesame\n".to_owned(),
            "user = anna\npassword = open-up\n",
        ),
        ("authorization { token: sesame }", "token = sesame\n".to_owned(), "token = open-up\n"),
        (
            &format!("authorization {{ users: [ {{ nkey: {public} }} ] }}"),
            format!("nkey = {seed}\n"),
            "token = open-up\n",
        ),
        // A file that NATS's own tools have made.
        (&operator, credentials, "token = open-up\n"),
    ] {
        let nats = Nats::start_with(&format!("{authorization}\n"));
        let url = nats.url("/x?stream=NONE");
        let ran = run(&m, &["--check", "-o", &secret(&m, wrong), "q", &url]);
        assert_eq!(ran.code(), Some(16), "{ran:?}");
        ran.fails("authorization violation");
        assert!(!ran.stderr.contains("open-up"));
        // Further than this it comes only when it is let in.
        run(&m, &["--check", "-o", &secret(&m, &right), "q", &url]).fails("stream not found");
        let ran = run(&m, &["--check", "q", &url.replacen("://", "://anna@", 1)]);
        assert_eq!(ran.code(), Some(2), "{ran:?}");
        ran.fails("no password of anna");
    }
}

/// TLS verifies, and a certificate is shown where the server asks for one.
#[test]
fn tls_verifies_and_shows_a_certificate() {
    let m = Mount::new();
    many(&m, 0);
    let nats =
        Nats::start_with("tls { cert_file: DIR/cert.pem, key_file: DIR/key.pem, ca_file: DIR/ca.pem, verify: true }\n");
    let url = nats.tls_url("/x?stream=NONE");
    let option = |key: &str, name: &str| format!("{key}={}", nats.path(name).display());
    let (ca, certificate, key) =
        (option("tls_ca", "ca.pem"), option("tls_cert", "client.pem"), option("tls_key", "client.key"));
    let ran = run(&m, &["--check", "-o", &certificate, "-o", &key, "q", &url]);
    assert_eq!(ran.code(), Some(16), "{ran:?}");
    ran.fails("certificate");
    let ran = run(&m, &["--check", "-o", &ca, "q", &url]);
    assert_eq!(ran.code(), Some(16), "without a certificate it is not let in: {ran:?}");
    assert!(!ran.stderr.contains("stream not found"), "{ran:?}");
    run(&m, &["--check", "-o", &ca, "-o", &certificate, "-o", &key, "q", &url]).fails("stream not found");
    let plain = Nats::start();
    run(&m, &["--check", "-o", &ca, "q", &plain.tls_url("/x")]).fails("nobody speaks TLS at this port");
}

/// `--check` says what is promised and changes nothing; `--show` says what would be sent.
#[test]
fn looking_changes_nothing() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = many(&m, 3);
    nats.stream("LOOK");
    let text = run(&m, &["--check", "q", &nats.url("/look")]).ok().to_owned();
    for told in
        ["stream LOOK is there", "one copy", "exactly once within the stream's duplicate window", "not encrypted"]
    {
        assert!(text.contains(told), "{told}: {text}");
    }
    assert_eq!(run(&m, &["--show", "2", "q", &nats.url("/look")]).ok().lines().count(), 2);
    assert_eq!((&m.stats(&q)["claims_total"], nats.messages("LOOK")), (&0.into(), 0));
}

/// "SIGHUP reads the file again": what the loops look up is taken over at once, another broker is connected to, and what makes no sense
/// changes nothing and is told.
#[test]
fn a_hangup_reads_the_file_again() {
    let (m, nats) = (Mount::new(), Nats::start());
    let q = m.queue("q");
    nats.python("stream('A')\nstream('B')");
    let conf = m.scratch().join("again.conf");
    let write = |text: &str| fs::write(&conf, format!("from = {}\n{text}\n", q.display())).unwrap();
    write(&format!("to = {}", nats.url("/a")));
    let link = start(&m, &[conf.to_str().unwrap()]);
    fs::write(q.join("one"), "one").unwrap();
    wait_until(|| nats.messages("A") == 1);
    write(&format!("to = {}\nlargest = 4", nats.url("/a")));
    link.signal(libc::SIGHUP);
    wait_until(|| {
        fs::write(q.join("larger"), "larger").unwrap();
        m.stats(&q)["dead"].as_u64().unwrap() > 0
    });
    assert_eq!(status(&m)["reconnects"], 0, "that needs no other connection");
    write("to = amqp://user:sesame@h?queue=q");
    link.signal(libc::SIGHUP);
    write(&format!("to = {}\nlargest = 4", nats.url("/a")));
    let before = nats.messages("A");
    fs::write(q.join("two"), "two").unwrap();
    wait_until(|| nats.messages("A") > before);
    write(&format!("to = {}", nats.url("/b")));
    link.signal(libc::SIGHUP);
    wait_until(|| {
        fs::write(q.join("three"), "three").unwrap();
        nats.messages("B") > 0
    });
    write(&format!("name = other\nto = {}", nats.url("/b")));
    link.signal(libc::SIGHUP);
    wait_until(|| is_empty(&m, &q));
    link.signal(libc::SIGTERM);
    let ran = link.finish();
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    for told in ["SIGHUP: the settings were read\n", "SIGHUP: the settings were read, connecting anew"] {
        assert!(ran.stderr.contains(told), "{told}: {ran:?}");
    }
    assert!(!ran.stderr.contains("sesame"), "{ran:?}");
}

/// What a file for Prometheus has is what its checker takes, and what has happened.
#[test]
fn metrics_are_what_prometheus_takes() {
    let (m, nats) = (Mount::new(), Nats::start());
    many(&m, 3);
    nats.stream("METRICS");
    let file = m.scratch().join("link.prom");
    let option = format!("metrics={}", file.display());
    run(&m, &["--until-empty", "-o", "name=m", "-o", &option, "q", &nats.url("/metrics")]).ok();
    let text = fs::read_to_string(&file).unwrap();
    for line in [
        "mqfs_link_up{link=\"m\"} 0",
        "mqfs_link_state{link=\"m\",state=\"stopped\"} 1",
        "mqfs_link_state{link=\"m\",state=\"running\"} 0",
        "mqfs_link_messages_total{link=\"m\",result=\"done\"} 3",
        "mqfs_link_bytes_total{link=\"m\"} 6",
        "mqfs_link_in_flight{link=\"m\"} 0",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}: {text}");
    }
    m.sh(&format!("promtool check metrics < {}", file.display())).ok();
    run(&m, &["-o", "metrics=/tmp/m.txt", "q", &nats.url("/metrics")]).fails(".prom");
}

/// "sd_notify": that it is ready, what it does, that it lives; and the unit that uses it makes sense.
#[test]
fn systemd_is_told() {
    let (m, nats) = (Mount::new(), Nats::start());
    many(&m, 3);
    nats.stream("SYSTEMD");
    let socket = std::os::unix::net::UnixDatagram::bind(m.scratch().join("notify")).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mqfs = env!("CARGO_BIN_EXE_mqfs");
    m.sh(&format!("NOTIFY_SOCKET=$T/notify XDG_RUNTIME_DIR=$T {mqfs} link --until-empty q '{}'", nats.url("/systemd")))
        .ok();
    let mut told = String::new();
    while !told.contains("STOPPING=1") {
        let mut line = [0; 1024];
        let length = socket.recv(&mut line).unwrap();
        told += &(String::from_utf8_lossy(&line[..length]).into_owned() + "\n");
    }
    assert!(told.starts_with("READY=1\n"), "{told}");
    assert!(told.contains("WATCHDOG=1\nSTATUS=running, "), "{told}");
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/mqfs-link@.service");
    let script = format!(
        "sed 's|ExecStart=mqfs|ExecStart={mqfs}|' {unit} > $T/mqfs-link@.service; systemd-analyze verify --man=no $T/mqfs-link@.service"
    );
    m.sh(&script).ok();
}
