//! "`abort_on = killed | failed | unclosed | never`": what is known of how a writer ended decides whether its message is enqueued.
//! Only what can be seen is promised, and what cannot be seen is here, too.

use std::path::Path;
use std::process::Command;

use crate::common::{Mount, listing, wait_until};

const WORDS: [&str; 4] = ["killed", "failed", "unclosed", "never"];

/// For a script that writes into `q/x`: in a queue of each of [`WORDS`], whether its message is enqueued.
#[track_caller]
fn enqueues(shell: &str, script: &str, expected: [bool; 4]) {
    for (abort_on, expected) in WORDS.into_iter().zip(expected) {
        let m = Mount::new();
        let q = m.queue_with("q", &[&format!("abort_on={abort_on}")]);
        let ran = m.shell(shell, script);
        assert_enqueued(&m, &q, expected, &format!("{abort_on}: {shell} {script}: {ran:?}"));
    }
}

#[track_caller]
fn assert_enqueued(m: &Mount, queue: &Path, expected: bool, case: &str) {
    assert_eq!(listing(queue).len(), usize::from(expected), "{case}");
    let stats = m.stats(queue);
    assert_eq!(stats["aborted_total"], u64::from(!expected), "{case}: {stats}");
    assert_eq!(stats["enqueued_total"], u64::from(expected), "{case}: {stats}");
    assert_eq!(m.log().contains("its message is dropped"), !expected, "{case}: {}", m.log());
}

/// The process that wrote last exits with the file open.
#[test]
fn who_wrote_last_and_exits_decides() {
    for shell in ["bash", "dash", "busybox sh"] {
        enqueues(shell, "dash -c 'echo half; exit 1' > q/x", [true, false, false, true]);
        enqueues(shell, "dash -c 'echo whole; exit 0' > q/x", [true, true, false, true]);
        enqueues(shell, "dash -c 'echo half; kill -9 $$' > q/x", [false, false, false, true]);
        // The shell opened it, and goes on.
        enqueues(shell, "dash -c 'echo half; exit 1' > q/x; :", [true, false, false, true]);
    }
    enqueues("bash", "exec > q/x; echo half; exit 255", [true, false, false, true]);
    enqueues("bash", "trap 'exit 143' TERM; exec > q/x; echo half; kill $$", [true, false, false, true]);
}

/// Nobody wrote: then it is the process that opened the file.
#[test]
fn who_opened_decides_when_nobody_wrote() {
    enqueues("bash", "/bin/false > q/x", [true, false, false, true]);
    enqueues("bash", "/bin/true > q/x", [true, true, false, true]);
    // Opened by a shell that closes it.
    enqueues("bash", "{ /bin/false; } > q/x", [true, true, true, true]);
}

/// Somebody writes after whoever failed: then it is that one that decides.
#[test]
fn who_writes_afterwards_makes_it_whole() {
    enqueues("bash", "{ dash -c 'echo half; exit 1'; echo more; } > q/x", [true; 4]);
    enqueues("bash", "(dash -c 'echo half; exit 1'; echo more) > q/x", [true, true, false, true]);
    enqueues("bash", "(dash -c 'echo half; exit 1'; echo more; exit 1) > q/x", [true, false, false, true]);
    // One that wrote before, and fails later.
    let script = r#"
        rm -f $T/wrote $T/end; mkfifo $T/wrote $T/end
        {
            dash -c 'echo first; echo > $T/wrote; read line < $T/end; exit 1' &
            read line < $T/wrote
            echo more
            echo > $T/end
            wait
        } > q/x
    "#;
    enqueues("bash", script, [true; 4]);
}

/// A process that only inherited the descriptor does not count, however it ends.
#[test]
fn who_only_inherited_does_not_count() {
    enqueues("bash", "exec 3> q/x; echo whole >&3; dash -c 'exit 1'; (exit 3); exec 3>&-", [true; 4]);
}

/// Who closes the file and fails then, or ends well then, has closed it: that is all that can be seen.
#[test]
fn who_closes_first_has_enqueued() {
    enqueues("bash", "echo whole > q/x", [true; 4]);
    enqueues("bash", "cat /etc/passwd > q/x", [true; 4]);
    enqueues("bash", "{ echo half; exit 1; } > q/x", [true; 4]);
    enqueues("bash", "cat /etc/passwd /missing > q/x", [true; 4]);
    enqueues("bash", "(echo half; exit 3) | cat > q/x", [true; 4]);
    enqueues("bash", "python3 -c 'f = open(\"q/x\", \"w\"); f.write(\"half\"); raise Exception'", [true; 4]);
}

/// A program with many threads, of which any may be the one that closes.
#[test]
fn a_program_with_threads_has_one_exit_code() {
    let program = r#"
import os, sys, threading
fd = os.open("q/x", os.O_CREAT | os.O_WRONLY)
barrier = threading.Barrier(5)
def work():
    os.write(fd, b"x")
    barrier.wait()
    threading.Event().wait()
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
barrier.wait()
os._exit(int(sys.argv[1]))
"#;
    let m = Mount::new();
    let q = m.queue_with("q", &["abort_on=failed"]);
    for round in 1..=30 {
        m.run(Command::new("python3").args(["-c", program, "3"]));
        assert_eq!((listing(&q).len(), m.stats(&q)["aborted_total"].as_u64()), (0, Some(round)));
    }
    m.run(Command::new("python3").args(["-c", program, "0"])).ok();
    assert_eq!(m.bodies(&q), ["xxxx"]);
}

/// Whoever opened the file is told by its close; others may go on.
#[test]
fn the_opener_is_told() {
    let m = Mount::new();
    let q = m.queue_with("q", &["abort_on=failed"]);
    let program = r#"
import errno, os, subprocess
def opened_for(command):
    fd = os.open("q/x", os.O_CREAT | os.O_WRONLY)
    subprocess.run(["dash", "-c", command], stdout=fd)
    return fd
def eio(fd):
    try:
        os.close(fd)
    except OSError as e:
        assert e.errno == errno.EIO, e
    else:
        raise SystemExit("close succeeded")
eio(opened_for("echo half; exit 1"))
fd = opened_for("echo half; exit 1")
eio(os.dup(fd))
os.write(fd, b"more")
os.close(os.dup(fd))
os.close(fd)
"#;
    m.python(program).ok();
    assert_eq!(m.bodies(&q), ["half\nmore"]);
    assert_eq!(m.stats(&q)["aborted_total"], 1);
}

/// What a close had promised is taken back when the writer fails: a crash before the last close does not bring it back.
#[test]
fn a_crash_does_not_bring_back_what_a_failed_writer_wrote() {
    let mut m = Mount::new();
    let program = r#"
import os, sys, time
for path, code in (("q/x", 1), ("never/x", 1), ("q/y", 0)):
    if os.fork() == 0:
        fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"half")
        os.close(os.dup(fd))
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(code)
    os.wait()
print("ready", flush=True)
"#;
    let (q, never) = (m.queue_with("q", &["abort_on=failed"]), m.queue_with("never", &["abort_on=never"]));
    let started = m.spawn_python(program);
    wait_until(|| started.output() == "ready\n");
    assert_eq!((listing(&q).len(), listing(&never).len()), (0, 0), "children hold them");
    m.kill9_and_remount();
    assert_eq!((m.bodies(&q), m.bodies(&never)), (vec!["half".to_owned()], vec!["half".to_owned()]));
    assert!(listing(&q)[0].ends_with("-y"));
}

/// Through one descriptor any number of processes write, and how the last of them ends decides. That it is known takes no more
/// memory for many than for some.
#[test]
fn any_number_of_processes_write_one_message() {
    let m = Mount::new();
    let q = m.queue_with("q", &["abort_on=failed"]);
    let script = "for i in $(seq 500); do dash -c \"echo $i; exit 1\"; done";
    m.sh(&format!("{{ {script}; echo end; }} > q/x"));
    let lines: String = (1..=500).map(|n| format!("{n}\n")).chain(["end\n".to_owned()]).collect();
    assert_eq!(m.bodies(&q), [lines]);
    // So many that live at a time are not told apart, and each counts as a writer.
    let crowd = r#"
import os, signal, sys
fd = os.open("q/y", os.O_CREAT | os.O_WRONLY)
children = []
for n in range(100):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        if n < 99:
            os.write(fd, b"x")
        os.write(w, b"x")
        signal.pause()
    os.read(r, 1)
    children.append(pid)
os.kill(children[-1], signal.SIGKILL)
os.waitpid(children[-1], 0)
try:
    os.write(fd, b"more")
except OSError as e:
    print(e.errno)
for pid in children[:-1]:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"#;
    assert_eq!(m.python(crowd).stdout, "5\n");
    assert_eq!(m.stats(&q)["aborted_total"], 1);
}

/// Of `.mq/lines` it is the line that has no newline yet.
#[test]
fn an_unfinished_line_goes_as_a_message_does() {
    for (abort_on, failed, ended) in
        [("killed", true, true), ("failed", false, true), ("unclosed", false, false), ("never", true, true)]
    {
        let m = Mount::new();
        let q = m.queue_with("q", &[&format!("abort_on={abort_on}")]);
        for (code, expected) in [(1, failed), (0, ended)] {
            m.sh(&format!("dash -c 'printf \"whole\\nhalf\"; exit {code}' > q/.mq/lines"));
            let all: &[&str] = if expected { &["whole\n", "half"] } else { &["whole\n"] };
            wait_until(|| m.bodies(&q) == all);
            m.sh("rm q/*").ok();
        }
        assert_eq!(m.stats(&q)["aborted_total"], u64::from(!failed) + u64::from(!ended), "{abort_on}");
    }
}

/// A real sftp-server, whose client is there to the end, or vanishes in the middle of an upload: which the server takes for an
/// ordinary end.
#[test]
fn an_upload_whose_client_vanishes_is_not_enqueued_where_only_closed_files_are() {
    let upload = r#"
import os, socket, struct, subprocess, sys
ours, theirs = socket.socketpair()
server = subprocess.Popen(["/usr/lib/openssh/sftp-server", "-e"], stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
theirs.close()
def send(kind, body):
    ours.sendall(struct.pack(">IB", len(body) + 1, kind) + body)
def receive():
    def exactly(length):
        data = b""
        while len(data) < length:
            more = ours.recv(length - len(data))
            assert more, "the server has ended"
            data += more
        return data
    length, = struct.unpack(">I", exactly(4))
    return exactly(length)
def string(data):
    return struct.pack(">I", len(data)) + data
send(1, struct.pack(">I", 3))
assert receive()[0] == 2
send(3, struct.pack(">I", 1) + string(b"q/x") + struct.pack(">II", 0x02 | 0x08 | 0x10, 0))
answer = receive()
assert answer[0] == 102, answer
handle = answer[9:]
for n in range(40):
    send(6, struct.pack(">I", n) + string(handle) + struct.pack(">Q", n * 30000) + string(b"x" * 30000))
    answer = receive()
    assert answer[0] == 101 and answer[5:9] == bytes(4), answer
if sys.argv[1] == "whole":
    send(4, struct.pack(">I", 99) + string(handle))
    answer = receive()
    assert answer[0] == 101 and answer[5:9] == bytes(4), answer
ours.close()
print(server.wait())
"#;
    for (abort_on, half) in WORDS.into_iter().zip([true, true, false, true]) {
        for (what, expected) in [("whole", true), ("half", half)] {
            let m = Mount::new();
            let q = m.queue_with("q", &[&format!("abort_on={abort_on}")]);
            let ran = m.run(Command::new("python3").args(["-c", upload, what]));
            assert_eq!(ran.ok(), "0\n", "the server ends well");
            assert_enqueued(&m, &q, expected, &format!("{abort_on} {what}"));
            assert!(m.bodies(&q).iter().all(|body| body.len() == 40 * 30_000));
        }
    }
}
