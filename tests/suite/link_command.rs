//! `mqfs link` as far as no broker is needed: what can be asked for, names, secrets.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::common::*;
use crate::linking::{run, start, state, status};

/// What makes no sense is refused with exit code 2, before anything is touched.
#[test]
fn what_makes_no_sense_is_refused() {
    let m = Mount::new();
    m.queue("q");
    for (arguments, told) in [
        (&["q"][..], "/etc/mqfs/link/q.conf"),
        (&["q", "r"], "two paths"),
        (&["amqp://h?queue=a", "amqp://h?queue=b"], "two URLs"),
        (&["q", "amqp://h"], "names no queue"),
        (&["amqp://h?exchange=e", "q"], "come from a queue"),
        (&["q", "carrier-pigeon://h/t"], "no system that can be linked"),
        (&["q", "kafka://h"], "names no topic"),
        (&["kafka://h/t?start=middle", "q"], "start: allowed are"),
        (&["-o", "windw=1", "q", "amqp://h?queue=q"], "unknown key"),
        (&["-o", "window=0", "q", "amqp://h?queue=q"], "from 1 to 4096"),
        (&["a", "b", "c"], "FROM and TO"),
    ] {
        let ran = run(&m, arguments);
        assert_eq!(ran.code(), Some(2), "{arguments:?}: {ran:?}");
        ran.fails(told);
    }
    let ran = run(&m, &["nothing-here", "amqp://127.0.0.1:1?queue=q"]);
    assert_eq!(ran.code(), Some(9), "{ran:?}");
    let ran = run(&m, &[m.scratch().to_str().unwrap(), "amqp://127.0.0.1:1?queue=q"]);
    ran.fails("not a queue of an mqfs mount");
}

/// A password on the command line is refused, and not repeated; one in a file must be the user's own.
#[test]
fn passwords_are_in_files_that_nobody_else_reads() {
    let m = Mount::new();
    m.queue("q");
    let ran = run(&m, &["q", "amqp://anna:sesame@h?queue=q"]);
    assert_eq!(ran.code(), Some(2));
    ran.fails("secret = FILE");
    assert!(!ran.stderr.contains("sesame"), "{ran:?}");
    let ran = run(&m, &["q", "amqp://anna@127.0.0.1:1?queue=q"]);
    assert_eq!(ran.code(), Some(2), "nobody else's password is tried: {ran:?}");
    ran.fails("no password of anna");
    let secret = m.scratch().join("secret");
    fs::write(&secret, "user = anna\npassword = sesame\n").unwrap();
    let option = format!("secret={}", secret.display());
    for mode in [0o644, 0o604, 0o640] {
        fs::set_permissions(&secret, fs::Permissions::from_mode(mode)).unwrap();
        if mode == 0o640 {
            std::os::unix::fs::chown(&secret, None, Some(12345)).unwrap();
        }
        let ran = run(&m, &["-o", &option, "q", "amqp://127.0.0.1:1?queue=q"]);
        assert_eq!(ran.code(), Some(2), "{mode:o}");
        ran.fails("chmod 0600");
    }
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    // Nobody is asked there: it is refused before.
    let ran = run(&m, &["-o", &option, "q", "amqp://broker.invalid?queue=q"]);
    assert_eq!(ran.code(), Some(2));
    ran.fails("unencrypted");
    assert!(!ran.stderr.contains("sesame"), "{ran:?}");
    let ran = run(&m, &["--until-empty", "-o", &option, "q", "amqp://127.0.0.1:1?queue=q"]);
    assert_eq!(ran.code(), Some(16), "{ran:?}");
}

/// systemd's credentials are found by themselves.
#[test]
fn credentials_of_systemd_are_used() {
    let m = Mount::new();
    m.queue("q");
    fs::write(m.scratch().join("secret"), "oops\n").unwrap();
    fs::set_permissions(m.scratch().join("secret"), fs::Permissions::from_mode(0o400)).unwrap();
    let mqfs = env!("CARGO_BIN_EXE_mqfs");
    let script =
        format!("CREDENTIALS_DIRECTORY=$T XDG_RUNTIME_DIR=$T {mqfs} link --until-empty q 'amqp://127.0.0.1:1?queue=q'");
    m.sh(&script).fails("a line is not `key = value`");
    // What contrib/mqfs-link@.service hands over where nobody has a password.
    fs::write(m.scratch().join("secret"), "#").unwrap();
    m.sh(&script).fails("Connection refused");
}

/// "save:directory": whether anything can be saved there is found before something has to be.
#[test]
fn where_nothing_can_be_saved_is_told_at_once() {
    let m = Mount::new();
    m.queue("q");
    for how in ["--check", "--until-empty"] {
        let ran = run(&m, &[how, "-o", "poison=save:/nowhere", "amqp://127.0.0.1:1?queue=q", "q"]);
        assert_eq!(ran.code(), Some(1), "{ran:?}");
        ran.fails("poison: /nowhere: No such file or directory");
    }
}

/// A user who can have no status is told, since nothing keeps a second link of the name away then.
#[test]
fn a_link_without_a_status_says_so() {
    let m = Mount::new();
    m.queue("q");
    let mqfs = env!("CARGO_BIN_EXE_mqfs");
    let link = |directory: &str| {
        m.sh(&format!("XDG_RUNTIME_DIR={directory} {mqfs} link --until-empty q 'amqp://127.0.0.1:1?queue=q'"))
    };
    link("/proc/nothing").fails("no status is kept, and nothing keeps a second link");
    assert!(!link("$T").stderr.contains("no status"));
}

/// Links tell where their queues are, wherever they were started.
#[test]
fn a_status_names_the_whole_path() {
    let m = Mount::new();
    let q = m.queue("q");
    run(&m, &["--until-empty", "q", "amqp://127.0.0.1:1?queue=q"]).fails("Connection refused");
    assert_eq!(status(&m)["from"], q.to_str().unwrap());
}

/// A link may be a file; the command line has the last word. Nobody answers there, which is told, and its status says so.
#[test]
fn a_link_may_be_a_file() {
    let m = Mount::new();
    m.queue("q");
    let conf = m.scratch().join("orders.conf");
    fs::write(&conf, format!("from = {}\nto = amqp://127.0.0.1:1?queue=q\n", m.path().join("q").display())).unwrap();
    let conf = conf.to_str().unwrap();
    let ran = run(&m, &["--until-empty", conf]);
    assert_eq!(ran.code(), Some(16));
    ran.fails("Connection refused");
    let ran = run(&m, &["--status", "orders"]);
    assert_eq!(ran.code(), Some(1), "a link is failing: {ran:?}");
    assert!(ran.stdout.contains("failing") && ran.stdout.contains("Connection refused"), "{ran:?}");
    run(&m, &["--status", "other"]).fails("no link called other");
    fs::write(conf, "from = q\nbatch = x\n").unwrap();
    run(&m, &[conf]).fails("line 2: batch `x`");
}

/// There is one link of a name. It ends when it is asked to, whether it is connected or not.
#[test]
fn a_name_is_taken_once_and_a_link_ends_when_asked() {
    let m = Mount::new();
    m.queue("q");
    let arguments = ["-o", "name=one", "q", "amqp://127.0.0.1:1?queue=q"];
    let link = start(&m, &arguments);
    wait_until(|| state(&m) == "connecting");
    run(&m, &arguments).fails("a link called one is running");
    link.signal(libc::SIGTERM);
    let ran = link.finish();
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    assert_eq!(state(&m), "stopped");
}

/// A host that takes connections and says nothing does not hold up the end.
#[test]
fn a_link_that_connects_ends_when_asked() {
    let m = Mount::new();
    m.queue("q");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://{}?queue=q", silent.local_addr().unwrap());
    for arguments in [&["q", &url][..], &[&url, "q"], &["--until-empty", "q", &url]] {
        let link = start(&m, arguments);
        let _connected = silent.accept().unwrap();
        let asked = Instant::now();
        link.signal(libc::SIGTERM);
        assert_eq!(link.finish().code(), Some(0), "{arguments:?}");
        assert!(asked.elapsed() < Duration::from_secs(15), "an answer is waited for, for 20 seconds");
    }
}
