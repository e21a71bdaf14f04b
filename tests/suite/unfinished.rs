//! "**An unfinished message** resolves by the name that was given to it, in every kind of names, for processes of the same user and
//! session; a process's own comes first, then the newest."

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::common::*;
use crate::users::ann;

/// A queue of each kind of names.
fn kinds(m: &Mount) -> [(&'static str, PathBuf); 2] {
    [("q", m.queue("q")), ("k", m.queue_with("k", &["names=keep"]))]
}

/// Nothing but what was dropped happened in a queue.
#[track_caller]
fn assert_dropped(m: &Mount, q: &str, times: u64) {
    assert_eq!(m.bodies(q), [""; 0], "{q}");
    assert_eq!(m.stats(q)["aborted_total"], times, "{q}");
    assert_eq!((&m.stats(q)["enqueued_total"], &m.stats(q)["acked_total"]), (&0.into(), &0.into()), "{q}");
}

/// "Stat, truncate, chmod, chown, utimes, xattrs [...] and reading (which claims nothing) work."
#[test]
fn its_session_finds_it_and_changes_it_by_its_name() {
    let m = Mount::new();
    for (q, path) in kinds(&m) {
        let program = format!(
            r#"
import os, subprocess
f = open("{q}/x", "w")
assert os.stat("{q}/x").st_size == 0
assert os.stat("{q}/x").st_ino == os.fstat(f.fileno()).st_ino
f.write("0123456789"); f.flush()
assert os.stat("{q}/x").st_size == 10
assert subprocess.check_output(["cat", "{q}/x"]) == b"0123456789"
os.truncate("{q}/x", 4)
os.chmod("{q}/x", 0o640)
os.chown("{q}/x", 12, 34)
os.utime("{q}/x", (981173106, 981173106))
os.setxattr("{q}/x", "user.color", b"blue")
assert os.getxattr("{q}/x", "user.color") == b"blue" and os.listxattr("{q}/x") == ["user.color"]
os.setxattr("{q}/x", "user.size", b"x"); os.removexattr("{q}/x", "user.size")
assert os.access("{q}/x", os.R_OK)
seen = os.stat("{q}/x")
assert (seen.st_mode & 0o777, seen.st_uid, seen.st_gid, seen.st_mtime) == (0o640, 12, 34, 981173106), seen
reader = open("{q}/x")
assert reader.read() == "0123"
f.close()
assert os.fstat(reader.fileno()).st_size == 4, "it was open before"
reader.seek(0)
assert reader.read() == "0123"
"#
        );
        m.python(&program).ok();
        assert_eq!(m.bodies(q), ["0123"]);
        let message = only(path.join(".mq/peek"));
        assert_eq!(xattr(&message, "user.color").as_deref(), Some("blue"));
        assert_eq!(xattr(&message, "user.size"), None);
        let seen = std::fs::metadata(&message).unwrap();
        assert_eq!((seen.mode() & 0o777, seen.uid(), seen.gid(), seen.mtime()), (0o640, 12, 34, 981_173_106));
        assert_eq!(m.stats(q)["claims_total"], 0);
    }
}

/// "for processes of the same user and session": to everybody else it is not there.
#[test]
fn nobody_else_finds_it() {
    let m = Mount::with(&["-o", "allow_other"]);
    for (q, path) in kinds(&m) {
        crate::users::chmod(&path, 0o777);
        let script = format!(
            "exec 3> {q}/x; echo half >&3
             setsid -w cat {q}/x 2>&1 | sed 's/.*: //'
             setpriv --reuid=12345 --clear-groups stat {q}/x 2>&1 | sed 's/.*: //'
             cat {q}/x; ls -A {q} {q}/.mq/peek; exec 3>&-"
        );
        let expected = format!("No such file or directory\nNo such file or directory\nhalf\n{q}:\n\n{q}/.mq/peek:\n");
        assert_eq!(m.sh(&script).ok(), expected);
        assert_eq!(m.bodies(q), ["half\n"]);
    }
    ann(&m, "exec 3> q/y; echo half >&3; cat q/y; rm q/y").ok();
    assert_eq!(m.bodies("q"), ["half\n"], "the user's own");
}

/// "Opening by that name with O_CREAT makes another message (two writers never meet)."
#[test]
fn whoever_opens_the_name_to_write_makes_another_message() {
    let m = Mount::new();
    let script = r#"
        exec 3> q/x; echo one >&3
        for how in ">" ">>" "1<>"; do bash -c "echo two $how q/x"; done
        dash -c 'echo two > q/x'
        printf two | dd of=q/x conv=notrunc status=none
        python3 -c 'open("q/x", "w").write("two"); open("q/x", "a+").write("two")'
        cat q/x; echo; echo one >&3; exec 3>&-
    "#;
    m.queue("q");
    assert_eq!(m.sh(script).ok(), "two\n");
    let bodies: Vec<String> = m.bodies("q").iter().map(|body| body.trim_end().to_owned()).collect();
    assert_eq!(bodies, ["two", "two", "two", "two", "two", "two", "two", "one\none"]);
    // Without O_CREAT there is nothing to open, and what else the program looks up it finds.
    let program = r#"
import os
f = open("q/y", "w")
try:
    os.open("q/y", os.O_WRONLY)
except FileNotFoundError:
    pass
os.stat(".")
os.stat("q/.mq/stats")
open("/proc/self/fd/%d" % f.fileno(), "w").write("again")
"#;
    m.python(program).ok();
    assert_eq!(m.bodies("q").last().unwrap(), "again");
}

/// Where names are kept there can be no other message of the name.
#[test]
fn a_kept_name_that_is_being_written_is_taken() {
    let m = Mount::new();
    let q = m.queue_with("q", &["names=keep"]);
    m.sh("exec 3> q/x; echo one >&3; bash -c 'echo two > q/x'; exit $?").fails("File exists");
    m.sh("rm q/x; exec 3> q/x; echo one >&3; bash -c 'echo two >> q/x'; exit $?").fails("Operation not permitted");
    // The process itself writes on.
    m.sh("rm q/x; exec 3> q/x; echo one >&3; echo two >> q/x; exec 3>&-").ok();
    assert_eq!((listing(&q), m.bodies(&q)), (vec!["x".to_owned()], vec!["one\ntwo\n".to_owned()]));
}

/// "a process's own comes first, then the newest."
#[test]
fn a_process_finds_its_own_first() {
    let m = Mount::new();
    m.queue("q");
    let program = r#"
import os, subprocess
def cat():
    return subprocess.check_output(["cat", "q/x"])
first = open("q/x", "w"); first.write("first"); first.flush()
other = subprocess.Popen(["bash", "-c", "exec 3> q/x; printf second >&3; echo; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
other.stdout.readline()
assert open("q/x").read() == "first"
assert cat() == b"second"
first.close()
os.chmod("q/x", 0o600)
assert open("q/x").read() == "first"
other.communicate(b"\n")
"#;
    m.python(program).ok();
    let program =
        "import glob, os\nprint([oct(os.stat(f).st_mode & 0o777) for f in sorted(glob.glob('q/.mq/peek/*'))])";
    assert_eq!(m.python(program).ok(), "['0o600', '0o644']\n");
}

/// "Unlinking drops the message (aborted, counted) only when a process that has it open asks, and its descriptor goes on as that of
/// an unlinked file."
#[test]
fn unlinking_it_drops_it_and_the_descriptor_goes_on() {
    let m = Mount::new();
    for (q, _) in kinds(&m) {
        for (times, length) in (1..).zip([5, 500_000]) {
            let program = format!(
                r#"
import os
f = open("{q}/x", "w+b")
f.write(b"a" * {length}); f.flush()
os.close(os.dup(f.fileno()))
os.unlink("{q}/x")
assert not os.path.exists("{q}/x")
f.write(b"b" * {length}); f.flush(); os.fsync(f.fileno())
f.seek(0)
assert f.read() == b"a" * {length} + b"b" * {length}
f.truncate(3); f.seek(0)
assert f.read() == b"aaa"
os.fchmod(f.fileno(), 0o600)
seen = os.fstat(f.fileno())
assert (seen.st_size, seen.st_mode & 0o777, seen.st_nlink) == (3, 0o600, 0), seen
with open("/proc/self/fd/%d" % f.fileno(), "rb") as again:
    assert again.read() == b"aaa"
f.close()
"#
            );
            m.python(&program).ok();
            assert_dropped(&m, q, times);
        }
        wait_until(|| m.body_files().is_empty());
        m.sh(&format!("echo x > {q}/x")).ok();
        assert_eq!(m.bodies(q), ["x\n"], "the name is free");
    }
}

/// Temporary files without a name: `tempfile.TemporaryFile`, and those of a shell.
#[test]
fn temporary_files_work_and_leave_nothing() {
    let m = Mount::new();
    for (q, path) in kinds(&m) {
        let program = format!(
            r#"
import os, tempfile
with tempfile.TemporaryFile(dir="{q}") as f:
    f.write(b"x"); f.seek(0)
    assert f.read() == b"x"
"#
        );
        m.python(&program).ok();
        m.sh(&format!("exec 3<> {q}/t; rm {q}/t; echo hi >&3; cat < /dev/fd/3; exec 3>&-")).ok();
        assert_dropped(&m, q, 2);
        assert_eq!(listing(&path), [""; 0]);
    }
}

/// `tempfile.NamedTemporaryFile` closes before it unlinks: what it has closed is a message by then, and stays. With a draft's name
/// nothing is left.
#[test]
fn temporary_files_that_are_closed_before_they_are_unlinked_are_drafts_or_messages() {
    let m = Mount::new();
    for (q, _) in kinds(&m) {
        let program = format!(
            r#"
import tempfile
for prefix in [".", "tmp"]:
    try:
        with tempfile.NamedTemporaryFile(dir="{q}", prefix=prefix) as f:
            f.write(prefix.encode())
    except FileNotFoundError:
        pass
"#
        );
        m.python(&program).ok();
        // Where names are kept the name means the message, and removing it is what it is in any directory.
        let left = if q == "k" { vec![] } else { vec!["tmp"] };
        assert_eq!(
            (m.bodies(q), m.stats(q)["drafts"].as_u64()),
            (left.into_iter().map(String::from).collect(), Some(0)),
            "{q}"
        );
    }
}

/// What is unlinked counts no more for its queue.
#[test]
fn what_is_unlinked_leaves_its_room_to_others() {
    let m = Mount::new();
    m.queue_with("q", &["max_messages=1", "max_bytes=10"]);
    m.sh("exec 3> q/x; echo 12345 >&3; rm q/x; echo 123456789 >&3; echo 12345 > q/y; exec 3>&-").ok();
    assert_eq!(m.bodies("q"), ["12345\n"]);
    m.sh("exec 3> q/z").fails("quota");
}

/// A killed process that unlinked its message before is no second abort, and what it unlinked stays unlinked across a crash.
#[test]
fn what_is_unlinked_is_so_for_good() {
    let mut m = Mount::new();
    m.queue("q");
    let script =
        "exec 3> q/x; head -c 100000 /dev/zero >&3; exec 4>&3 4>&-; rm q/x; echo more >&3; echo ready; exec sleep 1000";
    let writer = m.spawn(script);
    wait_until(|| writer.output() == "ready\n");
    writer.signal(libc::SIGKILL);
    writer.finish();
    assert_dropped(&m, "q", 1);
    let writer = m.spawn(script);
    wait_until(|| writer.output() == "ready\n");
    m.kill9_and_remount();
    assert_dropped(&m, "q", 2);
    wait_until(|| m.body_files().is_empty());
}

/// "for others the name is forgotten, ENOENT, since `install` and `mv` unlink before they write": nothing is lost.
#[test]
fn what_others_unlink_is_delivered() {
    let m = Mount::new();
    m.queue("q");
    let program = r#"
import os, subprocess
f = open("q/x", "w"); f.write("one"); f.flush()
def sh(script):
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, close_fds=True)
assert "No such file" in sh("rm q/x").stderr
assert "No such file" in sh("cat q/x").stderr
assert os.stat("q/x").st_size == 3, "the writer itself finds it"
for script in ["install /etc/hostname q/x", "cp /etc/hostname $T/h; mv $T/h q/x", "cp --remove-destination /etc/hostname q/x"]:
    done = sh(script)
    assert done.returncode == 0, (script, done.stderr)
f.write("two"); f.close()
"#;
    m.python(program).ok();
    assert_eq!(m.bodies("q").len(), 4);
    assert_eq!(m.bodies("q")[3], "onetwo");
    assert_eq!(m.stats("q")["aborted_total"], 0);
}

/// "rename within the queue".
#[test]
fn it_can_be_renamed_in_its_queue() {
    let m = Mount::new();
    for (q, path) in kinds(&m) {
        m.queue(&format!("{q}/nested"));
        let program = format!(
            r#"
import os
def refused(to, *errors):
    try:
        os.rename("{q}/b", to)
    except OSError as error:
        assert type(error) in errors, (to, error)
    else:
        raise AssertionError(to)
f = open("{q}/a", "w"); f.write("one"); f.flush()
os.close(os.dup(f.fileno()))
os.rename("{q}/a", "{q}/b")
assert not os.path.exists("{q}/a") and os.stat("{q}/b").st_size == 3
for to in ["{q}/.draft", "{q}/nested/b", "b"]:
    refused(to, PermissionError)
refused("{q}/nested", IsADirectoryError)
refused("{q}/" + "n" * 256, OSError)
with open("{q}/a", "w") as second:
    second.write("second")
f.write("two"); f.close()
os.chmod("{q}/b", 0o600)
"#
        );
        m.python(&program).ok();
        assert_eq!(m.bodies(q), ["second", "onetwo"]);
        let names = listing(&path);
        assert!(names.iter().any(|name| name == "b" || name.ends_with("-b")), "{names:?}");
    }
    // A whole message does not make way for one that is not.
    m.sh("exec 3> k/c; echo c >&3; mv k/c k/b").fails("busy");
    assert_eq!(m.sh("ls k").ok(), "a\nb\nc\nnested\n");
}
