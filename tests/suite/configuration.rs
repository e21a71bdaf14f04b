//! A queue's configuration and counters: `.mq/config`, `.mq/stats`, and the same as extended attributes.

use std::fs;
use std::path::Path;

use crate::common::{Mount, errno, remove_xattr, set_xattr, xattr};

const STANDARD_KEYS: &[(&str, &str)] = &[
    ("names", "sequence"),
    ("claim", "read"),
    ("durability", "sync"),
    ("abort_on", "killed"),
    ("publish", "close"),
    ("drafts", ".*"),
    ("visibility_timeout", "30s"),
    ("max_lease", "12h"),
    ("max_claimed", "0"),
    ("max_deliveries", "20"),
    ("retry_delay", "0s"),
    ("retry_backoff", "fixed"),
    ("dead_letter", ""),
    ("message_ttl", "0s"),
    ("expired", "dead"),
    ("max_messages", "0"),
    ("max_bytes", "0"),
    ("max_message_bytes", "0"),
    ("overflow", "reject"),
    ("priorities", "1"),
    ("priority_ageing", "0s"),
    ("dedup_window", "0s"),
    ("draft_ttl", "0s"),
    ("lines_batch", "1"),
    ("paused", "no"),
];

/// "On a queue: every `config` key as `user.mq.KEY`", to read and to set.
#[test]
fn a_queues_configuration_is_in_its_attributes() {
    let m = Mount::new();
    let q = m.queue("q");
    // The attribute `drafts` is that of the counter.
    for (key, value) in STANDARD_KEYS.iter().filter(|(key, _)| *key != "drafts") {
        assert_eq!(xattr(&q, &format!("user.mq.{key}")).as_deref(), Some(*value), "{key}");
    }
    m.sh("setfattr -n user.mq.visibility_timeout -v 5m q").ok();
    assert_eq!(xattr(&q, "user.mq.visibility_timeout").as_deref(), Some("5m"));
    assert!(config(&q).contains("visibility_timeout = 5m\n"));
    assert_eq!(errno(set_xattr(&q, "user.mq.visibility_timeout", "soon")), libc::EINVAL);
    assert_eq!(errno(set_xattr(&q, "user.mq.nonsense", "1")), libc::EINVAL);
    assert_eq!(xattr(&q, "user.mq.visibility_timeout").as_deref(), Some("5m"));
    remove_xattr(&q, "user.mq.visibility_timeout").unwrap();
    assert_eq!(xattr(&q, "user.mq.visibility_timeout").as_deref(), Some("5m"), "only setting it changes it");
    set_xattr(&q, "user.note", "ours").unwrap();
    assert_eq!(xattr(&q, "user.note").as_deref(), Some("ours"));
}

/// "and every counter of `stats`, read-only": the same numbers.
#[test]
fn a_queues_counters_are_in_its_attributes() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh(
        "echo a > q/a; echo bb > q/b; echo ccc > q/c; echo d > q/.d; mkdir q/n; cat q/a > $T/a; cat q/b > $T/b; rm q/b",
    )
    .ok();
    let stats = m.stats(&q);
    let counters = stats.as_object().unwrap();
    let expected = [
        ("ready", 1),
        ("ready_bytes", 4),
        ("claimed", 1),
        ("claimed_bytes", 2),
        ("dead", 0),
        ("drafts", 1),
        ("queues", 1),
        ("enqueued_total", 3),
        ("claims_total", 2),
        ("acked_total", 1),
    ];
    for (name, count) in expected {
        assert_eq!(counters[name], count, "{name} in {stats}");
    }
    for (name, value) in counters {
        let attribute = format!("user.mq.{name}");
        let shown = xattr(&q, &attribute);
        // An age goes on while it is looked at. What there is none of is listed, as the names are the same for all queues.
        match value {
            serde_json::Value::Null => assert_eq!(shown.as_deref(), Some(""), "{name}"),
            _ if name.ends_with("_age_ms") => assert!(shown.is_some(), "{name}"),
            serde_json::Value::String(text) => assert_eq!(shown.as_ref(), Some(text), "{name}"),
            _ => assert_eq!(shown, Some(value.to_string()), "{name}"),
        }
        if ["paused", "max_messages", "max_bytes"].contains(&name.as_str()) {
            continue; // what is configured
        }
        assert_eq!(errno(set_xattr(&q, &attribute, "7")), libc::EPERM, "{name}");
    }
}

fn config(q: &Path) -> String {
    fs::read_to_string(q.join(".mq/config")).unwrap()
}

/// "`config`: key = value lines, readable and writable": a new queue has the defaults, one a line.
#[test]
fn config_reads_as_key_value_lines() {
    let m = Mount::new();
    let q = m.queue("q");
    let expected: String = STANDARD_KEYS.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    assert_eq!(config(&q), expected);
    assert_eq!(m.sh("grep -c = q/.mq/config; wc -l < q/.mq/config").ok(), "25\n25\n");
}

/// "Writing `config` changes only the keys named": with `>`, `>>`, cp, an editor's whole file; at once and for good.
#[test]
fn writing_config_changes_only_the_keys_named() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.sh("echo visibility_timeout=1500ms > q/.mq/config").ok();
    m.sh("printf '# a comment\\n\\n  max_deliveries =  7  \\nmax_message_bytes = 64K\\n' >> q/.mq/config").ok();
    let text = config(&q);
    for line in ["visibility_timeout = 1500ms", "max_deliveries = 7", "max_message_bytes = 65536", "max_lease = 12h"] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    m.sh("sed 's/^claim = .*/claim = rename/' q/.mq/config > $T/config; cp $T/config q/.mq/config").ok();
    let changed = text.replace("claim = read", "claim = rename");
    assert_eq!(config(&q), changed);
    m.sh("printf draft_ttl=7d > q/.mq/config").ok();
    m.kill9_and_remount();
    assert_eq!(config(&q), changed.replace("draft_ttl = 0s", "draft_ttl = 7d"));
}

/// "all or nothing: one bad key or value gives EINVAL and leaves everything as it was; the reason is in the log and as a
/// `# rejected:` line when `config` is next read."
#[test]
fn a_bad_line_in_config_changes_nothing_and_says_why() {
    let m = Mount::new();
    let q = m.queue("q");
    let before = config(&q);
    for bad in
        ["visibilty_timeout=5s", "visibility_timeout=soon", "visibility_timeout=0s", "max_deliveries=-1", "nonsense"]
    {
        let script = format!("printf 'max_deliveries=3\\n{bad}\\nmax_lease=1h\\n' > q/.mq/config");
        m.sh(&script).fails("Invalid argument");
        let after = config(&q);
        let (kept, rejected) = after.split_at(before.len());
        assert_eq!(kept, before, "{bad}");
        assert!(rejected.starts_with("# rejected: "), "{bad}: {rejected:?}");
        assert_eq!(rejected.lines().count(), 1);
        let key = bad.split('=').next().unwrap();
        assert!(rejected.contains(key), "{bad}: {rejected:?}");
        assert!(m.log().contains(key), "{bad}: {}", m.log());
    }
    // What was read, with its comment, can be written back; then the complaint is gone.
    m.sh("cat q/.mq/config > $T/config; cat $T/config > q/.mq/config").ok();
    assert_eq!(config(&q), before);
}

/// A mistake in the last line, which has no newline, is reported at the latest by close.
#[test]
fn a_bad_line_without_newline_is_reported_by_close() {
    let m = Mount::new();
    let q = m.queue("q");
    let before = config(&q);
    let program = r#"
import errno, os
fd = os.open("q/.mq/config", os.O_WRONLY | os.O_TRUNC)
try:
    os.write(fd, b"max_deliveries=3\nmax_lease=never")
    os.close(fd)
except OSError as e:
    assert e.errno == errno.EINVAL, e
else:
    raise SystemExit("nothing was reported")
"#;
    m.python(program).ok();
    assert!(config(&q).starts_with(&before));
}

/// `stats` and `version` are for reading, and stats is JSON for every tool.
#[test]
fn stats_are_json_and_read_only() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo x > q/x; echo 1 > q/.mq/stats").fails("Operation not permitted");
    let program = "import json; print(json.load(open('q/.mq/stats'))['ready'], json.load(open('.mq/stats'))['ready'])";
    assert_eq!(m.python(program).ok(), "1 1\n");
    assert!(m.sh("cat .mq/version").ok().contains(env!("CARGO_PKG_VERSION")));
    m.sh("rm q/.mq/stats").fails("");
    m.sh("rm -f q/.mq/config").fails("");
    assert_eq!(m.stats(&q)["ready"], 1);
}
