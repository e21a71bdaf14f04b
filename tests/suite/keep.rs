//! "`names = keep`: for programs that must find the name that another program wrote. The name is the message's identity."

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::common::*;
use crate::extra::*;

fn kept(m: &Mount, name: &str) -> PathBuf {
    m.queue_with(name, &["names=keep"])
}

/// A queue whose messages can be read without being claimed.
fn kept_and_read(m: &Mount, name: &str) -> PathBuf {
    m.queue_with(name, &["names=keep", "claim=rename"])
}

/// The name of each message and its body, in delivery order.
fn all(q: &Path) -> Vec<(String, String)> {
    let peek = control(q, "peek");
    let body = |name: String| (fs::read_to_string(peek.join(&name)).unwrap(), name);
    listing(&peek).into_iter().map(body).map(|(body, name)| (name, body)).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, body)| ((*name).to_owned(), (*body).to_owned())).collect()
}

/// "Listing [...] shows the producer's name", in delivery order and for everybody, in every state.
#[test]
fn names_are_listed_as_they_were_given_in_delivery_order() {
    let m = Mount::new();
    let q = kept(&m, "q");
    let long = "n".repeat(255);
    m.session(&format!("echo 1 > q/zebra; echo 2 > q/'a b'; echo 3 > q/0000000000000042-x; echo 4 > q/0000000000000007; echo 5 > q/{long}")).ok();
    let names = ["zebra", "a b", "0000000000000042-x", "0000000000000007", &long];
    assert_eq!(listing(&q), names);
    assert_eq!(all(&q).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names);
    assert_eq!(m.session("cat q/zebra q/'a b' q/0000000000000042-x").ok(), "1\n2\n3\n");
    assert_eq!(xattr(control(&q, "peek").join("zebra"), "user.mq.name").as_deref(), Some("zebra"));
    assert_eq!(xattr(control(&q, "peek").join("zebra"), "user.mq.seq").unwrap().len(), 16);
    let error = fs::write(q.join("n".repeat(256)), "x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
    assert_eq!(errno(fs::metadata(q.join("0000000000000001"))), libc::ENOENT, "digits are a name like any other");
}

/// "`names` can be changed only while the queue holds no message."
#[test]
fn a_queue_changes_its_names_only_while_it_is_empty() {
    let m = Mount::new();
    kept(&m, "q");
    m.sh("echo x > q/x; echo names=sequence > q/.mq/config").fails("Invalid argument");
    m.sh("rm q/x; echo names=sequence > q/.mq/config; echo y > q/y; ls q | grep -q '^0.*-y$'").ok();
    m.sh("echo names=keep > q/.mq/config").fails("Invalid argument");
}

/// The states of a message have its name, too, and the transitions are the same renames.
#[test]
fn transitions_keep_the_name() {
    let m = Mount::new();
    let q = kept(&m, "q");
    m.sh("echo a > q/a; echo b > q/b; mv q/a q/.mq/claimed/").ok();
    assert_eq!((listing(&q), listing(control(&q, "claimed"))), (vec!["b".to_owned()], vec!["a".to_owned()]));
    assert!(fs::metadata(q.join("a")).is_ok(), "a claimed message's name still finds it");
    m.sh("cat q/.mq/claimed/a; mv q/.mq/claimed/a q/").ok();
    assert_eq!(listing(&q), ["a", "b"], "at its old place");
    m.sh("mv q/a q/.mq/dead/; mv q/.mq/dead/a q/; mv q/b q/.mq/claimed/b; mv q/.mq/claimed/b q/.mq/delayed/").ok();
    assert_eq!((listing(&q), listing(control(&q, "delayed"))), (vec!["a".to_owned()], vec!["b".to_owned()]));
    m.sh("mv q/.mq/delayed/b q/; mv q/a q/.mq/dead/; rm q/.mq/dead/a q/b").ok();
    assert_eq!(listing(control(&q, "peek")), [""; 0]);
    m.sh("echo again > q/a").ok();
    assert_eq!(all(&q), pairs(&[("a", "again\n")]), "the name is free again");
}

/// "Creating a live name again fails with EEXIST", whatever the state of the message, and nothing happens to it.
#[test]
fn a_live_name_is_not_created_again() {
    let m = Mount::new();
    let q = kept(&m, "q");
    for state in ["", "claimed", "delayed", "dead"] {
        m.sh("echo one > q/x").ok();
        let dir = if state == "delayed" { "mv q/x q/.mq/claimed/; mv q/.mq/claimed/x" } else { "mv q/x" };
        if !state.is_empty() {
            m.sh(&format!("{dir} q/.mq/{state}/")).ok();
        }
        for shell in ["bash", "dash", "busybox sh"] {
            m.shell(shell, "echo two > q/x").fails("xists");
        }
        m.shell("bash", "set -C; echo two > q/x").fails("cannot overwrite existing file");
        m.sh("cp /etc/hostname q/x").fails("File exists");
        m.sh("mkdir q/x").fails("File exists");
        assert_eq!(errno(fs::File::create_new(q.join("x"))), libc::EEXIST, "{state}");
        assert_eq!(all(&q), pairs(&[("x", "one\n")]), "{state}");
        m.sh(&format!("rm q/{}/x", if state.is_empty() { "." } else { ".mq/" }.to_owned() + state)).ok();
    }
    // What there is, is not written to.
    m.sh("echo one > q/x; echo two >> q/x").fails("Operation not permitted");
    m.sh("echo two 1<> q/x").fails("Operation not permitted");
    assert_eq!(m.sh("cat q/x").ok(), "one\n");
}

/// A queue and a message do not share a name.
#[test]
fn the_name_of_a_queue_is_taken() {
    let m = Mount::new();
    let q = kept(&m, "q");
    m.sh("mkdir q/x; echo d > q/.d").ok();
    m.sh("echo x > q/x").fails("Is a directory");
    m.sh("mv -T q/.d q/x").fails("directory");
    assert_eq!(errno(fs::File::create_new(q.join("x"))), libc::EEXIST);
    m.sh("echo x > q/y; mv -T q/x q/y").fails("non-directory");
    assert_eq!(all(&q), pairs(&[("y", "x\n")]));
}

/// "Programs that stat, chmod, touch, or open O_RDONLY the name they just wrote work."
#[test]
fn programs_that_come_back_to_what_they_wrote() {
    let m = Mount::new();
    let q = kept(&m, "q");
    m.sh("echo hi > q/a; stat -c %s q/a; chmod 600 q/a; chown 12:34 q/a; touch -d '2001-02-03 04:05:06 UTC' q/a; touch q/a").ok();
    let meta = fs::metadata(q.join("a")).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o777, meta.uid(), meta.gid()), (3, 0o600, 12, 34));
    assert!(meta.mtime() > 981_173_106);
    assert_eq!(all(&q), pairs(&[("a", "hi\n")]));
    assert_eq!(listing(&q), ["a"], "nobody has claimed it");
    m.sh("touch q/empty && : > q/.d && mv q/.d q/empty2 && touch -c q/nothing").ok();
    assert_eq!(listing(&q), ["a", "empty", "empty2"]);
    let program = "
import os
with open('q/p', 'w') as f: f.write('p')
fd = os.open('q/p', os.O_RDONLY); os.fchmod(fd, 0o640); os.close(fd)
assert os.stat('q/p').st_mode & 0o777 == 0o640
";
    m.python(program).ok();
    assert_eq!(listing(&q), ["a", "empty", "empty2", "p"], "opening what one wrote is no claim");
    assert_eq!(m.session("cat q/p").ok(), "p");
    assert_eq!(listing(control(&q, "claimed")), ["p"]);
}

/// "`rename` onto a live name replaces that message atomically when nobody has claimed it [...], EBUSY otherwise."
#[test]
fn a_rename_onto_a_live_name_replaces_the_message() {
    let m = Mount::new();
    let q = kept(&m, "q");
    m.sh("echo one > q/x; echo other > q/y; echo two > q/.x; mv q/.x q/x").ok();
    assert_eq!(all(&q), pairs(&[("y", "other\n"), ("x", "two\n")]), "it comes last now");
    assert_eq!(m.stats("q")["dropped_total"], 1);
    // Dead and delayed ones as well.
    m.sh("mv q/x q/.mq/dead/; echo three > q/.x; mv q/.x q/x").ok();
    assert_eq!(all(&q), pairs(&[("y", "other\n"), ("x", "three\n")]));
    // What is claimed by another worker is not replaced, and the draft stays.
    let holder = m.holder(&q.join("x"));
    m.sh("echo four > q/.x; mv q/.x q/x").fails("busy");
    assert_eq!(fs::read_to_string(q.join(".x")).unwrap(), "four\n");
    assert_eq!(all(&q), pairs(&[("y", "other\n"), ("x", "three\n")]));
    drop(holder);
    m.sh("mv q/.mq/claimed/x q/; mv q/.x q/x").ok();
    assert_eq!(all(&q), pairs(&[("y", "other\n"), ("x", "four\n")]));
    // A worker may replace what it has claimed itself, as editors do.
    m.sh("cat q/x > q/.x; echo five >> q/.x; mv q/.x q/x").ok();
    assert_eq!(all(&q), pairs(&[("y", "other\n"), ("x", "four\nfive\n")]));
    assert_eq!(m.stats("q")["claimed"], 0);
}

/// "With RENAME_NOREPLACE EEXIST": `mv -n`, `ln`, and every other rename that does not want to replace.
#[test]
fn what_does_not_want_to_replace_is_told_that_the_name_is_taken() {
    let m = Mount::new();
    let q = kept(&m, "q");
    m.sh("echo one > q/x; echo two > q/.d; mv -n q/.d q/x; ls -A q").ok();
    assert_eq!(errno(rename_noreplace(&q.join(".d"), &q.join("x"))), libc::EEXIST);
    m.sh("ln q/.d q/x").fails("File exists");
    m.sh("mv q/x q/.mq/dead/").ok();
    assert_eq!(errno(rename_noreplace(&q.join(".d"), &q.join("x"))), libc::EEXIST, "dead");
    assert_eq!(errno(fs::hard_link(q.join(".d"), q.join("x"))), libc::EEXIST);
    assert_eq!(all(&q), pairs(&[("x", "one\n")]));
    m.sh("ln q/.d q/y; rm q/.d").ok();
    assert_eq!(all(&q), pairs(&[("x", "one\n"), ("y", "two\n")]));
}

/// "rename of a message within the queue gives it the new name", at its place.
#[test]
fn a_message_can_be_renamed_in_its_queue() {
    let m = Mount::new();
    let q = kept(&m, "q");
    m.sh("echo a > q/a; echo b > q/b; mv q/a q/a:2,S").ok();
    assert_eq!(listing(&q), ["a:2,S", "b"]);
    assert_eq!(errno(fs::metadata(q.join("a"))), libc::ENOENT);
    m.sh("mv q/b q/a:2,S").ok();
    assert_eq!(all(&q), pairs(&[("a:2,S", "b\n")]));
    m.sh("mv q/a:2,S q/.hidden").fails("Operation not permitted");
    // A claimed one by its worker, and nobody else.
    let holder = m.holder(&q.join("a:2,S"));
    m.sh("mv q/a:2,S q/mine").fails("busy");
    m.sh("echo c > q/c; mv q/c q/a:2,S").fails("busy");
    drop(holder);
    m.sh("mv q/.mq/claimed/a:2,S q/; cat q/a:2,S; mv q/a:2,S q/mine").ok();
    assert_eq!((listing(control(&q, "claimed")), listing(&q)), (vec!["mine".to_owned()], vec!["c".to_owned()]));
    m.sh("rm q/mine; echo free > q/a; mv q/a q/b").ok();
    assert_eq!(all(&q), pairs(&[("c", "c\n"), ("b", "free\n")]));
}

/// "`rename` between queues keeps the name", with the same rule for a name that is taken.
#[test]
fn a_message_moves_between_queues_under_its_name() {
    let m = Mount::new();
    let (q, r, s) = (kept(&m, "q"), kept(&m, "r"), m.queue("s"));
    m.sh("echo a > q/a; mv q/a r/; echo b > q/b; mv q/b r/c").ok();
    assert_eq!(all(&r), pairs(&[("a", "a\n"), ("c", "b\n")]));
    m.sh("echo new > q/a; mv -n q/a r/; test -e q/a; mv q/a r/").ok();
    assert_eq!(all(&r), pairs(&[("c", "b\n"), ("a", "new\n")]));
    let holder = m.holder(&r.join("a"));
    m.sh("echo newer > q/a; mv q/a r/").fails("busy");
    drop(holder);
    m.sh("rm r/a; mv q/a r/").ok();
    assert_eq!((all(&q), all(&r)), (vec![], pairs(&[("c", "b\n"), ("a", "newer\n")])));
    // A worker moves on what it has claimed.
    m.sh("cat r/c > /dev/null; mv r/c q/done").ok();
    assert_eq!(all(&q), pairs(&[("done", "b\n")]));
    assert_eq!(listing(&q), ["done"]);
    // Into a queue that does not keep names, and back under the name that is given.
    m.sh("mv r/a s/").ok();
    assert_eq!(producers(&s), ["a"]);
    m.sh("mv s/*-a r/a; echo n > s/n; mv s/*-n r/").ok();
    let names = listing(&r);
    assert_eq!(names[0], "a");
    assert!(names[1].ends_with("-n"), "{names:?}");
    assert_eq!(producers(&s), [""; 0]);
}

/// "`link` into another queue makes a copy there under that name", which claims nothing and leaves the original.
#[test]
fn linking_a_message_makes_a_copy() {
    let m = Mount::new();
    let (q, r, s) = (kept(&m, "q"), kept(&m, "r"), m.queue("s"));
    let script = "head -c 300000 /dev/urandom > $T/large; cp $T/large q/large; echo small > q/.s
        setfattr -n user.colour -v red q/.s; mv q/.s q/small; chmod 640 q/small; : > q/empty
        for f in large small empty; do ln q/$f r/$f; ln q/$f q/$f.too; done
        cmp $T/large r/.mq/peek/large; cmp $T/large q/.mq/peek/large.too";
    m.sh(script).ok();
    assert_eq!(listing(&r), ["large", "small", "empty"]);
    assert_eq!(listing(&q), ["large", "small", "empty", "large.too", "small.too", "empty.too"]);
    let (original, copy) = (fs::metadata(q.join("small")).unwrap(), fs::metadata(r.join("small")).unwrap());
    assert_eq!((copy.mode(), copy.uid(), copy.mtime_nsec()), (original.mode(), original.uid(), original.mtime_nsec()));
    assert_eq!(xattr(r.join("small"), "user.colour").as_deref(), Some("red"));
    assert_ne!(xattr(r.join("small"), "user.mq.id"), xattr(q.join("small"), "user.mq.id"));
    m.sh("ln q/large r/small").fails("File exists");
    m.sh("ln q/large r/.dot").fails("Operation not permitted");
    m.sh("ln q/large s/large").fails("Operation not permitted");
    m.sh("rm q/*; cmp $T/large r/.mq/peek/large; cat r/.mq/peek/small").ok();
    assert_eq!(listing(&s), [""; 0]);
    m.sh("rm r/*").ok();
    wait_until(|| m.body_files().is_empty());
}

/// Whoever may not read a message cannot link it, and who is not to know of a message does not replace it.
#[test]
fn links_and_replacements_respect_permissions() {
    let m = Mount::with(&["-o", "allow_other"]);
    let (q, drop) = (kept(&m, "q"), kept(&m, "drop"));
    m.sh("chmod 777 q; chmod 1733 drop; umask 077; echo secret > q/secret; echo mine > drop/x; chmod 755 q").ok();
    let open = kept(&m, "open");
    m.sh("chmod 777 open").ok();
    m.run_as(1000, 1000, "ln q/secret open/").fails("Operation not permitted");
    m.run_as(1000, 1000, "echo theirs > drop/x").fails("File exists");
    m.run_as(1000, 1000, "echo theirs > drop/.x; mv drop/.x drop/x").fails("Permission denied");
    m.run_as(1000, 1000, "echo theirs > drop/y; echo again > drop/.y; mv drop/.y drop/y").ok();
    m.run_as(2000, 2000, "echo theirs > drop/.z; mv -f drop/.z drop/y").fails("Permission denied");
    assert_eq!(all(&drop), pairs(&[("x", "mine\n"), ("y", "again\n")]));
    assert_eq!((all(&q), all(&open)), (pairs(&[("secret", "secret\n")]), vec![]));
}

/// "Two writers that create one name at the same time: the second gets EEXIST at create"; when the first gives up, the
/// name is free.
#[test]
fn of_two_writers_of_one_name_the_second_is_refused() {
    let m = Mount::new();
    let q = kept(&m, "q");
    m.sh("exec 3> q/x; echo first >&3; bash -c 'echo second > q/x'; echo third > q/.x; mv q/.x q/x; mkdir q/x")
        .fails("exists");
    assert_eq!(all(&q), pairs(&[("x", "first\n")]));
    m.sh("rm q/x; mv q/.x q/x; rm q/x").ok();
    let writer = m.spawn("exec 3> q/x; echo half >&3; echo open; exec sleep 1000");
    wait_until(|| writer.output() == "open\n");
    m.sh("echo d > q/.x; mv q/.x q/x").fails("busy");
    assert_eq!(errno(rename_noreplace(&q.join(".x"), &q.join("x"))), libc::EEXIST, "its session sees it");
    m.session("mv q/.x q/x").fails("busy");
    m.sh("echo other > q/y; mv q/y q/x").fails("busy");
    drop(writer); // killed
    wait_until(|| m.stats("q")["aborted_total"] == 1);
    m.sh("mv q/.x q/x").ok();
    assert_eq!(all(&q), pairs(&[("y", "other\n"), ("x", "d\n")]));
}

/// A process finds what it is writing by its name, as on other filesystems; no other session does.
#[test]
fn a_process_opens_again_what_it_is_writing() {
    let m = Mount::new();
    let q = kept(&m, "q");
    let program = "
import os, subprocess
fd = os.open('q/x', os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
with open('q/x', 'rb+') as f:
    os.close(fd)
    f.write(b'body')
    f.flush()
    assert os.stat('q/x').st_size == 4 and open('q/x', 'rb').read() == b'body'
    os.chmod('q/x', 0o640)
    assert subprocess.run(['cat', 'q/x'], capture_output=True, start_new_session=True).returncode == 1
    assert os.listdir('q') == []
assert os.listdir('q') == ['x'] and os.stat('q/x').st_mode & 0o777 == 0o640
";
    m.python(program).ok();
    assert_eq!(all(&q), pairs(&[("x", "body")]));
}

/// A draft that is still written to when it is renamed takes its place at its last close, and the name meanwhile.
#[test]
fn a_draft_renamed_while_open_has_the_name_at_once_and_the_message_later() {
    let m = Mount::new();
    let q = kept_and_read(&m, "q");
    let script = "echo old > q/x; exec 3> q/.x; echo new >&3; mv q/.x q/x
        cat q/x; echo third > q/.y; mv q/.y q/x 2> /dev/null || echo refused
        echo end >&3; exec 3>&-; cat q/x";
    assert_eq!(m.sh(script).ok(), "old\nrefused\nnew\nend\n");
    assert_eq!(all(&q), pairs(&[("x", "new\nend\n")]));
    assert_eq!(listing(&q), ["x", ".y"]);
}

/// "A dead letter whose name is taken must never be lost": it stays where it is.
#[test]
fn dead_letters_find_their_names() {
    let m = Mount::new();
    let q = kept(&m, "q");
    m.queue("s");
    let dead = kept(&m, "dead");
    m.set("q", "max_deliveries=1\ndead_letter=dead");
    m.set("s", "max_deliveries=1\ndead_letter=dead");
    m.sh("echo 1 > q/x; mv q/x q/.mq/claimed/; mv q/.mq/claimed/x q/").ok();
    assert_eq!(all(&dead), pairs(&[("x", "1\n")]));
    m.sh("echo 2 > q/x; mv q/x q/.mq/claimed/; mv q/.mq/claimed/x q/").ok();
    assert_eq!(all(&dead), pairs(&[("x", "1\n")]));
    assert_eq!(listing(control(&q, "dead")), ["x"]);
    assert!(m.log().contains("a dead letter stays in .mq/dead"), "{}", m.log());
    // One without a name has its number.
    m.sh("echo 3 > s/0000000000000001; mv s/0* s/.mq/claimed/; mv s/.mq/claimed/* s/").ok();
    let names = listing(&dead);
    assert_eq!((names.len(), names[1].len()), (2, 16), "{names:?}");
    // One whose name is too long for the other queue loses its end.
    m.set("q", "dead_letter=s");
    let long = "n".repeat(250);
    m.sh(&format!("echo 4 > q/{long}; mv q/{long} q/.mq/claimed/; mv q/.mq/claimed/{long} q/")).ok();
    assert_eq!(listing(control(&q, "dead")), ["x"]);
    assert_eq!(producers(m.path().join("s")), [&long[..238]]);
}

/// "mtime of a message whose producer did not set one must strictly grow in the order of enqueue."
#[test]
fn the_times_of_modification_are_in_delivery_order() {
    let mut m = Mount::new();
    let q = kept(&m, "q");
    let write = "for i in $(seq 1 100); do echo $i > q/$RANDOM$i; done; for i in $(seq 1 20); do echo $i > q/.d$i; done
        for i in $(seq 20 -1 1); do mv q/.d$i q/d$RANDOM.$i; done";
    m.sh(write).ok();
    m.remount();
    m.sh("for i in $(seq 1 50); do echo $i > q/later$i; done").ok();
    let time = |name: &String| {
        let meta = fs::metadata(q.join(name)).unwrap();
        (meta.mtime(), meta.mtime_nsec())
    };
    let names = listing(&q);
    let times: Vec<_> = names.iter().map(time).collect();
    assert_eq!(times.len(), 170);
    for (at, pair) in times.windows(2).enumerate() {
        assert!(pair[0] < pair[1], "{at} {}: {pair:?}", names[at]);
    }
    assert_eq!(m.sh("cd q; ls -tr").ok(), m.sh("cd q; ls -U").ok(), "readdir and mtime agree");
}

/// A name that is taken can be seen, but only what is ready or claimed can be read, moved or renamed there.
#[test]
fn a_name_tells_the_state_of_its_message() {
    let m = Mount::new();
    let q = kept(&m, "q");
    kept(&m, "r");
    m.sh("echo x > q/x").ok();
    for (transition, state) in [
        ("true", "ready"),
        ("mv q/x q/.mq/claimed/", "claimed"),
        ("mv q/.mq/claimed/x q/.mq/delayed/", "delayed"),
        ("mv q/.mq/delayed/x q/.mq/dead/", "dead"),
    ] {
        m.sh(transition).ok();
        assert_eq!(xattr(q.join("x"), "user.mq.state").as_deref(), Some(state));
        if matches!(state, "delayed" | "dead") {
            m.sh("cat q/x").fails("No such file");
            m.sh("mv q/x q/y").fails("No such file");
            m.sh("mv q/x r/").fails("No such file");
            m.sh("ln q/x r/x").fails("No such file");
        }
    }
    m.sh("rm q/x").ok();
    assert_eq!(all(&q), vec![]);
}

/// "unlink acks as ever": whoever does it, and whether it is claimed or not.
#[test]
fn removing_a_name_acknowledges() {
    let m = Mount::new();
    let q = kept(&m, "q");
    m.sh("echo a > q/a; echo b > q/b; cat q/b > /dev/null; rm q/a q/b").ok();
    assert_eq!(all(&q), vec![]);
    assert_eq!(m.stats("q")["acked_total"], 2);
    // Programs that replace by removing first replace.
    m.sh("echo one > q/x; cp /etc/hostname $T/h; cp --remove-destination $T/h q/x; install $T/h q/x; mv $T/h q/x").ok();
    assert_eq!(listing(&q), ["x"]);
}

/// Names and messages are in step after a clean restart, and after a crash in the middle of everything.
#[test]
fn names_survive_restarts_and_crashes() {
    let mut m = Mount::new();
    let q = kept(&m, "q");
    let r = kept(&m, "r");
    m.sh("for i in 1 2 3 4 5; do echo $i > q/m$i; done; mv q/m2 q/n2; mv q/m3 r/; mv q/m4 q/.mq/dead/; rm q/m5").ok();
    let (in_q, in_r) = (all(&q), all(&r));
    m.remount();
    assert_eq!((all(&q), all(&r)), (in_q.clone(), in_r.clone()));
    m.kill9_and_remount();
    assert_eq!((all(&q), all(&r)), (in_q, in_r));
    m.sh("echo x > q/m4").fails("File exists");
    m.sh("echo x > q/m5; echo x > q/m2; cat q/n2").ok();
    // Killed at any moment: whatever is listed is found under its name, and every other name is free.
    for round in 0..3 {
        let script = "i=0; while :; do i=$((i+1)); f=q/$((i % 7)); echo $i > $f; echo $i > q/.d; mv q/.d $f; mv $f $f.x; mv $f.x r/; done";
        let busy = m.spawn(&format!("{{ {script}; }} 2> /dev/null"));
        let enough = m.stats("r")["enqueued_total"].as_u64().unwrap() + 20 + round * 7;
        wait_until(|| m.stats("r")["enqueued_total"].as_u64().unwrap() >= enough);
        m.kill9();
        drop(busy);
        m.start();
        for queue in [&q, &r] {
            for (name, body) in all(queue) {
                assert_eq!(fs::read_to_string(control(queue, "peek").join(&name)).unwrap(), body);
                assert_eq!(errno(fs::File::create_new(queue.join(&name))), libc::EEXIST);
            }
        }
        m.sh("for i in 0 1 2 3 4 5 6; do rm -f q/$i q/$i.x q/.d; echo $i > q/$i; rm q/$i; done").ok();
    }
}

/// Many processes that create, replace, rename and take the same names: each success is one message, and nothing is left
/// over or lost.
#[test]
fn racing_producers_and_workers() {
    let m = Mount::new();
    let q = kept(&m, "q");
    let creator = "for i in $(seq 1 60); do { echo $$ > q/job$i; } 2> /dev/null && echo won; done";
    let creators: Vec<_> = (0..4).map(|_| m.spawn(creator)).collect();
    let won: usize = creators.into_iter().map(|creator| creator.finish().stdout.lines().count()).sum();
    assert_eq!(won, 60, "each name was created once");
    assert_eq!(m.stats("q")["ready"], 60);
    let worker = "for i in $(seq 1 60); do mv q/job$i q/.mq/claimed/ 2> /dev/null && rm q/.mq/claimed/job$i && echo took; done; true";
    let workers: Vec<_> = (0..3).map(|_| m.spawn(worker)).collect();
    let took: usize = workers.into_iter().map(|worker| worker.finish().ok().lines().count()).sum();
    assert_eq!(took, 60, "each message was taken once");
    assert_eq!(all(&q), vec![]);
    // A reader of a name that is replaced again and again always finds it.
    let r = kept_and_read(&m, "r");
    m.set("r", "durability=async");
    m.sh("echo 0 > r/x").ok();
    let replace = "import os\nfor i in range(1, 301):\n  with open('r/.x', 'w') as f: f.write(f'{i}\\n')\n  os.rename('r/.x', 'r/x')";
    let replacer = m.spawn_python(replace);
    m.python("for i in range(600):\n  with open('r/x') as f: assert f.read().strip().isdigit()").ok();
    replacer.finish().ok();
    assert_eq!(all(&r), pairs(&[("x", "300\n")]));
}

/// A read-only mount shows names and changes nothing.
#[test]
fn a_read_only_mount_finds_names() {
    let mut m = Mount::new();
    let q = kept(&m, "q");
    m.sh("echo x > q/x").ok();
    m.set_args(&["-o", "ro"]);
    m.remount();
    assert_eq!(m.sh("cat q/x; cat q/x").ok(), "x\nx\n");
    m.sh("mv q/x q/y").fails("Read-only");
    assert_eq!(listing(&q), ["x"]);
}

/// The names of purged messages are free at once, and nothing of the old message comes back when its remains are cleared away.
#[test]
fn a_purge_frees_the_names() {
    let mut m = Mount::new();
    let q = kept(&m, "q");
    m.sh("for i in $(seq 1 300); do : > q/x$i; done; mv q/x1 q/.mq/dead/; echo all > q/.mq/purge; echo new > q/x1; echo new > q/x2").ok();
    assert_eq!(all(&q), pairs(&[("x1", "new\n"), ("x2", "new\n")]));
    m.sh("for i in $(seq 3 300); do echo again > q/x$i; done").ok();
    m.remount();
    assert_eq!(all(&q).len(), 300);
    m.sh("for i in $(seq 1 300); do rm q/x$i; done; rmdir q").ok();
}

/// `.mq/claim` answers a path of the message, and `.mq/pop` takes in delivery order.
#[test]
fn claim_and_pop_take_by_name_in_order() {
    let m = Mount::new();
    let q = kept(&m, "q");
    m.sh("echo 1 > q/z; echo 2 > q/a; echo 3 > q/$'new\\nline'").ok();
    assert_eq!(
        m.sh("f=$(cat q/.mq/claim); getfattr --only-values -n user.mq.name q/$f; cat q/$f; rm q/$f").ok(),
        "z1\n"
    );
    assert_eq!(m.sh("cat q/.mq/pop").ok(), "2\n");
    assert_eq!(m.sh("f=$(cat q/.mq/claim); cat q/$f; rm q/$f").ok(), "3\n");
    assert_eq!(all(&q), vec![]);
}

/// Whatever has no name of its own gets its number for one; what has, keeps it.
#[test]
fn lines_batches_and_properties_go_into_a_queue_that_keeps_names() {
    let m = Mount::new();
    let q = kept(&m, "q");
    m.sh("printf 'a\\nb\\n' > q/.mq/lines; echo p > q/.mq/with/ttl=1h/p; mkdir q/.mq/batch/b; echo 1 > q/.mq/batch/b/x; echo 2 > q/.mq/batch/b/p").ok();
    assert_eq!(errno(fs::rename(q.join(".mq/batch/b"), q.join("b"))), libc::EEXIST);
    m.sh("rm q/.mq/batch/b/p; mv q/.mq/batch/b q/").ok();
    let found = all(&q);
    assert_eq!(found.iter().map(|(_, body)| body.as_str()).collect::<Vec<_>>(), ["a\n", "b\n", "p\n", "1\n"]);
    assert_eq!((found[0].0.len(), found[2].0.as_str(), found[3].0.as_str()), (16, "p", "x"));
    m.sh("echo again > q/.mq/with/priority=1/p").fails("File exists");
}
