//! What links tell to Prometheus, and the alerts on it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::common::*;
use crate::linking::run;

/// The metrics that the manual names.
fn documented() -> BTreeSet<String> {
    let page = fs::read_to_string("man/mqfs-link.1").unwrap();
    page.lines()
        .filter_map(|line| line.strip_prefix(".It Va mqfs_link_"))
        .map(|rest| format!("mqfs_link_{rest}"))
        .collect()
}

/// The names of metrics in a text.
fn used(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("mqfs_link_")).map(str::to_owned).collect()
}

#[test]
fn the_alerts_fire_when_they_are_to() {
    let m = Mount::new();
    for (command, file) in [(["check", "rules"], "link_alerts.yml"), (["test", "rules"], "link_alerts_test.yml")] {
        let path = format!("{}/contrib/{file}", env!("CARGO_MANIFEST_DIR"));
        m.run(Command::new("promtool").args(command).arg(path)).succeeds();
    }
}

/// The rules ask for what there is; a link that has failed has written it, with what it does.
#[test]
fn rules_links_and_the_manual_agree() {
    let known = documented();
    let rules = fs::read_to_string("contrib/link_alerts.yml").unwrap();
    let expressions: String = rules.lines().filter(|line| line.contains("mqfs_link_")).collect::<Vec<_>>().join("\n");
    assert!(used(&expressions).is_subset(&known), "{:?}", used(&expressions));
    let m = Mount::new();
    m.queue("q");
    let file = m.scratch().join("q.prom");
    let option = format!("metrics={}", file.display());
    run(&m, &["--until-empty", "-o", "name=l", "-o", &option, "q", "amqp://127.0.0.1:1?queue=q"]).fails("refused");
    let text = fs::read_to_string(&file).unwrap();
    for state in ["connecting", "running", "blocked", "failing", "holding", "stopped"] {
        let line = format!("mqfs_link_state{{link=\"l\",state=\"{state}\"}} {}", u8::from(state == "failing"));
        assert!(text.lines().any(|other| other == line), "{line}: {text}");
    }
    let not_yet = ["mqfs_link_lag", "mqfs_link_last_success_timestamp_seconds"].map(str::to_owned);
    assert_eq!(used(&text).into_iter().chain(not_yet).collect::<BTreeSet<_>>(), known);
    m.sh(&format!("promtool check metrics < {}", file.display())).ok();
}
