//! One open file is one message, however many processes and descriptors share it, and it waits for the last of them.

use crate::common::{Mount, listing, producers, wait_until};

/// "one message holding every byte written through that open file, however many writes, descriptors or processes shared
/// it": a subshell's builtins and its children write to the same message, in order.
#[test]
fn a_subshell_and_its_children_write_one_message() {
    for shell in ["bash", "dash", "busybox sh"] {
        let m = Mount::new();
        let q = m.queue("q");
        m.shell(shell, "(echo a; /bin/echo b) > q/x").ok();
        assert_eq!(m.bodies(&q), ["a\nb\n"], "{shell}");
        m.shell(shell, "(echo a; /bin/echo b; (echo c; /bin/echo d); /bin/sh -c 'echo e') > q/y").ok();
        assert_eq!(m.bodies(&q)[1..], ["a\nb\nc\nd\ne\n"], "{shell}");
    }
}

/// "not visible before its last writer has closed it": children that end, and flush what there is so far, publish nothing.
#[test]
fn children_that_end_do_not_publish_half_a_message() {
    let m = Mount::new();
    m.queue("q");
    let script = r#"
        exec 3> q/x
        for i in 1 2 3 4 5; do
            /bin/echo $i >&3
            (echo sub $i >&3)
            ls q q/.mq/peek | grep -c x
        done
        exec 3>&-
    "#;
    // grep answers 1 when it counts 0, so only the counts are looked at.
    assert_eq!(m.sh(script).stdout, "0\n".repeat(5));
    assert_eq!(m.bodies("q"), ["1\nsub 1\n2\nsub 2\n3\nsub 3\n4\nsub 4\n5\nsub 5\n"]);
}

/// "except through the writers' own descriptors (`/dev/stdout`, `/proc/self/fd/1` re-open the same message)".
#[test]
fn dev_stdout_and_proc_self_fd_reopen_the_same_message() {
    for shell in ["bash", "dash"] {
        let m = Mount::new();
        let q = m.queue("q");
        let cases = [
            ("{ echo a; echo b >> /dev/stdout; echo c; } >> q/x", "a\nb\nc\n"),
            ("{ echo a; echo b >> /proc/self/fd/1; echo c; } >> q/x", "a\nb\nc\n"),
            ("/bin/echo a | tee -a /dev/stdout >> q/x", "a\na\n"),
            ("{ echo a; python3 -c 'open(\"/dev/stdout\", \"a\").write(\"b\\n\")'; } >> q/x", "a\nb\n"),
            ("exec 3>> q/x; echo a >&3; echo b >> /dev/fd/3; /bin/echo c >> /dev/fd/3; exec 3>&-", "a\nb\nc\n"),
        ];
        for (number, (script, body)) in cases.iter().enumerate() {
            m.shell(shell, script).ok();
            assert_eq!(m.bodies(&q).len(), number + 1, "{shell}: {script}");
            assert_eq!(m.bodies(&q)[number], *body, "{shell}: {script}");
        }
    }
}

/// A writer may read its own message back through `/proc/self/fd`, and truncate it there, before anybody else sees it.
#[test]
fn a_writer_reads_and_truncates_through_proc_self_fd() {
    let m = Mount::new();
    m.queue("q");
    let script = r#"
        exec 3> q/x
        printf hello >&3
        cat /proc/self/fd/3
        printf HI > /proc/self/fd/3
        cat /proc/self/fd/3
        stat -L -c ' %s' /proc/self/fd/3
        exec 3>&-
    "#;
    assert_eq!(m.sh(script).ok(), "helloHI 2\n");
    assert_eq!(m.bodies("q"), ["HI"]);
}

/// "Nobody sees a message before its last writer has closed it": a background child that keeps the descriptor delays it.
#[test]
fn a_background_child_that_keeps_the_descriptor_delays_the_message() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        mkfifo $T/go
        (echo child; read line < $T/go; echo "$line") > q/x &
        exec > q/y; echo y; exec >&2
        wait
    "#;
    let background = m.spawn(script);
    wait_until(|| producers(&q) == ["y"]);
    m.sh("echo late > $T/go").ok();
    background.finish().ok();
    assert_eq!(producers(&q), ["y", "x"]);
    assert_eq!(m.bodies(&q), ["y\n", "child\nlate\n"]);
}

/// The parent that opened the file has closed it, and a child that inherited it goes on: its bytes belong to the message.
#[test]
fn bytes_of_a_child_that_outlives_the_opener_belong_to_the_message() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        mkfifo $T/go
        exec 3> q/x
        echo parent >&3
        (read line < $T/go; echo "$line" >&3) &
        exec 3>&-
    "#;
    m.sh(script).ok();
    assert_eq!(listing(&q), [""; 0], "the child still holds the descriptor");
    m.sh("echo child > $T/go").ok();
    wait_until(|| producers(&q) == ["x"]);
    assert_eq!(m.bodies(&q), ["parent\nchild\n"]);
}

/// Every process of a pipeline that writes to the file writes to the same message.
#[test]
fn pipelines_write_one_message() {
    let m = Mount::new();
    let q = m.queue("q");
    let script = r#"
        seq 1 1000 | { sort -n | tail -1; echo end; } > q/pipeline
        { seq 1 3 | sed s/^/a/; seq 1 3 | sed s/^/b/ | cat; } > q/group
        for f in 1 2 3; do echo $f | cat; done > q/loop
        yes | head -c 200000 > q/yes
    "#;
    m.sh(script).ok();
    assert_eq!(producers(&q), ["pipeline", "group", "loop", "yes"]);
    let bodies = m.bodies(&q);
    assert_eq!(bodies[..3], ["1000\nend\n", "a1\na2\na3\nb1\nb2\nb3\n", "1\n2\n3\n"]);
    assert_eq!(bodies[3], "y\n".repeat(100_000));
}

/// Many processes that write at once to one inherited descriptor make one message with every byte of each.
#[test]
fn concurrent_writers_of_one_descriptor_lose_nothing() {
    let m = Mount::new();
    let q = m.queue("q");
    m.sh("{ for i in 1 2 3 4 5 6 7 8; do seq -f \"$i-%g\" 1 500 & done; wait; } > q/x").ok();
    let bodies = m.bodies(&q);
    assert_eq!(bodies.len(), 1);
    let mut lines: Vec<_> = bodies[0].lines().map(str::to_owned).collect();
    lines.sort();
    let mut expected: Vec<_> = (1..=8).flat_map(|i| (1..=500).map(move |j| format!("{i}-{j}"))).collect();
    expected.sort();
    assert_eq!(lines, expected);
}

/// dup, dup2 and descriptors passed over a socket are the same open file.
#[test]
fn duplicates_and_passed_descriptors_are_one_message() {
    let m = Mount::new();
    m.queue("q");
    let program = r#"
import os, socket
fd = os.open("q/x", os.O_CREAT | os.O_WRONLY)
copy = os.dup(fd)
os.write(fd, b"a")
os.close(fd)
assert os.listdir("q") == []
os.write(copy, b"b")
left, right = socket.socketpair()
if os.fork() == 0:
    _, fds, _, _ = socket.recv_fds(right, 1, 1)
    os.write(fds[0], b"c")
    os._exit(0)
socket.send_fds(left, [b"."], [copy])
os.close(copy)
os.wait()
left.close(); right.close()
assert len(os.listdir("q")) == 1
"#;
    m.python(program).ok();
    assert_eq!(m.bodies("q"), ["abc"]);
}

/// An exec keeps the open file: a program that replaces the shell writes to the same message.
#[test]
fn exec_keeps_the_message_open() {
    let m = Mount::new();
    m.queue("q");
    m.sh("exec > q/x; echo shell; exec /bin/echo program").ok();
    assert_eq!(m.bodies("q"), ["shell\nprogram\n"]);
}
