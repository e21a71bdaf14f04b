//! The log: where its lines go, how it is rotated, and that they name what people know.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::{Mount, listing, wait_until};
use crate::extra::transition;
use crate::place::{Place, until};
use crate::users::{ANN, ann, bob, chmod};

/// As logrotate does: the file is moved away and made anew, and SIGHUP says so.
#[test]
fn sighup_has_the_log_file_opened_anew() {
    let place = Place::new();
    let log = place.dir().join("log");
    let text = |name: &str| fs::read_to_string(place.dir().join(name)).unwrap_or_default();
    // By a relative path: the process has left that directory.
    let daemon = place.mounted(&["--log-file", "log"]);
    fs::create_dir(place.at("q")).unwrap();
    fs::set_permissions(&log, Permissions::from_mode(0o640)).unwrap();
    fs::rename(&log, place.dir().join("log.1")).unwrap();
    let refuse = |why: &str| {
        fs::write(place.at("q/.mq/config"), format!("{why} = 1\n")).unwrap_err();
    };
    refuse("before");
    until(|| text("log.1").contains("before"));
    assert!(!log.exists());
    daemon.kill(libc::SIGHUP);
    until(|| text("log").contains("opened anew"));
    refuse("after");
    until(|| text("log").contains("after"));
    assert!(!text("log.1").contains("after") && !text("log").contains("before"));
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o640);
    // One that cannot be opened is told of in the old one, which is written to.
    fs::rename(&log, place.dir().join("log.2")).unwrap();
    fs::create_dir(&log).unwrap();
    daemon.kill(libc::SIGHUP);
    until(|| text("log.2").contains("cannot be opened anew"));
    refuse("later");
    until(|| text("log.2").contains("later"));
    place.mqfs(&["umount", "mnt"]).succeeded();
    assert!(text("log.2").contains("unmounted"));
}

/// Without a log file the lines go to what reads `/dev/log`, which may be started anew meanwhile; and SIGHUP ends nothing.
#[test]
fn in_the_background_they_go_to_the_systems_log() {
    let place = Place::new();
    let script = r#"
        set -e
        mkdir dev
        mount -t tmpfs none dev
        for file in null zero full random urandom fuse tty; do
            [ -e /dev/$file ] || continue
            touch dev/$file
            mount --bind /dev/$file dev/$file
        done
        mount --rbind dev /dev
        cat > reader.py <<'END'
import socket, sys
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind('/dev/log')
out = open(sys.argv[1], 'wb', buffering=0)
while True:
    out.write(log.recv(65536) + b'\n')
END
        python3 reader.py first & reader=$!
        until [ -S /dev/log ]; do sleep 0.01; done
        $MQFS mount store mnt
        mkdir mnt/orders
        ! echo nonsense=1 > mnt/orders/.mq/config
        until grep -q 'configuration refused' first; do sleep 0.01; done
        kill $reader; wait $reader || true
        rm /dev/log
        python3 reader.py second & reader=$!
        until [ -S /dev/log ]; do sleep 0.01; done
        pid=$(getfattr --only-values -n user.mq.daemon_pid mnt)
        kill -HUP "$pid"
        until grep -q SIGHUP second; do sleep 0.01; done
        ls mnt
        $MQFS umount mnt
        until grep -q unmounted second; do sleep 0.01; done
        kill $reader
        echo "$pid"
        # Who has just ended may still hold its /dev/null.
        umount -R -l /dev
        umount -R -l dev"#;
    let ran = place.sh_in_namespace(script);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let pid = ran.stdout.strip_prefix("orders\n").unwrap_or_else(|| panic!("{ran:?}")).trim();
    let first = fs::read_to_string(place.dir().join("first")).unwrap();
    assert!(first.contains(&format!("<30>mqfs[{pid}]: mqfs::commands::mount: mounted ")), "{first}");
    let refused = first.lines().find(|line| line.contains("configuration refused")).unwrap();
    assert!(refused.starts_with("<28>") && refused.contains("queue=\"orders\""), "a warning: {refused}");
}

/// Paths of queues and names of messages, not only their numbers; and what controls a terminal is escaped.
#[test]
fn they_name_queues_and_messages() {
    let m = Mount::new();
    let q = m.queue("orders");
    let eu = m.queue_with("orders/eu", &["max_deliveries=1", "visibility_timeout=1s"]);
    let x = m.message(&eu, "a\u{1b}[2J\u{202e}b", "1");
    let name = x.file_name().unwrap().to_str().unwrap().to_owned();
    transition(&eu, "claimed", &x);
    let shown = name.replace('\u{1b}', "\\u{1b}").replace('\u{202e}', "\\u{202e}");
    let line = |what: &str| m.log().lines().find(|line| line.contains(what)).map(str::to_owned);
    wait_until(|| line("the message is a dead letter now").is_some());
    for what in ["lease expired", "the message is a dead letter now"] {
        let line = line(what).unwrap();
        assert!(line.contains("queue=\"orders/eu\""), "{line}");
        assert!(line.contains(&format!("name=\"{shown}\"")), "{line}");
    }
    m.sh("! echo x=1 > orders/.mq/config").succeeds();
    assert!(line("configuration refused").unwrap().contains("queue=\"orders\""));
    // A writer that is killed: the name that it gave.
    let mut writer = m.spawn("exec 3> orders/half && echo x >&3 && echo written && exec sleep 1000");
    wait_until(|| writer.output() == "written\n" || !writer.is_running());
    writer.signal(libc::SIGKILL);
    wait_until(|| line("a writer was killed").is_some());
    let killed = line("a writer was killed").unwrap();
    assert!(killed.contains("queue=\"orders\"") && killed.contains("half"), "{killed}");
    m.sh("echo dead > orders/eu/.mq/purge").ok();
    wait_until(|| line("purged").is_some());
    assert!(line("purged").unwrap().contains("queue=\"orders/eu\""));
    assert_eq!(listing(q), ["eu"]);
}

/// Names in lines of JSON leave them JSON.
#[test]
fn json_stays_json() {
    let m = Mount::with(&["--log-format", "json"]);
    let q = m.queue("a\u{9b}\u{7f}\u{202e}\"b");
    fs::write(q.join(".mq/config"), "x=1\n").unwrap_err();
    wait_until(|| m.log().contains("configuration refused"));
    let log = m.log();
    let line = log.lines().find(|line| line.contains("configuration refused")).unwrap();
    assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
    let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(value["fields"]["queue"], "a\u{9b}\u{7f}\u{202e}\"b");
}

/// No line of the log tells of a queue or a message by a number that only mqfs knows.
#[test]
fn no_line_is_written_with_numbers_only() {
    let mut sources = vec![Path::new("src").to_owned()];
    let mut lines = 0;
    while let Some(path) = sources.pop() {
        if path.is_dir() {
            sources.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        for macro_call in source.split("tracing::").skip(1).filter(|text| text.contains("!(")) {
            let fields = macro_call.split_once("!(").unwrap().1.split('"').next().unwrap();
            lines += 1;
            for field in fields.split(',').map(str::trim) {
                let (name, value) = field.split_once(" = ").unwrap_or((field, ""));
                let numbers = name == "seq" || name == "queue" && value.ends_with("queue");
                assert!(!numbers, "{}: {field}", path.display());
            }
        }
    }
    assert!(lines > 100, "{lines}");
}

/// What users make mqfs log is for root, or whoever mounted, to read. A file that is there keeps its mode.
#[test]
fn a_log_file_is_made_for_nobody_else_to_read() {
    let place = Place::new();
    let mode = || fs::metadata(place.dir().join("log")).unwrap().permissions().mode() & 0o777;
    place.sh("umask 0; $MQFS mount store mnt --log-file log; $MQFS umount mnt").succeeded();
    assert_eq!(mode(), 0o600);
    fs::set_permissions(place.dir().join("log"), Permissions::from_mode(0o644)).unwrap();
    place.sh("$MQFS mount store mnt --log-file log; $MQFS umount mnt").succeeded();
    assert_eq!(mode(), 0o644);
}

/// A user who has mqfs log without end gets a measure of it; how many lines were held back is told. What others cause is logged, and
/// so is what is wrong with the store.
#[test]
fn a_user_fills_no_log() {
    for format in ["text", "json"] {
        let m = Mount::with(&["-o", "allow_other", "--log-format", format]);
        chmod(m.queue("q"), 0o777);
        let loops = r#"
import os
def refused(path):
    try: os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
    except OSError: pass
for i in range(3000): refused("q/.mq/with/%s=%d/x" % ("nonsense" * 20, i))
"#;
        let program = m.scratch().join("loops");
        fs::write(&program, loops).unwrap();
        let told = |log: &str| -> u64 {
            let lines = log.lines().filter(|line| line.contains("held back: this user"));
            let number = |line: &str| -> u64 {
                let rest = line.split(if format == "json" { "\"lines\":" } else { "lines=" }).nth(1).unwrap();
                rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
            };
            lines.inspect(|line| assert!(line.contains(&ANN.to_string()), "{line}")).map(number).sum()
        };
        ann(&m, "python3 $T/loops").succeeds();
        let caused =
            |log: &str| log.lines().filter(|line| line.contains("not a directory of properties")).count() as u64;
        wait_until(|| caused(&m.log()) + told(&m.log()) >= 3000);
        let log = m.log();
        assert_eq!(caused(&log) + told(&log), 3000, "each is logged or counted");
        assert!(caused(&log) < 1000, "{}", caused(&log));
        // Another user's are logged meanwhile, and all the rest.
        bob(&m, "echo > q/.mq/with/bobs=1/x; true").succeeds();
        assert!(m.log().contains("bobs"));
    }
}

/// A line is no longer than 1 KiB, however long the names in it are, and one of JSON is JSON.
#[test]
fn a_line_that_a_user_causes_is_short() {
    for format in ["text", "json"] {
        let m = Mount::with(&["--log-format", format]);
        let deep: Vec<String> = (0..8).map(|n| format!("{n}").repeat(200)).collect();
        let path = m.path().join(deep.join("/"));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(".mq/config"), "nonsense=1\n").unwrap_err();
        let log = m.log();
        let line = log.lines().find(|line| line.contains("configuration refused")).unwrap();
        assert!(line.len() < 1024 && line.contains("..."), "{}: {line}", line.len());
        if format == "json" {
            serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        }
    }
}

/// What the store itself has to tell is not held back by what a user has used up.
#[test]
fn errors_of_the_store_are_told_whatever_users_cause() {
    let m = Mount::new();
    let q = m.queue("q");
    let large = m.message(&q, "large", vec![b'x'; 300_000]);
    let (body, _) = m.body_files().pop().unwrap();
    let program = r#"
import os
for i in range(3000):
    try: os.close(os.open("q/.mq/with/nonsense=%d/x" % i, os.O_WRONLY | os.O_CREAT))
    except OSError: pass
"#;
    m.python(program).succeeds();
    wait_until(|| m.log().contains("held back"));
    let file = fs::File::options().write(true).open(body).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"damage", 100_000).unwrap();
    m.sh(&format!("cat '{}'", large.display())).fails("Input/output error");
    assert!(m.log().lines().any(|line| line.contains("ERROR") && line.contains("large")), "{}", m.log());
}

/// All that the commands print goes one way, on which names are escaped; but for what the programs print that they run.
#[test]
fn what_is_printed_goes_one_way() {
    let ways = [
        "src/commands/text.rs",
        "src/commands/consume/screen.rs",
        "src/commands/consume/relay.rs",
        "src/commands/log/mod.rs",
    ];
    let mut sources = vec![Path::new("src/commands").to_owned()];
    while let Some(path) = sources.pop() {
        if path.is_dir() {
            sources.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        if ways.iter().any(|way| path == Path::new(way)) {
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let source = source.replace("io::stderr().is_terminal()", "").replace("io::stdout().is_terminal()", "");
        for word in ["stdout()", "stderr()", "println!", "print!", "dbg!"] {
            assert!(!source.contains(word), "{}: {word}", path.display());
        }
    }
}
