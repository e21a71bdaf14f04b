//! Uploads that are renamed when they are whole: queues in which a rename publishes, and names of unfinished files.

use std::fs;

use crate::common::*;
use crate::extra::*;
use crate::users::*;

const USUAL: &str = "drafts = .* *.part *.filepart *.tmp ~*";

/// "`drafts = PATTERN...`: names that are drafts. Renaming such a file to another name publishes it."
#[test]
fn names_of_unfinished_files_are_drafts() {
    let m = Mount::new();
    let q = m.queue_with("q", &[USUAL]);
    let script = "for n in a.part .b c.filepart '~d' e.csv.tmp; do echo $n > q/$n; done
        cat q/a.part; echo more >> q/a.part; ls q";
    let out = m.sh(script);
    let mut listed: Vec<&str> = out.ok().lines().skip(1).collect();
    listed.sort_unstable();
    assert_eq!(listed, ["a.part", "c.filepart", "e.csv.tmp", "~d"], "found, read and written as any file");
    assert_eq!((m.bodies(&q).len(), m.stats(&q)["drafts"].as_u64()), (0, Some(5)));
    m.sh("mv q/a.part q/a.tmp; mv q/a.tmp q/a; mv q/.b q/b; mv q/c.filepart q/c; ln q/e.csv.tmp q/e; rm q/~d q/e.csv.tmp").ok();
    assert_eq!(producers(&q), ["a", "b", "c", "e"]);
    assert_eq!(m.bodies(&q), ["a.part\nmore\n", ".b\n", "c.filepart\n", "e.csv.tmp\n"]);
    assert_eq!(m.stats(&q)["drafts"], 0);
    m.sh("echo x > q/part; echo y > q/a.part.gz").ok();
    assert_eq!(m.bodies(&q).len(), 6, "neither fits");
    // Where names that begin with a dot are none, they are nothing.
    m.set("q", "drafts = *.part");
    m.sh("echo x > q/.x").fails("Operation not permitted");
    m.sh("echo x > q/x.part; mv q/x.part q/.y").fails("Operation not permitted");
    assert_eq!(m.bodies(&q).len(), 6);
}

/// "with `rename` every file is a draft until it is renamed or linked within the queue's directory or into another".
#[test]
fn where_a_rename_publishes_no_close_does() {
    for names in ["sequence", "keep"] {
        let mut m = Mount::new();
        let q = m.queue_with("q", &["publish=rename", &format!("names={names}")]);
        let other = m.queue_with("other", &[&format!("names={names}")]);
        m.sh("echo one > q/a; echo half > q/b; cp /etc/hostname q/c; printf two >> q/b; cat q/b > /dev/null").ok();
        assert_eq!((m.bodies(&q).len(), listing(&q)), (0, vec!["a".into(), "b".into(), "c".into()]));
        m.kill9_and_remount();
        assert_eq!(fs::read_to_string(q.join("b")).unwrap(), "half\ntwo");
        m.sh("mv q/a q/one; mv q/b other/two; ln q/c q/three; rm q/c").ok();
        let called = |dir: &std::path::Path| {
            let all = listing(dir);
            all.iter()
                .map(|name| if names == "keep" { name.clone() } else { producer(name).to_owned() })
                .collect::<Vec<_>>()
        };
        assert_eq!((called(&q), called(&other)), (vec!["one".into(), "three".into()], vec!["two".into()]));
        assert_eq!(m.bodies(&other), ["half\ntwo"]);
        // What makes messages at once does so here, too.
        m.sh("echo w > q/.mq/with/priority=1/w; printf 'l\n' > q/.mq/lines
            mkdir q/.mq/batch/b; echo b > q/.mq/batch/b/b; mv q/.mq/batch/b q/
            cat q/.mq/pop > /dev/null")
            .ok();
        m.sh(&format!("echo p | {} put -n p q", env!("CARGO_BIN_EXE_mqfs"))).ok();
        let bodies = m.bodies(&q);
        for body in ["w\n", "l\n", "b\n", "p\n"] {
            assert!(bodies.contains(&body.to_owned()), "{body:?} in {bodies:?}");
        }
    }
}

/// "sequence-form names are EPERM then", but digits that are no message's number are a name.
#[test]
fn a_draft_has_no_name_in_the_form_of_a_messages() {
    let m = Mount::new();
    let q = m.queue_with("q", &["publish=rename"]);
    m.sh("echo x > q/0000000000000042-a").fails("Operation not permitted");
    m.sh("echo x > q/0000000000000042").fails("Operation not permitted");
    m.sh("echo x > q/1795873109887454; mv q/1795873109887454 q/1795873109887455").ok();
    assert_eq!(producers(&q), ["1795873109887455"]);
    m.set("q", "publish=close\ndrafts=.* *.part");
    m.sh("echo x > q/0000000000000042-a.part").fails("Operation not permitted");
    m.sh("echo x > q/.d; mv q/.d q/0000000000000042-a.part").fails("Operation not permitted");
}

/// "Changing either key leaves existing drafts drafts."
#[test]
fn drafts_stay_drafts_whatever_the_queue_is_configured_to() {
    let m = Mount::new();
    let q = m.queue_with("q", &["publish=rename", "drafts=.* *.part"]);
    m.sh("echo a > q/a; echo b > q/b.part").ok();
    m.set("q", "publish=close\ndrafts=.*");
    assert_eq!(listing(&q), ["a", "b.part"]);
    m.sh("echo more >> q/a; touch q/b.part; cat q/a").ok();
    assert_eq!(m.bodies(&q), [""; 0]);
    m.sh("mv q/a q/a1; mv q/b.part q/b").ok();
    assert_eq!(m.bodies(&q), ["a\nmore\n", "b\n"]);
    m.sh("echo now > q/c.part").ok();
    assert_eq!(m.bodies(&q).len(), 3);
}

/// A rename replaces what has the name, a draft as well.
#[test]
fn a_rename_replaces_a_draft_of_that_name() {
    let m = Mount::new();
    let q = m.queue_with("q", &["publish=rename"]);
    m.sh("echo old > q/x; echo new > q/y").ok();
    assert_eq!(errno(rename_noreplace(&q.join("y"), &q.join("x"))), libc::EEXIST);
    assert_eq!(listing(&q), ["x", "y"]);
    m.sh("mv q/y q/x").ok();
    assert_eq!((m.bodies(&q), m.stats(&q)["drafts"].as_u64()), (vec!["new\n".into()], Some(0)));
    // A message does not take a draft's name, under which it would not be found.
    m.sh("mkdir keep; printf 'names = keep\npublish = rename\n' > keep/.mq/config; echo d > keep/d; echo x > q/.m; mv q/.m q/m")
        .ok();
    m.sh("mv -f q/*-m keep/d").fails("File exists");
    assert_eq!(listing(m.path().join("keep")), ["d"]);
}

/// `mqfs put` enqueues whatever the queue takes for the name of a draft.
#[test]
fn put_enqueues_where_names_are_those_of_drafts() {
    let m = Mount::new();
    let mqfs = env!("CARGO_BIN_EXE_mqfs");
    for (n, lines) in
        [&["drafts=*.part"][..], &[USUAL], &["drafts=", "names=keep"], &["drafts=.* *.part", "publish=rename"]]
            .into_iter()
            .enumerate()
    {
        let q = m.queue_with(&format!("q{n}"), lines);
        m.sh(&format!("echo x > $T/x.part; {mqfs} put q{n} $T/x.part; {mqfs} put --batch q{n} $T/x.part -n y.part"))
            .ok();
        assert_eq!(
            (m.bodies(&q), m.stats(&q)["drafts"].as_u64()),
            (vec!["x\n".into(), "x\n".into()], Some(0)),
            "{lines:?}"
        );
    }
}

/// "upload-then-rename works, in drop boxes too": by SFTP's way and by rsync.
#[test]
fn uploads_are_renamed_in_a_drop_box() {
    let (m, q) = mount(0o1733);
    m.set("q", USUAL);
    let script = "umask 022; echo a > q/a.part && mv q/a.part q/a
        echo b > q/b.filepart; ln q/b.filepart q/b && rm q/b.filepart
        echo c > $T/c; rsync --no-perms $T/c q/ && echo d > q/d.part && stat -c %s q/d.part && rm q/d.part";
    assert_eq!(ann(&m, script).ok(), "2\n");
    assert_eq!(producers(&q), ["a", "b", "c"]);
    m.set("q", "publish = rename");
    ann(&m, "umask 022; echo e > q/e.csv && mv q/e.csv q/e; echo left > q/left").ok();
    assert_eq!(m.bodies(&q).len(), 4);
    assert_eq!(m.stats(&q)["drafts"], 1);
}

/// "one bad value gives EINVAL"; and the keys are inherited, and can be attributes, as any.
#[test]
fn the_keys_are_configured_as_others() {
    let m = Mount::with(&["-o", "drafts=*.part,publish=rename"]);
    let q = m.queue("q");
    let config = |queue: &str| fs::read_to_string(m.path().join(queue).join(".mq/config")).unwrap();
    assert!(config("q").contains("publish = rename\ndrafts = *.part\n"));
    m.sh("echo 'drafts = .*  ~*' > q/.mq/config; mkdir q/r").ok();
    assert!(config("q/r").contains("publish = rename\ndrafts = .* ~*\n"));
    assert_eq!(xattr(&q, "user.mq.publish").as_deref(), Some("rename"));
    assert_eq!(xattr(&q, "user.mq.drafts").as_deref(), Some("0"), "the number of drafts, as in stats");
    for bad in ["*", ".* **", "a/b", "[a-z]*"] {
        m.sh(&format!("echo 'drafts = {bad}' > q/.mq/config")).fails("Invalid argument");
    }
    m.sh("echo 'publish = open' > q/.mq/config").fails("Invalid argument");
}
