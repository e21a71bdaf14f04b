//! What a queue does not take, and that it says so early: at open or write, with the errno of the contract.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::common::{Mount, errno, listing, only, producers, wait_until};

/// The invisible message is no way around a limit of names either: a process that does not have it open cannot move, link or
/// remove it by name.
#[test]
fn an_open_message_cannot_be_removed_renamed_or_linked() {
    let m = Mount::new();
    m.queue("q");
    m.queue("other");
    let script = r#"
        exec 3> q/x
        echo body >&3
        for command in "mv q/x other/" "ln q/x q/y" "rmdir q" "rm q/x" "mv q/x q/.draft"; do
            $command 3>&- 2>> $T/err && echo "$command succeeded"
        done
        exec 3>&-
    "#;
    assert_eq!(m.sh(script).ok(), "");
    assert_eq!(m.bodies("q"), ["body\n"]);
    assert_eq!(m.bodies("other"), [""; 0]);
}

/// "A committed message's bytes never change: writing to it fails with EPERM".
#[test]
fn a_committed_message_cannot_be_written() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("printf original > q/x").ok();
    let program = r#"
import os, errno
name = "q/" + os.listdir("q")[0]
def eperm(what, call):
    try:
        call()
    except OSError as e:
        assert e.errno == errno.EPERM, (what, e)
    else:
        raise SystemExit(what + " succeeded")
eperm("O_WRONLY", lambda: os.open(name, os.O_WRONLY))
eperm("O_RDWR|O_APPEND", lambda: os.open(name, os.O_RDWR | os.O_APPEND))
eperm("O_TRUNC", lambda: os.open(name, os.O_WRONLY | os.O_TRUNC))
eperm("O_APPEND", lambda: os.open(name, os.O_WRONLY | os.O_APPEND))
eperm("O_CREAT|O_TRUNC", lambda: os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
eperm("truncate", lambda: os.truncate(name, 0))
"#;
    m.python(program).ok();
    m.sh("echo more >> q/0*-x").fails("Operation not permitted");
    assert_eq!(listing(&q).len(), 1);
    assert_eq!(m.bodies(&q), ["original"]);
}

/// "`chmod`, `chown`, `utimes` are accepted" on a committed message, and claim nothing.
#[test]
fn mode_owner_and_times_of_a_message_can_be_changed() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo x > q/x; chmod 600 q/0*; chown 12:34 q/0*; touch -c -d '2001-02-03 04:05:06 UTC' q/0*").ok();
    let meta = fs::metadata(only(&q)).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o600, 12, 34));
    assert_eq!(meta.mtime(), 981_173_106);
}

/// The root is "a namespace, not a queue: creating a file here fails with EPERM".
#[test]
fn the_root_takes_no_files() {
    let m = Mount::new();
    m.sh("echo x > file").fails("Operation not permitted");
    m.sh("touch .draft").fails("Operation not permitted");
    m.sh("cp /etc/hostname .").fails("Operation not permitted");
    assert_eq!(listing(m.path()), [""; 0]);
}

/// "no [...] devices, sockets, FIFOs or symlinks": EPERM, in a queue and in the root.
#[test]
fn special_files_are_refused_with_eperm() {
    let m = Mount::new();
    m.queue("q");
    for dir in [".", "q"] {
        m.sh(&format!("mkfifo {dir}/fifo")).fails("Operation not permitted");
        m.sh(&format!("mknod {dir}/null c 1 3")).fails("Operation not permitted");
        m.sh(&format!("ln -s target {dir}/link")).fails("Operation not permitted");
        let bind = format!("import socket\nsocket.socket(socket.AF_UNIX).bind('{dir}/socket')");
        m.python(&bind).fails("Operation not permitted");
    }
    m.sh("cp -a /dev/null q/").fails("Operation not permitted");
    assert_eq!(listing(m.path()), ["q"]);
    assert_eq!(listing(m.path().join("q")), [""; 0]);
}

/// "no setuid bits": neither on a message nor on a draft, nor by way of one.
#[test]
fn setuid_bits_are_not_kept() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo x > q/x; chmod 6755 q/0* || true; echo y > q/.d; chmod 6755 q/.d || true; mv q/.d q/y");
    for name in listing(&q) {
        let meta = fs::symlink_metadata(q.join(&name)).unwrap();
        assert_eq!(meta.mode() & 0o6000, 0, "{name}");
        assert!(meta.is_file() && !meta.file_type().is_fifo());
    }
    assert_eq!(listing(&q).len(), 2);
}

/// "**Errors come early.** What can be known (space, quota, size, [...]) is refused at `open` or `write`" and "message
/// too large: EFBIG". A message that was refused in part is not enqueued in part ("whole or not at all").
#[test]
fn a_message_over_max_message_bytes_is_refused_at_write() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_message_bytes=50"]);
    let program = r#"
import os, errno
def efbig(what, call):
    try:
        call()
    except OSError as e:
        assert e.errno == errno.EFBIG, (what, e)
    else:
        raise SystemExit(what + " succeeded")
fd = os.open("q/x", os.O_CREAT | os.O_WRONLY)
os.write(fd, b"x" * 40)
efbig("write", lambda: os.write(fd, b"y" * 40))
os._exit(0)
"#;
    m.python(program).ok();
    assert_eq!(listing(&q), [""; 0], "half a message was enqueued");
    m.sh("head -c 51 /dev/zero > q/x").fails("File too large");
    m.sh("dd if=/dev/zero of=q/x bs=10 count=6 status=none").fails("File too large");
    m.sh("truncate -s 51 q/x").fails("File too large");
    m.sh("head -c 50 /dev/zero > q/fits").ok();
    wait_until(|| producers(&q) == ["fits"]);
}

/// A name must not be a way around the refusal: creating a message directly in a control directory fails.
#[test]
fn control_directories_take_no_new_files() {
    let m = Mount::new();
    let q = m.queue("q");
    for dir in [".mq", ".mq/peek", ".mq/claimed", ".mq/dead"] {
        let result = fs::File::create(q.join(dir).join("x"));
        let code = errno(result);
        assert!([libc::EPERM, libc::EACCES].contains(&code), "{dir}: errno {code}");
    }
    assert_eq!(m.bodies(&q), [""; 0]);
}
