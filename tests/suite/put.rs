//! `mqfs put`: enqueues files and standard input, and says what went wrong.

use std::fs;

use crate::common::{Mount, Ran, listing, only, producers, wait_until, xattr};
use crate::users::{ANN, mount};

/// A script in which `mqfs` is the program under test.
fn script(text: &str) -> String {
    format!("mqfs() {{ '{}' \"$@\"; }}\n{text}", env!("CARGO_BIN_EXE_mqfs"))
}

fn sh(m: &Mount, text: &str) -> Ran {
    m.sh(&script(text))
}

/// Asserts that `mqfs` failed with this code and one line that contains `words`.
#[track_caller]
fn fails(ran: &Ran, code: i32, words: &str) {
    let one_line = ran.stderr.lines().count() == 1 && ran.stderr.starts_with("mqfs: ");
    assert!(ran.code() == Some(code) && one_line && ran.stderr.contains(words), "expected {code}, {words:?}: {ran:?}");
}

/// One message each, under the files' own names and with their modes, in the order of the arguments; nothing is printed.
#[test]
fn files_are_enqueued_under_their_own_names() {
    let m = Mount::new();
    let q = m.queue("q");
    let text = r#"
        cd $T; mkdir d; echo one > b.txt; head -c 3000000 /dev/zero > d/a.bin; : > empty; chmod 640 b.txt; umask 022
        mqfs put $M/q b.txt d/a.bin empty
    "#;
    assert_eq!(sh(&m, text).ok(), "");
    assert_eq!(producers(&q), ["b.txt", "a.bin", "empty"]);
    assert_eq!(m.bodies(&q).iter().map(String::len).collect::<Vec<_>>(), [4, 3_000_000, 0]);
    assert_eq!(m.sh("stat -c %a q/*").ok(), "640\n644\n644\n");
    assert_eq!(m.stats(&q)["drafts"], 0);
}

/// Without a file, and for `-`, it is standard input; a name can be given.
#[test]
fn standard_input_is_a_message() {
    let m = Mount::new();
    let q = m.queue("q");
    let text = "echo 1 | mqfs put q; echo 2 | mqfs put q -; echo 3 | mqfs put -n x q; echo 4 | mqfs put q --name=y -; mqfs put q </dev/null";
    sh(&m, text).ok();
    assert_eq!(producers(&q), ["stdin", "stdin", "x", "y", "stdin"]);
    assert_eq!(m.bodies(&q), ["1\n", "2\n", "3\n", "4\n", ""]);
    m.sh("rm q/*").ok();
    assert_eq!(
        sh(&m, "cd $T; echo f > f; echo in | mqfs put -v $M/q - f <(echo pipe) | sed 3s,.*,fd,").ok(),
        "stdin\nf\nfd\n"
    );
    assert_eq!(m.bodies(&q), ["in\n", "f\n", "pipe\n"]);
}

/// Properties are those of `.mq/with`, not encoded.
#[test]
fn properties_are_set() {
    let m = Mount::new();
    let q = m.queue_with("q", &["priorities=10", "dedup_window=1h"]);
    let text = r#"
        echo low | mqfs put q
        echo high | mqfs put q -o priority=9 -o header.customer='A, B' --property=content_type=text/csv -o id=7
        echo high | mqfs put q -o id=7
        cd $T; echo 1 > 1; echo 2 > 2; mqfs put --batch -o delay=1h $M/q 1 2
    "#;
    sh(&m, text).ok();
    assert_eq!(m.sh("cat q/*").ok(), "high\nlow\n");
    let high = q.join(".mq/claimed").join(&listing(q.join(".mq/claimed"))[0]);
    assert_eq!(xattr(&high, "user.customer").as_deref(), Some("A, B"));
    assert_eq!(xattr(&high, "user.mq.content_type").as_deref(), Some("text/csv"));
    assert_eq!(listing(q.join(".mq/delayed")).len(), 2);
    for (arguments, words) in [
        ("-o priority=10", "priority"),
        ("-o priority", "key=value"),
        ("-o colour=red", "unknown property"),
        ("-o delay=1s -o delay=2s", "twice"),
        ("-o id=1 /etc/passwd /etc/hosts", "several files"),
    ] {
        fails(&sh(&m, &format!("mqfs put q {arguments} < /dev/null")), 2, words);
    }
    assert_eq!(m.stats(&q)["enqueued_total"], 4);
}

/// `--batch`: all or none, in the order of the arguments, of whatever names.
#[test]
fn a_batch_is_enqueued_as_a_whole() {
    let m = Mount::new();
    let q = m.queue("q");
    let text = r#"
        cd $T; mkdir d; for f in c a b d/a; do echo $f > $f; done; head -c 100000 /dev/zero > large
        mqfs put --batch --verbose $M/q c a b d/a large
    "#;
    assert_eq!(sh(&m, text).ok(), "c\na\nb\na\nlarge\n");
    assert_eq!(producers(&q), ["c", "a", "b", "a", "large"]);
    assert_eq!(m.bodies(&q)[..4], ["c\n", "a\n", "b\n", "d/a\n"]);
    assert_eq!((listing(q.join(".mq/batch")), m.stats(&q)["batches"].as_u64()), (vec![], Some(0)));
    m.sh("rm q/*; echo max_message_bytes=10 > q/.mq/config").ok();
    fails(&sh(&m, "cd $T; mqfs put --batch $M/q c a large"), 1, "large: larger than");
    assert_eq!((listing(&q), listing(q.join(".mq/batch"))), (vec![], vec![]));
    fails(&sh(&m, "cd $T; mqfs put $M/q c large a"), 1, "large: larger than");
    assert_eq!(producers(&q), ["c"], "those before the failure");
    assert_eq!(m.stats(&q)["drafts"], 0);
}

/// What is wrong with the arguments is found before anything is enqueued.
#[test]
fn bad_arguments_are_found_beforehand() {
    let m = Mount::new();
    let q = m.queue("q");
    fs::write(m.scratch().join("f"), "f").unwrap();
    fs::write(m.scratch().join(".f"), "f").unwrap();
    fs::write(m.scratch().join("n".repeat(239)), "f").unwrap();
    for (arguments, code, words) in [
        ("q f d", 1, "d: is a directory"),
        ("q f missing", 1, "missing: No such file"),
        ("q f .f", 2, "dot"),
        ("q f n*", 2, "name too long"),
        ("q f /", 1, "is a directory"),
        ("q -n x f f", 2, "one file"),
        ("q -n a/b f", 2, "not a name"),
        ("q - -", 2, "once"),
        ("missing f", 9, "No such file"),
        (". f", 9, "holds queues"),
        ("q/.mq f", 9, "not a queue"),
        ("/tmp f", 9, "not a queue"),
        ("", 2, "required"),
    ] {
        let text = format!(
            "cd $T; mkdir -p d; ln -sfn $M/q q; ln -sfn $M mnt; mqfs put {}",
            arguments.replace(". f", "mnt f")
        );
        let arguments_in_scratch = text.replace(" n*", &format!(" {}", "n".repeat(239)));
        let ran = sh(&m, &arguments_in_scratch);
        let ok = ran.code() == Some(code) && ran.stderr.contains(words) && ran.stderr.lines().count() == 1;
        // A directory has no base name either.
        assert!(ok || (arguments == "q f /" && ran.code() == Some(2)), "{arguments}: {ran:?}");
    }
    assert_eq!((listing(&q), m.stats(&q)["enqueued_total"].as_u64()), (vec![], Some(0)));
}

/// A message is put under its producer's name, without its number.
#[test]
fn a_message_can_be_put_again() {
    let m = Mount::new();
    let (q, r) = (m.queue("q"), m.queue("r"));
    sh(&m, "echo hi > q/a; mqfs put r q/*-a; mqfs put --batch r q/.mq/claimed/*-a; mqfs put q q/.mq/claimed/*-a").ok();
    assert_eq!((producers(&r), producers(&q)), (vec!["a".into(), "a".into()], vec!["a".to_owned()]));
}

/// A source that fails in the middle, and a signal, enqueue nothing and leave nothing behind.
#[test]
fn what_ends_in_the_middle_is_not_enqueued() {
    let m = Mount::new();
    let q = m.queue("q");
    fails(&sh(&m, "mqfs put q /proc/self/mem"), 1, "/proc/self/mem");
    for batch in ["", "--batch"] {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            let text = format!("exec '{}' put {batch} q < <(echo half; exec sleep 1000)", env!("CARGO_BIN_EXE_mqfs"));
            let mut running = m.spawn(&text);
            let begun = || {
                let staged = if batch.is_empty() { q.clone() } else { q.join(".mq/batch") };
                let Ok(entries) = fs::read_dir(staged) else { return false };
                entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("put-"))
            };
            wait_until(begun);
            running.signal(signal);
            wait_until(|| !running.is_running());
            let ran = running.finish();
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ran.status), Some(signal), "{batch}: {ran:?}");
            assert_eq!((listing(&q), listing(q.join(".mq/batch"))), (vec![], vec![]), "{batch} {signal}");
        }
    }
    assert_eq!(m.stats(&q)["enqueued_total"], 0);
}

/// Through the mount, as any user: who may enqueue may put, into a drop box too; who may not is told.
#[test]
fn any_user_who_may_enqueue_may_put() {
    let (m, q) = mount(0o1733);
    // The program may lie where others cannot go.
    fs::copy(env!("CARGO_BIN_EXE_mqfs"), m.scratch().join("mqfs")).unwrap();
    m.run_as(ANN, ANN, "umask 077; echo 1 | $T/mqfs put q; echo 2 | $T/mqfs put --batch q -; echo 3 | $T/mqfs put q")
        .ok();
    assert_eq!(m.bodies(&q), ["1\n", "2\n", "3\n"]);
    assert_eq!(m.sh("stat -c '%u %a' q/* | sort -u").ok(), format!("{ANN} 600\n"));
    crate::users::chmod(&q, 0o755);
    for batch in ["", "--batch"] {
        fails(&m.run_as(ANN, ANN, &format!("echo 1 | $T/mqfs put {batch} q")), 9, "Permission denied");
    }
    crate::users::chmod(&q, 0o700);
    fails(&m.run_as(ANN, ANN, "echo 1 | $T/mqfs put q"), 9, "Permission denied");
}

/// The second message of a name does not get in the way of the first.
#[test]
fn a_name_can_be_put_again_and_again() {
    let m = Mount::new();
    let q = m.queue("q");
    sh(&m, "for i in 1 2 3; do echo $i | mqfs put -n same q; done; cat q/same").ok();
    assert_eq!(producers(&q), ["same", "same"]);
    assert_eq!(producers(only(q.join(".mq/claimed")).parent().unwrap()), ["same"]);
}

/// Where names are kept, one that is taken is refused, and no message is replaced.
#[test]
fn a_taken_name_is_refused_where_names_are_kept() {
    let m = Mount::new();
    let q = m.queue_with("q", &["names=keep"]);
    sh(&m, "cd $T; for f in c a b; do echo $f > $f; done; mqfs put $M/q c").ok();
    fails(&sh(&m, "cd $T; mqfs put $M/q a c b"), 1, "c: the name is taken");
    fails(&sh(&m, "cd $T; mqfs put --batch $M/q b c"), 1, "the name is taken");
    assert_eq!(listing(&q), ["c", "a"]);
    sh(&m, "cd $T; echo d > d; mqfs put --batch $M/q d b").ok();
    assert_eq!(listing(&q), ["c", "a", "b", "d"]);
}

/// A full queue in which producers wait: so does this one, and a signal ends it. In others it is told.
#[test]
fn it_waits_where_producers_wait() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_messages=1"]);
    sh(&m, "echo first | mqfs put q").ok();
    fails(&sh(&m, "echo second | mqfs put q"), 10, "the queue is full");
    m.set(&q, "overflow=block");
    for batch in ["", "--batch"] {
        let text = format!("exec '{}' put {batch} q < <(echo second)", env!("CARGO_BIN_EXE_mqfs"));
        let refused = || m.stats(&q)["rejected_total"].as_u64().unwrap();
        let tries = refused();
        let mut running = m.spawn(&text);
        wait_until(|| refused() > tries + 2 || !running.is_running());
        running.signal(libc::SIGINT);
        let ended = running.finish().status;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(libc::SIGINT));
        assert_eq!((listing(&q).len(), listing(q.join(".mq/batch")).len()), (1, 0));
        let tries = refused();
        let running = m.spawn(&text);
        wait_until(|| refused() > tries + 2);
        m.sh("rm q/[0-9]*").ok();
        running.finish().ok();
        assert_eq!(m.bodies(&q), ["second\n"]);
    }
    m.set(&q, "paused=in");
    fails(&sh(&m, "echo third | mqfs put q"), 10, "the queue is paused");
}
