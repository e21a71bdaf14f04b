//! `MOUNT/.mq/metrics`: what Prometheus reads, and the alerts on it.

mod common;
#[path = "common/extra.rs"]
mod extra;
#[path = "common/users.rs"]
mod users;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use common::*;
use extra::*;
use users::{ANN, chmod};

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

/// Reads the text format strictly: each metric begins with its help and type, its samples follow, none is there twice.
fn parse(text: &str) -> Metrics {
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
            let labels = &sample[name.len()..];
            assert!(labels.is_empty() || labels.starts_with('{') && labels.ends_with("\"}"), "{line}");
            let value: f64 = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(metrics.samples.insert(sample.to_owned(), value).is_none(), "{line}: twice");
        }
    }
    metrics
}

fn metrics(m: &Mount) -> Metrics {
    parse(m.sh("cat .mq/metrics").ok())
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
                "oldest_ready_age_ms" => continue,
                _ => format!("mqfs_{key}{{queue=\"{label}\"}}"),
            };
            assert_eq!(told.get(&sample), value.as_f64().unwrap(), "{queue} {key}");
        }
        assert_eq!(told.of("queue_readable", label), 1.0);
    }
    assert_eq!(told.get(r#"mqfs_messages{queue="orders",state="ready"}"#), 2.0);
    assert_eq!(told.of("oldest_ready_age_seconds", "empty"), 0.0);
    let ms = m.stats("orders/eu")["oldest_ready_age_ms"].as_f64().unwrap();
    assert!(told.of("oldest_ready_age_seconds", "orders/eu") * 1000.0 <= ms);
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
    let told = parse(m.run_as_with_groups(ANN, ANN, "4242", "cat .mq/metrics").ok());
    assert_eq!(told.of("queue_readable", "closed/inner"), 1.0);
    chmod(m.path(), 0o711);
    let told = parse(m.run_as(ANN, ANN, "cat .mq/metrics").ok());
    assert!(told.names().contains("mqfs_info") && !told.names().contains("mqfs_queue_readable"));
}

#[test]
fn every_metric_is_documented() {
    let m = Mount::new();
    m.queue("q");
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
    m.queue("q");
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
    let ran = m.run(std::process::Command::new("python3").args(["-c", program, rules]));
    let known = metrics(&m).names();
    let used: Vec<Vec<&str>> = ran.ok().lines().map(|line| line.split(' ').collect()).collect();
    assert!(used.len() >= 8, "{used:?}");
    for name in used.into_iter().flatten() {
        assert!(known.contains(name), "{name} is not among {known:?}");
    }
}
