//! `mqfs consume`: what it does with messages, and what a command is told of them.

use std::fs;
use std::process::Command;

use crate::common::*;
use crate::extra::*;
use crate::users::{ann_with_mqfs, chmod};

const MQFS: &str = env!("CARGO_BIN_EXE_mqfs");

/// Runs `mqfs consume q OPTIONS -- sh -c SCRIPT`.
fn consume(m: &Mount, options: &[&str], script: &str) -> Ran {
    m.run(Command::new(MQFS).args(["consume", "q"]).args(options).args(["--", "sh", "-c", script]))
}

fn scratch(m: &Mount, file: &str) -> String {
    fs::read_to_string(m.scratch().join(file)).unwrap_or_default()
}

#[test]
fn messages_are_worked_off_in_order() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 12);
    consume(&m, &["--until-empty"], "cat >> $T/out; echo >> $T/out").ok();
    let expected: String = (0..12).map(|n| format!("m{n}\n")).collect();
    assert_eq!(scratch(&m, "out"), expected);
    assert_eq!(m.bodies("q").len(), 0);
    assert_eq!(m.stats("q")["acked_total"], 12);
    consume(&m, &["--until-empty"], "false").ok();
}

#[test]
fn a_number_of_messages() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 5);
    consume(&m, &["--max-messages=3", "-j2"], "cat >> $T/out").ok();
    assert_eq!(m.bodies("q"), ["m3", "m4"]);
    consume(&m, &["--max-messages=30", "--until-empty"], "cat >> $T/out").ok();
    assert_eq!(m.bodies("q").len(), 0);
}

/// What a command is told, and that it is told of nothing that an outer worker was told.
#[test]
fn the_environment_tells_of_the_message() {
    let m = Mount::new();
    let q = m.queue_with("q", &["priorities=3"]);
    let header = "setfattr -n user.x-request.id -v 'a b' q/.x && setfattr -n user.mq.content_type -v text/csv q/.x";
    m.sh(&format!("echo body > q/.x && {header} && setfattr -n user.mq.priority -v 2 q/.x && mv q/.x 'q/a b.csv'"))
        .ok();
    let x = only(&q);
    let wanted = |name: &str| xattr(&x, &format!("user.mq.{name}")).unwrap();
    let (id, seq, enqueued_at, producer) = (wanted("id"), wanted("seq"), wanted("enqueued_at"), wanted("producer"));
    let mut command = Command::new(MQFS);
    command.args(["consume", "q", "--until-empty", "--", "sh", "-c", "env | grep ^MQFS | sort > $T/env"]);
    command.args(["--", "-q"]); // are the command's
    let outer = r#"export MQFS_HEADER_OLD=1 MQFS_DEDUP_ID=2 MQFS_NAME=3 MQFS_OTHER=4; "$@""#;
    m.run(Command::new("bash").args(["-c", outer, "bash"]).arg(command.get_program()).args(command.get_args())).ok();
    let environment = scratch(&m, "env");
    let path = environment.lines().find_map(|line| line.strip_prefix("MQFS_PATH=")).unwrap();
    assert_eq!(plain(path), within(&q, "claimed", &x).display().to_string());
    assert_ne!(plain(path), path, "it names the delivery");
    let expected = format!(
        "MQFS_CONTENT_TYPE=text/csv\nMQFS_DELIVERIES=1\nMQFS_ENQUEUED_AT={enqueued_at}\nMQFS_HEADER_X_REQUEST_ID=a b\n\
         MQFS_ID={id}\nMQFS_NAME=a b.csv\nMQFS_OTHER=4\nMQFS_PATH={}\nMQFS_PID={}\nMQFS_PRIORITY=2\n\
         MQFS_PRODUCER={producer}\nMQFS_QUEUE={}\nMQFS_SEQ={seq}\n",
        path,
        m.pid(),
        q.display(),
    );
    assert_eq!(environment, expected);
}

/// "Message stdin is [...] not a pipe, so CMD can seek", and its path is the same message's.
#[test]
fn standard_input_is_the_file() {
    let m = Mount::new();
    let q = m.queue("q");
    let body: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    m.message(&q, "large", &body);
    let program = "import os, sys\nos.lseek(0, -4, os.SEEK_END)\nassert os.read(0, 9) == (299999).to_bytes(4, 'little')\n\
                   body = open(os.environ['MQFS_PATH'], 'rb').read()\nos.lseek(0, 0, 0)\n\
                   assert sys.stdin.buffer.read() == body and len(body) == 1200000";
    m.run(Command::new(MQFS).args(["consume", "q", "--until-empty", "--", "python3", "-c", program])).ok();
    assert_eq!(m.bodies("q").len(), 0);
    assert_eq!(m.stats("q")["claims_total"], 1, "the command opens its own message");
}

#[test]
fn names_of_any_kind() {
    let m = Mount::new();
    let q = m.queue("q");
    for name in ["two\nlines", " spaces  ", "-dash", "quote'\"$x`", "größe"] {
        m.message(&q, name, name);
    }
    let script = "test \"$MQFS_NAME\" = \"$(cat)\" && test \"$(cat \"$MQFS_PATH\")\" = \"$MQFS_NAME\"";
    consume(&m, &["--until-empty"], script).ok();
    assert_eq!(m.bodies("q").len(), 0);
}

/// A failure brings the message back for later; after `max_deliveries` of them it is dead.
#[test]
fn failures_are_tried_again_and_end_in_dead() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_deliveries=3", "retry_delay=1ms"]);
    let x = m.message(&q, "x\ny", "");
    let ran = consume(&m, &["--max-messages=3"], "exit 7");
    assert_eq!(ran.code(), Some(1));
    let name = x.file_name().unwrap().to_str().unwrap()[..16].to_owned();
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{ran:?}");
    for (delivery, line) in (1..).zip(lines) {
        assert!(line.starts_with(&format!("mqfs: {name}: exit code 7 after ")), "{line}");
        let became = if delivery < 3 { "given back for later" } else { "dead-lettered" };
        assert!(line.ends_with(&format!(" s, delivery {delivery}; {became}")), "{line}");
    }
    assert_eq!(state(&q, &x).as_deref(), Some("dead"));
    assert_eq!(m.stats("q")["nacked_total"], 3);
}

/// Without `retry_delay` there is a pause before the next attempt all the same.
#[test]
fn a_failure_is_not_tried_again_at_once() {
    let m = Mount::new();
    let q = m.queue("q");
    let x = m.message(&q, "x", "");
    let y = m.message(&q, "y", "");
    let begun = std::time::Instant::now();
    let ran = consume(&m, &["--until-empty", "-q"], "test $MQFS_NAME = y");
    assert_eq!((ran.code(), ran.stderr.as_str()), (Some(1), ""));
    assert_eq!(state(&q, &y), None, "a failure holds up nobody else");
    if state(&q, &x).as_deref() == Some("delayed") {
        assert!(xattr(within(&q, "peek", &x), "user.mq.due").is_some());
    }
    // The first try, and one more a second later at the earliest.
    assert!(u64::from(deliveries(&q, &x)) <= 1 + begun.elapsed().as_secs());
}

#[test]
fn a_command_may_give_up() {
    let m = Mount::new();
    let q = m.queue("q");
    let x = m.message(&q, "x", "");
    let ran = consume(&m, &["--until-empty", "--dead-letter-exit=65"], "exit 65");
    assert!(ran.stderr.contains("exit code 65") && ran.stderr.contains("; dead-lettered\n"), "{ran:?}");
    assert_eq!(state(&q, &x).as_deref(), Some("dead"));
}

#[test]
fn a_command_that_takes_too_long_is_ended() {
    let m = Mount::new();
    let q = m.queue_with("q", &["retry_delay=1h"]);
    let x = m.message(&q, "x", "");
    // What the command has started ends with it.
    let ran = consume(&m, &["--until-empty", "--timeout=3s"], "sleep 1000 & echo $! > $T/pid; wait");
    assert!(ran.stderr.contains(": timed out after "), "{ran:?}");
    assert_eq!(state(&q, &x).as_deref(), Some("delayed"));
    let pid = scratch(&m, "pid").trim().to_owned();
    wait_until(|| !fs::exists(format!("/proc/{pid}")).unwrap() || is_zombie(pid.parse().unwrap()));
    // One that ends well only because it was told to has failed.
    m.sh("mv q/.mq/delayed/* q/").ok();
    let ran = consume(&m, &["--until-empty", "--timeout=3s"], "trap 'exit 0' TERM; sleep 1000 & wait");
    assert!(ran.stderr.contains(": timed out after "), "{ran:?}");
    assert_eq!(state(&q, &x).as_deref(), Some("delayed"));
}

/// The command may end the claim by itself: then that counts.
#[test]
fn a_command_may_acknowledge_or_move_the_message_itself() {
    let m = Mount::new();
    let q = m.queue("q");
    m.queue("other");
    for name in ["removed", "moved", "dead"] {
        m.message(&q, name, name);
    }
    let script = "case $MQFS_NAME in removed) rm $MQFS_PATH; false;; moved) mv $MQFS_PATH $MQFS_QUEUE/../other/;;
        dead) mv $MQFS_PATH $MQFS_QUEUE/.mq/dead/; false;; esac";
    let ran = consume(&m, &["--until-empty", "-q"], script);
    assert_eq!((ran.code(), ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(m.bodies("other"), ["moved"]);
    assert_eq!(m.bodies("q"), ["dead"]);
    assert_eq!(m.stats("q")["dead"], 1);
}

/// What a command enqueues is worked off before the end.
#[test]
fn until_empty_waits_for_those_that_run() {
    let m = Mount::new();
    let q = m.queue("q");
    m.message(&q, "x", "3");
    let script = "n=$(cat); echo $n >> $T/out; test $n = 0 || echo $((n - 1)) > $MQFS_QUEUE/next";
    consume(&m, &["--until-empty", "-j3"], script).ok();
    assert_eq!(scratch(&m, "out"), "3\n2\n1\n0\n");
}

/// A command that is not there costs no delivery; one that turns out not to be there costs no more than one.
#[test]
fn a_command_that_cannot_be_run() {
    let m = Mount::new();
    let q = m.queue("q");
    let x = m.message(&q, "x", "");
    fs::write(m.scratch().join("plain"), "").unwrap();
    let plain = m.scratch().join("plain").to_str().unwrap().to_owned();
    for (command, why) in [
        ("no-such-command", "mqfs: no-such-command: command not found\n"),
        ("/no/such/command", "mqfs: /no/such/command: command not found\n"),
        (plain.as_str(), ": Permission denied\n"),
        ("/", "mqfs: /: permission denied\n"),
    ] {
        let ran = m.run(Command::new(MQFS).args(["consume", "q", "--", command]));
        ran.fails(why);
        assert_eq!((ran.code(), ran.stderr.lines().count()), (Some(11), 1), "{ran:?}");
    }
    assert_eq!(deliveries(&q, &x), 0);
    let ran = consume(&m, &[], "no-such-command");
    ran.fails("mqfs: sh: it ended with 127");
    assert_eq!((ran.code(), deliveries(&q, &x)), (Some(11), 1));
    assert_ne!(state(&q, &x).as_deref(), Some("claimed"));
    // It is there, and its interpreter is not.
    chmod(&plain, 0o755);
    fs::write(&plain, "#!/no/such/interpreter\n").unwrap();
    m.message(&q, "y", "");
    let ran = m.run(Command::new(MQFS).args(["consume", "q", "--", &plain]));
    ran.fails(": No such file or directory\n");
    assert_eq!((ran.code(), m.stats("q")["claimed"].as_u64()), (Some(11), Some(0)), "{ran:?}");
}

#[test]
fn what_is_no_queue_is_told() {
    let m = Mount::new();
    let q = m.queue("q");
    m.message(&q, "x", "");
    for (path, why) in [
        ("nothing", "mqfs: nothing: No such file or directory\n"),
        ("/proc", "mqfs: /proc: not a queue of an mqfs mount\n"),
        (".", "mqfs: .: not a queue of an mqfs mount\n"),
        ("q/.mq/config", "mqfs: q/.mq/config: not a queue\n"),
    ] {
        let ran = m.run(Command::new(MQFS).args(["consume", path, "--", "true"]));
        ran.fails(why);
        assert_eq!((ran.code(), ran.stderr.lines().count()), (Some(9), 1), "{ran:?}");
    }
    for wrong in ["-j0", "--timeout=0s", "--max-messages=0", "--dead-letter-exit=0"] {
        assert_eq!(consume(&m, &[wrong], "true").code(), Some(2), "{wrong}");
    }
    assert_eq!(m.run(Command::new(MQFS).args(["consume", "q"])).code(), Some(2));
    assert_eq!(m.bodies("q").len(), 1);
}

/// Any user who may consume can; one who may not is told.
#[test]
fn a_worker_of_an_ordinary_user() {
    let (m, q) = crate::users::mount(0o770);
    m.message(&q, "x", "secret");
    let script = "$MQFS consume q --until-empty -- sh -c 'cat; test -r \"$MQFS_PATH\"'";
    let ran = m.run(&mut ann_with_mqfs(script));
    ran.fails("mqfs: q: Permission denied");
    assert_eq!(ran.code(), Some(9));
    m.sh(&format!("chgrp {} q", crate::users::ANN)).ok();
    let ran = m.run(&mut ann_with_mqfs(script));
    assert_eq!(ran.ok(), "secret");
    assert_eq!(m.bodies("q").len(), 0);
}
