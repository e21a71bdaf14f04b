//! "`with/K=V,K=V/NAME`: writing here enqueues NAME with those properties (priority, delay, ttl, id, header.X; values
//! percent-encoded)"

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::common::*;
use crate::extra::*;
use crate::users::{ann, bob, chmod};

const REFUSED: &str = "Invalid argument";

/// What a shell writes there is a message of the queue, by both shells.
#[test]
fn writing_enqueues_with_the_properties() {
    let m = Mount::new();
    let q = m.queue("q");
    for shell in ["bash", "dash"] {
        let script =
            "echo body > 'q/.mq/with/priority=7,ttl=1h,id=a-1,content_type=text%2fcsv,header.colour=dark red/a.csv'";
        m.shell(shell, script).ok();
        let a = only(&q);
        assert_eq!(producer(&listing(&q)[0]), "a.csv");
        assert_eq!(fs::read(within(&q, "peek", &a)).unwrap(), b"body\n");
        for (name, value) in [
            ("user.mq.priority", "7"),
            ("user.mq.ttl", "1h"),
            ("user.mq.dedup_id", "a-1"),
            ("user.mq.content_type", "text/csv"),
            ("user.colour", "dark red"),
        ] {
            assert_eq!(xattr(&a, name).as_deref(), Some(value), "{shell}: {name}");
        }
        fs::remove_file(a).unwrap();
    }
}

/// Programs that copy, and that set the mode of what they wrote by its name, succeed; each enqueues one message.
#[test]
fn copying_programs_succeed() {
    let m = Mount::new();
    let q = m.queue("q");
    fs::write(m.scratch().join("f"), "body").unwrap();
    for command in [
        "cp $T/f q/.mq/with/priority=3/",
        "cp -p $T/f q/.mq/with/priority=3/f",
        "install -m 600 $T/f q/.mq/with/priority=3/f",
        "cat $T/f | tee q/.mq/with/priority=3/f > /dev/null",
        "dd if=$T/f of=q/.mq/with/priority=3/f conv=fsync status=none",
        "python3 -c 'import os, shutil; shutil.copy(os.environ[\"T\"] + \"/f\", \"q/.mq/with/priority=3/f\")'",
        "rsync $T/f q/.mq/with/priority=3/",
        "rsync --inplace $T/f q/.mq/with/priority=3/f",
        "cp $T/f $T/g && mv $T/g q/.mq/with/priority=3/f",
        "cd q/.mq/with/priority=3 && cp $T/f f && cp $T/f .f && mv .f f && rm -f ../../../*-f.none",
    ] {
        m.session(command).ok();
        let expected = if command.starts_with("cd") { 2 } else { 1 };
        let all = listing(&q);
        assert_eq!(all.len(), expected, "{command}: {all:?}");
        for name in all {
            assert_eq!(producer(&name), "f", "{command}");
            assert_eq!(xattr(q.join(&name), "user.mq.priority").as_deref(), Some("3"), "{command}");
            assert_eq!(fs::read(within(&q, "peek", &q.join(&name))).unwrap(), b"body", "{command}");
            fs::remove_file(q.join(&name)).unwrap();
        }
    }
}

/// "bad property in `with/`: EINVAL", from the lookup on, and the log says why.
#[test]
fn bad_properties_are_refused() {
    let m = Mount::new();
    let q = m.queue("q");
    for bad in [
        "priority=10",
        "priority",
        "colour=red",
        "delay=soon",
        "ttl=1",
        "id=",
        "id=%4",
        "priority=1,priority=1",
        "deliver_at=tomorrow",
        "header.=x",
        "header.mq.seq=1",
        "seq=9",
        "priority=1,",
    ] {
        let path = control(&q, "with").join(bad);
        assert_eq!(errno(fs::metadata(&path)), libc::EINVAL, "{bad}");
        m.sh(&format!("echo x > 'q/.mq/with/{bad}/a'")).fails(REFUSED);
        m.shell("dash", &format!("cp /etc/hostname 'q/.mq/with/{bad}/a'")).fails("");
        m.sh(&format!("mkdir 'q/.mq/with/{bad}'")).fails(REFUSED);
    }
    assert!(m.log().contains("unknown property `colour`"), "{}", m.log());
    assert_eq!(m.bodies("q").len(), 0);
    assert_eq!(m.stats("q")["enqueued_total"], 0);
}

/// Nothing is listed there, nothing but messages and drafts is made there, and the directories look like the queue's others.
#[test]
fn the_directories_are_control_directories() {
    let m = Mount::new();
    let q = m.queue("q");
    chmod(&q, 0o2751);
    assert!(listing(q.join(".mq")).contains(&"with".to_owned()));
    let (with, given) = (control(&q, "with"), control(&q, "with").join("priority=1"));
    for dir in [&with, &given] {
        assert_eq!(listing(dir), Vec::<String>::new());
        let stat = fs::metadata(dir).unwrap();
        assert!(stat.is_dir());
        assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o2751, 0, 0));
        assert_eq!(errno(fs::create_dir(dir.join("sub"))), if *dir == with { libc::EINVAL } else { libc::EPERM });
        assert_eq!(errno(fs::remove_dir(dir)), libc::EPERM);
    }
    chmod(&q, 0o700);
    assert_eq!(fs::metadata(&given).unwrap().mode() & 0o7777, 0o700, "at once");
    m.sh("cd q/.mq/with/priority=1/.. && pwd -P").ok();
    m.sh("rm -rf q/.mq/with/priority=1").fails("Operation not permitted");
    assert_eq!(errno(fs::rename(&given, control(&q, "with").join("priority=2"))), libc::EPERM);
    m.queue("q/sub");
    m.sh("echo x > q/.mq/with/priority=1/sub").fails("Is a directory");
    m.sh("echo x > q/.mq/with/priority=1/.mq").fails("");
    assert_eq!(m.bodies("q").len(), 0);
    assert_eq!(errno(fs::metadata(m.path().join(".mq/with"))), libc::ENOENT, "the root is no queue");
}

/// "drafts created there are drafts of the queue that carry the properties, are found there by name"
#[test]
fn drafts_carry_the_properties() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo one > q/.mq/with/priority=4/.x && echo two >> q/.mq/with/priority=4/.x").ok();
    assert_eq!(listing(&q), [".x"]);
    assert_eq!(xattr(q.join(".x"), "user.mq.priority").as_deref(), Some("4"));
    assert_eq!(m.sh("cat q/.mq/with/priority=4/.x").ok(), "one\ntwo\n");
    m.sh("mv q/.mq/with/priority=4/.x q/.mq/with/priority=4/a").ok();
    m.sh("echo three > q/.mq/with/header.h=1/.y && mv q/.mq/with/header.h=1/.y q/b").ok();
    m.sh("echo four > q/.z && rm q/.mq/with/header.h=1/.z").ok();
    assert_listed(&q, &["a", "b"]);
    let all = listing(&q);
    assert_eq!(xattr(q.join(&all[0]), "user.mq.priority").as_deref(), Some("4"));
    assert_eq!(xattr(q.join(&all[1]), "user.h").as_deref(), Some("1"));
    assert_eq!(m.bodies("q"), ["one\ntwo\n", "three\n"]);
}

/// "`mv q/.x q/.mq/with/priority=9/NAME` publishes with them too", in place of those of the same name, beside others; so do
/// `ln`, and a rename to another draft's name.
#[test]
fn a_draft_gets_properties_when_it_is_published_there() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("echo x > q/.x && setfattr -n user.mq.priority -v 1 q/.x && setfattr -n user.h -v kept q/.x").ok();
    m.sh("ln q/.x q/.mq/with/priority=9/linked").ok();
    assert_eq!(xattr(q.join(".x"), "user.mq.priority").as_deref(), Some("1"), "the draft stays as it was");
    m.sh("mv q/.x q/.mq/with/priority=8,ttl=1h/.y").ok();
    assert_eq!(xattr(q.join(".y"), "user.mq.priority").as_deref(), Some("8"));
    m.sh("mv q/.y q/.mq/with/priority=7/moved").ok();
    assert_listed(&q, &["linked", "moved"]);
    let [linked, moved] = [0, 1].map(|i| q.join(&listing(&q)[i]));
    let of = |path: &std::path::Path, name: &str| xattr(path, name);
    assert_eq!(of(&linked, "user.mq.priority").as_deref(), Some("9"));
    assert_eq!(of(&moved, "user.mq.priority").as_deref(), Some("7"));
    assert_eq!(of(&moved, "user.mq.ttl").as_deref(), Some("1h"));
    assert_eq!([&linked, &moved].map(|path| of(path, "user.h")), [Some("kept".into()), Some("kept".into())]);
    // A draft that is still being written takes them along to its last close.
    m.sh("exec 3> q/.open; echo part >&3; mv q/.open q/.mq/with/priority=6/late; echo rest >&3; exec 3>&-").ok();
    assert_eq!(of(&q.join(&listing(&q)[2]), "user.mq.priority").as_deref(), Some("6"));
    assert_eq!(m.bodies("q")[2], "part\nrest\n");
    // A message never changes.
    m.sh(&format!("mv '{}' q/.mq/with/priority=1/", moved.display())).fails("Operation not permitted");
    assert_eq!(of(&moved, "user.mq.priority").as_deref(), Some("7"));
}

/// Who may enqueue in the queue may do so there, and nobody else; what is made there belongs to who made it.
#[test]
fn the_queues_permissions_hold() {
    let (m, q) = crate::users::mount(0o1733);
    ann(&m, "umask 027; echo x > q/.mq/with/priority=1/a").ok();
    let a = only(&q);
    let stat = fs::metadata(&a).unwrap();
    assert_eq!((stat.uid(), stat.mode() & 0o777), (crate::users::ANN, 0o640));
    ann(&m, "ls q/.mq/with").fails(crate::users::DENIED);
    ann(&m, "echo draft > q/.mq/with/priority=1/.d").ok();
    bob(&m, "rm q/.mq/with/priority=1/.d").fails("");
    bob(&m, "mv q/.mq/with/priority=1/.d q/.mq/with/priority=1/stolen").fails("");
    chmod(&q, 0o755);
    bob(&m, "echo x > q/.mq/with/priority=1/b").fails(crate::users::DENIED);
    assert_eq!(m.bodies("q").len(), 1);
}

/// Any number of different directories, each used once, costs neither memory nor an answer that is wrong; and one that is in
/// use goes on working meanwhile.
#[test]
fn a_directory_for_each_message() {
    let m = Mount::new();
    let q = m.queue_with("q", &["durability=async"]);
    let script = "cd q/.mq/with/priority=5; for i in $(seq 2000); do echo $i > ../id=$i,header.n=$i/m || exit; done; echo x > last";
    m.sh(script).ok();
    assert_eq!(listing(&q).len(), 2001);
    let of = |i: usize, name: &str| xattr(q.join(&listing(&q)[i]), name);
    assert_eq!((of(0, "user.n"), of(1999, "user.n")), (Some("1".into()), Some("2000".into())));
    assert_eq!(of(2000, "user.mq.priority").as_deref(), Some("5"));
}

/// On a mount that was restarted the same paths work, and an open one of before does not come to mean another.
#[test]
fn paths_work_after_a_restart() {
    let mut m = Mount::new();
    let q = m.queue("q");
    m.sh("echo x > q/.mq/with/priority=1/.a").ok();
    m.kill9_and_remount();
    m.sh("echo y >> q/.mq/with/priority=1/.a && mv q/.mq/with/priority=1/.a q/.mq/with/priority=2/a").ok();
    assert_eq!(xattr(only(&q), "user.mq.priority").as_deref(), Some("2"));
    assert_eq!(m.bodies("q"), ["x\ny\n"]);
}
