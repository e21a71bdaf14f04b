//! Owners, groups and modes of queues, messages, drafts and control files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use crate::common::*;
use crate::extra::*;
use crate::users::*;

/// "`config`, `purge` and configuration attributes need the queue's owner or root."
#[test]
fn configuration_is_the_owner_s() {
    let (m, q) = mount(0o777);
    let before = fs::read_to_string(control(&q, "config")).unwrap();
    for script in [
        "echo max_deliveries=1 > q/.mq/config",
        "echo max_deliveries=1 >> q/.mq/config",
        "setfattr -n user.mq.max_deliveries -v 1 q",
        "setfattr -x user.mq.max_deliveries q",
        "chmod 700 q",
        "chmod 666 q/.mq/config",
        "rm -f q/.mq/config",
    ] {
        let ran = ann(&m, script);
        let refused = [DENIED, "Operation not permitted"].iter().any(|text| ran.stderr.contains(text));
        assert!(!ran.status.success() && refused, "{script}: {ran:?}");
    }
    assert_eq!(fs::read_to_string(control(&q, "config")).unwrap(), before);
    ann(&m, "setfattr -n user.mq.max_deliveries -v 1 q").fails(DENIED);
    assert_eq!(ann(&m, "cat q/.mq/config").ok(), before, "whoever may list may read it");

    chown(&q, Some(ANN), None).unwrap();
    ann(&m, "echo max_deliveries=5 > q/.mq/config; setfattr -n user.mq.visibility_timeout -v 9s q").ok();
    assert_eq!(xattr(&q, "user.mq.max_deliveries").as_deref(), Some("5"));
    assert_eq!(xattr(&q, "user.mq.visibility_timeout").as_deref(), Some("9s"));
    bob(&m, "echo max_deliveries=6 > q/.mq/config").fails(DENIED);
    m.sh("echo max_deliveries=7 > q/.mq/config").ok();
    assert_eq!(xattr(&q, "user.mq.max_deliveries").as_deref(), Some("7"), "root may");
}

/// "A queue's own": whoever makes a queue owns and configures it, where he may make one.
#[test]
fn users_own_the_queues_they_make() {
    let m = Mount::with(&["-o", "allow_other"]);
    chmod(m.path(), 0o1777);
    ann(&m, "umask 022; mkdir own && echo claim=rename > own/.mq/config && echo x > own/x").ok();
    let meta = fs::metadata(m.path().join("own")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (ANN, ANN, 0o755));
    bob(&m, "echo x > own/x").fails(DENIED);
    bob(&m, "rmdir own").fails("Operation not permitted");
    bob(&m, "mv own taken").fails("Operation not permitted");
    ann(&m, "rm own/* && rmdir own").ok();
}

/// The root of the mount is a directory with an owner as well.
#[test]
fn queues_at_the_top_need_write_on_the_root() {
    let mut m = Mount::with(&["-o", "allow_other"]);
    chmod(m.path(), 0o755);
    ann(&m, "mkdir own").fails(DENIED);
    m.remount();
    assert_eq!(mode(m.path()), 0o755);
    ann(&m, "mkdir own").fails(DENIED);
}

/// "`.mq` and what is in it carry the queue's owner, group and mode, control files' modes derived from it for each class."
#[test]
fn the_control_directory_has_the_queue_s_owner_and_mode() {
    let (_m, q) = mount(0o700);
    for (uid, gid, bits) in
        [(0, 0, 0o700), (ANN, STAFF, 0o750), (ANN, STAFF, 0o1733), (BOB, STAFF, 0o2775), (0, 0, 0o777)]
    {
        chown(&q, Some(uid), Some(gid)).unwrap();
        chmod(&q, bits);
        // The kernel believes what it was told of `.mq` for a moment.
        wait_until(|| mode(control(&q, "claimed")) == mode(&q) && mode(control(&q, "")) == mode(&q));
        for dir in ["", "claimed", "dead", "peek"] {
            let meta = fs::metadata(control(&q, dir)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (uid, gid), "{dir} {bits:o}");
            assert_eq!(meta.mode() & 0o777, bits & 0o777, "{dir} {bits:o}");
            assert!(meta.is_dir());
        }
        for file in ["config", "stats"] {
            let meta = fs::metadata(control(&q, file)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (uid, gid), "{file} {bits:o}");
            let mode = meta.mode() & 0o7777;
            assert_eq!(mode & 0o111, 0, "{file} {bits:o}: {mode:o}");
            assert_eq!(mode & 0o444, bits & 0o444, "{file} is read by whoever may list, {bits:o}: {mode:o}");
            let writers = if file == "config" { bits & 0o200 } else { 0 };
            assert_eq!(mode & 0o222, writers, "{file} {bits:o}: {mode:o}");
        }
    }
}

/// "A setgid queue gives its group to its messages and nested queues."
#[test]
fn a_setgid_queue_gives_its_group() {
    let (m, q) = mount(0o755);
    chown(&q, None, Some(STAFF)).unwrap();
    chmod(&q, 0o2777);
    ann(&m, "umask 002; echo x > q/a; echo x > q/.d; cp q/.d q/copy; mv q/.d q/b; mkdir q/inner; echo x > q/inner/deep; echo x > q/.draft").ok();
    for name in listing(&q) {
        let meta = fs::metadata(q.join(&name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (ANN, STAFF), "{name}");
    }
    let inner = fs::metadata(q.join("inner")).unwrap();
    assert!(inner.mode() & 0o2000 != 0, "nested queues are setgid too: {:o}", inner.mode());
    assert_eq!(fs::metadata(only(q.join("inner"))).unwrap().gid(), STAFF);
    chmod(&q, 0o777);
    ann(&m, "echo x > q/plain").ok();
    let plain = listing(&q).into_iter().find(|name| name.ends_with("-plain")).unwrap();
    assert_eq!(fs::metadata(q.join(plain)).unwrap().gid(), ANN);
}

/// "Message owner, group and mode are the producer's (umask applies)"
#[test]
fn messages_have_their_producer_s_owner_and_mode() {
    let (m, q) = mount(0o777);
    for (umask, expected) in [("022", 0o644), ("077", 0o600), ("002", 0o664), ("000", 0o666), ("027", 0o640)] {
        ann(
            &m,
            &format!(
                "umask {umask}; echo x > q/a; echo x > q/.d; mv q/.d q/b; python3 -c 'open(\"q/c\", \"w\").close()'"
            ),
        )
        .ok();
        for name in listing(&q) {
            let meta = fs::metadata(q.join(&name)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (ANN, ANN), "{umask} {name}");
            assert_eq!(meta.mode() & 0o7777, expected, "{umask} {name}");
            assert_eq!(meta.mode() & libc::S_IFMT, libc::S_IFREG);
        }
        m.sh("rm q/*").ok();
    }
    ann(&m, "python3 -c 'import os; os.umask(0); os.close(os.open(\"q/x\", os.O_CREAT | os.O_WRONLY, 0o4755))'").ok();
    assert_eq!(mode(only(&q)) & 0o7000, 0, "no set-user-id bit at creation");
}

/// "no setuid bits, devices, sockets, FIFOs or symlinks", for root neither.
#[test]
fn no_special_files_and_no_setuid_bits() {
    let (m, q) = mount(0o777);
    for script in [
        "mkfifo q/f",
        "mknod q/d c 1 3",
        "mknod q/d b 7 0",
        "ln -s /etc/passwd q/link",
        "ln -s x q/.link",
        "mkfifo q/.f",
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"q/s\")'",
        "mkfifo f",
        "ln -s q link",
    ] {
        m.sh(script).fails("Operation not permitted");
    }
    ann(&m, "mkfifo q/f").fails("Operation not permitted");
    ann(&m, "ln -s x q/l").fails("Operation not permitted");
    assert_eq!(listing(&q), Vec::<String>::new());
    let a = m.message(&q, "a", "body");
    fs::write(q.join(".draft"), "draft").unwrap();
    for path in [a, q.join(".draft")] {
        for bits in [0o4755, 0o2755, 0o6777] {
            if fs::set_permissions(&path, fs::Permissions::from_mode(bits)).is_ok() {
                assert_eq!(mode(&path) & 0o6000, 0, "{} {bits:o}", path.display());
            }
        }
    }
}

/// `chmod` and `chown` of a message are its owner's, as everywhere; `utimes` too.
#[test]
fn attributes_of_a_message_are_its_owner_s() {
    let (m, q) = mount(0o777);
    ann(&m, "umask 022; echo x > q/a").ok();
    let a = q.join(&listing(&q)[0]);
    let path = a.display();
    bob(&m, &format!("chmod 777 '{path}'")).fails("Operation not permitted");
    bob(&m, &format!("chown {BOB} '{path}'")).fails("Operation not permitted");
    bob(&m, &format!("touch -c -d 2001-01-01 '{path}'")).fails("Operation not permitted");
    ann(&m, &format!("chown {BOB} '{path}'")).fails("Operation not permitted");
    ann(&m, &format!("chmod 600 '{path}' && touch -d 2001-01-01 '{path}'")).ok();
    assert_eq!(mode(&a), 0o600);
    untouched(&q, &a);
}

/// Drafts are files with an owner and a mode: the kernel's rules, as on any filesystem.
#[test]
fn drafts_are_their_owner_s() {
    let (m, _) = mount(0o1777);
    ann(&m, "umask 077; echo private > q/.d").ok();
    for script in ["cat q/.d", "echo x > q/.d", "echo x >> q/.d", "setfattr -n user.x -v y q/.d"] {
        bob(&m, script).fails(DENIED);
    }
    for script in ["rm -f q/.d", "mv q/.d q/x"] {
        bob(&m, script).fails("Operation not permitted");
    }
    assert_eq!(ann(&m, "cat q/.d; mv q/.d q/d").ok(), "private\n");
    assert_eq!(m.bodies("q"), ["private\n"]);
}

/// Headers of a queue need the right to write on it, as user attributes of every directory do.
#[test]
fn attributes_of_a_queue_need_write() {
    let (m, q) = mount(0o755);
    ann(&m, "setfattr -n user.note -v x q").fails(DENIED);
    assert_eq!(xattr(&q, "user.note"), None);
    assert!(ann(&m, "getfattr -d -m user.mq q").ok().contains("user.mq.visibility_timeout"));
}
