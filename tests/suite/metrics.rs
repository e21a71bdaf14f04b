//! `MOUNT/.mq/metrics`: what Prometheus reads, and the alerts on it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::time::{Instant, SystemTime};

use crate::common::*;
use crate::extra::*;
use crate::users::{ANN, chmod};

/// The samples by their name and labels, and the type of each metric.
#[derive(Debug)]
struct Metrics {
    samples: HashMap<String, f64>,
    types: BTreeMap<String, String>,
}

impl Metrics {
    #[track_caller]
    fn get(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("{sample} is not in {:#?}", self.samples.keys()))
    }

    fn of(&self, metric: &str, queue: &str) -> f64 {
        self.get(&format!("mqfs_{metric}{{queue=\"{queue}\"}}"))
    }

    fn names(&self) -> BTreeSet<String> {
        self.samples.keys().map(|sample| sample.split('{').next().unwrap().to_owned()).collect()
    }
}

/// Reads the text format strictly: each metric begins with its help and type, its samples follow, none is there twice. All have
/// the mount as their first label, which is left out here.
fn parse(text: &str) -> Metrics {
    let mount = text.split_once("{mount=\"").and_then(|(_, rest)| rest.split_once('"')).unwrap().0;
    let mount = format!("{{mount=\"{mount}\"");
    let mut metrics = Metrics { samples: HashMap::new(), types: BTreeMap::new() };
    let (mut helped, mut current) = (String::new(), String::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(words.ends_with('.'), "{line}");
            name.clone_into(&mut helped);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, helped);
            assert_eq!(kind, if name.ends_with("_total") { "counter" } else { "gauge" }, "{line}");
            assert!(metrics.types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}: again");
            name.clone_into(&mut current);
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            let name = sample.split('{').next().unwrap();
            assert_eq!(name, current, "{line}: outside of its metric");
            let labels = sample[name.len()..].strip_prefix(&mount).unwrap_or_else(|| panic!("{line}: no {mount}"));
            assert!(labels == "}" || labels.starts_with(',') && labels.ends_with("\"}"), "{line}");
            let value: f64 = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
            let sample = match labels.strip_prefix(',') {
                Some(labels) => format!("{name}{{{labels}"),
                None => name.to_owned(),
            };
            assert!(metrics.samples.insert(sample, value).is_none(), "{line}: twice");
        }
    }
    metrics
}

fn metrics(m: &Mount) -> Metrics {
    parse(m.sh("cat .mq/metrics").ok())
}

/// The metrics when they say so: they may be of a second ago.
#[track_caller]
fn metrics_when(read: impl Fn() -> Metrics, condition: impl Fn(&Metrics) -> bool) -> Metrics {
    let mut told = read();
    wait_until(|| {
        let holds = condition(&told);
        if !holds {
            told = read();
        }
        holds
    });
    told
}

#[test]
fn metrics_say_what_stats_say() {
    let m = Mount::new();
    let q = m.queue("orders");
    let nested = m.queue("orders/eu");
    m.queue("empty");
    m.fill(&q, 5);
    m.message(&nested, "x", "12345");
    let messages = listing(&q);
    transition(&q, "claimed", &q.join(&messages[1]));
    transition(&q, "dead", &q.join(&messages[2]));
    m.sh(&format!("rm orders/{}", messages[0])).ok();
    let told = metrics(&m);
    for (queue, label) in [("orders", "orders"), ("orders/eu", "orders/eu"), ("empty", "empty")] {
        for (key, value) in m.stats(queue).as_object().unwrap() {
            let (state, bytes) = match key.strip_suffix("_bytes") {
                Some(state) => (state, true),
                None => (key.as_str(), false),
            };
            let metric = if bytes { "mqfs_message_bytes" } else { "mqfs_messages" };
            let sample = match state {
                "ready" | "claimed" | "delayed" | "dead" => format!("{metric}{{queue=\"{label}\",state=\"{state}\"}}"),
                "fullness" => {
                    let sample = format!("mqfs_fullness_ratio{{queue=\"{label}\"}}");
                    assert!(value.is_null() && !told.samples.contains_key(&sample), "there is no limit");
                    continue;
                }
                "paused" => {
                    assert_eq!(value, "no");
                    continue;
                }
                age if age.ends_with("_age_ms") => continue,
                _ => format!("mqfs_{key}{{queue=\"{label}\"}}"),
            };
            assert_eq!(told.get(&sample), value.as_f64().unwrap(), "{queue} {key}");
        }
        assert_eq!(told.of("queue_readable", label), 1.0);
    }
    assert_eq!(told.get(r#"mqfs_messages{queue="orders",state="ready"}"#), 2.0);
    assert_eq!(told.of("oldest_ready_age_seconds", "empty"), 0.0);
    for (state, queue) in [("ready", "orders/eu"), ("claimed", "orders"), ("dead", "orders")] {
        let ms = m.stats(queue)[format!("oldest_{state}_age_ms")].as_f64().unwrap();
        let seconds = told.of(&format!("oldest_{state}_age_seconds"), queue);
        assert!(seconds * 1000.0 <= ms, "{state}: {seconds} s, {ms} ms");
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - 300.0..=now).contains(&told.get("mqfs_timestamp_seconds")));
    assert_eq!(told.get(&format!("mqfs_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    assert!(told.get("mqfs_requests_total") > 10.0);
    let (free, size) = (told.get("mqfs_store_free_bytes"), told.get("mqfs_store_size_bytes"));
    assert!(0.0 < free && free < size, "{free} of {size}");
}

#[test]
fn a_mount_without_queues_has_metrics() {
    let m = Mount::new();
    assert_eq!(metrics(&m).get("mqfs_writers"), 0.0);
    assert_eq!(listing(m.path().join(".mq")), ["stats", "metrics", "backup", "version"]);
    m.sh("echo > .mq/metrics").fails("not permitted");
}

#[test]
fn any_name_is_a_label() {
    let m = Mount::new();
    for name in [&b"a \"b\""[..], b"back\\slash", b"two\nlines", b"caf\xc3\xa9", b"\xff\xfe", b"}"] {
        fs::create_dir(m.path().join(OsStr::from_bytes(name))).unwrap();
    }
    let told = metrics(&m);
    for label in [r#"a \"b\""#, r"back\\slash", r"two\nlines", "café", r"\\xff\\xfe", "}"] {
        assert_eq!(told.of("enqueued_total", label), 0.0);
    }
}

/// Nobody is told of a queue that they could not list, nor the numbers of one whose `stats` they may not read.
#[test]
fn everybody_is_told_what_they_may_know() {
    let m = Mount::with(&["-o", "allow_other"]);
    for (queue, mode) in [("open", 0o755), ("closed", 0o700), ("box", 0o1733)] {
        let path = m.queue(queue);
        m.queue(&format!("{queue}/inner"));
        chmod(&path, mode);
    }
    let all = ["open", "open/inner", "closed", "closed/inner", "box", "box/inner"];
    let told = metrics(&m);
    for queue in all {
        assert_eq!(told.of("queue_readable", queue), 1.0, "{queue}");
    }
    let told = parse(m.run_as(ANN, ANN, "cat .mq/metrics").ok());
    for (queue, readable) in [("open", 1.0), ("open/inner", 1.0), ("closed", 0.0), ("box", 0.0)] {
        assert_eq!(told.of("queue_readable", queue), readable, "{queue}");
        let number = told.samples.contains_key(&format!("mqfs_acked_total{{queue=\"{queue}\"}}"));
        assert_eq!(number, readable == 1.0, "{queue}");
    }
    assert!(!told.samples.keys().any(|sample| sample.contains("closed/") || sample.contains("box/")));
    // A group that only /proc tells of counts as well.
    m.sh("chgrp 4242 closed && chmod 750 closed").ok();
    let inner = "mqfs_queue_readable{queue=\"closed/inner\"}";
    let told = metrics_when(
        || parse(m.run_as_with_groups(ANN, ANN, "4242", "cat .mq/metrics").ok()),
        |told| told.samples.contains_key(inner),
    );
    assert_eq!(told.of("queue_readable", "closed/inner"), 1.0);
    let told = parse(m.run_as(ANN, ANN, "cat .mq/metrics").ok());
    assert!(!told.samples.contains_key(inner), "told to those of another group");
    chmod(m.path(), 0o711);
    let told = metrics_when(
        || parse(m.run_as(ANN, ANN, "cat .mq/metrics").ok()),
        |told| !told.names().contains("mqfs_queue_readable"),
    );
    assert!(told.names().contains("mqfs_info"));
}

#[test]
fn every_metric_is_documented() {
    let m = Mount::new();
    m.queue_with("q", &["max_messages=5"]);
    let page = fs::read_to_string("man/mqfs.5").unwrap();
    let items = page.lines().filter_map(|line| line.strip_prefix(".It Va mqfs_"));
    let documented: BTreeSet<String> =
        items.flat_map(|names| names.split(" , mqfs_")).map(|name| format!("mqfs_{name}")).collect();
    assert_eq!(documented, metrics(&m).names());
}

/// The rules are YAML of the form that Prometheus reads, and what they ask for is there.
#[test]
fn the_alerts_are_on_metrics_that_exist() {
    let m = Mount::new();
    m.queue_with("q", &["max_messages=5"]);
    let program = r#"
import re, sys
try:
    import yaml
    rules = yaml.safe_load(open(sys.argv[1]))["groups"][0]["rules"]
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule
        assert re.fullmatch("Mqfs[A-Za-z]+", rule["alert"]) and rule["annotations"]["summary"], rule
    exprs = [rule["expr"] for rule in rules]
except ImportError:
    exprs = re.findall(r"expr:(.*?)(?:for|labels):", open(sys.argv[1]).read(), re.S)
for expr in exprs:
    assert expr.count("(") == expr.count(")"), expr
    print(" ".join(re.findall(r"mqfs_\w+", expr)))
"#;
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/alerts.yml");
    let ran = m.run(Command::new("python3").args(["-c", program, rules]));
    let known = metrics(&m).names();
    let used: Vec<Vec<&str>> = ran.ok().lines().map(|line| line.split(' ').collect()).collect();
    assert!(used.len() >= 8, "{used:?}");
    for name in used.into_iter().flatten() {
        assert!(known.contains(name), "{name} is not among {known:?}");
    }
}

/// `promtool test rules` of the tests beside the rules: among others, `MqfsGone` fires for a mount whose file is not written any
/// more.
#[test]
fn the_alerts_fire_when_they_are_to() {
    let m = Mount::new();
    for (command, file) in [(["check", "rules"], "alerts.yml"), (["test", "rules"], "alerts_test.yml")] {
        let path = format!("{}/contrib/{file}", env!("CARGO_MANIFEST_DIR"));
        m.run(Command::new("promtool").args(command).arg(path)).succeeds();
    }
}

/// As the manual sets it up: the metrics of two mounts, each in a file of the textfile collector of node_exporter, which puts them
/// together. The linter of Prometheus has no complaint about the result.
#[test]
fn two_mounts_go_together() {
    let (m, other) = (Mount::new(), Mount::new());
    let files = m.scratch().join("node-exporter");
    fs::create_dir(&files).unwrap();
    for (mount, name) in [(&m, "one"), (&other, "two")] {
        let q = mount.queue_with("q", &["max_messages=5"]);
        mount.fill(&q, 3);
        let to = files.join(name).display().to_string();
        mount.sh(&format!("cat .mq/metrics > {to}.tmp && mv {to}.tmp {to}.prom")).ok();
        mount.sh("promtool check metrics < .mq/metrics").ok();
    }
    // Which port is free shows when it is tried; another program may be faster.
    let script = "
from urllib.request import urlopen
import socket, subprocess, sys
for attempt in range(20):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    exporter = subprocess.Popen(['prometheus-node-exporter', '--collector.disable-defaults', '--collector.textfile',
        '--collector.textfile.directory=' + sys.argv[1], f'--web.listen-address=127.0.0.1:{port}',
        '--web.disable-exporter-metrics'], stderr=subprocess.PIPE, text=True)
    try:
        # It says that it listens, or ends.
        if any('istening on' in line for line in exporter.stderr):
            print(urlopen(f'http://127.0.0.1:{port}/metrics').read().decode(), end='')
            break
    finally:
        exporter.kill()
        exporter.wait()
";
    let together = m.run(Command::new("python3").args(["-c", script]).arg(&files));
    let together = together.ok();
    assert!(together.contains("node_textfile_scrape_error 0\n"), "{together}");
    for mount in [&m, &other] {
        let mount = mount.path().display();
        let sample = format!("mqfs_messages{{mount=\"{mount}\",queue=\"q\",state=\"ready\"}} 3\n");
        assert!(together.contains(&sample), "{sample} is not in {together}");
    }
    let own: Vec<&str> = together.lines().filter(|line| line.contains("mqfs_")).collect();
    fs::write(m.scratch().join("together"), own.join("\n") + "\n").unwrap();
    m.sh("promtool check metrics < $T/together").ok();
}

/// What copies by length copies all of it, whatever changes meanwhile.
#[test]
fn it_has_the_length_of_what_is_read() {
    let m = Mount::new();
    m.fill(&m.queue("q"), 3);
    for file in [".mq/metrics", ".mq/stats", "q/.mq/stats", ".mq/version"] {
        assert!(fs::metadata(m.path().join(file)).unwrap().len() > 0, "{file}");
        let program = format!(
            "
import os
for i in range(50):
    with open({file:?}, 'rb') as f:
        size = os.fstat(f.fileno()).st_size
        open('q/x%d' % i, 'w').close()
        again = os.fstat(f.fileno()).st_size
        text = f.read()
        assert len(text) == size == again, (i, len(text), size, again)"
        );
        m.python(&program).ok();
    }
    m.sh("rsync .mq/metrics .mq/stats $T/").ok();
    let copy = parse(&fs::read_to_string(m.scratch().join("metrics")).unwrap());
    assert_eq!(copy.get(r#"mqfs_messages{queue="q",state="dead"}"#), 0.0);
    let copy = fs::read_to_string(m.scratch().join("stats")).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&copy).unwrap()["ready"].is_u64());
    // A web server tells the length before it sends.
    let program = "
import http.server, threading, urllib.request
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)
server.RequestHandlerClass.log_message = lambda *_: None
threading.Thread(target=server.serve_forever, daemon=True).start()
for i in range(20):
    open('q/y%d' % i, 'w').close()
    with urllib.request.urlopen('http://127.0.0.1:%d/.mq/metrics' % server.server_port) as answer:
        text = answer.read()
        assert len(text) == int(answer.headers['Content-Length']) > 1000
print(text.decode(), end='')
server.shutdown()";
    parse(m.python(program).ok());
}

/// Many readers of one second are told the same, at the price of one.
#[test]
fn it_is_put_together_at_most_once_a_second() {
    let m = Mount::new();
    m.queue("q");
    let begun = Instant::now();
    let script = "for i in {1..200}; do cat .mq/metrics; touch q/x$i; done | grep -h ^mqfs_timestamp | sort -u | wc -l";
    let renderings: u64 = m.sh(script).ok().trim().parse().unwrap();
    let seconds = begun.elapsed().as_secs();
    assert!(renderings <= seconds + 1, "{renderings} in {seconds} s");
    let told = metrics_when(|| metrics(&m), |told| told.get(r#"mqfs_messages{queue="q",state="ready"}"#) == 200.0);
    assert_eq!(told.of("enqueued_total", "q"), 200.0);
}

/// Whether a queue is open, how full it is, and what fills it.
#[test]
fn limits_pauses_and_retries_are_told() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_messages=4", "max_bytes=1000", "paused=out"]);
    m.fill(&q, 2);
    m.queue_with("free", &["paused=in"]);
    let told = metrics(&m);
    assert_eq!((told.of("max_messages", "q"), told.of("max_bytes", "q")), (4.0, 1000.0));
    assert_eq!((told.of("max_bytes", "free"), told.of("fullness_ratio", "q")), (0.0, 0.5));
    assert!(!told.samples.contains_key("mqfs_fullness_ratio{queue=\"free\"}"));
    for (queue, into, out) in [("q", 0.0, 1.0), ("free", 1.0, 0.0)] {
        let paused = |way: &str| told.get(&format!("mqfs_paused{{queue=\"{queue}\",direction=\"{way}\"}}"));
        assert_eq!((paused("in"), paused("out")), (into, out), "{queue}");
    }
    let stats = m.stats("q");
    assert_eq!((&stats["paused"], &stats["max_messages"], &stats["fullness"]), (&"out".into(), &4.into(), &0.5.into()));
    assert_eq!(xattr(&q, "user.mq.fullness").as_deref(), Some("0.5"));
    assert_eq!(xattr(m.path().join("free"), "user.mq.fullness").as_deref(), Some(""));
    m.sh("head -c 900 /dev/zero > q/large").ok();
    assert!(m.stats("q")["fullness"].as_f64().unwrap() > 0.9, "of bytes");
    // One that its producer delayed, and one that a worker has given back for later, twice delivered.
    m.set(&q, "paused=no\nmax_messages=0\nmax_bytes=0");
    m.sh("echo > q/.x && setfattr -n user.mq.delay -v 1h q/.x && mv q/.x q/x").ok();
    let first = q.join(&listing(&q)[0]);
    let claimed = transition(&q, "claimed", &first);
    fs::rename(&claimed, &first).unwrap();
    let claimed = transition(&q, "claimed", &first);
    fs::rename(&claimed, within(&q, "delayed", &first)).unwrap();
    let stats = m.stats("q");
    assert_eq!((&stats["delayed"], &stats["retrying"], &stats["redelivered_total"]), (&2.into(), &1.into(), &1.into()));
    let told = metrics_when(|| metrics(&m), |told| told.of("retrying", "q") == 1.0);
    assert_eq!(told.of("redelivered_total", "q"), 1.0);
}
