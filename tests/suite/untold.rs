//! What those are told of a queue who may use it, but not read it: nothing that they would need its messages or statistics for.

use crate::common::Mount;
use crate::extra::transition;
use crate::users::*;

/// All that shows without a right to read: sizes and links of what is in `.mq`, and names of attributes.
const LOOK: &str = "cd q; stat -c '%n %s %b %h %a' .mq/config .mq/stats .mq/claim .mq/pop .mq/lines .mq/nack .mq/purge \
    .mq/peek .mq/claimed .mq/delayed .mq/dead .mq/with; getfattr -m - . | sort";

/// "The sizes of `.mq/stats` and the names of attributes are the same for who may not read as for an empty queue."
#[test]
fn a_drop_box_shows_what_an_empty_one_shows() {
    let (m, q) = mount(0o1733);
    let empty = ann(&m, LOOK).ok().to_owned();
    assert!(empty.contains(".mq/stats 0 ") && empty.contains("user.mq.oldest_ready_age_ms"), "{empty}");
    let own = m.sh("stat -c %s q/.mq/stats q/.mq/config; wc -c < q/.mq/stats; wc -c < q/.mq/config").ok().to_owned();
    let lengths: Vec<&str> = own.lines().collect();
    assert_eq!(lengths[..2], lengths[2..], "who may read is told the length of the text");
    m.sh("setfattr -n user.secret_project -v x q").ok();
    m.fill(&q, 123);
    let first = m.message(&q, "x", "x");
    transition(&q, "claimed", &first);
    m.set(&q, "max_messages=12345\npaused=out");
    assert_eq!(ann(&m, LOOK).ok(), empty);
    assert_ne!(m.sh("stat -c %s q/.mq/stats q/.mq/config").ok(), format!("{}\n{}\n", lengths[0], lengths[1]));
    assert!(m.sh("getfattr -m - q").ok().contains("user.secret_project"));
    // Not for those who may read, and are not root.
    chmod(&q, 0o755);
    let told = ann(&m, "stat -c %s q/.mq/stats; wc -c < q/.mq/stats; getfattr -m - q");
    let (shown, read) = told.ok().split_once('\n').unwrap();
    assert!(read.starts_with(shown) && read.contains("user.secret_project"), "{told:?}");
}

/// So it is for the statistics of the whole mount, which its owner has not let others read.
#[test]
fn the_statistics_of_the_mount_have_no_length_for_others() {
    let m = Mount::with(&["-o", "allow_other"]);
    chmod(m.path(), 0o711);
    m.queue("q");
    m.fill(&m.path().join("q"), 12);
    assert_eq!(ann(&m, "stat -c %s .mq/stats").ok(), "0\n");
    ann(&m, "cat .mq/stats").fails(DENIED);
    assert_ne!(m.sh("stat -c %s .mq/stats").ok(), "0\n");
}

/// The names of the attributes of a file are for those who may read the file, or consume.
#[test]
fn what_headers_a_message_has_is_for_its_readers() {
    let (m, q) = mount(0o777);
    ann(&m, "umask 077; echo x > q/.d; setfattr -n user.case -v 7 q/.d").ok();
    bob(&m, "test -z \"$(getfattr -m - q/.d)\"").ok();
    assert!(ann(&m, "getfattr -m - q/.d").ok().contains("user.case"));
    ann(&m, "mv q/.d q/m").ok();
    assert!(bob(&m, "getfattr -m - q/*-m").ok().contains("user.case"), "who may consume may read it");
    chmod(&q, 0o755);
    bob(&m, "test -z \"$(getfattr -m - q/*-m)\"").ok();
    bob(&m, "getfattr -n user.case q/*-m").fails(DENIED);
    bob(&m, "getfattr -n user.none q/*-m").fails(DENIED);
    assert!(ann(&m, "getfattr -m - q/*-m").ok().contains("user.mq.seq"));
}
