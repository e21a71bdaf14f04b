//! Opening a message for reading and writing, as programs do that lock what they read: it is read as ever, and stays what it is.

use std::process::Command;

use crate::common::*;
use crate::users::*;

/// "claims as reading does, and the first write is EPERM": as Apache Camel's `readLock=fileLock` does, which opens `rw`, locks, reads
/// and removes.
#[test]
fn a_consumer_locks_what_it_reads() {
    let m = Mount::new();
    let q = m.queue("q");
    let program = r#"
import errno, fcntl, mmap, os
def eperm(call, *arguments):
    try:
        call(*arguments)
    except OSError as e:
        assert e.errno == errno.EPERM, e
    else:
        raise SystemExit('a write succeeded')
name, = os.listdir('q')
fd = os.open(f'q/{name}', os.O_RDWR | os.O_CREAT)
fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
assert os.getxattr(f'q/{name}', 'user.mq.state') == b'claimed' and os.listdir('q') == []
assert os.fstat(fd).st_ino == os.stat(f'q/{name}').st_ino
assert os.read(fd, 100) == b'body'
eperm(os.pwrite, fd, b'x', 0)
eperm(os.write, fd, b'x')
eperm(os.ftruncate, fd, 0)
assert os.pread(fd, 100, 0) == b'body'
os.unlink(f'q/{name}')
os.close(fd)
"#;
    for names in ["sequence", "keep"] {
        m.set("q", &format!("names={names}"));
        m.put(q.join("a"), "body");
        m.python(program).ok();
        assert_eq!(m.bodies(&q), [""; 0], "{names}");
        assert_eq!(m.stats(&q)["acked_total"], if names == "keep" { 2 } else { 1 });
    }
}

/// Another worker gets EBUSY, as from any claim, and a lock is seen by all who open to lock.
#[test]
fn two_workers_do_not_lock_one_message() {
    let m = Mount::new();
    let q = m.queue("q");
    let a = m.message(&q, "a", "body");
    let lock = format!("import os\nos.open({a:?}, os.O_RDWR)\nprint('open', flush=True)\n");
    let holder = m.spawn_python(&format!("{lock}import time\ntime.sleep(1000)"));
    wait_until(|| holder.output().contains("open"));
    m.run(&mut new_session_python(&lock)).fails("busy");
    m.set("q", "claim=rename");
    let b = m.message(&q, "b", "body");
    let program = format!(
        "import fcntl, os, subprocess, sys
fd = os.open({b:?}, os.O_RDWR)
fcntl.lockf(fd, fcntl.LOCK_EX)
other = 'import fcntl, os; fcntl.lockf(os.open({b:?}, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)'
ran = subprocess.run([sys.executable, '-c', other], capture_output=True, text=True)
assert 'temporarily unavailable' in ran.stderr, ran
"
    );
    m.python(&program).ok();
}

fn new_session_python(program: &str) -> Command {
    let mut command = Command::new("setsid");
    command.args(["--wait", "python3", "-c", program]);
    command
}

/// "allowed to whoever the mode lets write".
#[test]
fn who_may_not_write_may_not_open_so() {
    let (m, q) = mount(0o777);
    ann(&m, "umask 0; echo x > q/a; chmod 444 q/*-a; echo x > q/b; chmod 644 q/*-b; echo x > q/c; chmod 666 q/*-c")
        .ok();
    let open = "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR); os.write(fd, bytes(1))";
    for (name, says) in [("a", DENIED), ("b", DENIED), ("c", "Operation not permitted")] {
        bob(&m, &format!("python3 -c '{open}' q/*-{name}")).fails(says);
    }
    ann(&m, &format!("python3 -c '{open}' q/*-a")).fails(DENIED);
    ann(&m, &format!("python3 -c '{open}' q/*-b")).fails("Operation not permitted");
    assert_eq!(m.bodies(&q), ["x\n", "x\n", "x\n"]);
}

/// "A committed message's bytes never change", also not what the kernel keeps of them for others, by who maps it to memory.
#[test]
fn who_maps_a_message_changes_nothing_for_others() {
    let m = Mount::new();
    let q = m.queue_with("q", &["claim=rename"]);
    let body = "original ".repeat(10_000);
    let path = m.message(&q, "a", &body);
    let program = format!(
        "import mmap, os
path = {path:?}
first = open(path, 'rb')
assert first.read(4096).startswith(b'original')
f = open(path, 'r+b')
memory = mmap.mmap(f.fileno(), 0)
memory[0:8] = b'tampered'
first.seek(0)
assert first.read().startswith(b'original'), 'who had it open'
assert open(path, 'rb').read().startswith(b'original'), 'who opens it'
assert open('q/.mq/peek/' + os.path.basename(path), 'rb').read().startswith(b'original')
try: memory.flush()
except OSError: pass
assert open(path, 'rb').read().startswith(b'original')
f.close()
"
    );
    m.python(&program).ok();
    assert_eq!(m.bodies(&q), [body]);
}

/// Python's `mailbox.MH` opens messages `rb+` to lock, read and remove them.
#[test]
fn python_mh_mailbox_locks_its_messages() {
    let m = Mount::new();
    m.queue_with("mail", &["names=keep"]);
    let program = "
import mailbox
open('mail/.mh_sequences', 'w').close()
box = mailbox.MH('mail', create=False)
box.lock()
keys = [box.add(f'Subject: {n}\\n\\nbody {n}\\n') for n in range(5)]
assert [box.get_message(key)['Subject'] for key in keys] == list('01234')
for key in keys[:3]:
    box.remove(key)
box.unlock()
assert list(box.keys()) == [], 'claimed by reading'
";
    m.python(program).ok();
    assert_eq!(m.stats("mail")["claimed"], 2);
}

/// "A second upload of a name through Samba makes a second message": it opens the name as a path only, then what that leads to.
#[test]
fn an_upload_by_a_path_descriptor_makes_another_message() {
    let m = Mount::new();
    let q = m.queue("q");
    let program = "
import os
open('q/x', 'w').write('first')
def reopen(flags=os.O_RDWR | os.O_CREAT):
    path = os.open('q/x', os.O_PATH | os.O_NOFOLLOW)
    fd = os.open(f'/proc/self/fd/{path}', flags)
    os.close(path)
    return fd
for body in (b'second', b'third, cut before it is written'):
    fd = reopen()
    inode = os.fstat(fd).st_ino
    if body[0:1] == b't':
        os.ftruncate(fd, 0)
        assert os.fstat(fd).st_size == 0
    assert os.pwrite(fd, body[:3], 0) == 3 and os.pwrite(fd, body[3:], 3) == len(body) - 3
    os.utime(f'/proc/self/fd/{fd}', (11, 12))
    os.setxattr(fd, 'user.DOSATTRIB', b'0x20')
    shown = os.fstat(fd)
    assert (shown.st_size, shown.st_ino, shown.st_mtime) == (len(body), inode, 12), shown
    os.close(fd)
    assert os.stat('q/x').st_size == len(body), 'the name means the newest'
# Who only locks, or reads, uploads nothing.
fd = reopen()
os.close(fd)
fd = reopen()
assert os.read(fd, 100).startswith(b'third')
try: os.write(fd, b'x')
except PermissionError: pass
else: raise SystemExit('written')
";
    m.python(program).ok();
    let bodies: Vec<_> = m.messages(&q).into_iter().map(|(_, body)| String::from_utf8(body).unwrap()).collect();
    assert_eq!(bodies, ["first", "second", "third, cut before it is written"]);
    let listed = listing(&q);
    assert_eq!(listed.len(), 2, "the last was claimed by reading: {listed:?}");
    assert_eq!(xattr(q.join(&listed[1]), "user.DOSATTRIB").as_deref(), Some("0x20"));
    assert_eq!(xattr(q.join(&listed[0]), "user.DOSATTRIB"), None);
}

/// The same by a bare name: whoever opens it for reading and writing may lock it, or write it anew from its start.
#[test]
fn a_bare_name_opened_to_read_and_write_is_locked_or_written_anew() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = "echo one > q/x; echo two 1<> q/x; exec 3<> q/x; flock -n 3 && echo locked; exec 3>&-
        python3 -c 'f = open(\"q/x\", \"r+\"); f.seek(2); f.write(\"x\"); f.flush()' 2>&1 | tail -1";
    let out = m.sh(script);
    assert!(out.stdout.starts_with("locked\n") && out.stdout.contains("Operation not permitted"), "{out:?}");
    assert_eq!(m.bodies(&q).last().map(String::as_str), Some("two\n"));
}
