//! Metadata as extended attributes: what a message tells about itself, and the headers that travel with it.

use crate::common::{Mount, errno, listing, only, remove_xattr, set_xattr, try_xattr, wait_until, xattr, xattrs};

const STANDARD_KEYS: &[(&str, &str)] = &[
    ("names", "sequence"),
    ("claim", "read"),
    ("durability", "sync"),
    ("abort_on", "killed"),
    ("visibility_timeout", "30s"),
    ("max_lease", "12h"),
    ("max_deliveries", "20"),
    ("max_message_bytes", "0"),
    ("draft_ttl", "0s"),
];

/// "Times are RFC 3339 UTC": `2026-11-21T04:05:06.789Z`.
#[track_caller]
fn assert_rfc3339_utc(text: &str) {
    let (date, time) = text.split_once('T').unwrap_or_else(|| panic!("{text}"));
    let time = time.strip_suffix('Z').unwrap_or_else(|| panic!("{text} is not UTC"));
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let lengths = |text: &str, separator: char| text.split(separator).map(str::len).collect::<Vec<_>>();
    assert!(date.split('-').all(digits) && time.split(':').all(digits) && digits(fraction), "{text}");
    assert_eq!((lengths(date, '-'), lengths(time, ':')), (vec![4, 2, 2], vec![2, 2, 2]), "{text}");
}

/// Seconds since the epoch, as `date` understands the text.
fn seconds(m: &Mount, text: &str) -> i64 {
    m.sh(&format!("date -u -d {text} +%s")).ok().trim().parse().unwrap()
}

/// "On a message, read-only: `user.mq.{id,seq,name,state,enqueued_at,deliveries,claimed_by,deadline,producer}`".
#[test]
fn a_ready_message_tells_about_itself() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo body > q/a.csv").ok();
    let path = only(&q);
    let get = |name: &str| xattr(&path, &format!("user.mq.{name}"));
    let file_name = path.file_name().unwrap().to_str().unwrap();
    assert_eq!(get("seq").unwrap().parse::<u64>().unwrap(), file_name[..16].parse::<u64>().unwrap());
    assert_eq!(get("name").as_deref(), Some("a.csv"));
    assert_eq!(get("state").as_deref(), Some("ready"));
    assert_eq!(get("deliveries").as_deref(), Some("0"));
    assert!(!get("id").unwrap().is_empty());
    assert!(get("producer").unwrap().contains("uid=0"), "{:?}", get("producer"));
    let enqueued = get("enqueued_at").unwrap();
    assert_rfc3339_utc(&enqueued);
    let now: i64 = m.sh("date +%s").ok().trim().parse().unwrap();
    assert!((now - seconds(&m, &enqueued)).abs() < 60, "{enqueued}");
    assert_eq!((get("claimed_by"), get("deadline")), (None, None), "nobody holds it");
    assert_eq!(m.bodies(&q), ["body\n"]);
    assert_eq!(get("state").as_deref(), Some("ready"), "asking claims nothing");
}

/// The same attributes follow the message through a claim and back: who holds it, until when, how often it was delivered.
#[test]
fn a_claimed_message_tells_who_holds_it_and_until_when() {
    let m = Mount::new();
    let q = m.queue_with("q", &["visibility_timeout=1h"]);
    m.sh("echo body > q/a").ok();
    let id = xattr(only(&q), "user.mq.id");
    let worker = m.spawn("exec 3< q/0*; echo $$; exec sleep 1000");
    wait_until(|| worker.output().ends_with('\n'));
    let path = only(q.join(".mq/claimed"));
    let get = |name: &str| xattr(&path, &format!("user.mq.{name}"));
    assert_eq!((get("state").as_deref(), get("deliveries").as_deref()), (Some("claimed"), Some("1")));
    let holder = get("claimed_by").unwrap();
    assert!(holder.contains(worker.output().trim()), "{holder} is not about {}", worker.output());
    let deadline = get("deadline").unwrap();
    assert_rfc3339_utc(&deadline);
    let now: i64 = m.sh("date +%s").ok().trim().parse().unwrap();
    let lease = seconds(&m, &deadline) - now;
    assert!((3500..=3601).contains(&lease), "the lease lasts {lease} s");
    assert_eq!(get("id"), id, "the id stays");
    m.sh("mv q/.mq/claimed/0* q/").ok();
    let path = only(&q);
    let get = |name: &str| xattr(&path, &format!("user.mq.{name}"));
    assert_eq!((get("state").as_deref(), get("deliveries").as_deref()), (Some("ready"), Some("1")));
    assert_eq!((get("claimed_by"), get("deadline"), get("id")), (None, None, id));
}

/// The id names one message for ever; no two have the same.
#[test]
fn ids_are_unique() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.sh("for i in 1 2 3 4 5; do echo x > q/a; done").ok();
    m.remount();
    m.sh("for i in 1 2 3 4 5; do echo x > q/a; done").ok();
    let mut ids: Vec<_> = listing(&q).iter().map(|name| xattr(q.join(name), "user.mq.id").unwrap()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 10);
}

/// "writable on an open new file or a draft [...]: `user.mq.{content_type,correlation_id,reply_to,group}`; any other `user.*`
/// attribute is a header that travels with the message."
#[test]
fn an_open_new_file_takes_properties_and_headers() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.queue("r");
    let program = r#"
import os
fd = os.open("q/x", os.O_CREAT | os.O_WRONLY)
os.write(fd, b"body")
for name, value in [("mq.content_type", b"text/csv"), ("mq.correlation_id", b"c-1"), ("mq.reply_to", b"answers"),
                    ("mq.group", b"g"), ("trace", b"abc"), ("empty", b""), ("binary", bytes(range(256)))]:
    os.setxattr(fd, "user." + name, value)
os.setxattr(fd, "user.gone", b"1")
os.removexattr(fd, "user.gone")
assert os.getxattr(fd, "user.trace") == b"abc"
os.setxattr(fd, "user.trace", b"def", os.XATTR_REPLACE)
for name, flag in [("user.trace", os.XATTR_CREATE), ("user.other", os.XATTR_REPLACE)]:
    try:
        os.setxattr(fd, name, b"", flag)
        raise SystemExit(name + " was set")
    except (FileExistsError, OSError):
        pass
assert "user.trace" in os.listxattr(fd)
os.close(fd)
"#;
    m.python(program).ok();
    m.remount();
    m.sh("mv q/0* r/").ok();
    let path = only(m.path().join("r"));
    let expected = [
        ("mq.content_type", "text/csv"),
        ("mq.correlation_id", "c-1"),
        ("mq.reply_to", "answers"),
        ("mq.group", "g"),
        ("trace", "def"),
        ("empty", ""),
    ];
    for (name, value) in expected {
        assert_eq!(xattr(&path, &format!("user.{name}")).as_deref(), Some(value), "{name}");
    }
    assert_eq!(try_xattr(&path, "user.binary").unwrap(), (0..=255).collect::<Vec<u8>>());
    assert_eq!((xattr(&path, "user.gone"), xattr(&path, "user.other")), (None, None));
    assert_eq!(listing(&q), [""; 0]);
}

/// Shells have no setxattr on a descriptor, but `/proc/self/fd` reaches the open new file.
#[test]
fn a_shell_sets_headers_through_proc_self_fd() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("exec 3> q/x; echo body >&3; setfattr -n user.colour -v red /proc/self/fd/3; exec 3>&-").ok();
    assert_eq!(xattr(only(&q), "user.colour").as_deref(), Some("red"));
    assert_eq!(m.bodies(&q), ["body\n"]);
}

/// "read-only afterwards": a committed message's headers and properties never change.
#[test]
fn the_attributes_of_a_message_are_read_only() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo d > q/.d; setfattr -n user.colour -v red q/.d; mv q/.d q/x").ok();
    let path = only(&q);
    for name in
        ["user.colour", "user.new", "user.mq.content_type", "user.mq.state", "user.mq.deliveries", "user.mq.nonsense"]
    {
        assert_eq!(errno(set_xattr(&path, name, "x")), libc::EPERM, "set {name}");
    }
    assert_eq!(errno(remove_xattr(&path, "user.colour")), libc::EPERM);
    assert_eq!(xattr(&path, "user.colour").as_deref(), Some("red"));
    for name in ["user.mq.state", "user.mq.name", "user.mq.group"] {
        let before = xattr(&path, name);
        remove_xattr(&path, name).unwrap();
        assert_eq!(xattr(&path, name), before, "removed, and there");
    }
}

/// Programs that copy attributes remove from the copy what the original does not have: what mqfs sets stays, and is no failure.
#[test]
fn rsync_copies_attributes_into_a_queue() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("mkdir $T/dir; echo a > $T/dir/a; echo b > $T/dir/b").ok();
    let before = xattrs(&q);
    for options in ["-aX", "-aX --inplace"] {
        m.sh(&format!("rsync {options} $T/dir/ q/")).ok();
        let listed = listing(&q);
        assert_eq!(listed.len(), 2, "{options}: {listed:?}");
        m.sh("rm q/*").ok();
        assert_eq!(xattrs(&q), before, "{options}");
    }
    m.sh("setfattr -n user.colour -v red $T/dir/a; rsync -aX $T/dir/ q/").ok();
    assert_eq!(xattr(q.join(&listing(&q)[0]), "user.colour").as_deref(), Some("red"));
    m.sh("setfattr -x user.mq.daemon_pid .").ok();
    assert!(!xattr(m.path(), "user.mq.daemon_pid").unwrap().is_empty(), "of the root as well");
}

/// "Setting a read-only one on an open new file or a draft is accepted and ignored, so that `mv` out of the mount and back
/// works": and headers come back with it.
#[test]
fn mv_out_of_the_mount_and_back_works() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo body > q/.d; setfattr -n user.colour -v red q/.d; mv q/.d q/a").ok();
    let old = xattr(only(&q), "user.mq.id");
    m.sh("mv q/0* $T/a; test ! -e q/0*; getfattr --absolute-names -n user.colour $T/a > /dev/null").ok();
    assert_eq!(m.bodies(&q), [""; 0], "mv acked it");
    m.sh("mv $T/a q/").ok();
    let path = only(&q);
    assert_eq!(xattr(&path, "user.colour").as_deref(), Some("red"));
    assert_eq!(xattr(&path, "user.mq.state").as_deref(), Some("ready"));
    assert_eq!(xattr(&path, "user.mq.deliveries").as_deref(), Some("0"));
    assert_ne!(xattr(&path, "user.mq.id"), old, "a new message");
    m.sh("echo d > q/.d; setfattr -n user.mq.state -v dead q/.d; setfattr -n user.mq.seq -v 7 q/.d; mv q/.d q/b").ok();
    let states: Vec<_> = listing(&q).iter().map(|name| xattr(q.join(name), "user.mq.state").unwrap()).collect();
    assert_eq!(states, ["ready", "ready"]);
}

/// A property that does not exist is a mistake to hear of, not a header to lose.
#[test]
fn unknown_properties_are_refused() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo d > q/.d").ok();
    assert_eq!(errno(set_xattr(q.join(".d"), "user.mq.nonsense", "1")), libc::EINVAL);
    assert_eq!(errno(set_xattr(q.join(".d"), "user.mq.contenttype", "1")), libc::EINVAL);
}

/// What `setfacl -m u::rw,g::r,o::r` sets: the kernel looks at it before it asks the filesystem.
const MINIMAL_ACL: &[u8] =
    b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";

/// "`system.posix_acl_*`, `security.*`, `trusted.*`: EOPNOTSUPP."
#[test]
fn attributes_of_other_kinds_are_not_supported() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo x > q/x; echo d > q/.d").ok();
    let message = q.join(listing(&q).into_iter().find(|name| name.ends_with("-x")).unwrap());
    for path in [&message, &q.join(".d"), &q] {
        for name in ["system.posix_acl_access", "security.something", "trusted.something"] {
            assert_eq!(errno(try_xattr(path, name)), libc::EOPNOTSUPP, "get {name}");
            assert_eq!(errno(set_xattr(path, name, MINIMAL_ACL)), libc::EOPNOTSUPP, "set {name}");
        }
    }
    assert!(xattrs(&message).iter().all(|name| name.starts_with("user.")));
}

/// "`getfattr -d -m user.mq` lists them": all that are there, and `getfattr -d` dumps the headers too.
#[test]
fn getfattr_lists_attributes() {
    let m = Mount::new();
    m.queue("q");
    m.sh("echo d > q/.d; setfattr -n user.colour -v red q/.d; setfattr -n user.mq.group -v g q/.d; mv q/.d q/x").ok();
    let dump = m.sh("getfattr -d -m user.mq q/0*").ok().to_owned();
    for line in ["user.mq.name=\"x\"", "user.mq.state=\"ready\"", "user.mq.deliveries=\"0\"", "user.mq.group=\"g\""] {
        assert!(dump.lines().any(|found| found == line), "{line} in {dump}");
    }
    for name in ["user.mq.id=", "user.mq.seq=", "user.mq.enqueued_at=", "user.mq.producer="] {
        assert!(dump.lines().any(|found| found.starts_with(name)), "{name} in {dump}");
    }
    assert!(!dump.contains("colour"));
    assert!(m.sh("getfattr -d q/0*").ok().contains("user.colour=\"red\""));
    let dump = m.sh("getfattr -d -m user.mq q").ok().to_owned();
    for (key, value) in STANDARD_KEYS.iter().chain(&[("ready", "1"), ("claimed", "0"), ("enqueued_total", "1")]) {
        let line = format!("user.mq.{key}=\"{value}\"");
        assert!(dump.lines().any(|found| found == line), "{line} in {dump}");
    }
}
