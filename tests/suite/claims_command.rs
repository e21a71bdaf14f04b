//! `mqfs claims`: which messages are claimed, by whom, since when and until when.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::common::*;
use crate::extra::*;
use crate::users::{ann_with_mqfs, chmod};
use serde_json::Value;

const MQFS: &str = env!("CARGO_BIN_EXE_mqfs");

fn claims(m: &Mount, arguments: &[&str]) -> Ran {
    m.run(Command::new(MQFS).arg("claims").args(arguments))
}

#[track_caller]
fn json(m: &Mount, arguments: &[&str]) -> Vec<Value> {
    let ran = m.run(Command::new(MQFS).args(["claims", "--json"]).args(arguments));
    serde_json::from_str::<Value>(ran.ok()).unwrap().as_array().unwrap().clone()
}

fn time(value: &Value) -> SystemTime {
    humantime::parse_rfc3339(value.as_str().unwrap()).unwrap()
}

#[test]
fn who_holds_what_since_when_and_until_when() {
    let m = Mount::new();
    let q = m.queue("orders");
    let eu = m.queue("orders/eu");
    m.queue("mail");
    let begun = SystemTime::now() - Duration::from_millis(1);
    let (first, second) = (m.message(&q, "a.csv", "1"), m.message(&eu, "b.csv", "2"));
    m.message(&q, "ready", "3");
    let holder = m.holder(&first);
    let gone = m.worker(&format!("mv '{}' orders/eu/.mq/claimed/", second.display()));
    gone.ok();
    let shown = json(&m, &["."]);
    assert_eq!(shown.len(), 2, "{shown:?}");
    let (held, left) = (&shown[0], &shown[1]);
    assert_eq!((&held["queue"], &left["queue"]), (&"orders".into(), &"orders/eu".into()));
    assert_eq!(held["message"], first.file_name().unwrap().to_str().unwrap());
    assert_eq!(held["pid"], holder.pid());
    assert_eq!((&held["uid"], &held["deliveries"]), (&0.into(), &1.into()));
    assert!(held["process"].as_str().unwrap().starts_with("sleep "), "{held}");
    assert_eq!(left["process"], Value::Null, "mv is gone");
    let (since, deadline) = (time(&held["since"]), time(&held["deadline"]));
    assert!(begun <= since && since <= SystemTime::now(), "{held}");
    assert_eq!(deadline.duration_since(since).unwrap(), Duration::from_secs(30));
    assert_eq!(held["mount"], m.path().to_str().unwrap());
    // Of a queue, with those in it; of all mounts.
    assert_eq!(json(&m, &["orders/eu"]).len(), 1);
    assert_eq!(json(&m, &["mail"]).len(), 0);
    // Mounts of others may be there, and dead.
    let all = claims(&m, &["--json"]);
    let all: Value = serde_json::from_str(all.succeeds()).unwrap();
    assert!(all.as_array().unwrap().contains(held), "{all}");
    let table = claims(&m, &["orders"]);
    let rows: Vec<Vec<&str>> = table.ok().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["QUEUE", "MESSAGE", "USER", "PID", "SINCE", "LEASE", "PROCESS"]);
    assert_eq!(rows[1][..4], ["orders", held["message"].as_str().unwrap(), "0", &holder.pid().to_string()]);
    assert_eq!(rows[1][6..], ["sleep", "1000"]);
    assert_eq!((rows[2][0], rows[2][6], rows.len()), ("orders/eu", "gone", 3));
    assert_eq!(m.stats("orders")["claims_total"], 1, "a look claims nothing");
    assert_eq!(xattr(within(&q, "claimed", &first), "user.mq.claimed_at").as_deref(), held["since"].as_str());
}

#[test]
fn names_do_nothing_to_the_terminal() {
    let m = Mount::new();
    let q = m.queue("a\u{1b}[2J");
    let x = m.message(&q, "x\u{202e}y\u{9b}", "1");
    transition(&q, "claimed", &x);
    let table = claims(&m, &["."]);
    let row = table.ok().lines().nth(1).unwrap();
    assert!(row.starts_with("a\\u{1b}[2J  ") && row.contains("-x\\u{202e}y\\u{9b}  "), "{row:?}");
    let shown = json(&m, &["."]);
    assert_eq!(shown[0]["queue"], "a\u{1b}[2J");
}

#[test]
fn a_queue_whose_name_is_no_text() {
    use std::os::unix::ffi::OsStrExt;
    let m = Mount::new();
    let q = m.path().join(std::ffi::OsStr::from_bytes(b"x\xff"));
    fs::create_dir(&q).unwrap();
    let x = m.message(&q, "x", "1");
    transition(&q, "claimed", &x);
    assert_eq!(json(&m, &["."])[0]["queue"], "x\\xff");
}

/// Who may not read a queue is not told of its claims, and who may not consume from it gets what `stat` and `getfattr` tell.
#[test]
fn who_may_not_read_is_told_nothing() {
    let m = Mount::with(&["-o", "allow_other"]);
    for (queue, mode) in [("closed", 0o700), ("open", 0o777)] {
        let q = m.queue(queue);
        let x = m.message(&q, "x", "1");
        transition(&q, "claimed", &x);
        chmod(&q, mode);
    }
    let ran = m.run(&mut ann_with_mqfs("$MQFS claims --json ."));
    let shown: Value = serde_json::from_str(ran.ok()).unwrap();
    let queues: Vec<&Value> = shown.as_array().unwrap().iter().map(|claim| &claim["queue"]).collect();
    assert_eq!(queues, ["open"]);
    m.run(&mut ann_with_mqfs("$MQFS claims closed")).ok();
    m.run(&mut ann_with_mqfs("$MQFS claims closed/x")).fails("Permission denied");
    claims(&m, &["/proc"]).fails("not on an mqfs mount");
}
