//! "**One's own message that is gone** (consumed, moved by others, a duplicate): for 2 s, what the writing session does to its
//! attributes by the bare name (chmod, chown, utimes, setxattr, access, stat) succeeds without effect."

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::common::*;

/// What programs do to a file that they have written.
const ATTRIBUTES: &str = "chmod 600 q/a && chown 1:1 q/a && touch -c -d yesterday q/a && setfattr -n user.color -v blue q/a \
     && setfattr -x user.color q/a && test -s q/a && test -w q/a && stat -c '%F %s' q/a";

/// Runs a producer ten times, each time in a new session and with a consumer that waits for its message and takes it at once. Every
/// time it must succeed in silence, and every message be delivered once.
#[track_caller]
fn ten_of_ten(m: &Mount, q: &Path, producer: &str) {
    for round in 0..10 {
        let popper = m.waiter(q, &format!("exec setsid -w cat {}/.mq/pop", q.display()));
        fs::write(m.scratch().join("x"), format!("{round}\n")).unwrap();
        m.session(producer).ok();
        assert_eq!(popper.finish().ok(), format!("{round}\n"), "{producer}");
    }
    assert_eq!(m.bodies(q), [""; 0], "{producer}");
}

/// Programs that set times, modes and attributes of what they have written, while a consumer takes it.
#[test]
fn programs_that_come_back_to_what_was_taken_succeed() {
    let m = Mount::new();
    let shutil = |call: &str| format!("python3 -c 'import os, shutil; x = os.environ[\"T\"] + \"/x\"; shutil.{call}'");
    for lines in [&[][..], &["names=keep"]] {
        let q = m.queue_with("q", lines);
        for producer in [
            "rsync --inplace -t $T/x q/",
            "rsync --inplace -a $T/x q/",
            &shutil("move(x, \"q/\")"),
            &shutil("copy2(x, \"q/\")"),
            "cat $T/x > q/a && chmod 600 q/a",
            "cat $T/x > q/a && chown 1:1 q/a && touch -c -d yesterday q/a && test -s q/a",
            "install -m 600 $T/x q/",
            "cp -p $T/x q/",
            "cp $T/x q/.d; mv q/.d q/d && chmod 600 q/d",
            "cp $T/x q/.mq/with/priority=3/x && chmod 600 q/x",
            "dash -c 'cat $T/x > q/a && chmod 600 q/a'",
        ] {
            ten_of_ten(&m, &q, producer);
        }
        fs::remove_dir(&q).unwrap();
    }
}

/// Whatever made it leave, other than its session.
#[test]
fn whatever_others_do_to_it() {
    let m = Mount::new();
    let (q, _) = (m.queue_with("q", &["max_messages=2"]), m.queue("other"));
    for taken in [
        "cat q/.mq/pop > /dev/null",
        "rm q/0*-a",
        "f=$(cat q/.mq/claim); rm q/$f",
        "read -r line < q/.mq/lines",
        "mv q/0*-a other/",
        "mv q/0*-a q/.mq/dead/",
        "echo all > q/.mq/purge",
        "mv q/0*-a q/.mq/dead/; rm q/.mq/dead/*",
        "echo overflow=drop-oldest > q/.mq/config; echo b > q/b; echo c > q/c; echo overflow=reject > q/.mq/config",
    ] {
        m.sh(&format!("echo x > q/a; setsid -w bash -c '{taken}'")).ok();
        assert_eq!(m.sh(ATTRIBUTES).ok(), "regular file 2\n", "{taken}");
        m.session("test ! -e q/a").ok();
        m.sh("cat q/a").fails("No such file or directory");
        m.sh("setsid -w bash -c 'echo all > q/.mq/purge; echo all > other/.mq/purge'").ok();
    }
    assert_eq!(m.bodies(&q), [""; 0]);
    // Its own session's pop is a consumer like any other.
    assert_eq!(m.sh(&format!("echo x > q/a; cat q/.mq/pop; {ATTRIBUTES}")).ok(), "x\nregular file 2\n");
}

/// A message that its producer has delayed is there, if not to be read.
#[test]
fn what_is_elsewhere_but_there_is_changed() {
    let m = Mount::new();
    m.queue("q");
    m.sh("echo x > q/.mq/with/delay=1h/a; chmod 640 q/a; touch -c -d '2001-02-03 04:05:06 UTC' q/a").ok();
    assert_eq!(m.sh("stat -c '%a %Y' q/.mq/delayed/*").ok(), "640 981173106\n");
    m.sh("cat q/a").fails("No such file or directory");
    m.sh("rm q/a").fails("No such file or directory");
    m.sh("chmod 600 q/a").fails("No such file or directory");
    assert_eq!(m.bodies("q"), ["x\n"], "nobody has read it");
}

/// "a duplicate": its producer is told that all went well, and so it goes on.
#[test]
fn programs_succeed_with_a_duplicate() {
    let m = Mount::new();
    for lines in [&["dedup_window=1h"][..], &["dedup_window=1h", "names=keep"]] {
        let q = m.queue_with("q", lines);
        m.session("echo first > q/.mq/with/id=1/first").ok();
        fs::write(m.scratch().join("x"), "second").unwrap();
        for producer in [
            "install -m 600 $T/x q/.mq/with/id=1/",
            "rsync --inplace -t $T/x q/.mq/with/id=1/",
            "cp -p $T/x q/.mq/with/id=1/",
            "cp $T/x q/.mq/with/id=1/x; chmod 600 q/x",
            "cp $T/x q/.d; setfattr -n user.mq.dedup_id -v 1 q/.d; mv q/.d q/x; chmod 600 q/x; chmod 600 q/x",
            "head -c 100000 /dev/zero > q/.mq/with/id=1/x; chmod 600 q/x",
        ] {
            m.sh(producer).ok();
            assert_eq!(m.bodies(&q), ["first\n"], "{producer}");
            m.sh("cat q/x").fails("No such file or directory");
        }
        m.sh("echo all > q/.mq/purge; rmdir q").ok();
    }
}

struct Clock {
    mount: Mount,
    queue: PathBuf,
}

impl Clock {
    /// A mount whose clock stands still, and a queue in it.
    fn new(lines: &[&str]) -> Clock {
        let mount = Mount::with_clock("1900000000.5");
        let queue = mount.queue_with("q", lines);
        Clock { mount, queue }
    }

    fn name(&self) -> PathBuf {
        self.queue.join("a")
    }

    /// Writes a message, which a consumer takes.
    fn taken(&self) {
        fs::write(self.name(), "x").unwrap();
        self.mount.session("cat q/.mq/pop > /dev/null").ok();
    }
}

/// "for 2 s", from when it left.
#[test]
fn two_seconds_after_it_left_the_name_finds_nothing() {
    for lines in [&[][..], &["names=keep"]] {
        let clock = Clock::new(lines);
        fs::write(clock.name(), "x").unwrap();
        clock.mount.set_clock("1900001000.5");
        clock.mount.session("cat q/.mq/pop > /dev/null").ok();
        clock.mount.set_clock("1900001002.4");
        fs::set_permissions(clock.name(), Permissions::from_mode(0o600)).unwrap();
        assert_eq!(fs::metadata(clock.name()).unwrap().permissions().mode() & 0o777, 0o644, "without effect");
        clock.mount.set_clock("1900001002.5005");
        assert_eq!(errno(fs::set_permissions(clock.name(), Permissions::from_mode(0o600))), libc::ENOENT);
        assert_eq!(errno(fs::metadata(clock.name())), libc::ENOENT);
        assert_eq!(clock.mount.bodies(&clock.queue), [""; 0]);
    }
}

/// "any open or unlink by that name ends it (ESTALE, so that O_CREAT goes on)."
#[test]
fn an_open_or_an_unlink_ends_it() {
    for lines in [&[][..], &["names=keep"]] {
        let clock = Clock::new(lines);
        let (m, a) = (&clock.mount, clock.name());
        let ended = || assert_eq!(errno(fs::metadata(&a)), libc::ENOENT);
        clock.taken();
        assert_eq!(errno(File::open(&a)), libc::ENOENT);
        ended();
        clock.taken();
        assert_eq!(errno(fs::remove_file(&a)), libc::ENOENT);
        ended();
        clock.taken();
        m.sh("rm -f q/a").ok();
        ended();
        for script in ["echo again > q/a", "echo again >> q/a", "dash -c 'echo again > q/a'", "cp $T/again q/a"] {
            fs::write(m.scratch().join("again"), "again\n").unwrap();
            clock.taken();
            m.sh(script).ok();
            assert_eq!(m.bodies(&clock.queue), ["again\n"], "{script}");
            m.session("cat q/.mq/pop > /dev/null").ok();
        }
        clock.taken();
        assert_eq!(errno(File::options().write(true).open(&a)), libc::ENOENT);
        ended();
    }
}

/// Samba opens a name that it sees without reading or writing, and that by way of `/proc` to write: the kernel looks nothing up then.
#[test]
fn a_descriptor_of_the_name_makes_a_new_message_too() {
    for lines in [&[][..], &["names=keep"]] {
        let clock = Clock::new(lines);
        clock.taken();
        let program = r#"
import os
path = os.open("q/a", os.O_PATH)
f = os.open("/proc/self/fd/%d" % path, os.O_RDWR | os.O_CREAT)
os.ftruncate(f, 0)
os.write(f, b"again")
assert os.fstat(f).st_size == 5 and os.pread(f, 9, 0) == b"again"
os.fchmod(f, 0o640)
os.close(f)
"#;
        clock.mount.python(program).ok();
        assert_eq!(clock.mount.bodies(&clock.queue), ["again"]);
        let message = only(clock.queue.join(".mq/peek"));
        assert_eq!(fs::metadata(message).unwrap().permissions().mode() & 0o777, 0o640);
    }
}

/// "Until then O_EXCL, mkdir and link get EEXIST."
#[test]
fn until_then_the_name_is_taken() {
    for lines in [&[][..], &["names=keep"]] {
        let clock = Clock::new(lines);
        let (m, a) = (&clock.mount, clock.name());
        clock.taken();
        assert_eq!(errno(File::create_new(&a)), libc::EEXIST);
        assert_eq!(errno(fs::create_dir(&a)), libc::EEXIST);
        assert_eq!(errno(symlink("x", &a)), libc::EEXIST);
        fs::write(clock.queue.join(".d"), "draft").unwrap();
        assert_eq!(errno(fs::hard_link(clock.queue.join(".d"), &a)), libc::EEXIST);
        // Nobody else sees that.
        m.session("set -C; echo theirs > q/a").ok();
        assert_eq!(m.bodies(&clock.queue), ["theirs\n"]);
        if !lines.is_empty() {
            assert_eq!(fs::read_to_string(&a).unwrap(), "theirs\n", "where names are kept, it is theirs for everybody");
            continue;
        }
        m.set_clock("1900000002.5005");
        drop(File::create_new(&a).unwrap());
        assert_eq!(m.bodies(&clock.queue), ["theirs\n", ""]);
    }
}

/// "Not after the session's own unlink or move."
#[test]
fn what_its_own_session_removed_is_not_there() {
    for lines in [&[][..], &["names=keep"]] {
        let clock = Clock::new(lines);
        let m = &clock.mount;
        m.queue("other");
        for taken in [
            "rm q/*a",
            "cat q/a > /dev/null; rm q/a",
            "f=$(cat q/.mq/claim); rm q/$f",
            "mv q/*a q/.mq/claimed/; rm q/.mq/claimed/*",
            "mv q/a other/b",
            "mv q/*a q/.mq/dead/",
        ] {
            m.sh(&format!("echo x > q/a; {taken}")).ok();
            // In a queue that keeps names a dead message has its name still.
            m.sh("rm -f q/.mq/dead/*; stat q/a").fails("No such file or directory");
            m.sh("rm -f other/*").ok();
        }
    }
}

/// A name that was given anew means what was written last.
#[test]
fn a_name_that_was_written_anew_means_that() {
    let clock = Clock::new(&[]);
    clock.taken();
    fs::write(clock.name(), "again").unwrap();
    fs::set_permissions(clock.name(), Permissions::from_mode(0o640)).unwrap();
    let message = only(clock.queue.join(".mq/peek"));
    assert_eq!(fs::metadata(message).unwrap().permissions().mode() & 0o777, 0o640);
}
