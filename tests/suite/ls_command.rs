//! `mqfs ls`: a table of the queues, or JSON, of one mount, of some queues, of all mounts.

use std::fs;
use std::process::Command;

use crate::common::*;
use crate::extra::*;
use crate::users::{ann_with_mqfs, chmod};
use serde_json::Value;

const MQFS: &str = env!("CARGO_BIN_EXE_mqfs");

fn ls(m: &Mount, arguments: &[&str]) -> Ran {
    m.run(Command::new(MQFS).arg("ls").args(arguments))
}

#[track_caller]
fn json(m: &Mount, arguments: &[&str]) -> Vec<Value> {
    let ran = m.run(Command::new(MQFS).args(["ls", "--json"]).args(arguments));
    serde_json::from_str::<Value>(ran.ok()).unwrap().as_array().unwrap().clone()
}

fn queues(shown: &[Value]) -> Vec<&str> {
    shown.iter().map(|queue| queue["queue"].as_str().unwrap()).collect()
}

/// The cells of a table's rows.
fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

fn filled() -> Mount {
    let m = Mount::new();
    let q = m.queue("orders");
    let eu = m.queue("orders/eu");
    m.queue("mail");
    m.fill(&q, 4);
    m.message(&eu, "x", [b'x'; 3000]);
    let all = listing(&q);
    transition(&q, "claimed", &q.join(&all[0]));
    transition(&q, "dead", &q.join(&all[1]));
    m
}

#[test]
fn a_table_of_a_mount() {
    let m = filled();
    let ran = ls(&m, &["."]);
    let rows = rows(ran.ok());
    assert_eq!(rows[0], ["QUEUE", "READY", "CLAIMED", "DELAYED", "DEAD", "SIZE", "OLDEST", "STATE"]);
    assert_eq!(rows[1], ["mail", "0", "0", "0", "0", "0", "-", "-"]);
    assert_eq!(rows[2][..6], ["orders", "2", "1", "0", "1", "8"]);
    assert_eq!(rows[3][..6], ["orders/eu", "1", "0", "0", "0", "2.9K"]);
    assert_eq!(rows[4][..6], ["total", "3", "1", "0", "1", "2.9K"]);
    assert_eq!(rows.len(), 5);
    assert!(rows[2][6].ends_with('s'), "{:?}", rows[2]);
    // It is a look: nothing has been claimed.
    assert_eq!(m.stats("orders")["claims_total"], 1);
}

#[test]
fn some_queues_of_a_mount() {
    let m = filled();
    fs::create_dir(m.path().join("orders2")).unwrap();
    assert_eq!(queues(&json(&m, &["orders"])), ["orders", "orders/eu"]);
    assert_eq!(queues(&json(&m, &["orders/eu/"])), ["orders/eu"]);
    assert_eq!(queues(&json(&m, &["mail", "orders/eu"])), ["mail", "orders/eu"]);
    std::os::unix::fs::symlink(m.path().join("mail"), m.scratch().join("link")).unwrap();
    assert_eq!(queues(&json(&m, &[m.scratch().join("link").to_str().unwrap()])), ["mail"]);
    let ran = ls(&m, &["orders/eu"]);
    assert_eq!(rows(ran.ok()).len(), 2, "no total of one");
}

#[test]
fn json_has_what_stats_has() {
    let m = filled();
    let shown = json(&m, &[m.path().to_str().unwrap()]);
    assert_eq!(queues(&shown), ["mail", "orders", "orders/eu"]);
    for queue in &shown {
        let name = queue["queue"].as_str().unwrap();
        for (key, value) in m.stats(name).as_object().unwrap() {
            if key.ends_with("_age_ms") {
                assert_eq!(queue[key].is_u64(), value.is_u64(), "{name}");
            } else {
                assert_eq!(&queue[key], value, "{name} {key}");
            }
        }
        assert_eq!(queue["mount"], m.path().to_str().unwrap());
        assert_eq!(queue["readable"], true);
    }
}

/// The rates are those of the interval, whatever happened before.
#[test]
fn rates_are_measured() {
    let m = filled();
    let busy = m.spawn("while :; do echo > mail/x; rm mail/[0-9]*; done");
    wait_until(|| {
        let ran = ls(&m, &["-i", "300ms", "mail"]);
        let rows = rows(ran.ok());
        assert_eq!(rows[0][7..], ["IN/S", "OUT/S", "STATE"], "{ran:?}");
        rows[1][7..9].iter().all(|rate| rate.parse::<f64>().unwrap() > 0.0)
    });
    drop(busy);
    let quiet = json(&m, &["--interval=10ms", "orders"]);
    assert_eq!(
        (quiet[0]["enqueued_per_second"].as_f64(), quiet[0]["acked_per_second"].as_f64()),
        (Some(0.0), Some(0.0))
    );
    ls(&m, &["--interval=0s", "."]).fails("more than 0");
}

/// Whether something gets in and out, and who waits for that; as it is when it is asked, whoever asked a moment before.
#[test]
fn the_state_says_what_is_not_as_usual() {
    let m = Mount::new();
    m.queue_with("usual", &["max_messages=2"]);
    m.queue_with("both", &["paused=both"]);
    let full = m.queue_with("full", &["max_messages=1", "overflow=block", "paused=out"]);
    m.queue("hungry");
    let state = |queue: &str| {
        let ran = ls(&m, &[queue]);
        ran.ok().lines().nth(1).unwrap().rsplit("  ").next().unwrap().to_owned()
    };
    assert_eq!(
        (state("usual").as_str(), state("both").as_str(), state("full").as_str()),
        ("-", "paused both", "paused out")
    );
    m.message(&full, "x", "1");
    let producer = m.spawn("echo > full/y");
    let consumers = [m.spawn("cat hungry/.mq/claim"), m.spawn("cat hungry/.mq/pop")];
    wait_until(|| m.stats("full")["waiting_writers"] == 1 && m.stats("hungry")["waiting"] == 2);
    assert_eq!(state("full"), "full, paused out, 1 producer waits");
    assert_eq!(state("hungry"), "2 consumers wait");
    assert_eq!(
        (json(&m, &["full"])[0]["paused"].as_str(), json(&m, &["full"])[0]["fullness"].as_f64()),
        (Some("out"), Some(1.0))
    );
    drop((producer, consumers));
}

#[test]
fn names_do_nothing_to_the_terminal() {
    let m = Mount::new();
    m.queue("a\n\u{1b}[2J b");
    m.queue("größe");
    let ran = ls(&m, &["."]);
    let first: Vec<&str> = ran.ok().lines().map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!(first, ["QUEUE", "a\\n\\u{1b}[2J b", "größe", "total"]);
    assert_eq!(queues(&json(&m, &["."])), ["a\n\u{1b}[2J b", "größe"]);
}

/// "queues that may not be read are shown with `-`", and what is in them not at all.
#[test]
fn who_may_not_read_sees_that_there_is_something() {
    let m = Mount::with(&["-o", "allow_other"]);
    let closed = m.queue("closed");
    m.queue("closed/inner");
    m.queue("open");
    chmod(&closed, 0o700);
    let ran = m.run(&mut ann_with_mqfs("$MQFS ls ."));
    let rows = rows(ran.ok());
    assert_eq!(rows[1], ["closed", "-", "-", "-", "-", "-", "-", "-"]);
    assert_eq!((rows[2][0], rows[3][0], rows.len()), ("open", "total", 4));
    m.run(&mut ann_with_mqfs("$MQFS ls closed/inner")).fails("Permission denied");
    let private = Mount::new();
    let there = private.path().display();
    m.run(&mut ann_with_mqfs(&format!("$MQFS ls {there}"))).fails("Permission denied");
    // Without a path, the mounts of others are no failure.
    let ran = m.run(&mut ann_with_mqfs("$MQFS ls"));
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    assert!(ran.stdout.contains("closed") && ran.stderr.contains("Permission denied"), "{ran:?}");
}

#[test]
fn every_mount_is_found() {
    let (m, other) = (filled(), Mount::new());
    other.queue("elsewhere");
    let ran = m.run(Command::new(MQFS).args(["ls", "--json"]));
    let shown: Value = serde_json::from_str(&ran.stdout).unwrap();
    let has = |mount: &Mount, queue: &str| {
        let is = |shown: &Value| shown["mount"] == mount.path().to_str().unwrap() && shown["queue"] == queue;
        shown.as_array().unwrap().iter().any(is)
    };
    assert!(has(&m, "orders/eu") && has(&other, "elsewhere"), "{ran:?}");
    let ran = ls(&m, &[]);
    let heading = format!("{}:\nQUEUE", other.path().display());
    assert!(ran.stdout.contains(&heading), "{ran:?}");
}

#[test]
fn what_is_no_queue_is_told() {
    let mut m = filled();
    let x = m.path().join("orders").join(&listing(m.path().join("orders"))[0]);
    for (path, why) in [
        ("nothing", "mqfs: nothing: No such file or directory"),
        ("/proc", "mqfs: /proc: not on an mqfs mount"),
        (x.to_str().unwrap(), "not a queue"),
        ("orders/.mq", "not a queue"),
    ] {
        let ran = ls(&m, &[path]);
        ran.fails(why);
        assert_eq!((ran.code(), ran.stderr.lines().count()), (Some(9), 1), "{ran:?}");
    }
    m.signal(libc::SIGKILL);
    m.wait_for_exit();
    let ran = Command::new(MQFS).arg("ls").arg(m.path()).output().unwrap();
    assert_eq!(ran.status.code(), Some(9));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("not connected"), "{ran:?}");
    m.detach();
    m.start();
}

/// A mount of one queue somewhere else, as containers get it.
#[test]
fn a_bind_mount_of_a_queue() {
    let m = filled();
    let there = m.scratch().join("there");
    fs::create_dir(&there).unwrap();
    let ran = m.sh(&format!("unshare -m bash -c 'mount --bind orders $T/there && {MQFS} ls $T/there/eu $T/there'"));
    let rows = rows(ran.ok());
    let shown: Vec<&str> = rows.iter().filter(|row| row.len() > 1).map(|row| row[0]).collect();
    let expected = ["QUEUE", "orders/eu", "QUEUE", "orders", "orders/eu", "total"];
    assert_eq!(shown, expected);
    let hidden = "mount --bind $M/orders $T/there && umount -l $M";
    let ran = m.sh(&format!("cd /; unshare -m bash -c '{hidden} && {MQFS} ls $T/there'"));
    ran.fails("only a part");
}

/// Any user can make mounts of this type that never answer. Without a path all are asked, and many cost no more time than one.
#[test]
fn mounts_of_others_that_never_answer_are_left_out_in_time() {
    let place = crate::place::Place::new();
    let script = r#"
        cat > never.py <<'END'
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
for n in range(10):
    os.mkdir("never%d" % n)
    data = "fd=%d,rootmode=40000,user_id=12345,group_id=12345,allow_other" % os.open("/dev/fuse", os.O_RDWR)
    made = libc.mount(b"none", b"never%d" % n, b"fuse.mqfs", 6, data.encode())
    assert made == 0, os.strerror(ctypes.get_errno())
open("ready", "w").close()
signal.pause()
END
        python3 never.py & never=$!
        until [ -e ready ] || ! kill -0 $never; do sleep 0.01; done
        timeout -k 1 100 $MQFS ls > /dev/null 2> said; echo $?
        grep -c "$PWD/never.*no answer within 15 s" said
        kill $never; wait $never; umount -l never*"#;
    let ran = place.sh_in_namespace(script);
    assert_eq!(ran.stdout, "0\n10\n", "{ran:?}");
}
