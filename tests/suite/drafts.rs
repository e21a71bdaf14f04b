//! "Drafts: create, re-open, overwrite, append, truncate, chmod, setxattr, read, unlink behave as on any filesystem."

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::common::{Mount, listing, only, wait_until, xattr};

/// A draft is "an ordinary file until it is renamed": everything that a program does to a file works on it.
#[test]
fn a_draft_behaves_as_on_any_filesystem() {
    let m = Mount::new();
    let q = m.queue("q");
    let draft = q.join(".d");
    let read = || fs::read_to_string(&draft).unwrap();
    fs::write(&draft, "first").unwrap();
    assert_eq!(read(), "first");
    assert_eq!(read(), "first", "reading does not take it");
    m.sh("echo second > q/.d").ok();
    assert_eq!(read(), "second\n");
    m.sh("echo third >> q/.d").ok();
    assert_eq!(read(), "second\nthird\n");
    m.sh("truncate -s 3 q/.d").ok();
    assert_eq!(read(), "sec");
    m.sh("truncate -s 5 q/.d").ok();
    assert_eq!(read(), "sec\0\0");
    m.sh("printf XY | dd of=q/.d bs=1 seek=1 conv=notrunc status=none").ok();
    assert_eq!(read(), "sXY\0\0");
    m.sh("printf ed | dd of=q/.d bs=1 seek=1 conv=notrunc status=none; chmod 640 q/.d; chown 12:34 q/.d; touch -d '2001-02-03 04:05:06 UTC' q/.d")
        .ok();
    let meta = fs::metadata(&draft).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.len()), (0o640, 12, 34, 5));
    assert_eq!((read(), meta.mtime()), ("sed\0\0".into(), 981_173_106));
    assert_eq!(listing(&q), [".d"]);
    assert_eq!(m.bodies(&q), [""; 0]);
    m.sh("rm q/.d").ok();
    assert_eq!(listing(&q), [""; 0]);
    m.sh("cat q/.d").fails("No such file or directory");
}

/// "setxattr [...] behave as on any filesystem" on a draft, and the attributes become the message's headers.
#[test]
fn attributes_of_a_draft_become_headers() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        echo body > q/.d
        setfattr -n user.colour -v red q/.d
        setfattr -n user.shape -v round q/.d
        setfattr -n user.colour -v blue q/.d
        setfattr -x user.shape q/.d
        setfattr -n user.mq.content_type -v text/plain q/.d
        getfattr --only-values -n user.colour q/.d
        mv q/.d q/x
    "#;
    assert_eq!(m.sh(script).ok(), "blue");
    let message = only(&q);
    assert_eq!(xattr(&message, "user.colour").as_deref(), Some("blue"));
    assert_eq!(xattr(&message, "user.shape"), None);
    assert_eq!(xattr(&message, "user.mq.content_type").as_deref(), Some("text/plain"));
}

/// A draft may be a lock file: flock and fcntl locks exclude, and make no message.
#[test]
fn a_draft_can_be_locked() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        exec 3> q/.lock
        flock 3
        flock -n q/.lock echo entered || echo locked out
        exec 3>&-
        flock -n q/.lock echo entered
    "#;
    assert_eq!(m.sh(script).ok(), "locked out\nentered\n");
    assert_eq!(listing(&q), [".lock"]);
    assert_eq!(m.bodies(&q), [""; 0]);
}

/// Drafts "are listed like any dotfile", beside messages and nested queues.
#[test]
fn drafts_are_listed_like_any_dotfile() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo a > q/.a; echo b > q/b; mkdir q/nested; echo c > q/.c").ok();
    let all = listing(&q);
    assert_eq!(all.len(), 4, "{all:?}");
    for name in [".a", ".c", "nested"] {
        assert!(all.contains(&name.to_owned()), "{name}: {all:?}");
    }
    assert_eq!(m.sh("ls q | wc -l; ls -A q | wc -l; echo q/.[a-z]").ok(), "2\n4\nq/.a q/.c\n");
    assert_eq!(m.stats(&q)["drafts"], 2);
}

/// A draft renamed to another hidden name stays a draft; over another draft it replaces that one, as `rename` does.
#[test]
fn a_draft_renamed_over_a_draft_replaces_it() {
    let m = Mount::new();
    let q = m.queue("q");
    m.queue("r");
    m.sh("echo a > q/.a; echo b > q/.b; mv q/.a q/.b").ok();
    assert_eq!(listing(&q), [".b"]);
    assert_eq!(m.sh("cat q/.b").ok(), "a\n");
    m.sh("mv q/.b q/.c; mv q/.c r/.c").ok();
    assert_eq!((listing(&q), listing(m.path().join("r"))), (vec![], vec![".c".to_owned()]));
    m.sh("echo d > r/.d; mv -n r/.c r/.d; cat r/.c r/.d").ok();
    assert_eq!((m.stats("q")["drafts"].as_u64(), m.stats("r")["drafts"].as_u64()), (Some(0), Some(2)));
}

/// The file that a rename replaced stays readable for those who have it open.
#[test]
fn a_replaced_or_unlinked_draft_stays_readable_through_open_descriptors() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        echo a > q/.a; echo b > q/.b
        exec 3< q/.b 4<> q/.a
        mv q/.a q/.b; cat <&3
        rm q/.b; echo more >&4
        exec 4>&-
    "#;
    assert_eq!(m.sh(script).ok(), "b\n");
    assert_eq!(listing(&q), [""; 0]);
    assert_eq!(m.bodies(&q), [""; 0]);
}

/// A draft cannot leave for where no file may be: the root and the control directories.
#[test]
fn a_draft_cannot_be_renamed_into_the_root_or_a_control_directory() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo d > q/.d").ok();
    for target in ["x", ".x", "q/.mq/x", "q/.mq/claimed/x", "q/.mq/dead/x", "q/.mq/peek/x", "q/.mq/config"] {
        let error = fs::rename(q.join(".d"), m.path().join(target)).unwrap_err();
        assert!([libc::EPERM, libc::EACCES].contains(&error.raw_os_error().unwrap()), "{target}: {error}");
    }
    assert_eq!(m.sh("cat q/.d").ok(), "d\n");
}

/// Drafts survive a restart and a crash, with bytes, mode and attributes, and can be published afterwards.
#[test]
fn drafts_survive_restart_and_crash() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.sh("echo small > q/.s; chmod 600 q/.s; setfattr -n user.colour -v red q/.s; head -c 200000 /dev/zero > q/.l")
        .ok();
    for crash in [false, true] {
        if crash {
            m.kill9_and_remount();
        } else {
            m.remount();
        }
        let mut all = listing(&q);
        all.sort();
        assert_eq!(all, [".l", ".s"]);
        assert_eq!(fs::read_to_string(q.join(".s")).unwrap(), "small\n");
        assert_eq!(fs::metadata(q.join(".l")).unwrap().len(), 200_000);
        assert_eq!(fs::metadata(q.join(".s")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(xattr(q.join(".s"), "user.colour").as_deref(), Some("red"));
    }
    m.sh("mv q/.s q/s; mv q/.l q/l").ok();
    assert_eq!(m.bodies(&q).iter().map(String::len).collect::<Vec<_>>(), [6, 200_000]);
}

/// `max_message_bytes` holds for drafts too: what could not be enqueued is refused at write.
#[test]
fn a_draft_over_the_limit_is_refused_at_write() {
    let m = Mount::new();
    let q = m.queue_with("q", &["max_message_bytes=10"]);
    m.sh("head -c 11 /dev/zero > q/.d").fails("File too large");
    m.sh("truncate -s 11 q/.e").fails("File too large");
    // A draft that was written where more is allowed is refused when it is published here.
    m.queue("wide");
    m.sh("head -c 11 /dev/zero > wide/.d; mv wide/.d q/x").fails("File too large");
    assert_eq!(m.bodies(&q), [""; 0]);
    assert_eq!(fs::metadata(m.path().join("wide/.d")).unwrap().len(), 11, "the refused draft is lost");
}

/// "`draft_ttl`": a draft that nobody has touched for so long goes, and one that is written stays.
#[test]
fn untouched_drafts_go_after_draft_ttl() {
    let m = Mount::new();
    let q = m.queue_with("q", &["draft_ttl=1s"]);
    m.sh("echo a > q/.a").ok();
    wait_until(|| listing(&q).is_empty());
    assert_eq!(m.stats(&q)["drafts"], 0);
    assert_eq!(m.bodies(&q), [""; 0], "it is not published either");
}

/// mmap of a draft works as programs (linkers, databases) use it: what is written through the mapping is in the file.
#[test]
fn a_draft_can_be_mapped() {
    let m = Mount::new();
    let q = m.queue("q");
    let program = r#"
import mmap, os
fd = os.open("q/.d", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 8192)
with mmap.mmap(fd, 8192) as map:
    map[0:5] = b"start"
    map[8000:8003] = b"end"
    map.flush()
os.close(fd)
os.rename("q/.d", "q/x")
"#;
    m.python(program).ok();
    wait_until(|| m.bodies(&q).len() == 1);
    let body = &m.messages(&q)[0].1;
    assert_eq!((body.len(), &body[..5], &body[8000..8003]), (8192, &b"start"[..], &b"end"[..]));
}
