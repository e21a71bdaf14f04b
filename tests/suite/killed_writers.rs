//! "**A killed writer enqueues nothing.** When a process that wrote to the message dies of a signal while it holds it
//! (Ctrl-C, `kill`, `timeout`, out of memory), the message is dropped, counted and logged, even if another process still holds
//! the descriptor; that one's later writes and closes fail with EIO. A process that only inherited the descriptor does
//! not count. (`abort_on = killed`, the default, or `never`.)"

use std::path::Path;

use crate::common::{Mount, Running, listing, wait_until};

/// A shell that writes half a message and becomes `sleep`, still holding it.
fn half_a_message(m: &Mount, name: &str) -> Running {
    let writer = m.spawn(&format!("exec 3> {name}; printf half >&3; echo ready; exec sleep 1000"));
    wait_until(|| writer.output() == "ready\n");
    writer
}

#[track_caller]
fn assert_dropped(m: &Mount, queue: &Path, times: u64) {
    assert_eq!(listing(queue), [""; 0]);
    assert_eq!(m.bodies(queue), [""; 0]);
    let stats = m.stats(queue);
    assert_eq!(stats["aborted_total"], times, "{stats}");
    assert_eq!((&stats["ready"], &stats["enqueued_total"]), (&0.into(), &0.into()), "{stats}");
}

/// "dies of a signal while it holds it": every signal that kills, whether it can be caught or not.
#[test]
fn a_writer_that_dies_of_a_signal_enqueues_nothing() {
    let m = Mount::new();
    let q = m.queue("q");
    let signals = [libc::SIGINT, libc::SIGTERM, libc::SIGKILL, libc::SIGHUP, libc::SIGSEGV, libc::SIGPIPE];
    for (number, signal) in signals.into_iter().enumerate() {
        let writer = half_a_message(&m, "q/x");
        writer.signal(signal);
        assert!(writer.finish().code().is_none(), "died of the signal");
        assert_dropped(&m, &q, number as u64 + 1);
    }
    assert!(m.log().contains("killed"), "the log says nothing: {}", m.log());
    m.sh("echo next > q/next").ok();
    assert_eq!(m.bodies(&q), ["next\n"]);
}

/// A message of which the store holds bytes already (an earlier close made them durable, or they were many) goes as well.
#[test]
fn what_was_stored_of_a_killed_writers_message_goes_too() {
    let mut m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        exec 3> q/x
        head -c 500000 /dev/zero >&3
        (:)
        exec 4>&3 4>&-
        echo ready
        exec sleep 1000
    "#;
    let writer = m.spawn(script);
    wait_until(|| writer.output() == "ready\n");
    writer.signal(libc::SIGKILL);
    writer.finish();
    assert_dropped(&m, &q, 1);
    wait_until(|| m.body_files().is_empty());
    m.remount();
    assert_dropped(&m, &q, 1);
}

/// "Ctrl-C", typed at a terminal: the whole foreground job dies, and nothing is enqueued.
#[test]
fn ctrl_c_at_a_terminal_enqueues_nothing() {
    let m = Mount::new();
    let q = m.queue("q");
    // tee shows each line after it has taken it: when the second is seen, the first is in the file.
    let program = r#"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp("bash", ["bash", "-c", "stty -echo; echo go; tee q/x"])
def expect(text):
    seen = b""
    while text not in seen:
        seen += os.read(terminal, 1000)
expect(b"go")
os.write(terminal, b"first\n"); expect(b"first")
os.write(terminal, b"second\n"); expect(b"second")
os.write(terminal, b"\x03")
_, status = os.waitpid(pid, 0)
print(status & 0x7f)
"#;
    assert_eq!(m.python(program).ok(), "2\n", "bash died of SIGINT");
    assert_dropped(&m, &q, 1);
}

/// "`timeout`": the command dies of the signal, and `timeout`, which holds the descriptor too, ends cleanly after it.
#[test]
fn a_command_that_timeout_ends_enqueues_nothing() {
    let m = Mount::new();
    let q = m.queue("q");
    // timeout tells of the lost output, which its own close finds: so 125 and not 124.
    m.sh("timeout 5 sh -c 'echo half; exec sleep 1000' > q/x").fails("Input/output error");
    assert_dropped(&m, &q, 1);
    let ran = m.sh("timeout -s KILL 5 sh -c 'echo half; exec sleep 1000' > q/x");
    assert_eq!(ran.code(), Some(137));
    assert_dropped(&m, &q, 2);
}

/// `kill` of one command in a script that goes on: its half of the message is not patched up with what follows.
#[test]
fn a_script_that_goes_on_after_a_killed_command_enqueues_nothing() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = "{ sh -c 'echo half; kill -9 $$'; /bin/echo more; } > q/x 2> $T/err; cat $T/err";
    let out = m.sh(script).stdout;
    assert!(out.contains("Input/output error"), "/bin/echo was not told: {out}");
    assert_dropped(&m, &q, 1);
}

/// "even if another process still holds the descriptor; that one's later writes and closes fail with EIO".
#[test]
fn the_other_holders_writes_and_closes_fail_with_eio() {
    let m = Mount::new();
    let q = m.queue("q");
    let program = r#"
import errno, os, signal
fd = os.open("q/x", os.O_CREAT | os.O_WRONLY)
os.write(fd, b"parent")
pid = os.fork()
if pid == 0:
    os.write(fd, b"child")
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(pid, 0)
def eio(what, call):
    try:
        call()
    except OSError as e:
        assert e.errno == errno.EIO, (what, e)
    else:
        raise SystemExit(what + " succeeded")
copy = os.dup(fd)
eio("write", lambda: os.write(fd, b"more"))
eio("pwrite", lambda: os.pwrite(fd, b"more", 0))
eio("ftruncate", lambda: os.ftruncate(fd, 0))
eio("fsync", lambda: os.fsync(fd))
eio("close of a copy", lambda: os.close(copy))
eio("close", lambda: os.close(fd))
"#;
    m.python(program).ok();
    assert_dropped(&m, &q, 1);
}

/// The opener dies, a child that inherited the descriptor lives on: nothing is enqueued when that one ends.
#[test]
fn a_killed_opener_is_not_outlived_by_its_child() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        mkfifo $T/go
        exec 3> q/x
        echo parent >&3
        (read line < $T/go; /bin/echo "$line" >&3; echo $? > $T/done) 2> $T/err &
        echo ready
        exec sleep 1000
    "#;
    let writer = m.spawn(script);
    wait_until(|| writer.output() == "ready\n");
    writer.signal(libc::SIGKILL);
    writer.finish();
    assert_dropped(&m, &q, 1);
    m.sh("echo child > $T/go").ok();
    wait_until(|| std::fs::read_to_string(m.scratch().join("done")).is_ok_and(|text| text == "1\n"));
    let err = std::fs::read_to_string(m.scratch().join("err")).unwrap();
    assert!(err.contains("Input/output error"), "{err}");
    assert_dropped(&m, &q, 1);
}

/// "A process that only inherited the descriptor does not count."
#[test]
fn a_killed_process_that_only_inherited_the_descriptor_does_not_count() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        exec 3> q/x
        echo before >&3
        sleep 1000 &
        kill -9 $!
        wait $! 2> /dev/null
        echo after >&3
        exec 3>&-
    "#;
    m.sh(script).ok();
    assert_eq!(m.bodies(&q), ["before\nafter\n"]);
    assert_eq!(m.stats(&q)["aborted_total"], 0);
}

/// A writer that was killed after it had closed has done its part: the message is there.
#[test]
fn a_writer_that_dies_after_its_close_has_enqueued() {
    let m = Mount::new();
    let q = m.queue("q");
    let ran = m.sh("echo whole > q/x; kill -9 $$");
    assert_eq!(ran.code(), None);
    assert_eq!(m.bodies(&q), ["whole\n"]);
    assert_eq!(m.stats(&q)["aborted_total"], 0);
}

/// "`abort_on` = [...] `never`": whatever was written is enqueued.
#[test]
fn with_abort_on_never_a_killed_writers_message_is_enqueued() {
    let m = Mount::new();
    let q = m.queue_with("q", &["abort_on=never"]);
    let writer = half_a_message(&m, "q/x");
    writer.signal(libc::SIGKILL);
    writer.finish();
    assert_eq!(m.bodies(&q), ["half"]);
    assert_eq!(m.stats(&q)["aborted_total"], 0);
}

/// A program that fails is not a program that is killed: its exit code is its own business.
#[test]
fn a_failing_writer_is_not_a_killed_one() {
    let m = Mount::new();
    let q = m.queue("q");
    assert_eq!(m.sh("sh -c 'echo a; exit 3' > q/x").code(), Some(3));
    assert_eq!(m.sh("exec > q/y; echo b; exit 255").code(), Some(255));
    // A signal that is caught, and an exit that follows from it, is an exit.
    assert_eq!(m.sh("trap 'echo trapped; exit 143' TERM; exec > q/z; echo c; kill $$").code(), Some(143));
    assert_eq!(m.bodies(&q), ["a\n", "b\n", "c\ntrapped\n"]);
    assert_eq!(m.stats(&q)["aborted_total"], 0);
}

/// exit() of a program with many threads kills the other threads: that is a clean exit all the same.
#[test]
fn a_clean_exit_of_a_multi_threaded_program_is_not_a_kill() {
    let m = Mount::new();
    let q = m.queue("q");
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
os._exit(0)
"#;
    for _ in 0..15 {
        m.python(program).ok();
    }
    assert_eq!(m.bodies(&q), ["xxxx"; 15]);
    assert_eq!(m.stats(&q)["aborted_total"], 0);
}

/// A kill of a program with many threads is a kill, whichever thread wrote and whichever gets the signal.
#[test]
fn a_kill_of_a_multi_threaded_program_is_a_kill() {
    let m = Mount::new();
    let q = m.queue("q");
    let program = r#"
import os, signal, threading
fd = os.open("q/x", os.O_CREAT | os.O_WRONLY)
barrier = threading.Barrier(5)
def work():
    os.write(fd, b"x")
    barrier.wait()
    threading.Event().wait()
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
barrier.wait()
os.kill(os.getpid(), signal.SIGTERM)
threading.Event().wait()
"#;
    for round in 1..=5 {
        assert_eq!(m.python(program).code(), None);
        assert_dropped(&m, &q, round);
    }
}

/// Writers of other users die too (mqfs needs CAP_SYS_PTRACE to see how).
#[test]
fn a_killed_writer_of_another_user_enqueues_nothing() {
    let m = Mount::with(&["-o", "allow_other"]);
    let q = m.queue("q");
    m.sh("chmod 777 q").ok();
    let writer = m.spawn_as(1234, 1234, "exec 3> q/x; printf half >&3; echo ready; exec sleep 1000");
    wait_until(|| writer.output() == "ready\n");
    writer.signal(libc::SIGTERM);
    writer.finish();
    assert_dropped(&m, &q, 1);
}

/// A draft is an ordinary file: what a killed writer wrote of it stays, and is nobody's message.
#[test]
fn a_draft_of_a_killed_writer_stays_as_it_is() {
    let m = Mount::new();
    let q = m.queue("q");
    let writer = half_a_message(&m, "q/.draft");
    writer.signal(libc::SIGKILL);
    writer.finish();
    assert_eq!(listing(&q), [".draft"]);
    assert_eq!(m.sh("cat q/.draft").ok(), "half");
    assert_eq!(m.bodies(&q), [""; 0]);
    m.sh("printf ' and whole' >> q/.draft; mv q/.draft q/x").ok();
    assert_eq!(m.bodies(&q), ["half and whole"]);
}
