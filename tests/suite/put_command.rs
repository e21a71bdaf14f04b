//! `mqfs put QUEUE -- COMMAND`: what the command prints is a message when it exits with 0, and nothing otherwise.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use crate::common::{Mount, Ran, Running, listing, producers, wait_until};

/// A script in which `mqfs` is the program under test.
fn script(text: &str) -> String {
    format!("mqfs() {{ '{}' \"$@\"; }}\n{text}", env!("CARGO_BIN_EXE_mqfs"))
}

fn sh(m: &Mount, text: &str) -> Ran {
    m.sh(&script(text))
}

fn start(m: &Mount, text: &str) -> Running {
    m.spawn(&format!("exec '{}' {text}", env!("CARGO_BIN_EXE_mqfs")))
}

/// Nothing was enqueued, and nothing is left of what was begun.
#[track_caller]
fn assert_nothing(m: &Mount, q: &std::path::Path) {
    assert_eq!((listing(q), listing(q.join(".mq/batch"))), (vec![], vec![]));
    let stats = m.stats(q);
    assert_eq!((&stats["enqueued_total"], &stats["drafts"]), (&0.into(), &0.into()));
}

#[test]
fn what_a_command_prints_is_a_message() {
    let m = Mount::new();
    let q = m.queue("q");
    let text = r#"
        mqfs put q -- echo -n one
        mqfs put -v -n two.txt q -- /bin/sh -c 'cat; echo to the terminal >&2' <<< in 2> $T/err
        mqfs put q -- head -c 3000000 /dev/zero
        mqfs put --batch -o content_type=text/plain q -- printf '%s\n' -a --b
        mqfs put q -- true
        cat $T/err
    "#;
    assert_eq!(sh(&m, text).ok(), "two.txt\nto the terminal\n");
    assert_eq!(producers(&q), ["echo", "two.txt", "head", "printf", "true"]);
    let bodies = m.bodies(&q);
    assert_eq!([&bodies[0], &bodies[1], &bodies[3], &bodies[4]], ["one", "in\n", "-a\n--b\n", ""]);
    assert_eq!(bodies[2].len(), 3_000_000);
}

/// However much it has printed before.
#[test]
fn what_a_command_that_fails_has_printed_is_not_enqueued() {
    let m = Mount::new();
    let q = m.queue("q");
    let cases = [
        ("sh -c 'echo half; exit 3'", 1, "sh: exit code 3, nothing is enqueued"),
        ("sh -c 'head -c 3000000 /dev/zero; exit 1'", 1, "exit code 1"),
        ("sh -c 'echo half; exec >&-; exit 255'", 1, "exit code 255"),
        ("sh -c 'echo half; kill -9 $$'", 1, "killed by signal 9"),
        ("/no/such/command", 11, "/no/such/command: No such file"),
        ("/etc/passwd", 11, "Permission denied"),
        // It ends at once, whoever else could still write.
        ("sh -c 'sleep 1000 & echo half; exit 1'", 1, "exit code 1"),
    ];
    for options in ["", "--batch", "-n name"] {
        for (command, code, words) in cases {
            let ran = sh(&m, &format!("mqfs put {options} q -- {command}"));
            let one_line = ran.stderr.lines().count() == 1 && ran.stderr.starts_with("mqfs: ");
            assert!(ran.code() == Some(code) && one_line && ran.stderr.contains(words), "{options} {command}: {ran:?}");
            assert_nothing(&m, &q);
        }
    }
}

/// Arguments that say something else, and queues that cannot be written to, are found before the command runs.
#[test]
fn the_command_does_not_run_in_vain() {
    let m = Mount::new();
    let q = m.queue("q");
    for (arguments, code) in
        [("q /etc/passwd --", 2), ("q - --", 2), ("missing --", 9), ("-n a/b q --", 2), ("-o x=1 q --", 2)]
    {
        let ran = sh(&m, &format!("mqfs put {arguments} touch $T/ran"));
        assert!(ran.code() == Some(code) && !m.scratch().join("ran").exists(), "{arguments}: {ran:?}");
    }
    assert_nothing(&m, &q);
}

/// What the queue refuses is told, and the command is ended.
#[test]
fn a_command_whose_output_is_refused_is_ended() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_message_bytes=10"]);
    let ran = sh(&m, "mqfs put q -- sh -c 'trap \"echo told > $T/told; exit\" TERM; while :; do echo more; done'");
    assert!(ran.code() == Some(1) && ran.stderr.contains("larger than"), "{ran:?}");
    assert!(m.scratch().join("told").exists());
    assert_nothing(&m, &q);
}

/// What processes print that the command has left behind belongs to the message.
#[test]
fn what_is_printed_after_the_command_is_waited_for() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("mkfifo $T/go").ok();
    let running = start(&m, "put q -- sh -c 'echo first; cat $T/go & exit 0'");
    m.sh("echo late > $T/go").ok();
    running.finish().ok();
    assert_eq!(m.bodies(&q), ["first\nlate\n"]);
}

/// A signal that ends `mqfs put` ends the command, too.
#[test]
fn a_signal_is_passed_on() {
    let m = Mount::new();
    let q = m.queue("q");
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let pid = m.scratch().join("pid");
        let mut running = start(&m, "put q -- sh -c 'echo half; echo $$ > $T/new; mv $T/new $T/pid; exec sleep 1000'");
        wait_until(|| pid.exists());
        let command: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        running.signal(signal);
        wait_until(|| !running.is_running());
        assert_eq!(running.finish().status.signal(), Some(signal));
        // SAFETY: a call with numbers; signal 0 does nothing.
        assert_eq!(unsafe { libc::kill(command, 0) }, -1, "the command has been waited for");
        fs::remove_file(pid).unwrap();
        assert_nothing(&m, &q);
    }
}
