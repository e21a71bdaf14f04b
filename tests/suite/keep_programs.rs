//! Everyday programs in a queue that keeps names: each makes the message `x` and says nothing, the first time; the second time it
//! replaces the message, or is told that the name is taken, as that program does on other filesystems.

use std::fs;
use std::path::Path;

use crate::common::*;

/// Names and bodies of all messages.
fn all(q: &Path) -> Vec<(String, String)> {
    let peek = q.join(".mq/peek");
    listing(&peek).into_iter().map(|name| (name.clone(), fs::read_to_string(peek.join(&name)).unwrap())).collect()
}

/// Runs a script twice in sessions of its own, with the body `one` and `second` in `$T/x`. Both must succeed in silence and leave
/// the body in the message `x`, which nobody has claimed.
#[track_caller]
fn replaces(m: &Mount, config: &[&str], script: &str) {
    let q = m.queue_with("q", &[&["names=keep"], config].concat());
    for body in ["one", "second"] {
        fs::write(m.scratch().join("x"), body).unwrap();
        m.session(script).ok();
        assert_eq!(all(&q), [("x".to_owned(), body.to_owned())], "{script}");
        assert_eq!(listing(&q), ["x"], "{script}");
    }
    m.sh("echo all > q/.mq/purge; rmdir q").ok();
}

/// The same for a program that does not replace: the second time it fails, and the message stays as it was.
#[track_caller]
fn refuses(m: &Mount, script: &str, complaint: &str) {
    let q = m.queue_with("q", &["names=keep"]);
    fs::write(m.scratch().join("x"), "one").unwrap();
    m.session(script).ok();
    fs::write(m.scratch().join("x"), "second").unwrap();
    m.session(script).fails(complaint);
    assert_eq!(all(&q), [("x".to_owned(), "one".to_owned())], "{script}");
    assert_eq!(listing(&q), ["x"], "{script}");
    m.sh("rm q/x; rmdir q").ok();
}

/// Programs that remove the target first, or rename onto it.
#[test]
fn programs_that_replace() {
    let m = Mount::new();
    for script in [
        "cp -f $T/x q/x",
        "cp -af $T/x q/",
        "cp --remove-destination $T/x q/",
        "cp $T/x $T/y; mv $T/y q/x",
        "cp $T/x $T/y; mv -f $T/y q/x",
        "cp $T/x q/.x; mv q/.x q/x",
        "cp $T/x q/.x; ln -f q/.x q/x; rm q/.x",
        "install $T/x q/x",
        "install -m 640 -p $T/x q/",
        "tar -C $T -cf $T/tar x; tar -C q -xf $T/tar",
        "tar -C $T -cf $T/tar x; tar -C q -xpUf $T/tar",
        "tar -C $T -cf $T/tar x; busybox tar -C q -xf $T/tar",
        "python3 -c 'import os, shutil; shutil.copy(os.environ[\"T\"] + \"/x\", \"q/.x\"); os.replace(\"q/.x\", \"q/x\")'",
        "curl -sS -o q/.x file://$T/x; mv q/.x q/x",
    ] {
        replaces(&m, &[], script);
    }
}

/// Programs that open the target for writing.
#[test]
fn programs_that_do_not_replace() {
    let m = Mount::new();
    for script in [
        "cp $T/x q/x",
        "cp -a $T/x q/",
        "cat $T/x > q/x",
        "dd if=$T/x of=q/x status=none",
        "tee q/x < $T/x > /dev/null",
        "python3 -c 'import os, shutil; shutil.copy(os.environ[\"T\"] + \"/x\", \"q/x\")'",
    ] {
        refuses(&m, script, "File exists");
    }
    refuses(&m, "cp $T/x q/.x; ln q/.x q/x; rm q/.x || false; test $(cat q/.mq/peek/x) = $(cat $T/x)", "File exists");
}

/// rsync reads what it replaces, which claims it, for itself: so it may replace it all the same.
#[test]
fn rsync_replaces() {
    let m = Mount::new();
    for options in ["", "-W", "-I", "-a -I", "-t -I", "--fsync", "-aX -I", "--temp-dir=$T", "-c"] {
        replaces(&m, &[], &format!("rsync {options} $T/x q/"));
        replaces(&m, &["claim=rename"], &format!("rsync {options} $T/x q/"));
    }
}

/// In place it makes a message, and cannot change one.
#[test]
fn rsync_in_place_does_not_replace() {
    let m = Mount::new();
    let q = m.queue_with("q", &["names=keep", "claim=rename"]);
    for options in ["--inplace", "-a --inplace", "-t --inplace"] {
        m.session(&format!("echo one > $T/x; rsync {options} $T/x q/")).ok();
        m.session(&format!("echo second > $T/x; rsync {options} $T/x q/")).fails("Operation not permitted");
        assert_eq!(all(&q), [("x".to_owned(), "one\n".to_owned())], "{options}");
        m.sh("rm q/x").ok();
    }
}

/// rsync of a directory brings what is new and leaves what is there, and `--delete` removes the rest.
#[test]
fn rsync_of_a_directory() {
    let m = Mount::new();
    let q = m.queue_with("q", &["names=keep", "claim=rename"]);
    m.sh("mkdir $T/d; for i in 1 2 3; do echo $i > $T/d/f$i; done; rsync -a $T/d/ q/; rsync -a $T/d/ q/").ok();
    assert_eq!(m.stats("q")["enqueued_total"], 3, "the same times and sizes: nothing to do");
    m.sh("rm $T/d/f1; echo changed > $T/d/f2; echo 4 > $T/d/f4; rsync -a --delete $T/d/ q/").ok();
    let mut names = all(&q);
    names.sort();
    let expected = [("f2", "changed\n"), ("f3", "3\n"), ("f4", "4\n")];
    assert_eq!(names, expected.map(|(name, body)| (name.to_owned(), body.to_owned())));
}

/// sed -i and editors: a temporary file beside it, and a rename.
#[test]
fn edits_in_place() {
    let m = Mount::new();
    for claim in ["read", "rename"] {
        let q = m.queue_with("q", &["names=keep", &format!("claim={claim}")]);
        m.session("echo hello > q/x; chmod 640 q/x").ok();
        m.session("sed -i s/hello/goodbye/ q/x").ok();
        m.session("perl -i -pe s/goodbye/farewell/ q/x").ok();
        assert_eq!(all(&q), [("x".to_owned(), "farewell\n".to_owned())], "{claim}");
        m.session("sed -i.bak s/farewell/hello/ q/x").ok();
        let mut names = all(&q);
        names.sort();
        assert_eq!(
            names.iter().map(|(_, body)| body.as_str()).collect::<Vec<_>>(),
            ["hello\n", "farewell\n"],
            "{claim}"
        );
        m.sh("echo all > q/.mq/purge; rmdir q").ok();
    }
}

/// cp -r, tar and find walk over it as over any directory, and back.
#[test]
fn a_whole_directory_and_back() {
    let m = Mount::new();
    let script = "mkdir $T/d; for i in 1 2 3 4 5; do echo $i > $T/d/f$i; done
        mkdir q; printf 'names = keep\\nclaim = rename\\n' > q/.mq/config
        cp -a $T/d q/; cp -a q/d $T/back; diff -r $T/d $T/back
        tar -C q -cf - d | tar -C $T/back -xf -; diff -r $T/d $T/back/d
        find q/d -type f | sort | head -n 1; rm -r q/d; ls q";
    assert_eq!(m.sh(script).ok(), "q/d/f1\n");
}
