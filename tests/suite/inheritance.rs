//! Where the configuration of a queue comes from, and what a queue and the mount tell of themselves.

use std::fs;
use std::path::Path;

use crate::common::*;
use crate::extra::*;

fn config(queue: &Path) -> String {
    fs::read_to_string(control(queue, "config")).unwrap()
}

/// The value of a key in `.mq/config`.
fn key(queue: &Path, name: &str) -> String {
    let text = config(queue);
    let pairs = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    let mut found = pairs.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned());
    let value = found.next().unwrap_or_else(|| panic!("no {name} in {text:?}"));
    assert_eq!(found.next(), None, "{name} twice");
    value
}

/// "`mkdir` copies its parent queue's configuration", once: later changes are not followed.
#[test]
fn mkdir_copies_the_configuration_of_its_parent() {
    let mut m = Mount::new();
    m.queue_with("q", &["visibility_timeout=11s", "max_deliveries=3", "durability=async"]);
    let inner = m.queue("q/inner");
    assert_eq!(config(&inner), config(&m.path().join("q")));
    m.set("q", "visibility_timeout=22s");
    m.set("q/inner", "max_deliveries=4");
    let deeper = m.queue("q/inner/deeper");
    let other = m.queue("other");
    for _ in 0..2 {
        assert_eq!(key(&inner, "visibility_timeout"), "11s");
        assert_eq!(key(&deeper, "visibility_timeout"), "11s");
        assert_eq!(key(&deeper, "max_deliveries"), "4");
        assert_eq!(key(&deeper, "durability"), "async");
        assert_eq!(key(&m.path().join("q"), "max_deliveries"), "3");
        assert_eq!(key(&other, "visibility_timeout"), "30s");
        m.kill9_and_remount();
    }
}

/// "`mqfs mount -o KEY=VALUE` sets the defaults for queues made at the top", from then on.
#[test]
fn mount_options_are_the_defaults_of_new_queues() {
    let mut m = Mount::with(&["-o", "visibility_timeout=5s,max_deliveries=7"]);
    let q = m.queue("q");
    let inner = m.queue_with("q/inner", &["visibility_timeout=6s"]);
    assert_eq!((key(&q, "visibility_timeout"), key(&q, "max_deliveries")), ("5s".into(), "7".into()));
    m.stop();
    m.set_args(&["-o", "visibility_timeout=9s"]);
    m.start();
    let later = m.queue("later");
    assert_eq!(key(&q, "visibility_timeout"), "5s", "what is there keeps its own");
    assert_eq!(key(&inner, "visibility_timeout"), "6s");
    assert_eq!((key(&later, "visibility_timeout"), key(&later, "max_deliveries")), ("9s".into(), "20".into()));
}

/// What `config` shows can be written to another queue's.
#[test]
fn a_configuration_can_be_copied() {
    let m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=1500ms", "claim=rename", "abort_on=never"]);
    let p = m.queue("p");
    m.sh("cat q/.mq/config > p/.mq/config; cp q/.mq/config $T/saved; cp $T/saved p/.mq/config").ok();
    assert_eq!(config(&p), config(&q));
    assert_eq!(key(&p, "visibility_timeout"), "1500ms");
}

/// "any other `user.*` attribute" on a queue is kept as on any directory.
#[test]
fn queues_keep_attributes_of_their_own() {
    let mut m = Mount::new();
    let q = m.queue("q");
    set_xattr(&q, "user.owner", "team").unwrap();
    m.remount();
    assert_eq!(xattr(&q, "user.owner").as_deref(), Some("team"));
    assert!(xattrs(&q).contains(&"user.owner".to_owned()));
    assert_eq!(xattr(&q, "user.mq.ready").as_deref(), Some("0"), "and show every counter of stats");
    assert!(set_xattr(&q, "user.mq.ready", "7").is_err());
}

/// ".mq/ status of the whole mount (never listed): stats, metrics, version": the sums over all queues.
#[test]
fn the_mount_has_stats_of_its_own() {
    let m = Mount::new();
    let (q, inner) = (m.queue("q"), m.queue("q/inner"));
    m.fill(&q, 3);
    m.fill(&inner, 2);
    transition(&q, "claimed", &q.join(&listing(&q)[0]));
    transition(&inner, "dead", &inner.join(&listing(&inner)[0]));
    fs::write(inner.join(".draft"), "").unwrap();
    let stats = m.stats("");
    let seen: Vec<_> = ["ready", "claimed", "dead", "drafts", "queues", "enqueued_total"]
        .iter()
        .map(|key| stats[*key].as_u64().unwrap_or_else(|| panic!("no {key} in {stats}")))
        .collect();
    assert_eq!(seen, [3, 1, 1, 1, 2, 5], "{stats}");
    assert!(m.sh("cat .mq/version").ok().starts_with("mqfs "));
    assert_eq!(listing(m.path()), ["q"]);
}
