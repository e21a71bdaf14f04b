//! The log: where its lines go, how it is rotated, and that they name what people know.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::{Mount, listing, wait_until};
use crate::extra::transition;
use crate::place::{Place, until};

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
