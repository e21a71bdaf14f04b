//! `mqfs consume`: what its exit codes, its lines and its settlements say, several queues, and output beside progress.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::common::*;
use crate::extra::*;

const MQFS: &str = env!("CARGO_BIN_EXE_mqfs");

/// Runs `mqfs consume OPTIONS -- sh -c SCRIPT`.
fn consume(m: &Mount, options: &[&str], script: &str) -> Ran {
    m.run(Command::new(MQFS).arg("consume").args(options).args(["--", "sh", "-c", script]))
}

fn said(m: &Mount, file: &str) -> String {
    fs::read_to_string(m.scratch().join(file)).unwrap_or_default()
}

/// How far in the future a delayed message is due.
fn due_in(q: &Path, message: &Path) -> Duration {
    let due = xattr(within(q, "peek", message), "user.mq.due").expect("user.mq.due");
    humantime::parse_rfc3339(&due).unwrap().duration_since(SystemTime::now()).unwrap_or_default()
}

/// "Exit code 1 when a message failed or was given up"
#[test]
fn the_exit_code_tells_of_failures() {
    let m = Mount::new();
    let q = m.queue_with("q", &["retry_delay=1h"]);
    let end = |script: &str| {
        m.message(&q, "x", "");
        consume(&m, &["q", "--until-empty", "--dead-letter-exit=3", "-q"], script)
    };
    for (script, code) in [("true", 0), ("exit 1", 1), ("exit 3", 1), ("kill -9 $$", 1), ("rm $MQFS_PATH; false", 0)] {
        let ran = end(script);
        assert_eq!((ran.code(), ran.stderr.as_str()), (Some(code), ""), "{script}");
    }
    // Whoever asks it to end has been told of each.
    m.message(&q, "x", "");
    let worker = m.start_command(Command::new(MQFS).args(["consume", "q", "--", "false"]));
    wait_until(|| worker.errors().contains("exit code 1"));
    worker.signal(libc::SIGTERM);
    assert_eq!(worker.finish().code(), Some(0));
}

/// "It says what really became of a message"
#[test]
fn what_became_of_a_message_is_told() {
    let m = Mount::new();
    m.queue("graves");
    let q = m.queue_with("q", &["max_deliveries=2", "retry_delay=1ms"]);
    m.message(&q, "x", "");
    let ran = consume(&m, &["q", "--max-messages=2"], "exit 7");
    let ends: Vec<&str> = ran.stderr.lines().map(|line| line.rsplit("; ").next().unwrap()).collect();
    assert_eq!(ends, ["given back for later", "dead-lettered"], "{ran:?}");
    m.sh("echo dead_letter=graves > q/.mq/config").ok();
    m.message(&q, "y", "");
    let ran = consume(&m, &["q", "--max-messages=2"], "exit 7");
    assert!(ran.stderr.ends_with("; dead-lettered to graves\n"), "{ran:?}");
    assert_eq!(m.bodies("graves").len(), 1);
}

/// "`--dead-letter-exit` several times, and it honours `dead_letter`"
#[test]
fn codes_that_give_up() {
    let m = Mount::new();
    let graves = m.queue("graves");
    let q = m.queue("q");
    for name in ["64", "65", "1"] {
        m.message(&q, name, "");
    }
    let options = ["q", "--dead-letter-exit=64", "--dead-letter-exit=65", "--max-messages=3"];
    let ran = consume(&m, &options, "exit $MQFS_NAME");
    assert_eq!(ran.stderr.matches("; dead-lettered\n").count(), 2, "{ran:?}");
    assert_listed(&control(&q, "dead"), &["64", "65"]);
    m.sh("echo dead_letter=graves > q/.mq/config").ok();
    m.message(&q, "64", "");
    let ran = consume(&m, &[&options[..3], &["--max-messages=1"]].concat(), "exit $MQFS_NAME");
    assert!(ran.stderr.ends_with("; dead-lettered to graves\n"), "{ran:?}");
    assert_listed(&graves, &["64"]);
    assert_eq!(xattr(only(&graves), "user.mq.dead_source").as_deref(), Some("q"));
}

/// "a code or a last line `mqfs: retry-after=10m` with which a command chooses its delay"
#[test]
fn a_command_says_when_to_try_again() {
    let m = Mount::new();
    let q = m.queue_with("q", &["retry_delay=1s"]);
    let (hour, minutes) = (Duration::from_secs(3600), Duration::from_secs(600));
    for (script, delay, told) in [
        ("exit 75", hour, "; given back for 1h\n"),
        ("echo busy >&2; echo mqfs: retry-after=10m >&2; exit 1", minutes, "; given back for 10m\n"),
        ("printf 'mqfs: retry-after=10m' >&2; exit 75", minutes, "\nmqfs: "),
    ] {
        let x = m.message(&q, "x", "");
        let ran = consume(&m, &["q", "--max-messages=1", "--retry-exit=75=1h"], script);
        assert!(ran.stderr.contains(told), "{script}: {ran:?}");
        assert_eq!(state(&q, &x).as_deref(), Some("delayed"), "{script}");
        let due = due_in(&q, &x);
        assert!(due <= delay && due + Duration::from_secs(300) > delay, "{script}: {due:?}");
        m.sh("rm q/.mq/delayed/*").ok();
    }
    // What is no duration is told, and is a failure as any other.
    m.message(&q, "x", "");
    let ran = consume(&m, &["q", "--max-messages=1"], "echo mqfs: retry-after=soon >&2; exit 1");
    assert!(ran.stderr.contains("retry-after=soon is no duration; given back for later"), "{ran:?}");
    for wrong in ["--retry-exit=75", "--retry-exit=0=1s", "--retry-exit=75=soon", "--grace=soon"] {
        assert_eq!(consume(&m, &["q", wrong], "true").code(), Some(2), "{wrong}");
    }
}

/// "The exit code and the last KiB of stderr are kept with the message", and all of it passes through.
#[test]
fn the_last_error_is_kept() {
    let m = Mount::new();
    let q = m.queue_with("q", &["retry_delay=1h"]);
    let x = m.message(&q, "x", "");
    let script = "seq 1000 >&2; echo out; printf 'the end' >&2; exit 9";
    let ran = consume(&m, &["q", "--max-messages=1"], script);
    assert_eq!(ran.stdout, "out\n");
    let expected: String = (1..=1000).map(|n| format!("{n}\n")).collect();
    assert!(ran.stderr.starts_with(&format!("{expected}the end\nmqfs: ")), "{}", ran.stderr);
    let kept = xattr(within(&q, "peek", &x), "user.mq.last_error").unwrap();
    assert!(kept.starts_with("exit code 9 after ") && kept.ends_with("\n999\n1000\nthe end"), "{kept}");
    assert!(kept.len() <= 1024 && kept.len() > 1000, "{}", kept.len());
    // With -q nothing is added to what the command says.
    m.message(&q, "y", "");
    assert_eq!(consume(&m, &["q", "--max-messages=1", "-q"], "printf 'the end' >&2; exit 9").stderr, "the end");
}

/// "several queues with weights"
#[test]
fn several_queues_by_their_weights() {
    let m = Mount::new();
    let (urgent, bulk) = (m.queue("urgent"), m.queue("bulk"));
    m.fill(&urgent, 20);
    m.fill(&bulk, 20);
    let script = "echo $(basename $MQFS_QUEUE) >> $T/out";
    consume(&m, &["urgent=3", "bulk", "--max-messages=8"], script).ok();
    assert_eq!(said(&m, "out").matches("urgent").count(), 6, "{}", said(&m, "out"));
    consume(&m, &["urgent=3", "bulk", "--until-empty", "-j2"], script).ok();
    assert_eq!((m.bodies("urgent").len(), m.bodies("bulk").len()), (0, 0));
    // It waits for all of them.
    let worker = m.start_command(Command::new(MQFS).args([
        "consume",
        "urgent=1000",
        "bulk",
        "--",
        "sh",
        "-c",
        "echo $MQFS_NAME >> $T/late",
    ]));
    for (queue, name) in [(&bulk, "a"), (&urgent, "b"), (&bulk, "c")] {
        fs::write(queue.join(name), "").unwrap();
        wait_until(|| said(&m, "late").ends_with(&format!("{name}\n")));
    }
    worker.signal(libc::SIGTERM);
    worker.finish().ok();
    // A path that is there as it is written has no weight.
    m.queue("bulk=2");
    fs::write(m.path().join("bulk=2/x"), "").unwrap();
    consume(&m, &["bulk=2", "--until-empty"], script).ok();
    assert!(said(&m, "out").ends_with("bulk=2\n"));
    assert_eq!(consume(&m, &["bulk=0", "--until-empty"], "true").code(), Some(2));
    consume(&m, &["bulk", "nothing=2"], "true").fails("mqfs: nothing: No such file or directory\n");
}

/// "`consume` without `--` when the command is plain"
#[test]
fn a_plain_command_needs_no_dashes() {
    let m = Mount::new();
    let q = m.queue("q");
    m.message(&q, "x", "four");
    let ran = m.run(Command::new(MQFS).args(["consume", "q", "--max-messages", "1", "wc", "-c"]));
    assert_eq!(ran.ok().trim(), "4");
    assert_eq!(m.bodies("q").len(), 0);
}

/// "Progress never mixes with output"
#[test]
fn output_does_not_mix_with_the_progress() {
    let m = Mount::new();
    let q = m.queue("q");
    m.fill(&q, 30);
    let script = "echo out-$MQFS_NAME; echo err-$MQFS_NAME >&2; printf part-; sleep 0.01; echo $MQFS_NAME; printf tail-$MQFS_NAME >&2";
    let run = |redirected: &str| {
        let command = format!("{MQFS} consume q --until-empty -j4 -- bash -c '{script}' {redirected}");
        m.sh(&format!("TERM=xterm script -qec \"{}\" /dev/null", command.replace('$', "\\$"))).stdout
    };
    let shown = run("");
    for n in 0..30 {
        for line in [format!("out-m{n}"), format!("err-m{n}"), format!("part-m{n}"), format!("tail-m{n}")] {
            let at = shown.find(&format!("{line}\r\n")).unwrap_or_else(|| panic!("{line}: {shown:?}"));
            // Before it the line of progress was cleared, or another one ended.
            let before = &shown[..at];
            assert!(before.is_empty() || before.ends_with('\n') || before.ends_with("\x1b[2K"), "{line}: {shown:?}");
        }
    }
    assert!(shown.contains("30 done, 0 failed"), "{shown:?}");
    // Output that goes elsewhere is not touched.
    m.fill(&q, 1);
    run("> $T/out");
    assert_eq!(said(&m, "out"), "out-m0\npart-m0\n");
}

/// `.mq/nack`, from a shell.
#[test]
fn a_worker_gives_back_as_it_says() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_deliveries=1"]);
    let claim = |how: &str| {
        let x = m.message(&q, "x", "");
        let ran = m.sh(&format!("f=$(cat q/.mq/claim) && echo \"{how} $f\" > q/.mq/nack"));
        (x, ran)
    };
    for (how, becomes) in [("now", "dead"), ("later", "dead"), ("dead", "dead"), ("10m", "dead")] {
        let (x, ran) = claim(how);
        ran.ok();
        assert_eq!((state(&q, &x).as_deref(), deliveries(&q, &x)), (Some(becomes), 1), "{how}");
        fs::remove_file(within(&q, "peek", &x)).unwrap();
    }
    m.sh("echo max_deliveries=9 > q/.mq/config").ok();
    for (how, becomes) in [("now", "ready"), ("later", "delayed"), ("dead", "dead"), ("10m", "delayed")] {
        let (x, ran) = claim(how);
        ran.ok();
        assert_eq!((state(&q, &x).as_deref(), deliveries(&q, &x)), (Some(becomes), 1), "{how}");
        fs::remove_file(within(&q, "peek", &x)).unwrap();
    }
    let (x, ran) = claim("soon");
    ran.fails("Invalid argument");
    assert_eq!(state(&q, &x).as_deref(), Some("claimed"));
    m.sh("echo later nothing > q/.mq/nack").fails("No such file or directory");
    m.sh("cat q/.mq/nack").fails("Operation not permitted");
}

/// "a give-back that is not counted, only by the claim's holder"
#[test]
fn only_the_holder_says_that_a_delivery_does_not_count() {
    let m = Mount::new();
    let q = m.queue("q");
    let x = m.message(&q, "x", "");
    let holder = m.holder(&x);
    let name = x.file_name().unwrap().to_str().unwrap();
    m.worker(&format!("echo uncounted {name} > q/.mq/nack")).fails("Operation not permitted");
    assert_eq!((state(&q, &x).as_deref(), deliveries(&q, &x)), (Some("claimed"), 1));
    drop(holder);
    fs::remove_file(within(&q, "claimed", &x)).unwrap();
    let y = m.message(&q, "y", "");
    let name = y.file_name().unwrap().to_str().unwrap();
    m.python(&format!("f = open('q/{name}'); open('q/.mq/nack', 'w').write('uncounted {name}')")).ok();
    assert_eq!((state(&q, &y).as_deref(), deliveries(&q, &y)), (Some("ready"), 0));
}
